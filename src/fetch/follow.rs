//! The follower of a job: reads the partial as it becomes readable, and judges it.
//!
//! It reads back what was written, from the page cache, on its own thread: the sources only write,
//! and what is judged is what is on disk.
//!
//! Not here: what follows from the verdict (`job`), and the hashes of the pieces (`pieces`).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::hash::{Algorithm, ContentHasher};
use crate::fetch::judge::{self, Judge};
use crate::fetch::room::Room;
use crate::limits;
use crate::proto::blob::{BlobName, Digest};
use crate::proto::geometry::Span;
use crate::proto::ostree::layout::Layout;
use crate::store::{Feed, Partial, StoreError, Wait};

/// What the follower found when it had seen every byte.
#[derive(Debug)]
pub enum Verdict {
    /// The digest is the name's.
    Right,
    /// It is not.
    Wrong,
    /// The partial cannot be read back.
    Unreadable(StoreError),
}

/// Follows `partial` to its end and judges it, and tells its feed what of the bytes is right. The
/// files of a delta lie as `layout` says. A part of a delta that is wrong is taken back and
/// `taken_back` told, so that it is fetched again; without it, the whole is wrong. Superblocks are
/// judged where there is `room` for them. `None`: the feed failed first, and somebody else has said
/// why.
#[must_use]
pub fn follow(
    name: &BlobName,
    partial: &Arc<Partial>,
    layout: Option<&Layout>,
    taken_back: Option<&dyn Fn()>,
    room: &Arc<Room>,
) -> Option<Verdict> {
    let verdict = match layout {
        None => judge_blob(name, partial),
        Some(layout) => Delta::new(name, layout).judge(partial, room, taken_back),
    };
    verdict.unwrap_or_else(|error| Some(Verdict::Unreadable(error)))
}

/// Judges a blob that is one file.
fn judge_blob(name: &BlobName, partial: &Arc<Partial>) -> Result<Option<Verdict>, StoreError> {
    let mut judge = Judge::new(name, None);
    let mut buf = vec![0; limits::COPY_LEN];
    let mut at = 0;
    while partial.len() != Some(at) {
        let end = match partial.feed().wait(at, Time::now() + limits::READER_PATIENCE) {
            Wait::Ready { end } => end,
            Wait::TimedOut => continue,
            Wait::Whole | Wait::Failed(_) => return Ok(None),
        };
        while at < end {
            let part = read_part(partial, &mut buf, at, end)?;
            judge.update(part)?;
            at += part.len() as u64;
        }
    }
    Ok(Some(if judge.ends_right() { Verdict::Right } else { Verdict::Wrong }))
}

/// The files of a delta, each judged as it comes: libostree asks for them in no order, two at a
/// time, and a part that is here is not to wait for those before it.
struct Delta<'a> {
    layout: &'a Layout,
    /// What the files must hash to: the superblock and, once that is right, the parts.
    digests: Vec<Digest>,
    /// The files that are to be judged, as far as that is known.
    open: BTreeMap<usize, Open>,
    /// How often a part was wrong.
    wrong: HashMap<usize, u32>,
}

/// A file of which some was hashed.
struct Open {
    hasher: ContentHasher,
    at: u64,
}

impl Open {
    fn at(offset: u64) -> Open {
        Open { hasher: ContentHasher::new(Algorithm::Sha256), at: offset }
    }
}

impl<'a> Delta<'a> {
    fn new(name: &BlobName, layout: &'a Layout) -> Delta<'a> {
        let open = BTreeMap::from([(0, Open::at(0))]);
        Delta { layout, digests: vec![name.digest()], open, wrong: HashMap::new() }
    }

    fn judge(
        mut self,
        partial: &Arc<Partial>,
        room: &Arc<Room>,
        taken_back: Option<&dyn Fn()>,
    ) -> Result<Option<Verdict>, StoreError> {
        let feed = partial.feed();
        let mut buf = vec![0; limits::COPY_LEN];
        while !self.open.is_empty() {
            // Before the look: what is marked after it wakes.
            let seen = feed.marks();
            let Some((index, end)) = self.next(feed) else {
                if !feed.wait_marked(seen, Time::now() + limits::READER_PATIENCE) {
                    return Ok(None);
                }
                continue;
            };
            let Some(is_right) = self.hash(partial, &mut buf, index, end)? else { continue };
            let file = self.layout.span(index).unwrap_or(Span { offset: 0, len: 0 });
            match is_right {
                true if index == 0 && !self.open_parts(partial, room)? => {
                    return Ok(Some(Verdict::Wrong));
                }
                true => feed.prove(file),
                false => {
                    let times = self.wrong.entry(index).or_default();
                    *times += 1;
                    let again = index > 0 && *times < limits::PART_TRIES_MAX;
                    let Some(taken_back) = taken_back.filter(|_| again) else {
                        return Ok(Some(Verdict::Wrong));
                    };
                    self.open.insert(index, Open::at(file.offset));
                    feed.retract(file);
                    taken_back();
                }
            }
        }
        Ok(Some(Verdict::Right))
    }

    /// A file of which more can be hashed, and up to which byte: one that a reader waits for, or
    /// the first.
    fn next(&self, feed: &Feed) -> Option<(usize, u64)> {
        let more = |index: usize| {
            let at = self.open.get(&index)?.at;
            let end = feed.readable_from(at).min(self.layout.span(index)?.end());
            (end > at).then_some((index, end))
        };
        let awaited = feed.readers().into_iter().filter_map(|at| self.layout.file_at(at));
        let awaited = awaited.filter_map(more).next();
        awaited.or_else(|| self.open.keys().copied().find_map(more))
    }

    /// Hashes a file up to the byte before `end`. At its end it is no longer open, and this says
    /// whether it is right.
    fn hash(
        &mut self,
        partial: &Partial,
        buf: &mut [u8],
        index: usize,
        end: u64,
    ) -> Result<Option<bool>, StoreError> {
        let Some(file) = self.open.get_mut(&index) else { return Ok(None) };
        while file.at < end {
            let part = read_part(partial, buf, file.at, end)?;
            file.hasher.update(part);
            file.at += part.len() as u64;
        }
        if self.layout.span(index).is_none_or(|span| span.end() != end) {
            return Ok(None);
        }
        let hash = self.open.remove(&index).map(|file| file.hasher.finish());
        let digest = self.digests.get(index).map(Digest::value);
        Ok(Some(hash.is_some() && hash.as_deref() == digest))
    }

    /// Learns from the superblock, which is right, what the parts must hash to. `false`: they do
    /// not lie as they should.
    fn open_parts(&mut self, partial: &Partial, room: &Arc<Room>) -> Result<bool, StoreError> {
        let len = self.layout.lens().next().unwrap_or(0);
        if len > limits::SUPERBLOCK_LEN_MAX {
            return Ok(false);
        }
        let superblock = room.load(len, |buf| partial.read_at(buf, 0))?;
        let Some(parts) = judge::parts(&superblock, self.layout) else { return Ok(false) };
        self.digests.extend(parts);
        let offsets = (1..self.layout.files())
            .filter_map(|index| self.layout.span(index).map(|span| (index, Open::at(span.offset))));
        self.open.extend(offsets);
        Ok(true)
    }
}

/// Reads what of the bytes from `at` to `end` fits into `buf`.
///
/// # Errors
/// If the disk fails.
pub(super) fn read_part<'a>(
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
