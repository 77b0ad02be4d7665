//! What is in the store, in memory: whole blobs by name and info-hash, names that are busy, and who
//! was used last.
//!
//! **Invariant:** `bytes` is the sum of the lengths of the entries, `admitted` that of the busy
//! names. A name is an entry or busy, never both: a file is written or deleted by one at a time.
//!
//! Not here: files. A blob that was not used lately costs its entry and nothing else: no piece
//! hashes, no descriptor.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::limits::OPEN_BLOBS_MAX;
use crate::proto::blob::BlobName;
use crate::store::SeedEntry;
use crate::store::blob::Blob;

/// One whole blob.
#[derive(Debug)]
struct Entry {
    len: u64,
    info_hash: Sha1Hash,
    /// Tells this blob from another of the same name, stored before or after it.
    born: u64,
    used: u64,
    /// The open blob, if somebody holds it: one descriptor serves all.
    open: Weak<Blob>,
    /// The same, held by the index for those who come next.
    kept: Option<Arc<Blob>>,
}

/// A blob that was taken out.
#[derive(Debug)]
pub struct Gone {
    /// What was known of it.
    pub seed: SeedEntry,
    /// If it was kept open, it is closed when this goes: not under a lock.
    _kept: Option<Arc<Blob>>,
}

/// Where a look-up leads.
#[derive(Debug)]
pub enum Found {
    /// Somebody has it open.
    Open(Arc<Blob>),
    /// It is closed; with `born` the result of opening it can be given to [`Index::opened`].
    Closed {
        /// What is known of it.
        seed: SeedEntry,
        /// Which blob of that name it is.
        born: u64,
    },
}

/// Why a name cannot be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// The blob is stored.
    Present,
    /// It is being fetched or deleted.
    Busy,
}

/// A blob that is kept open no longer: dropping it closes it, which is not done under a lock.
pub type Closing = Option<Arc<Blob>>;

/// See the module.
#[derive(Debug, Default)]
pub struct Index {
    entries: HashMap<BlobName, Entry>,
    by_hash: HashMap<Sha1Hash, BlobName>,
    /// The entries that are kept open, with `born` and `used` of when they came here or were looked
    /// at: who was used since then is passed over once.
    kept: VecDeque<(BlobName, u64, u64)>,
    /// Names that are being fetched, with the bytes admitted for them, or deleted, with none.
    busy: HashMap<BlobName, u64>,
    bytes: u64,
    admitted: u64,
    /// Counts uses: the order of use without a clock.
    uses: u64,
}

impl Index {
    /// Bytes of whole blobs.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes admitted for blobs on their way.
    pub fn admitted(&self) -> u64 {
        self.admitted
    }

    /// How many whole blobs there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Whether the whole blob is there.
    pub fn contains(&self, name: &BlobName) -> bool {
        self.entries.contains_key(name)
    }

    /// The name of the blob with this info-hash.
    pub fn name_of(&self, info_hash: &Sha1Hash) -> Option<BlobName> {
        self.by_hash.get(info_hash).copied()
    }

    /// All whole blobs, in no order.
    pub fn seeds(&self) -> Vec<SeedEntry> {
        self.entries.iter().map(|(name, entry)| entry.seed(name)).collect()
    }

    /// The blob, if somebody holds it open. That is no use of it.
    pub fn open_one(&self, name: &BlobName) -> Option<Arc<Blob>> {
        self.entries.get(name)?.open.upgrade()
    }

    /// Looks a blob up, which makes it the one used last.
    pub fn find(&mut self, name: &BlobName) -> Option<Found> {
        self.uses += 1;
        let entry = self.entries.get_mut(name)?;
        entry.used = self.uses;
        Some(match entry.open.upgrade() {
            Some(blob) => Found::Open(blob),
            None => Found::Closed { seed: entry.seed(name), born: entry.born },
        })
    }

    /// Makes `blob`, which was just opened, the one that all share; or gives the one that somebody
    /// opened meanwhile. `None`: it left the store meanwhile. It is kept open; beside it comes what
    /// is not any more, to be closed.
    pub fn opened(&mut self, blob: &Arc<Blob>, born: u64) -> (Option<Arc<Blob>>, Closing) {
        let entry = self.entries.get_mut(&blob.name()).filter(|entry| entry.born == born);
        let Some(entry) = entry else { return (None, None) };
        if let Some(other) = entry.open.upgrade() {
            return (Some(other), None);
        }
        entry.open = Arc::downgrade(blob);
        entry.kept = Some(Arc::clone(blob));
        self.kept.push_back((blob.name(), born, entry.used));
        (Some(Arc::clone(blob)), self.keep_fewer())
    }

