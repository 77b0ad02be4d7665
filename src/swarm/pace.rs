//! How long to wait for others, by how fast bytes come.
//!
//! A piece of 256 KiB takes 2 ms of a line of 1 Gbit/s, and 84 ms of one of 25 Mbit/s. What is late
//! on the one is early on the other: who asks twice too soon fills the line with copies, and all is
//! late. So the times in which others may still bring a piece grow with what a piece takes here; of
//! a shorter one, with what 256 KiB take, for peers are as busy and words as late.
//! Each has a least, which holds on fast lines and while nothing is known.

use std::time::Duration;

use crate::limits::PIECE_LEN_CHEAP;
use crate::swarm::meter::time_for;

/// No wait is longer, however slowly bytes come.
const LONGEST: Duration = Duration::from_secs(20);

/// How long a host that has got nothing yet waits before it takes what a seed did not offer.
const UNKNOWN: Duration = Duration::from_secs(8);

/// The time that a piece takes at the rate at which all links together bring bytes; none as long as
/// they brought nothing. The highest rate so far counts: the rate of now is low because peers fell
/// silent, and that is no reason to wait for them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace(Duration);

impl Pace {
    /// `rate`: bytes per second of all links together, zero if not known.
    pub(super) fn new(piece_len: u32, rate: u64) -> Pace {
        let len = u64::from(piece_len.max(PIECE_LEN_CHEAP));
        Pace(if rate == 0 { Duration::ZERO } else { time_for(len, rate) })
    }

    fn at_least(self, least: Duration, pieces: u32) -> Duration {
        self.0.saturating_mul(pieces).clamp(least, LONGEST)
    }

    /// `least` if anything has come. Who has got nothing yet may be the last to whom a seed turns
    /// on a slow line: if all asked it for the first piece, it would send that to each of them.
    fn known_or(self, least: Duration) -> Duration {
        if self.0.is_zero() { least.max(UNKNOWN) } else { least }
    }

    /// So long a reader waits for others to bring the piece that it needs next.
    pub(super) fn patience(self) -> Duration {
        self.at_least(Duration::from_millis(250), 30)
    }

    /// So long it waits before a seed is asked that should rather send what nobody has.
    pub(super) fn patience_with_seed(self) -> Duration {
        self.at_least(self.known_or(Duration::from_secs(1)), 100)
    }

    /// So long we wait for a seed to suggest something before we ask it for what we like: it has
    /// `links` others to serve, too.
    pub(super) fn suggestion(self, links: usize) -> Duration {
        let pieces = links.saturating_mul(3).max(40);
        let pieces = u32::try_from(pieces).unwrap_or(u32::MAX);
        self.at_least(self.known_or(Duration::from_secs(2)), pieces)
    }

    /// So long a peer that does not say that it has a piece keeps others from being served by a
    /// host that fetches, and one that brings nothing of its pieces keeps others from being asked.
    /// Lines are taken to be about as fast up as down.
    pub(super) fn turn(self) -> Duration {
        self.at_least(Duration::from_millis(30), 14)
    }

    /// So much longer than another a link has to be to bring a block, that the other is asked for
    /// it as well. What comes late waits in the queue of a line, and the copy would wait there too.
    pub(super) fn late(self) -> Duration {
        self.at_least(Duration::from_millis(20), 10)
    }

    /// So long a link that was asked for something may bring nothing. With the time after which a
    /// seed is asked as well, no reader waits for 3 s for what is there.
    pub(super) fn silence(self) -> Duration {
        self.at_least(Duration::from_millis(1500), 20)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_with_what_a_piece_takes_between_their_least_and_the_longest() {
        let of = |piece_len, mbits: u64| Pace::new(piece_len, mbits * 125_000).patience();
        let at = |mbits| of(256 << 10, mbits);
        assert_eq!(at(0), Duration::from_millis(250));
        assert_eq!(at(1000), Duration::from_millis(250));
        assert!((2500..2520).contains(&at(25).as_millis()), "{:?}", at(25));
        assert_eq!(at(1), LONGEST);
        assert_eq!(of(16 << 10, 25), at(25), "of a shorter piece");
        assert!(of(512 << 10, 25) > at(25));
    }
}
