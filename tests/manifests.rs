//! Manifests: asked of the registry once, whoever pulls; what a tag stands for is the registry's to
//! say. Real registry, real etcd, real clients; a scripted origin for what no registry does.

mod support;

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::json;
use support::curl::{Got, curl};
use support::faults::FaultProxy;
use support::image::{Blob, Image};
use support::network::{NAME, Network};
use support::origin::{Origin, Request, Step, answer};
use support::process::Process;
use support::registry::CREDENTIALS;
use support::torrent_cache::{Program, logs};
use support::{Access, PATIENCE, get, loopback, skopeo, temp_dir, wait_for, wait_longer};

const KIB: usize = 1 << 10;
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// `support::registry::CREDENTIALS` as a header has them.
const AUTHORIZATION: &str = "Authorization: Basic dXNlcjpzZWNyZXQ=";

/// The requests with `method` for manifests that the registry has answered so far.
fn asked(network: &Network, method: &str) -> Vec<Access> {
    let mut accesses = network.registry.accesses();
    accesses.retain(|access| access.method == method && access.path.contains("/manifests/"));
    accesses
}

fn path_of(reference: &str) -> String {
    format!("/v2/library/image/manifests/{reference}")
}

/// What `client` says to a `GET` of a manifest, for a client that takes `types`.
fn ask(client: &Program, reference: &str, types: &str, more: &[&str]) -> Got {
    let url = format!("http://{}{}", client.addr(), path_of(reference));
    let accept = format!("Accept: {types}");
    curl(&url, &[&["--header", &accept], more].concat())
}

fn answered(client: &Program, outcome: &str) -> i64 {
    let series = format!("torrent_cache_manifest_requests_total{{outcome=\"{outcome}\"}}");
    client.metric(&series)
}

/// Lets `pull` happen in a network of its own, and once more if one of the hosts stood still for
/// seconds meanwhile, as where the disk does: then others rightly ask the registry too.
fn with_nobody_silent(pull: impl Fn() -> (Network, Vec<Program>)) -> (Network, Vec<Program>) {
    let silent = |client: &Program| client.log().contains("its host is silent");
    let pulled = || Some(pull()).filter(|(_, clients)| !clients.iter().any(silent));
    wait_longer(4 * PATIENCE, "a pull in which no host stands still", pulled)
}

/// Waits until hosts that look for `manifest` find it.
fn wait_until_published(client: &Program) {
    wait_for("publication", || {
        let series = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
        (client.metric(series) >= 1).then_some(())
    });
}

#[test]
fn hosts_that_pull_at_the_same_time_ask_the_registry_for_one_manifest() {
    let (network, clients) = with_nobody_silent(|| {
        let network = Network::start(80, &[64 * KIB]);
        let clients: Vec<Program> =
            (0..6).map(|number| network.client(&format!("client {number}"), &[])).collect();
        thread::scope(|scope| {
            for client in &clients {
                scope.spawn(|| skopeo::pull_and_verify(&network.image, client.addr(), NAME));
            }
        });
        (network, clients)
    });
    let late = network.client("late", &[]);
    skopeo::pull_and_verify(&network.image, late.addr(), NAME);
    // Each host asks which manifest the tag is: its last question is in the log before it is done.
    wait_for("the registry's log", || (asked(&network, "HEAD").len() >= 7).then_some(()));
    let fetched = asked(&network, "GET");
    let log = logs(&clients);
    assert_eq!(fetched.len(), 1, "{fetched:?}\n{log}");
    let from = |outcome| clients.iter().map(|client| answered(client, outcome)).sum::<i64>();
    assert_eq!((from("upstream"), from("swarm")), (1, 5), "{log}");
    assert_eq!(answered(&late, "swarm"), 1, "{}", late.log());
}

/// As engines ask for an image that is pinned: some of them not with `HEAD` before.
#[test]
fn hosts_that_pull_by_digest_at_the_same_time_ask_for_one_manifest_as_well() {
    let (network, clients) = with_nobody_silent(|| {
        let network = Network::start(91, &[KIB]);
        let clients: Vec<Program> =
            (0..4).map(|number| network.client(&format!("client {number}"), &[])).collect();
        let Blob { digest, bytes } = &network.image.manifest;
        thread::scope(|scope| {
            for client in &clients {
                scope.spawn(|| ask(client, digest, DOCKER, &[]).assert_is(200, bytes));
            }
        });
        (network, clients)
    });
    wait_for("the registry's log", || (!asked(&network, "GET").is_empty()).then_some(()));
    let log = logs(&clients);
    assert_eq!(asked(&network, "GET").len(), 1, "{log}");
}

