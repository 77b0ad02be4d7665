//! Floor 1: bytes to values and back. No sockets, clocks or files.
//!
//! Codecs have the shape `decode(&[u8]) -> Result<Option<(Self, used)>, Error>` (`None`: more bytes
//! are needed) and `encode(&self, &mut Vec<u8>)`.
//!
//! **Invariant:** no input may panic or recurse without bound; the lints below deny the usual ways.

#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::unwrap_used,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation
    )
)]

pub mod base64;
pub mod bencode;
pub mod bitfield;
pub mod blob;
pub mod etcd;
pub mod ext;
pub mod geometry;
pub mod hashes;
pub mod http1;
pub mod metainfo;
pub mod oci;
pub mod ostree;
pub mod peer;
pub mod tracker;
pub mod tracker_http;
pub mod tracker_udp;

/// Text that a stranger sent, made fit for a log line: no control characters, at most `chars_max`
/// characters.
fn printable(bytes: &[u8], chars_max: usize) -> String {
    // Cut before it is converted: the work is bounded too. No character is longer than 4 bytes.
    let bytes = bytes.get(..chars_max.saturating_mul(4)).unwrap_or(bytes);
    let text = String::from_utf8_lossy(bytes);
    text.chars().filter(|c| !c.is_control()).take(chars_max).collect()
}
