//! Addresses that may become links: which to dial, and when.
//!
//! **Invariant:** bounded by [`CANDIDATES_MAX`]; our own addresses and banned ones are never
//! dialled; an address is dialled once at a time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::rng::Rng;
use crate::limits::CANDIDATES_MAX;
use crate::swarm::interface::Source;

/// The wait after the first failure. A host that has left a swarm and is back at once is turned
/// away by those that do not know yet that its first link has ended.
const RETRY_FIRST: Duration = Duration::from_millis(250);
/// The wait after the second failure; it doubles with each.
const RETRY: Duration = Duration::from_secs(5);
/// So many failures in a row, and the address is forgotten.
const FAILURES_MAX: u32 = 6;
/// Dials that may be under way at once.
pub(super) const DIALS_MAX: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Idle { until: Time },
    Dialling,
    Linked,
}

#[derive(Clone, Copy, Debug)]
struct Candidate {
    source: Source,
    failures: u32,
    state: State,
}

/// The candidates of one swarm.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    known: BTreeMap<SocketAddr, Candidate>,
    ours: BTreeSet<SocketAddr>,
    banned: BTreeSet<IpAddr>,
}

impl Candidates {
    /// Remembers `address`, unless it is ours, banned, not one to dial, or there is no room: where
    /// all are as good. Peers that call again and again, each time with another port, keep nobody
    /// out whom the tracker names.
    pub(super) fn add(&mut self, address: SocketAddr, source: Source, now: Time) {
        let ip = address.ip();
        let dialable = address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast();
        let unwanted = self.ours.contains(&address) || self.is_banned(ip);
        let is_known = self.known.contains_key(&address);
        if !dialable || unwanted || !(is_known || self.has_room_for(source)) {
            return;
        }
        let idle = Candidate { source, failures: 0, state: State::Idle { until: now } };
        let known = self.known.entry(address).or_insert(idle);
        known.source = known.source.min(source);
    }

    /// Whether there is room for an address from `source`, if need be in place of the worst from a
    /// worse one that nobody is busy with.
    fn has_room_for(&mut self, source: Source) -> bool {
        if self.known.len() < CANDIDATES_MAX {
            return true;
        }
        let worse = self.known.iter().filter(|(_, candidate)| {
            candidate.source > source && matches!(candidate.state, State::Idle { .. })
        });
        let worst = worse.max_by_key(|(_, candidate)| candidate.failures).map(|(at, _)| *at);
        worst.is_some_and(|address| self.known.remove(&address).is_some())
    }

    /// The best address to dial now: fewest failures first, then by source, then at random. It
    /// counts as being dialled from now on.
    pub(super) fn next(&mut self, now: Time, rng: &mut Rng) -> Option<SocketAddr> {
        if self.dialling() >= DIALS_MAX {
            return None;
        }
        let due = |candidate: &Candidate| match candidate.state {
            State::Idle { until } => until <= now,
            State::Dialling | State::Linked => false,
        };
        let ready = self.known.iter().filter(|(_, candidate)| due(candidate));
        let best = ready
            .min_by_key(|(_, candidate)| (candidate.failures, candidate.source, rng.next_u64()));
        let address = *best?.0;
        self.set(address, State::Dialling);
        Some(address)
    }

    /// How many addresses are being dialled.
    pub(super) fn dialling(&self) -> usize {
        self.known.values().filter(|candidate| candidate.state == State::Dialling).count()
    }

    /// When the next address may be dialled, if one waits.
    pub(super) fn next_due(&self) -> Option<Time> {
        let idle = self.known.values().filter_map(|candidate| match candidate.state {
            State::Idle { until } => Some(until),
            State::Dialling | State::Linked => None,
        });
        if self.dialling() >= DIALS_MAX { None } else { idle.min() }
    }

    /// There is a link to `address` now.
    pub(super) fn linked(&mut self, address: SocketAddr) {
        self.set(address, State::Linked);
    }

    /// A dial failed, or the link to `address` ended as soon as it was there.
    pub(super) fn failed(&mut self, address: SocketAddr, now: Time) {
        let Some(candidate) = self.known.get_mut(&address) else { return };
        let wait = match candidate.failures.checked_sub(1) {
            None => RETRY_FIRST,
            Some(more) => RETRY * 2u32.pow(more),
        };
        candidate.failures += 1;
        candidate.state = State::Idle { until: now + wait };
        if candidate.failures >= FAILURES_MAX {
            self.known.remove(&address);
        }
    }

    /// The link to `address` ended after it had worked.
    pub(super) fn unlinked(&mut self, address: SocketAddr, now: Time) {
        self.set(address, State::Idle { until: now + RETRY });
        if let Some(candidate) = self.known.get_mut(&address) {
            candidate.failures = 0;
        }
    }

    /// `address` is this process.
    pub(super) fn is_ours(&mut self, address: SocketAddr) {
        self.known.remove(&address);
        if self.ours.len() < CANDIDATES_MAX {
            self.ours.insert(address);
        }
    }

    /// Nothing at `ip` is dialled again.
    pub(super) fn ban(&mut self, ip: IpAddr) {
        self.known.retain(|address, _| address.ip() != ip);
        if self.banned.len() < CANDIDATES_MAX {
            self.banned.insert(ip);
        }
    }

    /// Whether `ip` was banned.
    pub(super) fn is_banned(&self, ip: IpAddr) -> bool {
        self.banned.contains(&ip)
    }

