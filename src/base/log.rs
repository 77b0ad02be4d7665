//! Logging: the `log` facade with `env_logger` behind it, one line per event on standard error, and
//! a limit for lines that a peer or a client can cause.
//!
//! The journal of systemd keeps the time itself, and takes the level from the front of a line
//! (`sd-daemon(3)`): there a line begins with `<4>` for a warning, and with the time elsewhere.

use std::fmt;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::str::FromStr;
use std::time::Duration;

use ::log::{Level, LevelFilter};

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked};

/// What is logged: a level, or `module=level`, or several of these with commas between them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter(String);

/// Text that is no [`Filter`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterError(String);

impl fmt::Display for FilterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is none of off, error, warn, info, debug and trace", self.0)
    }
}

impl std::error::Error for FilterError {}

impl FromStr for Filter {
    type Err = FilterError;

    /// Stricter than `env_logger`, which takes a mistyped level for the name of a module.
    fn from_str(text: &str) -> Result<Filter, FilterError> {
        for part in text.split(',') {
            let level = part.rsplit('=').next().unwrap_or(part).trim();
            if level.parse::<LevelFilter>().is_err() {
                return Err(FilterError(level.to_owned()));
            }
        }
        Ok(Filter(text.to_owned()))
    }
}

/// Starts logging. Later calls do nothing: tests start many clients in one process.
pub fn start(filter: &Filter) {
    let in_journal = is_journal(std::env::var("JOURNAL_STREAM").ok().as_deref());
    let _ = env_logger::Builder::new()
        .parse_filters(&filter.0)
        .format(move |out, record| {
            if in_journal {
                write!(out, "<{}>", priority(record.level()))?;
            } else {
                let at = httpdate::fmt_http_date(std::time::SystemTime::now());
                write!(out, "{} ", at.get(17..25).unwrap_or(""))?;
            }
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("-");
            writeln!(out, "{:5} {name}: {}", record.level(), record.args())
        })
        .try_init();
}

/// Whether standard error is the journal: `stream` is `JOURNAL_STREAM`, which names the device and
/// the inode of what systemd connected it with, and is inherited by those whose output goes
/// elsewhere.
fn is_journal(stream: Option<&str>) -> bool {
    let Some((device, inode)) = stream.and_then(|stream| stream.split_once(':')) else {
        return false;
    };
    let meta = std::io::stderr().as_fd().try_clone_to_owned().map(File::from);
    let meta = meta.and_then(|file| file.metadata());
    meta.is_ok_and(|meta| device.parse() == Ok(meta.dev()) && inode.parse() == Ok(meta.ino()))
}

/// The priority of `syslog(3)`.
fn priority(level: Level) -> u8 {
    match level {
        Level::Error => 3,
        Level::Warn => 4,
        Level::Info => 6,
        Level::Debug | Level::Trace => 7,
    }
}

/// Lets a line through at most once per period and counts what it held back.
#[derive(Debug)]
pub struct Limiter {
    period: Duration,
    state: Ranked<State>,
}

#[derive(Debug)]
struct State {
    open_at: Time,
    held_back: u64,
}

impl Limiter {
    /// A limiter that lets the first line through.
    #[must_use]
    pub const fn new(period: Duration) -> Limiter {
        let state = State { open_at: Time::ZERO, held_back: 0 };
        Limiter { period, state: Ranked::new(Rank::Leaf, state) }
    }

    /// Whether a line may be written now; if so, how many were held back since the last.
    pub fn pass(&self, now: Time) -> Option<u64> {
        let mut state = self.state.lock();
        if now < state.open_at {
            state.held_back += 1;
            return None;
        }
        state.open_at = now + self.period;
        Some(std::mem::take(&mut state.held_back))
    }
}

/// How often one place in the code may write a line that others cause.
pub const LIMITED_PERIOD: Duration = Duration::from_secs(10);

/// A log line that a peer or a client can cause: at most one per place and
/// [`LIMITED_PERIOD`], with the number of lines that were held back.
#[macro_export]
macro_rules! log_limited {
    ($level:ident, $($text:tt)+) => {{
        static LIMITER: $crate::base::log::Limiter =
            $crate::base::log::Limiter::new($crate::base::log::LIMITED_PERIOD);
        match LIMITER.pass($crate::base::clock::Time::now()) {
            Some(0) => ::log::$level!("{}", format_args!($($text)+)),
            Some(more) => {
                ::log::$level!("{} ({more} like this held back)", format_args!($($text)+));
            }
            None => {}
        }
    }};
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_made_of_levels() {
        for text in ["info", "WARN", "off", "info,torrent_cache=debug", "a::b=trace, error"] {
            assert!(text.parse::<Filter>().is_ok(), "{text}");
        }
        for text in ["", "loud", "torrent_cache", "torrent_cache=", "info,", "a=debgu,info"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_the_stream_that_systemd_connected_is_the_journal() {
        let stderr = std::io::stderr().as_fd().try_clone_to_owned().map(File::from);
        let meta = stderr.and_then(|file| file.metadata()).expect("it is open");
        assert!(is_journal(Some(&format!("{}:{}", meta.dev(), meta.ino()))));
        assert!(!is_journal(Some(&format!("{}:{}", meta.dev(), meta.ino() + 1))));
        assert!(!is_journal(Some("8")) && !is_journal(Some("a:b")) && !is_journal(None));
    }

    #[test]
    fn limiter_counts_what_it_holds_back() {
        let limiter = Limiter::new(Duration::from_secs(10));
        let at = |secs| Time::after_start(Duration::from_secs(secs));
        assert_eq!(limiter.pass(at(1)), Some(0));
        assert_eq!(limiter.pass(at(2)), None);
        assert_eq!(limiter.pass(at(10)), None);
        assert_eq!(limiter.pass(at(11)), Some(2));
        assert_eq!(limiter.pass(at(21)), Some(0));
    }
}
