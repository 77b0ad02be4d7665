//! With other BitTorrent software: what the catalog holds is a `.torrent` for everybody, and bytes
//! go both ways.

mod support;

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::etcd::Etcd;
use support::foreign::{Kind, OpenTracker, Seeder, download, wait_for_leechers, wait_for_seeders};
use support::image::Image;
use support::network::{FROM_PEERS, FROM_UPSTREAM, NAME, Network, TO_PEERS, wait_until_sent};
use support::process::Process;
use support::registry::Registry;
use support::stage::{Stage, metainfo};
use support::torrent_cache::Program;
use support::{skopeo, temp_dir, wait_for};
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::proto::base64;

const MIB: usize = 1 << 20;

/// Runs `etcdctl` with its output in a file: values are bytes, not text.
fn etcdctl(etcd_port: &str, arguments: &str, dir: &Path) -> Vec<u8> {
    let mut command = Command::new("sh");
    let endpoint = format!("http://127.0.0.1:{etcd_port}");
    command.env("ETCDCTL_API", "3").current_dir(dir).arg("-c");
    command.arg(format!("etcdctl --endpoints={endpoint} {arguments}"));
    let finished = Process::run("etcdctl", command, "etcd-client");
    let hint = "is it installed? (apt-get install etcd-client)";
    assert!(finished.status.success(), "etcdctl: {}; {hint}", finished.output);
    fs::read(dir.join("value")).unwrap_or_default()
}

/// What `etcdctl get` prints for a blob, without the line end that it adds; the same in JSON and
/// through the gateway.
fn catalog_entry(etcd_port: &str, digest: &str) -> Vec<u8> {
    let (key, dir) = (format!("/torrents/{digest}"), temp_dir());
    let mut printed =
        etcdctl(etcd_port, &format!("get --print-value-only {key} > value"), dir.path());
    assert_eq!(printed.pop(), Some(b'\n'));
    let json = etcdctl(etcd_port, &format!("get -w json {key} > value"), dir.path());
    let json: Value = serde_json::from_slice(&json).expect("etcdctl prints JSON");
    let value = json["kvs"][0]["value"].as_str().expect("one value");
    assert_eq!(base64::decode(value).expect("base64"), printed);
    printed
}

#[test]
fn others_load_the_catalogs_torrents_and_download_from_clients() {
    let network = Network::start(10, &[5 * MIB + 12_345]);
    let first = network.client("first", &[]);
    let announce_udp = network.tracker.announce_url_udp();
    let second = network.client("second", &[("TRACKER", &announce_udp)]);
    network.pull_through(&first);
    network.wait_until_published(&first);
    network.wait_until_announced(1);
    network.pull_through(&second);
    network.wait_until_announced(2);
    let blob = &network.image.layers[0];
    let torrent = catalog_entry(network.tracker.option("ETCD_PORT"), &blob.digest);
    let known = metainfo(blob);
    assert_eq!(torrent, known.encode());
    assert!(torrent.starts_with(b"d4:info"));

    let announces = [network.tracker.announce_url(), announce_udp];
    for (announce, kind) in announces
        .iter()
        .flat_map(|announce| [Kind::Aria2, Kind::Libtorrent].map(|kind| (announce, kind)))
    {
        println!("{kind:?} over {announce}");
        let before = first.metric(TO_PEERS) + second.metric(TO_PEERS);
        let (bytes, output) = download(kind, known.name(), &torrent, announce);
        assert!(bytes == blob.bytes, "{kind:?} over {announce} has other bytes");
        if kind == Kind::Libtorrent {
            assert!(output.contains(&format!("info hash {}", known.info_hash())), "{output}");
        }
        wait_for("what was sent", || {
            let sent = first.metric(TO_PEERS) + second.metric(TO_PEERS) - before;
            (sent >= blob.len()).then_some(())
        });
    }
    network.assert_each_blob_left_once();
}

fn takes_all_from(kind: Kind, seed: u64) {
    let stage = Stage::new(seed, 3 * MIB + 1);
    let tracker = Program::tracker("tracker", &[("NO_ETCD", "1")]);
    let announce = tracker.announce_url();
    let _seeder = stage.seeder(kind, &announce);
    stage.wait_for_seeders(&announce, 1);
    let client = stage.client("client", &announce, &[]);
    stage.pull_through(&client);
    // The client now has what the seeder has, under the same name.
    stage.wait_for_seeders(&announce, 2);
}

