//! What trackers are told, over HTTP and UDP, and that their answers are used.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::engine::TrackerUrl;
use torrent_cache::limits::ANNOUNCE_CALL;
use torrent_cache::proto::tracker::{AnnounceEvent, AnnounceRequest, AnnounceResponse};
use torrent_cache::proto::tracker_udp::{Family, Request, Response};

use crate::host::{Fetching, Host, Sample, soon};

/// A tracker that tells the test what it was told.
struct Fixture {
    url: TrackerUrl,
    heard: Receiver<AnnounceRequest>,
}

impl Fixture {
    /// Waits for the announce of `port` with this event; others in between are let pass.
    fn expect(&self, port: u16, event: AnnounceEvent) -> AnnounceRequest {
        loop {
            let heard = self.heard.recv_timeout(Duration::from_secs(30));
            let heard = heard.unwrap_or_else(|_| panic!("no {event:?} of port {port}"));
            if heard.port == port && heard.event == event {
                return heard;
            }
        }
    }
}

/// Who is where.
#[derive(Default)]
struct Swarms(BTreeMap<Sha1Hash, Vec<SocketAddr>>);

impl Swarms {
    /// Takes an announce and answers as trackers do: with everybody, the one who asks included.
    fn answer(&mut self, request: &AnnounceRequest) -> AnnounceResponse {
        let ip = request.ip.expect("hosts in tests advertise their address");
        let address = SocketAddr::new(ip, request.port);
        let swarm = self.0.entry(request.info_hash).or_default();
        swarm.retain(|other| *other != address);
        if request.event != AnnounceEvent::Stopped {
            swarm.push(address);
        }
        let interval = Duration::from_secs(1800);
        AnnounceResponse { interval, peers: swarm.clone(), ..AnnounceResponse::default() }
    }
}

