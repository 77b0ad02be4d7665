//! The parts of a static delta: unpacking one, and the objects that it carries whole (libostree,
//! `ostree-repo-static-delta-processing.c`).
//!
//! A part is a byte that says how the rest is compressed, and the rest: tables of modes and of
//! extended attributes, the bytes of all objects, and operations that make objects of them, in the
//! order in which the superblock lists them.
//!
//! Not here: objects that are made with another one as a source, which this host may not have.

use std::fmt;
use std::io::{self, BufReader, Read, Seek, SeekFrom};

use lzma_rust2::{DICT_SIZE_MIN, Lzma2Reader, XzReader, xz_uncompressed_size};

use crate::limits;
use crate::proto::ostree::ObjectKind;
use crate::proto::ostree::delta::Contents;
use crate::proto::ostree::gvariant::{Array, Malformed, Tuple};
use crate::proto::ostree::object::{FileHead, Object};

/// Length of an entry in the table of modes: owner, group and mode.
const MODE_LEN: usize = 12;

/// Where in a part's file stands what is packed: behind the byte that says how.
const PACKED_AT: u64 = 1;
/// What an xz file begins with, and with the header of a block that has one filter.
const XZ_STREAM_HEADER_LEN: usize = 12;
const PLAIN_HEAD_LEN: usize = XZ_STREAM_HEADER_LEN + 12;

/// Bytes that are no part of a delta within the bounds.
#[derive(Debug)]
pub enum PartError {
    /// Not of the type that it should be.
    Malformed,
    /// Compressed in a way that is not known.
    Compression(u8),
    /// It unpacks to more than [`limits::PART_UNPACKED_LEN_MAX`], or its objects come to more.
    TooLong,
    /// It cannot be read, or is not what the compression makes.
    Read(io::Error),
}

impl fmt::Display for PartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PartError::Malformed => f.write_str("the part is malformed"),
            PartError::Compression(kind) => write!(f, "the part is compressed by method {kind}"),
            PartError::TooLong => f.write_str("the part holds too much"),
            PartError::Read(error) => write!(f, "the part cannot be read: {error}"),
        }
    }
}

impl std::error::Error for PartError {}

impl From<Malformed> for PartError {
    fn from(_: Malformed) -> PartError {
        PartError::Malformed
    }
}

/// Unpacks the file of a part into `bytes`, in place of what is there.
///
/// # Errors
/// [`PartError`].
pub fn unpack(mut file: impl Read + Seek, bytes: &mut Vec<u8>) -> Result<(), PartError> {
    let mut kind = [0];
    file.read_exact(&mut kind).map_err(PartError::Read)?;
    match kind {
        [0] => read_bounded(file, bytes),
        [b'x'] => {
            if unpack_plain(&mut file, bytes).map_err(PartError::Read)? {
                return Ok(());
            }
            file.seek(SeekFrom::Start(PACKED_AT)).map_err(PartError::Read)?;
            let file = BufReader::new(file);
            read_bounded(XzReader::new_mem_limit(file, false, limits::PART_XZ_KIB_MAX), bytes)
        }
        [other] => Err(PartError::Compression(other)),
    }
}

fn read_bounded(from: impl Read, bytes: &mut Vec<u8>) -> Result<(), PartError> {
    let bound = limits::PART_UNPACKED_LEN_MAX;
    bytes.clear();
    from.take((bound as u64).saturating_add(1)).read_to_end(bytes).map_err(PartError::Read)?;
    if bytes.len() > bound { Err(PartError::TooLong) } else { Ok(()) }
}

/// Unpacks a part as libostree packs it: one block of LZMA2, which the end of the file says the
/// length of. So the memory is known beforehand, and the dictionary no larger than what is in it.
/// The block's CRC-64 is not looked at: each object has its SHA-256.
///
/// `false`: it is another, or damaged, which is for the reader of all of xz to tell.
fn unpack_plain(file: &mut (impl Read + Seek), bytes: &mut Vec<u8>) -> io::Result<bool> {
    let Ok(len) = xz_uncompressed_size(&mut *file) else { return Ok(false) };
    let bound = limits::PART_UNPACKED_LEN_MAX;
    let Some(len) = usize::try_from(len).ok().filter(|len| *len <= bound) else {
        return Ok(false);
    };
    file.seek(SeekFrom::Start(PACKED_AT))?;
    let mut file = BufReader::new(file);
    let mut head = [0; PLAIN_HEAD_LEN];
    file.read_exact(&mut head)?;
    let Some(dictionary) = plain_dictionary(&head) else { return Ok(false) };
    let dictionary = dictionary.min((len as u64).max(u64::from(DICT_SIZE_MIN)));
    let Ok(dictionary) = u32::try_from(dictionary) else { return Ok(false) };
    if bytes.capacity() < len {
        *bytes = vec![0; len];
    } else {
        bytes.resize(len, 0);
    }
    let mut unpacked = Lzma2Reader::new(file, dictionary, None);
    Ok(unpacked.read_exact(bytes).is_ok() && matches!(unpacked.read(&mut [0]), Ok(0)))
}

