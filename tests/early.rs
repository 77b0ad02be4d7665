//! A blob that nobody has yet and several hosts ask for at the same time: one of them brings it
//! from upstream, whatever happens to it. Real registry, real etcd, real clients, and a line of a
//! certain speed to the registry.

mod support;

use std::process::Command;
use std::sync::mpsc;
use std::thread;

use support::image::Blob;
use support::link::Link;
use support::network::{FROM_PEERS, FROM_UPSTREAM, NAME, Network};
use support::process::Process;
use support::torrent_cache::{Program, logs};
use support::{get, loopback, skopeo, wait_for};

const MIB: usize = 1 << 20;
/// `support::registry::CREDENTIALS` as a header has them.
const AUTHORIZATION: &str = "Basic dXNlcjpzZWNyZXQ=";
/// Of the line to the registry: 24 MiB take five seconds.
const MEGABITS: u32 = 40;

/// A client that reaches the registry over the line.
fn client(network: &Network, line: &Link, name: &str) -> Program {
    let registry = format!("http://{}", line.addr());
    network.client(name, &[("REGISTRY_LOCATION", &registry)])
}

fn sum(clients: &[Program], series: &str) -> i64 {
    clients.iter().map(|client| client.metric(series)).sum()
}

/// The layer that the image of these tests has.
fn layer(network: &Network) -> &Blob {
    network.image.blobs().max_by_key(|blob| blob.len()).expect("the image has a layer")
}

fn url_of(network: &Network, client: &Program) -> String {
    format!("http://{}/v2/library/image/blobs/{}", client.addr(), layer(network).digest)
}

/// Gets the layer through `client` and fails unless it is that.
fn pull_layer(network: &Network, client: &Program) {
    let answer = get(&url_of(network, client), &[]).unwrap_or_else(|error| {
        panic!("{error}\n{}", client.log());
    });
    assert_eq!(answer.status, 200);
    assert!(answer.body == layer(network).bytes, "other bytes");
}

fn etcdctl(network: &Network, arguments: &[&str]) -> String {
    let mut command = Command::new("etcdctl");
    let endpoint =
        format!("http://{}", loopback(network.tracker.option("ETCD_PORT").parse().unwrap()));
    command.env("ETCDCTL_API", "3").arg("--endpoints").arg(endpoint).args(arguments);
    let finished = Process::run("etcdctl", command, "etcd-client");
    assert!(finished.status.success(), "{}", finished.output);
    finished.output
}

fn claim_key(network: &Network) -> String {
    format!("/torrent-cache/claims/{}", layer(network).digest)
}

#[test]
fn hosts_that_ask_at_the_same_time_take_a_blob_from_upstream_once() {
    let network = Network::start(1, &[24 * MIB, 12 * MIB]);
    let line = Link::to(network.registry.addr(), MEGABITS);
    let clients: Vec<Program> =
        (0..5).map(|number| client(&network, &line, &format!("client {number}"))).collect();
    thread::scope(|scope| {
        for client in &clients {
            scope.spawn(|| skopeo::pull_and_verify(&network.image, client.addr(), NAME));
        }
    });
    let bytes = network.image.blob_bytes();
    let (from_upstream, from_peers) = (sum(&clients, FROM_UPSTREAM), sum(&clients, FROM_PEERS));
    println!("{from_upstream} from upstream, {from_peers} from peers, of {bytes}");
    let log = logs(&clients);
    assert!(from_upstream < bytes * 5 / 4, "{from_upstream} of {bytes}\n{log}");
    assert!(from_peers > bytes * 15 / 4, "{from_peers} of {bytes}\n{log}");
    // And it is in the catalog, once, and claimed no more.
    wait_for("the claims to be given up", || {
        let keys = etcdctl(&network, &["get", "--prefix", "--keys-only", "/torrent-cache/claims/"]);
        keys.trim().is_empty().then_some(())
    });
    let late = client(&network, &line, "late");
    pull_layer(&network, &late);
    assert_eq!(late.metric(FROM_UPSTREAM), 0, "{}", late.log());
}

