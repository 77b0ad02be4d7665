//! Trackers as processes: this one and others.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;
use torrent_cache::base::hash::Sha1Hash;

use crate::support::rig::foreign::OpenTracker;
use crate::support::rig::process::Process;
use crate::support::rig::torrent_cache::Program;
use crate::support::rig::{free_port, loopback, temp_dir, wait_for};

/// Whose tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Ours,
    /// It has UDP alone.
    Aquatic,
    OpenTracker,
}

impl Which {
    pub fn name(self) -> &'static str {
        match self {
            Which::Ours => "torrent-cache",
            Which::Aquatic => "aquatic_udp",
            Which::OpenTracker => "opentracker",
        }
    }
}

/// One that runs until it is dropped.
pub struct Rival {
    pid: u32,
    addr: SocketAddr,
    _runs: Runs,
}

enum Runs {
    Ours { _program: Program },
    Aquatic { _process: Process, _dir: TempDir },
    OpenTracker { _process: OpenTracker },
}

impl Rival {
    /// One that serves at least these swarms, with a thread for each core if it has threads.
    pub fn start(which: Which, swarms: &[Sha1Hash]) -> Rival {
        match which {
            Which::Ours => {
                let mut program = Program::tracker("tracker", &[("NO_ETCD", "1")]);
                let port = program.option("TRACKER_PORT").parse().expect("a port");
                let (pid, addr) = (program.process().pid(), loopback(port));
                Rival { pid, addr, _runs: Runs::Ours { _program: program } }
            }
            Which::Aquatic => aquatic(),
            Which::OpenTracker => {
                let process = OpenTracker::start(swarms);
                let (pid, addr) = (process.pid(), process.addr());
                Rival { pid, addr, _runs: Runs::OpenTracker { _process: process } }
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

fn aquatic() -> Rival {
    let (dir, addr) = (temp_dir(), loopback(free_port()));
    let config = dir.path().join("config.toml");
    let text = format!("socket_workers = 0\n[network]\naddress = \"{addr}\"\n");
    fs::write(&config, text).expect("disk has room");
    let mut command = Command::new("target/peers/bin/aquatic_udp");
    command.arg("-c").arg(config);
    let process = Process::spawn("aquatic_udp", command, "see benches/install.sh");
    wait_for("aquatic_udp", || answers(addr).then_some(()));
    Rival { pid: process.pid(), addr, _runs: Runs::Aquatic { _process: process, _dir: dir } }
}

/// Whether somebody answers a connect request there.
fn answers(addr: SocketAddr) -> bool {
    let mut connect = [0; 16];
    connect[..8].copy_from_slice(&0x0417_2710_1980u64.to_be_bytes());
    let socket = UdpSocket::bind(loopback(0)).expect("loopback has a free port");
    socket.set_read_timeout(Some(Duration::from_millis(100))).expect("it is no zero");
    socket.connect(addr).expect("an address of loopback");
    socket.send(&connect).is_ok() && socket.recv(&mut [0; 16]).is_ok()
}
