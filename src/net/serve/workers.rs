//! The workers: threads that serve whole requests of connections that can be read.
//!
//! One of them keeps the [`Watch`](super::watch::Watch): it waits in the `epoll`, and serves what
//! that reports. The others are busy with requests that take long, or rest.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Shutdown};
use std::rc::Rc;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::ranked;
use crate::base::thread::{self, Role};
use crate::limits;
use crate::log_limited;
use crate::net::serve::conn::{Conn, Filled, Stage};
use crate::net::serve::exchange::{Exchange, Next};
use crate::net::serve::watch::{Rest, Ticket};
use crate::net::serve::{LISTENER, Shared, State, WAKER};
use crate::proto::http1::{HeadError, HeadWriter, RequestHead};

/// The first byte of a TLS handshake record (RFC 8446 section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// Workers without work that stay: one that keeps the watch, one to take it.
const SPARE: usize = 2;

/// Who sees to it that a keeper of the watch who stays away is relieved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// Nobody has to.
    None,
    /// A resting worker was woken for it.
    Called,
    /// A resting worker looks again soon.
    Set,
}

impl Shared {
    /// Gives a connection to a worker, though there is nothing to read.
    pub(super) fn submit(&self, conn: Conn) {
        self.make_ready(conn);
        self.waker.wake();
    }

    /// Lets a connection wait for a worker; whoever keeps the watch looks for it.
    pub(super) fn make_ready(&self, conn: Conn) {
        let mut state = self.state.lock();
        if self.stop.is_stopped() {
            drop(state);
            return;
        }
        state.ready.push(conn);
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
        let ticket = Rc::new(Cell::new(None));
        let (shared, kept_with) = (Arc::clone(self), Rc::clone(&ticket));
        thread::on_wait(move || shared.hand_over(kept_with.take()));
        let mut scratch = Vec::new();
        let mut served = None;
        while let Some(conn) = self.next_ready(&ticket, served) {
            served = Some(conn.address());
            let _busy = figures::HTTP_WORKERS_BUSY.hold();
            scratch.clear();
            thread::contain(|| self.serve(conn, &mut scratch));
        }
    }

    /// Waits for work and sees to it that somebody else watches if it takes long. `None`: the
    /// worker is not needed any more, and is not counted any more. `ticket`: with which it keeps
    /// the watch, if it does. `served`: whom it has just served.
    fn next_ready(
        self: &Arc<Shared>,
        ticket: &Cell<Option<Ticket>>,
        served: Option<IpAddr>,
    ) -> Option<Conn> {
        let _idle = figures::HTTP_WORKERS_IDLE.hold();
        let mut rest = None;
        // Who comes from work can as well go on with what waits.
        let mut is_awake = served.is_some();
        let mut state = self.state.lock();
        state.workers_idle += 1;
        if let Some(address) = served {
            state.ready.done(address);
        }
        loop {
            if !state.watch.is_kept_with(ticket.get()) {
                ticket.set(state.watch.take(Time::now()));
            }
            let is_keeper = ticket.get().is_some();
            let conn = if is_keeper || is_awake { state.ready.take() } else { None };
            if conn.is_some() {
                self.start_serving(state, is_keeper);
                return conn;
            }
            is_awake = false;
            let now = Time::now();
            let rest = rest.get_or_insert_with(|| Rest::from(now));
            let is_spare = rest.is_over(now) && !is_keeper && state.workers_idle > SPARE;
            if self.stop.is_stopped() || is_spare {
                state.workers_idle -= 1;
                state.workers -= 1;
                self.ended.wake_all();
                return None;
            }
            state = if is_keeper { self.look(state) } else { self.rest(state, rest.until()) };
        }
    }

    /// Counts a worker that serves now, and lets somebody stand by in its place.
    fn start_serving(self: &Arc<Shared>, mut state: ranked::Guard<'_, State>, is_keeper: bool) {
        state.workers_idle -= 1;
        let is_last = state.workers_idle == 0;
        let grow = is_last && state.workers < self.workers_max;
        let unguarded = is_keeper && state.workers_idle > 0 && state.guard == Guard::None;
        if unguarded {
            state.guard = Guard::Called;
        }
        // The keeper takes what else waits, if it is not looking elsewhere.
        let more = state.watch.due_at().is_none() && state.ready.turn().is_some();
        drop(state);
        if unguarded {
            self.relief.wake_one();
        }
        if more {
            self.waker.wake();
        }
        let grown = grow.then(|| self.add_worker());
        if let Some(Err(error)) = &grown {
            log_limited!(warn, "requests wait, there is no thread for them: {error}");
        }
        if is_last && !matches!(grown, Some(Ok(()))) {
            self.accept_later();
        }
    }

    /// What the keeper of the watch does: waits for reports.
    fn look<'a>(
        self: &'a Arc<Shared>,
        mut state: ranked::Guard<'a, State>,
    ) -> ranked::Guard<'a, State> {
        state.watch.look();
        drop(state);
        let reports = match self.epoll.wait(limits::HTTP_WORKER_IDLE) {
            Ok(reports) => reports,
            Err(error) => panic!("a worker cannot wait: {error}"),
        };
        let (mut is_woken, mut is_called) = (false, false);
        let mut state = self.state.lock();
        for id in reports {
            match id {
                WAKER => is_woken = true,
                LISTENER => is_called = true,
                id => state.unpark(id).into_iter().for_each(|conn| state.ready.push(conn)),
            }
        }
        if is_woken || is_called {
            drop(state);
            if is_woken {
                self.clear_waker();
            }
            if is_called {
                self.accept();
            }
            state = self.state.lock();
        }
        state.watch.looked(Time::now());
        state
    }

    /// What the others do: wait for the watch, one of them as its guard.
    fn rest<'a>(
        &'a self,
        mut state: ranked::Guard<'a, State>,
        until: Time,
    ) -> ranked::Guard<'a, State> {
        match state.watch.due_at() {
            Some(due_at) if state.guard != Guard::Set => {
                state.guard = Guard::Set;
                state = self.relief.wait_until(state, due_at);
                state.guard = Guard::None;
                state
            }
            due_at => {
                if due_at.is_none() && state.guard == Guard::Called {
                    state.guard = Guard::None;
                }
                self.relief.wait_until(state, until)
            }
        }
    }

    /// Gives the watch, if it is kept with this ticket, to a worker that rests, or else to the
    /// first that has done its work.
    fn hand_over(&self, ticket: Option<Ticket>) {
        if ticket.is_some_and(|ticket| self.state.lock().watch.give_up(ticket)) {
            self.relief.wake_one();
        }
    }

    /// Lets the next call wake the keeper again.
    fn clear_waker(&self) {
        self.waker.clear();
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
        // What came with a connection was read when that was taken in.
        let is_filled = conn.is_new && !conn.input().is_empty();
        match if is_filled { Ok(Filled::Some) } else { conn.fill() } {
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
        let mut answer = Vec::new();
        let mut head = HeadWriter::new(status, &mut answer);
        head.field("Content-Type", "text/plain");
        head.field("Content-Length", body.len());
        head.field("Connection", "close");
        head.end();
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
