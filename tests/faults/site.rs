//! A registry with an image, a proxy in front of it that fails when told, and clients behind that.

use std::process::Command;

use serde_json::Value;

use crate::curl::{Got, curl};
use crate::support::faults::FaultProxy;
use crate::support::image::{Blob, Image};
use crate::support::process::Process;
use crate::support::registry::Registry;
use crate::support::torrent_cache::Program;
use crate::support::{skopeo, temp_dir, wait_for};

pub const MIB: usize = 1 << 20;
pub const REPOSITORY: &str = "library/image";
pub const FROM_UPSTREAM: &str = "torrent_cache_blob_bytes_total{source=\"upstream\"}";
pub const FROM_PEERS: &str = "torrent_cache_blob_bytes_total{source=\"peer\"}";

/// An image in a registry, and the way to it.
pub struct Site {
    pub image: Image,
    pub proxy: FaultProxy,
    _registry: Registry,
}

impl Site {
    pub fn start(seed: u64, layer_lens: &[usize]) -> Site {
        println!("seed {seed}");
        let registry = Registry::start();
        let image = Image::random(seed, layer_lens);
        skopeo::push(&image, registry.addr(), &format!("{REPOSITORY}:latest"));
        let proxy = FaultProxy::start(registry.addr());
        Site { image, proxy, _registry: registry }
    }

    /// A client that has this site and nothing else.
    pub fn lone_client(&self) -> Program {
        Program::client("client", &[("REGISTRY_LOCATION", &self.proxy.url())])
    }

    /// A client that shares by the etcd at this port and this tracker.
    pub fn client(&self, name: &str, etcd_port: &str, announce_url: &str) -> Program {
        let options = [
            ("REGISTRY_LOCATION", self.proxy.url()),
            ("ETCD_PORT", etcd_port.to_owned()),
            ("TRACKER", announce_url.to_owned()),
            ("LOG", "info,torrent_cache=debug".to_owned()),
        ];
        let options = options.each_ref().map(|(name, value)| (*name, value.as_str()));
        Program::client(name, &options)
    }

    /// A client that shares by `tracker` and the etcd beside it.
    pub fn client_of(&self, name: &str, tracker: &Program) -> Program {
        self.client(name, tracker.option("ETCD_PORT"), &tracker.announce_url())
    }

    pub fn layer(&self, index: usize) -> &Blob {
        &self.image.layers[index]
    }

    /// How often the registry was asked for this blob's bytes.
    pub fn fetches(&self, blob: &Blob) -> usize {
        self.proxy.blob_requests("GET", &blob.digest).len()
    }

    /// Pulls the whole image with skopeo.
    pub fn pull_through(&self, client: &Program) {
        skopeo::pull_and_verify(&self.image, client.addr(), &format!("{REPOSITORY}:latest"));
    }
}

/// Where `client` serves this blob.
pub fn url(client: &Program, repository: &str, digest: &str) -> String {
    format!("http://{}/v2/{repository}/blobs/{digest}", client.addr())
}

/// What curl gets of `blob` from `client`.
pub fn pull(client: &Program, blob: &Blob, arguments: &[&str]) -> Got {
    curl(&url(client, REPOSITORY, &blob.digest), arguments)
}

/// Waits until no blob is on its way, then what there is. A reader has its last byte before that.
pub fn status_after_jobs(client: &Program) -> Value {
    wait_for("the end of all jobs", || (client.status()["jobs"] == 0).then_some(()));
    client.status()
}

/// Waits until no blob is on its way, then the number of blobs that are kept.
pub fn blobs_kept(client: &Program) -> u64 {
    status_after_jobs(client)["store"]["blobs"].as_u64().expect("a number")
}

/// Waits until `client` holds so many blobs.
pub fn wait_until_kept(client: &Program, count: u64) {
    wait_for("blobs to be kept", || (client.status()["store"]["blobs"] == count).then_some(()));
}

/// The names of the blobs in the catalog.
pub fn catalogued(etcd_port: &str) -> Vec<String> {
    let keys = etcdctl(etcd_port, "get --prefix /torrents/ --keys-only", b"");
    let names = keys.lines().filter_map(|line| line.strip_prefix("/torrents/"));
    names.map(str::to_owned).collect()
}

/// Waits until the catalog knows `blob`.
pub fn wait_until_catalogued(etcd_port: &str, blob: &Blob) {
    wait_for("publication", || catalogued(etcd_port).contains(&blob.digest).then_some(()));
}

/// Puts `value` into the catalog under the name of `blob`.
pub fn put_in_catalog(etcd_port: &str, blob: &Blob, value: &[u8]) {
    etcdctl(etcd_port, &format!("put /torrents/{}", blob.digest), value);
}

/// Runs etcdctl with `value` as its input.
pub fn etcdctl(port: &str, arguments: &str, value: &[u8]) -> String {
    let dir = temp_dir();
    let input = dir.path().join("value");
    std::fs::write(&input, value).expect("disk has room");
    let mut command = Command::new("sh");
    let script = format!("etcdctl --endpoints=http://127.0.0.1:{port} {arguments} < \"$0\"");
    command.env("ETCDCTL_API", "3").args(["-c", &script]).arg(input);
    let finished = Process::run("etcdctl", command, "etcd-client");
    assert!(finished.status.success(), "etcdctl {arguments}: {}", finished.output);
    finished.output
}