    /// If too many are kept open, takes one that was not used for long.
    fn keep_fewer(&mut self) -> Closing {
        while self.kept.len() > OPEN_BLOBS_MAX {
            let (name, born, used) = self.kept.pop_front()?;
            match self.entries.get_mut(&name) {
                Some(entry) if entry.born == born && entry.used > used => {
                    self.kept.push_back((name, born, entry.used));
                }
                Some(entry) if entry.born == born => return entry.kept.take(),
                // It left the store meanwhile.
                _ => {}
            }
        }
        None
    }

    /// Adds a whole blob, as the one used last; `open`, if somebody holds it. Its name is free or
    /// was claimed for it.
    pub fn insert(&mut self, seed: SeedEntry, open: Weak<Blob>) {
        let SeedEntry { name, info_hash, len } = seed;
        self.release(&name);
        self.uses += 1;
        let entry = Entry { len, info_hash, born: self.uses, used: self.uses, open, kept: None };
        self.by_hash.insert(info_hash, name);
        self.entries.insert(name, entry);
        self.count_in(len);
    }

    /// Claims a name for fetching. Nothing is admitted for it yet.
    pub fn claim(&mut self, name: &BlobName) -> Result<(), Taken> {
        if self.entries.contains_key(name) {
            return Err(Taken::Present);
        }
        if self.busy.contains_key(name) {
            return Err(Taken::Busy);
        }
        self.busy.insert(*name, 0);
        Ok(())
    }

    /// Admits `total` bytes for a claimed name, if all bytes then are at most `max`, counting out
    /// what has to go for it: that is returned, busy until [`Index::release`]. `None`: it does not
    /// fit whatever goes; nothing has changed.
    pub fn admit(&mut self, name: &BlobName, total: u64, max: u64) -> Option<Vec<Gone>> {
        let before = self.busy.get(name).copied()?;
        let admitted = self.admitted.checked_add(total.saturating_sub(before))?;
        let excess = self.bytes.saturating_add(admitted).saturating_sub(max);
        let gone = self.evict(excess)?;
        self.admitted = admitted;
        self.busy.insert(*name, total.max(before));
        Some(gone)
    }

    /// Takes out blobs of at least `bytes` in all, the least recently used first, none that is in
    /// use. They are busy until [`Index::release`]. `None`: there are not enough; nothing has
    /// changed.
    pub fn evict(&mut self, bytes: u64) -> Option<Vec<Gone>> {
        if bytes == 0 {
            return Some(Vec::new());
        }
        let closed = self.entries.iter().filter(|(_, entry)| !entry.is_open());
        let mut closed: Vec<_> =
            closed.map(|(name, entry)| (entry.used, entry.seed(name))).collect();
        closed.sort_unstable_by_key(|(used, _)| *used);
        let mut freed = 0;
        let enough = closed.iter().position(|(_, seed)| {
            freed += seed.len;
            freed >= bytes
        })?;
        closed.truncate(enough + 1);
        Some(closed.into_iter().filter_map(|(_, seed)| self.take(&seed.name)).collect())
    }

    /// Takes one blob out; its name is busy until [`Index::release`].
    pub fn take(&mut self, name: &BlobName) -> Option<Gone> {
        let entry = self.entries.remove(name)?;
        if self.by_hash.get(&entry.info_hash) == Some(name) {
            self.by_hash.remove(&entry.info_hash);
        }
        self.count_out(entry.len);
        self.busy.insert(*name, 0);
        Some(Gone { seed: entry.seed(name), _kept: entry.kept })
    }

    /// Frees a busy name and what was admitted for it.
    pub fn release(&mut self, name: &BlobName) {
        self.admitted -= self.busy.remove(name).unwrap_or(0);
    }

    fn count_in(&mut self, len: u64) {
        self.bytes += len;
        figures::STORE_BLOBS.add(1);
        figures::STORE_BYTES.add(len.cast_signed());
    }

    fn count_out(&mut self, len: u64) {
        self.bytes -= len;
        figures::STORE_BLOBS.add(-1);
        figures::STORE_BYTES.add(-len.cast_signed());
    }
}

impl Drop for Index {
    /// The gauges speak of open stores.
    fn drop(&mut self) {
        for len in self.entries.values().map(|entry| entry.len).collect::<Vec<_>>() {
            self.count_out(len);
        }
    }
}

impl Entry {
    /// Whether somebody but the index holds it open.
    fn is_open(&self) -> bool {
        self.open.strong_count() > usize::from(self.kept.is_some())
    }

    fn seed(&self, name: &BlobName) -> SeedEntry {
        SeedEntry { name: *name, info_hash: self.info_hash, len: self.len }
    }
}
