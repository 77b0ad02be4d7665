//! TLS and plain HTTP on one port, files over both, real clients.

use std::process::Command;

use rustls::pki_types::ServerName;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use super::*;
use crate::net::agent::{AgentConfig, agent};
use crate::net::tls::{self, Roots};

/// A server with a new certificate, and whom its clients must trust.
fn tls_rig(change: impl FnOnce(&mut ServerConfig)) -> (Rig, Roots, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let cert = folder.path().join("cert.pem");
    let config = tls::server_config(&cert, &folder.path().join("key.pem"), &[]).unwrap();
    let rig = rig(|server| {
        server.tls = Some(config);
        change(server);
    });
    let der = rustls::pki_types::CertificateDer::from_pem_file(&cert).unwrap();
    (rig, Roots(vec![der]), folder)
}

fn secure(rig: &Rig, roots: &Roots) -> StreamOwned<ClientConnection, TcpStream> {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.0.iter().cloned());
    let config = ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost").unwrap();
    let client = ClientConnection::new(Arc::new(config), name).unwrap();
    StreamOwned::new(client, rig.connect())
}

#[test]
fn files_are_served_whole_with_and_without_tls_on_one_port() {
    let (rig, roots, _folder) = tls_rig(|_| {});
    let port = rig.server.local_addr().port();
    let agent = agent(&AgentConfig::for_upstreams(roots));
    for scheme in ["http", "https"] {
        for (path, from) in [("file", 1), ("file/chunked", 0), ("file", 1)] {
            let url = format!("{scheme}://localhost:{port}/{path}");
            let mut response = agent.get(&url).call().unwrap();
            let mut body = Vec::new();
            response.body_mut().as_reader().read_to_end(&mut body).unwrap();
            assert!(body == file_bytes()[from..], "{url}");
        }
        let url = format!("{scheme}://localhost:{port}/file/short");
        let mut response = agent.get(&url).call().unwrap();
        let cut = response.body_mut().as_reader().read_to_end(&mut Vec::new());
        assert!(cut.is_err(), "{url} must not look whole");
    }
}

#[test]
fn curl_speaks_both_and_uploads() {
    let (rig, _roots, folder) = tls_rig(|_| {});
    let port = rig.server.local_addr().port();
    let cert = folder.path().join("cert.pem");
    for scheme in ["http", "https"] {
        let output = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--noproxy", "*", "--cacert"])
            .arg(&cert)
            .args(["-H", "Expect: 100-continue", "-H", "Transfer-Encoding: chunked", "-T"])
            .arg(&cert)
            .arg(format!("{scheme}://localhost:{port}/echo"))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.stdout == std::fs::read(&cert).unwrap(), "{scheme}: {error}");
    }
}

#[test]
fn a_tls_hello_to_a_plain_port_is_answered_at_once() {
    let rig = rig(|_| {});
    assert_eq!(rig.all(b"\x16\x03\x01\x02\x00\x01"), "HTTP/1.0 400 Bad Request\r\n\r\n");
    let (rig, _roots, _folder) = tls_rig(|config| config.plain = false);
    assert!(rig.all(&get("/hello")).starts_with("HTTP/1.1 400 "));
}

#[test]
fn slow_and_broken_handshakes_hold_no_worker() {
    let (rig, roots, _folder) = tls_rig(|config| {
        config.workers_max = 1;
        config.head = Duration::from_millis(500);
    });
    let mut slow: Vec<TcpStream> = (0..10).map(|_| rig.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"\x16\x03\x01").unwrap();
    }
    let mut broken = rig.connect();
    broken.write_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01x").unwrap();
    let mut alert = Vec::new();
    broken.read_to_end(&mut alert).unwrap();
    assert_eq!(alert.first(), Some(&0x15), "an alert says that it is broken");

    let mut stream = secure(&rig, &roots);
    stream.write_all(&last_get("/hello")).unwrap();
    let mut text = String::new();
    // A clean end: `read_to_string` fails if the close is not announced.
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("hello"), "{text}");
    for mut stream in slow {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "given up without a word");
    }
}

#[test]
fn a_cut_answer_over_tls_is_no_clean_end() {
    let (rig, roots, _folder) = tls_rig(|_| {});
    let mut stream = secure(&rig, &roots);
    stream.write_all(&get("/cut/length")).unwrap();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[test]
fn requests_sent_ahead_over_tls_are_answered_in_order() {
    let (rig, roots, _folder) = tls_rig(|_| {});
    let mut stream = secure(&rig, &roots);
    let requests = [get("/a"), get("/b"), last_get("/c")].concat();
    stream.write_all(&requests).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let places = ["/a", "/b", "/c"].map(|path| text.find(path).unwrap());
    assert!(places.is_sorted(), "{text}");
}
