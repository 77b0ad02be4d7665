//! Hashes of pieces that one member tells another, in an extension message (BEP 10) of ours alone:
//! while nobody has the whole blob yet, nobody has its metainfo.
//!
//! The payload is the number of a piece, 4 bytes, and its SHA-1, as often as there are pieces to
//! tell of. Pieces come in no order, so they need not be in a row. What is told is not to be
//! believed: who stores the whole blob checks its digest.

use crate::base::hash::Sha1Hash;
use crate::limits::PEER_MESSAGE_LEN_MAX;

/// The name of the message in `m` of the extension handshake.
pub const MESSAGE_NAME: &str = "tc_hashes";

/// The most hashes in one message.
pub const HASHES_MAX: usize = 512;

/// Length in bytes of the number of a piece.
const NUMBER_LEN: usize = 4;
/// Length in bytes of that and a SHA-1.
const ENTRY_LEN: usize = NUMBER_LEN + 20;

// With the ids of extension messages and of this one in front.
const _: () = assert!(2 + HASHES_MAX * ENTRY_LEN <= PEER_MESSAGE_LEN_MAX as usize);

/// The hashes of some pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceHashes {
    /// The number of each piece, not checked against any geometry, and its hash: 1 to
    /// [`HASHES_MAX`], in any order. A piece may be there twice.
    pub hashes: Vec<(u32, Sha1Hash)>,
}

impl PieceHashes {
    /// Reads the payload of the extension message [`MESSAGE_NAME`]. `None` if it is cut, or has no
    /// hash or too many.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<PieceHashes> {
        let (entries, cut) = payload.as_chunks::<ENTRY_LEN>();
        if entries.is_empty() || entries.len() > HASHES_MAX || !cut.is_empty() {
            return None;
        }
        let entry = |[n0, n1, n2, n3, hash @ ..]: &[u8; ENTRY_LEN]| {
            (u32::from_be_bytes([*n0, *n1, *n2, *n3]), Sha1Hash(*hash))
        };
        Some(PieceHashes { hashes: entries.iter().map(entry).collect() })
    }

    /// Appends the payload to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!((1..=HASHES_MAX).contains(&self.hashes.len()));
        for (piece, hash) in &self.hashes {
            out.extend_from_slice(&piece.to_be_bytes());
            out.extend_from_slice(&hash.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of every third piece.
    fn hashes(first: u32, count: usize) -> PieceHashes {
        let numbers = (first..=u32::MAX).step_by(3).take(count);
        let entry = |number: u32| (number, Sha1Hash::of(&number.to_be_bytes()));
        PieceHashes { hashes: numbers.map(entry).collect() }
    }

    fn encoded(hashes: &PieceHashes) -> Vec<u8> {
        let mut out = Vec::new();
        hashes.encode(&mut out);
        out
    }

    #[test]
    fn round_trip_of_any_pieces_up_to_the_most_hashes() {
        for (first, count) in [(0, 1), (7, 2), (u32::MAX, 1), (1000, HASHES_MAX)] {
            let sent = hashes(first, count);
            let bytes = encoded(&sent);
            assert_eq!(bytes.len(), count * ENTRY_LEN);
            assert_eq!(PieceHashes::decode(&bytes), Some(sent));
        }
        let sent = PieceHashes { hashes: vec![(0x0102_0304, Sha1Hash([9; 20]))] };
        assert_eq!(encoded(&sent), [&[1, 2, 3, 4][..], &[9; 20]].concat());
    }

    #[test]
    fn what_is_cut_inside_an_entry_is_refused() {
        let bytes = encoded(&hashes(3, 4));
        for cut in 0..bytes.len() {
            let whole = cut > 0 && cut.is_multiple_of(ENTRY_LEN);
            let read = PieceHashes::decode(&bytes[..cut]);
            assert_eq!(read, whole.then(|| hashes(3, cut / ENTRY_LEN)), "cut at {cut}");
        }
        assert_eq!(PieceHashes::decode(&[&bytes[..], b"\0"].concat()), None);
    }

    #[test]
    fn no_hash_or_too_many_are_refused() {
        assert_eq!(PieceHashes::decode(&[]), None);
        let most = [0; HASHES_MAX * ENTRY_LEN];
        assert!(PieceHashes::decode(&most).is_some());
        assert_eq!(PieceHashes::decode(&[&most[..], &[0; ENTRY_LEN]].concat()), None);
    }
}
