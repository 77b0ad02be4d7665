//! Bounded queues between threads, most of them over `crossbeam-channel`.
//!
//! Every queue has a capacity that its maker names; "full" is the sender's business:
//! [`Sender::send`] waits, [`Sender::try_send`] does not. There is no queue without a bound in this
//! program.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel as channel;

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked, Signal};

/// Items for which a lean queue keeps its memory while it is empty.
const LEAN_KEPT: usize = 16;

/// The other side is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed;

/// Why [`Sender::try_send`] gave the item back.
#[derive(Debug, PartialEq, Eq)]
pub enum Refused<T> {
    /// The queue is full.
    Full(T),
    /// The receiver is gone.
    Closed(T),
}

/// Why a receive with a deadline brought nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nothing {
    /// The deadline passed (or, for [`Receiver::try_recv`], nothing waits).
    Yet,
    /// All senders are gone and the queue is empty.
    Closed,
}

/// The sending end. Clones feed the same queue.
pub struct Sender<T>(channel::Sender<T>);

/// The receiving end. Clones share the items: each item goes to one receiver.
pub struct Receiver<T>(channel::Receiver<T>);

/// The only sending end of a queue of [`lean_mailbox`].
pub struct LeanSender<T> {
    lean: Arc<Lean<T>>,
    capacity: usize,
}

/// Its only receiving end.
pub struct LeanReceiver<T>(Arc<Lean<T>>);

/// What the two ends share.
struct Lean<T> {
    state: Ranked<LeanState<T>>,
    changed: Signal,
}

struct LeanState<T> {
    items: VecDeque<T>,
    /// The receiver sleeps until it is woken.
    sleeps: bool,
    /// One of the ends is gone.
    closed: bool,
}

/// Makes a queue that holds at most `capacity` items.
///
/// # Panics
/// If `capacity` is zero: a rendezvous is not a queue.
#[must_use]
pub fn mailbox<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    assert!(capacity > 0, "a mailbox holds at least one item");
    let (sender, receiver) = channel::bounded(capacity);
    (Sender(sender), Receiver(receiver))
}

/// Makes a queue that holds at most `capacity` items and is mostly empty, of which there are many:
/// it takes memory for what waits in it, where that of [`mailbox`] takes that of all it could hold.
/// Who waits for an item sleeps at once, and does not look a few times more as with [`mailbox`]:
/// where many threads wait for little, that takes more time than all they do.
///
/// # Panics
/// If `capacity` is zero.
#[must_use]
pub fn lean_mailbox<T>(capacity: usize) -> (LeanSender<T>, LeanReceiver<T>) {
    assert!(capacity > 0, "a mailbox holds at least one item");
    let state = LeanState { items: VecDeque::new(), sleeps: false, closed: false };
    let lean = Lean { state: Ranked::new(Rank::Leaf, state), changed: Signal::new() };
    let lean = Arc::new(lean);
    (LeanSender { lean: Arc::clone(&lean), capacity }, LeanReceiver(lean))
}

impl<T> LeanSender<T> {
    /// Puts `item` in if there is room now.
    ///
    /// # Errors
    /// Gives the item back if the queue is full or the receiver is gone.
    pub fn try_send(&mut self, item: T) -> Result<(), Refused<T>> {
        let mut state = self.lean.state.lock();
        if state.closed {
            return Err(Refused::Closed(item));
        }
        if state.items.len() >= self.capacity {
            return Err(Refused::Full(item));
        }
        state.items.push_back(item);
        let wake = std::mem::take(&mut state.sleeps);
        drop(state);
        if wake {
            self.lean.changed.wake_one();
        }
        Ok(())
    }
}

impl<T> Drop for LeanSender<T> {
    fn drop(&mut self) {
        let mut state = self.lean.state.lock();
        state.closed = true;
        let wake = state.sleeps;
        drop(state);
        if wake {
            self.lean.changed.wake_one();
        }
    }
}

impl<T> LeanReceiver<T> {
    /// Takes the next item, waiting for at most `patience`.
    ///
    /// # Errors
    /// [`Nothing`] if none came.
    pub fn recv_for(&self, patience: Duration) -> Result<T, Nothing> {
        let mut until = None;
        let mut state = self.0.state.lock();
        loop {
            match state.next() {
                Err(Nothing::Yet) => {}
                next => return next,
            }
            let now = Time::now();
            let until = *until.get_or_insert(now + patience);
            if now >= until {
                return Err(Nothing::Yet);
            }
            state.sleeps = true;
            state = self.0.changed.wait_until(state, until);
            state.sleeps = false;
        }
    }

    /// Takes the next item if one waits.
    ///
    /// # Errors
    /// [`Nothing`] if none does.
    pub fn try_recv(&self) -> Result<T, Nothing> {
        self.0.state.lock().next()
    }
}

impl<T> Drop for LeanReceiver<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.closed = true;
        let unread = std::mem::take(&mut state.items);
        drop(state);
        drop(unread);
    }
}

