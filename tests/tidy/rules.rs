//! The rules about Rust sources.

use crate::Finding;
use crate::source::{Kind, Path, Source, is_mark, word};

/// The floor of each top-level module. A module uses lower floors only.
const FLOORS: &[(&str, u8)] = &[
    ("client", 7),
    ("tracker_cmd", 7),
    ("manual", 7),
    ("process", 6),
    ("http", 6),
    ("tracker", 6),
    ("fetch", 5),
    ("engine", 4),
    ("store", 3),
    ("catalog", 3),
    ("upstream", 3),
    ("swarm", 2),
    ("net", 2),
    ("proto", 1),
    ("base", 0),
    ("limits", 0),
];

/// Modules that decide and do nothing else: time, randomness and bytes are their arguments.
const PURE: &[&str] = &[
    "src/proto/",
    "src/swarm/",
    "src/fetch/judge.rs",
    "src/fetch/plan.rs",
    "src/fetch/plan/",
    "src/http/registries.rs",
    "src/http/route.rs",
];

/// What a pure module may not name, as runs of path segments.
const IMPURE: &[&[&str]] = &[
    &["std", "env"],
    &["std", "fs"],
    &["std", "os"],
    &["std", "process"],
    &["std", "thread"],
    &["TcpListener"],
    &["TcpStream"],
    &["ToSocketAddrs"],
    &["UdpSocket"],
    &["UnixListener"],
    &["UnixStream"],
    &["Instant"],
    &["SystemTime"],
    &["Time", "now"],
    &["unix_seconds"],
    &["Rng", "from_os"],
    &["base", "mailbox"],
    &["base", "stop"],
    &["base", "sys"],
    &["base", "thread"],
];

const FILE_LINES_MAX: usize = 900;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

/// Who may spawn threads, who may be unsafe, and who makes queues.
const SPAWNS: &str = "src/base/thread.rs";
const UNSAFE: &str = "src/base/sys.rs";
const QUEUES: &str = "src/base/mailbox.rs";

/// The top-level module that `path` belongs to; the roots of the crates belong to none.
fn module_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("src/")?;
    let name = inside.split('/').next()?;
    let name = name.strip_suffix(".rs").unwrap_or(name);
    (!matches!(name, "lib" | "main")).then_some(name)
}

fn floor_of(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

fn in_src(source: &Source) -> bool {
    source.path.starts_with("src/")
}

/// Paths of `source` that do not stand in tests.
fn plain_paths(source: &Source) -> impl Iterator<Item = Path> {
    source.paths().into_iter().filter(|path| !path.in_test)
}

/// A module uses lower floors only, tests included; neighbours on one floor do not see each other.
fn floors(source: &Source) -> Vec<Finding> {
    let Some(from) = module_of(&source.path) else { return Vec::new() };
    let Some(ours) = floor_of(from) else {
        return vec![Finding::new(&source.path, 1, format!("{from} has no floor"))];
    };
    let mut findings = Vec::new();
    // `src/a/b.rs` is two modules deep, `src/a.rs` and `src/a/mod.rs` one.
    let deep = source.path.matches('/').count() - usize::from(source.path.ends_with("/mod.rs"));
    for path in source.paths() {
        let supers = path.segments.iter().take_while(|segment| *segment == "super").count();
        if supers >= deep && supers > 0 && !path.in_test {
            let what = "reaches the root by super: write crate::";
            findings.push(Finding::new(&source.path, path.line, what));
        }
        if !path.starts_with(&["crate"]) || path.segments.len() < 2 {
            continue;
        }
        // What has no floor is a macro of the root.
        let to = path.segments[1].as_str();
        let Some(theirs) = floor_of(to) else { continue };
        if to != from && theirs >= ours {
            let what = format!("{from} (floor {ours}) uses {to} (floor {theirs})");
            findings.push(Finding::new(&source.path, path.line, what));
        }
    }
    findings
}

/// Pure modules read no clock and touch no socket, file or thread.
fn purity(source: &Source) -> Vec<Finding> {
    if !PURE.iter().any(|pure| source.path.starts_with(pure)) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for path in plain_paths(source) {
        if let Some(run) = IMPURE.iter().find(|run| path.contains(run)) {
            let what = format!("a pure module names {}", run.join("::"));
            findings.push(Finding::new(&source.path, path.line, what));
        }
    }
    findings
}

/// Files, functions and lines have a largest size.
fn sizes(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = source.text.lines().count();
    if lines > FILE_LINES_MAX {
        let what = format!("{lines} lines, {FILE_LINES_MAX} at most: split it by meaning");
        findings.push(Finding::new(&source.path, 1, what));
    }
    for (name, line, lines) in source.functions() {
        if lines > FUNCTION_LINES_MAX {
            let what = format!("fn {name} has {lines} lines, {FUNCTION_LINES_MAX} at most");
            findings.push(Finding::new(&source.path, line, what));
        }
    }
    for (index, line) in source.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX {
            let what = format!("{columns} columns, {COLUMNS_MAX} at most");
            findings.push(Finding::new(&source.path, index + 1, what));
        }
    }
    findings
}

