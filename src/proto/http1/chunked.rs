//! The chunked transfer coding (RFC 9112 section 7.1), both directions. Stricter than the RFC where
//! leniency has split messages: only CRLF ends a line, no space before an extension.

use std::fmt;

/// The longest line with a chunk's size and extensions; nobody sends extensions.
const SIZE_LINE_LEN_MAX: usize = 256;
/// The most bytes of trailer fields, which are dropped.
const TRAILERS_LEN_MAX: usize = 8 << 10;
/// What ends a chunked body.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// What ends each chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// A chunked body that breaks the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// A size that is no bounded hexadecimal number.
    Size,
    /// A line that does not end in CRLF, or holds control characters.
    Line,
    /// A chunk that is not followed by CRLF.
    ChunkEnd,
    /// A line or the trailer section is too long.
    TooLong,
}

impl fmt::Display for ChunkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ChunkError::Size => "bad size of a chunk",
            ChunkError::Line => "bad line between chunks",
            ChunkError::ChunkEnd => "no line end after a chunk",
            ChunkError::TooLong => "too many bytes between chunks",
        })
    }
}

impl std::error::Error for ChunkError {}

/// What the input begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkStep {
    /// So many bytes of framing: drop them and step again.
    Framing(usize),
    /// So many bytes of the body, in the input or still to come: report those taken with
    /// [`ChunkDecoder::took`].
    Data(u64),
    /// Nothing: the body is over, what follows is the next message.
    End,
}

/// Finds the body in a chunked stream without touching its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkDecoder(State);

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Size,
    Data(u64),
    ChunkEnd,
    Trailers { left: usize },
    End,
}

impl Default for ChunkDecoder {
    fn default() -> Self {
        ChunkDecoder::new()
    }
}

impl ChunkDecoder {
    /// At the beginning of a body.
    #[must_use]
    pub fn new() -> ChunkDecoder {
        ChunkDecoder(State::Size)
    }

    /// Looks at the unread `input`; `None`: more bytes are needed, never more than 8 KiB.
    ///
    /// # Errors
    /// If the stream breaks the rules; it cannot be read further.
    pub fn step(&mut self, input: &[u8]) -> Result<Option<ChunkStep>, ChunkError> {
        match self.0 {
            State::Data(left) => Ok(Some(ChunkStep::Data(left))),
            State::End => Ok(Some(ChunkStep::End)),
            State::ChunkEnd => {
                let seen = input.get(..CHUNK_END.len()).unwrap_or(input);
                if !CHUNK_END.starts_with(seen) {
                    return Err(ChunkError::ChunkEnd);
                }
                if seen.len() < CHUNK_END.len() {
                    return Ok(None);
                }
                self.0 = State::Size;
                Ok(Some(ChunkStep::Framing(CHUNK_END.len())))
            }
            State::Size => {
                let Some((line, used)) = line(input, SIZE_LINE_LEN_MAX)? else { return Ok(None) };
                let size = chunk_size(line)?;
                let trailers = State::Trailers { left: TRAILERS_LEN_MAX };
                self.0 = if size == 0 { trailers } else { State::Data(size) };
                Ok(Some(ChunkStep::Framing(used)))
            }
            State::Trailers { left } => {
                let Some((line, used)) = line(input, left)? else { return Ok(None) };
                let left = left.saturating_sub(used);
                self.0 = if line.is_empty() { State::End } else { State::Trailers { left } };
                Ok(Some(ChunkStep::Framing(used)))
            }
        }
    }

    /// Says that `len` bytes of the current chunk were taken.
    pub fn took(&mut self, len: u64) {
        if let State::Data(left) = self.0 {
            debug_assert!(len <= left, "more than the chunk holds");
            let left = left.saturating_sub(len);
            self.0 = if left == 0 { State::ChunkEnd } else { State::Data(left) };
        }
    }
}

/// The line that `input` begins with, without its CRLF, and its length with it.
fn line(input: &[u8], len_max: usize) -> Result<Option<(&[u8], usize)>, ChunkError> {
    let window = input.get(..len_max).unwrap_or(input);
    let (text, used) = match window.iter().position(|&byte| byte == b'\n') {
        Some(at) => {
            let text = window.get(..at).and_then(|line| line.strip_suffix(b"\r"));
            (text.ok_or(ChunkError::Line)?, at.saturating_add(1))
        }
        None if input.len() >= len_max => return Err(ChunkError::TooLong),
        // The last byte may be the CR of a line end that is still to come.
        None => (window.strip_suffix(b"\r").unwrap_or(window), 0),
    };
    if text.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(ChunkError::Line);
    }
    Ok((used > 0).then_some((text, used)))
}

