//! How a blob is cut into pieces. Indices are checked once, here: who holds a [`PieceIndex`] or a
//! [`Block`] made by a geometry may use it with that geometry without another check.

use std::fmt;

use crate::limits::{
    BLOB_LEN_MAX, PIECE_LEN_CHEAP, PIECE_LEN_MAX, PIECE_LEN_MIN, PIECE_LEN_USUAL_MAX,
    PIECES_CHEAP_MAX, PIECES_MAX, PIECES_USUAL_MAX,
};

/// Which piece. Only a [`Geometry`] makes one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PieceIndex(u32);

impl PieceIndex {
    /// The number, for the wire and for arrays of [`Geometry::piece_count`] elements.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The number, as an array index.
    #[must_use]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Debug for PieceIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "piece {}", self.0)
    }
}

/// A run of bytes of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// Its first byte.
    pub offset: u64,
    /// Its length in bytes.
    pub len: u64,
}

impl Span {
    /// The byte after its last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.len)
    }
}

/// A part of one piece. Only a [`Geometry`] makes one; it lies inside its piece and is not empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    piece: PieceIndex,
    begin: u32,
    len: u32,
}

impl Block {
    /// The piece that it is part of.
    #[must_use]
    pub fn piece(&self) -> PieceIndex {
        self.piece
    }

    /// Its first byte, counted from the piece's.
    #[must_use]
    pub fn begin(&self) -> u32 {
        self.begin
    }

    /// Its length in bytes, at least 1.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Never: an empty block is not made.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The byte after its last, counted from the piece's first.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.begin.saturating_add(self.len)
    }
}

/// The length of a blob and of its pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Geometry {
    blob_len: u64,
    piece_len: u32,
}

/// Lengths that make no geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GeometryError {
    /// The blob is empty, or longer than [`BLOB_LEN_MAX`].
    BlobLen,
    /// The piece length is no power of two from 16 KiB to [`PIECE_LEN_MAX`].
    PieceLen,
    /// More than [`PIECES_MAX`] pieces.
    TooManyPieces,
}

impl fmt::Display for GeometryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GeometryError::BlobLen => "the blob is empty or too long",
            GeometryError::PieceLen => "the piece length is no power of two in the allowed range",
            GeometryError::TooManyPieces => "too many pieces",
        })
    }
}

impl std::error::Error for GeometryError {}

impl Geometry {
    /// The geometry of our own metainfo, a function of the length alone. Pieces have the least
    /// power of two from [`PIECE_LEN_MIN`] on with which there are at most [`PIECES_CHEAP_MAX`];
    /// from [`PIECE_LEN_CHEAP`] on, with which there are at most [`PIECES_USUAL_MAX`]; and at most
    /// [`PIECE_LEN_USUAL_MAX`], unless that would make more than [`PIECES_MAX`].
    ///
    /// # Errors
    /// [`GeometryError::BlobLen`]. An empty blob needs no pieces and has no geometry.
    pub fn for_blob(blob_len: u64) -> Result<Geometry, GeometryError> {
        if blob_len == 0 || blob_len > BLOB_LEN_MAX {
            return Err(GeometryError::BlobLen);
        }
        let least = |pieces: u32| blob_len.div_ceil(u64::from(pieces)).next_power_of_two();
        let short = least(PIECES_CHEAP_MAX).clamp(PIECE_LEN_MIN.into(), PIECE_LEN_CHEAP.into());
        let usual = least(PIECES_USUAL_MAX).clamp(short, PIECE_LEN_USUAL_MAX.into());
        let piece_len = u32::try_from(usual.max(least(PIECES_MAX)));
        let piece_len = piece_len.map_err(|_| GeometryError::BlobLen)?;
        Geometry::new(blob_len, piece_len)
    }

    /// Any geometry within the bounds, as a foreign `.torrent` may have it.
    ///
    /// # Errors
    /// If a bound is broken.
    pub fn new(blob_len: u64, piece_len: u32) -> Result<Geometry, GeometryError> {
        if blob_len == 0 || blob_len > BLOB_LEN_MAX {
            return Err(GeometryError::BlobLen);
        }
        if !piece_len.is_power_of_two() || !(16 << 10..=PIECE_LEN_MAX).contains(&piece_len) {
            return Err(GeometryError::PieceLen);
        }
        if blob_len.div_ceil(u64::from(piece_len)) > u64::from(PIECES_MAX) {
            return Err(GeometryError::TooManyPieces);
        }
        Ok(Geometry { blob_len, piece_len })
    }

    /// Length of the blob in bytes, at least 1.
    #[must_use]
    pub fn blob_len(&self) -> u64 {
        self.blob_len
    }

    /// Length of every piece but the last, a power of two.
    #[must_use]
    pub fn piece_len(&self) -> u32 {
        self.piece_len
    }

    /// How many pieces there are, at least 1.
    #[must_use]
    pub fn piece_count(&self) -> u32 {
        let count = self.blob_len.div_ceil(u64::from(self.piece_len));
        u32::try_from(count).unwrap_or(PIECES_MAX)
    }

    /// The piece with this number, if there is one.
    #[must_use]
    pub fn piece(&self, number: u32) -> Option<PieceIndex> {
        (number < self.piece_count()).then_some(PieceIndex(number))
    }

