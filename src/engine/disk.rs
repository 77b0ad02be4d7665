//! The disk threads: a piece is hashed in memory, then written, then readable, then the engine
//! knows.
//!
//! **Invariant:** no unverified byte reaches the disk, none is readable before it is there, and
//! what is readable is not written again.

use std::io;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::hash::{Sha1, Sha1Hash};
use crate::base::mailbox::{Receiver, Sender};
use crate::base::metrics::Held;
use crate::base::thread::{self, Handle, Role};
use crate::engine::inbox::{Event, MemberId};
use crate::engine::pool::Buffer;
use crate::limits::{BLOCK_LEN, DISK_PATIENCE, DISK_THREADS};
use crate::proto::geometry::{PieceIndex, Span};
use crate::store::Partial;

/// What a disk thread is to do.
pub(super) enum Job {
    /// Hash a piece and write it.
    Finish(Piece),
    /// Let go of a partial: the last one to do so deletes the file, which takes time.
    LetGo(Arc<Partial>),
}

/// A piece whose blocks are all here.
pub(super) struct Piece {
    pub(super) member: MemberId,
    pub(super) piece: PieceIndex,
    /// Where it lies in the blob.
    pub(super) span: Span,
    /// What its bytes must hash to.
    pub(super) hash: Sha1Hash,
    /// Whether what its units hash to is wanted even if it is right.
    pub(super) proof: bool,
    /// Its bytes, in order.
    pub(super) blocks: Vec<Buffer>,
    pub(super) partial: Arc<Partial>,
    /// Counts the job as long as it is not done.
    pub(super) queued: Held,
}

/// Starts the threads. They end when the last sender of `jobs` is gone.
///
/// # Errors
/// If the system refuses a thread.
pub(super) fn start(jobs: &Receiver<Job>, inbox: &Sender<Event>) -> io::Result<Vec<Handle>> {
    (0..DISK_THREADS)
        .map(|number| {
            let (jobs, inbox) = (jobs.clone(), inbox.clone());
            thread::spawn(format!("engine-disk-{number}"), Role::Core, move || {
                while let Ok(job) = jobs.recv() {
                    match job {
                        Job::Finish(piece) => drop(inbox.send(finish(piece))),
                        Job::LetGo(partial) => drop(partial),
                    }
                }
            })
        })
        .collect()
}

/// Hashes a piece and, if it is right, writes it; what the engine is to know of it.
fn finish(piece: Piece) -> Event {
    let Piece { member, piece, span, hash, proof, blocks, partial, queued: _queued } = piece;
    let mut hasher = Sha1::default();
    blocks.iter().for_each(|block| hasher.update(block));
    if hasher.finish() != hash {
        return Event::Corrupt(member, piece, units_of(&blocks));
    }
    let bytes: Vec<&[u8]> = blocks.iter().map(|block| &**block).collect();
    let written = match partial.write_missing(span.offset, &bytes) {
        Ok(written) => written,
        Err(error) => return Event::DiskFailed(member, error.to_string()),
    };
    // What a stream from upstream is writing just now is a call of the kernel away.
    if !partial.feed().wait_readable(span, Time::now() + DISK_PATIENCE) {
        return Event::DiskFailed(member, "the blob has failed".to_owned());
    }
    let units = if proof { units_of(&blocks) } else { Vec::new() };
    Event::Stored(member, piece, (written == span.len).then_some(hash), units)
}

/// What each 16 KiB of a piece hash to, and the rest at its end. Blocks begin on them.
fn units_of(blocks: &[Buffer]) -> Vec<Sha1Hash> {
    blocks.iter().flat_map(|block| block.chunks(BLOCK_LEN as usize)).map(Sha1Hash::of).collect()
}
