//! The invariants of a swarm: checked in debug builds, where breaking one is a bug to be found.

use std::collections::BTreeMap;

use crate::proto::geometry::PieceIndex;
use crate::swarm::pieces::units_of;
use crate::swarm::swarm::Swarm;

impl Swarm {
    /// Checks everything, after every input if the blob is small, else so often that it costs a
    /// bounded time for each input.
    pub(super) fn check_sometimes(&mut self) {
        self.unchecked += 1;
        let cost = (self.geometry().piece_count() as usize / 16) * (1 + self.links.len() / 4);
        if self.unchecked > cost {
            self.unchecked = 0;
            self.check_invariants();
        }
    }

    /// Checks that the parts of the swarm agree with each other. O(pieces * links).
    ///
    /// # Panics
    /// If they do not.
    pub fn check_invariants(&self) {
        self.pieces.check();
        self.candidates.check();
        assert!(self.links.len() <= self.config.links_max);
        for link in self.links.values() {
            link.check(self.have());
        }
        self.spread.check(self.links.values());
        self.check_owners();
        self.check_requests();
        for piece in self.geometry().pieces() {
            let counted = self.links.values().filter(|link| link.counted);
            let having = counted.filter(|link| link.has.contains(piece)).count();
            assert_eq!(usize::from(self.pieces.picker.availability(piece)), having, "{piece:?}");
        }
    }

    /// Every piece in flight that has an owner is owned by it, and by nobody else.
    fn check_owners(&self) {
        let mut owners = BTreeMap::new();
        for (&id, link) in &self.links {
            for piece in &link.owned {
                assert_eq!(owners.insert(*piece, id), None, "{piece:?} has two owners");
            }
        }
        for (piece, progress) in self.pieces.progress() {
            assert_eq!(progress.owner, owners.remove(piece), "{piece:?}");
        }
        assert!(owners.is_empty(), "owned but not in flight: {owners:?}");
    }

    /// What each piece counts as asked for is what the links were asked for.
    fn check_requests(&self) {
        let mut asked: BTreeMap<(PieceIndex, usize), usize> = BTreeMap::new();
        for link in self.links.values() {
            for request in link.requests.iter().filter(|request| !request.stale) {
                assert!(self.pieces.progress().contains_key(&request.block.piece()));
                for unit in units_of(request.block) {
                    *asked.entry((request.block.piece(), unit)).or_default() += 1;
                }
            }
        }
        for (piece, progress) in self.pieces.progress() {
            for (unit, count) in progress.asked().enumerate() {
                let expected = asked.get(&(*piece, unit)).copied().unwrap_or(0);
                assert_eq!(count, expected, "{piece:?} unit {unit}");
            }
        }
    }
}