#[test]
fn a_manifest_by_digest_comes_from_where_it_is() {
    let network = Network::start(81, &[KIB]);
    let (first, second) = (network.client("first", &[]), network.client("second", &[]));
    let Blob { digest, bytes } = &network.image.manifest;
    for (client, source) in
        [(&first, "upstream"), (&first, "store"), (&second, "swarm"), (&second, "store")]
    {
        let got = ask(client, digest, DOCKER, &[]);
        got.assert_is(200, bytes);
        assert_eq!(got.header("x-torrent-cache"), Some(source), "{}", client.log());
        assert_eq!(got.header("content-type"), Some(DOCKER));
        assert_eq!(got.header("docker-content-digest"), Some(digest.as_str()));
        wait_until_published(&first);
    }
    let etag = format!("If-None-Match: \"{digest}\"");
    assert_eq!(ask(&second, digest, DOCKER, &["--header", &etag]).status, 304);
    wait_for("the registry's log", || (!asked(&network, "GET").is_empty()).then_some(()));
    assert_eq!(asked(&network, "GET").len(), 1);
    let head = ask(&second, digest, DOCKER, &["--head"]);
    assert_eq!((head.status, head.header("content-type")), (200, Some(DOCKER)));
    assert_eq!(head.header("content-length"), Some(bytes.len().to_string().as_str()));
}

