//! Peers that die or lie in the middle of a transfer.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::proto::geometry::Geometry;
use torrent_cache::proto::peer::{
    Frame, HANDSHAKE_LEN, Handshake, Message, PeerId, RawBlock, encode_block_head,
};
use torrent_cache::proto::tracker::{AnnounceEvent, AnnounceRequest};

use crate::support::image::Blob;
use crate::support::torrent_cache::Program;
use crate::support::{PATIENCE, free_port, get, loopback, wait_for, wait_longer};
use crate::world::{Download, FROM_PEERS, FROM_UPSTREAM, MIB, World, status};

const BANNED: &str = "torrent_cache_peers_banned_total";

#[test]
fn the_only_peer_dies_and_the_reader_gets_every_byte() {
    let world = World::start(11, 64 * MIB);
    let mut first = world.seeder("first");
    let second = world.slow_client("second");
    let download = Download::start(&world.url(&second), &[]);
    wait_for("bytes from the peer", || (second.metric(FROM_PEERS) > 8_000_000).then_some(()));
    first.crash();
    let from_peer = second.metric(FROM_PEERS);
    assert!(from_peer < world.len(), "killed too late to prove anything");
    download.expect_whole(&world.upstream.blob);

    let (from_peers, from_upstream) = (second.metric(FROM_PEERS), second.metric(FROM_UPSTREAM));
    assert!(from_upstream > 0 && from_peers > 0);
    // No piece comes twice, but of the one that was on its way over the dead link some blocks had.
    let twice = from_peers + from_upstream - world.len();
    let bound = i64::from(world.metainfo().geometry().piece_len());
    assert!((0..=bound).contains(&twice), "{twice} bytes came twice, {from_upstream} upstream");
    let ranges = world.upstream.gets().split_off(1);
    assert!(ranges.iter().all(Option::is_some), "topped up by Range: {ranges:?}");
}

#[test]
fn the_only_peer_stops_in_order_and_the_reader_gets_every_byte() {
    let world = World::start(14, 64 * MIB);
    let mut first = world.seeder("first");
    let second = world.slow_client("second");
    let download = Download::start(&world.url(&second), &[]);
    wait_for("bytes from the peer", || (second.metric(FROM_PEERS) > 8_000_000).then_some(()));
    assert!(first.stop().success());
    download.expect_whole(&world.upstream.blob);
    assert!(second.metric(FROM_UPSTREAM) > 0, "stopped too late to prove anything");
}

#[test]
fn the_only_peer_falls_silent_and_the_reader_gets_every_byte() {
    let world = World::start(15, 64 * MIB);
    let mut first = world.seeder("first");
    let second = world.slow_client("second");
    let download = Download::start(&world.url(&second), &[]);
    wait_for("bytes from the peer", || (second.metric(FROM_PEERS) > 8_000_000).then_some(()));
    // Its connections stay open, and nothing comes any more.
    first.process().pause();
    download.expect_whole(&world.upstream.blob);
    assert!(second.metric(FROM_UPSTREAM) > 0, "frozen too late to prove anything");
    first.process().resume();
}

/// Passes on what comes to a port of its own, as the port mapping of a container engine does; says
/// how many connections came.
fn map_port(to: SocketAddr) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let came = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&came);
    std::thread::spawn(move || {
        for outside in listener.incoming().flatten() {
            count.fetch_add(1, Ordering::SeqCst);
            let Ok(inside) = TcpStream::connect(to) else { continue };
            let clone = |stream: &TcpStream| stream.try_clone().expect("descriptors are left");
            let ways = [(clone(&outside), clone(&inside)), (inside, outside)];
            for (mut from, mut to) in ways {
                std::thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(std::net::Shutdown::Write);
                });
            }
        }
    });
    (address, came)
}

#[test]
fn a_host_behind_a_mapped_port_is_reached_there() {
    let world = World::start(18, 8 * MIB);
    let port = free_port();
    let (outside, came) = map_port(loopback(port));
    let options = [
        ("TORRENT_FIRST_PORT", port.to_string()),
        ("TORRENT_LAST_PORT", port.to_string()),
        ("ADVERTISE", outside.to_string()),
    ];
    let options = options.each_ref().map(|(name, value)| (*name, value.as_str()));
    let first = world.client_with("first", &options);
    world.pull(&first);
    world.wait_until_shared();
    let second = world.client("second");
    world.pull(&second);
    assert_eq!(second.metric(FROM_PEERS), world.len(), "{}", second.log());
    assert!(came.load(Ordering::SeqCst) > 0, "by the port that it advertises");
}

