//! Upstreams against origins that answer as the tests say, and against a real registry.

mod support;

use std::io::{self, Cursor, Read, Write as _};
use std::net::TcpListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use support::image::Image;
use support::origin::{Origin, Request, Step, answer, part, redirect, whole};
use support::registry::Registry;
use support::{PATIENCE, skopeo, wait_for};
use torrent_cache::base::blame::Blame;
use torrent_cache::limits;
use torrent_cache::net::tls::{self, Roots};
use torrent_cache::proto::http1::{BodyLen, Headers, Method, Url};
use torrent_cache::upstream::{self, Body, HostRule, Upstream, UpstreamConfig, UpstreamError};

fn config() -> UpstreamConfig {
    UpstreamConfig { registry: None, roots: Roots(Vec::new()), allow: Vec::new() }
}

fn upstream() -> Upstream {
    Upstream::new(config())
}

fn at(url: Url) -> upstream::Origin {
    upstream::Origin { url, headers: Headers::new() }
}

fn with_headers(url: Url, fields: &[(&str, &str)]) -> upstream::Origin {
    let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
    upstream::Origin { url, headers: fields.collect() }
}

fn read_all(body: &mut Body) -> Result<Vec<u8>, UpstreamError> {
    let (mut all, mut buf) = (Vec::new(), [0; 7000]);
    loop {
        match body.read(&mut buf)? {
            0 => return Ok(all),
            count => all.extend_from_slice(&buf[..count]),
        }
    }
}

/// What a request for the bytes from `from` to `until` brings.
fn fetch(origin: &Origin, from: u64, until: Option<u64>) -> Result<Vec<u8>, UpstreamError> {
    read_all(&mut upstream().blob(&at(origin.url("/b")), from, until)?)
}

fn blob() -> Vec<u8> {
    (0..100_000u32).map(|at| (at % 251) as u8).collect()
}

#[test]
fn a_blob_comes_whole_and_as_it_is() {
    let origin = Origin::always(vec![whole(&blob())]);
    let fields = [
        ("Authorization", "Bearer x"),
        ("Accept-Encoding", "gzip"),
        ("Range", "bytes=1-2"),
        ("TE", "x"),
    ];
    let mut body = upstream().blob(&with_headers(origin.url("/b?q"), &fields), 0, None).unwrap();
    assert_eq!((body.status, body.offset, body.total), (200, 0, Some(100_000)));
    assert_eq!(read_all(&mut body).unwrap(), blob());
    let seen = origin.seen().remove(0);
    assert_eq!(seen.line, "GET /b?q HTTP/1.1");
    assert_eq!(seen.header("authorization"), Some("Bearer x"));
    assert_eq!(seen.header("accept-encoding"), Some("identity"));
    for absent in ["range", "te", "user-agent", "accept"] {
        assert_eq!(seen.header(absent), None, "{absent}");
    }
}

#[test]
fn a_part_begins_where_it_was_asked_for() {
    let origin = Origin::always(vec![part(&blob(), 99_000)]);
    let mut body = upstream().blob(&at(origin.url("/b")), 99_000, None).unwrap();
    assert_eq!((body.status, body.offset, body.total), (206, 99_000, Some(100_000)));
    assert_eq!(body.left(), Some(1000));
    assert_eq!(read_all(&mut body).unwrap(), blob()[99_000..]);
    assert_eq!(origin.seen()[0].header("range"), Some("bytes=99000-"));
    fetch(&origin, 99_000, Some(100_000)).unwrap();
    assert_eq!(origin.seen()[1].header("range"), Some("bytes=99000-99999"));
}

#[test]
fn an_origin_without_ranges_begins_at_zero() {
    let origin = Origin::always(vec![whole(&blob())]);
    let mut body = upstream().blob(&at(origin.url("/b")), 50_000, None).unwrap();
    assert_eq!((body.status, body.offset), (200, 0));
    assert_eq!(read_all(&mut body).unwrap(), blob());
}

