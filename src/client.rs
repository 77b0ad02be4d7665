//! Floor 7: `torrent-cache client`: its options, its wiring, its start and stop order.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use crate::base::args::{Opt, UsageError, Values};
use crate::base::clock::Time;
use crate::base::rng::Rng;
use crate::base::stop::Stop;
use crate::base::sys;
use crate::base::thread::{self, Role};
use crate::catalog::{Catalog, CatalogConfig};
use crate::engine::{Engine, EngineConfig, EngineError};
use crate::fetch::{Fetcher, Parts, Policy};
use crate::http::Front;
use crate::http::registries::Registries;
use crate::http::status::{self, Status};
use crate::limits;
use crate::net::admin::{Admin, Readiness};
use crate::net::serve::{Server, ServerConfig};
use crate::net::tls::{Roots, TlsError};
use crate::net::{tcp, tls};
use crate::process::{Failure, Process};
use crate::proto::http1::Url;
use crate::proto::peer::PeerId;
use crate::store::{self, Max, Store, StoreConfig};
use crate::upstream::{HostRule, Upstream, UpstreamConfig};

/// The options of `torrent-cache client`.
pub const OPTIONS: &[Opt] = &[
    Opt::new("PORT", "PORT", "8888", "Port of the proxy and mirror."),
    Opt::new("INTERFACE", "ADDRESS", "0.0.0.0", "Address to listen on; `::` for IPv6 as well."),
    Opt::switch(
        "REGISTRY_NO_SSL",
        "Serve plain HTTP only; otherwise TLS and plain HTTP share the port.",
    ),
    Opt::new(
        "REGISTRY_LOCATION",
        "HOST",
        "registry-1.docker.io",
        "The registry that is mirrored: HOST, HOST:PORT, or http(s)://HOST:PORT.",
    ),
    Opt::new(
        "REGISTRIES_PLAIN",
        "HOSTS",
        "",
        "Comma-separated registries, HOST or HOST:PORT, that are spoken to without TLS.",
    ),
    Opt::new(
        "TRACKER",
        "URL",
        "http://192.168.1.1:6969/announce",
        "Announce URL of the tracker, http:// or udp://.",
    ),
    Opt::new("ETCD_HOST", "HOST", "192.168.1.1", "Host of the etcd that holds the catalog."),
    Opt::new("ETCD_PORT", "PORT", "2378", "Port of that etcd."),
    Opt::new(
        "ETCD_ENDPOINTS",
        "URLS",
        "",
        "Comma-separated URLs of an etcd cluster, instead of ETCD_HOST and ETCD_PORT.",
    ),
    Opt::new("ETCD_USER", "NAME", "", "User name at etcd."),
    Opt::new("ETCD_PASSWORD", "TEXT", "", "Password at etcd.").secret(),
    Opt::new("ETCD_CA", "FILE", "", "PEM file of the authority that signed etcd's certificate."),
    Opt::new("TORRENT_FIRST_PORT", "PORT", "6881", "First port to try for peers."),
    Opt::new("TORRENT_LAST_PORT", "PORT", "6891", "Last port to try for peers."),
    Opt::new(
        "TORRENT_INTERFACE",
        "ADDRESS",
        "",
        "Address to listen on for peers; empty: that of INTERFACE.",
    ),
    Opt::new(
        "ADVERTISE",
        "ADDRESS",
        "",
        "Address told to the tracker, for a host behind address translation.",
    ),
    Opt::new(
        "PEER_NETWORKS",
        "RANGES",
        "",
        "Comma-separated ranges that peers may be in, as 10.0.0.0/8; empty: all private ones.",
    ),
    Opt::new(
        "UPLOAD_MAX",
        "RATE",
        "",
        "The most that peers get of this host: bytes per second, with K, M or G; empty: any.",
    ),
    Opt::new(
        "DOWNLOAD_MAX",
        "RATE",
        "",
        "The most that is taken from peers, bytes per second; what upstreams send does not count.",
    ),
    Opt::new(
        "CERTFILE",
        "FILE",
        "/etc/torrent-proxy/ssl/cert.pem",
        "Certificate chain in PEM; made on the first start if absent.",
    ),
    Opt::new(
        "PRIVATEKEY",
        "FILE",
        "/etc/torrent-proxy/ssl/key.pem",
        "Private key in PEM; made on the first start if absent.",
    ),
    Opt::new("STORAGE", "DIR", "/storage", "Where blobs and files are kept."),
    Opt::new(
        "STORAGE_MAX",
        "BYTES",
        "",
        "The most that blobs may take: bytes, with K, M, G or T, or % of the file system.",
    ),
    Opt::new(
        "OSTREE_REPOS",
        "DIRS",
        "",
        "Colon-separated archive repositories of this host, to be shared from where they lie.",
    ),
    Opt::switch(
        "OSTREE_SHARE_OBJECTS",
        "Share large objects of OSTree with other hosts, for repositories without static deltas.",
    ),
    Opt::new(
        "OFFLINE",
        "granted|allow|deny",
        "granted",
        "When the upstream cannot be asked: serve what was granted before, everything, or nothing.",
    ),
    Opt::new(
        "PROXY_ALLOW",
        "HOSTS",
        "",
        "Comma-separated hosts that proxy clients may name, *.domain for all below; empty: any.",
    ),
    Opt::new(
        "CA",
        "FILE",
        "",
        "PEM file of authorities trusted beside the system's, for upstreams.",
    ),
    Opt::new("ADMIN", "ADDRESS", "127.0.0.1:8889", "Where health, metrics and status are served."),
    Opt::new("LOG", "FILTER", "info", "What is logged: a level, or module=level,..."),
];

