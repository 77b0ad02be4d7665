//! What other people's clients do, and it is no fault.

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use torrent_cache::proto::peer::{Frame, Message, PeerId, RawBlock};

use crate::host::{Host, Sample, loopback};
use crate::peer::{Seeder, Wire};

/// A client that is not this program.
const FOREIGN: PeerId = PeerId(*b"-XX0001-abcdefghijkl");
const BLOCK_LEN: u32 = 16 << 10;
/// A message with an id that nobody knows, which [`Message`] does not write.
const UNKNOWN: [u8; 7] = [0, 0, 0, 3, 77, 1, 2];
const KEEP_ALIVE: [u8; 4] = [0; 4];

/// Fetches a blob from a foreign seeder that opens so and answers as asked.
fn takes_from(number: u8, opening: impl FnOnce(&mut Wire) -> io::Result<()> + Send + 'static) {
    let sample = Arc::new(Sample::new(number.into(), 2 << 20));
    let served = Arc::clone(&sample);
    let answer = move |block| Ok(Some(served.block(block)));
    let seeder = Seeder::opening_with(loopback(number), FOREIGN, opening, answer);
    let leecher = Host::new(3);
    leecher.fetch(&sample, &[seeder.address]).expect(&sample);
    let longest = seeder.requests.try_iter().map(|block| block.len).max();
    assert_eq!(longest, Some(BLOCK_LEN), "others may refuse longer blocks");
}

/// Of the 32 pieces of [`takes_from`].
fn whole() -> Message {
    Message::Bitfield(vec![0xff; 4])
}

#[test]
fn the_bitfield_may_come_after_messages_of_the_extensions() {
    takes_from(80, |wire| {
        for number in [3, 0, 7] {
            wire.send(&Message::AllowedFast(number))?;
        }
        wire.send(&Message::Suggest(5))?;
        wire.send(&Message::Extended { id: 0, payload: b"d1:md6:ut_pexi1eee".to_vec() })?;
        wire.send(&Message::Port(6881))?;
        wire.send(&whole())?;
        wire.send(&Message::Unchoke)
    });
}

#[test]
fn extensions_that_nobody_knows_are_passed_over() {
    takes_from(81, |wire| {
        let handshake = b"d1:md7:lt_junki200e6:ut_nili0ee1:pi70000e4:reqqi-1e1:v0:4:yourd1:xleee";
        wire.send(&Message::Extended { id: 0, payload: handshake.to_vec() })?;
        wire.send(&whole())?;
        for id in [1, 7, 200, 255] {
            wire.send(&Message::Extended { id, payload: b"\xff no bencode".to_vec() })?;
        }
        wire.stream.write_all(&UNKNOWN)?;
        wire.send(&Message::Unchoke)?;
        wire.stream.write_all(&UNKNOWN)
    });
}

#[test]
fn keep_alives_may_stand_anywhere_and_arrive_in_parts() {
    takes_from(82, |wire| {
        let mut bytes = KEEP_ALIVE.repeat(100);
        whole().encode(&mut bytes);
        bytes.extend(KEEP_ALIVE);
        Message::Unchoke.encode(&mut bytes);
        bytes.extend(KEEP_ALIVE);
        wire.stream.set_nodelay(true)?;
        // The last but one breaks off within a length, and the first block may follow it.
        bytes.chunks(7).try_for_each(|part| wire.stream.write_all(part))
    });
}