    /// The piece that holds the byte at `offset`, if there is such a byte.
    #[must_use]
    pub fn piece_at(&self, offset: u64) -> Option<PieceIndex> {
        let number = offset >> self.piece_len.trailing_zeros();
        if offset < self.blob_len { u32::try_from(number).ok().map(PieceIndex) } else { None }
    }

    /// All pieces in order.
    pub fn pieces(
        &self,
    ) -> impl DoubleEndedIterator<Item = PieceIndex> + ExactSizeIterator + use<> {
        (0..self.piece_count()).map(PieceIndex)
    }

    /// `first` and all pieces after it, in order.
    pub fn pieces_from(&self, first: PieceIndex) -> impl Iterator<Item = PieceIndex> + use<> {
        (first.0..self.piece_count()).map(PieceIndex)
    }

    /// Where `piece` lies in the blob.
    #[must_use]
    pub fn span(&self, piece: PieceIndex) -> Span {
        let offset = u64::from(piece.0).saturating_mul(u64::from(self.piece_len));
        let rest = self.blob_len.saturating_sub(offset);
        Span { offset, len: rest.min(u64::from(self.piece_len)) }
    }

    /// Length of `piece` in bytes.
    #[must_use]
    pub fn len_of(&self, piece: PieceIndex) -> u32 {
        u32::try_from(self.span(piece).len).unwrap_or(self.piece_len)
    }

    /// The part of a piece that a message names, if it lies inside the piece and is not empty.
    #[must_use]
    pub fn block(&self, piece: u32, begin: u32, len: u32) -> Option<Block> {
        let piece = self.piece(piece)?;
        let end = begin.checked_add(len)?;
        (len > 0 && end <= self.len_of(piece)).then_some(Block { piece, begin, len })
    }

    /// The blocks of `piece`, each `block_len` bytes but the last, in order.
    ///
    /// # Panics
    /// If `block_len` is zero.
    pub fn blocks(&self, piece: PieceIndex, block_len: u32) -> impl Iterator<Item = Block> + use<> {
        let piece_len = self.len_of(piece);
        let step = usize::try_from(block_len).unwrap_or(usize::MAX);
        (0..piece_len).step_by(step).map(move |begin| {
            let len = piece_len.saturating_sub(begin).min(block_len);
            Block { piece, begin, len }
        })
    }

    /// Where `block` lies in the blob.
    #[must_use]
    pub fn block_span(&self, block: Block) -> Span {
        let offset = self.span(block.piece).offset.saturating_add(u64::from(block.begin));
        Span { offset, len: u64::from(block.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn piece_length_follows_from_the_length_alone() {
        for (blob_len, piece_len) in [
            (1, 64 << 10),
            (32 << 20, 64 << 10),
            ((32 << 20) + 1, 128 << 10),
            (64 << 20, 128 << 10),
            ((64 << 20) + 1, 256 << 10),
            (512 << 20, 256 << 10),
            ((512 << 20) + 1, 512 << 10),
            (1 << 30, 512 << 10),
            (8 << 30, 4 << 20),
            (128 << 30, 4 << 20),
            ((128 << 30) + 1, 8 << 20),
            (BLOB_LEN_MAX, PIECE_LEN_MAX),
        ] {
            let geometry = Geometry::for_blob(blob_len).unwrap();
            assert_eq!(geometry.piece_len(), piece_len, "{blob_len}");
            assert!(geometry.piece_count() <= PIECES_MAX);
        }
        assert_eq!(Geometry::for_blob(0), Err(GeometryError::BlobLen));
        assert_eq!(Geometry::for_blob(BLOB_LEN_MAX + 1), Err(GeometryError::BlobLen));
    }

    #[test]
    fn hostile_lengths_are_refused() {
        for piece_len in [0, 1, 3 << 14, 128 << 20, u32::MAX] {
            assert_eq!(Geometry::new(1 << 20, piece_len), Err(GeometryError::PieceLen));
        }
        assert_eq!(Geometry::new(u64::MAX, 1 << 20), Err(GeometryError::BlobLen));
        assert_eq!(Geometry::new(1 << 40, 1 << 14), Err(GeometryError::TooManyPieces));
    }

    #[test]
    fn pieces_tile_the_blob() {
        let geometry = Geometry::new((5 << 14) + 3, 2 << 14).unwrap();
        assert_eq!(geometry.piece_count(), 3);
        let mut at = 0;
        for piece in geometry.pieces() {
            let span = geometry.span(piece);
            assert_eq!(span.offset, at);
            assert_eq!(geometry.piece_at(span.offset), Some(piece));
            assert_eq!(geometry.piece_at(span.end() - 1), Some(piece));
            let blocks: u64 = geometry.blocks(piece, 1 << 14).map(|b| u64::from(b.len())).sum();
            assert_eq!(blocks, span.len);
            at = span.end();
        }
        assert_eq!(at, geometry.blob_len());
        assert_eq!(geometry.piece_at(at), None);
        assert_eq!(geometry.piece(3), None);
    }

    #[test]
    fn blocks_outside_their_piece_are_not_made() {
        let geometry = Geometry::new((2 << 14) + 5, 2 << 14).unwrap();
        assert!(geometry.block(0, 0, 2 << 14).is_some());
        assert!(geometry.block(1, 0, 5).is_some());
        for (piece, begin, len) in [(0, 0, 0), (0, 1, 2 << 14), (1, 0, 6), (2, 0, 1)] {
            assert_eq!(geometry.block(piece, begin, len), None);
        }
        assert_eq!(geometry.block(0, u32::MAX, 2), None);
    }
}
