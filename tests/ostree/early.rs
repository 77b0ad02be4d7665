//! Hosts that pull a new static delta at the same time.

use std::thread;

use crate::deltas;
use crate::support::faults::{Fault, FaultProxy};
use crate::support::link::Link;
use crate::support::network::{FROM_PEERS, FROM_UPSTREAM};
use crate::support::ostree::{Tree, tree};
use crate::support::torrent_cache::Program;
use crate::{MIB, World};

/// A site with a delta of eight parts of 2 MB, which take three seconds over the line.
fn world(seed: u64) -> (World, String, Tree) {
    let world = World::start();
    let files = tree(seed, 30, &[2 * MIB - 1000; 8]);
    let commit = world.repository.commit("main", &files);
    world.repository.delta("main", &["--empty", "--max-chunk-size=2", "--min-fallback-size=0"]);
    world.repository.summarise();
    (world, commit, files)
}

/// All pull at once; what came from upstream and from peers, in copies of the delta.
fn pull_at_once(
    world: &World,
    url: &str,
    clients: &[Program],
    (commit, files): (&str, &Tree),
) -> (f64, f64) {
    thread::scope(|scope| {
        for client in clients {
            scope.spawn(|| deltas::pull(url, client, commit, files));
        }
    });
    let len = world.repository.bytes("deltas") as f64;
    let sum = |series| clients.iter().map(|client| client.metric(series)).sum::<i64>() as f64 / len;
    (sum(FROM_UPSTREAM), sum(FROM_PEERS))
}

#[test]
fn a_delta_that_all_hosts_pull_at_once_leaves_the_site_once() {
    let (world, commit, files) = world(90);
    let line = Link::to(world.site.addr(), 40);
    let url = format!("http://{}/repo", line.addr());
    let clients = ["first", "second", "third", "fourth"].map(|name| world.client(name, &[]));
    let copies = pull_at_once(&world, &url, &clients, (&commit, &files));
    println!("copies from upstream and from peers: {copies:?}");
    let logs = clients.each_ref().map(Program::log).join("\n----\n");
    assert!(copies.0 < 1.5, "{copies:?}\n{logs}");
    assert!(copies.1 > 2.5, "{copies:?}\n{logs}");
}

/// What was shared of a part that turns out wrong is no good to anybody.
#[test]
fn a_part_that_comes_wrong_harms_none_of_those_that_follow() {
    let (world, commit, files) = world(91);
    let upstream = FaultProxy::start(world.site.addr());
    upstream.fail(&world.repository.parts()[2], 1, Fault::Flip { at: 1_500_000 });
    let line = Link::to(upstream.addr(), 40);
    let url = format!("http://{}/repo", line.addr());
    let clients = ["first", "second", "third"].map(|name| world.client(name, &[]));
    pull_at_once(&world, &url, &clients, (&commit, &files));
}
