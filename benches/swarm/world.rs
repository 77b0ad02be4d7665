//! One seeder, its leechers, and the tracker of all, as real processes on hosts of their own.

use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::network::{Host, Line, MTU};
use crate::support::cost;
use crate::support::http;
use crate::support::nginx::blob_path;
use crate::support::rig::process::Process;
use crate::support::rig::torrent_cache::Program;
use crate::support::rig::{loopback, temp_dir, wait_for};
use crate::support::seeded;

/// What the headers of Ethernet, IP and TCP leave of a packet, which has [`MTU`] bytes and 14.
const PAYLOAD: f64 = (MTU - 52) as f64 / (MTU + 14) as f64;
/// How long one round may take: a pull that is not done then has failed.
const PATIENCE: Duration = Duration::from_secs(60);
/// In how many steps the progress of a reader is told.
const STEPS: u64 = 200;

/// What is tried.
pub struct Plan {
    pub title: &'static str,
    /// Bytes of the blob.
    pub len: usize,
    pub seeder: Line,
    pub leecher: Line,
    /// When each leecher begins, in seconds.
    pub arrivals: Vec<f64>,
}

/// A running network, for one round after the other.
pub struct World<'a> {
    plan: &'a Plan,
    digests: Vec<String>,
    leechers: Vec<(Program, Host)>,
    seeder: (Program, Host),
    _tracker: (Program, Host),
    _storage: TempDir,
}

/// What came out of one round. Times are of the pulls that did not fail.
pub struct Outcome {
    /// Until the last host was done, in seconds.
    pub last: f64,
    /// The longest time of any host from its beginning, in seconds.
    pub slowest: f64,
    /// How many pulls failed.
    pub failed: usize,
    /// Bytes that the seeder sent, in copies.
    pub copies: f64,
    /// Bytes that came and were not needed, of those needed.
    pub duplicates: f64,
    /// Of the CPU time that the machine has.
    pub cpu: f64,
    /// Of each reader: seconds, and its share of the blob.
    pub progress: Vec<Vec<(f64, f64)>>,
}

impl Plan {
    /// When the last host can be done at best: nothing is faster than the seeder's uplink, the
    /// downlinks, and all uplinks together.
    pub fn ideal(&self) -> f64 {
        let count = self.arrivals.len() as f64;
        let last = self.arrivals.iter().fold(0.0, |last: f64, at| last.max(*at));
        let together = self.seeder.up + count * self.leecher.up;
        let all = self.seconds(self.seeder.up).max(count * self.seconds(together));
        all.max(last + self.alone())
    }

    /// What one host takes if nothing but its own downlink bounds it.
    pub fn alone(&self) -> f64 {
        self.seconds(self.leecher.down)
    }

    fn seconds(&self, bits_per_second: f64) -> f64 {
        self.len as f64 * 8.0 / (bits_per_second * PAYLOAD)
    }
}

