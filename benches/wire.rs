//! The wire: one seeder to one leecher on loopback, beside other clients and a bare stream.
//!
//! `cargo bench --bench wire -- WORD...` measures only the rows whose section has one of the words
//! in its name.

mod support;

use std::fs::File;
use std::io;
use std::process::Command;
use std::time::Instant;

use support::cost::{Cost, of_ended_children, of_tree};
use support::rig::foreign::wait_for_seeders;
use support::rig::process::Process;
use support::rig::temp_dir;
use support::rounds::{Costs, Side, interleave, once};
use support::table::{self, Goal, Row, Table, rate, seconds};
use support::wire::cargo::{Cargo, Seeding};
use support::wire::host;
use support::wire::peers::{self, Who};

const MIB: usize = 1 << 20;
const ROUNDS: usize = 3;

fn main() {
    host::play_role();
    table::run(
        "The wire",
        &[
            ("stream", stream),
            ("one-large", one_large),
            ("eight", eight),
            ("many-small", many_small),
        ],
    );
}

/// One seeder, ready, and one leecher, from its start to its end.
fn transfer(cargo: &Cargo, who: Who) -> Cost {
    let seeding = Seeding::start(cargo, who);
    cargo.hashes.iter().for_each(|hash| wait_for_seeders(&seeding.announce, hash, 1));
    let (to, port) = (temp_dir(), seeding.addr.port());
    let Seeding { announce, torrents, .. } = &seeding;
    let leecher = peers::command(who, "leech", to.path(), torrents, announce, port);
    warm_up(cargo);
    let cost = run_beside(&seeding.process, leecher);
    seeding.stop(cargo);
    if !matches!(who, Who::Ours { .. }) {
        cargo.check(to.path());
    }
    cargo.done_with(to);
    cost
}

/// Uses as much page cache as the turn will: what was not used of late is slow on some virtual
/// machines, and how long ago that was depends on whose turn was before. One file, which is all
/// that is deleted: see [`Cargo::done_with`].
fn warm_up(cargo: &Cargo) {
    let dir = temp_dir();
    let mut to = File::create(dir.path().join("all")).expect("it is new");
    for (_, file) in cargo.files() {
        let mut from = File::open(file).expect("it is there");
        io::copy(&mut from, &mut to).expect("the disk has room");
    }
}

/// The bare stream, which has one file.
fn bare_stream(cargo: &Cargo) -> Cost {
    let to = temp_dir();
    let (_, file) = cargo.files().next().expect("one");
    let this = std::env::current_exe().expect("it runs");
    let mut sender = Command::new(&this);
    sender.arg("send").arg(&file);
    let mut sender = Process::spawn("sender", sender, "");
    let port = sender.wait_until("the port", |output| {
        let port = output.split("port ").nth(1)?.split(" is").next()?;
        output.contains(" is it").then(|| port.to_owned())
    });
    let mut receiver = Command::new(&this);
    receiver.args(["receive", &port]).arg(to.path().join("file"));
    receiver.arg(cargo.piece_len.to_string());
    warm_up(cargo);
    run_beside(&sender, receiver)
}

/// Runs `command` to its end; the cost of it and of what `beside` does meanwhile.
fn run_beside(beside: &Process, command: Command) -> Cost {
    let cpu = || of_tree(beside.pid()) + of_ended_children();
    let (before, start) = (cpu(), Instant::now());
    let finished = Process::run("leecher", command, "");
    assert!(finished.status.success(), "{}", finished.output);
    Cost { wall: start.elapsed().as_secs_f64(), cpu: cpu() - before }
}

fn stream(table: &mut Table) {
    let cargo = Cargo::new(1, 1024 * MIB);
    let whole = Who::Ours { digests: true };
    let [ours, stream] = interleave(
        ROUNDS,
        [Side::new(|| transfer(&cargo, whole)), Side::new(|| bare_stream(&cargo))],
    );
    let what = "1 GiB, SHA-256 included";
    let rates = [&ours, &stream].map(|costs| cargo.bytes() / costs.wall());
    let row = Row::ratio(what, rates[0], ("bare stream", rates[1]), rate, Goal::AtLeast(0.9));
    table.push(row.cpu(ours.cpu(), stream.cpu()));
    let row = Row::ratio(
        "the same, CPU seconds of both sides",
        ours.cpu(),
        ("bare stream", stream.cpu()),
        seconds,
        Goal::AtMost(1.2),
    );
    table.push(row);
}

const OURS: Who = Who::Ours { digests: false };
const ALL: [Who; 4] = [OURS, Who::Rqbit, Who::Libtorrent, Who::Aria2];

fn one_large(table: &mut Table) {
    all(table, &Cargo::new(1, 1024 * MIB), "1 GiB");
}

fn eight(table: &mut Table) {
    all(table, &Cargo::new(8, 128 * MIB), "8 × 128 MiB at once");
}

/// Every client moves the same.
fn all(table: &mut Table, cargo: &Cargo, what: &str) {
    let costs = interleave(ROUNDS, ALL.map(|who| Side::new(move || transfer(cargo, who))));
    beside(table, cargo, what, &ALL, &costs);
}

/// Without aria2, which takes minutes; of libtorrent one turn is long enough.
fn many_small(table: &mut Table) {
    let cargo = Cargo::new(2000, 64 << 10);
    let of_all = &cargo;
    let side = |who| Side::new(move || transfer(of_all, who));
    let [ours, rqbit] = interleave(ROUNDS, [OURS, Who::Rqbit].map(side));
    let [libtorrent] = once([side(Who::Libtorrent)]);
    let peers = [OURS, Who::Rqbit, Who::Libtorrent];
    beside(table, &cargo, "2,000 × 64 KiB", &peers, &[ours, rqbit, libtorrent]);
}

/// A row for each peer; ours come first.
fn beside(table: &mut Table, cargo: &Cargo, what: &str, who: &[Who], costs: &[Costs]) {
    let rate_of = |costs: &Costs| cargo.bytes() / costs.wall();
    for (who, theirs) in who.iter().zip(costs).skip(1) {
        let peer = (who.name(), rate_of(theirs));
        let row = Row::ratio(what, rate_of(&costs[0]), peer, rate, Goal::AtLeast(1.0));
        table.push(row.cpu(costs[0].cpu(), theirs.cpu()));
    }
}
