//! An upstream with one blob, a tracker with its etcd, and as many clients as a test starts.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::proto::base64;
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::geometry::Geometry;
use torrent_cache::proto::http1::{ByteRange, RangeAnswer};
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::proto::tracker::{ScrapeRequest, ScrapeResponse};

use crate::support::image::{Blob, digest};
use crate::support::origin::{Origin, Request, Step, answer};
use crate::support::process::{Finished, Process};
use crate::support::torrent_cache::Program;
use crate::support::{get, wait_for};

pub const MIB: usize = 1 << 20;

pub const FROM_UPSTREAM: &str = "torrent_cache_blob_bytes_total{source=\"upstream\"}";
pub const FROM_PEERS: &str = "torrent_cache_blob_bytes_total{source=\"peer\"}";

/// A blob of `len` bytes, each block of 64 KiB different from all others.
pub fn blob(seed: u64, len: usize) -> Blob {
    let mut pattern = vec![0; 64 << 10];
    Rng::seeded(seed).fill(&mut pattern);
    let mut bytes = Vec::with_capacity(len.next_multiple_of(pattern.len()));
    while bytes.len() < len {
        let at = bytes.len().to_le_bytes();
        pattern[..at.len()].copy_from_slice(&at);
        bytes.extend_from_slice(&pattern);
    }
    bytes.truncate(len);
    Blob::new(bytes)
}

/// A registry with one blob, which can be told to fall silent in the middle of it.
pub struct Upstream {
    pub blob: Arc<Blob>,
    origin: Origin,
    silent_after: Arc<Mutex<Option<usize>>>,
}

impl Upstream {
    pub fn start(blob: Blob) -> Upstream {
        let blob = Arc::new(blob);
        let silent_after = Arc::new(Mutex::new(None));
        let (served, silence) = (Arc::clone(&blob), Arc::clone(&silent_after));
        let script = move |request: &Request| {
            let silence = *silence.lock().expect("no panic under the lock");
            steps(&served, request, silence)
        };
        Upstream { blob, origin: Origin::start(script), silent_after }
    }

    /// From now on a body stops after so many bytes, or no longer does.
    pub fn fall_silent_after(&self, len: Option<usize>) {
        *self.silent_after.lock().expect("no panic under the lock") = len;
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.origin.addr())
    }

    pub fn path(&self) -> String {
        format!("/v2/library/a/blobs/{}", self.blob.digest)
    }

    /// All requests so far.
    pub fn seen(&self) -> Vec<Request> {
        self.origin.seen()
    }

    /// The `Range` of each `GET` of the blob so far.
    pub fn gets(&self) -> Vec<Option<String>> {
        let is_get = |request: &Request| request.line.starts_with("GET /v2/library/a/blobs/");
        let range = |request: Request| request.header("range").map(str::to_owned);
        self.seen().into_iter().filter(is_get).map(range).collect()
    }
}

fn steps(blob: &Blob, request: &Request, silence: Option<usize>) -> Vec<Step> {
    if !request.target().ends_with(&blob.digest) {
        return vec![answer(&["HTTP/1.1 200 OK", "Content-Length: 2"], b"{}")];
    }
    let total = blob.bytes.len() as u64;
    let range = request.header("range").and_then(|text| ByteRange::parse(text.as_bytes()));
    let (status, first, end) = match range.map(|range| range.resolve(total)) {
        Some(RangeAnswer::Part(first, last)) => ("206 Partial Content", first, last + 1),
        Some(RangeAnswer::Unsatisfiable) => {
            return vec![answer(&["HTTP/1.1 416 No", "Content-Length: 0"], b"")];
        }
        Some(RangeAnswer::Whole) | None => ("200 OK", 0, total),
    };
    let head = [
        format!("HTTP/1.1 {status}"),
        format!("Content-Length: {}", end - first),
        format!("Content-Range: bytes {first}-{}/{total}", end - 1),
    ];
    let lines = if status.starts_with("200") { &head[..2] } else { &head[..] };
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    if request.line.starts_with("HEAD ") {
        return vec![answer(&lines, b"")];
    }
    let body = &blob.bytes[index(first)..index(end)];
    match silence {
        Some(len) => vec![answer(&lines, &body[..len.min(body.len())]), Step::Stall],
        None => vec![answer(&lines, body)],
    }
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("it lies in memory")
}

/// All that a pull needs, for one blob.
pub struct World {
    pub upstream: Upstream,
    pub tracker: Program,
    metainfo: Metainfo,
}

fn metainfo(blob: &Blob) -> Metainfo {
    let name = BlobName::parse(&blob.digest).expect("a digest");
    let geometry = Geometry::for_blob(blob.bytes.len() as u64).expect("a usual length");
    let pieces = blob.bytes.chunks(geometry.piece_len() as usize).map(Sha1Hash::of).collect();
    Metainfo::of_blob(&name, blob.bytes.len() as u64, pieces).expect("it has its pieces")
}

impl World {
    pub fn start(seed: u64, len: usize) -> World {
        let tracker = Program::tracker("tracker", &[]);
        let upstream = Upstream::start(blob(seed, len));
        let metainfo = metainfo(&upstream.blob);
        World { upstream, tracker, metainfo }
    }

    pub fn client(&self, name: &str) -> Program {
        self.client_with(name, &[])
    }

