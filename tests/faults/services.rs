//! etcd and the tracker are away, and come back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::curl::curl;
use crate::site::{FROM_PEERS, FROM_UPSTREAM, MIB, Site, catalogued, pull, wait_until_catalogued};
use crate::support::etcd::Etcd;
use crate::support::origin::{Origin, Request, whole};
use crate::support::torrent_cache::Program;
use crate::support::{PATIENCE, wait_for, wait_longer};
use torrent_cache::limits::{ANNOUNCE_CALL, REPUBLISH_LOOK, REPUBLISH_PAUSE};

/// A tracker that never is.
const NO_TRACKER: &str = "http://127.0.0.1:1/announce";

/// Far more than the budgets of one image add up to, far less than any retry without bound.
const PULL: Duration = Duration::from_secs(20);

pub fn pull_in_time(site: &Site, client: &Program) {
    let start = Instant::now();
    site.pull_through(client);
    assert!(start.elapsed() < PULL, "{:?}", start.elapsed());
}

pub fn wait_until_published(site: &Site, etcd_port: &str) {
    let count = site.image.kept().count();
    wait_for("publication", || (catalogued(etcd_port).len() == count).then_some(()));
}

/// Waits until the tracker knows one peer of each blob.
pub fn wait_until_announced(site: &Site, tracker: &Program) {
    let count = i64::try_from(site.image.kept().count()).expect("a few");
    wait_for("announces", || {
        (tracker.metric("torrent_cache_tracker_swarms") >= count).then_some(())
    });
}

#[test]
fn without_etcd_and_tracker_it_is_a_caching_proxy() {
    let site = Site::start(40, &[2 * MIB, MIB]);
    let client = site.lone_client();
    pull_in_time(&site, &client);
    pull_in_time(&site, &client);
    for blob in site.image.blobs() {
        assert_eq!(site.fetches(blob), 1, "{}", blob.digest);
    }
}

#[test]
fn what_the_catalog_knows_has_been_announced() {
    let site = Site::start(45, &[MIB]);
    let etcd = Etcd::start();
    let etcd_port = etcd.client_port().to_string();
    let early = Arc::new(AtomicUsize::new(0));
    let (port, found) = (etcd_port.clone(), Arc::clone(&early));
    // It takes its time to note who has all of the blob, in which the catalog could learn of what
    // the tracker does not know yet. Of the early swarm it may hear at any time.
    let tracker = Origin::start(move |request: &Request| {
        let start = Instant::now();
        let (starts, has_all) = ("event=started", "left=0&");
        let is_slow = [starts, has_all].iter().all(|part| request.target().contains(part));
        while is_slow && start.elapsed() < ANNOUNCE_CALL / 4 {
            found.fetch_max(catalogued(&port).len(), Ordering::SeqCst);
        }
        vec![whole(b"d8:intervali60e5:peers0:e")]
    });
    let announce_url = format!("http://{}/announce", tracker.addr());
    let client = site.client("client", &etcd_port, &announce_url);
    let blob = site.layer(0);
    pull(&client, blob, &[]).assert_is(200, &blob.bytes);
    wait_until_catalogued(&etcd_port, blob);
    assert_eq!(early.load(Ordering::SeqCst), 0, "who looks it up finds a peer");
    let seen = tracker.seen();
    assert!(seen.iter().any(|request| request.target().contains("left=0&")), "{seen:?}");
}

#[test]
fn without_a_tracker_a_catalogued_blob_comes_from_upstream() {
    let site = Site::start(41, &[2 * MIB]);
    let etcd = Etcd::start();
    let etcd_port = etcd.client_port().to_string();
    pull_in_time(&site, &site.client("first", &etcd_port, NO_TRACKER));
    wait_until_published(&site, &etcd_port);
    pull_in_time(&site, &site.client("second", &etcd_port, NO_TRACKER));
}

#[test]
fn sharing_resumes_when_etcd_is_there() {
    let site = Site::start(42, &[2 * MIB, MIB]);
    let mut etcd = Etcd::start();
    etcd.process().kill();
    let etcd_port = etcd.client_port().to_string();
    let tracker = Program::tracker("tracker", &[]);
    let announce_url = tracker.announce_url();
    let first = site.client("first", &etcd_port, &announce_url);
    pull_in_time(&site, &first);
    etcd.start_again();
    etcd.wait_until_healthy();
    wait_until_published(&site, &etcd_port);
    wait_until_announced(&site, &tracker);
    let second = site.client("second", &etcd_port, &announce_url);
    pull_in_time(&site, &second);
    assert!(second.metric(FROM_PEERS) > 0, "{}", second.log());
}

