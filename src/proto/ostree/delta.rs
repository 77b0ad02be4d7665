//! What the metadata of static deltas says: which superblocks a repository vouches for, and which
//! parts a superblock lists (libostree, `ostree-repo-static-delta-private.h`).

use std::fmt;

use crate::base::hash::sha256;
use crate::limits::{BLOB_LEN_MAX, DELTA_PARTS_MAX, DELTAS_LISTED_MAX};
use crate::proto::ostree::gvariant::{Array, Malformed, Tuple, dictionary, look_up};
use crate::proto::ostree::layout::Layout;
use crate::proto::ostree::{Checksum, DeltaId};

/// What a signed superblock begins with (`OSTREE_STATIC_DELTA_SIGNED_MAGIC`).
const SIGNED_MAGIC: &[u8; 8] = b"OSTSGNDT";
/// Length of an object's name in a part's list: its kind and its checksum.
const OBJECT_LEN: usize = 33;

/// One part of a static delta, as its superblock lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The SHA-256 of the part's file.
    pub checksum: Checksum,
    /// The file's length in bytes, at least 1.
    pub size: u64,
    /// Whether the superblock itself carries the part: then there is no file.
    pub is_inline: bool,
}

/// A superblock, as far as it says what belongs to the delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superblock {
    /// Where the delta leads from and to.
    pub id: DeltaId,
    /// The parts, in the order of their numbers.
    pub parts: Vec<Part>,
}

/// Bytes that are no metadata of a static delta within the bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeltaError {
    /// Not of the type that it should be.
    Malformed,
    /// The commit inside is not the one that the delta leads to.
    Commit,
    /// More than [`DELTA_PARTS_MAX`] parts.
    TooManyParts,
    /// A part is empty, or all together are longer than [`BLOB_LEN_MAX`].
    PartSize,
    /// More than [`DELTAS_LISTED_MAX`] deltas are listed.
    TooManyDeltas,
}

impl fmt::Display for DeltaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DeltaError::Malformed => "the metadata of the delta is malformed",
            DeltaError::Commit => "the delta holds another commit than it is named for",
            DeltaError::TooManyParts => "the delta has too many parts",
            DeltaError::PartSize => "the delta has a part of no size, or is too long",
            DeltaError::TooManyDeltas => "too many deltas are listed",
        })
    }
}

impl std::error::Error for DeltaError {}

impl From<Malformed> for DeltaError {
    fn from(_: Malformed) -> DeltaError {
        DeltaError::Malformed
    }
}

impl Superblock {
    /// Reads the file `superblock`, signed or not. Signatures are the receiver's to check.
    ///
    /// # Errors
    /// If it is not that, or breaks a bound.
    pub fn decode(input: &[u8]) -> Result<Superblock, DeltaError> {
        let bytes = if input.starts_with(SIGNED_MAGIC) { unsigned(input)? } else { input };
        // (a{sv} t ay ay (a{sv}aya(say)sstayay) ay a(uayttay) a(yaytt))
        let mut fields = Tuple::new(bytes, 6)?;
        let metadata = fields.framed(8)?;
        let _timestamp: [u8; 8] = fields.fixed()?;
        let from = optional_checksum(fields.framed(1)?)?;
        let to = checksum(fields.framed(1)?)?;
        let commit = fields.framed(8)?;
        let _parents = fields.framed(1)?;
        let entries = fields.framed(8)?;
        let _fallbacks = fields.last(8)?;
        if sha256(commit) != to.0 {
            return Err(DeltaError::Commit);
        }
        let id = DeltaId { from, to };
        Ok(Superblock { id, parts: parts(entries, metadata, &id)? })
    }

    /// The files of the delta whose superblock this is, `len` bytes long. `None`: some parts are
    /// files and others are not, which no version of libostree makes.
    #[must_use]
    pub fn layout(&self, len: u64) -> Option<Layout> {
        let inline = self.parts.iter().filter(|part| part.is_inline).count();
        if inline == self.parts.len() {
            return Layout::new([len]);
        }
        let lens = [len].into_iter().chain(self.parts.iter().map(|part| part.size));
        Layout::new(lens).filter(|_| inline == 0)
    }
}

