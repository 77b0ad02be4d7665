//! The lane of whole blobs: who announces itself when.
//!
//! **Invariant:** how many are due is known without looking at each: after a start that is all of
//! thousands, and it is asked at every announce.

use std::collections::BTreeSet;
use std::ops::Bound;

use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;

/// The lane, first due first.
#[derive(Debug, Default)]
pub(super) struct Calm {
    lane: BTreeSet<(Time, Sha1Hash)>,
    /// How many are due at `until`.
    due: usize,
    until: Time,
}

impl Calm {
    pub(super) fn insert(&mut self, due: Time, info_hash: Sha1Hash) {
        if self.lane.insert((due, info_hash)) && due <= self.until {
            self.due += 1;
        }
    }

    pub(super) fn remove(&mut self, due: Time, info_hash: Sha1Hash) {
        if self.lane.remove(&(due, info_hash)) && due <= self.until {
            self.due -= 1;
        }
    }

    /// Who is next, and when.
    pub(super) fn first(&self) -> Option<(Time, Sha1Hash)> {
        self.lane.first().copied()
    }

    /// How many are due at `now`, which does not go back.
    pub(super) fn due(&mut self, now: Time) -> usize {
        let last = Sha1Hash([u8::MAX; 20]);
        if now > self.until {
            let newly = (Bound::Excluded((self.until, last)), Bound::Included((now, last)));
            self.due += self.lane.range(newly).count();
            self.until = now;
        }
        self.due
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn those_that_come_and_go_and_become_due_are_counted() {
        let at = |seconds| Time::after_start(Duration::from_secs(seconds));
        let hash = |number| Sha1Hash([number; 20]);
        let mut calm = Calm::default();
        for (seconds, number) in [(1, 0), (1, u8::MAX), (2, 1), (3, 2)] {
            calm.insert(at(seconds), hash(number));
        }
        assert_eq!([1, 1, 2].map(|now| calm.due(at(now))), [2, 2, 3]);
        calm.insert(at(1), hash(3));
        calm.remove(at(2), hash(1));
        calm.remove(at(3), hash(2));
        calm.remove(at(3), hash(2));
        assert_eq!([2, 3].map(|now| calm.due(at(now))), [3, 3]);
        assert_eq!(calm.first(), Some((at(1), hash(0))));
    }
}
