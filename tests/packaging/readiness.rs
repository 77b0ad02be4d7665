//! `sd_notify`: a service manager is told that the program is ready when it is, and by nobody else.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::support::foreign::program;
use crate::support::process::Process;
use crate::support::torrent_cache::binary;
use crate::support::{PATIENCE, free_port, get, loopback, temp_dir, wait_for};

/// A service manager's end of the socket.
struct Manager {
    socket: UnixDatagram,
    variable: String,
}

impl Manager {
    /// At a path, as the manager of a user has it.
    fn at_path(dir: &Path) -> Manager {
        let path = dir.join("notify");
        let socket = UnixDatagram::bind(&path).expect("the path is free");
        Manager::with(socket, path.display().to_string())
    }

    /// At an abstract name, as some container runtimes have it.
    fn abstract_name(name: &str) -> Manager {
        let name = format!("{name}-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        let socket = UnixDatagram::bind_addr(&address).expect("the name is free");
        Manager::with(socket, format!("@{name}"))
    }

    fn with(socket: UnixDatagram, variable: String) -> Manager {
        socket.set_read_timeout(Some(PATIENCE)).expect("a time is set");
        Manager { socket, variable }
    }

    /// What it is told next.
    fn next(&self) -> String {
        self.told().expect("the manager is told something")
    }

    fn told(&self) -> Option<String> {
        let mut buf = [0; 4096];
        let len = self.socket.recv(&mut buf).ok()?;
        Some(String::from_utf8_lossy(&buf[..len]).into_owned())
    }

    /// Whether it was told nothing so far.
    fn heard_nothing(&self) -> bool {
        self.socket.set_nonblocking(true).expect("a mode is set");
        let nothing = self.told().is_none();
        self.socket.set_nonblocking(false).expect("a mode is set");
        nothing
    }
}

/// A program under a manager, in a folder of its own.
struct Service {
    dir: TempDir,
    admin: String,
    port: u16,
    command: Command,
}

impl Service {
    /// A client whose certificate and key are at `certificate`, if that is anywhere.
    fn client(certificate: Option<&Path>) -> Service {
        let mut service = Service::of("client", "PORT");
        let dir = certificate.unwrap_or(service.dir.path()).to_owned();
        service.command.env("CERTFILE", dir.join("cert.pem"));
        service.command.env("PRIVATEKEY", dir.join("key.pem"));
        service.command.env("TORRENT_FIRST_PORT", "0").env("TORRENT_LAST_PORT", "0");
        service
    }

    fn tracker() -> Service {
        let mut service = Service::of("tracker", "TRACKER_PORT");
        service.command.env("ETCD_PORT", free_port().to_string());
        service
    }

    fn of(command_name: &str, port_option: &str) -> Service {
        let (dir, port) = (temp_dir(), free_port());
        let admin = loopback(free_port()).to_string();
        let mut command = Command::new(binary());
        command.arg(command_name).env_clear().envs(std::env::var_os("PATH").map(|p| ("PATH", p)));
        command.env(port_option, port.to_string()).env("ADMIN", &admin);
        command.env("INTERFACE", "127.0.0.1").env("STORAGE", dir.path().join("storage"));
        Service { dir, admin, port, command }
    }

    fn start(&mut self, manager: &Manager) -> Process {
        let command = std::mem::replace(&mut self.command, Command::new("true"));
        let mut command = command;
        command.env("NOTIFY_SOCKET", &manager.variable);
        Process::spawn("torrent-cache", command, "")
    }

    fn status(&self, path: &str) -> Option<u16> {
        get(&format!("http://{}{path}", self.admin), &[]).ok().map(|answer| answer.status)
    }
}

/// A named pipe: who reads it waits for [`Gate::open`].
struct Gate(PathBuf);

impl Gate {
    fn make(path: PathBuf) -> Gate {
        let status = Command::new("mkfifo").arg(&path).status().expect("coreutils are there");
        assert!(status.success());
        Gate(path)
    }

    /// Waits until somebody reads, which is then held up.
    fn wait_for_reader(&self) -> File {
        wait_for("somebody to read the pipe", || {
            let opened =
                OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&self.0);
            match opened {
                Ok(file) => Some(file),
                // Nobody reads yet.
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => None,
                Err(error) => panic!("{}: {error}", self.0.display()),
            }
        })
    }
}

