//! The wall clock jumps while client and tracker run: a host without a battery starts in 1970, and
//! what sets its clock right later may set it back.

use crate::site::{FROM_PEERS, MIB, Site, pull, wait_until_kept};
use crate::support::torrent_cache::Program;
use crate::support::wait_for;

const DAY: i64 = 86_400;

/// The year in the `Date` of an answer: it shows that the program has the clock that the test gave
/// it.
fn year(program: &Program) -> String {
    let health = program.admin("/health");
    let date = health.headers.get("date").expect("RFC 9110 6.6.1 wants one");
    let date = date.to_str().expect("a date is text");
    date.split(' ').nth(3).expect("a day, a date, a time").to_owned()
}

/// A client whose clock jumps, with room for three of the layers.
fn client(site: &Site, tracker: &Program) -> Program {
    let options = [
        ("REGISTRY_LOCATION", site.proxy.url()),
        ("ETCD_PORT", tracker.option("ETCD_PORT").to_owned()),
        ("TRACKER", tracker.announce_url()),
        ("STORAGE_MAX", (3 * MIB + MIB / 2).to_string()),
    ];
    Program::client_with_clock("client", &options.each_ref().map(|(name, value)| (*name, &**value)))
}

#[test]
fn a_clock_that_jumps_changes_neither_pulls_nor_the_order_of_use() {
    let site = Site::start(80, &[MIB, MIB, MIB, MIB]);
    let tracker = Program::tracker_with_clock("tracker");
    let mut client = client(&site, &tracker);
    let now = year(&client);
    for (index, days) in [(0, 0), (1, -400), (2, -20_000)] {
        client.set_clock(days * DAY);
        assert_eq!(year(&client) == now, days == 0, "its clock is the one of the test");
        let blob = site.layer(index);
        pull(&client, blob, &[]).assert_is(200, &blob.bytes);
        wait_until_kept(&client, index as u64 + 1);
        // Used again, from the store, which notes it.
        pull(&client, blob, &[]).assert_is(200, &blob.bytes);
    }
    // What it shares is announced and published as ever, and serves another host.
    wait_for("announces", || (tracker.metric("torrent_cache_tracker_swarms") == 3).then_some(()));
    wait_for("publication", || {
        let published = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
        (client.metric(published) == 3).then_some(())
    });
    for days in [400, -400] {
        tracker.set_clock(days * DAY);
        assert_ne!(year(&tracker), now);
        assert_eq!(tracker.metric("torrent_cache_tracker_peers"), 3, "nobody fell silent");
    }
    let other = site.client_of("other", &tracker);
    for index in 0..3 {
        pull(&other, site.layer(index), &[]).assert_is(200, &site.layer(index).bytes);
    }
    assert!(other.metric(FROM_PEERS) > 0, "{}", other.log());
    assert_eq!(client.metric("torrent_cache_thread_panics_total"), 0);
    let told = client.log();
    assert!(!told.contains("ERROR"), "{told}");

    // The first is the one that was used least recently, whatever the clock said.
    client.stop();
    client.start_again();
    client.set_clock(400 * DAY);
    pull(&client, site.layer(3), &[]).assert_is(200, &site.layer(3).bytes);
    wait_until_kept(&client, 3);
    for index in [3, 2, 1] {
        let before = site.fetches(site.layer(index));
        pull(&client, site.layer(index), &[]).assert_is(200, &site.layer(index).bytes);
        assert_eq!(site.fetches(site.layer(index)), before, "layer {index} was kept");
    }
    assert_eq!(client.metric("torrent_cache_store_evicted_total"), 1);
    assert_eq!(client.metric("torrent_cache_thread_panics_total"), 0);
}
