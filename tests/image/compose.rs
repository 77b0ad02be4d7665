//! `docker-compose.yml`: it brings up a network, whose members find each other by name.

use super::host::Host;
use super::program::root;
use crate::support::image::Image;
use crate::support::network::{FROM_PEERS, FROM_UPSTREAM};
use crate::support::wait_for;

const MIB: usize = 1 << 20;

/// Three clients, each of which takes the image in turn: the first from the registry, the others
/// from those before them.
#[test]
fn three_clients_share_an_image() {
    let image = Image::random(41, &[3 * MIB, MIB]);
    let host = Host::alone();
    let registry = host.registry(&image);
    let _engine = host.engine(&[]);
    let compose = format!(
        "REGISTRY_LOCATION={} docker-compose --file {}",
        registry.url(),
        root().join("packaging/docker/docker-compose.yml").display()
    );
    host.sh(&format!("{compose} config --quiet"));
    host.sh(&format!("{compose} up --detach --no-build"));
    let container = |service: &str| {
        let id = host.sh(&format!("{compose} ps --quiet {service}"));
        host.container(id.trim())
    };
    let tracker = container("tracker");
    wait_for("the image's own health check", || {
        let states = host.sh("docker ps --format '{{.Status}}'");
        states.lines().all(|state| state.ends_with("(healthy)")).then_some(())
    });
    for (number, port) in [(1, 8881), (2, 8882), (3, 8883)] {
        let client = container(&format!("client-{number}"));
        host.skopeo_layers(&image, port);
        let (upstream, peers) = (client.metric(FROM_UPSTREAM), client.metric(FROM_PEERS));
        let bytes = image.blob_bytes();
        let wanted = if number == 1 { (bytes, 0) } else { (0, bytes) };
        assert_eq!((upstream, peers), wanted, "client-{number}: {}", client.log());
        if number == 1 {
            client.wait_until_published(&image);
        }
        tracker.wait_until_announced(&image, number);
    }
    host.sh(&format!("{compose} down --timeout 30"));
}
