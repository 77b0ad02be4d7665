//! What a client that was killed or stopped has when it starts again.

use torrent_cache::limits::SETTLE_LOOK;

use crate::support::image::Blob;
use crate::support::torrent_cache::Program;
use crate::support::wait_for;
use crate::world::{Download, FROM_PEERS, FROM_UPSTREAM, MIB, World, status, stored};

/// Fails unless `client`, which was just started, has the blob whole and nothing half.
fn assert_has_it(world: &World, client: &Program) {
    assert_eq!(status(client)["store"]["blobs"], 1);
    assert!(stored(client, "partial").is_empty());
    let heads_before = world.upstream.seen().len();
    world.pull(client);
    assert_eq!(client.metric(FROM_UPSTREAM), 0);
    let asked = world.upstream.seen().split_off(heads_before);
    assert!(asked.iter().all(|request| request.line.starts_with("HEAD ")), "{asked:?}");
}

/// Fails unless another client gets the blob from the swarm alone.
fn assert_seeds_it(world: &World) {
    world.wait_until_shared();
    let other = world.client("other");
    world.pull(&other);
    assert_eq!(other.metric(FROM_UPSTREAM), 0, "{}", other.log());
    assert_eq!(other.metric(FROM_PEERS), world.len());
}

#[test]
fn nothing_is_synced_while_another_blob_is_fetched() {
    const UNSYNCED: &str = "torrent_cache_store_unsynced_blobs";
    // What the upstream says of all but its blob.
    let other = Blob::new(b"{}".to_vec());
    let world = World::start(27, 8 * MIB);
    let client = world.client("client");
    world.upstream.fall_silent_after(Some(MIB));
    let download = Download::start(&world.url(&client), &[]);
    wait_for("bytes", || (client.metric(FROM_UPSTREAM) == 1 << 20).then_some(()));
    let url = world.url(&client).replace(&world.upstream.blob.digest, &other.digest);
    Download::start(&url, &[]).expect_whole(&other);
    wait_for("it to be kept", || (client.metric(UNSYNCED) == 1).then_some(()));
    // What is tested: time that passes.
    std::thread::sleep(3 * SETTLE_LOOK);
    assert_eq!(client.metric(UNSYNCED), 1);
    world.upstream.fall_silent_after(None);
    download.expect_whole(&world.upstream.blob);
    client.wait_until_synced();
    assert_eq!(stored(&client, "blobs").len(), 2);
}

#[test]
fn a_stop_after_a_pull_loses_nothing() {
    let world = World::start(26, 8 * MIB);
    let mut client = world.client("client");
    world.pull(&client);
    wait_for("it to be kept", || (status(&client)["store"]["blobs"] == 1).then_some(()));
    assert!(client.stop().success());
    client.start_again();
    assert_has_it(&world, &client);
}

#[test]
fn a_kill_in_the_middle_of_a_fetch_leaves_nothing_half() {
    let world = World::start(21, 8 * MIB);
    let mut client = world.client("client");
    for len in [0, 1, 4 * MIB, 8 * MIB - 1] {
        world.upstream.fall_silent_after(Some(len));
        let mut download = Download::start(&world.url(&client), &[]);
        let len = i64::try_from(len).expect("it is small");
        wait_for("bytes", || (client.metric(FROM_UPSTREAM) == len).then_some(()));
        client.crash();
        assert_ne!(download.wait(), Some(0), "a body that was cut after {len} bytes");
        client.start_again();
        assert_eq!(status(&client)["store"]["blobs"], 0, "after {len} bytes");
        assert!(stored(&client, "partial").is_empty(), "after {len} bytes");
        assert!(stored(&client, "blobs").is_empty(), "after {len} bytes");
    }
    world.upstream.fall_silent_after(None);
    world.pull(&client);
    assert_seeds_it(&world);
}

#[test]
fn a_kill_in_the_middle_of_a_swarm_leaves_nothing_half() {
    let world = World::start(25, 64 * MIB);
    let _seeder = world.seeder("seeder");
    let mut client = world.slow_client("client");
    let mut download = Download::start(&world.url(&client), &[]);
    wait_for("bytes from the peer", || (client.metric(FROM_PEERS) > 8_000_000).then_some(()));
    client.crash();
    assert_ne!(download.wait(), Some(0), "killed too late to prove anything");
    client.start_again();
    assert_eq!(status(&client)["store"]["blobs"], 0);
    assert!(stored(&client, "partial").is_empty());
    world.pull(&client);
    assert_eq!((client.metric(FROM_UPSTREAM), client.metric(FROM_PEERS)), (0, world.len()));
}

#[test]
fn a_kill_when_the_last_byte_is_out_leaves_it_whole_or_not_at_all() {
    for seed in 30..34 {
        let world = World::start(seed, 8 * MIB);
        let mut client = world.client("client");
        world.pull(&client);
        client.crash();
        client.start_again();
        assert!(stored(&client, "partial").is_empty());
        match status(&client)["store"]["blobs"].as_u64() {
            Some(1) => assert_has_it(&world, &client),
            _ => world.pull(&client),
        }
        assert_seeds_it(&world);
    }
}

#[test]
fn a_kill_after_a_pull_loses_nothing() {
    let world = World::start(22, 8 * MIB);
    let mut client = world.seeder("client");
    client.wait_until_synced();
    client.crash();
    client.start_again();
    assert_has_it(&world, &client);
    assert_seeds_it(&world);
}

#[test]
fn a_restart_seeds_again_without_reading_the_blobs() {
    let world = World::start(23, 64 * MIB);
    let mut client = world.seeder("client");
    assert!(client.stop().success());
    assert_eq!(world.seeders(), 0);
    client.start_again();
    world.wait_until_shared();
    let read = bytes_read(&mut client);
    assert!(read < 16 * MIB as u64, "{read} bytes were read to start");
    assert_seeds_it(&world);
}

#[test]
fn a_blob_that_was_cut_on_disk_is_fetched_anew() {
    let world = World::start(26, 8 * MIB);
    let mut client = world.seeder("client");
    assert!(client.stop().success());
    let [path] = &stored(&client, "blobs")[..] else { panic!("one blob") };
    let file = std::fs::OpenOptions::new().write(true).open(path).expect("it is ours");
    file.set_len(5 * MIB as u64).expect("it is ours");
    client.start_again();
    world.pull(&client);
    world.pull(&client);
}

#[test]
fn a_metainfo_that_was_lost_is_made_again() {
    let world = World::start(27, 8 * MIB);
    let mut client = world.seeder("client");
    assert!(client.stop().success());
    let [path] = &stored(&client, "torrents")[..] else { panic!("one metainfo") };
    std::fs::remove_file(path).expect("it is ours");
    client.start_again();
    world.pull(&client);
    assert_seeds_it(&world);
}

/// Bytes that the process has read, from wherever, page cache included (`proc(5)`).
fn bytes_read(client: &mut Program) -> u64 {
    let path = format!("/proc/{}/io", client.process().pid());
    let text = std::fs::read_to_string(path).expect("it is Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("rchar: "));
    line.and_then(|count| count.parse().ok()).expect("the kernel counts it")
}
