//! What clients of the proxy and mirror feel: cached blobs against nginx, pulls against the
//! registry itself, and what the process costs when nothing happens.
//!
//! `cargo bench --bench front -- WORD...` measures only the rows whose section has one of the words
//! in its name.

mod support;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;
use torrent_cache::net::tls;

use support::cost::{self, Cost, measure};
use support::http;
use support::nginx::{Nginx, blob_path};
use support::rig::image::{Blob, Image};
use support::rig::link::Link;
use support::rig::process::Process;
use support::rig::registry::Registry;
use support::rig::torrent_cache::{Program, binary};
use support::rig::{skopeo, temp_dir, wait_for};
use support::rounds::{Costs, Side, interleave, median};
use support::seeded::{self, random_blob};
use support::table::{self, Goal, Row, Table, mib, millis, per_second, rate, seconds};

const NAME: &str = "library/bench:latest";

fn main() {
    table::run(
        "The front",
        &[
            ("cached-plain", cached_plain),
            ("cached-tls", cached_tls),
            ("cached-small", cached_small),
            ("cached-image", cached_image),
            ("first-pull-image", first_pull_image),
            ("first-pull-stream", first_pull_stream),
            ("gigabit-image", |table| first_pull_image_over(table, GIGABIT)),
            ("gigabit-stream", |table| first_pull_stream_over(table, GIGABIT)),
            ("fast-image", |table| first_pull_image_over(table, FAST)),
            ("fast-stream", |table| first_pull_stream_over(table, FAST)),
            ("first-byte", first_byte),
            ("warm-swarm", warm_swarm),
            ("idle", idle),
        ],
    );
}

/// A certificate and its key, for both servers.
struct Pair {
    _dir: TempDir,
    cert: PathBuf,
    key: PathBuf,
}

impl Pair {
    fn make() -> Pair {
        let dir = temp_dir();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        tls::server_config(&cert, &key, &[]).expect("a pair can be made");
        Pair { _dir: dir, cert, key }
    }
}

/// nginx with blobs, and a client that has got them from it.
struct Cached {
    nginx: Nginx,
    client: Program,
    pids: [u32; 2],
}

impl Cached {
    fn of(blobs: &[Blob]) -> Cached {
        let pair = Pair::make();
        let nginx = Nginx::start(&pair.cert, &pair.key);
        for blob in blobs {
            nginx.add(&blob.digest, &blob.bytes);
        }
        let (cert, key) = (pair.cert.display().to_string(), pair.key.display().to_string());
        let options =
            [("REGISTRY_LOCATION", &*nginx.url()), ("CERTFILE", &cert), ("PRIVATEKEY", &key)];
        let mut client = Program::client("client", &options);
        for blob in blobs {
            http::get(client.addr(), &blob_path(&blob.digest));
        }
        wait_until_stored(&client, blobs.len());
        let pids = [client.process().pid(), nginx.pid()];
        Cached { nginx, client, pids }
    }
}

fn wait_until_stored(client: &Program, count: usize) {
    let count = i64::try_from(count).expect("a count of blobs");
    wait_for("the blobs to be stored", || {
        (client.metric("torrent_cache_store_blobs") >= count).then_some(())
    });
}

/// A big cached blob over plain HTTP, one connection.
fn cached_plain(table: &mut Table) {
    const LEN: usize = 256 << 20;
    let blob = random_blob(1, LEN);
    let cached = Cached::of(std::slice::from_ref(&blob));
    let path = blob_path(&blob.digest);
    let side = |pid: u32, addr: SocketAddr| {
        let path = &path;
        Side::new(move || measure(&[pid], || http::fetch(addr, path), || ()))
    };
    let [ours, theirs] = interleave(
        15,
        [side(cached.pids[0], cached.client.addr()), side(cached.pids[1], cached.nginx.addr())],
    );
    let rates = [&ours, &theirs].map(|costs| LEN as f64 / costs.wall());
    let what = "cached 256 MiB, plain HTTP";
    let row = Row::ratio(what, rates[0], ("nginx", rates[1]), rate, Goal::AtLeast(0.95));
    table.push(row.cpu(ours.cpu(), theirs.cpu()));
}

