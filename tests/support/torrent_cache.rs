//! This program's own two commands, each with ports and storage of its own.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use serde_json::Value;
use tempfile::TempDir;
use torrent_cache::base::sys;

use super::process::Process;
use super::{Answer, etcd_dir, free_port, get, loopback, temp_dir, wait_for};

/// A `torrent-cache` process with its options; it can be stopped and started again on the same
/// storage.
#[derive(Debug)]
pub struct Program {
    name: String,
    command: &'static str,
    options: BTreeMap<String, String>,
    process: Option<Process>,
    dir: TempDir,
    clock: Option<TempDir>,
}

/// Starts what its arguments say where `STORAGE` is a file system of `DISK` bytes that nobody else
/// sees. Without root it takes a user namespace.
const WITH_DISK: &str = r#"
    mkdir -p "$STORAGE"
    [ "$(id -u)" = 0 ] || root=--map-root-user
    exec unshare $root --mount \
        sh -ec 'mount -t tmpfs -o size="$DISK" disk "$STORAGE"; exec "$@"' sh "$@"
"#;

/// Debian's library that gives a program another wall clock, and what it is to leave alone: the
/// monotonic clock and the times of files.
const WITH_CLOCK: &[(&str, &str)] = &[
    ("FAKETIME_NO_CACHE", "1"),
    ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ("NO_FAKE_STAT", "1"),
    ("FAKE_UTIME", "0"),
];

/// The binary under test: the one that cargo built, or the one that `BINARY` names.
pub fn binary() -> PathBuf {
    let Some(given) = std::env::var_os("BINARY") else {
        return env!("CARGO_BIN_EXE_torrent-cache").into();
    };
    // Some tests start it in another folder.
    fs::canonicalize(&given).unwrap_or_else(|error| panic!("BINARY={given:?}: {error}"))
}

/// What all of them logged.
pub fn logs(programs: &[Program]) -> String {
    programs.iter().map(Program::log).collect::<Vec<_>>().join("\n----\n")
}

impl Program {
    /// As [`Program::client`], with a file system of its own of so many bytes as its storage.
    pub fn client_with_disk(name: &str, bytes: u64, options: &[(&str, &str)]) -> Program {
        let bytes = bytes.to_string();
        Program::client(name, &[&[("DISK", bytes.as_str())], options].concat())
    }

    /// As [`Program::client`], in the network namespace of the process `pid`. It ends with the
    /// thread that starts it, however that ends.
    pub fn client_in(pid: u32, name: &str, options: &[(&str, &str)]) -> Program {
        Program::client(name, &[&[("NETWORK", pid.to_string().as_str())], options].concat())
    }

    /// The same for [`Program::tracker`].
    pub fn tracker_in(pid: u32, name: &str, options: &[(&str, &str)]) -> Program {
        Program::tracker(name, &[&[("NETWORK", pid.to_string().as_str())], options].concat())
    }

    /// As [`Program::client`], with a wall clock that [`Program::set_clock`] sets. It is always the
    /// binary that cargo built: a static one loads no library.
    pub fn client_with_clock(name: &str, options: &[(&str, &str)]) -> Program {
        Program::with_clock(|clock| Program::client(name, &[&[clock], options].concat()))
    }

    /// The same for [`Program::tracker`]; its etcd has the clock of the machine.
    pub fn tracker_with_clock(name: &str) -> Program {
        Program::with_clock(|clock| Program::tracker(name, &[clock]))
    }

    fn with_clock(start: impl FnOnce((&str, &str)) -> Program) -> Program {
        let clock = temp_dir();
        let file = clock.path().join("offset");
        fs::write(&file, "+0").expect("disk has room");
        let mut program = start(("CLOCK", &file.display().to_string()));
        program.clock = Some(clock);
        program
    }

    /// Sets the wall clock of a program that has its own to so many seconds after the machine's.
    pub fn set_clock(&self, seconds: i64) {
        let draft = format!("{}.new", self.option("CLOCK"));
        fs::write(&draft, format!("{seconds:+}")).expect("disk has room");
        fs::rename(&draft, self.option("CLOCK")).expect("the name is free");
    }

