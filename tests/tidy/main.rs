//! Reads the sources and fails on what review should not have to find: a broken floor, a clock in a
//! pure module, a file that grew too long, a metric without documentation.
//!
//! Each rule is a function from the tree to findings. The tests of `mod rules` run it on the tree;
//! the tests beside each rule feed it a snippet that breaks it.

mod documents;
mod rules;
mod source;

use std::fs;
use std::path::Path;

use source::Source;

/// What one rule has against one place.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl Finding {
    fn new(path: &str, line: usize, what: impl Into<String>) -> Finding {
        Finding { path: path.to_owned(), line, what: what.into() }
    }
}

/// Fails with one line for each of `findings`.
fn none(findings: &[Finding]) {
    let lines = findings.iter().map(|f| format!("{}:{}: {}", f.path, f.line, f.what));
    let lines: Vec<_> = lines.collect();
    assert!(lines.is_empty(), "{} findings:\n{}", lines.len(), lines.join("\n"));
}

/// The Rust sources of the tree.
fn sources() -> Vec<Source> {
    let rust = |path: &str| path.ends_with(".rs");
    files(rust).iter().map(|(path, text)| Source::new(path, text)).collect()
}

/// The text files of the tree whose path `wanted` takes, sorted by path.
fn files(wanted: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths = Vec::new();
    walk(root, "", &mut paths);
    paths.sort();
    let files = paths.into_iter().filter(|path| wanted(path)).filter_map(|path| {
        let text = fs::read_to_string(root.join(&path)).ok()?;
        Some((path, text))
    });
    files.collect()
}

/// Adds the paths of all files under `folder`, but not what is built or belongs to git.
fn walk(root: &Path, folder: &str, paths: &mut Vec<String>) {
    const SKIPPED: &[&str] =
        &[".git", "target", "fuzz/target", "fuzz/corpus", "fuzz/seeds", "fuzz/artifacts"];
    let entries = fs::read_dir(root.join(folder)).expect("the tree can be read");
    for entry in entries {
        let entry = entry.expect("the tree can be read");
        let name = entry.file_name().into_string().expect("names in the tree are UTF-8");
        let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
        if SKIPPED.contains(&path.as_str()) {
            continue;
        }
        if entry.file_type().expect("the tree can be read").is_dir() {
            walk(root, &path, paths);
        } else {
            paths.push(path);
        }
    }
}

#[test]
fn the_tree_is_found() {
    let paths: Vec<_> = sources().into_iter().map(|source| source.path).collect();
    for path in ["src/lib.rs", "src/base/sys.rs", "tests/tidy/main.rs"] {
        assert!(paths.iter().any(|found| found == path), "{path} is missing in {paths:?}");
    }
    assert!(!paths.iter().any(|path| path.starts_with("target/")));
}
