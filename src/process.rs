//! Floor 6: what every command does first and last: log, limits, signals, threads.
//!
//! **Invariant:** after [`Process::finish`] no thread of this program is left but the calling one.

use std::fmt;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::{self, Signals};

use crate::base::args::{Opt, UsageError, Values};
use crate::base::notify::Notifier;
use crate::base::stop::Stop;
use crate::base::thread::{self, Role};
use crate::base::{log, sys};
use crate::limits;

/// One command of the program.
pub struct Command {
    /// The word on the command line.
    pub name: &'static str,
    /// What it is, in one line.
    pub about: &'static str,
    /// What it does, for its man page; paragraphs are parted by an empty line.
    pub description: &'static str,
    /// Its options.
    pub options: &'static [Opt],
    /// The files that it reads or makes, by groups: a path, with options in capitals, and what is
    /// in it.
    pub files: &'static [&'static [(&'static str, &'static str)]],
    /// Command lines, each with what it is for.
    pub examples: &'static [(&'static str, &'static str)],
    /// Runs it until a signal ends it.
    pub run: fn(Values) -> Result<(), Failure>,
}

#[cfg(test)]
impl Command {
    /// A command without anything, for tests to add to.
    pub const EMPTY: Command = Command {
        name: "empty",
        about: "Nothing.",
        description: "",
        options: &[],
        files: &[],
        examples: &[],
        run: |_| Ok(()),
    };
}

/// The signals whose second coming ends the process at once, with this added to their number.
const SIGNAL_STATUS: i32 = 128;

/// Every exit status of the program and what it means.
pub const EXIT_STATUSES: &[(i32, &str)] = &[
    (0, "Stopped in order after a signal, or printed what was asked for."),
    (1, "Broke while it started or ran. The last line on standard error says why."),
    (2, "Cannot start as it is told to. The line on standard error names the option."),
    (
        thread::PANIC_STATUS as i32,
        "A thread that the others need has panicked: a fault of the program.",
    ),
    (SIGNAL_STATUS + SIGINT, "Ended at once by a second signal, SIGINT."),
    (SIGNAL_STATUS + SIGTERM, "Ended at once by a second signal, SIGTERM."),
];

/// Why a command ended.
#[derive(Debug)]
pub enum Failure {
    /// An option or the machine does not allow it to start: exit status 2.
    Usage(UsageError),
    /// Something broke later: exit status 1.
    Broken(String),
}

impl Failure {
    /// The exit status that says so.
    #[must_use]
    pub fn status(&self) -> u8 {
        match self {
            Failure::Usage(_) => 2,
            Failure::Broken(_) => 1,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Usage(error) => write!(f, "{error}"),
            Failure::Broken(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Failure {}

impl From<UsageError> for Failure {
    fn from(error: UsageError) -> Failure {
        Failure::Usage(error)
    }
}

/// The process round a running command.
pub struct Process {
    stop: Stop,
    notifier: Notifier,
    signals: iterator::Handle,
    listener: thread::Handle,
}

impl Process {
    /// Starts logging at `log_filter`, raises the limit of open files, and listens for `SIGTERM`
    /// and `SIGINT`. The first of them sets [`Process::stop`] and is passed on to the service
    /// manager; the second ends the process at once.
    ///
    /// # Errors
    /// [`Failure::Broken`] if the system refuses a signal handler or a thread.
    pub fn start(log_filter: &log::Filter) -> Result<Process, Failure> {
        log::start(log_filter);
        match sys::raise_open_files() {
            Ok(limit) => ::log::debug!("open files: at most {limit}"),
            Err(error) => ::log::warn!("the limit of open files stays as it is: {error}"),
        }
        let (stop, notifier) = (Stop::new(), Notifier::from_environment(limits::NOTIFY));
        let mut signals = Signals::new([SIGTERM, SIGINT])
            .map_err(|error| Failure::Broken(format!("cannot listen for signals: {error}")))?;
        let handle = signals.handle();
        let (on_signal, manager) = (stop.clone(), notifier.clone());
        let listener = thread::spawn("signals", Role::Core, move || {
            for signal in signals.forever() {
                if on_signal.is_stopped() {
                    std::process::exit(SIGNAL_STATUS + signal);
                }
                ::log::info!("signal {signal}: stopping; a second one ends at once");
                manager.stopping();
                on_signal.stop();
            }
        })
        .map_err(|error| Failure::Broken(format!("cannot start a thread: {error}")))?;
        Ok(Process { stop, notifier, signals: handle, listener })
    }

    /// Says that everything listens: in the log, and to the service manager that started us.
    pub fn ready(&self, what: &str) {
        ::log::info!("{what}");
        self.notifier.ready(what);
    }

    /// The flag that a signal sets.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Ends the last thread, after the command has ended all others.
    ///
    /// # Errors
    /// [`Failure::Broken`] if a thread was left behind.
    pub fn finish(self) -> Result<(), Failure> {
        self.signals.close();
        self.listener.join();
        let left = thread::live();
        if left.is_empty() {
            return Ok(());
        }
        Err(Failure::Broken(format!("threads left after the stop: {}", left.join(", "))))
    }
}
