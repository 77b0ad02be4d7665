//! The peers of one swarm and one address family.
//!
//! **Invariant:** both lists are sorted by address and port, and no peer is in both.

use std::net::{IpAddr, SocketAddr};

use crate::base::rng::Rng;

/// When a peer is forgotten: whole seconds since the beginning of time, half the size of a
/// [`Time`](crate::base::clock::Time).
pub(super) type Second = u32;

/// Whether a peer has the whole blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Seeder,
    Leecher,
}

/// One announce, as a crowd sees it.
#[derive(Debug)]
pub(super) struct Visit {
    pub(super) port: u16,
    pub(super) standing: Standing,
    /// `None`: it leaves, or cannot be reached.
    pub(super) keep_until: Option<Second>,
    /// A crowd of this size takes nobody new.
    pub(super) len_max: usize,
    pub(super) numwant: usize,
}

/// What became of a [`Visit`].
#[derive(Debug)]
pub(super) struct Outcome {
    /// What it was before, if it was known.
    pub(super) was: Option<Standing>,
    /// Whether it is known now.
    pub(super) kept: bool,
    pub(super) peers: Vec<SocketAddr>,
}

/// Which peers to look at, of a row of crowds: each passes on what it leaves of it.
#[derive(Debug)]
pub(super) struct Span {
    pub(super) skip: usize,
    pub(super) take: usize,
}

/// How many were forgotten.
#[derive(Debug)]
pub(super) struct Forgotten {
    pub(super) seeders: usize,
    pub(super) leechers: usize,
}

/// One peer. Its standing is which list it is in, so that counting costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer<A> {
    address: A,
    port: u16,
    expires: Second,
}

/// Seeders and leechers. `A` is the address of the family.
#[derive(Debug)]
pub(super) struct Crowd<A> {
    seeders: Vec<Peer<A>>,
    leechers: Vec<Peer<A>>,
}

impl<A> Default for Crowd<A> {
    fn default() -> Crowd<A> {
        Crowd { seeders: Vec::new(), leechers: Vec::new() }
    }
}

impl<A: Copy + Ord + Into<IpAddr>> Crowd<A> {
    pub(super) fn seeders(&self) -> usize {
        self.seeders.len()
    }

    pub(super) fn leechers(&self) -> usize {
        self.leechers.len()
    }

    pub(super) fn len(&self) -> usize {
        self.seeders.len() + self.leechers.len()
    }

    /// A peer comes by: gets others and is remembered, or not.
    pub(super) fn visit(&mut self, address: A, visit: &Visit, rng: &mut Rng) -> Outcome {
        // Out first: then it cannot be among those it is given, whatever it was before.
        let was = self.remove(address, visit.port);
        let peers = self.sample(visit.standing, visit.numwant, rng);
        let keep_until = visit.keep_until.filter(|_| was.is_some() || self.len() < visit.len_max);
        if let Some(expires) = keep_until {
            let list = self.list(visit.standing);
            let at = search(list, address, visit.port).unwrap_or_else(|at| at);
            list.insert(at, Peer { address, port: visit.port, expires });
        }
        Outcome { was, kept: keep_until.is_some(), peers }
    }

    fn remove(&mut self, address: A, port: u16) -> Option<Standing> {
        [Standing::Leecher, Standing::Seeder].into_iter().find(|&standing| {
            let list = self.list(standing);
            search(list, address, port).map(|at| list.remove(at)).is_ok()
        })
    }

    /// At most `count` peers in random order, each choice equally likely. A seeder has no use for
    /// seeders.
    fn sample(&self, asker: Standing, count: usize, rng: &mut Rng) -> Vec<SocketAddr> {
        let seeders = match asker {
            Standing::Seeder => &[][..],
            Standing::Leecher => &self.seeders,
        };
        let chosen = choose(self.leechers.len() + seeders.len(), count, rng);
        let peer = |at: usize| match self.leechers.get(at) {
            Some(peer) => peer,
            None => &seeders[at - self.leechers.len()],
        };
        let socket = |peer: &Peer<A>| SocketAddr::new(peer.address.into(), peer.port);
        chosen.into_iter().map(|at| socket(peer(at))).collect()
    }

    /// Forgets those within `span` whose time has come.
    pub(super) fn expire(&mut self, now: Second, span: &mut Span) -> Forgotten {
        let seeders = expire(&mut self.seeders, now, span);
        Forgotten { seeders, leechers: expire(&mut self.leechers, now, span) }
    }

    fn list(&mut self, standing: Standing) -> &mut Vec<Peer<A>> {
        match standing {
            Standing::Seeder => &mut self.seeders,
            Standing::Leecher => &mut self.leechers,
        }
    }
}

fn search<A: Copy + Ord>(list: &[Peer<A>], address: A, port: u16) -> Result<usize, usize> {
    list.binary_search_by_key(&(address, port), |peer| (peer.address, peer.port))
}

fn expire<A>(list: &mut Vec<Peer<A>>, now: Second, span: &mut Span) -> usize {
    let start = span.skip.min(list.len());
    let end = start + span.take.min(list.len() - start);
    span.skip -= start;
    span.take -= end - start;
    let forgotten = list.extract_if(start..end, |peer| peer.expires <= now).count();
    // A crowd that has gone home gives its memory back.
    if list.capacity() > 4 * list.len() {
        list.shrink_to(2 * list.len());
    }
    forgotten
}

/// `count` different numbers below `bound` in random order, or all of them if there are not as many
/// (Robert Floyd's sampling; the list is short enough to be searched).
fn choose(bound: usize, count: usize, rng: &mut Rng) -> Vec<usize> {
    let count = count.min(bound);
    let mut chosen = Vec::with_capacity(count);
    for top in bound - count..bound {
        let candidate = rng.index(top + 1);
        chosen.push(if chosen.contains(&candidate) { top } else { candidate });
    }
    rng.shuffle(&mut chosen);
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn a_peer_costs_12_bytes_with_ipv4_and_24_with_ipv6() {
        assert_eq!(size_of::<Peer<Ipv4Addr>>(), 12);
        assert_eq!(size_of::<Peer<Ipv6Addr>>(), 24);
    }

    #[test]
    fn every_number_is_chosen_about_as_often() {
        let mut rng = Rng::seeded(11);
        let mut hits = [0; 20];
        for _ in 0..4000 {
            let mut chosen = choose(20, 5, &mut rng);
            chosen.iter().for_each(|&at| hits[at] += 1);
            chosen.sort_unstable();
            chosen.dedup();
            assert_eq!(chosen.len(), 5, "all differ");
        }
        // 1,000 expected each, standard deviation 27.
        assert!(hits.iter().all(|hits| (850..1150).contains(hits)), "{hits:?}");
        assert!(choose(0, 5, &mut rng).is_empty());
        assert_eq!(choose(3, 5, &mut rng).len(), 3);
    }
}