/// The same over TLS, to curl.
fn cached_tls(table: &mut Table) {
    const LEN: usize = 256 << 20;
    let blob = random_blob(1, LEN);
    let cached = Cached::of(std::slice::from_ref(&blob));
    let curl = |addr: SocketAddr| {
        let mut command = Command::new("curl");
        let url = format!("https://{addr}{}", blob_path(&blob.digest));
        command.args(["-skf", "--noproxy", "*", "-o", "/dev/null", &url]);
        let finished = Process::run("curl", command, "curl");
        assert!(finished.status.success(), "curl {url}: {}", finished.output);
    };
    let side = |pid: u32, addr: SocketAddr| {
        let curl = &curl;
        Side::new(move || measure(&[pid], || curl(addr), || ()))
    };
    let [ours, theirs] = interleave(
        15,
        [side(cached.pids[0], cached.client.addr()), side(cached.pids[1], cached.nginx.tls_addr())],
    );
    let rates = [&ours, &theirs].map(|costs| LEN as f64 / costs.wall());
    let what = "cached 256 MiB, TLS";
    let row = Row::ratio(what, rates[0], ("nginx", rates[1]), rate, Goal::AtLeast(1.0));
    table.push(row.cpu(ours.cpu(), theirs.cpu()));
}

/// What wrk says of one run.
#[derive(Clone, Copy)]
struct Load {
    per_second: f64,
    /// Seconds.
    median: f64,
    p99: f64,
}

/// Many small blobs on connections that stay open.
fn cached_small(table: &mut Table) {
    const ROUNDS: usize = 5;
    let blobs: Vec<Blob> = (0..100).map(|seed| random_blob(seed, 1024)).collect();
    let cached = Cached::of(&blobs);
    let dir = temp_dir();
    let script = dir.path().join("requests.lua");
    fs::write(&script, wrk_script(&blobs)).expect("disk has room");
    let mut loads = [Vec::new(), Vec::new()];
    let side = |at: usize, addr: SocketAddr, loads: &mut Vec<Load>| {
        let pid = cached.pids[at];
        measure(&[pid], || loads.push(wrk(addr, &script)), || ())
    };
    let [mine, its] = &mut loads;
    let [ours, theirs] = interleave(
        ROUNDS,
        [
            Side::new(|| side(0, cached.client.addr(), mine)),
            Side::new(|| side(1, cached.nginx.addr(), its)),
        ],
    );
    // The first of each is not counted.
    let of = |at: usize, value: fn(&Load) -> f64| median(loads[at].iter().skip(1).map(value));
    let rates = [of(0, |load| load.per_second), of(1, |load| load.per_second)];
    let what = "cached 1 KiB, 16 connections kept alive";
    let row = Row::ratio(what, rates[0], ("nginx", rates[1]), per_second, Goal::AtLeast(0.9));
    table.push(row.cpu(ours.cpu(), theirs.cpu()));
    let medians = [of(0, |load| load.median), of(1, |load| load.median)];
    table.push(Row::ratio("… median", medians[0], ("nginx", medians[1]), millis, Goal::Told));
    let p99s = [of(0, |load| load.p99), of(1, |load| load.p99)];
    table.push(Row::ratio("… 99 of 100 below", p99s[0], ("nginx", p99s[1]), millis, Goal::Told));
}

/// A script for wrk that asks for one blob after the other.
fn wrk_script(blobs: &[Blob]) -> String {
    let paths: Vec<String> =
        blobs.iter().map(|blob| format!("'{}'", blob_path(&blob.digest))).collect();
    format!(
        "local paths = {{{}}}
         local requests, at = {{}}, 0
         init = function() for i, path in ipairs(paths) do \
           requests[i] = wrk.format('GET', path) end end
         request = function() at = at % #requests + 1; return requests[at] end\n",
        paths.join(", ")
    )
}