/// An index, as of an image for several architectures, and one image of it, both in the registry.
fn push_index(network: &Network) -> (Blob, Blob) {
    let image = &network.image;
    let descriptor = |blob: &Blob, kind: &str| {
        let size = blob.bytes.len();
        json!({ "mediaType": kind, "digest": blob.digest, "size": size })
    };
    let layers: Vec<_> = image
        .layers
        .iter()
        .map(|layer| descriptor(layer, "application/vnd.oci.image.layer.v1.tar+gzip"))
        .collect();
    let config = descriptor(&image.config, "application/vnd.oci.image.config.v1+json");
    // That says itself what it is; the index does not, which OCI allows.
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": OCI, "config": config, "layers": layers });
    let manifest = Blob::new(manifest.to_string().into_bytes());
    let mut listed = descriptor(&manifest, OCI);
    listed["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let index = json!({ "schemaVersion": 2, "manifests": [listed] });
    let index = Blob::new(index.to_string().into_bytes());
    for (blob, kind, reference) in [(&manifest, OCI, &*manifest.digest), (&index, INDEX, "many")] {
        let url = format!("{}{}", network.registry.url(), path_of(reference));
        let sent = ureq::put(&url).header("content-type", kind).send(&blob.bytes[..]);
        sent.unwrap_or_else(|error| panic!("{reference}: {error}"));
    }
    (index, manifest)
}

#[test]
fn of_an_image_for_many_architectures_each_manifest_is_asked_for_once() {
    let (network, clients) = with_nobody_silent(|| {
        let network = Network::start(82, &[KIB]);
        let (index, manifest) = push_index(&network);
        let clients: Vec<Program> =
            (0..4).map(|number| network.client(&format!("client {number}"), &[])).collect();
        let types = format!("{INDEX}, {OCI}, {DOCKER}");
        thread::scope(|scope| {
            for client in &clients {
                scope.spawn(|| {
                    let list = ask(client, "many", &types, &[]);
                    list.assert_is(200, &index.bytes);
                    assert_eq!(list.header("content-type"), Some(INDEX));
                    let image = ask(client, &manifest.digest, &types, &[]);
                    image.assert_is(200, &manifest.bytes);
                    assert_eq!(image.header("content-type"), Some(OCI));
                });
            }
        });
        (network, clients)
    });
    wait_for("the registry's log", || (asked(&network, "GET").len() >= 2).then_some(()));
    let log = logs(&clients);
    assert_eq!(asked(&network, "GET").len(), 2, "{log}");
}

#[test]
fn a_tag_is_what_the_registry_says_that_it_is() {
    let network = Network::start(83, &[KIB]);
    let (first, second) = (network.client("first", &[]), network.client("second", &[]));
    for client in [&first, &second] {
        skopeo::pull_and_verify(&network.image, client.addr(), NAME);
        wait_until_published(&first);
    }
    let newer = Image::random(183, &[2 * KIB]);
    skopeo::push(&newer, network.registry.addr(), NAME);
    for client in [&first, &second] {
        skopeo::pull_and_verify(&newer, client.addr(), NAME);
    }
}

#[test]
fn a_client_gets_no_manifest_of_a_type_that_it_does_not_take() {
    let network = Network::start(84, &[KIB]);
    let client = network.client("client", &[]);
    let Blob { digest, bytes } = &network.image.manifest;
    ask(&client, "latest", DOCKER, &[]).assert_is(200, bytes);
    ask(&client, "latest", "*/*", &[]);
    // For those the registry turns it into the format before, which is signed.
    let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    for (reference, types) in [("latest", "text/html"), ("latest", old), (&**digest, "text/html")] {
        let told =
            get(&format!("{}{}", network.registry.url(), path_of(reference)), &[("accept", types)])
                .expect("the registry answers");
        let got = ask(&client, reference, types, &[]);
        let kind = told.headers.get("content-type").and_then(|kind| kind.to_str().ok());
        assert_eq!((got.status, got.header("content-type")), (told.status, kind), "{types}");
        assert_eq!(got.header("x-torrent-cache"), None, "{types}");
    }
    ask(&client, "latest", DOCKER, &[]).assert_is(200, bytes);
    assert_eq!(answered(&client, "hit"), 1, "{}", client.log());
}

#[test]
fn a_kept_manifest_is_refused_to_whom_the_registry_refuses_it() {
    let network = Network::start_private(85, &[KIB]);
    let (first, second) = (network.client("first", &[]), network.client("second", &[]));
    let Blob { digest, bytes } = &network.image.manifest;
    let good = ["--header", AUTHORIZATION];
    let bad = ["--header", "Authorization: Basic dXNlcjp3cm9uZw=="];
    ask(&first, digest, DOCKER, &good).assert_is(200, bytes);
    wait_until_published(&first);
    for client in [&first, &second] {
        for reference in ["latest", digest] {
            for credential in [&[][..], &bad] {
                let got = ask(client, reference, DOCKER, credential);
                assert_eq!(got.status, 401, "{reference}");
                assert!(got.header("www-authenticate").is_some(), "{}", got.head);
                let head = ask(client, reference, DOCKER, &[&["--head"], credential].concat());
                assert_eq!(head.status, 401, "{reference}");
            }
            ask(client, reference, DOCKER, &good).assert_is(200, bytes);
        }
    }
}

#[test]
fn with_the_registry_away_what_was_pulled_is_pulled_again() {
    let network = Network::start_private(86, &[KIB]);
    let proxy = FaultProxy::start(network.registry.addr());
    let Blob { digest, bytes } = &network.image.manifest;
    let good = ["--header", AUTHORIZATION];
    let start = |offline: &str| {
        let options = [("REGISTRY_LOCATION", &*proxy.url()), ("OFFLINE", offline)];
        let client = network.client(offline, &options);
        ask(&client, "latest", DOCKER, &good).assert_is(200, bytes);
        client
    };
    let (granted, allow, deny) = (start("granted"), start("allow"), start("deny"));
    drop(proxy);
    for reference in ["latest", digest] {
        ask(&granted, reference, DOCKER, &good).assert_is(200, bytes);
        let head = ask(&granted, reference, DOCKER, &[&["--head"][..], &good].concat());
        assert_eq!((head.status, head.header("x-torrent-cache")), (200, Some("stale")));
        assert_eq!(head.header("docker-content-digest"), Some(digest.as_str()));
        ask(&allow, reference, DOCKER, &[]).assert_is(200, bytes);
    }
    for (client, reference, credential) in [
        (&granted, "latest", &[][..]),
        (&granted, digest, &[]),
        (&granted, "other", &good),
        (&deny, "latest", &good),
    ] {
        let got = ask(client, reference, DOCKER, credential);
        assert_eq!((got.exit, got.status), (Some(0), 502), "{reference}");
    }
    // What the tag is depends on what the client takes.
    assert_eq!(ask(&granted, "latest", OCI, &good).status, 502);
    assert_eq!(ask(&granted, "latest", "*/*", &good).status, 502);
    assert!(answered(&granted, "stale") >= 3, "{}", granted.log());
}

/// The one that asks the registry is in the swarm before it has an answer, and has given the
/// manifest away in the moment in which it has it.
#[test]
fn hosts_that_wait_for_a_slow_registry_wait_for_one_answer() {
    let blob = manifest(0);
    let held = blob.clone();
    let pulls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pulls);
    let origin = Origin::start(move |request| {
        if request.line.starts_with("GET") {
            counted.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_secs(1));
        }
        let digest = format!("Docker-Content-Digest: {}", held.digest);
        says(request, "200 OK", &[&format!("Content-Type: {OCI}"), &digest], &held.bytes)
    });
    let registry = format!("http://{}", origin.addr());
    let (_, clients) = with_nobody_silent(|| {
        pulls.store(0, Ordering::SeqCst);
        let network = Network::start(92, &[KIB]);
        let options = [("REGISTRY_LOCATION", &*registry)];
        let clients: Vec<Program> =
            (0..3).map(|number| network.client(&format!("client {number}"), &options)).collect();
        thread::scope(|scope| {
            for client in &clients {
                scope.spawn(|| ask(client, "latest", OCI, &[]).assert_is(200, &blob.bytes));
            }
        });
        (network, clients)
    });
    let log = logs(&clients);
    assert_eq!(pulls.load(Ordering::SeqCst), 1, "{log}");
}

