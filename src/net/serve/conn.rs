//! One connection: bytes in, bytes out, TLS or not.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use rustls::{ServerConfig, ServerConnection};
use socket2::SockRef;

use crate::base::clock::Time;
use crate::base::sys;
use crate::net::serve::Slot;

/// One read of a head: most are shorter.
const READ_LEN: usize = 4 << 10;
/// Encrypted bytes that wait to be sent: two records. musl gives the memory of more back to the
/// kernel after each write, and takes it anew for the next: with 256 KiB the static binary sends
/// 128 MiB in 155 ms, with 32 KiB in 100 ms.
const TLS_BUFFER_LEN: usize = 32 << 10;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Filled {
    /// Bytes, of the handshake perhaps: look at [`Conn::input`].
    Some,
    /// The client will send nothing more.
    End,
}

/// How far a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing of a request has come.
    Idle,
    /// A handshake or a head has begun.
    Head,
    /// It did not end in time: the client is to be told.
    Late,
    /// It was answered for the last time: what still comes is dropped.
    Ending,
}

/// A connection. Where it waits and who serves it is not its business.
pub(super) struct Conn {
    /// Shared with the server's table, which cuts it at the end of a stop.
    pub socket: Arc<TcpStream>,
    /// The other side.
    pub peer: SocketAddr,
    /// How far it is.
    pub stage: Stage,
    /// When it must be further; past it, it is closed.
    pub deadline: Time,
    /// Not even the first byte has come.
    pub is_new: bool,
    /// It is in the set that the workers wait on.
    pub is_watched: bool,
    /// Bytes that came after the last answer.
    pub dropped: usize,
    /// A body without a length is on its way: only a reset shows that it was cut.
    pub reset_on_drop: bool,
    tls: Option<Box<ServerConnection>>,
    /// Decrypted bytes; those before `used` were dealt with.
    input: Vec<u8>,
    used: usize,
    /// Its place among the open connections; the last field, so that it goes last.
    slot: Slot,
}

impl Conn {
    pub fn new(slot: Slot, socket: Arc<TcpStream>, peer: SocketAddr, deadline: Time) -> Conn {
        Conn {
            slot,
            socket,
            peer,
            stage: Stage::Idle,
            deadline,
            is_new: true,
            is_watched: false,
            dropped: 0,
            reset_on_drop: false,
            tls: None,
            input: Vec::new(),
            used: 0,
        }
    }

    /// Its number, which no other connection of the server ever has.
    pub fn id(&self) -> u64 {
        self.slot.id
    }

    /// Whose it is: what shares are counted by.
    pub fn address(&self) -> IpAddr {
        self.slot.address
    }

    /// Counts this connection as a tunnel in which bytes moved at `moved_at`.
    pub fn become_tunnel(&self, moved_at: &Arc<AtomicU64>) {
        self.slot.shared.state.lock().tunnels.insert(self.slot.id, Arc::clone(moved_at));
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Whether a handshake has begun and not ended.
    pub fn is_handshaking(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.is_handshaking())
    }

    /// Bytes that came and were not used.
    pub fn input(&self) -> &[u8] {
        &self.input[self.used..]
    }

    /// Drops the first `len` bytes of the input.
    pub fn consume(&mut self, len: usize) {
        self.used += len;
        debug_assert!(self.used <= self.input.len(), "more than there is");
        if self.used == self.input.len() {
            self.input.clear();
            self.used = 0;
        }
    }

    /// Gives up the memory of an empty input: thousands of connections may be idle.
    pub fn shrink(&mut self) {
        if self.input.is_empty() {
            self.input = Vec::new();
        }
    }

    /// Takes the bytes that came so far for the client's part of a handshake.
    ///
    /// # Errors
    /// If they are none, or the answer cannot be sent.
    pub fn start_tls(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let mut tls = ServerConnection::new(config).map_err(io::Error::other)?;
        tls.set_buffer_limit(Some(TLS_BUFFER_LEN));
        let hello = std::mem::take(&mut self.input);
        self.used = 0;
        self.tls = Some(Box::new(tls));
        let mut rest = hello.as_slice();
        while !rest.is_empty() {
            self.read_records(&mut rest)?;
        }
        Ok(())
    }

    /// Reads once from the socket, which may block for as long as its timeout.
    ///
    /// # Errors
    /// If the connection failed, timed out, or does not speak TLS as it should.
    pub fn fill(&mut self) -> io::Result<Filled> {
        let socket = Arc::clone(&self.socket);
        if self.tls.is_some() {
            return self.read_records(&mut &*socket);
        }
        let mut buf = [0; READ_LEN];
        let len = retry(|| (&*socket).read(&mut buf))?;
        self.append(&buf[..len]);
        Ok(if len == 0 { Filled::End } else { Filled::Some })
    }

