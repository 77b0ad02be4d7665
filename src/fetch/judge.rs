//! What the files of a static delta must hash to, told while they come. It does no I/O but to ask
//! for the superblock.
//!
//! The superblock is judged by the name of the delta, and each part by the checksum that the
//! superblock has for it: the files in any order, the bytes of each in theirs.

use std::collections::BTreeMap;

use crate::base::hash::{Algorithm, ContentHasher};
use crate::fetch::room::Loaded;
use crate::limits::SUPERBLOCK_LEN_MAX;
use crate::proto::blob::{BlobName, Digest};
use crate::proto::ostree::delta::Superblock;
use crate::proto::ostree::layout::Layout;
use crate::store::StoreError;

/// Reads the superblock back, once its digest was found right.
pub(super) type ReadSuperblock<'a> = &'a dyn Fn() -> Result<Loaded, StoreError>;

/// Takes the bytes of one delta.
pub(super) struct Judge<'a> {
    layout: &'a Layout,
    superblock: ReadSuperblock<'a>,
    /// What the files must hash to: the superblock and, once that is right, the parts.
    digests: Vec<Digest>,
    /// The files that are to be judged, as far as that is known.
    open: BTreeMap<usize, Open>,
}

/// A file of which some was hashed.
struct Open {
    hasher: ContentHasher,
    at: u64,
}

impl<'a> Judge<'a> {
    /// A judge of the delta called `name`, whose files lie as `layout` says.
    pub(super) fn new(
        name: &BlobName,
        layout: &'a Layout,
        superblock: ReadSuperblock<'a>,
    ) -> Judge<'a> {
        let digests = vec![name.digest()];
        let mut judge = Judge { layout, superblock, digests, open: BTreeMap::new() };
        judge.begin_again(0);
        judge
    }

    /// Whether all files are right.
    pub(super) fn is_done(&self) -> bool {
        self.open.is_empty()
    }

    /// The files that are to be judged, as far as that is known.
    pub(super) fn open(&self) -> impl Iterator<Item = usize> {
        self.open.keys().copied()
    }

    /// Where the next byte of a file lies; `None`: it is not to be judged, or not yet.
    pub(super) fn at(&self, index: usize) -> Option<u64> {
        self.open.get(&index).map(|file| file.at)
    }

    /// Takes the next bytes of a file. At its end it says whether it is right, and the file is not
    /// to be judged any more.
    ///
    /// # Errors
    /// If the superblock cannot be read back.
    pub(super) fn update(
        &mut self,
        index: usize,
        bytes: &[u8],
    ) -> Result<Option<bool>, StoreError> {
        let Some(file) = self.open.get_mut(&index) else { return Ok(None) };
        file.hasher.update(bytes);
        file.at += bytes.len() as u64;
        if self.layout.span(index).is_none_or(|span| span.end() != file.at) {
            return Ok(None);
        }
        let hash = self.open.remove(&index).map(|file| file.hasher.finish());
        let is_right = hash.as_deref() == self.digests.get(index).map(Digest::value);
        Ok(Some(is_right && (index > 0 || self.open_parts()?)))
    }

    /// Begins a file anew: its bytes, which were wrong, come again.
    pub(super) fn begin_again(&mut self, index: usize) {
        if let Some(span) = self.layout.span(index) {
            let hasher = ContentHasher::new(Algorithm::Sha256);
            self.open.insert(index, Open { hasher, at: span.offset });
        }
    }

    /// Learns from the superblock what the parts must hash to. `false`: they do not lie as they
    /// should.
    fn open_parts(&mut self) -> Result<bool, StoreError> {
        if self.layout.lens().next().is_none_or(|len| len > SUPERBLOCK_LEN_MAX) {
            return Ok(false);
        }
        let Some(parts) = parts(&(self.superblock)()?, self.layout) else { return Ok(false) };
        self.digests.extend(parts);
        (1..self.layout.files()).for_each(|index| self.begin_again(index));
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
        let mut judge = Judge::new(&name, &layout, &superblock);
        let (start, end) = SUPERBLOCK.split_at(100);
        assert_eq!(judge.update(1, b"x").unwrap(), None, "no part before the superblock");
        assert_eq!(judge.update(0, start).unwrap(), None);
        assert_eq!(judge.update(0, end).unwrap(), Some(true));
        assert!(!judge.is_done());
        let rest = vec![0; usize::try_from(part.size).unwrap() - 1];
        for _ in 0..2 {
            assert_eq!(judge.update(1, b"x").unwrap(), None);
            assert_eq!(judge.update(1, &rest).unwrap(), Some(false));
            assert_eq!(judge.at(1), None);
            judge.begin_again(1);
            assert_eq!(judge.at(1), Some(len), "judged from its first byte on");
        }
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
            let mut judge = Judge::new(&name, &layout, &superblock);
            assert_eq!(judge.update(0, SUPERBLOCK).unwrap(), Some(false), "{lens:?}");
        }
    }
}