fn chunk_size(line: &[u8]) -> Result<u64, ChunkError> {
    let digits = line.split(|&byte| byte == b';').next().unwrap_or_default();
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(ChunkError::Size);
    }
    let text = std::str::from_utf8(digits).map_err(|_| ChunkError::Size)?;
    u64::from_str_radix(text, 16).map_err(|_| ChunkError::Size)
}

/// Writes what stands before a chunk of `len` bytes, which must not be zero: that would end the
/// body. [`CHUNK_END`] follows the bytes, [`LAST_CHUNK`] the last chunk.
pub fn encode_chunk_head(len: u64, out: &mut Vec<u8>) {
    debug_assert!(len > 0, "an empty chunk ends the body");
    out.extend_from_slice(format!("{len:x}\r\n").as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes a whole body, fed in pieces of `piece` bytes; the body and what was not used.
    fn decode(input: &[u8], piece: usize) -> Result<Option<(Vec<u8>, usize)>, ChunkError> {
        let mut decoder = ChunkDecoder::new();
        let (mut body, mut at, mut end) = (Vec::new(), 0, 0);
        loop {
            match decoder.step(&input[at..end])? {
                None if end == input.len() => return Ok(None),
                None => end = input.len().min(end + piece),
                Some(ChunkStep::Framing(used)) => at += used,
                Some(ChunkStep::End) => return Ok(Some((body, at))),
                Some(ChunkStep::Data(left)) => {
                    let len = (end - at).min(usize::try_from(left).unwrap_or(usize::MAX));
                    body.extend_from_slice(&input[at..at + len]);
                    decoder.took(len as u64);
                    at += len;
                    if len == 0 && end == input.len() {
                        return Ok(None);
                    }
                    end = input.len().min(end + piece);
                }
            }
        }
    }

    #[test]
    fn a_body_decodes_the_same_however_it_is_cut() {
        let input =
            b"4\r\nWiki\r\n5;a=b\r\npedia\r\n0E\r\n in\r\n\r\nchunks.\r\n0\r\nX: y\r\n\r\nGET /";
        let body = b"Wikipedia in\r\n\r\nchunks.".to_vec();
        for piece in 1..=input.len() {
            assert_eq!(decode(input, piece), Ok(Some((body.clone(), input.len() - 5))));
        }
        for len in 0..input.len() - 5 {
            assert_eq!(decode(&input[..len], 7), Ok(None), "cut at {len}");
        }
    }

    #[test]
    fn what_is_encoded_decodes() {
        let mut out = Vec::new();
        for chunk in [&b"x"[..], &[7; 4096]] {
            encode_chunk_head(chunk.len() as u64, &mut out);
            out.extend_from_slice(chunk);
            out.extend_from_slice(CHUNK_END);
        }
        out.extend_from_slice(LAST_CHUNK);
        let (body, used) = decode(&out, 100).unwrap().unwrap();
        assert_eq!((body.len(), used), (4097, out.len()));
    }

    #[test]
    fn broken_bodies_are_refused() {
        let long = [b'0'; 300];
        let trailers = [&b"0\r\n"[..], &b"a: b\r\n".repeat(2000)].concat();
        for (input, why) in [
            (&b"x\r\n"[..], ChunkError::Size),
            (b"\r\n", ChunkError::Size),
            (b"-1\r\n", ChunkError::Size),
            (b"+5\r\nhello\r\n", ChunkError::Size),
            (b"0x5\r\nhello\r\n", ChunkError::Size),
            (b"5 \r\nhello\r\n", ChunkError::Size),
            (b"ffffffffffffffff\r\n", ChunkError::Size),
            (b"5\nhello\r\n", ChunkError::Line),
            (b"5;\r5\r\nhello\r\n", ChunkError::Line),
            (b"5\r\nhelloX", ChunkError::ChunkEnd),
            (b"5\r\nhello\n0\r\n\r\n", ChunkError::ChunkEnd),
            (b"0\r\nX: y\n\r\n", ChunkError::Line),
            (&long, ChunkError::TooLong),
            (&trailers, ChunkError::TooLong),
        ] {
            let shown = String::from_utf8_lossy(input.get(..20).unwrap_or(input)).into_owned();
            assert_eq!(decode(input, 1), Err(why), "{shown:?}");
        }
    }
}