#[test]
fn a_client_takes_all_of_a_blob_from_libtorrent() {
    takes_all_from(Kind::Libtorrent, 11);
}

#[test]
fn a_client_takes_all_of_a_blob_from_aria2() {
    takes_all_from(Kind::Aria2, 12);
}

#[test]
fn a_client_takes_all_of_a_blob_from_transmission() {
    takes_all_from(Kind::Transmission, 15);
}

/// `over_http` and `announce` are of one tracker.
fn transmission_takes_all(stage: &Stage, over_http: &str, announce: &str) {
    let client = |name| stage.client(name, announce, &[("INTERFACE", "::")]);
    let seeder = stage.seeder(Kind::Libtorrent, over_http);
    stage.wait_for_seeders(over_http, 1);
    let first = client("first");
    stage.pull_through(&first);
    stage.wait_for_seeders(over_http, 2);
    drop(seeder);
    let torrent = stage.metainfo.encode();
    let mut transmission = Seeder::start_files(Kind::Transmission, &[], &torrent, over_http);
    wait_for_leechers(over_http, &stage.metainfo.info_hash(), 1);
    // It calls nobody here, and who has everything calls nobody either: one that fetches does.
    let second = client("second");
    stage.pull_through(&second);
    transmission.wait_for_file(stage.metainfo.name(), &stage.blob.bytes);
    wait_until_sent(&second, stage.blob.len());
}

#[test]
fn transmission_takes_all_of_a_blob_from_a_client() {
    let tracker = Program::tracker("tracker", &[("NO_ETCD", "1")]);
    let stage = Stage::new(21, 2 * MIB + 1);
    transmission_takes_all(&stage, &tracker.announce_url(), &tracker.announce_url());
}

#[test]
fn clients_that_fetched_on_their_own_meet_in_one_swarm() {
    let network = Network::start(13, &[2 * MIB]);
    // Nobody listens on port 1: each of the two has a catalog of its own, so to speak.
    let alone = [("ETCD_PORT", "1")];
    let clients = ["first", "second"].map(|name| network.client(name, &alone));
    for client in &clients {
        network.pull_through(client);
        assert_eq!(client.metric(FROM_UPSTREAM), network.image.blob_bytes(), "{}", client.log());
    }
    let announce = network.tracker.announce_url();
    for blob in network.image.kept() {
        wait_for_seeders(&announce, &metainfo(blob).info_hash(), 2);
    }
    // Each blob is in one swarm, and there is no other.
    network.wait_until_announced(2);
    let swarms = network.tracker.metric("torrent_cache_tracker_swarms");
    assert_eq!(swarms, network.image.blob_count());
}

#[test]
fn opentracker_brings_clients_together_over_http_and_udp() {
    let registry = Registry::start();
    let image = Image::random(14, &[2 * MIB]);
    skopeo::push(&image, registry.addr(), NAME);
    let etcd = Etcd::start();
    let swarms: Vec<Sha1Hash> = image.kept().map(|blob| metainfo(blob).info_hash()).collect();
    let tracker = OpenTracker::start(&swarms);
    let (over_http, over_udp) = (tracker.announce_url(), tracker.announce_url_udp());
    let mut clients = Vec::new();
    for announce in [&over_http, &over_udp, &over_http] {
        let client = Program::client(
            &format!("client {}", clients.len()),
            &[
                ("REGISTRY_LOCATION", &registry.url()),
                ("TRACKER", announce),
                ("ETCD_PORT", &etcd.client_port().to_string()),
                ("LOG", "info,torrent_cache=debug"),
            ],
        );
        skopeo::pull_and_verify(&image, client.addr(), NAME);
        let from_peers = if clients.is_empty() { 0 } else { image.blob_bytes() };
        assert_eq!(client.metric(FROM_PEERS), from_peers, "{}", client.log());
        clients.push(client);
        for swarm in &swarms {
            wait_for_seeders(&over_http, swarm, clients.len());
        }
    }
}

