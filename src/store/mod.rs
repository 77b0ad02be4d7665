//! Floor 3: the blobs on disk. Nobody else sees a path.
//!
//! A blob comes in as a [`Partial`], which fills in any order while readers follow its [`Feed`].
//! [`Store::seal`] makes it a whole [`Blob`], and [`Store::settle`] lets that survive a restart.
//! Whole blobs are evicted, the least recently used first, when the store would outgrow its [`Max`]
//! or the disk is full; one that is open or on its way is not.
//!
//! **Invariant:** what [`Store::blob`] gives is whole and what was sealed, with its metainfo.
//!
//! Not here: whether bytes are right. Whoever seals has checked the digest.

pub mod backend;
pub mod feed;
pub mod in_place;

mod blob;
mod error;
mod files;
mod fresh;
mod index;
mod layout;
mod partial;
mod quota;
mod recover;
mod seal;
mod stamps;

use std::fs::{File, TryLockError};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, Weak};

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::base::sys;
use crate::log_limited;
use crate::proto::blob::BlobName;
use crate::proto::metainfo::Metainfo;

use self::backend::{Backend, Disk};
use self::files::Files;
use self::fresh::Fresh;
use self::in_place::Adopted;
use self::index::{Found, Gone, Index};
use self::layout::Layout;
use self::stamps::Stamps;

pub use self::blob::Blob;
pub use self::error::StoreError;
pub use self::feed::{Feed, FeedState, ReaderTicket, Wait};
pub use self::files::{FileMeta, FileWriter, StoredFile};
pub use self::fresh::Unsettled;
pub use self::layout::FILES;
pub use self::partial::Partial;
pub use self::quota::{Max, MaxError};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The directory of everything; made if it is not there.
    pub root: PathBuf,
    /// How much the store may hold.
    pub max: Max,
}

/// What is known of a whole blob without opening it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SeedEntry {
    /// Its name.
    pub name: BlobName,
    /// The info-hash of its metainfo.
    pub info_hash: Sha1Hash,
    /// Its length in bytes, at least 1.
    pub len: u64,
}

/// How full a store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Whole blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Small answers that are kept by URL.
    pub files: usize,
    /// Their bytes on disk.
    pub file_bytes: u64,
    /// Bytes that are set aside for blobs on their way.
    pub partial_bytes: u64,
}

type OnEvict = Box<dyn Fn(SeedEntry) + Send + Sync>;
type OnDoubt = Box<dyn Fn(BlobName) + Send + Sync>;

/// The blobs on disk. Shared by all who read and fetch.
pub struct Store {
    layout: Layout,
    backend: Box<dyn Backend>,
    max: Max,
    index: Ranked<Index>,
    files: Files,
    stamps: Stamps,
    fresh: Ranked<Fresh>,
    /// A blob was made durable, or was not.
    settled: Signal,
    adopted: Ranked<Adopted>,
    on_evict: OnceLock<OnEvict>,
    on_doubt: OnceLock<OnDoubt>,
    /// Locked for as long as the store is open.
    lock: Ranked<File>,
}

impl Store {
    /// Opens the store in a directory of this host.
    ///
    /// # Errors
    /// [`StoreError::InUse`], or what the file system says.
    pub fn open(config: StoreConfig) -> Result<Arc<Store>, StoreError> {
        Store::open_on(Box::new(Disk), config)
    }

    /// Opens a store that changes its directory through `backend`.
    ///
    /// # Errors
    /// As [`Store::open`].
    pub fn open_on(
        backend: Box<dyn Backend>,
        config: StoreConfig,
    ) -> Result<Arc<Store>, StoreError> {
        let layout = Layout::new(&config.root);
        layout.make().map_err(|(path, error)| StoreError::io("make", &path, error))?;
        let lock = lock(&layout)?;
        let mut index = Index::default();
        let found = recover::recover(backend.as_ref(), &layout)?;
        for seed in found.whole {
            index.insert(seed, Weak::new());
        }
        let files = Files::open(layout.files())?;
        let store = Store {
            layout,
            backend,
            max: config.max,
            index: Ranked::new(Rank::Index, index),
            files,
            stamps: Stamps::after(found.last_used),
            fresh: Ranked::new(Rank::Leaf, Fresh::default()),
            settled: Signal::new(),
            adopted: Ranked::new(Rank::Leaf, Adopted::default()),
            on_evict: OnceLock::new(),
            on_doubt: OnceLock::new(),
            lock: Ranked::new(Rank::Leaf, lock),
        };
        store.shrink()?;
        Ok(Arc::new(store))
    }

