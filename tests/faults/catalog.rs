//! Entries of the catalog that lie.

use crate::site::{FROM_PEERS, MIB, Site, catalogued, pull, put_in_catalog, wait_until_kept};
use crate::support::foreign::{Kind, Seeder, wait_for_seeders};
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

/// A peer has what the lying torrent is of: every piece is right, only the whole is not. Says
/// whether the first response was whole, and right.
fn survives_a_seeded_lie(seed: u64, len: usize) -> bool {
    let site = Site::start(seed, &[len]);
    let tracker = Program::tracker("tracker", &[]);
    let (etcd_port, announce_url) = (tracker.option("ETCD_PORT"), tracker.announce_url());
    let blob = site.layer(0);
    let bytes = random_blob(3, blob.bytes.len()).bytes;
    let torrent = torrent_of(blob, &bytes);
    let lie = Metainfo::decode(&torrent).expect("ours");
    put_in_catalog(etcd_port, blob, &torrent);
    let _liar = Seeder::start(Kind::Libtorrent, lie.name(), &bytes, &torrent, &announce_url);
    wait_for_seeders(&announce_url, &lie.info_hash(), 1);
    let client = site.client_of("client", &tracker);
    let got = pull(&client, blob, &[]);
    if got.exit == Some(0) {
        got.assert_is(200, &blob.bytes);
    } else {
        got.assert_is_cut(&blob.bytes);
        wait_for("withdrawal", || catalogued(etcd_port).is_empty().then_some(()));
        pull(&client, blob, &[]).assert_is(200, &blob.bytes);
    }
    assert!(client.log().contains("led to wrong bytes"), "the peer was believed at first");
    wait_until_kept(&client, 1);
    got.exit == Some(0)
}

#[test]
fn a_seeded_lie_never_comes_whole() {
    survives_a_seeded_lie(65, 2 * MIB);
}

#[test]
fn a_seeded_lie_that_is_small_is_healed_inside_the_response() {
    assert!(survives_a_seeded_lie(66, 40_000));
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

/// Whatever the catalog says, nothing has to go before somebody has said that there is more.
#[test]
fn a_torrent_of_many_more_bytes_costs_no_blob_its_place() {
    let site = Site::start(67, &[2 * MIB, 3 * MIB]);
    let tracker = Program::tracker("tracker", &[]);
    let (etcd_port, announce) = (tracker.option("ETCD_PORT"), tracker.announce_url());
    let registry = site.proxy.url();
    let client = Program::client(
        "client",
        &[
            ("REGISTRY_LOCATION", &registry),
            ("ETCD_PORT", etcd_port),
            ("TRACKER", &announce),
            ("STORAGE_MAX", "64M"),
        ],
    );
    let (kept, wanted) = (site.layer(0), site.layer(1));
    pull(&client, kept, &[]).assert_is(200, &kept.bytes);
    wait_until_kept(&client, 1);
    client.wait_until_synced();
    put_in_catalog(etcd_port, wanted, &torrent_of(wanted, &vec![1; 63 * MIB]));
    pull(&client, wanted, &[]).assert_is(200, &wanted.bytes);
    wait_until_kept(&client, 2);
    assert_eq!(client.metric("torrent_cache_store_evicted_total"), 0, "{}", client.log());
}
