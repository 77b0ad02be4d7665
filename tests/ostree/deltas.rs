//! Static deltas: what is done about an upstream, a peer or a catalog that is wrong, and who may
//! have them.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use torrent_cache::base::hash::{Sha1Hash, sha256};
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::geometry::Geometry;
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::proto::ostree::Checksum;
use torrent_cache::proto::ostree::layout::Layout;

use crate::support::faults::{Fault, FaultProxy};
use crate::support::network::{FROM_PEERS, FROM_UPSTREAM};
use crate::support::ostree::{Host, Repository, Tree, tree};
use crate::support::process::Process;
use crate::support::site::AUTHORIZATION;
use crate::support::torrent_cache::Program;
use crate::support::{temp_dir, wait_for};
use crate::{MIB, World, proxy};

const PUBLISHED: &str = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
pub const MISMATCHES: &str = "torrent_cache_digest_mismatches_total{source=\"upstream\"}";

/// A commit with a delta of several parts from nothing: its checksum and its files.
pub fn with_delta(repository: &Repository, seed: u64) -> (String, Tree) {
    let files = tree(seed, 30, &[2 * MIB, MIB, 700_000]);
    let commit = repository.commit("main", &files);
    repository.delta("main", &["--empty", "--max-chunk-size=1"]);
    repository.summarise();
    assert!(repository.parts().len() >= 3, "{:?}", repository.parts());
    (commit, files)
}

pub fn pull(url: &str, client: &Program, commit: &str, files: &Tree) {
    let host = Host::new(url, proxy(client));
    host.pull(&["--require-static-deltas", "main"]);
    host.assert_has("main", commit, files);
}

/// How often the file was asked for.
pub fn asked(upstream: &FaultProxy, file: &str) -> usize {
    let requests = upstream.requests();
    requests.iter().filter(|one| one.method == "GET" && one.path.ends_with(file)).count()
}

/// The file of the one delta in the client's store.
fn stored(client: &Program) -> PathBuf {
    client.wait_until_synced();
    let blobs = PathBuf::from(client.option("STORAGE")).join("blobs");
    let mut found = fs::read_dir(blobs).expect("the store made it");
    found.next().expect("it has the delta").expect("it can be read").path()
}

/// The name of the repository's one delta.
pub fn name_of(repository: &Repository) -> (BlobName, u64) {
    let superblocks = repository.superblocks();
    let [path] = superblocks.as_slice() else { panic!("one delta: {superblocks:?}") };
    let bytes = fs::read(repository.path().join(path)).expect("it is there");
    (BlobName::Delta(Checksum(sha256(&bytes))), bytes.len() as u64)
}

#[test]
fn a_fault_that_passes_is_healed_before_it_shows() {
    let world = World::start();
    let (commit, files) = with_delta(&world.repository, 66);
    let (mut parts, superblocks) = (world.repository.parts(), world.repository.superblocks());
    let len =
        |part: &String| fs::metadata(world.repository.path().join(part)).expect("a part").len();
    parts.retain(|part| len(part) > 20_000);
    let [first, second, ..] = parts.as_slice() else { panic!("two parts at least: {parts:?}") };
    let faults = [
        Fault::Cut { after: 10_000 },
        Fault::Reset { after: 10_000 },
        Fault::Status(503),
        Fault::Status(500),
        Fault::Stall { after: 5_000 },
        Fault::Flip { at: 100 },
    ];
    std::thread::scope(|scope| {
        for (number, fault) in faults.into_iter().enumerate() {
            let (world, commit, files) = (&world, &commit, &files);
            let superblocks = &superblocks;
            scope.spawn(move || {
                let upstream = FaultProxy::start(world.site.addr());
                upstream.fail(first, 1, fault);
                upstream.fail(second, 1, fault);
                let early = match fault {
                    Fault::Cut { .. } => Fault::Cut { after: 100 },
                    Fault::Reset { .. } => Fault::Reset { after: 100 },
                    Fault::Stall { .. } => Fault::Stall { after: 100 },
                    fault => fault,
                };
                upstream.fail(&superblocks[0], 1, early);
                // Alone: nothing comes from those that pulled before.
                let client = Program::client(&format!("client-{number}"), &[]);
                pull(&format!("{}/repo", upstream.url()), &client, commit, files);
                // What was on its way when the first was found out is not looked at.
                let flipped = matches!(fault, Fault::Flip { .. });
                let wrong = client.metric(MISMATCHES);
                assert_eq!(flipped, wrong >= 2, "{fault:?}: {wrong}: {}", client.log());
                for file in [first, second, &superblocks[0]] {
                    assert!(asked(&upstream, file) >= 2, "{fault:?}: {file}");
                }
            });
        }
    });
}

