//! A blob that peers alone give: its `.torrent` is in a catalog, and the upstream lets everybody in
//! but gives nobody a byte of it.

use serde_json::json;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::proto::base64;
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::geometry::Geometry;
use torrent_cache::proto::metainfo::Metainfo;

use super::etcd::Etcd;
use super::foreign::{self, Kind, Seeder};
use super::get;
use super::image::Blob;
use super::network::{FROM_PEERS, FROM_UPSTREAM};
use super::origin::{Origin, answer};
use super::torrent_cache::Program;

/// The blob, and what clients need besides a tracker.
pub struct Stage {
    pub blob: Blob,
    pub metainfo: Metainfo,
    etcd: Etcd,
    upstream: Origin,
}

/// The `.torrent` of a blob, as the bytes alone make it.
pub fn metainfo(blob: &Blob) -> Metainfo {
    let name = BlobName::parse(&blob.digest).expect("a digest is a name");
    let blob_len = blob.bytes.len() as u64;
    let piece_len = Geometry::for_blob(blob_len).expect("a blob of usual length").piece_len();
    let hashes = blob.bytes.chunks(piece_len as usize).map(Sha1Hash::of).collect();
    Metainfo::of_blob(&name, blob_len, hashes).expect("one hash for each piece")
}

impl Stage {
    /// With random bytes, the same for the same seed.
    pub fn new(seed: u64, len: usize) -> Stage {
        let mut bytes = vec![0; len];
        Rng::seeded(seed).fill(&mut bytes);
        let blob = Blob::new(bytes);
        let metainfo = metainfo(&blob);
        let etcd = Etcd::start();
        let key = base64::encode(format!("/torrents/{}", blob.digest).as_bytes());
        let put = json!({ "key": key, "value": base64::encode(&metainfo.encode()) });
        let agent = ureq::Agent::config_builder().proxy(None).build().new_agent();
        let url = format!("http://127.0.0.1:{}/v3/kv/put", etcd.client_port());
        agent.post(url).send(put.to_string()).expect("etcd takes it");
        let len = format!("Content-Length: {len}");
        let upstream = Origin::start(move |request| {
            let head = ["HTTP/1.1 200 OK", len.as_str()];
            let refusal = ["HTTP/1.1 503 Service Unavailable", "Content-Length: 0"];
            let is_head = request.line.starts_with("HEAD ");
            vec![answer(if is_head { &head } else { &refusal }, b"")]
        });
        Stage { blob, metainfo, etcd, upstream }
    }

    /// A client that finds its peers at this tracker.
    pub fn client(&self, name: &str, announce: &str, options: &[(&str, &str)]) -> Program {
        let upstream = format!("http://{}", self.upstream.addr());
        let etcd_port = self.etcd.client_port().to_string();
        let mut all = vec![
            ("REGISTRY_LOCATION", upstream.as_str()),
            ("TRACKER", announce),
            ("ETCD_PORT", &etcd_port),
            ("LOG", "info,torrent_cache=debug"),
        ];
        all.extend(options);
        Program::client(name, &all)
    }

    /// Pulls the blob through a client that does not have it, and fails unless it is right and came
    /// from peers.
    pub fn pull_through(&self, client: &Program) {
        let url = format!("http://{}/v2/library/image/blobs/{}", client.addr(), self.blob.digest);
        let answer = get(&url, &[]).unwrap_or_else(|error| panic!("{error}\n{}", client.log()));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(answer.body == self.blob.bytes, "other bytes");
        assert_eq!(client.metric(FROM_PEERS), self.blob.len(), "{}", client.log());
        assert_eq!(client.metric(FROM_UPSTREAM), 0);
    }

    /// Somebody else's client that has the blob.
    pub fn seeder(&self, kind: Kind, announce: &str) -> Seeder {
        let (name, torrent) = (self.metainfo.name(), self.metainfo.encode());
        Seeder::start(kind, name, &self.blob.bytes, &torrent, announce)
    }

    /// Downloads the blob with somebody else's client and fails unless it is right.
    pub fn download(&self, kind: Kind, announce: &str) {
        let (name, torrent) = (self.metainfo.name(), self.metainfo.encode());
        let (bytes, output) = foreign::download(kind, name, &torrent, announce);
        assert!(bytes == self.blob.bytes, "{kind:?} has other bytes: {output}");
    }

    /// Waits until the tracker has so many whole copies.
    pub fn wait_for_seeders(&self, announce: &str, count: usize) {
        foreign::wait_for_seeders(announce, &self.metainfo.info_hash(), count);
    }
}