    /// Names who is told of every blob that leaves the store, evicted or removed, before its files
    /// go. The store owns `listener`: it must not own the store.
    ///
    /// # Panics
    /// At the second call.
    pub fn on_evict(&self, listener: impl Fn(SeedEntry) + Send + Sync + 'static) {
        assert!(self.on_evict.set(Box::new(listener)).is_ok(), "one is told, once for all");
    }

    /// Names who looks at the blobs that somebody could not read, and must not wait. The store owns
    /// `listener`: it must not own the store.
    ///
    /// # Panics
    /// At the second call.
    pub fn on_doubt(&self, listener: impl Fn(BlobName) + Send + Sync + 'static) {
        assert!(self.on_doubt.set(Box::new(listener)).is_ok(), "one is told, once for all");
    }

    /// The whole blob of this name could not be read.
    pub fn doubt(&self, name: &BlobName) {
        if let Some(listener) = self.on_doubt.get() {
            listener(*name);
        }
    }

    /// The whole blob of this name, open; now it is the one used last.
    #[must_use]
    pub fn blob(&self, name: &BlobName) -> Option<Arc<Blob>> {
        let found = self.index.lock().find(name);
        let opened = match found {
            Some(Found::Open(blob)) => blob.check().map(|()| Some(blob)),
            Some(Found::Closed { seed, born }) => self.open_blob(seed, born),
            None => return self.adopted(name),
        };
        match opened {
            Ok(blob) => blob.inspect(|blob| blob.touch(&self.stamps)),
            Err(error) => {
                log_limited!(warn, "{error}");
                if error.is_loss() {
                    self.remove(name).unwrap_or_else(|error| log_limited!(warn, "{error}"));
                }
                None
            }
        }
    }

    fn open_blob(&self, seed: SeedEntry, born: u64) -> Result<Option<Arc<Blob>>, StoreError> {
        let blob = Arc::new(Blob::open(&self.layout, seed)?);
        let (blob, closing) = self.index.lock().opened(&blob, born);
        drop(closing);
        Ok(blob)
    }

    /// The whole blob whose metainfo has this info-hash, as [`Store::blob`].
    #[must_use]
    pub fn by_info_hash(&self, info_hash: &Sha1Hash) -> Option<Arc<Blob>> {
        let name = self.index.lock().name_of(info_hash);
        let name = name.or_else(|| self.adopted_name(info_hash))?;
        self.blob(&name).filter(|blob| blob.info_hash() == *info_hash)
    }

    /// Whether the whole blob is there.
    #[must_use]
    pub fn contains(&self, name: &BlobName) -> bool {
        self.index.lock().contains(name)
    }

    /// All whole blobs, in no order.
    #[must_use]
    pub fn seeds(&self) -> Vec<SeedEntry> {
        self.index.lock().seeds()
    }

    /// All that is shared: the whole blobs, and the deltas that lie elsewhere. In no order.
    #[must_use]
    pub fn shared(&self) -> Vec<SeedEntry> {
        let mut shared = self.seeds();
        shared.extend(self.adopted_seeds());
        shared
    }

    /// The metainfo of what [`Store::shared`] named, if it is still there. Not a use: what is
    /// looked at does not stay longer for it.
    #[must_use]
    pub fn metainfo(&self, seed: &SeedEntry) -> Option<Arc<Metainfo>> {
        if !self.contains(&seed.name) {
            return self.adopted_metainfo(&seed.name);
        }
        // One that is not settled can only be had from whoever holds it.
        let open = self.index.lock().open_one(&seed.name);
        match open.filter(|blob| blob.seed() == *seed) {
            Some(blob) => blob.metainfo().ok(),
            None => Blob::open(&self.layout, *seed).ok()?.metainfo().ok(),
        }
        .map(Arc::new)
    }

