//! What can be wrong before it starts: one line that names the option, status 2, nothing left.
//!
//! The tracker's own options are held to this in `tests/tracker.rs`.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::Command;

use crate::support::process::{Finished, Process};
use crate::support::torrent_cache::{Program, binary};
use crate::support::{loopback, temp_dir};

/// Runs a client with `options` over ones that work, until it ends by itself.
fn run(arguments: &[&str], options: &[(&str, &str)]) -> Finished {
    let dir = temp_dir();
    let mut command = Command::new(binary());
    command.arg("client").args(arguments).env_clear();
    for (name, file) in [("STORAGE", "new"), ("CERTFILE", "cert.pem"), ("PRIVATEKEY", "key.pem")] {
        command.env(name, dir.path().join(file));
    }
    command.env("INTERFACE", "127.0.0.1").env("PORT", "0").env("ADMIN", "127.0.0.1:0");
    command.env("TORRENT_FIRST_PORT", "0").env("TORRENT_LAST_PORT", "0");
    command.envs(options.iter().copied());
    Process::run("torrent-cache", command, "")
}

/// The one line that a client writes which cannot start with `options`.
fn refused(options: &[(&str, &str)]) -> String {
    let finished = run(&[], options);
    assert_eq!(finished.status.code(), Some(2), "{options:?}: {}", finished.output);
    assert_eq!(finished.output.lines().count(), 1, "{options:?}: {}", finished.output);
    finished.output
}

/// Fails unless a client with `options` names the first of them.
fn assert_named(options: &[(&str, &str)]) {
    let (name, value) = options[0];
    let line = refused(options);
    assert!(line.starts_with(&format!("torrent-cache: {name}={value}: ")), "{line}");
}

#[test]
fn bad_values_are_named() {
    for (name, value) in [
        ("PORT", "65536"),
        ("PORT", "http"),
        ("INTERFACE", "localhost"),
        ("INTERFACE", "192.0.2.1"),
        ("ADMIN", "8889"),
        ("REGISTRY_LOCATION", "ftp://x"),
        ("TRACKER", "gopher://x"),
        ("ETCD_PORT", "65536"),
        ("ETCD_ENDPOINTS", "http://a:1,b:x"),
        ("ETCD_USER", "me"),
        ("ETCD_CA", "/no/such/file"),
        ("TORRENT_FIRST_PORT", "-1"),
        ("TORRENT_INTERFACE", "192.0.2.1"),
        ("ADVERTISE", "here"),
        ("STORAGE", "/dev/null"),
        ("STORAGE", "/proc/no-such-folder"),
        ("STORAGE_MAX", "lots"),
        ("CERTFILE", "/proc/no-such-folder/cert.pem"),
        ("OFFLINE", "maybe"),
        ("PROXY_ALLOW", "a/b"),
        ("CA", "/dev/null"),
        ("LOG", "loud"),
    ] {
        assert_named(&[(name, value)]);
    }
}

#[test]
fn unknown_options_are_named() {
    for (argument, word) in [("--no-such", "--no-such"), ("stray", "stray"), ("--port", "--port")] {
        let finished = run(&[argument], &[]);
        assert_eq!(finished.status.code(), Some(2), "{}", finished.output);
        assert_eq!(finished.output.lines().count(), 1, "{}", finished.output);
        assert!(finished.output.contains(word), "{}", finished.output);
    }
}

#[test]
fn a_taken_port_is_named() {
    let taken = TcpListener::bind(loopback(0)).expect("loopback has a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let port = address.rsplit(':').next().expect("it has a port");
    assert_named(&[("PORT", port)]);
    assert_named(&[("ADMIN", &address)]);
    assert_named(&[("TORRENT_FIRST_PORT", port), ("TORRENT_LAST_PORT", port)]);
}

#[test]
fn peers_and_clients_may_have_an_interface_each() {
    let client = Program::client("client", &[("TORRENT_INTERFACE", "127.0.0.2")]);
    let listens = |address: &str, port: &str| {
        TcpStream::connect((address, client.option(port).parse().expect("a port"))).is_ok()
    };
    assert!(listens("127.0.0.1", "PORT") && !listens("127.0.0.2", "PORT"));
    let peers = "TORRENT_FIRST_PORT";
    assert!(listens("127.0.0.2", peers) && !listens("127.0.0.1", peers));
}

#[test]
fn a_broken_pair_is_named_by_its_half() {
    let dir = temp_dir();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let paths = ["cert.pem", "key.pem", "other.pem", "junk", "absent"].map(path);
    let [cert, key, other, junk, absent] = paths.each_ref().map(String::as_str);
    let names = ["localhost".to_owned()];
    for cert in [cert, other] {
        let key = if cert == other { path("other-key.pem") } else { key.to_owned() };
        torrent_cache::net::tls::server_config(cert.as_ref(), key.as_ref(), &names)
            .expect("a pair can be made");
    }
    fs::write(junk, "junk").expect("disk has room");
    assert_named(&[("CERTFILE", junk), ("PRIVATEKEY", key)]);
    assert_named(&[("CERTFILE", other), ("PRIVATEKEY", key)]);
    assert_named(&[("CERTFILE", absent), ("PRIVATEKEY", key)]);
    assert_named(&[("PRIVATEKEY", junk), ("CERTFILE", cert)]);
    assert_named(&[("PRIVATEKEY", absent), ("CERTFILE", cert)]);
    assert_named(&[("CA", junk)]);
}

#[test]
fn a_store_that_another_client_uses_is_refused_and_left_alone() {
    let mut client = Program::client("client", &[]);
    let storage = client.option("STORAGE").to_owned();
    assert_named(&[("STORAGE", &storage)]);
    assert_eq!(client.admin("/health").status, 200);
    assert!(client.stop().success());
    client.start_again();
}
