//! Hashes of pieces that one member tells another, in an extension message (BEP 10) of ours alone:
//! while nobody has the whole blob yet, nobody has its metainfo.
//!
//! The payload is the number of the first piece, 4 bytes, and the SHA-1 of that piece and of those
//! after it. What is told is not to be believed: who stores the whole blob checks its digest.

use crate::base::hash::Sha1Hash;
use crate::limits::PEER_MESSAGE_LEN_MAX;

/// The name of the message in `m` of the extension handshake.
pub const MESSAGE_NAME: &str = "tc_hashes";

/// The most hashes in one message.
pub const HASHES_MAX: usize = 512;

/// Length in bytes of the number of the first piece.
const FIRST_LEN: usize = 4;
/// Length in bytes of a SHA-1.
const HASH_LEN: usize = 20;

// With the ids of extension messages and of this one in front.
const _: () = assert!(2 + FIRST_LEN + HASHES_MAX * HASH_LEN <= PEER_MESSAGE_LEN_MAX as usize);

/// The hashes of some pieces in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PieceHashes {
    /// The number of the first piece; not checked against any geometry.
    pub first: u32,
    /// Its hash and those of the pieces after it: 1 to [`HASHES_MAX`].
    pub hashes: Vec<Sha1Hash>,
}

impl PieceHashes {
    /// Reads the payload of the extension message [`MESSAGE_NAME`]. `None` if it is cut, has no
    /// hash or too many, or goes beyond the last number that a piece can have.
    #[must_use]
    pub fn decode(payload: &[u8]) -> Option<PieceHashes> {
        let (first, rest) = payload.split_first_chunk::<FIRST_LEN>()?;
        let first = u32::from_be_bytes(*first);
        let (hashes, cut) = rest.as_chunks::<HASH_LEN>();
        if hashes.is_empty() || hashes.len() > HASHES_MAX || !cut.is_empty() {
            return None;
        }
        first.checked_add(u32::try_from(hashes.len()).ok()?)?;
        Some(PieceHashes { first, hashes: hashes.iter().copied().map(Sha1Hash).collect() })
    }

    /// Appends the payload to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        debug_assert!((1..=HASHES_MAX).contains(&self.hashes.len()));
        out.extend_from_slice(&self.first.to_be_bytes());
        self.hashes.iter().for_each(|hash| out.extend_from_slice(&hash.0));
    }

    /// The number of each piece, and its hash.
    pub fn iter(&self) -> impl Iterator<Item = (u32, Sha1Hash)> + '_ {
        (self.first..).zip(self.hashes.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(first: u32, count: usize) -> PieceHashes {
        let hashes = (0..count).map(|n| Sha1Hash::of(&n.to_be_bytes())).collect();
        PieceHashes { first, hashes }
    }

    fn encoded(hashes: &PieceHashes) -> Vec<u8> {
        let mut out = Vec::new();
        hashes.encode(&mut out);
        out
    }

    #[test]
    fn round_trip_up_to_the_last_number_and_the_most_hashes() {
        let most = u32::try_from(HASHES_MAX).unwrap();
        for (first, count) in [(0, 1), (7, 2), (u32::MAX - 1, 1), (u32::MAX - most, HASHES_MAX)] {
            let sent = hashes(first, count);
            let bytes = encoded(&sent);
            assert_eq!(bytes.len(), FIRST_LEN + count * HASH_LEN);
            assert_eq!(PieceHashes::decode(&bytes), Some(sent));
        }
        let sent = PieceHashes { first: 0x0102_0304, hashes: vec![Sha1Hash([9; 20])] };
        assert_eq!(encoded(&sent), [&[1, 2, 3, 4][..], &[9; 20]].concat());
    }

    #[test]
    fn each_hash_has_the_number_of_its_piece() {
        let sent = hashes(5, 3);
        let numbers: Vec<_> = sent.iter().map(|(piece, _)| piece).collect();
        assert_eq!(numbers, [5, 6, 7]);
        assert!(sent.iter().map(|(_, hash)| hash).eq(sent.hashes.iter().copied()));
    }

    #[test]
    fn what_is_cut_inside_a_hash_is_refused() {
        let bytes = encoded(&hashes(3, 4));
        for cut in 0..bytes.len() {
            let whole = cut > FIRST_LEN && (cut - FIRST_LEN).is_multiple_of(HASH_LEN);
            let read = PieceHashes::decode(&bytes[..cut]);
            let expected = whole.then(|| hashes(3, (cut - FIRST_LEN) / HASH_LEN));
            assert_eq!(read, expected, "cut at {cut}");
        }
        assert_eq!(PieceHashes::decode(&[&bytes[..], b"\0"].concat()), None);
    }

    #[test]
    fn no_hash_too_many_or_a_number_too_high_are_refused() {
        assert_eq!(PieceHashes::decode(&[0; FIRST_LEN]), None);
        let most = [0; FIRST_LEN + HASHES_MAX * HASH_LEN];
        assert!(PieceHashes::decode(&most).is_some());
        assert_eq!(PieceHashes::decode(&[&most[..], &[0; HASH_LEN]].concat()), None);
        let beyond = [&(u32::MAX - 1).to_be_bytes()[..], &[0; 2 * HASH_LEN]].concat();
        assert_eq!(PieceHashes::decode(&beyond), None);
        assert!(PieceHashes::decode(&beyond[..FIRST_LEN + HASH_LEN]).is_some());
    }
}