/// Fails unless everything of the service answers at the first attempt.
fn assert_answers(service: &Service) {
    assert_eq!(service.status("/healthz"), Some(200));
    TcpStream::connect(loopback(service.port)).expect("the port answers");
}

#[test]
fn a_client_is_ready_once_its_ports_answer() {
    // Its certificate comes through a pipe, so it cannot go on before this test lets it.
    let made = temp_dir();
    let (cert, key) = (made.path().join("cert.pem"), made.path().join("key.pem"));
    torrent_cache::net::tls::server_config(&cert, &key, &[]).expect("a pair can be made");
    let slow = temp_dir();
    fs::copy(&key, slow.path().join("key.pem")).expect("disk has room");
    let gate = Gate::make(slow.path().join("cert.pem"));
    let mut service = Service::client(Some(slow.path()));
    let manager = Manager::at_path(service.dir.path());
    let mut process = service.start(&manager);
    let mut held = gate.wait_for_reader();
    assert!(manager.heard_nothing(), "it waits for its certificate");
    held.write_all(&fs::read(&cert).expect("it was made")).expect("somebody reads");
    drop(held);
    let told = manager.next();
    assert_answers(&service);
    let (first, status) = told.split_once('\n').expect("two lines");
    assert_eq!(first, "READY=1");
    assert!(status.starts_with(&format!("STATUS=serving clients on 127.0.0.1:{}", service.port)));
    assert!(process.terminate().success());
    assert!(manager.next().starts_with("STOPPING=1\n"));
    assert!(manager.heard_nothing());
}

#[test]
fn a_tracker_is_ready_once_its_ports_answer_and_its_etcd_says_nothing() {
    // Its etcd waits in a pipe when it is asked for its version.
    let mut service = Service::tracker();
    let gate = Gate::make(service.dir.path().join("gate"));
    let wrapper = service.dir.path().join("slow-etcd");
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --version ]; then read -r line <'{}'; fi\nexec '{}' \"$@\"\n",
        gate.0.display(),
        program("etcd").display(),
    );
    fs::write(&wrapper, script).expect("disk has room");
    fs::set_permissions(&wrapper, fs::Permissions::from_mode(0o755)).expect("it is ours");
    service.command.env("ETCD_BINARY", &wrapper);
    let manager = Manager::abstract_name("torrent-cache-tracker-test");
    let mut process = service.start(&manager);
    let mut held = gate.wait_for_reader();
    assert!(manager.heard_nothing(), "it waits for etcd's version");
    held.write_all(b"go\n").expect("somebody reads");
    drop(held);
    assert!(manager.next().starts_with("READY=1\nSTATUS=tracker on 127.0.0.1:"));
    assert_answers(&service);
    // An etcd that sees the socket says there that it is ready, and that before it is healthy.
    wait_for("etcd", || (service.status("/readyz") == Some(200)).then_some(()));
    assert!(manager.heard_nothing(), "etcd has a say");
    assert!(process.terminate().success());
    assert!(manager.next().starts_with("STOPPING=1\n"));
}

#[test]
fn a_program_that_cannot_start_is_never_ready() {
    let mut service = Service::client(None);
    let manager = Manager::at_path(service.dir.path());
    service.command.env("STORAGE", "/dev/null");
    let status = service.start(&manager).wait(PATIENCE);
    assert_eq!(status.code(), Some(2));
    assert!(manager.heard_nothing());
}

#[test]
fn a_manager_that_is_gone_or_not_understood_stops_nobody() {
    for variable in ["/nowhere/notify", "vsock:2:1234"] {
        let mut service = Service::client(None);
        let mut manager = Manager::at_path(service.dir.path());
        manager.variable = variable.to_owned();
        let mut process = service.start(&manager);
        wait_for("the client", || (service.status("/healthz") == Some(200)).then_some(()));
        process.wait_until("it says so", |output| output.contains("WARN").then_some(()));
        assert!(process.terminate().success());
        let error = manager.socket.set_nonblocking(true).and(manager.socket.recv(&mut [0]));
        assert_eq!(error.map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
    }
}
