//! What tests of whole processes share: processes that end with the test, a registry, images made
//! on the spot, a proxy that fails on purpose, and this program itself.
//!
//! Everything runs on loopback, on ports that were free, in folders that are removed. A missing
//! tool fails the test and says how to install it: nothing is skipped.

// Each test binary uses a part.
#![allow(dead_code)]

pub mod curl;
pub mod etcd;
pub mod faults;
pub mod foreign;
pub mod image;
pub mod link;
pub mod network;
pub mod origin;
pub mod ostree;
pub mod process;
pub mod registry;
pub mod site;
pub mod skopeo;
pub mod stage;
pub mod torrent_cache;

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use ::torrent_cache::base::sys;
use tempfile::TempDir;

/// How long anything local may take on a busy machine before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One request, as a server logged it after its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    pub method: String,
    pub path: String,
    pub status: u16,
    /// Bytes of the body that were sent.
    pub bytes: u64,
}

/// A folder that is removed on drop.
pub fn temp_dir() -> TempDir {
    tempfile::Builder::new().prefix("torrent-cache-").tempdir().expect("a folder can be made")
}

/// A folder for an etcd, which syncs each write to its disk: in memory if the system has enough. On
/// a disk that is busy or slow that takes longer than hosts wait for it, and they go other ways.
pub fn etcd_dir() -> TempDir {
    /// An etcd takes 128 MiB, a cluster three times that, and there may be one for each core.
    const ROOM: u64 = 4 << 30;
    let memory = Path::new("/dev/shm");
    let has_room = sys::space(memory).is_ok_and(|space| space.available >= ROOM);
    let made = |folder| tempfile::Builder::new().prefix("torrent-cache-").tempdir_in(folder).ok();
    has_room.then_some(memory).and_then(made).unwrap_or_else(temp_dir)
}

/// A port that is free for TCP and UDP on 127.0.0.1 and that no other test of this process was
/// given. For programs that cannot be told to take any port. It is below those that Linux gives to
/// connections, so that none takes it before the program does.
pub fn free_port() -> u16 {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Tests of other processes begin elsewhere.
    let begin = std::process::id().wrapping_mul(1009);
    for _ in 0..COUNT {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed);
        let port = FIRST + begin.wrapping_add(given) % COUNT;
        let port = u16::try_from(port).expect("it is below 32768");
        let tcp = TcpListener::bind(loopback(port));
        if tcp.is_ok() && UdpSocket::bind(loopback(port)).is_ok() {
            return port;
        }
    }
    panic!("no port is free for TCP and UDP");
}

/// 127.0.0.1 at `port`.
pub fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Waits until `condition` gives a value. For the state of foreign processes, which tell nobody.
///
/// # Panics
/// If it does not within [`PATIENCE`].
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_longer(PATIENCE, what, condition)
}

/// As [`wait_for`], for what takes its time by design.
pub fn wait_longer<T>(
    patience: Duration,
    what: &str,
    mut condition: impl FnMut() -> Option<T>,
) -> T {
    let start = Instant::now();
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(start.elapsed() < patience, "waited {patience:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: ureq::http::HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// `GET url` with `headers`, whatever the status; an error if the answer does not come whole.
pub fn get(url: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        .timeout_global(Some(PATIENCE))
        .proxy(None)
        .build();
    let mut request = ureq::Agent::new_with_config(config).get(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut response = request.call().map_err(|error| error.to_string())?;
    let body = response.body_mut().with_config().limit(u64::MAX).read_to_vec();
    Ok(Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        body: body.map_err(|error| error.to_string())?,
    })
}
