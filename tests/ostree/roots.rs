//! Archive repositories on the host itself (`OSTREE_REPOS`): shared from where they lie.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::deltas::through;
use crate::support::network::{FROM_PEERS, wait_until_sent};
use crate::support::ostree::{Host, Repository, tree};
use crate::support::process::Process;
use crate::support::torrent_cache::{Program, binary};
use crate::support::wait_for;
use crate::{MIB, World, proxy};

const PUBLISHED: &str = "torrent_cache_catalog_requests_total{outcome=\"published\"}";

/// A client of the world's network that has the world's repository on its own disk.
fn owner(world: &World, count: usize) -> Program {
    let path = world.repository.path().display().to_string();
    let client = world.client("owner", &[("OSTREE_REPOS", &path)]);
    wait_until_served(&client, count);
    client
}

fn wait_until_served(client: &Program, count: usize) {
    let served = || client.log().matches("is served from").count();
    wait_for("the deltas to be checked", || (served() >= count).then_some(()));
}

/// How often a part of a delta has left the site.
fn parts(world: &World) -> usize {
    world.site.bodies(|path| path.contains("/deltas/") && !path.ends_with("superblock"))
}

fn files_below(dir: &Path) -> usize {
    fs::read_dir(dir).expect("it is there").count()
}

#[test]
fn deltas_are_seeded_and_served_without_a_copy() {
    let world = World::start();
    let files = tree(90, 30, &[2 * MIB, MIB]);
    let commit = world.repository.commit("main", &files);
    world.repository.delta("main", &["--empty", "--max-chunk-size=1"]);
    world.repository.summarise();
    let mut owner = owner(&world, 1);
    wait_for("its announce", || {
        (world.tracker.metric("torrent_cache_tracker_peers") >= 1).then_some(())
    });
    wait_for("publication", || (owner.metric(PUBLISHED) >= 1).then_some(()));
    let other = world.client("other", &[]);
    let objects = || world.site.bodies(|path| path.contains("/objects/"));
    let mut objects_before = 0;
    for client in [&other, &owner] {
        objects_before = objects();
        let host = Host::new(&world.site.url("repo"), proxy(client));
        host.pull(&["--require-static-deltas", "main"]);
        host.pull(&["--disable-static-deltas", "main"]);
        host.assert_has("main", &commit, &files);
    }
    assert_eq!(parts(&world), 0, "the parts were there already");
    let came = other.metric(FROM_PEERS);
    assert_eq!(wait_until_sent(&owner, came), came);
    assert!(other.metric(FROM_PEERS) > 3 << 20, "{}", other.log());
    let storage = Path::new(owner.option("STORAGE")).to_owned();
    assert_eq!(files_below(&storage.join("blobs")), 0);
    assert_eq!(objects(), objects_before, "objects come from the repository as well");

    // A start does not read it all again: only what a check found is kept.
    assert_eq!(files_below(&storage.join("in-place")), 1);
    assert!(owner.stop().success());
    owner.start_again();
    wait_until_served(&owner, 1);
}

#[test]
fn a_change_of_the_repository_is_noticed() {
    let world = World::start();
    let files = tree(91, 20, &[2 * MIB]);
    let commit = world.repository.commit("main", &files);
    world.repository.delta("main", &["--empty", "--max-chunk-size=1"]);
    world.repository.summarise();
    let owner = owner(&world, 1);

    // Cut into other parts, at the same place.
    world.repository.delta("main", &["--empty", "--max-chunk-size=2"]);
    world.repository.summarise();
    wait_until_served(&owner, 2);
    let host = Host::new(&world.site.url("repo"), proxy(&owner));
    host.pull(&["--require-static-deltas", "main"]);
    host.assert_has("main", &commit, &files);
    assert_eq!(parts(&world), 0);

    // Damaged: it is no longer given out, and says so.
    let part = world.repository.path().join(&world.repository.parts()[0]);
    let mut bytes = fs::read(&part).expect("it is there");
    bytes[1000] ^= 1;
    fs::write(&part, bytes).expect("disk has room");
    wait_for("the damage to be found", || {
        owner.log().contains("a part has not its checksum").then_some(())
    });
    let host = Host::new(&world.site.url("repo"), proxy(&owner));
    assert!(!host.try_pull(&["--require-static-deltas", "main"]).status.success());
    assert!(parts(&world) > 0, "the site was asked, which has the same damage");
}

/// One that fits in one part, and one of several.
#[test]
fn a_damaged_object_comes_from_the_site() {
    let world = World::start();
    let commit = world.repository.commit("main", &tree(92, 5, &[2 * MIB]));
    world.repository.summarise();
    // The repository of the host is a copy, which gets damaged.
    let copy = Repository::make(world.site.root().join("copy"));
    copy.run(&["pull-local", &world.repository.path().display().to_string()]);
    let client = world.client("owner", &[("OSTREE_REPOS", &copy.path().display().to_string())]);
    let (commit_dir, commit_file) = commit.split_at(2);
    let mut paths = world.repository.objects();
    let len = |path: &String| fs::metadata(copy.path().join(path)).expect("it is there").len();
    paths.retain(|path| path.ends_with(".filez"));
    paths.sort_by_key(len);
    let (small, large) = (&paths[0], &paths[paths.len() - 1]);
    assert!(len(small) < 100_000 && len(large) > 2_000_000, "{paths:?}");
    let commit = format!("objects/{commit_dir}/{commit_file}.commit");
    let asked = |path: &str| world.site.bodies(|other| other == format!("/repo/{path}"));
    let ask = |path: &str| through(&client, &format!("{}/{path}", world.site.url("repo")), &[]);
    let right = |path: &str| fs::read(world.repository.path().join(path)).expect("it is there");
    for path in [&commit, small, large] {
        for _ in 0..2 {
            assert!(ask(path) == (200, right(path)), "{path}: {}", client.log());
        }
        assert_eq!(asked(path), 0, "{path}");
        let file = copy.path().join(path);
        let mut bytes = right(path);
        // In its content: of a large one that is found when most of it has left.
        let at = bytes.len() - 10;
        bytes[at] ^= 1;
        fs::remove_file(&file).expect("it is there");
        fs::write(&file, bytes).expect("disk has room");
        if path == large {
            assert!(ask(path).1.len() < right(path).len(), "it came whole: {}", client.log());
        }
        assert!(ask(path) == (200, right(path)), "{path}: {}", client.log());
        wait_for("the log", || (asked(path) >= 1).then_some(()));
        assert_eq!(asked(path), 1, "{path}: {}", client.log());
    }
    assert!(client.log().contains("is damaged"), "{}", client.log());
}

#[test]
fn a_folder_that_is_no_archive_repository_is_refused() {
    let world = World::start();
    let host = Host::new(&world.site.url("repo"), None);
    for (dir, why) in
        [(host.path(), "is not in mode archive"), (world.site.root(), "is no OSTree repository")]
    {
        let mut command = Command::new(binary());
        command.args(["client", "--ostree-repos"]).arg(dir);
        let finished = Process::run("client", command, "");
        assert_eq!(finished.status.code(), Some(2), "{}", finished.output);
        let said = finished.output;
        assert!(said.contains("OSTREE_REPOS=") && said.contains(why), "{said}");
    }
}
