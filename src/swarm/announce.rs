//! When to tell the tracker. Timing only: the engine does the telling.

use std::time::Duration;

use crate::base::clock::Time;
use crate::proto::tracker::AnnounceEvent;

/// The tracker is not asked more often than this, whatever interval it names.
const INTERVAL_MIN: Duration = Duration::from_secs(5);
/// It is asked at least so often: a tracker that restarted has forgotten us.
const INTERVAL_MAX: Duration = Duration::from_secs(1800);
/// The wait after the first failure; it doubles with each, up to [`RETRY_MAX`].
const RETRY: Duration = Duration::from_secs(5);
const RETRY_MAX: Duration = Duration::from_secs(300);
/// A host that needs pieces and has nobody to ask does not wait for the interval.
const LONELY: Duration = Duration::from_secs(15);
/// Not even for that in a swarm that begins at this moment, whose other members may announce
/// themselves just after it; each time that was in vain it waits twice as long.
const LONELY_AT_FIRST: Duration = Duration::from_millis(100);

/// What the tracker knows and when it is told more. One announce is under way at a time.
#[derive(Debug)]
pub(super) struct Announcer {
    /// What it must still be told.
    news: AnnounceEvent,
    /// What is being told.
    telling: Option<AnnounceEvent>,
    answered_at: Option<Time>,
    next: Time,
    failures: u32,
    /// How long a lonely host waits after an answer.
    lonely: Duration,
}

impl Announcer {
    /// The first announce is due at once; `begins`: the swarm begins at this moment.
    pub(super) fn new(now: Time, begins: bool) -> Announcer {
        let news = AnnounceEvent::Started;
        let lonely = if begins { LONELY_AT_FIRST } else { LONELY };
        Announcer { news, telling: None, answered_at: None, next: now, failures: 0, lonely }
    }

    /// When the next announce is due; `lonely` if we need pieces and have no link.
    pub(super) fn next_due(&self, lonely: bool) -> Option<Time> {
        if self.telling.is_some() {
            return None;
        }
        match self.answered_at {
            Some(answered_at) if lonely && self.failures == 0 => {
                Some(self.next.min(answered_at + self.lonely))
            }
            _ => Some(self.next),
        }
    }

    /// The announce that is due, if any. It is under way from now on.
    pub(super) fn due(&mut self, now: Time, lonely: bool) -> Option<AnnounceEvent> {
        if self.next_due(lonely)? > now {
            return None;
        }
        self.telling = Some(self.news);
        self.telling
    }

    /// The tracker answered.
    pub(super) fn answered(&mut self, now: Time, interval: Duration) {
        let Some(told) = self.telling.take() else { return };
        if self.answered_at.is_some() {
            self.lonely = (self.lonely * 2).min(LONELY);
        }
        self.answered_at = Some(now);
        self.failures = 0;
        self.next = now + interval.clamp(INTERVAL_MIN, INTERVAL_MAX);
        if self.news == told {
            self.news = AnnounceEvent::None;
        } else {
            // All pieces were stored while it was told something else.
            self.next = now;
        }
    }

    /// The tracker did not answer.
    pub(super) fn failed(&mut self, now: Time) {
        if self.telling.take().is_some() {
            self.next = now + (RETRY * 2u32.pow(self.failures.min(6))).min(RETRY_MAX);
            self.failures += 1;
        }
    }

    /// All pieces are stored. A tracker that knows us is told at once; one that does not learns it
    /// from the first announce, which says that nothing is left.
    pub(super) fn completed(&mut self, now: Time) {
        if self.answered_at.is_some() || self.telling.is_some() {
            self.news = AnnounceEvent::Completed;
            if self.failures == 0 {
                self.next = now;
            }
        }
    }

    /// Whether the tracker may know us, and so must be told that we leave.
    pub(super) fn is_known(&self) -> bool {
        self.answered_at.is_some() || self.telling.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Time {
        Time::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn the_interval_of_the_tracker_is_kept_unless_we_are_lonely() {
        let mut announcer = Announcer::new(at(0), false);
        assert_eq!(announcer.due(at(0), false), Some(AnnounceEvent::Started));
        assert_eq!(announcer.due(at(0), false), None, "one at a time");
        announcer.answered(at(1), Duration::from_secs(100));
        assert_eq!(announcer.next_due(false), Some(at(101)));
        assert_eq!(announcer.next_due(true), Some(at(16)));
        assert_eq!(announcer.due(at(101), false), Some(AnnounceEvent::None));
        announcer.answered(at(101), Duration::ZERO);
        assert_eq!(announcer.next_due(false), Some(at(106)), "nobody makes us ask without pause");
    }

    #[test]
    fn where_a_swarm_begins_who_is_lonely_asks_again_soon_and_ever_later() {
        let mut announcer = Announcer::new(at(0), true);
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..12 {
            let due = announcer.next_due(true).unwrap();
            waits.push(due.since(now).as_millis());
            now = due;
            assert!(announcer.due(now, true).is_some());
            announcer.answered(now, Duration::from_secs(1000));
            assert_eq!(announcer.next_due(false), Some(now + Duration::from_secs(1000)));
        }
        let usual = [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000];
        assert_eq!(waits, [&[0], &usual[..], &[15_000]].concat());
    }

    #[test]
    fn failures_are_retried_ever_later_and_lose_no_news() {
        let mut announcer = Announcer::new(at(0), false);
        let mut now = at(0);
        let mut waits = Vec::new();
        for _ in 0..9 {
            let due = announcer.next_due(true).unwrap();
            waits.push(due.since(now).as_secs());
            now = due;
            assert_eq!(announcer.due(now, true), Some(AnnounceEvent::Started));
            announcer.failed(now);
        }
        assert_eq!(waits, [0, 5, 10, 20, 40, 80, 160, 300, 300]);
    }

    #[test]
    fn completion_is_told_once_even_if_it_comes_while_telling() {
        let mut announcer = Announcer::new(at(0), false);
        announcer.due(at(0), false);
        announcer.completed(at(1));
        announcer.answered(at(2), Duration::from_secs(100));
        assert_eq!(announcer.due(at(2), false), Some(AnnounceEvent::Completed));
        announcer.answered(at(3), Duration::from_secs(100));
        assert_eq!(announcer.due(at(103), false), Some(AnnounceEvent::None));
    }

    #[test]
    fn a_host_that_starts_complete_does_not_tell_completion() {
        let mut announcer = Announcer::new(at(0), false);
        announcer.completed(at(0));
        assert!(!announcer.is_known());
        assert_eq!(announcer.due(at(0), false), Some(AnnounceEvent::Started));
    }
}
