//! What a peer was asked for and has not answered: no other block of it is taken into memory.
//!
//! The engine notes what it asks for, what it takes back and what is refused; the reader looks up
//! each block that comes. So this is what the swarm has in its own list, less what has just come,
//! and its bound is the same: [`crate::limits::PEER_REQUESTS_MAX`].

use std::collections::VecDeque;

use crate::base::ranked::{Rank, Ranked};
use crate::proto::peer::RawBlock;

/// The requests that are open on one link, oldest first.
#[derive(Debug)]
pub(super) struct Asked(Ranked<VecDeque<RawBlock>>);

impl Asked {
    pub(super) fn new() -> Asked {
        Asked(Ranked::new(Rank::Leaf, VecDeque::new()))
    }

    /// The peer is asked for `block`.
    pub(super) fn add(&self, block: RawBlock) {
        self.0.lock().push_back(block);
    }

    /// The block comes, or will not; whether it was asked for.
    pub(super) fn take(&self, block: RawBlock) -> bool {
        let mut open = self.0.lock();
        let at = open.iter().position(|asked| *asked == block);
        at.and_then(|at| open.remove(at)).is_some()
    }

    /// None of them is answered any more.
    pub(super) fn clear(&self) {
        self.0.lock().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_taken_as_often_as_it_was_asked_for_and_no_other() {
        let asked = Asked::new();
        let block = |begin| RawBlock { piece: 1, begin, len: 100 };
        assert!(!asked.take(block(0)));
        for begin in [0, 100, 100, 200] {
            asked.add(block(begin));
        }
        assert!(!asked.take(RawBlock { len: 99, ..block(0) }), "as long as it was asked for");
        assert!(asked.take(block(200)) && !asked.take(block(200)), "in any order");
        assert!(asked.take(block(100)) && asked.take(block(100)) && !asked.take(block(100)));
        asked.clear();
        assert!(!asked.take(block(0)));
    }
}
