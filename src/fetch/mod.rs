//! Floor 5: the one place that decides where bytes come from.
//!
//! A request for a blob is answered from the store, from a job that is fetching it already, or by a
//! new job: single-flight by name. Before any byte of a blob that this host has, or gets from the
//! swarm, goes out, the upstream is asked whether it would serve this request ([`grants`]).
//!
//! **Invariant:** one job per name. A reader never starts, stops or slows another's.
//!
//! Not here: HTTP (`http`), which piece is asked of whom (`swarm`), how a source is read
//! (`upstream`).

pub mod grants;
pub mod plan;

mod access;
mod blob_body;
mod delta;
mod detour;
mod early;
mod files;
mod fill;
mod follow;
mod job;
mod judge;
mod lanes;
mod manifest;
mod meter;
mod open;
mod pieces;
mod ping;
mod pulls;
mod rates;
mod reader;
mod recheck;
mod republish;
mod room;
mod roots;
mod settle;
mod stream;
mod superblock;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

pub use self::access::Offline;
pub use self::delta::DeltaRequest;
pub use self::files::{FileKind, FileOutcome, FileReader, FileRequest, Listing};
pub use self::manifest::{Manifest, ManifestHead, ManifestRequest};
pub use self::open::{BlobRequest, DeltaFile, FetchError};
pub use self::ping::Ping;
pub use self::pulls::Going;
pub use self::reader::{Chunk, ReadError, Reader};
pub use self::room::Loaded;

use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::{Sender, mailbox};
use crate::base::ranked::{Rank, Ranked};
use crate::base::stop::Stop;
use crate::base::thread;
use crate::catalog::{Catalog, Claim};
use crate::engine::Engine;
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::metainfo::Metainfo;
use crate::store::{Blob, Partial, SeedEntry, Store, StoreError};
use crate::upstream::{Origin, Upstream};

use self::delta::Deltas;
use self::early::Followed;
use self::files::{Flights, Outages, Unpacker};
use self::grants::Grants;
use self::job::Job;
use self::manifest::ToldLens;
use self::pulls::Pulls;
use self::rates::Rates;
use self::reader::Stored;
use self::recheck::Recheck;
use self::room::Room;
use self::roots::Judged;

/// What the fetcher works with.
pub struct Parts {
    /// The disk.
    pub store: Arc<Store>,
    /// What the network knows.
    pub catalog: Arc<Catalog>,
    /// The origins.
    pub upstream: Arc<Upstream>,
    /// The swarms.
    pub engine: Arc<Engine>,
}

/// What the fetcher may do.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// What is served when the upstream cannot be asked.
    pub offline: Offline,
    /// The archive repositories of this host.
    pub repositories: Vec<PathBuf>,
    /// Large objects of OSTree are shared with other hosts.
    pub share_objects: bool,
}

/// Decides where bytes come from. Shared by all who serve requests.
pub struct Fetcher {
    parts: Parts,
    offline: Offline,
    jobs: Ranked<HashMap<BlobName, Arc<Job>>>,
    grants: Ranked<Grants>,
    deltas: Ranked<Deltas>,
    /// For superblocks that come, and for those that are read back to be judged. Who waits for the
    /// second may keep others from leaving the first.
    loading: Arc<Room>,
    judging: Arc<Room>,
    /// For files and manifests that are taken whole.
    files: Arc<Room>,
    flights: Flights,
    outages: Outages,
    unpacker: Unpacker,
    pulls: Arc<Pulls>,
    distrusted: Ranked<HashMap<(BlobName, Sha1Hash), Time>>,
    followed: Ranked<Followed>,
    told_lens: Ranked<ToldLens>,
    /// Entries of the catalog, URL and blob, that led to something else than the object; until when
    /// each is passed over. Bounded by [`limits::POINTERS_MISLEADING_MAX`].
    misleading: Ranked<HashMap<(String, BlobName), Time>>,
    share_objects: bool,
    /// URLs of objects that came.
    to_share: Sender<String>,
    /// A blob was sealed, and is to be made durable.
    to_settle: Sender<()>,
    recheck: Arc<Recheck>,
    recent: Ranked<VecDeque<Transfer>>,
    threads: Ranked<Vec<thread::Handle>>,
    rates: Ranked<Rates>,
    /// The archive repositories of this host.
    repositories: Vec<PathBuf>,
    judged: Arc<Judged>,
    stop: Stop,
}

