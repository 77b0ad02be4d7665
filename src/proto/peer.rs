//! The peer wire protocol: handshake and messages (BEP 3, 6, 10, 20).
//!
//! A block's bytes are not a value here: [`Frame::Block`] is the head of a `piece` message, and the
//! caller reads the body from the wire to where it belongs.

use std::fmt;

use crate::base::hash::Sha1Hash;
use crate::base::rng::Rng;
use crate::limits::{BLOCK_LEN_MAX, PEER_MESSAGE_LEN_MAX};

/// Length of a [`Handshake`] on the wire.
pub const HANDSHAKE_LEN: usize = 68;
/// Length of the head of a `piece` message on the wire: the length, the id, the piece, and where in
/// it the block begins.
pub const BLOCK_HEAD_LEN: usize = 13;

const PROTOCOL: &[u8; 20] = b"\x13BitTorrent protocol";
/// Of the id, the piece and the begin of a `piece` message: its length without the block.
const BLOCK_HEAD_COUNTED: u32 = 9;

/// The ids of the messages on the wire.
mod id {
    pub const CHOKE: u8 = 0;
    pub const UNCHOKE: u8 = 1;
    pub const INTERESTED: u8 = 2;
    pub const NOT_INTERESTED: u8 = 3;
    pub const HAVE: u8 = 4;
    pub const BITFIELD: u8 = 5;
    pub const REQUEST: u8 = 6;
    pub const PIECE: u8 = 7;
    pub const CANCEL: u8 = 8;
    pub const PORT: u8 = 9;
    pub const SUGGEST: u8 = 13;
    pub const HAVE_ALL: u8 = 14;
    pub const HAVE_NONE: u8 = 15;
    pub const REJECT: u8 = 16;
    pub const ALLOWED_FAST: u8 = 17;
    pub const EXTENDED: u8 = 20;
}

/// Who a peer says it is: 20 bytes that say little about honest peers and nothing about others.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(pub [u8; 20]);

impl PeerId {
    /// The client and version part of our own ids (BEP 20): `TC`, version 0.1.
    const OURS: &[u8; 8] = b"-TC0100-";

    /// An id for this process.
    #[must_use]
    pub fn random(rng: &mut Rng) -> PeerId {
        const DIGITS: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut id = [0; 20];
        let (client, rest) = id.split_at_mut(PeerId::OURS.len());
        client.copy_from_slice(PeerId::OURS);
        for byte in rest {
            *byte = DIGITS.get(rng.index(DIGITS.len())).copied().unwrap_or(b'0');
        }
        PeerId(id)
    }

    /// Whether the peer says that it is this program, of whatever version.
    #[must_use]
    pub fn is_ours(&self) -> bool {
        self.0.starts_with(b"-TC")
    }
}

