//! What the bytes of a blob must hash to, told while they come. It does no I/O but to ask for the
//! superblock.
//!
//! An ordinary blob has one digest, its name. A static delta is judged file by file: the superblock
//! by the name, each part by the checksum that the superblock has for it.

use crate::base::hash::{Algorithm, ContentHasher};
use crate::fetch::room::Loaded;
use crate::limits::SUPERBLOCK_LEN_MAX;
use crate::proto::blob::{BlobName, Digest};
use crate::proto::geometry::Span;
use crate::proto::ostree::delta::Superblock;
use crate::proto::ostree::layout::Layout;
use crate::store::StoreError;

/// The files of a delta: where they lie, and the superblock, which is asked for once its digest was
/// found right.
#[derive(Clone, Copy)]
pub(super) struct Files<'a> {
    /// Where they lie.
    pub(super) layout: &'a Layout,
    /// Reads the superblock back.
    pub(super) superblock: &'a dyn Fn() -> Result<Loaded, StoreError>,
}

/// Takes the bytes of one blob in order.
pub(super) struct Judge<'a> {
    /// What the bytes of the file at hand must hash to.
    digest: Digest,
    hasher: ContentHasher,
    at: u64,
    delta: Option<Delta<'a>>,
}

struct Delta<'a> {
    files: Files<'a>,
    /// The file at hand.
    index: usize,
    /// What the parts must hash to, once the superblock is right.
    parts: Vec<Digest>,
}

/// What a piece of the bytes has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing to tell yet.
    Same,
    /// All bytes up to this one are right.
    Proven(u64),
    /// They are not what the name promises: this file of a delta, unless they are of one file.
    Wrong(Span),
}

impl<'a> Judge<'a> {
    /// A judge of the blob called `name`; `files`: of a delta.
    pub(super) fn new(name: &BlobName, files: Option<Files<'a>>) -> Judge<'a> {
        let digest = name.digest();
        let delta = files.map(|files| Delta { files, index: 0, parts: Vec::new() });
        Judge { digest, hasher: ContentHasher::new(digest.algorithm()), at: 0, delta }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// If the superblock cannot be read back.
    pub(super) fn update(&mut self, mut bytes: &[u8]) -> Result<Progress, StoreError> {
        let mut progress = Progress::Same;
        while !bytes.is_empty() {
            let left = self.left_of_file();
            let len = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            let (part, rest) = bytes.split_at(len);
            self.hasher.update(part);
            self.at += len as u64;
            bytes = rest;
            if len as u64 == left {
                if !self.end_file()? {
                    return Ok(Progress::Wrong(self.file()));
                }
                progress = Progress::Proven(self.at);
            }
        }
        Ok(progress)
    }

    /// Whether all that came, and nothing else, is what the name promises. For a delta the last
    /// byte has said so already.
    pub(super) fn ends_right(self) -> bool {
        match self.delta {
            None => self.hasher.finish() == self.digest.value(),
            Some(delta) => delta.index == delta.files.layout.files(),
        }
    }

    /// Where the file at hand lies.
    fn file(&self) -> Span {
        let file = self.delta.as_ref().and_then(|delta| delta.files.layout.span(delta.index));
        file.unwrap_or(Span { offset: 0, len: self.at })
    }

    fn left_of_file(&self) -> u64 {
        let file = self.delta.as_ref().map(|delta| delta.files.layout.span(delta.index));
        match file {
            None => u64::MAX,
            Some(span) => span.map_or(u64::MAX, |span| span.end() - self.at),
        }
    }

    /// Judges the file at hand and turns to the next.
    fn end_file(&mut self) -> Result<bool, StoreError> {
        let next = ContentHasher::new(Algorithm::Sha256);
        let hasher = std::mem::replace(&mut self.hasher, next);
        let Some(delta) = &mut self.delta else { return Ok(true) };
        if hasher.finish() != self.digest.value() {
            return Ok(false);
        }
        if delta.index == 0 {
            if self.at > SUPERBLOCK_LEN_MAX {
                return Ok(false);
            }
            let superblock = (delta.files.superblock)()?;
            let Some(parts) = parts(&superblock, delta.files.layout) else { return Ok(false) };
            delta.parts = parts;
        }
        if let Some(digest) = delta.parts.get(delta.index) {
            self.digest = *digest;
        }
        delta.index += 1;
        Ok(true)
    }
}

/// The digests of a delta's parts; `None`: its files do not lie as `layout` says.
pub(super) fn parts(superblock: &[u8], layout: &Layout) -> Option<Vec<Digest>> {
    let decoded = Superblock::decode(superblock).ok()?;
    if decoded.layout(superblock.len() as u64)? != *layout {
        return None;
    }
    let files = decoded.parts.iter().filter(|part| !part.is_inline);
    Some(files.map(|part| Digest::Sha256(part.checksum.0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::hash::sha256;
    use crate::fetch::room::Room;
    use crate::proto::ostree::Checksum;

    fn content(bytes: &[u8]) -> BlobName {
        BlobName::Content(Digest::Sha256(sha256(bytes)))
    }

    #[test]
    fn a_blob_is_judged_at_its_end() {
        for (bytes, right) in [(&b"abc"[..], true), (b"abd", false), (b"ab", false)] {
            let mut judge = Judge::new(&content(b"abc"), None);
            for byte in bytes {
                assert_eq!(judge.update(&[*byte]).unwrap(), Progress::Same);
            }
            assert_eq!(judge.ends_right(), right, "{bytes:?}");
        }
    }

    /// A superblock that libostree wrote, of a delta with one part of 700,465 bytes.
    const SUPERBLOCK: &[u8] = include_bytes!("../../tests/vectors/ostree/update.superblock");

    fn superblock() -> Result<Loaded, StoreError> {
        Ok(Loaded::new(SUPERBLOCK.to_vec(), Room::new(0).share()))
    }

    #[test]
    fn a_delta_is_judged_file_by_file() {
        let name = BlobName::Delta(Checksum(sha256(SUPERBLOCK)));
        let len = SUPERBLOCK.len() as u64;
        let part = Superblock::decode(SUPERBLOCK).unwrap().parts[0];
        let layout = Layout::new([len, part.size]).unwrap();
        let files = Files { layout: &layout, superblock: &superblock };
        let mut judge = Judge::new(&name, Some(files));
        let mut update = |bytes: &[u8]| judge.update(bytes).unwrap();
        let (start, end) = SUPERBLOCK.split_at(100);
        assert_eq!(update(start), Progress::Same);
        assert_eq!(update(&[end, b"x"].concat()), Progress::Proven(len));
        let rest = vec![0; usize::try_from(part.size).unwrap() - 1];
        assert_eq!(update(&rest), Progress::Wrong(layout.span(1).unwrap()));
    }

    #[test]
    fn a_superblock_that_is_another_or_of_other_files_is_wrong() {
        let name = BlobName::Delta(Checksum(sha256(SUPERBLOCK)));
        let len = SUPERBLOCK.len() as u64;
        for (lens, name) in [
            (vec![len, 1], name),
            (vec![len], name),
            (vec![len, 700_465, 1], name),
            (vec![len, 700_465], BlobName::Delta(Checksum([7; 32]))),
        ] {
            let layout = Layout::new(lens.clone()).unwrap();
            let files = Files { layout: &layout, superblock: &superblock };
            let mut judge = Judge::new(&name, Some(files));
            let wrong = Progress::Wrong(layout.span(0).unwrap());
            assert_eq!(judge.update(SUPERBLOCK).unwrap(), wrong, "{lens:?}");
        }
    }
}
