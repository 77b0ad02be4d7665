//! Logging: the `log` facade with `env_logger` behind it, one line per event on standard error, and
//! a limit for lines that a peer or a client can cause.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;
use std::time::Duration;

use ::log::LevelFilter;

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
    let _ = env_logger::Builder::new()
        .parse_filters(&filter.0)
        .format(|out, record| {
            let at = httpdate::fmt_http_date(std::time::SystemTime::now());
            let time = at.get(17..25).unwrap_or("");
            let thread = std::thread::current();
            let name = thread.name().unwrap_or("-");
            writeln!(out, "{time} {:5} {name}: {}", record.level(), record.args())
        })
        .try_init();
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