/// The superblock inside a signed one: `(t ay a{sv})`, in the middle.
fn unsigned(input: &[u8]) -> Result<&[u8], Malformed> {
    let mut fields = Tuple::new(input, 1)?;
    let _magic: [u8; 8] = fields.fixed()?;
    fields.framed(1)
}

fn parts(entries: &[u8], metadata: &[u8], id: &DeltaId) -> Result<Vec<Part>, DeltaError> {
    let is_big_endian = look_up(metadata, "ostree.endianness", "y")? == Some(b"B");
    let inline = inline_parts(metadata, id)?;
    let entries = Array::new(entries, 8)?;
    if entries.len() > DELTA_PARTS_MAX {
        return Err(DeltaError::TooManyParts);
    }
    let mut parts = Vec::with_capacity(entries.len());
    let mut total: u64 = 0;
    for (number, entry) in entries.enumerate() {
        // (u ay t t ay)
        let mut entry = Tuple::new(entry?, 1)?;
        let _version: [u8; 4] = entry.fixed()?;
        let checksum = checksum(entry.framed(1)?)?;
        let size: [u8; 8] = entry.fixed()?;
        let _uncompressed: [u8; 8] = entry.fixed()?;
        if !entry.last(1)?.len().is_multiple_of(OBJECT_LEN) {
            return Err(DeltaError::Malformed);
        }
        let size = if is_big_endian { u64::from_be_bytes(size) } else { u64::from_le_bytes(size) };
        total = total.checked_add(size).ok_or(DeltaError::PartSize)?;
        if size == 0 || total > BLOB_LEN_MAX {
            return Err(DeltaError::PartSize);
        }
        let is_inline = inline.binary_search(&number).is_ok();
        parts.push(Part { checksum, size, is_inline });
    }
    Ok(parts)
}

/// The numbers of the parts that the metadata carries under their paths, sorted.
fn inline_parts(metadata: &[u8], id: &DeltaId) -> Result<Vec<usize>, DeltaError> {
    let dir = id.dir();
    let mut numbers = Vec::new();
    for pair in dictionary(metadata)? {
        let (key, value) = pair?;
        let number = key.strip_prefix(&dir).and_then(|rest| rest.strip_prefix('/'));
        if let Some(number) = number.and_then(|number| number.parse().ok())
            && value.signature == b"(yay)"
        {
            if numbers.len() == DELTA_PARTS_MAX {
                return Err(DeltaError::TooManyParts);
            }
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads a file `….index`: the deltas that lead to one commit, each with the SHA-256 of its
/// superblock.
///
/// # Errors
/// If it is not that, or breaks a bound.
pub fn listed_in_index(input: &[u8]) -> Result<Vec<(DeltaId, Checksum)>, DeltaError> {
    listed(input)
}

/// Reads a file `summary`: the deltas of the whole repository, likewise. A repository that has an
/// index for each commit may list none.
///
/// # Errors
/// If it is not that, or breaks a bound.
pub fn listed_in_summary(input: &[u8]) -> Result<Vec<(DeltaId, Checksum)>, DeltaError> {
    // (a(s(taya{sv})) a{sv})
    let mut fields = Tuple::new(input, 1)?;
    let _refs = fields.framed(8)?;
    listed(fields.last(8)?)
}

/// The pairs of `ostree.static-deltas`.
fn listed(metadata: &[u8]) -> Result<Vec<(DeltaId, Checksum)>, DeltaError> {
    let Some(deltas) = look_up(metadata, "ostree.static-deltas", "a{sv}")? else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for pair in dictionary(deltas)? {
        let (key, value) = pair?;
        let id = DeltaId::from_key(key).filter(|_| value.signature == b"ay");
        if found.len() == DELTAS_LISTED_MAX {
            return Err(DeltaError::TooManyDeltas);
        }
        found.push((id.ok_or(DeltaError::Malformed)?, checksum(value.bytes)?));
    }
    Ok(found)
}

fn checksum(bytes: &[u8]) -> Result<Checksum, Malformed> {
    bytes.try_into().map(Checksum).map_err(|_| Malformed)
}

fn optional_checksum(bytes: &[u8]) -> Result<Option<Checksum>, Malformed> {
    if bytes.is_empty() { Ok(None) } else { checksum(bytes).map(Some) }
}
