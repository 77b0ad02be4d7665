//! Pulls when the upstream is away: all that was pulled before can be pulled again.

use crate::support::faults::{Fault, FaultProxy};
use crate::support::ostree::{Host, tree};
use crate::support::torrent_cache::Program;
use crate::{World, files, proxy};

/// A world whose repository was pulled through `client` once.
fn pulled(client: &Program) -> (World, String, crate::support::ostree::Tree) {
    let world = World::start();
    let files = tree(80, 30, &[100_000]);
    let commit = world.repository.commit("main", &files);
    world.repository.summarise();
    Host::new(&world.site.url("repo"), proxy(client)).pull(&["main"]);
    (world, commit, files)
}

#[test]
fn a_pull_works_without_the_upstream() {
    let mut client = Program::client("client", &[]);
    let (mut world, commit, tree) = pulled(&client);
    world.site.stop();
    for restart in [false, true] {
        if restart {
            assert!(client.stop().success());
            client.start_again();
        }
        let host = Host::new(&world.site.url("repo"), proxy(&client));
        host.pull(&["main"]);
        host.assert_has("main", &commit, &tree);
        assert!(files(&client, "stale") > 0);
    }
    world.site.start_again();
    Host::new(&world.site.url("repo"), proxy(&client)).pull(&["main"]);
}

#[test]
fn an_upstream_that_answers_503_is_away_too() {
    let client = Program::client("client", &[]);
    let world = World::start();
    let files = tree(81, 10, &[]);
    let commit = world.repository.commit("main", &files);
    world.repository.summarise();
    let upstream = FaultProxy::start(world.site.addr());
    let url = format!("{}/repo", upstream.url());
    Host::new(&url, proxy(&client)).pull(&["main"]);
    upstream.fail("/repo/", usize::MAX, Fault::Status(503));
    let host = Host::new(&url, proxy(&client));
    host.pull(&["main"]);
    host.assert_has("main", &commit, &files);
}

#[test]
fn nothing_is_served_unchecked_where_that_is_denied() {
    let client = Program::client("client", &[("OFFLINE", "deny")]);
    let (mut world, ..) = pulled(&client);
    world.site.stop();
    let host = Host::new(&world.site.url("repo"), proxy(&client));
    assert!(!host.try_pull(&["main"]).status.success());
    assert_eq!(files(&client, "stale"), 0);
}

/// A file that rotted on this host's disk is no answer.
#[test]
fn damaged_files_are_fetched_again() {
    let client = Program::client("client", &[]);
    let (world, commit, tree) = pulled(&client);
    let root = std::path::Path::new(client.option("STORAGE")).join("files");
    let mut damaged = 0;
    for folder in std::fs::read_dir(root).expect("it is there") {
        for file in std::fs::read_dir(folder.expect("it is there").path()).expect("a folder") {
            let path = file.expect("it is there").path();
            let mut bytes = std::fs::read(&path).expect("it can be read");
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(&path, bytes).expect("it can be written");
            damaged += 1;
        }
    }
    assert!(damaged > 30);
    let host = Host::new(&world.site.url("repo"), proxy(&client));
    host.pull(&["main"]);
    host.assert_has("main", &commit, &tree);
    let dropped = client.metric("torrent_cache_files_dropped_total{reason=\"damaged\"}");
    assert!(dropped > 30, "{dropped} of {damaged}");
}
