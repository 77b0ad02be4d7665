//! What the file cache holds, in memory: the length of each file and who was used last.
//!
//! **Invariant:** `bytes` is the sum of the lengths of the entries.

use std::collections::HashMap;

use crate::base::figures;
use crate::base::hash::{from_hex, hex, sha256};
use crate::store::in_place::Stamp;

/// Which file: the SHA-256 of its URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileKey([u8; 32]);

impl FileKey {
    /// The key of the answer to `url`.
    pub fn of(url: &str) -> FileKey {
        FileKey(sha256(url.as_bytes()))
    }

    /// Its name on disk: the folder, of 256, and the rest.
    pub fn path(&self) -> (String, String) {
        let name = hex(&self.0);
        let (folder, rest) = name.split_at(2);
        (folder.to_owned(), rest.to_owned())
    }

    /// Whether this is a name of one of the 256 folders.
    pub fn is_folder(name: &str) -> bool {
        name.len() == 2 && name.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    }

    /// The key whose name on disk this is.
    pub fn parse(folder: &str, rest: &str) -> Option<FileKey> {
        let key = FileKey(from_hex(format!("{folder}{rest}").as_bytes())?);
        // Upper-case digits would be read but never written.
        (key.path() == (folder.to_owned(), rest.to_owned())).then_some(key)
    }
}

/// How much may be kept.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Files.
    pub count: usize,
    /// Their bytes on disk.
    pub bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    len: u64,
    used: u64,
    known: Known,
}

/// What this process knows of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// It was found right, or written.
    pub checked: bool,
    /// What told the file when it was found right, or was there whole: as long as that is the same,
    /// it is.
    pub right: Option<Stamp>,
}

/// See the module.
#[derive(Debug, Default)]
pub struct FileIndex {
    entries: HashMap<FileKey, Entry>,
    bytes: u64,
    /// Counts uses: the order of use without a clock.
    uses: u64,
}

impl FileIndex {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.entries.len()
    }

    /// Which there are.
    pub fn keys(&self) -> Vec<FileKey> {
        self.entries.keys().copied().collect()
    }

    /// What is known of the file, if it is there; now it is the one used last.
    pub fn find(&mut self, key: &FileKey) -> Option<Known> {
        self.uses += 1;
        let entry = self.entries.get_mut(key)?;
        entry.used = self.uses;
        Some(entry.known)
    }

    /// Whether the file is there.
    pub fn contains(&self, key: &FileKey) -> bool {
        self.entries.contains_key(key)
    }

    /// Notes that the file was found right, and what told it then.
    pub fn found_right(&mut self, key: &FileKey, stamp: Stamp) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.known = Known { checked: true, right: Some(stamp) };
        }
    }

    /// Adds a file of `len` bytes on disk as the one used last, in place of one of that name.
    pub fn insert(&mut self, key: FileKey, len: u64, known: Known) {
        self.remove(&key);
        self.uses += 1;
        self.entries.insert(key, Entry { len, used: self.uses, known });
        self.bytes += len;
        figures::FILES.add(1);
        figures::FILES_BYTES.add(len.cast_signed());
    }

    /// Takes a file out; whether it was there.
    pub fn remove(&mut self, key: &FileKey) -> bool {
        let Some(entry) = self.entries.remove(key) else { return false };
        self.bytes -= entry.len;
        figures::FILES.add(-1);
        figures::FILES_BYTES.add(-entry.len.cast_signed());
        true
    }

    /// Takes out what is too much, the least recently used first. A sixteenth more goes than has
    /// to: then the next files come in without a search.
    pub fn shrink(&mut self, bounds: Bounds) -> Vec<FileKey> {
        if self.entries.len() <= bounds.count && self.bytes <= bounds.bytes {
            return Vec::new();
        }
        let (count, bytes) = (bounds.count - bounds.count / 16, bounds.bytes - bounds.bytes / 16);
        let mut oldest: Vec<(u64, FileKey)> =
            self.entries.iter().map(|(key, entry)| (entry.used, *key)).collect();
        oldest.sort_unstable();
        let mut gone = Vec::new();
        for (_, key) in oldest {
            if self.entries.len() <= count && self.bytes <= bytes {
                break;
            }
            self.remove(&key);
            gone.push(key);
        }
        gone
    }
}

impl Drop for FileIndex {
    /// The gauges speak of open stores.
    fn drop(&mut self) {
        for key in self.keys() {
            self.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_on_disk_are_read_back_and_others_are_not() {
        let key = FileKey::of("http://a/b");
        let (folder, rest) = key.path();
        assert_eq!(FileKey::parse(&folder, &rest), Some(key));
        assert!(FileKey::is_folder(&folder));
        for other in ["", "a", "abc", "AB", "0g", "..", "new"] {
            assert!(!FileKey::is_folder(other), "{other}");
        }
        assert_eq!(FileKey::parse(&folder.to_uppercase(), &rest.to_uppercase()), None);
        assert_eq!(FileKey::parse(&folder, "x"), None);
        assert_eq!(FileKey::parse("", &format!("{folder}{rest}")), None);
    }

    #[test]
    fn who_was_used_last_stays() {
        let mut index = FileIndex::default();
        let key = |number: u64| FileKey::of(&number.to_string());
        let written = Known { checked: true, right: None };
        for number in 0..32 {
            index.insert(key(number), 10, written);
        }
        index.insert(key(0), 20, Known::default());
        assert_eq!(
            [1, 0, 99].map(|number| index.find(&key(number))),
            [Some(written), Some(Known::default()), None]
        );
        let stamp = Stamp::of(&std::fs::metadata(".").unwrap());
        index.found_right(&key(0), stamp);
        let right = Known { checked: true, right: Some(stamp) };
        assert_eq!([1, 0].map(|number| index.find(&key(number))), [Some(written), Some(right)]);
        assert_eq!((index.count(), index.bytes()), (32, 330));
        assert_eq!(index.shrink(Bounds { count: 32, bytes: 330 }), []);
        // Sixteen are allowed, fifteen stay: the two used last and the youngest others.
        let gone = index.shrink(Bounds { count: 16, bytes: u64::MAX });
        assert_eq!(gone, (2..19).map(key).collect::<Vec<_>>());
        assert_eq!((index.count(), index.bytes()), (15, 160));
        let gone = index.shrink(Bounds { count: 16, bytes: 64 });
        assert_eq!((gone.len(), index.bytes()), (10, 60));
        assert!(index.find(&key(0)).is_some() && index.find(&key(1)).is_some());
    }
}
