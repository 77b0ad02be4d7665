//! The names of blobs. A name is parsed once, here; nothing else makes a path or a key from input.

use std::fmt;

use crate::base::hash::{Algorithm, from_hex, hex};
use crate::proto::ostree::Checksum;

/// A digest as the OCI image specification writes it: `sha256:<64 hex>` or `sha512:<128 hex>`,
/// lower case only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-512.
    Sha512([u8; 64]),
}

/// The name of a blob: what a request, the catalog and the store call it.
///
/// A static delta of OSTree is one blob, its superblock and then its parts. It is named for its
/// superblock alone, which holds the checksum of every part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlobName {
    /// A blob with this digest.
    Content(Digest),
    /// A static delta whose superblock has this SHA-256.
    Delta(Checksum),
}

/// What stands in place of an algorithm in the name of a delta.
const OSTREE: &str = "ostree";

/// Text that names no blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NameError {
    /// No `algorithm:` in front.
    NoAlgorithm,
    /// An algorithm that is not registered.
    UnknownAlgorithm,
    /// Not the algorithm's number of lower-case hexadecimal digits.
    BadValue,
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NameError::NoAlgorithm => "a digest has the form algorithm:hex",
            NameError::UnknownAlgorithm => "the digest's algorithm is neither sha256 nor sha512",
            NameError::BadValue => "the digest has not the right number of lower-case hex digits",
        })
    }
}

impl std::error::Error for NameError {}

impl Digest {
    /// Reads a digest.
    ///
    /// # Errors
    /// If `text` is anything but one registered algorithm, a colon, and its lower-case digits.
    pub fn parse(text: &str) -> Result<Digest, NameError> {
        let (algorithm, value) = text.split_once(':').ok_or(NameError::NoAlgorithm)?;
        if value.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(NameError::BadValue);
        }
        let parsed = match algorithm {
            "sha256" => from_hex(value.as_bytes()).map(Digest::Sha256),
            "sha512" => from_hex(value.as_bytes()).map(Digest::Sha512),
            _ => return Err(NameError::UnknownAlgorithm),
        };
        parsed.ok_or(NameError::BadValue)
    }

    /// Which algorithm it is of.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// The value: [`Algorithm::value_len`] bytes.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        match self {
            Digest::Sha256(value) => value,
            Digest::Sha512(value) => value,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm().as_str(), hex(self.value()))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl BlobName {
    /// Reads the text form, which [`fmt::Display`] writes: a digest, or `ostree:<64 hex>`.
    ///
    /// # Errors
    /// As [`Digest::parse`].
    pub fn parse(text: &str) -> Result<BlobName, NameError> {
        let superblock = text.strip_prefix(OSTREE).and_then(|rest| rest.strip_prefix(':'));
        match superblock {
            Some(hex) => Checksum::from_hex(hex).map(BlobName::Delta).ok_or(NameError::BadValue),
            None => Digest::parse(text).map(BlobName::Content),
        }
    }

    /// The digest that its first bytes must have: all of them, or the superblock of a delta.
    #[must_use]
    pub fn digest(&self) -> Digest {
        match self {
            BlobName::Content(digest) => *digest,
            BlobName::Delta(superblock) => Digest::Sha256(superblock.0),
        }
    }

    /// A file name for the blob: only `[a-z0-9-]`, of bounded length, one to one with the name.
    #[must_use]
    pub fn file_stem(&self) -> String {
        format!("{}-{}", self.kind(), hex(self.digest().value()))
    }

    /// The inverse of [`BlobName::file_stem`].
    ///
    /// # Errors
    /// As [`Digest::parse`].
    pub fn from_file_stem(stem: &str) -> Result<BlobName, NameError> {
        let (kind, value) = stem.split_once('-').ok_or(NameError::NoAlgorithm)?;
        BlobName::parse(&format!("{kind}:{value}"))
    }

    /// The first digits, for log lines.
    #[must_use]
    pub fn short(&self) -> String {
        hex(self.digest().value().get(..6).unwrap_or_default())
    }

    fn kind(&self) -> &'static str {
        match self {
            BlobName::Content(digest) => digest.algorithm().as_str(),
            BlobName::Delta(_) => OSTREE,
        }
    }
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind(), hex(self.digest().value()))
    }
}

impl fmt::Debug for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_file_stem_round_trip() {
        let (short, long) = ("0a".repeat(32), "f1".repeat(64));
        for text in [format!("sha256:{short}"), format!("sha512:{long}"), format!("ostree:{short}")]
        {
            let name = BlobName::parse(&text).unwrap();
            assert_eq!(name.to_string(), text);
            assert_eq!(BlobName::from_file_stem(&name.file_stem()), Ok(name));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        let digits = "0a".repeat(32);
        for (text, why) in [
            (digits.clone(), NameError::NoAlgorithm),
            (format!("md5:{digits}"), NameError::UnknownAlgorithm),
            (format!("sha512:{digits}"), NameError::BadValue),
            (format!("ostree:{digits}0"), NameError::BadValue),
            (format!("ostree:{}", digits.to_uppercase()), NameError::BadValue),
            (format!("ostree2:{digits}"), NameError::UnknownAlgorithm),
            (format!("sha256:{}", digits.to_uppercase()), NameError::BadValue),
            (format!("sha256:{digits}0"), NameError::BadValue),
            (format!("sha256:../{}", &digits[3..]), NameError::BadValue),
            (format!("sha256:{digits}/"), NameError::BadValue),
            (String::new(), NameError::NoAlgorithm),
        ] {
            assert_eq!(BlobName::parse(&text), Err(why), "{text}");
        }
    }
}
