//! The threads round the swarms: sockets, disk, clock and tracker on one side, [`crate::swarm`],
//! which only decides, on the other.
//!
//! One thread owns all swarms, links and candidates (`run`); swarm state has an owner, not a
//! lock. A block's way in: reader thread (`peer_io`) -> inbox -> engine, which asks the swarm and
//! keeps the block (`collect`) -> disk thread (`disk`), which hashes the piece in memory,
//! writes it and marks the feed -> inbox -> `HAVE` to the others. A block's way out: the swarm
//! grants it, the engine queues it, the link's writer thread reads the span from the file and sends
//! it.
//!
//! **Invariant:** everyone may wait for the engine; the engine waits for nothing but its inbox. No
//! unverified byte reaches the disk.
//!
//! Not here: which piece is asked of whom, who is served, who is banned ([`crate::swarm`]); when a
//! blob is taken from the swarm at all (`fetch`).

mod accept;
mod act;
mod announce;
mod asked;
mod collect;
mod crew;
mod disk;
mod early;
mod inbox;
mod limit;
mod links;
mod member;
mod membership;
mod owed;
mod peer_io;
mod pool;
mod run;
mod status;
mod waiting;

use std::fmt;
use std::io;
use std::net::{IpAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use self::announce::{TrackerUrl, TrackerUrlError};
pub use self::membership::{Membership, Progress};
pub use self::status::{EngineStatus, LinkStatus, SwarmStatus, TrackerStatus};

use self::announce::{Announcer, Identity};
use self::early::OurHashes;
use self::inbox::{Event, Join, MemberId, Nobody};
use self::links::Links;
use self::member::Hashes;
use self::run::Run;
use crate::base::address::Network;
use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::{Receiver, Sender, mailbox};
use crate::base::ranked::{Rank, Ranked};
use crate::base::stop::Stop;
use crate::base::thread::{self, Handle, Role};
use crate::limits::{DISK_QUEUE_MAX, ENGINE_INBOX_MAX};
use crate::proto::bitfield::Pieces;
use crate::proto::blob::BlobName;
use crate::proto::geometry::Geometry;
use crate::proto::metainfo::Metainfo;
use crate::proto::peer::PeerId;
use crate::store::{Partial, SeedEntry, Store};

/// What the engine must know.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The address to listen on for peers.
    pub interface: IpAddr,
    /// The ports to try, in order; 0 stands for any free port.
    pub ports: RangeInclusive<u16>,
    /// Where peers are found; `None`: only those that [`Membership::offer_candidates`] names.
    pub tracker: Option<TrackerUrl>,
    /// The address that the tracker is asked to hand out for us; `None`: the one it sees.
    pub advertise_address: Option<IpAddr>,
    /// The port that the tracker and peers are told; `None`: the one we listen on.
    pub advertise_port: Option<u16>,
    /// The ranges in which peers are talked to; none: those that are private, link-local or
    /// loopback.
    pub peer_networks: Vec<Network>,
    /// The most that peers get of us, bytes per second over all links; `None`: any number.
    pub upload_max: Option<u64>,
    /// The most that is taken from peers.
    pub download_max: Option<u64>,
    /// Who we are in every handshake; new at every start (BEP 20).
    pub peer_id: PeerId,
}

/// Why the engine could not start.
#[derive(Debug)]
pub enum EngineError {
    /// No port of the range is free.
    Ports {
        /// The first port that was tried.
        first: u16,
        /// The last port that was tried.
        last: u16,
        /// What it said.
        error: io::Error,
    },
    /// The system refused a thread.
    Thread(io::Error),
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EngineError::Ports { first, last, error } => {
                write!(f, "no free port for peers from {first} to {last}: {error}")
            }
            EngineError::Thread(error) => write!(f, "no thread for the engine: {error}"),
        }
    }
}

impl std::error::Error for EngineError {}

/// The engine has stopped: there are no swarms any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped;

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the engine has stopped")
    }
}

impl std::error::Error for Stopped {}