/// What the command does, for its man page.
pub const DESCRIPTION: &str = "\
Runs on every host, as its registry mirror and HTTP proxy. What a container engine or OSTree asks \
for is sent from the store of this host, taken from other hosts over BitTorrent, or from the \
upstream, and then shared with the others.

A tracker, an etcd and other hosts make it faster; when they are gone, it goes on as a plain \
proxy. What it sends is checked: a body whose digest is wrong never arrives whole.

Health, metrics and status are served over HTTP at the address `ADMIN`: `/healthz`, `/readyz`, \
`/metrics` and `/status.json`.";

/// Its files.
pub const FILES: &[&[(&str, &str)]] = &[
    store::FILES,
    &[
        ("CERTFILE", "The certificate chain of the TLS port."),
        ("PRIVATEKEY", "Its private key; only its owner may read it."),
        ("/etc/default/torrent-cache-client", "The options as variables, for the systemd unit."),
    ],
];

/// Command lines for its man page.
pub const EXAMPLES: &[(&str, &str)] = &[
    (
        "torrent-cache client --tracker http://10.0.0.1:6969/announce --etcd-host 10.0.0.1",
        "A mirror of Docker Hub on port 8888 that shares with the other hosts of its network:",
    ),
    (
        "skopeo copy --src-tls-verify=false docker://127.0.0.1:8888/library/debian:12 dir:debian",
        "A pull through it:",
    ),
];

/// Runs the client until a signal ends it.
///
/// # Errors
/// [`Failure`]: it cannot start, or broke while running.
pub fn run(values: Values) -> Result<(), Failure> {
    let log = needed(&values, "LOG")?;
    let settings = Settings::read(&values)?;
    let process = Process::start(&log)?;
    let client = Client::start(&values, settings, process.stop())?;
    process.ready(&client.to_string());
    process.stop().wait();
    client.stop(Time::now() + limits::STOP);
    process.finish()
}

/// What the options mean, read before anything is started.
struct Settings {
    front: SocketAddr,
    admin: SocketAddr,
    registry: Url,
    plain_registries: Vec<Url>,
    plain_only: bool,
    certfile: PathBuf,
    privatekey: PathBuf,
    roots: Roots,
    catalog: CatalogConfig,
    engine: EngineConfig,
    store: StoreConfig,
    policy: Policy,
    allow: Vec<HostRule>,
}

