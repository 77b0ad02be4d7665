//! What of a partial can be read now, and waiting for more of it.
//!
//! Whoever writes a partial marks the spans that are on disk; readers wait for the byte they stand
//! at. The source of the bytes may change under a reader: it never knows.
//!
//! **Invariant:** a waiter is woken by the change itself, made under the lock that the waiter looked
//! under: no wake-up is lost and nobody polls. What was readable stays so; the first of
//! [`Feed::finish`] and [`Feed::fail`] is final.
//!
//! Not here: the bytes. A feed does no I/O.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::proto::geometry::Span;

/// What of one partial is readable. Shared by its writers and readers.
#[derive(Debug)]
pub struct Feed {
    state: Ranked<State>,
    changed: Signal,
}

/// How far a partial has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FeedState {
    /// Bytes are still to come, or the digest is still to be checked.
    Filling,
    /// Every byte is readable and the digest is right.
    Whole,
    /// Nothing more will come, for this reason.
    Failed(Arc<str>),
}

/// What a wait ended with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The bytes from the offset up to `end` are readable.
    Ready {
        /// The byte after the last readable one of the run; above the offset.
        end: u64,
    },
    /// Every byte is readable and the digest is right: there is nothing left to wait for.
    Whole,
    /// Nothing more will come, for this reason. What is readable may be wrong.
    Failed(Arc<str>),
    /// The deadline passed first.
    TimedOut,
}

#[derive(Debug)]
struct State {
    len: Option<u64>,
    /// Readable runs, first byte to the byte after the last; they neither touch nor overlap.
    runs: BTreeMap<u64, u64>,
    state: FeedState,
    /// The offsets that are waited for, and by how many.
    awaited: BTreeMap<u64, usize>,
    /// Where the readers stand, by ticket.
    readers: BTreeMap<u64, u64>,
    next_ticket: u64,
}

impl State {
    /// The byte after the run that holds `offset`; `offset` itself if that byte is not readable.
    fn readable_from(&self, offset: u64) -> u64 {
        let run = self.runs.range(..=offset).next_back();
        run.map_or(offset, |(_, &end)| end.max(offset))
    }

    /// Adds a run, melts it with those it touches, and returns the result.
    fn add(&mut self, mut offset: u64, mut end: u64) -> (u64, u64) {
        if let Some((&start, &stop)) = self.runs.range(..offset).next_back()
            && stop >= offset
        {
            offset = start;
        }
        while let Some((&start, &stop)) = self.runs.range(offset..=end).next() {
            self.runs.remove(&start);
            end = end.max(stop);
        }
        self.runs.insert(offset, end);
        (offset, end)
    }

    /// What a reader at `offset` has to know now; nothing: it waits.
    fn answer(&self, offset: u64) -> Option<Wait> {
        match &self.state {
            FeedState::Failed(reason) => Some(Wait::Failed(Arc::clone(reason))),
            FeedState::Whole => Some(Wait::Whole),
            FeedState::Filling => {
                let end = self.readable_from(offset);
                (end > offset).then_some(Wait::Ready { end })
            }
        }
    }

    fn await_at(&mut self, offset: u64) {
        *self.awaited.entry(offset).or_default() += 1;
    }

    fn leave(&mut self, offset: u64) {
        if let Some(count) = self.awaited.get_mut(&offset) {
            *count -= 1;
            if *count == 0 {
                self.awaited.remove(&offset);
            }
        }
    }
}

impl Feed {
    /// A feed of which nothing is readable. `len`: the blob's length, if it is known yet.
    #[must_use]
    pub fn new(len: Option<u64>) -> Feed {
        let state = State {
            len,
            runs: BTreeMap::new(),
            state: FeedState::Filling,
            awaited: BTreeMap::new(),
            readers: BTreeMap::new(),
            next_ticket: 0,
        };
        Feed { state: Ranked::new(Rank::Feed, state), changed: Signal::new() }
    }

    /// The blob's length, once it is known.
    #[must_use]
    pub fn len(&self) -> Option<u64> {
        self.state.lock().len
    }