/// Nothing is left for later: no marker in a comment, no macro that panics, no test that does not
/// run.
fn leftovers(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in source.text.lines().enumerate() {
        for marker in [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")] {
            let mut words = line.split(|c: char| c != '_' && !c.is_alphanumeric());
            if words.any(|word| word == marker) {
                findings.push(Finding::new(&source.path, index + 1, format!("says {marker}")));
            }
        }
    }
    let tokens = &source.tokens;
    for at in 0..tokens.len() {
        let left = match word(tokens, at) {
            Some("todo" | "unimplemented") => is_mark(tokens, at + 1, '!'),
            Some("ignore") => {
                at > 1 && is_mark(tokens, at - 1, '[') && is_mark(tokens, at - 2, '#')
            }
            _ => false,
        };
        if left {
            let what = format!("leaves something open: {}", word(tokens, at).unwrap_or_default());
            findings.push(Finding::new(&source.path, tokens[at].line, what));
        }
    }
    findings
}

/// `unsafe` stands in one file.
fn unsafety(source: &Source) -> Vec<Finding> {
    if source.path == UNSAFE {
        return Vec::new();
    }
    let tokens = source.tokens.iter().filter(|token| token.kind == Kind::Word("unsafe".to_owned()));
    tokens
        .map(|token| Finding::new(&source.path, token.line, format!("unsafe outside {UNSAFE}")))
        .collect()
}

/// Threads are spawned in one file, where they get a name and are counted. Tests may do as they
/// like.
fn threads(source: &Source) -> Vec<Finding> {
    const HARMLESS: &[&str] = &["ThreadId", "available_parallelism", "current", "panicking"];
    if source.path == SPAWNS || !in_src(source) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for path in plain_paths(source).filter(|path| path.starts_with(&["std", "thread"])) {
        let third = path.segments.get(2).map_or("std::thread itself", String::as_str);
        if !HARMLESS.contains(&third) {
            let what = format!("{third}: threads are the business of {SPAWNS}");
            findings.push(Finding::new(&source.path, path.line, what));
        }
    }
    findings
}

