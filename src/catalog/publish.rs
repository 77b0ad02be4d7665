//! What is written to the catalog: one thread, one bounded queue, tried until it is done.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::base::stop::Stop;
use crate::base::thread::{self, Role};
use crate::catalog::etcd::{CatalogError, Client};
use crate::limits;
use crate::proto::etcd::{Compare, Operation, OperationAnswer, Range, Request, TxnAnswer};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Store a value.
    Publish {
        /// Its key.
        key: String,
        /// The value, such as a `.torrent`.
        value: Vec<u8>,
    },
    /// Delete an entry if it has this value.
    Withdraw {
        /// Its key.
        key: String,
        /// The value.
        value: Vec<u8>,
    },
}

impl Task {
    /// Bytes that it holds.
    fn len(&self) -> usize {
        match self {
            Task::Publish { value, .. } | Task::Withdraw { value, .. } => value.len(),
        }
    }
}

/// The thread and its queue.
pub struct Publisher {
    shared: Arc<Shared>,
    thread: Ranked<Option<thread::Handle>>,
}

struct Shared {
    client: Arc<Client>,
    queue: Ranked<VecDeque<Task>>,
    changed: Signal,
    stop: Stop,
}

impl Publisher {
    /// Starts the thread.
    ///
    /// # Errors
    /// If the system refuses it.
    pub fn start(client: Arc<Client>) -> io::Result<Publisher> {
        let queue = Ranked::new(Rank::Remote, VecDeque::new());
        let shared = Shared { client, queue, changed: Signal::new(), stop: Stop::new() };
        let shared = Arc::new(shared);
        let worker = Arc::clone(&shared);
        let thread = thread::spawn("publish", Role::Core, move || worker.run())?;
        Ok(Publisher { shared, thread: Ranked::new(Rank::Leaf, Some(thread)) })
    }

    /// Adds a task; of too many, the oldest is dropped.
    pub fn push(&self, task: Task) {
        let mut queue = self.shared.queue.lock();
        queue.push_back(task);
        let mut bytes: usize = queue.iter().map(Task::len).sum();
        while queue.len() > limits::PUBLISH_QUEUE_MAX || bytes > limits::PUBLISH_BYTES_MAX {
            let Some(dropped) = queue.pop_front() else { break };
            bytes -= dropped.len();
        }
        figures::QUEUE_PUBLISH.set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
        drop(queue);
        self.shared.changed.wake_all();
    }

    /// Ends the thread, after the call that it is in.
    pub fn stop(&self) {
        self.shared.stop.stop();
        // Taken and let go of: the thread is either before its look at the flag or in its wait.
        drop(self.shared.queue.lock());
        self.shared.changed.wake_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread {
            thread.join();
        }
    }
}

impl Shared {
    fn run(&self) {
        while let Some(task) = self.next() {
            let mut failures = 0;
            while let Err(error) = self.perform(&task) {
                figures::CATALOG_FAILED.add(1);
                if error.is_final() {
                    log::error!("not published: {error}");
                    break;
                }
                if matches!(error, CatalogError::Refused(_)) {
                    // Who does not answer is logged by the client; this one does.
                    crate::log_limited!(warn, "not published, and tried again: {error}");
                }
                failures += 1;
                if self.stop.wait_for(pause(failures)) {
                    return;
                }
            }
        }
    }

    fn next(&self) -> Option<Task> {
        let mut queue = self.queue.lock();
        loop {
            if self.stop.is_stopped() {
                return None;
            }
            if let Some(task) = queue.pop_front() {
                figures::QUEUE_PUBLISH.set(i64::try_from(queue.len()).unwrap_or(i64::MAX));
                return Some(task);
            }
            queue = self.changed.wait(queue);
        }
    }

    fn perform(&self, task: &Task) -> Result<(), CatalogError> {
        match task {
            Task::Publish { key, value } => self.publish(key, value),
            Task::Withdraw { key, value } => self.withdraw(key, value),
        }
    }

    /// One transaction, which may be repeated: nothing if the value is there, else read and write.
    fn publish(&self, entry: &str, value: &[u8]) -> Result<(), CatalogError> {
        let key = entry.as_bytes();
        let compare = [Compare::Value { key, value }];
        let read = Operation::Range(Range { keys_only: true, ..Range::of_key(key) });
        let write = Operation::Put { key, value, lease: None };
        let answer = self.transact(&compare, &[read, write])?;
        if let Some(OperationAnswer::Range(found)) = answer.answers.first()
            && !found.pairs.is_empty()
        {
            log::warn!("{entry}: the catalog had another value, which is replaced");
        }
        figures::CATALOG_PUBLISHED.add(1);
        log::debug!("{entry} is published");
        Ok(())
    }

    fn withdraw(&self, entry: &str, value: &[u8]) -> Result<(), CatalogError> {
        let key = entry.as_bytes();
        let request = Request::Txn {
            compare: &[Compare::Value { key, value }],
            success: &[Operation::Delete { key }],
            failure: &[],
        };
        self.client.call(&request, Time::now() + limits::CATALOG_CALL).map(|_| ())
    }

    fn transact(
        &self,
        compare: &[Compare<'_>],
        failure: &[Operation<'_>],
    ) -> Result<TxnAnswer, CatalogError> {
        let request = Request::Txn { compare, success: &[], failure };
        let body = self.client.call(&request, Time::now() + limits::CATALOG_CALL)?;
        Ok(TxnAnswer::decode(&body)?)
    }
}

/// From half a second, doubling to a minute.
fn pause(failures: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(60);
    let doubled = Duration::from_millis(500).saturating_mul(1 << failures.saturating_sub(1).min(8));
    doubled.min(LONGEST)
}
