//! The tracker: announces over UDP and HTTP beside aquatic_udp and opentracker, memory for each
//! peer, and how long an announce waits while peers are forgotten.
//!
//! `cargo bench --bench tracker -- WORD...` measures only the rows whose section has one of the
//! words in its name.

#[path = "tracker/feed.rs"]
mod feed;
#[path = "tracker/load.rs"]
mod load;
#[path = "tracker/rivals.rs"]
mod rivals;
mod support;

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::limits::{REGISTRY_SWEEP, REGISTRY_SWEEP_PEERS};
use torrent_cache::tracker::registry::{Limits, Registry};

use feed::{Feeder, announce};
use load::{Connections, Load};
use rivals::{Rival, Which};
use support::cost::{Cost, of_tree, resident};
use support::rounds::{Side, interleave, median};
use support::table::{self, Goal, Row, Table, micros, per_second};

/// A fleet: so many blobs on so many hosts.
const SWARMS: u32 = 10_000;
const HOSTS: u16 = 100;

fn main() {
    table::run(
        "The tracker",
        &[
            ("udp", udp),
            ("http-keep-alive", |table| http(table, Connections::KeptAlive)),
            ("http-close", |table| http(table, Connections::OneEach)),
            ("memory", memory),
            ("delay", delay),
            ("forget", forget),
        ],
    );
}

/// Answers, by the wall and by the CPU seconds that the tracker spent on them.
#[derive(Clone, Copy)]
struct Rates {
    per_second: f64,
    per_cpu_second: f64,
}

/// Lets the trackers take turns under the same load, each started anew; ours first.
fn compare<const N: usize>(
    rounds: usize,
    trackers: [Which; N],
    swarms: &[Sha1Hash],
    load: impl Fn(SocketAddr) -> Load,
) -> [Rates; N] {
    let rates: [std::cell::RefCell<Vec<Rates>>; N] = std::array::from_fn(|_| Vec::new().into());
    let sides: [Side<'_>; N] = std::array::from_fn(|at| {
        let (rates, load) = (&rates[at], &load);
        Side::new(move || {
            let tracker = Rival::start(trackers[at], swarms);
            let before = of_tree(tracker.pid());
            let load = load(tracker.addr());
            let cpu = of_tree(tracker.pid()) - before;
            let per_cpu_second = load.answers / cpu;
            let per_second = load.answers / load.seconds;
            eprintln!("{}: {per_second:.0}/s, {per_cpu_second:.0}/CPU s", trackers[at].name());
            rates.borrow_mut().push(Rates { per_second, per_cpu_second });
            Cost { wall: load.seconds, cpu }
        })
    });
    interleave(rounds, sides);
    rates.map(|rates| {
        // The first of each is not counted.
        let rates = rates.into_inner().split_off(1);
        Rates {
            per_second: median(rates.iter().map(|rates| rates.per_second)),
            per_cpu_second: median(rates.iter().map(|rates| rates.per_cpu_second)),
        }
    })
}

fn udp(table: &mut Table) {
    const ROUNDS: usize = 2;
    let trackers = [Which::Ours, Which::Aquatic, Which::OpenTracker];
    let swarms = load::swarms_of_aquatic();
    let rates = compare(ROUNDS, trackers, &swarms, load::aquatic);
    for (which, theirs) in trackers.iter().zip(rates).skip(1) {
        let peer = |rate| (which.name(), rate);
        let what = "UDP: answers for each CPU second";
        let (ours, its) = (rates[0].per_cpu_second, theirs.per_cpu_second);
        table.push(Row::ratio(what, ours, peer(its), per_second, Goal::AtLeast(1.0)));
        let (ours, its) = (rates[0].per_second, theirs.per_second);
        table.push(Row::ratio("… each second", ours, peer(its), per_second, Goal::Told));
    }
}

fn http(table: &mut Table, connections: Connections) {
    const ROUNDS: usize = 3;
    let swarms = feed::swarms(SWARMS);
    let trackers = [Which::Ours, Which::OpenTracker];
    let load = |addr| load::wrk(addr, &swarms[..1000], connections);
    let [ours, theirs] = compare(ROUNDS, trackers, &swarms, load);
    let what = match connections {
        Connections::KeptAlive => "HTTP announces each second, 32 connections kept alive",
        Connections::OneEach => "HTTP announces each second, a connection each",
    };
    let peer = |rate| (Which::OpenTracker.name(), rate);
    let rate = (ours.per_second, peer(theirs.per_second));
    table.push(Row::ratio(what, rate.0, rate.1, per_second, Goal::AtLeast(1.0)));
    let rate = (ours.per_cpu_second, peer(theirs.per_cpu_second));
    let what = "… for each CPU second";
    table.push(Row::ratio(what, rate.0, rate.1, per_second, Goal::Told));
}

