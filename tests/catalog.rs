//! The catalog against the real etcd, alone and as a cluster of three.

mod support;

use std::time::{Duration, Instant};

use support::etcd::Etcd;
use support::origin::{Origin, Step, answer, whole};
use support::wait_for;
use torrent_cache::base::clock::Time;
use torrent_cache::catalog::etcd::Client;
use torrent_cache::catalog::{Catalog, CatalogConfig, CatalogError, key};
use torrent_cache::limits;
use torrent_cache::net::tls::Roots;
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::etcd::{
    Compare, LeaseAnswer, Operation, Range, RangeAnswer, Request, TxnAnswer, decode_deleted,
    prefix_end,
};

fn config(members: &[Etcd]) -> CatalogConfig {
    let endpoints = members.iter().map(Etcd::url).collect();
    CatalogConfig { endpoints, login: None, roots: Roots(Vec::new()) }
}

fn start(members: &[Etcd]) -> Catalog {
    Catalog::start(config(members)).expect("a thread can be started")
}

fn name(digit: char) -> BlobName {
    BlobName::parse(&format!("sha256:{}", digit.to_string().repeat(64))).expect("a name")
}

/// Longer than any call needs, shorter than the test's patience.
fn soon() -> Time {
    Time::now() + limits::CATALOG_CALL
}

fn lookup(catalog: &Catalog, name: &BlobName) -> Option<Vec<u8>> {
    catalog.lookup(name, soon()).ok().flatten()
}

#[test]
fn what_is_published_is_found_replaced_and_withdrawn() {
    let members = [Etcd::start()];
    let catalog = start(&members);
    assert!(matches!(catalog.lookup(&name('1'), soon()), Ok(None)));
    // Any bytes, and as many as the largest blob needs.
    let torrent: Vec<u8> = (0..=250).cycle().take(limits::TORRENT_LEN_MAX).collect();
    catalog.publish(&name('1'), torrent.clone());
    wait_for("publication", || lookup(&catalog, &name('1')).filter(|found| *found == torrent));
    catalog.publish(&name('1'), b"other".to_vec());
    wait_for("replacement", || lookup(&catalog, &name('1')).filter(|found| found == b"other"));
    catalog.withdraw(&name('1'), torrent);
    catalog.publish(&name('2'), b"later".to_vec());
    wait_for("the next task", || lookup(&catalog, &name('2')));
    assert_eq!(lookup(&catalog, &name('1')).as_deref(), Some(&b"other"[..]), "another value stays");
    catalog.withdraw(&name('1'), b"other".to_vec());
    wait_for("withdrawal", || matches!(catalog.lookup(&name('1'), soon()), Ok(None)).then_some(()));
    catalog.stop();
}

#[test]
fn etcdctl_reads_what_was_published() {
    let members = [Etcd::start()];
    let catalog = start(&members);
    catalog.publish(&name('a'), b"d4:infodee".to_vec());
    wait_for("publication", || lookup(&catalog, &name('a')));
    let found = members[0].ctl(&["get", "--print-value-only", &key(&name('a'))]);
    assert!(found.status.success(), "{}", found.output);
    assert_eq!(found.output.trim_end(), "d4:infodee");
    catalog.stop();
}

#[test]
fn transactions_leases_and_prefixes_work_as_the_codec_says() {
    let members = [Etcd::start()];
    let client = Client::new(config(&members));
    let call = |request: &Request<'_>| client.call(request, soon()).expect("etcd answers");
    let put = |key, lease| Request::Single(Operation::Put { key, value: b"v", lease });
    let lease = LeaseAnswer::decode(&call(&Request::LeaseGrant { ttl_s: 60 })).expect("a lease");
    call(&put(b"/p/1", Some(lease.id)));
    call(&put(b"/p/2", None));
    call(&put(b"/q/1", None));
    let end = prefix_end(b"/p/");
    let all = Range { end: Some(&end), ..Range::of_key(b"/p/") };
    let count = || {
        let body = call(&Request::Single(Operation::Range(all)));
        RangeAnswer::decode(&body).expect("a range").pairs.len()
    };
    assert_eq!(count(), 2);
    let alive = LeaseAnswer::decode(&call(&Request::LeaseKeepAlive(lease.id))).expect("a lease");
    assert_eq!(alive.ttl_s, 60);
    call(&Request::LeaseRevoke(lease.id));
    assert_eq!(count(), 1, "the key went with its lease");
    let claim = Request::Txn {
        compare: &[Compare::Absent { key: b"/claim" }],
        success: &[Operation::Put { key: b"/claim", value: b"mine", lease: None }],
        failure: &[Operation::Range(Range::of_key(b"/claim"))],
    };
    assert!(TxnAnswer::decode(&call(&claim)).expect("a transaction").succeeded);
    assert!(!TxnAnswer::decode(&call(&claim)).expect("a transaction").succeeded);
    let delete = Request::Single(Operation::Delete { key: b"/claim" });
    assert_eq!(decode_deleted(&call(&delete)), Ok(1));
}