/// One blob that was fetched, or was not.
#[derive(Clone, Debug)]
pub struct Transfer {
    /// Which.
    pub name: BlobName,
    /// When it ended, in seconds since 1970.
    pub ended_unix: u64,
    /// Its length in bytes, as far as it is known.
    pub bytes: u64,
    /// How long it took in milliseconds.
    pub millis: u64,
    /// Bytes that upstream sent.
    pub upstream: u64,
    /// Bytes that each peer sent.
    pub peers: BTreeMap<IpAddr, u64>,
    /// Why it failed, if it did.
    pub failure: Option<&'static str>,
}

impl fmt::Display for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let from_peers: u64 = self.peers.values().sum();
        let outcome = self.failure.unwrap_or("done");
        write!(f, "blob {} {outcome}: {} bytes in {} ms", self.name, self.bytes, self.millis)?;
        write!(f, ", {} from upstream, {from_peers} from {} peers", self.upstream, self.peers.len())
    }
}

impl Fetcher {
    /// A fetcher with no jobs; what the store holds is seeded from now on, and so are the static
    /// deltas in the archive repositories of this host.
    #[must_use]
    pub fn new(parts: Parts, policy: Policy) -> Arc<Fetcher> {
        let seeds = parts.store.seeds();
        for entry in &seeds {
            parts.engine.seed(entry);
        }
        let (to_share, came) = mailbox(limits::SHARE_QUEUE_MAX);
        // One word is enough: all that are sealed are settled together.
        let (to_settle, sealed) = mailbox(1);
        let (recheck, suspects) = Recheck::new();
        let doubted = Arc::clone(&recheck);
        parts.store.on_doubt(move |name| doubted.is_suspect(name));
        let fetcher = Arc::new(Fetcher {
            parts,
            offline: policy.offline,
            jobs: Ranked::new(Rank::Jobs, HashMap::new()),
            grants: Ranked::new(Rank::Grants, Grants::default()),
            deltas: Ranked::new(Rank::Leaf, Deltas::default()),
            loading: Room::new(limits::SUPERBLOCKS_BYTES_MAX),
            judging: Room::new(limits::SUPERBLOCK_LEN_MAX),
            files: Room::new(limits::FILES_IN_MEMORY_MAX),
            flights: Flights::new(),
            outages: Outages::new(),
            unpacker: Unpacker::new(),
            pulls: Pulls::new(),
            distrusted: Ranked::new(Rank::Leaf, HashMap::new()),
            followed: Ranked::new(Rank::Leaf, Followed::default()),
            told_lens: Ranked::new(Rank::Leaf, ToldLens::default()),
            misleading: Ranked::new(Rank::Leaf, HashMap::new()),
            share_objects: policy.share_objects,
            to_share,
            to_settle,
            recheck,
            recent: Ranked::new(Rank::Status, VecDeque::new()),
            threads: Ranked::new(Rank::Leaf, Vec::new()),
            rates: Ranked::new(Rank::Leaf, Rates::default()),
            repositories: policy.repositories,
            judged: Judged::new(),
            stop: Stop::new(),
        });
        republish::start(&fetcher, seeds);
        files::shared::start(&fetcher, came);
        roots::start(&fetcher);
        settle::start(&fetcher, sealed);
        recheck::start(&fetcher, suspects);
        fetcher
    }

    /// The latest transfers, newest first.
    #[must_use]
    pub fn recent(&self) -> Vec<Transfer> {
        self.recent.lock().iter().rev().cloned().collect()
    }

    /// Fails all jobs, waits for their threads, and makes durable what they brought.
    pub fn stop(&self) {
        self.stop.stop();
        self.parts.upstream.stop();
        self.pulls.end();
        // Whoever waits for one looks at the flag.
        let _ = self.to_share.try_send(String::new());
        let _ = self.to_settle.try_send(());
        self.recheck.stop();
        let jobs: Vec<Arc<Job>> = self.jobs.lock().values().cloned().collect();
        for job in jobs {
            job.cancel();
        }
        loop {
            // A job that ends may keep the thread of one last stream: look until none is left.
            let threads = std::mem::take(&mut *self.threads.lock());
            if threads.is_empty() {
                break;
            }
            threads.into_iter().for_each(thread::Handle::join);
        }
        settle::settle(self);
    }

