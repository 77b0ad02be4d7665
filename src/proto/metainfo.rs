//! The `.torrent` of a blob (BEP 3 v1), a function of the blob's bytes alone: two hosts that fetched the
//! same blob on their own make the same info-hash, and so one swarm.
//!
//! Ours holds `length`, `name`, `piece length`, `pieces` and `private`, and nothing else. A foreign one
//! may hold more: it is kept as it came, because the info-hash covers it.
//!
//! **Invariant:** `info` is a canonical bencoded dictionary of a single file whose `pieces` fit its
//! geometry. Torrents of several files are not read.

use std::fmt;

use crate::base::hash::Sha1Hash;
use crate::limits::TORRENT_LEN_MAX;
use crate::proto::bencode::{self, BencodeError, Dict};
use crate::proto::blob::BlobName;
use crate::proto::geometry::{Geometry, GeometryError, PieceIndex};

/// Length of a SHA-1 value.
const HASH_LEN: usize = 20;
/// The longest name of a foreign torrent; ours are 71 or 135 bytes.
const NAME_LEN_MAX: usize = 255;

/// The metainfo of one blob.
#[derive(Clone, PartialEq, Eq)]
pub struct Metainfo {
    /// The info dictionary as it was read or made; the info-hash is of these bytes.
    info: Box<[u8]>,
    /// Where in `info` the piece hashes begin.
    hashes_at: usize,
    name: Box<str>,
    geometry: Geometry,
    info_hash: Sha1Hash,
}

/// Bytes that are no metainfo within the bounds, or parts that make none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetainfoError {
    /// Longer than [`TORRENT_LEN_MAX`].
    TooLong,
    /// Not canonical bencode.
    Bencode(BencodeError),
    /// A key is missing, or its value has the wrong type.
    BadKey(&'static str),
    /// It describes several files.
    SeveralFiles,
    /// It is BEP 52 (v2) only, without the piece hashes of BEP 3.
    VersionTwoOnly,
    /// The lengths are out of bounds.
    Geometry(GeometryError),
    /// Not one hash for each piece.
    HashCount,
}

impl fmt::Display for MetainfoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MetainfoError::TooLong => f.write_str("the metainfo is too long"),
            MetainfoError::Bencode(error) => error.fmt(f),
            MetainfoError::BadKey(key) => write!(f, "the metainfo has no proper {key:?}"),
            MetainfoError::SeveralFiles => f.write_str("the metainfo is of several files"),
            MetainfoError::VersionTwoOnly => f.write_str("the metainfo is BEP 52 only"),
            MetainfoError::Geometry(error) => error.fmt(f),
            MetainfoError::HashCount => f.write_str("the metainfo has not one hash for each piece"),
        }
    }
}

impl std::error::Error for MetainfoError {}

impl From<BencodeError> for MetainfoError {
    fn from(error: BencodeError) -> MetainfoError {
        MetainfoError::Bencode(error)
    }
}

impl From<GeometryError> for MetainfoError {
    fn from(error: GeometryError) -> MetainfoError {
        MetainfoError::Geometry(error)
    }
}

impl Metainfo {
    /// Our metainfo of the blob that is called `name`, is `blob_len` bytes long, and whose pieces by
    /// [`Geometry::for_blob`] have these hashes.
    ///
    /// # Errors
    /// If the blob is empty or too long, or there is not one hash for each piece.
    pub fn of_blob(
        name: &BlobName,
        blob_len: u64,
        piece_hashes: Vec<Sha1Hash>,
    ) -> Result<Metainfo, MetainfoError> {
        let geometry = Geometry::for_blob(blob_len)?;
        if piece_hashes.len() != geometry.piece_count() as usize {
            return Err(MetainfoError::HashCount);
        }
        let hashes: Vec<u8> = piece_hashes.iter().flat_map(|hash| hash.0).collect();
        Metainfo::of_info(&canonical_info(name, &geometry, &hashes))
    }

    /// Reads a `.torrent`: any of a single file within the bounds, ours or not. What it says beside
    /// `info` is ignored.
    ///
    /// # Errors
    /// If it is not that.
    pub fn decode(input: &[u8]) -> Result<Metainfo, MetainfoError> {
        if input.len() > TORRENT_LEN_MAX {
            return Err(MetainfoError::TooLong);
        }
        let outer = bencode::decode(input)?;
        let outer = outer.as_dict().ok_or(MetainfoError::BadKey("info"))?;
        Metainfo::of_dict(outer.dict(b"info").ok_or(MetainfoError::BadKey("info"))?)
    }

