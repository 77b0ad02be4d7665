//! What curl gets: the client that says most exactly how a response ended.

use std::process::Command;

use super::process::Process;
use super::temp_dir;

/// A response, or as much of it as came.
#[derive(Debug)]
pub struct Got {
    /// curl's own verdict: 0 if the response came whole.
    pub exit: Option<i32>,
    pub status: u16,
    /// The head as it came.
    pub head: String,
    pub body: Vec<u8>,
    /// Connections that were made, for each URL.
    pub connections: Vec<String>,
}

impl Got {
    /// The value of a field of the head.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (other, value) = line.split_once(':')?;
            other.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// Fails unless this is the whole of `bytes`, and the response ended in order.
    pub fn assert_is(&self, status: u16, bytes: &[u8]) {
        assert_eq!((self.exit, self.status), (Some(0), status), "{}", self.head);
        assert_eq!(self.body.len(), bytes.len(), "{}", self.head);
        assert!(self.body == bytes, "the length is right, the bytes are not");
    }

    /// Fails unless the client knows that `bytes` did not come: it was told before the first one,
    /// or the response was cut.
    pub fn assert_is_cut(&self, bytes: &[u8]) {
        if (500..600).contains(&self.status) {
            return;
        }
        assert_ne!(self.exit, Some(0), "{}", self.head);
        assert!(self.body.len() < bytes.len(), "{} bytes: {}", self.body.len(), self.head);
    }
}

/// Runs curl on `url` with `arguments`. URLs among these come first, and the body is the first
/// one's.
pub fn curl(url: &str, arguments: &[&str]) -> Got {
    let dir = temp_dir();
    let (head, body) = (dir.path().join("head"), dir.path().join("body"));
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--noproxy", "*", "--max-time", "100"]);
    command.args(["--write-out", "connections %{num_connects}\\n"]);
    command.arg("--dump-header").arg(&head).arg("--output").arg(&body).args(arguments).arg(url);
    let finished = Process::run("curl", command, "curl");
    let head = std::fs::read_to_string(head).unwrap_or_default();
    let status = head.lines().rev().find_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3));
    let connections = finished.output.lines().filter_map(|line| line.strip_prefix("connections "));
    Got {
        exit: finished.status.code(),
        status: status.and_then(|status| status.parse().ok()).unwrap_or_default(),
        body: std::fs::read(body).unwrap_or_default(),
        connections: connections.map(str::to_owned).collect(),
        head,
    }
}
