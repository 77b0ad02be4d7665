//! Superblocks that are wrong about the lengths of their parts. Nothing vouches for those: ostree
//! takes them for bounds, and holds the bytes against their checksums.

use std::fs::{self, File};
use std::time::{Duration, SystemTime};

use crate::deltas::{pull, with_delta};
use crate::hardship::peak_memory;
use crate::support::ostree::{Host, Repository};
use crate::support::wait_for;
use crate::{World, proxy};

/// Rewrites the one superblock of `repository`, so that `says` is what it says of the length of a
/// part that has `len` bytes. `second` is when that was: a server tells files of one second and one
/// length apart by nothing.
fn lie(repository: &Repository, honest: &[u8], len: u64, says: u64, second: u64) {
    let at = honest.windows(8).position(|bytes| bytes == len.to_le_bytes());
    let at = at.expect("the superblock has the length of its part");
    let bytes = [&honest[..at], &says.to_le_bytes(), &honest[at + 8..]].concat();
    let superblock = repository.path().join(&repository.superblocks()[0]);
    fs::write(&superblock, bytes).expect("disk has room");
    repository.summarise();
    let indexes = repository.paths("delta-indexes").into_iter();
    let changed = indexes.chain(["summary".to_owned()]).map(|path| repository.path().join(path));
    for path in changed.chain([superblock]) {
        let file = File::options().write(true).open(path).expect("it is there");
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + second);
        file.set_modified(time).expect("it is ours");
    }
}

#[test]
fn a_superblock_that_lies_about_lengths_ends_as_it_does_without_us() {
    let world = World::start();
    let (commit, files) = with_delta(&world.repository, 72);
    let honest = world.repository.path().join(&world.repository.superblocks()[0]);
    let honest = fs::read(honest).expect("it is there");
    let part = world.repository.path().join(&world.repository.parts()[1]);
    let len = fs::metadata(part).expect("it is there").len();
    let url = world.site.url("repo");
    let mut clients = [world.client("first", &[]), world.client("second", &[])];
    let mut pulled = 0;
    // Shorter, longer, longer than any disk here, longer than any delta may be, and none at all.
    let lies = [len / 2, len - 1, len + 1, len + (1 << 20), 1 << 34, 1 << 40, u64::MAX, 0];
    for (second, says) in (0..).zip(lies) {
        lie(&world.repository, &honest, len, says, second);
        let direct = Host::new(&url, None).try_pull(&["--require-static-deltas", "main"]);
        for client in &clients {
            let host = Host::new(&url, proxy(client));
            let through = host.try_pull(&["--require-static-deltas", "main"]);
            assert_eq!(
                through.status, direct.status,
                "{says} for {len}: {}: {}",
                through.output, direct.output
            );
            if through.status.success() {
                host.assert_has("main", &commit, &files);
                pulled += 1;
            }
            assert_eq!(client.metric("torrent_cache_store_blobs"), 0, "{says}");
        }
    }
    assert_eq!(pulled, 12, "libostree takes all but the short ones");
    // That a host has left the early swarm of one, the tracker is told a moment later.
    wait_for("the tracker to know nobody who has what is not as it says", || {
        (world.tracker.metric("torrent_cache_tracker_peers") == 0).then_some(())
    });
    for client in &mut clients {
        let peak = peak_memory(client.process().pid());
        assert!(peak < 100 << 20, "{} MiB", peak >> 20);
    }
    // The truth, at the same place.
    lie(&world.repository, &honest, len, len, 100);
    for client in &clients {
        pull(&url, client, &commit, &files);
        world.wait_until_shared(&clients[0], 1, 1);
    }
}