    /// Starts a client with `options` over these: 127.0.0.1, free ports, a storage of its own, and
    /// a tracker, an etcd and an upstream that do not exist.
    pub fn client(name: &str, options: &[(&str, &str)]) -> Program {
        let dir = temp_dir();
        let path = |file: &str| dir.path().join(file).display().to_string();
        let peers = free_port().to_string();
        let defaults = [
            ("PORT", free_port().to_string()),
            ("INTERFACE", "127.0.0.1".to_owned()),
            ("ADMIN", loopback(free_port()).to_string()),
            ("STORAGE", path("storage")),
            ("CERTFILE", path("cert.pem")),
            ("PRIVATEKEY", path("key.pem")),
            ("TORRENT_FIRST_PORT", peers.clone()),
            ("TORRENT_LAST_PORT", peers),
            ("TRACKER", "http://127.0.0.1:1/announce".to_owned()),
            ("ETCD_HOST", "127.0.0.1".to_owned()),
            ("ETCD_PORT", "1".to_owned()),
            ("REGISTRY_LOCATION", "http://127.0.0.1:1".to_owned()),
        ];
        Program::start(name, "client", dir, &defaults, options)
    }

    /// Starts a tracker with `options` over these: 127.0.0.1, free ports, a storage of its own. Its
    /// etcd is the one that the system has, and answers: a client that finds it away goes another
    /// way for a while.
    pub fn tracker(name: &str, options: &[(&str, &str)]) -> Program {
        let tracker = Program::tracker_with_etcd_to_come(name, options);
        wait_for("etcd", || (tracker.admin("/readyz").status == 200).then_some(()));
        tracker
    }

    /// As [`Program::tracker`], and does not wait for its etcd.
    pub fn tracker_with_etcd_to_come(name: &str, options: &[(&str, &str)]) -> Program {
        let dir = etcd_dir();
        let defaults = [
            ("TRACKER_PORT", free_port().to_string()),
            ("INTERFACE", "127.0.0.1".to_owned()),
            ("ADMIN", loopback(free_port()).to_string()),
            ("ETCD_PORT", free_port().to_string()),
            ("STORAGE", dir.path().join("storage").display().to_string()),
        ];
        Program::start(name, "tracker", dir, &defaults, options)
    }

