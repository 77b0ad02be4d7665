//! Time as a value. Decisions take a [`Time`] as an argument; only threads round them read the
//! clock.
//!
//! **Invariant:** [`Time`] never goes back, whatever happens to the wall clock.

use std::fmt;
use std::ops::Add;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static START: OnceLock<Instant> = OnceLock::new();

/// A point in monotonic time: nanoseconds since the process first asked. A simulation makes its
/// own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(u64);

impl Time {
    /// The beginning of time.
    pub const ZERO: Time = Time(0);

    /// The monotonic clock, now.
    #[must_use]
    pub fn now() -> Time {
        let start = *START.get_or_init(Instant::now);
        Time(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// The time that lies `since_start` after [`Time::ZERO`].
    #[must_use]
    pub fn after_start(since_start: Duration) -> Time {
        Time(u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Time) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// How long it is from `now` until this; zero if it has passed.
    #[must_use]
    pub fn until(self, now: Time) -> Duration {
        self.since(now)
    }

    /// Nanoseconds since [`Time::ZERO`].
    #[must_use]
    pub fn nanos(self) -> u64 {
        self.0
    }
}

impl Add<Duration> for Time {
    type Output = Time;

    /// Saturates: a deadline too far away to count is never reached.
    fn add(self, by: Duration) -> Time {
        Time(self.0.saturating_add(u64::try_from(by.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.6}s", Duration::from_nanos(self.0).as_secs_f64())
    }
}

/// Seconds since 1970 by the wall clock, for people to read; zero if the clock is before that.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_saturates_instead_of_wrapping() {
        let late = Time::ZERO + Duration::MAX;
        assert_eq!(late + Duration::from_secs(1), late);
        assert_eq!(Time::ZERO.since(late), Duration::ZERO);
        assert_eq!(late.since(Time::ZERO), Duration::from_nanos(u64::MAX));
    }

    #[test]
    fn now_does_not_go_back() {
        let first = Time::now();
        assert!(Time::now() >= first);
    }
}