/// A tracker over HTTP.
fn http() -> Fixture {
    let server = tiny_http::Server::http((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = server.server_addr().to_ip().unwrap();
    let (told, heard) = channel();
    std::thread::spawn(move || {
        let mut swarms = Swarms::default();
        for request in server.incoming_requests() {
            let (_, query) = request.url().split_once('?').expect("an announce has a query");
            let announce = AnnounceRequest::from_query(query).expect("a proper announce");
            let mut body = Vec::new();
            swarms.answer(&announce).put_bencode(&mut body);
            let _ = told.send(announce);
            let _ = request.respond(tiny_http::Response::from_data(body));
        }
    });
    Fixture { url: format!("http://{address}/announce").parse().unwrap(), heard }
}

/// A tracker over UDP that loses every first datagram of a kind.
fn udp() -> Fixture {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = socket.local_addr().unwrap();
    let (told, heard) = channel();
    std::thread::spawn(move || {
        let mut swarms = Swarms::default();
        let (mut lost_connect, mut lost_announce) = (false, false);
        let mut buf = [0; 2048];
        while let Ok((len, from)) = socket.recv_from(&mut buf) {
            let answer = match Request::decode(&buf[..len]).expect("a proper request") {
                Request::Connect { .. } if !std::mem::replace(&mut lost_connect, true) => continue,
                Request::Connect { transaction } => {
                    Response::Connect { transaction, connection: 42 }
                }
                Request::Announce { .. } if !std::mem::replace(&mut lost_announce, true) => {
                    continue;
                }
                Request::Announce { connection, transaction, announce } => {
                    assert_eq!(connection, 42);
                    let answer = swarms.answer(&announce);
                    let _ = told.send(announce);
                    Response::Announce { transaction, announce: answer }
                }
                Request::Scrape { .. } => continue,
            };
            let mut datagram = Vec::new();
            answer.encode(Family::V4, &mut datagram);
            let _ = socket.send_to(&datagram, from);
        }
    });
    Fixture { url: format!("udp://{address}").parse().unwrap(), heard }
}

/// A seeder and a leecher that know the tracker alone.
fn a_blob_is_found_through(tracker: &Fixture) {
    let sample = Sample::new(40, 2 << 20);
    let seeder = Host::with_tracker(2, tracker.url.clone());
    seeder.put(&sample);
    let heard = tracker.expect(seeder.engine.port(), AnnounceEvent::Started);
    assert_eq!((heard.left, heard.info_hash), (0, sample.metainfo.info_hash()));

    let leecher = Host::with_tracker(3, tracker.url.clone());
    let membership = leecher.fetch(&sample, &[]).finish(&leecher, &sample);
    let port = leecher.engine.port();
    assert_eq!(tracker.expect(port, AnnounceEvent::Started).left, 2 << 20);
    assert_eq!(tracker.expect(port, AnnounceEvent::Completed).left, 0);

    drop(membership);
    leecher.engine.stop(soon());
    tracker.expect(port, AnnounceEvent::Stopped);
    seeder.store.remove(&sample.name).unwrap();
    tracker.expect(seeder.engine.port(), AnnounceEvent::Stopped);
}

#[test]
fn a_blob_is_found_through_an_http_tracker() {
    a_blob_is_found_through(&http());
}

#[test]
fn a_blob_is_found_through_a_udp_tracker_that_loses_datagrams() {
    a_blob_is_found_through(&udp());
}

#[test]
fn a_job_that_leaves_tells_the_tracker() {
    let tracker = http();
    let sample = Sample::new(41, 1 << 20);
    let leecher = Host::with_tracker(3, tracker.url.clone());
    let fetching = leecher.fetch(&sample, &[]);
    let port = leecher.engine.port();
    tracker.expect(port, AnnounceEvent::Started);
    drop(fetching);
    tracker.expect(port, AnnounceEvent::Stopped);
}

/// Then the upstream need not wait for a peer.
#[test]
fn a_swarm_in_which_nobody_else_is_is_said_to_be_empty() {
    let tracker = http();
    let sample = Sample::new(43, 1 << 20);
    let host = Host::with_tracker(3, tracker.url.clone());
    let partial = host.store.begin(&sample.name, Some(1 << 20)).unwrap();
    let (told, heard) = channel();
    let metainfo = Arc::clone(&sample.metainfo);
    let tell = move || told.send(()).expect("the test listens");
    let membership = host.engine.join_with(metainfo, Arc::clone(&partial), tell).unwrap();
    heard.recv_timeout(Duration::from_secs(30)).expect("the tracker names nobody");
    assert!(membership.progress().nobody);
    let seeder = Host::seeding(2, &sample);
    membership.offer_candidates(vec![seeder.address]);
    let fetching = Fetching { partial, membership };
    fetching.expect(&sample);
    assert!(!fetching.membership.progress().nobody);
}

#[test]
fn an_announce_that_is_not_answered_lasts_no_longer_than_a_stop() {
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/announce", silent.local_addr().unwrap());
    let sample = Sample::new(44, 1 << 20);
    let host = Host::with_tracker(3, url.parse().unwrap());
    let _fetching = host.fetch(&sample, &[]);
    let (mut stream, _) = silent.accept().unwrap();
    let asked_at = Time::now();
    assert!(stream.read(&mut [0; 64]).unwrap() > 0);
    host.engine.stop(Time::now());
    assert!(Time::now() < asked_at + ANNOUNCE_CALL);
}

#[test]
fn a_tracker_that_is_gone_shows_and_does_not_hold_a_stop_up() {
    let gone = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let url = format!("http://{}/announce", gone.local_addr().unwrap());
    let sample = Sample::new(42, 1 << 20);
    let host = Host::with_tracker(3, url.parse().unwrap());
    let _fetching = host.fetch(&sample, &[]);
    let deadline = soon();
    while host.engine.status().tracker.is_none_or(|tracker| tracker.failing.is_none()) {
        assert!(Time::now() < deadline, "the failure never shows");
        std::thread::yield_now();
    }
    host.engine.stop(deadline);
}
