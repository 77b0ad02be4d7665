//! Blobs that do not stay on the disk what they were.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::site::{MIB, Site, pull, wait_until_kept};
use crate::support::wait_for;

#[test]
fn a_blob_that_rots_on_disk_is_found_out_and_comes_anew() {
    let site = Site::start(90, &[2 * MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    pull(&client, blob, &[]).assert_is(200, &blob.bytes);
    wait_until_kept(&client, 1);
    client.wait_until_synced();
    let name = blob.digest.replace(':', "-");
    let path = Path::new(client.option("STORAGE")).join("blobs").join(name);
    let file = OpenOptions::new().write(true).open(&path).expect("it is stored");
    let at = MIB + 5;
    file.write_all_at(&[!blob.bytes[at]], at as u64).expect("it can be written");
    wait_for("the right bytes", || (pull(&client, blob, &[]).body == blob.bytes).then_some(()));
    assert_eq!(client.metric("torrent_cache_store_errors_total"), 1, "{}", client.log());
    assert!(client.log().contains("is damaged on disk and dropped"), "{}", client.log());
    wait_until_kept(&client, 1);
    for _ in 0..3 {
        pull(&client, blob, &[]).assert_is(200, &blob.bytes);
    }
    assert_eq!(site.fetches(blob), 2);
}
