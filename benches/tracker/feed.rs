//! Tells a tracker over UDP of many peers, as fast as it answers.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::proto::peer::PeerId;
use torrent_cache::proto::tracker::{AnnounceEvent, AnnounceRequest};
use torrent_cache::proto::tracker_udp::{Family, Request, Response};

/// Announces on their way at once: so few that no tracker loses one.
const WINDOW: usize = 32;
const PATIENCE: Duration = Duration::from_secs(10);

/// A client of a tracker.
pub struct Feeder {
    socket: UdpSocket,
    connection: u64,
}

/// So many info-hashes, always the same.
pub fn swarms(count: u32) -> Vec<Sha1Hash> {
    let mut rng = Rng::seeded(7);
    let swarms = (0..count).map(|_| {
        let mut swarm = Sha1Hash([0; 20]);
        rng.fill(&mut swarm.0);
        swarm
    });
    swarms.collect()
}

/// A seeder on `port` that wants to know nobody.
pub fn announce(info_hash: Sha1Hash, port: u16) -> AnnounceRequest {
    AnnounceRequest {
        info_hash,
        peer_id: PeerId([1; 20]),
        port,
        uploaded: 0,
        downloaded: 0,
        left: 0,
        event: AnnounceEvent::Started,
        numwant: Some(1),
        key: None,
        ip: None,
        tracker_id: None,
    }
}

impl Feeder {
    pub fn new(tracker: SocketAddr) -> Feeder {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("loopback has a free port");
        socket.connect(tracker).expect("an address of loopback");
        socket.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
        let mut feeder = Feeder { socket, connection: 0 };
        feeder.connect();
        feeder
    }

    /// An id holds for a minute or more.
    fn connect(&mut self) {
        self.send(&Request::Connect { transaction: 1 });
        match self.receive() {
            Response::Connect { connection, .. } => self.connection = connection,
            other => panic!("{other:?}"),
        }
    }

    /// Makes `hosts` peers members of each of `swarms`.
    pub fn fill(&mut self, swarms: &[Sha1Hash], hosts: u16) {
        for host in 1..=hosts {
            self.connect();
            for some in swarms.chunks(WINDOW) {
                for swarm in some {
                    self.announce(*swarm, 1000 + host);
                }
                for _ in some {
                    self.answered();
                }
            }
        }
    }

    /// One announce and its answer.
    pub fn ask(&mut self, swarm: &Sha1Hash) {
        self.announce(*swarm, 1001);
        self.answered();
    }

    fn announce(&self, swarm: Sha1Hash, port: u16) {
        let (connection, announce) = (self.connection, announce(swarm, port));
        self.send(&Request::Announce { connection, transaction: 2, announce });
    }

    fn answered(&self) {
        let answer = self.receive();
        assert!(matches!(answer, Response::Announce { .. }), "{answer:?}");
    }

    fn send(&self, request: &Request) {
        let mut datagram = Vec::new();
        request.encode(&mut datagram);
        self.socket.send(&datagram).expect("loopback takes it");
    }

    fn receive(&self) -> Response {
        let mut answer = [0; 2048];
        let len = self.socket.recv(&mut answer).expect("it answers");
        Response::decode(&answer[..len], Family::V4).expect("it is an answer")
    }
}
