//! Hosts at the ports of one switch, each in a network namespace with a line of its own speed.
//!
//! The switch, a bridge, is in the namespace of the bench, which is not the machine's either: what
//! is made here is seen by nobody, and gone with the last process that is in it.

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use torrent_cache::base::sys;

use crate::support::rig::process::Process;

/// Says that this process is in a namespace of its own.
const INSIDE: &str = "BENCH_SWARM_INSIDE";
/// How much a line lets through at once: a few of the parts in which the kernel sends.
const BURST: &str = "64k";
/// How much waits before a line; what is more is lost. Ports of switches have as much.
const QUEUE: &str = "1m";
/// Hosts have numbers up to this one.
const NUMBER_MAX: u8 = 48;
/// The longest packet: six times the usual one. For each packet a line sets a timer, and with more
/// of them that is what the CPUs would do.
pub const MTU: u32 = 9000;

/// What a line takes each way, in bits per second, headers included.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub up: f64,
    pub down: f64,
}

/// A namespace, which a process holds open.
#[derive(Debug)]
pub struct Host {
    address: Ipv4Addr,
    holder: Process,
}

/// Goes on in a namespace of its own, with a switch in it and 10.77.0.1 as the address there.
pub fn enter() {
    if std::env::var_os(INSIDE).is_some() {
        sh(&format!(
            "ip link set lo up && ip link add switch address {} mtu {MTU} type bridge \
             && ip address add 10.77.0.1/24 dev switch && ip link set switch up && {}",
            ethernet(1),
            neighbours("switch"),
        ));
        return;
    }
    let root = std::fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0);
    let options: &[&str] = if root { &["--net"] } else { &["--net", "--map-root-user"] };
    let may = Command::new("unshare").args(options).arg("true").output();
    if !may.is_ok_and(|output| output.status.success()) {
        eprintln!("bench-swarm: this user may not make network namespaces: run it as root");
        std::process::exit(1);
    }
    let this = std::env::current_exe().expect("it runs");
    let mut command = Command::new("unshare");
    command.args(options).arg(this).args(std::env::args_os().skip(1)).env(INSIDE, "1");
    panic!("unshare: {}", command.exec());
}

impl Host {
    /// The host 10.77.0.`number` behind `line`, or one behind none.
    ///
    /// # Panics
    /// If there is no such host.
    pub fn new(number: u8, line: Option<Line>) -> Host {
        assert!(number <= NUMBER_MAX, "the others have no address of host {number}");
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo ready && exec sleep infinity"]);
        sys::end_with_parent(&mut command);
        let mut holder = Process::spawn("host", command, "util-linux");
        holder.wait_until("it is there", |output| output.contains("ready").then_some(()));
        let host = Host { address: Ipv4Addr::new(10, 77, 0, number), holder };
        sh(&format!(
            "ip link add port{number} mtu {MTU} type veth \
             peer name eth0 address {} mtu {MTU} netns {} \
             && ip link set port{number} master switch up",
            ethernet(number),
            host.pid()
        ));
        host.sh(&format!(
            "ip link set lo up && ip address add {}/24 dev eth0 && ip link set eth0 up && {}",
            host.address,
            neighbours("eth0"),
        ));
        if let Some(line) = line {
            host.sh(&shape("eth0", line.up));
            sh(&shape(&format!("port{number}"), line.down));
        }
        host
    }

    /// The process that holds its namespace open.
    pub fn pid(&self) -> u32 {
        self.holder.pid()
    }

    /// Its address, at a port.
    pub fn at(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// A command that runs on this host, and no longer than the bench.
    pub fn command(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.pid()));
        sys::end_with_parent(&mut command);
        command
    }

    fn sh(&self, line: &str) {
        let mut command = self.command();
        command.args(["sh", "-c", line]);
        run(command, line);
    }
}

/// The Ethernet address of a host.
fn ethernet(number: u8) -> String {
    format!("02:0a:4d:00:00:{number:02x}")
}

/// A command that tells a host where all others are. What hosts learn of each other by asking is in
/// one table of the machine, with room for 1,024: 32 hosts that all talk to each other fill it.
fn neighbours(device: &str) -> String {
    let all = (1..=NUMBER_MAX).map(|number| {
        let address = ethernet(number);
        format!("neigh add 10.77.0.{number} lladdr {address} nud permanent dev {device}\\n")
    });
    format!("printf '{}' | ip -batch -", all.collect::<String>())
}

/// Bounds what leaves through `device`.
fn shape(device: &str, bits_per_second: f64) -> String {
    format!(
        "tc qdisc add dev {device} root tbf rate {bits_per_second:.0}bit burst {BURST} \
         limit {QUEUE}"
    )
}

fn sh(line: &str) {
    let mut command = Command::new("sh");
    command.args(["-c", line]);
    run(command, line);
}

fn run(command: Command, line: &str) {
    let finished = Process::run("sh", command, "iproute2 util-linux");
    assert!(finished.status.success(), "{line}: {}", finished.output);
}