impl World<'_> {
    /// A network whose seeder has a blob for each round.
    pub fn start(plan: &Plan, rounds: u64) -> World<'_> {
        let storage = temp_dir();
        let digests = seeded::fill(storage.path(), rounds, plan.len);
        let host = Host::new(2, None);
        let interface = host.at(0).ip().to_string();
        let tracker = Program::tracker_in(
            host.pid(),
            "tracker",
            &[("INTERFACE", &interface), ("ADMIN", &host.at(6970).to_string())],
        );
        let announce = format!("http://{interface}:{}/announce", tracker.option("TRACKER_PORT"));
        let etcd_port = tracker.option("ETCD_PORT");
        let client = |number: u8, line: Line, more: &[(&str, &str)]| {
            let host = Host::new(number, Some(line));
            let admin = host.at(8889).to_string();
            let mut options = vec![
                ("INTERFACE", "0.0.0.0"),
                ("ADMIN", &admin),
                ("REGISTRY_NO_SSL", "1"),
                ("TRACKER", &announce),
                ("ETCD_HOST", &interface),
                ("ETCD_PORT", etcd_port),
                // There is no registry: what comes can only come from hosts.
                ("OFFLINE", "allow"),
            ];
            options.extend(more);
            (Program::client_in(host.pid(), &format!("client {number}"), &options), host)
        };
        let root = storage.path().display().to_string();
        let seeder = client(3, plan.seeder, &[("STORAGE", &root)]);
        wait_for("the blobs to be published", || {
            let published = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
            (seeder.0.metric(published) >= rounds.cast_signed()).then_some(())
        });
        wait_for("the blobs to be announced", || {
            let known = tracker.metric("torrent_cache_tracker_peers");
            (known >= rounds.cast_signed()).then_some(())
        });
        let numbers = (4..).take(plan.arrivals.len());
        let leechers = numbers.map(|number| client(number, plan.leecher, &[])).collect();
        World { plan, digests, leechers, seeder, _tracker: (tracker, host), _storage: storage }
    }

    /// Every leecher's user pulls the blob of this round.
    pub fn round(&self, round: usize) -> Outcome {
        let path = blob_path(&self.digests[round]);
        let before = self.counts();
        let start = Instant::now();
        let pulls: Vec<(f64, Process)> = (self.leechers.iter().zip(&self.plan.arrivals))
            .map(|((program, host), at)| {
                let until = start + Duration::from_secs_f64(*at);
                std::thread::sleep(until.saturating_duration_since(Instant::now()));
                (start.elapsed().as_secs_f64(), pull(host, program.addr(), &path))
            })
            .collect();
        let progress: Vec<_> =
            pulls.into_iter().map(|(at, pull)| self.watch(at, pull, start + PATIENCE)).collect();
        let wall = start.elapsed().as_secs_f64();
        let after = self.counts();
        let len = self.plan.len as f64;
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        // When each began, and when it was done.
        let times: Vec<(f64, f64)> = (progress.iter().filter(|host| is_whole(host)))
            .filter_map(|host| Some((host.first()?.0, host.last()?.0)))
            .collect();
        Outcome {
            last: times.iter().map(|(_, done)| *done).fold(0.0, f64::max),
            slowest: times.iter().map(|(begun, done)| done - begun).fold(0.0, f64::max),
            failed: progress.len() - times.len(),
            copies: (after.sent - before.sent) / len,
            duplicates: (after.duplicates - before.duplicates) / (len * progress.len() as f64),
            cpu: (after.cpu - before.cpu) / (wall * cores as f64),
            progress,
        }
    }

    /// Waits for the end of a pull that began at `at`, but not after `deadline`, and says how far
    /// it came when.
    fn watch(&self, at: f64, mut pull: Process, deadline: Instant) -> Vec<(f64, f64)> {
        while pull.is_running() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let output = pull.finish().output;
        let steps = output.lines().filter_map(|line| {
            let (millis, bytes) = line.split_once(' ')?;
            let (millis, bytes): (f64, f64) = (millis.parse().ok()?, bytes.parse().ok()?);
            Some((at + millis / 1000.0, bytes / self.plan.len as f64))
        });
        let progress: Vec<_> = std::iter::once((at, 0.0)).chain(steps).collect();
        if !is_whole(&progress) {
            let told = output.lines().filter(|line| !line.starts_with(|c: char| c.is_numeric()));
            eprintln!("a pull failed: {}", told.collect::<Vec<_>>().join("; "));
        }
        progress
    }

    fn counts(&self) -> Counts {
        let bytes = |program: &Program, series| program.metric(series) as f64;
        let duplicates = self
            .leechers
            .iter()
            .map(|(program, _)| bytes(program, "torrent_cache_duplicate_bytes_total"));
        let duplicates = duplicates.sum();
        let sent = bytes(&self.seeder.0, "torrent_cache_sent_bytes_total{to=\"peer\"}");
        Counts { sent, duplicates, cpu: cost::of_machine() }
    }
}

/// Whether a reader had all in the end.
fn is_whole(progress: &[(f64, f64)]) -> bool {
    progress.last().is_some_and(|(_, share)| *share >= 1.0)
}

/// Sums over all clients so far.
struct Counts {
    sent: f64,
    duplicates: f64,
    /// Seconds of the whole machine.
    cpu: f64,
}

/// A user of `host` who gets `path` from its client, as a process: this binary, in a role.
fn pull(host: &Host, client: SocketAddr, path: &str) -> Process {
    let mut command: Command = host.command();
    command.arg(std::env::current_exe().expect("it runs"));
    command.args(["pull", &client.port().to_string(), path]);
    Process::spawn("pull", command, "util-linux")
}

/// Plays that role, if the arguments name it, and ends the process: it tells the milliseconds and
/// bytes as they come.
pub fn play_role() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let ["pull", port, path] = arguments[..] else {
        return;
    };
    let start = Instant::now();
    let mut told = 0;
    let client = loopback(port.parse().expect("a port"));
    let got = http::watch(client, path, |bytes, len| {
        let step = bytes * STEPS / len;
        if step > told {
            told = step;
            println!("{} {bytes}", start.elapsed().as_millis());
        }
    });
    assert!(got.bytes > 0, "an empty blob");
    std::process::exit(0);
}
