//! Trackers whose answers lead a host that wants a blob nowhere: it takes the blob from upstream.

use std::net::UdpSocket;

use crate::services::pull_in_time;
use crate::site::{MIB, Site, status_after_jobs, wait_until_catalogued};
use crate::support::loopback;
use crate::support::origin::{Origin, Request, whole};
use crate::support::torrent_cache::Program;
use crate::support::wait_for;

/// A network whose catalog knows all blobs, and a client that is told of peers by this tracker.
fn pulls_all_the_same(seed: u64, announce_url: &str, was_asked: impl Fn() -> bool) {
    let site = Site::start(seed, &[2 * MIB]);
    let tracker = Program::tracker("tracker", &[]);
    let etcd_port = tracker.option("ETCD_PORT");
    let first = site.client_of("first", &tracker);
    pull_in_time(&site, &first);
    site.image.blobs().for_each(|blob| wait_until_catalogued(etcd_port, blob));
    let client = site.client("client", etcd_port, announce_url);
    pull_in_time(&site, &client);
    wait_for("its announces", || was_asked().then_some(()));
    assert_eq!(client.metric("torrent_cache_peers"), 0);
    assert_eq!(client.metric("torrent_cache_thread_panics_total"), 0);
    let status = status_after_jobs(&client);
    assert_eq!(status["swarms"].as_array().expect("a list").len(), 0, "{status}");
}

/// The compact form of BEP 23.
fn compact(peers: &[u8]) -> Vec<u8> {
    [format!("d8:intervali5e5:peers{}:", peers.len()).as_bytes(), peers, b"e"].concat()
}

#[test]
fn ourselves_port_0_and_nobody_among_the_peers_are_passed_over() {
    let fake = Origin::start(|request: &Request| {
        let fields = request.target().split(['?', '&']);
        let port =
            fields.filter_map(|field| field.strip_prefix("port=")?.parse::<u16>().ok()).next();
        let [high, low] = port.expect("an announce has one").to_be_bytes();
        let ourselves = [127, 0, 0, 1, high, low];
        let nobodies = [
            [127, 0, 0, 1, 0, 0],
            [0, 0, 0, 0, high, low],
            [255, 255, 255, 255, 1, 1],
            [224, 0, 0, 1, high, low],
            // Nobody listens there.
            [127, 0, 0, 9, 0, 1],
        ];
        vec![whole(&compact(&[&[ourselves], &nobodies[..]].concat().concat()))]
    });
    let url = format!("http://{}/announce", fake.addr());
    pulls_all_the_same(120, &url, || !fake.seen().is_empty());
}

#[test]
fn a_udp_tracker_of_8_byte_errors_leads_nowhere() {
    let socket = UdpSocket::bind(loopback(0)).expect("a socket");
    let port = socket.local_addr().expect("it is bound").port();
    let (told, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buf = [0; 2048];
        while let Ok((len, peer)) = socket.recv_from(&mut buf) {
            let Some(transaction) = buf.get(12..16).filter(|_| len >= 16) else { continue };
            let error = [&3_u32.to_be_bytes()[..], transaction].concat();
            if socket.send_to(&error, peer).is_err() || told.send(()).is_err() {
                return;
            }
        }
    });
    pulls_all_the_same(121, &format!("udp://127.0.0.1:{port}"), || asked.try_recv().is_ok());
}
