//! A static delta is a torrent for everybody: aria2 takes one from this program, and this program
//! takes one from aria2.

use std::fs;

use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::proto::geometry::Geometry;
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::proto::ostree::layout::{Layout, file_name};

use crate::World;
use crate::deltas::{name_of, pull, put, with_delta};
use crate::support::faults::{Fault, FaultProxy};
use crate::support::foreign::{Kind, Seeder, download_files, wait_for_seeders};
use crate::support::network::{FROM_PEERS, wait_until_sent};
use crate::support::ostree::Repository;

/// The files of the repository's one delta, in order, and its `.torrent`, as they alone make it.
fn torrent_of(repository: &Repository) -> (Vec<Vec<u8>>, Metainfo) {
    let (name, _) = name_of(repository);
    let superblock = repository.superblocks().remove(0);
    let dir = superblock.strip_suffix("superblock").expect("a name");
    let read = |index| fs::read(repository.path().join(format!("{dir}{}", file_name(index))));
    let files: Vec<Vec<u8>> = (0..).map_while(|index| read(index).ok()).collect();
    let layout = Layout::new(files.iter().map(|file| file.len() as u64)).expect("a delta");
    let bytes = files.concat();
    let piece_len = Geometry::for_blob(layout.len()).expect("a usual length").piece_len();
    let hashes = bytes.chunks(piece_len as usize).map(Sha1Hash::of).collect();
    (files, Metainfo::of_delta(&name, &layout, hashes).expect("one hash for each piece"))
}

#[test]
fn aria2_takes_a_delta_from_a_client() {
    let world = World::start();
    let (commit, files) = with_delta(&world.repository, 72);
    let client = world.client("client", &[]);
    pull(&world.site.url("repo"), &client, &commit, &files);
    world.wait_until_shared(&client, 1, 1);
    let (files, known) = torrent_of(&world.repository);
    let announce = world.tracker.announce_url();
    let (dir, output) = download_files(Kind::Aria2, &known.encode(), &announce);
    for (index, bytes) in files.iter().enumerate() {
        let path = dir.path().join(known.name()).join(file_name(index));
        let found = fs::read(&path).unwrap_or_else(|error| panic!("{index}: {error}: {output}"));
        assert!(found == *bytes, "{path:?} is another file");
    }
    wait_until_sent(&client, i64::try_from(files.concat().len()).expect("a length"));
}

#[test]
fn a_client_takes_all_of_a_delta_from_aria2() {
    let world = World::start();
    let (commit, tree) = with_delta(&world.repository, 73);
    let (files, known) = torrent_of(&world.repository);
    let (name, _) = name_of(&world.repository);
    put(&world.tracker, &name, &known.encode());
    let announce = world.tracker.announce_url();
    let named: Vec<(String, &[u8])> = files
        .iter()
        .enumerate()
        .map(|(index, bytes)| (format!("{}/{}", known.name(), file_name(index)), bytes.as_slice()))
        .collect();
    let _seeder = Seeder::start_files(Kind::Aria2, &named, &known.encode(), &announce);
    wait_for_seeders(&announce, &known.info_hash(), 1);
    // aria2 takes its time: from the upstream comes none of it.
    let upstream = FaultProxy::start(world.site.addr());
    upstream.fail("/deltas/", usize::MAX, Fault::Status(503));
    let client = world.client("client", &[]);
    pull(&format!("{}/repo", upstream.url()), &client, &commit, &tree);
    let len = i64::try_from(files.concat().len()).expect("a length");
    assert_eq!(client.metric(FROM_PEERS), len, "{}", client.log());
    wait_for_seeders(&announce, &known.info_hash(), 2);
}