    /// Reads from a new connection what is there already; `None`: nothing is.
    ///
    /// # Errors
    /// If the connection failed.
    pub fn fill_now(&mut self) -> io::Result<Option<Filled>> {
        debug_assert!(self.tls.is_none(), "nothing was read");
        let mut buf = [0; READ_LEN];
        match sys::receive_now(self.socket.as_fd(), &mut buf) {
            Ok(0) => Ok(Some(Filled::End)),
            Ok(len) => {
                self.append(&buf[..len]);
                Ok(Some(Filled::Some))
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(None),
                _ => Err(error),
            },
        }
    }

    fn append(&mut self, bytes: &[u8]) {
        self.input.drain(..self.used);
        self.used = 0;
        self.input.extend_from_slice(bytes);
    }

    /// Takes TLS records from `source` and sends what they call for.
    fn read_records(&mut self, source: &mut dyn Read) -> io::Result<Filled> {
        let Some(tls) = &mut self.tls else { return Ok(Filled::End) };
        if retry(|| tls.read_tls(source))? == 0 {
            return Ok(Filled::End);
        }
        let state = tls.process_new_packets();
        // Also after an error: then it is the alert that says why.
        while tls.wants_write() {
            write_records(tls, &self.socket)?;
        }
        let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut plain = vec![0; state.plaintext_bytes_to_read()];
        tls.reader().read_exact(&mut plain)?;
        let end = state.peer_has_closed() && plain.is_empty();
        self.append(&plain);
        Ok(if end { Filled::End } else { Filled::Some })
    }

    /// Reads bytes of a body, past the input if there is none; 0: the client sends nothing more.
    ///
    /// # Errors
    /// As [`Conn::fill`].
    pub fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.input().is_empty() {
            if self.tls.is_none() {
                return retry(|| (&*self.socket).read(buf));
            }
            if self.fill()? == Filled::End {
                return Ok(0);
            }
        }
        let len = self.input().len().min(buf.len());
        buf[..len].copy_from_slice(&self.input()[..len]);
        self.consume(len);
        Ok(len)
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// If the connection failed, or the client took nothing for as long as the socket's timeout.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return (&*self.socket).write_all(bytes).map_err(stalled);
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let taken = tls.writer().write(rest)?;
            rest = rest.get(taken..).unwrap_or_default();
            while tls.wants_write() {
                write_records(tls, &self.socket)?;
            }
        }
        Ok(())
    }

    /// Sends all of `bytes` without TLS, and tells the kernel to wait for more: the bytes may go
    /// out with what comes next.
    ///
    /// # Errors
    /// As [`Conn::write`].
    pub fn write_before_more(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        debug_assert!(self.tls.is_none(), "in plain text");
        while !bytes.is_empty() {
            let socket = SockRef::from(&*self.socket);
            let sent =
                retry(|| socket.send_with_flags(bytes, libc::MSG_MORE | libc::MSG_NOSIGNAL))?;
            bytes = bytes.get(sent..).unwrap_or_default();
        }
        Ok(())
    }

    /// Sends at most `len` bytes of `file` from `offset` on, without TLS, and says how many went;
    /// none: the file ends there.
    ///
    /// # Errors
    /// As [`Conn::write`], and those of the file system.
    pub fn send_file(&mut self, file: &File, offset: u64, len: u64) -> io::Result<u64> {
        debug_assert!(self.tls.is_none(), "in plain text");
        retry(|| sys::send_file(self.socket.as_fd(), file, offset, len))
    }

    /// Says that we send nothing more, so that the client has all of the answer before the end.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            while tls.wants_write() && write_records(tls, &self.socket).is_ok() {}
        }
        let _ = self.socket.shutdown(Shutdown::Write);
    }

    /// How long a read may wait.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_read_patience(&self, patience: Duration) -> io::Result<()> {
        self.socket.set_read_timeout(Some(patience.max(Duration::from_millis(1))))
    }

    /// The TLS state, for a tunnel, and the bytes that came and were not used.
    pub fn take_parts(&mut self) -> (Option<Box<ServerConnection>>, Vec<u8>) {
        let input = self.input().to_vec();
        self.consume(input.len());
        (self.tls.take(), input)
    }
}

impl Drop for Conn {
    fn drop(&mut self) {
        if self.reset_on_drop {
            let _ = SockRef::from(&*self.socket).set_linger(Some(Duration::ZERO));
        }
    }
}

fn write_records(tls: &mut ServerConnection, mut socket: &TcpStream) -> io::Result<()> {
    match retry(|| tls.write_tls(&mut socket)).map_err(stalled)? {
        0 => Err(io::ErrorKind::WriteZero.into()),
        _ => Ok(()),
    }
}

/// Calls again after an interruption; a timeout is called one.
pub(super) fn retry<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result.map_err(stalled),
        }
    }
}

/// The kernel reports the end of a socket's patience as "would block".
fn stalled(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}
