//! Large objects that hosts share (`OSTREE_SHARE_OBJECTS`), in a repository without deltas.

use std::process::Command;

use torrent_cache::base::hash::{hex, sha256};

use crate::support::network::{FROM_PEERS, FROM_UPSTREAM};
use crate::support::ostree::{Host, Tree, tree};
use crate::support::process::Process;
use crate::support::site::AUTHORIZATION;
use crate::support::torrent_cache::Program;
use crate::support::wait_for;
use crate::{MIB, World, files, proxy};

const SHARE: (&str, &str) = ("OSTREE_SHARE_OBJECTS", "1");
const SHARED: &str = "torrent_cache_objects_total{outcome=\"shared\"}";
const WRONG: &str = "torrent_cache_objects_total{outcome=\"wrong\"}";

/// Large files, one of them larger than what is held in memory, and many small ones.
fn some_files(seed: u64) -> (Tree, usize) {
    let lens = [5 * MIB, 3 * MIB, 700_000, 300_000];
    (tree(seed, 60, &lens), lens.len())
}

/// The paths of the large objects, below the site.
fn large(world: &World) -> Vec<String> {
    let mut paths = world.repository.objects();
    paths.retain(|path| {
        let file = world.repository.path().join(path);
        path.ends_with(".filez") && file.metadata().expect("it is there").len() >= 256 << 10
    });
    paths.iter().map(|path| format!("/repo/{path}")).collect()
}

fn pull(url: &str, client: &Program, commit: &str, files: &Tree) {
    let host = Host::new(url, proxy(client));
    host.pull(&["main"]);
    host.assert_has("main", commit, files);
}

/// Waits until `client` has put `count` objects where others find them.
fn wait_until_shared(world: &World, client: &Program, count: usize) {
    let count = i64::try_from(count).expect("a few");
    wait_for("the objects to be shared", || (client.metric(SHARED) >= count).then_some(()));
    let published = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
    wait_for("publication", || (client.metric(published) >= 2 * count).then_some(()));
    wait_for("the announces", || {
        (world.tracker.metric("torrent_cache_tracker_peers") >= count).then_some(())
    });
}

#[test]
fn a_large_object_leaves_the_site_once_for_three_hosts() {
    let world = World::start();
    let (tree, count) = some_files(100);
    let commit = world.repository.commit("main", &tree);
    world.repository.summarise();
    let url = world.site.url("repo");
    let mut clients = ["first", "second", "third"].map(|name| world.client(name, &[SHARE]));
    for (number, client) in clients.iter().enumerate() {
        pull(&url, client, &commit, &tree);
        if number == 0 {
            wait_until_shared(&world, client, count);
        } else {
            assert!(client.metric(FROM_PEERS) > 0, "{}", client.log());
            assert_eq!(files(client, "swarm"), i64::try_from(count).expect("a few"));
        }
    }
    let paths = large(&world);
    assert_eq!(paths.len(), count);
    for path in &paths {
        assert_eq!(world.site.bodies(|other| other == path), 1, "{path}");
    }
    // What came from others is here as what came from the site is, after a restart too.
    for client in &mut clients {
        assert!(client.stop().success());
        client.start_again();
        pull(&url, client, &commit, &tree);
        assert_eq!(files(client, "swarm"), 0);
    }
    for path in &paths {
        assert_eq!(world.site.bodies(|other| other == path), 1, "{path}");
    }
}

#[test]
fn without_the_option_each_host_asks_the_site() {
    let world = World::start();
    let (tree, _) = some_files(101);
    let commit = world.repository.commit("main", &tree);
    world.repository.summarise();
    let sharing = world.client("sharing", &[SHARE]);
    pull(&world.site.url("repo"), &sharing, &commit, &tree);
    wait_until_shared(&world, &sharing, 4);
    let client = world.client("client", &[]);
    pull(&world.site.url("repo"), &client, &commit, &tree);
    assert_eq!(client.metric(FROM_PEERS) + client.metric(SHARED), 0);
    for path in large(&world) {
        assert_eq!(world.site.bodies(|other| *other == path), 2, "{path}");
    }
}

/// Runs `etcdctl` with these arguments.
fn etcdctl(world: &World, arguments: &[&str]) -> String {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(arguments);
    let port = world.tracker.option("ETCD_PORT");
    command.arg(format!("--endpoints=http://127.0.0.1:{port}"));
    let finished = Process::run("etcdctl", command, "etcd-client");
    assert!(finished.status.success(), "{}", finished.output);
    finished.output
}

fn key(world: &World, path: &str) -> String {
    let url = format!("http://{}{path}", world.site.addr());
    format!("/torrent-cache/ostree/{}", hex(&sha256(url.as_bytes())))
}

