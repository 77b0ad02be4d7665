//! Floor 7: `torrent-cache client`: its options, its wiring, its start and stop order.

use crate::base::args::{Opt, Values};
use crate::process::Failure;

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
        "ADVERTISE",
        "ADDRESS",
        "",
        "Address told to the tracker, for a host behind address translation.",
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
    Opt::new("STORAGE", "DIR", "/storage", "Where blobs are kept."),
    Opt::new(
        "STORAGE_MAX",
        "BYTES",
        "",
        "The most that blobs may take: bytes, with K, M, G or T, or % of the file system.",
    ),
    Opt::new("ADMIN", "ADDRESS", "127.0.0.1:8889", "Where health, metrics and status are served."),
    Opt::new("LOG", "FILTER", "info", "What is logged: a level, or module=level,..."),
];

/// Runs the client until a signal ends it.
///
/// # Errors
/// [`Failure`]: it cannot start, or broke while running.
pub fn run(values: Values) -> Result<(), Failure> {
    let _ = values;
    Err(Failure::Broken("the client is not wired yet".to_owned()))
}