fn wrk(addr: SocketAddr, script: &Path) -> Load {
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c16", "-d4s", "--latency", "-s"]).arg(script);
    command.arg(format!("http://{addr}/"));
    let finished = Process::run("wrk", command, "wrk");
    let output = finished.output;
    assert!(finished.status.success() && !output.contains("Non-2xx"), "{output}");
    let field = |name: &str| {
        let line = output.lines().find_map(|line| line.trim().strip_prefix(name));
        line.unwrap_or_else(|| panic!("no {name} in {output}")).trim().to_owned()
    };
    let per_second = field("Requests/sec:").parse().expect("a number");
    Load { per_second, median: wrk_seconds(&field("50%")), p99: wrk_seconds(&field("99%")) }
}

/// A time as wrk writes it, such as `312.00us`.
fn wrk_seconds(text: &str) -> f64 {
    let number = text.trim_end_matches(char::is_alphabetic);
    let unit = match &text[number.len()..] {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        unit => panic!("a time in {unit}"),
    };
    number.parse::<f64>().expect("a number") * unit
}

/// A registry with an image.
fn registry_with(image: &Image) -> (Registry, u32) {
    let mut registry = Registry::start();
    skopeo::push(image, registry.addr(), NAME);
    let pid = registry.process().pid();
    (registry, pid)
}

/// Pulls the image into a folder that is removed after the clock has stopped.
fn pull(addr: SocketAddr, pids: &[u32], settle: impl FnOnce()) -> Cost {
    let dir = temp_dir();
    let work = || {
        let finished = skopeo::pull(addr, NAME, dir.path());
        assert!(finished.status.success(), "pull from {addr}: {}", finished.output);
    };
    measure(pids, work, settle)
}

/// An image that the client has, against the registry.
fn cached_image(table: &mut Table) {
    let image = Image::random(3, &[16 << 20; 8]);
    let (registry, registry_pid) = registry_with(&image);
    let options = [("REGISTRY_LOCATION", &*registry.url()), ("REGISTRY_NO_SSL", "1")];
    let mut client = Program::client("client", &options);
    let pids = [client.process().pid()];
    let addr = client.addr();
    pull(addr, &pids, || wait_until_stored(&client, 9));
    let [ours, theirs] = interleave(
        9,
        [
            Side::new(|| pull(addr, &pids, || ())),
            Side::new(|| pull(registry.addr(), &[registry_pid], || ())),
        ],
    );
    let what = "cached image, 8 layers of 16 MiB, skopeo";
    let peer = ("registry", theirs.wall());
    let row = Row::ratio(what, ours.wall(), peer, millis, Goal::AtMost(1.0));
    table.push(row.cpu(ours.cpu(), theirs.cpu()));
}

/// A client with an empty storage and no tracker, ready to be asked. Like the registry it speaks
/// plain HTTP: skopeo would come over TLS if it could.
fn fresh_client(upstream: SocketAddr) -> (Program, u32) {
    let upstream = format!("http://{upstream}");
    let options = [("REGISTRY_LOCATION", upstream.as_str()), ("REGISTRY_NO_SSL", "1")];
    let mut client = Program::client("client", &options);
    let pid = client.process().pid();
    (client, pid)
}

/// An image that nobody has yet, with a real client of containers.
fn first_pull_image(table: &mut Table) {
    let image = Image::random(4, &[32 << 20; 8]);
    let (registry, registry_pid) = registry_with(&image);
    let costs = pulls_of_image(9, registry.addr(), &[registry_pid]);
    push_first_pull(table, "first pull, 8 layers of 32 MiB, skopeo", costs);
}

