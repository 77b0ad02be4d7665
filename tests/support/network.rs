//! A whole network: a registry with one image, a tracker with its etcd, and clients of both.

use super::image::Image;
use super::registry::{CREDENTIALS, Registry};
use super::torrent_cache::Program;
use super::{skopeo, wait_for};

/// Series of a client: bytes of blobs by where they came from.
pub const FROM_UPSTREAM: &str = "torrent_cache_blob_bytes_total{source=\"upstream\"}";
pub const FROM_PEERS: &str = "torrent_cache_blob_bytes_total{source=\"peer\"}";
/// Series of a client: bytes of blobs that it sent to peers. They are counted a moment after they
/// have left: wait for them with [`wait_until_sent`].
pub const TO_PEERS: &str = "torrent_cache_sent_bytes_total{to=\"peer\"}";

/// Under which name the registry has the image.
pub const NAME: &str = "library/image:latest";

/// A registry with one image, and a tracker with its etcd; a test starts the clients.
pub struct Network {
    pub registry: Registry,
    pub image: Image,
    pub tracker: Program,
}

/// Waits until `client` has sent its peers so many bytes of blobs; how many it has.
pub fn wait_until_sent(client: &Program, least: i64) -> i64 {
    wait_for("what was sent", || Some(client.metric(TO_PEERS)).filter(|sent| *sent >= least))
}

impl Network {
    /// An image with layers of these lengths.
    pub fn start(seed: u64, layer_lens: &[usize]) -> Network {
        Network::with(Registry::start(), "--dest-no-creds", Image::random(seed, layer_lens))
    }

    /// With an image in a registry that wants [`CREDENTIALS`].
    pub fn start_private(seed: u64, layer_lens: &[usize]) -> Network {
        let credentials = format!("--dest-creds={CREDENTIALS}");
        let image = Image::random(seed, layer_lens);
        Network::with(Registry::start_private(), &credentials, image)
    }

    fn with(registry: Registry, credentials: &str, image: Image) -> Network {
        skopeo::push_as(credentials, &image, registry.addr(), NAME);
        Network { registry, image, tracker: Program::tracker("tracker", &[]) }
    }

    /// A client with these options over those of the network.
    pub fn client(&self, name: &str, options: &[(&str, &str)]) -> Program {
        let (registry, announce) = (self.registry.url(), self.tracker.announce_url());
        let mut all = vec![
            ("REGISTRY_LOCATION", registry.as_str()),
            ("TRACKER", &announce),
            ("ETCD_PORT", self.tracker.option("ETCD_PORT")),
            ("LOG", "info,torrent_cache=debug"),
        ];
        all.extend(options);
        Program::client(name, &all)
    }

    /// Pulls the image through `client` with skopeo and fails unless it is exactly that image.
    pub fn pull_through(&self, client: &Program) {
        skopeo::pull_and_verify(&self.image, client.addr(), NAME);
    }

    /// Waits until the client has published what it has.
    pub fn wait_until_published(&self, client: &Program) {
        let count = self.image.blob_count();
        wait_for("publication", || {
            let series = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
            (client.metric(series) >= count).then_some(())
        });
    }

    /// Waits until `count` clients have told the tracker of each blob of the image.
    pub fn wait_until_announced(&self, count: i64) {
        let peers = count * self.image.blob_count();
        wait_for("announces", || {
            (self.tracker.metric("torrent_cache_tracker_peers") >= peers).then_some(())
        });
    }

    /// Fails unless each blob of the image has left the registry exactly once, the manifest by its
    /// digest alone.
    pub fn assert_each_blob_left_once(&self) {
        let tagged =
            self.registry.accesses().into_iter().filter(|access| {
                access.method == "GET" && access.path.ends_with("/manifests/latest")
            });
        assert_eq!(tagged.count(), 0, "a tag was asked for with GET");
        for blob in self.image.kept() {
            let count = || self.registry.blob_accesses("GET", &blob.digest).len();
            // A request is logged after its end: wait for the first, fail at the second.
            wait_for("the registry's log", || (count() > 0).then_some(()));
            assert_eq!(count(), 1, "{} left the registry more than once", blob.digest);
        }
    }
}
