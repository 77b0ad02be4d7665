//! The parking thread: connections that wait for their client.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::figures;
use crate::net::serve::conn::{Conn, Stage};
use crate::net::serve::{Shared, State};

/// The token of the waker; connections count from 1.
const WAKER: u64 = 0;
/// When there is no deadline to look at.
const NEVER: Duration = Duration::from_secs(3600);

impl Shared {
    /// Lets a connection wait for bytes of its client until its deadline. Called by whoever has it.
    pub(super) fn park(&self, mut conn: Conn) {
        conn.shrink();
        let (id, deadline) = (conn.id(), conn.deadline);
        // Keeps the descriptor open, and so its number ours, until it is watched.
        let socket = Arc::clone(&conn.socket);
        let watched = std::mem::replace(&mut conn.is_watched, true);
        let mut state = self.state.lock();
        if self.stop.is_stopped() {
            drop(state);
            return;
        }
        state.deadlines.insert((deadline, id));
        state.parked.insert(id, conn);
        let is_next = deadline < state.looks_at;
        drop(state);
        let fd = socket.as_raw_fd();
        let armed = if watched { self.epoll.rearm(fd, id) } else { self.epoll.add(fd, id) };
        if let Err(error) = armed {
            log::warn!("a connection cannot be watched: {error}");
            drop(self.unpark(id));
        }
        if is_next {
            self.waker.wake();
        }
    }

    fn unpark(&self, id: u64) -> Option<Conn> {
        self.state.lock().unpark(id)
    }

    /// Closes the parked connection closest to its deadline; `false`: none is parked.
    pub(super) fn evict(&self) -> bool {
        let mut state = self.state.lock();
        let first = state.deadlines.first().copied();
        let conn = first.and_then(|(_, id)| state.unpark(id));
        drop(state);
        if conn.is_some() {
            figures::HTTP_REFUSED_FULL.add(1);
        }
        conn.is_some()
    }

    /// The body of the parking thread.
    pub(super) fn run(self: &Arc<Shared>) {
        if let Err(error) = self.epoll.add(self.waker.fd(), WAKER) {
            panic!("the parking thread cannot be woken: {error}");
        }
        let mut tokens = Vec::new();
        while !self.stop.is_stopped() {
            let patience = self.close_late(Time::now());
            tokens.clear();
            if let Err(error) = self.epoll.wait(Some(patience), &mut tokens) {
                panic!("the parking thread cannot wait: {error}");
            }
            for &token in &tokens {
                if token == WAKER {
                    self.waker.clear();
                    // One-shot like the others; it is in the set, so this cannot fail.
                    let _ = self.epoll.rearm(self.waker.fd(), WAKER);
                } else if let Some(conn) = self.unpark(token) {
                    self.submit(conn);
                }
            }
        }
    }

    /// Ends the wait of those past their deadline, and says how long until the next.
    fn close_late(self: &Arc<Shared>, now: Time) -> Duration {
        loop {
            let mut state = self.state.lock();
            let next = state.deadlines.first().copied();
            let Some((deadline, id)) = next.filter(|(deadline, _)| *deadline <= now) else {
                state.looks_at = next.map_or(now + NEVER, |(deadline, _)| deadline);
                return state.looks_at.until(now);
            };
            let late = state.unpark(id);
            drop(state);
            debug_assert!(late.is_some(), "{deadline} is of a parked connection");
            if let Some(mut conn) = late.filter(|conn| conn.stage == Stage::Head) {
                conn.stage = Stage::Late;
                figures::HTTP_REFUSED_SLOW.add(1);
                self.submit(conn);
            }
        }
    }
}

impl State {
    fn unpark(&mut self, id: u64) -> Option<Conn> {
        let conn = self.parked.remove(&id)?;
        self.deadlines.remove(&(conn.deadline, id));
        Some(conn)
    }
}