/// One blob that nobody has yet, with a client that does nothing but read: the hardest case.
fn first_pull_stream(table: &mut Table) {
    let image = Image::random(5, &[512 << 20]);
    let (registry, registry_pid) = registry_with(&image);
    let path = blob_path(&image.layers[0].digest);
    let costs = pulls_of_blob(9, registry.addr(), &path, &[registry_pid]);
    push_first_pull(table, "first pull, 512 MiB, a client that only reads", costs);
}

/// A line to the registry, and how much is pulled over it to measure it: two seconds' worth.
#[derive(Clone, Copy)]
struct Speed {
    name: &'static str,
    megabits: u32,
    mib: usize,
}

const GIGABIT: Speed = Speed { name: "1 Gbit/s", megabits: 1000, mib: 256 };
const FAST: Speed = Speed { name: "100 Mbit/s", megabits: 100, mib: 24 };
const ROUNDS_OVER_LINE: usize = 5;

fn first_pull_image_over(table: &mut Table, speed: Speed) {
    let layer_mib = speed.mib / 8;
    let image = Image::random(7, &[layer_mib << 20; 8]);
    let (registry, registry_pid) = registry_with(&image);
    let link = Link::to(registry.addr(), speed.megabits);
    let costs = pulls_of_image(ROUNDS_OVER_LINE, link.addr(), &[registry_pid]);
    let what = format!("… registry at {}, 8 layers of {layer_mib} MiB, skopeo", speed.name);
    push_first_pull(table, &what, costs);
}

fn first_pull_stream_over(table: &mut Table, speed: Speed) {
    let image = Image::random(8, &[speed.mib << 20]);
    let (registry, registry_pid) = registry_with(&image);
    let link = Link::to(registry.addr(), speed.megabits);
    let path = blob_path(&image.layers[0].digest);
    let costs = pulls_of_blob(ROUNDS_OVER_LINE, link.addr(), &path, &[registry_pid]);
    let what = format!("… registry at {}, {} MiB, only read", speed.name, speed.mib);
    push_first_pull(table, &what, costs);
}

/// Pulls of an image through clients that have nothing, and from `upstream` itself.
fn pulls_of_image(rounds: usize, upstream: SocketAddr, pids: &[u32]) -> [Costs; 2] {
    let through = || {
        let (client, pid) = fresh_client(upstream);
        let pids = [&[pid], pids].concat();
        pull(client.addr(), &pids, || wait_until_stored(&client, 9))
    };
    interleave(rounds, [Side::new(through), Side::new(|| pull(upstream, pids, || ()))])
}

/// Pulls of one blob, the same way.
fn pulls_of_blob(rounds: usize, upstream: SocketAddr, path: &str, pids: &[u32]) -> [Costs; 2] {
    let through = || {
        let (client, pid) = fresh_client(upstream);
        let pids = [&[pid], pids].concat();
        let work = || http::fetch(client.addr(), path);
        measure(&pids, work, || wait_until_stored(&client, 1))
    };
    let direct = || measure(pids, || http::fetch(upstream, path), || ());
    interleave(rounds, [Side::new(through), Side::new(direct)])
}

fn push_first_pull(table: &mut Table, what: &str, [ours, theirs]: [Costs; 2]) {
    let peer = ("registry", theirs.wall());
    let row = Row::ratio(what, ours.wall(), peer, millis, Goal::AtMost(1.05));
    table.push(row.cpu(ours.cpu(), theirs.cpu()));
}

/// How much later the first byte of a blob comes that nobody has yet.
fn first_byte(table: &mut Table) {
    let image = Image::random(6, &[1 << 20; 31]);
    let (registry, _) = registry_with(&image);
    let (client, _pid) = fresh_client(registry.addr());
    let mut times = [Vec::new(), Vec::new()];
    for (round, layer) in image.layers.iter().enumerate() {
        for turn in 0..2 {
            let at = (round + turn) % 2;
            let addr = [client.addr(), registry.addr()][at];
            times[at].push(http::get(addr, &blob_path(&layer.digest)).first_byte.as_secs_f64());
        }
    }
    let [ours, theirs] = times.map(|times| median(times.into_iter().skip(1)));
    table.push(Row::ratio("first byte", ours, ("registry", theirs), millis, Goal::Told));
    let goal = Goal::AtMost(0.005);
    table.push(Row::alone("… later by", (ours - theirs).max(0.0), millis, goal));
}