#[test]
fn who_chokes_is_not_asked_whatever_it_allows() {
    let sample = Arc::new(Sample::new(83, 2 << 20));
    let served = Arc::clone(&sample);
    let opening = |wire: &mut Wire| {
        wire.send(&whole())?;
        (0..8).try_for_each(|piece| wire.send(&Message::AllowedFast(piece)))?;
        // What it says to a question that comes after all this shows that it has seen it.
        let question = RawBlock { piece: 0, begin: 0, len: BLOCK_LEN };
        wire.send(&Message::Request(question))?;
        let mut said = Vec::new();
        while said.last() != Some(&Frame::Message(Message::Reject(question))) {
            said.push(wire.next()?.ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        assert!(said.contains(&Frame::Message(Message::Interested)), "it is wanted: {said:?}");
        let asked = said.iter().any(|frame| matches!(frame, Frame::Message(Message::Request(_))));
        assert!(!asked, "it did not say yet that it gives: {said:?}");
        wire.send(&Message::Unchoke)
    };
    let answer = move |block| Ok(Some(served.block(block)));
    let seeder = Seeder::opening_with(loopback(83), FOREIGN, opening, answer);
    let leecher = Host::new(3);
    leecher.fetch(&sample, &[seeder.address]).expect(&sample);
}

/// A foreign peer that is served by a seeder of `sample`.
fn served(sample: &Sample, seeder: &Host) -> Wire {
    let info_hash = sample.metainfo.info_hash();
    let mut wire = Wire::call_as(FOREIGN, seeder.address, info_hash).expect("it is welcome");
    wire.send(&Message::Interested).expect("it is open");
    while wire.next().expect("it is open") != Some(Frame::Message(Message::Unchoke)) {}
    wire
}

#[test]
fn a_request_for_128_kib_is_answered_whole() {
    // The shortest blob with pieces so long.
    let sample = Sample::new(84, (32 << 20) + 1);
    let seeder = Host::seeding(2, &sample);
    let mut wire = served(&sample, &seeder);
    let asked = RawBlock { piece: 3, begin: 0, len: 128 << 10 };
    wire.send(&Message::Request(asked)).expect("it is open");
    loop {
        match wire.next().expect("it is open").expect("it stays open") {
            Frame::Block(block) => {
                assert_eq!(block, asked);
                assert!(wire.read_body(block.len).expect("it comes") == sample.block(block));
                return;
            }
            Frame::Message(message) => assert!(!matches!(message, Message::Reject(_))),
        }
    }
}

#[test]
fn of_ten_times_as_many_requests_as_we_promise_to_keep_each_is_answered_with_its_block() {
    const COUNT: u32 = 5000;
    let sample = Sample::new(85, 2 << 20);
    let seeder = Host::seeding(2, &sample);
    let mut wire = served(&sample, &seeder);
    let block =
        |at: u32| RawBlock { piece: at / 4 % 32, begin: at % 4 * BLOCK_LEN, len: BLOCK_LEN };
    let mut requests = Vec::new();
    (0..COUNT).for_each(|at| Message::Request(block(at)).encode(&mut requests));
    wire.stream.write_all(&requests).expect("the kernel holds what is not read yet");
    let mut at = 0;
    while at < COUNT {
        match wire.next().expect("it is open").expect("it stays open") {
            Frame::Block(sent) => {
                assert_eq!(sent, block(at), "in the order in which they were asked for");
                assert!(wire.read_body(sent.len).expect("it comes") == sample.block(sent));
                at += 1;
            }
            Frame::Message(message) => assert!(!matches!(message, Message::Reject(_))),
        }
    }
}

#[test]
fn connections_on_which_nobody_says_anything_hold_nobody_up() {
    let sample = Sample::new(86, 2 << 20);
    let seeder = Host::seeding(2, &sample);
    // Callers that say nothing, or half of it, and a host that takes a call and says nothing.
    let half_open: Vec<TcpStream> = (0..40)
        .map(|number| {
            let mut stream = TcpStream::connect(seeder.address).expect("it listens");
            stream.write_all(&b"\x13BitTorrent protocol"[..number % 20]).expect("it is open");
            stream
        })
        .collect();
    let silent = TcpListener::bind((loopback(86), 0)).expect("a port is free");
    let leecher = Host::new(3);
    let candidates = [silent.local_addr().expect("it is bound"), seeder.address];
    leecher.fetch(&sample, &candidates).expect(&sample);
    drop(half_open);
}

#[test]
fn who_calls_a_second_time_is_turned_away_and_the_first_link_stays() {
    let sample = Sample::new(87, 2 << 20);
    let seeder = Host::seeding(2, &sample);
    let mut first = served(&sample, &seeder);
    for _ in 0..3 {
        let again = Wire::call_as(FOREIGN, seeder.address, sample.metainfo.info_hash());
        again.expect("who it is shows later").expect_closed();
    }
    first.send(&Message::Request(RawBlock { piece: 0, begin: 0, len: 1 })).expect("it is open");
    let mut next = || first.next().expect("it is open").expect("it stays open");
    while !matches!(next(), Frame::Block(_)) {}
}

/// A peer with this id that calls a host while the host calls it: which of the two links is kept,
/// the one that the peer called for or the other.
fn crossed(number: u8, id: PeerId) -> &'static str {
    let sample = Arc::new(Sample::new(number.into(), 2 << 20));
    let leecher = Host::new(3);
    let listener = TcpListener::bind((loopback(number), 0)).expect("a port is free");
    let address: SocketAddr = listener.local_addr().expect("it is bound");
    let fetching = leecher.fetch(&sample, &[address]);
    let (stream, _) = listener.accept().expect("it calls");
    // Neither side knows yet that the other is who it called.
    let info_hash = sample.metainfo.info_hash();
    let theirs = Wire::of(stream).and_then(|mut wire| {
        wire.read_hello()?;
        Ok(wire)
    });
    let ours = Wire::call_from(loopback(number), id, leecher.address, info_hash);
    let ours = ours.expect("it is welcome");
    let mut theirs = theirs.expect("it greets");
    theirs.greet_as(id, info_hash).expect("it is open");
    let (closed, one_closed) = std::sync::mpsc::channel();
    let links = [(ours, "the peer's"), (theirs, "the host's")].map(|(mut wire, name)| {
        let (closed, served) = (closed.clone(), Arc::clone(&sample));
        let stream = wire.stream.try_clone().expect("a descriptor is free");
        std::thread::spawn(move || {
            let _ = wire.serve(|block| Ok(Some(served.block(block))));
            let _ = closed.send(name);
        });
        (stream, name)
    });
    let dropped = one_closed.recv_timeout(Duration::from_secs(30)).expect("one is closed");
    let (mut stream, kept) = links.into_iter().find(|(_, name)| *name != dropped).expect("two");
    let mut opening = Vec::new();
    [whole(), Message::Unchoke].iter().for_each(|message| message.encode(&mut opening));
    stream.write_all(&opening).expect("the other stays");
    fetching.expect(&sample);
    kept
}

/// Whoever calls a host is told its id.
#[test]
fn who_goes_by_the_id_of_another_does_not_take_its_place() {
    let sample = Sample::new(90, 2 << 20);
    let seeder = Host::seeding(2, &sample);
    let info_hash = sample.metainfo.info_hash();
    let stream = TcpStream::connect(seeder.address).expect("it listens");
    let told = Wire::of(stream).and_then(|mut wire| {
        wire.greet_as(FOREIGN, info_hash)?;
        wire.read_hello()
    });
    let id = told.expect("it tells its id").peer_id;
    // Of two calls that cross, it would keep the one of the lower id.
    let leecher = Host::with(3, |config| config.peer_id = PeerId([0xff; 20]));
    let fetching = leecher.fetch(&sample, &[]);
    let stranger = Wire::call_from(loopback(90), id, leecher.address, info_hash);
    let mut stranger = stranger.expect("it is welcome");
    stranger.send(&Message::HaveAll).expect("it is open");
    // It is taken for a peer that has everything.
    let mut next = || stranger.next().expect("it is open").expect("it stays open");
    while next() != Frame::Message(Message::Interested) {}
    fetching.membership.offer_candidates(vec![seeder.address]);
    fetching.expect(&sample);
}

#[test]
fn of_two_calls_that_cross_the_one_of_the_lower_peer_id_is_kept() {
    assert_eq!(crossed(88, PeerId([1; 20])), "the peer's");
    assert_eq!(crossed(89, PeerId([0xff; 20])), "the host's");
}
