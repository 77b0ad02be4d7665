//! Floor 7: `torrent-cache tracker`: its options, its wiring, its start and stop order.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::str::FromStr;
use std::sync::Arc;

use crate::base::args::{Opt, UsageError, Values};
use crate::base::clock::Time;
use crate::limits;
use crate::net::admin::Admin;
use crate::net::serve::{Server, ServerConfig};
use crate::net::tcp;
use crate::process::{Failure, Process};
use crate::tracker::supervise::{self, Etcd, EtcdConfig, Health, Unfit};
use crate::tracker::{Sockets, Tracker};

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

/// What the command does, for its man page.
pub const DESCRIPTION: &str = "\
Runs once in a network. It tells the hosts of each other, as a BitTorrent tracker over HTTP and \
UDP, and runs an etcd beside it that holds the `.torrent` of every blob. etcd is started again \
when it ends, and stopped with the tracker.

Hosts that cannot reach it fetch from the upstream.

Health and metrics are served over HTTP at the address `ADMIN`: `/healthz`, `/readyz`, which says \
whether etcd answers, and `/metrics`.";

/// Its files.
pub const FILES: &[&[(&str, &str)]] = &[&[
    ("STORAGE/etcd", "The data of etcd, which alone writes there."),
    ("/etc/default/torrent-cache-tracker", "The options as variables, for the systemd unit."),
]];

/// Command lines for its man page.
pub const EXAMPLES: &[(&str, &str)] = &[
    ("torrent-cache tracker --storage /var/lib/tracker", "A tracker with an etcd of its own:"),
    ("torrent-cache tracker --no-etcd", "A tracker for a network that has an etcd already:"),
];

/// What the options say.
struct Settings {
    address: SocketAddr,
    admin: SocketAddr,
    /// `None`: etcd runs elsewhere.
    etcd: Option<EtcdConfig>,
}

impl Settings {
    fn of(values: &Values) -> Result<Settings, UsageError> {
        let interface: IpAddr = required(values, "INTERFACE")?;
        let etcd = EtcdConfig {
            binary: values.path("ETCD_BINARY").unwrap_or_default().into(),
            data: values.path("STORAGE").unwrap_or_default().join("etcd"),
            address: SocketAddr::new(interface, required::<NonZeroU16>(values, "ETCD_PORT")?.get()),
        };
        Ok(Settings {
            address: SocketAddr::new(interface, required(values, "TRACKER_PORT")?),
            admin: required(values, "ADMIN")?,
            etcd: (!values.switch("NO_ETCD")).then_some(etcd),
        })
    }
}

/// The value of an option that has a default.
fn required<T>(values: &Values, name: &str) -> Result<T, UsageError>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    values.get(name)?.ok_or_else(|| values.bad(name, &"is needed"))
}

/// Runs the tracker until a signal ends it.
///
/// # Errors
/// [`Failure`]: it cannot start, or broke while running.
pub fn run(values: Values) -> Result<(), Failure> {
    let settings = Settings::of(&values)?;
    let log = required(&values, "LOG")?;
    // All that an option can be wrong about comes before the first thread.
    let sockets = Sockets::bind(settings.address)
        .map_err(|error| values.bad(address_option(&error, "TRACKER_PORT"), &error))?;
    let admin = tcp::bind(settings.admin).map_err(|error| values.bad("ADMIN", &error))?;
    let version = settings.etcd.as_ref().map(supervise::check).transpose();
    let version = version.map_err(|unfit| match unfit {
        Unfit::Binary(why) => values.bad("ETCD_BINARY", &why),
        Unfit::Data(why) => values.bad("STORAGE", &why),
        Unfit::Address(why) => values.bad("ETCD_PORT", &why),
    })?;
    let process = Process::start(&log)?;
    serve(&settings, sockets, admin, version, &process)?;
    process.finish()
}

/// An address that is not ours is the fault of `INTERFACE`, anything else of the port.
fn address_option(error: &io::Error, port: &'static str) -> &'static str {
    if error.kind() == io::ErrorKind::AddrNotAvailable { "INTERFACE" } else { port }
}

/// Start order: etcd, which needs longest; the tracker; the admin port, which tells of both. Stop
/// order: the tracker, so that no peer is told anything any more; etcd; the admin port.
fn serve(
    settings: &Settings,
    sockets: Sockets,
    admin: TcpListener,
    version: Option<String>,
    process: &Process,
) -> Result<(), Failure> {
    let etcd = settings.etcd.clone().map(Etcd::start).transpose().map_err(broken)?;
    let health = etcd.as_ref().map(Etcd::health);
    let on_page = health.clone();
    let tracker = Tracker::start(sockets, move || match &on_page {
        Some(health) => health().to_string(),
        None => "an etcd that runs elsewhere".to_owned(),
    })
    .map_err(broken)?;
    let admin_handler = Admin::new(move || match health.as_ref().map(|health| health()) {
        None | Some(Health::Ready) => Ok(()),
        Some(health) => Err(health.to_string()),
    });
    let admin = Server::start(ServerConfig::new("admin", admin), Arc::new(admin_handler))
        .map_err(broken)?;
    let version = version.map_or("elsewhere".to_owned(), |version| format!("{version} beside it"));
    process.ready(&format!(
        "tracker on {} (TCP and UDP), admin on {}, etcd {version}",
        tracker.local_addr(),
        admin.local_addr()
    ));
    process.stop().wait();
    // Half of the time: a frozen etcd is killed while there is time left to say so.
    let deadline = Time::now() + limits::STOP / 2;
    tracker.stop(deadline);
    if let Some(etcd) = etcd {
        etcd.stop(deadline);
    }
    admin.stop(deadline);
    log::info!("stopped");
    Ok(())
}

fn broken(error: io::Error) -> Failure {
    Failure::Broken(format!("cannot start: {error}"))
}