    fn start(
        name: &str,
        command: &'static str,
        dir: TempDir,
        defaults: &[(&str, String)],
        options: &[(&str, &str)],
    ) -> Program {
        let defaults = defaults.iter().map(|(name, value)| ((*name).to_owned(), value.clone()));
        let mut all: BTreeMap<_, _> = defaults.collect();
        all.extend(options.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let mut program = Program {
            name: name.to_owned(),
            command,
            options: all,
            process: None,
            dir,
            clock: None,
        };
        program.start_again();
        program
    }

    /// Starts it, again or for the first time, and waits until it is healthy.
    pub fn start_again(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let mut command = if self.options.contains_key("DISK") {
            let mut command = Command::new("sh");
            command.args(["-c", WITH_DISK, "sh"]).arg(binary());
            command
        } else if let Some(path) = self.options.get("UNREADABLE") {
            let mut command = Command::new("strace");
            // The tracer is a process beside it: a signal to the program is one.
            command.args(["-D", "-f", "-qq", "--signal=none", "-o", "/dev/null", "-P", path]);
            command.args(["-e", "inject=sendfile,pread64,preadv:error=EIO"]).arg(binary());
            command
        } else if let Some(pid) = self.options.get("NETWORK") {
            let mut command = Command::new("nsenter");
            command.arg(format!("--net=/proc/{pid}/ns/net")).arg(binary());
            sys::end_with_parent(&mut command);
            command
        } else if self.options.contains_key("CLOCK") {
            Command::new(env!("CARGO_BIN_EXE_torrent-cache"))
        } else {
            Command::new(binary())
        };
        // Nothing of the environment that the tests run in is an option by accident.
        command.arg(self.command).env_clear().envs(&self.options);
        if let Some(clock) = self.options.get("CLOCK") {
            command.env("LD_PRELOAD", clock_library()).env("FAKETIME_TIMESTAMP_FILE", clock);
            command.envs(WITH_CLOCK.iter().copied());
        }
        for variable in ["PATH", "RUST_BACKTRACE", "LLVM_PROFILE_FILE"] {
            command.envs(std::env::var_os(variable).map(|value| (variable, value)));
        }
        let mut process = Process::spawn(&self.name, command, "etcd-server");
        let health = self.admin_url("/health");
        process.wait_until("it is healthy", |_| {
            get(&health, &[]).ok().filter(|answer| answer.status == 200)
        });
        self.process = Some(process);
    }

    /// Stops it (SIGTERM); its storage stays.
    pub fn stop(&mut self) -> ExitStatus {
        self.process.take().expect("it runs").terminate()
    }

    /// Kills it (SIGKILL); its storage stays as it was at that moment.
    pub fn crash(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("it runs")
    }

    /// Waits until the blobs that this client has fetched are durable, and under their names.
    pub fn wait_until_synced(&self) {
        const UNSYNCED: &str = "torrent_cache_store_unsynced_blobs";
        wait_for("the blobs to be synced", || (self.metric(UNSYNCED) == 0).then_some(()));
    }

    /// The value of an option, given or default of the rig.
    pub fn option(&self, name: &str) -> &str {
        self.options.get(name).unwrap_or_else(|| panic!("the rig has no default for {name}"))
    }

    /// From the next start on, the system cannot read this file.
    pub fn set_unreadable(&mut self, path: &Path) {
        self.set_option("UNREADABLE", &path.display().to_string());
    }

    /// Changes an option for the next start.
    pub fn set_option(&mut self, name: &str, value: &str) {
        self.options.insert(name.to_owned(), value.to_owned());
    }

    /// Where clients of the proxy and mirror connect.
    pub fn addr(&self) -> SocketAddr {
        loopback(self.option("PORT").parse().expect("ports are numbers"))
    }

    /// Where its peers connect.
    pub fn peer_addr(&self) -> SocketAddr {
        loopback(self.option("TORRENT_FIRST_PORT").parse().expect("ports are numbers"))
    }

    /// The announce URL of a tracker over HTTP, as `TRACKER` takes it.
    pub fn announce_url(&self) -> String {
        format!("http://{}/announce", self.tracker_addr())
    }

    /// The announce URL of a tracker over UDP, as `TRACKER` takes it.
    pub fn announce_url_udp(&self) -> String {
        format!("udp://{}", self.tracker_addr())
    }

    fn tracker_addr(&self) -> SocketAddr {
        let interface: IpAddr = self.option("INTERFACE").parse().expect("an address");
        SocketAddr::new(interface, self.option("TRACKER_PORT").parse().expect("ports are numbers"))
    }

    fn admin_url(&self, path: &str) -> String {
        format!("http://{}{path}", self.option("ADMIN"))
    }

    /// `GET path` from the admin port.
    pub fn admin(&self, path: &str) -> Answer {
        get(&self.admin_url(path), &[]).unwrap_or_else(|error| panic!("{}: {error}", self.name))
    }

    /// One series of `/metrics`, such as `torrent_cache_blob_bytes_total{source="peer"}`.
    pub fn metric(&self, series: &str) -> i64 {
        let text = self.admin("/metrics").text();
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("{}: no {series} in\n{text}", self.name));
        value.parse().expect("metrics are whole numbers")
    }

    /// `/status.json`.
    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.admin("/status.json").body).expect("status is JSON")
    }

    /// Everything it has logged since it was last started.
    pub fn log(&self) -> String {
        self.process.as_ref().expect("it runs").output()
    }
}

/// Where the `libfaketime` package has its library.
fn clock_library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").expect("it is there").flatten();
    let mut libraries = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    let found = libraries.find(|library| library.exists());
    found.expect("no libfaketimeMT.so.1; is it installed? (apt-get install libfaketime)")
}
