//! Who may have what: a cached blob is given only to whom the upstream would give it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use crate::curl::{Got, curl};
use crate::site::{MIB, blobs_kept, url, wait_until_catalogued, wait_until_kept};
use crate::support::faults::FaultProxy;
use crate::support::image::Blob;
use crate::support::origin::{Origin, Request, Step, answer, redirect, whole};
use crate::support::torrent_cache::Program;
use crate::support::wait_for;
use crate::upstream::random_blob;

const CHALLENGE: &str = "Bearer realm=\"https://auth.example/token\"";

/// What a registry says that keeps `blob` in the private repository `secret`, and serves everybody
/// from the repository `open`, which does not hold it.
fn private(request: &Request, blob: &Blob) -> Vec<Step> {
    let is_head = request.line.starts_with("HEAD");
    let refuse = |status: &str, field: &str| {
        vec![answer(&[&format!("HTTP/1.1 {status}"), field, "Content-Length: 0"], b"")]
    };
    if !request.target().starts_with("/v2/secret/") {
        return refuse("404 Not Found", "X-Test: 1");
    }
    match request.header("authorization") {
        None => refuse("401 Unauthorized", &format!("WWW-Authenticate: {CHALLENGE}")),
        Some("Bearer good" | "Bearer better") if is_head => {
            let len = format!("Content-Length: {}", blob.bytes.len());
            vec![answer(&["HTTP/1.1 200 OK", &len], b"")]
        }
        Some("Bearer good" | "Bearer better") => vec![whole(&blob.bytes)],
        Some(_) => refuse("403 Forbidden", "X-Test: 1"),
    }
}

fn ask(client: &Program, repository: &str, blob: &Blob, token: &str, more: &[&str]) -> Got {
    let field = format!("Authorization: Bearer {token}");
    let mut arguments = more.to_vec();
    if !token.is_empty() {
        arguments.extend(["--header", &field]);
    }
    curl(&url(client, repository, &blob.digest), &arguments)
}

#[test]
fn a_cached_blob_is_refused_to_whom_the_upstream_refuses_it() {
    let blob = random_blob(50, MIB);
    let held = blob.clone();
    let origin = Origin::start(move |request| private(request, &held));
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    ask(&client, "secret", &blob, "good", &[]).assert_is(200, &blob.bytes);
    wait_until_kept(&client, 1);
    for more in [&[][..], &["--head"], &["--range", "0-9"]] {
        let nobody = ask(&client, "secret", &blob, "", more);
        assert_eq!((nobody.status, nobody.header("www-authenticate")), (401, Some(CHALLENGE)));
        assert_eq!(ask(&client, "secret", &blob, "bad", more).status, 403);
        assert_eq!(ask(&client, "open", &blob, "good", more).status, 404);
        assert_eq!(ask(&client, "open", &blob, "", more).status, 404);
    }
    let etag = format!("If-None-Match: \"{}\"", blob.digest);
    assert_eq!(ask(&client, "secret", &blob, "bad", &["--header", &etag]).status, 403);
    assert_eq!(ask(&client, "secret", &blob, "good", &["--header", &etag]).status, 304);
    ask(&client, "secret", &blob, "better", &[]).assert_is(200, &blob.bytes);
    let fetches = origin.seen().into_iter().filter(|request| {
        let granted = ["Bearer good", "Bearer better"].map(Some);
        let is_granted = granted.contains(&request.header("authorization"));
        is_granted && request.line.starts_with("GET /v2/secret/")
    });
    assert_eq!(fetches.count(), 1, "all but the first came from the store");
}

#[test]
fn with_the_upstream_away_only_what_was_granted_is_served() {
    let blob = random_blob(51, MIB);
    let held = blob.clone();
    let origin = Origin::start(move |request| private(request, &held));
    let proxy = FaultProxy::start(origin.addr());
    let start = |name: &str, offline: &str| {
        let client =
            Program::client(name, &[("REGISTRY_LOCATION", &proxy.url()), ("OFFLINE", offline)]);
        ask(&client, "secret", &blob, "good", &[]).assert_is(200, &blob.bytes);
        wait_until_kept(&client, 1);
        client
    };
    let (granted, allow) = (start("granted", "granted"), start("allow", "allow"));
    drop(proxy);
    ask(&granted, "secret", &blob, "good", &[]).assert_is(200, &blob.bytes);
    for (repository, token) in [("secret", ""), ("secret", "better"), ("open", "good")] {
        let got = ask(&granted, repository, &blob, token, &[]);
        assert_eq!((got.exit, got.status), (Some(0), 502), "{repository} {token}");
        ask(&allow, repository, &blob, token, &[]).assert_is(200, &blob.bytes);
    }
}