impl Settings {
    fn read(values: &Values) -> Result<Settings, UsageError> {
        let interface: IpAddr = needed(values, "INTERFACE")?;
        Ok(Settings {
            front: SocketAddr::new(interface, needed(values, "PORT")?),
            admin: needed(values, "ADMIN")?,
            registry: registry(values)?,
            plain_registries: plain_registries(values)?,
            plain_only: values.switch("REGISTRY_NO_SSL"),
            certfile: values.path("CERTFILE").unwrap_or_default(),
            privatekey: values.path("PRIVATEKEY").unwrap_or_default(),
            roots: roots(values, "CA")?,
            catalog: catalog(values)?,
            engine: engine(values, values.get("TORRENT_INTERFACE")?.unwrap_or(interface))?,
            store: StoreConfig {
                root: values.path("STORAGE").unwrap_or_default(),
                max: values.get("STORAGE_MAX")?.unwrap_or(Max::None),
            },
            policy: Policy {
                offline: needed(values, "OFFLINE")?,
                repositories: repositories(values)?,
                share_objects: values.switch("OSTREE_SHARE_OBJECTS"),
            },
            allow: list(values, "PROXY_ALLOW")?,
        })
    }
}

/// The value of an option that has a default.
fn needed<T>(values: &Values, name: &str) -> Result<T, UsageError>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    values.get(name)?.ok_or_else(|| values.bad(name, &"a value is needed"))
}

/// The parts of a comma-separated value.
fn list<T>(values: &Values, name: &str) -> Result<Vec<T>, UsageError>
where
    T: FromStr,
    T::Err: fmt::Display,
{
    let text = values.text(name)?.unwrap_or_default();
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(|part| part.parse().map_err(|error| values.bad(name, &error))).collect()
}

/// `HOST`, `HOST:PORT` or a URL; without a scheme it is https, as all public registries are.
fn registry(values: &Values) -> Result<Url, UsageError> {
    let text: String = needed(values, "REGISTRY_LOCATION")?;
    let whole = if text.contains("://") { text } else { format!("https://{text}") };
    let url = Url::parse(&whole).map_err(|error| values.bad("REGISTRY_LOCATION", &error))?;
    if url.target != "/" {
        return Err(values.bad("REGISTRY_LOCATION", &"a registry has no path"));
    }
    Ok(url)
}

/// Each has to be an archive repository: a typing error shows at the start.
fn repositories(values: &Values) -> Result<Vec<PathBuf>, UsageError> {
    let name = "OSTREE_REPOS";
    let text = values.text(name)?.unwrap_or_default();
    let dirs = text.split(':').filter(|dir| !dir.is_empty()).map(PathBuf::from);
    let archive = |dir: PathBuf| {
        let config = std::fs::read_to_string(dir.join("config"));
        let config = config.map_err(|error| {
            values.bad(name, &format!("{} is no OSTree repository: {error}", dir.display()))
        })?;
        let is_archive = config.lines().any(|line| {
            let line: String = line.split_whitespace().collect();
            matches!(line.as_str(), "mode=archive" | "mode=archive-z2")
        });
        let why = format!("{} is not in mode archive", dir.display());
        if is_archive { Ok(dir) } else { Err(values.bad(name, &why)) }
    };
    dirs.map(archive).collect()
}

fn plain_registries(values: &Values) -> Result<Vec<Url>, UsageError> {
    let name = "REGISTRIES_PLAIN";
    let hosts = list::<String>(values, name)?;
    let urls = hosts.iter().map(|host| match Url::parse(&format!("http://{host}")) {
        Ok(url) if url.target == "/" && !host.ends_with('/') => Ok(url),
        Ok(_) => Err(values.bad(name, &"neither HOST nor HOST:PORT")),
        Err(error) => Err(values.bad(name, &error)),
    });
    urls.collect()
}