#[test]
fn another_part_than_asked_for_is_refused() {
    for (from, until, field, len) in [
        (10, None, "bytes 9-19/20", 11),
        (10, None, "bytes 11-19/20", 9),
        (10, Some(15), "bytes 10-19/20", 10),
        (10, None, "bytes 10-19/20", 9),
        (10, None, "bytes 10-19/15", 10),
        (10, None, "bytes */20", 10),
        (10, None, "items 10-19/20", 10),
        (0, None, "bytes 0-19/20", 20),
        (1, None, "bytes 1-18446744073709551615/*", 10),
    ] {
        let lines = [format!("Content-Range: {field}"), format!("Content-Length: {len}")];
        let head = ["HTTP/1.1 206 Partial Content", &lines[0], &lines[1]];
        let origin = Origin::always(vec![answer(&head, &vec![0; len])]);
        let result = fetch(&origin, from, until);
        assert!(matches!(result, Err(UpstreamError::WrongRange)), "{field}: {result:?}");
    }
    // A `multipart/byteranges` answer has no `Content-Range` at all.
    let origin = Origin::always(vec![answer(&["HTTP/1.1 206 OK", "Content-Length: 1"], b"x")]);
    assert!(matches!(fetch(&origin, 1, None), Err(UpstreamError::WrongRange)));
}

#[test]
fn a_body_shorter_than_declared_is_an_error() {
    let heads: [&[&str]; 4] = [
        &["HTTP/1.1 200 OK", "Content-Length: 20"],
        &["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"],
        &["HTTP/1.1 206 Partial Content", "Content-Range: bytes 10-29/30", "Content-Length: 20"],
        // No length for the connection, but one for the part.
        &["HTTP/1.1 206 Partial Content", "Content-Range: bytes 10-29/30"],
    ];
    for head in heads {
        for end in [Step::Close, Step::Reset] {
            let body: &[u8] = if head[1].contains("chunked") { b"14\r\n12345" } else { b"12345" };
            let origin = Origin::always(vec![answer(head, body), end.clone()]);
            let from = if head[0].contains("206") { 10 } else { 0 };
            let error = fetch(&origin, from, None).expect_err("it is cut");
            assert!(
                matches!(error, UpstreamError::WrongLength | UpstreamError::Io(_)),
                "{head:?} {end:?}: {error:?}"
            );
            assert_eq!(error.blame(), Blame::Upstream);
        }
    }
}

#[test]
fn a_part_longer_than_declared_is_an_error() {
    let head = ["HTTP/1.1 206 OK", "Content-Range: bytes 1-3/9", "Transfer-Encoding: chunked"];
    let origin = Origin::always(vec![answer(&head, b"4\r\n1234\r\n0\r\n\r\n")]);
    assert!(matches!(fetch(&origin, 1, None), Err(UpstreamError::WrongLength)));
}

#[test]
fn bodies_of_unknown_length_come_to_their_end() {
    let chunks = b"5\r\n12345\r\n4;x=y\r\n6789\r\n0\r\nTrailer: x\r\n\r\n";
    let chunked = ["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"];
    for steps in [
        vec![answer(&chunked, chunks)],
        vec![answer(&["HTTP/1.1 200 OK"], b"123456789"), Step::Close],
        vec![answer(&["HTTP/1.0 200 OK"], b"123456789"), Step::Close],
    ] {
        let origin = Origin::always(steps);
        let mut body = upstream().blob(&at(origin.url("/")), 0, None).unwrap();
        assert_eq!((body.total, body.left()), (None, None));
        assert_eq!(read_all(&mut body).unwrap(), b"123456789");
    }
}

#[test]
fn a_compressed_body_is_no_blob() {
    let head = ["HTTP/1.1 200 OK", "Content-Encoding: gzip", "Content-Length: 1"];
    let origin = Origin::always(vec![answer(&head, b"x")]);
    assert!(matches!(fetch(&origin, 0, None), Err(UpstreamError::Encoded)));
}

