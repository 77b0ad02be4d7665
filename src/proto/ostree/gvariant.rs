//! Reading GVariant, the form of OSTree's metadata (GLib, "GVariant Format Strings" and the
//! GVariant specification): just tuples, arrays, variants and dictionaries, along a known type.
//!
//! A container whose children differ in length ends with framing offsets, little endian: where each
//! child ends. Their width follows from the container's length. Children begin at a multiple of
//! their alignment, counted from the container's first byte.
//!
//! **Invariant:** every slice that comes out lies in the slice that went in. Nothing recurses: each
//! step is a call of whoever knows the type.

/// Bytes that are not of the type they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed;

/// The width of the framing offsets of a container of `len` bytes.
pub(super) fn offset_width(len: usize) -> usize {
    match len {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        0x1_0000..=0xffff_ffff => 4,
        _ => 8,
    }
}

/// Reads the little-endian framing offset at the start of `bytes`.
fn offset(bytes: &[u8]) -> Result<usize, Malformed> {
    let mut wide = [0; 8];
    wide.get_mut(..bytes.len()).ok_or(Malformed)?.copy_from_slice(bytes);
    usize::try_from(u64::from_le_bytes(wide)).map_err(|_| Malformed)
}

fn aligned(at: usize, alignment: usize) -> Result<usize, Malformed> {
    at.checked_next_multiple_of(alignment).ok_or(Malformed)
}

/// The members of a tuple, in order.
pub(super) struct Tuple<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Where the next framing offset ends: they are read from the container's end towards its
    /// start.
    offsets_end: usize,
    /// Where the framing offsets begin: the last member ends here.
    members_end: usize,
    width: usize,
}

impl<'a> Tuple<'a> {
    /// A tuple in which `framed` members have framing offsets: all of variable length but the last
    /// member.
    pub(super) fn new(bytes: &'a [u8], framed: usize) -> Result<Tuple<'a>, Malformed> {
        let width = offset_width(bytes.len());
        let table = width.saturating_mul(framed);
        let members_end = bytes.len().checked_sub(table).ok_or(Malformed)?;
        Ok(Tuple { bytes, at: 0, offsets_end: bytes.len(), members_end, width })
    }

    /// The next member, of a fixed length that is its alignment as well.
    pub(super) fn fixed<const LEN: usize>(&mut self) -> Result<[u8; LEN], Malformed> {
        let from = aligned(self.at, LEN)?;
        let to = from.checked_add(LEN).ok_or(Malformed)?;
        let member = self.bytes.get(from..to).and_then(|member| member.try_into().ok());
        self.at = to;
        member.ok_or(Malformed)
    }

    /// The next member, of variable length, which is not the last.
    pub(super) fn framed(&mut self, alignment: usize) -> Result<&'a [u8], Malformed> {
        let from = aligned(self.at, alignment)?;
        let table = self.offsets_end.checked_sub(self.width).ok_or(Malformed)?;
        let to = offset(self.bytes.get(table..self.offsets_end).ok_or(Malformed)?)?;
        self.offsets_end = table;
        if to > self.members_end {
            return Err(Malformed);
        }
        self.at = to;
        self.bytes.get(from..to).ok_or(Malformed)
    }

    /// The last member, of variable length.
    pub(super) fn last(self, alignment: usize) -> Result<&'a [u8], Malformed> {
        let from = aligned(self.at, alignment)?;
        self.bytes.get(from..self.members_end).ok_or(Malformed)
    }
}

/// The elements of an array whose elements are of variable length.
pub(super) struct Array<'a> {
    bytes: &'a [u8],
    alignment: usize,
    width: usize,
    at: usize,
    /// Where the framing offset of the next element begins.
    next_offset: usize,
    elements_end: usize,
}

impl<'a> Array<'a> {
    pub(super) fn new(bytes: &'a [u8], alignment: usize) -> Result<Array<'a>, Malformed> {
        let width = offset_width(bytes.len());
        let elements_end = match bytes.len().checked_sub(width) {
            // The last framing offset says where the elements end and the offsets begin.
            Some(last) if !bytes.is_empty() => offset(bytes.get(last..).ok_or(Malformed)?)?,
            _ => 0,
        };
        let table = bytes.len().checked_sub(elements_end).ok_or(Malformed)?;
        if !table.is_multiple_of(width) {
            return Err(Malformed);
        }
        Ok(Array { bytes, alignment, width, at: 0, next_offset: elements_end, elements_end })
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.bytes.len().saturating_sub(self.elements_end).checked_div(self.width).unwrap_or(0)
    }

    /// The element at `index`; `None`: there are fewer, or its framing offsets are wrong.
    pub(super) fn get(&self, index: usize) -> Option<&'a [u8]> {
        let table = self.bytes.get(self.elements_end..)?;
        let end_of = |index: usize| {
            let at = index.checked_mul(self.width)?;
            offset(table.get(at..at.checked_add(self.width)?)?).ok()
        };
        let before = index.checked_sub(1).map_or(Some(0), end_of)?;
        self.bytes.get(aligned(before, self.alignment).ok()?..end_of(index)?)
    }

