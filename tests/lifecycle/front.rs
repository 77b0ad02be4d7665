//! What clients of the one port see: TLS and plain HTTP, mirror and proxy.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use crate::support::image::Image;
use crate::support::registry::Registry;
use crate::support::torrent_cache::Program;
use crate::support::{PATIENCE, free_port, skopeo};
use crate::world::{Download, MIB, Upstream, ask, blob};

/// A client that stands alone before `upstream`.
fn client(upstream: &Upstream, options: &[(&str, &str)]) -> Program {
    let url = upstream.url();
    Program::client("client", &[&[("REGISTRY_LOCATION", url.as_str())], options].concat())
}

/// The status that curl was answered with.
fn status(arguments: &[&str]) -> String {
    ask(&[&["--output", "/dev/null", "--write-out", "%{http_code}"], arguments].concat()).output
}

#[test]
fn images_are_pulled_over_tls_and_over_plain_http() {
    let registry = Registry::start();
    let image = Image::random(51, &[300_000]);
    skopeo::push(&image, registry.addr(), "library/image:latest");
    for no_ssl in ["", "1"] {
        let url = registry.url();
        let options = [("REGISTRY_LOCATION", url.as_str()), ("REGISTRY_NO_SSL", no_ssl)];
        let client = Program::client("client", &options);
        // skopeo asks with TLS first, and without when that fails.
        skopeo::pull_and_verify(&image, client.addr(), "library/image:latest");
    }
}

#[test]
fn tls_and_plain_share_the_port_and_the_certificate_holds() {
    let upstream = Upstream::start(blob(52, MIB));
    let client = client(&upstream, &[]);
    let (port, path) = (client.addr().port(), upstream.path());
    Download::start(&format!("http://localhost:{port}{path}"), &[]).expect_whole(&upstream.blob);
    let trust = ["--cacert", client.option("CERTFILE")];
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{port}{path}");
        Download::start(&url, &trust).expect_whole(&upstream.blob);
    }
    assert_eq!(upstream.gets().len(), 1);
}

#[test]
fn the_certificate_is_made_once_and_its_key_is_private() {
    let mut client = Program::client("client", &[]);
    let read = |client: &Program, name: &str| fs::read(client.option(name)).expect("it was made");
    let pair = |client: &Program| [read(client, "CERTFILE"), read(client, "PRIVATEKEY")];
    let made = pair(&client);
    let mode = fs::metadata(client.option("PRIVATEKEY")).expect("it was made").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(client.stop().success());
    client.start_again();
    assert_eq!(pair(&client), made);
}

#[test]
fn without_tls_a_hello_is_turned_away_at_once() {
    let client = Program::client("client", &[("REGISTRY_NO_SSL", "1")]);
    assert!(!fs::exists(client.option("PRIVATEKEY")).expect("the folder is ours"));
    let mut stream = TcpStream::connect(client.addr()).expect("it listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    let start = Instant::now();
    // The head of a record of RFC 8446 section 5.1 with a ClientHello, whose rest never comes.
    stream.write_all(&[0x16, 3, 1, 2, 0, 1]).expect("it is open");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.0 400 "), "{answer:?}");
}

#[test]
fn a_proxy_client_gets_blobs_from_the_cache() {
    let upstream = Upstream::start(blob(53, MIB));
    let client = client(&upstream, &[("REGISTRY_LOCATION", "http://127.0.0.1:1")]);
    let proxy = format!("http://{}", client.addr());
    let url = format!("{}{}", upstream.url(), upstream.path());
    for _ in 0..2 {
        Download::start(&url, &["--proxy", &proxy]).expect_whole(&upstream.blob);
    }
    assert_eq!(upstream.gets().len(), 1);
    let other = format!("{}/some/file", upstream.url());
    assert_eq!(ask(&["--proxy", &proxy, &other]).output, "{}");
}

#[test]
fn tunnels_carry_plain_http_and_tls() {
    let upstream = Upstream::start(blob(54, MIB));
    let (proxy, server) = (client(&upstream, &[]), client(&upstream, &[]));
    let through = ["--proxytunnel", "--proxy", &format!("http://{}", proxy.addr())];
    let url = format!("{}{}", upstream.url(), upstream.path());
    Download::start(&url, &through).expect_whole(&upstream.blob);
    let url = format!("https://localhost:{}{}", server.addr().port(), upstream.path());
    let trust = ["--cacert", server.option("CERTFILE")];
    Download::start(&url, &[&through[..], &trust].concat()).expect_whole(&upstream.blob);
    let passed = "torrent_cache_blob_requests_total{outcome=\"upstream\"}";
    assert_eq!((proxy.metric(passed), server.metric(passed)), (0, 1));
}

#[test]
fn an_offer_of_http2_goes_no_further() {
    let upstream = Upstream::start(blob(55, MIB));
    let client = client(&upstream, &[]);
    let url = format!("http://{}/v2/", client.addr());
    let show = ["--http2", "--output", "/dev/null", "--write-out", "%{http_code} %{http_version}"];
    assert_eq!(ask(&[&show[..], &[&url]].concat()).output, "200 1.1");
    let [request] = &upstream.seen()[..] else { panic!("one request") };
    for name in ["upgrade", "http2-settings"] {
        assert_eq!(request.header(name), None);
    }
}

#[test]
fn a_request_that_comes_back_is_refused() {
    let port = free_port().to_string();
    let own = format!("http://127.0.0.1:{port}");
    let _client = Program::client("client", &[("PORT", &port), ("REGISTRY_LOCATION", &own)]);
    let path = format!("/v2/library/a/blobs/sha256:{}", "ab".repeat(32));
    for path in ["/v2/", "/v2/library/a/manifests/latest", &path] {
        assert_eq!(status(&[&format!("{own}{path}")]), "508", "{path}");
        assert_eq!(status(&["--proxy", &own, &format!("{own}{path}")]), "508", "{path}");
    }
}

#[test]
fn link_local_targets_are_refused() {
    let upstream = Upstream::start(blob(56, MIB));
    let client = client(&upstream, &[]);
    let proxy = format!("http://{}", client.addr());
    for host in ["169.254.169.254", "[fe80::1]", "[::ffff:169.254.169.254]", "0.0.0.0"] {
        let url = format!("http://{host}/latest/meta-data/");
        assert_eq!(status(&["--proxy", &proxy, &url]), "403", "{host}");
        let tunnel = ["--proxytunnel", "--write-out", "%{http_connect}", "--proxy", &proxy, &url];
        let answer = ask(&tunnel).output;
        assert!(answer.contains("403"), "{host}: {answer}");
    }
    assert!(upstream.seen().is_empty());
}