#[test]
fn credentials_do_not_leave_their_origin() {
    let cdn = Origin::start(|request| vec![part(&blob(), range_of(request))]);
    let to = cdn.url("/signed?sig=1");
    let registry = Origin::start(move |request| match request.target() {
        "/v2/x" => {
            vec![answer(&["HTTP/1.1 302 Found", "Location: /v2/y", "Content-Length: 0"], b"")]
        }
        _ => vec![redirect(&to)],
    });
    let fields = [("Authorization", "Bearer x"), ("Cookie", "c"), ("Accept", "a/b")];
    let origin = with_headers(registry.url("/v2/x"), &fields);
    let upstream = upstream();
    for _ in 0..2 {
        let mut body = upstream.blob(&origin, 7, None).unwrap();
        assert_eq!(read_all(&mut body).unwrap(), blob()[7..]);
    }
    // From the start each time: what a redirect said is not remembered.
    assert_eq!((registry.seen().len(), cdn.seen().len()), (4, 2));
    let within = &registry.seen()[1];
    assert_eq!(within.header("authorization"), Some("Bearer x"));
    let seen = &cdn.seen()[0];
    assert_eq!((seen.header("authorization"), seen.header("cookie")), (None, None));
    assert_eq!((seen.header("accept"), seen.header("range")), (Some("a/b"), Some("bytes=7-")));
    assert_eq!(seen.header("host"), Some(cdn.addr().to_string().as_str()));
}

fn range_of(request: &Request) -> usize {
    let range = request.header("range").unwrap_or_default();
    range.trim_start_matches("bytes=").trim_end_matches('-').parse().unwrap_or(0)
}

#[test]
fn redirects_are_followed_ten_times() {
    let script = |request: &Request| {
        let hop: usize = request.target().trim_start_matches('/').parse().unwrap_or(0);
        let location = format!("Location: /{}", hop + 1);
        match hop {
            10 => vec![whole(b"at last")],
            _ => vec![answer(&["HTTP/1.1 301 Moved", &location, "Content-Length: 0"], b"")],
        }
    };
    let origin = Origin::start(script);
    let upstream = upstream();
    let mut body = upstream.blob(&at(origin.url("/0")), 0, None).unwrap();
    assert_eq!(read_all(&mut body).unwrap(), b"at last");
    let endless = Origin::start(|request| {
        let location = format!("Location: {}x", request.target());
        vec![answer(&["HTTP/1.1 301 Moved", &location, "Content-Length: 0"], b"")]
    });
    let result = upstream.blob(&at(endless.url("/")), 0, None);
    assert!(matches!(result, Err(UpstreamError::TooManyRedirects)), "{result:?}");
    assert_eq!(endless.seen().len(), limits::UPSTREAM_REDIRECTS_MAX + 1);
}

#[test]
fn a_client_is_sent_to_a_registry_that_wants_other_credentials() {
    let head =
        ["HTTP/1.1 401 Unauthorized", "WWW-Authenticate: Bearer realm=x", "Content-Length: 0"];
    let other = Origin::always(vec![answer(&head, b"")]);
    let to = other.url("/v2/b");
    let registry = Origin::start(move |_| vec![redirect(&to)]);
    let result = upstream().blob(&at(registry.url("/v2/a")), 0, None);
    let Err(UpstreamError::Status(answer)) = result else { panic!("{result:?}") };
    assert_eq!(answer.status, 307);
    assert_eq!(answer.headers.text("location"), Some(other.url("/v2/b").to_string().as_str()));
}

#[test]
fn other_statuses_are_answers_to_pass_on() {
    let head = [
        "HTTP/1.1 401 Unauthorized",
        "WWW-Authenticate: Bearer realm=\"https://A.example/T\"",
        "WWW-Authenticate: Basic",
        "Connection: keep-alive",
        "Content-Length: 13",
    ];
    let origin = Origin::always(vec![answer(&head, b"{\"errors\":[]}")]);
    let result = upstream().blob(&at(origin.url("/")), 0, None);
    let Err(UpstreamError::Status(answer)) = result else { panic!("{result:?}") };
    assert_eq!((answer.status, &answer.body[..]), (401, &b"{\"errors\":[]}"[..]));
    let challenges: Vec<&[u8]> = answer.headers.get_all("www-authenticate").collect();
    assert_eq!(challenges, [&b"Bearer realm=\"https://A.example/T\""[..], b"Basic"]);
    assert_eq!(answer.headers.get("connection"), None);
}

#[test]
fn an_answer_that_declares_too_much_is_still_an_answer() {
    let head = ["HTTP/1.1 416 Range Not Satisfiable", "Content-Length: 100000"];
    let origin = Origin::always(vec![answer(&head, b"{\"errors\":[]}"), Step::Close]);
    let result = upstream().blob(&at(origin.url("/")), 5, None);
    let Err(UpstreamError::Status(answer)) = result else { panic!("{result:?}") };
    assert_eq!((answer.status, &answer.body[..]), (416, &b"{\"errors\":[]}"[..]));
}

