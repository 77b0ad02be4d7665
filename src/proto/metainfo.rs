//! The `.torrent` of a blob (BEP 3 v1), a function of the blob's bytes alone: two hosts that
//! fetched the same blob on their own make the same info-hash, and so one swarm.
//!
//! Ours holds `length`, `name`, `piece length`, `pieces` and `private`, and nothing else; that of a
//! static delta `files` in place of `length`. A foreign one may hold more: it is kept as it came,
//! because the info-hash covers it.
//!
//! **Invariant:** `info` is a canonical bencoded dictionary of a single file, or of the files of a
//! delta, whose `pieces` fit its geometry. Other torrents of several files are not read.

use std::fmt;

use crate::base::hash::Sha1Hash;
use crate::limits::{DELTA_PARTS_MAX, TORRENT_LEN_MAX};
use crate::proto::bencode::{self, BencodeError, Dict, VALUES_MAX, Value};
use crate::proto::blob::BlobName;
use crate::proto::geometry::{Geometry, GeometryError, PieceIndex};
use crate::proto::ostree::layout::{Layout, file_name};

/// Length of a SHA-1 value.
const HASH_LEN: usize = 20;
/// A file of a delta is a dictionary, a length and a path of one name; keys do not count.
const VALUES_OF_FILE: usize = 4;
const _: () = assert!((DELTA_PARTS_MAX + 2) * VALUES_OF_FILE + 16 < VALUES_MAX);
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
    /// Of a static delta: its files.
    layout: Option<Layout>,
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
    /// It describes several files, and not those of a static delta.
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
    /// Our metainfo of the blob that is called `name`, is `blob_len` bytes long, and whose pieces
    /// by [`Geometry::for_blob`] have these hashes.
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
        Metainfo::of_info(&canonical_info(name, &geometry, None, &hashes))
    }

    /// Our metainfo of the static delta that is called `name` and whose files lie as `layout` says:
    /// a torrent of several files. Pieces are those of the whole, as for any blob.
    ///
    /// # Errors
    /// As [`Metainfo::of_blob`].
    pub fn of_delta(
        name: &BlobName,
        layout: &Layout,
        piece_hashes: Vec<Sha1Hash>,
    ) -> Result<Metainfo, MetainfoError> {
        let geometry = Geometry::for_blob(layout.len())?;
        if piece_hashes.len() != geometry.piece_count() as usize {
            return Err(MetainfoError::HashCount);
        }
        let hashes: Vec<u8> = piece_hashes.iter().flat_map(|hash| hash.0).collect();
        Metainfo::of_info(&canonical_info(name, &geometry, Some(layout), &hashes))
    }

    /// Reads a `.torrent`: any of a single file within the bounds, ours or not, or of a static
    /// delta. What it says beside `info` is ignored.
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
        let layout = match info.get(b"files") {
            None => None,
            Some(files) => Some(layout_of(files).ok_or(MetainfoError::SeveralFiles)?),
        };
        if info.get(b"pieces").is_none() && info.get(b"meta version").is_some() {
            return Err(MetainfoError::VersionTwoOnly);
        }
        let name = info
            .bytes(b"name")
            .filter(|name| name.len() <= NAME_LEN_MAX)
            .and_then(|name| str::from_utf8(name).ok())
            .ok_or(MetainfoError::BadKey("name"))?;
        let blob_len = match &layout {
            Some(_) if info.get(b"length").is_some() => return Err(MetainfoError::SeveralFiles),
            Some(layout) => layout.len(),
            None => number(info, "length")?,
        };
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
            layout,
            info_hash: Sha1Hash::of(raw),
        })
    }

    /// The `.torrent`: a dictionary of nothing but `info`, which is as it was read or made.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [b"d4:info", &*self.info, b"e"].concat()
    }

    /// Whether this is what [`Metainfo::of_blob`] or [`Metainfo::of_delta`] makes of the blob
    /// called `name`, but for the length of the pieces: what was kept or published when the rule
    /// for that was another is shared as well.
    #[must_use]
    pub fn is_of(&self, name: &BlobName) -> bool {
        let layout = self.layout.as_ref();
        layout.is_some() == matches!(name, BlobName::Delta(_))
            && *self.info == *canonical_info(name, &self.geometry, layout, self.hashes())
    }

    /// The files of a static delta; `None`: it is of a single file.
    #[must_use]
    pub fn layout(&self) -> Option<&Layout> {
        self.layout.as_ref()
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
fn canonical_info(
    name: &BlobName,
    geometry: &Geometry,
    layout: Option<&Layout>,
    hashes: &[u8],
) -> Vec<u8> {
    let length = |len| i64::try_from(len).expect("BLOB_LEN_MAX is below i64::MAX");
    let mut info = Vec::with_capacity(hashes.len().saturating_add(256));
    bencode::put_dict(&mut info, |info| {
        match layout {
            None => info.int(b"length", length(geometry.blob_len())),
            Some(layout) => {
                let files: Vec<(usize, u64)> = layout.lens().enumerate().collect();
                info.list(b"files", &files, |(index, len), out| {
                    bencode::put_dict(out, |file| {
                        file.int(b"length", length(*len));
                        file.list(b"path", &[file_name(*index)], |name, out| {
                            bencode::put_bytes(out, name.as_bytes());
                        });
                    });
                });
            }
        }
        info.bytes(b"name", name.file_stem().as_bytes());
        info.int(b"piece length", i64::from(geometry.piece_len()));
        info.bytes(b"pieces", hashes);
        info.int(b"private", 1);
    });
    info
}

/// The files of a static delta; `None`: they are others.
fn layout_of(files: &Value<'_>) -> Option<Layout> {
    let mut lens = Vec::new();
    for (index, file) in files.as_list()?.iter().enumerate() {
        let file = file.as_dict()?;
        let [name] = file.get(b"path")?.as_list()? else { return None };
        if name.as_bytes()? != file_name(index).as_bytes() {
            return None;
        }
        lens.push(u64::try_from(file.int(b"length")?).ok()?);
    }
    Layout::new(lens)
}

/// The number under `key`.
fn number<N: TryFrom<i64>>(info: &Dict<'_>, key: &'static str) -> Result<N, MetainfoError> {
    let number = info.int(key.as_bytes()).ok_or(MetainfoError::BadKey(key))?;
    N::try_from(number).map_err(|_| MetainfoError::BadKey(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{BLOB_LEN_MAX, PIECES_MAX};

    fn blob_name() -> BlobName {
        BlobName::parse(&format!("sha256:{}", "5a".repeat(32))).unwrap()
    }

    fn hashes(count: u32) -> Vec<Sha1Hash> {
        (0..count).map(|number| Sha1Hash::of(&number.to_be_bytes())).collect()
    }

    /// A `.torrent` with these pairs in its info dictionary.
    fn torrent(pairs: &str) -> Vec<u8> {
        format!("d8:announce3:url4:infod{pairs}ee").into_bytes()
    }

    const GOOD: &str = "6:lengthi5e4:name1:a12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn equal_bytes_make_equal_metainfo() {
        let make = || Metainfo::of_blob(&blob_name(), 600_000, hashes(10)).unwrap();
        assert_eq!(make(), make());
        assert_eq!(make().encode(), make().encode());
        let text = make().encode();
        let begin = b"d4:infod6:lengthi600000e4:name71:sha256-5a5a";
        assert!(text.starts_with(begin), "{}", text.escape_ascii());
        assert!(text.ends_with(b"7:privatei1eee"));
        let mut other = hashes(10);
        other.swap(0, 1);
        let other = Metainfo::of_blob(&blob_name(), 600_000, other).unwrap();
        assert_ne!(other.info_hash(), make().info_hash());
    }

    #[test]
    fn what_is_encoded_is_read_back() {
        for (blob_len, count) in [(1, 1), (600_000, 10), (BLOB_LEN_MAX, PIECES_MAX)] {
            let made = Metainfo::of_blob(&blob_name(), blob_len, hashes(count)).unwrap();
            let text = made.encode();
            assert!(text.len() <= TORRENT_LEN_MAX);
            let read = Metainfo::decode(&text).unwrap();
            assert_eq!(read, made);
            assert!(read.is_of(&blob_name()));
            let last = read.geometry().pieces().next_back().unwrap();
            assert_eq!(read.piece_hash(last), *hashes(count).last().unwrap());
        }
    }

    #[test]
    fn a_delta_is_a_torrent_of_its_files() {
        let name = BlobName::parse(&format!("ostree:{}", "5a".repeat(32))).unwrap();
        let layout = Layout::new([500, 300_000, 7]).unwrap();
        let made = Metainfo::of_delta(&name, &layout, hashes(5)).unwrap();
        let text = made.encode();
        let begin: &[u8] = b"d4:infod5:filesld6:lengthi500e4:pathl10:superblockee\
            d6:lengthi300000e4:pathl1:0eed6:lengthi7e4:pathl1:1eee4:name71:ostree-5a5a";
        assert!(text.starts_with(begin), "{}", text.escape_ascii());
        let read = Metainfo::decode(&text).unwrap();
        assert_eq!((read.layout(), read.geometry().blob_len()), (Some(&layout), 300_507));
        assert!(read == made && read.is_of(&name) && !read.is_of(&blob_name()));
        let single = Metainfo::of_blob(&name, 300_507, hashes(5)).unwrap();
        assert!(!single.is_of(&name), "a delta is never one file");
        let longest = Layout::new(vec![1 << 20; DELTA_PARTS_MAX + 1]).unwrap();
        let count = Geometry::for_blob(longest.len()).unwrap().piece_count();
        let longest = Metainfo::of_delta(&name, &longest, hashes(count)).unwrap();
        assert!(longest.encode().len() <= TORRENT_LEN_MAX);
        assert_eq!(Metainfo::decode(&longest.encode()), Ok(longest));
    }

    #[test]
    fn other_torrents_of_several_files_are_refused() {
        let with = |files: &str| {
            let rest = "4:name1:a12:piece lengthi16384e6:pieces20:aaaaaaaaaaaaaaaaaaaa";
            Metainfo::decode(&torrent(&format!("5:files{files}{rest}")))
        };
        let superblock = "d6:lengthi5e4:pathl10:superblockee";
        assert!(with(&format!("l{superblock}e")).is_ok());
        for files in [
            "le".to_owned(),
            "i1e".to_owned(),
            format!("l{superblock}{superblock}e"),
            format!("l{superblock}d6:lengthi5e4:pathl1:1eee"),
            format!("l{superblock}d6:lengthi0e4:pathl1:0eee"),
            format!("l{superblock}d6:lengthi-5e4:pathl1:0eee"),
            format!("l{superblock}d6:lengthi5e4:pathl1:01:0eee"),
            "ld6:lengthi5e4:pathl1:0eee".to_owned(),
        ] {
            assert_eq!(with(&files), Err(MetainfoError::SeveralFiles), "{files}");
        }
        let both = with(&format!("l{superblock}e6:lengthi5e"));
        assert_eq!(both, Err(MetainfoError::SeveralFiles));
    }

    #[test]
    fn hashes_must_fit_the_length() {
        let make = |blob_len, count| Metainfo::of_blob(&blob_name(), blob_len, hashes(count));
        assert_eq!(make(150_000, 2), Err(MetainfoError::HashCount));
        assert_eq!(make(150_000, 4), Err(MetainfoError::HashCount));
        assert_eq!(make(0, 0), Err(MetainfoError::Geometry(GeometryError::BlobLen)));
    }

    #[test]
    fn a_key_more_in_info_makes_another_swarm() {
        let plain = Metainfo::decode(&torrent(GOOD)).unwrap();
        let more = Metainfo::decode(&torrent(&format!("{GOOD}6:source1:x"))).unwrap();
        assert_ne!(plain.info_hash(), more.info_hash());
        assert_eq!(Metainfo::decode(&more.encode()), Ok(more.clone()), "nothing of info is lost");
        let outside = Metainfo::decode(&[b"d4:infod", GOOD.as_bytes(), b"ee"].concat()).unwrap();
        assert_eq!(outside, plain, "what stands outside of info does not count");
    }

    #[test]
    fn only_our_form_is_of_the_blob() {
        let ours = Metainfo::of_blob(&blob_name(), 150_000, hashes(3)).unwrap();
        let other = BlobName::parse(&format!("sha256:{}", "5b".repeat(32))).unwrap();
        assert!(!ours.is_of(&other));
        let changed = |from: &[u8], to: &[u8]| {
            let bytes = ours.encode();
            let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
            let bytes = [&bytes[..at], to, &bytes[at + from.len()..]].concat();
            Metainfo::decode(&bytes).unwrap()
        };
        assert!(!changed(b"7:privatei1e", b"7:privatei0e").is_of(&blob_name()));
        assert!(!changed(b"7:privatei1e", b"").is_of(&blob_name()));
        assert!(!changed(b"7:privatei1e", b"7:privatei1e6:source1:x").is_of(&blob_name()));
        assert!(changed(b"d4:info", b"d3:abc0:4:info").is_of(&blob_name()));
        let longer = Geometry::new(600_000, 256 << 10).unwrap();
        let longer = Metainfo::of_info(&canonical_info(&blob_name(), &longer, None, &[7; 60]));
        assert!(longer.unwrap().is_of(&blob_name()), "of a version that had longer pieces");
    }

    #[test]
    fn everything_else_is_refused() {
        let with = |from: &str, to: &str| Metainfo::decode(&torrent(&GOOD.replace(from, to)));
        assert!(with("", "").is_ok());
        assert_eq!(with("lengthi5e", "lengthi-5e"), Err(MetainfoError::BadKey("length")));
        assert_eq!(with("6:lengthi5e", ""), Err(MetainfoError::BadKey("length")));
        let not_text = [b"d4:infod", GOOD.as_bytes(), b"ee"].concat();
        let at = not_text.windows(3).position(|window| window == b"1:a").unwrap();
        let not_text = [&not_text[..at], b"1:\xff", &not_text[at + 3..]].concat();
        assert_eq!(Metainfo::decode(&not_text), Err(MetainfoError::BadKey("name")));
        let geometry = |error| Err(MetainfoError::Geometry(error));
        assert_eq!(with("lengthi5e", "lengthi0e"), geometry(GeometryError::BlobLen));
        assert_eq!(with("i16384e", "i16385e"), geometry(GeometryError::PieceLen));
        assert_eq!(with("i16384e", "i0e"), geometry(GeometryError::PieceLen));
        assert_eq!(with("lengthi5e", "lengthi16385e"), Err(MetainfoError::HashCount));
        assert_eq!(with("6:lengthi5e", "5:filesle"), Err(MetainfoError::SeveralFiles));
        let long_name = format!("name300:{}", "a".repeat(300));
        assert_eq!(with("name1:a", &long_name), Err(MetainfoError::BadKey("name")));
        assert_eq!(Metainfo::decode(b"i5e"), Err(MetainfoError::BadKey("info")));
        assert_eq!(Metainfo::decode(b"de"), Err(MetainfoError::BadKey("info")));
        let too_long = vec![b'0'; TORRENT_LEN_MAX + 1];
        assert_eq!(Metainfo::decode(&too_long), Err(MetainfoError::TooLong));
    }
}