#[test]
fn a_part_that_stays_wrong_is_never_served() {
    let world = World::start();
    let (commit, files) = with_delta(&world.repository, 67);
    let parts = world.repository.parts();
    let upstream = FaultProxy::start(world.site.addr());
    let url = format!("{}/repo", upstream.url());
    let client = Program::client("client", &[]);
    for fault in [Fault::Flip { at: 1000 }, Fault::Status(404), Fault::Status(503)] {
        upstream.fail(&parts[1], usize::MAX, fault);
        // What is still on its way for the pull before knows the fault before.
        wait_for("the end of all jobs", || (client.status()["jobs"] == 0).then_some(()));
        let before = asked(&upstream, &parts[0]);
        let host = Host::new(&url, proxy(&client));
        let finished = host.try_pull(&["--require-static-deltas", "main"]);
        assert!(!finished.status.success(), "{fault:?}");
        let output = finished.output.to_lowercase();
        assert!(!output.contains("corrupt") && !output.contains("mismatch"), "{output}");
        let why = if fault == Fault::Status(404) { "404" } else { "500" };
        assert!(output.contains(why), "{fault:?}: {output}");
        // Not once for each of the six times that libostree asks.
        let times = asked(&upstream, &parts[0]) - before;
        assert!(times <= 2, "{fault:?}: {times} times");
        upstream.heal();
    }
    assert_eq!(client.metric("torrent_cache_store_blobs"), 0);
    pull(&url, &client, &commit, &files);
}

/// Who asks when it is known that the upstream has not all of it is told so, as who waited was.
#[test]
fn what_the_upstream_has_not_is_not_there_for_who_comes_late_either() {
    let world = World::start();
    with_delta(&world.repository, 74);
    let upstream = FaultProxy::start(world.site.addr());
    let part = &world.repository.parts()[1];
    upstream.fail(part, usize::MAX, Fault::Status(404));
    let client = Program::client("client", &[]);
    let url = |path: &str| format!("{}/repo/{path}", upstream.url());
    assert_eq!(through(&client, &url(&world.repository.superblocks()[0]), &[]).0, 200);
    for _ in 0..3 {
        assert_eq!(through(&client, &url(part), &[]).0, 404, "{}", client.log());
        wait_for("the end of all jobs", || (client.status()["jobs"] == 0).then_some(()));
    }
}

#[test]
fn wrong_bytes_of_a_peer_are_fetched_elsewhere() {
    let world = World::start();
    let (commit, files) = with_delta(&world.repository, 68);
    let url = world.site.url("repo");
    let liar = world.client("liar", &[]);
    pull(&url, &liar, &commit, &files);
    world.wait_until_shared(&liar, 1, 1);
    let mut bytes = fs::read(stored(&liar)).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(stored(&liar), bytes).expect("disk has room");
    let client = world.client("client", &[]);
    pull(&url, &client, &commit, &files);
    assert_eq!(client.metric("torrent_cache_peers_banned_total"), 1, "{}", client.log());
    assert!(client.metric(FROM_UPSTREAM) > 0);
}

/// libostree waits for two parts at a time, and newer versions not for long.
#[test]
fn a_part_that_stalls_does_not_keep_the_next_from_coming() {
    let world = World::start();
    with_delta(&world.repository, 60);
    let parts = world.repository.parts();
    let upstream = FaultProxy::start(world.site.addr());
    upstream.fail(&parts[0], usize::MAX, Fault::Stall { after: 100 });
    let client = Program::client("client", &[]);
    let host = Host::new(&format!("{}/repo", upstream.url()), proxy(&client));
    let mut pull = Process::spawn("ostree", host.command(&["main"]), "ostree");
    wait_for("the second part", || (asked(&upstream, &parts[1]) > 0).then_some(()));
    pull.kill();
}

/// libostree asks for parts in no order: one that is here does not wait for those before it.
#[test]
fn a_part_goes_out_while_the_one_before_it_stalls() {
    let world = World::start();
    with_delta(&world.repository, 73);
    let parts = world.repository.parts();
    let upstream = FaultProxy::start(world.site.addr());
    upstream.fail(&parts[0], usize::MAX, Fault::Stall { after: 100 });
    let client = Program::client("client", &[]);
    for file in world.repository.superblocks().iter().chain(&parts[1..]) {
        let url = format!("{}/repo/{file}", upstream.url());
        let wanted = fs::read(world.repository.path().join(file)).expect("it is there");
        let (status, bytes) = through(&client, &url, &[]);
        assert!(status == 200 && bytes == wanted, "{file}: {status}: {}", client.log());
    }
}