/// The client and version part, and the rest in hexadecimal: `-TC0100-6b3f..`.
impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (client, rest) = self.0.split_at(8);
        if client.iter().all(u8::is_ascii_graphic) {
            client.iter().try_for_each(|byte| write!(f, "{}", char::from(*byte)))?;
        } else {
            client.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        }
        rest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first 68 bytes of either side (BEP 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handshake {
    /// What the sender can do, one bit each.
    pub reserved: [u8; 8],
    /// Which swarm it is about.
    pub info_hash: Sha1Hash,
    /// Who the sender says it is.
    pub peer_id: PeerId,
}

impl Handshake {
    /// Our handshake: we speak the fast extension (BEP 6) and the extension protocol (BEP 10).
    #[must_use]
    pub fn ours(info_hash: Sha1Hash, peer_id: PeerId) -> Handshake {
        Handshake { reserved: [0, 0, 0, 0, 0, 0x10, 0, 0x04], info_hash, peer_id }
    }

    /// Whether the sender speaks the fast extension (BEP 6).
    #[must_use]
    pub fn supports_fast(&self) -> bool {
        let [.., flags] = self.reserved;
        flags & 0x04 != 0
    }

    /// Whether the sender speaks the extension protocol (BEP 10).
    #[must_use]
    pub fn supports_extensions(&self) -> bool {
        let [.., flags, _, _] = self.reserved;
        flags & 0x10 != 0
    }

    /// Reads a handshake from the start of `input`; `None`: more bytes are needed.
    ///
    /// # Errors
    /// As soon as a byte differs from what every handshake begins with.
    pub fn decode(input: &[u8]) -> Result<Option<(Handshake, usize)>, PeerError> {
        let begins_right = input.iter().zip(PROTOCOL).all(|(have, want)| have == want);
        if !begins_right {
            return Err(match input.first() {
                Some(0x13) => PeerError::OtherProtocol,
                _ => PeerError::NoHandshake,
            });
        }
        let Some((head, _)) = input.split_first_chunk::<HANDSHAKE_LEN>() else { return Ok(None) };
        let (_, rest) = head.split_at(PROTOCOL.len());
        let mut fields = Fields(rest);
        let handshake = Handshake {
            reserved: fields.take()?,
            info_hash: Sha1Hash(fields.take()?),
            peer_id: PeerId(fields.take()?),
        };
        Ok(Some((handshake, HANDSHAKE_LEN)))
    }

    /// Appends the [`HANDSHAKE_LEN`] bytes to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(PROTOCOL);
        out.extend_from_slice(&self.reserved);
        out.extend_from_slice(&self.info_hash.0);
        out.extend_from_slice(&self.peer_id.0);
    }
}

/// A block as a peer names it: not checked against any geometry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RawBlock {
    /// The number of the piece.
    pub piece: u32,
    /// Its first byte, counted from the piece's.
    pub begin: u32,
    /// Its length in bytes.
    pub len: u32,
}

/// Any message but `piece`. Numbers of pieces are as the peer sent them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Nothing, to keep the connection open.
    KeepAlive,
    /// The sender will not answer requests.
    Choke,
    /// The sender will answer requests.
    Unchoke,
    /// The sender would send requests if it were not choked.
    Interested,
    /// The opposite.
    NotInterested,
    /// The sender has this piece now.
    Have(u32),
    /// The pieces that the sender has; [`crate::proto::bitfield::Pieces::from_bytes`] reads it.
    Bitfield(Vec<u8>),
    /// The sender wants this block.
    Request(RawBlock),
    /// The sender no longer wants this block.
    Cancel(RawBlock),
    /// The port of the sender's DHT node (BEP 5).
    Port(u16),
    /// The receiver would do well to ask for this piece (BEP 6).
    Suggest(u32),
    /// The sender has all pieces (BEP 6).
    HaveAll,
    /// The sender has no piece (BEP 6).
    HaveNone,
    /// The sender will not answer this request (BEP 6).
    Reject(RawBlock),
    /// The sender answers requests for this piece even while it chokes (BEP 6).
    AllowedFast(u32),
    /// A message of the extension protocol (BEP 10). Id 0 is its handshake, [`crate::proto::ext`].
    Extended {
        /// As the receiver's extension handshake gave it out.
        id: u8,
        /// What the extension defines.
        payload: Vec<u8>,
    },
    /// A message with an id that we do not know; it is to be ignored (BEP 10).
    Unknown(u8),
}

