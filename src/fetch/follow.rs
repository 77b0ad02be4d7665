//! The follower of a job: reads the partial in order, as it becomes readable, and judges it.
//!
//! It reads back what was written, from the page cache, on its own thread: the sources only write,
//! and what is judged is what is on disk.
//!
//! Not here: what follows from the verdict (`job`), and the hashes of the pieces (`pieces`).

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::fetch::judge::{Files, Judge, Progress};
use crate::fetch::room::Room;
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::ostree::layout::Layout;
use crate::store::{Partial, StoreError, Wait};

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

/// Follows `partial` to its end and judges it, and tells its feed how far the bytes are right. The
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
    let len = layout.and_then(|layout| layout.lens().next()).unwrap_or(0);
    let superblock = || room.load(len, |buf| partial.read_at(buf, 0));
    let files = layout.map(|layout| Files { layout, superblock: &superblock });
    match judge(Judge::new(name, files), partial, taken_back) {
        Ok(verdict) => verdict,
        Err(error) => Some(Verdict::Unreadable(error)),
    }
}

fn judge(
    mut judge: Judge<'_>,
    partial: &Arc<Partial>,
    taken_back: Option<&dyn Fn()>,
) -> Result<Option<Verdict>, StoreError> {
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
                    at = file.offset;
                    partial.feed().retract(file);
                    taken_back();
                    break;
                }
            }
        }
    }
    Ok(Some(if judge.ends_right() { Verdict::Right } else { Verdict::Wrong }))
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
