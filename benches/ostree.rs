//! What hosts feel that pull from OSTree repositories: static deltas against pulls from the web
//! server itself, and what they cost its uplink; small objects against nginx as a caching proxy.
//!
//! `cargo bench --bench ostree -- WORD...` measures only the rows whose section has one of the
//! words in its name. The first run makes the repository: a few minutes, for ostree compresses.

mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use support::caching::CachingNginx;
use support::cost::{Cost, measure};
use support::http::fetch_all;
use support::rig::ostree::{Host, Repository, Tree, archived};
use support::rig::site::Site;
use support::rig::torrent_cache::Program;
use support::rig::wait_for;
use support::rounds::{Side, interleave};
use support::seeded::random_blob;
use support::table::{self, Goal, Row, Table, mib, per_second, seconds, share};

fn main() {
    table::run(
        "OSTree",
        &[
            ("delta", delta),
            ("copies", copies),
            ("objects-cold", objects_cold),
            ("objects-warm", objects_warm),
        ],
    );
}

/// A repository with one branch, `main`, of `files` files of `len` bytes, and the delta to it from
/// nothing, whose parts hold up to `part_mb` million bytes. It is kept for the next run.
fn repository(name: &str, files: usize, len: usize, part_mb: usize) -> Repository {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let made = path.join("made");
    if made.exists() {
        return Repository::open(path);
    }
    let _ = fs::remove_dir_all(&path);
    eprintln!("{}: a repository of {files} files is made", path.display());
    let repository = Repository::make(path);
    let file = |seed: usize| random_blob(seed as u64, len).bytes;
    let tree: Tree = (0..files).map(|seed| (format!("usr/{seed}"), file(seed))).collect();
    repository.commit("main", &tree);
    let part = format!("--max-chunk-size={part_mb}");
    repository.delta("main", &["--empty", &part, "--min-fallback-size=0"]);
    repository.summarise();
    fs::write(made, "").expect("disk has room");
    repository
}

/// A web server of one repository, and a tracker with its etcd.
struct World {
    site: Site,
    tracker: Program,
}

impl World {
    fn of(repository: &Repository) -> World {
        let site = Site::start();
        symlink(repository.path(), site.root().join("repo")).expect("the link can be made");
        World { site, tracker: Program::tracker("tracker", &[]) }
    }

    fn client(&self) -> Program {
        let options = [
            ("TRACKER", &*self.tracker.announce_url()),
            ("ETCD_PORT", self.tracker.option("ETCD_PORT")),
        ];
        Program::client("client", &options)
    }

    /// A host that pulls through `client`, or from the site itself.
    fn host(&self, client: Option<&Program>) -> Host {
        let proxy = client.map(|client| format!("http://{}", client.addr()));
        Host::new(&self.site.url("repo"), proxy)
    }

    /// Waits until `client` is a seed that others find.
    fn wait_until_shared(&self, client: &Program, peers: i64) {
        wait_for("the delta to be stored", || {
            (client.metric("torrent_cache_store_blobs") > 0).then_some(())
        });
        wait_for("the delta to be known", || {
            let known = self.tracker.metric("torrent_cache_tracker_peers") >= peers;
            let series = |outcome: &str| {
                let name = "torrent_cache_catalog_requests_total";
                client.metric(&format!("{name}{{outcome=\"{outcome}\"}}"))
            };
            (known && series("published") + series("hit") > 0).then_some(())
        });
    }
}

/// Pulls `main` and says what that cost on the wall, and in the client.
fn pull(host: &Host, client: Option<&mut Program>) -> Cost {
    let pids: Vec<u32> = client.map(|client| client.process().pid()).into_iter().collect();
    measure(&pids, || drop(host.pull(&["--disable-fsync", "main"])), || ())
}

/// A delta of 256 MiB in 32 parts: to the first host, to the second, and past the client.
fn delta(table: &mut Table) {
    let repository = repository("ostree-256", 256, 1 << 20, 9);
    assert_eq!(repository.parts().len(), 32, "the delta has other parts than planned");
    let shared = World::of(&repository);
    let seed = shared.client();
    shared.host(Some(&seed)).pull(&["--disable-fsync", "main"]);
    shared.wait_until_shared(&seed, 1);
    let [direct, first, second] = interleave(
        5,
        [
            Side::new(|| pull(&shared.host(None), None)),
            Side::new(|| {
                // Nobody has it yet.
                let alone = World::of(&repository);
                let mut client = alone.client();
                pull(&alone.host(Some(&client)), Some(&mut client))
            }),
            Side::new(|| {
                let mut client = shared.client();
                let cost = pull(&shared.host(Some(&client)), Some(&mut client));
                let peers = "torrent_cache_blob_bytes_total{source=\"peer\"}";
                assert!(client.metric(peers) > 200 << 20, "it came from the swarm");
                cost
            }),
        ],
    );
    for (what, ours, bound) in [
        ("delta of 256 MiB in 32 parts, ostree, first host", &first, 1.05),
        ("the same, second host", &second, 1.0),
    ] {
        let peer = ("nginx, direct", direct.wall());
        let row = Row::ratio(what, ours.wall(), peer, seconds, Goal::AtMost(bound));
        table.push(row.cpu(ours.cpu(), direct.cpu()));
    }
}