fn catalog(values: &Values) -> Result<CatalogConfig, UsageError> {
    let mut endpoints = Vec::new();
    for text in list::<String>(values, "ETCD_ENDPOINTS")? {
        let whole = if text.contains("://") { text } else { format!("http://{text}") };
        let url = Url::parse(&whole).map_err(|error| values.bad("ETCD_ENDPOINTS", &error))?;
        endpoints.push(url);
    }
    if endpoints.is_empty() {
        let (host, port): (String, u16) =
            (needed(values, "ETCD_HOST")?, needed(values, "ETCD_PORT")?);
        let host = if host.contains(':') { format!("[{host}]") } else { host };
        let url = Url::parse(&format!("http://{host}:{port}"));
        endpoints.push(url.map_err(|error| values.bad("ETCD_HOST", &error))?);
    }
    let login = match (values.text("ETCD_USER")?, values.text("ETCD_PASSWORD")?) {
        (Some(user), Some(password)) => Some((user, password)),
        (None, None) => None,
        (Some(_), None) => return Err(values.bad("ETCD_USER", &"ETCD_PASSWORD is missing")),
        (None, Some(_)) => return Err(values.bad("ETCD_PASSWORD", &"ETCD_USER is missing")),
    };
    Ok(CatalogConfig { endpoints, login, roots: roots(values, "ETCD_CA")? })
}

/// Whom to trust: the system's authorities, and those in the file that an option names.
fn roots(values: &Values, name: &str) -> Result<Roots, UsageError> {
    let file = values.path(name);
    tls::client_roots(file.as_deref()).map_err(|error| values.bad(name, &error))
}

fn engine(values: &Values, interface: IpAddr) -> Result<EngineConfig, UsageError> {
    let first: u16 = needed(values, "TORRENT_FIRST_PORT")?;
    let last: u16 = needed(values, "TORRENT_LAST_PORT")?;
    if first > last {
        return Err(values.bad("TORRENT_LAST_PORT", &"lies below TORRENT_FIRST_PORT"));
    }
    let (advertise_address, advertise_port) = match values.text("ADVERTISE")? {
        None => (None, None),
        Some(text) => match (text.parse::<SocketAddr>(), text.parse::<IpAddr>()) {
            (Ok(both), _) => (Some(both.ip()), Some(both.port())),
            (_, Ok(address)) => (Some(address), None),
            (_, Err(error)) => return Err(values.bad("ADVERTISE", &error)),
        },
    };
    Ok(EngineConfig {
        interface,
        ports: first..=last,
        tracker: Some(needed(values, "TRACKER")?),
        advertise_address,
        advertise_port,
        peer_networks: list(values, "PEER_NETWORKS")?,
        upload_max: rate(values, "UPLOAD_MAX")?,
        download_max: rate(values, "DOWNLOAD_MAX")?,
        peer_id: PeerId::random(&mut Rng::from_os()),
    })
}

/// Bytes per second; `None`: any number.
fn rate(values: &Values, name: &str) -> Result<Option<u64>, UsageError> {
    match values.text(name)?.map(|text| text.parse()) {
        None | Some(Ok(Max::Bytes(0))) => Ok(None),
        Some(Ok(Max::Bytes(rate))) if rate >= limits::RATE_MIN => Ok(Some(rate)),
        _ => Err(values.bad(name, &"neither 0 nor bytes per second from 16K, such as 20M")),
    }
}

/// A running client.
struct Client {
    front: Server,
    admin: Server,
    fetcher: Arc<Fetcher>,
    catalog: Arc<Catalog>,
    engine: Arc<Engine>,
}

