//! What libostree before 2023.7 asks for beside a delta: the objects that the delta's parts hold.

use std::collections::HashSet;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use torrent_cache::base::hash::sha256;
use torrent_cache::proto::ostree::{self, ObjectKind, delta, part};

use crate::deltas::{MISMATCHES, asked, through};
use crate::support::faults::{Fault, FaultProxy};
use crate::support::foreign::without_proxies;
use crate::support::ostree::{Host, Repository, tree};
use crate::support::process::Process;
use crate::support::site::AUTHORIZATION;
use crate::support::torrent_cache::Program;
use crate::support::{temp_dir, wait_for};
use crate::{MIB, World, proxy};

const UNPACKED: &str = "torrent_cache_unpacked_objects_total";

/// The objects that the site gave out, but for commits, which are in no part.
fn objects(world: &World) -> Vec<String> {
    let accesses = world.site.accesses().into_iter();
    let bodies = accesses.filter(|access| access.method == "GET" && access.status == 200);
    let paths = bodies.map(|access| access.path);
    paths.filter(|path| path.contains("/objects/") && !path.ends_with(".commit")).collect()
}

/// Three hosts, one after the other: what the delta holds does not leave the site as objects too.
#[test]
fn objects_beside_a_delta_come_out_of_its_parts() {
    let world = World::start();
    let files = tree(100, 200, &[2 * MIB, MIB, 300_000]);
    let commit = world.repository.commit("main", &files);
    world.repository.delta("main", &["--empty", "--max-chunk-size=1"]);
    world.repository.summarise();
    let url = world.site.url("repo");
    let clients = ["first", "second", "third"].map(|name| world.client(name, &[]));
    let mut unpacked = 0;
    for (number, client) in (1..).zip(&clients) {
        let host = Host::new(&url, proxy(client));
        host.pull(&["main"]);
        host.assert_has("main", &commit, &files);
        world.wait_until_shared(client, 1, number);
        unpacked += client.metric(UNPACKED);
    }
    let parts = world.repository.parts();
    assert!(parts.len() >= 4, "{parts:?}");
    for part in parts.iter().chain(&world.repository.superblocks()) {
        assert_eq!(world.site.bodies(|path| path.ends_with(part)), 1, "{part}");
    }
    assert_eq!(objects(&world), [""; 0]);
    assert!(unpacked > 0, "this ostree asks for no objects beside a delta");
}

/// Commits a folder with files of every kind, which have attributes.
fn commit_of_every_kind(repository: &Repository, dir: &Path) -> String {
    fs::create_dir_all(dir.join("sub/empty")).expect("disk has room");
    let write = |name: &str, bytes: &[u8]| {
        fs::write(dir.join(name), bytes).expect("disk has room");
    };
    write("text", &b"some text, again and again\n".repeat(10_000));
    write("none", b"");
    write("run", b"#!/bin/sh\n");
    fs::set_permissions(dir.join("run"), fs::Permissions::from_mode(0o755)).expect("ours");
    for (name, target) in [("link", "text".to_owned()), ("sub/far", "../".repeat(200))] {
        symlink(target, dir.join(name)).expect("disk has room");
    }
    for (name, bytes) in tree(101, 30, &[200_000]) {
        fs::create_dir_all(dir.join(&name).parent().expect("below it")).expect("disk has room");
        write(&name, &bytes);
    }
    let mut attributes = Command::new("/usr/bin/python3");
    let script = "import os, sys; os.setxattr(sys.argv[1], 'user.one', b'1')";
    attributes.args(["-c", script]).arg(dir.join("text"));
    let finished = Process::run("python3", attributes, "python3");
    assert!(finished.status.success(), "{}", finished.output);
    let tree = format!("--tree=dir={}", dir.display());
    repository.run(&["commit", "--branch=main", "--owner-uid=7", "--owner-gid=8", &tree])
}

/// A repository that is pulled into without deltas: ostree asks for each object, and checks it.
fn mirror(url: &str, client: &Program) {
    let dir = temp_dir();
    let mirror = Repository::make(dir.path().join("mirror"));
    mirror.run(&["remote", "add", "--no-sign-verify", "origin", url]);
    let mut command = without_proxies(Command::new("ostree"));
    command.arg(format!("--repo={}", mirror.path().display()));
    command.args(["pull", "--mirror", "origin", "main"]);
    command.envs(proxy(client).map(|proxy| ("http_proxy", proxy)));
    let finished = Process::run("ostree", command, "ostree");
    assert!(finished.status.success(), "{}", finished.output);
    mirror.run(&["fsck", "--quiet"]);
}

#[test]
fn objects_of_every_kind_come_out_of_deltas_of_every_form() {
    for options in [
        &["--max-chunk-size=1"][..],
        &["--inline"],
        &["--swap-endianness", "--max-chunk-size=1"],
        &["--inline", "--swap-endianness"],
    ] {
        let world = World::start();
        let dir = temp_dir();
        commit_of_every_kind(&world.repository, dir.path());
        world.repository.delta("main", &[&["--empty", "--min-fallback-size=0"], options].concat());
        world.repository.summarise();
        let client = world.client("client", &[]);
        let superblock = world.repository.superblocks().remove(0);
        let (status, _) = through(&client, &world.site.url(&format!("repo/{superblock}")), &[]);
        assert_eq!(status, 200, "{options:?}");
        mirror(&world.site.url("repo"), &client);
        assert_eq!(objects(&world), [""; 0], "{options:?}: {}", client.log());
        // The commit and its folders among them.
        assert!(client.metric(UNPACKED) >= 40, "{options:?}: {}", client.log());
    }
}

