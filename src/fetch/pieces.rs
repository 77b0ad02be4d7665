//! The hashes of the pieces of a blob that comes without any, from upstream.
//!
//! No reader waits for them: they are for the metainfo, under which the blob is kept and passed on.
//! So they are made beside the digest, on a thread that gives way to those that readers wait for.
//!
//! **Invariant:** into the metainfo of a static delta go only bytes that are known to be right,
//! since a part that is wrong comes again. Its early swarm is told before that ([`each`]), and left
//! then.

use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::hash::{Sha1, Sha1Hash};
use crate::fetch::follow::read_part;
use crate::limits;
use crate::proto::bitfield::Pieces as PieceSet;
use crate::proto::geometry::{Geometry, PieceIndex, Span};
use crate::store::{Partial, StoreError, Wait};

/// Follows `partial` to its end and hashes its pieces. After each, `tell` gets the hashes of all so
/// far. `is_delta`: no byte is taken before the feed says that it is right. `None`: the feed failed
/// first, or `is_stopping` said so.
///
/// # Errors
/// If the disk fails.
pub(super) fn follow(
    partial: &Arc<Partial>,
    is_delta: bool,
    is_stopping: &dyn Fn() -> bool,
    tell: &mut dyn FnMut(&[Sha1Hash]),
) -> Result<Option<Vec<Sha1Hash>>, StoreError> {
    let Some(len) = wait_for_len(partial) else { return Ok(None) };
    let Some(mut pieces) = Pieces::new(len) else { return Ok(Some(Vec::new())) };
    let mut buf = vec![0; limits::COPY_LEN];
    let mut at = 0;
    while at < len {
        let Some(end) = wait_for_byte(partial, at, is_delta) else { return Ok(None) };
        while at < end {
            if is_stopping() {
                return Ok(None);
            }
            let part = read_part(partial, &mut buf, at, end)?;
            let known = pieces.hashes.len();
            pieces.update(part);
            if pieces.hashes.len() > known {
                tell(&pieces.hashes);
            }
            at += part.len() as u64;
        }
    }
    let hashes = pieces.finish();
    tell(&hashes);
    Ok(Some(hashes))
}

/// Tells the hash of each piece of `partial` as soon as all of it is readable, in whatever order
/// they come, until the feed ends or `is_stopping` says so. The length is known.
///
/// # Errors
/// If the disk fails.
pub(super) fn each(
    partial: &Partial,
    is_stopping: &dyn Fn() -> bool,
    tell: &dyn Fn(PieceIndex, Sha1Hash),
) -> Result<(), StoreError> {
    let Some(Ok(geometry)) = partial.len().map(Geometry::for_blob) else { return Ok(()) };
    let feed = partial.feed();
    let mut told = PieceSet::none(geometry);
    let mut buf = Vec::new();
    while !told.is_full() && !is_stopping() {
        let seen = feed.marks();
        let is_here = |piece: &PieceIndex| feed.is_readable(geometry.span(*piece));
        for piece in told.missing().filter(is_here).collect::<Vec<_>>() {
            buf.resize(geometry.len_of(piece) as usize, 0);
            partial.read_at(&mut buf, geometry.span(piece).offset)?;
            tell(piece, Sha1Hash::of(&buf));
            told.insert(piece);
        }
        if !feed.wait_marked(seen, Time::now() + limits::READER_PATIENCE) {
            return Ok(());
        }
    }
    Ok(())
}

/// The length of the blob, on which that of the pieces depends. If it is not known from the start,
/// it is when the blob is whole.
fn wait_for_len(partial: &Partial) -> Option<u64> {
    /// No byte of a blob.
    const NOWHERE: u64 = u64::MAX;
    while partial.len().is_none() {
        match partial.feed().wait(NOWHERE, Time::now() + limits::READER_PATIENCE) {
            Wait::Failed(_) => return None,
            Wait::Whole | Wait::TimedOut | Wait::Ready { .. } => {}
        }
    }
    partial.len()
}

/// Waits for the byte at `at` and says where the bytes end that can be taken from there; `None`: it
/// will not come.
fn wait_for_byte(partial: &Partial, at: u64, is_delta: bool) -> Option<u64> {
    let feed = partial.feed();
    loop {
        let deadline = Time::now() + limits::READER_PATIENCE;
        let next = Span { offset: at, len: 1 };
        let wait =
            if is_delta { feed.wait_proven(next, deadline) } else { feed.wait(at, deadline) };
        match wait {
            Wait::Ready { end } => return Some(end),
            Wait::Whole => return partial.len(),
            Wait::Failed(_) => return None,
            Wait::TimedOut => {}
        }
    }
}

/// SHA-1 of each piece of our own geometry, over bytes that come in order.
pub(super) struct Pieces {
    piece_len: usize,
    filled: usize,
    hasher: Sha1,
    hashes: Vec<Sha1Hash>,
}

impl Pieces {
    /// `None`: a blob of this length has no pieces.
    pub(super) fn new(blob_len: u64) -> Option<Pieces> {
        let geometry = Geometry::for_blob(blob_len).ok()?;
        Some(Pieces {
            piece_len: geometry.piece_len() as usize,
            filled: 0,
            hasher: Sha1::default(),
            hashes: Vec::with_capacity(geometry.piece_count() as usize),
        })
    }

    /// Takes the next bytes.
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (part, rest) = bytes.split_at(bytes.len().min(self.piece_len - self.filled));
            self.hasher.update(part);
            self.filled += part.len();
            if self.filled == self.piece_len {
                self.hashes.push(self.hasher.finish());
                self.filled = 0;
            }
            bytes = rest;
        }
    }

    /// The hashes of all that came.
    pub(super) fn finish(mut self) -> Vec<Sha1Hash> {
        if self.filled > 0 {
            self.hashes.push(self.hasher.finish());
        }
        self.hashes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_hash_the_same_however_the_bytes_are_cut() {
        let blob: Vec<u8> = (0..600_000u32).flat_map(u32::to_le_bytes).collect();
        let geometry = Geometry::for_blob(blob.len() as u64).unwrap();
        let wanted: Vec<Sha1Hash> =
            blob.chunks(geometry.piece_len() as usize).map(Sha1Hash::of).collect();
        for step in [1 << 10, 1 << 18, (1 << 18) + 1, blob.len()] {
            let mut pieces = Pieces::new(blob.len() as u64).unwrap();
            blob.chunks(step).for_each(|part| pieces.update(part));
            assert_eq!(pieces.finish(), wanted, "cut every {step}");
        }
    }
}
