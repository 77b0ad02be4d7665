//! What peers, trackers and catalogs send that is none of it: against whole processes.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::proto::peer::{Handshake, Message, PeerId};

use crate::support::image::Blob;
use crate::support::origin::{Origin, Request, Step, answer, whole};
use crate::support::torrent_cache::Program;
use crate::support::{get, loopback, wait_for};
use crate::{HOSTILE, Targets, connect_from, rest, threads};

pub fn random(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    Rng::seeded(seed).fill(&mut bytes);
    bytes
}

/// Lets the client fetch and seed the blob that is behind it; what peers must know of it.
pub fn seed(targets: &Targets, blob: &Blob) -> Metainfo {
    let url = format!("http://{}/v2/a/blobs/{}", targets.client.addr(), blob.digest);
    assert_eq!(get(&url, &[]).expect("it comes").status, 200);
    wait_for("the seed", || (targets.client.status()["seeds"] == 1).then_some(()));
    targets.client.wait_until_synced();
    let torrents = std::path::Path::new(targets.client.option("STORAGE")).join("torrents");
    let torrent = std::fs::read_dir(torrents).expect("it is there").next().expect("one");
    let torrent = std::fs::read(torrent.expect("it is there").path()).expect("it is there");
    Metainfo::decode(&torrent).expect("ours")
}

#[test]
fn malformed_handshakes_and_messages_cost_the_peer_its_connection() {
    let blob = Blob::new(random(92, 300_000));
    let mut targets = Targets::start(Some(blob.clone()));
    let metainfo = seed(&targets, &blob);
    let before = threads(&mut targets.client);
    let hello = |info_hash: Sha1Hash| {
        let mut out = Vec::new();
        Handshake::ours(info_hash, PeerId([9; 20])).encode(&mut out);
        out
    };
    let good = hello(metainfo.info_hash());
    let after = |bytes: &[u8]| [&good[..], bytes].concat();
    let mut requests = Vec::new();
    Message::Have(u32::MAX).encode(&mut requests);
    let mut inputs = vec![
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        random(1, 68),
        hello(Sha1Hash([7; 20])),
        // A length beyond all bounds, a bitfield of another length, a piece that is not there.
        after(&[0xff, 0xff, 0xff, 0xff, 4]),
        after(&[0, 0, 0, 99, 5, 0]),
        after(&requests),
        after(b"\0\0\0\x0d\x06\0\0\0\0\0\0\0\0\xff\xff\xff\xff"),
        // An extension handshake that is no bencode, and one that is endless.
        after(b"\0\0\0\x06\x14\0junk"),
        after(&[b"\0\0\x10\x02\x14\0".as_slice(), &vec![b'd'; 4096]].concat()),
    ];
    inputs.extend((2..40).map(|seed| after(&random(seed, 4096))));
    for input in inputs {
        let stream = connect_from(HOSTILE, targets.client.peer_addr());
        let _ = (&stream).write_all(&input);
        // It ends by itself, or when we have nothing more to say.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        rest(&stream);
    }
    assert_eq!(targets.client.metric("torrent_cache_thread_panics_total"), 0);
    wait_for("their threads to end", || (threads(&mut targets.client) <= before + 4).then_some(()));
    targets.assert_serves_others();
}

#[test]
fn datagrams_of_any_kind_leave_the_tracker_well() {
    let targets = Targets::start(None);
    let port: u16 = targets.tracker.option("TRACKER_PORT").parse().expect("a port");
    let socket = UdpSocket::bind(SocketAddr::from((HOSTILE, 0))).expect("a socket");
    // What finds the tracker's queue full is lost: it is asked again.
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("it is no zero");
    for seed in 0..2000 {
        let len = usize::try_from(seed % 130).expect("small");
        let _ = socket.send_to(&random(seed, len), loopback(port));
    }
    let connect = [&0x0417_2710_1980_u64.to_be_bytes()[..], &[0; 4], b"abcd"].concat();
    let mut answer = [0; 64];
    // Some of what was sent may have been answered with an error first.
    wait_for("an answer", || {
        let _ = socket.send_to(&connect, loopback(port));
        let len = socket.recv(&mut answer).ok()?;
        (len == 16 && answer[..8] == *b"\0\0\0\0abcd").then_some(())
    });
    assert_eq!(targets.tracker.metric("torrent_cache_thread_panics_total"), 0);
    targets.assert_serves_others();
}

/// A client with `blob` behind it, and this tracker and catalog.
fn pulls_all_the_same(blob: &Blob, options: &[(&str, &str)]) -> Program {
    let bytes = blob.bytes.clone();
    let origin = Origin::always(vec![whole(&bytes)]);
    let registry = format!("http://{}", origin.addr());
    let client =
        Program::client("client", &[&[("REGISTRY_LOCATION", registry.as_str())], options].concat());
    let url = format!("http://{}/v2/a/blobs/{}", client.addr(), blob.digest);
    let got = get(&url, &[]).expect("it comes");
    assert!(got.status == 200 && got.body == blob.bytes, "{}", client.log());
    client
}

