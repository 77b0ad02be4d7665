//! Who brings a blob from upstream, as the catalog holds it: one line of text. Pure.
//!
//! Not here: whether a claim is believed. It is input from the network like any other.

use crate::base::hash::{Sha1Hash, from_hex, hex};
use crate::proto::geometry::Geometry;

/// Who brings a blob from upstream now, and the swarm in which it is shared meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// 20 random bytes: the early swarm, by which the tracker knows it.
    pub swarm: Sha1Hash,
    /// Bytes of the blob: at least 1, at most [`crate::limits::BLOB_LEN_MAX`].
    pub blob_len: u64,
    /// Who wrote the claim: a random number.
    pub holder: u64,
}

impl Claim {
    /// The value in etcd: the swarm in hexadecimal, the length in decimal, the holder in
    /// hexadecimal.
    #[must_use]
    pub fn encode(&self) -> String {
        format!("{} {} {}", self.swarm, self.blob_len, hex(&self.holder.to_be_bytes()))
    }

    /// Reads a value. `None` if it is anything but what [`Claim::encode`] writes of a blob that can
    /// be: each claim has one form, so that etcd can compare.
    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Claim> {
        let text = std::str::from_utf8(value).ok()?;
        let (swarm, rest) = text.split_once(' ')?;
        let (blob_len, holder) = rest.split_once(' ')?;
        let claim = Claim {
            swarm: Sha1Hash::from_hex(swarm)?,
            blob_len: blob_len.parse().ok()?,
            holder: from_hex(holder.as_bytes()).map(u64::from_be_bytes)?,
        };
        let can_be = Geometry::for_blob(claim.blob_len).is_ok();
        (can_be && claim.encode() == text).then_some(claim)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use crate::limits::BLOB_LEN_MAX;

    fn claim(rng: &mut Rng) -> Claim {
        let mut swarm = [0; 20];
        rng.fill(&mut swarm);
        let blob_len = 1 + rng.below(BLOB_LEN_MAX);
        Claim { swarm: Sha1Hash(swarm), blob_len, holder: rng.next_u64() }
    }

    #[test]
    fn a_claim_is_read_as_it_was_written() {
        let known = Claim { swarm: Sha1Hash([0xab; 20]), blob_len: 1, holder: 0x1f };
        assert_eq!(known.encode(), format!("{} 1 000000000000001f", "ab".repeat(20)));
        let largest = Claim { blob_len: BLOB_LEN_MAX, holder: u64::MAX, ..known };
        let mut rng = Rng::seeded(41);
        for claim in [known, largest].into_iter().chain((0..1000).map(|_| claim(&mut rng))) {
            assert_eq!(Claim::decode(claim.encode().as_bytes()), Some(claim));
        }
    }

    #[test]
    fn what_is_no_claim_is_refused() {
        let swarm = "ab".repeat(20);
        let holder = "000000000000001f";
        for text in [
            String::new(),
            format!("{swarm} 0 {holder}"),
            format!("{swarm} {} {holder}", BLOB_LEN_MAX + 1),
            format!("{swarm} 18446744073709551616 {holder}"),
            format!("{swarm} 01 {holder}"),
            format!("{swarm} +1 {holder}"),
            format!("{swarm} -1 {holder}"),
            format!("{swarm}  1 {holder}"),
            format!(" {swarm} 1 {holder}"),
            format!("{swarm} 1 {holder} "),
            format!("{swarm} 1 {holder}\n"),
            format!("{swarm} 1 {holder}0"),
            format!("{swarm} 1 {}", &holder[1..]),
            format!("{swarm} 1 {holder} {holder}"),
            format!("{swarm}\t1\t{holder}"),
            format!("{} 1 {holder}", swarm.to_uppercase()),
            format!("{swarm} 1 {}", holder.to_uppercase()),
            format!("{swarm}ab 1 {holder}"),
            format!("{} 1 {holder}", "ag".repeat(20)),
        ] {
            assert_eq!(Claim::decode(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(Claim::decode(&[0xff; 60]), None);
    }

    #[test]
    fn a_claim_that_is_cut_is_refused() {
        let whole = claim(&mut Rng::seeded(42)).encode();
        for end in 0..whole.len() {
            assert_eq!(Claim::decode(&whole.as_bytes()[..end]), None, "{}", &whole[..end]);
        }
    }

    #[test]
    fn no_value_panics_and_each_claim_has_one_form() {
        let seed = 43;
        println!("seed {seed}");
        let mut rng = Rng::seeded(seed);
        for _ in 0..20_000 {
            let mut value = claim(&mut rng).encode().into_bytes();
            for _ in 0..=rng.index(3) {
                let at = rng.index(value.len());
                let bytes = [b' ', b'0', b'f', b'F', 0xff, rng.next_u64().to_be_bytes()[0]];
                let byte = bytes[rng.index(bytes.len())];
                match rng.index(3) {
                    0 => value[at] = byte,
                    1 => value.insert(at, byte),
                    _ => drop(value.remove(at)),
                }
            }
            if let Some(claim) = Claim::decode(&value) {
                assert_eq!(claim.encode().into_bytes(), value);
            }
        }
    }
}
