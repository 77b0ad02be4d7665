//! Memory for what is there whole, superblocks and files: what all of them together may take.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::base::ranked::{Rank, Ranked, Signal};

/// How much there is, and how much of it is taken. Shared.
pub(super) struct Room {
    max: u64,
    taken: Ranked<u64>,
    freed: Signal,
}

impl Room {
    /// Room for `max` bytes.
    pub(super) fn new(max: u64) -> Arc<Room> {
        Arc::new(Room { max, taken: Ranked::new(Rank::Leaf, 0), freed: Signal::new() })
    }

    /// A share that grows as it is needed; it holds nothing yet.
    pub(super) fn share(self: &Arc<Room>) -> Share {
        Share { room: Arc::clone(self), len: 0 }
    }

    /// Reads `len` bytes, as soon as others have left so much room. Who waits holds none.
    ///
    /// # Errors
    /// As `read`.
    ///
    /// # Panics
    /// If there is never so much room.
    pub(super) fn load<E>(
        self: &Arc<Room>,
        len: u64,
        read: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Loaded, E> {
        let share = self.wait_for(len);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        read(&mut bytes)?;
        Ok(Loaded::new(bytes, share))
    }

    fn wait_for(self: &Arc<Room>, len: u64) -> Share {
        assert!(len <= self.max, "room for {len} bytes among {}", self.max);
        let mut taken = self.taken.lock();
        while *taken + len > self.max {
            taken = self.freed.wait(taken);
        }
        *taken += len;
        Share { room: Arc::clone(self), len }
    }
}

/// What one holder has taken; given back on drop.
pub(super) struct Share {
    room: Arc<Room>,
    len: u64,
}

impl Share {
    /// Takes `len` bytes more; false: there is no room for them, and none were taken.
    #[must_use]
    pub(super) fn grow(&mut self, len: u64) -> bool {
        let mut taken = self.room.taken.lock();
        let fits = *taken + len <= self.room.max;
        if fits {
            *taken += len;
            self.len += len;
        }
        fits
    }

    /// As [`Share::grow`], to `len` bytes in all if it has less.
    #[must_use]
    pub(super) fn hold(&mut self, len: u64) -> bool {
        len <= self.len || self.grow(len - self.len)
    }
}

impl Share {
    /// Gives back what is beyond `len` bytes.
    pub(super) fn shrink(&mut self, len: u64) {
        let over = self.len.saturating_sub(len);
        *self.room.taken.lock() -= over;
        self.len -= over;
        self.room.freed.wake_all();
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.room.taken.lock() -= self.len;
        self.room.freed.wake_all();
    }
}

/// Bytes in memory, and the room that they take.
pub struct Loaded {
    bytes: Vec<u8>,
    _share: Share,
}

impl Loaded {
    pub(super) fn new(bytes: Vec<u8>, share: Share) -> Loaded {
        Loaded { bytes, _share: share }
    }
}

impl Deref for Loaded {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Loaded {{ {} bytes }}", self.bytes.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_bounded_and_given_back() {
        let room = Room::new(100);
        let (mut one, mut other) = (room.share(), room.share());
        assert!(one.grow(60) && !other.grow(41) && other.grow(40) && !one.grow(1));
        drop(one);
        assert!(other.hold(30) && !other.hold(101) && other.hold(100));
        other.shrink(30);
        assert_eq!(*room.taken.lock(), 30);
        other.shrink(40);
        assert!(other.hold(100));
        drop(Loaded::new(vec![0; 100], other));
        assert_eq!(*room.taken.lock(), 0);
    }

    #[test]
    fn who_waits_is_woken() {
        let room = Room::new(100);
        let first = room.wait_for(60);
        std::thread::scope(|scope| {
            let second = scope.spawn(|| drop(room.wait_for(50)));
            drop(first);
            second.join().unwrap();
        });
    }
}
