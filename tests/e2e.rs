//! The whole thing: real registry, real etcd, real clients, on one machine.

mod support;

use support::image::Image;
use support::registry::Registry;
use support::skopeo;
use support::torrent_cache::Program;
use support::wait_for;

const MIB: usize = 1 << 20;

/// A registry with one image, a tracker with its etcd, and as many clients as a test starts.
struct Network {
    registry: Registry,
    image: Image,
    tracker: Program,
}

impl Network {
    fn start(seed: u64, layer_lens: &[usize]) -> Network {
        let registry = Registry::start();
        let image = Image::random(seed, layer_lens);
        skopeo::push(&image, registry.addr(), "library/image:latest");
        Network { registry, image, tracker: Program::tracker("tracker", &[]) }
    }

    fn client(&self, name: &str) -> Program {
        let announce = self.tracker.announce_url();
        Program::client(
            name,
            &[
                ("REGISTRY_LOCATION", &self.registry.url()),
                ("TRACKER", &announce),
                ("ETCD_PORT", self.tracker.option("ETCD_PORT")),
                ("LOG", "info,torrent_cache=debug"),
            ],
        )
    }

    fn pull_through(&self, client: &Program) {
        skopeo::pull_and_verify(&self.image, client.addr(), "library/image:latest");
    }

    /// Waits until the client has published what it has.
    fn wait_until_published(&self, client: &Program) {
        let count = self.image.blobs().count() as i64;
        wait_for("publication", || {
            let series = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
            (client.metric(series) >= count).then_some(())
        });
    }
}

const FROM_UPSTREAM: &str = "torrent_cache_blob_bytes_total{source=\"upstream\"}";
const FROM_PEERS: &str = "torrent_cache_blob_bytes_total{source=\"peer\"}";

#[test]
fn an_image_crosses_the_uplink_once() {
    let network = Network::start(1, &[8 * MIB, 8 * MIB, 3 * MIB]);
    let bytes: i64 = network.image.blobs().map(|blob| blob.bytes.len() as i64).sum();
    let first = network.client("first");
    network.pull_through(&first);
    assert_eq!(first.metric(FROM_UPSTREAM), bytes);
    network.wait_until_published(&first);
    for name in ["second", "third"] {
        let client = network.client(name);
        network.pull_through(&client);
        let log = client.log();
        assert_eq!(client.metric(FROM_UPSTREAM), 0, "{log}");
        assert_eq!(client.metric(FROM_PEERS), bytes, "{log}");
    }
    for blob in network.image.blobs() {
        assert_eq!(network.registry.blob_accesses("GET", &blob.digest).len(), 1);
    }
}

#[test]
fn blobs_of_an_earlier_run_are_published_to_an_etcd_that_lost_its_data() {
    let network = Network::start(2, &[MIB]);
    let mut client = network.client("client");
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