/// From the first request of a pull to the last.
#[test]
fn with_the_registry_away_a_client_pulls_again_what_it_pulled() {
    let open = Network::start(89, &[64 * KIB]);
    let private = Network::start_private(90, &[64 * KIB]);
    let credentials = format!("--src-creds={CREDENTIALS}");
    for (network, credentials, others) in
        [(&open, "--src-no-creds", None), (&private, &*credentials, Some("--src-no-creds"))]
    {
        let proxy = FaultProxy::start(network.registry.addr());
        let client = network.client("client", &[("REGISTRY_LOCATION", &proxy.url())]);
        let pull = |credentials: &str| {
            let dir = temp_dir();
            let finished = skopeo::pull_as(credentials, client.addr(), NAME, dir.path());
            if finished.status.success() {
                network.image.assert_is_in(dir.path());
            }
            finished
        };
        assert!(pull(credentials).status.success(), "{}", client.log());
        drop(proxy);
        let again = pull(credentials);
        assert!(again.status.success(), "{}\n{}", again.output, client.log());
        if let Some(others) = others {
            assert!(!pull(others).status.success(), "{}", client.log());
        }
    }
}

/// A registry that fails is as good as one that is away; one that was never heard of says nothing.
#[test]
fn a_ping_is_answered_as_the_registry_last_did() {
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let challenge = "Bearer realm=\"https://auth.example/token\"";
    let origin = Origin::start(move |request| {
        if failing.load(Ordering::SeqCst) {
            return says(request, "503 Service Unavailable", &[], b"away");
        }
        match request.header("authorization") {
            Some(_) => says(request, "200 OK", &[], b"{}"),
            None => {
                let field = format!("WWW-Authenticate: {challenge}");
                says(request, "401 Unauthorized", &[&field], b"no")
            }
        }
    });
    let registry = format!("http://{}", origin.addr());
    let start = |offline: &str| {
        let options = [("REGISTRY_LOCATION", &*registry), ("OFFLINE", offline)];
        Program::client(offline, &options)
    };
    let clients = ["granted", "allow", "deny"].map(start);
    let ping =
        |client: &Program, more: &[&str]| curl(&format!("http://{}/v2/", client.addr()), more);
    for client in &clients {
        let told = ping(client, &[]);
        assert_eq!((told.status, told.header("www-authenticate")), (401, Some(challenge)));
        assert_eq!(ping(client, &["--header", AUTHORIZATION]).status, 200);
    }
    let late = start("granted");
    fails.store(true, Ordering::SeqCst);
    let [granted, allow, deny] = &clients;
    let told = ping(granted, &[]);
    assert_eq!((told.status, told.header("www-authenticate")), (401, Some(challenge)));
    assert_eq!(told.header("x-torrent-cache"), Some("stale"));
    assert_eq!(ping(granted, &["--header", AUTHORIZATION]).status, 200);
    let told = ping(allow, &[]);
    assert_eq!((told.status, told.header("www-authenticate")), (200, None));
    for client in [deny, &late] {
        assert_eq!((ping(client, &[]).status, &*ping(client, &[]).body), (503, &b"away"[..]));
    }
}