    /// Whether nothing is readable yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.lock().runs.is_empty()
    }

    /// Sets the length, which is set once. Says whether it agrees with what was known.
    #[must_use]
    pub(super) fn set_len(&self, len: u64) -> bool {
        let mut state = self.state.lock();
        let marked = state.runs.last_key_value().map_or(0, |(_, &end)| end);
        if state.len.is_some_and(|known| known != len) || marked > len {
            return false;
        }
        state.len = Some(len);
        true
    }

    /// Makes `span` readable. Its bytes are on their way to the disk already: a read gives them.
    ///
    /// # Panics
    /// If the span ends after the blob.
    pub fn mark(&self, span: Span) {
        if span.len == 0 {
            return;
        }
        let mut state = self.state.lock();
        assert!(state.len.is_none_or(|len| span.end() <= len), "{span:?} ends after the blob");
        let (start, end) = state.add(span.offset, span.end());
        // A piece far ahead of every reader wakes nobody.
        if state.awaited.range(start..end).next().is_some() {
            self.changed.wake_all();
        }
    }

    /// Says that every byte is there and the digest is right. Without effect after [`Feed::fail`].
    ///
    /// # Panics
    /// If not every byte is readable.
    pub fn finish(&self) {
        let mut state = self.state.lock();
        if state.state == FeedState::Filling {
            assert_eq!(state.len, Some(state.readable_from(0)), "finished before it is complete");
            state.state = FeedState::Whole;
            self.changed.wake_all();
        }
    }

    /// Says that nothing more will come, and why. Without effect after [`Feed::finish`].
    pub fn fail(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.state == FeedState::Filling {
            state.state = FeedState::Failed(reason.into());
            self.changed.wake_all();
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn state(&self) -> FeedState {
        self.state.lock().state.clone()
    }

    /// Whether the length is known and every byte readable. The digest may not be checked yet.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let state = self.state.lock();
        state.len == Some(state.readable_from(0))
    }

    /// Whether every byte of `span` is readable.
    #[must_use]
    pub fn is_readable(&self, span: Span) -> bool {
        span.len == 0 || self.state.lock().readable_from(span.offset) >= span.end()
    }

    /// How many bytes are readable from the first on.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        self.readable_from(0)
    }

    /// The byte after the readable run that holds `offset`; `offset` itself if that is not readable.
    #[must_use]
    pub fn readable_from(&self, offset: u64) -> u64 {
        self.state.lock().readable_from(offset)
    }

    /// Waits until the byte at `offset` is readable, the feed has ended, or `deadline` passes by the
    /// real clock; a deadline that has passed makes it a look. With the blob's length as `offset` it
    /// waits for the end of the feed.
    #[must_use]
    pub fn wait(&self, offset: u64, deadline: Time) -> Wait {
        let mut state = self.state.lock();
        loop {
            if let Some(answer) = state.answer(offset) {
                return answer;
            }
            if Time::now() >= deadline {
                return Wait::TimedOut;
            }
            state.await_at(offset);
            state = self.changed.wait_until(state, deadline);
            state.leave(offset);
        }
    }

    /// Registers a reader that stands at `offset`, until its ticket is dropped.
    #[must_use]
    pub fn reader(self: &Arc<Feed>, offset: u64) -> ReaderTicket {
        let mut state = self.state.lock();
        let ticket = state.next_ticket;
        state.next_ticket += 1;
        state.readers.insert(ticket, offset);
        ReaderTicket { feed: Arc::clone(self), ticket }
    }

    /// Where the readers stand: sorted, each offset once.
    #[must_use]
    pub fn readers(&self) -> Vec<u64> {
        let mut offsets: Vec<u64> = self.state.lock().readers.values().copied().collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets
    }
}

/// A reader's position, known to the feed until this is dropped.
#[derive(Debug)]
pub struct ReaderTicket {
    feed: Arc<Feed>,
    ticket: u64,
}

impl ReaderTicket {
    /// Says that the reader stands at `offset` now.
    pub fn advance(&mut self, offset: u64) {
        self.feed.state.lock().readers.insert(self.ticket, offset);
    }
}

impl Drop for ReaderTicket {
    fn drop(&mut self) {
        self.feed.state.lock().readers.remove(&self.ticket);
    }
}
