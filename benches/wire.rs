//! The wire: one seeder to one leecher on loopback, beside other clients and a bare stream.
//!
//! `cargo bench --bench wire -- WORD...` measures only the rows whose section has one of the words
//! in its name.

#[path = "wire/host.rs"]
mod host;
#[path = "wire/peers.rs"]
mod peers;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use tempfile::TempDir;
use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::geometry::{Geometry, Span};
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::store::{Max, Store, StoreConfig};
use torrent_cache::tracker::{Sockets, Tracker};

use peers::Who;
use support::cost::{Cost, of_ended_children, of_tree};
use support::rig::foreign::wait_for_seeders;
use support::rig::process::Process;
use support::rig::{free_port, loopback, temp_dir};
use support::rounds::{Costs, Side, interleave};
use support::seeded::{Hasty, random_blob};
use support::table::{self, Goal, Row, Table, rate, seconds};

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

/// Blobs in every shape that somebody wants: in a storage of ours, as plain files, as `.torrent`s.
struct Cargo {
    dir: TempDir,
    hashes: Vec<Sha1Hash>,
    /// Of all blobs together.
    bytes: f64,
    piece_len: u32,
}

impl Cargo {
    fn new(count: usize, len: usize) -> Cargo {
        let dir = temp_dir();
        for folder in ["storage", "files", "torrents"] {
            fs::create_dir(dir.path().join(folder)).expect("it is new");
        }
        let config = StoreConfig { root: dir.path().join("storage"), max: Max::None };
        let store = Store::open_on(Box::new(Hasty), config).expect("the storage can be opened");
        let piece_len = Geometry::for_blob(len as u64).expect("usual").piece_len();
        let mut hashes = Vec::new();
        for seed in 0..count as u64 {
            let blob = random_blob(seed, len);
            let name = BlobName::parse(&blob.digest).expect("a digest");
            let pieces = blob.bytes.chunks(piece_len as usize).map(Sha1Hash::of).collect();
            let metainfo = Metainfo::of_blob(&name, len as u64, pieces).expect("a hash for each");
            let metainfo = Arc::new(metainfo);
            let partial = store.begin(&name, Some(len as u64)).expect("the storage has room");
            partial.write(0, &[&blob.bytes]).expect("the disk has room");
            partial.feed().mark(Span { offset: 0, len: len as u64 });
            store.seal(&partial, Arc::clone(&metainfo)).expect("it is complete");
            store.settle().expect("the disk has room");
            let write = |folder: &str, bytes: &[u8]| {
                let path = dir.path().join(folder).join(metainfo.name());
                fs::write(path, bytes).expect("the disk has room");
            };
            write("files", &blob.bytes);
            write("torrents", &metainfo.encode());
            hashes.push(metainfo.info_hash());
        }
        Cargo { dir, hashes, bytes: (count * len) as f64, piece_len }
    }

    fn path(&self, folder: &str) -> PathBuf {
        self.dir.path().join(folder)
    }

    /// One seeder, ready, and one leecher, from its start to its end. Each has a tracker of its
    /// own: one that ended without a word would be told to the next.
    fn transfer(&self, who: Who) -> Cost {
        let sockets = Sockets::bind(loopback(0)).expect("a port is free");
        let tracker = Tracker::start(sockets, || "none".to_owned()).expect("threads");
        let announce = format!("http://{}/announce", tracker.local_addr());
        let to = temp_dir();
        let [target, torrents] = ["target", "torrents"].map(|folder| to.path().join(folder));
        fs::create_dir(&target).expect("it is new");
        self.put_torrents(&torrents, &announce);
        let from = self.path(if matches!(who, Who::Ours { .. }) { "storage" } else { "files" });
        let port = free_port();
        let seeder = peers::command(who, "seed", &from, &torrents, &announce, port);
        let seeder = Process::spawn("seeder", seeder, "");
        self.hashes.iter().for_each(|hash| wait_for_seeders(&announce, hash, 1));
        let leecher = peers::command(who, "leech", &target, &torrents, &announce, port);
        let cost = run_beside(&seeder, leecher);
        drop(seeder);
        tracker.stop(Time::now());
        cost
    }

    /// Copies of the `.torrent`s that name the tracker: some clients have no other way to learn it.
    fn put_torrents(&self, to: &Path, announce: &str) {
        fs::create_dir(to).expect("it is new");
        for file in fs::read_dir(self.path("torrents")).expect("it is there") {
            let file = file.expect("it is there");
            let bytes = fs::read(file.path()).expect("it can be read");
            let mut with = format!("d8:announce{}:{announce}", announce.len()).into_bytes();
            with.extend_from_slice(&bytes[1..]);
            let name = format!("{}.torrent", file.file_name().to_string_lossy());
            fs::write(to.join(name), with).expect("the disk has room");
        }
    }

    /// The bare stream, which has one file.
    fn stream(&self) -> Cost {
        let to = temp_dir();
        let name = fs::read_dir(self.path("files")).expect("it is there").next();
        let file = name.expect("one").expect("one").path();
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
        receiver.arg(self.piece_len.to_string());
        run_beside(&sender, receiver)
    }
}

/// Runs `command` to its end; the cost of it and of what `beside` does meanwhile.
fn run_beside(beside: &Process, command: Command) -> Cost {
    let cpu = || of_tree(beside.pid()) + of_ended_children();
    let (before, start) = (cpu(), Instant::now());
    let finished = Process::run("leecher", command, "");
    assert!(finished.status.success(), "{}", finished.output);
    Cost { wall: start.elapsed().as_secs_f64(), cpu: cpu() - before }
}

/// What all sides took, ours first.
fn compare<const N: usize>(cargo: &Cargo, rounds: usize, peers: [Who; N]) -> [Costs; N] {
    interleave(rounds, peers.map(|who| Side::new(move || cargo.transfer(who))))
}

fn stream(table: &mut Table) {
    let cargo = Cargo::new(1, 1024 * MIB);
    let whole = Who::Ours { digests: true };
    let [ours, stream] =
        interleave(2 * ROUNDS, [Side::new(|| cargo.transfer(whole)), Side::new(|| cargo.stream())]);
    let what = "1 GiB, SHA-256 included";
    let rates = [&ours, &stream].map(|costs| cargo.bytes / costs.wall());
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

fn one_large(table: &mut Table) {
    against_clients(table, &Cargo::new(1, 1024 * MIB), "1 GiB", 1);
}

fn eight(table: &mut Table) {
    against_clients(table, &Cargo::new(8, 128 * MIB), "8 × 128 MiB at once", 1);
}

fn many_small(table: &mut Table) {
    against_clients(table, &Cargo::new(2000, 64 << 10), "2,000 × 64 KiB", 1);
}

/// Every client moves the same.
fn against_clients(table: &mut Table, cargo: &Cargo, what: &str, rounds: usize) {
    let ours = Who::Ours { digests: false };
    let sides = compare(cargo, rounds, [ours, Who::Rqbit, Who::Libtorrent, Who::Aria2]);
    for (name, theirs) in ["rqbit", "libtorrent", "aria2"].iter().zip(&sides[1..]) {
        let rates = [&sides[0], theirs].map(|costs| cargo.bytes / costs.wall());
        let row = Row::ratio(what, rates[0], (name, rates[1]), rate, Goal::AtLeast(1.0));
        table.push(row.cpu(sides[0].cpu(), theirs.cpu()));
    }
}
