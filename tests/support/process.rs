//! A process that a test started: its output is kept, and it ends with the test.

use std::fs;
use std::io::Read;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use torrent_cache::base::sys;

use super::{PATIENCE, wait_for};

/// A child process. Killed on drop; its output is printed if the test fails.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    output: Arc<Mutex<Vec<u8>>>,
    readers: Vec<JoinHandle<()>>,
}

/// What a command that ran to its end left behind.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub output: String,
}

impl Process {
    /// Starts `command`. `name` says who speaks when its output is printed, `package` is the Debian
    /// package to install if there is no such program.
    pub fn spawn(name: &str, mut command: Command, package: &str) -> Process {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| {
            let program = command.get_program().to_string_lossy();
            panic!("cannot start {program}: {error}; is it installed? (apt-get install {package})")
        });
        let output = Arc::new(Mutex::new(Vec::new()));
        let mut readers = Vec::new();
        readers.extend(child.stdout.take().map(|pipe| collect(pipe, Arc::clone(&output))));
        readers.extend(child.stderr.take().map(|pipe| collect(pipe, Arc::clone(&output))));
        Process { name: name.to_owned(), child, output, readers }
    }

    /// Runs `command` to its end.
    pub fn run(name: &str, command: Command, package: &str) -> Finished {
        let mut process = Process::spawn(name, command, package);
        let status = process.wait(4 * PATIENCE);
        process.join_readers();
        Finished { status, output: process.output() }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of `/proc/PID/status` that is a number (`proc(5)`): `Threads`, or memory in KiB, such
    /// as `VmRSS`.
    pub fn proc_status(&self, name: &str) -> usize {
        let path = format!("/proc/{}/status", self.pid());
        let text = fs::read_to_string(path).expect("it runs");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.expect("the kernel counts it")
    }

    /// Bytes that it has read of files so far, cached or not (`rchar` of `proc(5)`), and a little
    /// from sockets.
    pub fn bytes_read(&self) -> i64 {
        let path = format!("/proc/{}/io", self.pid());
        let text = fs::read_to_string(path).expect("it runs");
        let number = text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok());
        number.expect("the kernel counts it")
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Everything it has written so far, both streams as they came.
    pub fn output(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }

    /// Waits until `condition`, which is given the output, gives a value.
    ///
    /// # Panics
    /// If the process ends first, or after [`PATIENCE`].
    pub fn wait_until<T>(&mut self, what: &str, mut condition: impl FnMut(&str) -> Option<T>) -> T {
        let start = Instant::now();
        loop {
            let running = self.is_running();
            if let Some(value) = condition(&self.output()) {
                return value;
            }
            assert!(running, "{} ended before {what}", self.name);
            assert!(start.elapsed() < PATIENCE, "{}: waited {PATIENCE:?} for {what}", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// If it runs longer than `patience`.
    pub fn wait(&mut self, patience: Duration) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return status;
            }
            assert!(start.elapsed() < patience, "{} still runs after {patience:?}", self.name);
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Asks it to stop (SIGTERM) and waits for its end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait(PATIENCE)
    }

    /// Kills it (SIGKILL) and waits for its end.
    pub fn kill(&mut self) -> ExitStatus {
        self.signal(libc::SIGKILL);
        self.wait(PATIENCE)
    }

    /// Kills it if it still runs, and says all that it has written.
    pub fn finish(mut self) -> Finished {
        let _ = self.child.kill();
        let status = self.child.wait().expect("a child can be waited for");
        self.join_readers();
        Finished { status, output: self.output() }
    }

    /// Freezes it (SIGSTOP): its connections stay open and silent. On a busy machine its threads
    /// run on for a moment, which is waited for.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        wait_for("its threads to stop", || self.is_stopped().then_some(()));
    }

    /// Whether none of its threads runs (`proc(5)`, the state in `stat`).
    fn is_stopped(&self) -> bool {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid())).expect("it runs");
        threads.flatten().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat"));
            stat.is_ok_and(|stat| {
                stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
            })
        })
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    fn signal(&self, signal: i32) {
        // Until it was waited for, the pid is nobody else's.
        sys::kill(self.child.id(), signal).expect("a child can be signalled");
    }

    fn join_readers(&mut self) {
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            println!("---- output of {} ----\n{}", self.name, self.output());
        }
        // The readers are not joined: a grandchild may hold the pipes open for longer.
    }
}

fn collect(mut pipe: impl Read + Send + 'static, output: Arc<Mutex<Vec<u8>>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut part = [0; 8192];
        while let Ok(len @ 1..) = pipe.read(&mut part) {
            let mut output = output.lock().unwrap_or_else(PoisonError::into_inner);
            output.extend_from_slice(&part[..len]);
        }
    })
}