/// The handle to the engine's threads.
pub struct Engine {
    port: u16,
    tracker: Option<String>,
    inbox: Sender<Event>,
    announcer: Arc<Announcer>,
    links: Arc<Links>,
    listener: Arc<TcpListener>,
    stop: Stop,
    threads: Ranked<Vec<Handle>>,
    next_member: AtomicU64,
}

impl Engine {
    /// Listens on the first free port and starts the threads. Blobs that leave `store` are no
    /// longer seeded from then on.
    ///
    /// # Errors
    /// If no port is free or the system refuses a thread.
    ///
    /// # Panics
    /// If somebody else listens to the store's evictions.
    pub fn start(config: EngineConfig, store: Arc<Store>) -> Result<Engine, EngineError> {
        let (first, last) = (*config.ports.start(), *config.ports.end());
        let bound = accept::bind(config.interface, config.ports.clone());
        let listener = bound.map_err(|error| EngineError::Ports { first, last, error })?;
        let port = listener.local_addr().map_err(EngineError::Thread)?.port();
        let (inbox, events) = mailbox(ENGINE_INBOX_MAX);
        let identity = Identity {
            peer_id: config.peer_id,
            port: config.advertise_port.unwrap_or(port),
            address: config.advertise_address,
        };
        let announcer = Announcer::start(config.tracker.as_ref(), &identity, &inbox);
        let announcer = Arc::new(announcer.map_err(EngineError::Thread)?);
        let evicted = (Arc::clone(&announcer), inbox.clone());
        store.on_evict(move |seed| unseed(&evicted.0, &evicted.1, seed.info_hash));
        let links = Links::new(&config, store, inbox.clone());
        let engine = Engine {
            port,
            tracker: config.tracker.as_ref().map(TrackerUrl::to_string),
            inbox,
            announcer,
            links: Arc::new(links),
            listener: Arc::new(listener),
            stop: Stop::new(),
            threads: Ranked::new(Rank::Leaf, Vec::new()),
            next_member: AtomicU64::new(0),
        };
        if let Err(error) = engine.start_threads(events, &identity) {
            engine.stop(Time::ZERO);
            return Err(EngineError::Thread(error));
        }
        Ok(engine)
    }

    fn start_threads(&self, events: Receiver<Event>, identity: &Identity) -> io::Result<()> {
        let (jobs, to_do) = mailbox(DISK_QUEUE_MAX);
        self.keep(disk::start(&to_do, &self.inbox)?);
        let (links, announcer) = (Arc::clone(&self.links), Arc::clone(&self.announcer));
        let run = Run::new(events, jobs, links, announcer, identity);
        self.keep([thread::spawn("engine", Role::Core, move || run.run())?]);
        let (listener, links) = (Arc::clone(&self.listener), Arc::clone(&self.links));
        let stop = self.stop.clone();
        let accept = move || accept::run(&listener, &links, &stop);
        self.keep([thread::spawn("engine-accept", Role::Core, accept)?]);
        Ok(())
    }

    fn keep(&self, started: impl IntoIterator<Item = Handle>) {
        self.threads.lock().extend(started);
    }

    /// The port where peers reach us.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on the whole blob is announced, and served to peers that call. It costs next to
    /// nothing until one does.
    pub fn seed(&self, seed: &SeedEntry) {
        self.announcer.seed(seed.info_hash);
    }

    /// As [`Engine::seed`], for a blob that is new to the network: it is announced soon, and `told`
    /// is called when the tracker knows of it; at once, if it does or if it does not answer. `told`
    /// must not wait. It is not called for a blob that leaves before, nor after a stop.
    pub fn introduce(&self, seed: &SeedEntry, told: impl FnOnce() + Send + 'static) {
        self.announcer.introduce(seed.info_hash, Box::new(told));
    }

    /// The blob is served no more; links that want it are closed.
    pub fn unseed(&self, info_hash: &Sha1Hash) {
        unseed(&self.announcer, &self.inbox, *info_hash);
    }