/// Every queue has a bound. One file makes the queues, and counts where the channel does not.
fn queues(source: &Source) -> Vec<Finding> {
    const UNBOUNDED: &[&[&str]] = &[&["unbounded"], &["mpsc", "channel"]];
    if source.path == QUEUES || !in_src(source) {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for path in plain_paths(source) {
        if let Some(run) = UNBOUNDED.iter().find(|run| path.contains(run)) {
            let what = format!("a queue without a bound: {}", run.join("::"));
            findings.push(Finding::new(&source.path, path.line, what));
        }
    }
    findings
}

/// A getter is named after what it gives. Look-ups may use the words of the standard library.
fn names(source: &Source) -> Vec<Finding> {
    let functions = source.functions().into_iter();
    functions
        .filter(|(name, ..)| name.starts_with("get_") && !["get_all", "get_mut"].contains(&&**name))
        .map(|(name, line, _)| Finding::new(&source.path, line, format!("fn {name}: no get_")))
        .collect()
}

mod tree {
    //! The rules, run on the tree.

    use super::*;
    use crate::{none, sources};

    fn check(rule: fn(&Source) -> Vec<Finding>) {
        none(&sources().iter().flat_map(rule).collect::<Vec<_>>());
    }

    #[test]
    fn modules_use_lower_floors_only() {
        check(floors);
    }

    #[test]
    fn pure_modules_are_pure() {
        check(purity);
    }

    #[test]
    fn files_functions_and_lines_are_short() {
        check(sizes);
    }

    #[test]
    fn nothing_is_left_for_later() {
        check(leftovers);
    }

    #[test]
    fn unsafe_stands_in_one_file() {
        check(unsafety);
    }

    #[test]
    fn threads_are_spawned_in_one_file() {
        check(threads);
    }

    #[test]
    fn queues_have_bounds() {
        check(queues);
    }

    #[test]
    fn getters_are_named_after_what_they_give() {
        check(names);
    }

    #[test]
    fn the_exceptions_exist() {
        let sources = sources();
        for path in [SPAWNS, UNSAFE, QUEUES] {
            assert!(sources.iter().any(|source| source.path == path), "{path} is gone");
        }
    }
}

mod snippets {
    //! Each rule finds what it is for, and only that.

    use super::*;

    const NOWHERE: [usize; 0] = [];

    /// The lines on which `rule` finds something in `text` at `path`.
    fn lines(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
        rule(&Source::new(path, text)).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn broken_floors_are_found() {
        let text = "use crate::base::clock;\nuse crate::{limits, engine::Engine};\n\
            fn f() { crate::net::udp::f() }\nuse super::x;\n\
            #[cfg(test)]\nmod t { use crate::http; }";
        assert_eq!(lines(floors, "src/swarm/mod.rs", text), [2, 3, 4, 6]);
        assert_eq!(lines(floors, "src/fetch/plan.rs", "use super::super::http;"), [1]);
        assert_eq!(
            lines(floors, "src/fetch/plan.rs", "use super::fill; use crate::fetch::f;"),
            NOWHERE
        );
        assert_eq!(lines(floors, "src/net/mod.rs", "use crate::log_limited; crate::swarm!()"), [1]);
        assert_eq!(lines(floors, "src/cellar/mod.rs", ""), [1]);
        assert_eq!(lines(floors, "src/lib.rs", "use crate::client;"), NOWHERE);
    }

    #[test]
    fn impurity_is_found() {
        let text = "use std::{fmt, fs::File};\nfn f() { Time::now() }\nuse std::net::TcpStream;\n\
            fn g(now: Time, at: std::net::SocketAddr) {}\n#[cfg(test)]\nmod t { use std::fs; }";
        for path in ["src/proto/x.rs", "src/swarm/x/y.rs", "src/fetch/plan.rs", "src/http/route.rs"]
        {
            assert_eq!(lines(purity, path, text), [1, 2, 3], "{path}");
        }
        assert_eq!(lines(purity, "src/fetch/fill.rs", text), NOWHERE);
    }

    #[test]
    fn excess_length_is_found() {
        let long = "\n".repeat(FILE_LINES_MAX);
        assert_eq!(lines(sizes, "src/x.rs", &long), NOWHERE);
        assert_eq!(lines(sizes, "src/x.rs", &(long + "\n")), [1]);
        let body = |lines: usize| format!("\nfn f() {{\n{}}}\n", "x\n".repeat(lines - 2));
        assert_eq!(lines(sizes, "src/x.rs", &body(FUNCTION_LINES_MAX)), NOWHERE);
        assert_eq!(lines(sizes, "src/x.rs", &body(FUNCTION_LINES_MAX + 1)), [2]);
        let wide = "// ".to_owned() + &"ö".repeat(COLUMNS_MAX - 3);
        assert_eq!(lines(sizes, "src/x.rs", &wide), NOWHERE);
        assert_eq!(lines(sizes, "src/x.rs", &(wide + "ö")), [1]);
    }

    #[test]
    fn leftovers_are_found() {
        for marker in ["TO-DO", "FIX-ME", "X-XX"].map(|marker| marker.replace('-', "")) {
            assert_eq!(lines(leftovers, "src/x.rs", &format!("\n// {marker}: later")), [2]);
            assert_eq!(lines(leftovers, "src/x.rs", &format!("let {marker}S = 1;")), NOWHERE);
        }
        let text = "fn f() { todo!() }\nfn g() { unimplemented!() }\n#[test]\n#[MARK]\n\
            fn h() {}\nfn ignore() {}"
            .replace("MARK", "ignore");
        assert_eq!(lines(leftovers, "tests/x.rs", &text), [1, 2, 4]);
    }

    #[test]
    fn unsafe_is_found_outside_its_file() {
        let text = "// unsafe\n#[allow(unsafe_code)]\nfn f() { unsafe { g() } }";
        assert_eq!(lines(unsafety, "src/net/tcp.rs", text), [3]);
        assert_eq!(lines(unsafety, UNSAFE, text), NOWHERE);
    }

    #[test]
    fn spawned_threads_are_found() {
        let text = "use std::thread;\nstd::thread::spawn(f);\nuse crate::base::thread::spawn;\n\
            std::thread::current();\n#[cfg(test)]\nmod t { use std::thread; }";
        assert_eq!(lines(threads, "src/net/serve.rs", text), [1, 2]);
        assert_eq!(lines(threads, SPAWNS, text), NOWHERE);
    }

    #[test]
    fn queues_without_bounds_are_found() {
        let text = "use std::sync::mpsc;\nmpsc::channel();\nuse crossbeam_channel::{bounded};\n\
            use crossbeam_channel::unbounded as bounded;\nmpsc::sync_channel(1);";
        assert_eq!(lines(queues, "src/engine/run.rs", text), [2, 4]);
        assert_eq!(lines(queues, QUEUES, text), NOWHERE);
    }

    #[test]
    fn getters_are_found() {
        assert_eq!(lines(names, "src/x.rs", "fn get_mut() {}\nfn get_len() {}"), [2]);
    }
}