/// Objects that a part makes of others, and those that are in no part, are the upstream's.
#[test]
fn what_the_parts_do_not_carry_whole_comes_from_upstream() {
    let world = World::start();
    let mut files = tree(102, 30, &[600_000, 400_000]);
    world.repository.commit("main", &files);
    world.repository.delta("main", &["--empty"]);
    world.repository.summarise();
    let url = world.site.url("repo");
    let client = world.client("client", &[]);
    let host = Host::new(&url, proxy(&client));
    host.pull(&["main"]);
    // Both large files become others, of which most is the same; one is new, and one is too large.
    for bytes in files.values_mut().filter(|bytes| bytes.len() > 100_000) {
        let middle = bytes.len() / 2;
        bytes.splice(middle..middle, *b"something new");
    }
    files.extend(tree(103, 4, &[5 * MIB]).into_iter().map(|(name, bytes)| (name + "-new", bytes)));
    let commit = world.repository.commit("main", &files);
    world.repository.delta("main", &[]);
    world.repository.summarise();
    let before: HashSet<String> = given(&world);
    host.pull(&["main"]);
    host.assert_has("main", &commit, &files);
    let given: HashSet<String> = given(&world).difference(&before).cloned().collect();
    let len_of = |path: &String| {
        fs::metadata(world.repository.path().join(path)).expect("an object of it").len()
    };
    assert!(given.iter().any(|path| len_of(path) > 4_000_000), "the one too large: {given:?}");
    assert!(given.iter().all(|path| len_of(path) > 100_000), "{given:?}: {}", client.log());
}

/// The paths of the objects that the site gave out, below the repository.
fn given(world: &World) -> HashSet<String> {
    let accesses = world.site.accesses().into_iter();
    let objects = accesses.filter(|access| access.method == "GET" && access.status == 200);
    let objects = objects.filter(|access| access.path.ends_with(".filez"));
    objects.map(|access| access.path.trim_start_matches("/repo/").to_owned()).collect()
}

/// The paths of its files' objects, below the repository.
fn files_of(repository: &Repository) -> Vec<String> {
    let mut objects = repository.objects();
    objects.retain(|path| path.ends_with(".filez"));
    objects
}

#[test]
fn objects_of_a_private_delta_are_given_to_those_who_may_have_them() {
    let world = World::start();
    let private = Repository::make(world.site.root().join("private/repo"));
    private.commit("main", &tree(104, 10, &[100_000]));
    private.delta("main", &["--empty"]);
    private.summarise();
    let client = Program::client("client", &[]);
    let known = format!("Authorization: {AUTHORIZATION}");
    let url = |path: &str| world.site.url(&format!("private/repo/{path}"));
    let superblock = private.superblocks().remove(0);
    assert_eq!(through(&client, &url(&superblock), &["--header", &known]).0, 200);
    for object in files_of(&private) {
        for stranger in [&[][..], &["--user", "nobody:x"]] {
            assert_eq!(through(&client, &url(&object), stranger).0, 401, "{object}");
        }
        assert_eq!(through(&client, &url(&object), &["--header", &known]).0, 200, "{object}");
        assert_eq!(through(&client, &url(&object), &[]).0, 401, "{object}");
    }
    assert_eq!(objects(&world), [""; 0], "{}", client.log());
}

/// A delta whose parts are what its superblock says, and lie.
#[test]
fn an_object_that_a_part_makes_wrong_comes_from_upstream() {
    let world = World::start();
    let files = tree(105, 10, &[50_000]);
    world.repository.commit("main", &files);
    world.repository.delta("main", &["--empty"]);
    let file = |path: &String| world.repository.path().join(path);
    let (part, superblock) =
        (world.repository.parts().remove(0), world.repository.superblocks().remove(0));
    let packed = fs::read(file(&part)).expect("it was made");
    let mut lie = Vec::new();
    part::unpack(Cursor::new(&packed), &mut lie).expect("a part");
    let content = files.values().find(|bytes| bytes.len() == 50_000).expect("it is there");
    let at = lie.windows(100).position(|window| window == &content[..100]).expect("it is there");
    lie[at] ^= 1;
    lie.insert(0, 0);
    let mut lying = fs::read(file(&superblock)).expect("it was made");
    let mut replace = |old: &[u8], new: &[u8]| {
        let at = lying.windows(old.len()).position(|window| window == old).expect("it is there");
        lying[at..at + old.len()].copy_from_slice(new);
    };
    replace(&sha256(&packed), &sha256(&lie));
    replace(&(packed.len() as u64).to_le_bytes(), &(lie.len() as u64).to_le_bytes());
    fs::write(file(&part), &lie).expect("disk has room");
    fs::write(file(&superblock), &lying).expect("disk has room");
    let client = Program::client("client", &[]);
    let url = |path: &String| world.site.url(&format!("repo/{path}"));
    assert_eq!(through(&client, &url(&superblock), &[]).0, 200);
    for object in files_of(&world.repository) {
        assert_eq!(through(&client, &url(&object), &[]).0, 200);
    }
    assert_eq!(client.metric(MISMATCHES), 1, "{}", client.log());
    let wrong = given(&world);
    assert_eq!(wrong.len(), 1, "{wrong:?}");
    let len = fs::metadata(file(wrong.iter().next().expect("one"))).expect("an object").len();
    assert!(len > 40_000);
}

