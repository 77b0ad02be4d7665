//! Whole blobs that may have rotted on the disk are hashed again, and dropped if they have.
//!
//! Nobody here sees the bytes that go from the disk to a client. What shows that they are wrong is
//! that the client, whose digest fails, asks for them again, and that it does so for ever; or that
//! they cannot be read. So what is sent twice within [`limits::RECHECK_WITHIN`] is looked at, in
//! the background and once: whoever asks for it the third time gets it from elsewhere.
//!
//! Not here: pieces that peers get, which have their hashes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::{Receiver, Sender, mailbox};
use crate::base::ranked::{Rank, Ranked};
use crate::base::thread::{self, Role};
use crate::fetch::Fetcher;
use crate::limits;
use crate::proto::blob::BlobName;
use crate::store::{Blob, StoreError};

/// Where readers of the store say what they have sent.
pub(super) struct Recheck {
    sent: Ranked<Sent>,
    /// `None`: the program stops.
    to_check: Sender<Option<BlobName>>,
}

impl Recheck {
    /// With what is to be checked.
    pub(super) fn new() -> (Arc<Recheck>, Receiver<Option<BlobName>>) {
        let (to_check, asked) = mailbox(limits::RECHECK_QUEUE_MAX);
        let sent = Ranked::new(Rank::Leaf, Sent::default());
        (Arc::new(Recheck { sent, to_check }), asked)
    }

    /// All that was asked for of a blob, from the byte `from` on, was sent.
    pub(super) fn was_sent(&self, name: BlobName, from: u64) {
        let is_suspect = self.sent.lock().again(Time::now(), name, from);
        if is_suspect {
            self.is_suspect(name);
        }
    }

    /// Has a blob looked at; of too many, it is the turn of the next that is asked for again.
    pub(super) fn is_suspect(&self, name: BlobName) {
        let _ = self.to_check.try_send(Some(name));
    }

    /// Wakes the thread that checks, so that it sees that the program stops.
    pub(super) fn stop(&self) {
        let _ = self.to_check.try_send(None);
    }
}

/// What was sent lately. Pure.
#[derive(Default)]
struct Sent {
    /// By the blob and the first byte: when it was sent last.
    parts: HashMap<(BlobName, u64), Time>,
    /// When a blob was found suspect last.
    suspects: HashMap<BlobName, Time>,
}

impl Sent {
    /// Takes note, and says whether the blob is to be looked at.
    fn again(&mut self, now: Time, name: BlobName, from: u64) -> bool {
        let is_recent = |at: &Time| now.since(*at) < limits::RECHECK_WITHIN;
        if self.parts.len() >= limits::RECHECK_SENT_MAX {
            self.parts.clear();
            self.suspects.retain(|_, at| is_recent(&*at));
        }
        let before = self.parts.insert((name, from), now);
        let is_suspect = before.as_ref().is_some_and(is_recent)
            && !self.suspects.get(&name).is_some_and(is_recent);
        if is_suspect {
            self.suspects.insert(name, now);
        }
        is_suspect
    }
}

/// Starts the thread that checks until the program stops.
pub(super) fn start(fetcher: &Arc<Fetcher>, asked: Receiver<Option<BlobName>>) {
    let worker = Arc::clone(fetcher);
    let spawned = thread::spawn("recheck", Role::Connection, move || {
        thread::give_way(limits::BACKGROUND_NICE);
        while let Ok(Some(name)) = asked.recv()
            && !worker.is_stopping()
        {
            check(&worker, &name);
        }
    });
    match spawned {
        Ok(handle) => fetcher.keep(handle),
        Err(error) => log::warn!("blobs are not looked at again: {error}"),
    }
}

/// Drops the blob if the disk does not give what it was given.
fn check(fetcher: &Fetcher, name: &BlobName) {
    let Some(blob) = fetcher.store().blob(name) else { return };
    let why = match is_right(fetcher, &blob) {
        Ok(true) => return log::debug!("blob {name} is as it was"),
        Ok(false) => {
            figures::STORE_ERRORS.add(1);
            "its bytes have changed".to_owned()
        }
        Err(error) => error.to_string(),
    };
    log::error!("blob {name} is damaged on disk and dropped: {why}");
    drop(blob);
    fetcher.store().release(name);
    if let Err(error) = fetcher.store().remove(name) {
        crate::log_limited!(warn, "{error}");
    }
}

/// Whether each piece has its hash, as far as it was looked at when the program stopped.
fn is_right(fetcher: &Fetcher, blob: &Blob) -> Result<bool, StoreError> {
    let metainfo = blob.metainfo()?;
    let geometry = metainfo.geometry();
    let mut buf = Vec::new();
    for piece in geometry.pieces() {
        if fetcher.is_stopping() {
            break;
        }
        buf.resize(geometry.len_of(piece) as usize, 0);
        blob.read_at(&mut buf, geometry.span(piece).offset)?;
        if Sha1Hash::of(&buf) != metainfo.piece_hash(piece) {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(digit: char) -> BlobName {
        BlobName::parse(&format!("sha256:{}", digit.to_string().repeat(64))).unwrap()
    }

    #[test]
    fn what_is_sent_again_soon_is_suspect_once() {
        let mut sent = Sent::default();
        let within = limits::RECHECK_WITHIN;
        assert!(!sent.again(Time::ZERO, name('1'), 0));
        assert!(!sent.again(Time::ZERO, name('2'), 0), "another blob");
        assert!(!sent.again(Time::ZERO, name('1'), 7), "another part of it");
        assert!(sent.again(Time::ZERO + within / 2, name('1'), 0));
        assert!(!sent.again(Time::ZERO + within / 2, name('1'), 0), "it was found so already");
        assert!(!sent.again(Time::ZERO + within / 2, name('1'), 7), "as a whole");
        assert!(!sent.again(Time::ZERO + within, name('2'), 0), "too long ago");
        assert!(sent.again(Time::ZERO + within + within / 4, name('2'), 0));
        let later = Time::ZERO + within * 3;
        assert!(!sent.again(later, name('1'), 0) && sent.again(later, name('1'), 0));
    }

    #[test]
    fn memory_is_bounded() {
        let mut sent = Sent::default();
        for from in 0..3 * limits::RECHECK_SENT_MAX as u64 {
            sent.again(Time::ZERO, name('1'), from);
        }
        assert!(sent.parts.len() <= limits::RECHECK_SENT_MAX);
    }
}
