//! Peers that lie, stall, vanish, or talk nonsense.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use torrent_cache::base::clock::Time;
use torrent_cache::base::figures;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::limits::{BLOCK_LEN_MAX, HANDSHAKES_PER_ADDRESS_MAX};
use torrent_cache::proto::peer::{Frame, Handshake, Message, PeerId, RawBlock};

use crate::host::{Host, Sample, loopback, soon};
use crate::peer::{Seeder, Wire};

#[test]
fn a_peer_that_sends_wrong_bytes_is_banned_and_the_blob_ends_right() {
    let sample = Arc::new(Sample::new(20, 4 << 20));
    let honest = Host::seeding(2, &sample);
    let lies = Arc::clone(&sample);
    let liar = Seeder::start(loopback(66), move |block| {
        let mut body = lies.block(block);
        body[0] ^= 1;
        Ok(Some(body))
    });
    let banned = figures::PEERS_BANNED.value();
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[liar.address]);
    liar.thread.join().expect("it is thrown out");
    assert!(figures::PEERS_BANNED.value() > banned);
    assert_eq!(fetching.partial.feed().prefix(), 0, "nothing of it was written");
    fetching.membership.offer_candidates(vec![honest.address]);
    fetching.expect(&sample);
}

#[test]
fn who_is_banned_in_one_swarm_is_thrown_out_of_the_others_at_once() {
    let [lied, other] = [29, 30].map(|seed| Arc::new(Sample::new(seed, 1 << 20)));
    let leecher = Host::new(3);
    let fetching = [&lied, &other].map(|sample| leecher.fetch(sample, &[]));
    let liar = PeerId(*b"-XX0001-banned-twice");
    let call = |id| {
        let mut wire = Wire::call_as(id, leecher.address, other.metainfo.info_hash()).unwrap();
        // The first message: there is a link.
        assert_eq!(wire.next().unwrap(), Some(Frame::Message(Message::HaveNone)));
        wire
    };
    let (liar_there, mut bystander) = (call(liar), call(PeerId(*b"-XX0001-somebodyelse")));
    let opening = |wire: &mut Wire| {
        wire.send(&Message::HaveAll)?;
        wire.send(&Message::Unchoke)
    };
    let wrong = |block: RawBlock| Ok(Some(vec![1; block.len as usize]));
    let liar_here = Seeder::opening_with(loopback(70), liar, opening, wrong);
    fetching[0].membership.offer_candidates(vec![liar_here.address]);
    liar_there.expect_closed();
    liar_here.thread.join().expect("it is thrown out");
    bystander.send(&Message::HaveAll).unwrap();
    while bystander.next().unwrap().expect("it stays") != Frame::Message(Message::Interested) {}
    let honest = Host::seeding(2, &other);
    fetching[1].membership.offer_candidates(vec![honest.address]);
    fetching[1].expect(&other);
}

#[test]
fn what_a_vanished_seeder_did_not_send_comes_from_upstream_and_no_piece_twice() {
    let sample = Arc::new(Sample::new(21, 8 << 20));
    let served = Arc::clone(&sample);
    let mut left = 3 << 20;
    let seeder = Seeder::start(loopback(67), move |block| {
        left -= i64::from(block.len);
        if left < 0 {
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        Ok(Some(served.block(block)))
    });
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[seeder.address]);
    seeder.thread.join().expect("it vanishes");
    // Those pieces that were all there are on their way to the disk; the rest can be claimed.
    let (membership, partial) = (&fetching.membership, &fetching.partial);
    let geometry = *sample.metainfo.geometry();
    let mut claimed = Vec::new();
    while let Some(span) = membership.claim(0, 1 << 20, true) {
        assert!(!partial.feed().is_readable(span), "{span:?} is there");
        partial.write(span.offset, &[sample.slice(span)]).unwrap();
        partial.feed().mark(span);
        let inside = geometry.pieces().filter(|p| {
            let piece = geometry.span(*p);
            span.offset <= piece.offset && piece.end() <= span.end()
        });
        inside.for_each(|piece| membership.stored(piece));
        claimed.push(span);
    }
    fetching.expect(&sample);
    claimed.sort_unstable();
    assert!(claimed.windows(2).all(|pair| pair[0].end() <= pair[1].offset), "{claimed:?}");
    assert!(membership.progress().bytes_from_peers.values().sum::<u64>() <= 3 << 20);
}