impl Message {
    /// Appends the message to `out`, its length in front. Of an unknown message nothing is written.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Message::KeepAlive => out.extend_from_slice(&[0; 4]),
            Message::Choke => put(out, id::CHOKE, &[]),
            Message::Unchoke => put(out, id::UNCHOKE, &[]),
            Message::Interested => put(out, id::INTERESTED, &[]),
            Message::NotInterested => put(out, id::NOT_INTERESTED, &[]),
            Message::Have(piece) => put(out, id::HAVE, &[&piece.to_be_bytes()]),
            Message::Bitfield(bits) => put(out, id::BITFIELD, &[bits]),
            Message::Request(block) => put_block(out, id::REQUEST, *block),
            Message::Cancel(block) => put_block(out, id::CANCEL, *block),
            Message::Port(port) => put(out, id::PORT, &[&port.to_be_bytes()]),
            Message::Suggest(piece) => put(out, id::SUGGEST, &[&piece.to_be_bytes()]),
            Message::HaveAll => put(out, id::HAVE_ALL, &[]),
            Message::HaveNone => put(out, id::HAVE_NONE, &[]),
            Message::Reject(block) => put_block(out, id::REJECT, *block),
            Message::AllowedFast(piece) => put(out, id::ALLOWED_FAST, &[&piece.to_be_bytes()]),
            Message::Extended { id, payload } => put(out, id::EXTENDED, &[&[*id], payload]),
            Message::Unknown(_) => {}
        }
    }

    /// Reads the message with this id from the bytes that follow the id.
    fn of_body(id: u8, body: &[u8]) -> Result<Message, PeerError> {
        let mut fields = Fields(body);
        let message = match id {
            id::CHOKE => Message::Choke,
            id::UNCHOKE => Message::Unchoke,
            id::INTERESTED => Message::Interested,
            id::NOT_INTERESTED => Message::NotInterested,
            id::HAVE => Message::Have(fields.u32()?),
            id::BITFIELD => Message::Bitfield(fields.rest().to_vec()),
            id::REQUEST => Message::Request(fields.block()?),
            id::CANCEL => Message::Cancel(fields.block()?),
            id::PORT => Message::Port(u16::from_be_bytes(fields.take()?)),
            id::SUGGEST => Message::Suggest(fields.u32()?),
            id::HAVE_ALL => Message::HaveAll,
            id::HAVE_NONE => Message::HaveNone,
            id::REJECT => Message::Reject(fields.block()?),
            id::ALLOWED_FAST => Message::AllowedFast(fields.u32()?),
            id::EXTENDED => {
                let [id] = fields.take()?;
                Message::Extended { id, payload: fields.rest().to_vec() }
            }
            _ => {
                fields.rest();
                Message::Unknown(id)
            }
        };
        if fields.0.is_empty() { Ok(message) } else { Err(PeerError::BadLength) }
    }
}

/// What stands at the start of the bytes that a peer sent after its handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole message.
    Message(Message),
    /// The head of a `piece` message: the block's `len` bytes follow on the wire.
    Block(RawBlock),
}

impl Frame {
    /// Reads a frame from the start of `input`; `None`: more bytes are needed, at most
    /// [`PEER_MESSAGE_LEN_MAX`] and 4 in all.
    ///
    /// # Errors
    /// As soon as the length is known to be out of bounds, or not to be what the message needs.
    pub fn decode(input: &[u8]) -> Result<Option<(Frame, usize)>, PeerError> {
        let Some((len, rest)) = input.split_first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_be_bytes(*len);
        if len == 0 {
            return Ok(Some((Frame::Message(Message::KeepAlive), 4)));
        }
        if len > PEER_MESSAGE_LEN_MAX.max(BLOCK_LEN_MAX.saturating_add(BLOCK_HEAD_COUNTED)) {
            return Err(PeerError::TooLong);
        }
        let Some((&id, rest)) = rest.split_first() else { return Ok(None) };
        if id == id::PIECE {
            return Frame::block(len, rest);
        }
        if len > PEER_MESSAGE_LEN_MAX {
            return Err(PeerError::TooLong);
        }
        let body_len = (len as usize).saturating_sub(1);
        let Some(body) = rest.get(..body_len) else { return Ok(None) };
        let message = Message::of_body(id, body)?;
        Ok(Some((Frame::Message(message), body_len.saturating_add(5))))
    }

    /// The head of a `piece` message of `len` bytes, of which `rest` follows the id.
    fn block(len: u32, rest: &[u8]) -> Result<Option<(Frame, usize)>, PeerError> {
        let block_len = len.checked_sub(BLOCK_HEAD_COUNTED).ok_or(PeerError::BadLength)?;
        if block_len > BLOCK_LEN_MAX {
            return Err(PeerError::TooLong);
        }
        let Some((head, _)) = rest.split_first_chunk::<8>() else { return Ok(None) };
        let mut fields = Fields(head);
        let block = RawBlock { piece: fields.u32()?, begin: fields.u32()?, len: block_len };
        Ok(Some((Frame::Block(block), BLOCK_HEAD_LEN)))
    }
}

