//! The original's own commands, as its users know them, with a real Docker engine.

use std::process::Command;

use super::host::{Host, NAME};
use super::program::{BUILD_PATIENCE, root, static_binary};
use crate::support::image::Image;
use crate::support::network::{FROM_PEERS, FROM_UPSTREAM};
use crate::support::process::Process;
use crate::support::registry::Registry;
use crate::support::wait_for;

const MIB: usize = 1 << 20;

/// The mirror that the engines are told of.
const MIRROR: &str = "--registry-mirror=https://localhost:8888";

/// The original's command for a client, and what a client behind port mapping must know.
fn client(host: &Host, tracker: &Host, registry: &Registry) -> String {
    format!(
        "docker run -it -v /var/lib/torrent-storage:/storage \
         -e TRACKER=http://{tracker}:6969/announce -e ETCD_HOST={tracker} \
         -e ADVERTISE={address} -e REGISTRY_LOCATION={registry} \
         -p 8888:8888 -p 6881-6891:6881-6891 --rm client",
        tracker = tracker.address,
        address = host.address,
        registry = registry.url()
    )
}

/// `docker pull` through the mirror; the engine checks each layer against the configuration.
fn pull(host: &Host, image: &Image) {
    let name = NAME.trim_start_matches("library/");
    host.sh(&format!("docker pull --quiet {name}"));
    let seen = host.sh(&format!("docker image inspect --format '{{{{.Id}}}}' {name}"));
    assert_eq!(seen.trim(), image.config.digest);
}

/// A tracker and a client on one host, a client on another: both engines pull through their
/// clients, and the bytes cross the uplink once.
#[test]
fn the_original_commands_make_a_network() {
    let image = Image::random(40, &[3 * MIB, 2 * MIB, MIB]);
    let [first, second] = Host::pair();
    let registry = first.registry(&image);
    let _engines = [&first, &second].map(|host| host.engine(&[MIRROR]));

    let tracker = first.run_container(
        "tracker",
        "docker run -v /var/lib/torrent-tracker:/storage --rm -it -p 2378:2378 -p 6969:6969 \
         tracker",
    );
    let seeder = first.run_container("client", &client(&first, &first, &registry));
    pull(&first, &image);
    assert_eq!(seeder.metric(FROM_UPSTREAM), image.blob_bytes(), "{}", seeder.log());
    first.skopeo_layers(&image, 8888);
    assert_eq!(seeder.metric(FROM_UPSTREAM), image.blob_bytes(), "{}", seeder.log());

    seeder.wait_until_published(&image);
    tracker.wait_until_announced(&image, 1);
    let leecher = second.run_container("client", &client(&second, &first, &registry));
    pull(&second, &image);
    assert_eq!(leecher.metric(FROM_UPSTREAM), 0, "{}", leecher.log());
    assert_eq!(leecher.metric(FROM_PEERS), image.blob_bytes(), "{}", leecher.log());
    for blob in image.blobs() {
        let count = || registry.blob_accesses("GET", &blob.digest).len();
        wait_for("the registry's log", || (count() > 0).then_some(()));
        assert_eq!(count(), 1, "{} left the registry more than once", blob.digest);
    }

    // What they have is on the host, and they end in order.
    for (host, folder) in [(&first, "torrent-tracker/etcd"), (&second, "torrent-storage")] {
        host.sh(&format!("test -n \"$(ls /var/lib/{folder})\""));
    }
    for container in [leecher, seeder, tracker] {
        let status = container.stop();
        assert!(status.success(), "{status}");
    }
}

/// From an image that holds nothing else, names are looked up, upstreams are spoken to over TLS,
/// and an authority of the user is trusted: one client is the upstream of another.
#[test]
fn an_upstream_is_found_by_name_and_trusted() {
    let image = Image::random(42, &[2 * MIB]);
    let host = Host::alone();
    let registry = host.registry(&image);
    let _engine = host.engine(&[]);
    host.sh("docker network create network");
    host.sh(&format!(
        "docker run --detach --network network --name first --hostname first \
         -e REGISTRY_LOCATION={} client",
        registry.url()
    ));
    let first = host.container("first");
    host.sh("docker cp first:/etc/torrent-proxy/ssl/cert.pem authority.pem");
    host.sh("docker run --detach --network network --name second -p 8888:8888 \
         -v $PWD/authority.pem:/authority.pem -e CA=/authority.pem \
         -e REGISTRY_LOCATION=https://first:8888 client");
    let second = host.container("second");
    host.skopeo_layers(&image, 8888);
    for client in [&first, &second] {
        assert_eq!(client.metric(FROM_UPSTREAM), image.blob_bytes(), "{}", client.log());
    }
    host.sh("docker stop first second");
}

/// The images hold the program, etcd and what etcd needs, and nothing else.
#[test]
fn the_images_are_small() {
    const MIB_8: u64 = 8 << 20;
    let host = Host::alone();
    let _engine = host.engine(&[]);
    let program = std::fs::metadata(static_binary()).expect("it was built").len();
    let (client, tracker) = (host.image_bytes("client"), host.image_bytes("tracker"));
    assert!(client == program && program <= MIB_8, "client: {client} bytes");
    host.sh("docker create --name tracker tracker && docker export tracker | tar -x bin lib lib64");
    let etcd = host.sh("rm bin/torrent-cache && find bin lib lib64 -type f -printf '%s\\n'");
    let etcd: u64 = etcd.lines().map(|line| line.parse::<u64>().expect("a length")).sum();
    assert!(tracker == etcd + program, "tracker: {tracker} bytes, of them {etcd} of etcd");
    host.sh("docker rm tracker");
}

/// Whoever builds images from this folder at the same time waits for the others.
#[test]
fn images_are_built_side_by_side() {
    let build = || {
        let mut command = Command::new("make");
        command.args(["--silent", "--directory"]).arg(root()).arg("image").arg("DOCKER=true");
        command.arg(format!("BINARY={}", static_binary().display()));
        Process::spawn("make", command, "make")
    };
    for mut process in [(); 8].map(|()| build()) {
        let status = process.wait(BUILD_PATIENCE);
        assert!(status.success(), "{}", process.output());
    }
}
