//! The whole thing: real registry, real etcd, real clients, on one machine.

mod support;

use support::network::{FROM_PEERS, FROM_UPSTREAM, Network};
use support::torrent_cache::Program;

const MIB: usize = 1 << 20;

#[test]
fn an_image_crosses_the_uplink_once() {
    let network = Network::start(1, &[8 * MIB, 8 * MIB, 3 * MIB]);
    let bytes: i64 = network.image.blob_bytes();
    let first = network.client("first", &[]);
    network.pull_through(&first);
    assert_eq!(first.metric(FROM_UPSTREAM), bytes);
    network.wait_until_published(&first);
    for name in ["second", "third"] {
        let client = network.client(name, &[]);
        network.pull_through(&client);
        let log = client.log();
        assert_eq!(client.metric(FROM_UPSTREAM), 0, "{log}");
        assert_eq!(client.metric(FROM_PEERS), bytes, "{log}");
    }
    network.assert_each_blob_left_once();
}

#[test]
fn blobs_of_an_earlier_run_are_published_to_an_etcd_that_lost_its_data() {
    let network = Network::start(2, &[MIB]);
    let mut client = network.client("client", &[]);
    network.pull_through(&client);
    network.wait_until_published(&client);
    assert!(client.stop().success());
    let other = Program::tracker("other tracker", &[]);
    let announce = other.announce_url();
    client.set_option("TRACKER", &announce);
    client.set_option("ETCD_PORT", other.option("ETCD_PORT"));
    client.start_again();
    network.wait_until_published(&client);
}
