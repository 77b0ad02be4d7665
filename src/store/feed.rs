//! What of a partial can be read now, and waiting for more of it.
//!
//! Whoever writes a partial marks the spans that are on disk; readers wait for the byte they stand
//! at. The source of the bytes may change under a reader: it never knows.
//!
//! **Invariant:** a waiter is woken by the change itself, made under the lock that the waiter
//! looked under: no wake-up is lost and nobody polls. What was readable stays so, unless it is
//! taken back ([`Feed::retract`]). What is proven stays so, whatever comes. The first of
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
    /// For those that wait for bytes wherever they are.
    marked: Signal,
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
    /// What is readable.
    runs: Runs,
    /// That, and what is being written.
    taken: Runs,
    state: FeedState,
    /// What is right.
    proven: Runs,
    /// Counts the marks.
    marks: u64,
    /// What was taken back, in order.
    retracted: Vec<Span>,
    /// The offsets that are waited for, and by how many.
    awaited: BTreeMap<u64, usize>,
    /// Where the readers stand, by ticket.
    readers: BTreeMap<u64, u64>,
    next_ticket: u64,
}

/// Runs of bytes, first byte to the byte after the last; they neither touch nor overlap.
#[derive(Debug, Default)]
struct Runs(BTreeMap<u64, u64>);

impl Runs {
    /// The byte after the run that holds `offset`; `offset` itself if no run does.
    fn end_from(&self, offset: u64) -> u64 {
        let run = self.0.range(..=offset).next_back();
        run.map_or(offset, |(_, &end)| end.max(offset))
    }

    /// What is missing between `offset` and `end`, in order.
    fn gaps(&self, offset: u64, end: u64) -> Vec<Span> {
        let mut gaps = Vec::new();
        let mut at = self.end_from(offset);
        while at < end {
            let next = self.0.range(at..end).next().map_or(end, |(&start, _)| start);
            gaps.push(Span { offset: at, len: next - at });
            at = self.end_from(next);
        }
        gaps
    }

    /// Adds a run, melts it with those it touches, and returns the result.
    fn add(&mut self, mut offset: u64, mut end: u64) -> (u64, u64) {
        if let Some((&start, &stop)) = self.0.range(..offset).next_back()
            && stop >= offset
        {
            offset = start;
        }
        while let Some((&start, &stop)) = self.0.range(offset..=end).next() {
            self.0.remove(&start);
            end = end.max(stop);
        }
        self.0.insert(offset, end);
        (offset, end)
    }

    /// Takes the bytes from `start` to `end` out, and says whether any of them was there.
    fn cut(&mut self, start: u64, end: u64) -> bool {
        let touched: Vec<(u64, u64)> = self.0.range(..end).map(|(&from, &to)| (from, to)).collect();
        let mut any = false;
        for (from, to) in touched.into_iter().filter(|(_, to)| *to > start) {
            any = true;
            self.0.remove(&from);
            if from < start {
                self.0.insert(from, start);
            }
            if to > end {
                self.0.insert(end, to);
            }
        }
        any
    }
}