#[test]
fn the_body_of_an_answer_is_bounded() {
    let head = ["HTTP/1.1 500 Oops", "Transfer-Encoding: chunked"];
    let endless = Step::Repeat([b"1000\r\n", &[b'x'; 0x1000][..], b"\r\n"].concat());
    let origin = Origin::always(vec![answer(&head, b""), endless]);
    let result = upstream().blob(&at(origin.url("/")), 0, None);
    let Err(UpstreamError::Status(answer)) = result else { panic!("{result:?}") };
    assert_eq!(answer.body.len(), limits::UPSTREAM_ANSWER_LEN_MAX);
}

#[test]
fn head_takes_every_status_and_no_body() {
    let head = ["HTTP/1.1 200 OK", "Content-Length: 100000", "Docker-Content-Digest: d"];
    let origin = Origin::start(move |request| match request.target() {
        "/b" => vec![answer(&head, b"")],
        _ => vec![answer(&["HTTP/1.1 404 Not Found", "Content-Length: 9"], b"")],
    });
    let upstream = upstream();
    let answer = upstream.head(&at(origin.url("/b"))).unwrap();
    assert_eq!((answer.status, answer.body.len()), (200, 0));
    assert_eq!(answer.headers.text("content-length"), Some("100000"));
    assert_eq!(upstream.head(&at(origin.url("/c"))).unwrap().status, 404);
    assert_eq!(origin.connections(), 1);
    assert_eq!(origin.seen()[0].line, "HEAD /b HTTP/1.1");
}

#[test]
fn a_connection_is_used_again_by_a_reader_that_knows_where_the_body_ends() {
    let origin = Origin::start(|request| match range_of(request) {
        0 => vec![whole(&blob())],
        first => vec![part(&blob(), first)],
    });
    let upstream = upstream();
    for round in 0..10 {
        let mut body = upstream.blob(&at(origin.url("/b")), round * 1000, None).unwrap();
        // To the last byte, but not beyond it.
        let mut buf = [0; 4096];
        while body.left() != Some(0) {
            body.read(&mut buf).unwrap();
        }
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_connection_that_the_origin_closed_silently_costs_no_request() {
    let origin = Origin::always(vec![whole(b"x"), Step::Close]);
    let upstream = upstream();
    for _ in 0..50 {
        let mut body = upstream.blob(&at(origin.url("/b")), 0, None).unwrap();
        assert_eq!(read_all(&mut body).unwrap(), b"x");
        assert_eq!(upstream.head(&at(origin.url("/b"))).unwrap().status, 200);
    }
}

#[test]
fn informational_answers_are_passed_over_and_heads_are_bounded() {
    let hints = answer(&["HTTP/1.1 103 Early Hints", "Link: </x>"], b"");
    let origin = Origin::always(vec![hints, whole(b"x")]);
    assert_eq!(fetch(&origin, 0, None).unwrap(), b"x");
    let head = Step::Send(b"HTTP/1.1 200 OK\r\n".to_vec());
    let line = format!("X-Line: {}\r\n", "x".repeat(1000));
    let endless = Origin::always(vec![head, Step::Repeat(line.into_bytes())]);
    let result = fetch(&endless, 0, None);
    assert!(matches!(result, Err(UpstreamError::Malformed(_))), "{result:?}");
    for junk in [
        &b"SSH-2.0-x\r\n\r\n"[..],
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    ] {
        let origin = Origin::always(vec![Step::Send(junk.to_vec())]);
        let result = fetch(&origin, 0, None);
        assert!(matches!(result, Err(UpstreamError::Malformed(_))), "{result:?}");
    }
}

#[test]
fn silence_ends_with_the_patience() {
    let patience = Duration::from_millis(100);
    let upstream = Upstream::with_patience(config(), patience);
    let silent = Origin::always(vec![Step::Stall]);
    let before = Instant::now();
    let result = upstream.blob(&at(silent.url("/b")), 0, None);
    assert!(matches!(result, Err(UpstreamError::TimedOut)), "{result:?}");
    let head = ["HTTP/1.1 200 OK", "Content-Length: 9"];
    let stalling = Origin::always(vec![answer(&head, b"1234"), Step::Stall]);
    // A busy machine may need longer than that for the head.
    let body = || upstream.blob(&at(stalling.url("/b")), 0, None).ok();
    let result = read_all(&mut wait_for("a head in time", body));
    assert!(matches!(result, Err(UpstreamError::TimedOut)), "{result:?}");
    assert!(before.elapsed() >= 2 * patience && before.elapsed() < PATIENCE);
}

#[test]
fn stop_ends_a_wait() {
    let stalling = Origin::always(vec![
        answer(&["HTTP/1.1 200 OK", "Content-Length: 9"], b"1234"),
        Step::Stall,
    ]);
    let upstream = upstream();
    let mut body = upstream.blob(&at(stalling.url("/b")), 0, None).unwrap();
    let before = Instant::now();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_all(&mut body).is_err());
        upstream.stop();
        assert!(reading.join().unwrap());
    });
    assert!(before.elapsed() < limits::UPSTREAM_READ);
    let result = upstream.blob(&at(stalling.url("/b")), 0, None);
    assert!(matches!(result, Err(UpstreamError::Stopped)), "{result:?}");
}