impl Client {
    /// Starts everything, what others stand on first. What can be wrong with the configuration
    /// shows before anybody is served.
    fn start(values: &Values, settings: Settings, stop: &Stop) -> Result<Client, Failure> {
        let usage = |name: &str, error: &dyn fmt::Display| Failure::from(values.bad(name, error));
        let front = tcp::bind(settings.front)
            .map_err(|error| usage(address_option(&error, "INTERFACE", "PORT"), &error))?;
        let admin = tcp::bind(settings.admin).map_err(|error| usage("ADMIN", &error))?;
        let tls = match settings.plain_only {
            true => None,
            false => Some(
                tls::server_config(&settings.certfile, &settings.privatekey, &our_names())
                    .map_err(|error| usage(pair_option(&error, &settings.privatekey), &error))?,
            ),
        };
        let upstream = Upstream::new(UpstreamConfig {
            registry: Some(settings.registry.clone()),
            roots: settings.roots,
            allow: settings.allow,
        });
        let upstream = Arc::new(upstream);
        let store = Store::open(settings.store).map_err(|error| usage("STORAGE", &error))?;
        let engine = Engine::start(settings.engine, Arc::clone(&store))
            .map_err(|error| usage(engine_option(&error), &error))?;
        let engine = Arc::new(engine);
        let catalog = Arc::new(Catalog::start(settings.catalog).map_err(broken)?);
        let parts = Parts {
            store: Arc::clone(&store),
            catalog: Arc::clone(&catalog),
            upstream: Arc::clone(&upstream),
            engine: Arc::clone(&engine),
        };
        let fetcher = Fetcher::new(parts, settings.policy);
        let status = status_page(&store, &engine, &catalog, &fetcher);
        let pages = Admin::new(readiness(&store, stop));
        let pages = pages.page("/status.json", "application/json", status);
        let registries = Registries::new(settings.registry, settings.plain_registries);
        let handler = Arc::new(Front::new(Arc::clone(&fetcher), upstream, registries));
        let config = ServerConfig { tls, ..ServerConfig::new("http", front) };
        let front = Server::start(config, handler).map_err(broken)?;
        let config =
            ServerConfig { workers_max: ADMIN_WORKERS, ..ServerConfig::new("admin", admin) };
        let admin = Server::start(config, Arc::new(pages)).map_err(broken)?;
        Ok(Client { front, admin, fetcher, catalog, engine })
    }

    /// Lets responses on their way end until `deadline`, then ends everything in the order in which
    /// the parts stand on each other.
    fn stop(self, deadline: Time) {
        // A response that waits for bytes of a job waits until the job ends: all do at the
        // deadline.
        let served = Stop::new();
        let (fetcher, all_served) = (Arc::clone(&self.fetcher), served.clone());
        let cutter = thread::spawn("stop", Role::Core, move || {
            if !all_served.wait_until(deadline) {
                fetcher.stop();
            }
        });
        self.front.stop(deadline);
        served.stop();
        match cutter {
            Ok(cutter) => cutter.join(),
            Err(error) => log::warn!("no thread to cut what is late: {error}"),
        }
        self.fetcher.stop();
        self.catalog.stop();
        self.engine.stop(Time::now() + limits::STOP / 5);
        self.admin.stop(Time::now());
    }
}

impl fmt::Display for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (front, peers, admin) =
            (self.front.local_addr(), self.engine.port(), self.admin.local_addr());
        write!(
            f,
            "serving clients on {front}, peers on port {peers}, health and metrics on {admin}"
        )
    }
}

/// An address that is not ours is the fault of the option for it, anything else of the port's.
fn address_option(error: &io::Error, interface: &'static str, port: &'static str) -> &'static str {
    if error.kind() == io::ErrorKind::AddrNotAvailable { interface } else { port }
}

/// Which option the engine cannot start with. The address of `INTERFACE` is in use by then.
fn engine_option(error: &EngineError) -> &'static str {
    const PORT: &str = "TORRENT_FIRST_PORT";
    match error {
        EngineError::Ports { error, .. } => address_option(error, "TORRENT_INTERFACE", PORT),
        EngineError::Thread(_) => PORT,
    }
}

/// Which of the two options of the pair is at fault.
fn pair_option(error: &TlsError, key: &Path) -> &'static str {
    match error {
        TlsError::Half { absent: path, .. } | TlsError::File { path, .. } if path == key => {
            "PRIVATEKEY"
        }
        _ => "CERTFILE",
    }
}

/// Requests of the admin listener that are served at once.
const ADMIN_WORKERS: usize = 4;

fn broken(error: io::Error) -> Failure {
    Failure::Broken(format!("the system refuses a thread or a descriptor: {error}"))
}