/// The head of the `piece` message that carries `block`; its bytes follow.
#[must_use]
pub fn encode_block_head(block: RawBlock) -> [u8; BLOCK_HEAD_LEN] {
    let [l0, l1, l2, l3] = block.len.saturating_add(BLOCK_HEAD_COUNTED).to_be_bytes();
    let [p0, p1, p2, p3] = block.piece.to_be_bytes();
    let [b0, b1, b2, b3] = block.begin.to_be_bytes();
    [l0, l1, l2, l3, id::PIECE, p0, p1, p2, p3, b0, b1, b2, b3]
}

/// Bytes that no honest peer sends. The connection is of no more use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerError {
    /// The first byte begins no handshake. Message stream encryption begins so; its users come back
    /// in plain when the connection is closed.
    NoHandshake,
    /// A handshake of another protocol.
    OtherProtocol,
    /// A message or a block longer than the bounds allow.
    TooLong,
    /// A message whose length is not what its id needs.
    BadLength,
}

impl fmt::Display for PeerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PeerError::NoHandshake => "no plain handshake (an encrypted one begins like this)",
            PeerError::OtherProtocol => "a handshake of another protocol",
            PeerError::TooLong => "a message or block that is too long",
            PeerError::BadLength => "a message with the wrong length",
        })
    }
}

impl std::error::Error for PeerError {}

/// The fields of a message, taken from the front.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], PeerError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(PeerError::BadLength)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, PeerError> {
        self.take().map(u32::from_be_bytes)
    }

    fn block(&mut self) -> Result<RawBlock, PeerError> {
        Ok(RawBlock { piece: self.u32()?, begin: self.u32()?, len: self.u32()? })
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}

/// Appends a message of `fields`, its length in front.
fn put(out: &mut Vec<u8>, id: u8, fields: &[&[u8]]) {
    let len = fields.iter().map(|field| field.len()).sum::<usize>().saturating_add(1);
    let len =
        u32::try_from(len).expect("no message is made that is longer than memory holds blocks");
    out.extend_from_slice(&len.to_be_bytes());
    out.push(id);
    fields.iter().for_each(|field| out.extend_from_slice(field));
}

