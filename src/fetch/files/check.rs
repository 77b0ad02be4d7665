//! Whether the bytes of an object are those of its name, told while they come.

use crate::base::hash::{Algorithm, ContentHasher};
use crate::fetch::files::FileKind;
use crate::proto::ostree::Checksum;
use crate::proto::ostree::filez::FilezCheck;

/// Takes the bytes of one object in order.
pub enum Check {
    /// It is named for its bytes.
    Bytes(ContentHasher, Checksum),
    /// It is named for what is packed in them.
    Packed(FilezCheck),
}

impl Check {
    /// A check of a file; `None`: its name says nothing.
    pub fn of(kind: FileKind) -> Option<Check> {
        match kind {
            FileKind::Changing(_) => None,
            FileKind::Named(checksum) => {
                Some(Check::Bytes(ContentHasher::new(Algorithm::Sha256), checksum))
            }
            FileKind::Packed(checksum) => Some(Check::Packed(FilezCheck::new(checksum))),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Check::Bytes(hasher, _) => hasher.update(bytes),
            Check::Packed(check) => check.update(bytes),
        }
    }

    /// Whether all that came is the object.
    pub fn ends_right(self) -> bool {
        match self {
            Check::Bytes(hasher, checksum) => hasher.finish() == checksum.0,
            Check::Packed(check) => check.finish().is_ok(),
        }
    }
}
