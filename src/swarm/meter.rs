//! How fast bytes flow: a mean over the last one to two seconds.

use std::time::Duration;

use crate::base::clock::Time;

const WINDOW: Duration = Duration::from_secs(1);
/// Below this, a mean says nothing.
const SHORTEST: Duration = Duration::from_millis(50);

/// Bytes counted in two windows, the running one and the one before.
#[derive(Clone, Debug, Default)]
pub(super) struct Meter {
    /// When the earlier window began.
    begin: Time,
    /// When the running window began.
    start: Time,
    earlier: u64,
    running: u64,
}

impl Meter {
    /// Counts `bytes`.
    pub(super) fn add(&mut self, now: Time, bytes: u64) {
        if now >= self.start + WINDOW * 2 {
            *self = Meter { begin: now, start: now, earlier: 0, running: 0 };
        } else if now >= self.start + WINDOW {
            let start = self.start + WINDOW;
            *self = Meter { begin: self.start, start, earlier: self.running, running: 0 };
        }
        self.running = self.running.saturating_add(bytes);
    }

    /// Whether something has flowed, and for long enough to say how fast.
    pub(super) fn is_known(&self, now: Time) -> bool {
        self.rate(now) > 0 && now.since(self.begin) >= SHORTEST
    }

    /// Bytes per second; zero after two windows without any.
    pub(super) fn rate(&self, now: Time) -> u64 {
        if now >= self.start + WINDOW * 2 {
            return 0;
        }
        let time = now.since(self.begin).max(SHORTEST);
        per_second(self.earlier.saturating_add(self.running), time)
    }
}

/// `bytes` in `time`, as bytes per second.
fn per_second(bytes: u64, time: Duration) -> u64 {
    let rate = u128::from(bytes) * 1_000_000_000 / time.as_nanos().max(1);
    u64::try_from(rate).unwrap_or(u64::MAX)
}

/// How many bytes flow in `time` at `rate` bytes per second.
pub(super) fn bytes_in(rate: u64, time: Duration) -> u64 {
    let bytes = u128::from(rate).saturating_mul(time.as_nanos()) / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// How long `bytes` take at `rate` bytes per second; forever at rate zero.
pub(super) fn time_for(bytes: u64, rate: u64) -> Duration {
    match u128::from(bytes).saturating_mul(1_000_000_000).checked_div(u128::from(rate)) {
        Some(nanos) => Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)),
        None => Duration::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_flow_is_measured_from_its_first_moments_and_forgotten_after_its_end() {
        let mut meter = Meter::default();
        let at = |ms| Time::after_start(Duration::from_millis(ms));
        for ms in (5000..8000).step_by(10) {
            meter.add(at(ms), 1000);
            if ms >= 5100 {
                let rate = meter.rate(at(ms));
                assert!((95_000..=111_000).contains(&rate), "{rate} at {ms} ms");
            }
        }
        assert!(meter.rate(at(8500)) < 90_000);
        assert_eq!(meter.rate(at(10_000)), 0);
    }

    #[test]
    fn times_and_bytes_agree() {
        assert_eq!(bytes_in(1_000_000, Duration::from_millis(250)), 250_000);
        assert_eq!(time_for(250_000, 1_000_000), Duration::from_millis(250));
        assert_eq!(time_for(1, 0), Duration::MAX);
        assert_eq!(bytes_in(u64::MAX, Duration::MAX), u64::MAX);
    }
}
