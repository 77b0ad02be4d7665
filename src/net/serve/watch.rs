//! The watch: the right to take what the `epoll` reports. Pure: time is an argument.
//!
//! One worker keeps it. It takes all that was reported and serves one after the other, so that
//! short requests wake no thread but the one that serves them. Before it waits for something else
//! than its client's next request, it hands the watch over; if a request takes long without that,
//! another worker takes the watch.

use crate::base::clock::Time;
use crate::limits::{HTTP_WATCH_KEPT, HTTP_WORKER_IDLE};

/// Proves that its holder was the keeper when it got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

/// Who keeps the watch, and since when without a look.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// How often it has changed hands.
    changes: u64,
    is_kept: bool,
    /// When the keeper looked last; `None`: it is looking.
    away_since: Option<Time>,
}

impl Watch {
    /// Takes it, unless somebody keeps it as a keeper should.
    pub fn take(&mut self, now: Time) -> Option<Ticket> {
        if self.is_kept && self.due_at().is_none_or(|due_at| now < due_at) {
            return None;
        }
        self.changes += 1;
        *self = Watch { changes: self.changes, is_kept: true, away_since: Some(now) };
        Some(Ticket(self.changes))
    }

    /// Whether it is still kept with this ticket.
    pub fn is_kept_with(&self, ticket: Option<Ticket>) -> bool {
        self.is_kept && ticket == Some(Ticket(self.changes))
    }

    /// The keeper looks, for as long as it takes.
    pub fn look(&mut self) {
        self.away_since = None;
    }

    /// The keeper has looked.
    pub fn looked(&mut self, now: Time) {
        self.away_since = Some(now);
    }

    /// Gives it up, if it is still kept with this ticket, and says whether it was.
    pub fn give_up(&mut self, ticket: Ticket) -> bool {
        let was_kept = self.is_kept_with(Some(ticket));
        self.is_kept &= !was_kept;
        was_kept
    }

    /// When another may take it; `None`: the keeper is looking.
    pub fn due_at(&self) -> Option<Time> {
        self.away_since.map(|since| since + HTTP_WATCH_KEPT)
    }
}

/// How long a worker rests that has nothing to do. If it stays then, it rests as long again.
#[derive(Debug)]
pub(super) struct Rest {
    until: Time,
}

impl Rest {
    /// It begins now.
    pub fn from(now: Time) -> Rest {
        Rest { until: now + HTTP_WORKER_IDLE }
    }

    /// Whether it is over; then another begins.
    pub fn is_over(&mut self, now: Time) -> bool {
        let is_over = now >= self.until;
        if is_over {
            *self = Rest::from(now);
        }
        is_over
    }

    /// When it is over.
    pub fn until(&self) -> Time {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One that waited for a time that is past would not wait at all.
    #[test]
    fn who_has_rested_and_stays_rests_again() {
        let mut now = Time::ZERO;
        let mut rest = Rest::from(now);
        assert!(!rest.is_over(now));
        for _ in 0..3 {
            now = rest.until();
            assert!(rest.is_over(now) && !rest.is_over(now));
            assert_eq!(rest.until(), now + HTTP_WORKER_IDLE);
        }
    }

    #[test]
    fn it_is_kept_while_the_keeper_comes_back_in_time() {
        let mut watch = Watch::default();
        let now = Time::ZERO;
        let keeper = watch.take(now);
        assert!(watch.is_kept_with(keeper) && !watch.is_kept_with(None));
        watch.look();
        assert_eq!(watch.take(now + HTTP_WATCH_KEPT * 1000), None, "it is looking");
        watch.looked(now);
        assert_eq!(watch.take(now + HTTP_WATCH_KEPT / 2), None);
        assert_eq!(watch.due_at(), Some(now + HTTP_WATCH_KEPT));
        let other = watch.take(now + HTTP_WATCH_KEPT);
        assert!(watch.is_kept_with(other) && !watch.is_kept_with(keeper));
    }

    #[test]
    fn only_the_keeper_gives_it_up() {
        let mut watch = Watch::default();
        let keeper = watch.take(Time::ZERO).unwrap();
        let other = watch.take(Time::ZERO + HTTP_WATCH_KEPT).unwrap();
        assert!(!watch.give_up(keeper) && watch.give_up(other) && !watch.give_up(other));
        assert!(!watch.is_kept_with(Some(other)));
        assert!(watch.take(Time::ZERO).is_some(), "at once");
    }
}
