//! A blob on its way: a file that fills in any order.
//!
//! **Invariant:** a partial that saw the disk fail stays failed: nothing is retried on bytes of
//! which nobody knows whether they are there.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::ranked::{Rank, Ranked};
use crate::limits::BLOB_LEN_MAX;
use crate::proto::blob::BlobName;
use crate::proto::geometry::Span;
use crate::store::Store;
use crate::store::backend::write_all_at;
use crate::store::error::StoreError;
use crate::store::feed::Feed;

/// A blob on its way. The last one to let go of it without [`Store::seal`] discards it.
pub struct Partial {
    store: Arc<Store>,
    name: BlobName,
    path: PathBuf,
    file: Arc<File>,
    feed: Arc<Feed>,
    life: Ranked<Life>,
}

/// What may still be done with a partial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    /// It fills; room for this many bytes was admitted.
    Open { admitted: u64 },
    /// The disk failed it.
    Failed,
    /// It is sealed or discarded: its name is not ours any more.
    Over,
}

/// How much room is asked for at a time while the length is not known.
const ADMIT_STEP: u64 = 64 << 20;

impl Partial {
    pub(super) fn new(
        store: Arc<Store>,
        name: BlobName,
        path: PathBuf,
        file: File,
        len: Option<u64>,
    ) -> Partial {
        Partial {
            store,
            name,
            path,
            file: Arc::new(file),
            feed: Arc::new(Feed::new(len)),
            life: Ranked::new(Rank::Partial, Life::Open { admitted: len.unwrap_or(0) }),
        }
    }

    /// The blob's name.
    #[must_use]
    pub fn name(&self) -> BlobName {
        self.name
    }

    /// The blob's length, once it is known.
    #[must_use]
    pub fn len(&self) -> Option<u64> {
        self.feed.len()
    }

    /// Whether nothing is readable yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.feed.is_empty()
    }

    /// What of it is readable. Whoever writes marks what is written.
    #[must_use]
    pub fn feed(&self) -> &Arc<Feed> {
        &self.feed
    }

    /// Its bytes, for sending. Only positioned reads, and only of what the feed says is readable.
    #[must_use]
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Sets the length, which was not known when the partial was begun, and reserves the room.
    ///
    /// # Errors [`StoreError::Full`]; [`StoreError::Misuse`] if it is no length of a blob or
    /// contradicts what is known or marked. The length is as before then.
    pub fn set_len(&self, len: u64) -> Result<(), StoreError> {
        check_len(len)?;
        self.admit(len)?;
        self.store.reserve(&self.file, &self.path, len)?;
        let agreed = self.feed.set_len(len);
        agreed.then_some(()).ok_or(StoreError::Misuse("the length contradicts what is known"))
    }

    /// Writes all of `bufs`, one after the other, at `offset`. They are readable when the caller
    /// has marked them. What is readable is not written again: a reader may be at it.
    ///
    /// # Errors
    /// A failure of the disk: then the partial stays failed, whatever is tried. Without effect:
    /// [`StoreError::Misuse`] outside of the blob, [`StoreError::Full`] if there is no room for a
    /// blob of unknown length.
    pub fn write(&self, offset: u64, bufs: &[&[u8]]) -> Result<(), StoreError> {
        let len: u64 = bufs.iter().map(|buf| buf.len() as u64).sum();
        let end = offset.saturating_add(len);
        let known = self.feed.len();
        if end > known.unwrap_or(BLOB_LEN_MAX) {
            return Err(StoreError::Misuse("a write ends after the blob"));
        }
        self.admit(if known.is_some() { end } else { end.next_multiple_of(ADMIT_STEP) })?;
        write_all_at(self.store.backend(), &self.file, bufs, offset).map_err(|error| {
            self.fail();
            StoreError::io("write", &self.path, error)
        })
    }

    /// Writes what of `bufs` at `offset` is not there and nobody else writes now, makes it
    /// readable, and says how many bytes that were. So bytes that somebody has read stay as they
    /// are, whatever another source has in their place.
    ///
    /// # Errors
    /// As [`Partial::write`].
    pub fn write_missing(&self, offset: u64, bufs: &[&[u8]]) -> Result<u64, StoreError> {
        let len = bufs.iter().map(|buf| buf.len() as u64).sum();
        let mut written = 0;
        for gap in self.feed.take(Span { offset, len }) {
            let from = usize::try_from(gap.offset - offset).unwrap_or(usize::MAX);
            self.write(gap.offset, &cut(bufs, from, usize::try_from(gap.len).unwrap_or(0)))?;
            self.feed.mark(gap);
            written += gap.len;
        }
        Ok(written)
    }

    /// Fills `buf` with the bytes at `offset`, which are readable.
    ///
    /// # Errors
    /// If the disk fails, or the bytes were not written.
    pub fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError> {
        let read = self.file.read_exact_at(buf, offset);
        read.map_err(|error| StoreError::io("read", &self.path, error))
    }

    /// Makes sure that it is open and may grow to `total` bytes.
    fn admit(&self, total: u64) -> Result<(), StoreError> {
        match *self.life.lock() {
            Life::Open { admitted } if total <= admitted => return Ok(()),
            Life::Open { .. } => {}
            Life::Failed => return Err(StoreError::Earlier),
            Life::Over => return Err(StoreError::Misuse("the partial is closed")),
        }
        self.store.admit(&self.name, total)?;
        if let Life::Open { admitted } = &mut *self.life.lock() {
            *admitted = total.max(*admitted);
        }
        Ok(())
    }

    fn fail(&self) {
        let mut life = self.life.lock();
        if matches!(*life, Life::Open { .. }) {
            *life = Life::Failed;
        }
    }

    /// Closes it to writers for good: it is a blob from now on.
    pub(super) fn end_with_seal(&self) -> Result<(), StoreError> {
        if !self.feed.is_complete() {
            return Err(StoreError::Misuse("a partial is sealed before it is complete"));
        }
        let mut life = self.life.lock();
        match *life {
            Life::Open { .. } => *life = Life::Over,
            Life::Failed => return Err(StoreError::Earlier),
            Life::Over => return Err(StoreError::Misuse("the partial is closed")),
        }
        Ok(())
    }

    /// Closes it for good. Says whether its file and its name are left for the caller to clean up.
    pub(super) fn close(&self) -> bool {
        let mut life = self.life.lock();
        let ours = matches!(*life, Life::Open { .. } | Life::Failed);
        if ours {
            *life = Life::Over;
        }
        ours
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.store.discard(self);
    }
}

/// The `len` bytes after the first `from` of `bufs`.
fn cut<'a>(bufs: &[&'a [u8]], mut from: usize, mut len: usize) -> Vec<&'a [u8]> {
    let mut parts = Vec::with_capacity(bufs.len());
    for buf in bufs {
        let part = &buf[from.min(buf.len())..];
        from = from.saturating_sub(buf.len());
        let part = &part[..len.min(part.len())];
        len -= part.len();
        if !part.is_empty() {
            parts.push(part);
        }
    }
    parts
}

/// A blob's length is at least 1: an empty one is not stored.
pub(super) fn check_len(len: u64) -> Result<(), StoreError> {
    match len {
        1..=BLOB_LEN_MAX => Ok(()),
        _ => Err(StoreError::Misuse("no blob has this length")),
    }
}