/// What the catalog says of a delta is held against its superblock.
#[test]
fn an_entry_of_the_catalog_that_lies_is_passed_over() {
    let world = World::start();
    let (commit, files) = with_delta(&world.repository, 69);
    let (name, superblock_len) = name_of(&world.repository);
    // Somebody who has what the entry says: the superblock, and a part that is none of the delta's.
    let superblock = world.repository.path().join(&world.repository.superblocks()[0]);
    let mut bytes = fs::read(superblock).expect("it is there");
    bytes.extend_from_slice(&vec![7; 200_000]);
    let layout = Layout::new([superblock_len, 200_000]).expect("a layout");
    let geometry = Geometry::for_blob(layout.len()).expect("a length");
    let hashes = bytes.chunks(geometry.piece_len() as usize).map(Sha1Hash::of).collect();
    let lie = Metainfo::of_delta(&name, &layout, hashes).expect("metainfo");
    put(&world.tracker, &name, &lie.encode());
    let seeder = Program::client("seeder", &[("TRACKER", &world.tracker.announce_url())]);
    seed(seeder, &name, &bytes, &lie, |seeder| {
        let client = world.client("client", &[]);
        wait_for("the announce", || {
            (world.tracker.metric("torrent_cache_tracker_peers") >= 1).then_some(())
        });
        pull(&world.site.url("repo"), &client, &commit, &files);
        assert!(client.metric(FROM_PEERS) > 0, "it was misled: {}", client.log());
        wait_for("publication", || (client.metric(PUBLISHED) > 0).then_some(()));
        drop(seeder);
    });
}

/// Gives `seeder` these files and starts it with them.
fn seed(
    mut seeder: Program,
    name: &BlobName,
    bytes: &[u8],
    metainfo: &Metainfo,
    act: impl FnOnce(Program),
) {
    assert!(seeder.stop().success());
    let storage = PathBuf::from(seeder.option("STORAGE"));
    let stem = name.file_stem();
    let torrent = format!("{stem}.{}.torrent", metainfo.info_hash());
    fs::write(storage.join("blobs").join(stem), bytes).expect("disk has room");
    fs::write(storage.join("torrents").join(torrent), metainfo.encode()).expect("disk has room");
    seeder.start_again();
    act(seeder);
}

/// Puts `value` into the catalog.
pub fn put(tracker: &Program, name: &BlobName, value: &[u8]) {
    let dir = temp_dir();
    let input = dir.path().join("value");
    fs::write(&input, value).expect("disk has room");
    let port = tracker.option("ETCD_PORT");
    let mut command = Command::new("sh");
    let script =
        format!("etcdctl --endpoints=http://127.0.0.1:{port} put /torrents/{name} < \"$0\"");
    command.env("ETCDCTL_API", "3").args(["-c", &script]).arg(input);
    let finished = Process::run("etcdctl", command, "etcd-client");
    assert!(finished.status.success(), "{}", finished.output);
}

/// The same commit, cut into other parts: nobody gets parts of one for the superblock of another.
#[test]
fn a_delta_made_anew_and_one_of_another_repository_do_not_mix() {
    let world = World::start();
    let (commit, files) = with_delta(&world.repository, 64);
    let other = Repository::make(world.site.root().join("other"));
    let path = world.repository.path().display().to_string();
    other.run(&["pull-local", &path, "main"]);
    other.delta("main", &["--empty", "--max-chunk-size=3"]);
    other.summarise();
    let clients = ["first", "second"].map(|name| world.client(name, &[]));
    for client in &clients {
        for repository in ["repo", "other"] {
            pull(&world.site.url(repository), client, &commit, &files);
        }
        world.wait_until_shared(&clients[0], 2, 2);
    }
    assert!(clients[1].metric(FROM_PEERS) > 0);
    // At the same URL, and with an index that nobody has read again yet.
    world.repository.delta("main", &["--empty", "--max-chunk-size=2"]);
    world.repository.summarise();
    for client in &clients {
        pull(&world.site.url("repo"), client, &commit, &files);
    }
}