/// Who pushes an image sends the blobs that the registry says it does not have: what is here, and
/// was granted a moment ago, does not matter. Registries delete blobs.
#[test]
fn whether_a_blob_is_there_is_for_the_upstream_to_say() {
    let blob = random_blob(55, MIB);
    let (held, answers) = (blob.clone(), Arc::new(AtomicU16::new(200)));
    let says = Arc::clone(&answers);
    let origin = Origin::start(move |request| match says.load(Ordering::SeqCst) {
        200 => private(request, &held),
        other => vec![answer(&[&format!("HTTP/1.1 {other} X"), "Content-Length: 0"], b"")],
    });
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    ask(&client, "secret", &blob, "good", &[]).assert_is(200, &blob.bytes);
    wait_until_kept(&client, 1);
    // The last is no answer: then it is what was said before.
    for (said, told) in [(200, 200), (404, 404), (200, 200), (503, 200)] {
        answers.store(said, Ordering::SeqCst);
        let head = ask(&client, "secret", &blob, "good", &["--head"]);
        assert_eq!((head.exit, head.status), (Some(0), told), "{said}");
    }
}

#[test]
fn a_refused_reader_starts_nothing_and_harms_no_other() {
    let blob = random_blob(52, 2 * MIB);
    let (held, release) = (blob.clone(), Arc::new(AtomicBool::new(false)));
    let asked = Arc::new(AtomicBool::new(false));
    let (released, was_asked) = (Arc::clone(&release), Arc::clone(&asked));
    let origin = Origin::start(move |request| {
        if request.header("authorization") == Some("Bearer bad") {
            was_asked.store(true, Ordering::SeqCst);
            wait_for("the test", || released.load(Ordering::SeqCst).then_some(()));
        }
        private(request, &held)
    });
    let tracker = Program::tracker("tracker", &[]);
    let (registry, announce) = (format!("http://{}", origin.addr()), tracker.announce_url());
    let options = [
        ("REGISTRY_LOCATION", registry.as_str()),
        ("ETCD_PORT", tracker.option("ETCD_PORT")),
        ("TRACKER", &announce),
    ];
    let first = Program::client("first", &options);
    ask(&first, "secret", &blob, "good", &[]).assert_is(200, &blob.bytes);
    wait_until_catalogued(tracker.option("ETCD_PORT"), &blob);
    // The catalog knows the blob: the second could have it of the first without asking.
    let second = Program::client("second", &options);
    std::thread::scope(|scope| {
        let refused = scope.spawn(|| ask(&second, "secret", &blob, "bad", &[]));
        wait_for("its question", || asked.load(Ordering::SeqCst).then_some(()));
        let served = scope.spawn(|| ask(&second, "secret", &blob, "good", &[]));
        wait_for("both requests", || {
            (second.metric("torrent_cache_http_workers{state=\"busy\"}") >= 3).then_some(())
        });
        release.store(true, Ordering::SeqCst);
        assert_eq!(refused.join().expect("curl ran").status, 403);
        served.join().expect("curl ran").assert_is(200, &blob.bytes);
    });
    let third = Program::client("third", &options);
    assert_eq!(ask(&third, "secret", &blob, "bad", &[]).status, 403);
    assert_eq!(blobs_kept(&third), 0);
}

/// The catalog knows a blob that no peer has any more, and who asks first has a token that expires
/// before the blob is asked for.
#[test]
fn a_token_that_expired_stops_nobody_who_comes_with_a_fresh_one() {
    let blob = random_blob(55, 2 * MIB);
    let held = blob.clone();
    let is_old = |request: &Request| request.header("authorization") == Some("Bearer good");
    let has_expired = Arc::new(AtomicBool::new(false));
    let expired = Arc::clone(&has_expired);
    let origin = Origin::start(move |request| {
        let is_refused = is_old(request) && expired.load(Ordering::SeqCst);
        match is_refused && request.line.starts_with("GET") {
            true => vec![answer(&["HTTP/1.1 401 Unauthorized", "Content-Length: 0"], b"")],
            false => private(request, &held),
        }
    });
    let tracker = Program::tracker("tracker", &[]);
    let (registry, announce) = (format!("http://{}", origin.addr()), tracker.announce_url());
    let options = [
        ("REGISTRY_LOCATION", registry.as_str()),
        ("ETCD_PORT", tracker.option("ETCD_PORT")),
        ("TRACKER", &announce),
    ];
    let mut first = Program::client("first", &options);
    ask(&first, "secret", &blob, "good", &[]).assert_is(200, &blob.bytes);
    wait_until_catalogued(tracker.option("ETCD_PORT"), &blob);
    first.stop();
    has_expired.store(true, Ordering::SeqCst);
    let second = Program::client("second", &options);
    std::thread::scope(|scope| {
        let before = scope.spawn(|| ask(&second, "secret", &blob, "good", &[]));
        wait_for("the refusal", || {
            let refused = |request: &Request| request.line.starts_with("GET") && is_old(request);
            (origin.seen().iter().filter(|request| refused(request)).count() == 2).then_some(())
        });
        ask(&second, "secret", &blob, "better", &[]).assert_is(200, &blob.bytes);
        before.join().expect("curl ran").assert_is(200, &blob.bytes);
    });
}