#[test]
fn nobody_there_is_an_error_at_once() {
    let url = {
        let origin = Origin::always(Vec::new());
        origin.url("/")
    };
    // The port is free as soon as the origin's thread has seen its end.
    support::wait_for("the port to be free", || {
        matches!(upstream().blob(&at(url.clone()), 0, None), Err(UpstreamError::Io(_)))
            .then_some(())
    });
}

#[test]
fn clients_name_no_host_and_reach_no_address_that_is_not_allowed() {
    let forbidden = Url::parse("http://169.254.169.254/latest/meta-data").unwrap();
    let upstream = upstream();
    let result = upstream.blob(&at(forbidden.clone()), 0, None);
    assert!(matches!(result, Err(UpstreamError::Forbidden)), "{result:?}");
    let result = upstream.relay(&Method::Get, &forbidden, &Headers::new(), None);
    assert!(matches!(result, Err(UpstreamError::Forbidden)), "{result:?}");
    assert!(matches!(
        upstream.connect("::ffff:169.254.169.254", 80),
        Err(UpstreamError::Forbidden)
    ));
    let to = forbidden.clone();
    let luring = Origin::start(move |_| vec![redirect(&to)]);
    let result = upstream.blob(&at(luring.url("/")), 0, None);
    assert!(matches!(result, Err(UpstreamError::Forbidden)), "{result:?}");

    let origin = Origin::always(vec![whole(b"x")]);
    let allow: Vec<HostRule> = vec!["quay.io".parse().unwrap()];
    let strict = Upstream::new(UpstreamConfig { allow: allow.clone(), ..config() });
    let result = strict.blob(&at(origin.url("/")), 0, None);
    let Err(error @ UpstreamError::Forbidden) = result else { panic!("{result:?}") };
    assert_eq!(error.blame(), Blame::Client);
    assert!(matches!(strict.connect("127.0.0.1", 80), Err(UpstreamError::Forbidden)));
    assert_eq!(origin.connections(), 0);
    let registry = Some(origin.url("/"));
    let strict = Upstream::new(UpstreamConfig { allow, registry, ..config() });
    assert!(strict.blob(&at(origin.url("/")), 0, None).is_ok());
}

#[test]
fn a_tunnel_leads_to_the_host() {
    let origin = Origin::always(vec![whole(b"x"), Step::Close]);
    let mut stream = upstream().connect("localhost", origin.addr().port()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("\r\n\r\nx"), "{text}");
}