    /// Joins the swarm of `metainfo`, to fill `partial`: pieces are hashed in memory, written,
    /// marked in the feed and then offered to others. What the feed says is readable counts as
    /// stored. An earlier membership in the same swarm ends.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub fn join(
        &self,
        metainfo: Arc<Metainfo>,
        partial: Arc<Partial>,
    ) -> Result<Membership, Stopped> {
        self.join_with(metainfo, partial, || ())
    }

    /// As [`Engine::join`]; calls `nobody`, which must not wait, when the tracker names no peer, or
    /// does not answer, and none has called ([`Progress::nobody`]).
    ///
    /// # Errors
    /// As [`Engine::join`].
    pub fn join_with(
        &self,
        metainfo: Arc<Metainfo>,
        partial: Arc<Partial>,
        nobody: impl FnOnce() + Send + 'static,
    ) -> Result<Membership, Stopped> {
        let geometry = *metainfo.geometry();
        let mut have = Pieces::none(geometry);
        for piece in geometry.pieces() {
            if partial.feed().is_readable(geometry.span(piece)) {
                have.insert(piece);
            }
        }
        let (info_hash, name) = (metainfo.info_hash(), metainfo.name().to_owned());
        let hashes = Hashes::Known(metainfo);
        let nobody: Nobody = Box::new(nobody);
        self.enter((info_hash, name), geometry, hashes, partial, have, Some(nobody))
    }

    /// Joins the early swarm `id` of a blob that one of its members fetches from upstream. As
    /// [`Engine::join`], but the hashes of the pieces are told by its members, and by the job with
    /// [`Membership::hashed`]: until then what is in `partial` is not offered to others.
    ///
    /// # Errors
    /// If the engine has stopped.
    pub fn join_early(
        &self,
        id: Sha1Hash,
        name: &BlobName,
        geometry: Geometry,
        partial: Arc<Partial>,
    ) -> Result<Membership, Stopped> {
        let hashes = Hashes::Early(OurHashes::none(&geometry));
        let have = Pieces::none(geometry);
        self.enter((id, name.file_stem()), geometry, hashes, partial, have, None)
    }

    fn enter(
        &self,
        (info_hash, name): (Sha1Hash, String),
        geometry: Geometry,
        hashes: Hashes,
        partial: Arc<Partial>,
        have: Pieces,
        nobody: Option<Nobody>,
    ) -> Result<Membership, Stopped> {
        let id = MemberId(self.next_member.fetch_add(1, Ordering::Relaxed));
        let progress = Arc::new(Ranked::new(Rank::Status, Progress::default()));
        let membership = Membership::new(id, self.inbox.clone(), Arc::clone(&progress));
        let join = Join { id, info_hash, name, geometry, hashes, partial, have, progress, nobody };
        self.inbox.send(Event::Join(Box::new(join))).map_err(|_| Stopped)?;
        // After the engine was told: whoever calls now comes behind it in the inbox.
        self.links.joined(info_hash, id);
        Ok(membership)
    }

    /// How it stands, for the status page.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let (reply, answer) = mailbox(1);
        let asked = self.inbox.send(Event::Status(reply));
        let swarms = asked.ok().and_then(|()| answer.recv().ok()).unwrap_or_default();
        let (waiting, failing) = self.announcer.health();
        let tracker = self.tracker.clone().map(|url| TrackerStatus { url, failing, waiting });
        EngineStatus { seeds: self.announcer.seeds(), swarms, tracker }
    }

    /// Leaves all swarms, tells the tracker as far as time allows, and ends all threads. Later
    /// calls do nothing.
    pub fn stop(&self, deadline: Time) {
        self.announcer.begin_stop(deadline);
        self.stop.stop();
        accept::wake(&self.listener);
        let _ = self.inbox.send(Event::Stop);
        let left = self.links.close(deadline);
        if left > 0 {
            log::warn!("{left} threads of peers have not ended in time");
        }
        let threads = std::mem::take(&mut *self.threads.lock());
        threads.into_iter().for_each(Handle::join);
        self.announcer.stop(deadline);
    }
}

impl Drop for Engine {
    /// No thread outlives the handle.
    fn drop(&mut self) {
        self.stop(Time::now());
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine on port {}", self.port)
    }
}

fn unseed(announcer: &Announcer, inbox: &Sender<Event>, info_hash: Sha1Hash) {
    announcer.leave(info_hash);
    let _ = inbox.send(Event::Unseed(info_hash));
}
