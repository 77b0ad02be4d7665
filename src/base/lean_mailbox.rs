//! A bounded queue from one thread to another that is mostly empty, of which there are many: it
//! takes memory for what waits in it. One of [`crate::base::mailbox`] takes it for what could.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::mailbox::{Nothing, Refused};
use crate::base::ranked::{Rank, Ranked, Signal};

/// An empty queue keeps memory for so many items.
const KEPT: usize = 16;

/// The sending end. It never waits.
pub struct LeanSender<T>(Arc<Shared<T>>);

/// The receiving end.
pub struct LeanReceiver<T>(Arc<Shared<T>>);

struct Shared<T> {
    queue: Ranked<Queue<T>>,
    changed: Signal,
}

struct Queue<T> {
    items: VecDeque<T>,
    capacity: usize,
    /// One of the ends is gone.
    closed: bool,
}

/// Makes a queue that holds at most `capacity` items.
///
/// # Panics
/// If `capacity` is zero.
#[must_use]
pub fn lean_mailbox<T>(capacity: usize) -> (LeanSender<T>, LeanReceiver<T>) {
    assert!(capacity > 0, "a mailbox holds at least one item");
    let queue = Queue { items: VecDeque::new(), capacity, closed: false };
    let shared = Shared { queue: Ranked::new(Rank::Leaf, queue), changed: Signal::new() };
    let shared = Arc::new(shared);
    (LeanSender(Arc::clone(&shared)), LeanReceiver(shared))
}

impl<T> LeanSender<T> {
    /// Puts `item` in if there is room now.
    ///
    /// # Errors
    /// Gives the item back if the queue is full or the receiver is gone.
    pub fn try_send(&self, item: T) -> Result<(), Refused<T>> {
        let mut queue = self.0.queue.lock();
        if queue.closed {
            return Err(Refused::Closed(item));
        }
        if queue.items.len() >= queue.capacity {
            return Err(Refused::Full(item));
        }
        queue.items.push_back(item);
        let is_first = queue.items.len() == 1;
        drop(queue);
        if is_first {
            self.0.changed.wake_one();
        }
        Ok(())
    }
}

impl<T> LeanReceiver<T> {
    /// Takes the next item, waiting for at most `patience`.
    ///
    /// # Errors
    /// [`Nothing`] if none came.
    pub fn recv_for(&self, patience: Duration) -> Result<T, Nothing> {
        let mut queue = self.0.queue.lock();
        if queue.items.is_empty() {
            let deadline = Time::now() + patience;
            while queue.items.is_empty() && !queue.closed && Time::now() < deadline {
                queue = self.0.changed.wait_until(queue, deadline);
            }
        }
        queue.take()
    }

    /// Takes the next item if one waits.
    ///
    /// # Errors
    /// [`Nothing`] if none does.
    pub fn try_recv(&self) -> Result<T, Nothing> {
        self.0.queue.lock().take()
    }
}

impl<T> Queue<T> {
    fn take(&mut self) -> Result<T, Nothing> {
        let Some(item) = self.items.pop_front() else {
            return Err(if self.closed { Nothing::Closed } else { Nothing::Yet });
        };
        if self.items.is_empty() {
            self.items.shrink_to(KEPT);
        }
        Ok(item)
    }
}

impl<T> Drop for LeanSender<T> {
    fn drop(&mut self) {
        self.0.queue.lock().closed = true;
        self.0.changed.wake_one();
    }
}

impl<T> Drop for LeanReceiver<T> {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        // Dropped outside of the lock.
        let _left = std::mem::take(&mut queue.items);
        drop(queue);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_gives_the_item_back_and_an_empty_queue_its_memory() {
        let (sender, receiver) = lean_mailbox(100);
        (0..100).for_each(|n| assert_eq!(sender.try_send(n), Ok(())));
        assert_eq!(sender.try_send(100), Err(Refused::Full(100)));
        (0..100).for_each(|n| assert_eq!(receiver.try_recv(), Ok(n)));
        assert_eq!(receiver.recv_for(Duration::ZERO), Err(Nothing::Yet));
        assert!(receiver.0.queue.lock().items.capacity() <= 2 * KEPT);
    }

    #[test]
    fn what_waits_is_received_after_the_sender_is_gone() {
        let (sender, receiver) = lean_mailbox(2);
        assert_eq!(sender.try_send(1), Ok(()));
        drop(sender);
        assert_eq!(receiver.recv_for(Duration::ZERO), Ok(1));
        assert_eq!(receiver.recv_for(Duration::MAX), Err(Nothing::Closed));
        let (sender, receiver) = lean_mailbox(2);
        drop(receiver);
        assert_eq!(sender.try_send(1), Err(Refused::Closed(1)));
    }

    #[test]
    fn who_waits_is_woken_by_each_item_and_by_the_end() {
        let (sender, receiver) = lean_mailbox(1);
        let taken = std::thread::spawn(move || {
            let mut sum = 0;
            while let Ok(n) = receiver.recv_for(Duration::from_secs(600)) {
                sum += n;
            }
            sum
        });
        for n in 1..=100 {
            while sender.try_send(n).is_err() {
                std::thread::yield_now();
            }
        }
        drop(sender);
        assert_eq!(taken.join().expect("it ends"), 5050);
    }
}
