//! The times of modification that say, after a restart, which blob was used last.
//!
//! **Invariant:** each stamp is later than all before it and than every one that the start found,
//! whatever the wall clock does: a host without a battery begins in 1970, and a clock that is set
//! right may go back.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Between two stamps when the clock stands before the newest: file systems round, few as coarsely.
const STEP: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug)]
pub struct Stamps {
    /// Nanoseconds since 1970. They end in 2554.
    newest: AtomicU64,
}

impl Stamps {
    /// Stamps that are later than `newest`.
    pub fn after(newest: SystemTime) -> Stamps {
        Stamps { newest: AtomicU64::new(nanos(newest)) }
    }

    /// The next: `now`, if that is late enough.
    pub fn next(&self, now: SystemTime) -> SystemTime {
        let step = u64::try_from(STEP.as_nanos()).unwrap_or(u64::MAX);
        let later = |newest: u64| newest.saturating_add(step).max(nanos(now));
        let update = self
            .newest
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |newest| Some(later(newest)));
        let (Ok(before) | Err(before)) = update;
        UNIX_EPOCH + Duration::from_nanos(later(before))
    }
}

fn nanos(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_whatever_the_clock_does() {
        let at = |secs| UNIX_EPOCH + Duration::from_secs(secs);
        let stamps = Stamps::after(at(1000));
        assert_eq!(stamps.next(at(2000)), at(2000));
        assert_eq!(stamps.next(at(10)), at(2000) + STEP);
        assert_eq!(stamps.next(UNIX_EPOCH - STEP), at(2000) + 2 * STEP);
        assert_eq!(stamps.next(at(3000)), at(3000));
        let late = Stamps::after(at(u64::from(u32::MAX) * 8));
        assert!(late.next(at(1)) >= late.next(at(1)), "at the end of time the order is lost");
    }
}
