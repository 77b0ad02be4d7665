//! How it ends: what is told to whom, how long it may take, what is left.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use torrent_cache::base::sys;
use torrent_cache::limits;

use crate::support::origin::{Origin, Step};
use crate::support::process::Process;
use crate::support::torrent_cache::{Program, binary};
use crate::support::{PATIENCE, temp_dir, wait_for};
use crate::world::{Download, FROM_PEERS, FROM_UPSTREAM, MIB, World, stored};

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
fn a_fetch_from_peers_that_ends_in_time_ends_whole() {
    let world = World::start(48, 64 * MIB);
    let _seeder = world.seeder("seeder");
    let mut client = world.client("client");
    let download = Download::start(&world.url(&client), &["--limit-rate", "12M"]);
    wait_for("the first bytes", || (download.received() > 0).then_some(()));
    signal(&mut client);
    download.expect_whole(&world.upstream.blob);
    assert_clean_end(&mut client);
}

#[test]
fn a_fetch_from_upstream_that_ends_in_time_ends_whole() {
    let world = World::start(49, 64 * MIB);
    let mut client = world.client("client");
    let download = Download::start(&world.url(&client), &["--limit-rate", "12M"]);
    wait_for("the first bytes", || (download.received() > 0).then_some(()));
    signal(&mut client);
    download.expect_whole(&world.upstream.blob);
    assert_clean_end(&mut client);
    assert_eq!(stored(&client, "blobs").len(), 1, "it is kept");
}

#[test]
fn a_signal_at_any_moment_of_the_start_ends_it() {
    for millis in (0..60).step_by(5) {
        let mut command = Command::new(binary());
        let dir = temp_dir();
        command.arg("client").env_clear().env("INTERFACE", "127.0.0.1").env("PORT", "0");
        command.env("ADMIN", "127.0.0.1:0").env("STORAGE", dir.path());
        command.env("TORRENT_FIRST_PORT", "0").env("TORRENT_LAST_PORT", "0");
        command.env("REGISTRY_NO_SSL", "1");
        let mut process = Process::spawn("client", command, "");
        // What is tested: some moment, whichever.
        std::thread::sleep(Duration::from_millis(millis));
        let start = Instant::now();
        let status = process.terminate();
        assert!(start.elapsed() < QUICK, "{:?} after {millis} ms", start.elapsed());
        // Before it listens for signals, the system ends it.
        let ended = status.code() == Some(0) || status.signal() == Some(libc::SIGTERM);
        assert!(ended, "{status} after {millis} ms: {}", process.output());
    }
}

#[test]
fn a_relayed_request_whose_upstream_is_silent_does_not_hold_it_up() {
    let origin = Origin::always(vec![Step::Stall]);
    let url = format!("http://{}", origin.addr());
    let mut client = Program::client("client", &[("REGISTRY_LOCATION", &url)]);
    let url = format!("http://{}/v2/library/a/manifests/latest", client.addr());
    let mut download = Download::start(&url, &[]);
    wait_for("the request", || (!origin.seen().is_empty()).then_some(()));
    let start = Instant::now();
    signal(&mut client);
    assert_clean_end(&mut client);
    assert!(start.elapsed() < limits::STOP + QUICK, "{:?}", start.elapsed());
    assert_ne!(download.wait(), Some(0));
}

#[test]
fn an_open_tunnel_does_not_hold_it_up() {
    let origin = Origin::always(vec![Step::Stall]);
    let mut client = Program::client("client", &[]);
    let mut stream = TcpStream::connect(client.addr()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    write!(stream, "CONNECT {0} HTTP/1.1\r\nHost: {0}\r\n\r\n", origin.addr()).expect("it is open");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("it answers");
    assert_eq!(&answer, b"HTTP/1.1 200");
    let start = Instant::now();
    signal(&mut client);
    assert_clean_end(&mut client);
    assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
}

#[test]
fn idle_connections_do_not_hold_it_up() {
    let mut client = Program::client("client", &[]);
    let connect = |_| TcpStream::connect(client.addr()).expect("it listens");
    let mut streams: Vec<TcpStream> = (0..50).map(connect).collect();
    // A head that never ends, and a handshake that never does.
    streams[0].write_all(b"GET /v2/ HTT").expect("it is open");
    streams[1].write_all(&[0x16, 3, 1, 2, 0, 1]).expect("it is open");
    let start = Instant::now();
    signal(&mut client);
    assert_clean_end(&mut client);
    assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
}

#[test]
fn peers_that_are_served_do_not_hold_it_up() {
    let world = World::start(47, 256 * MIB);
    let mut seeder = world.seeder("seeder");
    let mut client = world.client("client");
    let _download = Download::start(&world.url(&client), &[]);
    wait_for("bytes from the peer", || (client.metric(FROM_PEERS) > 8_000_000).then_some(()));
    // It takes nothing more, and says nothing.
    client.process().pause();
    let start = Instant::now();
    signal(&mut seeder);
    assert_clean_end(&mut seeder);
    assert!(start.elapsed() < QUICK, "{:?}", start.elapsed());
    client.process().resume();
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
