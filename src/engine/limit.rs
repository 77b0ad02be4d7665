//! How much goes to peers or comes from them in a time, over all links.
//!
//! The threads of the links wait here, part by part; TCP holds the peers back. Blocks are asked
//! for, and offered, as short as fits the rate, so that no link waits long for its turn.

use crate::base::bucket::Bucket;
use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked};
use crate::base::stop::Stop;
use crate::limits::{BLOCK_LEN, BLOCK_LEN_MAX, RATE_PART_LEN_MAX, RATE_PART_LEN_MIN};

/// One direction.
pub(super) struct Limit {
    /// `None`: there is no limit.
    bucket: Option<Ranked<Bucket>>,
    part_len: usize,
    block_len_max: u32,
    stop: Stop,
}

impl Limit {
    /// At most `rate` bytes per second; `None`: any number. Nobody waits after `stop`.
    pub(super) fn new(rate: Option<u64>, stop: Stop) -> Limit {
        let Some(rate) = rate else {
            let (part_len, block_len_max) = (usize::MAX, BLOCK_LEN_MAX);
            return Limit { bucket: None, part_len, block_len_max, stop };
        };
        let part_len = usize::try_from(rate / 16).unwrap_or(usize::MAX);
        let block_len = u32::try_from(rate / 8).unwrap_or(u32::MAX);
        Limit {
            bucket: Some(Ranked::new(Rank::Leaf, Bucket::new(rate))),
            part_len: part_len.clamp(RATE_PART_LEN_MIN, RATE_PART_LEN_MAX),
            block_len_max: block_len.clamp(BLOCK_LEN, BLOCK_LEN_MAX),
            stop,
        }
    }

    /// How much may go at once.
    pub(super) fn part_len(&self) -> usize {
        self.part_len
    }

    /// The longest block to ask for, or to offer: an eighth of a second of the rate.
    pub(super) fn block_len_max(&self) -> u32 {
        self.block_len_max
    }

    /// Waits until `len` bytes may go; for none, not at all.
    pub(super) fn pass(&self, len: usize) {
        if let Some(bucket) = self.bucket.as_ref().filter(|_| len > 0) {
            let at = bucket.lock().reserve(Time::now(), len);
            // If it stops, nobody waits: what is left goes or is cut.
            let _ = self.stop.wait_until(at);
        }
    }
}
