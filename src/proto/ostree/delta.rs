//! What the metadata of static deltas says: which superblocks a repository vouches for, and which
//! parts a superblock lists (libostree, `ostree-repo-static-delta-private.h`).

use std::fmt;

use crate::base::hash::sha256;
use crate::limits::{BLOB_LEN_MAX, DELTA_PARTS_MAX, DELTAS_LISTED_MAX};
use crate::proto::ostree::gvariant::{Array, Malformed, Tuple, dictionary, look_up};
use crate::proto::ostree::layout::Layout;
use crate::proto::ostree::{Checksum, DeltaId, ObjectKind};

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
        let fields = Fields::of(input)?;
        let parts = fields.parts()?.into_iter().map(|(part, _)| part).collect();
        Ok(Superblock { id: fields.id, parts })
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

/// What the superblock says, as it lies there.
struct Fields<'a> {
    metadata: &'a [u8],
    id: DeltaId,
    commit: &'a [u8],
    entries: &'a [u8],
}

impl<'a> Fields<'a> {
    fn of(input: &'a [u8]) -> Result<Fields<'a>, DeltaError> {
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
        Ok(Fields { metadata, id: DeltaId { from, to }, commit, entries })
    }

    /// The parts, and what each holds.
    fn parts(&self) -> Result<Vec<(Part, Contents<'a>)>, DeltaError> {
        let is_big_endian = look_up(self.metadata, "ostree.endianness", "y")? == Some(b"B");
        let number_of = |bytes| {
            if is_big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) }
        };
        let inline = inline_parts(self.metadata, &self.id)?;
        let entries = Array::new(self.entries, 8)?;
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
            let size = number_of(entry.fixed()?);
            let _objects_len: [u8; 8] = entry.fixed()?;
            let objects = entry.last(1)?;
            if !objects.len().is_multiple_of(OBJECT_LEN) {
                return Err(DeltaError::Malformed);
            }
            total = total.checked_add(size).ok_or(DeltaError::PartSize)?;
            if size == 0 || total > BLOB_LEN_MAX {
                return Err(DeltaError::PartSize);
            }
            let found = inline.binary_search_by_key(&number, |(number, _)| *number).ok();
            let inline = found.and_then(|at| inline.get(at)).map(|(_, bytes)| *bytes);
            let part = Part { checksum, size, is_inline: inline.is_some() };
            parts.push((part, Contents { objects, inline }));
        }
        Ok(parts)
    }
}

/// What one part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Contents<'a> {
    /// [`OBJECT_LEN`] bytes for each object, in the order in which the part makes them.
    objects: &'a [u8],
    /// The bytes of the part, if the superblock carries them: they are as a file's would be.
    pub inline: Option<&'a [u8]>,
}

impl Contents<'_> {
    /// How many objects there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len() / OBJECT_LEN
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The object that the part makes after `index` others; `None`: it makes no more, or one of no
    /// kind that is known.
    #[must_use]
    pub fn object(&self, index: usize) -> Option<(Checksum, ObjectKind)> {
        let at = index.checked_mul(OBJECT_LEN)?;
        let (kind, name) = self.objects.get(at..at.checked_add(OBJECT_LEN)?)?.split_first()?;
        // `OstreeObjectType`, of what a part may hold.
        let kind = match kind {
            1 => ObjectKind::FileZ,
            2 => ObjectKind::DirTree,
            3 => ObjectKind::DirMeta,
            4 => ObjectKind::Commit,
            _ => return None,
        };
        Some((checksum(name).ok()?, kind))
    }
}

/// What the parts hold of the delta whose superblock `input` is, in the order of their numbers.
///
/// # Errors
/// As [`Superblock::decode`].
pub fn contents(input: &[u8]) -> Result<Vec<Contents<'_>>, DeltaError> {
    Ok(Fields::of(input)?.parts()?.into_iter().map(|(_, contents)| contents).collect())
}

/// The root directory of the commit that the delta leads to, and the number of the part that makes
/// it; `None`: none does.
#[must_use]
pub fn root(input: &[u8]) -> Option<(Checksum, usize)> {
    let fields = Fields::of(input).ok()?;
    let root = root_of(fields.commit).ok()?;
    let makes_it = |contents: &Contents<'_>| {
        let mut objects = (0..contents.len()).filter_map(|index| contents.object(index));
        objects.any(|object| object == (root, ObjectKind::DirTree))
    };
    let parts = fields.parts().ok()?;
    let number = parts.iter().position(|(_, contents)| makes_it(contents))?;
    Some((root, number))
}

/// The root directory of a commit.
fn root_of(commit: &[u8]) -> Result<Checksum, Malformed> {
    // (a{sv} ay a(say) s s t ay ay)
    let mut fields = Tuple::new(commit, 6)?;
    let _metadata = fields.framed(8)?;
    let _parent = fields.framed(1)?;
    let _related = fields.framed(1)?;
    let _subject = fields.framed(1)?;
    let _body = fields.framed(1)?;
    let _timestamp: [u8; 8] = fields.fixed()?;
    checksum(fields.framed(1)?)
}

/// The parts that the metadata carries under their paths, by number, sorted.
fn inline_parts<'a>(
    metadata: &'a [u8],
    id: &DeltaId,
) -> Result<Vec<(usize, &'a [u8])>, DeltaError> {
    let dir = id.dir();
    let mut parts = Vec::new();
    for pair in dictionary(metadata)? {
        let (key, value) = pair?;
        let number = key.strip_prefix(&dir).and_then(|rest| rest.strip_prefix('/'));
        if let Some(number) = number.and_then(|number| number.parse().ok())
            && value.signature == b"(yay)"
        {
            if parts.len() == DELTA_PARTS_MAX {
                return Err(DeltaError::TooManyParts);
            }
            parts.push((number, value.bytes));
        }
    }
    parts.sort_unstable_by_key(|(number, _)| *number);
    Ok(parts)
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
