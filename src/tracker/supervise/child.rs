//! One etcd process: its command line, its life.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _};
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::process::CommandExt as _;
use std::process::{self, Command, Stdio};

use ureq::Agent;

use crate::base::notify;
use crate::base::sys;
use crate::base::thread;
use crate::limits::ETCD_REQUEST_LEN_MAX;
use crate::tracker::local;
use crate::tracker::supervise::EtcdConfig;
use crate::tracker::supervise::relay::{self, LastWords};

/// The member's name in etcd's own records; it must stay what it was when the data was made.
const NAME: &str = "torrent-cache";

/// What etcd keeps its data in, below the folder that it is given.
pub(super) const MEMBER: &str = "member";

/// A started etcd. Its log goes through ours.
pub(super) struct Child {
    process: process::Child,
    last_words: LastWords,
    relay: thread::Handle,
}

impl Child {
    /// Starts it; `log_ended` is called when it closes its log, which it does when it ends.
    pub(super) fn start(
        config: &EtcdConfig,
        peer_port: u16,
        log_ended: impl FnOnce() + Send + 'static,
    ) -> io::Result<Child> {
        let mut command = Command::new(&config.binary);
        command.args(arguments(config, peer_port));
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_foreign(name)) {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Out of our process group: Ctrl-C is for us, and we stop it in order.
        command.process_group(0);
        sys::end_with_parent(&mut command);
        let mut process = command.spawn()?;
        let stderr = process.stderr.take().expect("piped above");
        let last_words = LastWords::default();
        match relay::start(stderr, last_words.clone(), log_ended) {
            Ok(relay) => Ok(Child { process, last_words, relay }),
            Err(error) => {
                let _ = process.kill();
                let _ = process.wait();
                Err(error)
            }
        }
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) {
        // Not waited for yet, so the number is still its own.
        let _ = sys::kill(self.process.id(), libc::SIGTERM);
    }

    /// Ends it.
    pub(super) fn kill(&mut self) {
        let _ = self.process.kill();
    }

    /// Waits for its end and says how it came.
    pub(super) fn ended(mut self) -> String {
        let status = self.process.wait();
        self.relay.join();
        let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
        match self.last_words.take() {
            Some(words) => format!("{status}, after `{words}`"),
            None => status,
        }
    }
}

/// Asks an etcd on `address` whether it can read and write.
pub(super) fn is_ready(agent: &Agent, address: SocketAddr) -> bool {
    // A linearizable read inside etcd; `{"health":"true"}` with status 200, or 503.
    let answer = agent.get(format!("http://{address}/health")).call();
    answer.is_ok_and(|answer| answer.status() == 200)
}

/// Asks an etcd on `address` whether it has raised the alarm that its data has grown to its bound:
/// until that is gone it takes nothing new.
pub(super) fn is_full(agent: &Agent, address: SocketAddr) -> bool {
    const ANSWER_LEN_MAX: u64 = 4 << 10;
    let url = format!("http://{address}/v3/maintenance/alarm");
    let Ok(answer) = agent.post(url).send(r#"{"action":"GET"}"#) else { return false };
    let mut alarms = String::new();
    let read = answer.into_body().into_reader().take(ANSWER_LEN_MAX).read_to_string(&mut alarms);
    read.is_ok() && alarms.contains(r#""NOSPACE""#)
}

/// etcd takes its options from variables as well, ends if one is given both ways, and does not know
/// ours. All but one: on processors that an old etcd was not tested on it asks for this word. And
/// it would tell the service manager that it is ready itself, which is for us to say.
fn is_foreign(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| {
        (name.starts_with("ETCD_") && name != "ETCD_UNSUPPORTED_ARCH") || name == notify::VARIABLE
    })
}

/// The command line, for etcd 3.4 and later.
fn arguments(config: &EtcdConfig, peer_port: u16) -> Vec<OsString> {
    let client_url = format!("http://{}", config.address);
    let advertised_url = format!("http://{}", advertised(config.address));
    let peer_url = format!("http://127.0.0.1:{peer_port}");
    let mut arguments: Vec<OsString> = vec!["--data-dir".into(), config.data.clone().into()];
    let mut flag = |name: &str, value: &str| arguments.push(format!("--{name}={value}").into());
    flag("name", NAME);
    flag("listen-client-urls", &client_url);
    flag("advertise-client-urls", &advertised_url);
    flag("listen-peer-urls", &peer_url);
    flag("initial-advertise-peer-urls", &peer_url);
    flag("initial-cluster", &format!("{NAME}={peer_url}"));
    // History is of no use to us: an hour of it lets every watch catch up.
    flag("auto-compaction-mode", "periodic");
    flag("auto-compaction-retention", "1h");
    // The largest that etcd's authors advise; 200,000 `.torrent`s of 2,048 pieces. When it is full
    // it is emptied.
    flag("quota-backend-bytes", &(8_u64 << 30).to_string());
    // etcd holds this many requests in memory, and ours carry a `.torrent` each: at the default of
    // 100,000 that would be gigabytes.
    flag("snapshot-count", "1000");
    flag("max-request-bytes", &ETCD_REQUEST_LEN_MAX.to_string());
    flag("logger", "zap");
    flag("log-outputs", "stderr");
    arguments
}

/// Where other hosts reach a server that listens on `address`: for all addresses, the one that the
/// default route uses. No packet is sent to find out.
fn advertised(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let local = local(address);
    // Any address beyond the default route will do: these are for documentation (RFC 5737, 3849).
    let (from, to) = match address {
        SocketAddr::V4(_) => ("0.0.0.0:0", "192.0.2.1:9"),
        SocketAddr::V6(_) => ("[::]:0", "[2001:db8::1]:9"),
    };
    let route = UdpSocket::bind(from).and_then(|socket| {
        socket.connect(to)?;
        socket.local_addr()
    });
    route.map_or(local, |route| SocketAddr::new(route.ip(), address.port()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(address: &str) -> Vec<String> {
        let address = address.parse().expect("an address");
        let config = EtcdConfig { binary: "etcd".into(), data: "/storage/etcd".into(), address };
        let text = |argument: OsString| argument.into_string().expect("all of it is ASCII");
        arguments(&config, 7).into_iter().map(text).collect()
    }

    #[test]
    fn the_command_line_names_one_member_and_real_addresses() {
        let line_v4 = line("10.0.0.5:2378");
        for part in [
            "--listen-client-urls=http://10.0.0.5:2378",
            "--advertise-client-urls=http://10.0.0.5:2378",
            "--listen-peer-urls=http://127.0.0.1:7",
            "--initial-cluster=torrent-cache=http://127.0.0.1:7",
            "--max-request-bytes=1572864",
        ] {
            assert!(line_v4.iter().any(|argument| argument == part), "{part} in {line_v4:?}");
        }
        let line_v6 = line("[::]:2378");
        assert!(line_v6.iter().any(|argument| argument == "--listen-client-urls=http://[::]:2378"));
        let nowhere =
            |argument: &String| argument.starts_with("--advertise-client-urls=http://[::]");
        assert!(!line_v6.iter().any(nowhere), "an unspecified address is no address to others");
    }

    #[test]
    fn variables_of_etcd_are_kept_from_it() {
        assert!(is_foreign(OsStr::new("ETCD_PORT")) && is_foreign(OsStr::new("ETCD_NAME")));
        assert!(
            !is_foreign(OsStr::new("ETCD_UNSUPPORTED_ARCH")) && !is_foreign(OsStr::new("PATH"))
        );
    }
}