    /// Reads the info dictionary alone, as BEP 9 passes it from peer to peer.
    ///
    /// # Errors
    /// As [`Metainfo::decode`].
    pub fn of_info(info: &[u8]) -> Result<Metainfo, MetainfoError> {
        if info.len() > TORRENT_LEN_MAX {
            return Err(MetainfoError::TooLong);
        }
        let value = bencode::decode(info)?;
        Metainfo::of_dict(value.as_dict().ok_or(MetainfoError::BadKey("info"))?)
    }

    fn of_dict(info: &Dict<'_>) -> Result<Metainfo, MetainfoError> {
        if info.get(b"files").is_some() {
            return Err(MetainfoError::SeveralFiles);
        }
        if info.get(b"pieces").is_none() && info.get(b"meta version").is_some() {
            return Err(MetainfoError::VersionTwoOnly);
        }
        let name = info
            .bytes(b"name")
            .filter(|name| name.len() <= NAME_LEN_MAX)
            .and_then(|name| str::from_utf8(name).ok())
            .ok_or(MetainfoError::BadKey("name"))?;
        let blob_len = number(info, "length")?;
        let piece_len = number(info, "piece length")?;
        let geometry = Geometry::new(blob_len, piece_len)?;
        let hashes = info.bytes(b"pieces").ok_or(MetainfoError::BadKey("pieces"))?;
        if hashes.len() != (geometry.piece_count() as usize).saturating_mul(HASH_LEN) {
            return Err(MetainfoError::HashCount);
        }
        let raw = info.raw();
        Ok(Metainfo {
            info: raw.into(),
            hashes_at: hashes.as_ptr().addr().saturating_sub(raw.as_ptr().addr()),
            name: name.into(),
            geometry,
            info_hash: Sha1Hash::of(raw),
        })
    }

    /// The `.torrent`: a dictionary of nothing but `info`, which is as it was read or made.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [b"d4:info", &*self.info, b"e"].concat()
    }

    /// Whether this is what [`Metainfo::of_blob`] makes of the blob called `name`.
    #[must_use]
    pub fn is_of(&self, name: &BlobName) -> bool {
        Geometry::for_blob(self.geometry.blob_len()) == Ok(self.geometry)
            && *self.info == *canonical_info(name, &self.geometry, self.hashes())
    }

    /// The name as the metainfo has it; for people to read.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How the blob is cut into pieces.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The hash that `piece` must have.
    ///
    /// # Panics
    /// If `piece` was made by a longer geometry than this one's.
    #[must_use]
    pub fn piece_hash(&self, piece: PieceIndex) -> Sha1Hash {
        let (hashes, _) = self.hashes().as_chunks::<HASH_LEN>();
        Sha1Hash(*hashes.get(piece.index()).expect("the piece is of this geometry"))
    }

    /// The SHA-1 of the info dictionary, which names the swarm.
    #[must_use]
    pub fn info_hash(&self) -> Sha1Hash {
        self.info_hash
    }

    fn hashes(&self) -> &[u8] {
        let len = (self.geometry.piece_count() as usize).saturating_mul(HASH_LEN);
        let hashes = self.info.get(self.hashes_at..self.hashes_at.saturating_add(len));
        hashes.expect("found inside info when it was read")
    }
}

impl fmt::Debug for Metainfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "metainfo {} of {:?}, {:?}", self.info_hash, self.name, self.geometry)
    }
}

/// The info dictionary that we make; `hashes` are the piece hashes one after the other.
fn canonical_info(name: &BlobName, geometry: &Geometry, hashes: &[u8]) -> Vec<u8> {
    let length = i64::try_from(geometry.blob_len()).expect("BLOB_LEN_MAX is below i64::MAX");
    let mut info = Vec::with_capacity(hashes.len().saturating_add(256));
    bencode::put_dict(&mut info, |info| {
        info.int(b"length", length);
        info.bytes(b"name", name.file_stem().as_bytes());
        info.int(b"piece length", i64::from(geometry.piece_len()));
        info.bytes(b"pieces", hashes);
        info.int(b"private", 1);
    });
    info
}

/// The number under `key`.
fn number<N: TryFrom<i64>>(info: &Dict<'_>, key: &'static str) -> Result<N, MetainfoError> {
    let number = info.int(key.as_bytes()).ok_or(MetainfoError::BadKey(key))?;
    N::try_from(number).map_err(|_| MetainfoError::BadKey(key))
}