#[test]
fn after_a_restart_what_was_pulled_is_there_for_everybody_or_for_nobody() {
    let network = Network::start(87, &[KIB]);
    let proxy = FaultProxy::start(network.registry.addr());
    let manifest = &network.image.manifest;
    let mut clients = ["granted", "allow"].map(|offline| {
        let options = [("REGISTRY_LOCATION", &*proxy.url()), ("OFFLINE", offline)];
        let mut client = network.client(offline, &options);
        ask(&client, "latest", DOCKER, &[]).assert_is(200, &manifest.bytes);
        assert!(client.stop().success());
        client
    });
    drop(proxy);
    clients.iter_mut().for_each(Program::start_again);
    let [granted, allow] = &clients;
    assert_eq!(ask(granted, "latest", DOCKER, &[]).status, 502);
    let got = ask(allow, "latest", DOCKER, &[]);
    got.assert_is(200, &manifest.bytes);
    assert_eq!(got.header("x-torrent-cache"), Some("stale"));
}

/// One question that breaks is no outage of which a tag could be the victim.
#[test]
fn a_tag_is_asked_for_again_after_a_question_that_broke() {
    let (older, newer) = (manifest(0), manifest(1));
    let (blobs, moved) = ([older.clone(), newer.clone()], Arc::new(AtomicUsize::new(0)));
    let is_now = Arc::clone(&moved);
    let origin = Origin::start(move |request| {
        if request.target().ends_with("/other") {
            return vec![Step::Reset];
        }
        let blob = &blobs[is_now.load(Ordering::SeqCst)];
        let digest = format!("Docker-Content-Digest: {}", blob.digest);
        says(request, "200 OK", &[&format!("Content-Type: {OCI}"), &digest], &blob.bytes)
    });
    let client = client_of(&origin);
    ask(&client, "latest", OCI, &[]).assert_is(200, &older.bytes);
    moved.store(1, Ordering::SeqCst);
    assert_eq!(ask(&client, "other", OCI, &["--head"]).status, 502);
    ask(&client, "latest", OCI, &[]).assert_is(200, &newer.bytes);
}

#[test]
fn what_is_no_longer_for_everybody_is_not_when_the_registry_is_away() {
    let blob = manifest(0);
    let (held, mode) = (blob.clone(), Arc::new(AtomicUsize::new(0)));
    let says_now = Arc::clone(&mode);
    let origin = Origin::start(move |request| {
        let digest = format!("Docker-Content-Digest: {}", held.digest);
        match says_now.load(Ordering::SeqCst) {
            0 => says(request, "200 OK", &[&format!("Content-Type: {OCI}"), &digest], &held.bytes),
            1 => says(request, "401 Unauthorized", &["WWW-Authenticate: Basic realm=r"], b""),
            _ => says(request, "503 Service Unavailable", &[], b"away"),
        }
    });
    let client = client_of(&origin);
    let key = "?key=SECRET";
    ask(&client, "latest", OCI, &[]).assert_is(200, &blob.bytes);
    ask(&client, &format!("latest{key}"), OCI, &[]).assert_is(200, &blob.bytes);
    mode.store(2, Ordering::SeqCst);
    ask(&client, "latest", OCI, &[]).assert_is(200, &blob.bytes);
    mode.store(1, Ordering::SeqCst);
    assert_eq!(ask(&client, "latest", OCI, &[]).status, 401);
    mode.store(2, Ordering::SeqCst);
    for reference in ["latest", &blob.digest] {
        assert_eq!(ask(&client, reference, OCI, &[]).status, 503, "{reference}");
    }
    // What stands in a query may be a secret.
    let mut grep = Command::new("grep");
    grep.args(["-r", "-l", "SECRET", client.option("STORAGE")]);
    assert_eq!(Process::run("grep", grep, "grep").output.trim(), "");
    assert!(!client.log().contains("SECRET"), "{}", client.log());
}

#[test]
fn what_is_no_registry_is_not_spoken_for() {
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let origin = Origin::start(move |request| match failing.load(Ordering::SeqCst) {
        true => says(request, "503 Service Unavailable", &[], b"away"),
        false => says(request, "200 OK", &["Content-Type: text/html"], b"<html>"),
    });
    let registry = format!("http://{}", origin.addr());
    let options = [("REGISTRY_LOCATION", &*registry), ("OFFLINE", "allow")];
    let client = Program::client("client", &options);
    let ping = || curl(&format!("http://{}/v2/", client.addr()), &[]);
    assert_eq!(ping().status, 200);
    fails.store(true, Ordering::SeqCst);
    assert_eq!(ping().status, 503);
}

