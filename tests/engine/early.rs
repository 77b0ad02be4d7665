//! Early swarms: a blob is shared before anybody has its metainfo, and some who tell hashes lie.

use std::io;
use std::sync::Arc;

use torrent_cache::base::figures;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::limits::PIECES_MAX;
use torrent_cache::proto::ext::ExtHandshake;
use torrent_cache::proto::geometry::Geometry;
use torrent_cache::proto::hashes::{HASHES_MAX, MESSAGE_NAME, PieceHashes};
use torrent_cache::proto::peer::{Frame, Message, PeerId, RawBlock};

use crate::host::{Fetching, Host, Sample, loopback};
use crate::peer::{Seeder, Wire};

/// The early swarm of these tests.
const SWARM: Sha1Hash = Sha1Hash([0xea; 20]);
/// The id that this program wants in front of `tc_hashes`.
const HASHES_ID: u8 = 1;

fn join(host: &Host, sample: &Sample) -> Fetching {
    let partial = host.store.begin(&sample.name, Some(sample.bytes.len() as u64)).unwrap();
    let geometry = *sample.metainfo.geometry();
    let joined = host.engine.join_early(SWARM, &sample.name, geometry, Arc::clone(&partial));
    Fetching { partial, membership: joined.unwrap() }
}

/// A piece comes from upstream.
fn bring(fetching: &Fetching, sample: &Sample, number: u32) {
    let piece = sample.metainfo.geometry().piece(number).unwrap();
    let span = sample.metainfo.geometry().span(piece);
    fetching.partial.write(span.offset, &[sample.slice(span)]).unwrap();
    fetching.partial.feed().mark(span);
    fetching.membership.hashed(piece, sample.metainfo.piece_hash(piece));
}

fn bring_all(fetching: &Fetching, sample: &Sample) {
    (0..sample.metainfo.geometry().piece_count()).for_each(|n| bring(fetching, sample, n));
}

fn hashes(sample: &Sample, change: impl Fn(Sha1Hash) -> Sha1Hash) -> PieceHashes {
    let pieces = sample.metainfo.geometry().pieces();
    let entry = |piece| change(sample.metainfo.piece_hash(piece));
    PieceHashes { hashes: pieces.map(|piece| (piece.get(), entry(piece))).collect() }
}

fn tell(wire: &mut Wire, hashes: &PieceHashes) -> io::Result<()> {
    let mut payload = Vec::new();
    hashes.encode(&mut payload);
    wire.send(&Message::Extended { id: HASHES_ID, payload })
}

fn is_not(hash: Sha1Hash) -> Sha1Hash {
    Sha1Hash(hash.0.map(|byte| !byte))
}

/// A peer that says it has everything, and tells these hashes.
fn teller(
    number: u8,
    told: PieceHashes,
    answer: impl FnMut(RawBlock) -> io::Result<Option<Vec<u8>>> + Send + 'static,
) -> Seeder {
    let opening = move |wire: &mut Wire| {
        wire.send(&Message::HaveAll)?;
        wire.send(&Message::Unchoke)?;
        tell(wire, &told)
    };
    Seeder::opening_with(loopback(number), PeerId::random(&mut Rng::from_os()), opening, answer)
}

#[test]
fn pieces_are_passed_on_as_they_come() {
    let sample = Sample::new(60, 4 << 20);
    let (leader, follower) = (Host::new(2), Host::new(3));
    let (leads, follows) = (join(&leader, &sample), join(&follower, &sample));
    follows.membership.offer_candidates(vec![leader.address]);
    bring_all(&leads, &sample);
    follows.expect(&sample);
}

#[test]
fn who_sends_other_bytes_than_it_told_is_banned_and_the_swarm_goes_on() {
    let sample = Arc::new(Sample::new(61, 4 << 20));
    let wrong = |sample: &Arc<Sample>| {
        let sample = Arc::clone(sample);
        move |block| {
            let mut body = sample.block(block);
            body[0] ^= 1;
            Ok(Some(body))
        }
    };
    let banned = figures::PEERS_BANNED.value();
    let follower = Host::new(3);
    let follows = join(&follower, &sample);
    // Right hashes and wrong bytes; wrong hashes and right bytes.
    let liar = teller(66, hashes(&sample, |hash| hash), wrong(&sample));
    let right = Arc::clone(&sample);
    let other = teller(67, hashes(&sample, is_not), move |block| Ok(Some(right.block(block))));
    for liar in [liar, other] {
        follows.membership.offer_candidates(vec![liar.address]);
        liar.thread.join().expect("it is thrown out");
    }
    assert!(figures::PEERS_BANNED.value() >= banned + 2);
    assert_eq!(follows.partial.feed().prefix(), 0, "nothing of it was written");
    let leader = Host::new(2);
    let leads = join(&leader, &sample);
    follows.membership.offer_candidates(vec![leader.address]);
    bring_all(&leads, &sample);
    follows.expect(&sample);
    let bytes = follows.membership.progress().bytes_from_peers[&loopback(2)];
    assert_eq!(bytes, sample.bytes.len() as u64, "of the host that told the truth");
}

