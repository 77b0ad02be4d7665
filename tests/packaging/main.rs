//! What makes the program a guest of a system: its service units and what they ask of it, its
//! manual pages and completions, its packages.

#[path = "../support/mod.rs"]
mod support;

mod deb;
mod files;
mod kubernetes;
mod manual;
mod readiness;
mod units;

use std::fs;
use std::path::{Path, PathBuf};

/// A file or folder of the tree.
fn tree(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The text of a file of the tree.
fn text(path: &str) -> String {
    fs::read_to_string(tree(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}