#[test]
fn a_silent_peer_does_not_hold_the_blob_up() {
    let sample = Sample::new(22, 4 << 20);
    let honest = Host::seeding(2, &sample);
    let silent = Seeder::start(loopback(68), |_| Ok(None));
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[silent.address]);
    silent.requests.recv_timeout(Duration::from_secs(30)).expect("it is asked");
    fetching.membership.offer_candidates(vec![honest.address]);
    fetching.expect(&sample);
}

#[test]
fn nonsense_ends_its_own_link_alone() {
    let sample = Sample::new(23, 4 << 20);
    let seeder = Host::seeding(2, &sample);
    let info_hash = sample.metainfo.info_hash();
    let mut bystander = Wire::call(seeder.address, info_hash).unwrap();

    // No handshake: an encrypted one, another protocol, a swarm that nobody is in.
    for first in [&[0x77; 96][..], b"GET / HTTP/1.1\r\n\r\n", b"\x13BitTorrent protocoX"] {
        let mut stream = TcpStream::connect(seeder.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(first).unwrap();
        // The rest of what was sent may make it a reset.
        assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
    }
    assert!(Wire::call(seeder.address, Sha1Hash([7; 20])).is_err());

    // No message: a bitfield of another blob, a piece that does not exist, a block that ends
    // outside, an extension handshake that is no dictionary, and last one that is too long.
    let block = RawBlock { piece: 0, begin: u32::MAX, len: 1 << 14 };
    for message in [
        Message::Bitfield(vec![0xff; 100]),
        Message::Have(u32::MAX),
        Message::Request(block),
        Message::Extended { id: 0, payload: b"d1:v".to_vec() },
    ] {
        let mut wire = Wire::call(seeder.address, info_hash).unwrap();
        wire.send(&Message::Interested).unwrap();
        wire.send(&message).unwrap();
        wire.expect_closed();
    }
    let mut wire = Wire::call(seeder.address, info_hash).unwrap();
    wire.stream.write_all(&u32::MAX.to_be_bytes()).unwrap();
    wire.expect_closed();

    bystander.send(&Message::Interested).unwrap();
    while bystander.next().unwrap().expect("the bystander stays")
        != Frame::Message(Message::Unchoke)
    {}
    let leecher = Host::new(3);
    leecher.fetch(&sample, &[seeder.address]).expect(&sample);
}

#[test]
fn blocks_that_nobody_asked_for_are_not_kept() {
    let sample = Sample::new(24, 1 << 20);
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[]);
    let mut peer = Wire::call(leecher.address, sample.metainfo.info_hash()).unwrap();
    let duplicates = figures::DUPLICATE_BYTES.value();
    let block = RawBlock { piece: 0, begin: 0, len: 1 << 14 };
    for _ in 0..8 {
        peer.send_block(block, &sample.bytes[..1 << 14]).unwrap();
    }
    // What is answered after the blocks shows that they were read.
    peer.send(&Message::HaveAll).unwrap();
    loop {
        let frame = peer.next().unwrap().expect("unasked blocks are no crime");
        if frame == Frame::Message(Message::Interested) {
            break;
        }
    }
    assert!(figures::DUPLICATE_BYTES.value() >= duplicates + (8 << 14));
    assert!(fetching.membership.progress().bytes_from_peers.is_empty());
}

