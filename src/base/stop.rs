//! One word to end everything: a flag that threads can wait on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked, Signal};

/// Clones share the flag. Once set it stays set.
#[derive(Clone, Debug)]
pub struct Stop(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stopped: AtomicBool,
    lock: Ranked<()>,
    signal: Signal,
}

impl Default for Stop {
    fn default() -> Self {
        Stop::new()
    }
}

impl Stop {
    /// A flag that is not set.
    #[must_use]
    pub fn new() -> Stop {
        Stop(Arc::new(Inner {
            stopped: AtomicBool::new(false),
            lock: Ranked::new(Rank::Leaf, ()),
            signal: Signal::new(),
        }))
    }

    /// Sets the flag and wakes all who wait.
    pub fn stop(&self) {
        // Under the lock: a waiter between its look at the flag and its wait cannot miss the
        // wake-up.
        let _guard = self.0.lock.lock();
        self.0.stopped.store(true, Ordering::Release);
        self.0.signal.wake_all();
    }

    /// Whether the flag is set.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.stopped.load(Ordering::Acquire)
    }

    /// Waits until the flag is set, at most `patience`; says whether it is set.
    #[must_use]
    pub fn wait_for(&self, patience: Duration) -> bool {
        self.wait_until(Time::now() + patience)
    }

    /// Waits until the flag is set or `deadline` passes by the real clock; says whether it is set.
    #[must_use]
    pub fn wait_until(&self, deadline: Time) -> bool {
        let mut guard = self.0.lock.lock();
        while !self.is_stopped() && Time::now() < deadline {
            guard = self.0.signal.wait_until(guard, deadline);
        }
        self.is_stopped()
    }

    /// Waits until the flag is set.
    pub fn wait(&self) {
        let mut guard = self.0.lock.lock();
        while !self.is_stopped() {
            guard = self.0.signal.wait(guard);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiter_is_woken() {
        let stop = Stop::new();
        let other = stop.clone();
        let waiter = std::thread::spawn(move || other.wait());
        assert!(!stop.wait_for(Duration::from_millis(1)));
        stop.stop();
        waiter.join().expect("the waiter does not panic");
        assert!(stop.wait_for(Duration::ZERO));
    }
}