    /// A client with options beside those that it needs here.
    pub fn client_with(&self, name: &str, more: &[(&str, &str)]) -> Program {
        let (registry, announce) = (self.upstream.url(), self.tracker.announce_url());
        let options = [
            ("REGISTRY_LOCATION", registry.as_str()),
            ("TRACKER", announce.as_str()),
            ("ETCD_PORT", self.tracker.option("ETCD_PORT")),
            ("LOG", "info,torrent_cache=debug"),
        ];
        Program::client(name, &[&options, more].concat())
    }

    /// A client that takes 16 MiB per second of its peers, so that a busy machine has seconds for
    /// what a test does in the middle of that.
    pub fn slow_client(&self, name: &str) -> Program {
        self.client_with(name, &[("DOWNLOAD_MAX", "16M")])
    }

    /// A client that has the blob; the catalog and the tracker know.
    pub fn seeder(&self, name: &str) -> Program {
        let client = self.client(name);
        self.pull(&client);
        self.wait_until_shared();
        client
    }

    /// Waits until the catalog has the blob and the tracker somebody who has it.
    pub fn wait_until_shared(&self) {
        wait_for("publication", || self.is_catalogued().then_some(()));
        wait_for("the announce", || (self.seeders() > 0).then_some(()));
    }

    fn is_catalogued(&self) -> bool {
        let url = format!("http://127.0.0.1:{}/v3/kv/range", self.tracker.option("ETCD_PORT"));
        let name = self.metainfo().name().to_owned();
        // All keys below `/`: what they are called is not this test's business.
        let (from, to) = (base64::encode(b"/"), base64::encode(b"0"));
        let body = format!(r#"{{"key":"{from}","range_end":"{to}"}}"#);
        let agent = ureq::Agent::config_builder().proxy(None).build().new_agent();
        let mut answer = agent.post(url).send(body).expect("etcd answers");
        let answer = answer.body_mut().read_to_string().expect("etcd answers in UTF-8");
        let answer: Value = serde_json::from_str(&answer).expect("it is JSON");
        let entries = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
        let torrents = entries.iter().filter_map(|entry| base64::decode(entry["value"].as_str()?));
        torrents.filter_map(|bytes| Metainfo::decode(&bytes).ok()).any(|one| one.name() == name)
    }

    /// How many the tracker knows who have the whole blob.
    pub fn seeders(&self) -> u32 {
        let info_hash = self.metainfo().info_hash();
        let query = ScrapeRequest { info_hashes: vec![info_hash] }.to_query();
        let url = self.tracker.announce_url().replace("/announce", "/scrape");
        let answer = get(&format!("{url}?{query}"), &[]).expect("the tracker answers");
        let answer = ScrapeResponse::from_bencode(&answer.body).expect("it is an answer");
        answer.swarms.get(&info_hash).map_or(0, |counts| counts.seeders)
    }

    /// What the catalog has for the blob.
    pub fn metainfo(&self) -> &Metainfo {
        &self.metainfo
    }

    /// The blob's URL at a client.
    pub fn url(&self, client: &Program) -> String {
        format!("http://{}{}", client.addr(), self.upstream.path())
    }

    pub fn len(&self) -> i64 {
        i64::try_from(self.upstream.blob.bytes.len()).expect("it lies in memory")
    }

    /// Pulls the blob through `client` and fails unless it is right.
    pub fn pull(&self, client: &Program) {
        Download::start(&self.url(client), &[]).expect_whole(&self.upstream.blob);
    }
}

/// A `curl` that writes one body to a file.
pub struct Download {
    process: Process,
    dir: tempfile::TempDir,
}

impl Download {
    pub fn start(url: &str, arguments: &[&str]) -> Download {
        let dir = crate::support::temp_dir();
        let mut command = curl(arguments);
        command.arg("--fail").arg("--output").arg(dir.path().join("body")).arg(url);
        Download { process: Process::spawn("curl", command, "curl"), dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("body")
    }

    /// Bytes of the body that have come.
    pub fn received(&self) -> u64 {
        std::fs::metadata(self.path()).map_or(0, |metadata| metadata.len())
    }

    /// Waits for its end; curl's exit status says whether the response came to its end.
    pub fn wait(&mut self) -> Option<i32> {
        self.process.wait(4 * crate::support::PATIENCE).code()
    }

    /// Waits for its end and fails unless the body is `blob`, in one response.
    pub fn expect_whole(mut self, blob: &Blob) {
        assert_eq!(self.wait(), Some(0), "curl: {}", self.process.output());
        let bytes = std::fs::read(self.path()).unwrap_or_default();
        assert_eq!((bytes.len(), digest(&bytes)), (blob.bytes.len(), blob.digest.clone()));
    }
}

/// A `curl` that is not led astray by whoever runs the tests.
pub fn curl(arguments: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--disable", "--silent", "--show-error", "--max-time", "100"]).args(arguments);
    command.env_clear();
    command.env("PATH", std::env::var_os("PATH").expect("a PATH"));
    command
}

/// Runs `curl` to its end; its output is what it printed.
pub fn ask(arguments: &[&str]) -> Finished {
    Process::run("curl", curl(arguments), "curl")
}

/// The page `/status.json`.
pub fn status(client: &Program) -> Value {
    serde_json::from_str(&client.admin("/status.json").text()).expect("it is JSON")
}

/// The files in one folder of a client's storage.
pub fn stored(client: &Program, folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(client.option("STORAGE")).join(folder);
    let entries = std::fs::read_dir(folder).expect("the store made it");
    entries.map(|entry| entry.expect("it can be read").path()).collect()
}