    /// Makes a complete blob one of the store's.
    fn seal(&self, partial: &Partial, metainfo: &Arc<Metainfo>) -> Result<Arc<Blob>, StoreError> {
        let blob = self.store().seal(partial, Arc::clone(metainfo))?;
        settle::sealed(self);
        Ok(blob)
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_stopped()
    }

    fn store(&self) -> &Arc<Store> {
        &self.parts.store
    }

    fn catalog(&self) -> &Catalog {
        &self.parts.catalog
    }

    fn upstream(&self) -> Arc<Upstream> {
        Arc::clone(&self.parts.upstream)
    }

    /// What a reader of a blob that is here needs, which lives at `origin`.
    fn stored_at(&self, blob: Arc<Blob>, origin: &Origin) -> Stored {
        Stored {
            blob,
            recheck: Arc::clone(&self.recheck),
            origin: origin.clone(),
            upstream: self.upstream(),
            room: Arc::clone(&self.judging),
        }
    }

    fn engine(&self) -> &Engine {
        &self.parts.engine
    }

    /// Seeds a blob that the catalog does not know, and publishes it when the tracker knows of it:
    /// who finds it in the catalog finds a peer.
    /// The claim, if there is one, has had its day then.
    fn introduce(&self, seed: &SeedEntry, metainfo: Arc<Metainfo>, claim: Option<Claim>) {
        let (catalog, name) = (Arc::clone(&self.parts.catalog), seed.name);
        self.parts.engine.introduce(seed, move || {
            catalog.publish(&name, metainfo.encode());
            if let Some(claim) = claim {
                catalog.release(&name, &claim);
            }
        });
    }

    /// Takes a job out of the table, if it is still the one under its name.
    fn forget(&self, job: &Arc<Job>) {
        let mut jobs = self.jobs.lock();
        if jobs.get(&job.name()).is_some_and(|other| Arc::ptr_eq(other, job)) {
            jobs.remove(&job.name());
        }
    }

    fn remember(&self, transfer: Transfer) {
        let mut recent = self.recent.lock();
        if recent.len() == limits::RECENT_TRANSFERS_MAX {
            recent.pop_front();
        }
        recent.push_back(transfer);
    }

    /// Keeps a thread until it has ended; those that have are let go of.
    fn keep(&self, handle: thread::Handle) {
        let mut threads = self.threads.lock();
        threads.retain(|thread| !thread.is_finished());
        threads.push(handle);
    }

    /// Passes over a catalog's entry that led to wrong bytes, and takes it out of the catalog.
    fn distrust(&self, name: &BlobName, metainfo: &Metainfo) {
        self.pass_over(name, metainfo);
        log::warn!("blob {name}: the catalog's entry led to wrong bytes and is withdrawn");
        self.parts.catalog.withdraw(name, metainfo.encode());
    }

    /// Passes over a catalog's entry that the upstream contradicts. Whichever of the two is wrong:
    /// if the upstream's bytes have the right digest, they are published in its place.
    fn pass_over(&self, name: &BlobName, metainfo: &Metainfo) {
        self.pass_over_swarm(name, metainfo.info_hash());
    }

    fn pass_over_swarm(&self, name: &BlobName, info_hash: Sha1Hash) {
        let now = Time::now();
        let mut distrusted = self.distrusted.lock();
        distrusted.retain(|_, until| *until > now);
        distrusted.insert((*name, info_hash), now + limits::DISTRUST);
    }

    fn is_distrusted(&self, name: &BlobName, metainfo: &Metainfo) -> bool {
        self.is_passed_over(name, metainfo.info_hash())
    }

    fn is_passed_over(&self, name: &BlobName, info_hash: Sha1Hash) -> bool {
        let distrusted = self.distrusted.lock();
        distrusted.get(&(*name, info_hash)).is_some_and(|until| *until > Time::now())
    }
}
