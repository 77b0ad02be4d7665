//! Other BitTorrent clients as two processes: one seeds, one downloads and ends.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::rig::foreign::without_proxies;
use crate::support::rig::free_port;

/// Who moves the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// This engine; with `digests`, each blob's SHA-256 is made as well, as a pull does.
    Ours {
        digests: bool,
    },
    Rqbit,
    Libtorrent,
    Aria2,
}

impl Who {
    pub fn name(self) -> &'static str {
        match self {
            Who::Ours { .. } => "torrent-cache",
            Who::Rqbit => "rqbit",
            Who::Libtorrent => "libtorrent",
            Who::Aria2 => "aria2",
        }
    }
}

const LIBTORRENT: &str = r#"
import glob, sys, libtorrent as lt
act, torrents, folder, port = sys.argv[1:]
session = lt.session({
    "listen_interfaces": f"127.0.0.1:{port}", "enable_dht": False, "enable_lsd": False,
    "enable_upnp": False, "enable_natpmp": False, "allow_multiple_connections_per_ip": True,
    "enable_outgoing_utp": False, "enable_incoming_utp": False,
    "active_downloads": -1, "active_seeds": -1, "active_limit": 100000,
    "active_tracker_limit": 100000, "connections_limit": 10000, "unchoke_slots_limit": -1,
    "connection_speed": 10000, "alert_queue_size": 100000,
    "alert_mask": lt.alert.category_t.status_notification,
})
left = 0
for path in glob.glob(torrents + "/*"):
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(path)
    parameters.save_path = folder
    if act == "seed":
        parameters.flags |= lt.torrent_flags.seed_mode
    session.add_torrent(parameters)
    left += 1
while act == "seed" or left:
    session.wait_for_alert(1000)
    left -= sum(isinstance(alert, lt.torrent_finished_alert) for alert in session.pop_alerts())
"#;

/// A command that downloads, or seeds until it is ended, what the `.torrent` files in `torrents`
/// describe and `dir` holds.
pub fn command(
    who: Who,
    act: &str,
    dir: &Path,
    torrents: &Path,
    tracker: &str,
    seeder_port: u16,
) -> Command {
    let port = if act == "seed" { seeder_port } else { free_port() };
    match who {
        Who::Ours { digests } => {
            let this = std::env::current_exe().expect("it runs");
            let mut command = Command::new(this);
            command.arg(act).arg(dir).arg(tracker).arg(port.to_string());
            if act == "leech" {
                let digests = if digests { "digests" } else { "pieces" };
                command.arg(torrents).args(["64", digests]);
            }
            command
        }
        Who::Rqbit => rqbit(act, dir, torrents, port, seeder_port),
        Who::Libtorrent => {
            let mut command = Command::new("/usr/bin/python3");
            command.args(["-c", LIBTORRENT, act]).arg(torrents).arg(dir);
            command.arg(port.to_string());
            without_proxies(command)
        }
        Who::Aria2 => aria2(act, dir, torrents, port),
    }
}

fn rqbit(act: &str, dir: &Path, torrents: &Path, port: u16, seeder_port: u16) -> Command {
    let mut command = Command::new("target/peers/bin/rqbit");
    command.args(["-v", "error", "--disable-dht", "--disable-upnp-port-forward", "--disable-lsd"]);
    command.args(["--listen-ip", "127.0.0.1"]);
    command.args(["--listen-port", &port.to_string()]);
    command.args(["download", "--disable-http-api", "--overwrite", "-o"]).arg(dir);
    if act == "leech" {
        // It does not call on loopback whom a tracker names.
        command.arg(format!("--initial-peers=127.0.0.1:{seeder_port}")).arg("--exit-on-finish");
    }
    command.args(files(torrents));
    without_proxies(command)
}

fn aria2(act: &str, dir: &Path, torrents: &Path, port: u16) -> Command {
    let mut command = Command::new("aria2c");
    command.args(["--no-conf=true", "--bt-enable-lpd=false", "--enable-peer-exchange=false"]);
    command.args(["--enable-dht=false", "--enable-dht6=false", "--disable-ipv6=true", "-j2000"]);
    command.args(["--show-console-readout=false", "--file-allocation=none"]);
    command.args(match act {
        "leech" => ["--seed-time=0", "--check-integrity=false"],
        _ => ["--seed-ratio=0.0", "--bt-seed-unverified=true"],
    });
    command.arg(format!("--listen-port={port}"));
    command.arg("-d").arg(dir).args(files(torrents));
    without_proxies(command)
}

fn files(torrents: &Path) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(torrents).expect("it is there");
    files.map(|file| file.expect("it is there").path()).collect()
}