/// The length of the dictionary that the first block of an xz file asks for, which begins with
/// `head`. `None`: there is more than LZMA2 (.xz file format 1.2.1, sections 3.1 and 5.3.1).
fn plain_dictionary(head: &[u8; PLAIN_HEAD_LEN]) -> Option<u64> {
    // Which it is, was checked with the length.
    let (_stream, block) = head.split_first_chunk::<XZ_STREAM_HEADER_LEN>()?;
    // Its length in words but for one; one filter and no lengths; LZMA2, with one byte; padding.
    let [2, 0, 0x21, 1, bits @ 0..=39, 0, 0, 0, ..] = *block else { return None };
    u64::from(2 | (bits & 1)).checked_shl(u32::from(bits / 2).saturating_add(11))
}

/// The objects that an unpacked part carries whole, in order. It ends with the first error.
pub struct Objects<'a> {
    modes: &'a [u8],
    xattrs: Array<'a>,
    raw: &'a [u8],
    operations: &'a [u8],
    contents: Contents<'a>,
    /// How many objects have been made.
    made: usize,
    /// What the others may cost.
    left: usize,
}

impl<'a> Objects<'a> {
    /// The objects of `unpacked`, a part of which the superblock says that it holds `contents`.
    ///
    /// # Errors
    /// [`PartError::Malformed`].
    pub fn new(unpacked: &'a [u8], contents: Contents<'a>) -> Result<Objects<'a>, PartError> {
        // (a(uuu) aa(ayay) ay ay)
        let mut fields = Tuple::new(unpacked, 3)?;
        let modes = fields.framed(4)?;
        let xattrs = Array::new(fields.framed(1)?, 1)?;
        let raw = fields.framed(1)?;
        let operations = fields.last(1)?;
        let left = limits::PART_UNPACKED_LEN_MAX;
        Ok(Objects { modes, xattrs, raw, operations, contents, made: 0, left })
    }

    /// Carries out operations until one has made a whole object; `None`: there are no more.
    fn make(&mut self) -> Result<Option<Object<'a>>, PartError> {
        while let Some((&operation, rest)) = self.operations.split_first() {
            self.operations = rest;
            match operation {
                // Open, splice and close: all at once, which is how an object is made that has no
                // source. The others make one bit by bit.
                b'S' => return self.splice().map(Some),
                // Open: mode, attributes, length.
                b'o' => self.skip(3)?,
                // Write, and patch: a length and an offset.
                b'w' | b'B' => self.skip(2)?,
                // Set the source: where its name stands.
                b'r' => self.skip(1)?,
                // Unset it.
                b'R' => {}
                // Close.
                b'c' => self.made = self.made.saturating_add(1),
                _ => return Err(PartError::Malformed),
            }
        }
        Ok(None)
    }

    fn splice(&mut self) -> Result<Object<'a>, PartError> {
        let (checksum, kind) = self.contents.object(self.made).ok_or(PartError::Malformed)?;
        self.made = self.made.saturating_add(1);
        let file = match kind {
            ObjectKind::FileZ => Some(self.file_head()?),
            _ => None,
        };
        let (len, offset) = (self.number()?, self.number()?);
        let end = offset.checked_add(len).ok_or(PartError::Malformed)?;
        let bytes = self.raw.get(offset..end).ok_or(PartError::Malformed)?;
        let object = Object { checksum, kind, file, bytes };
        // Objects may share their bytes, so that there is no end to them.
        self.left = self.left.checked_sub(object.cost()).ok_or(PartError::TooLong)?;
        Ok(object)
    }

    fn file_head(&mut self) -> Result<FileHead<'a>, PartError> {
        let (mode, xattrs) = (self.number()?, self.number()?);
        let entry = self.modes.chunks_exact(MODE_LEN).nth(mode).ok_or(PartError::Malformed)?;
        let mut numbers = [0; 3];
        for (number, bytes) in numbers.iter_mut().zip(entry.chunks_exact(4)) {
            *number = u32::from_be_bytes(bytes.try_into().map_err(|_| Malformed)?);
        }
        let xattrs = self.xattrs.get(xattrs).ok_or(PartError::Malformed)?;
        Ok(FileHead { numbers, xattrs })
    }

    fn skip(&mut self, numbers: usize) -> Result<(), PartError> {
        (0..numbers).try_for_each(|_| self.number().map(drop))
    }

    /// A number: seven bits in each byte, the lowest first, and a bit that says that more follow.
    fn number(&mut self) -> Result<usize, PartError> {
        let mut number: u64 = 0;
        for place in (0..u64::BITS).step_by(7) {
            let (&byte, rest) = self.operations.split_first().ok_or(PartError::Malformed)?;
            self.operations = rest;
            let bits = u64::from(byte & 0x7f);
            let placed = bits.checked_shl(place);
            let placed = placed.filter(|placed| placed.checked_shr(place) == Some(bits));
            number |= placed.ok_or(PartError::Malformed)?;
            if byte & 0x80 == 0 {
                return usize::try_from(number).map_err(|_| PartError::Malformed);
            }
        }
        Err(PartError::Malformed)
    }
}

