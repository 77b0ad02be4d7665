//! Small answers by URL: what is asked for again and again and is no blob.
//!
//! One file per answer below `files/`, in 256 folders, each made with its first file. Nothing is
//! synced: a file that a loss of power tore, or that rotted, fails its hash when it is read, and is
//! dropped. The last bytes of a body leave only after the hash was found right: while they are
//! read, or at an earlier reading of the same file, or when this process wrote it; not changed
//! since.
//!
//! **Invariant:** no lock is held over I/O. The index may name a file that is gone (then it is a
//! miss), and never one that is not there whole.

mod format;
mod index;

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use crate::base::figures;
use crate::base::hash::{Algorithm, ContentHasher};
use crate::base::ranked::{Rank, Ranked};
use crate::limits;
use crate::log_limited;
use crate::store::backend::{Backend, write_all_at};
use crate::store::error::{StoreError, is_full};
use crate::store::in_place::Stamp;
use crate::store::{Store, seal};

use self::format::Head;
use self::index::{Bounds, FileIndex, FileKey, Known};

pub use self::format::FileMeta;

/// How the name begins of a file that is being written in place of another.
const DRAFT: &str = ".new-";

/// The part of the store that keeps files.
pub(super) struct Files {
    root: PathBuf,
    index: Ranked<FileIndex>,
    /// Makes the names of drafts.
    next: AtomicU64,
}

impl Files {
    /// Finds what is there, in the order in which it was written.
    pub(super) fn open(root: PathBuf) -> Result<Files, StoreError> {
        make_dir(&root)?;
        let mut found: Vec<(SystemTime, FileKey, u64)> = Vec::new();
        for path in list(&root)? {
            let folder = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !FileKey::is_folder(folder) {
                continue;
            }
            for file in list(&path)? {
                let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                if name.starts_with(DRAFT) {
                    // It was being written when the process ended.
                    let _ = fs::remove_file(&file);
                    continue;
                }
                let key = FileKey::parse(folder, name);
                let meta = fs::symlink_metadata(&file).ok().filter(fs::Metadata::is_file);
                if let (Some(key), Some(meta)) = (key, meta) {
                    let written = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                    found.push((written, key, meta.len()));
                }
            }
        }
        found.sort_unstable();
        let mut index = FileIndex::default();
        for (_, key, len) in found {
            index.insert(key, len, Known::default());
        }
        Ok(Files { root, index: Ranked::new(Rank::Index, index), next: AtomicU64::new(0) })
    }

    /// How many there are, and their bytes.
    pub(super) fn usage(&self) -> (usize, u64) {
        let index = self.index.lock();
        (index.count(), index.bytes())
    }

    /// Bytes of all files.
    pub(super) fn bytes(&self) -> u64 {
        self.index.lock().bytes()
    }

    fn path(&self, key: &FileKey) -> PathBuf {
        let (folder, rest) = key.path();
        self.root.join(folder).join(rest)
    }

    /// Where a file is written that takes the place of another. It lies in the same folder: many
    /// threads that make files in one folder would wait for each other.
    fn draft_path(&self, key: &FileKey) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.root.join(key.path().0).join(format!("{DRAFT}{number}"))
    }

    /// Forgets a file; its bytes go if `backend` lets them.
    fn drop_file(&self, backend: &dyn Backend, key: &FileKey) {
        if self.index.lock().remove(key) {
            remove(backend, &self.path(key));
        }
    }
}

