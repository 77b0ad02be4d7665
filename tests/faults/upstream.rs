//! Upstreams that refuse, stall, break off and lie.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crate::curl::curl;
use crate::site::{MIB, REPOSITORY, Site, blobs_kept, catalogued, pull, url};
use crate::site::{wait_until_catalogued, wait_until_kept};
use crate::support::faults::Fault;
use crate::support::image::Blob;
use crate::support::origin::{Origin, Step, answer, whole};
use crate::support::torrent_cache::Program;
use crate::support::wait_for;
use torrent_cache::base::rng::Rng;
use torrent_cache::limits;

/// A blob of so many random bytes.
pub fn random_blob(seed: u64, len: usize) -> Blob {
    let mut bytes = vec![0; len];
    Rng::seeded(seed).fill(&mut bytes);
    Blob::new(bytes)
}

#[test]
fn a_refusal_reaches_the_client_as_it_is_and_leaves_nothing() {
    const REFUSALS: &[(&str, &str)] = &[
        ("404 Not Found", "Content-Type: application/json"),
        (
            "401 Unauthorized",
            "WWW-Authenticate: Bearer realm=\"https://a.example/t?x=1\",scope=\"s\"",
        ),
        ("429 Too Many Requests", "Retry-After: 7"),
        ("500 Internal Server Error", "X-Reason: a test"),
    ];
    let refused: Vec<Blob> = (0..4).map(|seed| random_blob(seed, 1000)).collect();
    let good = random_blob(9, 1000);
    let (names, served) = (refused.clone(), good.clone());
    let origin = Origin::start(move |request| {
        let asked = |blob: &Blob| request.target().ends_with(&blob.digest);
        let Some(index) = names.iter().position(asked) else {
            return vec![whole(&served.bytes)];
        };
        let (status, field) = REFUSALS[index];
        let body = format!("{{\"errors\":[\"{status}\"]}}");
        let line = format!("HTTP/1.1 {status}");
        let len = format!("Content-Length: {}", body.len());
        vec![answer(&[&line, field, &len], body.as_bytes())]
    });
    let tracker = Program::tracker("tracker", &[]);
    let (etcd_port, registry) = (tracker.option("ETCD_PORT"), format!("http://{}", origin.addr()));
    let client =
        Program::client("client", &[("REGISTRY_LOCATION", &registry), ("ETCD_PORT", etcd_port)]);
    for (blob, (status, field)) in refused.iter().zip(REFUSALS) {
        let got = pull(&client, blob, &[]);
        let body = format!("{{\"errors\":[\"{status}\"]}}");
        got.assert_is(status[..3].parse().expect("a number"), body.as_bytes());
        let (name, value) = field.split_once(": ").expect("a field");
        assert_eq!(got.header(name), Some(value));
    }
    assert_eq!(blobs_kept(&client), 0);
    assert_eq!(client.status()["seeds"], 0);
    assert_eq!(client.status()["transfers"], serde_json::json!([]));
    // Blobs are published in order: what comes before this one would be there.
    pull(&client, &good, &[]).assert_is(200, &good.bytes);
    wait_until_catalogued(etcd_port, &good);
    assert_eq!(catalogued(etcd_port), [good.digest]);
}

#[test]
fn a_broken_stream_is_healed_inside_the_response() {
    let site = Site::start(20, &[3 * MIB, 3 * MIB, 3 * MIB, 3 * MIB]);
    let after = MIB as u64;
    let faults: [&[Fault]; 4] = [
        &[Fault::Cut { after }],
        &[Fault::Reset { after }],
        &[Fault::Stall { after }],
        &[Fault::Cut { after }, Fault::IgnoreRange],
    ];
    for (layer, faults) in site.image.layers.iter().zip(faults) {
        for fault in faults {
            site.proxy.fail(&layer.digest, 1, *fault);
        }
    }
    let client = site.lone_client();
    std::thread::scope(|scope| {
        for layer in &site.image.layers {
            let client = &client;
            scope.spawn(move || pull(client, layer, &[]).assert_is(200, &layer.bytes));
        }
    });
    for layer in &site.image.layers {
        let requests = site.proxy.blob_requests("GET", &layer.digest);
        let ranges: Vec<bool> = requests.iter().map(|request| request.range.is_some()).collect();
        assert_eq!(ranges, [false, true], "{}: asked once more, for the rest", layer.digest);
    }
    wait_until_kept(&client, 4);
}

#[test]
fn a_client_of_images_does_not_notice_that_streams_broke() {
    let site = Site::start(21, &[2 * MIB, 2 * MIB, 2 * MIB]);
    let after = 700_000;
    let faults = [Fault::Cut { after }, Fault::Reset { after }, Fault::Stall { after }];
    for (layer, fault) in site.image.layers.iter().zip(faults) {
        site.proxy.fail(&layer.digest, 1, fault);
    }
    site.pull_through(&site.lone_client());
}

