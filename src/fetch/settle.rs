//! Makes blobs durable when nothing is fetched.
//!
//! Doing it at once would make the rest of the pull wait: on ext4 a sync of one file holds up
//! whoever writes to another, here and in the program that unpacks the image.

use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::mailbox::Receiver;
use crate::base::thread::{self, Role};
use crate::fetch::Fetcher;
use crate::limits;
use crate::log_limited;

/// Starts the thread that does it until the program stops. It is woken through `sealed`.
pub(super) fn start(fetcher: &Arc<Fetcher>, sealed: Receiver<()>) {
    let worker = Arc::clone(fetcher);
    let spawned = thread::spawn("settle", Role::Connection, move || {
        while sealed.recv().is_ok() && await_quiet(&worker) {
            settle(&worker);
        }
    });
    match spawned {
        Ok(handle) => fetcher.keep(handle),
        Err(error) => log::warn!("blobs are synced only when the program stops: {error}"),
    }
}

/// Waits until nothing is fetched, or until that took too long; `false`: the program stops.
fn await_quiet(fetcher: &Fetcher) -> bool {
    loop {
        if fetcher.stop.wait_for(limits::SETTLE_LOOK) {
            return false;
        }
        let unsettled = fetcher.store().unsettled();
        let is_due =
            unsettled.is_none_or(|blobs| blobs.since + limits::SETTLE_AFTER <= Time::now());
        if is_due || fetcher.jobs.lock().is_empty() {
            return true;
        }
    }
}

/// A blob was sealed: it is made durable later, or at once if there are many.
pub(super) fn sealed(fetcher: &Fetcher) {
    let _ = fetcher.to_settle.try_send(());
    let unsettled = fetcher.store().unsettled();
    if unsettled.is_some_and(|blobs| blobs.count >= limits::SETTLE_BLOBS_MAX) {
        settle(fetcher);
    }
}

/// Makes durable what is not.
pub(super) fn settle(fetcher: &Fetcher) {
    if let Err(error) = fetcher.store().settle() {
        log_limited!(warn, "a blob is not kept: {error}");
    }
}
