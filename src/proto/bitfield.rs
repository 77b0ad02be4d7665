//! A set of pieces, with the bit order of the `bitfield` message (BEP 3): the first piece is the
//! highest bit of the first byte.
//!
//! **Invariant:** the spare bits of the last byte are zero, and `count` is the number of bits set.

use std::fmt;

use crate::proto::geometry::{Geometry, PieceIndex};

/// A set of the pieces of one [`Geometry`].
#[derive(Clone, PartialEq, Eq)]
pub struct Pieces {
    geometry: Geometry,
    bits: Box<[u8]>,
    count: u32,
}

/// Bytes that are no bitfield of the geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BitfieldError {
    /// Not one bit for each piece, rounded up to bytes.
    BadLength,
    /// A bit after the last piece's is set.
    SpareBits,
}

impl fmt::Display for BitfieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BitfieldError::BadLength => "the bitfield has the wrong length",
            BitfieldError::SpareBits => "the bitfield has spare bits set",
        })
    }
}

impl std::error::Error for BitfieldError {}

impl Pieces {
    /// No piece.
    #[must_use]
    pub fn none(geometry: Geometry) -> Pieces {
        let bytes = geometry.piece_count().div_ceil(8) as usize;
        Pieces { geometry, bits: vec![0; bytes].into_boxed_slice(), count: 0 }
    }

    /// All pieces.
    #[must_use]
    pub fn all(geometry: Geometry) -> Pieces {
        let mut pieces = Pieces::none(geometry);
        pieces.bits.fill(0xff);
        if let Some(last) = pieces.bits.last_mut() {
            *last &= !spare_mask(geometry.piece_count());
        }
        pieces.count = geometry.piece_count();
        pieces
    }

    /// Reads the payload of a `bitfield` message.
    ///
    /// # Errors
    /// If it has another length than [`Pieces::to_bytes`] gives, or a spare bit is set: BEP 3 has
    /// such a peer dropped.
    pub fn from_bytes(geometry: Geometry, bytes: &[u8]) -> Result<Pieces, BitfieldError> {
        if bytes.len() != geometry.piece_count().div_ceil(8) as usize {
            return Err(BitfieldError::BadLength);
        }
        if bytes.last().is_some_and(|last| last & spare_mask(geometry.piece_count()) != 0) {
            return Err(BitfieldError::SpareBits);
        }
        let count = bytes.iter().map(|byte| byte.count_ones()).sum();
        Ok(Pieces { geometry, bits: bytes.into(), count })
    }

    /// The payload of a `bitfield` message.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        self.bits.to_vec()
    }

    /// The geometry whose pieces these are.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// Adds `piece`; whether it is new. A piece of another geometry, beyond the last one, is not
    /// added.
    pub fn insert(&mut self, piece: PieceIndex) -> bool {
        let new = !self.contains(piece) && self.set(piece, true);
        self.count = self.count.saturating_add(u32::from(new));
        new
    }

    /// Takes `piece` out; whether it was in.
    pub fn remove(&mut self, piece: PieceIndex) -> bool {
        let was_in = self.contains(piece) && self.set(piece, false);
        self.count = self.count.saturating_sub(u32::from(was_in));
        was_in
    }

    /// Whether `piece` is in the set.
    #[must_use]
    pub fn contains(&self, piece: PieceIndex) -> bool {
        self.bits.get(piece.index() / 8).is_some_and(|byte| byte & bit_of(piece) != 0)
    }

    /// How many pieces are in the set.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether no piece is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether all pieces are in the set.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.count == self.geometry.piece_count()
    }

    /// The pieces in the set, in order.
    pub fn iter(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        self.pieces_where(|byte, _| byte)
    }

    /// The pieces that are not in the set, in order.
    pub fn missing(&self) -> impl Iterator<Item = PieceIndex> + '_ {
        // Spare bits come out set here; the geometry makes no piece of them.
        self.pieces_where(|byte, _| !byte)
    }

    /// The pieces that are in this set and not in `other`, in order.
    pub fn not_in<'a>(&'a self, other: &'a Pieces) -> impl Iterator<Item = PieceIndex> + 'a {
        self.pieces_where(|byte, at| byte & !other.bits.get(at).copied().unwrap_or(0))
    }

    /// The pieces whose bits `select` leaves set, given each byte and its place.
    fn pieces_where<'a>(
        &'a self,
        select: impl Fn(u8, usize) -> u8 + 'a,
    ) -> impl Iterator<Item = PieceIndex> + 'a {
        self.bits.iter().enumerate().flat_map(move |(at, byte)| {
            let selected = select(*byte, at);
            let first = u32::try_from(at).unwrap_or(u32::MAX).saturating_mul(8);
            (0..8u32)
                .filter(move |bit| selected & (0x80 >> bit) != 0)
                .filter_map(move |bit| self.geometry.piece(first.saturating_add(bit)))
        })
    }

    /// Whether there is such a bit, which is then `to`.
    fn set(&mut self, piece: PieceIndex, to: bool) -> bool {
        if self.geometry.piece(piece.get()).is_none() {
            return false;
        }
        let Some(byte) = self.bits.get_mut(piece.index() / 8) else { return false };
        if to {
            *byte |= bit_of(piece);
        } else {
            *byte &= !bit_of(piece);
        }
        true
    }
}