#[test]
fn a_host_that_comes_while_another_fetches_gets_what_is_there_and_the_rest_as_it_comes() {
    let network = Network::start(2, &[24 * MIB]);
    let line = Link::to(network.registry.addr(), MEGABITS);
    let leader = client(&network, &line, "leader");
    let follower = client(&network, &line, "follower");
    thread::scope(|scope| {
        scope.spawn(|| pull_layer(&network, &leader));
        let len = layer(&network).len();
        wait_for("a third of the blob", || (leader.metric(FROM_UPSTREAM) > len / 3).then_some(()));
        pull_layer(&network, &follower);
    });
    assert_eq!(follower.metric(FROM_UPSTREAM), 0, "{}", follower.log());
    assert_eq!(leader.metric(FROM_UPSTREAM), layer(&network).len(), "{}", leader.log());
}

#[test]
fn when_the_host_that_fetches_dies_one_of_the_others_goes_on() {
    let network = Network::start(3, &[24 * MIB]);
    let line = Link::to(network.registry.addr(), MEGABITS);
    let mut leader = client(&network, &line, "leader");
    let others: Vec<Program> =
        (0..3).map(|number| client(&network, &line, &format!("client {number}"))).collect();
    let len = layer(&network).len();
    let (done, ended) = mpsc::channel();
    thread::scope(|scope| {
        let url = url_of(&network, &leader);
        scope.spawn(move || done.send(get(&url, &[]).is_err()).expect("somebody waits"));
        wait_for("the first bytes", || (leader.metric(FROM_UPSTREAM) > len / 6).then_some(()));
        for client in &others {
            scope.spawn(|| pull_layer(&network, client));
        }
        wait_for("others to follow", || (sum(&others, FROM_PEERS) > len / 2).then_some(()));
        leader.crash();
        assert!(ended.recv().expect("it ends"), "its own client is cut");
    });
    let from_upstream = sum(&others, FROM_UPSTREAM);
    let log = logs(&others);
    assert!(from_upstream > 0, "{log}");
    assert!(from_upstream < len * 5 / 4, "{from_upstream} of {len}: more than one went on\n{log}");
}

#[test]
fn a_false_claim_costs_no_more_than_a_moment() {
    let network = Network::start(4, &[3 * MIB]);
    let len = layer(&network).len();
    let swarm = "ab".repeat(20);
    for claim in [
        // Nobody is there.
        format!("{swarm} {len} 0123456789abcdef"),
        // The blob has another length.
        format!("{swarm} {} 0123456789abcdef", len + 1),
        format!("{swarm} {} 0123456789abcdef", 1u64 << 60),
        "no claim".to_owned(),
    ] {
        etcdctl(&network, &["put", &claim_key(&network), &claim]);
        etcdctl(&network, &["del", "--prefix", "/torrents/"]);
        let client = network.client("client", &[]);
        pull_layer(&network, &client);
        assert_eq!(client.metric(FROM_PEERS), 0);
    }
}

#[test]
fn who_may_not_have_a_blob_does_not_get_it_from_an_early_swarm() {
    let network = Network::start_private(5, &[24 * MIB]);
    let line = Link::to(network.registry.addr(), MEGABITS);
    let leader = client(&network, &line, "leader");
    let follower = client(&network, &line, "follower");
    let good = [("authorization", AUTHORIZATION)];
    let (leads, follows) = (url_of(&network, &leader), url_of(&network, &follower));
    thread::scope(|scope| {
        let pull = scope.spawn(|| get(&leads, &good));
        let len = layer(&network).len();
        wait_for("the first bytes", || (leader.metric(FROM_UPSTREAM) > len / 6).then_some(()));
        let denied = get(&follows, &[]).expect("it answers");
        assert_eq!(denied.status, 401, "{}", follower.log());
        let granted = get(&follows, &good).expect("it answers");
        assert!(granted.body == layer(&network).bytes, "other bytes");
        assert_eq!(pull.join().expect("no panic").expect("it answers").status, 200);
    });
    assert_eq!(follower.metric(FROM_UPSTREAM), 0, "{}", follower.log());
}
