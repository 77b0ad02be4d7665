//! Early swarms when what is round them fails, and when somebody in them lies: the registry is
//! reached over a line of a certain speed, through a proxy that fails when told.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread;

use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::limits;
use torrent_cache::proto::geometry::Geometry;
use torrent_cache::proto::hashes::PieceHashes;
use torrent_cache::proto::peer::Message;

use crate::peer::Wire;
use crate::site::{FROM_PEERS, FROM_UPSTREAM, MIB, REPOSITORY, Site, etcdctl, pull, url};
use crate::support::etcd::Etcd;
use crate::support::faults::{Fault, FaultProxy};
use crate::support::image::Blob;
use crate::support::link::Link;
use crate::support::origin::{Origin, Request, answer, whole};
use crate::support::torrent_cache::Program;
use crate::support::{get, wait_for};
use crate::upstream::random_blob;

/// Of the line to the registry: 16 MiB take over three seconds.
const MEGABITS: u32 = 40;
const BANNED: &str = "torrent_cache_peers_banned_total";
const MISMATCHES: &str = "torrent_cache_digest_mismatches_total{source=\"peer\"}";

/// A site with a layer of 16 MiB and one of 4, the line to it, and a tracker with its etcd.
struct Early {
    site: Site,
    line: Link,
    tracker: Program,
}

impl Early {
    fn start(seed: u64) -> Early {
        let site = Site::start(seed, &[16 * MIB, 4 * MIB]);
        let line = Link::to(site.proxy.addr(), MEGABITS);
        Early { site, line, tracker: Program::tracker("tracker", &[]) }
    }

    fn layer(&self) -> &Blob {
        self.site.layer(0)
    }

    fn len(&self) -> i64 {
        self.layer().len()
    }

    fn client(&self, name: &str) -> Program {
        let (etcd, announce) = (self.tracker.option("ETCD_PORT"), self.tracker.announce_url());
        self.client_with(name, etcd, &announce)
    }

    fn client_with(&self, name: &str, etcd: &str, announce: &str) -> Program {
        let registry = format!("http://{}", self.line.addr());
        let options = [
            ("REGISTRY_LOCATION", registry.as_str()),
            ("ETCD_PORT", etcd),
            ("TRACKER", announce),
            ("LOG", "info,torrent_cache=debug"),
        ];
        Program::client(name, &options)
    }

    fn url(&self, client: &Program) -> String {
        url(client, REPOSITORY, &self.layer().digest)
    }

    /// Gets the layer and fails unless it is that.
    fn pull(&self, client: &Program) {
        let got = get(&self.url(client), &[]);
        let got = got.unwrap_or_else(|error| panic!("{error}\n{}", client.log()));
        assert!(got.status == 200 && got.body == self.layer().bytes, "{}", client.log());
    }

    /// Waits until `part` of the layer has come to `client` from there.
    fn wait_for(&self, client: &Program, series: &str, part: i64) {
        let least = self.len() / part;
        wait_for("a part of the blob", || (client.metric(series) > least).then_some(()));
    }
}

/// Says in the catalog that somebody brings `blob`, of so many bytes, in the early swarm `swarm`.
fn put_claim(tracker: &Program, blob: &Blob, swarm: Sha1Hash, len: u64) {
    let value = format!("{swarm} {len} 0123456789abcdef");
    let key = format!("/torrent-cache/claims/{}", blob.digest);
    etcdctl(tracker.option("ETCD_PORT"), &format!("put {key}"), value.as_bytes());
}

/// The early swarm in which `blob` is shared now.
fn claimed_swarm(tracker: &Program, blob: &Blob) -> Sha1Hash {
    let key = format!("/torrent-cache/claims/{}", blob.digest);
    let get = format!("get --print-value-only {key}");
    let value = wait_for("the claim", || {
        let value = etcdctl(tracker.option("ETCD_PORT"), &get, b"");
        (!value.trim().is_empty()).then_some(value)
    });
    value.split(' ').next().and_then(Sha1Hash::from_hex).expect("a claim begins with it")
}

