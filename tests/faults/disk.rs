//! Blobs that do not stay on the disk what they were.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::site::{
    FROM_PEERS, MIB, Site, pull, status_after_jobs, wait_until_catalogued, wait_until_kept,
};
use crate::support::image::Blob;
use crate::support::torrent_cache::Program;
use crate::support::wait_for;

/// Where `client` keeps `blob`.
fn path_of(client: &Program, blob: &Blob) -> PathBuf {
    let name = blob.digest.replace(':', "-");
    Path::new(client.option("STORAGE")).join("blobs").join(name)
}

#[test]
fn a_blob_that_rots_on_disk_is_found_out_and_comes_anew() {
    let site = Site::start(90, &[2 * MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    pull(&client, blob, &[]).assert_is(200, &blob.bytes);
    wait_until_kept(&client, 1);
    client.wait_until_synced();
    let path = path_of(&client, blob);
    let file = OpenOptions::new().write(true).open(&path).expect("it is stored");
    let at = MIB + 5;
    file.write_all_at(&[!blob.bytes[at]], at as u64).expect("it can be written");
    wait_for("the right bytes", || (pull(&client, blob, &[]).body == blob.bytes).then_some(()));
    assert_eq!(client.metric("torrent_cache_store_errors_total"), 1, "{}", client.log());
    assert!(client.log().contains("is damaged on disk and dropped"), "{}", client.log());
    // Whoever comes while it is being deleted gets it past the store.
    let pull_whole = || pull(&client, blob, &[]).assert_is(200, &blob.bytes);
    wait_for("it to be kept", || {
        pull_whole();
        (status_after_jobs(&client)["store"]["blobs"] == 1).then_some(())
    });
    (0..3).for_each(|_| pull_whole());
    let passed = client.metric("torrent_cache_store_refused_total");
    assert_eq!(i64::try_from(site.fetches(blob)), Ok(2 + passed), "{}", client.log());
}

/// The first is small enough to be read into memory, the second is sent by the kernel.
#[test]
fn a_blob_that_the_disk_does_not_give_comes_from_elsewhere_in_the_same_response() {
    for (seed, len) in [(91, 4000), (92, 5 * MIB)] {
        let site = Site::start(seed, &[len]);
        let (mut client, blob) = (site.lone_client(), site.layer(0));
        pull(&client, blob, &[]).assert_is(200, &blob.bytes);
        wait_until_kept(&client, 1);
        assert!(client.stop().success());
        let path = path_of(&client, blob);
        client.set_unreadable(&path);
        client.start_again();
        pull(&client, blob, &[]).assert_is(200, &blob.bytes);
        let part = pull(&client, blob, &["--range", "1000-1999"]);
        part.assert_is(206, &blob.bytes[1000..2000]);
        wait_for("the blob to be dropped", || (!path.exists()).then_some(()));
        let log = client.log();
        assert_eq!(log.matches("is damaged on disk and dropped").count(), 1, "{log}");
        assert!(client.metric("torrent_cache_store_errors_total") > 0, "{log}");
    }
}

/// Nobody asks the host that has it: only peers do.
#[test]
fn a_blob_that_the_disk_does_not_give_to_peers_is_dropped() {
    let site = Site::start(93, &[5 * MIB]);
    let tracker = Program::tracker("tracker", &[]);
    let (mut first, blob) = (site.client_of("first", &tracker), site.layer(0));
    pull(&first, blob, &[]).assert_is(200, &blob.bytes);
    wait_until_catalogued(tracker.option("ETCD_PORT"), blob);
    assert!(first.stop().success());
    let path = path_of(&first, blob);
    first.set_unreadable(&path);
    first.start_again();
    wait_for("the first to be announced", || {
        (tracker.metric("torrent_cache_tracker_peers") > 0).then_some(())
    });
    let second = site.client_of("second", &tracker);
    pull(&second, blob, &[]).assert_is(200, &blob.bytes);
    assert_eq!(second.metric(FROM_PEERS), 0);
    wait_for("the blob to be dropped", || (!path.exists()).then_some(()));
}

/// The pull is none the worse for it, but somebody should know that others get nothing from here.
#[test]
fn a_blob_without_room_is_passed_on_and_counted() {
    let site = Site::start(94, &[2 * MIB]);
    let registry = site.proxy.url();
    let options = [("REGISTRY_LOCATION", registry.as_str()), ("STORAGE_MAX", "1M")];
    let (client, blob) = (Program::client("client", &options), site.layer(0));
    pull(&client, blob, &[]).assert_is(200, &blob.bytes);
    assert_eq!(client.metric("torrent_cache_store_refused_total"), 1, "{}", client.log());
}

#[test]
fn storage_that_was_deleted_is_made_again() {
    let site = Site::start(95, &[2 * MIB, MIB, 5000]);
    let client = site.lone_client();
    pull(&client, site.layer(0), &[]).assert_is(200, &site.layer(0).bytes);
    wait_until_kept(&client, 1);
    client.wait_until_synced();
    fs::remove_dir_all(client.option("STORAGE")).expect("it is a folder");
    for _ in 0..2 {
        for blob in &site.image.layers {
            pull(&client, blob, &[]).assert_is(200, &blob.bytes);
        }
        wait_until_kept(&client, 3);
    }
    let fetches = site.image.layers.iter().map(|blob| site.fetches(blob));
    assert_eq!(fetches.collect::<Vec<_>>(), [2, 1, 1], "{}", client.log());
    assert_eq!(client.log().matches("was deleted and is made again").count(), 1);
    assert_eq!(client.admin("/health").status, 200);
}
