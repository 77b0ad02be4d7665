//! `Range` and `Content-Range` of bytes (RFC 9110 section 14).

use std::fmt;

/// One range as a request names it, before the length is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ByteRange {
    /// `first-last` or `first-`.
    From {
        /// The first byte.
        first: u64,
        /// The last byte, at or after the first; `None`: to the end.
        last: Option<u64>,
    },
    /// `-len`: so many bytes at the end.
    Suffix(u64),
}

/// What a `Range` field means for a body of known length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RangeAnswer {
    /// Answer 200 with everything.
    Whole,
    /// Answer 206 with the bytes from the first to the last, both included.
    Part(u64, u64),
    /// Answer 416 with [`ContentRange::Unsatisfied`].
    Unsatisfiable,
}

/// The value of a `Content-Range` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentRange {
    /// `bytes first-last/total`.
    Part {
        /// The first byte.
        first: u64,
        /// The last byte.
        last: u64,
        /// The whole length, if the sender knows it.
        total: Option<u64>,
    },
    /// `bytes */total`, which goes with 416.
    Unsatisfied {
        /// The whole length.
        total: u64,
    },
}

impl ByteRange {
    /// Reads the value of a `Range` field. `None`, and so the whole body, for what RFC 9110 section
    /// 14.2 lets a server ignore: other units, several ranges, junk.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<ByteRange> {
        let text = std::str::from_utf8(value).ok()?.trim_ascii();
        let (unit, range) = text.split_once('=')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.trim_ascii().split_once('-')?;
        if first.is_empty() {
            return number(last).map(ByteRange::Suffix);
        }
        let first = number(first)?;
        let last = if last.is_empty() { None } else { Some(number(last)?) };
        if last.is_some_and(|last| last < first) {
            return None;
        }
        Some(ByteRange::From { first, last })
    }

    /// What it means for a body of `len` bytes.
    #[must_use]
    pub fn resolve(self, len: u64) -> RangeAnswer {
        let Some(end) = len.checked_sub(1) else {
            // No 206 can be written for an empty body.
            return match self {
                ByteRange::Suffix(1..) => RangeAnswer::Whole,
                _ => RangeAnswer::Unsatisfiable,
            };
        };
        match self {
            ByteRange::Suffix(0) => RangeAnswer::Unsatisfiable,
            ByteRange::Suffix(wanted) => RangeAnswer::Part(len.saturating_sub(wanted), end),
            ByteRange::From { first, .. } if first > end => RangeAnswer::Unsatisfiable,
            ByteRange::From { first, last } => {
                RangeAnswer::Part(first, end.min(last.unwrap_or(end)))
            }
        }
    }
}

/// What the `Range` field `value` means for a body of `len` bytes; an unknown length can only be
/// answered whole.
#[must_use]
pub fn parse_range(value: &[u8], len: Option<u64>) -> RangeAnswer {
    match (ByteRange::parse(value), len) {
        (Some(range), Some(len)) => range.resolve(len),
        _ => RangeAnswer::Whole,
    }
}

impl ContentRange {
    /// Reads the value of a `Content-Range` field; `None` if it is not one of bytes, or contradicts
    /// itself.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<ContentRange> {
        let text = std::str::from_utf8(value).ok()?.trim_ascii();
        let (unit, rest) = text.split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = rest.trim_ascii().split_once('/')?;
        let total = if total == "*" { None } else { Some(exact(total)?) };
        if range == "*" {
            return total.map(|total| ContentRange::Unsatisfied { total });
        }
        let (first, last) = range.split_once('-')?;
        let (first, last) = (exact(first)?, exact(last)?);
        let inside = total.is_none_or(|total| last < total);
        (first <= last && inside).then_some(ContentRange::Part { first, last, total })
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ContentRange::Part { first, last, total: Some(total) } => {
                write!(f, "bytes {first}-{last}/{total}")
            }
            ContentRange::Part { first, last, total: None } => write!(f, "bytes {first}-{last}/*"),
            ContentRange::Unsatisfied { total } => write!(f, "bytes */{total}"),
        }
    }
}

/// A number whose size does not matter once it is beyond any body: too large becomes the largest.
fn number(digits: &str) -> Option<u64> {
    let valid = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    valid.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn exact(digits: &str) -> Option<u64> {
    let valid = digits.bytes().all(|byte| byte.is_ascii_digit());
    if valid { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_mean_what_rfc_9110_says() {
        use RangeAnswer::{Part, Unsatisfiable, Whole};
        for (value, len, answer) in [
            ("bytes=0-9", 100, Part(0, 9)),
            ("bytes=0-0", 100, Part(0, 0)),
            ("bytes=5000000-", 6_000_000, Part(5_000_000, 5_999_999)),
            ("bytes=90-200", 100, Part(90, 99)),
            ("bytes=-5", 100, Part(95, 99)),
            ("bytes=-500", 100, Part(0, 99)),
            ("Bytes= 1-2 ", 100, Part(1, 2)),
            ("bytes=100-", 100, Unsatisfiable),
            ("bytes=-0", 100, Unsatisfiable),
            ("bytes=99999999999999999999999-", 100, Unsatisfiable),
            ("bytes=0-99999999999999999999999", 100, Part(0, 99)),
            ("bytes=0-", 0, Unsatisfiable),
            ("bytes=-1", 0, Whole),
            ("bytes=0-9,20-29", 100, Whole),
            ("bytes=9-0", 100, Whole),
            ("bytes=", 100, Whole),
            ("bytes=-", 100, Whole),
            ("bytes=+1-2", 100, Whole),
            ("bytes=1 -2", 100, Whole),
            ("bytes=0x1-", 100, Whole),
            ("items=0-1", 100, Whole),
            ("junk", 100, Whole),
        ] {
            assert_eq!(parse_range(value.as_bytes(), Some(len)), answer, "{value} of {len}");
            assert_eq!(parse_range(value.as_bytes(), None), Whole);
        }
    }

    #[test]
    fn content_range_round_trips() {
        for text in ["bytes 0-9/100", "bytes 5-5/6", "bytes 0-9/*", "bytes */100"] {
            assert_eq!(ContentRange::parse(text.as_bytes()).unwrap().to_string(), text);
        }
        for text in [
            "bytes 9-0/100",
            "bytes 0-100/100",
            "bytes */*",
            "items 0-1/2",
            "bytes 0-1",
            "bytes +0-1/2",
        ] {
            assert_eq!(ContentRange::parse(text.as_bytes()), None, "{text}");
        }
    }
}
