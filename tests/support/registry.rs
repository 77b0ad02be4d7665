//! A registry of the `docker-registry` package, and what its access log says.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Command;

use tempfile::TempDir;

use super::process::Process;
use super::{Access, Answer, get, temp_dir};

/// A running registry with a storage of its own.
#[derive(Debug)]
pub struct Registry {
    addr: SocketAddr,
    process: Process,
    dir: TempDir,
}

/// Who may use a private registry: a user, a colon and the password.
pub const CREDENTIALS: &str = "user:secret";
/// The same as htpasswd (bcrypt) has it.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

impl Registry {
    /// One for everybody.
    pub fn start() -> Registry {
        Registry::start_with("", temp_dir())
    }

    /// One for everybody on `address`; `program` starts `docker-registry` on a host that has it.
    pub fn start_at(address: IpAddr, program: Command) -> Registry {
        Registry::start_as(program, address, "", temp_dir())
    }

    /// A pull-through cache of the registry at `url`, for everybody.
    pub fn start_cache_of(url: &str) -> Registry {
        Registry::start_with(&format!("proxy:\n  remoteurl: {url}\n"), temp_dir())
    }

    /// One for those who have [`CREDENTIALS`].
    pub fn start_private() -> Registry {
        let dir = temp_dir();
        let path = dir.path().join("htpasswd");
        std::fs::write(&path, HTPASSWD).expect("disk has room");
        let path = path.display();
        Registry::start_with(&format!("auth:\n  htpasswd:\n    realm: r\n    path: {path}\n"), dir)
    }

    fn start_with(auth: &str, dir: TempDir) -> Registry {
        let program = Command::new("docker-registry");
        Registry::start_as(program, Ipv4Addr::LOCALHOST.into(), auth, dir)
    }

    fn start_as(mut command: Command, address: IpAddr, auth: &str, dir: TempDir) -> Registry {
        let config = dir.path().join("config.yml");
        let storage = dir.path().join("storage");
        let text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
             delete:\n    enabled: true\nhttp:\n  addr: {}\n{auth}",
            storage.display(),
            SocketAddr::new(address, 0)
        );
        std::fs::write(&config, text).expect("the configuration can be written");
        command.arg("serve").arg(&config).env("OTEL_TRACES_EXPORTER", "none");
        let mut process = Process::spawn("docker-registry", command, "docker-registry");
        let addr = process.wait_until("it listens", |output| {
            let (_, rest) = output.split_once("listening on ")?;
            let (addr, _) = rest.split_once('"')?;
            addr.parse().ok()
        });
        Registry { addr, process, dir }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its address as `http://host:port`, as `REGISTRY_LOCATION` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    pub fn get(&self, path: &str) -> Answer {
        get(&format!("{}{path}", self.url()), &[]).expect("the registry answers")
    }

    /// Every request that has ended so far. A request is logged a moment after its client has the
    /// answer: wait for it with [`super::wait_for`].
    pub fn accesses(&self) -> Vec<Access> {
        self.process.output().lines().filter_map(access).collect()
    }

    /// The requests with `method` for the blob or manifest with this digest.
    pub fn blob_accesses(&self, method: &str, digest: &str) -> Vec<Access> {
        let mut accesses = self.accesses();
        accesses.retain(|access| access.method == method && access.path.ends_with(digest));
        accesses
    }

    /// How many bytes of this blob have left the registry.
    pub fn blob_bytes(&self, digest: &str) -> u64 {
        self.blob_accesses("GET", digest).iter().map(|access| access.bytes).sum()
    }
}

/// A line of Apache's combined log:
/// `127.0.0.1 - - [23/Nov/2026:09:00:00 +0000] "GET /v2/ HTTP/1.1" 200 2 "" "agent"`.
fn access(line: &str) -> Option<Access> {
    let mut quoted = line.split('"');
    let host = quoted.next()?;
    let mut request = quoted.next()?.split(' ');
    let mut result = quoted.next()?.split_ascii_whitespace();
    if !host.trim_end().ends_with(']') {
        return None;
    }
    let path = |target: &str| target.split('?').next().unwrap_or_default().to_owned();
    Some(Access {
        method: request.next()?.to_owned(),
        path: path(request.next()?),
        status: result.next()?.parse().ok()?,
        bytes: result.next()?.parse().ok()?,
    })
}
