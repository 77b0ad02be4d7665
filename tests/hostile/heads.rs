//! Requests that are none, or that two readers could understand in two ways.

use std::io::Write as _;
use std::net::Ipv4Addr;

use torrent_cache::limits::{COPY_LEN, HTTP_HEAD_LEN_MAX, HTTP_LINGER_LEN_MAX, HTTP_WORKERS_MAX};

use crate::support::wait_for;
use crate::{HOSTILE, Targets, ask, connect_from, resident_kib, rest, status};

/// What the kernel takes of a connection that nobody reads, with room (`tcp_wmem`, `tcp_rmem`).
const SOCKET_BUFFERS: usize = 16 << 20;

#[test]
fn what_is_no_request_gets_a_4xx_or_a_closed_connection() {
    let targets = Targets::start(None);
    let requests: &[&[u8]] = &[
        b"\0\0\0\0\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\nHost: h\n\n",
        b"GET / HTTP/1.1\r\nHost: h\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: a\r\n b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX : a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\rX: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5, 5\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"CONNECT / HTTP/1.1\r\nHost: h\r\n\r\n",
    ];
    for address in targets.addresses() {
        for request in requests {
            let text = ask(address, request);
            let status = status(&text);
            let told = (400..500).contains(&status) && text.contains("onnection: close");
            assert!(told || text.is_empty(), "{address} {}: {text}", request.escape_ascii());
        }
    }
    assert!(targets.origin.seen().is_empty(), "none of it went further");
    targets.assert_serves_others();
}

#[test]
fn endless_heads_end_at_the_bound() {
    let mut targets = Targets::start(None);
    let before = resident_kib(&mut targets.client);
    let line = format!("X-Filler: {}\r\n", "a".repeat(1000));
    for address in targets.addresses() {
        for start in ["GET / HTTP/1.1\r\nHost: h\r\n", "GET /"] {
            let stream = connect_from(HOSTILE, address);
            let _ = (&stream).write_all(start.as_bytes());
            // It goes on reading a little after it has refused, so that the refusal arrives.
            let filler = if start.len() > 5 { line.as_bytes() } else { &[b'a'; 1000] };
            let mut written = 0;
            while (&stream).write_all(&filler.repeat(100)).is_ok() {
                written += 100 * filler.len();
                let bound = HTTP_HEAD_LEN_MAX + HTTP_LINGER_LEN_MAX + SOCKET_BUFFERS;
                assert!(written < bound, "{address}: it reads without end");
            }
            let status = status(&rest(&stream));
            assert!(matches!(status, 0 | 414 | 431), "{address}: {status}");
        }
    }
    let grown = resident_kib(&mut targets.client).saturating_sub(before);
    assert!(grown < 8 << 10, "{grown} KiB for heads of at most {HTTP_HEAD_LEN_MAX}");
    targets.assert_serves_others();
}

#[test]
fn paths_that_only_look_like_a_blob_go_to_the_upstream_as_they_are() {
    let targets = Targets::start(None);
    let digest = format!("sha256:{}", "ab".repeat(32));
    let paths = [
        format!("/v2/a/../../etc/blobs/{digest}"),
        format!("/v2/a/%2e%2e/blobs/{digest}"),
        format!("/v2/a/..%2f/blobs/{digest}"),
        format!("/v2/a/blobs/{digest}0"),
        format!("/v2/a/blobs/{}", &digest[..70]),
        format!("/v2/a/blobs/md5:{}", "ab".repeat(16)),
        "/v2/a/blobs/sha256:..%2f..%2fetc".to_owned(),
        "/../../../etc/passwd".to_owned(),
    ];
    for path in &paths {
        let get = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&ask(targets.client.addr(), get.as_bytes())), 404, "{path}");
    }
    let seen: Vec<String> =
        targets.origin.seen().iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(seen, paths, "what it means is for the upstream to say");
    assert_eq!(targets.client.status()["jobs"], 0);
}

#[test]
fn the_target_says_the_host_and_not_the_field() {
    let targets = Targets::start(None);
    let origin = targets.origin.addr();
    let get =
        format!("GET http://{origin}/x HTTP/1.1\r\nHost: 192.0.2.9\r\nConnection: close\r\n\r\n");
    assert_eq!(status(&ask(targets.client.addr(), get.as_bytes())), 404);
    let [request] = &targets.origin.seen()[..] else { panic!("one request") };
    assert_eq!(request.header("host"), Some(origin.to_string().as_str()), "RFC 9112 3.2.2");
}

#[test]
fn a_megabyte_of_requests_sent_ahead_is_answered_in_order() {
    let mut targets = Targets::start(None);
    let before = resident_kib(&mut targets.client);
    for (address, path) in targets.addresses().into_iter().zip(["/x", "/health", "/", "/health"]) {
        let get = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        let last = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let count = (1 << 20) / get.len();
        let stream = connect_from(Ipv4Addr::LOCALHOST, address);
        let writer = stream.try_clone().expect("descriptors are left");
        let sender = std::thread::spawn(move || {
            // A server that wants one request of a connection does not read the others.
            let _ = (&writer).write_all((get.repeat(count) + &last).as_bytes());
        });
        let text = rest(&stream);
        sender.join().expect("it does not panic");
        let answers = text.matches("HTTP/1.1 ").count();
        let closes_at_once = text
            .split("\r\n\r\n")
            .next()
            .is_some_and(|head| head.to_ascii_lowercase().contains("connection: close"));
        assert_eq!(answers, if closes_at_once { 1 } else { count + 1 }, "{address}");
    }
    let grown = resident_kib(&mut targets.client).saturating_sub(before);
    assert!(grown < 16 << 10, "{grown} KiB");
}

#[test]
fn bodies_that_do_not_come_hold_up_nobody() {
    let mut targets = Targets::start(None);
    let before = resident_kib(&mut targets.client);
    let mut streams = Vec::new();
    for address in targets.addresses() {
        for len in ["1000", "100000000000000"] {
            let post = format!("POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: {len}\r\n\r\n");
            for _ in 0..100 {
                let stream = connect_from(HOSTILE, address);
                (&stream).write_all(post.as_bytes()).expect("it reads heads");
                streams.push(stream);
            }
        }
    }
    wait_for("the requests", || {
        let busy = "torrent_cache_http_workers{state=\"busy\"}";
        (targets.client.metric(busy) >= 100).then_some(())
    });
    targets.assert_serves_others();
    let grown = resident_kib(&mut targets.client).saturating_sub(before);
    // Each worker has a buffer, and the connection to the upstream two.
    let bound = (HTTP_WORKERS_MAX / 2 * 3 * COPY_LEN) >> 10;
    assert!(grown < bound, "{grown} KiB for 200 bodies");
}