#[test]
fn a_relayed_request_and_its_answer_are_left_alone() {
    let head =
        ["HTTP/1.1 307 Temporary Redirect", "Location: /x", "X-Case: Kept", "Content-Length: 2"];
    let origin = Origin::always(vec![answer(&head, b"ok")]);
    let fields = [
        ("Host", "mirror.local"),
        ("Accept", "a/b"),
        ("Accept", "c/d"),
        ("Accept-Encoding", "gzip"),
        ("Connection", "close, X-Private"),
        ("X-Private", "1"),
        ("Proxy-Authorization", "secret"),
        ("X-Bytes", "v"),
    ];
    let request = with_headers(origin.url("/v2/?n=1"), &fields);
    let mut answer = upstream().relay(&Method::Get, &request.url, &request.headers, None).unwrap();
    assert_eq!((answer.status, answer.len), (307, BodyLen::Known(2)));
    assert_eq!(answer.headers.text("location"), Some("/x"));
    assert_eq!(answer.headers.text("x-case"), Some("Kept"));
    let mut body = String::new();
    answer.body.read_to_string(&mut body).unwrap();
    assert_eq!(body, "ok");
    let seen = origin.seen().remove(0);
    assert_eq!(seen.line, "GET /v2/?n=1 HTTP/1.1");
    let accepts: Vec<_> = seen.headers.iter().filter(|(name, _)| name == "accept").collect();
    assert_eq!(accepts.len(), 2);
    assert_eq!(seen.header("accept-encoding"), Some("gzip"));
    assert_eq!(seen.header("host"), Some(origin.addr().to_string().as_str()));
    for absent in ["x-private", "proxy-authorization"] {
        assert_eq!(seen.header(absent), None, "{absent}");
    }
}

#[test]
fn relayed_bodies_arrive_with_their_framing() {
    let origin = Origin::always(vec![whole(b"")]);
    let upstream = upstream();
    let relay = |method: &str, len: Option<BodyLen>| {
        let method = match method {
            "POST" => Method::Post,
            "DELETE" => Method::Delete,
            other => Method::Other(other.to_owned()),
        };
        let mut bytes = Cursor::new(b"hello".to_vec());
        let body = len.map(|len| (&mut bytes as &mut dyn Read, len));
        let answer = upstream.relay(&method, &origin.url("/"), &Headers::new(), body).unwrap();
        assert_eq!(answer.status, 200);
        origin.seen().pop().unwrap()
    };
    let seen = relay("POST", Some(BodyLen::Known(5)));
    assert_eq!((seen.header("content-length"), &seen.body[..]), (Some("5"), &b"hello"[..]));
    let seen = relay("POST", Some(BodyLen::Chunked));
    assert_eq!(seen.header("transfer-encoding"), Some("chunked"));
    assert_eq!(seen.body, b"5\r\nhello\r\n0\r\n\r\n");
    assert_eq!(relay("POST", None).header("content-length"), Some("0"));
    let seen = relay("DELETE", None);
    assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (None, None));
    let seen = relay("PROPFIND", Some(BodyLen::Known(5)));
    assert_eq!((&seen.line[..], &seen.body[..]), ("PROPFIND / HTTP/1.1", &b"hello"[..]));
}

#[test]
fn answers_without_a_body_say_so() {
    for (method, head) in [
        (Method::Head, "HTTP/1.1 200 OK\r\nContent-Length: 5"),
        (Method::Get, "HTTP/1.1 304 Not Modified\r\nContent-Length: 5"),
        (Method::Delete, "HTTP/1.1 204 No Content"),
    ] {
        let origin = Origin::always(vec![answer(&[head], b"")]);
        let mut answer =
            upstream().relay(&method, &origin.url("/"), &Headers::new(), None).unwrap();
        assert_eq!(answer.len, BodyLen::None, "{method:?}");
        assert_eq!(answer.body.read(&mut [0]).unwrap(), 0);
    }
}

/// As registries answer each step of an upload: the connection goes on.
#[test]
fn an_empty_body_has_a_length() {
    let origin = Origin::always(vec![answer(&["HTTP/1.1 202 Accepted", "Content-Length: 0"], b"")]);
    for method in [Method::Get, Method::Post] {
        let answer = upstream().relay(&method, &origin.url("/"), &Headers::new(), None).unwrap();
        assert_eq!((answer.status, answer.len), (202, BodyLen::Known(0)), "{method:?}");
    }
}

#[test]
fn a_request_with_a_body_is_not_sent_twice() {
    let origin = Origin::always(vec![Step::Reset]);
    let mut bytes = Cursor::new(b"hello".to_vec());
    let body = Some((&mut bytes as &mut dyn Read, BodyLen::Known(5)));
    let result = upstream().relay(&Method::Post, &origin.url("/"), &Headers::new(), body);
    assert!(matches!(result, Err(UpstreamError::Io(_))), "{result:?}");
    assert_eq!(origin.seen().len(), 1);
}

