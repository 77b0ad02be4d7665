//! Static deltas in archive repositories of this host, read where they are: no second copy.
//!
//! A delta is its superblock and its parts, one byte string that lies in several files. Who has
//! checked it gives it to the store ([`Store::adopt`]), and it is a whole blob like
//! any other, but never evicted. Nothing is ever written in a repository.
//!
//! **Invariant:** bytes come only from files that are those that were checked: the same inode, of
//! the same length, changed at the same time.
//!
//! Not here: when repositories are looked through, and whether a delta is right (`fetch`).

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use crate::base::hash::{Sha1Hash, hex, sha256};
use crate::limits::{SUPERBLOCK_LEN_MAX, TORRENT_LEN_MAX};
use crate::log_limited;
use crate::proto::blob::BlobName;
use crate::proto::metainfo::Metainfo;
use crate::proto::ostree::layout::file_name;
use crate::proto::ostree::{Checksum, ObjectKind, object_path};
use crate::store::backend::write_all_at;
use crate::store::blob::{Blob, open_file};
use crate::store::error::StoreError;
use crate::store::{SeedEntry, Store, seal};

/// What tells a file from what it was before. The time of change cannot be set back by a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    device: u64,
    inode: u64,
    len: u64,
    changed: (i64, i64),
}

impl Stamp {
    /// That of a file.
    pub(super) fn of(meta: &Metadata) -> Stamp {
        let changed = (meta.ctime(), meta.ctime_nsec());
        Stamp { device: meta.dev(), inode: meta.ino(), len: meta.len(), changed }
    }

    /// Bytes of the file.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// The files of a delta, open, in the order of its bytes.
#[derive(Debug)]
pub struct DeltaFiles {
    dir: PathBuf,
    files: Vec<OpenFile>,
}

#[derive(Debug)]
struct OpenFile {
    /// The byte of the delta after its last.
    end: u64,
    file: File,
    stamp: Stamp,
}

impl DeltaFiles {
    /// Opens the superblock of the delta in `dir`, and reads it.
    ///
    /// # Errors
    /// If the disk fails, or the superblock is longer than [`SUPERBLOCK_LEN_MAX`].
    pub fn open(dir: &Path) -> Result<(DeltaFiles, Vec<u8>), StoreError> {
        let mut delta = DeltaFiles { dir: dir.to_owned(), files: Vec::new() };
        let len = delta.open_next()?;
        if len > SUPERBLOCK_LEN_MAX {
            return Err(StoreError::Damaged(dir.join("superblock")));
        }
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        delta.read_at(&mut bytes, 0)?;
        Ok((delta, bytes))
    }

    /// Opens the file that comes next; its length in bytes.
    ///
    /// # Errors
    /// If the disk fails.
    pub fn open_next(&mut self) -> Result<u64, StoreError> {
        self.push(&file_name(self.files.len()))
    }

    fn push(&mut self, name: &str) -> Result<u64, StoreError> {
        let path = self.dir.join(name);
        let opened = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(&path);
        let looked = opened.and_then(|file| file.metadata().map(|meta| (file, meta)));
        let (file, meta) = looked.map_err(|error| StoreError::io("open", &path, error))?;
        if !meta.is_file() {
            return Err(StoreError::Damaged(path));
        }
        let end = self.len().saturating_add(meta.len());
        self.files.push(OpenFile { end, file, stamp: Stamp::of(&meta) });
        Ok(meta.len())
    }

    /// Bytes of all files.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.files.last().map_or(0, |file| file.end)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where the byte at `offset` lies: the file, the place in it, and how many bytes of the delta
    /// follow there. `None`: beyond the end.
    #[must_use]
    pub fn locate(&self, offset: u64) -> Option<(&File, u64, u64)> {
        let index = self.files.partition_point(|file| file.end <= offset);
        let file = self.files.get(index)?;
        let start = file.end - file.stamp.len;
        Some((&file.file, offset - start, file.end - offset))
    }

