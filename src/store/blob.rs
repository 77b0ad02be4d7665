//! A whole blob, open for reading.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::limits::TORRENT_LEN_MAX;
use crate::proto::blob::BlobName;
use crate::proto::metainfo::Metainfo;
use crate::store::SeedEntry;
use crate::store::error::StoreError;
use crate::store::in_place::DeltaFiles;
use crate::store::layout::Layout;
use crate::store::stamps::Stamps;

/// A whole blob, open. It can be read for as long as it is held, even if it leaves the store
/// meanwhile; and while it is held, it is not evicted.
#[derive(Debug)]
pub struct Blob {
    seed: SeedEntry,
    bytes: Bytes,
}

/// Where the bytes of a blob are.
#[derive(Debug)]
enum Bytes {
    /// In a file of the store.
    Own(OwnFile),
    /// In the files of a repository.
    InPlace(DeltaFiles, Arc<Metainfo>),
}

#[derive(Debug)]
struct OwnFile {
    path: PathBuf,
    torrent: PathBuf,
    file: Arc<File>,
    /// `None`: only on disk.
    metainfo: Option<Arc<Metainfo>>,
    /// When its use is to be noted on disk again, in nanoseconds of [`Time`].
    touch_at: AtomicU64,
}

/// How often the use of a blob is noted on disk at most: the order within the last minutes is lost
/// in a restart.
const TOUCH_EVERY: Duration = Duration::from_secs(600);

impl Blob {
    /// Opens the blob of which `seed` is known.
    pub(super) fn open(layout: &Layout, seed: SeedEntry) -> Result<Blob, StoreError> {
        let file = open_file(&layout.blob(&seed.name))?;
        let blob = Blob::of_file(layout, seed, Arc::new(file), None);
        blob.check()?;
        // The length is from the start, which reads no metainfo: a blob that was cut before, by a
        // repair of the file system or by a person, must not be served as whole.
        blob.metainfo()?;
        Ok(blob)
    }

    /// The blob whose bytes `file` holds. One that was sealed just now brings its metainfo, which
    /// is not on disk yet.
    pub(super) fn of_file(
        layout: &Layout,
        seed: SeedEntry,
        file: Arc<File>,
        metainfo: Option<Arc<Metainfo>>,
    ) -> Blob {
        let path = layout.blob(&seed.name);
        let torrent = layout.torrent(&seed.name, &seed.info_hash);
        let own = OwnFile { path, torrent, file, metainfo, touch_at: AtomicU64::new(0) };
        Blob { seed, bytes: Bytes::Own(own) }
    }

    /// The delta whose files these are.
    pub(super) fn in_place(seed: SeedEntry, files: DeltaFiles, metainfo: Arc<Metainfo>) -> Blob {
        Blob { seed, bytes: Bytes::InPlace(files, metainfo) }
    }

    /// Notes on disk that it is used now, for the order after a restart.
    pub(super) fn touch(&self, stamps: &Stamps) {
        let Bytes::Own(own) = &self.bytes else { return };
        let now = Time::now();
        let due = own.touch_at.load(Ordering::Relaxed);
        let next = (now + TOUCH_EVERY).nanos();
        let set = |at| own.touch_at.compare_exchange(due, at, Ordering::Relaxed, Ordering::Relaxed);
        if now.nanos() >= due && set(next).is_ok() {
            // A file system that refuses costs only the order.
            let _ = own.file.set_modified(stamps.next(SystemTime::now()));
        }
    }

    /// Makes sure that the bytes are those that were opened: nobody but the store is to touch its
    /// files, but a blob that was open for long may have been cut or deleted.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let own = match &self.bytes {
            Bytes::Own(own) => own,
            Bytes::InPlace(files, _) => return files.check(),
        };
        let meta = own.file.metadata();
        let meta = meta.map_err(|error| StoreError::io("look at", &own.path, error))?;
        if meta.len() == self.seed.len && meta.nlink() > 0 {
            Ok(())
        } else {
            Err(StoreError::Damaged(own.path.clone()))
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> BlobName {
        self.seed.name
    }

    /// Its length in bytes, at least 1.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.seed.len
    }

    /// Never: an empty blob is not stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The info-hash of its metainfo.
    #[must_use]
    pub fn info_hash(&self) -> Sha1Hash {
        self.seed.info_hash
    }

    /// What is known of it without opening it.
    #[must_use]
    pub(super) fn seed(&self) -> SeedEntry {
        self.seed
    }

    /// The file that holds all of it; `None`: it lies elsewhere.
    pub(super) fn own_file(&self) -> Option<&File> {
        match &self.bytes {
            Bytes::Own(own) => Some(&own.file),
            Bytes::InPlace(..) => None,
        }
    }

    /// Its metainfo, read from disk.
    ///
    /// # Errors
    /// If the file cannot be read, or is not what was stored.
    pub fn metainfo(&self) -> Result<Metainfo, StoreError> {
        let torrent = match &self.bytes {
            Bytes::Own(OwnFile { metainfo: Some(metainfo), .. }) | Bytes::InPlace(_, metainfo) => {
                return Ok(Metainfo::clone(metainfo));
            }
            Bytes::Own(own) => &own.torrent,
        };
        let file = open_file(torrent)?;
        let mut bytes = Vec::new();
        file.take(TORRENT_LEN_MAX as u64 + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| StoreError::io("read", torrent, error))?;
        let metainfo = Metainfo::decode(&bytes).ok().filter(|metainfo| {
            metainfo.info_hash() == self.info_hash() && metainfo.geometry().blob_len() == self.len()
        });
        metainfo.ok_or_else(|| StoreError::Damaged(torrent.clone()))
    }

    /// Where the byte at `offset` lies, for sending: the file, the place in it, and how many bytes
    /// of the blob follow there; `None`: beyond the end. Only positioned reads: all holders share
    /// the file's cursor.
    #[must_use]
    pub fn locate(&self, offset: u64) -> Option<(&File, u64, u64)> {
        match &self.bytes {
            Bytes::Own(own) => {
                let left = self.len().checked_sub(offset).filter(|left| *left > 0)?;
                Some((&own.file, offset, left))
            }
            Bytes::InPlace(files, _) => files.locate(offset),
        }
    }

    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// If the disk fails, or the bytes are not all in the blob.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError> {
        match &self.bytes {
            Bytes::Own(own) => {
                let read = own.file.read_exact_at(buf, offset);
                read.map_err(|error| StoreError::io("read", &own.path, error))
            }
            Bytes::InPlace(files, _) => files.read_at(buf, offset),
        }
    }
}

/// Opens a file of ours for reading; a link in its place is not followed.
pub(super) fn open_file(path: &Path) -> Result<File, StoreError> {
    let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path);
    opened.map_err(|error| StoreError::io("open", path, error))
}