/// Clients of every kind at once in one swarm: half of them use one announce URL of the tracker,
/// half the other.
fn all_meet_in_one_swarm(stage: &Stage, [over_http, over_udp]: [&str; 2]) {
    let seeders = [Kind::Libtorrent, Kind::Aria2, Kind::Transmission].iter().zip(0..);
    let _seeders: Vec<Seeder> = seeders
        .map(|(kind, at)| stage.seeder(*kind, if at % 2 == 0 { over_http } else { over_udp }))
        .collect();
    let seeding = stage.client("seeding", over_udp, &[]);
    stage.wait_for_seeders(over_http, 3);
    stage.pull_through(&seeding);
    stage.wait_for_seeders(over_http, 4);
    let [third, fourth] = [over_http, over_udp].map(|url| stage.client("leeching", url, &[]));
    std::thread::scope(|scope| {
        for client in [&third, &fourth] {
            scope.spawn(|| stage.pull_through(client));
        }
        for (kind, announce) in [
            (Kind::Libtorrent, over_udp),
            (Kind::Aria2, over_http),
            (Kind::Libtorrent, over_http),
            (Kind::Aria2, over_udp),
        ] {
            scope.spawn(move || stage.download(kind, announce));
        }
    });
}

#[test]
fn all_kinds_of_clients_meet_in_one_swarm() {
    let stage = Stage::new(16, 8 * MIB + 3);
    let tracker = Program::tracker("tracker", &[("NO_ETCD", "1")]);
    all_meet_in_one_swarm(&stage, [&tracker.announce_url(), &tracker.announce_url_udp()]);
}

#[test]
fn all_kinds_of_clients_meet_in_one_swarm_of_opentracker() {
    let stage = Stage::new(17, 8 * MIB + 3);
    let tracker = OpenTracker::start(&[stage.metainfo.info_hash()]);
    all_meet_in_one_swarm(&stage, [&tracker.announce_url(), &tracker.announce_url_udp()]);
}

/// A tracker on IPv6 alone, and where it is announced to over HTTP and UDP.
fn tracker_v6() -> (Program, [String; 2]) {
    let tracker = Program::tracker("tracker", &[("NO_ETCD", "1"), ("INTERFACE", "::1")]);
    let announces = [tracker.announce_url(), tracker.announce_url_udp()];
    (tracker, announces)
}

fn takes_all_over_ipv6_from(kind: Kind, seed: u64) {
    let stage = Stage::new(seed, 3 * MIB + 1);
    let (_tracker, [over_http, over_udp]) = tracker_v6();
    let _seeder = stage.seeder(kind, &over_http);
    stage.wait_for_seeders(&over_http, 1);
    let client = stage.client("client", &over_udp, &[("INTERFACE", "::")]);
    stage.pull_through(&client);
    stage.wait_for_seeders(&over_http, 2);
}

#[test]
fn a_client_takes_all_of_a_blob_from_transmission_over_ipv6() {
    takes_all_over_ipv6_from(Kind::Transmission, 22);
}

#[test]
fn a_client_takes_all_of_a_blob_from_aria2_over_ipv6() {
    takes_all_over_ipv6_from(Kind::Aria2, 27);
}

#[test]
fn transmission_takes_all_of_a_blob_from_a_client_over_ipv6() {
    let (_tracker, [over_http, over_udp]) = tracker_v6();
    transmission_takes_all(&Stage::new(28, 2 * MIB + 1), &over_http, &over_udp);
}

#[test]
fn everything_goes_over_ipv6() {
    let stage = Stage::new(18, 3 * MIB + 1);
    let (_tracker, [over_http, over_udp]) = &tracker_v6();
    let seeder = stage.seeder(Kind::Libtorrent, over_http);
    stage.wait_for_seeders(over_http, 1);
    // Their fronts take IPv4 as well; the tracker, and so the peers, are on IPv6 alone.
    let client = |name, announce| stage.client(name, announce, &[("INTERFACE", "::")]);
    let first = client("first", over_udp);
    stage.pull_through(&first);
    stage.wait_for_seeders(over_http, 2);
    drop(seeder);
    // Now there are none but ours to take it from.
    let second = client("second", over_http);
    stage.pull_through(&second);
    stage.wait_for_seeders(over_http, 3);
    // aria2 1.36 reaches trackers over UDP by IPv4 alone: it asks from the socket of its IPv4 DHT,
    // which cannot send to `::1` (EAFNOSUPPORT), and without that it has no trackers over UDP.
    for (kind, announce) in
        [(Kind::Libtorrent, over_http), (Kind::Libtorrent, over_udp), (Kind::Aria2, over_http)]
    {
        stage.download(kind, announce);
    }
}
