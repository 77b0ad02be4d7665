//! One request and its answer, as a handler sees them.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, SystemTime};

use httpdate::HttpDate;

use crate::base::clock::Time;
use crate::base::stop::Stop;
use crate::base::thread;
use crate::limits::{COPY_LEN, HTTP_DRAIN_LEN_MAX, HTTP_LINGER, HTTP_READ};
use crate::log_limited;
use crate::net::serve::conn::{Conn, Filled};
use crate::net::serve::tunnel::{self, Moved};
use crate::proto::http1::{
    BodyLen, CHUNK_END, ChunkDecoder, ChunkStep, HeadWriter, Headers, LAST_CHUNK, Method,
    RequestHead, Version, encode_chunk_head, has_no_body,
};

/// Spans of files below this are copied: one write for head and body is cheaper than two calls.
const SENDFILE_LEN_MIN: u64 = 64 << 10;

/// The fields that frame a message or are of one connection: those are ours alone.
const FRAMING: [&str; 4] = ["content-length", "transfer-encoding", "connection", "keep-alive"];

/// Why an exchange did not end well.
#[derive(Debug)]
pub enum ExchangeError {
    /// The client is to blame: it went away, took nothing for too long, or sent a broken body.
    Client(io::Error),
    /// We are to blame, or whom the bytes were to come from; says why.
    Cut(String),
    /// The file that was to be sent cannot be read. The rest may be sent from elsewhere.
    Unreadable {
        /// How many bytes of it have not left.
        unsent: u64,
        /// Why.
        why: String,
    },
    /// The handler used the exchange in a way that makes no message.
    Misuse(&'static str),
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExchangeError::Client(error) => write!(f, "the client failed: {error}"),
            ExchangeError::Cut(why) => f.write_str(why),
            ExchangeError::Unreadable { why, .. } => write!(f, "reading the body failed: {why}"),
            ExchangeError::Misuse(why) => write!(f, "misused: {why}"),
        }
    }
}

impl std::error::Error for ExchangeError {}

/// What to do with the connection now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Wait for another request.
    Request,
    /// The answer is whole and was the last.
    Close,
    /// The answer is not whole: the client must see that.
    Cut,
    /// There is nobody to talk to.
    Gone,
}

/// Where the answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Sending(Outgoing),
    Finished,
    Tunnelled,
}

/// How the answer's body is framed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outgoing {
    /// There is none, though the handler may send one: for `HEAD` and statuses without.
    Dropped,
    /// So many bytes are missing.
    Known(u64),
    Chunked,
    UntilClose,
}

/// What is left of the request's body.
#[derive(Debug)]
enum Incoming {
    Known(u64),
    Chunked(ChunkDecoder),
    /// It broke the rules or the connection failed.
    Broken,
}

/// One request and its answer.
pub struct Exchange<'c> {
    conn: &'c mut Conn,
    head: RequestHead,
    incoming: Incoming,
    /// The client waits for `100 Continue` before it sends the body.
    awaits_continue: bool,
    phase: Phase,
    /// Bytes of the answer that wait to be sent with those that follow; the worker's, to be used
    /// again.
    pending: &'c mut Vec<u8>,
    keep_alive: bool,
    stop: &'c Stop,
}

