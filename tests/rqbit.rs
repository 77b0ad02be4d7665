//! With rqbit, which Debian does not have: `make interop` builds it and runs this.

mod support;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use support::foreign::{Kind, OpenTracker, Seeder};
use support::network::{TO_PEERS, wait_until_sent};
use support::stage::Stage;
use support::torrent_cache::Program;

/// It seeds and a client fetches; then that client alone has it, and it fetches. `over_http` and
/// `announce` are of one tracker.
fn go_both_ways(stage: &Stage, over_http: &str, announce: &str) {
    println!("over {announce}");
    let seeder = stage.seeder(Kind::Rqbit, announce);
    stage.wait_for_seeders(over_http, 1);
    // `::` takes IPv4 as well, and the peers are where the tracker is.
    let client = stage.client("client", announce, &[("INTERFACE", "::")]);
    stage.pull_through(&client);
    stage.wait_for_seeders(over_http, 2);
    drop(seeder);
    stage.download(Kind::Rqbit, announce);
    wait_until_sent(&client, stage.blob.len());
}

#[test]
fn bytes_go_both_ways() {
    let stage = Stage::new(19, (8 << 20) + 3);
    for over in [Program::announce_url, Program::announce_url_udp] {
        let tracker = Program::tracker("tracker", &[("NO_ETCD", "1")]);
        go_both_ways(&stage, &tracker.announce_url(), &over(&tracker));
    }
}

#[test]
fn bytes_go_both_ways_over_ipv6() {
    let stage = Stage::new(25, (8 << 20) + 3);
    for over in [Program::announce_url, Program::announce_url_udp] {
        let tracker = Program::tracker("tracker", &[("NO_ETCD", "1"), ("INTERFACE", "::1")]);
        go_both_ways(&stage, &tracker.announce_url(), &over(&tracker));
    }
}

#[test]
fn bytes_go_both_ways_with_opentracker() {
    let stage = Stage::new(23, (8 << 20) + 3);
    for over in [OpenTracker::announce_url, OpenTracker::announce_url_udp] {
        let tracker = OpenTracker::start(&[stage.metainfo.info_hash()]);
        go_both_ways(&stage, &tracker.announce_url(), &over(&tracker));
    }
}

const KINDS: [Kind; 4] = [Kind::Rqbit, Kind::Libtorrent, Kind::Aria2, Kind::Transmission];

/// Pulls the blob through a client; the names of those who gave it some of it.
fn givers(stage: &Stage, client: &Program) -> BTreeSet<String> {
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let look = scope.spawn(|| {
            let mut names = BTreeSet::new();
            // A link that ended is not shown any more.
            while !done.load(Ordering::Relaxed) {
                let status = client.status();
                let swarms = status["swarms"].as_array().expect("a list").iter();
                let links = swarms.flat_map(|swarm| swarm["links"].as_array().expect("a list"));
                let gave = links.filter(|link| link["bytes_down"] != 0);
                names.extend(gave.map(|link| link["client"].as_str().expect("a name").to_owned()));
                std::thread::sleep(Duration::from_millis(20));
            }
            names
        });
        let pulled = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            stage.pull_through(client);
        }));
        done.store(true, Ordering::Relaxed);
        let names = look.join().expect("the status page answers");
        pulled.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        names
    })
}

/// One of ours has the blob; two of ours and one of each other kind want it, all at once. Then the
/// first goes, and a newcomer takes it from those.
fn all_kinds_pass_on_what_one_has(stage: &Stage, [over_http, over_udp]: [&str; 2]) {
    let origin = stage.seeder(Kind::Libtorrent, over_http);
    stage.wait_for_seeders(over_http, 1);
    // So slow that the others get more from each other.
    let first = stage.client("first", over_udp, &[("UPLOAD_MAX", "4M")]);
    stage.pull_through(&first);
    stage.wait_for_seeders(over_http, 2);
    drop(origin);

    let torrent = stage.metainfo.encode();
    let mut others: Vec<(Kind, Seeder)> = KINDS
        .into_iter()
        .zip([over_http, over_udp, over_http, over_udp])
        .map(|(kind, announce)| (kind, Seeder::start_files(kind, &[], &torrent, announce)))
        .collect();
    let ours = [("second", over_http), ("third", over_udp)];
    let ours = ours.map(|(name, announce)| stage.client(name, announce, &[]));
    let mut all: BTreeSet<String> = std::thread::scope(|scope| {
        let pulls = ours.each_ref().map(|client| scope.spawn(|| givers(stage, client)));
        pulls.into_iter().flat_map(|pull| pull.join().expect("it came")).collect()
    });
    for (kind, other) in &mut others {
        println!("{kind:?}: {all:?}");
        other.wait_for_file(stage.metainfo.name(), &stage.blob.bytes);
    }
    let leechers = i64::try_from(others.len() + ours.len()).expect("few");
    let wanted = leechers * stage.blob.len();
    let sent = first.metric(TO_PEERS);
    println!("{sent} of {wanted} bytes came from the first");
    assert!(stage.blob.len() <= sent && sent < wanted, "{sent} of {wanted} bytes");

    drop(first);
    // So slow that it has time to hear from everybody.
    let newcomer = stage.client("newcomer", over_http, &[("DOWNLOAD_MAX", "1M")]);
    all.extend(givers(stage, &newcomer));
    println!("got some from {all:?}");
    // Not of Transmission, which saw others here that have everything: see `Kind::Transmission`.
    assert_gave(&["rqbit", "libtorrent", "aria2", "torrent-cache"], &all);
}

fn assert_gave(kinds: &[&str], givers: &BTreeSet<String>) {
    for name in kinds {
        assert!(givers.iter().any(|giver| giver.contains(name)), "{name} gave nothing: {givers:?}");
    }
}

#[test]
fn a_client_takes_some_of_a_blob_from_each_kind() {
    let stage = Stage::new(26, (16 << 20) + 3);
    let tracker = Program::tracker("tracker", &[("NO_ETCD", "1")]);
    let announces = [tracker.announce_url(), tracker.announce_url_udp()];
    let seeders = KINDS.iter().zip(announces.iter().cycle()).zip(1..);
    let _seeders: Vec<Seeder> = seeders
        .map(|((kind, announce), count)| {
            let seeder = stage.seeder(*kind, announce);
            stage.wait_for_seeders(&announces[0], count);
            seeder
        })
        .collect();
    // So slow, 16 s for the blob, that Transmission, which looks every ten whom to serve, serves it
    // too. The tracker names no seeder to the others: the client is the only one that calls it.
    let client = stage.client("client", &announces[0], &[("DOWNLOAD_MAX", "1M")]);
    let givers = givers(&stage, &client);
    println!("got some from {givers:?}");
    assert_gave(&["rqbit", "libtorrent", "aria2", "Transmission"], &givers);
}

#[test]
fn all_kinds_pass_on_what_one_has_in_one_swarm() {
    let stage = Stage::new(20, (16 << 20) + 3);
    let tracker = Program::tracker("tracker", &[("NO_ETCD", "1")]);
    let announces = [tracker.announce_url(), tracker.announce_url_udp()];
    all_kinds_pass_on_what_one_has(&stage, [&announces[0], &announces[1]]);
}

#[test]
fn all_kinds_pass_on_what_one_has_in_one_swarm_of_opentracker() {
    let stage = Stage::new(24, (16 << 20) + 3);
    let tracker = OpenTracker::start(&[stage.metainfo.info_hash()]);
    let announces = [tracker.announce_url(), tracker.announce_url_udp()];
    all_kinds_pass_on_what_one_has(&stage, [&announces[0], &announces[1]]);
}
