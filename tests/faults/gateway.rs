//! An etcd that accepts and then says nothing, says it for hours, or says too much.

use std::time::Duration;

use crate::services::{pull_in_time, wait_until_announced, wait_until_published};
use crate::site::{FROM_PEERS, MIB, Site, pull};
use crate::support::etcd::Etcd;
use crate::support::faults::{Fault, FaultProxy};
use crate::support::loopback;
use crate::support::torrent_cache::Program;
use crate::support::wait_for;
use torrent_cache::limits;

/// What the client may have more of while etcd misbehaves: announces, resolvers, a worker.
const THREADS_USUAL: usize = 24;

/// A client behind an etcd that does this to every call: it pulls as without one, with bounded
/// threads and memory, and shares what it has pulled when the trouble is over.
fn survives(seed: u64, fault: Fault) {
    let site = Site::start(seed, &[MIB, MIB, MIB, MIB]);
    let etcd = Etcd::start();
    let gateway = FaultProxy::start(loopback(etcd.client_port()));
    let tracker = Program::tracker("tracker", &[("NO_ETCD", "1")]);
    let announce_url = tracker.announce_url();
    let mut client = site.client("client", &gateway.addr().port().to_string(), &announce_url);
    // All that is allocated for the first pull is there before it is counted.
    let config = &site.image.config;
    pull(&client, config, &[]).assert_is(200, &config.bytes);
    wait_until_catalogued_count(&client, 1);
    let threads = client.process().proc_status("Threads");
    let kib = client.process().proc_status("VmRSS");

    gateway.fail("/v3/", usize::MAX, fault);
    pull_in_time(&site, &client);
    let threads_more = client.process().proc_status("Threads").saturating_sub(threads);
    let kib_more = client.process().proc_status("VmRSS").saturating_sub(kib);
    println!("{fault:?}: {threads_more} threads and {kib_more} KiB more");
    assert!(threads_more <= THREADS_USUAL, "{threads_more} threads");
    let bound = (2 * limits::ETCD_ANSWER_LEN_MAX + (24 << 20)) >> 10;
    assert!(kib_more <= bound, "{kib_more} KiB");

    gateway.heal();
    wait_until_published(&site, &etcd.client_port().to_string());
    wait_until_announced(&site, &tracker);
    let second = site.client("second", &etcd.client_port().to_string(), &announce_url);
    pull_in_time(&site, &second);
    assert!(second.metric(FROM_PEERS) > 0, "{}", second.log());
    assert_eq!(client.metric("torrent_cache_thread_panics_total"), 0);
    let told = client.log().lines().filter(|line| line.contains("the catalog is away")).count();
    assert!((1..=3).contains(&told), "said {told} times: {}", client.log());
}

fn wait_until_catalogued_count(client: &Program, count: i64) {
    wait_for("publication", || {
        let series = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
        (client.metric(series) == count).then_some(())
    });
}

#[test]
fn an_etcd_that_accepts_and_never_answers_holds_nobody_up() {
    survives(110, Fault::Silent);
}

#[test]
fn an_etcd_whose_answers_take_hours_holds_nobody_up() {
    survives(111, Fault::Drip { every: Duration::from_secs(1) });
}

#[test]
fn an_etcd_whose_answers_stop_half_way_holds_nobody_up() {
    survives(112, Fault::Stall { after: 20 });
}

#[test]
fn an_etcd_whose_answers_are_20_megabytes_long_fills_no_memory() {
    survives(113, Fault::Long { len: 20_000_000 });
}