    /// Whether files can be made: the file system may have become read-only.
    ///
    /// # Errors
    /// What it says. That it is full is none: the store makes room.
    pub fn check(&self) -> Result<(), StoreError> {
        let dir = self.layout.partials();
        // A file without a name: it is gone when it is closed.
        let make = || File::options().write(true).custom_flags(libc::O_TMPFILE).open(dir);
        let made = match make() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                self.make_again()?;
                make()
            }
            made => made,
        };
        match made {
            Err(error) if !error::is_full(&error) && !has_no_nameless(&error) => {
                Err(StoreError::io("write to", dir, error))
            }
            _ => Ok(()),
        }
    }

    /// How full it is.
    #[must_use]
    pub fn usage(&self) -> Usage {
        let (files, file_bytes) = self.files.usage();
        let index = self.index.lock();
        Usage {
            blobs: index.count(),
            bytes: index.bytes(),
            files,
            file_bytes,
            partial_bytes: index.admitted(),
        }
    }

    /// Whether a blob of `len` bytes can be begun without another having to go.
    #[must_use]
    pub fn has_room(&self, len: u64) -> bool {
        let (Ok(max), Ok(space)) = (self.max_bytes(), self.space()) else { return true };
        let files = self.files.bytes();
        let index = self.index.lock();
        let taken = index.bytes().saturating_add(index.admitted()).saturating_add(files);
        len <= max.saturating_sub(taken) && len <= space.available
    }

    /// Begins a blob and sets room aside for it, evicting others if need be. With an unknown length
    /// ([`Partial::set_len`] comes later) room is asked for while it grows.
    ///
    /// # Errors
    /// [`StoreError::Present`], [`StoreError::Busy`], [`StoreError::Full`], or what the file system
    /// says.
    pub fn begin(
        self: &Arc<Store>,
        name: &BlobName,
        len: Option<u64>,
    ) -> Result<Arc<Partial>, StoreError> {
        len.map_or(Ok(()), partial::check_len)?;
        self.index.lock().claim(name)?;
        let path = self.layout.partial(name);
        let made = self
            .admit(name, len.unwrap_or(0))
            .and_then(|()| self.create_anew(&path))
            .inspect_err(|_| self.index.lock().release(name));
        // From here on dropping the partial cleans up.
        let partial = Arc::new(Partial::new(Arc::clone(self), *name, path.clone(), made?, len));
        if let Some(len) = len {
            self.reserve(partial.file(), &path, len)?;
        }
        Ok(partial)
    }

    /// Makes a complete partial, whose digest the caller found right, a whole blob. It survives a
    /// loss of power after [`Store::settle`].
    ///
    /// # Errors
    /// [`StoreError::Misuse`] if the partial is not complete or the metainfo is not of its length,
    /// [`StoreError::Earlier`] if the disk failed it: then nothing has happened.
    pub fn seal(
        &self,
        partial: &Partial,
        metainfo: Arc<Metainfo>,
    ) -> Result<Arc<Blob>, StoreError> {
        let len = metainfo.geometry().blob_len();
        if partial.len() != Some(len) {
            return Err(StoreError::Misuse("the metainfo is of another length"));
        }
        partial.end_with_seal()?;
        let seed = SeedEntry { name: partial.name(), info_hash: metainfo.info_hash(), len };
        let file = Arc::clone(partial.file());
        let blob = Arc::new(Blob::of_file(&self.layout, seed, file, Some(metainfo)));
        blob.touch(&self.stamps);
        let mut index = self.index.lock();
        index.insert(seed, Arc::downgrade(&blob));
        // Before anybody can settle it or take it out.
        self.fresh.lock().push(Arc::clone(&blob), Time::now());
        drop(index);
        Ok(blob)
    }

    /// Gives a partial up. Who has its file open can go on reading. Without effect on a sealed one.
    pub fn discard(&self, partial: &Partial) {
        if !partial.close() {
            return;
        }
        let name = partial.name();
        self.erase_partial(&name);
        self.index.lock().release(&name);
    }

    /// Takes a blob out for good: it is wrong. Who has it open can go on reading.
    ///
    /// # Errors
    /// If the disk fails: then the blob may come back at the next start.
    pub fn remove(&self, name: &BlobName) -> Result<(), StoreError> {
        let Some(gone) = self.index.lock().take(name) else { return Ok(()) };
        self.tell(gone.seed);
        if !self.fresh.lock().remove(name) {
            return Ok(());
        }
        self.erase_partial(name);
        let erased = seal::erase(self.backend(), &self.layout, &gone.seed).and_then(|()| {
            let dir = self.layout.blobs();
            self.backend.sync_dir(dir).map_err(|error| StoreError::io("sync", dir, error))
        });
        self.index.lock().release(name);
        erased
    }
}

/// Room, for the store and its partials.
impl Store {
    fn backend(&self) -> &dyn Backend {
        self.backend.as_ref()
    }

    /// As [`seal::create_anew`], also if somebody deleted the folders of the store.
    fn create_anew(&self, path: &Path) -> Result<File, StoreError> {
        match seal::create_anew(self.backend(), path) {
            Err(error) if error.is_loss() => {
                self.make_again()?;
                seal::create_anew(self.backend(), path)
            }
            created => created,
        }
    }

    /// Makes the folders that somebody deleted. What was in them is found to be gone when it is
    /// asked for.
    fn make_again(&self) -> Result<(), StoreError> {
        let make = |(path, error): (PathBuf, _)| StoreError::io("make", &path, error);
        if self.layout.make().map_err(make)? {
            log::warn!("{} was deleted and is made again", self.layout.root().display());
            // The lock went as well: nobody else is to take the new one.
            let locked = lock(&self.layout)?;
            *self.lock.lock() = locked;
        }
        Ok(())
    }

