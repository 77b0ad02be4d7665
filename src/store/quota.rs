//! How much room the store may take.

use std::fmt;
use std::str::FromStr;

/// The bound of the store's own bytes: whole blobs and partials. What others keep on the same file
/// system does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Max {
    /// As much as the file system holds.
    None,
    /// This many bytes.
    Bytes(u64),
    /// This part of the file system, 1 to 100.
    Percent(u8),
}

/// Text that is no [`Max`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MaxError;

impl fmt::Display for MaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither bytes (such as 500000000 or 50G) nor a percentage from 1% to 100%")
    }
}

impl std::error::Error for MaxError {}

impl FromStr for Max {
    type Err = MaxError;

    /// Reads `<number>` with an optional suffix K, M, G or T (powers of 1024), or `<number>%`.
    fn from_str(text: &str) -> Result<Max, MaxError> {
        if let Some(percent) = text.strip_suffix('%') {
            let percent = percent.parse().map_err(|_| MaxError)?;
            return if (1..=100).contains(&percent) {
                Ok(Max::Percent(percent))
            } else {
                Err(MaxError)
            };
        }
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'K') => (&text[..text.len() - 1], 10),
            Some(b'M') => (&text[..text.len() - 1], 20),
            Some(b'G') => (&text[..text.len() - 1], 30),
            Some(b'T') => (&text[..text.len() - 1], 40),
            _ => (text, 0),
        };
        let number: u64 = digits.parse().map_err(|_| MaxError)?;
        number.checked_mul(1 << shift).map(Max::Bytes).ok_or(MaxError)
    }
}

impl Max {
    /// The bound in bytes on a file system of `total` bytes.
    #[must_use]
    pub fn bytes(self, total: u64) -> u64 {
        match self {
            Max::None => u64::MAX,
            Max::Bytes(bytes) => bytes,
            Max::Percent(percent) => total / 100 * u64::from(percent),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_percentages_are_read() {
        for (text, max) in [
            ("0", Max::Bytes(0)),
            ("500", Max::Bytes(500)),
            ("2K", Max::Bytes(2048)),
            ("50G", Max::Bytes(50 << 30)),
            ("1T", Max::Bytes(1 << 40)),
            ("1%", Max::Percent(1)),
            ("100%", Max::Percent(100)),
        ] {
            assert_eq!(text.parse(), Ok(max), "{text}");
        }
        for text in ["", "G", "%", "0%", "101%", "-1", "1.5G", "20000000T", "1 G", "é"] {
            assert_eq!(text.parse::<Max>(), Err(MaxError), "{text}");
        }
    }

    #[test]
    fn a_percentage_is_of_the_file_system() {
        assert_eq!(Max::Percent(80).bytes(1000), 800);
        assert_eq!(Max::Percent(100).bytes(u64::MAX), u64::MAX / 100 * 100);
        assert_eq!(Max::Bytes(7).bytes(1000), 7);
        assert_eq!(Max::None.bytes(1000), u64::MAX);
    }
}
