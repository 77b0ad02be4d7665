//! What links and torrents cost the host that seeds: memory and CPU time for each, idle and busy,
//! beside libtorrent.
//!
//! The other side is this process: peers that ask and throw away what comes (`scale/caller.rs`).

#[path = "scale/caller.rs"]
mod caller;
mod support;

use std::time::{Duration, Instant};

use torrent_cache::base::sys;
use torrent_cache::limits::{LINKS_MAX, LINKS_PER_SWARM_MAX};

use caller::{Caller, Load};
use support::cost::{of_tree, resident};
use support::rig::foreign::has_seeders;
use support::rig::wait_longer;
use support::table::{self, Goal, Row, Table, Unit, kib, micros, rate, seconds};
use support::wire::cargo::{Cargo, Seeding};
use support::wire::host;
use support::wire::peers::Who;

const SIDES: [Who; 2] = [Who::Ours { digests: false }, Who::Libtorrent];
const GIB: f64 = (1 << 30) as f64;
const TORRENTS: usize = 10_000;
const TORRENT_LEN: usize = 16 << 10;
/// So many torrents are there for each that somebody asks for.
const FETCHED_OF: usize = 5;
/// How long hosts are watched that are idle, or busy all the time.
const WATCHED: Duration = Duration::from_secs(8);
/// How long it may take until the tracker knows all torrents.
const PATIENCE: Duration = Duration::from_secs(200);

fn main() {
    host::play_role();
    sys::raise_open_files().expect("the limit can be raised");
    table::run("Links and torrents", &[("links", links), ("torrents", torrents)]);
}

/// What a host took while it was watched.
#[derive(Clone, Copy)]
struct Taken {
    /// Bytes that it holds at the end.
    memory: f64,
    cpu: f64,
    seconds: f64,
}

fn memory(seeding: &Seeding) -> f64 {
    resident(seeding.process.pid()) as f64
}

fn watch(seeding: &Seeding, work: impl FnOnce()) -> Taken {
    let pid = seeding.process.pid();
    let (before, start) = (of_tree(pid), Instant::now());
    work();
    let seconds = start.elapsed().as_secs_f64();
    Taken { memory: memory(seeding), cpu: of_tree(pid) - before, seconds }
}

fn rest() {
    std::thread::sleep(WATCHED);
}

/// Waits until the tracker knows all, of which it is asked about a few.
fn wait_until_announced(cargo: &Cargo, seeding: &Seeding) {
    for hash in cargo.hashes.iter().rev().step_by(cargo.hashes.len().div_ceil(100)) {
        wait_longer(PATIENCE, "the announces", || {
            has_seeders(&seeding.announce, hash, 1).then_some(())
        });
    }
}

/// A row of what either side has.
fn push<T>(table: &mut Table, what: &str, unit: Unit, sides: &[T; 2], of: impl Fn(&T) -> f64) {
    let [ours, theirs] = sides.each_ref().map(of);
    table.push(Row::ratio(what, ours, ("libtorrent", theirs), unit, Goal::Told));
}

/// A host with links.
struct Linked {
    /// What it holds without them.
    alone: f64,
    idle: Taken,
    busy: Taken,
    /// Bytes that it sent while it was busy.
    sent: f64,
}

impl Linked {
    fn new(cargo: &Cargo, who: Who, count: usize) -> Linked {
        let seeding = Seeding::start(cargo, who);
        wait_until_announced(cargo, &seeding);
        let alone = memory(&seeding);
        let load = Load::default();
        std::thread::scope(|scope| {
            for at in 0..count {
                let hash = cargo.hashes[at % cargo.hashes.len()];
                let caller = Caller::call(seeding.addr, at, hash);
                let load = &load;
                scope.spawn(move || caller.pull(cargo.piece_len, cargo.blob_len, load));
            }
            let idle = watch(&seeding, rest);
            load.begin();
            std::thread::sleep(Duration::from_secs(1));
            let before = load.bytes();
            let busy = watch(&seeding, rest);
            let sent = load.bytes() - before;
            assert_eq!(load.ended(), 0, "links that {who:?} closed");
            seeding.stop(cargo);
            Linked { alone, idle, busy, sent }
        })
    }
}