/// What leaves the site when hosts pull the same delta, one after the other.
fn copies(table: &mut Table) {
    let repository = repository("ostree-32", 32 * 8, 128 << 10, 1);
    let len = repository.bytes("deltas") as f64;
    let world = World::of(&repository);
    let mut clients = Vec::new();
    for hosts in 1..=16 {
        let client = world.client();
        world.host(Some(&client)).pull(&["--disable-fsync", "main"]);
        world.wait_until_shared(&client, hosts);
        clients.push(client);
        if matches!(hosts, 2 | 8 | 16) {
            let sent = |folder: &str| {
                let accesses = world.site.accesses();
                let wanted = accesses.iter().filter(|access| access.path.contains(folder));
                wanted.map(|access| access.bytes).sum::<u64>() as f64
            };
            let what = format!("{hosts} hosts: copies of the delta that left the site");
            table.push(Row::alone(&what, sent("/deltas/") / len, share, Goal::AtMost(1.005)));
            let what = format!("{hosts} hosts: bytes of loose objects, in copies of the delta");
            table.push(Row::alone(&what, sent("/objects/") / len, share, Goal::Told));
        }
    }
    table.push(Row::alone("the delta", len, mib, Goal::Told));
}

/// How many small objects there are, and how many connections ask for them, as libostree has.
const OBJECTS: usize = 5_000;
const CONNECTIONS: usize = 8;

/// A site with small objects of a usual spread of lengths; their paths.
fn site_of_objects() -> (Site, Vec<String>) {
    let site = Site::start();
    let paths: Vec<String> = (0..OBJECTS)
        .map(|seed| {
            let blob = random_blob(seed as u64, 100 + seed * 997 % 8_000);
            let (path, bytes) = archived(&blob.bytes, u16::MAX);
            let path = format!("repo/{path}");
            let file: PathBuf = site.root().join(&path);
            fs::create_dir_all(file.parent().expect("below the root")).expect("disk has room");
            fs::write(file, bytes).expect("disk has room");
            format!("/{path}")
        })
        .collect();
    (site, paths)
}

/// What a client is asked for: whole URLs.
fn urls(site: &Site, paths: &[String]) -> Vec<String> {
    paths.iter().map(|path| format!("http://{}{path}", site.addr())).collect()
}

fn objects_cold(table: &mut Table) {
    let (site, paths) = site_of_objects();
    let urls = urls(&site, &paths);
    let tracker = Program::tracker("tracker", &[]);
    let (announce, etcd_port) = (tracker.announce_url(), tracker.option("ETCD_PORT"));
    let ours = |share: &[(&str, &str)]| {
        let options = [("TRACKER", announce.as_str()), ("ETCD_PORT", etcd_port)];
        let mut client = Program::client("client", &[&options, share].concat());
        let pid = client.process().pid();
        measure(&[pid], || fetch_all(client.addr(), &urls, CONNECTIONS), || ())
    };
    let [ours, sharing, theirs] = interleave(
        7,
        [
            Side::new(|| ours(&[])),
            Side::new(|| ours(&[("OSTREE_SHARE_OBJECTS", "1")])),
            Side::new(|| {
                let nginx = CachingNginx::start(site.addr());
                measure(&[nginx.pid()], || fetch_all(nginx.addr(), &paths, CONNECTIONS), || ())
            }),
        ],
    );
    push_objects(table, "5,000 small objects, asked for the first time", &ours, &theirs);
    let rates = [&sharing, &ours].map(|costs| OBJECTS as f64 / costs.wall());
    let what = "the same with OSTREE_SHARE_OBJECTS: each is looked for in etcd";
    let row = Row::ratio(what, rates[0], ("without", rates[1]), per_second, Goal::Told);
    table.push(row.cpu(sharing.cpu(), ours.cpu()));
}

fn objects_warm(table: &mut Table) {
    let (site, paths) = site_of_objects();
    let urls = urls(&site, &paths);
    let mut client = Program::client("client", &[]);
    let pid = client.process().pid();
    let nginx = CachingNginx::start(site.addr());
    let [ours, theirs] = interleave(
        15,
        [
            Side::new(|| measure(&[pid], || fetch_all(client.addr(), &urls, CONNECTIONS), || ())),
            Side::new(|| {
                measure(&[nginx.pid()], || fetch_all(nginx.addr(), &paths, CONNECTIONS), || ())
            }),
        ],
    );
    push_objects(table, "the same again, from the cache", &ours, &theirs);
}

fn push_objects(
    table: &mut Table,
    what: &str,
    ours: &support::rounds::Costs,
    theirs: &support::rounds::Costs,
) {
    let rates = [ours, theirs].map(|costs| OBJECTS as f64 / costs.wall());
    let peer = ("nginx, caching", rates[1]);
    let row = Row::ratio(what, rates[0], peer, per_second, Goal::AtLeast(0.8));
    table.push(row.cpu(ours.cpu(), theirs.cpu()));
}