/// An entry that leads to the bytes of another object, which others have.
#[test]
fn a_pointer_that_lies_does_no_harm_and_is_replaced() {
    let world = World::start();
    let (tree, count) = some_files(102);
    let commit = world.repository.commit("main", &tree);
    world.repository.summarise();
    let url = world.site.url("repo");
    let first = world.client("first", &[SHARE]);
    pull(&url, &first, &commit, &tree);
    wait_until_shared(&world, &first, count);
    let paths = large(&world);
    let pointer = |path: &str| {
        let printed = etcdctl(&world, &["get", "--print-value-only", &key(&world, path)]);
        printed.trim().to_owned()
    };
    let truth = pointer(&paths[0]);
    let other = pointer(&paths[1]);
    let nonsense = format!("sha256:{} 300000", "ab".repeat(32));
    for (number, lie) in [other.as_str(), &nonsense, "nonsense"].into_iter().enumerate() {
        etcdctl(&world, &["put", &key(&world, &paths[0]), lie]);
        let client = world.client("client", &[SHARE]);
        let before = world.site.bodies(|path| path == paths[0]);
        pull(&url, &client, &commit, &tree);
        // One that leads nowhere is looked for at the site under its name, and then the object is.
        let wanted = if number == 1 { 2 } else { 1 };
        let asked = || world.site.bodies(|path| path == paths[0]) - before;
        wait_for("the log", || (asked() >= wanted).then_some(()));
        assert_eq!(asked(), wanted, "{lie}: {}", client.log());
        assert_eq!(client.metric(WRONG), i64::from(number < 2), "{lie}: {}", client.log());
        wait_for("the truth", || (pointer(&paths[0]) == truth).then_some(()));
    }
}

#[test]
fn an_etcd_that_lost_its_data_is_told_of_the_objects_again() {
    let world = World::start();
    let (tree, count) = some_files(105);
    let commit = world.repository.commit("main", &tree);
    world.repository.summarise();
    let url = world.site.url("repo");
    let mut first = world.client("first", &[SHARE]);
    pull(&url, &first, &commit, &tree);
    wait_until_shared(&world, &first, count);
    let keys = |prefix: &str| {
        let printed = etcdctl(&world, &["get", "--prefix", "--keys-only", prefix]);
        printed.lines().filter(|line| !line.is_empty()).count()
    };
    let prefixes = ["/torrents/", "/torrent-cache/ostree/"];
    assert_eq!(prefixes.map(keys), [count; 2]);
    // While it runs, and while it does not.
    for stopped in [false, true] {
        if stopped {
            assert!(first.stop().success());
        }
        for prefix in prefixes {
            etcdctl(&world, &["del", "--prefix", prefix]);
        }
        if stopped {
            first.start_again();
        }
        wait_for("all to be told", || (prefixes.map(keys) == [count; 2]).then_some(()));
    }
    let second = world.client("second", &[SHARE]);
    pull(&url, &second, &commit, &tree);
    assert!(second.metric(FROM_PEERS) > 0, "{}", second.log());
}

#[test]
fn without_etcd_objects_come_from_the_site() {
    let world = World::start();
    let (tree, count) = some_files(103);
    let commit = world.repository.commit("main", &tree);
    world.repository.summarise();
    let url = world.site.url("repo");
    let client = world.client("client", &[SHARE, ("ETCD_PORT", "1")]);
    for _ in 0..2 {
        pull(&url, &client, &commit, &tree);
    }
    assert!(client.metric(FROM_UPSTREAM) > 0);
    for path in large(&world) {
        assert_eq!(world.site.bodies(|other| *other == path), 1, "{path}");
    }
    // They are blobs all the same, for whoever hears of them.
    let count = i64::try_from(count).expect("a few");
    wait_for("the blobs", || (client.metric("torrent_cache_store_blobs") == count).then_some(()));
}

/// That others have it opens it to nobody.
#[test]
fn a_private_object_is_given_to_those_whom_the_site_knows() {
    let mut world = World::start();
    let path = world.site.root().join("private/repo");
    world.repository = crate::support::ostree::Repository::make(path);
    let (tree, count) = some_files(104);
    let commit = world.repository.commit("main", &tree);
    world.repository.summarise();
    let url = world.site.url("private/repo");
    let header = format!("--http-header=Authorization={AUTHORIZATION}");
    let clients = ["first", "second"].map(|name| world.client(name, &[SHARE]));
    for client in &clients {
        let stranger = Host::new(&url, proxy(client));
        let object = world.repository.objects().pop().expect("there are some");
        for _ in 0..2 {
            assert!(!stranger.try_pull(&["main"]).status.success());
            let (status, _) = crate::deltas::through(client, &format!("{url}/{object}"), &[]);
            assert_eq!(status, 401);
            let host = Host::new(&url, proxy(client));
            host.pull(&[&header, "main"]);
            host.assert_has("main", &commit, &tree);
        }
        wait_for("the objects", || {
            let blobs = client.metric("torrent_cache_store_blobs");
            (blobs == i64::try_from(count).expect("a few")).then_some(())
        });
    }
}