#[test]
fn an_upstream_that_always_breaks_at_the_same_byte_is_given_up() {
    let blob = random_blob(22, MIB);
    let head = format!("Content-Length: {}", blob.bytes.len());
    let half = answer(&["HTTP/1.1 200 OK", &head], &blob.bytes[..MIB / 2]);
    let origin = Origin::always(vec![half, Step::Close]);
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    pull(&client, &blob, &[]).assert_is_cut(&blob.bytes);
    let attempts = origin.seen().len();
    assert!(attempts <= 1 + limits::FILL_ATTEMPTS_MAX as usize, "{attempts} attempts");
    assert_eq!(blobs_kept(&client), 0);
}

#[test]
fn a_blob_of_which_no_byte_comes_is_answered_with_what_the_client_survives() {
    let blob = random_blob(26, MIB);
    let head = format!("Content-Length: {}", blob.bytes.len());
    let origin = Origin::always(vec![answer(&["HTTP/1.1 200 OK", &head], b""), Step::Close]);
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    std::thread::scope(|scope| {
        for (agent, status) in [("containerd/1.7", 502), ("libostree/2022.7", 500)] {
            let (client, blob) = (&client, &blob);
            scope.spawn(move || {
                let got = pull(client, blob, &["--user-agent", agent]);
                assert_eq!((got.exit, got.status), (Some(0), status), "{}", got.head);
            });
        }
    });
    assert_eq!(blobs_kept(&client), 0);
}

#[test]
fn readers_of_an_upstream_that_does_not_answer_wait_no_longer_than_one() {
    let blob = random_blob(25, 1000);
    let origin = Origin::always(vec![Step::Stall]);
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    let start = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(pull(&client, &blob, &[]).status, 504));
        }
    });
    assert!(start.elapsed() < 2 * limits::UPSTREAM_FIRST_BYTE, "{:?}", start.elapsed());
}

/// The upstream has forgotten one request, and answers all others.
#[test]
fn who_comes_second_does_not_wait_for_an_answer_that_only_the_first_is_not_given() {
    let blob = random_blob(27, MIB);
    let (held, asked) = (blob.clone(), AtomicUsize::new(0));
    let origin = Origin::start(move |_| match asked.fetch_add(1, Ordering::SeqCst) {
        0 => vec![Step::Stall],
        _ => vec![whole(&held.bytes)],
    });
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    std::thread::scope(|scope| {
        let first = scope.spawn(|| pull(&client, &blob, &[]));
        wait_for("the first question", || (!origin.seen().is_empty()).then_some(()));
        pull(&client, &blob, &[]).assert_is(200, &blob.bytes);
        assert!(!first.is_finished(), "the second has waited for the first");
        assert_eq!(first.join().expect("curl ran").status, 504);
    });
}

#[test]
fn wrong_bytes_never_come_whole_and_leave_nothing() {
    let site = Site::start(23, &[2 * MIB, 100]);
    let tracker = Program::tracker("tracker", &[]);
    let etcd_port = tracker.option("ETCD_PORT");
    let client = site.client_of("client", &tracker);
    for (index, at) in [(0, 0), (0, 2 * MIB as u64), (1, 50)] {
        let blob = site.layer(index);
        site.proxy.fail(&blob.digest, 1, Fault::Flip { at });
        pull(&client, blob, &[]).assert_is_cut(&blob.bytes);
    }
    assert_eq!(blobs_kept(&client), 0);
    assert_eq!(client.status()["seeds"], 0);
    let config = &site.image.config;
    pull(&client, config, &[]).assert_is(200, &config.bytes);
    wait_until_catalogued(etcd_port, config);
    assert_eq!(catalogued(etcd_port), std::slice::from_ref(&config.digest));
    // The upstream is well again.
    for blob in &site.image.layers {
        pull(&client, blob, &[]).assert_is(200, &blob.bytes);
    }
    wait_until_kept(&client, 3);
}

#[test]
fn wrong_bytes_of_no_declared_length_never_come_whole() {
    let blob = random_blob(24, 200_000);
    let mut bytes = blob.bytes.clone();
    bytes[100_000] ^= 1;
    let mut body = format!("{:x}\r\n", bytes.len()).into_bytes();
    body.extend_from_slice(&bytes);
    body.extend_from_slice(b"\r\n0\r\n\r\n");
    let origin =
        Origin::always(vec![answer(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"], &body)]);
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    pull(&client, &blob, &[]).assert_is_cut(&blob.bytes);
    let old = curl(&url(&client, REPOSITORY, &blob.digest), &["--http1.0"]);
    assert!(old.body.len() < blob.bytes.len(), "{} bytes", old.body.len());
    assert_eq!(blobs_kept(&client), 0);
}
