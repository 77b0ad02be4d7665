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

    /// One of the rarest pickable pieces of those in `has`, at random. `counted`: whether `has` is
    /// counted in the availability, so that pieces which nobody counted has need not be looked at.
    pub(super) fn pick(&self, has: &Pieces, counted: bool, rng: &mut Rng) -> Option<PieceIndex> {
        let levels = self.levels.iter().skip(usize::from(counted));
        levels.filter(|level| !level.is_empty()).find_map(|level| {
            let (before, after) = level.split_at(rng.index(level.len()));
            after.iter().chain(before).copied().find(|piece| has.contains(*piece))
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
        assert_eq!(picker.pick(&has, false, &mut rng), None);
        for number in [7, 5, 6] {
            has.insert(piece(number));
        }
        assert_eq!(picker.pick(&has, false, &mut rng), Some(piece(5)));
        picker.set_pickable(piece(5), false);
        assert_eq!(picker.pick(&has, false, &mut rng), Some(piece(6)));
        picker.lost(piece(7));
        picker.lost(piece(7));
        assert_eq!(picker.pick(&has, false, &mut rng), Some(piece(7)));
    }

    #[test]
    fn ties_are_broken_at_random() {
        let geometry = geometry(100);
        let picker = pickable(&geometry);
        let mut rng = Rng::seeded(2);
        let all = Pieces::all(geometry);
        let picked: BTreeSet<_> =
            (0..1000).filter_map(|_| picker.pick(&all, false, &mut rng)).collect();
        assert!(picked.len() > 95, "{} of 100", picked.len());
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
            let picked = picker.pick(&has, false, &mut rng);
            assert_eq!(picked.map(|piece| picker.availability(piece)), rarest);
            assert!(picked.is_none_or(|piece| picker.is_pickable(piece) && has.contains(piece)));
        }
    }
}