    /// Fills `buf` with the bytes at `offset`.
    ///
    /// # Errors
    /// If the disk fails, or the bytes are not all in the delta.
    pub fn read_at(&self, buf: &mut [u8], mut offset: u64) -> Result<(), StoreError> {
        let mut rest = buf;
        while !rest.is_empty() {
            let failed = |error| StoreError::io("read", &self.dir, error);
            let found = self.locate(offset);
            let (file, at, left) =
                found.ok_or_else(|| failed(io::ErrorKind::UnexpectedEof.into()))?;
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at_mut(len);
            file.read_exact_at(part, at).map_err(failed)?;
            (rest, offset) = (after, offset + len as u64);
        }
        Ok(())
    }

    /// Makes sure that the open files are those that were opened, and unchanged.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let is_same =
            |file: &OpenFile| file.file.metadata().is_ok_and(|meta| Stamp::of(&meta) == file.stamp);
        match self.files.iter().position(|file| !is_same(file)) {
            None => Ok(()),
            Some(index) => Err(StoreError::Damaged(self.dir.join(file_name(index)))),
        }
    }

    /// How long each file is, in order.
    pub fn lens(&self) -> impl Iterator<Item = u64> {
        self.files.iter().map(|file| file.stamp.len)
    }

    /// What tells these files from others.
    #[must_use]
    pub fn state(&self) -> DeltaState {
        let stamps = self.files.iter().map(|file| file.stamp).collect();
        DeltaState { dir: self.dir.clone(), stamps }
    }
}

/// A delta in a repository, as it was at one moment: which files, of what length, changed when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaState {
    dir: PathBuf,
    /// Of the superblock and the parts.
    stamps: Vec<Stamp>,
}

impl DeltaState {
    /// Whether the files are still the same.
    #[must_use]
    pub fn is_unchanged(&self) -> bool {
        self.stamps.iter().enumerate().all(|(index, stamp)| {
            let path = self.dir.join(file_name(index));
            fs::symlink_metadata(path).is_ok_and(|meta| Stamp::of(&meta) == *stamp)
        })
    }

    /// A file name for what was learnt of it: 32 hexadecimal digits.
    pub(super) fn key(&self) -> String {
        hex(&sha256(format!("{self:?}").as_bytes())[..16])
    }

    /// Opens the files.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if they are not the same.
    pub(super) fn open(&self) -> Result<DeltaFiles, StoreError> {
        let mut delta = DeltaFiles { dir: self.dir.clone(), files: Vec::new() };
        for (index, stamp) in self.stamps.iter().enumerate() {
            delta.push(&file_name(index))?;
            if delta.files.last().map(|file| file.stamp) != Some(*stamp) {
                return Err(StoreError::Damaged(self.dir.join(file_name(index))));
            }
        }
        Ok(delta)
    }
}

/// The deltas that were checked, by name.
#[derive(Debug, Default)]
pub(super) struct Adopted(HashMap<BlobName, Entry>);

#[derive(Clone, Debug)]
struct Entry {
    state: DeltaState,
    metainfo: Arc<Metainfo>,
    /// The open delta, if somebody holds it.
    open: Weak<Blob>,
}

impl Entry {
    fn seed(&self, name: &BlobName) -> SeedEntry {
        let (info_hash, len) = (self.metainfo.info_hash(), self.metainfo.geometry().blob_len());
        SeedEntry { name: *name, info_hash, len }
    }
}

impl Store {
    /// From now on the checked delta is a whole blob, read where it lies; what is known of it.
    pub fn adopt(&self, name: &BlobName, state: DeltaState, metainfo: &Arc<Metainfo>) -> SeedEntry {
        let path = self.layout.in_place(name, &state.key());
        if let Err(error) = self.note(&path, metainfo) {
            log_limited!(warn, "{error}");
        }
        let entry = Entry { state, metainfo: Arc::clone(metainfo), open: Weak::new() };
        let seed = entry.seed(name);
        self.adopted.lock().0.insert(*name, entry);
        seed
    }

    /// The delta is not served from its place any more. Who has it open can go on reading.
    pub fn release(&self, name: &BlobName) {
        let Some(entry) = self.adopted.lock().0.remove(name) else { return };
        let path = self.layout.in_place(name, &entry.state.key());
        seal::remove(self.backend(), &path).unwrap_or_else(|error| log_limited!(warn, "{error}"));
        if !self.contains(name) {
            self.tell(entry.seed(name));
        }
    }

