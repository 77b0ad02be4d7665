//! Bencode (BEP 3): strict, canonical, bounded. Values borrow from the input.
//!
//! Only the canonical form is taken: keys sorted and unique, numbers without leading zeros, `-0` or
//! `+`. So a value has one encoding, and a dictionary's hash can be that of its bytes as they were
//! read: [`Dict::raw`].
//!
//! **Invariant:** memory is bounded by [`VALUES_MAX`], not by a number in the input; recursion by
//! [`DEPTH_MAX`].

use std::fmt;

/// Lists and dictionaries inside each other. A `.torrent` has 5, a tracker's answer 4.
pub const DEPTH_MAX: usize = 32;
/// Values in one input. A `.torrent` of one file has about 10, a tracker's answer with 200 peers in
/// dictionaries 1000.
pub const VALUES_MAX: usize = 16_384;

/// A decoded value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// `i..e`
    Int(i64),
    /// `<length>:..`
    Bytes(&'a [u8]),
    /// `l..e`
    List(Vec<Value<'a>>),
    /// `d..e`
    Dict(Dict<'a>),
}

impl<'a> Value<'a> {
    /// The number, if it is one.
    #[must_use]
    pub fn as_int(&self) -> Option<i64> {
        if let Value::Int(number) = self { Some(*number) } else { None }
    }

    /// The bytes, if it is a byte string.
    #[must_use]
    pub fn as_bytes(&self) -> Option<&'a [u8]> {
        if let Value::Bytes(bytes) = self { Some(bytes) } else { None }
    }

    /// The elements, if it is a list.
    #[must_use]
    pub fn as_list(&self) -> Option<&[Value<'a>]> {
        if let Value::List(values) = self { Some(values) } else { None }
    }

    /// The dictionary, if it is one.
    #[must_use]
    pub fn as_dict(&self) -> Option<&Dict<'a>> {
        if let Value::Dict(dict) = self { Some(dict) } else { None }
    }
}

/// A decoded dictionary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dict<'a> {
    pairs: Vec<(&'a [u8], Value<'a>)>,
    raw: &'a [u8],
}

impl<'a> Dict<'a> {
    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<&Value<'a>> {
        let place = self.pairs.binary_search_by(|(have, _)| (*have).cmp(key)).ok()?;
        self.pairs.get(place).map(|(_, value)| value)
    }

    /// The number under `key`, if there is one.
    #[must_use]
    pub fn int(&self, key: &[u8]) -> Option<i64> {
        self.get(key)?.as_int()
    }

    /// The byte string under `key`, if there is one.
    #[must_use]
    pub fn bytes(&self, key: &[u8]) -> Option<&'a [u8]> {
        self.get(key)?.as_bytes()
    }

    /// The dictionary under `key`, if there is one.
    #[must_use]
    pub fn dict(&self, key: &[u8]) -> Option<&Dict<'a>> {
        self.get(key)?.as_dict()
    }

    /// All pairs, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], &Value<'a>)> {
        self.pairs.iter().map(|(key, value)| (*key, value))
    }

    /// The bytes of the input that this dictionary was read from, `d` and `e` included.
    #[must_use]
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }
}

/// Input that is not canonical bencode, or breaks a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BencodeError {
    /// The input ends inside a value.
    Truncated,
    /// Bytes follow the value.
    TrailingBytes,
    /// A byte that begins no value, or a key that is no byte string.
    UnexpectedByte(u8),
    /// A number or a length that is not written canonically, or too large.
    BadNumber,
    /// Keys that are not sorted, or a key twice.
    UnsortedKeys,
    /// Deeper than [`DEPTH_MAX`].
    TooDeep,
    /// More than [`VALUES_MAX`].
    TooManyValues,
}

impl fmt::Display for BencodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            BencodeError::Truncated => "bencode ends inside a value",
            BencodeError::TrailingBytes => "bytes follow the bencoded value",
            BencodeError::UnexpectedByte(byte) => {
                return write!(f, "unexpected byte 0x{byte:02x} in bencode");
            }
            BencodeError::BadNumber => "a number in bencode is not canonical or too large",
            BencodeError::UnsortedKeys => "keys in bencode are not sorted or not unique",
            BencodeError::TooDeep => "bencode is nested too deep",
            BencodeError::TooManyValues => "bencode holds too many values",
        })
    }
}

impl std::error::Error for BencodeError {}

/// Reads the one value that `input` is.
///
/// # Errors
/// If it is anything else than one value in its canonical form and within the bounds.
pub fn decode(input: &[u8]) -> Result<Value<'_>, BencodeError> {
    match decode_prefix(input)? {
        (value, used) if used == input.len() => Ok(value),
        _ => Err(BencodeError::TrailingBytes),
    }
}

/// Reads the value that `input` begins with, and how many bytes it takes: what follows is the
/// caller's, as in messages of BEP 9.
///
/// # Errors
/// As [`decode`].
pub fn decode_prefix(input: &[u8]) -> Result<(Value<'_>, usize), BencodeError> {
    let mut reader = Reader { rest: input, values: 0 };
    let value = reader.value(0)?;
    Ok((value, input.len().saturating_sub(reader.rest.len())))
}

