//! Rarest first: the pieces that may be asked for, sorted by how many peers have them.
//!
//! Each availability has a level, an unordered list of the pickable pieces that so many peers have.
//! A change of one piece is O(1). A pick scans the levels upwards from a random place in each and
//! ends at the first piece that the peer has: a few steps as a rule, O(pieces) if the peer has none
//! of them, and then the caller remembers [`Picker::generation`] and does not ask again before it
//! grows.
//!
//! Peers that have everything are not counted: they add the same to every piece.

use crate::base::rng::Rng;
use crate::proto::bitfield::Pieces;
use crate::proto::geometry::{Geometry, PieceIndex};
use crate::proto::peer::PeerId;

/// How many equally rare pieces are looked at for one in our share.
const SHARE_SCAN_MAX: usize = 256;

/// Which of equally rare pieces to ask a seed for. Hosts that fetch the same blob know of each
/// other, and for each piece an order among them follows from their peer ids ("rendezvous
/// hashing"). Each takes the pieces first where it comes first, then those where one is before it
/// (who may not be served by the seed), and so on: so they ask for different ones and swap them,
/// and the seed sends little twice, even if not all of them know all.
#[derive(Clone, Debug)]
pub(super) struct Share {
    us: u64,
    others: Vec<u64>,
}

impl Share {
    /// Our share, if `others` fetch the same blob.
    pub(super) fn new<'a>(us: &PeerId, others: impl Iterator<Item = &'a PeerId>) -> Share {
        // Peer ids end in random bytes; the digits of their beginning are alike.
        let salt = |id: &PeerId| {
            id.0.iter().fold(0u64, |salt, byte| mixed(salt.rotate_left(8) ^ u64::from(*byte)))
        };
        Share { us: salt(us), others: others.map(salt).collect() }
    }

    /// How many others come before us for this piece.
    pub(super) fn place(&self, piece: PieceIndex) -> usize {
        let weight = |salt: u64| mixed(salt ^ u64::from(piece.get()));
        let ours = weight(self.us);
        self.others.iter().filter(|other| weight(**other) > ours).count()
    }
}

