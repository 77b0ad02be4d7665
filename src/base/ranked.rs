//! Locks with a rank. A thread takes them in rising rank only; debug builds check it.
//!
//! **Invariant:** no lock is held over I/O, a send or a callback. The rank check cannot see that;
//! review must.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::base::clock::Time;

/// The order in which locks may be taken, lowest first. Two locks of one rank are never held
/// together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// The jobs of `fetch`.
    Jobs,
    /// One job of `fetch`.
    Job,
    /// What `fetch` remembers of who may read what.
    Grants,
    /// The index of the store.
    Index,
    /// One partial of the store.
    Partial,
    /// One feed of the store.
    Feed,
    /// State of the catalog or of an upstream: end points, tokens, back-off.
    Remote,
    /// The peers of the tracker.
    Registry,
    /// State of a server: its connections and workers.
    Server,
    /// The link table shared between the engine's threads.
    Links,
    /// Lists kept for the status page.
    Status,
    /// A leaf: nothing is locked inside it.
    Leaf,
}

/// A mutex that knows its rank. A panic of a holder does not poison it: the panic itself is dealt
/// with by [`crate::base::thread`], which ends the process if the thread was a core one.
#[derive(Debug)]
pub struct Ranked<T> {
    rank: Rank,
    inner: Mutex<T>,
}

/// The lock, held.
pub struct Guard<'a, T> {
    inner: Option<MutexGuard<'a, T>>,
    rank: Rank,
}

thread_local! {
    static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
}

fn push(rank: Rank) {
    if cfg!(debug_assertions) {
        HELD.with_borrow_mut(|held| {
            if let Some(&top) = held.last() {
                assert!(top < rank, "lock of rank {rank:?} taken while {top:?} is held");
            }
            held.push(rank);
        });
    }
}

fn pop(rank: Rank) {
    if cfg!(debug_assertions) {
        HELD.with_borrow_mut(|held| {
            if let Some(at) = held.iter().rposition(|&other| other == rank) {
                held.remove(at);
            }
        });
    }
}

impl<T> Ranked<T> {
    /// A lock of the given rank round `value`.
    pub const fn new(rank: Rank, value: T) -> Ranked<T> {
        Ranked { rank, inner: Mutex::new(value) }
    }

    /// Waits for the lock.
    ///
    /// # Panics
    /// In debug builds, if this thread holds a lock of the same or a higher rank.
    pub fn lock(&self) -> Guard<'_, T> {
        push(self.rank);
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        Guard { inner: Some(inner), rank: self.rank }
    }
}

impl<T> Deref for Guard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.inner.as_ref().expect("empty only inside a wait")
    }
}

impl<T> DerefMut for Guard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.inner.as_mut().expect("empty only inside a wait")
    }
}

impl<T> Drop for Guard<'_, T> {
    fn drop(&mut self) {
        self.inner = None;
        pop(self.rank);
    }
}

/// A condition variable for [`Ranked`] locks.
#[derive(Debug, Default)]
pub struct Signal(Condvar);

impl Signal {
    /// A signal nobody waits for yet.
    #[must_use]
    pub const fn new() -> Signal {
        Signal(Condvar::new())
    }

    /// Wakes every waiter.
    pub fn wake_all(&self) {
        self.0.notify_all();
    }

    /// Wakes one waiter, if there is any: enough when each change is work for one.
    pub fn wake_one(&self) {
        self.0.notify_one();
    }

    /// Lets go of the lock until woken; spurious wake-ups happen.
    #[must_use]
    pub fn wait<'a, T>(&self, mut guard: Guard<'a, T>) -> Guard<'a, T> {
        let inner = guard.inner.take().expect("empty only inside a wait");
        guard.inner = Some(self.0.wait(inner).unwrap_or_else(PoisonError::into_inner));
        guard
    }

    /// Lets go of the lock until woken or until `deadline` by the real clock. The caller looks at
    /// its condition and at the clock: spurious wake-ups happen.
    #[must_use]
    pub fn wait_until<'a, T>(&self, mut guard: Guard<'a, T>, deadline: Time) -> Guard<'a, T> {
        let inner = guard.inner.take().expect("empty only inside a wait");
        let patience = deadline.until(Time::now());
        let (inner, _) =
            self.0.wait_timeout(inner, patience).unwrap_or_else(PoisonError::into_inner);
        guard.inner = Some(inner);
        guard
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rising_ranks_are_fine_in_any_drop_order() {
        let low = Ranked::new(Rank::Jobs, 1);
        let high = Ranked::new(Rank::Leaf, 2);
        let a = low.lock();
        let b = high.lock();
        assert_eq!(*a + *b, 3);
        drop(a);
        drop(b);
        drop(low.lock());
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "lock of rank Jobs taken while Leaf is held")]
    fn falling_ranks_panic() {
        let low = Ranked::new(Rank::Jobs, ());
        let high = Ranked::new(Rank::Leaf, ());
        let _high = high.lock();
        let _low = low.lock();
    }

    #[test]
    fn a_wait_ends_at_its_deadline() {
        let lock = Ranked::new(Rank::Leaf, 5);
        let guard = Signal::new().wait_until(lock.lock(), Time::ZERO);
        assert_eq!(*guard, 5);
    }
}
