//! What loads a tracker: the load tester of aquatic over UDP, wrk over HTTP.

use std::fs;
use std::net::SocketAddr;
use std::process::Command;

use torrent_cache::base::hash::Sha1Hash;

use crate::feed::announce;
use crate::support::rig::process::{Finished, Process};
use crate::support::rig::temp_dir;

/// What was answered, and in how many seconds.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub answers: f64,
    pub seconds: f64,
}

/// Swarms and peers of aquatic's load tester: a few of 700 peers, most of one. Its own numbers are
/// ten times as high, more swarms than this tracker remembers.
const SWARMS: usize = 100_000;
const PEERS: usize = 200_000;
/// How long it runs, in seconds; it reports every five.
const SECONDS: usize = 10;

/// The info-hashes that aquatic's load tester makes up, always the same: bytes of `SmallRng` of the
/// crate `rand` 0.8, which is xoshiro256++, its state filled by a PCG from this seed.
pub fn swarms_of_aquatic() -> Vec<Sha1Hash> {
    let mut seed: u64 = 0xc3aa_8be6_17b3_acce;
    let mut half = || {
        seed =
            seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(11_634_580_027_462_260_723);
        let word = ((seed >> 18) ^ seed) >> 27 & 0xffff_ffff;
        let turn = seed >> 59;
        (word >> turn | word << (32 - turn)) & 0xffff_ffff
    };
    let mut state: [u64; 4] = std::array::from_fn(|_| half() | half() << 32);
    let mut byte = || {
        let [a, b, c, d] = state;
        let (c, d) = (c ^ a, d ^ b);
        state = [a ^ d, b ^ c, c ^ b << 17, d.rotate_left(45)];
        let word = a.wrapping_add(d ^ b).rotate_left(23).wrapping_add(a);
        (word >> 32).to_le_bytes()[0]
    };
    (0..SWARMS).map(|_| Sha1Hash(std::array::from_fn(|_| byte()))).collect()
}

/// Runs aquatic's load tester: connects, announces and a few scrapes, each as soon as there is an
/// answer to another.
pub fn aquatic(tracker: SocketAddr) -> Load {
    let dir = temp_dir();
    let config = dir.path().join("config.toml");
    let text = format!(
        "server_address = \"{tracker}\"\nduration = {SECONDS}\nextra_statistics = false\n\
         [requests]\nnumber_of_torrents = {SWARMS}\nnumber_of_peers = {PEERS}\n"
    );
    fs::write(&config, text).expect("disk has room");
    let mut command = Command::new("target/peers/bin/aquatic_udp_load_test");
    command.arg("-c").arg(config);
    let Finished { status, output } =
        Process::run("aquatic_udp_load_test", command, "see benches/install.sh");
    let report = output.split("# aquatic load test report").nth(1);
    let report = report.unwrap_or_else(|| panic!("{status}: {output}"));
    let field = |name: &str| -> f64 {
        let value = report.split(name).nth(1).and_then(|rest| rest.split_whitespace().next());
        value.and_then(|value| value.parse().ok()).expect("a number")
    };
    let rate = field("Average responses per second:");
    let refused = field("Error responses:");
    assert!(refused < 0.001 * rate && field("Announce responses:") > 0.4 * rate, "{report}");
    Load { answers: rate * SECONDS as f64, seconds: SECONDS as f64 }
}

/// What becomes of a connection over HTTP when its request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connections {
    KeptAlive,
    OneEach,
}

/// Runs wrk: announces of one peer after the other in these swarms.
pub fn wrk(tracker: SocketAddr, swarms: &[Sha1Hash], connections: Connections) -> Load {
    const SECONDS: u32 = 5;
    let dir = temp_dir();
    let script = dir.path().join("requests.lua");
    let requests = (0..10_000u16).map(|number| {
        let request = announce(swarms[usize::from(number) % swarms.len()], 1000 + number / 100);
        format!("'/announce?{}'", request.to_query())
    });
    let headers = match connections {
        Connections::KeptAlive => "{}",
        Connections::OneEach => "{['Connection'] = 'close'}",
    };
    let text = format!(
        "local paths = {{{}}}
         local requests, at = {{}}, 0
         init = function() for i, path in ipairs(paths) do \
           requests[i] = wrk.format('GET', path, {headers}) end end
         request = function() at = at % #requests + 1; return requests[at] end\n",
        requests.collect::<Vec<_>>().join(", ")
    );
    fs::write(&script, text).expect("disk has room");
    let mut command = Command::new("wrk");
    command.args(["-t1", "-c32", &format!("-d{SECONDS}s"), "-s"]).arg(script);
    command.arg(format!("http://{tracker}/"));
    let Finished { status, output } = Process::run("wrk", command, "wrk");
    assert!(status.success() && !output.contains("Non-2xx"), "{output}");
    let field = |name: &str| {
        let value = output.split(name).nth(1).and_then(|rest| rest.split_whitespace().next());
        value.and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    let rate = field("Requests/sec:");
    Load { answers: rate * f64::from(SECONDS), seconds: f64::from(SECONDS) }
}