/// Without a summary or an index only the superblock itself says what it is.
#[test]
fn a_superblock_that_no_list_names_is_asked_for_each_time() {
    let world = World::start();
    with_delta(&world.repository, 65);
    let lists = ["summary", "delta-indexes"].map(|name| world.repository.path().join(name));
    fs::remove_file(&lists[0]).expect("it was made");
    let _ = fs::remove_dir_all(&lists[1]);
    let client = Program::client("client", &[]);
    let got = |file: &str| {
        let url = world.site.url(&format!("repo/{file}"));
        through(&client, &url, &[])
    };
    for size in ["--max-chunk-size=1", "--max-chunk-size=2"] {
        fs::remove_dir_all(world.repository.path().join("deltas")).expect("it was made");
        world.repository.delta("main", &["--empty", size]);
        let mut delta = world.repository.superblocks();
        delta.extend(world.repository.parts());
        for file in &delta {
            let wanted = fs::read(world.repository.path().join(file)).expect("it is there");
            let (status, bytes) = got(file);
            assert!(status == 200 && bytes == wanted, "{file} with {size}: {status}");
        }
        for part in world.repository.parts() {
            assert!(world.site.bodies(|path| path.ends_with(&part)) <= 2, "{part}");
        }
    }
}

/// What curl gets of `url` through the client: the status and the body.
pub fn through(client: &Program, url: &str, arguments: &[&str]) -> (u16, Vec<u8>) {
    let dir = temp_dir();
    let body = dir.path().join("body");
    let mut command = Command::new("curl");
    command.args(["--disable", "--silent", "--max-time", "60", "--write-out", "%{http_code}"]);
    command.args(["--proxy", &format!("http://{}", client.addr()), "--noproxy", ""]);
    command.args(arguments).arg("--output").arg(&body).arg(url);
    let finished = Process::run("curl", command, "curl");
    let status = finished.output.trim().parse().expect("a status");
    (status, fs::read(body).unwrap_or_default())
}

#[test]
fn a_private_repository_gives_its_deltas_to_those_it_knows() {
    let world = World::start();
    let private = Repository::make(world.site.root().join("private/repo"));
    with_delta(&private, 63);
    let client = Program::client("client", &[]);
    let known = format!("Authorization: {AUTHORIZATION}");
    let mut delta = private.superblocks();
    delta.extend(private.parts());
    for round in 0..2 {
        for file in &delta {
            let url = world.site.url(&format!("private/repo/{file}"));
            for stranger in [&[][..], &["--user", "nobody:x"]] {
                let (status, bytes) = through(&client, &url, stranger);
                assert_eq!(status, 401, "{file}, round {round}");
                assert!(bytes.len() < 1000, "{file}");
            }
            let wanted = fs::read(private.path().join(file)).expect("it is there");
            let (status, bytes) = through(&client, &url, &["--header", &known]);
            assert!(status == 200 && bytes == wanted, "{file}, round {round}: {status}");
        }
    }
}

#[test]
fn a_part_is_served_in_ranges() {
    let world = World::start();
    with_delta(&world.repository, 62);
    let client = Program::client("client", &[]);
    let part = &world.repository.parts()[1];
    let wanted = fs::read(world.repository.path().join(part)).expect("it is there");
    let url = world.site.url(&format!("repo/{part}"));
    for _ in 0..2 {
        let (status, bytes) = through(&client, &url, &["--range", "100-299"]);
        assert!(status == 206 && bytes == wanted[100..300], "{status}");
        let (status, bytes) = through(&client, &url, &["--range", "-50"]);
        assert!(status == 206 && bytes == wanted[wanted.len() - 50..], "{status}");
        let (status, _) = through(&client, &url, &["--range", "999999999-"]);
        assert_eq!(status, 416);
        wait_for("the delta", || (client.metric("torrent_cache_store_blobs") == 1).then_some(()));
    }
}

#[test]
fn what_was_pulled_can_be_pulled_without_the_upstream() {
    let mut world = World::start();
    let (commit, files) = with_delta(&world.repository, 61);
    let url = world.site.url("repo");
    let mut client = Program::client("client", &[]);
    pull(&url, &client, &commit, &files);
    wait_for("the delta", || (client.metric("torrent_cache_store_blobs") == 1).then_some(()));
    world.site.stop();
    for restart in [false, true] {
        if restart {
            assert!(client.stop().success());
            client.start_again();
        }
        // Objects beside the delta, which this version of libostree asks for, are another matter.
        let host = Host::new(&url, proxy(&client));
        let finished = host.try_pull(&["--require-static-deltas", "main"]);
        assert!(!finished.output.contains("deltas/"), "{restart}: {}", finished.output);
        assert!(finished.status.success(), "{restart}: {}", finished.output);
        host.assert_has("main", &commit, &files);
    }
}
