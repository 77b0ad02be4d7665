//! How fast bytes come.

use std::time::Duration;

use crate::base::clock::Time;
use crate::limits;

/// A rate over spans of [`limits::NO_PROGRESS`].
pub(super) struct Meter {
    since: Time,
    bytes: u64,
    rate: u64,
}

impl Meter {
    /// Until the first span is over, nothing is slow.
    pub(super) fn new(now: Time) -> Meter {
        Meter { since: now, bytes: 0, rate: u64::MAX }
    }

    pub(super) fn rate(&mut self, now: Time, bytes: u64) -> u64 {
        let span = now.since(self.since);
        if span >= limits::NO_PROGRESS {
            let grown = u128::from(bytes.saturating_sub(self.bytes)) * 1000;
            self.rate = u64::try_from(grown / span.as_millis().max(1)).unwrap_or(u64::MAX);
            (self.since, self.bytes) = (now, bytes);
        }
        self.rate
    }
}

/// Bytes per second, of so many in this time.
pub(super) fn average(bytes: u64, time: Duration) -> u64 {
    let rate = u128::from(bytes) * 1000 / time.as_millis().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_judges_only_whole_spans() {
        let at = |secs| Time::ZERO + Duration::from_secs(secs);
        let mut meter = Meter::new(at(0));
        assert_eq!(meter.rate(at(1), 10), u64::MAX);
        assert_eq!(meter.rate(at(2), 4000), 2000);
        assert_eq!(meter.rate(at(3), 4000), 2000);
        assert_eq!(meter.rate(at(4), 4000), 0);
    }
}