#[test]
fn wrong_hashes_with_nothing_behind_them_hold_nothing_up() {
    let sample = Sample::new(62, 4 << 20);
    let follower = Host::new(3);
    let follows = join(&follower, &sample);
    let silent = teller(68, hashes(&sample, is_not), |_| Ok(None));
    follows.membership.offer_candidates(vec![silent.address]);
    silent.requests.recv().expect("it is asked");
    let leader = Host::new(2);
    let leads = join(&leader, &sample);
    follows.membership.offer_candidates(vec![leader.address]);
    // The one who knows is told lies as well, and believes its own eyes.
    let mut liar = Wire::call(leader.address, SWARM).unwrap();
    tell(&mut liar, &hashes(&sample, is_not)).unwrap();
    bring_all(&leads, &sample);
    follows.expect(&sample);
    assert!(leads.membership.progress().bytes_from_peers.is_empty());
}

#[test]
fn hashes_without_end_are_taken_once() {
    const COUNT: usize = 2000;
    let sample = Sample::new(63, 4 << 20);
    let (leader, follower) = (Host::new(2), Host::new(3));
    let (leads, follows) = (join(&leader, &sample), join(&follower, &sample));
    let mut flood = Wire::call(follower.address, SWARM).unwrap();
    let told = hashes(&sample, is_not);
    (0..COUNT).for_each(|_| tell(&mut flood, &told).unwrap());
    follows.membership.offer_candidates(vec![leader.address]);
    bring_all(&leads, &sample);
    follows.expect(&sample);
    // More of them than the blob has pieces: the link ends.
    let many = PieceHashes { hashes: (0..).map(|n| (n, SWARM)).take(HASHES_MAX).collect() };
    let _ = tell(&mut flood, &many);
    flood.expect_closed();
}

#[test]
fn a_host_with_every_other_of_many_pieces_tells_all_their_hashes() {
    const TO_PEER: u8 = 7;
    let geometry = Geometry::new(u64::from(PIECES_MAX) << 14, 1 << 14).unwrap();
    let sample = Sample::new(65, 1 << 14);
    let host = Host::new(2);
    let partial = host.store.begin(&sample.name, None).unwrap();
    let joined = host.engine.join_early(SWARM, &sample.name, geometry, partial).unwrap();
    let hash = |number: u32| Sha1Hash::of(&number.to_be_bytes());
    let here: Vec<_> = geometry.pieces().step_by(2).collect();
    here.iter().for_each(|piece| joined.hashed(*piece, hash(piece.get())));
    let mut peer = Wire::call(host.address, SWARM).unwrap();
    let (mut payload, messages) = (Vec::new(), [(MESSAGE_NAME.to_owned(), TO_PEER)]);
    ExtHandshake { messages: messages.into(), ..ExtHandshake::default() }.encode(&mut payload);
    peer.send(&Message::Extended { id: 0, payload }).unwrap();
    let mut told = Vec::new();
    while told.len() < here.len() {
        let frame = peer.next().unwrap().expect("it stays open");
        if let Frame::Message(Message::Extended { id: TO_PEER, payload }) = frame {
            told.extend(PieceHashes::decode(&payload).expect("its own").hashes);
        }
    }
    let right = here.iter().map(|piece| (piece.get(), hash(piece.get())));
    assert!(told.into_iter().eq(right));
}

#[test]
fn where_nobody_asked_for_hashes_they_are_passed_over() {
    let sample = Sample::new(64, 4 << 20);
    let (seeder, leecher) = (Host::seeding(2, &sample), Host::new(3));
    let fetching = leecher.fetch(&sample, &[]);
    for host in [&seeder, &leecher] {
        let mut liar = Wire::call(host.address, sample.metainfo.info_hash()).unwrap();
        tell(&mut liar, &hashes(&sample, is_not)).unwrap();
        tell(&mut liar, &PieceHashes { hashes: vec![(7777, SWARM)] }).unwrap();
        liar.send(&Message::Interested).unwrap();
    }
    fetching.membership.offer_candidates(vec![seeder.address]);
    fetching.expect(&sample);
}
