//! The follower of a job: reads the partial in order, as it becomes readable, and hashes it.
//!
//! It reads back what was written, from the page cache, on its own thread: the sources only write,
//! and what is judged is what is on disk.
//!
//! Not here: what follows from the verdict (`job`).

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::hash::{Sha1, Sha1Hash};
use crate::fetch::judge::{Files, Judge, Progress};
use crate::fetch::room::Room;
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::geometry::Geometry;
use crate::proto::ostree::layout::Layout;
use crate::store::{Partial, StoreError, Wait};

/// What the follower found when it had seen every byte.
#[derive(Debug)]
pub enum Verdict {
    /// The digest is the name's. The hashes of the pieces, if they were asked for.
    Right(Vec<Sha1Hash>),
    /// It is not.
    Wrong,
    /// The partial cannot be read back.
    Unreadable(StoreError),
}

/// Follows `partial` to its end and judges it, and tells its feed how far the bytes are right. The
/// files of a delta lie as `layout` says. With `hash_pieces`, makes the hashes of the pieces as
/// well. A part of a delta that is wrong is taken back and `taken_back` told, so that it is fetched
/// again; without it, the whole is wrong. Superblocks are judged where there is `room` for them.
/// `None`: the feed failed first, and somebody else has said why.
#[must_use]
pub fn follow(
    name: &BlobName,
    partial: &Arc<Partial>,
    layout: Option<&Layout>,
    hash_pieces: bool,
    taken_back: Option<&dyn Fn()>,
    room: &Arc<Room>,
) -> Option<Verdict> {
    let len = layout.and_then(|layout| layout.lens().next()).unwrap_or(0);
    let superblock = || room.load(len, |buf| partial.read_at(buf, 0));
    let files = layout.map(|layout| Files { layout, superblock: &superblock });
    match judge(Judge::new(name, files), partial, hash_pieces, taken_back) {
        Ok(verdict) => verdict,
        Err(error) => Some(Verdict::Unreadable(error)),
    }
}

fn judge(
    mut judge: Judge<'_>,
    partial: &Arc<Partial>,
    hash_pieces: bool,
    taken_back: Option<&dyn Fn()>,
) -> Result<Option<Verdict>, StoreError> {
    // Without a length there is no geometry yet: then the pieces are hashed in a second pass.
    let mut pieces = partial.len().filter(|_| hash_pieces).and_then(Pieces::new);
    let mut buf = vec![0; limits::COPY_LEN];
    let mut at = 0;
    let mut wrong: HashMap<u64, u32> = HashMap::new();
    loop {
        if partial.len() == Some(at) {
            break;
        }
        let end = match partial.feed().wait(at, Time::now() + limits::READER_PATIENCE) {
            Wait::Ready { end } => end,
            Wait::TimedOut => continue,
            Wait::Whole | Wait::Failed(_) => return Ok(None),
        };
        while at < end {
            let part = read_part(partial, &mut buf, at, end)?;
            if let Some(pieces) = &mut pieces {
                pieces.update(part);
            }
            at += part.len() as u64;
            match judge.update(part)? {
                Progress::Same => {}
                Progress::Proven(proven) => partial.feed().prove(proven),
                Progress::Wrong(file) => {
                    let times = wrong.entry(file.offset).or_default();
                    *times += 1;
                    let Some(taken_back) =
                        taken_back.filter(|_| file.offset > 0 && *times < limits::PART_TRIES_MAX)
                    else {
                        return Ok(Some(Verdict::Wrong));
                    };
                    judge.begin_file_again();
                    // They have seen the wrong bytes too: hashed in a second pass.
                    pieces = None;
                    at = file.offset;
                    partial.feed().retract(file);
                    taken_back();
                    break;
                }
            }
        }
    }
    if !judge.ends_right() {
        return Ok(Some(Verdict::Wrong));
    }
    let hashes = match pieces {
        Some(pieces) => pieces.finish(),
        None if hash_pieces => hash_again(partial, &mut buf, at)?,
        None => Vec::new(),
    };
    Ok(Some(Verdict::Right(hashes)))
}

fn read_part<'a>(
    partial: &Partial,
    buf: &'a mut [u8],
    at: u64,
    end: u64,
) -> Result<&'a [u8], StoreError> {
    let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
    let part = &mut buf[..len];
    partial.read_at(part, at)?;
    Ok(part)
}

fn hash_again(partial: &Partial, buf: &mut [u8], len: u64) -> Result<Vec<Sha1Hash>, StoreError> {
    let Some(mut pieces) = Pieces::new(len) else { return Ok(Vec::new()) };
    let mut at = 0;
    while at < len {
        let part = read_part(partial, buf, at, len)?;
        pieces.update(part);
        at += part.len() as u64;
    }
    Ok(pieces.finish())
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