/// As a proxy before a registry does with what is too large: it answers and closes, unread bytes or
/// not.
#[test]
fn an_answer_that_comes_before_the_body_has_left_is_the_answer() {
    const LEN: u64 = 64 << 20;
    let listener = TcpListener::bind(support::loopback(0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || {
        for stream in listener.incoming().take(2) {
            let mut stream = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let lines = ["HTTP/1.1 413 Content Too Large", "Content-Length: 9"];
            let Step::Send(bytes) = answer(&lines, b"too large") else { unreachable!() };
            stream.write_all(&bytes).unwrap();
        }
    });
    let (upstream, url) = (upstream(), Url::parse(&url).unwrap());
    for len in [BodyLen::Known(LEN), BodyLen::Chunked] {
        let mut bytes = io::repeat(7).take(LEN);
        let body = Some((&mut bytes as &mut dyn Read, len));
        let mut answer = upstream.relay(&Method::Post, &url, &Headers::new(), body).unwrap();
        let mut text = String::new();
        answer.body.read_to_string(&mut text).unwrap();
        assert_eq!((answer.status, text.as_str()), (413, "too large"));
    }
    serving.join().unwrap();
}

#[test]
fn a_client_that_breaks_its_own_body_is_to_blame() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let origin = Origin::always(vec![whole(b"")]);
    let body = Some((&mut Broken as &mut dyn Read, BodyLen::Known(5)));
    let error =
        upstream().relay(&Method::Put, &origin.url("/"), &Headers::new(), body).unwrap_err();
    assert_eq!(error.blame(), Blame::Client, "{error:?}");
}

#[test]
fn only_a_trusted_certificate_is_talked_to() {
    let dir = support::temp_dir();
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let server = tls::server_config(&cert, &key, &[]).unwrap();
    let listener = TcpListener::bind(support::loopback(0)).unwrap();
    let url = format!("https://localhost:{}/", listener.local_addr().unwrap().port());
    let serving = std::thread::spawn(move || {
        // One who does not trust us, then one who does.
        for stream in listener.incoming().take(2) {
            let connection = rustls::ServerConnection::new(Arc::clone(&server)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            if stream.read(&mut [0; 4096]).is_ok() {
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx").unwrap();
            }
        }
    });
    let origin = at(Url::parse(&url).unwrap());
    let result = upstream().blob(&origin, 0, None);
    assert!(matches!(result, Err(UpstreamError::Tls(_))), "{result:?}");
    let certificate = CertificateDer::from_pem_file(&cert).unwrap();
    let trusting = UpstreamConfig { roots: Roots(vec![certificate]), ..config() };
    let mut body = Upstream::new(trusting).blob(&origin, 0, None).unwrap();
    assert_eq!(read_all(&mut body).unwrap(), b"x");
    serving.join().unwrap();
}

#[test]
fn a_real_registry_gives_a_blob_whole_and_in_part() {
    let registry = Registry::start();
    let image = Image::random(3, &[300_000]);
    skopeo::push(&image, registry.addr(), "library/real:latest");
    let layer = image.blobs().max_by_key(|blob| blob.bytes.len()).expect("an image has blobs");
    let text = format!("{}/v2/library/real/blobs/{}", registry.url(), layer.digest);
    let origin = at(Url::parse(&text).unwrap());
    let upstream = upstream();
    let len = layer.bytes.len() as u64;
    let head = upstream.head(&origin).unwrap();
    assert_eq!(head.headers.text("content-length"), Some(len.to_string().as_str()));
    let mut body = upstream.blob(&origin, 0, None).unwrap();
    assert_eq!(body.total, Some(len));
    assert_eq!(read_all(&mut body).unwrap(), layer.bytes);
    let mut body = upstream.blob(&origin, 1000, Some(5000)).unwrap();
    assert_eq!((body.status, body.offset, body.total), (206, 1000, Some(len)));
    assert_eq!(read_all(&mut body).unwrap(), layer.bytes[1000..5000]);
    let result = upstream.blob(&origin, len, None);
    let Err(UpstreamError::Status(answer)) = result else { panic!("{result:?}") };
    assert_eq!(answer.status, 416);
}