/// A small blob that another host has: asked for in etcd, at the tracker and of the host, and asked
/// about at the registry.
fn warm_swarm(table: &mut Table) {
    let image = Image::random(9, &[64 << 10; 31]);
    let (registry, _) = registry_with(&image);
    let tracker = Program::tracker("tracker", &[]);
    let (url, announce) = (registry.url(), tracker.announce_url());
    let etcd_port = tracker.option("ETCD_PORT");
    let options = [("REGISTRY_LOCATION", &*url), ("TRACKER", &announce), ("ETCD_PORT", etcd_port)];
    let [first, second] = ["first", "second"].map(|name| Program::client(name, &options));
    for layer in &image.layers {
        http::get(first.addr(), &blob_path(&layer.digest));
    }
    let published = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
    wait_for("all blobs to be published", || (first.metric(published) >= 31).then_some(()));
    wait_for("all blobs to be announced", || {
        (tracker.metric("torrent_cache_tracker_peers") >= 31).then_some(())
    });
    let times = image.layers.iter().map(|layer| {
        let start = Instant::now();
        http::get(second.addr(), &blob_path(&layer.digest));
        start.elapsed().as_secs_f64()
    });
    let time = median(times.collect::<Vec<f64>>().into_iter().skip(1));
    let swarm = second.metric("torrent_cache_blob_requests_total{outcome=\"swarm\"}");
    assert_eq!(swarm, 31, "all came from the first");
    let what = "64 KiB from a swarm of one, look-up included";
    table.push(Row::alone(what, time, millis, Goal::AtMost(0.010)));
}

/// What a client costs that has nothing to do.
fn idle(table: &mut Table) {
    const FEW: u64 = 1000;
    const MANY: u64 = 10_000;
    let tracker = Program::tracker("tracker", &[]);
    let few = temp_dir();
    seeded::fill(few.path(), FEW, 1024);
    let storage = few.path().display().to_string();
    let announce = tracker.announce_url();
    let mut options = vec![
        ("STORAGE", storage.as_str()),
        ("TRACKER", &announce),
        ("ETCD_PORT", tracker.option("ETCD_PORT")),
    ];
    let mut client = Program::client("client", &options);
    wait_for("all blobs to be announced", || {
        (tracker.metric("torrent_cache_tracker_peers") >= 1000).then_some(())
    });
    let published = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
    wait_for("all blobs to be published", || (client.metric(published) >= 1000).then_some(()));
    let bytes = cost::resident(client.process().pid()) as f64;
    let what = "memory, idle, 1,000 blobs seeded";
    table.push(Row::alone(what, bytes, mib, Goal::AtMost(f64::from(20 << 20))));
    drop(client);

    let many = temp_dir();
    let digests = seeded::fill(many.path(), MANY, 1024);
    let storage = many.path().display().to_string();
    options[0] = ("STORAGE", &storage);
    options.push(("OFFLINE", "allow"));
    let starts = (0..5).map(|_| {
        let start = Instant::now();
        let client = Program::client("client", &options);
        http::get(client.addr(), &blob_path(&digests[0]));
        start.elapsed().as_secs_f64()
    });
    let what = "from start to the first answer, 10,000 blobs";
    table.push(Row::alone(what, median(starts), seconds, Goal::AtMost(1.0)));

    let len = fs::metadata(binary()).expect("the binary is there").len();
    table.push(Row::alone("binary", len as f64, mib, Goal::AtMost(f64::from(8 << 20))));
}