/// A store without room for it, and the claim that was made for it.
#[test]
fn a_manifest_that_cannot_be_kept_is_passed_on_and_claimed_no_more() {
    let network = Network::start(94, &[KIB]);
    let client = network.client("client", &[("STORAGE_MAX", "100")]);
    let Blob { digest, bytes } = &network.image.manifest;
    for reference in ["latest", digest] {
        ask(&client, reference, DOCKER, &[]).assert_is(200, bytes);
    }
    assert!(client.metric("torrent_cache_store_refused_total") > 0, "{}", client.log());
    assert_eq!(client.metric("torrent_cache_store_blobs"), 0);
    let etcd = loopback(network.tracker.option("ETCD_PORT").parse().expect("a port"));
    wait_for("the claims to be given up", || {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl.env("ETCDCTL_API", "3").arg(format!("--endpoints=http://{etcd}"));
        etcdctl.args(["get", "--prefix", "--keys-only", "/torrent-cache/claims/"]);
        let keys = Process::run("etcdctl", etcdctl, "etcd-client");
        (keys.status.success() && keys.output.trim().is_empty()).then_some(())
    });
}

/// A manifest of an image of nothing, `padding` bytes longer than it would have to be.
fn manifest(padding: usize) -> Blob {
    let text = json!({
        "schemaVersion": 2, "mediaType": OCI, "layers": [], "padding": "x".repeat(padding),
    });
    Blob::new(text.to_string().into_bytes())
}

/// Says `status` with these fields and, to a `GET`, `body`.
fn says(request: &Request, status: &str, fields: &[&str], body: &[u8]) -> Vec<Step> {
    let (line, len) = (format!("HTTP/1.1 {status}"), format!("Content-Length: {}", body.len()));
    let lines = [&[line.as_str()], fields, &[len.as_str()]].concat();
    let body = if request.line.starts_with("HEAD") { &[][..] } else { body };
    vec![answer(&lines, body)]
}

fn client_of(origin: &Origin) -> Program {
    Program::client("client", &[("REGISTRY_LOCATION", &format!("http://{}", origin.addr()))])
}

/// In place of a status: the connection breaks.
const BREAKS: &str = "";