/// A peer that calls the early swarm `swarm` at `client`, tells the hashes of `bytes` and sends
/// them, or nothing.
fn lie(client: &Program, swarm: Sha1Hash, bytes: &[u8], sends: bool) {
    let geometry = Geometry::for_blob(bytes.len() as u64).expect("a length");
    let piece_len = geometry.piece_len() as usize;
    let hashes = (0..).zip(bytes.chunks(piece_len).map(Sha1Hash::of)).collect();
    let mut payload = Vec::new();
    PieceHashes { hashes }.encode(&mut payload);
    let mut wire = wait_for("the swarm", || Wire::call(client.peer_addr(), swarm).ok());
    for message in [Message::HaveAll, Message::Unchoke, Message::Extended { id: 1, payload }] {
        wire.send(&message).expect("it reads");
    }
    let bytes = bytes.to_vec();
    thread::spawn(move || {
        wire.serve(|block| {
            let at = block.piece as usize * piece_len + block.begin as usize;
            Ok(sends.then(|| bytes[at..at + block.len as usize].to_vec()))
        })
    });
}

fn sum(clients: &[&Program], series: &str) -> i64 {
    clients.iter().map(|client| client.metric(series)).sum()
}

#[test]
fn a_host_that_sleeps_while_it_fetches_is_replaced_and_ends_well_when_it_wakes() {
    let early = Early::start(301);
    let (mut leader, follower) = (early.client("leader"), early.client("follower"));
    let leads = early.url(&leader);
    thread::scope(|scope| {
        let pull = scope.spawn(|| get(&leads, &[]));
        early.wait_for(&leader, FROM_UPSTREAM, 6);
        let follows = scope.spawn(|| early.pull(&follower));
        early.wait_for(&follower, FROM_PEERS, 5);
        leader.process().pause();
        follows.join().expect("it goes on");
        leader.process().resume();
        let got = pull.join().expect("no panic").expect("it goes on");
        assert!(got.body == early.layer().bytes, "other bytes");
    });
    let (len, upstream) = (early.len(), follower.metric(FROM_UPSTREAM));
    assert!(upstream > 0 && upstream < len * 9 / 10, "{upstream} of {len}");
    assert!(leader.metric(FROM_UPSTREAM) <= len, "once at most");
}

#[test]
fn a_host_that_is_stopped_while_it_fetches_gives_its_claim_up_and_another_goes_on() {
    let early = Early::start(302);
    let (mut leader, follower) = (early.client("leader"), early.client("follower"));
    let leads = early.url(&leader);
    thread::scope(|scope| {
        scope.spawn(|| get(&leads, &[]));
        early.wait_for(&leader, FROM_UPSTREAM, 6);
        let follows = scope.spawn(|| early.pull(&follower));
        early.wait_for(&follower, FROM_PEERS, 5);
        assert!(leader.stop().success());
        follows.join().expect("it goes on");
    });
    let (len, upstream) = (early.len(), follower.metric(FROM_UPSTREAM));
    assert!(upstream < len * 9 / 10, "{upstream} of {len}");
}