#[test]
fn an_etcd_that_comes_back_empty_learns_what_running_clients_have() {
    let site = Site::start(46, &[2 * MIB, MIB]);
    let mut etcd = Etcd::start();
    let etcd_port = etcd.client_port().to_string();
    let tracker = Program::tracker("tracker", &[]);
    let announce_url = tracker.announce_url();
    let first = site.client("first", &etcd_port, &announce_url);
    pull_in_time(&site, &first);
    wait_until_published(&site, &etcd_port);
    etcd.process().kill();
    etcd.start_empty();
    etcd.wait_until_healthy();
    assert_eq!(catalogued(&etcd_port), Vec::<String>::new());
    let patience = PATIENCE + 2 * REPUBLISH_LOOK + REPUBLISH_PAUSE;
    let count = site.image.kept().count();
    wait_longer(patience, "publication", || (catalogued(&etcd_port).len() == count).then_some(()));
    let second = site.client("second", &etcd_port, &announce_url);
    pull_in_time(&site, &second);
    assert!(second.metric(FROM_PEERS) > 0, "{}", second.log());
}

#[test]
fn a_full_etcd_is_emptied_and_learns_what_running_clients_have() {
    let site = Site::start(47, &[MIB, MIB]);
    let tracker = Program::tracker("tracker", &[]);
    let client = site.client_of("client", &tracker);
    let etcd_port = tracker.option("ETCD_PORT");
    let (first, second) = (site.layer(0), site.layer(1));
    pull(&client, first, &[]).assert_is(200, &first.bytes);
    wait_until_catalogued(etcd_port, first);
    let etcd = |path: &str, body: &str| {
        let got = curl(&format!("http://127.0.0.1:{etcd_port}{path}"), &["--data", body]);
        assert_eq!(got.status, 200, "{}", got.head);
        String::from_utf8(got.body).expect("it is JSON")
    };
    let members = etcd("/v3/cluster/member/list", "{}");
    let member = members.split("\"ID\":\"").nth(1).and_then(|rest| rest.split('"').next());
    let member = member.expect("it has one");
    let raise = format!(r#"{{"action":"ACTIVATE","memberID":"{member}","alarm":"NOSPACE"}}"#);
    etcd("/v3/maintenance/alarm", &raise);
    pull(&client, second, &[]).assert_is(200, &second.bytes);
    wait_for("a new etcd", || tracker.log().contains("etcd was full").then_some(()));
    let patience = PATIENCE + 2 * REPUBLISH_LOOK + REPUBLISH_PAUSE;
    for blob in [first, second] {
        wait_longer(patience, "publication", || {
            let ready = tracker.admin("/readyz").status == 200;
            (ready && catalogued(etcd_port).contains(&blob.digest)).then_some(())
        });
    }
}

#[test]
fn a_frozen_etcd_holds_nobody_up() {
    let site = Site::start(43, &[2 * MIB, MIB]);
    let mut etcd = Etcd::start();
    let etcd_port = etcd.client_port().to_string();
    let tracker = Program::tracker("tracker", &[]);
    let announce_url = tracker.announce_url();
    let first = site.client("first", &etcd_port, &announce_url);
    etcd.process().pause();
    pull_in_time(&site, &first);
    etcd.process().resume();
    wait_until_published(&site, &etcd_port);
    wait_until_announced(&site, &tracker);
    let second = site.client("second", &etcd_port, &announce_url);
    pull_in_time(&site, &second);
    assert!(second.metric(FROM_PEERS) > 0, "{}", second.log());
}

#[test]
fn a_frozen_tracker_holds_nobody_up() {
    let site = Site::start(44, &[2 * MIB, MIB]);
    let etcd = Etcd::start();
    let etcd_port = etcd.client_port().to_string();
    let mut tracker = Program::tracker("tracker", &[]);
    let announce_url = tracker.announce_url();
    let first = site.client("first", &etcd_port, &announce_url);
    tracker.process().pause();
    pull_in_time(&site, &first);
    wait_until_published(&site, &etcd_port);
    let second = site.client("second", &etcd_port, &announce_url);
    pull_in_time(&site, &second);
    assert!(second.metric(FROM_UPSTREAM) > 0, "nobody could have told it of a peer");
    tracker.process().resume();
    wait_until_announced(&site, &tracker);
    let third = site.client("third", &etcd_port, &announce_url);
    pull_in_time(&site, &third);
    assert!(third.metric(FROM_PEERS) > 0, "{}", third.log());
}