/// What our certificate is for, besides `localhost`: the name that others of the network know us
/// by.
fn our_names() -> Vec<String> {
    let name = sys::host_name();
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-.".contains(&byte));
    if is_name && !name.is_empty() { vec![name] } else { Vec::new() }
}

/// Whether it can do all of its work. It listens before anybody can ask; a tracker and an etcd may
/// be absent.
fn readiness(store: &Arc<Store>, stop: &Stop) -> impl Fn() -> Readiness + Send + Sync + 'static {
    let (store, stop) = (Arc::clone(store), stop.clone());
    move || match stop.is_stopped() {
        true => Err("it stops".to_owned()),
        false => store.check().map_err(|error| error.to_string()),
    }
}

fn status_page(
    store: &Arc<Store>,
    engine: &Arc<Engine>,
    catalog: &Arc<Catalog>,
    fetcher: &Arc<Fetcher>,
) -> impl Fn() -> String + Send + Sync + 'static {
    let (store, engine) = (Arc::clone(store), Arc::clone(engine));
    let (catalog, fetcher) = (Arc::clone(catalog), Arc::clone(fetcher));
    move || {
        status::render(&Status {
            usage: store.usage(),
            engine: engine.status(),
            peer_port: engine.port(),
            catalog: catalog.status(),
            transfers: fetcher.recent(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::args::{Parsed, parse};
    use crate::fetch::Offline;

    fn settings(options: &[(&str, &str)]) -> Result<Settings, UsageError> {
        let find = |name: &str| {
            options.iter().find(|(key, _)| *key == name).map(|(_, value)| value.into())
        };
        match parse(OPTIONS, Vec::new(), find)? {
            Parsed::Run(values) => Settings::read(&values),
            Parsed::Help => panic!("no help was asked for"),
        }
    }

    fn refused(name: &str, value: &str) -> String {
        match settings(&[(name, value)]) {
            Ok(_) => panic!("{name}={value} was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn defaults_are_those_of_the_original() {
        let settings = settings(&[]).expect("the defaults are valid");
        assert_eq!(settings.front, "0.0.0.0:8888".parse().expect("an address"));
        assert_eq!(settings.registry.to_string(), "https://registry-1.docker.io/");
        assert_eq!(settings.engine.ports, 6881..=6891);
        assert_eq!(settings.catalog.endpoints[0].to_string(), "http://192.168.1.1:2378/");
        assert_eq!(settings.policy.offline, Offline::Granted);
        assert!(!settings.plain_only);
    }

    #[test]
    fn a_registry_is_a_host_a_port_or_a_url() {
        for (value, url) in [
            ("r.example", "https://r.example/"),
            ("r.example:5000", "https://r.example:5000/"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000/"),
        ] {
            let settings = settings(&[("REGISTRY_LOCATION", value)]).expect("a registry");
            assert_eq!(settings.registry.to_string(), url);
        }
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (name, value) in [
            ("PORT", "70000"),
            ("INTERFACE", "eth0"),
            ("ADMIN", "8889"),
            ("REGISTRY_LOCATION", "ftp://x"),
            ("REGISTRY_LOCATION", "http://x/path"),
            ("REGISTRIES_PLAIN", "http://x"),
            ("REGISTRIES_PLAIN", "x,y/z"),
            ("TRACKER", "gopher://x"),
            ("ETCD_ENDPOINTS", "http://a:1,b:x"),
            ("ETCD_USER", "me"),
            ("STORAGE_MAX", "lots"),
            ("UPLOAD_MAX", "50%"),
            ("DOWNLOAD_MAX", "100"),
            ("TORRENT_LAST_PORT", "1"),
            ("TORRENT_INTERFACE", "eth0"),
            ("ADVERTISE", "here"),
            ("OFFLINE", "maybe"),
            ("OSTREE_REPOS", "/nowhere"),
        ] {
            let text = refused(name, value);
            assert!(text.starts_with(&format!("{name}={value}: ")), "{text}");
            assert!(!text.contains('\n'), "{text}");
        }
    }
}