/// Nobody waits for a part that does not come while the upstream has the object.
#[test]
fn objects_of_a_part_that_stalls_come_from_upstream() {
    let world = World::start();
    world.repository.commit("main", &tree(106, 20, &[MIB, MIB]));
    world.repository.delta("main", &["--empty", "--max-chunk-size=1"]);
    world.repository.summarise();
    let upstream = FaultProxy::start(world.site.addr());
    for part in world.repository.parts() {
        upstream.fail(&part, usize::MAX, Fault::Stall { after: 100 });
    }
    let client = Program::client("client", &[]);
    let url = |path: &str| format!("{}/repo/{path}", upstream.url());
    assert_eq!(through(&client, &url(&world.repository.superblocks()[0]), &[]).0, 200);
    for object in files_of(&world.repository).iter().take(2) {
        let (status, bytes) = through(&client, &url(object), &[]);
        let wanted = fs::read(world.repository.path().join(object)).expect("it is there");
        assert!(status == 200 && bytes == wanted, "{status}: {}", client.log());
    }
    assert_eq!(client.metric(UNPACKED), 0);
    let late = client.metric("torrent_cache_unpacked_parts_total{outcome=\"late\"}");
    assert!(late > 0, "{}", client.log());
}

/// Where files have no room the upstream is asked for them, as ever.
#[test]
fn objects_that_may_not_be_kept_come_from_upstream() {
    let world = World::start();
    let files = tree(107, 0, &[MIB, MIB]);
    let commit = world.repository.commit("main", &files);
    world.repository.delta("main", &["--empty"]);
    world.repository.summarise();
    let client = world.client("client", &[("STORAGE_MAX", "8M")]);
    let superblock = world.repository.superblocks().remove(0);
    let url = world.site.url("repo");
    assert_eq!(through(&client, &format!("{url}/{superblock}"), &[]).0, 200);
    for object in files_of(&world.repository) {
        let (status, bytes) = through(&client, &format!("{url}/{object}"), &[]);
        let wanted = fs::read(world.repository.path().join(&object)).expect("it is there");
        assert!(status == 200 && bytes == wanted, "{status}: {}", client.log());
    }
    let host = Host::new(&url, proxy(&client));
    host.pull(&["main"]);
    host.assert_has("main", &commit, &files);
}

/// A libostree that asks for files beside a delta reads no directory before it has the root.
#[test]
fn the_root_goes_out_when_all_other_parts_have() {
    let world = World::start();
    world.repository.commit("main", &tree(108, 10, &[MIB, MIB, MIB]));
    world.repository.delta("main", &["--empty", "--max-chunk-size=1"]);
    world.repository.summarise();
    let upstream = FaultProxy::start(world.site.addr());
    let client = world.client("client", &[]);
    let superblock = world.repository.superblocks().remove(0);
    let bytes = fs::read(world.repository.path().join(&superblock)).expect("it is there");
    let (root, number) = delta::root(&bytes).expect("a part has the root");
    let object = ostree::object_path(&root, ObjectKind::DirTree);
    let mut parts = world.repository.parts();
    assert!(parts.len() >= 3, "{parts:?}");
    let holder = parts.remove(number);
    assert!(holder.ends_with(&format!("/{number}")), "{holder}");
    let get = |path: &str, agent: &str| {
        let url = format!("{}/repo/{path}", upstream.url());
        let (status, bytes) = through(&client, &url, &["--user-agent", agent]);
        let wanted = fs::read(world.repository.path().join(path)).expect("it is there");
        assert!(status == 200 && bytes == wanted, "{path}: {status}: {}", client.log());
    };
    let agent = "libostree/2022.7";
    // Until it is asked for again, there is time for those that do not wait for it.
    upstream.fail(&parts[0], 1, Fault::Stall { after: 100 });
    get(&superblock, agent);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| get(&parts[0], agent));
        wait_for("the first part", || (asked(&upstream, &parts[0]) > 0).then_some(()));
        let held = [&holder, &object].map(|path| scope.spawn(|| get(path, agent)));
        first.join().expect("no panic");
        assert!(held.iter().all(|one| !one.is_finished()), "before the other parts");
        parts[1..].iter().for_each(|path| get(path, agent));
    });
    // Nobody waits for parts that are not asked for, or who would not ask for files.
    for agent in [agent, "libostree/2023.7"] {
        [&superblock, &holder, &object].iter().for_each(|path| get(path, agent));
    }
}
