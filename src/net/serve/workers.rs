//! The workers: threads that wait for connections that can be read, and serve whole requests.
//!
//! All wait in one `epoll`, so that a request wakes the thread that serves it and no other.

use std::io;
use std::net::{IpAddr, Shutdown};
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::thread::{self, Role};
use crate::limits;
use crate::log_limited;
use crate::net::serve::Shared;
use crate::net::serve::conn::{Conn, Filled, Stage};
use crate::net::serve::exchange::{Exchange, Next};
use crate::proto::http1::{HeadError, Headers, RequestHead, ResponseHead};

/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// The token of the waker; connections count from 1.
const WAKER: u64 = 0;
/// Workers that wait for work and stay: one to take it, one to wait while that is busy.
const SPARE: usize = 2;

impl Shared {
    /// Gives a connection to a worker, though there is nothing to read.
    pub(super) fn submit(&self, conn: Conn) {
        let mut state = self.state.lock();
        if self.stop.is_stopped() {
            drop(state);
            return;
        }
        state.ready.push(conn);
        drop(state);
        self.waker.wake();
    }

    /// Starts a worker and forgets those that ended.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn add_worker(self: &Arc<Shared>) -> io::Result<()> {
        self.state.lock().workers += 1;
        let shared = Arc::clone(self);
        let spawned =
            thread::spawn(format!("{}-worker", self.name), Role::Core, move || shared.work());
        let mut state = self.state.lock();
        let handle = match spawned {
            Ok(handle) => handle,
            Err(error) => {
                state.workers -= 1;
                return Err(error);
            }
        };
        let threads = &mut state.worker_threads;
        let ended: Vec<_> = threads.extract_if(.., |thread| thread.is_finished()).collect();
        threads.push(handle);
        drop(state);
        for thread in ended {
            thread.join();
        }
        Ok(())
    }

    /// The body of a worker.
    fn work(self: &Arc<Shared>) {
        let mut scratch = Vec::new();
        let mut served = None;
        while let Some(conn) = self.next_ready(served) {
            served = Some(conn.address());
            let _busy = figures::HTTP_WORKERS_BUSY.hold();
            scratch.clear();
            thread::contain(|| self.serve(conn, &mut scratch));
        }
    }

    /// Waits for work and sees to it that somebody else waits from then on. `None`: the worker is
    /// not needed any more, and is not counted any more. `served`: whom it has just served.
    fn next_ready(self: &Arc<Shared>, served: Option<IpAddr>) -> Option<Conn> {
        let _idle = figures::HTTP_WORKERS_IDLE.hold();
        let until = Time::now() + limits::HTTP_WORKER_IDLE;
        let mut state = self.state.lock();
        state.workers_idle += 1;
        if let Some(address) = served {
            state.ready.done(address);
        }
        let mut conn = state.ready.take();
        loop {
            if conn.is_some() {
                state.workers_idle -= 1;
                let grow = state.workers_idle == 0 && state.workers < self.workers_max;
                let more = state.ready.turn().is_some();
                drop(state);
                if more {
                    self.waker.wake();
                }
                if grow && let Err(error) = self.add_worker() {
                    log_limited!(warn, "requests wait, there is no thread for them: {error}");
                }
                return conn;
            }
            let is_spare = state.workers_idle > SPARE && Time::now() >= until;
            if self.stop.is_stopped() || is_spare {
                state.workers_idle -= 1;
                state.workers -= 1;
                self.ended.wake_all();
                return None;
            }
            drop(state);
            let report = match self.epoll.wait(limits::HTTP_WORKER_IDLE) {
                Ok(report) => report,
                Err(error) => panic!("a worker cannot wait: {error}"),
            };
            if report == Some(WAKER) {
                self.clear_waker();
            }
            state = self.state.lock();
            let reported = report.and_then(|id| state.unpark(id));
            conn = match reported {
                Some(conn) => state.ready.exchange(conn),
                None => state.ready.take(),
            };
        }
    }

    /// Lets the next call wake a worker again; in a stop passes the report on.
    fn clear_waker(&self) {
        if !self.stop.is_stopped() {
            self.waker.clear();
        }
        // One-shot like the others; it is in the set, so this cannot fail.
        let _ = self.epoll.rearm(self.waker.fd(), WAKER);
    }

    /// Lets workers be woken for what is submitted, and for a stop.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn watch_waker(&self) -> io::Result<()> {
        self.epoll.add(self.waker.fd(), WAKER)
    }

    /// Reads once, which does not block since the connection was reported, and goes as far as that
    /// allows.
    fn serve(self: &Arc<Shared>, mut conn: Conn, scratch: &mut Vec<u8>) {
        if conn.stage == Stage::Late {
            return self.refuse(conn, 408, "the request did not come in time");
        }
        match conn.fill() {
            Ok(Filled::Some) => {}
            Ok(Filled::End) => return,
            Err(error) => return note_failure(&conn, &error),
        }
        if conn.stage == Stage::Ending {
            return self.await_end(conn);
        }
        if conn.is_new {
            conn.is_new = false;
            self.await_head(&mut conn);
            let first = conn.input().first().copied();
            match (&self.tls, first == Some(TLS_HANDSHAKE)) {
                (Some(tls), true) => {
                    if let Err(error) = conn.start_tls(Arc::clone(tls)) {
                        return note_failure(&conn, &error);
                    }
                }
                // Clients that try TLS first go on in plain text as soon as they see this.
                (None, true) => return self.refuse_tls(conn),
                (_, false) if !self.plain => return self.refuse(conn, 400, "this port speaks TLS"),
                (_, false) => {}
            }
        }
        if conn.stage == Stage::Head && conn.input().is_empty() && !conn.is_handshaking() {
            self.await_request(&mut conn);
        }
        self.serve_requests(conn, scratch);
    }

    /// Serves the requests that are here: those that a client sent without waiting for answers come
    /// one after the other.
    fn serve_requests(self: &Arc<Shared>, mut conn: Conn, scratch: &mut Vec<u8>) {
        while !conn.input().is_empty() {
            let (head, used) = match RequestHead::decode(conn.input()) {
                Ok(Some(decoded)) => decoded,
                Ok(None) => {
                    if conn.stage == Stage::Idle {
                        self.await_head(&mut conn);
                    }
                    break;
                }
                Err(error) => return self.refuse_head(conn, &error),
            };
            conn.consume(used);
            let body = match head.framing() {
                Ok(body) => body,
                Err(error) => return self.refuse_head(conn, &error),
            };
            let mut exchange = Exchange::new(&mut conn, head, body, scratch, &self.stop);
            let result = self.handler.handle(&mut exchange);
            match exchange.end(result) {
                Next::Request => self.await_request(&mut conn),
                Next::Close => return self.linger(conn),
                Next::Cut if conn.reset_on_drop => return,
                Next::Cut => {
                    // The client has a length or waits for a last chunk, so the end is seen as a
                    // cut.
                    let _ = conn.socket.shutdown(Shutdown::Write);
                    return self.await_end(conn);
                }
                Next::Gone => return,
            }
        }
        self.park(conn);
    }

    fn await_head(&self, conn: &mut Conn) {
        conn.stage = Stage::Head;
        conn.deadline = Time::now() + self.head;
    }

    fn await_request(&self, conn: &mut Conn) {
        conn.stage = Stage::Idle;
        conn.deadline = Time::now() + self.idle;
    }

    /// Says that there is no more to come, and closes when the client has closed.
    fn linger(&self, mut conn: Conn) {
        conn.finish();
        self.await_end(conn);
    }

    /// A connection closed with bytes unread is reset by the kernel, and the reset may overtake the
    /// answer (RFC 9112 section 9.6): what the client still sends is dropped for a while.
    fn await_end(&self, mut conn: Conn) {
        if conn.stage != Stage::Ending {
            conn.stage = Stage::Ending;
            conn.deadline = Time::now() + limits::HTTP_LINGER;
        }
        conn.dropped += conn.input().len();
        conn.consume(conn.input().len());
        if conn.dropped <= limits::HTTP_LINGER_LEN_MAX {
            self.park(conn);
        }
    }

    fn refuse_head(&self, conn: Conn, error: &HeadError) {
        figures::HTTP_REFUSED_MALFORMED.add(1);
        log_limited!(debug, "bad request of {}: {error}", conn.peer);
        self.refuse(conn, error.status(), &error.to_string());
    }

    /// Answers without a handler, for the last time.
    fn refuse(&self, mut conn: Conn, status: u16, why: &str) {
        if conn.is_handshaking() {
            return;
        }
        let body = format!("{why}\n");
        let mut headers = Headers::new();
        headers.append("Content-Type", "text/plain");
        headers.append("Content-Length", body.len().to_string());
        headers.append("Connection", "close");
        let mut answer = Vec::new();
        ResponseHead::new(status, headers).encode(&mut answer);
        answer.extend_from_slice(body.as_bytes());
        match conn.write(&answer) {
            Ok(()) => self.linger(conn),
            Err(error) => note_failure(&conn, &error),
        }
    }

    fn refuse_tls(&self, mut conn: Conn) {
        if conn.write(b"HTTP/1.0 400 Bad Request\r\n\r\n").is_ok() {
            self.linger(conn);
        }
    }
}

fn note_failure(conn: &Conn, error: &io::Error) {
    if error.kind() == io::ErrorKind::InvalidData {
        figures::HTTP_REFUSED_MALFORMED.add(1);
    }
    log_limited!(debug, "connection of {} failed: {error}", conn.peer);
}