/// Bytes, of one peer.
fn bytes(bytes: f64) -> String {
    format!("{bytes:.0} B")
}

/// What each tracker holds more when it knows the fleet.
fn memory(table: &mut Table) {
    for (what, swarms) in [
        ("memory for each of 100,000 peers, 1,000 swarms", SWARMS / 10),
        ("memory for each of 1,000,000 peers, 10,000 swarms", SWARMS),
    ] {
        let swarms = feed::swarms(swarms);
        let cost = |which| {
            let tracker = Rival::start(which, &swarms);
            let mut feeder = Feeder::new(tracker.addr());
            // What the first announces need, whoever makes them.
            feeder.fill(&swarms[..1], 1);
            let before = resident(tracker.pid());
            feeder.fill(&swarms, HOSTS);
            let peers = swarms.len() as f64 * f64::from(HOSTS);
            (resident(tracker.pid()) - before) as f64 / peers
        };
        let [ours, aquatic, opentracker] =
            [Which::Ours, Which::Aquatic, Which::OpenTracker].map(cost);
        for (which, theirs) in [(Which::Aquatic, aquatic), (Which::OpenTracker, opentracker)] {
            let peer = (which.name(), theirs);
            table.push(Row::ratio(what, ours, peer, bytes, Goal::Told));
        }
    }
}

/// One announce after the other over UDP, for as long as the sweeper needs to see everybody; beside
/// a tracker that has nobody to look at.
fn delay(table: &mut Table) {
    let [many, nobody] = [SWARMS, 1].map(|swarms| {
        let swarms = feed::swarms(swarms);
        let tracker = Rival::start(Which::Ours, &swarms);
        let mut feeder = Feeder::new(tracker.addr());
        feeder.fill(&swarms, HOSTS);
        delays(&mut feeder, &swarms)
    });
    let peer = |delay| ("among 100", delay);
    let what = "an announce among 1,000,000 peers while all are looked at: median";
    table.push(Row::ratio(what, many[0], peer(nobody[0]), micros, Goal::Told));
    let what = "… 999 of 1,000 below";
    table.push(Row::ratio(what, many[1], peer(nobody[1]), micros, Goal::Told));
    let what = "… the longest of all";
    table.push(Row::alone(what, many[2], micros, Goal::AtMost(0.01)));
    table.push(Row::alone("… the longest among 100", nobody[2], micros, Goal::Told));
}

/// Seconds that an announce takes: the median, what 999 of 1,000 stay below, the longest.
fn delays(feeder: &mut Feeder, swarms: &[Sha1Hash]) -> [f64; 3] {
    let (end, mut delays) = (Instant::now() + REGISTRY_SWEEP, Vec::new());
    for swarm in swarms.iter().cycle() {
        let start = Instant::now();
        if start > end {
            break;
        }
        feeder.ask(swarm);
        delays.push(start.elapsed().as_secs_f64());
    }
    delays.sort_by(f64::total_cmp);
    let at = delays.len() - delays.len() / 1000 - 1;
    [median(delays.iter().copied()), delays[at], *delays.last().expect("some")]
}

/// What an announce can wait at most while the fleet is forgotten: one step, without sockets and
/// other threads.
fn forget(table: &mut Table) {
    let mut registry = Registry::new(Limits::default());
    let mut rng = Rng::seeded(1);
    for port in 1..=HOSTS {
        for swarm in feed::swarms(SWARMS) {
            let request = announce(swarm, port);
            let peer = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port);
            registry.announce(Time::ZERO, peer, &request, &mut rng);
        }
    }
    let mut longest = Duration::ZERO;
    let much_later = Time::after_start(Duration::from_secs(1_000_000));
    while registry.totals().peers() > 0 {
        let start = Instant::now();
        registry.expire(much_later, REGISTRY_SWEEP_PEERS);
        longest = longest.max(start.elapsed());
    }
    let what = "the longest step in which some of 1,000,000 peers are forgotten";
    table.push(Row::alone(what, longest.as_secs_f64(), micros, Goal::AtMost(0.01)));
}
