//! Whole blobs that a loss of power would still take.
//!
//! Making a blob durable waits for the disk, and a file system lets others wait meanwhile: whoever
//! pulls the next layer, and the program that unpacks this one. So it is done later, when nothing
//! is fetched ([`Store::settle`]). Until then the file stays in `partial/`, from where a start
//! removes it.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::figures;
use crate::proto::blob::BlobName;
use crate::store::blob::Blob;
use crate::store::error::StoreError;
use crate::store::{Store, seal};

/// See the module. That it holds them open keeps them from being evicted.
#[derive(Debug, Default)]
pub struct Fresh {
    waiting: Vec<Arc<Blob>>,
    /// When the first of those that wait came.
    since: Option<Time>,
    /// Those that are being made durable, and whether they were removed meanwhile.
    settling: HashMap<BlobName, bool>,
}

/// Blobs that [`Store::settle`] would make durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsettled {
    /// How many; each takes a descriptor.
    pub count: usize,
    /// When the first of them was sealed.
    pub since: Time,
}

impl Fresh {
    /// Adds a blob that was sealed just now.
    pub fn push(&mut self, blob: Arc<Blob>, now: Time) {
        figures::STORE_UNSYNCED.add(1);
        self.since.get_or_insert(now);
        self.waiting.push(blob);
    }

    /// Whether all is durable.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.settling.is_empty()
    }

    /// Takes all that wait, to be made durable.
    fn take(&mut self) -> Vec<Arc<Blob>> {
        self.since = None;
        self.settling.extend(self.waiting.iter().map(|blob| (blob.name(), false)));
        std::mem::take(&mut self.waiting)
    }

    /// A blob that was taken is durable, or is not and has failed. Whether it was removed.
    fn settled(&mut self, name: &BlobName) -> bool {
        figures::STORE_UNSYNCED.add(-1);
        self.settling.remove(name).unwrap_or_default()
    }

    /// Lets go of a removed blob. `false`: whoever makes it durable cleans up after it.
    pub fn remove(&mut self, name: &BlobName) -> bool {
        if let Some(at) = self.waiting.iter().position(|blob| blob.name() == *name) {
            figures::STORE_UNSYNCED.add(-1);
            self.waiting.remove(at);
            if self.waiting.is_empty() {
                self.since = None;
            }
        }
        self.settling.get_mut(name).is_none_or(|removed| {
            *removed = true;
            false
        })
    }
}

impl Drop for Fresh {
    /// The gauge speaks of open stores.
    fn drop(&mut self) {
        self.waiting.iter().for_each(|_| figures::STORE_UNSYNCED.add(-1));
    }
}

impl Store {
    /// The blobs that a loss of power would take, if there are any.
    #[must_use]
    pub fn unsettled(&self) -> Option<Unsettled> {
        let fresh = self.fresh.lock();
        fresh.since.map(|since| Unsettled { count: fresh.waiting.len(), since })
    }

    /// Makes durable what was sealed before. When this returns it survives a loss of power.
    ///
    /// # Errors
    /// What the disk says, the first time. The blobs that it failed have left the store.
    pub fn settle(&self) -> Result<(), StoreError> {
        let mut result = Ok(());
        let taken = self.fresh.lock().take();
        for blob in taken {
            let settled = self.settle_one(blob);
            result = result.and(settled);
        }
        // Somebody else may have taken some.
        let mut fresh = self.fresh.lock();
        while !fresh.settling.is_empty() {
            fresh = self.settled.wait(fresh);
        }
        result
    }

    fn settle_one(&self, blob: Arc<Blob>) -> Result<(), StoreError> {
        let seed = blob.seed();
        let committed = seal::commit(self.backend(), &self.layout, &blob);
        // Before others may have the name: if it failed, or was removed, nothing of it may stay.
        let is_lost = committed.is_err() && self.index.lock().take(&seed.name).is_some();
        if is_lost {
            self.tell(seed);
        }
        // Who waits for room finds that nobody holds it.
        drop(blob);
        let mut fresh = self.fresh.lock();
        let is_removed = fresh.settled(&seed.name);
        drop(fresh);
        if is_lost || is_removed {
            self.erase_partial(&seed.name);
            self.erase(&seed);
            self.index.lock().release(&seed.name);
        }
        self.settled.wake_all();
        committed
    }
}
