//! Where the files of a static delta lie in the one byte string that the store keeps: the
//! superblock first, then the parts in the order of their numbers.

use crate::limits::{BLOB_LEN_MAX, DELTA_PARTS_MAX};
use crate::proto::geometry::Span;

/// The files of a delta: their lengths, and so their places. The first is the superblock.
///
/// **Invariant:** there is a first file, none is empty, and together they are no longer than
/// [`BLOB_LEN_MAX`].
#[derive(Clone, PartialEq, Eq)]
pub struct Layout {
    /// The byte after the last of each file.
    ends: Box<[u64]>,
}

impl Layout {
    /// The layout of files of these lengths in bytes; `None` if they break a bound.
    #[must_use]
    pub fn new(lens: impl IntoIterator<Item = u64>) -> Option<Layout> {
        let mut ends = Vec::new();
        let mut end: u64 = 0;
        for len in lens {
            end = end.checked_add(len).filter(|end| len > 0 && *end <= BLOB_LEN_MAX)?;
            if ends.len() > DELTA_PARTS_MAX {
                return None;
            }
            ends.push(end);
        }
        (!ends.is_empty()).then(|| Layout { ends: ends.into() })
    }

    /// Length of the whole in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Never: there is a superblock.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// How many files there are, the superblock among them.
    #[must_use]
    pub fn files(&self) -> usize {
        self.ends.len()
    }

    /// Where the `index`-th file lies; the superblock is 0, part N is N + 1.
    #[must_use]
    pub fn span(&self, index: usize) -> Option<Span> {
        let end = *self.ends.get(index)?;
        let offset =
            index.checked_sub(1).and_then(|before| self.ends.get(before)).map_or(0, |end| *end);
        Some(Span { offset, len: end.saturating_sub(offset) })
    }

    /// Where part `number` lies; `None`: the delta has no file of that number.
    #[must_use]
    pub fn part(&self, number: u32) -> Option<Span> {
        self.span(usize::try_from(number).ok()?.checked_add(1)?)
    }

    /// The file in which the byte at `offset` lies; `None`: it is beyond the last.
    #[must_use]
    pub fn file_at(&self, offset: u64) -> Option<usize> {
        Some(self.ends.partition_point(|end| *end <= offset))
            .filter(|index| *index < self.ends.len())
    }

    /// The lengths of the files, in order.
    pub fn lens(&self) -> impl Iterator<Item = u64> {
        (0..self.files()).filter_map(|index| self.span(index)).map(|span| span.len)
    }
}

impl std::fmt::Debug for Layout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} files of {} bytes", self.files(), self.len())
    }
}

/// What the `index`-th file of a delta is called.
#[must_use]
pub fn file_name(index: usize) -> String {
    index.checked_sub(1).map_or_else(|| "superblock".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_one_behind_the_other() {
        let layout = Layout::new([5, 10, 1]).unwrap();
        assert_eq!((layout.files(), layout.len()), (3, 16));
        assert_eq!(layout.span(0), Some(Span { offset: 0, len: 5 }));
        assert_eq!(layout.part(0), Some(Span { offset: 5, len: 10 }));
        assert_eq!(layout.part(1), Some(Span { offset: 15, len: 1 }));
        assert_eq!(layout.part(2), None);
        let files = [0, 4, 5, 14, 15, 16].map(|offset| layout.file_at(offset));
        assert_eq!(files, [Some(0), Some(0), Some(1), Some(1), Some(2), None]);
        assert_eq!(layout.lens().collect::<Vec<_>>(), [5, 10, 1]);
        assert_eq!([0, 1, 12].map(file_name), ["superblock", "0", "11"]);
    }

    #[test]
    fn bounds_are_kept() {
        assert_eq!(Layout::new([]), None);
        assert_eq!(Layout::new([1, 0]), None);
        assert_eq!(Layout::new([1, u64::MAX]), None);
        assert_eq!(Layout::new([1, BLOB_LEN_MAX]), None);
        assert!(Layout::new([1, BLOB_LEN_MAX - 1]).is_some());
        assert!(Layout::new(vec![1; DELTA_PARTS_MAX + 1]).is_some());
        assert_eq!(Layout::new(vec![1; DELTA_PARTS_MAX + 2]), None);
    }
}