/// Whatever a registry says that is not as it should be, a client hears the same from it through
/// us.
#[test]
fn a_registry_with_ways_of_its_own_is_heard_as_it_is() {
    let (blob, other) = (manifest(0), manifest(1));
    let large = manifest(1 << 20);
    let digest_of = |blob: &Blob| format!("Docker-Content-Digest: {}", blob.digest);
    let (right, wrong, of_large) = (digest_of(&blob), digest_of(&other), digest_of(&large));
    let kind = format!("Content-Type: {OCI}");
    let odd = Blob::new(br#"{"schemaVersion":2,"mediaType":"text/x-odd"}"#.to_vec());
    let of_odd = digest_of(&odd);
    // What it says to a HEAD, to a GET by tag, and to a GET by digest, with these fields.
    type Said<'a> = (&'a str, &'a [&'a str], &'a [u8]);
    let fields = [&*kind, &*right];
    let wrong_fields = [&*kind, &*wrong];
    let large_fields = [&*kind, &*of_large];
    let odd_fields = [&*kind, &*of_odd];
    let ok: Said<'_> = ("200 OK", &fields, &blob.bytes);
    let unknown: Said<'_> = ("404 Not Found", &["X-Test: 1"], b"unknown");
    let cases: &[(&str, [Said<'_>; 3], &Blob)] = &[
        ("HEAD is not allowed", [("405 Method Not Allowed", &["Allow: GET"], b""), ok, ok], &blob),
        ("HEAD knows nothing", [unknown, ok, ok], &blob),
        ("HEAD breaks", [(BREAKS, &[], b""), ok, ok], &blob),
        ("HEAD fails", [("500 Internal Server Error", &[], b""), ok, ok], &blob),
        ("no digest", [("200 OK", &[&kind], &blob.bytes), ok, ok], &blob),
        ("no type", [("200 OK", &[&right], &blob.bytes), ok, ok], &blob),
        ("the tag moves", [("200 OK", &wrong_fields, &other.bytes), ok, unknown], &blob),
        ("another digest", [("200 OK", &wrong_fields, &blob.bytes), ok, ok], &blob),
        ("no digests at all", [ok, ok, unknown], &blob),
        ("too long", [("200 OK", &large_fields, &large.bytes); 3], &large),
        ("no manifest", [("200 OK", &odd_fields, &odd.bytes); 3], &odd),
    ];
    for (what, said, wanted) in cases {
        let said = said.map(|(status, fields, body)| {
            let fields: Vec<String> = fields.iter().map(|field| (*field).to_owned()).collect();
            (status.to_owned(), fields, body.to_vec())
        });
        let origin = Origin::start(move |request| {
            let is_tag = request.target().ends_with("/latest");
            let (status, fields, body): &(String, Vec<String>, Vec<u8>) =
                match request.line.starts_with("HEAD") {
                    true => &said[0],
                    false => &said[if is_tag { 1 } else { 2 }],
                };
            if status == BREAKS {
                return vec![Step::Reset];
            }
            let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
            says(request, status, &fields, body)
        });
        let client = client_of(&origin);
        for _ in 0..2 {
            let got = ask(&client, "latest", OCI, &[]);
            assert_eq!((got.exit, got.status), (Some(0), 200), "{what}: {}", client.log());
            assert!(got.body == wanted.bytes, "{what}");
        }
    }
}

/// A registry that gives every client the same: what it is, its answer to the question says.
#[test]
fn a_type_that_is_not_taken_is_asked_for_once() {
    let blob = manifest(0);
    let held = blob.clone();
    let origin = Origin::start(move |request| {
        let digest = format!("Docker-Content-Digest: {}", held.digest);
        says(request, "200 OK", &[&format!("Content-Type: {OCI}"), &digest], &held.bytes)
    });
    let client = client_of(&origin);
    let got = ask(&client, "latest", DOCKER, &[]);
    got.assert_is(200, &blob.bytes);
    assert_eq!((got.header("content-type"), got.header("x-torrent-cache")), (Some(OCI), None));
    let is_pull = |request: &&Request| request.line.starts_with("GET");
    assert_eq!(origin.seen().iter().filter(is_pull).count(), 1);
}

/// A registry that limits pulls answers questions all the same.
#[test]
fn where_pulls_are_limited_a_host_needs_none_for_what_the_network_has() {
    let (blob, newer) = (manifest(0), manifest(1));
    let (held, tagged) = (blob.clone(), newer.clone());
    let pulls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&pulls);
    let origin = Origin::start(move |request| {
        let is_new = request.target().ends_with("/newer");
        let blob = if is_new { &tagged } else { &held };
        let fields =
            [format!("Content-Type: {OCI}"), format!("Docker-Content-Digest: {}", blob.digest)];
        let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
        let is_pull = request.line.starts_with("GET");
        if is_pull && counted.fetch_add(1, Ordering::SeqCst) >= 1 {
            let limit = ["RateLimit-Limit: 1;w=21600", "Retry-After: 60"];
            return says(request, "429 Too Many Requests", &limit, b"toomanyrequests");
        }
        says(request, "200 OK", &fields, &blob.bytes)
    });
    let network = Network::start(88, &[KIB]);
    let registry = format!("http://{}", origin.addr());
    let options = [("REGISTRY_LOCATION", &*registry)];
    let (first, second) = (network.client("first", &options), network.client("second", &options));
    ask(&first, "latest", OCI, &[]).assert_is(200, &blob.bytes);
    wait_until_published(&first);
    for _ in 0..3 {
        for client in [&first, &second] {
            ask(client, "latest", OCI, &[]).assert_is(200, &blob.bytes);
        }
    }
    assert_eq!(pulls.load(Ordering::SeqCst), 1, "{}", second.log());
    // What nobody has is the registry's to refuse, in its own words, also to who waited for another
    // to get it.
    thread::scope(|scope| {
        for client in [&first, &second] {
            scope.spawn(|| {
                let refused = ask(client, "newer", OCI, &[]);
                let told = (refused.status, &*refused.body, refused.header("retry-after"));
                assert_eq!(told, (429, &b"toomanyrequests"[..], Some("60")), "{}", client.log());
            });
        }
    });
    assert_eq!(pulls.load(Ordering::SeqCst), 3, "each asks once: {}", second.log());
}
