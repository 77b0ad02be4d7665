//! Objects of a repository out of what a delta carries of them, in the form in which an archive
//! repository has them (libostree, `ostree-core.c`).
//!
//! **Invariant:** an object is made only if it has the checksum that it is named for.

use crate::base::hash::{Algorithm, ContentHasher, sha256};
use crate::proto::ostree::gvariant::offset_width;
use crate::proto::ostree::{Checksum, ObjectKind};

/// The bits of a mode that tell the kind of a file, and those of a regular one and of a link.
const KIND_OF_FILE: u32 = 0o170_000;
const REGULAR: u32 = 0o100_000;
const LINK: u32 = 0o120_000;

/// The most bytes that one block of deflate holds as they are (RFC 1951 section 3.2.4).
const STORED_LEN_MAX: usize = 0xffff;
/// Length of what stands before each: whether it is the last, and its length, twice.
const BLOCK_HEADER_LEN: usize = 5;

/// An object as a part carries it, not yet checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Object<'a> {
    /// What it is named for.
    pub checksum: Checksum,
    /// Its kind.
    pub kind: ObjectKind,
    /// Of a file: what is known of it beside its bytes.
    pub file: Option<FileHead<'a>>,
    /// The bytes of a regular file, the target of a link, or all of an object of metadata.
    pub bytes: &'a [u8],
}

/// What is known of a file beside its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileHead<'a> {
    /// Its owner, its group and its mode.
    pub numbers: [u32; 3],
    /// Its extended attributes, as they lie in the part: `a(ayay)`.
    pub xattrs: &'a [u8],
}

impl Object<'_> {
    /// Bytes of it that have to be hashed and written, about.
    #[must_use]
    pub fn cost(&self) -> usize {
        let head = self.file.map_or(0, |file| file.xattrs.len());
        self.bytes.len().saturating_add(head).saturating_add(64)
    }

    /// The file that an archive repository has of it, made in `room` if it does not lie in the part
    /// as it is. `None`: it has not the checksum that it is named for, or is no file that a
    /// repository holds.
    #[must_use]
    pub fn archived<'b>(&'b self, room: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        match &self.file {
            None => (sha256(self.bytes) == self.checksum.0).then_some(self.bytes),
            Some(head) => self.packed(head, room),
        }
    }

    /// A file: its length and its header, which is padded to be aligned, and its bytes.
    fn packed<'b>(&self, head: &FileHead<'_>, room: &'b mut Vec<u8>) -> Option<&'b [u8]> {
        let mode = head.numbers[2];
        let (target, content) = match mode & KIND_OF_FILE {
            REGULAR => (&[][..], Some(self.bytes)),
            LINK if !self.bytes.contains(&0) => (self.bytes, None),
            _ => return None,
        };
        let mut hasher = ContentHasher::new(Algorithm::Sha256);
        hasher.update(&header(None, head, target)?);
        hasher.update(content.unwrap_or_default());
        if hasher.finish() != self.checksum.0 {
            return None;
        }
        let len = content.map_or(0, <[u8]>::len);
        room.clear();
        room.extend_from_slice(&header(Some(len as u64), head, target)?);
        if let Some(content) = content {
            store(room, content);
        }
        Some(room)
    }
}

/// `(uuuusa(ayay))`, which the checksum is over, or with a length in front `(tuuuusa(ayay))`, which
/// the file begins with: owner, group, mode, device, target, attributes. Numbers are big endian.
/// Its length stands before it, and four zeros.
fn header(len: Option<u64>, head: &FileHead<'_>, target: &[u8]) -> Option<Vec<u8>> {
    let mut header = Vec::new();
    if let Some(len) = len {
        header.extend_from_slice(&len.to_be_bytes());
    }
    for number in head.numbers.into_iter().chain([0]) {
        header.extend_from_slice(&number.to_be_bytes());
    }
    header.extend_from_slice(target);
    header.push(0);
    let target_end = header.len() as u64;
    header.extend_from_slice(head.xattrs);
    // The narrowest offset with which the whole is as long as such an offset is for.
    let fits = |width: &usize| offset_width(header.len().saturating_add(*width)) == *width;
    let width = [1, 2, 4].into_iter().find(fits)?;
    header.extend_from_slice(target_end.to_le_bytes().get(..width)?);
    let total = u32::try_from(header.len()).ok()?;
    Some([&total.to_be_bytes(), &[0; 4][..], &header].concat())
}

/// Appends `content` as raw deflate that is not compressed: the reader is on this host.
fn store(out: &mut Vec<u8>, content: &[u8]) {
    let blocks = content.chunks(STORED_LEN_MAX).len().max(1);
    out.reserve(content.len().saturating_add(blocks.saturating_mul(BLOCK_HEADER_LEN)));
    let mut rest = content;
    loop {
        let (block, after) = rest.split_at(rest.len().min(STORED_LEN_MAX));
        let len = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(u8::from(after.is_empty()));
        out.extend_from_slice(&len.to_le_bytes());
        out.extend_from_slice(&(!len).to_le_bytes());
        out.extend_from_slice(block);
        rest = after;
        if rest.is_empty() {
            return;
        }
    }
}
