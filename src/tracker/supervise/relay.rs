//! etcd's log among ours: levels mapped, lines bounded.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;

use log::Level;
use serde_json::Value;

use crate::base::ranked::{Rank, Ranked};
use crate::base::thread::{self, Role};
use crate::log_limited;

/// The longest line that is read, and the longest that is written. etcd writes whole requests into
/// some of its lines.
const LINE_LEN_MAX: u64 = 16 << 10;
const TEXT_CHARS_MAX: usize = 400;

/// The last error of an etcd: mostly why it ended.
#[derive(Clone, Debug)]
pub(super) struct LastWords(Arc<Ranked<Option<String>>>);

impl Default for LastWords {
    fn default() -> LastWords {
        LastWords(Arc::new(Ranked::new(Rank::Leaf, None)))
    }
}

impl LastWords {
    pub(super) fn take(&self) -> Option<String> {
        self.0.lock().take()
    }
}

/// Starts the thread that reads `log` until it ends and then calls `ended`.
pub(super) fn start(
    log: impl Read + Send + 'static,
    last_words: LastWords,
    ended: impl FnOnce() + Send + 'static,
) -> io::Result<thread::Handle> {
    thread::spawn("etcd-log", Role::Core, move || {
        let mut log = BufReader::new(log);
        while let Ok(Some(line)) = next_line(&mut log) {
            let (level, text) = read(&line);
            match level {
                // A client of etcd can cause warnings, and a crash writes a hundred lines.
                Level::Warn => log_limited!(warn, "etcd: {text}"),
                level => log::log!(level, "etcd: {text}"),
            }
            if level == Level::Error {
                *last_words.0.lock() = Some(text);
            }
        }
        ended();
    })
}

/// The next line, cut to [`LINE_LEN_MAX`]; `None` at the end.
fn next_line(log: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    log.by_ref().take(LINE_LEN_MAX).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.last() != Some(&b'\n') {
        log.skip_until(b'\n')?;
    }
    Ok(Some(line))
}

/// Level and text of one line. etcd's `info` tells of etcd, so it is `debug` here.
fn read(line: &[u8]) -> (Level, String) {
    let Ok(Value::Object(fields)) = serde_json::from_slice(line) else {
        // The end of a crash, or a complaint about the command line.
        return (Level::Warn, bounded(&String::from_utf8_lossy(line)));
    };
    let field = |name| fields.get(name).and_then(Value::as_str);
    let level = match field("level") {
        Some("debug") => Level::Trace,
        Some("info") => Level::Debug,
        Some("warn") => Level::Warn,
        _ => Level::Error,
    };
    let mut text = field("msg").unwrap_or_default().to_owned();
    for (name, value) in &fields {
        if !matches!(name.as_str(), "level" | "ts" | "caller" | "msg" | "stacktrace") {
            text.push_str(&format!(" {name}={value}"));
        }
    }
    (level, bounded(&text))
}

fn bounded(text: &str) -> String {
    let plain = |c: char| if c.is_control() { ' ' } else { c };
    text.trim_end().chars().take(TEXT_CHARS_MAX).map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_mapped_and_fields_are_kept() {
        let line = br#"{"level":"warn","ts":"2026","caller":"x.go:1","msg":"slow","took":"1s"}"#;
        assert_eq!(read(line), (Level::Warn, r#"slow took="1s""#.to_owned()));
        assert_eq!(read(br#"{"level":"info","msg":"a"}"#), (Level::Debug, "a".to_owned()));
        assert_eq!(read(br#"{"level":"fatal","msg":"a"}"#), (Level::Error, "a".to_owned()));
        assert_eq!(read(b"panic: \x1b[31mno\n"), (Level::Warn, "panic:  [31mno".to_owned()));
    }

    #[test]
    fn long_lines_are_cut_and_the_next_one_is_whole() {
        let mut log = vec![b'x'; 100_000];
        log.extend_from_slice(b"\nnext\nlast");
        let mut log = log.as_slice();
        let mut line = || next_line(&mut log).expect("a slice can be read");
        assert_eq!(line().map(|line| line.len()), Some(16 << 10));
        assert_eq!(line().as_deref(), Some(&b"next\n"[..]));
        assert_eq!(line().as_deref(), Some(&b"last"[..]));
        assert_eq!(line(), None);
    }
}
