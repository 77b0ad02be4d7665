//! Whether a file of an archive repository is the object that it is named for (libostree,
//! `ostree-core.c`).
//!
//! A `.filez` is a header, and the bytes of the file as raw deflate (RFC 1951). Its name is the
//! SHA-256 of a header without the length, and of the bytes themselves.

use std::fmt;

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZError, MZFlush, MZStatus};

use crate::base::hash::{Algorithm, ContentHasher};
use crate::limits;
use crate::proto::ostree::Checksum;
use crate::proto::ostree::gvariant::offset_width;

/// Length of what stands before the header: its length, and four zeros.
const PREFIX_LEN: usize = 8;
/// Where in the header `(tuuuusa(ayay))` the mode lies, and the target of a link.
const MODE_AT: usize = 16;
const TARGET_AT: usize = 24;
/// The bits of a mode that tell the kind of a file, and those of a link.
const KIND_OF_FILE: u32 = 0o170_000;
const LINK: u32 = 0o120_000;
/// How much is unpacked at a time.
const WINDOW_LEN: usize = 32 << 10;

/// Bytes that are not the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilezError {
    /// They are no `.filez`.
    Malformed,
    /// They are that of another object.
    Other,
}

impl fmt::Display for FilezError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FilezError::Malformed => "the object is malformed",
            FilezError::Other => "the bytes of the object are not those of its name",
        })
    }
}

impl std::error::Error for FilezError {}

/// Takes the bytes of a `.filez` in order. It holds [`limits::FILEZ_HEADER_LEN_MAX`] of them at
/// most.
pub struct FilezCheck {
    checksum: Checksum,
    hasher: ContentHasher,
    state: State,
}

enum State {
    /// The header comes; what has come of it.
    Header(Vec<u8>),
    /// The bytes of a file come.
    Content(Box<Content>),
    /// Nothing more is to come.
    Ended,
    Failed,
}

struct Content {
    inflate: Box<InflateState>,
    window: Vec<u8>,
    /// Bytes of the file that may still come.
    left: u64,
}

impl FilezCheck {
    /// A check against this name.
    #[must_use]
    pub fn new(checksum: Checksum) -> FilezCheck {
        let hasher = ContentHasher::new(Algorithm::Sha256);
        FilezCheck { checksum, hasher, state: State::Header(Vec::new()) }
    }

    /// Takes the next bytes. What is wrong with them shows in [`FilezCheck::finish`].
    pub fn update(&mut self, bytes: &[u8]) {
        let state = std::mem::replace(&mut self.state, State::Failed);
        self.state = match state {
            _ if bytes.is_empty() => state,
            State::Header(mut head) => {
                // What is beyond the header is not kept.
                let wanted = wanted_len(&head).saturating_sub(head.len()).min(bytes.len());
                let (part, rest) = bytes.split_at_checked(wanted).unwrap_or((bytes, &[]));
                head.extend_from_slice(part);
                let is_whole = head.len() >= wanted_len(&head);
                self.state =
                    if is_whole { self.content_behind(&head) } else { State::Header(head) };
                return self.update(rest);
            }
            State::Content(mut content) => match self.unpack(&mut content, bytes) {
                Some(true) => State::Ended,
                Some(false) => State::Content(content),
                None => State::Failed,
            },
            State::Ended | State::Failed => State::Failed,
        };
    }

    /// Says whether all that came is the object.
    ///
    /// # Errors
    /// [`FilezError`].
    pub fn finish(self) -> Result<(), FilezError> {
        match self.state {
            State::Ended if self.hasher.finish() == self.checksum.0 => Ok(()),
            State::Ended => Err(FilezError::Other),
            _ => Err(FilezError::Malformed),
        }
    }