impl State {
    /// The byte after the run that holds `offset`; `offset` itself if that byte is not readable.
    fn readable_from(&self, offset: u64) -> u64 {
        self.runs.end_from(offset)
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
            runs: Runs::default(),
            taken: Runs::default(),
            state: FeedState::Filling,
            proven: Runs::default(),
            marks: 0,
            retracted: Vec::new(),
            awaited: BTreeMap::new(),
            readers: BTreeMap::new(),
            next_ticket: 0,
        };
        let state = Ranked::new(Rank::Feed, state);
        Feed { state, changed: Signal::new(), marked: Signal::new() }
    }

    /// The blob's length, once it is known.
    #[must_use]
    pub fn len(&self) -> Option<u64> {
        self.state.lock().len
    }

    /// Whether nothing is readable yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.state.lock().runs.0.is_empty()
    }

    /// Sets the length, which is set once. Says whether it agrees with what was known.
    #[must_use]
    pub(super) fn set_len(&self, len: u64) -> bool {
        let mut state = self.state.lock();
        let marked = state.runs.0.last_key_value().map_or(0, |(_, &end)| end);
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
        let (start, end) = state.runs.add(span.offset, span.end());
        state.taken.add(span.offset, span.end());
        state.marks += 1;
        self.marked.wake_all();
        // A piece far ahead of every reader wakes nobody.
        if state.awaited.range(start..end).next().is_some() {
            self.changed.wake_all();
        }
    }

    /// What of `span` is neither readable nor being written: the caller writes it and marks it, or
    /// the partial has failed. Nobody else is given it meanwhile.
    pub(super) fn take(&self, span: Span) -> Vec<Span> {
        let mut state = self.state.lock();
        let gaps = state.taken.gaps(span.offset, span.end());
        for gap in &gaps {
            state.taken.add(gap.offset, gap.end());
        }
        gaps
    }

    /// Waits until all of `span` is readable. False: the feed has ended before, or `deadline` has
    /// passed by the real clock.
    #[must_use]
    pub fn wait_readable(&self, span: Span, deadline: Time) -> bool {
        let mut at = span.offset;
        while at < span.end() {
            match self.wait(at, deadline) {
                Wait::Ready { end } => at = end,
                Wait::Whole => return true,
                Wait::Failed(_) | Wait::TimedOut => return false,
            }
        }
        true
    }

    /// How often something was marked so far.
    #[must_use]
    pub fn marks(&self) -> u64 {
        self.state.lock().marks
    }

    /// Waits until something was marked since there were `seen` [`Feed::marks`], wherever it is,
    /// the feed has ended, or `deadline` passes by the real clock. Says whether the feed goes on.
    #[must_use]
    pub fn wait_marked(&self, seen: u64, deadline: Time) -> bool {
        let mut state = self.state.lock();
        while state.state == FeedState::Filling && state.marks == seen && Time::now() < deadline {
            state = self.marked.wait_until(state, deadline);
        }
        state.state == FeedState::Filling
    }

    /// Says that the bytes of `span` are right, whatever becomes of the others. Of a blob with one
    /// digest that is known only at the end: see [`Feed::finish`].
    pub fn prove(&self, span: Span) {
        let mut state = self.state.lock();
        if state.proven.end_from(span.offset) < span.end() {
            state.proven.add(span.offset, span.end());
            self.changed.wake_all();
        }
    }

    /// Whether all bytes of `span` are known to be right.
    #[must_use]
    pub fn is_proven(&self, span: Span) -> bool {
        self.state.lock().proven.end_from(span.offset) >= span.end()
    }

    /// Waits until the bytes of `span` are known to be right, the feed has ended, or `deadline`
    /// passes by the real clock. Those that follow may be right too: the end says how many.
    #[must_use]
    pub fn wait_proven(&self, span: Span, deadline: Time) -> Wait {
        let mut state = self.state.lock();
        loop {
            let end = state.proven.end_from(span.offset);
            match &state.state {
                FeedState::Whole => return Wait::Whole,
                _ if end >= span.end() => return Wait::Ready { end },
                FeedState::Failed(reason) => return Wait::Failed(Arc::clone(reason)),
                FeedState::Filling if Time::now() >= deadline => return Wait::TimedOut,
                FeedState::Filling => state = self.changed.wait_until(state, deadline),
            }
        }
    }

    /// Takes `span`, which turned out to be wrong, back: it is to come again. For a blob of which
    /// nothing was passed on to peers. Who has read of it asks [`Feed::was_retracted`].
    ///
    /// # Panics
    /// If something of it was proven.
    pub fn retract(&self, span: Span) {
        if span.len == 0 {
            return;
        }
        let mut state = self.state.lock();
        let (start, end) = (span.offset, span.end());
        assert!(!state.proven.cut(start, end), "what is right stays");
        state.runs.cut(start, end);
        state.taken.cut(start, end);
        state.retracted.push(span);
    }

    /// How often something was taken back so far.
    #[must_use]
    pub fn retractions(&self) -> usize {
        self.state.lock().retracted.len()
    }

    /// Whether something of `span` was taken back since there were `seen` [`Feed::retractions`].
    #[must_use]
    pub fn was_retracted(&self, span: Span, seen: usize) -> bool {
        let state = self.state.lock();
        let since = state.retracted.get(seen..).unwrap_or_default();
        since.iter().any(|gone| gone.offset < span.end() && span.offset < gone.end())
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
            self.marked.wake_all();
        }
    }

    /// Says that nothing more will come, and why. Without effect after [`Feed::finish`].
    pub fn fail(&self, reason: &str) {
        let mut state = self.state.lock();
        if state.state == FeedState::Filling {
            state.state = FeedState::Failed(reason.into());
            self.changed.wake_all();
            self.marked.wake_all();
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

    /// How many bytes are readable in all.
    #[must_use]
    pub fn readable(&self) -> u64 {
        self.state.lock().runs.0.iter().map(|(start, end)| end - start).sum()
    }

    /// How many bytes are readable from the first on.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        self.readable_from(0)
    }

    /// The byte after the readable run that holds `offset`; `offset` itself if that is not
    /// readable.
    #[must_use]
    pub fn readable_from(&self, offset: u64) -> u64 {
        self.state.lock().readable_from(offset)
    }

    /// The first run at or after `offset` that is not readable: its first byte and the byte after
    /// its last; `None` in its place: the end of the blob, which is not known yet. No gap: all is
    /// readable.
    #[must_use]
    pub fn gap_from(&self, offset: u64) -> Option<(u64, Option<u64>)> {
        let state = self.state.lock();
        let start = state.readable_from(offset);
        let next = state.runs.0.range(start..).next().map(|(&start, _)| start);
        let end = next.or(state.len);
        (end.is_none_or(|end| start < end)).then_some((start, end))
    }

    /// Waits until the byte at `offset` is readable, the feed has ended, or `deadline` passes by
    /// the real clock; a deadline that has passed makes it a look. With the blob's length as
    /// `offset` it waits for the end of the feed.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use std::thread;
    use std::time::Duration;

    fn span(offset: u64, end: u64) -> Span {
        Span { offset, len: end - offset }
    }

    /// Far enough away that reaching it means that a wake-up was lost.
    fn late() -> Time {
        Time::now() + Duration::from_secs(60)
    }

    /// Returns when `count` threads wait for something.
    fn until_waited_for(feed: &Feed, count: usize) {
        while feed.state.lock().awaited.values().sum::<usize>() < count {
            thread::yield_now();
        }
    }

    #[test]
    fn runs_agree_with_a_bitmap() {
        const LEN: usize = 64;
        for seed in 0..200 {
            let mut rng = Rng::seeded(seed);
            let feed = Feed::new(Some(LEN as u64));
            let mut bytes = [false; LEN];
            for _ in 0..rng.below(20) {
                let offset = rng.index(LEN);
                let len = rng.index(LEN - offset + 1);
                feed.mark(Span { offset: offset as u64, len: len as u64 });
                bytes[offset..offset + len].fill(true);
            }
            for at in 0..LEN {
                let end = at + bytes[at..].iter().take_while(|byte| **byte).count();
                let rest = span(at as u64, LEN as u64);
                assert_eq!(feed.readable_from(at as u64), end as u64, "seed {seed}, offset {at}");
                assert_eq!(feed.is_readable(rest), end == LEN, "seed {seed}, offset {at}");
            }
            let runs: Vec<_> = feed.state.lock().runs.0.clone().into_iter().collect();
            let apart = runs.windows(2).all(|pair| pair[0].1 < pair[1].0);
            assert!(apart, "seed {seed}: runs touch: {runs:?}");
            assert_eq!(feed.is_complete(), bytes.iter().all(|byte| *byte), "seed {seed}");
        }
    }

    #[test]
    fn a_look_does_not_wait() {
        let feed = Feed::new(Some(10));
        assert_eq!(feed.wait(0, Time::ZERO), Wait::TimedOut);
        feed.mark(span(2, 6));
        assert_eq!(feed.wait(0, Time::ZERO), Wait::TimedOut);
        assert_eq!(feed.wait(3, Time::ZERO), Wait::Ready { end: 6 });
        assert_eq!(feed.wait(6, Time::ZERO), Wait::TimedOut);
        assert!(feed.state.lock().awaited.is_empty());
    }

    #[test]
    fn a_mark_wakes_those_it_is_for_and_the_end_wakes_all() {
        let feed = Arc::new(Feed::new(Some(100)));
        let wait = |offset| {
            let feed = Arc::clone(&feed);
            thread::spawn(move || feed.wait(offset, late()))
        };
        let (first, again, last) = (wait(0), wait(0), wait(100));
        until_waited_for(&feed, 3);
        feed.mark(span(50, 100));
        feed.mark(span(0, 50));
        assert_eq!(first.join().unwrap(), Wait::Ready { end: 100 });
        assert_eq!(again.join().unwrap(), Wait::Ready { end: 100 });
        until_waited_for(&feed, 1);
        feed.finish();
        assert_eq!(last.join().unwrap(), Wait::Whole);
    }

    #[test]
    fn who_waits_for_proof_is_woken_by_it() {
        let feed = Arc::new(Feed::new(Some(10)));
        feed.mark(span(0, 10));
        assert_eq!(feed.wait_proven(span(3, 5), Time::ZERO), Wait::TimedOut);
        let waiter = {
            let feed = Arc::clone(&feed);
            thread::spawn(move || feed.wait_proven(span(3, 5), late()))
        };
        feed.prove(span(8, 10));
        feed.prove(span(2, 4));
        feed.prove(span(4, 6));
        feed.prove(span(4, 5));
        assert_eq!(waiter.join().unwrap(), Wait::Ready { end: 6 });
        let proven = [(2, 6), (8, 10), (2, 7), (0, 3), (6, 8)];
        let proven = proven.map(|(from, to)| feed.is_proven(span(from, to)));
        assert_eq!(proven, [true, true, false, false, false]);
        feed.fail("the rest is wrong");
        assert_eq!(feed.wait_proven(span(3, 5), late()), Wait::Ready { end: 6 }, "it stays right");
        assert!(matches!(feed.wait_proven(span(3, 7), late()), Wait::Failed(_)));
    }

    #[test]
    fn who_waits_for_any_byte_is_woken_by_each_and_by_the_end() {
        let feed = Arc::new(Feed::new(Some(10)));
        assert!(feed.wait_marked(0, Time::ZERO), "nothing came, and the feed goes on");
        let wait = |seen| {
            let feed = Arc::clone(&feed);
            thread::spawn(move || feed.wait_marked(seen, late()))
        };
        let waiter = wait(0);
        feed.mark(span(7, 8));
        assert!(waiter.join().unwrap());
        assert!(feed.wait_marked(0, late()), "it came before the wait");
        assert_eq!(feed.marks(), 1);
        let waiter = wait(1);
        feed.fail("no more");
        assert!(!waiter.join().unwrap());
    }

    #[test]
    fn what_is_taken_back_is_missing_again_and_its_readers_can_tell() {
        let feed = Feed::new(Some(30));
        feed.mark(span(0, 30));
        feed.prove(span(0, 10));
        feed.prove(span(20, 30));
        let seen = feed.retractions();
        feed.retract(span(10, 20));
        assert_eq!(feed.gap_from(0), Some((10, Some(20))));
        assert_eq!(feed.readable_from(20), 30);
        assert!(feed.was_retracted(span(10, 20), seen));
        assert!(!feed.was_retracted(span(0, 10), seen) && !feed.was_retracted(span(20, 30), seen));
        assert!(!feed.was_retracted(span(10, 20), feed.retractions()));
    }

    #[test]
    fn taking_back_agrees_with_a_bitmap() {
        const LEN: usize = 40;
        for seed in 0..200 {
            let mut rng = Rng::seeded(seed);
            let feed = Feed::new(Some(LEN as u64));
            let mut bytes = [false; LEN];
            for _ in 0..20 {
                let offset = rng.index(LEN);
                let len = rng.index(LEN - offset + 1);
                let at = Span { offset: offset as u64, len: len as u64 };
                let marks = rng.below(3) > 0;
                if marks {
                    feed.mark(at);
                } else {
                    feed.retract(at);
                }
                bytes[offset..offset + len].fill(marks);
            }
            for at in 0..LEN {
                let end = at + bytes[at..].iter().take_while(|byte| **byte).count();
                assert_eq!(feed.readable_from(at as u64), end as u64, "seed {seed}, offset {at}");
            }
        }
    }

    #[test]
    fn many_readers_follow_a_writer_without_a_lost_wake_up() {
        const LEN: u64 = 2000;
        let feed = Arc::new(Feed::new(Some(LEN)));
        let readers: Vec<_> = (0..8)
            .map(|_| {
                let feed = Arc::clone(&feed);
                thread::spawn(move || {
                    let mut at = 0;
                    loop {
                        match feed.wait(at, late()) {
                            Wait::Ready { end } => at = end,
                            ended => return ended,
                        }
                    }
                })
            })
            .collect();
        let mut order: Vec<u64> = (0..LEN).collect();
        Rng::seeded(5).shuffle(&mut order);
        for at in order {
            feed.mark(span(at, at + 1));
        }
        feed.finish();
        for reader in readers {
            assert_eq!(reader.join().unwrap(), Wait::Whole);
        }
    }

    #[test]
    fn the_first_end_is_final() {
        let feed = Feed::new(Some(4));
        feed.mark(span(0, 4));
        feed.fail("the digest is wrong");
        feed.finish();
        let reason: Arc<str> = "the digest is wrong".into();
        assert_eq!(feed.state(), FeedState::Failed(Arc::clone(&reason)));
        assert_eq!(feed.wait(0, late()), Wait::Failed(reason), "readable bytes may be wrong");

        let feed = Feed::new(Some(4));
        feed.mark(span(0, 4));
        feed.finish();
        feed.fail("too late");
        assert_eq!(feed.state(), FeedState::Whole);
    }

    #[test]
    #[should_panic(expected = "finished before it is complete")]
    fn an_incomplete_feed_is_not_finished() {
        let feed = Feed::new(Some(4));
        feed.mark(span(0, 3));
        feed.finish();
    }

    #[test]
    fn the_length_is_set_once_and_covers_what_is_marked() {
        let feed = Feed::new(None);
        feed.mark(span(0, 5));
        assert!(!feed.is_complete());
        assert!(!feed.set_len(4));
        assert!(feed.set_len(5));
        assert!(!feed.set_len(6));
        assert_eq!(feed.len(), Some(5));
        assert!(feed.is_complete());
    }

    #[test]
    fn readers_are_known_until_they_leave() {
        let feed = Arc::new(Feed::new(None));
        let mut first = feed.reader(7);
        let second = feed.reader(0);
        let third = feed.reader(0);
        assert_eq!(feed.readers(), [0, 7]);
        first.advance(9);
        drop(second);
        assert_eq!(feed.readers(), [0, 9]);
        drop((first, third));
        assert!(feed.readers().is_empty());
    }
}
