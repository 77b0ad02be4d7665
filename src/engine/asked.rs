//! What a peer was asked for and has not answered: no other block of it is taken into memory.
//!
//! The engine notes what it asks for, what it takes back and what is refused; the reader looks up
//! each block that comes. So this is what the swarm has in its own list, less what has just come,
//! and its bound is the same: [`crate::limits::PEER_REQUESTS_MAX`].
//!
//! A block that nobody asked for is passed over, and what a link sends of them is counted: it may
//! be as much as was asked for and taken back, since those had perhaps left, and a little more.

use std::collections::VecDeque;

use crate::base::ranked::{Rank, Ranked};
use crate::limits::{LINK_BYTES_UNASKED_MAX, PIECE_BYTES_IN_FLIGHT_MAX};
use crate::proto::peer::{BLOCK_HEAD_LEN, RawBlock};

/// The requests of one link.
#[derive(Debug)]
pub(super) struct Asked(Ranked<State>);

#[derive(Debug)]
struct State {
    /// Oldest first.
    open: VecDeque<RawBlock>,
    /// Bytes that the peer may still send without being asked.
    spare: u64,
}

/// What a block is that comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// It was asked for.
    Asked,
    /// It was not.
    Unasked,
    /// It was not, and there were too many of them.
    TooMany,
}

impl Asked {
    pub(super) fn new() -> Asked {
        let state = State { open: VecDeque::new(), spare: LINK_BYTES_UNASKED_MAX };
        Asked(Ranked::new(Rank::Leaf, state))
    }

    /// The peer is asked for `block`.
    pub(super) fn add(&self, block: RawBlock) {
        self.0.lock().open.push_back(block);
    }

    /// The block comes.
    pub(super) fn came(&self, block: RawBlock) -> Came {
        let mut state = self.0.lock();
        if state.take(block) {
            return Came::Asked;
        }
        match state.spare.checked_sub(cost(block)) {
            Some(left) => {
                state.spare = left;
                Came::Unasked
            }
            None => Came::TooMany,
        }
    }

    /// The peer says that the block will not come.
    pub(super) fn refused(&self, block: RawBlock) {
        self.0.lock().take(block);
    }

    /// The block need not come any more, but may have left.
    pub(super) fn take_back(&self, block: RawBlock) {
        let mut state = self.0.lock();
        if state.take(block) {
            state.spare(block);
        }
    }

    /// As [`Asked::take_back`], of all blocks.
    pub(super) fn take_all_back(&self) {
        let mut state = self.0.lock();
        while let Some(block) = state.open.pop_front() {
            state.spare(block);
        }
    }
}

impl State {
    /// Closes one request for `block`; whether there was one.
    fn take(&mut self, block: RawBlock) -> bool {
        let at = self.open.iter().position(|asked| *asked == block);
        at.and_then(|at| self.open.remove(at)).is_some()
    }

    /// No more than this is on its way at once.
    fn spare(&mut self, block: RawBlock) {
        self.spare = (self.spare + cost(block)).min(PIECE_BYTES_IN_FLIGHT_MAX);
    }
}

/// What a block takes of the line: a head without a body is not free.
fn cost(block: RawBlock) -> u64 {
    u64::from(block.len) + BLOCK_HEAD_LEN as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: u32 = 1 << 14;

    fn block(begin: u32) -> RawBlock {
        RawBlock { piece: 1, begin, len: LEN }
    }

    /// How many blocks that were not asked for may come before there are too many.
    fn unasked(asked: &Asked) -> u64 {
        let came = std::iter::repeat_with(|| asked.came(block(u32::MAX)));
        came.take_while(|came| *came == Came::Unasked).count() as u64
    }

    #[test]
    fn a_block_is_taken_as_often_as_it_was_asked_for_and_no_other() {
        let asked = Asked::new();
        let is_taken = |block| asked.came(block) == Came::Asked;
        assert!(!is_taken(block(0)));
        for begin in [0, LEN, LEN, 2 * LEN] {
            asked.add(block(begin));
        }
        assert!(!is_taken(RawBlock { len: LEN - 1, ..block(0) }), "as long as it was asked for");
        assert!(is_taken(block(2 * LEN)) && !is_taken(block(2 * LEN)), "in any order");
        assert!(is_taken(block(LEN)) && is_taken(block(LEN)) && !is_taken(block(LEN)));
        asked.take_all_back();
        assert!(!is_taken(block(0)));
    }

    #[test]
    fn so_much_may_come_unasked_and_what_was_taken_back_as_well() {
        let least = LINK_BYTES_UNASKED_MAX / cost(block(0));
        let asked = Asked::new();
        assert_eq!(unasked(&asked), least);
        assert_eq!(asked.came(block(0)), Came::TooMany);
        (0..6).for_each(|begin| asked.add(block(begin)));
        assert_eq!(asked.came(block(0)), Came::Asked, "whatever came before");
        asked.refused(block(1));
        assert_eq!(unasked(&asked), 0);
        asked.take_back(block(2));
        asked.take_back(block(2));
        assert_eq!(unasked(&asked), 1);
        asked.take_all_back();
        assert_eq!(unasked(&asked), 3);
    }

    #[test]
    fn it_does_not_add_up_without_end_and_a_head_alone_is_not_free() {
        let asked = Asked::new();
        for _ in 0..2 * PIECE_BYTES_IN_FLIGHT_MAX / cost(block(0)) {
            asked.add(block(0));
            asked.take_back(block(0));
        }
        assert_eq!(unasked(&asked), PIECE_BYTES_IN_FLIGHT_MAX / cost(block(0)));
        let empty = RawBlock { len: 0, ..block(0) };
        let asked = Asked::new();
        let heads = LINK_BYTES_UNASKED_MAX / BLOCK_HEAD_LEN as u64;
        assert!((0..heads).all(|_| asked.came(empty) == Came::Unasked));
        assert_eq!(asked.came(empty), Came::TooMany);
    }
}
