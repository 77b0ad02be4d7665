//! A host in a test: a store in a temporary directory and an engine.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::{Sha1Hash, sha256};
use torrent_cache::base::rng::Rng;
use torrent_cache::engine::{Engine, EngineConfig, Membership, TrackerUrl};
use torrent_cache::proto::blob::{BlobName, Digest};
use torrent_cache::proto::geometry::{Geometry, Span};
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::proto::peer::{PeerId, RawBlock};
use torrent_cache::store::{Blob, Max, Partial, Store, StoreConfig, Wait};

/// A blob and what the catalog knows of it.
pub struct Sample {
    pub bytes: Vec<u8>,
    pub name: BlobName,
    pub metainfo: Arc<Metainfo>,
}

impl Sample {
    /// A blob of `len` bytes that follow from `seed`.
    pub fn new(seed: u64, len: usize) -> Sample {
        let mut bytes = vec![0; len];
        Rng::seeded(seed).fill(&mut bytes);
        let name = BlobName::Content(Digest::Sha256(sha256(&bytes)));
        let geometry = Geometry::for_blob(len as u64).unwrap();
        let hashes = bytes.chunks(geometry.piece_len() as usize).map(Sha1Hash::of).collect();
        let metainfo = Metainfo::of_blob(&name, len as u64, hashes).unwrap();
        Sample { bytes, name, metainfo: Arc::new(metainfo) }
    }

    /// The right bytes of a block.
    pub fn block(&self, block: RawBlock) -> Vec<u8> {
        let piece_len = u64::from(self.metainfo.geometry().piece_len());
        let offset = u64::from(block.piece) * piece_len + u64::from(block.begin);
        self.slice(Span { offset, len: block.len.into() }).to_vec()
    }

    pub fn slice(&self, span: Span) -> &[u8] {
        let start = usize::try_from(span.offset).unwrap();
        &self.bytes[start..start + usize::try_from(span.len).unwrap()]
    }
}

/// How long anything may take.
pub fn soon() -> Time {
    Time::now() + Duration::from_secs(30)
}

/// A loopback address of its own, so that a ban hits one host alone.
pub fn loopback(host: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 0, host).into()
}

/// A host.
pub struct Host {
    pub store: Arc<Store>,
    pub engine: Engine,
    pub address: SocketAddr,
    dir: TempDir,
}

/// A blob that a host fetches.
pub struct Fetching {
    pub partial: Arc<Partial>,
    pub membership: Membership,
}

impl Host {
    /// An empty host without a tracker.
    pub fn new(number: u8) -> Host {
        Host::with(number, |_| ())
    }

    /// An empty host that announces itself.
    pub fn with_tracker(number: u8, tracker: TrackerUrl) -> Host {
        Host::with(number, |config| config.tracker = Some(tracker))
    }

    /// An empty host that talks to peers in these ranges only.
    pub fn within(number: u8, networks: &[&str]) -> Host {
        let networks = networks.iter().map(|network| network.parse().unwrap());
        Host::with(number, |config| config.peer_networks = networks.collect())
    }

    /// An empty host with other settings.
    pub fn with(number: u8, set: impl FnOnce(&mut EngineConfig)) -> Host {
        Host::open(number, tempfile::tempdir().unwrap(), set)
    }

    fn open(number: u8, dir: TempDir, set: impl FnOnce(&mut EngineConfig)) -> Host {
        let config = StoreConfig { root: dir.path().to_owned(), max: Max::None };
        let store = Store::open(config).unwrap();
        let mut config = EngineConfig {
            interface: loopback(number),
            ports: 0..=0,
            tracker: None,
            advertise_address: Some(loopback(number)),
            advertise_port: None,
            peer_networks: Vec::new(),
            upload_max: None,
            download_max: None,
            peer_id: PeerId::random(&mut Rng::from_os()),
        };
        set(&mut config);
        let engine = Engine::start(config, Arc::clone(&store)).unwrap();
        for seed in store.seeds() {
            engine.seed(&seed);
        }
        let address = SocketAddr::new(loopback(number), engine.port());
        Host { store, engine, address, dir }
    }

    /// A host that has the blob and seeds it.
    pub fn seeding(number: u8, sample: &Sample) -> Host {
        let host = Host::new(number);
        host.put(sample);
        host
    }

    /// Stores the whole blob, as if it came from upstream, and seeds it.
    pub fn put(&self, sample: &Sample) -> Arc<Blob> {
        let len = sample.bytes.len() as u64;
        let partial = self.store.begin(&sample.name, Some(len)).unwrap();
        partial.write(0, &[&sample.bytes]).unwrap();
        partial.feed().mark(Span { offset: 0, len });
        let blob = self.store.seal(&partial, Arc::clone(&sample.metainfo)).unwrap();
        self.store.settle().unwrap();
        self.store.seeds().iter().for_each(|seed| self.engine.seed(seed));
        blob
    }

    /// Joins the swarm of `sample`; `from` are the peers that it knows.
    pub fn fetch(&self, sample: &Sample, from: &[SocketAddr]) -> Fetching {
        let len = sample.bytes.len() as u64;
        let partial = self.store.begin(&sample.name, Some(len)).unwrap();
        let joined = self.engine.join(Arc::clone(&sample.metainfo), Arc::clone(&partial));
        let membership = joined.unwrap();
        membership.offer_candidates(from.to_vec());
        Fetching { partial, membership }
    }

    /// Ends the engine and starts another on the same directory.
    pub fn restart(self, number: u8) -> Host {
        let Host { store, engine, dir, .. } = self;
        engine.stop(soon());
        drop((engine, store));
        Host::open(number, dir, |_| ())
    }
}

impl Fetching {
    /// Waits until every byte is there, and compares.
    pub fn expect(&self, sample: &Sample) {
        let len = sample.bytes.len() as u64;
        let mut at = 0;
        while at < len {
            match self.partial.feed().wait(at, soon()) {
                Wait::Ready { end } => at = end,
                other => panic!("at {at}: {other:?}, {:?}", self.membership.progress()),
            }
        }
        let mut bytes = vec![0; sample.bytes.len()];
        self.partial.read_at(&mut bytes, 0).unwrap();
        assert!(bytes == sample.bytes, "other bytes arrived");
    }

    /// As [`Fetching::expect`]; then seals the blob and goes on as a seed.
    pub fn finish(self, host: &Host, sample: &Sample) -> Membership {
        self.expect(sample);
        let blob = host.store.seal(&self.partial, Arc::clone(&sample.metainfo)).unwrap();
        host.store.settle().unwrap();
        self.membership.became_whole(blob);
        self.membership
    }
}
