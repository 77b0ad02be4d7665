//! After a start: blobs of earlier runs that the catalog does not know are published again.
//!
//! What had not been published when the program ended, and what an etcd lost with its disk, is
//! shared again without anybody asking for it. Slow on purpose: nobody waits for it.

use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::thread::{self, Role};
use crate::fetch::Fetcher;
use crate::limits;
use crate::store::SeedEntry;

/// Starts the thread that does it and ends with the list.
pub(super) fn start(fetcher: &Arc<Fetcher>, seeds: Vec<SeedEntry>) {
    if seeds.is_empty() {
        return;
    }
    let worker = Arc::clone(fetcher);
    let spawned = thread::spawn("republish", Role::Connection, move || {
        for seed in seeds {
            if !republish(&worker, &seed) {
                return;
            }
        }
    });
    match spawned {
        Ok(handle) => fetcher.keep(handle),
        Err(error) => log::warn!("blobs of earlier runs are not published again: {error}"),
    }
}

/// Asks until the catalog answers; false: the program stops.
fn republish(fetcher: &Fetcher, seed: &SeedEntry) -> bool {
    loop {
        let deadline = Time::now() + limits::CATALOG_CALL;
        match fetcher.catalog().lookup(&seed.name, deadline) {
            Ok(Some(_)) => break,
            Ok(None) => {
                let blob = fetcher.store().blob(&seed.name);
                if let Some(metainfo) = blob.and_then(|blob| blob.metainfo().ok()) {
                    fetcher.introduce(seed, Arc::new(metainfo));
                }
                break;
            }
            Err(_) if fetcher.stop.wait_for(limits::REPUBLISH_PAUSE) => return false,
            Err(_) => {}
        }
    }
    !fetcher.stop.wait_for(limits::REPUBLISH_PACE)
}
