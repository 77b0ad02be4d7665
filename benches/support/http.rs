//! The client of the benches: one that does as little as a client can.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// What came, and when.
#[derive(Clone, Copy, Debug)]
pub struct Got {
    /// From before the connection to the first byte of the body.
    pub first_byte: Duration,
    /// Bytes of the body.
    pub bytes: u64,
}

/// `GET path` from `addr` on a connection of its own, thrown away as it comes.
///
/// # Panics
/// Unless the answer is 200 with a `Content-Length` and comes whole.
pub fn get(addr: SocketAddr, path: &str) -> Got {
    watch(addr, path, |_, _| ())
}

/// As [`get`]; `came` is told whenever more has come: how many bytes of the body, of how many.
pub fn watch(addr: SocketAddr, path: &str, mut came: impl FnMut(u64, u64)) -> Got {
    let start = Instant::now();
    let mut stream = TcpStream::connect(addr).expect("the server listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut buf = vec![0; 256 << 10];
    let mut used = 0;
    let head_len = loop {
        if let Some(at) = buf[..used].windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        used += read(&mut stream, &mut buf[used..]);
    };
    let head = String::from_utf8_lossy(&buf[..head_len]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{path}: {head}");
    let len = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let len: u64 = len.and_then(|len| len.trim().parse().ok()).expect("an answer with a length");
    let mut bytes = (used - head_len) as u64;
    if bytes == 0 {
        bytes += read(&mut stream, &mut buf) as u64;
    }
    let first_byte = start.elapsed();
    came(bytes, len);
    while bytes < len {
        bytes += read(&mut stream, &mut buf) as u64;
        came(bytes, len);
    }
    assert_eq!(bytes, len, "{path}");
    Got { first_byte, bytes }
}

/// As [`get`], for those who want nothing but the time it takes.
pub fn fetch(addr: SocketAddr, path: &str) {
    let _ = get(addr, path);
}

fn read(stream: &mut TcpStream, buf: &mut [u8]) -> usize {
    match stream.read(buf).expect("the server goes on") {
        0 => panic!("the answer was cut"),
        len => len,
    }
}

/// Asks `addr` for each of `targets` over so many connections, each of which takes the next one as
/// soon as it has the one before.
///
/// # Panics
/// As [`get`].
pub fn fetch_all(addr: SocketAddr, targets: &[String], connections: usize) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..connections {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(addr).expect("the server listens");
                stream.set_nodelay(true).expect("a socket");
                let mut buf = vec![0; 64 << 10];
                while let Some(target) = targets.get(next.fetch_add(1, Ordering::Relaxed)) {
                    exchange(&mut stream, addr, target, &mut buf);
                }
            });
        }
    });
}

/// One request on a connection that stays open.
fn exchange(stream: &mut TcpStream, addr: SocketAddr, target: &str, buf: &mut [u8]) {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("the server reads");
    let mut used = 0;
    let head_len = loop {
        if let Some(at) = buf[..used].windows(4).position(|end| end == b"\r\n\r\n") {
            break at + 4;
        }
        used += read(stream, &mut buf[used..]);
    };
    let head = String::from_utf8_lossy(&buf[..head_len]).to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 200 "), "{target}: {head}");
    let len = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let len: usize = len.and_then(|len| len.trim().parse().ok()).expect("an answer with a length");
    while used < head_len + len {
        used += read(stream, &mut buf[used..]);
    }
    assert_eq!(used, head_len + len, "{target}");
}