impl Store {
    /// The stored answer to `url`; now it is the one used last. One that was kept by an earlier
    /// process, or that is small, has been found right.
    #[must_use]
    pub fn file(self: &Arc<Store>, url: &str) -> Option<StoredFile> {
        let key = FileKey::of(url);
        let known = self.files.index.lock().find(&key)?;
        let path = self.files.path(&key);
        match StoredFile::open(Arc::clone(self), key, &path) {
            Ok(Some(file)) if file.head.meta.url == url => file.checked(known),
            Ok(_) => {
                self.damaged(&key, &path);
                None
            }
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    log_limited!(warn, "{}", StoreError::io("read", &path, error));
                }
                self.files.drop_file(self.backend(), &key);
                None
            }
        }
    }

    /// The stored answers with this status, in no order; the order of use stays. For who has time:
    /// each file is opened for it.
    pub fn files_with_status(self: &Arc<Store>, status: u16) -> impl Iterator<Item = StoredFile> {
        let keys = self.files.index.lock().keys();
        let store = Arc::clone(self);
        keys.into_iter().filter_map(move |key| {
            let file = StoredFile::open(Arc::clone(&store), key, &store.files.path(&key));
            let file = file.ok()?.filter(|file| file.head.meta.status == status)?;
            (FileKey::of(&file.head.meta.url) == key).then_some(file)?.filled()
        })
    }

    /// Whether there is a stored answer to `url`, as far as is known without looking at the disk.
    #[must_use]
    pub fn has_file(&self, url: &str) -> bool {
        self.files.index.lock().contains(&FileKey::of(url))
    }

    /// Keeps `body` as the answer to `meta.url`, in place of what was kept for it.
    ///
    /// # Errors
    /// [`StoreError::Full`] if it may not be kept, or what the file system says.
    pub fn put_file(self: &Arc<Store>, meta: &FileMeta, body: &[u8]) -> Result<(), StoreError> {
        let notes = format::encode_notes(meta, body.len() as u64);
        let notes = notes.ok_or(StoreError::Misuse("the notes of a file are too long"))?;
        let mut hasher = ContentHasher::new(Algorithm::Sha256);
        hasher.update(body);
        let head = format::encode_head(&finish(hasher, &notes), &notes);
        let len = head.len() as u64 + body.len() as u64;
        self.room_for_file(len)?;
        let key = FileKey::of(&meta.url);
        let (path, file) = self.create_file(&key)?;
        let written = write_all_at(self.backend(), &file, &[&head, body], 0)
            .map_err(|error| self.not_written(&path, error))
            .and_then(|()| self.publish_file(key, &path, &file, len));
        written.inspect_err(|_| remove(self.backend(), &path))
    }

    /// Makes the file to write to: under its name if there is none of that name, which nobody reads
    /// before it is in the index; else a draft.
    fn create_file(&self, key: &FileKey) -> Result<(PathBuf, File), StoreError> {
        if !self.files.index.lock().contains(key) {
            let path = self.files.path(key);
            if let Ok(file) = self.backend().create(&path) {
                return Ok((path, file));
            }
        }
        self.create_draft(key)
    }

    /// Makes a draft, and the folder for it if this is the first file there.
    fn create_draft(&self, key: &FileKey) -> Result<(PathBuf, File), StoreError> {
        let path = self.files.draft_path(key);
        let file = match seal::create_anew(self.backend(), &path) {
            Err(error) if error.is_loss() => {
                self.make_again()?;
                make_dir(&self.files.root)?;
                make_dir(&self.files.root.join(key.path().0))?;
                seal::create_anew(self.backend(), &path)?
            }
            created => created?,
        };
        Ok((path, file))
    }

    /// Begins to keep the answer to `meta.url`, whose body comes in parts.
    ///
    /// # Errors
    /// As [`Store::put_file`].
    pub fn begin_file(self: &Arc<Store>, meta: FileMeta) -> Result<FileWriter, StoreError> {
        let notes = format::encode_notes(&meta, 0);
        let notes = notes.ok_or(StoreError::Misuse("the notes of a file are too long"))?;
        let (path, file) = self.create_draft(&FileKey::of(&meta.url))?;
        let body_at = format::encode_head(&[0; 32], &notes).len() as u64;
        let hasher = ContentHasher::new(Algorithm::Sha256);
        Ok(FileWriter { store: Arc::clone(self), meta, path, file, hasher, body_at, len: 0 })
    }

    /// Forgets the answer to `url`.
    pub fn forget_file(&self, url: &str) {
        self.files.drop_file(self.backend(), &FileKey::of(url));
    }

    fn damaged(&self, key: &FileKey, path: &Path) {
        figures::FILES_DAMAGED.add(1);
        log_limited!(warn, "{}", StoreError::Damaged(path.to_owned()));
        self.files.drop_file(self.backend(), key);
    }

    fn not_written(&self, path: &Path, error: io::Error) -> StoreError {
        if is_full(&error) {
            // Something has to go, whoever filled the disk: a sixteenth of what is here.
            let bytes = self.files.bytes();
            self.shrink_files(Bounds { count: usize::MAX, bytes: bytes.saturating_sub(1) });
        }
        StoreError::io("write", path, error)
    }

    /// Gives a whole file its name and counts it.
    fn publish_file(
        &self,
        key: FileKey,
        from: &Path,
        file: &File,
        len: u64,
    ) -> Result<(), StoreError> {
        let path = self.files.path(&key);
        if from != path {
            let renamed = self.backend().rename(from, &path);
            renamed.map_err(|error| StoreError::io("rename", from, error))?;
        }
        // What was hashed on its way there need not be again, as long as nobody changes it.
        let right = file.metadata().ok().map(|meta| Stamp::of(&meta));
        self.files.index.lock().insert(key, len, Known { checked: true, right });
        Ok(())
    }

    /// Makes room for a file of `len` bytes, at the cost of others of its kind and of blobs.
    fn room_for_file(&self, len: u64) -> Result<(), StoreError> {
        let max = self.max_bytes()?;
        let bytes = limits::FILES_BYTES_MAX.min(max / limits::FILES_SHARE);
        if len > bytes / limits::FILES_SHARE {
            return Err(StoreError::Full { wanted: len });
        }
        self.shrink_files(Bounds { count: limits::FILES_MAX, bytes: bytes - len });
        self.make_room(self.files.bytes().saturating_add(len), max);
        Ok(())
    }

    fn shrink_files(&self, bounds: Bounds) {
        let gone = self.files.index.lock().shrink(bounds);
        figures::FILES_EVICTED.add(gone.len() as u64);
        for key in gone {
            remove(self.backend(), &self.files.path(&key));
        }
    }
}

