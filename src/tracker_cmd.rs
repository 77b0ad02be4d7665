//! Floor 7: `torrent-cache tracker`: its options, its wiring, its start and stop order.

use crate::base::args::{Opt, Values};
use crate::process::{Failure, Process};

/// The options of `torrent-cache tracker`.
pub const OPTIONS: &[Opt] = &[
    Opt::new("TRACKER_PORT", "PORT", "6969", "Port of the tracker, TCP and UDP."),
    Opt::new("INTERFACE", "ADDRESS", "0.0.0.0", "Address to listen on; `::` for IPv6 as well."),
    Opt::new("ETCD_PORT", "PORT", "2378", "Port on which etcd serves its clients."),
    Opt::new(
        "ETCD_BINARY",
        "FILE",
        "etcd",
        "The etcd to run: a path, or a name looked up in PATH.",
    ),
    Opt::switch("NO_ETCD", "Run no etcd: one runs elsewhere."),
    Opt::new("STORAGE", "DIR", "/storage", "Where etcd keeps its data, in the folder `etcd`."),
    Opt::new("ADMIN", "ADDRESS", "127.0.0.1:6970", "Where health and metrics are served."),
    Opt::new("LOG", "FILTER", "info", "What is logged: a level, or module=level,..."),
];

/// Runs the tracker until a signal ends it.
///
/// # Errors
/// [`Failure`]: it cannot start, or broke while running.
pub fn run(values: Values) -> Result<(), Failure> {
    let log = values.text("LOG")?.unwrap_or_default();
    let process = Process::start(&log)?;
    process.stop().wait();
    process.finish()
}
