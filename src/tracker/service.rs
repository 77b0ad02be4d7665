//! What the two fronts of the tracker share: the registry, and who an asker is.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::base::address;
use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::base::ranked::{Rank, Ranked};
use crate::base::rng::Rng;
use crate::limits::{REGISTRY_SWEEP, REGISTRY_SWEEP_PEERS};
use crate::log_limited;
use crate::proto::tracker::{AnnounceRequest, AnnounceResponse, ScrapeCounts};
use crate::tracker::registry::{Limits, Registry, Totals};

/// The figures that people look at are not older.
const SWEEP_PAUSE_MAX: Duration = Duration::from_secs(1);

/// The registry behind its lock. One is enough: an announce holds it for microseconds, and the
/// intervals keep announces at about a thousand per second.
#[derive(Debug)]
pub(super) struct Service(Ranked<State>);

#[derive(Debug)]
struct State {
    registry: Registry,
    rng: Rng,
}

impl Service {
    pub(super) fn new(limits: Limits) -> Service {
        let state = State { registry: Registry::new(limits), rng: Rng::from_os() };
        Service(Ranked::new(Rank::Registry, state))
    }

    /// Answers an announce that came from `source`.
    pub(super) fn announce(&self, source: IpAddr, request: &AnnounceRequest) -> AnnounceResponse {
        let peer = SocketAddr::new(peer_address(source, request.ip), request.port);
        let mut state = self.0.lock();
        let State { registry, rng } = &mut *state;
        let before = registry.not_remembered();
        let response = registry.announce(Time::now(), peer, request, rng);
        let refused = registry.not_remembered() - before;
        drop(state);
        if refused > 0 {
            figures::TRACKER_REFUSED.add(refused);
            log_limited!(warn, "{peer} is answered but not remembered: the tracker is full");
        }
        response
    }

    /// What is known of a swarm; zeros if nothing is.
    pub(super) fn scrape(&self, info_hash: &Sha1Hash) -> Option<ScrapeCounts> {
        self.0.lock().registry.scrape(info_hash)
    }

    pub(super) fn totals(&self) -> Totals {
        self.0.lock().registry.totals()
    }

    /// One step of forgetting, and after which pause the next is due: so that all peers are looked
    /// at within [`REGISTRY_SWEEP`], and announces wait for one step alone.
    pub(super) fn expire(&self) -> Duration {
        let totals = {
            let mut state = self.0.lock();
            state.registry.expire(Time::now(), REGISTRY_SWEEP_PEERS);
            state.registry.totals()
        };
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        figures::TRACKER_SWARMS.set(gauge(totals.swarms));
        figures::TRACKER_PEERS.set(gauge(totals.peers()));
        pause(totals.peers())
    }
}

/// Between two steps of forgetting, with so many peers.
fn pause(peers: usize) -> Duration {
    let steps = u32::try_from(peers / REGISTRY_SWEEP_PEERS + 1).unwrap_or(u32::MAX);
    (REGISTRY_SWEEP / steps).min(SWEEP_PAUSE_MAX)
}

/// The address under which others are told of an asker: where its announce came from.
///
/// A host behind address translation (a container with a published port, or one that runs beside
/// the tracker and comes over loopback) is reached elsewhere, and may `claim` that. It is believed
/// only inside a private network and only about one of the same family: so nobody outside can send
/// peers anywhere, nobody inside can send them out to a stranger, and loopback is believed only
/// from loopback, since for the others it would be themselves.
fn peer_address(source: IpAddr, claim: Option<IpAddr>) -> IpAddr {
    let source = source.to_canonical();
    let Some(claim) = claim.map(|claim| claim.to_canonical()) else { return source };
    let believed = address::is_local(source)
        && address::is_local(claim)
        && claim.is_ipv4() == source.is_ipv4()
        && (source.is_loopback() || !claim.is_loopback());
    if believed { claim } else { source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::REGISTRY_PEERS_MAX;

    #[test]
    fn a_claimed_address_is_believed_inside_a_private_network_only() {
        let address = |source: &str, claim: &str| {
            let parse = |text: &str| text.parse::<IpAddr>().expect("an address");
            peer_address(parse(source), Some(parse(claim))).to_string()
        };
        assert_eq!(address("172.17.0.2", "192.168.1.9"), "192.168.1.9", "container");
        assert_eq!(address("127.0.0.1", "192.168.1.9"), "192.168.1.9", "beside the tracker");
        assert_eq!(address("::ffff:10.0.0.1", "10.0.0.2"), "10.0.0.2", "seen through IPv6");
        assert_eq!(address("fd00::1", "fd00::2"), "fd00::2");
        assert_eq!(address("8.8.8.8", "192.168.1.9"), "8.8.8.8", "from outside");
        assert_eq!(address("10.0.0.1", "8.8.8.8"), "10.0.0.1", "to outside");
        assert_eq!(address("10.0.0.1", "127.0.0.1"), "10.0.0.1", "to everybody's self");
        assert_eq!(address("10.0.0.1", "fd00::2"), "10.0.0.1", "another family");
        assert_eq!(address("10.0.0.1", "0.0.0.0"), "10.0.0.1");
    }

    #[test]
    fn however_many_peers_there_are_all_are_looked_at_in_time() {
        for peers in [0, 1, REGISTRY_SWEEP_PEERS, 1_000_000, REGISTRY_PEERS_MAX] {
            let steps = u32::try_from(peers.div_ceil(REGISTRY_SWEEP_PEERS)).expect("few");
            assert!(pause(peers) * steps <= REGISTRY_SWEEP, "{peers}");
        }
        assert_eq!(pause(0), SWEEP_PAUSE_MAX);
    }
}