    /// Lets the claimed `name` grow to `total` bytes, evicting others if need be.
    fn admit(&self, name: &BlobName, total: u64) -> Result<(), StoreError> {
        let max = self.max_bytes()?.saturating_sub(self.files.bytes());
        let room = || self.index.lock().admit(name, total, max);
        let gone = room().or_else(|| self.settle_for_room().then(room)?);
        self.evict(gone.ok_or(StoreError::Full { wanted: total })?);
        Ok(())
    }

    /// Sets `len` bytes of disk aside for `file`, evicting blobs if the disk is full.
    fn reserve(&self, file: &File, path: &Path, len: u64) -> Result<(), StoreError> {
        // Looked at first: a file system may hand out what it has before it says "full".
        let mut short = len.saturating_sub(self.space()?.available);
        loop {
            let room = || self.index.lock().evict(short);
            let gone = room().or_else(|| self.settle_for_room().then(room)?);
            self.evict(gone.ok_or(StoreError::Full { wanted: len })?);
            match self.backend.reserve(file, len) {
                Ok(()) => return Ok(()),
                Err(error) if error::is_full(&error) => short = 1,
                Err(error) => return Err(StoreError::io("reserve room for", path, error)),
            }
        }
    }

    /// Settles what cannot be evicted before; `false`: there is nothing.
    fn settle_for_room(&self) -> bool {
        let any = !self.fresh.lock().is_empty();
        if any && let Err(error) = self.settle() {
            log_limited!(warn, "a blob is not kept: {error}");
        }
        any
    }

    /// Evicts what is too much for the bound, which may be lower than it was.
    fn shrink(&self) -> Result<(), StoreError> {
        let max = self.max_bytes()?;
        self.make_room(self.files.bytes(), max);
        Ok(())
    }

    /// Evicts what blobs have too much beside files of `files` bytes.
    fn make_room(&self, files: u64, max: u64) {
        let mut index = self.index.lock();
        let bytes = index.bytes().saturating_add(index.admitted()).saturating_add(files);
        let gone = index.evict(bytes.saturating_sub(max));
        drop(index);
        self.evict(gone.unwrap_or_default());
    }

    fn max_bytes(&self) -> Result<u64, StoreError> {
        match self.max {
            Max::Percent(_) => Ok(self.max.bytes(self.space()?.total)),
            Max::None | Max::Bytes(_) => Ok(self.max.bytes(0)),
        }
    }

    fn space(&self) -> Result<sys::Space, StoreError> {
        let root = self.layout.root();
        sys::space(root).map_err(|error| StoreError::io("look at", root, error))
    }

    /// Deletes what the index counted out.
    fn evict(&self, gone: Vec<Gone>) {
        for Gone { seed, .. } in gone {
            self.tell(seed);
            self.erase(&seed);
            self.index.lock().release(&seed.name);
            figures::STORE_EVICTED.add(1);
            log::info!("blob evicted: {} bytes={}", seed.name.short(), seed.len);
        }
    }

    fn tell(&self, seed: SeedEntry) {
        if self.has_adopted(&seed.name) {
            // It is served on, from where it lies.
            return;
        }
        if let Some(listener) = self.on_evict.get() {
            listener(seed);
        }
    }

    /// Deletes the files of a blob that is not in the index. What stays is found by the next start.
    fn erase(&self, seed: &SeedEntry) {
        if let Err(error) = seal::erase(self.backend(), &self.layout, seed) {
            log_limited!(warn, "{error}");
        }
    }

    /// Deletes what is in `partial/` of a blob that is whole or was given up.
    fn erase_partial(&self, name: &BlobName) {
        for path in [self.layout.partial(name), self.layout.partial_torrent(name)] {
            if let Err(error) = seal::remove(self.backend(), &path) {
                log_limited!(warn, "{error}");
            }
        }
    }
}

/// How a file system refuses that has no files without names, which says nothing of others.
fn has_no_nameless(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{IsADirectory, Unsupported};
    matches!(error.kind(), Unsupported | IsADirectory)
}

/// Takes the lock that says that the store is in use. It goes with the process, however that ends.
fn lock(layout: &Layout) -> Result<File, StoreError> {
    let path = layout.lock();
    let opened = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&path);
    let file = opened.map_err(|error| StoreError::io("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse(layout.root().to_owned())),
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock", &path, error)),
    }
}

#[cfg(test)]
mod tests;