impl fmt::Debug for Objects<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} objects made", self.made, self.contents.len())
    }
}

impl<'a> Iterator for Objects<'a> {
    type Item = Result<Object<'a>, PartError>;

    fn next(&mut self) -> Option<Self::Item> {
        let made = self.make();
        if made.is_err() {
            self.operations = &[];
        }
        made.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::ostree::delta::contents;

    /// A superblock that libostree wrote, of a delta whose one part holds twelve objects; the first
    /// is of metadata.
    const SUPERBLOCK: &[u8] = include_bytes!("../../../tests/vectors/ostree/whole.superblock");

    /// A part without files: no modes and no attributes.
    fn part(raw: &[u8], operations: &[u8]) -> Vec<u8> {
        let mut part = [raw, operations].concat();
        for end in [raw.len(), 0, 0] {
            part.extend_from_slice(&u32::try_from(end).unwrap().to_le_bytes());
        }
        part
    }

    /// What comes of each operation.
    fn made(raw: &[u8], operations: &[u8]) -> Vec<Result<usize, PartError>> {
        let contents = contents(SUPERBLOCK).unwrap()[0];
        let part = part(raw, operations);
        let objects = Objects::new(&part, contents).unwrap();
        objects.map(|object| object.map(|object| object.bytes.len())).collect()
    }

    #[test]
    fn objects_cannot_share_bytes_without_end() {
        let raw = vec![7; limits::PART_UNPACKED_LEN_MAX / 2 - 100];
        let mut all = Vec::new();
        let mut number = raw.len();
        while number > 0 {
            let more = u8::from(number > 0x7f) << 7;
            all.push(u8::try_from(number & 0x7f).unwrap() | more);
            number >>= 7;
        }
        let splice = [b"S", &all[..], b"\0"].concat();
        let made = made(&raw, &splice.repeat(3));
        assert!(matches!(made[..], [Ok(_), Ok(_), Err(PartError::TooLong)]), "{made:?}");
    }

    #[test]
    fn operations_that_lead_outside_end_it() {
        let raw = [7; 70_000];
        let malformed = |operations: &[u8]| {
            let made = made(&raw, operations);
            matches!(made.last(), Some(Err(PartError::Malformed)))
        };
        assert!(made(&raw, b"S\x03\x01").len() == 1 && !malformed(b"S\x03\x01"));
        assert!(malformed(b"S\x03\xff\xff\x7f"), "beyond the bytes");
        assert!(malformed(b"S\x03"), "cut");
        assert!(malformed(b"?"), "unknown");
        assert!(malformed(b"S\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01\0"), "a long number");
        assert!(malformed(b"S\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02\0"), "a large number");
        assert!(malformed(&[b"c".repeat(12), b"S\0\0".to_vec()].concat()), "one too many");
    }
}
