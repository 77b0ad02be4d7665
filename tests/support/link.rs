//! A line of a certain speed, since loopback has none: what a server sends to all of its clients
//! together comes no faster.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::loopback;

/// Bytes that go over the line at a time: few, so that connections share it as packets would.
const PART_LEN: usize = 16 << 10;
/// What was not sent for this long is lost: a line does not save up.
const SAVED: Duration = Duration::from_millis(2);

/// A port of loopback behind which `server` is, at the end of a line.
#[derive(Debug)]
pub struct Link {
    addr: SocketAddr,
    carried: Arc<AtomicU64>,
}

/// When the line is free again.
struct Line {
    bytes_per_second: f64,
    free_at: Mutex<Instant>,
}

impl Line {
    /// Waits until `len` bytes are through.
    fn pass(&self, len: usize) {
        let now = Instant::now();
        let took = Duration::from_secs_f64(len as f64 / self.bytes_per_second);
        let through_at = {
            let mut free_at = self.free_at.lock().expect("nobody panics with it");
            *free_at = (*free_at).max(now.checked_sub(SAVED).unwrap_or(now)) + took;
            *free_at
        };
        std::thread::sleep(through_at.saturating_duration_since(now));
    }
}

impl Link {
    /// A line of so many megabits (10^6) per second to `server`. Its threads end with the process.
    pub fn to(server: SocketAddr, megabits: u32) -> Link {
        let listener = TcpListener::bind(loopback(0)).expect("a port is free");
        let addr = listener.local_addr().expect("it is bound");
        let bytes_per_second = f64::from(megabits) * 1e6 / 8.0;
        let line = Arc::new(Line { bytes_per_second, free_at: Mutex::new(Instant::now()) });
        let carried = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&carried);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("a descriptor is free");
                let server = TcpStream::connect(server).expect("the server listens");
                for stream in [&client, &server] {
                    stream.set_nodelay(true).expect("a socket");
                }
                let (line, count) = (Arc::clone(&line), Arc::clone(&count));
                let copy = |stream: &TcpStream| stream.try_clone().expect("a descriptor is free");
                let (asks, answers) = ((copy(&client), copy(&server)), (server, client));
                std::thread::spawn(move || carry(asks, |_| ()));
                std::thread::spawn(move || {
                    carry(answers, |len| {
                        line.pass(len);
                        count.fetch_add(len as u64, Ordering::Relaxed);
                    });
                });
            }
        });
        Link { addr, carried }
    }

    /// How many bytes the server has sent over it.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Where clients connect.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }
}

/// Carries bytes one way until either side has ended.
fn carry((mut from, mut to): (TcpStream, TcpStream), pass: impl Fn(usize)) {
    let mut buf = [0; PART_LEN];
    while let Ok(len @ 1..) = from.read(&mut buf) {
        pass(len);
        if to.write_all(&buf[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
    let _ = from.shutdown(Shutdown::Read);
}