/// The finisher of SplitMix64: every bit of the result depends on every bit of `z`.
fn mixed(z: u64) -> u64 {
    let z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The pickable pieces by availability.
#[derive(Debug)]
pub(super) struct Picker {
    /// How many peers, but those with everything, have each piece.
    availability: Vec<u16>,
    /// Where each pickable piece is in the level of its availability.
    place: Vec<Option<usize>>,
    levels: Vec<Vec<PieceIndex>>,
    pickable: usize,
    generation: u64,
}

impl Picker {
    /// No piece is pickable, no peer has any.
    pub(super) fn new(geometry: &Geometry) -> Picker {
        let count = geometry.piece_count() as usize;
        Picker {
            availability: vec![0; count],
            place: vec![None; count],
            levels: Vec::new(),
            pickable: 0,
            generation: 0,
        }
    }

    /// Whether no piece may be asked for.
    pub(super) fn is_empty(&self) -> bool {
        self.pickable == 0
    }

    /// Whether `piece` may be asked for.
    pub(super) fn is_pickable(&self, piece: PieceIndex) -> bool {
        self.place[piece.index()].is_some()
    }

    /// Grows whenever a piece becomes pickable: a peer that had nothing to give may have now.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Lets `piece` be asked for, or no longer.
    pub(super) fn set_pickable(&mut self, piece: PieceIndex, pickable: bool) {
        match (self.is_pickable(piece), pickable) {
            (false, true) => {
                self.enlist(piece);
                self.pickable += 1;
                self.generation += 1;
            }
            (true, false) => {
                self.delist(piece);
                self.pickable -= 1;
            }
            _ => {}
        }
    }

    /// One more peer has `piece`.
    pub(super) fn gained(&mut self, piece: PieceIndex) {
        self.shift(piece, self.availability[piece.index()].saturating_add(1));
    }

    /// One peer less has `piece`.
    pub(super) fn lost(&mut self, piece: PieceIndex) {
        self.shift(piece, self.availability[piece.index()].saturating_sub(1));
    }

    /// How many peers, but those with everything, have `piece`.
    pub(super) fn availability(&self, piece: PieceIndex) -> u16 {
        self.availability[piece.index()]
    }

    /// The availability of the rarest pickable pieces.
    pub(super) fn rarest(&self) -> Option<u16> {
        let level = self.levels.iter().position(|level| !level.is_empty())?;
        u16::try_from(level).ok()
    }

    /// One of the rarest pickable pieces of those in `has`, at random, or by `share` if there is
    /// one.
    pub(super) fn pick(
        &self,
        has: &Pieces,
        share: Option<&Share>,
        rng: &mut Rng,
    ) -> Option<PieceIndex> {
        self.levels.iter().filter(|level| !level.is_empty()).find_map(|level| {
            let (before, after) = level.split_at(rng.index(level.len()));
            let all = after.iter().chain(before).copied();
            let mut had = all.filter(|piece| has.contains(*piece));
            match share {
                Some(share) => had.take(SHARE_SCAN_MAX).min_by_key(|piece| share.place(*piece)),
                None => had.next(),
            }
        })
    }

    fn shift(&mut self, piece: PieceIndex, availability: u16) {
        let pickable = self.is_pickable(piece);
        if pickable {
            self.delist(piece);
        }
        self.availability[piece.index()] = availability;
        if pickable {
            self.enlist(piece);
        }
    }

    fn enlist(&mut self, piece: PieceIndex) {
        let level = usize::from(self.availability[piece.index()]);
        if self.levels.len() <= level {
            self.levels.resize_with(level + 1, Vec::new);
        }
        self.place[piece.index()] = Some(self.levels[level].len());
        self.levels[level].push(piece);
    }

    fn delist(&mut self, piece: PieceIndex) {
        let level = &mut self.levels[usize::from(self.availability[piece.index()])];
        if let Some(place) = self.place[piece.index()].take() {
            level.swap_remove(place);
            if let Some(moved) = level.get(place) {
                self.place[moved.index()] = Some(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn geometry(pieces: u32) -> Geometry {
        Geometry::new(u64::from(pieces) << 14, 1 << 14).unwrap()
    }

    fn pickable(geometry: &Geometry) -> Picker {
        let mut picker = Picker::new(geometry);
        geometry.pieces().for_each(|piece| picker.set_pickable(piece, true));
        picker
    }

    #[test]
    fn the_rarest_piece_that_the_peer_has_is_picked() {
        let geometry = geometry(8);
        let mut picker = pickable(&geometry);
        let piece = |number| geometry.piece(number).unwrap();
        for number in 0..8 {
            (0..number).for_each(|_| picker.gained(piece(number)));
        }
        let mut rng = Rng::seeded(1);
        let mut has = Pieces::none(geometry);
        assert_eq!(picker.pick(&has, None, &mut rng), None);
        for number in [7, 5, 6] {
            has.insert(piece(number));
        }
        assert_eq!(picker.pick(&has, None, &mut rng), Some(piece(5)));
        picker.set_pickable(piece(5), false);
        assert_eq!(picker.pick(&has, None, &mut rng), Some(piece(6)));
        picker.lost(piece(7));
        picker.lost(piece(7));
        assert_eq!(picker.pick(&has, None, &mut rng), Some(piece(7)));
    }

    #[test]
    fn ties_are_broken_at_random() {
        let geometry = geometry(100);
        let picker = pickable(&geometry);
        let mut rng = Rng::seeded(2);
        let all = Pieces::all(geometry);
        let picked: BTreeSet<_> =
            (0..1000).filter_map(|_| picker.pick(&all, None, &mut rng)).collect();
        assert!(picked.len() > 95, "{} of 100", picked.len());
    }

    #[test]
    fn hosts_with_different_shares_pick_different_pieces() {
        let geometry = geometry(120);
        let all = Pieces::all(geometry);
        let ids: Vec<PeerId> = (0..4).map(|n| PeerId([n; 20])).collect();
        let mut picked = BTreeSet::new();
        for us in &ids {
            let share = Share::new(us, ids.iter().filter(|id| *id != us));
            let (mut picker, mut rng) = (pickable(&geometry), Rng::seeded(1));
            for _ in 0..20 {
                let piece = picker.pick(&all, Some(&share), &mut rng).unwrap();
                picker.set_pickable(piece, false);
                assert!(picked.insert(piece), "{piece:?} twice");
            }
        }
    }

    #[test]
    fn a_pick_is_always_a_rarest_one_whatever_came_before() {
        const SEED: u64 = 3;
        println!("seed {SEED}");
        let geometry = geometry(50);
        let mut picker = Picker::new(&geometry);
        let mut rng = Rng::seeded(SEED);
        let mut has = Pieces::none(geometry);
        for _ in 0..5000 {
            let piece = geometry.piece(u32::try_from(rng.below(50)).unwrap()).unwrap();
            match rng.below(6) {
                0 => picker.set_pickable(piece, true),
                1 => picker.set_pickable(piece, false),
                2 | 3 => picker.gained(piece),
                4 => picker.lost(piece),
                _ if has.remove(piece) => {}
                _ => assert!(has.insert(piece)),
            }
            let candidates = has.iter().filter(|piece| picker.is_pickable(*piece));
            let rarest = candidates.map(|piece| picker.availability(piece)).min();
            let picked = picker.pick(&has, None, &mut rng);
            assert_eq!(picked.map(|piece| picker.availability(piece)), rarest);
            assert!(picked.is_none_or(|piece| picker.is_pickable(piece) && has.contains(piece)));
        }
    }
}
