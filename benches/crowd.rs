//! Many hosts that pull an image at the same moment which none of them has: over the line of their
//! network, each by itself, through one pull-through cache, and through this program.
//!
//! `cargo bench --bench crowd -- WORD...` measures only the rows whose section has one of the words
//! in its name.

mod support;

use std::net::SocketAddr;
use std::thread;

use support::cost::{Cost, measure};
use support::rig::image::Image;
use support::rig::link::Link;
use support::rig::network::NAME;
use support::rig::registry::Registry;
use support::rig::torrent_cache::Program;
use support::rig::{Access, skopeo, temp_dir};
use support::rounds::{Costs, Side, interleave};
use support::table::{self, Goal, Row, Table, count, seconds, share};

const MIB: usize = 1 << 20;
/// Of the line to the registry.
const MEGABITS: u32 = 100;
/// 24 MiB: two seconds over the line, once.
const LAYERS: [usize; 4] = [6 * MIB; 4];

fn main() {
    table::run(
        "Crowds",
        &[("four", |table| crowd(table, 4)), ("twelve", |table| crowd(table, 12))],
    );
}

/// A registry with one image, behind the line.
struct Site {
    registry: Registry,
    image: Image,
    line: Link,
}

/// What the last turn of one side took from the registry; the first of a side is like the others.
#[derive(Default)]
struct Taken {
    /// Bytes over the line, in copies of the image.
    copies: f64,
    /// Manifests that were fetched, which a registry that limits pulls counts.
    manifests: f64,
}

impl Site {
    fn start() -> Site {
        let registry = Registry::start();
        let image = Image::random(7, &LAYERS);
        skopeo::push(&image, registry.addr(), NAME);
        let line = Link::to(registry.addr(), MEGABITS);
        Site { registry, image, line }
    }

    fn url(&self) -> String {
        format!("http://{}", self.line.addr())
    }

    /// Lets a host for each of `addrs` pull the image through it, all at once.
    fn pull(&self, addrs: &[SocketAddr], pids: &[u32], taken: &mut Taken) -> Cost {
        let before = (self.line.carried(), self.manifests());
        let all = || {
            thread::scope(|scope| {
                for addr in addrs {
                    scope.spawn(|| {
                        let dir = temp_dir();
                        let pulled = skopeo::pull(*addr, NAME, dir.path());
                        assert!(pulled.status.success(), "{}", pulled.output);
                    });
                }
            });
        };
        let cost = measure(pids, all, || ());
        let carried = (self.line.carried() - before.0) as f64;
        taken.copies = carried / self.image.blob_bytes() as f64;
        taken.manifests = (self.manifests() - before.1) as f64;
        cost
    }

    /// How many manifests the registry has sent so far.
    fn manifests(&self) -> usize {
        let is_pull = |access: &&Access| {
            access.method == "GET" && access.status == 200 && access.path.contains("/manifests/")
        };
        self.registry.accesses().iter().filter(is_pull).count()
    }
}

fn crowd(table: &mut Table, hosts: usize) {
    let site = Site::start();
    let [mut ours, mut direct, mut cache] = [(); 3].map(|()| Taken::default());
    let costs: [Costs; 3] = interleave(
        2,
        [
            Side::new(|| through_clients(&site, hosts, &mut ours)),
            Side::new(|| site.pull(&vec![site.line.addr(); hosts], &[], &mut direct)),
            Side::new(|| {
                let registry = Registry::start_cache_of(&site.url());
                site.pull(&vec![registry.addr(); hosts], &[], &mut cache)
            }),
        ],
    );
    let [mine, alone, cached] = costs.each_ref().map(Costs::wall);
    let what = format!("{hosts} hosts at once: the last is done");
    table.push(Row::ratio(&what, mine, ("each by itself", alone), seconds, Goal::AtMost(0.5)));
    table.push(Row::ratio("…", mine, ("pull-through cache", cached), seconds, Goal::AtMost(1.0)));
    let what = "… copies of the image over the line";
    let (mine, alone, cached) = (ours.copies, direct.copies, cache.copies);
    table.push(Row::ratio(what, mine, ("each by itself", alone), share, Goal::Told));
    table.push(Row::ratio("…", mine, ("pull-through cache", cached), share, Goal::Told));
    table.push(Row::alone("… of this program", mine, share, Goal::AtMost(1.1)));
    let what = "… manifests that the registry sent";
    let (mine, alone, cached) = (ours.manifests, direct.manifests, cache.manifests);
    table.push(Row::ratio(what, mine, ("each by itself", alone), count, Goal::Told));
    table.push(Row::ratio("…", mine, ("pull-through cache", cached), count, Goal::Told));
    table.push(Row::alone("… to this program", mine, count, Goal::AtMost(1.0)));
}

/// A network of new hosts, each with a client.
fn through_clients(site: &Site, hosts: usize, taken: &mut Taken) -> Cost {
    let tracker = Program::tracker("tracker", &[]);
    let options = [
        ("REGISTRY_LOCATION", &*site.url()),
        ("TRACKER", &*tracker.announce_url()),
        ("ETCD_PORT", tracker.option("ETCD_PORT")),
    ];
    let clients: Vec<Program> =
        (0..hosts).map(|number| Program::client(&format!("client {number}"), &options)).collect();
    let addrs: Vec<SocketAddr> = clients.iter().map(Program::addr).collect();
    site.pull(&addrs, &[], taken)
}
