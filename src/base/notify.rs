//! Tells the service manager how the process is (`sd_notify(3)`).
//!
//! systemd names a datagram socket in `NOTIFY_SOCKET`: a path, or a name in the abstract namespace
//! behind an `@`. Without the variable nobody wants to know, and nothing is sent.

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// The variable that names the socket. It is meant for this process alone: a child that speaks the
/// same language must not see it.
pub const VARIABLE: &str = "NOTIFY_SOCKET";

/// The socket of the service manager, if there is one, and how long it may take to read.
#[derive(Clone, Debug)]
pub struct Notifier {
    socket: Option<SocketAddr>,
    patience: Duration,
}

impl Notifier {
    /// To the socket that the environment names. One call waits for `patience` at most.
    #[must_use]
    pub fn from_environment(patience: Duration) -> Notifier {
        let Some(name) = std::env::var_os(VARIABLE).filter(|name| !name.is_empty()) else {
            return Notifier { socket: None, patience };
        };
        let socket = match address(&name) {
            Ok(address) => Some(address),
            Err(error) => {
                log::warn!("{VARIABLE}={}: {error}", name.to_string_lossy());
                None
            }
        };
        Notifier { socket, patience }
    }

    /// Says that the process does its work now; `status` is shown to people.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", one_line(status)));
    }

    /// Says that the process has begun to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping");
    }

    /// A manager that cannot be told learns of the end as of any other: by the exit status.
    fn send(&self, state: &str) {
        let Some(address) = &self.socket else { return };
        let sent = || -> io::Result<usize> {
            let socket = UnixDatagram::unbound()?;
            socket.set_write_timeout(Some(self.patience))?;
            socket.send_to_addr(state.as_bytes(), address)
        };
        if let Err(error) = sent() {
            log::warn!("the service manager cannot be told: {error}");
        }
    }
}

/// The address behind the value of the variable.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::other("neither a path nor an abstract name")),
    }
}

/// A line break would begin another assignment.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notifier(name: Option<&OsStr>) -> Notifier {
        let socket = name.map(|name| address(name).expect("an address"));
        Notifier { socket, patience: Duration::from_secs(1) }
    }

    fn received(name: &OsStr, socket: &UnixDatagram) -> Vec<String> {
        let notifier = notifier(Some(name));
        notifier.ready("serving\nMAINPID=1");
        notifier.stopping();
        let mut buf = [0; 256];
        let mut next = || {
            let len = socket.recv(&mut buf).expect("it was sent");
            String::from_utf8_lossy(&buf[..len]).into_owned()
        };
        vec![next(), next()]
    }

    #[test]
    fn paths_and_abstract_names_are_told() {
        const TOLD: [&str; 2] =
            ["READY=1\nSTATUS=serving MAINPID=1", "STOPPING=1\nSTATUS=stopping"];
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("the path is free");
        assert_eq!(received(path.as_os_str(), &socket), TOLD);
        let name = format!("torrent-cache-test-{}", std::process::id());
        let bound = SocketAddr::from_abstract_name(&name).expect("a short name");
        let socket = UnixDatagram::bind_addr(&bound).expect("the name is free");
        assert_eq!(received(OsStr::new(&format!("@{name}")), &socket), TOLD);
    }

    #[test]
    fn other_addresses_are_refused() {
        assert!(address(OsStr::new("vsock:2:1234")).is_err());
        assert!(address(OsStr::new("relative/path")).is_err());
    }

    #[test]
    fn a_manager_that_is_gone_stops_nobody() {
        let folder = tempfile::tempdir().expect("a folder can be made");
        let path = folder.path().join("gone");
        notifier(Some(path.as_os_str())).ready("serving");
        notifier(None).ready("serving");
    }
}
