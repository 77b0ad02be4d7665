//! The bytes of blocks that wait for the engine in its inbox.
//!
//! The inbox counts events, and a block may have 1 MiB. At [`INBOX_BYTES_MAX`] the readers wait as
//! they do for a full inbox, each with the block that it has just read.

use std::sync::Arc;

use crate::base::ranked::{Rank, Ranked, Signal};
use crate::limits::INBOX_BYTES_MAX;

/// Clones count together.
#[derive(Clone, Debug)]
pub(super) struct Waiting(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Ranked<State>,
    /// There is room again, or nobody takes anything.
    changed: Signal,
}

#[derive(Debug, Default)]
struct State {
    bytes: u64,
    /// Threads that wait for room.
    readers: usize,
    closed: bool,
}

/// One block that waits; dropped when the engine has taken it, or will not.
#[derive(Debug)]
pub(super) struct Ticket {
    len: u64,
    shared: Arc<Shared>,
}

impl Waiting {
    pub(super) fn new() -> Waiting {
        let state = Ranked::new(Rank::Leaf, State::default());
        Waiting(Arc::new(Shared { state, changed: Signal::new() }))
    }

    /// Waits until there is room for a block of `len` bytes; for one alone there always is.
    pub(super) fn enter(&self, len: u32) -> Ticket {
        let len = u64::from(len);
        let mut state = self.0.state.lock();
        while state.bytes > 0 && state.bytes + len > INBOX_BYTES_MAX && !state.closed {
            state.readers += 1;
            state = self.0.changed.wait(state);
            state.readers -= 1;
        }
        state.bytes += len;
        Ticket { len, shared: Arc::clone(&self.0) }
    }

    /// The engine has ended: nobody waits any more.
    pub(super) fn close(&self) {
        self.0.state.lock().closed = true;
        self.0.changed.wake_all();
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        state.bytes -= self.len;
        let wake = state.readers > 0;
        drop(state);
        if wake {
            self.shared.changed.wake_all();
        }
    }
}

#[cfg(test)]
impl Waiting {
    /// Waits until a reader waits.
    pub(super) fn until_full(&self) {
        while self.0.state.lock().readers == 0 {
            std::thread::yield_now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BLOCK_LEN_MAX;

    #[test]
    fn who_finds_it_full_waits_until_a_block_was_taken() {
        let waiting = Waiting::new();
        let most = INBOX_BYTES_MAX / u64::from(BLOCK_LEN_MAX);
        let mut tickets: Vec<Ticket> = (0..most).map(|_| waiting.enter(BLOCK_LEN_MAX)).collect();
        std::thread::scope(|scope| {
            let late = scope.spawn(|| waiting.enter(1));
            waiting.until_full();
            tickets.pop();
            tickets.push(late.join().expect("there is room"));
            let last = scope.spawn(|| waiting.enter(BLOCK_LEN_MAX));
            waiting.until_full();
            waiting.close();
            drop(last.join().expect("it waits for nothing"));
        });
        drop(tickets);
        assert_eq!(waiting.0.state.lock().bytes, 0);
    }
}
