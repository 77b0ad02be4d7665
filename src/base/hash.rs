//! The hashes that the protocols name: SHA-1 for pieces (BEP 3), SHA-256 and SHA-512 for blobs
//! (OCI).

use std::fmt;

use ring::digest;
use sha1::Digest as _;

/// A SHA-1 value: of a piece, or of an info dictionary (BEP 3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha1Hash(pub [u8; 20]);

impl Sha1Hash {
    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Sha1Hash {
        Sha1Hash(sha1::Sha1::digest(bytes).into())
    }

    /// Reads 40 hexadecimal digits of either case.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Sha1Hash> {
        from_hex(text.as_bytes()).map(Sha1Hash)
    }
}

impl fmt::Display for Sha1Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for Sha1Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

/// SHA-1 over bytes that come in parts.
#[derive(Clone, Default)]
pub struct Sha1(sha1::Sha1);

impl Sha1 {
    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all that was added; starts anew.
    pub fn finish(&mut self) -> Sha1Hash {
        Sha1Hash(self.0.finalize_reset().into())
    }
}

/// The algorithms that the OCI image specification registers for digests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// 32 bytes.
    Sha256,
    /// 64 bytes.
    Sha512,
}

impl Algorithm {
    /// Length of the value in bytes.
    #[must_use]
    pub const fn value_len(self) -> usize {
        match self {
            Algorithm::Sha256 => 32,
            Algorithm::Sha512 => 64,
        }
    }

    /// The name that stands before the colon of a digest.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
        }
    }
}

/// Hash over a blob's bytes that come in parts.
#[derive(Clone)]
pub struct ContentHasher(digest::Context);

impl ContentHasher {
    /// A hasher that has seen nothing yet.
    #[must_use]
    pub fn new(algorithm: Algorithm) -> ContentHasher {
        ContentHasher(digest::Context::new(match algorithm {
            Algorithm::Sha256 => &digest::SHA256,
            Algorithm::Sha512 => &digest::SHA512,
        }))
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The value: [`Algorithm::value_len`] bytes.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.0.finish().as_ref().to_vec()
    }
}

/// SHA-256 of `bytes`.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut value = [0; 32];
    value.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    value
}

/// Lower-case hexadecimal of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|half| DIGITS[usize::from(half)]);
    let text = bytes.iter().flat_map(digits).collect();
    String::from_utf8(text).expect("digits are ASCII")
}

/// Reads exactly `2 * N` hexadecimal digits of either case.
#[must_use]
pub fn from_hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != N * 2 {
        return None;
    }
    let mut value = [0; N];
    for (byte, digits) in value.iter_mut().zip(text.chunks_exact(2)) {
        let high = char::from(digits[0]).to_digit(16)?;
        let low = char::from(digits[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(value)
}

/// Writes `bytes` as lower-case hexadecimal digits.
///
/// # Errors
/// Those of the formatter.
pub fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    f.write_str(&hex(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(Sha1Hash::of(b"abc").to_string(), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(
            hex(&sha256(b"abc")),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let empty = ContentHasher::new(Algorithm::Sha512).finish();
        assert!(hex(&empty).starts_with("cf83e1357eefb8bd"));
    }

    #[test]
    fn parts_hash_like_the_whole() {
        let mut parts = Sha1::default();
        parts.update(b"a");
        parts.update(b"bc");
        assert_eq!(parts.finish(), Sha1Hash::of(b"abc"));
        assert_eq!(parts.finish(), Sha1Hash::of(b""), "finish starts anew");
    }

    #[test]
    fn hex_round_trip_and_refusals() {
        let hash = Sha1Hash::of(b"x");
        assert_eq!(Sha1Hash::from_hex(&hash.to_string()), Some(hash));
        assert_eq!(Sha1Hash::from_hex("00"), None);
        assert_eq!(from_hex::<1>(b"+1"), None);
        assert_eq!(from_hex::<1>("é".as_bytes()), None);
    }
}
