//! What goes wrong in the store.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::base::blame::Blame;
use crate::base::figures;
use crate::store::index::Taken;

/// What went wrong in the store. It is always ours: nobody outside can cause it.
#[derive(Debug)]
pub enum StoreError {
    /// Another process, or another store of this one, uses the directory.
    InUse(PathBuf),
    /// The blob is stored: there is nothing to begin.
    Present,
    /// The blob is being fetched or deleted.
    Busy,
    /// There is no room for this many bytes, whatever is evicted.
    Full {
        /// What was asked for.
        wanted: u64,
    },
    /// The caller broke a rule, named here.
    Misuse(&'static str),
    /// Something failed on this handle before; it stays failed.
    Earlier,
    /// The file is not what was stored.
    Damaged(PathBuf),
    /// The file system failed.
    Io {
        /// What was tried: a verb.
        act: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// How it failed.
        error: io::Error,
    },
}

impl StoreError {
    /// A failure of the file system while it was asked to `act` on `path`. Counts it.
    pub(super) fn io(act: &'static str, path: &Path, error: io::Error) -> StoreError {
        figures::STORE_ERRORS.add(1);
        StoreError::Io { act, path: path.to_owned(), error }
    }

    /// Whether it is for want of room: the blob can be passed on but not kept.
    #[must_use]
    pub fn is_full(&self) -> bool {
        match self {
            StoreError::Full { .. } => true,
            StoreError::Io { error, .. } => is_full(error),
            _ => false,
        }
    }

    /// Whether the file is gone or not what was stored: there is nothing to come back to.
    pub(super) fn is_loss(&self) -> bool {
        match self {
            StoreError::Damaged(_) => true,
            StoreError::Io { error, .. } => error.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }

    /// Whose fault it is.
    #[must_use]
    pub fn blame(&self) -> Blame {
        Blame::Local
    }
}

/// Whether the file system, or our share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::InUse(root) => write!(f, "{} is used by another process", root.display()),
            StoreError::Present => f.write_str("the blob is stored already"),
            StoreError::Busy => f.write_str("the blob is being fetched or deleted"),
            StoreError::Full { wanted } => write!(f, "no room for {wanted} bytes"),
            StoreError::Misuse(rule) => f.write_str(rule),
            StoreError::Earlier => f.write_str("the disk failed it earlier"),
            StoreError::Damaged(path) => write!(f, "{} is damaged", path.display()),
            StoreError::Io { act, path, error } => {
                write!(f, "cannot {act} {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for StoreError {}

impl From<Taken> for StoreError {
    fn from(taken: Taken) -> StoreError {
        match taken {
            Taken::Present => StoreError::Present,
            Taken::Busy => StoreError::Busy,
        }
    }
}
