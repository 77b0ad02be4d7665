//! What a tracker that knows many peers costs, measured. Alone in its process, so that the memory
//! is the registry's.

use std::fs;
use std::net::SocketAddr;
use std::time::Instant;

use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::proto::peer::PeerId;
use torrent_cache::proto::tracker::{AnnounceEvent, AnnounceRequest};
use torrent_cache::tracker::registry::{Limits, Registry};

const HOSTS: u16 = 300;
const BLOBS: u16 = 1000;

/// Bytes of memory that the process holds.
fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("it is Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")).expect("Linux says kB");
    kib.parse::<u64>().expect("it is a number") * 1024
}

#[test]
fn a_peer_costs_tens_of_bytes() {
    let mut request = AnnounceRequest {
        info_hash: Sha1Hash([0; 20]),
        peer_id: PeerId([0; 20]),
        port: 6881,
        uploaded: 0,
        downloaded: 0,
        left: 0,
        event: AnnounceEvent::Started,
        numwant: None,
        key: None,
        ip: None,
        tracker_id: None,
    };
    let mut rng = Rng::seeded(1);
    let mut registry = Registry::new(Limits::default());
    let (before, start) = (resident(), Instant::now());
    for host in 0..HOSTS {
        let [high, low] = host.to_be_bytes();
        let peer = SocketAddr::from(([10, 0, high, low], 6881));
        for blob in 0..BLOBS {
            request.info_hash.0[..2].copy_from_slice(&blob.to_be_bytes());
            registry.announce(Time::ZERO, peer, &request, &mut rng);
        }
    }
    let peers = u64::from(HOSTS) * u64::from(BLOBS);
    assert_eq!(registry.totals().peers() as u64, peers);
    let each = (resident() - before) / peers;
    let rate = peers as f64 / start.elapsed().as_secs_f64();
    println!("{each} bytes for each of {peers} peers, {rate:.0} announces per second");
    assert!(each <= 32, "{each} bytes for each peer");
}
