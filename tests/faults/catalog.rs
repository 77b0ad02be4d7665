//! Entries of the catalog that lie.

use crate::site::{FROM_PEERS, MIB, Site, pull, put_in_catalog, wait_until_kept};
use crate::support::image::Blob;
use crate::support::torrent_cache::Program;
use crate::support::wait_for;
use crate::upstream::random_blob;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::geometry::Geometry;
use torrent_cache::proto::metainfo::Metainfo;

/// A good `.torrent` of `bytes` under the name of `blob`.
fn torrent_of(blob: &Blob, bytes: &[u8]) -> Vec<u8> {
    let name = BlobName::parse(&blob.digest).expect("a digest");
    let geometry = Geometry::for_blob(bytes.len() as u64).expect("a length");
    let hashes = bytes.chunks(geometry.piece_len() as usize).map(Sha1Hash::of).collect();
    Metainfo::of_blob(&name, bytes.len() as u64, hashes).expect("as many hashes").encode()
}

/// Two clients and a catalog that lies of the image's one layer: the first gets the layer right all
/// the same and mends the catalog; then the second has it from the first.
fn survives(seed: u64, lie: impl Fn(&Blob) -> Vec<u8>) {
    let site = Site::start(seed, &[2 * MIB]);
    let tracker = Program::tracker("tracker", &[]);
    let (etcd_port, blob) = (tracker.option("ETCD_PORT"), site.layer(0));
    let first = site.client_of("first", &tracker);
    put_in_catalog(etcd_port, blob, &lie(blob));
    pull(&first, blob, &[]).assert_is(200, &blob.bytes);
    wait_until_kept(&first, 1);
    wait_for("publication", || {
        let series = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
        (first.metric(series) == 1).then_some(())
    });
    let second = site.client_of("second", &tracker);
    pull(&second, blob, &[]).assert_is(200, &blob.bytes);
    assert!(second.metric(FROM_PEERS) > 0, "{}", second.log());
}

#[test]
fn junk_is_passed_over_and_replaced() {
    survives(60, |_| b"d4:infoi1ee \0 junk".to_vec());
}

#[test]
fn a_torrent_of_another_name_is_passed_over_and_replaced() {
    survives(61, |blob| {
        let other = random_blob(1, blob.bytes.len());
        torrent_of(&other, &other.bytes)
    });
}

#[test]
fn a_torrent_of_other_bytes_is_found_out_and_replaced() {
    survives(62, |blob| torrent_of(blob, &random_blob(2, blob.bytes.len()).bytes));
}

#[test]
fn a_torrent_of_fewer_bytes_is_found_out_and_replaced() {
    survives(63, |blob| torrent_of(blob, &blob.bytes[..MIB]));
}

#[test]
fn a_torrent_of_more_bytes_is_found_out_and_replaced() {
    survives(64, |blob| torrent_of(blob, &[&blob.bytes[..], &[0; MIB]].concat()));
}