/// What is still to be read, and how many values were.
struct Reader<'a> {
    rest: &'a [u8],
    values: usize,
}

impl<'a> Reader<'a> {
    fn value(&mut self, depth: usize) -> Result<Value<'a>, BencodeError> {
        self.values = self.values.saturating_add(1);
        if self.values > VALUES_MAX {
            return Err(BencodeError::TooManyValues);
        }
        if depth >= DEPTH_MAX {
            return Err(BencodeError::TooDeep);
        }
        match self.peek()? {
            b'i' => {
                self.skip();
                self.number(b'e').map(Value::Int)
            }
            b'0'..=b'9' => self.byte_string().map(Value::Bytes),
            b'l' => self.list(depth).map(Value::List),
            b'd' => self.dict(depth).map(Value::Dict),
            other => Err(BencodeError::UnexpectedByte(other)),
        }
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Value<'a>>, BencodeError> {
        self.skip();
        let mut values = Vec::new();
        while self.peek()? != b'e' {
            values.push(self.value(depth.saturating_add(1))?);
        }
        self.skip();
        Ok(values)
    }

    fn dict(&mut self, depth: usize) -> Result<Dict<'a>, BencodeError> {
        let from = self.rest;
        self.skip();
        let mut pairs: Vec<(&[u8], Value)> = Vec::new();
        while self.peek()? != b'e' {
            let key = self.byte_string()?;
            if pairs.last().is_some_and(|(last, _)| *last >= key) {
                return Err(BencodeError::UnsortedKeys);
            }
            pairs.push((key, self.value(depth.saturating_add(1))?));
        }
        self.skip();
        let raw = from.get(..from.len().saturating_sub(self.rest.len())).unwrap_or_default();
        Ok(Dict { pairs, raw })
    }

    fn byte_string(&mut self) -> Result<&'a [u8], BencodeError> {
        match self.peek()? {
            b'0'..=b'9' => {}
            other => return Err(BencodeError::UnexpectedByte(other)),
        }
        let len = usize::try_from(self.number(b':')?).map_err(|_| BencodeError::BadNumber)?;
        let (bytes, rest) = self.rest.split_at_checked(len).ok_or(BencodeError::Truncated)?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Digits, with a minus in front if the number is below zero, up to and with `end`.
    fn number(&mut self, end: u8) -> Result<i64, BencodeError> {
        let negative = self.peek()? == b'-';
        if negative {
            self.skip();
        }
        let first = self.peek()?;
        let mut number = 0i64;
        let mut digits = 0usize;
        loop {
            let byte = self.peek()?;
            self.skip();
            if byte == end {
                break;
            }
            if !byte.is_ascii_digit() {
                return Err(BencodeError::BadNumber);
            }
            // Counted down from zero where it is negative: `i64::MIN` has no positive twin.
            let digit = i64::from(byte.saturating_sub(b'0'));
            let digit = if negative { digit.saturating_neg() } else { digit };
            number = number
                .checked_mul(10)
                .and_then(|number| number.checked_add(digit))
                .ok_or(BencodeError::BadNumber)?;
            digits = digits.saturating_add(1);
        }
        let canonical = match first {
            b'0' => digits == 1 && !negative,
            _ => digits > 0,
        };
        if canonical { Ok(number) } else { Err(BencodeError::BadNumber) }
    }

    fn peek(&self) -> Result<u8, BencodeError> {
        self.rest.first().copied().ok_or(BencodeError::Truncated)
    }

    /// Passes the byte that was peeked at.
    fn skip(&mut self) {
        self.rest = self.rest.get(1..).unwrap_or_default();
    }
}

/// Appends a number.
pub fn put_int(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(format!("i{number}e").as_bytes());
}

/// Appends a byte string.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(format!("{}:", bytes.len()).as_bytes());
    out.extend_from_slice(bytes);
}

/// Appends a dictionary of what `fill` puts in.
pub fn put_dict(out: &mut Vec<u8>, fill: impl FnOnce(&mut DictWriter<'_>)) {
    out.push(b'd');
    fill(&mut DictWriter { out, last: None });
    out.push(b'e');
}

/// Appends pairs to a dictionary.
///
/// # Panics
/// In debug builds, if keys do not come sorted: the result would not be canonical.
pub struct DictWriter<'a> {
    out: &'a mut Vec<u8>,
    last: Option<Vec<u8>>,
}

