//! Which peers are in which swarm: the tracker's memory, and all it decides.
//!
//! One value, no locks and no I/O; time and randomness are arguments. A peer is its address and
//! port: who announces both again is the same peer, and a made-up peer id removes nobody. IPv4 and
//! IPv6 are two crowds of one swarm, since an asker can be sure to reach its own family only.
//!
//! **Load.** A leecher comes back after 30 s, a seeder after 5 minutes, while there are few; with
//! many, intervals grow so that about [`TRACKER_ANNOUNCES_PER_SECOND`] arrive. 1,000 hosts that
//! seed 1,000 blobs each are 1,000,000 peers: an interval of 17 minutes, and some 20 MB
//! (measured in `tests/registry_memory.rs`).
//!
//! **Full.** A new peer beyond a limit is answered like any other, but not remembered: it can dial
//! those who are. Nobody who is known is put out for it, so that a flood of made-up peers does not
//! disperse the real ones.
//!
//! **Invariant:** no swarm is empty, and the totals are the sums over all swarms.

mod crowd;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Bound;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::base::rng::Rng;
use crate::limits::{
    REGISTRY_PEERS_MAX, REGISTRY_SWARM_PEERS_MAX, REGISTRY_SWARMS_MAX,
    TRACKER_ANNOUNCES_PER_SECOND, TRACKER_LEECHER_INTERVAL, TRACKER_LEECHER_INTERVAL_MAX,
    TRACKER_NUMWANT, TRACKER_PEERS_MAX, TRACKER_SEEDER_INTERVAL, TRACKER_SEEDER_INTERVAL_MAX,
};
use crate::proto::tracker::{AnnounceEvent, AnnounceRequest, AnnounceResponse, ScrapeCounts};
use crate::tracker::registry::crowd::{Crowd, Second, Span, Standing, Visit};

/// The most that a registry remembers.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Peers, over all swarms.
    pub peers: usize,
    /// Swarms.
    pub swarms: usize,
    /// Peers of one family in one swarm.
    pub swarm_peers: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            peers: REGISTRY_PEERS_MAX,
            swarms: REGISTRY_SWARMS_MAX,
            swarm_peers: REGISTRY_SWARM_PEERS_MAX,
        }
    }
}

/// Sums over all swarms.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Swarms with at least one peer.
    pub swarms: usize,
    /// Peers that have the whole blob; one host counts once in each swarm.
    pub seeders: usize,
    /// Peers that lack some of it.
    pub leechers: usize,
}

impl Totals {
    /// All peers.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.seeders + self.leechers
    }

    fn of(&mut self, standing: Standing) -> &mut usize {
        match standing {
            Standing::Seeder => &mut self.seeders,
            Standing::Leecher => &mut self.leechers,
        }
    }
}

/// All swarms. The module says how it behaves when it is full.
#[derive(Debug)]
pub struct Registry {
    // Ordered, so that `expire` can go on where it stopped.
    swarms: BTreeMap<Sha1Hash, Swarm>,
    limits: Limits,
    totals: Totals,
    not_remembered: u64,
    // Where `expire` goes on; `None`: at the first swarm.
    mark: Option<Mark>,
}

/// A place in the order of all swarms and their peers.
#[derive(Debug)]
struct Mark {
    swarm: Sha1Hash,
    /// Of its peers, this many come before.
    peers: usize,
}

#[derive(Debug, Default)]
struct Swarm {
    v4: Crowd<Ipv4Addr>,
    v6: Crowd<Ipv6Addr>,
    completed: u32,
}

impl Swarm {
    fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    fn counts(&self) -> ScrapeCounts {
        let count = |v4, v6| u32::try_from(v4 + v6).unwrap_or(u32::MAX);
        ScrapeCounts {
            seeders: count(self.v4.seeders(), self.v6.seeders()),
            completed: self.completed,
            leechers: count(self.v4.leechers(), self.v6.leechers()),
        }
    }
}

impl Registry {
    /// A registry that knows nobody.
    #[must_use]
    pub fn new(limits: Limits) -> Registry {
        Registry {
            swarms: BTreeMap::new(),
            limits,
            totals: Totals::default(),
            not_remembered: 0,
            mark: None,
        }
    }

