//! Accepting. The keeper of the watch does it, so that one thread takes a connection in, reads the
//! request that came with it, and answers. The parking thread does, now and then, while no worker
//! is free for the watch or the system has refused. Nothing but a stop ends it.

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::figures;
use crate::log_limited;
use crate::net::serve::conn::Filled;
use crate::net::serve::{LISTENER, Shared};

/// How long to wait when the system has no descriptor or memory left, or no worker is free.
const PAUSE: Duration = Duration::from_millis(50);
/// Connections that are taken in before those who came with a request are answered.
const BATCH: usize = 64;

impl Shared {
    /// Takes in those who have connected.
    pub(super) fn accept(self: &Arc<Shared>) {
        for _ in 0..BATCH {
            match self.listener.accept() {
                Ok((socket, peer)) => self.take_in(socket, peer),
                Err(_) if self.stop.is_stopped() => return,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return,
                    // The client was gone before it was accepted.
                    Some(libc::ECONNABORTED | libc::EPROTO | libc::EINTR) => {}
                    Some(libc::EMFILE | libc::ENFILE) => {
                        log_limited!(warn, "no descriptor left for connections: {error}");
                        // The connection closest to its deadline makes room for the new one.
                        if !self.evict() {
                            return self.pause();
                        }
                    }
                    _ => {
                        log_limited!(warn, "a connection cannot be accepted: {error}");
                        return self.pause();
                    }
                },
            }
        }
    }

    /// Lets a new connection wait for a worker if its request is there already, or else be parked.
    fn take_in(self: &Arc<Shared>, socket: TcpStream, peer: SocketAddr) {
        let Some(mut conn) = self.admit(socket, peer) else {
            return log_limited!(warn, "connection of {peer} refused: too many");
        };
        match conn.fill_now() {
            Ok(Some(Filled::Some)) => self.make_ready(conn),
            Ok(Some(Filled::End)) => {}
            Ok(None) => self.park(conn),
            Err(error) => log_limited!(debug, "connection of {peer} failed: {error}"),
        }
    }

    /// Leaves those who connect alone for a while.
    fn pause(&self) {
        // It is in the set: this cannot fail.
        let _ = self.epoll.remove(self.listener.as_raw_fd());
        self.accept_later();
    }

    /// Lets the parking thread accept after a while.
    pub(super) fn accept_later(&self) {
        let at = Time::now() + PAUSE;
        let mut state = self.state.lock();
        let at = *state.accepts_at.get_or_insert(at);
        let is_next = at < state.looks_at;
        drop(state);
        if is_next {
            self.sooner.wake_one();
        }
    }

    /// Lets the keeper of the watch know when somebody connects.
    ///
    /// # Errors
    /// If the system refuses.
    pub(super) fn watch_listener(&self) -> io::Result<()> {
        match self.epoll.add_lasting(self.listener.as_raw_fd(), LISTENER) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
            added => added,
        }
    }

    /// What the parking thread does in the keeper's place. `reserve`: see [`spare`].
    pub(super) fn accept_instead(self: &Arc<Shared>, reserve: &mut Option<File>) {
        self.shed(reserve);
        if let Err(error) = self.watch_listener() {
            log_limited!(warn, "nobody is told of new connections: {error}");
            self.accept_later();
        }
        self.accept();
        self.waker.wake();
        if self.state.lock().workers_idle == 0 {
            self.accept_later();
        }
    }

    /// Uses the spare descriptor to accept the next client. Without another spare it is closed, so
    /// that it learns now, and not after a timeout, that it is not served.
    fn shed(self: &Arc<Shared>, reserve: &mut Option<File>) {
        if reserve.take().is_some()
            && let Ok((socket, peer)) = self.listener.accept()
        {
            *reserve = spare();
            if reserve.is_some() {
                return self.take_in(socket, peer);
            }
            figures::HTTP_REFUSED_FULL.add(1);
        }
        *reserve = spare();
    }
}

/// A descriptor that is given up when there is no other.
pub(super) fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}
