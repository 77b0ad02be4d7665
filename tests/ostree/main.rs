//! OSTree repositories through the client: the real `ostree` and `flatpak`, a real web server, and
//! this program with its etcd and tracker.

#[path = "../support/mod.rs"]
mod support;

mod beside;
mod deltas;
mod early;
mod files;
mod flatpak;
mod foreign;
mod hardship;
mod lies;
mod mirror;
mod objects;
mod offline;
mod pulls;
mod roots;

use support::ostree::Repository;
use support::site::Site;
use support::torrent_cache::Program;
use support::wait_for;

const MIB: usize = 1 << 20;

/// Series of a client: requests for files of repositories, by how they were answered.
fn files(client: &Program, outcome: &str) -> i64 {
    client.metric(&format!("torrent_cache_file_requests_total{{outcome=\"{outcome}\"}}"))
}

/// A site with the repository `repo`, and a tracker with its etcd.
struct World {
    site: Site,
    repository: Repository,
    tracker: Program,
}

impl World {
    fn start() -> World {
        let site = Site::start();
        let repository = Repository::make(site.root().join("repo"));
        World { site, repository, tracker: Program::tracker("tracker", &[]) }
    }

    /// Waits until `client` has published `deltas` deltas and the tracker knows `peers` members.
    fn wait_until_shared(&self, client: &Program, deltas: i64, peers: i64) {
        wait_for("the delta to be stored and announced", || {
            let stored = client.metric("torrent_cache_store_blobs") >= deltas;
            let known = self.tracker.metric("torrent_cache_tracker_peers") >= peers;
            (stored && known).then_some(())
        });
        let series = |outcome| {
            client.metric(&format!("torrent_cache_catalog_requests_total{{outcome=\"{outcome}\"}}"))
        };
        // A host that took it from the swarm found it in the catalog.
        wait_for("publication", || (series("published") + series("hit") >= deltas).then_some(()));
    }

    /// The client of one host.
    fn client(&self, name: &str, options: &[(&str, &str)]) -> Program {
        let announce = self.tracker.announce_url();
        let mut all = vec![
            ("TRACKER", announce.as_str()),
            ("ETCD_PORT", self.tracker.option("ETCD_PORT")),
            ("LOG", "info,torrent_cache=debug"),
        ];
        all.extend(options);
        Program::client(name, &all)
    }
}

/// What `http_proxy` is for a host with this client.
fn proxy(client: &Program) -> Option<String> {
    Some(format!("http://{}", client.addr()))
}
