//! The follower of a job: reads the partial as it becomes readable, and judges it.
//!
//! It reads back what was written, from the page cache, on its own thread: the sources only write,
//! and what is judged is what is on disk.
//!
//! Not here: what follows from the verdict (`job`), and the hashes of the pieces (`pieces`).

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::hash::ContentHasher;
use crate::fetch::judge::Judge;
use crate::fetch::room::Room;
use crate::limits;
use crate::proto::blob::BlobName;
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
        Some(layout) => {
            let len = layout.lens().next().unwrap_or(0);
            let superblock = || room.load(len, |buf| partial.read_at(buf, 0));
            judge_delta(Judge::new(name, layout, &superblock), layout, partial, taken_back)
        }
    };
    verdict.unwrap_or_else(|error| Some(Verdict::Unreadable(error)))
}

/// Judges a blob that is one file.
fn judge_blob(name: &BlobName, partial: &Arc<Partial>) -> Result<Option<Verdict>, StoreError> {
    let digest = name.digest();
    let mut hasher = ContentHasher::new(digest.algorithm());
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
            hasher.update(part);
            at += part.len() as u64;
        }
    }
    let is_right = hasher.finish() == digest.value();
    Ok(Some(if is_right { Verdict::Right } else { Verdict::Wrong }))
}

/// Judges the files of a delta, each as it comes: libostree asks for them in no order, two at a
/// time, and a part that is here is not to wait for those before it.
fn judge_delta(
    mut judge: Judge<'_>,
    layout: &Layout,
    partial: &Arc<Partial>,
    taken_back: Option<&dyn Fn()>,
) -> Result<Option<Verdict>, StoreError> {
    let feed = partial.feed();
    let mut buf = vec![0; limits::COPY_LEN];
    // How often a part was wrong.
    let mut wrong: HashMap<usize, u32> = HashMap::new();
    while !judge.is_done() {
        // Before the look: what is marked after it wakes.
        let seen = feed.marks();
        let Some((index, at, end)) = next(&judge, layout, feed) else {
            if !feed.wait_marked(seen, Time::now() + limits::READER_PATIENCE) {
                return Ok(None);
            }
            continue;
        };
        let part = read_part(partial, &mut buf, at, end)?;
        let Some(is_right) = judge.update(index, part)? else { continue };
        let Some(file) = layout.span(index) else { continue };
        if is_right {
            feed.prove(file);
            continue;
        }
        let times = wrong.entry(index).or_default();
        *times += 1;
        let again = index > 0 && *times < limits::PART_TRIES_MAX;
        let Some(taken_back) = taken_back.filter(|_| again) else {
            return Ok(Some(Verdict::Wrong));
        };
        judge.begin_again(index);
        feed.retract(file);
        taken_back();
    }
    Ok(Some(Verdict::Right))
}

/// A file of which more can be hashed, from which byte on and up to which: one that a reader waits
/// for, or the first.
fn next(judge: &Judge<'_>, layout: &Layout, feed: &Feed) -> Option<(usize, u64, u64)> {
    let more = |index: usize| {
        let at = judge.at(index)?;
        let end = feed.readable_from(at).min(layout.span(index)?.end());
        (end > at).then_some((index, at, end))
    };
    let awaited = feed.readers().into_iter().filter_map(|at| layout.file_at(at));
    let awaited = awaited.filter_map(more).next();
    awaited.or_else(|| judge.open().find_map(more))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::sha256;
    use crate::proto::blob::Digest;
    use crate::proto::geometry::Span;
    use crate::store::{Max, Store, StoreConfig};

    #[test]
    fn a_blob_is_judged_at_its_end() {
        let name = BlobName::Content(Digest::Sha256(sha256(b"abc")));
        for (bytes, right) in [(&b"abc"[..], true), (b"abd", false), (b"ab", false)] {
            let dir = tempfile::tempdir().unwrap();
            let config = StoreConfig { root: dir.path().to_owned(), max: Max::None };
            let store = Store::open(config).unwrap();
            let partial = store.begin(&name, Some(bytes.len() as u64)).unwrap();
            for (at, byte) in bytes.iter().enumerate() {
                partial.write(at as u64, &[&[*byte]]).unwrap();
                partial.feed().mark(Span { offset: at as u64, len: 1 });
            }
            let verdict = follow(&name, &partial, None, None, &Room::new(0));
            assert_eq!(matches!(verdict, Some(Verdict::Right)), right, "{bytes:?}");
            assert_eq!(matches!(verdict, Some(Verdict::Wrong)), !right, "{bytes:?}");
        }
    }
}