impl DictWriter<'_> {
    /// Appends a key and a number.
    pub fn int(&mut self, key: &[u8], number: i64) {
        put_int(self.key(key), number);
    }

    /// Appends a key and a byte string.
    pub fn bytes(&mut self, key: &[u8], bytes: &[u8]) {
        put_bytes(self.key(key), bytes);
    }

    /// Appends a key and a list: one element each time `put` is called.
    pub fn list<T>(&mut self, key: &[u8], items: &[T], mut put: impl FnMut(&T, &mut Vec<u8>)) {
        let out = self.key(key);
        out.push(b'l');
        items.iter().for_each(|item| put(item, out));
        out.push(b'e');
    }

    /// Appends a key and a dictionary of what `fill` puts in.
    pub fn dict(&mut self, key: &[u8], fill: impl FnOnce(&mut DictWriter<'_>)) {
        put_dict(self.key(key), fill);
    }

    fn key(&mut self, key: &[u8]) -> &mut Vec<u8> {
        if cfg!(debug_assertions) {
            let sorted = self.last.as_deref().is_none_or(|last| last < key);
            assert!(sorted, "keys of a dictionary are put in order");
            self.last = Some(key.to_vec());
        }
        put_bytes(self.out, key);
        self.out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_canonical_form_is_taken() {
        use BencodeError::{BadNumber, TrailingBytes, Truncated, UnexpectedByte, UnsortedKeys};
        for (input, why) in [
            (&b"i-0e"[..], BadNumber),
            (b"i05e", BadNumber),
            (b"i-05e", BadNumber),
            (b"i+5e", BadNumber),
            (b"i 5e", BadNumber),
            (b"ie", BadNumber),
            (b"i-e", BadNumber),
            (b"i--1e", BadNumber),
            (b"i9223372036854775808e", BadNumber),
            (b"01:a", BadNumber),
            (b"99999999999999999999:", BadNumber),
            (b"99999999999:", Truncated),
            (b"2:a", Truncated),
            (b"i5", Truncated),
            (b"l", Truncated),
            (b"d1:a", Truncated),
            (b"", Truncated),
            (b"-1:a", UnexpectedByte(b'-')),
            (b"e", UnexpectedByte(b'e')),
            (b"di1ei1ee", UnexpectedByte(b'i')),
            (b"d1:ae", UnexpectedByte(b'e')),
            (b"d1:bi1e1:ai1ee", UnsortedKeys),
            (b"d1:ai1e1:ai1ee", UnsortedKeys),
            (b"i5ei5e", TrailingBytes),
        ] {
            assert_eq!(decode(input), Err(why), "{}", input.escape_ascii());
        }
    }

    #[test]
    fn numbers_reach_from_the_least_to_the_greatest() {
        for number in [0, 1, -1, 10, i64::MIN, i64::MAX] {
            let mut out = Vec::new();
            put_int(&mut out, number);
            assert_eq!(decode(&out), Ok(Value::Int(number)));
        }
    }

    #[test]
    fn a_dictionary_knows_the_bytes_it_was_read_from() {
        let input = b"d4:infod1:ai1e1:bl2:xyee5:otheri7ee";
        let value = decode(input).unwrap();
        let dict = value.as_dict().unwrap();
        assert_eq!(dict.raw(), input);
        assert_eq!(dict.dict(b"info").unwrap().raw(), b"d1:ai1e1:bl2:xyee");
        assert_eq!(dict.int(b"other"), Some(7));
        assert_eq!(dict.get(b"inf"), None);
        assert_eq!(dict.bytes(b"other"), None, "of another type");
        assert_eq!(dict.iter().map(|(key, _)| key).collect::<Vec<_>>(), [&b"info"[..], b"other"]);
    }

    #[test]
    fn what_follows_a_value_is_the_callers() {
        let (value, used) = decode_prefix(b"d8:msg_typei1ee\x00\x01data").unwrap();
        assert_eq!(value.as_dict().unwrap().int(b"msg_type"), Some(1));
        assert_eq!(used, 15);
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| [vec![b'l'; depth], vec![b'e'; depth]].concat();
        assert!(decode(&nested(DEPTH_MAX)).is_ok());
        assert_eq!(decode(&nested(DEPTH_MAX + 1)), Err(BencodeError::TooDeep));
        assert_eq!(decode(&vec![b'l'; 1 << 20]), Err(BencodeError::TooDeep));
    }

    #[test]
    fn number_of_values_is_bounded() {
        let list = |values: usize| [b"l".to_vec(), b"0:".repeat(values), b"e".to_vec()].concat();
        assert!(decode(&list(VALUES_MAX - 1)).is_ok());
        assert_eq!(decode(&list(VALUES_MAX)), Err(BencodeError::TooManyValues));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let mut out = Vec::new();
        put_dict(&mut out, |dict| {
            dict.bytes(b"", b"empty key");
            dict.dict(b"d", |inner| inner.int(b"n", -3));
            dict.int(b"n", 4);
        });
        assert_eq!(out, b"d0:9:empty key1:dd1:ni-3ee1:ni4ee");
        let value = decode(&out).unwrap();
        assert_eq!(value.as_dict().unwrap().dict(b"d").unwrap().int(b"n"), Some(-3));
    }

    #[test]
    #[cfg(debug_assertions)]
    #[should_panic(expected = "in order")]
    fn keys_out_of_order_are_a_mistake_of_the_program() {
        put_dict(&mut Vec::new(), |dict| {
            dict.int(b"b", 1);
            dict.int(b"a", 1);
        });
    }
}
