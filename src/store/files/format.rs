//! How one file of the cache lies on disk: a head, then the body.
//!
//! ```text
//! 0    8   "TCFILE1\n"
//! 8   32   SHA-256 of the body, then of everything from 40 up to the body
//! 40   8   length of the body, big endian
//! 48   4   length of the notes, big endian
//! 52       notes: lines of text, see [`FileMeta`]
//! ```
//!
//! The hash stands first and covers the body first, so that a body can be written while it comes.

use std::fmt::Write as _;

use crate::limits;
use crate::proto::http1::Headers;

/// Where the notes begin.
pub const NOTES_AT: usize = 52;
const MAGIC: &[u8; 8] = b"TCFILE1\n";

/// What is known of a stored answer beside its body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FileMeta {
    /// The URL that it is the answer to.
    pub url: String,
    /// 200 or 404.
    pub status: u16,
    /// It was given to a request without any credential.
    pub public: bool,
    /// The fields that are told to clients: its type and its validators.
    pub headers: Headers,
}

/// The head of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The hash that it promises.
    pub hash: [u8; 32],
    /// Length of the body.
    pub body_len: u64,
    /// Where the body begins.
    pub body_at: usize,
    /// What is known of it.
    pub meta: FileMeta,
}

/// The part of the head that the hash covers; `None`: the notes are too long to be kept.
pub fn encode_notes(meta: &FileMeta, body_len: u64) -> Option<Vec<u8>> {
    let mut notes = String::new();
    let access = if meta.public { "public" } else { "granted" };
    let _ = writeln!(notes, "{}\n{} {access}", meta.url, meta.status);
    let mut notes = notes.into_bytes();
    for (name, value) in meta.headers.iter() {
        // Neither can hold a line end: `Headers` sees to that.
        notes.extend_from_slice(name.as_bytes());
        notes.push(b':');
        notes.extend_from_slice(value);
        notes.push(b'\n');
    }
    if notes.len() > limits::FILE_NOTES_LEN_MAX {
        return None;
    }
    let mut bytes = body_len.to_be_bytes().to_vec();
    bytes.extend_from_slice(&u32::try_from(notes.len()).ok()?.to_be_bytes());
    bytes.extend_from_slice(&notes);
    Some(bytes)
}

/// The whole head.
pub fn encode_head(hash: &[u8; 32], notes: &[u8]) -> Vec<u8> {
    [MAGIC.as_slice(), hash, notes].concat()
}

/// Where the body begins, from the first [`NOTES_AT`] bytes; `None`: they are no head.
pub fn body_at(start: &[u8]) -> Option<usize> {
    if start.get(..8)? != MAGIC {
        return None;
    }
    let len = u32::from_be_bytes(start.get(48..NOTES_AT)?.try_into().ok()?);
    let len = usize::try_from(len).ok().filter(|len| *len <= limits::FILE_NOTES_LEN_MAX)?;
    Some(NOTES_AT + len)
}

/// Reads a head that is whole; `None`: it is not one.
pub fn decode_head(bytes: &[u8]) -> Option<Head> {
    let body_at = body_at(bytes)?;
    let hash = bytes.get(8..40)?.try_into().ok()?;
    let body_len = u64::from_be_bytes(bytes.get(40..48)?.try_into().ok()?);
    let meta = decode_notes(bytes.get(NOTES_AT..body_at)?)?;
    Some(Head { hash, body_len, body_at, meta })
}

fn decode_notes(notes: &[u8]) -> Option<FileMeta> {
    let mut lines = notes.strip_suffix(b"\n")?.split(|&byte| byte == b'\n');
    let url = std::str::from_utf8(lines.next()?).ok()?.to_owned();
    let (status, access) = std::str::from_utf8(lines.next()?).ok()?.split_once(' ')?;
    let public = match access {
        "public" => true,
        "granted" => false,
        _ => return None,
    };
    let mut headers = Headers::new();
    for line in lines {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (name, value) = line.split_at(colon);
        headers.append(std::str::from_utf8(name).ok()?, value.get(1..)?);
    }
    Some(FileMeta { url, status: status.parse().ok()?, public, headers })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meta() -> FileMeta {
        let mut headers = Headers::new();
        headers.append("ETag", "\"a:b\"");
        headers.append("Last-Modified", b"\xff odd");
        headers.append("X-Empty", "");
        FileMeta { url: "http://a/b".into(), status: 404, public: true, headers }
    }

    #[test]
    fn a_head_round_trips_and_a_cut_one_is_none() {
        for meta in [meta(), FileMeta { public: false, headers: Headers::new(), ..meta() }] {
            let notes = encode_notes(&meta, 7).unwrap();
            let bytes = encode_head(&[9; 32], &notes);
            let head = Head { hash: [9; 32], body_len: 7, body_at: bytes.len(), meta };
            assert_eq!(decode_head(&bytes), Some(head.clone()));
            assert_eq!(decode_head(&[&bytes[..], b"body"].concat()), Some(head));
            for len in 0..bytes.len() {
                assert_eq!(decode_head(&bytes[..len]), None, "cut at {len}");
            }
        }
    }

    #[test]
    fn changed_bytes_never_panic() {
        let bytes = encode_head(&[9; 32], &encode_notes(&meta(), 7).unwrap());
        for at in 0..bytes.len() {
            for change in [1, 0x80, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] ^= change;
                let _ = decode_head(&bytes);
            }
        }
    }

    #[test]
    fn notes_have_a_bound() {
        let url = "x".repeat(limits::FILE_NOTES_LEN_MAX);
        assert_eq!(encode_notes(&FileMeta { url, ..meta() }, 0), None);
    }
}