#[test]
fn who_goes_on_sending_what_nobody_asked_for_is_let_go() {
    let sample = Sample::new(32, 1 << 20);
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[]);
    let mut peer = Wire::call(leecher.address, sample.metainfo.info_hash()).unwrap();
    let failed = figures::LINKS_FAILED_THEIRS.value();
    peer.stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    let block = RawBlock { piece: 0, begin: 0, len: BLOCK_LEN_MAX };
    let body = vec![0; block.len as usize];
    // The kernel holds some of it.
    assert!((0..1000).any(|_| peer.send_block(block, &body).is_err()), "a gigabyte was read");
    let deadline = soon();
    while figures::LINKS_FAILED_THEIRS.value() <= failed {
        assert!(Time::now() < deadline, "it is nobody's fault");
        std::thread::yield_now();
    }
    let honest = Host::seeding(2, &sample);
    fetching.membership.offer_candidates(vec![honest.address]);
    fetching.expect(&sample);
}

/// What reaches the swarm and does not exist ends the link.
#[test]
fn who_refuses_a_request_may_send_nothing_else_in_its_place() {
    let sample = Sample::new(31, 1 << 20);
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[]);
    let mut peer = Wire::call(leecher.address, sample.metainfo.info_hash()).unwrap();
    peer.send(&Message::HaveAll).unwrap();
    peer.send(&Message::Unchoke).unwrap();
    let asked = loop {
        if let Frame::Message(Message::Request(block)) = peer.next().unwrap().expect("it asks") {
            break block;
        }
    };
    peer.send(&Message::Reject(asked)).unwrap();
    let other = RawBlock { piece: u32::MAX, ..asked };
    peer.send_block(other, &vec![0; asked.len as usize]).unwrap();
    // Its answer shows that the block was read.
    let no = Message::Reject(asked);
    peer.send(&Message::Request(asked)).unwrap();
    while peer.next().unwrap().expect("it stays open") != Frame::Message(no.clone()) {}
    drop(fetching);
}

#[test]
fn only_peers_in_the_given_networks_are_answered() {
    let sample = Sample::new(14, 1 << 20);
    let info_hash = sample.metainfo.info_hash();
    for (networks, welcome) in [
        (&["10.0.0.0/8", "fd00::/8"][..], false),
        (&["10.0.0.0/8", "127.0.0.0/8"], true),
        (&[], true),
    ] {
        let host = Host::within(2, networks);
        host.put(&sample);
        assert_eq!(Wire::call(host.address, info_hash).is_ok(), welcome, "{networks:?}");
    }
}

#[test]
fn a_candidate_outside_the_given_networks_is_not_called() {
    let sample = Sample::new(15, 1 << 20);
    let [outside, inside] = [2, 3].map(|number| Host::seeding(number, &sample));
    let leecher = Host::within(4, &["127.0.0.3"]);
    let fetching = leecher.fetch(&sample, &[outside.address, inside.address]);
    fetching.expect(&sample);
    let senders = fetching.membership.progress().bytes_from_peers;
    assert_eq!(senders.into_keys().collect::<Vec<_>>(), [inside.address.ip()]);
}

/// The address is that of a mapped port, which leads to the host itself.
#[test]
fn a_host_does_not_talk_to_itself_and_calls_itself_once() {
    let sample = Arc::new(Sample::new(25, 2 << 20));
    let leecher = Host::new(3);
    let mapped = TcpListener::bind((loopback(25), 0)).unwrap();
    let address = mapped.local_addr().unwrap();
    let fetching = leecher.fetch(&sample, &[address]);
    let (outside, _) = mapped.accept().expect("it is called");
    let inside = TcpStream::connect(leecher.address).unwrap();
    let other = |stream: &TcpStream| stream.try_clone().unwrap();
    let ways = [(other(&outside), other(&inside)), (inside, outside)];
    let carry = |(mut from, mut to): (TcpStream, TcpStream)| {
        from.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let carried = io::copy(&mut from, &mut to);
        let _ = to.shutdown(Shutdown::Write);
        // It may be cut while something is on its way.
        carried.map_or_else(|error| error.kind(), |_| io::ErrorKind::UnexpectedEof)
    };
    for end in ways.map(|way| std::thread::spawn(move || carry(way))) {
        assert_ne!(end.join().unwrap(), io::ErrorKind::WouldBlock, "it stays linked to itself");
    }
    // It is told of the same address again, and gets all from another.
    let served = Arc::clone(&sample);
    let seeder = Seeder::start(loopback(69), move |block| Ok(Some(served.block(block))));
    fetching.membership.offer_candidates(vec![address, seeder.address]);
    fetching.expect(&sample);
    mapped.set_nonblocking(true).unwrap();
    assert!(mapped.accept().is_err(), "it calls itself again");
}