/// A stored answer, whose body is read part by part.
pub struct StoredFile {
    store: Arc<Store>,
    key: FileKey,
    head: Head,
    /// The head as it lies on disk from the body's length on: what the hash covers of it.
    notes: Vec<u8>,
    file: File,
    stamp: Stamp,
    /// `None`: it was found right, while it was read or before.
    hasher: Option<ContentHasher>,
    /// Bytes of the body that are still to be read.
    left: u64,
    /// What was read of the body with the head, and later each part.
    part: Vec<u8>,
    /// The first part has been given out.
    taken: bool,
}

impl std::fmt::Debug for StoredFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Head { body_len, meta, .. } = &self.head;
        write!(f, "StoredFile {{ {}, {body_len} bytes }}", meta.url)
    }
}

impl StoredFile {
    /// `None`: it is no file of ours, or cut within its head.
    fn open(store: Arc<Store>, key: FileKey, path: &Path) -> io::Result<Option<StoredFile>> {
        /// With the head, most files come in one read.
        const FIRST_LEN: usize = 16 << 10;
        let mut file = File::open(path)?;
        let stamp = Stamp::of(&file.metadata()?);
        let first = usize::try_from(stamp.len()).unwrap_or(FIRST_LEN).min(FIRST_LEN);
        let mut bytes = Vec::with_capacity(first);
        (&mut file).take(first as u64).read_to_end(&mut bytes)?;
        let Some(body_at) = format::body_at(&bytes) else { return Ok(None) };
        if body_at > bytes.len() {
            (&mut file).take((body_at - bytes.len()) as u64).read_to_end(&mut bytes)?;
        }
        let Some(head) = format::decode_head(&bytes) else { return Ok(None) };
        let mut part = bytes.split_off(body_at);
        part.truncate(usize::try_from(head.body_len).unwrap_or(usize::MAX));
        let notes = bytes.split_off(40);
        let left = head.body_len - part.len() as u64;
        let hasher = Some(ContentHasher::new(Algorithm::Sha256));
        let taken = false;
        Ok(Some(StoredFile { store, key, head, notes, file, stamp, hasher, left, part, taken }))
    }

    /// Finds out whether it is right while nobody has seen any of it. A long one costs a second
    /// reading: once, since what this process wrote or read is right unless the disk fails now.
    /// What was found right is not hashed again while it is the same file, not changed since.
    fn checked(mut self, known: Known) -> Option<StoredFile> {
        if known.right == Some(self.stamp) {
            self.hasher = None;
        } else if self.head.body_len > limits::COPY_LEN as u64 && !known.checked {
            let path = self.store.files.path(&self.key);
            let again = StoredFile::open(Arc::clone(&self.store), self.key, &path).ok()??;
            again.filled()?.read_through().ok()?;
        }
        self.filled()
    }

    /// With its first part; `None`: it is damaged.
    fn filled(mut self) -> Option<StoredFile> {
        self.fill().ok()?;
        Some(self)
    }

    /// Reads to the end.
    fn read_through(mut self) -> Result<(), StoreError> {
        while !self.next_part()?.is_empty() {}
        Ok(())
    }

    /// What is known of it.
    #[must_use]
    pub fn meta(&self) -> &FileMeta {
        &self.head.meta
    }