    /// Panics if a bound is broken.
    pub(super) fn check(&self) {
        assert!(self.known.len() <= CANDIDATES_MAX);
        assert!(self.dialling() <= DIALS_MAX);
        assert!(self.known.keys().all(|address| !self.ours.contains(address)));
        assert!(self.known.keys().all(|address| !self.is_banned(address.ip())));
    }

    fn set(&mut self, address: SocketAddr, state: State) {
        if let Some(candidate) = self.known.get_mut(&address) {
            candidate.state = state;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u16) -> SocketAddr {
        let [high, low] = n.to_be_bytes();
        SocketAddr::from(([10, 0, high, low], 6881))
    }

    fn at(seconds: u64) -> Time {
        Time::after_start(Duration::from_secs(seconds))
    }

    #[test]
    fn a_failing_address_is_dialled_ever_later_and_then_forgotten() {
        let (mut candidates, mut rng) = (Candidates::default(), Rng::seeded(1));
        candidates.add(address(1), Source::Tracker, at(0));
        let mut waits = Vec::new();
        let mut now = at(0);
        while let Some(due) = candidates.next_due() {
            assert_eq!(candidates.next(due, &mut rng), Some(address(1)));
            assert_eq!(candidates.next(due, &mut rng), None);
            waits.push(due.since(now).as_millis());
            now = due;
            candidates.failed(address(1), now);
        }
        assert_eq!(waits, [0, 250, 5000, 10_000, 20_000, 40_000]);
    }

    #[test]
    fn the_best_address_is_dialled_first() {
        let (mut candidates, mut rng) = (Candidates::default(), Rng::seeded(1));
        candidates.add(address(1), Source::Peer, at(0));
        candidates.add(address(2), Source::Tracker, at(0));
        candidates.add(address(3), Source::Tracker, at(0));
        candidates.failed(address(2), at(0));
        let order: Vec<_> = (0..3).filter_map(|_| candidates.next(at(60), &mut rng)).collect();
        assert_eq!(order, [address(3), address(1), address(2)]);
    }

    #[test]
    fn we_do_not_dial_ourselves_the_banned_or_nonsense() {
        let (mut candidates, mut rng) = (Candidates::default(), Rng::seeded(1));
        candidates.add(address(1), Source::Tracker, at(0));
        candidates.is_ours(address(1));
        candidates.ban(address(2).ip());
        for n in [1, 2] {
            candidates.add(address(n), Source::Tracker, at(0));
        }
        for nonsense in ["0.0.0.0:1", "10.0.0.1:0", "224.0.0.1:5", "[::]:1", "[ff02::1]:1"] {
            candidates.add(nonsense.parse().unwrap(), Source::Tracker, at(0));
        }
        assert_eq!(candidates.next(at(60), &mut rng), None);
    }

    #[test]
    fn a_linked_address_is_not_dialled_until_its_link_ends() {
        let (mut candidates, mut rng) = (Candidates::default(), Rng::seeded(1));
        candidates.add(address(1), Source::Tracker, at(0));
        candidates.linked(address(1));
        candidates.add(address(1), Source::Tracker, at(1));
        assert_eq!(candidates.next(at(60), &mut rng), None);
        candidates.unlinked(address(1), at(60));
        assert_eq!(candidates.next(at(60), &mut rng), None);
        assert_eq!(candidates.next(at(65), &mut rng), Some(address(1)));
    }

    #[test]
    fn where_all_is_full_of_what_peers_told_there_is_room_for_whom_the_tracker_names() {
        let (mut candidates, mut rng) = (Candidates::default(), Rng::seeded(1));
        (0..1000).for_each(|n| candidates.add(address(n), Source::Peer, at(0)));
        let dialled: Vec<_> = (0..8).filter_map(|_| candidates.next(at(0), &mut rng)).collect();
        candidates.add(address(2000), Source::Tracker, at(0));
        assert_eq!(candidates.next(at(0), &mut rng), Some(address(2000)));
        candidates.check();
        // The tracker's do not make room for each other, nor does who is being dialled.
        (2001..4000).for_each(|n| candidates.add(address(n), Source::Tracker, at(0)));
        candidates.add(address(4000), Source::Peer, at(0));
        candidates.check();
        assert_eq!(candidates.known.len(), CANDIDATES_MAX);
        assert!(dialled.iter().all(|address| candidates.known.contains_key(address)));
        assert!(candidates.known.contains_key(&address(2000)));
        assert!(!candidates.known.contains_key(&address(4000)));
    }

    #[test]
    fn addresses_and_dials_are_bounded() {
        let (mut candidates, mut rng) = (Candidates::default(), Rng::seeded(1));
        (0..2000).for_each(|n| candidates.add(address(n), Source::Tracker, at(0)));
        assert_eq!(candidates.known.len(), CANDIDATES_MAX);
        let dials = (0..CANDIDATES_MAX).filter_map(|_| candidates.next(at(0), &mut rng)).count();
        assert_eq!(dials, DIALS_MAX);
        candidates.check();
        (0..2000).for_each(|n| candidates.is_ours(address(n)));
        (0..2000).for_each(|n| candidates.ban(address(n).ip()));
        assert_eq!(
            (candidates.ours.len(), candidates.banned.len()),
            (CANDIDATES_MAX, CANDIDATES_MAX)
        );
    }
}