    /// Hashes the header, and says what comes behind it.
    fn content_behind(&mut self, head: &[u8]) -> State {
        match hashed_header(head) {
            None => State::Failed,
            Some(Header { hashed, len, is_link }) => {
                self.hasher.update(&hashed);
                if is_link {
                    return State::Ended;
                }
                let inflate = InflateState::new_boxed(DataFormat::Raw);
                let window = vec![0; WINDOW_LEN];
                State::Content(Box::new(Content { inflate, window, left: len }))
            }
        }
    }

    /// Unpacks and hashes; whether that was all of the file. `None`: they are no deflate, more than
    /// the header says, or something stands behind them.
    fn unpack(&mut self, content: &mut Content, mut bytes: &[u8]) -> Option<bool> {
        loop {
            let result = inflate(&mut content.inflate, bytes, &mut content.window, MZFlush::None);
            bytes = bytes.get(result.bytes_consumed..)?;
            let unpacked = content.window.get(..result.bytes_written)?;
            content.left = content.left.checked_sub(unpacked.len() as u64)?;
            self.hasher.update(unpacked);
            match result.status {
                Ok(MZStatus::StreamEnd) => return bytes.is_empty().then_some(true),
                // There may be more inside than the window has room for.
                Ok(_) if result.bytes_consumed > 0 || result.bytes_written > 0 => {}
                Ok(_) | Err(MZError::Buf) => return bytes.is_empty().then_some(false),
                Err(_) => return None,
            }
        }
    }
}

impl fmt::Debug for FilezCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilezCheck of {}", self.checksum)
    }
}

/// How much of the start has to be there to go on: the prefix, then the header that it announces.
fn wanted_len(head: &[u8]) -> usize {
    let Some((len, _)) = head.split_first_chunk() else { return PREFIX_LEN };
    let len = usize::try_from(u32::from_be_bytes(*len)).unwrap_or(usize::MAX);
    if len > limits::FILEZ_HEADER_LEN_MAX || head.len() < PREFIX_LEN {
        // The first is refused below.
        return PREFIX_LEN;
    }
    len.saturating_add(PREFIX_LEN)
}

/// What a header says.
struct Header {
    /// The header over which the checksum is, with its prefix.
    hashed: Vec<u8>,
    /// Length of the file in bytes.
    len: u64,
    is_link: bool,
}

/// Reads the start of a `.filez` up to the end of its header.
fn hashed_header(start: &[u8]) -> Option<Header> {
    let header = start.get(PREFIX_LEN..)?;
    let announced = u32::from_be_bytes(*start.first_chunk()?);
    if usize::try_from(announced) != Ok(header.len()) {
        return None;
    }
    let width = offset_width(header.len());
    let (fields, offset) = header.split_at_checked(header.len().checked_sub(width)?)?;
    let offset = offset.iter().rev().fold(0_usize, |all, byte| (all << 8) | usize::from(*byte));
    let (numbers, attributes) = fields.split_at_checked(offset).filter(|_| offset > TARGET_AT)?;
    let len = u64::from_be_bytes(*numbers.first_chunk()?);
    let mode = numbers.get(MODE_AT..)?.first_chunk()?;
    let is_link = u32::from_be_bytes(*mode) & KIND_OF_FILE == LINK;
    // The same without the length. The offset may become narrower.
    let numbers = numbers.get(size_of::<u64>()..)?;
    let fields_len = numbers.len().checked_add(attributes.len())?;
    let fits = |width: &usize| offset_width(fields_len.saturating_add(*width)) == *width;
    let width = [1, 2, 4].into_iter().find(fits)?;
    let total = u32::try_from(fields_len.checked_add(width)?).ok()?;
    let mut hashed = Vec::with_capacity(start.len());
    hashed.extend_from_slice(&total.to_be_bytes());
    hashed.extend_from_slice(&[0; 4]);
    hashed.extend_from_slice(numbers);
    hashed.extend_from_slice(attributes);
    hashed.extend_from_slice(numbers.len().to_le_bytes().get(..width)?);
    Some(Header { hashed, len, is_link })
}