impl<T> LeanState<T> {
    /// The next item; what an earlier crowd took of memory goes with its last.
    fn next(&mut self) -> Result<T, Nothing> {
        match self.items.pop_front() {
            Some(item) => {
                if self.items.is_empty() {
                    self.items.shrink_to(LEAN_KEPT);
                }
                Ok(item)
            }
            None if self.closed => Err(Nothing::Closed),
            None => Err(Nothing::Yet),
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender(self.0.clone())
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Receiver(self.0.clone())
    }
}

impl<T> Sender<T> {
    /// Puts `item` in, waiting while the queue is full.
    ///
    /// # Errors
    /// [`Closed`] if no receiver is left.
    pub fn send(&self, item: T) -> Result<(), Closed> {
        self.0.send(item).map_err(|_| Closed)
    }

    /// Puts `item` in if there is room now.
    ///
    /// # Errors
    /// Gives the item back if the queue is full or no receiver is left.
    pub fn try_send(&self, item: T) -> Result<(), Refused<T>> {
        self.0.try_send(item).map_err(|refused| match refused {
            channel::TrySendError::Full(item) => Refused::Full(item),
            channel::TrySendError::Disconnected(item) => Refused::Closed(item),
        })
    }

    /// How many items wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.len()
    }
}

impl<T> Receiver<T> {
    /// Takes the next item, waiting for one.
    ///
    /// # Errors
    /// [`Closed`] if all senders are gone and the queue is empty.
    pub fn recv(&self) -> Result<T, Closed> {
        self.0.recv().map_err(|_| Closed)
    }

    /// Takes the next item, waiting for at most `patience`.
    ///
    /// # Errors
    /// [`Nothing`] if none came.
    pub fn recv_for(&self, patience: Duration) -> Result<T, Nothing> {
        self.0.recv_timeout(patience).map_err(|why| match why {
            channel::RecvTimeoutError::Timeout => Nothing::Yet,
            channel::RecvTimeoutError::Disconnected => Nothing::Closed,
        })
    }

    /// Takes the next item, waiting until `deadline` by the real clock.
    ///
    /// # Errors
    /// [`Nothing`] if none came.
    pub fn recv_until(&self, deadline: Time) -> Result<T, Nothing> {
        self.recv_for(deadline.until(Time::now()))
    }

    /// Takes the next item if one waits.
    ///
    /// # Errors
    /// [`Nothing`] if none does.
    pub fn try_recv(&self) -> Result<T, Nothing> {
        self.0.try_recv().map_err(|why| match why {
            channel::TryRecvError::Empty => Nothing::Yet,
            channel::TryRecvError::Disconnected => Nothing::Closed,
        })
    }

    /// How many items wait.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_gives_the_item_back() {
        let (sender, receiver) = mailbox(1);
        assert_eq!(sender.try_send(1), Ok(()));
        assert_eq!(sender.try_send(2), Err(Refused::Full(2)));
        assert_eq!(receiver.recv(), Ok(1));
        drop(receiver);
        assert_eq!(sender.try_send(3), Err(Refused::Closed(3)));
        assert_eq!(sender.send(3), Err(Closed));
    }

    #[test]
    fn a_lean_one_has_the_same_bound() {
        let (mut sender, receiver) = lean_mailbox(100);
        (0..100).for_each(|n| assert_eq!(sender.try_send(n), Ok(())));
        assert_eq!(sender.try_send(100), Err(Refused::Full(100)));
        (0..100).for_each(|n| assert_eq!(receiver.try_recv(), Ok(n)));
        assert_eq!(sender.try_send(100), Ok(()));
        drop(receiver);
        assert_eq!(sender.try_send(101), Err(Refused::Closed(101)));
    }

    #[test]
    fn a_lean_one_wakes_who_sleeps_and_is_emptied_before_it_is_closed() {
        let (mut sender, receiver) = lean_mailbox(2);
        let patience = Duration::from_secs(60);
        assert_eq!(receiver.recv_for(Duration::ZERO), Err(Nothing::Yet));
        std::thread::scope(|scope| {
            let received = scope.spawn(|| [(); 3].map(|()| receiver.recv_for(patience)));
            sender.try_send(1).expect("there is room");
            while !receiver.0.state.lock().sleeps {
                std::thread::yield_now();
            }
            sender.try_send(2).expect("there is room");
            drop(sender);
            assert_eq!(received.join().expect("it ends"), [Ok(1), Ok(2), Err(Nothing::Closed)]);
        });
        assert_eq!(receiver.try_recv(), Err(Nothing::Closed));
    }

    #[test]
    fn a_closed_queue_is_emptied_first() {
        let (sender, receiver) = mailbox(2);
        sender.send(1).expect("the receiver lives");
        drop(sender);
        assert_eq!(receiver.recv_for(Duration::ZERO), Ok(1));
        assert_eq!(receiver.recv_for(Duration::ZERO), Err(Nothing::Closed));
    }

    #[test]
    fn nothing_yet_is_not_closed() {
        let (_sender, receiver) = mailbox::<u8>(1);
        assert_eq!(receiver.try_recv(), Err(Nothing::Yet));
        assert_eq!(receiver.recv_until(Time::ZERO), Err(Nothing::Yet));
    }
}
