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
pub mod http1;
pub mod metainfo;
pub mod oci;
pub mod peer;
pub mod tracker_http;
pub mod tracker_udp;