#[test]
fn a_host_takes_from_peers_in_the_given_networks_alone() {
    let world = World::start(21, 2 * MIB);
    let _first = world.seeder("first");
    for (name, networks, from_peers) in
        [("elsewhere", "10.0.0.0/8,fd00::/8", 0), ("near", "10.0.0.0/8, 127.0.0.0/8", world.len())]
    {
        let client = world.client_with(name, &[("PEER_NETWORKS", networks)]);
        world.pull(&client);
        let came = [FROM_PEERS, FROM_UPSTREAM].map(|series| client.metric(series));
        assert_eq!(came, [from_peers, world.len() - from_peers], "{name}: {}", client.log());
    }
}

/// Watches `bytes` until it is all of the blob, and fails if they are ever more than a rate of
/// 1 MiB per second allows since `start`.
fn assert_limited(world: &World, start: Instant, bytes: impl Fn() -> i64) {
    const PER_MS: i64 = (1 << 20) / 1000 + 1;
    // A block, and a part of one that is on its way.
    const AT_ONCE: i64 = 256 << 10;
    let patience = 2 * PATIENCE;
    wait_longer(patience, "the blob", || {
        let seen = bytes();
        let elapsed_ms = i64::try_from(start.elapsed().as_millis()).expect("a minute");
        let allowed = elapsed_ms * PER_MS + AT_ONCE;
        assert!(seen <= allowed, "{seen} bytes, {allowed} allowed");
        (seen >= world.len()).then_some(())
    });
}

#[test]
fn a_host_sends_its_peers_no_more_than_it_may() {
    let world = World::start(19, 6 * MIB);
    let first = world.client_with("first", &[("UPLOAD_MAX", "1M")]);
    world.pull(&first);
    world.wait_until_shared();
    let others = ["second", "third"].map(|name| world.client(name));
    let start = Instant::now();
    let downloads = others.each_ref().map(|client| Download::start(&world.url(client), &[]));
    // Between them they have it once from the first.
    let sent = "torrent_cache_sent_bytes_total{to=\"peer\"}";
    assert_limited(&world, start, || first.metric(sent));
    downloads.into_iter().for_each(|download| download.expect_whole(&world.upstream.blob));
}

#[test]
fn a_host_takes_from_its_peers_no_more_than_it_may() {
    let world = World::start(20, 6 * MIB);
    let first = world.seeder("first");
    let third = world.client("third");
    world.pull(&third);
    wait_for("two seeders", || (world.seeders() == 2).then_some(()));
    let second = world.client_with("second", &[("DOWNLOAD_MAX", "1M")]);
    let start = Instant::now();
    let download = Download::start(&world.url(&second), &[]);
    assert_limited(&world, start, || second.metric(FROM_PEERS));
    download.expect_whole(&world.upstream.blob);
    assert_eq!(second.metric(FROM_UPSTREAM), 0, "fast enough: {}", second.log());
    drop((first, third));
}

/// What a peer does that says it has everything.
#[derive(Clone, Copy)]
enum Manner {
    /// Sends zeros.
    Lies,
    /// Sends the right bytes, a block of them every so often.
    Dawdles(Duration),
    /// Never lets anybody ask.
    Chokes,
    /// Sends the right bytes, and leaves in the middle of each block.
    Breaks,
}

/// Starts a peer that serves whoever calls. It has an address of its own: a ban is for all peers of
/// one.
fn start_peer(blob: &Arc<Blob>, manner: Manner) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.2:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("it is bound");
    let blob = Arc::clone(blob);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(stream) = stream else { return };
            let blob = Arc::clone(&blob);
            std::thread::spawn(move || serve(stream, &blob, manner));
        }
    });
    address
}