    fn element(&mut self) -> Result<&'a [u8], Malformed> {
        let offset_end = self.next_offset.checked_add(self.width).ok_or(Malformed)?;
        let to = offset(self.bytes.get(self.next_offset..offset_end).ok_or(Malformed)?)?;
        let from = aligned(self.at, self.alignment)?;
        self.next_offset = offset_end;
        self.at = to;
        self.bytes.get(from..to).ok_or(Malformed)
    }
}

impl<'a> Iterator for Array<'a> {
    type Item = Result<&'a [u8], Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.next_offset >= self.bytes.len() {
            return None;
        }
        let element = self.element();
        if element.is_err() {
            self.next_offset = self.bytes.len();
        }
        Some(element)
    }
}

/// The pairs of a dictionary `a{sv}`: each key, and the type and the bytes of its value.
pub(super) fn dictionary(
    bytes: &[u8],
) -> Result<impl Iterator<Item = Result<(&str, Variant<'_>), Malformed>>, Malformed> {
    Ok(Array::new(bytes, 8)?.map(|entry| {
        let mut entry = Tuple::new(entry?, 1)?;
        let key = text(entry.framed(1)?)?;
        Ok((key, Variant::new(entry.last(8)?)?))
    }))
}

/// The value of `key` in a dictionary `a{sv}`, if it is of the type `signature`.
pub(super) fn look_up<'a>(
    bytes: &'a [u8],
    key: &str,
    signature: &str,
) -> Result<Option<&'a [u8]>, Malformed> {
    for pair in dictionary(bytes)? {
        let (found, value) = pair?;
        if found == key {
            return Ok(Some(value.bytes).filter(|_| value.signature == signature.as_bytes()));
        }
    }
    Ok(None)
}

/// A value with its type.
#[derive(Clone, Copy)]
pub(super) struct Variant<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) signature: &'a [u8],
}

impl<'a> Variant<'a> {
    fn new(bytes: &'a [u8]) -> Result<Variant<'a>, Malformed> {
        let zero = bytes.iter().rposition(|&byte| byte == 0).ok_or(Malformed)?;
        let (bytes, signature) = bytes.split_at_checked(zero).ok_or(Malformed)?;
        Ok(Variant { bytes, signature: signature.get(1..).ok_or(Malformed)? })
    }
}

/// A string, without the zero at its end.
fn text(bytes: &[u8]) -> Result<&str, Malformed> {
    let (&last, text) = bytes.split_last().ok_or(Malformed)?;
    if last != 0 {
        return Err(Malformed);
    }
    str::from_utf8(text).map_err(|_| Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The examples of the GVariant specification, section 3.

    #[test]
    fn the_tuple_of_the_specification() {
        let mut tuple = Tuple::new(b"foo\0\xff\xff\xff\xff\x04", 1).unwrap();
        assert_eq!(tuple.framed(1), Ok(&b"foo\0"[..]));
        assert_eq!(tuple.fixed(), Ok((-1i32).to_le_bytes()));
        assert!(Tuple::new(b"", 1).is_err());
    }

    #[test]
    fn the_array_of_the_specification() {
        let array = Array::new(b"i\0can\0has\0strings?\0\x02\x06\x0a\x13", 1).unwrap();
        assert_eq!(array.len(), 4);
        assert_eq!(
            [1, 3, 4].map(|at| array.get(at)),
            [Some(&b"can\0"[..]), Some(b"strings?\0"), None]
        );
        let texts: Vec<&str> = array.map(|element| text(element.unwrap()).unwrap()).collect();
        assert_eq!(texts, ["i", "can", "has", "strings?"]);
        assert_eq!(Array::new(b"", 1).unwrap().count(), 0);
    }

    #[test]
    fn a_dictionary_is_looked_up_by_key_and_type() {
        // {'a': <'x'>}
        let bytes = b"a\0\0\0\0\0\0\0x\0\0s\x02\x0d";
        assert_eq!(look_up(bytes, "a", "s"), Ok(Some(&b"x\0"[..])));
        assert_eq!(look_up(bytes, "a", "t"), Ok(None));
        assert_eq!(look_up(bytes, "b", "s"), Ok(None));
    }

    #[test]
    fn offsets_that_lead_outside_or_back_are_refused() {
        let count = |bytes: &[u8]| {
            let array = Array::new(bytes, 1)?;
            array.collect::<Result<Vec<_>, _>>().map(|elements| elements.len())
        };
        assert_eq!(count(b"ab\x01\x02"), Ok(2));
        assert_eq!(count(b"ab\x02\x01"), Err(Malformed), "beyond the elements, then back");
        assert_eq!(count(b"ab\x01\xf0"), Err(Malformed));
        assert_eq!(Tuple::new(b"ab\x09", 1).unwrap().framed(1), Err(Malformed));
        assert_eq!(
            Tuple::new(b"ab\x03", 1).unwrap().framed(1),
            Err(Malformed),
            "the offset itself"
        );
    }
}