fn put_block(out: &mut Vec<u8>, id: u8, block: RawBlock) {
    let fields = [block.piece.to_be_bytes(), block.begin.to_be_bytes(), block.len.to_be_bytes()];
    put(out, id, &[fields.as_flattened()]);
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCK: RawBlock = RawBlock { piece: 1, begin: 2 << 14, len: 1 << 14 };

    fn frame(bytes: &[u8]) -> Result<Option<(Frame, usize)>, PeerError> {
        Frame::decode(bytes)
    }

    #[test]
    fn handshake_split_anywhere_decodes_the_same() {
        let sent = Handshake::ours(Sha1Hash::of(b"x"), PeerId::random(&mut Rng::seeded(5)));
        let mut bytes = Vec::new();
        sent.encode(&mut bytes);
        for cut in 0..HANDSHAKE_LEN {
            assert_eq!(Handshake::decode(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        bytes.extend_from_slice(b"what follows");
        assert_eq!(Handshake::decode(&bytes), Ok(Some((sent, HANDSHAKE_LEN))));
        assert!(sent.supports_fast() && sent.supports_extensions());
        let nothing = Handshake { reserved: [0; 8], ..sent };
        assert!(!nothing.supports_fast() && !nothing.supports_extensions());
    }

    #[test]
    fn other_protocols_are_known_by_their_first_wrong_byte() {
        assert_eq!(Handshake::decode(b"\x12"), Err(PeerError::NoHandshake));
        assert_eq!(Handshake::decode(b"GET / HTTP/1.1"), Err(PeerError::NoHandshake));
        assert_eq!(Handshake::decode(b"\x13BitTorrent Protocol"), Err(PeerError::OtherProtocol));
        assert_eq!(Handshake::decode(b"\x13b"), Err(PeerError::OtherProtocol));
    }

    #[test]
    fn messages_round_trip_and_a_cut_needs_more() {
        for message in [
            Message::KeepAlive,
            Message::Choke,
            Message::Unchoke,
            Message::Interested,
            Message::NotInterested,
            Message::Have(7),
            Message::Bitfield(vec![0xff, 0x80]),
            Message::Request(BLOCK),
            Message::Cancel(BLOCK),
            Message::Port(6881),
            Message::Suggest(8),
            Message::HaveAll,
            Message::HaveNone,
            Message::Reject(BLOCK),
            Message::AllowedFast(9),
            Message::Extended { id: 3, payload: b"d1:ai1ee".to_vec() },
            Message::Extended { id: 0, payload: vec![] },
        ] {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            let len = bytes.len();
            for cut in 0..len {
                assert_eq!(frame(&bytes[..cut]), Ok(None), "{message:?} cut at {cut}");
            }
            bytes.push(0xff);
            assert_eq!(frame(&bytes), Ok(Some((Frame::Message(message), len))));
        }
    }

    #[test]
    fn head_of_a_block_is_known_without_its_body() {
        let head = encode_block_head(BLOCK);
        assert_eq!(head, *b"\0\0\x40\x09\x07\0\0\0\x01\0\0\x80\0");
        for cut in 0..BLOCK_HEAD_LEN {
            assert_eq!(frame(&head[..cut]), Ok(None), "cut at {cut}");
        }
        assert_eq!(frame(&head), Ok(Some((Frame::Block(BLOCK), BLOCK_HEAD_LEN))));
    }

    #[test]
    fn unknown_messages_are_passed_over() {
        assert_eq!(
            frame(b"\0\0\0\x03\x63ab\0"),
            Ok(Some((Frame::Message(Message::Unknown(0x63)), 7)))
        );
    }

    #[test]
    fn lengths_are_bounded_as_soon_as_they_are_known() {
        let head = |len: u32, id: u8| [&len.to_be_bytes()[..], &[id]].concat();
        assert_eq!(
            frame(&u32::MAX.to_be_bytes()),
            Err(PeerError::TooLong),
            "four bytes are enough"
        );
        assert_eq!(frame(&head(PEER_MESSAGE_LEN_MAX, id::BITFIELD)), Ok(None));
        assert_eq!(frame(&head(PEER_MESSAGE_LEN_MAX + 1, id::BITFIELD)), Err(PeerError::TooLong));
        assert_eq!(frame(&head(BLOCK_LEN_MAX + 9, id::PIECE)), Ok(None));
        assert_eq!(frame(&head(BLOCK_LEN_MAX + 10, id::PIECE)), Err(PeerError::TooLong));
        assert_eq!(frame(&head(8, id::PIECE)), Err(PeerError::BadLength));
    }

    #[test]
    fn a_length_that_the_id_does_not_have_is_refused() {
        for (id, right) in [
            (id::CHOKE, 1),
            (id::INTERESTED, 1),
            (id::HAVE, 5),
            (id::REQUEST, 13),
            (id::PORT, 3),
            (id::HAVE_ALL, 1),
            (id::REJECT, 13),
        ] {
            for len in (1..20u32).filter(|len| *len != right) {
                let body = vec![0; len as usize - 1];
                let bytes = [&len.to_be_bytes()[..], &[id], &body].concat();
                assert_eq!(frame(&bytes), Err(PeerError::BadLength), "id {id}, length {len}");
            }
        }
        assert_eq!(frame(b"\0\0\0\x01\x14"), Err(PeerError::BadLength), "no extension id");
    }

    #[test]
    fn our_ids_are_ours_and_differ() {
        let mut rng = Rng::seeded(1);
        let (one, other) = (PeerId::random(&mut rng), PeerId::random(&mut rng));
        assert!(one.is_ours() && other.is_ours());
        assert_ne!(one, other);
        assert!(one.to_string().starts_with("-TC0100-"));
        assert!(!PeerId(*b"-LT2080-aoV3PuI7N.KD").is_ours());
        assert!(PeerId([0x1b; 20]).to_string().chars().all(|c| c.is_ascii_hexdigit()));
    }
}