impl fmt::Debug for Pieces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} pieces", self.count, self.geometry.piece_count())
    }
}

fn bit_of(piece: PieceIndex) -> u8 {
    0x80 >> (piece.get() % 8)
}

/// The bits of the last byte that stand for no piece.
fn spare_mask(piece_count: u32) -> u8 {
    match piece_count % 8 {
        0 => 0,
        used => 0xff >> used,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    /// A geometry of `count` pieces.
    fn geometry(count: u32) -> Geometry {
        Geometry::new(u64::from(count) << 14, 1 << 14).unwrap()
    }

    #[test]
    fn first_piece_is_the_highest_bit() {
        let geometry = geometry(10);
        let mut pieces = Pieces::none(geometry);
        assert!(pieces.insert(geometry.piece(0).unwrap()));
        assert!(pieces.insert(geometry.piece(9).unwrap()));
        assert!(!pieces.insert(geometry.piece(9).unwrap()));
        assert_eq!(pieces.to_bytes(), [0b1000_0000, 0b0100_0000]);
        assert_eq!(pieces.count(), 2);
    }

    #[test]
    fn spare_bits_and_wrong_lengths_are_refused() {
        let ten = geometry(10);
        assert!(Pieces::from_bytes(ten, &[0xff, 0b1100_0000]).unwrap().is_full());
        for spare in 0..6 {
            let bytes = [0xff, 0b1100_0000 | 1 << spare];
            assert_eq!(Pieces::from_bytes(ten, &bytes), Err(BitfieldError::SpareBits));
        }
        for bytes in [&[][..], &[0], &[0, 0, 0]] {
            assert_eq!(Pieces::from_bytes(ten, bytes), Err(BitfieldError::BadLength));
        }
        assert!(Pieces::from_bytes(geometry(8), &[0xff]).unwrap().is_full());
    }

    #[test]
    fn all_is_what_inserting_each_makes() {
        for count in [1, 7, 8, 9, 64, 1001] {
            let geometry = geometry(count);
            let mut pieces = Pieces::none(geometry);
            assert!(pieces.is_empty());
            assert_eq!(pieces.missing().collect::<Vec<_>>(), geometry.pieces().collect::<Vec<_>>());
            geometry.pieces().for_each(|piece| assert!(pieces.insert(piece)));
            assert_eq!(pieces, Pieces::all(geometry));
            assert!(pieces.is_full());
            assert_eq!(pieces.missing().next(), None);
        }
    }

    #[test]
    fn behaves_like_a_set_of_numbers() {
        const SEED: u64 = 11;
        println!("seed {SEED}");
        let mut rng = Rng::seeded(SEED);
        let geometry = geometry(77);
        let (mut pieces, mut model) = (Pieces::none(geometry), std::collections::BTreeSet::new());
        let odd = geometry.pieces().filter(|piece| piece.get() % 2 == 1);
        let odd = odd.fold(Pieces::none(geometry), |mut odd, piece| {
            odd.insert(piece);
            odd
        });
        for _ in 0..2000 {
            let piece = geometry.piece(u32::try_from(rng.below(77)).unwrap()).unwrap();
            if rng.below(2) == 0 {
                assert_eq!(pieces.insert(piece), model.insert(piece));
            } else {
                assert_eq!(pieces.remove(piece), model.remove(&piece));
            }
            assert_eq!(pieces.count() as usize, model.len());
            assert_eq!(Pieces::from_bytes(geometry, &pieces.to_bytes()), Ok(pieces.clone()));
        }
        assert!(pieces.iter().eq(model.iter().copied()));
        let even: Vec<_> = model.iter().copied().filter(|piece| piece.get() % 2 == 0).collect();
        assert_eq!(pieces.not_in(&odd).collect::<Vec<_>>(), even);
    }

    #[test]
    fn a_piece_of_a_longer_blob_is_not_added() {
        let far = geometry(16).piece(12).unwrap();
        let mut pieces = Pieces::none(geometry(10));
        assert!(!pieces.insert(far));
        assert!(!pieces.contains(far));
        assert!(!pieces.remove(far));
    }
}
