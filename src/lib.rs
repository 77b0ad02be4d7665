#![doc = include_str!("ARCHITECTURE.md")]

use std::ffi::OsString;
use std::process::ExitCode;

pub mod base;
pub mod limits;
pub mod proto;

/// Runs the program with `args` (without the program's own name) and returns its exit status:
/// 0 after a clean stop, 1 after a failure while running, 2 for a usage or configuration error.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    ExitCode::from(2)
}
