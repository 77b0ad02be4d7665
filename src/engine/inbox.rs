//! What the engine's thread is told, by whom.
//!
//! The inbox holds at most [`crate::limits::ENGINE_INBOX_MAX`] events, and no more bytes of
//! blocks than [`crate::limits::INBOX_BYTES_MAX`]; when it is full, whoever sends waits, and TCP
//! holds the peers back.

use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crate::base::blame::Blame;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::{LeanSender, Sender};
use crate::base::ranked::Ranked;
use crate::engine::announce::Answer;
use crate::engine::asked::Asked;
use crate::engine::member::Hashes;
use crate::engine::membership::Progress;
use crate::engine::owed::Owed;
use crate::engine::peer_io::Outgoing;
use crate::engine::pool::Buffer;
use crate::engine::status::SwarmStatus;
use crate::engine::waiting::Ticket;
use crate::proto::bencode::BencodeError;
use crate::proto::bitfield::Pieces;
use crate::proto::ext::ExtHandshake;
use crate::proto::geometry::{Block, Geometry, PieceIndex, Span};
use crate::proto::hashes::PieceHashes;
use crate::proto::peer::{Handshake, Message, PeerError, RawBlock};
use crate::store::{Blob, Partial, StoreError};
use crate::swarm::LinkId;

/// Which of the process's memberships; never used twice. A blob that was fetched, removed and is
/// fetched again has another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct MemberId(pub(super) u64);

/// One event.
pub(super) enum Event {
    /// A job fetches a blob.
    Join(Box<Join>),
    /// A job has a wish.
    Member(MemberId, Wish),
    /// A whole blob is gone from the store.
    Unseed(Sha1Hash),
    /// Both handshakes are through.
    LinkUp(Box<NewLink>),
    /// A message but a block or an extension handshake.
    Message(LinkId, Message),
    /// The peer's extension handshake (BEP 10).
    ExtHandshake(LinkId, Box<ExtHandshake>),
    /// The peer has told hashes of pieces.
    Hashes(LinkId, PieceHashes),
    /// A block with its bytes, and their place here.
    Block(LinkId, RawBlock, Buffer, Ticket),
    /// The link has ended; nothing comes from it any more.
    LinkDown(LinkId, LinkEnd),
    /// A candidate could not be reached, or is no peer of this swarm.
    DialFailed {
        /// Whose candidate.
        info_hash: Sha1Hash,
        /// Where it was called.
        address: SocketAddr,
    },
    /// A block is on its way to the peer.
    BlockSent(LinkId, Block),
    /// A piece's hash was right; it is on disk and readable. Its hash, unless some of what is there
    /// came from elsewhere; and those of its units, if they were wanted.
    Stored(MemberId, PieceIndex, Option<Sha1Hash>, Vec<Sha1Hash>),
    /// A piece's hash was wrong; nothing was written. The hashes of its units.
    Corrupt(MemberId, PieceIndex, Vec<Sha1Hash>),
    /// A piece could not be written.
    DiskFailed(MemberId, String),
    /// The tracker answered a swarm that asked; `None`: it did not.
    Announced(Sha1Hash, Option<Answer>),
    /// The status page asks.
    Status(Sender<Vec<SwarmStatus>>),
    /// Close all links, forget all swarms, end.
    Stop,
}

/// What a job brings.
pub(super) struct Join {
    pub(super) id: MemberId,
    pub(super) info_hash: Sha1Hash,
    pub(super) name: String,
    pub(super) geometry: Geometry,
    pub(super) hashes: Hashes,
    pub(super) partial: Arc<Partial>,
    /// The pieces that are on disk already.
    pub(super) have: Pieces,
    pub(super) progress: Arc<Ranked<Progress>>,
    /// Is called when the tracker names no peer.
    pub(super) nobody: Option<Nobody>,
}

/// Is called when a swarm turns out to be empty; must not wait.
pub(super) type Nobody = Box<dyn FnOnce() + Send>;

/// What a job wishes of its swarm; the methods of [`crate::engine::Membership`] say what each
/// means.
pub(super) enum Wish {
    Claim { from: u64, len_max: u64, steal: bool, reply: Sender<Option<Span>> },
    Release(Span),
    Stored(PieceIndex),
    Hashed(PieceIndex, Sha1Hash),
    ReadersMoved,
    Candidates(Vec<SocketAddr>),
    BecomeSeed(Arc<Blob>),
    Leave,
}

/// A connection with both handshakes through, and its threads running.
pub(super) struct NewLink {
    pub(super) id: LinkId,
    pub(super) address: SocketAddr,
    pub(super) incoming: bool,
    pub(super) theirs: Handshake,
    /// To end it at once.
    pub(super) stream: Arc<TcpStream>,
    /// What its writer thread is to send.
    pub(super) outgoing: LeanSender<Outgoing>,
    /// The blocks that the peer may send.
    pub(super) asked: Arc<Asked>,
    /// How many of its requests wait for an answer.
    pub(super) owed: Arc<Owed>,
    /// The whole blob that an incoming link asks for, if nobody fetches it.
    pub(super) seed: Option<Seed>,
}

/// A whole blob, open, with what a swarm must know of it.
#[derive(Clone)]
pub(super) struct Seed {
    pub(super) blob: Arc<Blob>,
    pub(super) geometry: Geometry,
}

/// Why a link has ended.
#[derive(Debug)]
pub(super) enum LinkEnd {
    /// The peer closed it, or we did.
    Closed,
    /// The connection failed, or the peer was silent for too long.
    Io(io::Error),
    /// The peer sent what no peer may send.
    Protocol(PeerError),
    /// The peer's extension handshake makes no sense.
    Extension(BencodeError),
    /// The peer sent too many blocks that nobody asked for.
    Unasked,
    /// Our file could not be read.
    File(StoreError),
    /// Its reader panicked.
    Panicked,
}

impl LinkEnd {
    /// Whose fault it was, if it was one.
    pub(super) fn blame(&self) -> Option<Blame> {
        match self {
            LinkEnd::Closed => None,
            LinkEnd::Io(_) | LinkEnd::Protocol(_) | LinkEnd::Extension(_) | LinkEnd::Unasked => {
                Some(Blame::Peer)
            }
            LinkEnd::File(_) | LinkEnd::Panicked => Some(Blame::Local),
        }
    }
}

impl fmt::Display for LinkEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LinkEnd::Closed => f.write_str("closed"),
            LinkEnd::Io(error) => write!(f, "connection: {error}"),
            LinkEnd::Protocol(error) => write!(f, "protocol: {error}"),
            LinkEnd::Extension(error) => write!(f, "extension handshake: {error}"),
            LinkEnd::Unasked => f.write_str("it sends what nobody asked for"),
            LinkEnd::File(error) => write!(f, "reading our file: {error}"),
            LinkEnd::Panicked => f.write_str("its thread panicked"),
        }
    }
}