#[test]
fn a_client_that_leaves_stops_nothing_for_the_other_hosts() {
    let early = Early::start(303);
    let (leader, follower) = (early.client("leader"), early.client("follower"));
    let path = format!("/v2/{REPOSITORY}/blobs/{}", early.layer().digest);
    let mut leaver = TcpStream::connect(leader.addr()).expect("it listens");
    write!(leaver, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    leaver.read_exact(&mut [0; 4096]).expect("it comes");
    early.wait_for(&leader, FROM_UPSTREAM, 6);
    drop(leaver);
    early.pull(&follower);
    assert_eq!(follower.metric(FROM_UPSTREAM), 0, "{}", follower.log());
    assert_eq!(leader.metric(FROM_UPSTREAM), early.len());
}

#[test]
fn a_host_without_room_passes_a_blob_through_and_claims_nothing() {
    let early = Early::start(314);
    let registry = format!("http://{}", early.line.addr());
    let announce = early.tracker.announce_url();
    let options = [
        ("REGISTRY_LOCATION", registry.as_str()),
        ("ETCD_PORT", early.tracker.option("ETCD_PORT")),
        ("TRACKER", &announce),
    ];
    let full = Program::client_with_disk("full", 8 << 20, &options);
    let other = early.client("other");
    thread::scope(|scope| {
        scope.spawn(|| early.pull(&full));
        early.wait_for(&full, "torrent_cache_sent_bytes_total{to=\"client\"}", 6);
        early.pull(&other);
    });
    assert_eq!(other.metric(FROM_UPSTREAM), early.len(), "{}", other.log());
}

#[test]
fn an_upstream_that_stalls_or_ignores_where_to_begin_ends_well_for_all() {
    for (seed, fault) in [(304, Fault::Stall { after: 5 << 20 }), (305, Fault::IgnoreRange)] {
        let early = Early::start(seed);
        let (mut leader, follower) = (early.client("leader"), early.client("follower"));
        let leads = early.url(&leader);
        let is_stall = matches!(fault, Fault::Stall { .. });
        if is_stall {
            early.site.proxy.fail(&early.layer().digest, 1, fault);
        }
        thread::scope(|scope| {
            let pull = scope.spawn(|| get(&leads, &[]));
            early.wait_for(&leader, FROM_UPSTREAM, 6);
            let follows = scope.spawn(|| early.pull(&follower));
            early.wait_for(&follower, FROM_PEERS, 5);
            if is_stall {
                let got = pull.join().expect("no panic").expect("it goes on");
                assert!(got.body == early.layer().bytes, "other bytes");
            } else {
                early.site.proxy.fail(&early.layer().digest, 9, fault);
                leader.crash();
            }
            follows.join().expect("it goes on");
        });
    }
}

#[test]
fn without_a_tracker_hosts_wait_a_moment_for_each_other_and_go_alone() {
    let early = Early::start(306);
    let etcd = early.tracker.option("ETCD_PORT");
    let nowhere = "http://127.0.0.1:1/announce";
    let leader = early.client_with("leader", etcd, nowhere);
    let follower = early.client_with("follower", etcd, nowhere);
    thread::scope(|scope| {
        scope.spawn(|| early.pull(&leader));
        early.wait_for(&leader, FROM_UPSTREAM, 6);
        early.pull(&follower);
    });
    let each = [&leader, &follower].map(|client| client.metric(FROM_UPSTREAM));
    assert_eq!(each, [early.len(); 2]);
}

#[test]
fn etcd_may_go_and_come_back_empty_while_hosts_share() {
    let early = Early::start(307);
    let (mut etcd, announce) = (Etcd::start(), early.tracker.announce_url());
    let port = etcd.client_port().to_string();
    let client = |name| early.client_with(name, &port, &announce);
    let [leader, follower, third] = ["leader", "follower", "third"].map(client);
    thread::scope(|scope| {
        scope.spawn(|| early.pull(&leader));
        early.wait_for(&leader, FROM_UPSTREAM, 6);
        scope.spawn(|| early.pull(&follower));
        early.wait_for(&follower, FROM_PEERS, 5);
        etcd.process().kill();
        etcd.start_empty();
        etcd.wait_until_healthy();
        // There is no claim any more: it makes one of its own, and a swarm beside the first.
        early.pull(&third);
    });
    let each = [&leader, &follower, &third].map(|client| client.metric(FROM_UPSTREAM));
    assert!(each[1] == 0 && sum(&[&leader, &third], FROM_UPSTREAM) <= 2 * early.len(), "{each:?}");
}

/// Neither can call the other: both tell the tracker a port at which nobody listens.
#[test]
fn a_host_that_reaches_no_other_soon_stops_waiting_for_them() {
    // After each that was waited for in vain the next may be asked for twice as late.
    const BLOBS_MAX: usize = 6;
    let site = Site::start(316, &[MIB; BLOBS_MAX]);
    let tracker = Program::tracker("tracker", &[]);
    let announce = tracker.announce_url();
    let stalling = FaultProxy::start(site.proxy.addr());
    stalling.fail("/blobs/", usize::MAX, Fault::Stall { after: 100_000 });
    let client = |name, registry: &FaultProxy, advertised| {
        let url = registry.url();
        let options = [
            ("REGISTRY_LOCATION", url.as_str()),
            ("ETCD_PORT", tracker.option("ETCD_PORT")),
            ("TRACKER", &announce),
            ("ADVERTISE", advertised),
            ("LOG", "info,torrent_cache=debug"),
        ];
        Program::client(name, &options)
    };
    let leader = client("leader", &stalling, "127.0.0.1:1");
    let follower = client("follower", &site.proxy, "127.0.0.1:2");
    let claims = |client: &Program, whose| {
        client.metric(&format!("torrent_cache_claims_total{{leader=\"{whose}\"}}"))
    };
    let mut readers = Vec::new();
    let mut pull_both = |layer: &Blob| {
        let path = format!("/v2/{REPOSITORY}/blobs/{}", layer.digest);
        let before = claims(&leader, "this");
        let mut reader = TcpStream::connect(leader.addr()).expect("it listens");
        write!(reader, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
        readers.push(reader);
        wait_for("its claim", || (claims(&leader, "this") > before).then_some(()));
        let followed = claims(&follower, "other");
        pull(&follower, layer, &[]).assert_is(200, &layer.bytes);
        claims(&follower, "other") > followed
    };
    let (first, others) = site.image.layers.split_first().expect("there are some");
    assert!(pull_both(first), "{}", follower.log());
    assert!(follower.log().contains("its host is silent"), "{}", follower.log());
    let alone = others.iter().position(|layer| !pull_both(layer));
    let alone = alone.unwrap_or_else(|| panic!("it waits each time: {}", follower.log()));
    let pulled: i64 = site.image.layers[..alone + 2].iter().map(Blob::len).sum();
    let came = [FROM_UPSTREAM, FROM_PEERS].map(|series| follower.metric(series));
    assert_eq!(came, [pulled, 0], "{}", follower.log());
}

/// Reads of etcd are answered from memory, writes wait for its disk.
#[test]
fn a_claim_that_etcd_is_slow_to_take_is_made_while_the_blob_comes() {
    let early = Early::start(315);
    let etcd = Origin::start(|request: &Request| match request.target() {
        "/v3/lease/grant" => {
            thread::sleep(2 * limits::CATALOG_LOOKUP);
            vec![whole(br#"{"ID":"7","TTL":"30"}"#)]
        }
        _ => {
            let neither = br#"{"responses":[{"response_range":{}},{"response_range":{}}]}"#;
            vec![whole(neither)]
        }
    });
    let port = etcd.addr().port().to_string();
    let leader = early.client_with("leader", &port, &early.tracker.announce_url());
    early.pull(&leader);
    let claims =
        |request: &Request| String::from_utf8_lossy(&request.body).contains(r#""lease":"7""#);
    assert!(etcd.seen().iter().any(claims), "{}", leader.log());
}

#[test]
fn a_blob_whose_bytes_are_wrong_upstream_breaks_and_nobody_is_blamed() {
    let early = Early::start(308);
    let (leader, follower) = (early.client("leader"), early.client("follower"));
    early.site.proxy.fail(&early.layer().digest, 1, Fault::Flip { at: 9 });
    let (leads, follows) = (early.url(&leader), early.url(&follower));
    thread::scope(|scope| {
        let leads = scope.spawn(|| get(&leads, &[]));
        early.wait_for(&leader, FROM_UPSTREAM, 6);
        assert!(get(&follows, &[]).is_err(), "cut");
        assert!(leads.join().expect("no panic").is_err(), "cut");
    });
    early.pull(&follower);
    early.pull(&leader);
    assert_eq!(sum(&[&leader, &follower], BANNED), 0);
}

#[test]
fn a_blob_of_unknown_length_is_brought_by_each_host() {
    let blob = random_blob(309, 3 * MIB);
    let body = blob.bytes.clone();
    let origin = Origin::start(move |_: &Request| {
        let chunk = [format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat();
        vec![answer(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"], &chunk)]
    });
    let (tracker, registry) =
        (Program::tracker("tracker", &[]), format!("http://{}", origin.addr()));
    let announce = tracker.announce_url();
    let options = [
        ("REGISTRY_LOCATION", registry.as_str()),
        ("ETCD_PORT", tracker.option("ETCD_PORT")),
        ("TRACKER", &announce),
    ];
    let clients = ["first", "second"].map(|name| Program::client(name, &options));
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| pull(client, &blob, &[]).assert_is(200, &blob.bytes));
        }
    });
}

#[test]
fn a_host_that_lies_well_breaks_one_pull_and_the_next_is_right() {
    let early = Early::start(310);
    let (leader, follower) = (early.client("leader"), early.client("follower"));
    let swarm = Sha1Hash([0xea; 20]);
    put_claim(&early.tracker, early.layer(), swarm, early.layer().bytes.len() as u64);
    let follows = early.url(&follower);
    thread::scope(|scope| {
        let broken = scope.spawn(|| get(&follows, &[]));
        lie(&follower, swarm, &random_blob(4, early.layer().bytes.len()).bytes, true);
        assert!(broken.join().expect("no panic").is_err(), "cut before its end");
    });
    assert_eq!(follower.metric(MISMATCHES), 1, "{}", follower.log());
    // The claim still stands, and so does the liar's call.
    early.pull(&follower);
    assert_eq!(follower.metric(FROM_UPSTREAM), early.len(), "from upstream alone");
    early.pull(&leader);
    // Other blobs are shared as before.
    let other = early.site.layer(1);
    let before = sum(&[&leader, &follower], FROM_UPSTREAM);
    thread::scope(|scope| {
        for client in [&leader, &follower] {
            scope.spawn(|| pull(client, other, &[]).assert_is(200, &other.bytes));
        }
    });
    let upstream = sum(&[&leader, &follower], FROM_UPSTREAM) - before;
    assert!(upstream < other.len() * 3 / 2, "{upstream} of {}", other.len());
}

#[test]
fn a_host_that_fetches_from_upstream_takes_nothing_from_one_that_lies_well() {
    let early = Early::start(313);
    let leader = early.client("leader");
    thread::scope(|scope| {
        let pull = scope.spawn(|| early.pull(&leader));
        early.wait_for(&leader, FROM_UPSTREAM, 9);
        let swarm = claimed_swarm(&early.tracker, early.layer());
        lie(&leader, swarm, &random_blob(6, early.layer().bytes.len()).bytes, true);
        pull.join().expect("it is right");
    });
    assert_eq!((leader.metric(FROM_UPSTREAM), leader.metric(FROM_PEERS)), (early.len(), 0));
}

#[test]
fn a_host_that_lies_and_sends_nothing_or_other_bytes_costs_nothing() {
    let early = Early::start(311);
    let (leader, follower) = (early.client("leader"), early.client("follower"));
    let others = random_blob(5, early.layer().bytes.len()).bytes;
    let leads = early.url(&leader);
    thread::scope(|scope| {
        let pull = scope.spawn(|| get(&leads, &[]));
        early.wait_for(&leader, FROM_UPSTREAM, 9);
        let swarm = claimed_swarm(&early.tracker, early.layer());
        let follows = scope.spawn(|| early.pull(&follower));
        for client in [&leader, &follower] {
            lie(client, swarm, &others, false);
        }
        follows.join().expect("it goes on");
        let got = pull.join().expect("no panic").expect("it goes on");
        assert!(got.body == early.layer().bytes, "other bytes");
    });
    assert_eq!(leader.metric(FROM_UPSTREAM), early.len());
    assert_eq!(follower.metric(FROM_UPSTREAM), 0, "{}", follower.log());
}

#[test]
fn a_false_claim_of_a_huge_blob_takes_neither_room_nor_memory() {
    let early = Early::start(312);
    let mut client = early.client("client");
    let other = early.site.image.blobs().min_by_key(|blob| blob.len()).expect("there are some");
    pull(&client, other, &[]).assert_is(200, &other.bytes);
    crate::site::wait_until_kept(&client, 1);
    let before = client.process().proc_status("VmRSS");
    put_claim(&early.tracker, early.layer(), Sha1Hash([0xea; 20]), 2 << 40);
    early.pull(&client);
    let after = client.process().proc_status("VmRSS");
    assert!(after < before + (64 << 10), "{before} KiB before, {after} KiB after");
    assert_eq!(client.metric("torrent_cache_store_evicted_total"), 0);
}
