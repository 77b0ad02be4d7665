//! How it ends: what is told to whom, how long it may take, what is left.

use std::time::{Duration, Instant};

use torrent_cache::base::sys;
use torrent_cache::limits;

use crate::support::torrent_cache::Program;
use crate::support::{PATIENCE, wait_for};
use crate::world::{Download, FROM_UPSTREAM, MIB, World};

/// More than a stop that has to wait for nobody ever takes, on a busy machine.
const QUICK: Duration = Duration::from_secs(4);

fn signal(client: &mut Program) {
    sys::kill(client.process().pid(), libc::SIGTERM).expect("it is our child");
}

/// A stop in order: status 0 says as well that no thread was left.
fn assert_clean_end(client: &mut Program) {
    let status = client.process().wait(PATIENCE);
    assert_eq!(status.code(), Some(0), "{}", client.log());
}

#[test]
fn an_idle_client_is_gone_quickly_and_the_tracker_knows() {
    let world = World::start(41, MIB);
    let mut client = world.seeder("client");
    let start = Instant::now();
    signal(&mut client);
    assert_clean_end(&mut client);
    assert!(start.elapsed() < QUICK, "{:?}: {}", start.elapsed(), client.log());
    assert_eq!(world.seeders(), 0);
}

#[test]
fn a_response_that_ends_in_time_ends_whole() {
    let world = World::start(42, 24 * MIB);
    let mut client = world.seeder("client");
    let download = Download::start(&world.url(&client), &["--limit-rate", "5M"]);
    wait_for("the first bytes", || (download.received() > 0).then_some(()));
    signal(&mut client);
    download.expect_whole(&world.upstream.blob);
    assert_clean_end(&mut client);
    assert_eq!(world.seeders(), 0);
}

#[test]
fn a_response_that_does_not_is_cut() {
    let world = World::start(43, 64 * MIB);
    let mut client = world.seeder("client");
    let mut download = Download::start(&world.url(&client), &["--limit-rate", "1M"]);
    wait_for("the first bytes", || (download.received() > 0).then_some(()));
    let start = Instant::now();
    signal(&mut client);
    assert_clean_end(&mut client);
    let took = start.elapsed();
    assert!(took >= limits::STOP && took < limits::STOP + QUICK, "{took:?}");
    assert_ne!(download.wait(), Some(0), "the reader sees that it was cut");
    assert_eq!(world.seeders(), 0);
}

#[test]
fn a_fetch_whose_upstream_is_silent_does_not_hold_it_up() {
    let world = World::start(44, 8 * MIB);
    world.upstream.fall_silent_after(Some(MIB));
    let mut client = world.client("client");
    let mut download = Download::start(&world.url(&client), &[]);
    wait_for("bytes", || (client.metric(FROM_UPSTREAM) > 0).then_some(()));
    let start = Instant::now();
    signal(&mut client);
    assert_clean_end(&mut client);
    assert!(start.elapsed() < limits::STOP + QUICK, "{:?}", start.elapsed());
    assert_ne!(download.wait(), Some(0));
}

#[test]
fn a_dead_tracker_does_not_hold_it_up() {
    let mut world = World::start(45, MIB);
    let mut client = world.seeder("client");
    world.tracker.process().pause();
    let start = Instant::now();
    signal(&mut client);
    assert_clean_end(&mut client);
    assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
    world.tracker.process().resume();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let world = World::start(46, 64 * MIB);
    let mut client = world.seeder("client");
    let download = Download::start(&world.url(&client), &["--limit-rate", "1M"]);
    wait_for("the first bytes", || (download.received() > 0).then_some(()));
    signal(&mut client);
    client.process().wait_until("it says so", |log| log.contains("stopping").then_some(()));
    let start = Instant::now();
    signal(&mut client);
    let status = client.process().wait(PATIENCE);
    assert_eq!(status.code(), Some(128 + libc::SIGTERM));
    assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
}