#[test]
fn a_request_for_a_blob_is_counted_once_and_no_other_is() {
    let blob = random_blob(56, MIB);
    let held = blob.clone();
    let origin = Origin::start(move |request| private(request, &held));
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    let nobody = Program::client("nobody", &[]);
    let counts = |client: &Program| {
        ["hit", "swarm", "upstream", "denied", "failed"].map(|outcome| {
            client.metric(&format!("torrent_cache_blob_requests_total{{outcome=\"{outcome}\"}}"))
        })
    };
    assert_eq!(ask(&client, "secret", &blob, "", &[]).status, 401);
    assert_eq!(counts(&client), [0, 0, 0, 1, 0]);
    ask(&client, "secret", &blob, "good", &[]).assert_is(200, &blob.bytes);
    wait_until_kept(&client, 1);
    ask(&client, "secret", &blob, "good", &[]).assert_is(200, &blob.bytes);
    assert_eq!(counts(&client), [1, 0, 1, 1, 0]);
    for more in [&[][..], &["--head"]] {
        assert_eq!(ask(&nobody, "secret", &blob, "good", more).status, 502);
    }
    for path in ["tags/list", "manifests/latest"] {
        assert_eq!(curl(&format!("http://{}/v2/a/{path}", nobody.addr()), &[]).status, 502);
    }
    let proxy = format!("http://{}", nobody.addr());
    let tunnel = ["--noproxy", "none", "--proxytunnel", "--proxy", &proxy];
    assert_ne!(curl("http://127.0.0.1:1/", &tunnel).exit, Some(0));
    assert_eq!(counts(&nobody), [0, 0, 0, 0, 1]);
    assert_eq!(nobody.metric("torrent_cache_relayed_requests_total{outcome=\"failed\"}"), 3);
}

/// A registry keeps its blobs in a storage that takes a signed URL for the method that it was
/// signed for, and no other.
#[test]
fn storage_that_refuses_a_question_refuses_no_blob() {
    let blob = random_blob(53, MIB);
    let held = blob.clone();
    let storage = Origin::start(move |request| match request.line.starts_with("GET") {
        true => vec![whole(&held.bytes)],
        false => vec![answer(&["HTTP/1.1 403 Forbidden", "Content-Length: 243"], b"")],
    });
    let signed = storage.url("/data?signature=of-a-get");
    let held = blob.clone();
    let origin = Origin::start(move |request| match request.header("authorization") {
        Some("Bearer good" | "Bearer better") => vec![redirect(&signed)],
        _ => private(request, &held),
    });
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    ask(&client, "secret", &blob, "good", &[]).assert_is(200, &blob.bytes);
    wait_until_kept(&client, 1);
    ask(&client, "secret", &blob, "better", &[]).assert_is(200, &blob.bytes);
    assert_eq!(ask(&client, "secret", &blob, "bad", &[]).status, 403);
    assert_eq!(ask(&client, "secret", &blob, "", &[]).status, 401);
    let whole =
        |request: &&Request| request.line.starts_with("GET") && request.header("range").is_none();
    assert_eq!(storage.seen().iter().filter(whole).count(), 1, "the second came from the store");
}

/// The right to a blob may stand in its URL, or in a field of the registry's own.
#[test]
fn a_signature_or_a_key_is_a_credential() {
    let blob = random_blob(54, MIB);
    let held = blob.clone();
    let origin = Origin::start(move |request| {
        let is_signed = request.target().ends_with("?signature=good");
        match is_signed || request.header("x-jfrog-art-api") == Some("good") {
            true if request.line.starts_with("HEAD") => {
                let len = format!("Content-Length: {}", held.bytes.len());
                vec![answer(&["HTTP/1.1 200 OK", &len], b"")]
            }
            true => vec![whole(&held.bytes)],
            false => vec![answer(&["HTTP/1.1 403 Forbidden", "Content-Length: 0"], b"")],
        }
    });
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    let ask = |repository: &str, key: &str, query: &str| {
        let field = format!("X-JFrog-Art-Api: {key}");
        let url = url(&client, repository, &blob.digest) + query;
        let fields = ["--header", field.as_str()];
        curl(&url, if key.is_empty() { &[] } else { &fields })
    };
    for (repository, key, query) in [("signed", "", "?signature=good"), ("keyed", "good", "")] {
        ask(repository, key, query).assert_is(200, &blob.bytes);
        wait_until_kept(&client, 1);
        for (key, query) in [("", ""), ("bad", ""), ("", "?signature=bad")] {
            assert_eq!(ask(repository, key, query).status, 403, "{repository} {key} {query}");
        }
        ask(repository, key, query).assert_is(200, &blob.bytes);
    }
}