impl<'c> Exchange<'c> {
    pub(super) fn new(
        conn: &'c mut Conn,
        head: RequestHead,
        body: BodyLen,
        pending: &'c mut Vec<u8>,
        stop: &'c Stop,
    ) -> Exchange<'c> {
        let incoming = match body {
            BodyLen::Known(len) => Incoming::Known(len),
            BodyLen::Chunked => Incoming::Chunked(ChunkDecoder::new()),
            BodyLen::None | BodyLen::UntilClose => Incoming::Known(0),
        };
        pending.clear();
        Exchange {
            awaits_continue: head.expects_continue() && body != BodyLen::None,
            keep_alive: head.keeps_alive(),
            conn,
            head,
            incoming,
            phase: Phase::Waiting,
            pending,
            stop,
        }
    }

    /// The request's head; its framing was found valid.
    #[must_use]
    pub fn head(&self) -> &RequestHead {
        &self.head
    }

    /// The length of the request's body: [`BodyLen::None`], [`BodyLen::Known`] or
    /// [`BodyLen::Chunked`].
    #[must_use]
    pub fn body_len(&self) -> BodyLen {
        // It was valid when the exchange was made.
        self.head.framing().unwrap_or(BodyLen::None)
    }

    /// The client.
    #[must_use]
    pub fn peer(&self) -> SocketAddr {
        self.conn.peer
    }

    /// Whether the client came over TLS.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.conn.is_tls()
    }

    /// The request's body, without its framing. Reading it is what makes a client send it that
    /// asked first. It ends with an error if the client stalls for [`HTTP_READ`], leaves or breaks
    /// the framing.
    #[must_use]
    pub fn body(&mut self) -> RequestBody<'_, 'c> {
        RequestBody(self)
    }

    /// Answers with all of `body` and its length. For `HEAD` the length is sent alone.
    ///
    /// # Errors
    /// If the client failed, or an answer has begun already.
    pub fn respond(
        &mut self,
        status: u16,
        headers: &Headers,
        body: &[u8],
    ) -> Result<(), ExchangeError> {
        self.start(status, headers, BodyLen::Known(body.len() as u64))?;
        if self.pending.len() + body.len() > COPY_LEN {
            self.send(body)?;
        } else if self.account(body.len() as u64)? != Outgoing::Dropped {
            self.pending.extend_from_slice(body);
        }
        self.finish()
    }

    /// Begins an answer whose body follows with [`Exchange::send`] or [`Exchange::send_file`] and
    /// ends with [`Exchange::finish`]. The fields that frame a message are ours: those in `headers`
    /// are not sent. For `HEAD`, `len` is what a `GET` would have; [`BodyLen::None`] leaves it
    /// unsaid. A client of HTTP/1.0 gets a chunked body until the connection closes.
    ///
    /// # Errors
    /// If an answer has begun already.
    pub fn start(
        &mut self,
        status: u16,
        headers: &Headers,
        len: BodyLen,
    ) -> Result<(), ExchangeError> {
        if self.phase != Phase::Waiting {
            return Err(ExchangeError::Misuse("a second answer"));
        }
        let len = match len {
            BodyLen::Chunked if self.head.version == Version::Http10 => BodyLen::UntilClose,
            len => len,
        };
        let mut writer = HeadWriter::new(status, self.pending);
        writer.fields(headers, &FRAMING);
        let bodiless = self.head.method == Method::Head || has_no_body(status);
        match len {
            // RFC 9110 section 8.6: never with 204; with 304 only the length of the 200.
            _ if status == 204 || (status == 304 && len == BodyLen::Known(0)) => {}
            BodyLen::Known(len) => writer.field("Content-Length", len),
            BodyLen::None if !bodiless => writer.field("Content-Length", 0),
            BodyLen::Chunked => writer.field("Transfer-Encoding", "chunked"),
            BodyLen::None | BodyLen::UntilClose => {}
        }
        let until_close = len == BodyLen::UntilClose && !bodiless;
        // A body that the client was not asked for may come or not: the connection cannot go on.
        self.keep_alive &= !until_close && !self.awaits_continue && !self.stop.is_stopped();
        match (self.keep_alive, self.head.version) {
            (false, _) => writer.field("Connection", "close"),
            (true, Version::Http10) => writer.field("Connection", "keep-alive"),
            (true, Version::Http11) => {}
        }
        if headers.get("date").is_none() {
            writer.field("Date", HttpDate::from(SystemTime::now()));
        }
        writer.end();
        self.conn.reset_on_drop = until_close;
        self.phase = Phase::Sending(match len {
            _ if bodiless => Outgoing::Dropped,
            BodyLen::None => Outgoing::Known(0),
            BodyLen::Known(len) => Outgoing::Known(len),
            BodyLen::Chunked => Outgoing::Chunked,
            BodyLen::UntilClose => Outgoing::UntilClose,
        });
        Ok(())
    }

    /// Sends what comes next of the body. The head goes out with the first bytes.
    ///
    /// # Errors
    /// If the client failed, or these are more bytes than were announced.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), ExchangeError> {
        let framing = self.account(bytes.len() as u64)?;
        if bytes.is_empty() || framing == Outgoing::Dropped {
            return Ok(());
        }
        if framing == Outgoing::Chunked {
            encode_chunk_head(bytes.len() as u64, self.pending);
        }
        self.push(bytes)?;
        if framing == Outgoing::Chunked {
            // Goes out with what follows: there is always something.
            self.pending.extend_from_slice(CHUNK_END);
        }
        Ok(())
    }

    /// Sends `len` bytes of `file` from `offset` on.
    ///
    /// # Errors
    /// As [`Exchange::send`], and if the file cannot be read or is shorter:
    /// [`ExchangeError::Unreadable`], if the length of the body was announced.
    pub fn send_file(&mut self, file: &File, offset: u64, len: u64) -> Result<(), ExchangeError> {
        let framing = self.account(len)?;
        if len == 0 || framing == Outgoing::Dropped {
            return Ok(());
        }
        if framing == Outgoing::Chunked {
            encode_chunk_head(len, self.pending);
        }
        let sent = if self.conn.is_tls() || len < SENDFILE_LEN_MIN {
            Ok(0)
        } else {
            self.send_from_cache(file, offset, len)
        };
        let sent = sent.and_then(|sent| self.send_copied(file, offset + sent, len - sent));
        sent.map_err(|error| self.unreadable(error))?;
        if framing == Outgoing::Chunked {
            self.pending.extend_from_slice(CHUNK_END);
        }
        Ok(())
    }

    /// Counts the bytes that have not left as not sent, if others may be sent in their place.
    fn unreadable(&mut self, error: ExchangeError) -> ExchangeError {
        let ExchangeError::Unreadable { unsent, .. } = &error else { return error };
        match &mut self.phase {
            Phase::Sending(Outgoing::Known(left)) => {
                *left += unsent;
                error
            }
            // A chunk is begun.
            _ => ExchangeError::Cut(error.to_string()),
        }
    }

    /// Sends what is pending and then bytes of `file` without copying them, and says how many: all,
    /// unless the file system cannot do it.
    fn send_from_cache(
        &mut self,
        file: &File,
        offset: u64,
        len: u64,
    ) -> Result<u64, ExchangeError> {
        thread::before_wait();
        self.conn.write_before_more(self.pending).map_err(ExchangeError::Client)?;
        self.pending.clear();
        let mut sent = 0;
        let unreadable = |sent, why| Err(ExchangeError::Unreadable { unsent: len - sent, why });
        while sent < len {
            match self.conn.send_file(file, offset + sent, len - sent) {
                Ok(0) => return unreadable(sent, "it is shorter than it was".to_owned()),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => break,
                Err(error) if is_of_disk(&error) => return unreadable(sent, error.to_string()),
                Err(error) => return Err(ExchangeError::Client(error)),
            }
        }
        Ok(sent)
    }

    /// Sends bytes of `file` through memory: few, or to be encrypted.
    fn send_copied(&mut self, file: &File, offset: u64, len: u64) -> Result<(), ExchangeError> {
        if len == 0 {
            return Ok(());
        }
        if len >= SENDFILE_LEN_MIN {
            thread::before_wait();
        }
        // What is pending stands before the first bytes of the file, in one buffer and one write.
        let mut before = self.pending.len();
        let part_len = usize::try_from(len).unwrap_or(COPY_LEN).min(COPY_LEN);
        self.pending.resize(before + part_len, 0);
        let (mut offset, mut left) = (offset, len);
        while left > 0 {
            let part_len = usize::try_from(left).unwrap_or(COPY_LEN).min(COPY_LEN);
            let end = before + part_len;
            if let Err(error) = file.read_exact_at(&mut self.pending[before..end], offset) {
                self.pending.truncate(before);
                return Err(ExchangeError::Unreadable { unsent: left, why: error.to_string() });
            }
            self.conn.write(&self.pending[..end]).map_err(ExchangeError::Client)?;
            before = 0;
            offset += part_len as u64;
            left -= part_len as u64;
        }
        self.pending.clear();
        Ok(())
    }

    /// Ends the answer.
    ///
    /// # Errors
    /// If the client failed, no answer has begun, or bytes are missing.
    pub fn finish(&mut self) -> Result<(), ExchangeError> {
        match self.phase {
            Phase::Sending(Outgoing::Known(1..)) => {
                return Err(ExchangeError::Misuse("fewer bytes than were announced"));
            }
            Phase::Sending(Outgoing::Chunked) => self.pending.extend_from_slice(LAST_CHUNK),
            Phase::Sending(_) => {}
            _ => return Err(ExchangeError::Misuse("an end without a beginning")),
        }
        if !self.keep_alive && self.has_heard_all() {
            // The close is next: the kernel sends it in one packet with what it follows.
            self.conn.write_before_more(self.pending).map_err(ExchangeError::Client)?;
            self.pending.clear();
        } else {
            self.flush()?;
        }
        self.conn.reset_on_drop = false;
        self.phase = Phase::Finished;
        Ok(())
    }

    /// Answers `CONNECT`: says 200 and carries bytes between the client and `upstream` until both
    /// have ended, or nothing moved for `idle`. The connection is over then.
    ///
    /// # Errors
    /// If the 200 cannot be sent, an answer has begun, or there is no thread for the way back.
    pub fn tunnel(&mut self, upstream: TcpStream, idle: Duration) -> Result<Moved, ExchangeError> {
        if self.phase != Phase::Waiting || self.head.method != Method::Connect {
            return Err(ExchangeError::Misuse("a tunnel that was not asked for"));
        }
        self.phase = Phase::Tunnelled;
        thread::before_wait();
        HeadWriter::new(200, self.pending).end();
        self.flush()?;
        tunnel::run(self.conn, upstream, idle, self.stop)
            .map_err(|error| ExchangeError::Cut(format!("the tunnel failed: {error}")))
    }

    /// Counts bytes of the body before they are sent.
    fn account(&mut self, len: u64) -> Result<Outgoing, ExchangeError> {
        let Phase::Sending(framing) = &mut self.phase else {
            return Err(ExchangeError::Misuse("a body without a head"));
        };
        if let Outgoing::Known(left) = framing {
            *left = left
                .checked_sub(len)
                .ok_or(ExchangeError::Misuse("more bytes than were announced"))?;
        }
        Ok(*framing)
    }

    /// Sends `bytes` after what is pending, as much as fits in the same write.
    fn push(&mut self, bytes: &[u8]) -> Result<(), ExchangeError> {
        let mut rest = bytes;
        if !self.pending.is_empty() {
            let room = COPY_LEN.saturating_sub(self.pending.len()).min(bytes.len());
            let (first, others) = bytes.split_at(room);
            self.pending.extend_from_slice(first);
            self.flush()?;
            rest = others;
        }
        self.conn.write(rest).map_err(ExchangeError::Client)
    }

    fn flush(&mut self) -> Result<(), ExchangeError> {
        let result = self.conn.write(self.pending).map_err(ExchangeError::Client);
        self.pending.clear();
        result
    }

    /// What becomes of the connection after the handler came back with `result`.
    pub(super) fn end(mut self, result: Result<(), ExchangeError>) -> Next {
        if let Err(error) = &result {
            match error {
                ExchangeError::Client(error) => {
                    log_limited!(debug, "answer to {} lost: {error}", self.conn.peer);
                }
                ExchangeError::Cut(_) | ExchangeError::Unreadable { .. } => {
                    log_limited!(warn, "answer to {} failed: {error}", self.conn.peer);
                }
                ExchangeError::Misuse(why) => {
                    log_limited!(error, "wrong use of an exchange: {why}");
                }
            }
        }
        match (self.phase, result) {
            (Phase::Tunnelled, _) | (_, Err(ExchangeError::Client(_))) => Next::Gone,
            (Phase::Sending(_), _) => Next::Cut,
            (Phase::Waiting, result) => {
                if result.is_ok() {
                    log_limited!(error, "a handler gave no answer");
                }
                self.keep_alive = false;
                match self.respond(500, &Headers::new(), b"") {
                    Ok(()) => Next::Close,
                    Err(_) => Next::Gone,
                }
            }
            (Phase::Finished, _) if self.keep_alive && self.drain() => Next::Request,
            (Phase::Finished, _) if self.has_heard_all() => Next::Gone,
            (Phase::Finished, _) => Next::Close,
        }
    }

    /// Whether the client has said that it sends no more, and what it sent was read: then there is
    /// nothing to wait for before the connection is closed (RFC 9112 section 9.6). TLS has an end
    /// of its own.
    fn has_heard_all(&self) -> bool {
        let is_read = matches!(self.incoming, Incoming::Known(0)) && self.conn.input().is_empty();
        is_read && !self.head.keeps_alive() && !self.conn.is_tls() && !self.conn.reset_on_drop
    }

    /// Reads what the handler left of the body; `false`: it is too long or does not come.
    fn drain(&mut self) -> bool {
        match self.incoming {
            Incoming::Known(0) => return true,
            Incoming::Known(left) if left > HTTP_DRAIN_LEN_MAX => return false,
            _ => {}
        }
        thread::before_wait();
        let deadline = Time::now() + HTTP_LINGER;
        let mut drained = 0;
        let mut buf = [0; 4096];
        let whole = loop {
            let patience = deadline.until(Time::now());
            if patience.is_zero() || self.conn.set_read_patience(patience).is_err() {
                break false;
            }
            match self.read_body(&mut buf) {
                Ok(0) => break true,
                Ok(len) => drained += len as u64,
                Err(_) => break false,
            }
            if drained > HTTP_DRAIN_LEN_MAX {
                break false;
            }
        };
        whole && self.conn.set_read_patience(HTTP_READ).is_ok()
    }

    fn read_body(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let result = self.read_incoming(buf);
        if result.is_err() {
            self.incoming = Incoming::Broken;
            self.keep_alive = false;
        }
        result
    }

    fn read_incoming(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = match &mut self.incoming {
            Incoming::Known(left) => *left,
            Incoming::Broken => return Err(io::ErrorKind::InvalidData.into()),
            Incoming::Chunked(decoder) => loop {
                match decoder.step(self.conn.input()) {
                    Ok(Some(ChunkStep::Framing(len))) => self.conn.consume(len),
                    Ok(Some(ChunkStep::Data(left))) => break left,
                    Ok(Some(ChunkStep::End)) => break 0,
                    Ok(None) if self.conn.fill()? == Filled::Some => {}
                    Ok(None) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidData, error)),
                }
            },
        };
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        if len == 0 {
            return Ok(0);
        }
        let len = self.conn.read(&mut buf[..len])?;
        match &mut self.incoming {
            _ if len == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Incoming::Known(left) => *left -= len as u64,
            Incoming::Chunked(decoder) => decoder.took(len as u64),
            Incoming::Broken => {}
        }
        Ok(len)
    }
}

/// The body of a request: see [`Exchange::body`].
pub struct RequestBody<'e, 'c>(&'e mut Exchange<'c>);

impl Read for RequestBody<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let exchange = &mut *self.0;
        thread::before_wait();
        if std::mem::take(&mut exchange.awaits_continue) {
            // RFC 9110 section 10.1.1: unnecessary when the body is here or the answer has begun.
            if exchange.phase == Phase::Waiting && exchange.conn.input().is_empty() {
                exchange.conn.write(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            }
        }
        exchange.read_body(buf)
    }
}

/// Whether `sendfile` failed at the file, not at the client: what file systems say of bytes that
/// the disk does not give, or gives with a wrong checksum.
fn is_of_disk(error: &io::Error) -> bool {
    let errors = [libc::EIO, libc::EUCLEAN, libc::EBADMSG, libc::ENODATA, libc::ESTALE];
    error.raw_os_error().is_some_and(|error| errors.contains(&error))
}
