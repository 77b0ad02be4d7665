//! Named threads that are counted, and whose panics mean something.
//!
//! **Invariant:** every thread of the program is started here. A panic in a [`Role::Core`] thread
//! ends the process, since the others would go on with half a program; a panic in a
//! [`Role::Connection`] thread ends that connection and is counted.

use std::any::Any;
use std::cell::RefCell;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process;
use std::thread::{self, JoinHandle};

use crate::base::figures;
use crate::base::ranked::{Rank, Ranked};
use crate::base::sys;

/// What a panic in the thread means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The process cannot go on without it.
    Core,
    /// It serves one connection or one job.
    Connection,
}

/// Exit status after a panic in a core thread.
pub const PANIC_STATUS: u8 = 70;

static LIVE: Ranked<Vec<String>> = Ranked::new(Rank::Leaf, Vec::new());

/// A thread that can be waited for.
#[derive(Debug)]
pub struct Handle {
    name: String,
    inner: JoinHandle<()>,
}

/// Starts a thread. The kernel shows the first 15 bytes of `name`.
///
/// # Errors
/// If the system refuses another thread.
pub fn spawn(
    name: impl Into<String>,
    role: Role,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<Handle> {
    let name = name.into();
    let live = Live::enter(&name);
    let inner = thread::Builder::new().name(name.clone()).spawn(move || {
        let live = live;
        if let Err(panic) = catch_unwind(AssertUnwindSafe(body)) {
            on_panic(&live.0, role, panic.as_ref());
        }
    })?;
    Ok(Handle { name, inner })
}

thread_local! {
    static BEFORE_WAIT: RefCell<Option<Box<dyn Fn()>>> = const { RefCell::new(None) };
}

/// Sets what the calling thread does whenever it is about to wait for somebody else.
pub fn on_wait(act: impl Fn() + 'static) {
    BEFORE_WAIT.set(Some(Box::new(act)));
}

/// Called, with no lock held, before a wait for somebody else that may be long: a thread that has
/// more to do than this lets others do it.
pub fn before_wait() {
    BEFORE_WAIT.with_borrow(|act| act.iter().for_each(|act| act()));
}

/// Makes the calling thread give way to others where processors are scarce, until it ends: the
/// more, the higher `nice` is, up to 19. If the system refuses, it does not.
pub fn give_way(nice: i32) {
    let _ = sys::set_nice(nice);
}

/// Runs `body` for one connection of a thread that serves many: a panic ends that connection, is
/// counted like one of a [`Role::Connection`] thread, and gives `None`.
pub fn contain<T>(body: impl FnOnce() -> T) -> Option<T> {
    let caught = catch_unwind(AssertUnwindSafe(body));
    let report = |panic: &Box<dyn Any + Send>| {
        let thread = thread::current();
        on_panic(thread.name().unwrap_or("-"), Role::Connection, panic.as_ref());
    };
    caught.inspect_err(report).ok()
}

fn on_panic(name: &str, role: Role, panic: &(dyn Any + Send)) {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    figures::THREAD_PANICS.add(1);
    match role {
        Role::Connection => log::error!("thread {name} panicked, its connection is lost: {text}"),
        Role::Core => {
            log::error!("thread {name} panicked, the process ends: {text}");
            process::exit(PANIC_STATUS.into());
        }
    }
}

impl Handle {
    /// The name it was started with.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.inner.is_finished()
    }

    /// Waits for its end.
    pub fn join(self) {
        // The body's panics are caught inside; what is left is a panic while logging one.
        let _ = self.inner.join();
    }
}

/// The names of the threads started here that have not ended, in no order.
#[must_use]
pub fn live() -> Vec<String> {
    LIVE.lock().clone()
}

struct Live(String);

impl Live {
    fn enter(name: &str) -> Live {
        LIVE.lock().push(name.to_owned());
        Live(name.to_owned())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        let mut live = LIVE.lock();
        if let Some(at) = live.iter().position(|name| *name == self.0) {
            live.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_listed_while_it_lives() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let handle = spawn("listed-thread", Role::Connection, move || {
            let _ = receiver.recv();
        })
        .expect("a thread can be started");
        assert!(live().contains(&"listed-thread".to_owned()));
        drop(sender);
        handle.join();
        assert!(!live().contains(&"listed-thread".to_owned()));
    }
}