#[test]
fn a_broken_store_ends_the_membership_and_says_so() {
    let sample = Sample::new(26, 2 << 20);
    let seeder = Host::seeding(2, &sample);
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[]);
    // A partial that was given up takes no more bytes.
    leecher.store.discard(&fetching.partial);
    let peer = Wire::call(leecher.address, sample.metainfo.info_hash()).unwrap();
    fetching.membership.offer_candidates(vec![seeder.address]);
    peer.expect_closed();
    assert!(fetching.membership.progress().failed.is_some());
    assert_eq!(fetching.partial.feed().prefix(), 0);
    leecher.engine.stop(soon());
    assert!(leecher.engine.join(Arc::clone(&sample.metainfo), fetching.partial).is_err());
}

#[test]
fn a_peer_that_makes_us_ask_and_never_reads_is_let_go() {
    let sample = Sample::new(27, 2 << 20);
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[]);
    let failed = figures::LINKS_FAILED_THEIRS.value();
    let mut stream = TcpStream::connect(leecher.address).unwrap();
    socket2::SockRef::from(&stream).set_recv_buffer_size(4 << 10).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    // Without the fast extension a choke takes back all requests.
    let hello = Handshake {
        reserved: [0; 8],
        ..Handshake::ours(sample.metainfo.info_hash(), PeerId(*b"-XX0001-abcdefghijkl"))
    };
    let mut bytes = Vec::new();
    hello.encode(&mut bytes);
    Message::Bitfield(vec![0xff; 4]).encode(&mut bytes);
    stream.write_all(&bytes).unwrap();
    bytes.clear();
    Message::Unchoke.encode(&mut bytes);
    Message::Choke.encode(&mut bytes);
    let bytes = bytes.repeat(1000);
    // Each time it is asked for four blocks. The kernel holds 100,000 requests or so.
    let ended = (0..1000).find(|_| stream.write_all(&bytes).is_err());
    assert!(ended.is_some(), "a million times, and it is asked all the same");
    assert!(figures::LINKS_FAILED_THEIRS.value() > failed);
    drop(fetching);
}

/// A head costs a peer 13 bytes.
#[test]
fn blocks_of_which_only_the_head_comes_take_nothing_of_what_may_be_taken() {
    const RATE: u32 = 512 << 10;
    let sample = Sample::new(28, 1 << 20);
    let seeder = Host::seeding(2, &sample);
    let leecher = Host::with(3, |config| config.download_max = Some(RATE.into()));
    let fetching = leecher.fetch(&sample, &[]);
    let unasked = figures::DUPLICATE_BYTES.value();
    let block = RawBlock { piece: 0, begin: 0, len: BLOCK_LEN_MAX };
    let peers: Vec<Wire> = (0..HANDSHAKES_PER_ADDRESS_MAX)
        .map(|_| {
            let mut peer = Wire::call(leecher.address, sample.metainfo.info_hash()).unwrap();
            peer.send_block(block, &[]).unwrap();
            peer
        })
        .collect();
    // All of them together take a minute at the rate.
    let promised = peers.len() as u64 * u64::from(BLOCK_LEN_MAX);
    assert!(promised > 60 * u64::from(RATE));
    let deadline = soon();
    while figures::DUPLICATE_BYTES.value() < unasked + promised {
        assert!(Time::now() < deadline, "they wait for each other");
        std::thread::yield_now();
    }
    fetching.membership.offer_candidates(vec![seeder.address]);
    fetching.expect(&sample);
}
