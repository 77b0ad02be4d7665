//! Connections that wait for their client, and the thread that ends the wait of the late ones. It
//! also accepts where the keeper of the watch cannot.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::figures;
use crate::net::serve::conn::{Conn, Stage};
use crate::net::serve::{Shared, State, accept};

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
        if is_next {
            self.sooner.wake_one();
        }
        let fd = socket.as_raw_fd();
        let armed = if watched { self.epoll.rearm(fd, id) } else { self.epoll.add(fd, id) };
        if let Err(error) = armed {
            log::warn!("a connection cannot be watched: {error}");
            drop(self.unpark(id));
        }
    }

    /// Takes a connection that was reported; `None`: it was late, and is gone.
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

    /// The body of the parking thread: ends the wait of those past their deadline.
    pub(super) fn watch_deadlines(self: &Arc<Shared>) {
        let mut reserve = accept::spare();
        loop {
            let mut state = self.state.lock();
            if self.stop.is_stopped() {
                return;
            }
            let now = Time::now();
            if state.accepts_at.take_if(|at| *at <= now).is_some() {
                drop(state);
                self.accept_instead(&mut reserve);
                continue;
            }
            let next = state.deadlines.first().copied();
            let Some((deadline, id)) = next.filter(|(deadline, _)| *deadline <= now) else {
                let until = next.map_or(now + NEVER, |(deadline, _)| deadline);
                let until = state.accepts_at.map_or(until, |at| until.min(at));
                state.looks_at = until;
                drop(self.sooner.wait_until(state, until));
                continue;
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
    pub(super) fn unpark(&mut self, id: u64) -> Option<Conn> {
        let conn = self.parked.remove(&id)?;
        self.deadlines.remove(&(conn.deadline, id));
        Some(conn)
    }
}
