//! Whom to serve. On a local network the answer is nearly always: everyone who asks.
//!
//! Only when more peers wait than there are slots, the choker takes turns. While we still need
//! pieces, most slots go to those who give us most (tit for tat), the rest to those who waited
//! longest, so that newcomers can show what they give. When we have everything, all slots go round.
//! A turn lasts [`TURN`] at least: nobody is dropped before a few pieces could pass.

use std::cmp::Reverse;
use std::time::Duration;

use crate::base::clock::Time;
use crate::swarm::interface::LinkId;

/// How often the slots are given out anew while more peers wait than there are slots.
pub(super) const ROUND: Duration = Duration::from_secs(1);
/// How long a served peer keeps its slot at least, if it does not earn it.
const TURN: Duration = Duration::from_secs(3);
/// One of so many slots is not earned but comes with waiting.
const UNEARNED: usize = 4;

/// A peer that wants to be served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) link: LinkId,
    pub(super) served: bool,
    /// Bytes per second that it gives us.
    pub(super) gives: u64,
    /// When it began to be served or to wait.
    pub(super) since: Time,
}

/// The links to be served from now on, at most `slots`. `seeding`: we need nothing from them.
pub(super) fn choose(now: Time, mut peers: Vec<Peer>, slots: usize, seeding: bool) -> Vec<LinkId> {
    let mut chosen = Vec::with_capacity(slots);
    if !seeding {
        // A quarter more counts for those served: two equals do not take a slot from each other.
        peers.sort_by_key(|peer| {
            let gives = if peer.served { peer.gives.saturating_mul(5) / 4 } else { peer.gives };
            (Reverse(gives), peer.since, peer.link)
        });
        let giving = peers.iter().take_while(|peer| peer.gives > 0).count();
        let earned = giving.min(slots.saturating_sub((slots / UNEARNED).max(1)));
        chosen.extend(peers.drain(..earned).map(|peer| peer.link));
    }
    // First those whose turn lasts, then those who wait, longest first, then those whose turn is
    // over, latest first: they go on only if nobody waits.
    peers.sort_by_key(|peer| {
        let held = now.since(peer.since);
        match peer.served {
            true if held < TURN => (0, Duration::ZERO, peer.link),
            false => (1, Duration::MAX.saturating_sub(held), peer.link),
            true => (2, held, peer.link),
        }
    });
    let left = slots - chosen.len();
    chosen.extend(peers.iter().take(left).map(|peer| peer.link));
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn at(seconds: u64) -> Time {
        Time::after_start(Duration::from_secs(seconds))
    }

    /// Runs `rounds` rounds for peers that give what `gives` says; how many rounds each was served,
    /// and how often a peer lost its slot.
    fn run(gives: &[u64], slots: usize, seeding: bool, rounds: u64) -> (Vec<u64>, u64) {
        let mut peers: BTreeMap<LinkId, Peer> = (0u64..)
            .zip(gives)
            .map(|(n, gives)| {
                (LinkId(n), Peer { link: LinkId(n), served: false, gives: *gives, since: at(0) })
            })
            .collect();
        let mut served = vec![0; gives.len()];
        let mut drops = 0;
        for round in 1..=rounds {
            let chosen = choose(at(round), peers.values().copied().collect(), slots, seeding);
            assert!(chosen.len() <= slots);
            for (n, peer) in peers.values_mut().enumerate() {
                let now = chosen.contains(&peer.link);
                served[n] += u64::from(now);
                drops += u64::from(peer.served && !now);
                if peer.served != now {
                    (peer.served, peer.since) = (now, at(round));
                }
            }
        }
        (served, drops)
    }

    #[test]
    fn everyone_is_served_while_there_are_slots() {
        assert_eq!(run(&[0, 5, 9], 3, false, 10), (vec![10, 10, 10], 0));
        assert_eq!(run(&[0, 0, 0], 4, true, 10), (vec![10, 10, 10], 0));
    }

    #[test]
    fn a_seed_gives_everyone_about_the_same_share_in_turns() {
        let (served, drops) = run(&[0; 10], 4, true, 300);
        let fair = 300 * 4 / 10;
        let bounds = fair * 3 / 4..=fair * 5 / 4;
        assert!(served.iter().all(|rounds| bounds.contains(rounds)), "{served:?}");
        assert!(drops <= 4 * 300 / 3, "{drops} drops");
    }

    #[test]
    fn who_gives_most_is_served_most_and_newcomers_get_a_chance() {
        let (served, _) = run(&[900, 800, 700, 600, 500, 400, 0, 0], 4, false, 200);
        assert_eq!(served[..3], [200, 200, 200]);
        assert!(served[6] > 10 && served[7] > 10, "{served:?}");
    }

    #[test]
    fn near_equals_do_not_take_slots_from_each_other() {
        let peers = |a, b| {
            let peer = |link, served, gives| Peer { link, served, gives, since: at(0) };
            vec![peer(LinkId(0), true, a), peer(LinkId(1), false, b)]
        };
        assert_eq!(choose(at(9), peers(100, 120), 2, false).len(), 2);
        let three = |a, b| [peers(a, b), peers(0, 0)[1..].to_vec()].concat();
        assert_eq!(choose(at(9), three(100, 120), 2, false)[0], LinkId(0));
        assert_eq!(choose(at(9), three(100, 130), 2, false)[0], LinkId(1));
    }
}
