//! With rqbit, which Debian does not have: `make interop` builds it and runs this.

mod support;

use support::foreign::{Kind, OpenTracker, rqbit_downloads_from};
use support::stage::Stage;
use support::torrent_cache::Program;

/// Over either announce URL of a tracker.
fn go_both_ways(stage: &Stage, announces: [String; 2]) {
    let _seeder = stage.seeder(Kind::Rqbit, &announces[0]);
    stage.wait_for_seeders(&announces[0], 1);
    for announce in &announces {
        let client = stage.client("client", announce, &[]);
        stage.pull_through(&client);
        let (name, torrent) = (stage.metainfo.name(), stage.metainfo.encode());
        let bytes = rqbit_downloads_from(client.peer_addr(), name, &torrent);
        assert!(bytes == stage.blob.bytes, "other bytes");
    }
}

#[test]
fn bytes_go_both_ways() {
    let stage = Stage::new(19, (8 << 20) + 3);
    let tracker = Program::tracker("tracker", &[("NO_ETCD", "1")]);
    go_both_ways(&stage, [tracker.announce_url(), tracker.announce_url_udp()]);
}

#[test]
fn bytes_go_both_ways_with_opentracker() {
    let stage = Stage::new(23, (8 << 20) + 3);
    let tracker = OpenTracker::start(&[stage.metainfo.info_hash()]);
    go_both_ways(&stage, [tracker.announce_url(), tracker.announce_url_udp()]);
}

#[test]
fn it_shares_a_swarm_with_other_kinds() {
    let stage = Stage::new(20, (8 << 20) + 3);
    let tracker = Program::tracker("tracker", &[("NO_ETCD", "1")]);
    let announce = tracker.announce_url();
    let kinds = [Kind::Rqbit, Kind::Libtorrent, Kind::Aria2, Kind::Transmission];
    let _seeders = kinds.map(|kind| stage.seeder(kind, &announce));
    stage.wait_for_seeders(&announce, kinds.len());
    let clients = ["first", "second"].map(|name| stage.client(name, &announce, &[]));
    let (stage, announce) = (&stage, &announce);
    std::thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| stage.pull_through(client));
        }
        for kind in [Kind::Libtorrent, Kind::Aria2] {
            scope.spawn(move || stage.download(kind, announce));
        }
    });
}
