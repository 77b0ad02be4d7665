//! The threads of the links. One that has ended its work waits a moment for more: of many small
//! blobs, each has a link of its own, and to begin and end its threads takes longer than its bytes.
//!
//! **Invariant:** work that was taken is done, and every thread is known until it has ended.

use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::base::thread::{self, Handle, Role};
use crate::limits::LINK_THREAD_IDLE;
use crate::log_limited;

type Work = Box<dyn FnOnce() + Send>;

/// The threads.
pub(super) struct Crew {
    state: Ranked<State>,
    /// There is work for one that waits, or none will come.
    changed: Signal,
    /// One has ended its work.
    ended: Signal,
}

#[derive(Default)]
struct State {
    threads: Vec<Handle>,
    /// How many of them are at work, or have some waiting for them.
    busy: usize,
    /// How many wait for work.
    idle: usize,
    /// Never more than wait for it.
    work: Vec<Work>,
    closed: bool,
}

impl Crew {
    pub(super) fn new() -> Crew {
        Crew {
            state: Ranked::new(Rank::Leaf, State::default()),
            changed: Signal::new(),
            ended: Signal::new(),
        }
    }

    /// Has a thread do `work`, soon; false: the system gives none, or the crew is closed. A panic
    /// ends the work alone.
    pub(super) fn send(self: &Arc<Crew>, work: impl FnOnce() + Send + 'static) -> bool {
        let work: Work = Box::new(work);
        let finished: Vec<Handle> = {
            let mut state = self.state.lock();
            if state.closed {
                return false;
            }
            state.busy += 1;
            if state.work.len() < state.idle {
                state.work.push(work);
                drop(state);
                self.changed.wake_one();
                return true;
            }
            let (finished, live) = state.threads.drain(..).partition(Handle::is_finished);
            state.threads = live;
            finished
        };
        finished.into_iter().for_each(Handle::join);
        let crew = Arc::clone(self);
        let spawned = thread::spawn("peer", Role::Connection, move || crew.serve(work));
        let mut state = self.state.lock();
        match spawned {
            Ok(handle) => {
                state.threads.push(handle);
                true
            }
            Err(error) => {
                state.busy -= 1;
                drop(state);
                self.ended.wake_all();
                log_limited!(warn, "no thread for a peer: {error}");
                false
            }
        }
    }

    /// Does `work`, and then what else there is.
    fn serve(&self, work: Work) {
        let mut next = Some(work);
        while let Some(work) = next {
            thread::contain(work);
            next = self.next();
        }
    }

    /// Waits for more work; `None`: the thread ends.
    fn next(&self) -> Option<Work> {
        let until = Time::now() + LINK_THREAD_IDLE;
        let mut state = self.state.lock();
        (state.busy, state.idle) = (state.busy - 1, state.idle + 1);
        if state.closed {
            self.ended.wake_all();
        }
        loop {
            let work = state.work.pop();
            if work.is_some() || state.closed || Time::now() >= until {
                state.idle -= 1;
                return work;
            }
            state = self.changed.wait_until(state, until);
        }
    }

    /// Takes no more work and waits until what there is has ended; says how many have not at
    /// `deadline`.
    pub(super) fn close(&self, deadline: Time) -> usize {
        let mut state = self.state.lock();
        state.closed = true;
        self.changed.wake_all();
        while state.busy > 0 && Time::now() < deadline {
            state = self.ended.wait_until(state, deadline);
        }
        let (threads, left) = (std::mem::take(&mut state.threads), state.busy);
        drop(state);
        for thread in threads {
            // Without work, a thread is a few instructions from its end.
            if left == 0 || thread.is_finished() {
                thread.join();
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::mailbox::{Receiver, Sender, mailbox};

    /// Sends work that says which thread it is in, and waits until it is told to go on.
    fn work(crew: &Arc<Crew>) -> (Receiver<std::thread::ThreadId>, Sender<()>) {
        let ((say, said), (go, gone)) = (mailbox(1), mailbox(1));
        let sent = crew.send(move || {
            say.send(std::thread::current().id()).expect("somebody listens");
            gone.recv().expect("it is told");
        });
        assert!(sent, "a thread can be started");
        (said, go)
    }

    /// Waits until a thread waits for work.
    fn until_idle(crew: &Crew) {
        let is_idle = |state: &State| state.idle > state.work.len();
        while !is_idle(&crew.state.lock()) {
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_thread_that_has_ended_its_work_is_given_more_even_after_a_panic() {
        let crew = Arc::new(Crew::new());
        let (said, go) = work(&crew);
        let first = said.recv().expect("it runs");
        let (said, other) = work(&crew);
        assert_ne!(said.recv().expect("it runs"), first, "both are at work");
        go.send(()).expect("it waits");
        until_idle(&crew);
        assert!(crew.send(|| panic!("on purpose")));
        until_idle(&crew);
        let (said, go) = work(&crew);
        assert_eq!(said.recv().expect("it runs"), first);
        [other, go].iter().for_each(|go| go.send(()).expect("it waits"));
        assert_eq!(crew.close(Time::now() + LINK_THREAD_IDLE), 0);
    }

    #[test]
    fn at_the_end_all_work_is_waited_for_and_none_is_taken() {
        let crew = Arc::new(Crew::new());
        let (said, go) = work(&crew);
        said.recv().expect("it runs");
        assert_eq!(crew.close(Time::ZERO), 1);
        assert!(!crew.send(|| {}));
        go.send(()).expect("it waits");
        assert_eq!(crew.close(Time::now() + LINK_THREAD_IDLE), 0);
    }
}
