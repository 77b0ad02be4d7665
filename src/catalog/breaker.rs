//! When not to ask: after failures the next call is made only after a pause that grows. Pure.

use std::time::Duration;

use crate::base::clock::Time;
use crate::limits;

/// Counts failures and says when to try again.
#[derive(Clone, Debug)]
pub struct Breaker {
    failures: u32,
    open_until: Time,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker::new()
    }
}

impl Breaker {
    /// A breaker that lets calls through.
    #[must_use]
    pub const fn new() -> Breaker {
        Breaker { failures: 0, open_until: Time::ZERO }
    }

    /// Whether a call may be made now. After a pause one call is let through; others wait for what
    /// becomes of it, or for the next pause to end.
    pub fn admits(&mut self, now: Time) -> bool {
        if self.failures == 0 {
            return true;
        }
        if now < self.open_until {
            return false;
        }
        self.open_until = now + self.pause();
        true
    }

    /// A call was answered.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// A call was not.
    pub fn failed(&mut self, now: Time) {
        self.failures = self.failures.saturating_add(1);
        self.open_until = now + self.pause();
    }

    fn pause(&self) -> Duration {
        let doubled = limits::BREAKER_PAUSE_MIN.saturating_mul(1 << self.failures.min(10));
        doubled.min(limits::BREAKER_PAUSE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_call_probes_after_each_pause() {
        let mut breaker = Breaker::new();
        assert!(breaker.admits(Time::ZERO) && breaker.admits(Time::ZERO));
        breaker.failed(Time::ZERO);
        assert!(!breaker.admits(Time::ZERO));
        let later = Time::ZERO + limits::BREAKER_PAUSE_MAX;
        assert!(breaker.admits(later), "the pause is over");
        assert!(!breaker.admits(later), "one probe is enough");
        breaker.succeeded();
        assert!(breaker.admits(later) && breaker.admits(later));
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut breaker = Breaker::new();
        let mut last = Duration::ZERO;
        for _ in 0..100 {
            breaker.failed(Time::ZERO);
            let pause = breaker.open_until.since(Time::ZERO);
            assert!(pause >= last);
            last = pause;
        }
        assert_eq!(last, limits::BREAKER_PAUSE_MAX);
    }
}
