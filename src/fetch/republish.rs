//! Blobs of this host that the catalog does not know are published again, and which objects of
//! OSTree they are: after a start, and when the catalog turns out to have forgotten them.
//!
//! What had not been published when the program ended, and what an etcd lost with its disk, is
//! shared again without anybody asking for it. Slow on purpose: nobody waits for it, and every host
//! of the network does the same.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::rng::Rng;
use crate::base::thread::{self, Role};
use crate::catalog::CatalogError;
use crate::fetch::Fetcher;
use crate::limits;
use crate::store::SeedEntry;

/// Starts the thread that does it until the program stops.
pub(super) fn start(fetcher: &Arc<Fetcher>, seeds: Vec<SeedEntry>) {
    let worker = Arc::clone(fetcher);
    let spawned = thread::spawn("republish", Role::Connection, move || {
        // `None`: the program stops.
        let _ = run(&worker, seeds);
    });
    match spawned {
        Ok(handle) => fetcher.keep(handle),
        Err(error) => log::warn!("blobs of earlier runs are not published again: {error}"),
    }
}

fn run(fetcher: &Fetcher, seeds: Vec<SeedEntry>) -> Option<()> {
    publish_missing(fetcher, &seeds, limits::REPUBLISH_PACE)?;
    publish_missing_objects(fetcher, limits::REPUBLISH_PACE)?;
    let mut rng = Rng::from_os();
    loop {
        wait(fetcher, jittered(limits::REPUBLISH_LOOK, &mut rng))?;
        let seeds = fetcher.store().shared();
        if seeds.is_empty() || !is_forgotten(fetcher, &seeds[rng.index(seeds.len())])? {
            continue;
        }
        log::info!("the catalog has forgotten blobs of this host: they are published again");
        publish_missing(fetcher, &seeds, limits::REPUBLISH_PACE_AGAIN)?;
        publish_missing_objects(fetcher, limits::REPUBLISH_PACE_AGAIN)?;
        wait(fetcher, limits::REPUBLISH_AGAIN)?;
    }
}

/// Whether the catalog answers, twice, that it does not know a blob that is here. Once may mean
/// that it was not told yet.
fn is_forgotten(fetcher: &Fetcher, seed: &SeedEntry) -> Option<bool> {
    let is_unknown = || matches!(is_known(fetcher, seed), Ok(false));
    if !is_unknown() {
        return Some(false);
    }
    wait(fetcher, limits::REPUBLISH_PAUSE)?;
    Some(is_unknown() && fetcher.store().metainfo(seed).is_some())
}

/// Publishes what the catalog does not know, at this pace.
fn publish_missing(fetcher: &Fetcher, seeds: &[SeedEntry], pace: Duration) -> Option<()> {
    for seed in seeds {
        let known = answered(fetcher, || is_known(fetcher, seed))?;
        if !known && let Some(metainfo) = fetcher.store().metainfo(seed) {
            fetcher.introduce(seed, metainfo, None);
        }
        wait(fetcher, pace)?;
    }
    Some(())
}

/// Publishes which blobs the shared objects are, where the catalog does not know it.
fn publish_missing_objects(fetcher: &Fetcher, pace: Duration) -> Option<()> {
    for (url, pointer) in fetcher.shared_objects() {
        let deadline = || Time::now() + limits::CATALOG_CALL;
        if !answered(fetcher, || fetcher.catalog().knows_object(&url, deadline()))? {
            fetcher.catalog().publish_object(&url, pointer);
        }
        wait(fetcher, pace)?;
    }
    Some(())
}

/// The answer of the catalog, whenever it comes.
fn answered(fetcher: &Fetcher, ask: impl Fn() -> Result<bool, CatalogError>) -> Option<bool> {
    loop {
        match ask() {
            Ok(known) => return Some(known),
            Err(_) => wait(fetcher, limits::REPUBLISH_PAUSE)?,
        }
    }
}

fn is_known(fetcher: &Fetcher, seed: &SeedEntry) -> Result<bool, CatalogError> {
    fetcher.catalog().knows(&seed.name, Time::now() + limits::CATALOG_CALL)
}

/// A quarter earlier or later: hosts that were started together do not ask together.
fn jittered(wait: Duration, rng: &mut Rng) -> Duration {
    let half = u64::try_from(wait.as_millis() / 2).unwrap_or(u64::MAX);
    wait * 3 / 4 + Duration::from_millis(rng.below(half))
}

/// `None`: the program stops.
fn wait(fetcher: &Fetcher, time: Duration) -> Option<()> {
    (!fetcher.stop.wait_for(time)).then_some(())
}
