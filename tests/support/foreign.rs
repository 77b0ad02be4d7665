//! Other BitTorrent software: aria2, libtorrent, rqbit, Transmission, and the tracker opentracker.
//! A peer is on the loopback address of the family of the tracker it is given.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use torrent_cache::base::hash::Sha1Hash;

use super::process::Process;
use super::{free_port, get, loopback, temp_dir, wait_for};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Aria2,
    Libtorrent,
    /// It calls nobody on loopback: others must call it. It knows peers by their addresses without
    /// the port: it has one link to each, and an address where one had everything is a seeder's
    /// from then on, at which it hangs up when it is one itself and the torrent is private.
    Transmission,
    /// Not in Debian: `make interop` builds it.
    Rqbit,
}

/// Downloads the file `name` of a `.torrent` from whom the tracker knows; the bytes, and what the
/// program said.
pub fn download(kind: Kind, name: &str, torrent: &[u8], tracker: &str) -> (Vec<u8>, String) {
    let (dir, output) = download_files(kind, torrent, tracker);
    (fs::read(dir.path().join(name)).expect("it was downloaded"), output)
}

/// As [`download`], of all files; the folder with them.
pub fn download_files(kind: Kind, torrent: &[u8], tracker: &str) -> (TempDir, String) {
    let dir = temp_dir();
    let (command, package) = peer(kind, Act::Download, dir.path(), torrent, tracker);
    let finished = Process::run(package, command, package);
    assert!(finished.status.success(), "{package}: {}", finished.output);
    (dir, finished.output)
}

/// A peer that seeds what it has until it is dropped.
#[derive(Debug)]
pub struct Seeder {
    process: Process,
    dir: TempDir,
}

impl Seeder {
    /// One that has `bytes` as the file `name`.
    pub fn start(kind: Kind, name: &str, bytes: &[u8], torrent: &[u8], tracker: &str) -> Seeder {
        Seeder::start_files(kind, &[(name.to_owned(), bytes)], torrent, tracker)
    }

    /// One that has files at these paths. What it lacks it downloads.
    pub fn start_files(
        kind: Kind,
        files: &[(String, &[u8])],
        torrent: &[u8],
        tracker: &str,
    ) -> Seeder {
        let dir = temp_dir();
        for (path, bytes) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("below it")).expect("the folder can be made");
            fs::write(path, bytes).expect("disk has room");
        }
        let start = || {
            let (command, package) = peer(kind, Act::Seed, dir.path(), torrent, tracker);
            Process::spawn(package, command, package)
        };
        let mut process = start();
        if kind == Kind::Transmission {
            // It may look at the torrent between checking and seeding, find it stopped, and end.
            let mut tries = 1;
            while !lasts(&mut process) {
                assert!(tries < 10, "it ends each time: {}", process.output());
                process = start();
                tries += 1;
            }
        }
        Seeder { process, dir }
    }

    /// Waits until the file `name` holds `bytes`. While it does not, Transmission, alone of all,
    /// calls it something else.
    pub fn wait_for_file(&mut self, name: &str, bytes: &[u8]) {
        let path = self.dir.path().join(name);
        let is_whole = |_: &str| fs::read(&path).is_ok_and(|read| read == bytes).then_some(());
        self.process.wait_until("the file is whole", is_whole);
    }
}