#[test]
fn trackers_that_answer_nonsense_stop_no_pull_and_are_asked_again() {
    let blob = Blob::new(random(93, 100_000));
    let compact = |peers: &[u8]| {
        let head = format!("d8:intervali30e5:peers{}:", peers.len());
        [head.as_bytes(), peers, b"e"].concat()
    };
    let answers = [
        b"junk".to_vec(),
        b"d14:failure reason".to_vec(),
        b"d8:intervali-1e5:peers0:e".to_vec(),
        // Half a peer; port 0; itself and a broadcast.
        compact(&[127, 0, 0, 1, 26]),
        compact(&[127, 0, 0, 1, 0, 0]),
        compact(&[255, 255, 255, 255, 1, 1, 0, 0, 0, 0, 0, 1]),
        [b"d5:peers20000000:".as_slice(), &vec![0; 20 << 20]].concat(),
        vec![b'l'; 100_000],
    ];
    for body in answers {
        let tracker = Origin::always(vec![whole(&body)]);
        let announce = format!("http://{}/announce", tracker.addr());
        let client = pulls_all_the_same(&blob, &[("TRACKER", &announce)]);
        wait_for("an announce", || (!tracker.seen().is_empty()).then_some(()));
        assert_eq!(client.metric("torrent_cache_thread_panics_total"), 0);
    }
}

#[test]
fn a_udp_tracker_that_answers_nonsense_stops_no_pull() {
    let blob = Blob::new(random(94, 100_000));
    let socket = UdpSocket::bind(loopback(0)).expect("a socket");
    let port = socket.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        let mut buf = [0; 2048];
        for kind in 0_u8.. {
            let Ok((len, peer)) = socket.recv_from(&mut buf) else { return };
            let transaction = buf.get(12..16).filter(|_| len >= 16).unwrap_or(b"none").to_vec();
            let error = [&3_u32.to_be_bytes()[..], &transaction].concat();
            let answer = match kind % 4 {
                // BEP 15's error without a word has 8 bytes.
                0 | 1 => error,
                2 => vec![0; 7],
                _ => [&[0; 4][..], &transaction, &[1; 3]].concat(),
            };
            let _ = socket.send_to(&answer, peer);
        }
    });
    let announce = format!("udp://127.0.0.1:{port}");
    let client = pulls_all_the_same(&blob, &[("TRACKER", &announce)]);
    assert_eq!(client.metric("torrent_cache_thread_panics_total"), 0);
}

#[test]
fn catalogs_that_answer_nonsense_stop_no_pull() {
    let blob = Blob::new(random(95, 100_000));
    let good = br#"{"header":{"revision":"3"},"kvs":[{"key":"L3A=","value":"djE="}],"count":"1"}"#;
    let head = |len: usize| format!("Content-Length: {len}");
    let mut scripts: Vec<Vec<Step>> = (0..good.len())
        .step_by(7)
        .map(|cut| vec![answer(&["HTTP/1.1 200 OK", &head(good.len())], &good[..cut]), Step::Close])
        .collect();
    scripts.extend((0..good.len()).step_by(9).map(|cut| vec![whole(&good[..cut])]));
    scripts.push(vec![whole(&vec![b' '; 20 << 20])]);
    scripts.push(vec![whole(&[&b"{\"kvs\":["[..], &vec![b'['; 1 << 20]].concat())]);
    scripts.push(vec![Step::Stall]);
    scripts
        .push(vec![answer(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"], b""), Step::Stall]);
    let count = scripts.len();
    let scripts = std::sync::Mutex::new(scripts.into_iter().cycle());
    let etcd = Origin::start(move |_: &Request| {
        scripts.lock().expect("no panic under the lock").next().expect("it goes round")
    });
    let port = etcd.addr().port().to_string();
    let client = pulls_all_the_same(&blob, &[("ETCD_PORT", &port)]);
    for seed in 0..count {
        // Another blob each time: what is stored is not looked up.
        let wanted = format!("sha256:{:064x}", seed + 1);
        let url = format!("http://{}/v2/a/blobs/{wanted}", client.addr());
        let mut stream = connect_from(HOSTILE, client.addr());
        let path = url.split_once("127.0.0.1:").expect("ours").1;
        let path = path.split_once('/').expect("it has a path").1;
        write!(stream, "GET /{path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
            .expect("it reads");
        let mut byte = [0; 1];
        let _ = stream.read(&mut byte);
    }
    assert!(etcd.seen().len() > 2, "it was asked");
    assert_eq!(client.metric("torrent_cache_thread_panics_total"), 0);
}
