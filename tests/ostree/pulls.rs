//! Pulls of every kind: with and without deltas, into repositories with and without what was
//! there before.

use crate::support::network::FROM_PEERS;
use crate::support::ostree::{Host, Tree, tree};
use crate::support::process::Process;
use crate::support::torrent_cache::Program;
use crate::support::wait_for;
use crate::{MIB, World, proxy};

/// Three hosts, one after the other: the first takes the delta from the site, the others from the
/// hosts before them.
#[test]
fn a_delta_leaves_the_site_once_for_three_hosts() {
    let world = World::start();
    let mut files = tree(40, 30, &[3 * MIB, 2 * MIB]);
    world.repository.commit("main", &files);
    world.repository.delta("main", &["--empty", "--max-chunk-size=1"]);
    world.repository.summarise();
    let url = world.site.url("repo");
    let clients = ["first", "second", "third"].map(|name| world.client(name, &[]));
    let hosts = clients.each_ref().map(|client| Host::new(&url, proxy(client)));
    for (round, from) in [(1, &["--empty"][..]), (2, &[])] {
        if round == 2 {
            files = changed(files, 41);
            world.repository.commit("main", &files);
            world.repository.delta("main", &[from, &["--max-chunk-size=1"]].concat());
            world.repository.summarise();
        }
        let commit = world.repository.head("main");
        for (number, (client, host)) in (1..).zip(clients.iter().zip(&hosts)) {
            let before = client.metric(FROM_PEERS);
            host.pull(&["--require-static-deltas", "main"]);
            host.assert_has("main", &commit, &files);
            let came = client.metric(FROM_PEERS) - before;
            assert_eq!(came > 0, number > 1, "{came} bytes from peers: {}", client.log());
            world.wait_until_shared(client, round, round * number);
            let done = "torrent_cache_deltas_total{outcome=\"done\"}";
            wait_for("the count", || (client.metric(done) == round).then_some(()));
        }
        let parts = world.repository.parts();
        assert!(parts.len() >= 4, "{parts:?}");
        for part in parts.iter().chain(&world.repository.superblocks()) {
            assert_eq!(world.site.bodies(|path| path.ends_with(part)), 1, "{part}");
        }
    }
    let len = i64::try_from(world.repository.bytes("deltas")).expect("a length");
    for (client, from_peers) in clients.iter().zip([0, len, len]) {
        let status = client.status();
        let bytes = |source: &str| status["deltas"][source].as_i64();
        assert_eq!(bytes("peer_bytes"), Some(from_peers), "{status:#}");
        assert_eq!(bytes("upstream_bytes"), Some(len - from_peers), "{status:#}");
        let from_peers_too = client.metric("torrent_cache_delta_bytes_total{source=\"peer\"}");
        assert_eq!(from_peers_too, from_peers);
    }
}

/// A change of a tree: some files are others, some are new.
fn changed(mut old: Tree, seed: u64) -> Tree {
    for (number, (name, bytes)) in tree(seed, 10, &[MIB]).into_iter().enumerate() {
        let name = if number % 2 == 0 { name } else { format!("{name}-{seed}") };
        old.insert(name, bytes);
    }
    old
}

#[test]
fn one_after_the_other_with_and_without_the_commit_before() {
    let world = World::start();
    let client = world.client("client", &[]);
    let url = world.site.url("repo");
    let (old, mut new) = (Host::new(&url, proxy(&client)), None);
    let mut now = tree(50, 50, &[2 * MIB, 300_000]);
    for seed in [51, 52] {
        let commit = world.repository.commit("main", &now);
        if seed == 52 {
            world.repository.delta("main", &["--max-chunk-size=1"]);
        }
        world.repository.delta("main", &["--empty", "--max-chunk-size=1"]);
        world.repository.summarise();
        old.pull(&["main"]);
        old.assert_has("main", &commit, &now);
        let host = Host::new(&url, proxy(&client));
        host.pull(&["--require-static-deltas", "main"]);
        host.assert_has("main", &commit, &now);
        new = Some(host);
        now = changed(now, seed);
    }
    drop(new);
}

