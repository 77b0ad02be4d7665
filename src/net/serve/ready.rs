//! Connections that can be read and wait for a worker, and who has the workers.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use crate::net::serve::conn::Conn;

/// Addresses take turns. One takes a worker only while it has fewer than are free: alone it gets
/// half of them, two get a third each, and there is always one left for somebody new.
pub(super) struct Ready {
    workers_max: usize,
    /// No queue is empty.
    waiting: HashMap<IpAddr, VecDeque<Conn>>,
    /// The addresses of `waiting`, each once.
    turns: VecDeque<IpAddr>,
    /// Workers that serve each address; none is zero.
    serving: HashMap<IpAddr, usize>,
    busy: usize,
}

impl Ready {
    /// Nobody waits.
    pub fn new(workers_max: usize) -> Ready {
        let (waiting, turns, serving) = Default::default();
        Ready { workers_max, waiting, turns, serving, busy: 0 }
    }

    /// Takes out all that waits.
    pub fn clear(&mut self) -> HashMap<IpAddr, VecDeque<Conn>> {
        self.turns.clear();
        std::mem::take(&mut self.waiting)
    }

    /// Lets a connection wait for a worker.
    pub fn push(&mut self, conn: Conn) {
        let address = conn.address();
        let queue = self.waiting.entry(address).or_default();
        if queue.is_empty() {
            self.turns.push_back(address);
        }
        queue.push_back(conn);
    }

    /// Whose turn it is among those that may have a worker: an index of `turns`.
    pub fn turn(&self) -> Option<usize> {
        self.turns.iter().position(|address| self.may(*address))
    }

    fn may(&self, address: IpAddr) -> bool {
        let free = self.workers_max.saturating_sub(self.busy);
        self.serving.get(&address).copied().unwrap_or(0) < free
    }

    fn count(&mut self, address: IpAddr) {
        *self.serving.entry(address).or_default() += 1;
        self.busy += 1;
    }

    /// Gives a connection to a worker, which calls [`Ready::done`] when it is through with it.
    pub fn take(&mut self) -> Option<Conn> {
        let address = self.turns.remove(self.turn()?)?;
        let queue = self.waiting.get_mut(&address)?;
        let conn = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&address);
        } else {
            self.turns.push_back(address);
        }
        self.count(address);
        conn
    }

    /// A worker is through with a connection of this address.
    pub fn done(&mut self, address: IpAddr) {
        self.busy -= 1;
        if let Some(count) = self.serving.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.serving.remove(&address);
            }
        }
    }
}
