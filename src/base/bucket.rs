//! A token bucket: when so many bytes may go, at a rate. Time is an argument.
//!
//! **Invariant:** in any span of time no more goes than the rate allows for it, and one part more.
//! Nothing is saved up: who was idle has no burst to come.

use std::time::Duration;

use crate::base::clock::Time;

/// One direction, shared by all who use it. First come, first served: who asks again comes behind
/// those who wait, so that all get the same when all ask for parts of one length.
#[derive(Debug)]
pub struct Bucket {
    bytes_per_second: u64,
    /// When all that was let go has gone.
    free_at: Time,
}

impl Bucket {
    /// A bucket of this rate, at least 1.
    #[must_use]
    pub fn new(bytes_per_second: u64) -> Bucket {
        Bucket { bytes_per_second: bytes_per_second.max(1), free_at: Time::ZERO }
    }

    /// Lets `len` bytes go, and says when.
    pub fn reserve(&mut self, now: Time, len: usize) -> Time {
        let start = self.free_at.max(now);
        let nanos = len as u128 * 1_000_000_000 / u128::from(self.bytes_per_second);
        self.free_at = start + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        start
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::after_start(Duration::from_millis(millis))
    }

    #[test]
    fn parts_go_one_after_the_other_at_the_rate() {
        let mut bucket = Bucket::new(1000);
        assert_eq!(bucket.reserve(at(5000), 100), at(5000), "the first at once");
        assert_eq!(bucket.reserve(at(5000), 300), at(5100));
        assert_eq!(bucket.reserve(at(5050), 1), at(5400), "behind those who wait");
        assert_eq!(bucket.reserve(at(9000), 500), at(9000), "no time is saved up");
        assert_eq!(bucket.reserve(at(9000), 500), at(9500));
    }

    #[test]
    fn those_who_ask_in_turn_get_the_same() {
        let mut bucket = Bucket::new(1 << 20);
        let mut due = [at(0); 3];
        let mut sent = [0; 3];
        // Each asks for its next part when the one before went.
        while let Some(link) = (0..3).min_by_key(|link| due[*link]).filter(|l| due[*l] < at(3000)) {
            due[link] = bucket.reserve(due[link], 16 << 10);
            sent[link] += 16 << 10;
        }
        assert!(sent.iter().all(|bytes| (1_000_000..1_100_000).contains(bytes)), "{sent:?}");
    }

    #[test]
    fn numbers_at_the_end_of_their_range_do_no_harm() {
        let mut bucket = Bucket::new(0);
        bucket.reserve(at(1), usize::MAX);
        assert!(bucket.reserve(at(2), 1) > at(1 << 40));
        assert_eq!(Bucket::new(u64::MAX).reserve(at(3), usize::MAX), at(3));
    }
}