fn serve(mut stream: TcpStream, blob: &Blob, manner: Manner) -> io::Result<()> {
    let mut hello = [0; HANDSHAKE_LEN];
    stream.read_exact(&mut hello)?;
    let Ok(Some((theirs, _))) = Handshake::decode(&hello) else { return Ok(()) };
    let mut out = Vec::new();
    Handshake::ours(theirs.info_hash, PeerId::random(&mut Rng::seeded(5))).encode(&mut out);
    Message::HaveAll.encode(&mut out);
    if !matches!(manner, Manner::Chokes) {
        Message::Unchoke.encode(&mut out);
    }
    stream.write_all(&out)?;
    let mut unread = Vec::new();
    loop {
        while let Ok(Some((frame, used))) = Frame::decode(&unread) {
            unread.drain(..used);
            if let Frame::Message(Message::Request(block)) = frame {
                answer(&mut stream, blob, manner, block)?;
            }
        }
        let mut part = [0; 4096];
        match stream.read(&mut part)? {
            0 => return Ok(()),
            len => unread.extend_from_slice(&part[..len]),
        }
    }
}

fn answer(stream: &mut TcpStream, blob: &Blob, manner: Manner, block: RawBlock) -> io::Result<()> {
    let geometry = Geometry::for_blob(blob.bytes.len() as u64).expect("a usual length");
    let at = block.piece as usize * geometry.piece_len() as usize + block.begin as usize;
    let bytes = &blob.bytes[at..at + block.len as usize];
    stream.write_all(&encode_block_head(block))?;
    match manner {
        Manner::Lies => stream.write_all(&vec![0; bytes.len()]),
        Manner::Breaks => {
            stream.write_all(&bytes[..bytes.len() / 2])?;
            Err(io::ErrorKind::ConnectionAborted.into())
        }
        Manner::Chokes => Ok(()),
        Manner::Dawdles(pause) => {
            // What is tested: time that passes.
            std::thread::sleep(pause);
            stream.write_all(bytes)
        }
    }
}

/// Tells the tracker that somebody at `peer` has it all.
fn announce(tracker: &Program, info_hash: Sha1Hash, peer: SocketAddr) {
    let request = AnnounceRequest {
        info_hash,
        peer_id: PeerId::random(&mut Rng::seeded(6)),
        port: peer.port(),
        uploaded: 0,
        downloaded: 0,
        left: 0,
        event: AnnounceEvent::Started,
        numwant: None,
        key: None,
        ip: Some(peer.ip()),
        tracker_id: None,
    };
    let url = format!("{}?{}", tracker.announce_url(), request.to_query());
    assert_eq!(get(&url, &[]).expect("it answers").status, 200);
}

#[test]
fn a_peer_that_sends_wrong_data_is_banned_and_the_pull_ends_right() {
    let world = World::start(12, 24 * MIB);
    let mut honest = world.seeder("honest");
    assert!(honest.stop().success());
    assert_eq!(world.seeders(), 0);
    let liar = start_peer(&world.upstream.blob, Manner::Lies);
    announce(&world.tracker, world.metainfo().info_hash(), liar);
    let client = world.client("client");
    world.pull(&client);
    assert_eq!(client.metric(BANNED), 1, "{}", client.log());
    assert!(client.log().contains("banned"));
    // The reader has the last byte before the store has.
    wait_for("it to be kept", || (status(&client)["store"]["blobs"] == 1).then_some(()));
}

#[test]
fn a_liar_among_honest_peers_costs_no_byte_of_upstream() {
    let world = World::start(13, 24 * MIB);
    let _honest = world.seeder("honest");
    let liar = start_peer(&world.upstream.blob, Manner::Lies);
    announce(&world.tracker, world.metainfo().info_hash(), liar);
    let client = world.client("client");
    world.pull(&client);
    assert_eq!(client.metric(FROM_UPSTREAM), 0, "{}", client.log());
}

#[test]
fn a_peer_that_is_no_help_costs_seconds() {
    let manners = [Manner::Dawdles(Duration::from_millis(300)), Manner::Chokes, Manner::Breaks];
    for (seed, manner) in (16..).zip(manners) {
        let world = World::start(seed, 24 * MIB);
        let mut honest = world.seeder("honest");
        assert!(honest.stop().success());
        let peer = start_peer(&world.upstream.blob, manner);
        announce(&world.tracker, world.metainfo().info_hash(), peer);
        let client = world.client("client");
        let start = Instant::now();
        world.pull(&client);
        let took = start.elapsed();
        // Patience with a slow swarm, twice, and a busy machine.
        assert!(took < Duration::from_secs(12), "{took:?}: {}", client.log());
        assert_eq!(client.metric(BANNED), 0, "{}", client.log());
    }
}