fn links(table: &mut Table) {
    let cargo = Cargo::new(LINKS_MAX / LINKS_PER_SWARM_MAX, 16 << 20);
    let each = LINKS_MAX as f64;
    let many = SIDES.map(|who| Linked::new(&cargo, who, LINKS_MAX));
    let what = format!("{LINKS_MAX} links, idle: memory of each");
    push(table, &what, kib, &many, |host| (host.idle.memory - host.alone) / each);
    push(table, "… CPU time of all, in a minute", seconds, &many, |host| {
        host.idle.cpu / host.idle.seconds * 60.0
    });
    let what = format!("{LINKS_MAX} links, busy: memory of each");
    push(table, &what, kib, &many, |host| (host.busy.memory - host.alone) / each);
    let one = SIDES.map(|who| Linked::new(&cargo, who, 1));
    let many_what = "… all together".to_owned();
    for (what, hosts) in [(many_what, &many), ("one link, busy".to_owned(), &one)] {
        push(table, &what, rate, hosts, |host| host.sent / host.busy.seconds);
        push(table, "… CPU time for each GiB", seconds, hosts, |host| {
            host.busy.cpu / host.sent * GIB
        });
    }
}

/// A host with many torrents.
struct Stocked {
    /// What it holds with one.
    alone: f64,
    announced: Taken,
    idle: Taken,
    fetched: Taken,
}

impl Stocked {
    fn new(one: &Cargo, all: &Cargo, who: Who) -> Stocked {
        let seeding = Seeding::start(one, who);
        wait_until_announced(one, &seeding);
        let alone = memory(&seeding);
        seeding.stop(one);
        let seeding = Seeding::start(all, who);
        let announced = watch(&seeding, || wait_until_announced(all, &seeding));
        let idle = watch(&seeding, rest);
        let fetched = watch(&seeding, || fetch_a_block_of_some(all, &seeding));
        seeding.stop(all);
        Stocked { alone, announced, idle, fetched }
    }
}

/// One in [`FETCHED_OF`], a link for each, by a few callers at once.
fn fetch_a_block_of_some(cargo: &Cargo, seeding: &Seeding) {
    const CALLERS: usize = 4;
    std::thread::scope(|scope| {
        for at in 0..CALLERS {
            scope.spawn(move || {
                for hash in cargo.hashes.iter().step_by(FETCHED_OF).skip(at).step_by(CALLERS) {
                    let caller = Caller::call(seeding.addr, at, *hash);
                    caller.take_one(cargo.piece_len, cargo.blob_len);
                }
            });
        }
    });
}

fn torrents(table: &mut Table) {
    let [one, all] = [1, TORRENTS].map(|count| Cargo::new(count, TORRENT_LEN));
    let each = TORRENTS as f64;
    let hosts = SIDES.map(|who| Stocked::new(&one, &all, who));
    push(table, "10,000 torrents, idle: memory of each", kib, &hosts, |host| {
        (host.idle.memory - host.alone) / each
    });
    push(table, "… CPU time of each, until the tracker knows it", micros, &hosts, |host| {
        host.announced.cpu / each
    });
    push(table, "… CPU time of all, in a minute", seconds, &hosts, |host| {
        host.idle.cpu / host.idle.seconds * 60.0
    });
    push(table, "a block of a fifth of them, over a link each: CPU time", micros, &hosts, |host| {
        host.fetched.cpu / each * FETCHED_OF as f64
    });
    push(table, "… memory of each torrent afterwards", kib, &hosts, |host| {
        (host.fetched.memory - host.alone) / each
    });
}
