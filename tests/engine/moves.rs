//! Blobs that move between hosts that mean well.

use std::time::Duration;

use torrent_cache::base::clock::Time;
use torrent_cache::store::Wait;

use crate::host::{Host, Sample, soon};

const LEN: usize = (20 << 20) + 12_345;

#[test]
fn a_blob_moves_bit_exact() {
    let sample = Sample::new(1, LEN);
    let seeder = Host::seeding(2, &sample);
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[seeder.address]);
    fetching.expect(&sample);
    let progress = fetching.membership.progress();
    assert_eq!(progress.bytes_from_peers[&seeder.address.ip()], LEN as u64);
    assert!(progress.last_byte_at.is_some() && progress.failed.is_none());
}

#[test]
fn who_downloads_uploads_what_it_has() {
    let sample = Sample::new(2, LEN);
    let [first, second, third] = [Host::seeding(2, &sample), Host::new(3), Host::new(4)];
    // The third knows the second alone, which has nothing yet.
    let end = third.fetch(&sample, &[second.address]);
    assert_eq!(end.partial.feed().wait(0, Time::now()), Wait::TimedOut);
    let middle = second.fetch(&sample, &[first.address]);
    end.expect(&sample);
    middle.expect(&sample);
}

#[test]
fn a_fetched_blob_is_seeded_from_the_sealed_file_and_after_a_restart() {
    let sample = Sample::new(3, 3 << 20);
    let first = Host::seeding(2, &sample);
    let second = Host::new(3);
    let membership = second.fetch(&sample, &[first.address]).finish(&second, &sample);
    drop(membership);
    first.engine.stop(soon());
    let third = Host::new(4);
    third.fetch(&sample, &[second.address]).finish(&third, &sample);
    second.engine.stop(soon());
    let third = third.restart(5);
    let fourth = Host::new(6);
    fourth.fetch(&sample, &[third.address]).expect(&sample);
}

#[test]
fn pieces_that_are_there_are_not_fetched_again() {
    let sample = Sample::new(4, 4 << 20);
    let seeder = Host::seeding(2, &sample);
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[]);
    // The upstream brings half of it.
    let half = (sample.bytes.len() / 2) as u64;
    let span = fetching.membership.claim(0, half, false).expect("all of it is free");
    assert_eq!((span.offset, span.len), (0, half));
    fetching.partial.write(0, &[sample.slice(span)]).unwrap();
    fetching.partial.feed().mark(span);
    let geometry = *sample.metainfo.geometry();
    for piece in geometry.pieces().take_while(|piece| geometry.span(*piece).end() <= half) {
        fetching.membership.stored(piece);
    }
    fetching.membership.offer_candidates(vec![seeder.address]);
    fetching.expect(&sample);
    let progress = fetching.membership.progress();
    assert_eq!(progress.bytes_from_peers.values().sum::<u64>(), half);
    assert!(fetching.membership.claim(0, half, true).is_none(), "nothing is left to claim");
}

#[test]
fn a_host_that_leaves_is_left_alone() {
    let sample = Sample::new(5, 1 << 20);
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[]);
    let mut peer = crate::peer::Wire::call(leecher.address, sample.metainfo.info_hash()).unwrap();
    // Its first message says that the swarm has taken the link.
    assert!(peer.next().unwrap().is_some());
    assert_eq!(fetching.membership.progress().links, 1);
    drop(fetching);
    peer.expect_closed();
    assert!(leecher.engine.status().swarms.is_empty());
}

#[test]
fn what_is_evicted_is_not_served() {
    let sample = Sample::new(6, 1 << 20);
    let seeder = Host::seeding(2, &sample);
    let mut peer = crate::peer::Wire::call(seeder.address, sample.metainfo.info_hash()).unwrap();
    assert!(peer.next().unwrap().is_some());
    assert_eq!(seeder.engine.status().seeds, 1);
    seeder.store.remove(&sample.name).unwrap();
    peer.expect_closed();
    assert_eq!(seeder.engine.status().seeds, 0);
    let again = crate::peer::Wire::call(seeder.address, sample.metainfo.info_hash());
    assert!(again.is_err(), "a blob that is gone has no swarm");
}

#[test]
fn readers_come_first() {
    let sample = Sample::new(7, 16 << 20);
    let seeder = Host::seeding(2, &sample);
    let leecher = Host::new(3);
    let fetching = leecher.fetch(&sample, &[]);
    let last = sample.bytes.len() as u64 - 1;
    let _reader = fetching.partial.feed().reader(last);
    fetching.membership.readers_moved();
    fetching.membership.offer_candidates(vec![seeder.address]);
    let deadline = Time::now() + Duration::from_secs(30);
    assert!(matches!(fetching.partial.feed().wait(last, deadline), Wait::Ready { .. }));
    fetching.expect(&sample);
}
