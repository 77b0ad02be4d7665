#![doc = include_str!("ARCHITECTURE.md")]

use std::ffi::OsString;
use std::process::ExitCode;

pub mod base;
pub mod catalog;
pub mod client;
pub mod engine;
pub mod fetch;
pub mod http;
pub mod limits;
pub mod net;
pub mod proto;
pub mod store;
pub mod swarm;
pub mod tracker;
pub mod tracker_cmd;
pub mod upstream;

/// Runs the program with `args` (without the program's own name) and returns its exit status:
/// 0 after a clean stop, 1 after a failure while running, 2 for a usage or configuration error.
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let _ = args;
    ExitCode::from(2)
}
