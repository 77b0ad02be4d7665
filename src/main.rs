//! The `torrent-cache` binary: hands its arguments to the library and exits with its status.

use std::process::ExitCode;

fn main() -> ExitCode {
    torrent_cache::run(std::env::args_os().skip(1).collect())
}
