//! Tunnels: bytes between a client and a server, unseen (RFC 9110 section 9.3.6).

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::ServerConnection;

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked};
use crate::base::stop::Stop;
use crate::base::thread::{self, Role};
use crate::net::serve::conn::{Conn, retry};

const BUFFER_LEN: usize = 64 << 10;

/// What went through a tunnel, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// From the client to the server.
    pub sent: u64,
    /// From the server to the client.
    pub received: u64,
}

/// What both directions know.
struct Tunnel {
    client: Arc<TcpStream>,
    upstream: TcpStream,
    /// The client's encryption, if it came over TLS. Locked for bytes in memory only.
    tls: Option<Ranked<Box<ServerConnection>>>,
    idle: Duration,
    stop: Stop,
    /// When bytes last moved in either direction, in nanoseconds.
    moved_at: Arc<AtomicU64>,
    received: AtomicU64,
}

/// Carries bytes both ways until both ended. The way to the server is this thread's, the way back a
/// new one's.
pub(super) fn run(
    conn: &mut Conn,
    upstream: TcpStream,
    idle: Duration,
    stop: &Stop,
) -> io::Result<Moved> {
    let (tls, early) = conn.take_parts();
    for socket in [&*conn.socket, &upstream] {
        socket.set_read_timeout(Some(idle))?;
        socket.set_write_timeout(Some(idle))?;
    }
    (&upstream).write_all(&early)?;
    let tunnel = Arc::new(Tunnel {
        client: Arc::clone(&conn.socket),
        upstream,
        tls: tls.map(|tls| Ranked::new(Rank::Leaf, tls)),
        idle,
        stop: stop.clone(),
        moved_at: Arc::new(AtomicU64::new(Time::now().nanos())),
        received: AtomicU64::new(0),
    });
    conn.become_tunnel(&tunnel.moved_at);
    let back = Arc::clone(&tunnel);
    let way_back = thread::spawn("http-tunnel", Role::Connection, move || {
        let moved = back.carry(&back.upstream, &back.client, |bytes, out| back.encrypt(bytes, out));
        back.received.store(moved, Ordering::Relaxed);
    })?;
    let sent =
        tunnel.carry(&tunnel.client, &tunnel.upstream, |bytes, out| tunnel.decrypt(bytes, out));
    way_back.join();
    let sent = sent + early.len() as u64;
    Ok(Moved { sent, received: tunnel.received.load(Ordering::Relaxed) })
}

/// When bytes last moved, as a tunnel notes it.
pub(super) fn time_of(moved_at: &AtomicU64) -> Time {
    Time::after_start(Duration::from_nanos(moved_at.load(Ordering::Relaxed)))
}

impl Tunnel {
    /// Carries one direction and says how many bytes. Its end is passed on; a failure ends the
    /// other direction too.
    fn carry(
        &self,
        mut from: &TcpStream,
        mut to: &TcpStream,
        change: impl Fn(&[u8], &mut Vec<u8>) -> io::Result<()>,
    ) -> u64 {
        let mut buf = vec![0; BUFFER_LEN];
        let mut out = Vec::new();
        let mut moved = 0;
        loop {
            let result = match retry(|| from.read(&mut buf)) {
                Ok(0) if self.stop.is_stopped() => Err(io::ErrorKind::ConnectionAborted.into()),
                Ok(0) => {
                    let _ = to.shutdown(Shutdown::Write);
                    return moved;
                }
                Ok(len) => {
                    self.moved_at.store(Time::now().nanos(), Ordering::Relaxed);
                    moved += len as u64;
                    out.clear();
                    change(&buf[..len], &mut out).and_then(|()| to.write_all(&out))
                }
                // The other direction may be busy.
                Err(error) if error.kind() == io::ErrorKind::TimedOut && !self.is_idle() => Ok(()),
                Err(error) => Err(error),
            };
            if result.is_err() {
                let _ = self.client.shutdown(Shutdown::Both);
                let _ = self.upstream.shutdown(Shutdown::Both);
                return moved;
            }
        }
    }

    fn is_idle(&self) -> bool {
        Time::now() >= time_of(&self.moved_at) + self.idle
    }

    fn decrypt(&self, mut bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            out.extend_from_slice(bytes);
            return Ok(());
        };
        let mut tls = tls.lock();
        while !bytes.is_empty() {
            tls.read_tls(&mut bytes)?;
            let state = tls
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            let start = out.len();
            out.resize(start + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(&mut out[start..])?;
        }
        Ok(())
    }

    fn encrypt(&self, mut bytes: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let Some(tls) = &self.tls else {
            out.extend_from_slice(bytes);
            return Ok(());
        };
        let mut tls = tls.lock();
        while !bytes.is_empty() {
            let taken = tls.writer().write(bytes)?;
            bytes = bytes.get(taken..).unwrap_or_default();
            while tls.wants_write() {
                tls.write_tls(out)?;
            }
        }
        Ok(())
    }
}