/// Whether the process still runs a second after it began.
fn lasts(process: &mut Process) -> bool {
    let until = Instant::now() + Duration::from_secs(1);
    while Instant::now() < until {
        if !process.is_running() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Act {
    Download,
    Seed,
}

/// A command that does `act` in `dir`, and the package that has it.
fn peer(
    kind: Kind,
    act: Act,
    dir: &Path,
    torrent: &[u8],
    tracker: &str,
) -> (Command, &'static str) {
    let path = dir.join("x.torrent");
    fs::write(&path, torrent).expect("disk has room");
    match kind {
        Kind::Aria2 => (aria2(act, dir, &path, tracker), "aria2"),
        Kind::Libtorrent => (libtorrent(act, dir, &path, tracker), "python3-libtorrent"),
        Kind::Transmission => {
            // It can be told of a tracker only in the file.
            fs::write(&path, announced(torrent, tracker)).expect("disk has room");
            (transmission(dir, &path), "transmission-cli")
        }
        Kind::Rqbit => {
            fs::write(&path, announced(torrent, tracker)).expect("disk has room");
            (rqbit(act, dir, &path, tracker), "make interop")
        }
    }
}

/// A `.torrent` that names the tracker; the info-hash does not cover that.
fn announced(torrent: &[u8], tracker: &str) -> Vec<u8> {
    let mut with = format!("d8:announce{}:{tracker}", tracker.len()).into_bytes();
    with.extend_from_slice(&torrent[1..]);
    with
}

fn aria2(act: Act, dir: &Path, torrent: &Path, tracker: &str) -> Command {
    let mut command = Command::new("aria2c");
    command.args(["--no-conf=true", "--bt-enable-lpd=false", "--enable-peer-exchange=false"]);
    command.args(["--enable-dht6=false", "--show-console-readout=false"]);
    command.arg(format!("--disable-ipv6={}", !is_v6(tracker)));
    command.args(match act {
        Act::Download => ["--seed-time=0", "--check-integrity=false"],
        Act::Seed => ["--seed-ratio=0.0", "--check-integrity=true"],
    });
    // Without DHT it knows no trackers over UDP; nobody is there to be found.
    command.arg(format!("--enable-dht={}", tracker.starts_with("udp:")));
    command.arg(format!("--dht-listen-port={}", free_port()));
    command.arg(format!("--dht-file-path={}", dir.join("dht.dat").display()));
    command.arg(format!("--listen-port={}", free_port()));
    command.arg(format!("--bt-tracker={tracker}"));
    command.arg("-d").arg(dir).arg("-T").arg(torrent);
    without_proxies(command)
}

fn libtorrent(act: Act, dir: &Path, torrent: &Path, tracker: &str) -> Command {
    let script = dir.join("peer.py");
    fs::write(&script, include_str!("libtorrent_peer.py")).expect("disk has room");
    // The system's, which has the module; another may come first in PATH.
    let mut command = Command::new("/usr/bin/python3");
    command.arg(&script).arg(if act == Act::Seed { "seed" } else { "download" });
    let ip = if is_v6(tracker) { "[::1]" } else { "127.0.0.1" };
    command.arg(torrent).arg(dir).arg(tracker).arg(format!("{ip}:{}", free_port()));
    without_proxies(command)
}

fn is_v6(tracker: &str) -> bool {
    tracker.contains("://[")
}

fn transmission(dir: &Path, torrent: &Path) -> Command {
    let mut command = Command::new("transmission-cli");
    command.arg("--config-dir").arg(dir.join("config")).arg("--download-dir").arg(dir);
    command.args(["--verify", "--no-portmap", "--encryption-tolerated", "--no-uplimit"]);
    command.arg("--port").arg(free_port().to_string()).arg(torrent);
    without_proxies(command)
}

fn rqbit(act: Act, dir: &Path, torrent: &Path, tracker: &str) -> Command {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/bin/rqbit");
    let mut command = Command::new(program);
    command.args(["-v", "error", "--disable-dht", "--disable-upnp-port-forward", "--disable-lsd"]);
    let (ip, port) = (if is_v6(tracker) { "::1" } else { "127.0.0.1" }, free_port().to_string());
    command.args(["--listen-ip", ip, "--listen-port", &port, "--announce-port", &port]);
    command.args(["download", "--disable-http-api", "--overwrite", "-o"]).arg(dir);
    if act == Act::Download {
        command.arg("--exit-on-finish");
    }
    command.arg(torrent);
    without_proxies(command)
}

/// Proxies of whoever runs the tests stay out of them.
pub fn without_proxies(mut command: Command) -> Command {
    for variable in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(variable).env_remove(variable.to_uppercase());
    }
    command
}

/// Debian's opentracker, which serves only swarms that it is told of.
#[derive(Debug)]
pub struct OpenTracker {
    port: u16,
    process: Process,
    _dir: TempDir,
}

impl OpenTracker {
    /// One that serves these swarms.
    pub fn start(swarms: &[Sha1Hash]) -> OpenTracker {
        let (dir, port) = (temp_dir(), free_port());
        // It reads the list after it has changed its root and user.
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir.path(), permissions).expect("the folder is ours");
        let list: String = swarms.iter().map(|hash| format!("{hash}\n")).collect();
        fs::write(dir.path().join("whitelist"), list).expect("disk has room");
        let mut command = Command::new(program("opentracker"));
        command.args(["-i", "127.0.0.1", "-u", "nobody", "-w", "whitelist"]);
        command.arg("-p").arg(port.to_string()).arg("-P").arg(port.to_string());
        command.arg("-d").arg(dir.path());
        let process = Process::spawn("opentracker", command, "opentracker");
        let tracker = OpenTracker { port, process, _dir: dir };
        let url = format!("http://127.0.0.1:{port}/stats");
        wait_for("opentracker", || get(&url, &[]).ok());
        tracker
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Where it listens, TCP and UDP.
    pub fn addr(&self) -> SocketAddr {
        loopback(self.port)
    }

    pub fn announce_url(&self) -> String {
        format!("http://127.0.0.1:{}/announce", self.port)
    }

    pub fn announce_url_udp(&self) -> String {
        format!("udp://127.0.0.1:{}", self.port)
    }
}

/// Daemons live where the PATH of a user may not lead.
pub fn program(name: &str) -> PathBuf {
    let system = Path::new("/usr/sbin").join(name);
    if system.exists() { system } else { name.into() }
}

/// Waits until the tracker that is announced to at `announce` has `count` whole copies of a swarm.
pub fn wait_for_seeders(announce: &str, swarm: &Sha1Hash, count: usize) {
    wait_for("seeders", || has_seeders(announce, swarm, count).then_some(()));
}

/// Whether it has.
pub fn has_seeders(announce: &str, swarm: &Sha1Hash, count: usize) -> bool {
    scrape(announce, swarm).contains(&format!("8:completei{count}e"))
}

/// As [`wait_for_seeders`], for peers that lack something.
pub fn wait_for_leechers(announce: &str, swarm: &Sha1Hash, count: usize) {
    let wanted = format!("10:incompletei{count}e");
    wait_for("leechers", || scrape(announce, swarm).contains(&wanted).then_some(()));
}

/// What the tracker says of a swarm; nothing, if it does not answer.
fn scrape(announce: &str, swarm: &Sha1Hash) -> String {
    let hash: String = swarm.0.iter().map(|byte| format!("%{byte:02x}")).collect();
    let url = format!("{}?info_hash={hash}", announce.replace("/announce", "/scrape"));
    get(&url, &[]).map_or_else(|_| String::new(), |answer| answer.text())
}