    /// The metainfo of a delta that was checked in this state by an earlier run.
    #[must_use]
    pub fn checked_before(&self, name: &BlobName, state: &DeltaState) -> Option<Metainfo> {
        let file = open_file(&self.layout.in_place(name, &state.key())).ok()?;
        let mut bytes = Vec::new();
        file.take(TORRENT_LEN_MAX as u64 + 1).read_to_end(&mut bytes).ok()?;
        Metainfo::decode(&bytes).ok().filter(|metainfo| metainfo.is_of(name))
    }

    /// Writes what a check has found. Not synced: what a loss of power tears is not read back.
    fn note(&self, path: &Path, metainfo: &Metainfo) -> Result<(), StoreError> {
        let draft = path.with_extension("new");
        let file = seal::create_anew(self.backend(), &draft)?;
        write_all_at(self.backend(), &file, &[&metainfo.encode()], 0)
            .map_err(|error| StoreError::io("write", &draft, error))?;
        self.backend().rename(&draft, path).map_err(|error| StoreError::io("rename", &draft, error))
    }

    /// The adopted delta of this name, open.
    pub(super) fn adopted(&self, name: &BlobName) -> Option<Arc<Blob>> {
        let entry = self.adopted.lock().0.get(name).cloned()?;
        if let Some(blob) = entry.open.upgrade().filter(|blob| blob.check().is_ok()) {
            return Some(blob);
        }
        match entry.state.open() {
            Ok(files) => {
                let seed = entry.seed(name);
                let blob = Arc::new(Blob::in_place(seed, files, Arc::clone(&entry.metainfo)));
                let mut adopted = self.adopted.lock();
                adopted.0.get_mut(name)?.open = Arc::downgrade(&blob);
                Some(blob)
            }
            Err(error) => {
                log_limited!(warn, "{error}");
                None
            }
        }
    }

    /// What is known of all adopted deltas.
    pub(super) fn adopted_seeds(&self) -> Vec<SeedEntry> {
        self.adopted.lock().0.iter().map(|(name, entry)| entry.seed(name)).collect()
    }

    /// The metainfo of the adopted delta of this name.
    pub(super) fn adopted_metainfo(&self, name: &BlobName) -> Option<Arc<Metainfo>> {
        self.adopted.lock().0.get(name).map(|entry| Arc::clone(&entry.metainfo))
    }

    /// The name of the adopted delta with this info-hash.
    pub(super) fn adopted_name(&self, info_hash: &Sha1Hash) -> Option<BlobName> {
        let adopted = self.adopted.lock();
        let found = adopted.0.iter().find(|(_, entry)| entry.metainfo.info_hash() == *info_hash);
        found.map(|(name, _)| *name)
    }

    /// Whether there is an adopted delta of this name.
    pub(super) fn has_adopted(&self, name: &BlobName) -> bool {
        self.adopted.lock().0.contains_key(name)
    }
}

/// The directories of all static deltas in the archive repository at `repository`.
///
/// # Errors
/// If it has none that can be listed.
pub fn deltas(repository: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let mut dirs = Vec::new();
    for start in subdirectories(&repository.join("deltas"))? {
        dirs.extend(subdirectories(&start)?);
    }
    dirs.retain(|dir| dir.join("superblock").exists());
    Ok(dirs)
}

fn subdirectories(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let list = || -> io::Result<Vec<PathBuf>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                found.push(entry.path());
            }
        }
        Ok(found)
    };
    match list() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        listed => listed.map_err(|error| StoreError::io("list", dir, error)),
    }
}

/// The object `checksum` in the archive repository at `repository`, open, and what tells its file
/// from others; `None`: it is not there. Whether its bytes are those of its name is not looked at.
#[must_use]
pub fn object(repository: &Path, checksum: &Checksum, kind: ObjectKind) -> Option<(File, Stamp)> {
    let path = repository.join(object_path(checksum, kind));
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW).open(path).ok()?;
    let meta = file.metadata().ok().filter(Metadata::is_file)?;
    Some((file, Stamp::of(&meta)))
}