    /// The length of its body.
    #[must_use]
    pub fn body_len(&self) -> u64 {
        self.head.body_len
    }

    /// The next part of the body; an empty one is the end. The last is given only if the whole is
    /// right.
    ///
    /// # Errors
    /// [`StoreError::Damaged`], or what the file system says: then the file is dropped.
    pub fn next_part(&mut self) -> Result<&[u8], StoreError> {
        // The first part was read to be checked.
        if std::mem::replace(&mut self.taken, true) {
            self.part.clear();
            self.fill()?;
        }
        Ok(&self.part)
    }

    /// The whole body.
    ///
    /// # Errors
    /// As [`StoredFile::next_part`].
    pub fn whole(mut self) -> Result<Vec<u8>, StoreError> {
        let mut body = Vec::new();
        loop {
            let part = self.next_part()?;
            if part.is_empty() {
                return Ok(body);
            }
            body.extend_from_slice(part);
        }
    }

    /// Reads as much as one part holds, and checks the hash at the end.
    fn fill(&mut self) -> Result<(), StoreError> {
        let room = (limits::COPY_LEN - self.part.len().min(limits::COPY_LEN)) as u64;
        let wanted = room.min(self.left);
        let read = (&mut self.file).take(wanted).read_to_end(&mut self.part);
        if !matches!(read, Ok(len) if len as u64 == wanted) {
            self.store.damaged(&self.key, &self.store.files.path(&self.key));
            return Err(StoreError::Damaged(self.store.files.path(&self.key)));
        }
        self.left -= wanted;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&self.part);
        }
        let Some(hasher) = self.hasher.take_if(|_| self.left == 0) else { return Ok(()) };
        if finish(hasher, &self.notes) != self.head.hash {
            self.store.damaged(&self.key, &self.store.files.path(&self.key));
            return Err(StoreError::Damaged(self.store.files.path(&self.key)));
        }
        self.store.files.index.lock().found_right(&self.key, self.stamp);
        Ok(())
    }
}

/// An answer on its way to the disk. Dropped before [`FileWriter::commit`] it leaves nothing.
pub struct FileWriter {
    store: Arc<Store>,
    meta: FileMeta,
    path: PathBuf,
    file: File,
    hasher: ContentHasher,
    body_at: u64,
    len: u64,
}

impl std::fmt::Debug for FileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "FileWriter {{ {}, {} bytes }}", self.meta.url, self.len)
    }
}

impl FileWriter {
    /// Adds what came next of the body.
    ///
    /// # Errors
    /// As [`Store::put_file`]; the file cannot be committed any more.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.room_for_file(self.body_at + self.len + bytes.len() as u64)?;
        write_all_at(self.store.backend(), &self.file, &[bytes], self.body_at + self.len)
            .map_err(|error| self.store.not_written(&self.path, error))?;
        self.hasher.update(bytes);
        self.len += bytes.len() as u64;
        Ok(())
    }

    /// Keeps what was written: it is the whole body.
    ///
    /// # Errors
    /// As [`Store::put_file`].
    pub fn commit(self) -> Result<(), StoreError> {
        let notes = format::encode_notes(&self.meta, self.len);
        let notes = notes.ok_or(StoreError::Misuse("the notes of a file are too long"))?;
        let head = format::encode_head(&finish(self.hasher.clone(), &notes), &notes);
        write_all_at(self.store.backend(), &self.file, &[&head], 0)
            .map_err(|error| self.store.not_written(&self.path, error))?;
        let key = FileKey::of(&self.meta.url);
        self.store.publish_file(key, &self.path, &self.file, self.body_at + self.len)
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        // After a commit there is no file of this name any more.
        remove(self.store.backend(), &self.path);
    }
}

fn finish(mut hasher: ContentHasher, notes: &[u8]) -> [u8; 32] {
    hasher.update(notes);
    let mut hash = [0; 32];
    hash.copy_from_slice(&hasher.finish());
    hash
}

fn remove(backend: &dyn Backend, path: &Path) {
    if let Err(error) = seal::remove(backend, path) {
        log_limited!(warn, "{error}");
    }
}

fn make_dir(path: &Path) -> Result<(), StoreError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(StoreError::io("make", path, error))
        }
        _ => Ok(()),
    }
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, StoreError> {
    let entries = fs::read_dir(dir).and_then(|entries| {
        entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<_>>>()
    });
    entries.map_err(|error| StoreError::io("list", dir, error))
}

#[cfg(test)]
mod tests;