#[test]
fn deltas_of_every_form() {
    for options in [
        &["--inline"][..],
        &["--max-chunk-size=1"],
        &["--min-fallback-size=1"],
        &["--max-chunk-size=1", "--min-fallback-size=1", "--disable-bsdiff"],
    ] {
        let world = World::start();
        let client = world.client("client", &[]);
        let files = tree(53, 40, &[3 * MIB, 2 * MIB, 300_000]);
        let commit = world.repository.commit("main", &files);
        world.repository.delta("main", &[&["--empty"], options].concat());
        world.repository.summarise();
        for _ in 0..2 {
            let host = Host::new(&world.site.url("repo"), proxy(&client));
            host.pull(&["--require-static-deltas", "main"]);
            host.assert_has("main", &commit, &files);
        }
    }
}

#[test]
fn several_refs_at_once_by_name_and_by_checksum() {
    let world = World::start();
    let client = world.client("client", &[]);
    let branches: Vec<(String, String, Tree)> = (0..4)
        .map(|number| {
            let (branch, files) = (format!("b/{number}"), tree(54 + number, 20, &[MIB]));
            let commit = world.repository.commit(&branch, &files);
            world.repository.delta(&branch, &["--empty"]);
            (branch, commit, files)
        })
        .collect();
    world.repository.summarise();
    let host = Host::new(&world.site.url("repo"), proxy(&client));
    let names: Vec<&str> = branches.iter().map(|(branch, ..)| branch.as_str()).collect();
    host.pull(&names);
    for (branch, commit, files) in &branches {
        host.assert_has(branch, commit, files);
    }
    let host = Host::new(&world.site.url("repo"), proxy(&client));
    host.pull(&[&branches[0].1]);
    host.run(&["fsck", "--quiet"]);
}

/// Killed in the middle, it goes on with what it has; so does a client that was killed with it.
#[test]
fn an_interrupted_pull_goes_on() {
    let world = World::start();
    let mut client = world.client("client", &[]);
    let files = tree(58, 300, &[4 * MIB, 4 * MIB]);
    let commit = world.repository.commit("main", &files);
    world.repository.delta("main", &["--empty", "--max-chunk-size=1"]);
    world.repository.summarise();
    let host = Host::new(&world.site.url("repo"), proxy(&client));
    for crash in [false, true] {
        let seen = world.site.accesses().len();
        let mut pull = Process::spawn("ostree", host.command(&["main"]), "ostree");
        wait_for("the pull to begin", || (world.site.accesses().len() > seen).then_some(()));
        if crash {
            client.crash();
        }
        pull.kill();
        if crash {
            client.start_again();
        }
    }
    host.pull(&["main"]);
    host.assert_has("main", &commit, &files);
}

/// The head moves, and the delta to it is made anew, while hosts pull.
#[test]
fn a_repository_that_changes_while_it_is_pulled() {
    let world = World::start();
    let client = world.client("client", &[]);
    let mut files = tree(59, 50, &[2 * MIB]);
    for seed in 0..4 {
        files = changed(files, 200 + seed);
        world.repository.commit("main", &files);
        world.repository.delta("main", &["--empty", "--max-chunk-size=1"]);
        world.repository.summarise();
        let host = Host::new(&world.site.url("repo"), proxy(&client));
        let mut pull = Process::spawn("ostree", host.command(&["main"]), "ostree");
        files = changed(files, 300 + seed);
        let commit = world.repository.commit("main", &files);
        world.repository.delta("main", &["--empty", "--max-chunk-size=1"]);
        world.repository.delta("main", &["--empty", "--max-chunk-size=2"]);
        world.repository.summarise();
        // What it got was there a moment ago, or it saw that it changed: never wrong bytes.
        pull.wait(crate::support::PATIENCE);
        host.run(&["fsck", "--quiet"]);
        host.pull(&["main"]);
        host.assert_has("main", &commit, &files);
    }
}

/// With an archive repository of its own a host takes objects, never deltas.
#[test]
fn objects_alone() {
    let world = World::start();
    let client = Program::client("client", &[]);
    let files = tree(49, 300, &[]);
    let commit = world.repository.commit("main", &files);
    world.repository.summarise();
    for _ in 0..2 {
        let host = Host::new(&world.site.url("repo"), proxy(&client));
        host.pull(&["--disable-static-deltas", "main"]);
        host.assert_has("main", &commit, &files);
    }
    let objects = world.repository.objects().len();
    assert_eq!(world.site.bodies(|path| path.contains("/objects/")), objects);
}