    /// Takes note of `peer`, which sent `request`, and answers it.
    ///
    /// It is remembered for a little over two intervals, unless it said
    /// [`AnnounceEvent::Stopped`] or has port 0, where nobody can reach it. The answer never holds
    /// the asker, and no seeders for a seeder.
    pub fn announce(
        &mut self,
        now: Time,
        peer: SocketAddr,
        request: &AnnounceRequest,
        rng: &mut Rng,
    ) -> AnnounceResponse {
        let standing = if request.left == 0 { Standing::Seeder } else { Standing::Leecher };
        let stays = request.event != AnnounceEvent::Stopped && peer.port() != 0;
        let interval = self.interval(standing, rng);
        let mut response = AnnounceResponse {
            interval,
            min_interval: Some(interval / 3),
            ..AnnounceResponse::default()
        };
        let room = self.totals.peers() < self.limits.peers;
        if !self.swarms.contains_key(&request.info_hash) {
            if !stays {
                return response;
            }
            if !room || self.swarms.len() >= self.limits.swarms {
                self.not_remembered += 1;
                return response;
            }
        }
        let swarm = self.swarms.entry(request.info_hash).or_default();
        let visit = Visit {
            port: peer.port(),
            standing,
            keep_until: stays.then(|| second_after(now + interval * 2 + TRACKER_LEECHER_INTERVAL)),
            len_max: if room { self.limits.swarm_peers } else { 0 },
            numwant: numwant(request),
        };
        let outcome = match peer.ip().to_canonical() {
            IpAddr::V4(address) => swarm.v4.visit(address, &visit, rng),
            IpAddr::V6(address) => swarm.v6.visit(address, &visit, rng),
        };
        if request.event == AnnounceEvent::Completed && outcome.was != Some(Standing::Seeder) {
            swarm.completed = swarm.completed.saturating_add(1);
        }
        let counts = swarm.counts();
        if swarm.len() == 0 {
            self.swarms.remove(&request.info_hash);
        }
        if let Some(was) = outcome.was {
            *self.totals.of(was) -= 1;
        }
        if outcome.kept {
            *self.totals.of(standing) += 1;
        }
        self.not_remembered += u64::from(stays && !outcome.kept);
        self.totals.swarms = self.swarms.len();
        response.seeders = counts.seeders;
        response.leechers = counts.leechers;
        response.peers = outcome.peers;
        response
    }

    /// What is known of a swarm; `None`: nobody is in it.
    #[must_use]
    pub fn scrape(&self, info_hash: &Sha1Hash) -> Option<ScrapeCounts> {
        self.swarms.get(info_hash).map(Swarm::counts)
    }

    /// Looks at the next `count` peers and forgets those that did not come back; after the last
    /// begins again at the first. So announces wait for one step, however large a swarm is. Who
    /// joins or leaves in between may carry a peer past the mark; then the next round finds it.
    pub fn expire(&mut self, now: Time, count: usize) {
        let now = second_before(now);
        let mark = self.mark.take();
        let start = mark.as_ref().map_or(Bound::Unbounded, |mark| Bound::Included(mark.swarm));
        let mut empty = Vec::new();
        let mut left = count;
        for (info_hash, swarm) in self.swarms.range_mut((start, Bound::Unbounded)) {
            let seen = mark.as_ref().filter(|mark| mark.swarm == *info_hash);
            let seen = seen.map_or(0, |mark| mark.peers);
            let mut span = Span { skip: seen, take: left };
            let (v4, v6) = (swarm.v4.expire(now, &mut span), swarm.v6.expire(now, &mut span));
            let looked_at = left - span.take;
            left = span.take;
            let (seeders, leechers) = (v4.seeders + v6.seeders, v4.leechers + v6.leechers);
            self.totals.seeders -= seeders;
            self.totals.leechers -= leechers;
            let peers = seen + looked_at - seeders - leechers;
            if swarm.len() == 0 {
                empty.push(*info_hash);
            } else if peers < swarm.len() {
                self.mark = Some(Mark { swarm: *info_hash, peers });
                break;
            }
        }
        for info_hash in empty {
            self.swarms.remove(&info_hash);
        }
        self.totals.swarms = self.swarms.len();
    }

    /// How many there are.
    #[must_use]
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// How often a peer was answered but not remembered, since a limit was reached.
    #[must_use]
    pub fn not_remembered(&self) -> u64 {
        self.not_remembered
    }

    /// So long that all who have this standing make the announces that are aimed at, and up to an
    /// eighth shorter, so that hosts that started together do not stay together.
    fn interval(&mut self, standing: Standing, rng: &mut Rng) -> Duration {
        let (least, most) = match standing {
            Standing::Seeder => (TRACKER_SEEDER_INTERVAL, TRACKER_SEEDER_INTERVAL_MAX),
            Standing::Leecher => (TRACKER_LEECHER_INTERVAL, TRACKER_LEECHER_INTERVAL_MAX),
        };
        let count = *self.totals.of(standing) as u64;
        let even = Duration::from_secs(count / TRACKER_ANNOUNCES_PER_SECOND);
        let seconds = even.clamp(least, most).as_secs();
        Duration::from_secs(seconds - rng.below(seconds / 8))
    }
}

fn numwant(request: &AnnounceRequest) -> usize {
    let wanted = request.numwant.and_then(|wanted| usize::try_from(wanted).ok());
    wanted.unwrap_or(TRACKER_NUMWANT).min(TRACKER_PEERS_MAX)
}

fn second_before(time: Time) -> Second {
    Second::try_from(time.nanos() / 1_000_000_000).unwrap_or(Second::MAX)
}

fn second_after(time: Time) -> Second {
    second_before(time).saturating_add(1)
}
