//! How many answers a peer is owed: its requests that were read and not answered yet.
//!
//! At [`PEER_REQUESTS_MAX`] its reader waits, and TCP holds the peer back. So a peer may ask for
//! thousands of blocks at once, whatever it was told of us (`reqq` of BEP 10): all are served, and
//! what waits here is bounded. Of peers that keep to it, none is ever held back.

use crate::base::ranked::{Rank, Ranked, Signal};
use crate::limits::PEER_REQUESTS_MAX;

/// The answers that one link owes its peer.
#[derive(Debug)]
pub(super) struct Owed {
    state: Ranked<State>,
    /// There is room again, or none will be asked for.
    changed: Signal,
}

#[derive(Debug, Default)]
struct State {
    answers: usize,
    closed: bool,
}

impl Owed {
    pub(super) fn new() -> Owed {
        Owed { state: Ranked::new(Rank::Leaf, State::default()), changed: Signal::new() }
    }

    /// A request was read: waits until it may be handed on. `false`: nobody answers any more.
    #[must_use]
    pub(super) fn add(&self) -> bool {
        let mut state = self.state.lock();
        while state.answers >= PEER_REQUESTS_MAX && !state.closed {
            state = self.changed.wait(state);
        }
        state.answers += 1;
        !state.closed
    }

    /// So many requests were answered, or never will be, which the peer knows.
    pub(super) fn answered(&self, count: usize) {
        let mut state = self.state.lock();
        let was_full = state.answers >= PEER_REQUESTS_MAX;
        state.answers = state.answers.saturating_sub(count);
        drop(state);
        if was_full {
            self.changed.wake_all();
        }
    }

    /// The writer has ended.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.changed.wake_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_owed_too_much_waits_for_an_answer_or_the_end() {
        let owed = Owed::new();
        for _ in 0..PEER_REQUESTS_MAX {
            assert!(owed.add());
        }
        owed.answered(2);
        assert!(owed.add() && owed.add(), "there is room for two");
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| (owed.add(), owed.add()));
            owed.answered(1);
            owed.close();
            let (first, second) = waiting.join().expect("it ends");
            // Whether the answer or the end came first.
            assert!(!second, "{first}");
        });
    }
}