#[test]
fn a_hostile_etcd_gives_errors_and_cannot_fill_the_memory() {
    let ok = "HTTP/1.1 200 OK";
    let pair = br#"{"kvs":[{"key":"a","value":"!"}]}"#;
    for steps in [
        vec![answer(&[ok, "Transfer-Encoding: chunked"], b""), Step::Repeat(chunk())],
        vec![answer(&[ok], b"{"), Step::Repeat(vec![b' '; 64 << 10])],
        vec![answer(&[ok, "Content-Length: 50"], br#"{"header":{}"#), Step::Close],
        vec![whole(br#"{"header":{}"#)],
        vec![whole(pair)],
        vec![whole(b"")],
        vec![answer(&["HTTP/1.1 301 Moved", "Location: /x", "Content-Length: 0"], b"")],
        vec![Step::Reset],
        vec![Step::Stall],
    ] {
        let origin = Origin::always(steps.clone());
        let endpoints = vec![origin.url("/")];
        let config = CatalogConfig { endpoints, login: None, roots: Roots(Vec::new()) };
        let catalog = Catalog::start(config).expect("a thread can be started");
        let before = Instant::now();
        let answer = catalog.lookup(&name('1'), Time::now() + limits::CATALOG_LOOKUP);
        assert!(answer.is_err(), "{:?}", steps.first());
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
        catalog.stop();
    }
}

fn chunk() -> Vec<u8> {
    [b"10000\r\n", &[b' '; 0x1_0000][..], b"\r\n"].concat()
}

#[test]
fn a_paused_etcd_costs_a_lookup_its_deadline_and_the_next_nothing() {
    let mut members = [Etcd::start()];
    let catalog = start(&members);
    assert!(matches!(catalog.lookup(&name('1'), soon()), Ok(None)));
    members[0].process().pause();
    let before = Instant::now();
    let answer = catalog.lookup(&name('1'), Time::now() + limits::CATALOG_LOOKUP);
    assert!(answer.is_err());
    // The machine may be slow, but nothing here may wait for etcd's own seven seconds.
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    assert!(matches!(catalog.lookup(&name('1'), soon()), Err(CatalogError::Away)));
    assert!(!catalog.is_reachable());
    members[0].process().resume();
    wait_for("the catalog to be back", || catalog.lookup(&name('1'), soon()).ok());
    assert!(catalog.is_reachable());
    catalog.stop();
}

#[test]
fn publication_waits_for_an_etcd_that_is_away() {
    let mut members = [Etcd::start()];
    let catalog = start(&members);
    members[0].process().kill();
    catalog.publish(&name('1'), b"torrent".to_vec());
    wait_for("a failed call", || (!catalog.is_reachable()).then_some(()));
    members[0].start_again();
    wait_for("publication", || lookup(&catalog, &name('1')));
    catalog.stop();
}

#[test]
fn a_cluster_serves_with_one_member_dead_and_reads_without_a_quorum() {
    let mut members = Etcd::cluster(3);
    let catalog = start(&members);
    catalog.publish(&name('1'), b"one".to_vec());
    wait_for("publication", || lookup(&catalog, &name('1')));
    members[0].process().kill();
    assert_eq!(lookup(&catalog, &name('1')).as_deref(), Some(&b"one"[..]), "fails over at once");
    catalog.publish(&name('2'), b"two".to_vec());
    wait_for("publication by two of three", || lookup(&catalog, &name('2')));
    members[1].process().kill();
    let found = wait_for("a member without a quorum", || lookup(&catalog, &name('1')));
    assert_eq!(found, b"one");
    catalog.stop();
}

#[test]
fn a_catalog_logs_in_and_logs_in_again() {
    let mut members = [Etcd::start()];
    for arguments in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        let done = members[0].ctl(arguments);
        assert!(done.status.success(), "{arguments:?}: {}", done.output);
    }
    let nameless = start(&members);
    assert!(matches!(nameless.lookup(&name('1'), soon()), Err(CatalogError::Refused(_))));
    nameless.stop();
    let login = Some(("root".to_owned(), "secret".to_owned()));
    let catalog = Catalog::start(CatalogConfig { login, ..config(&members) }).expect("a thread");
    catalog.publish(&name('1'), b"one".to_vec());
    wait_for("publication", || lookup(&catalog, &name('1')));
    // Its simple tokens die with the process.
    members[0].process().kill();
    members[0].start_again();
    wait_for("a new log-in", || lookup(&catalog, &name('1')));
    catalog.stop();
}
