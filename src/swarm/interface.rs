//! What goes into a [`Swarm`](crate::swarm::Swarm) and what comes out: the contract with the
//! engine.
//!
//! The engine holds the bytes. The swarm sees heads of blocks, says what becomes of the bytes, and
//! says what is to be sent, dialled, hashed, announced.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::base::blame::Blame;
use crate::base::hash::Sha1Hash;
use crate::proto::geometry::{Block, PieceIndex, Span};
use crate::proto::peer::{Message, PeerId, RawBlock};
use crate::proto::tracker::AnnounceEvent;

/// One connected peer. The engine hands the numbers out and uses none twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What a swarm may use.
#[derive(Clone, Debug)]
pub struct Config {
    /// Our id in handshakes: a peer that shows it is ourselves.
    pub peer_id: PeerId,
    /// The most links at once, at least 1. Half of them are dialled, so that there is room for
    /// others to reach us.
    pub links_max: usize,
    /// The most links that are served at once, at least 1.
    pub upload_slots: usize,
    /// The most bytes of pieces in flight, collected and not yet stored: this swarm's share of
    /// [`crate::limits::PIECE_BYTES_IN_FLIGHT_MAX`]. One piece is always allowed.
    pub bytes_in_flight_max: u64,
    /// How far ahead of each in-order reader pieces are asked for before all others, in bytes.
    /// Farther while as many have everything as fetch: then it need not be saved who sends what.
    pub reader_window: u64,
    /// Whether the hashes of all pieces are known. If not, each peer tells those of what it has
    /// ([`Input::Hashes`]), and answers for them: a piece is asked for only of peers that told the
    /// same hash of it, and if its bytes have another, it is they who lied.
    pub hashes_known: bool,
}

impl Config {
    /// The usual limits for a host on a local network.
    #[must_use]
    pub fn usual(peer_id: PeerId) -> Config {
        Config {
            peer_id,
            links_max: crate::limits::LINKS_PER_SWARM_MAX,
            // Everyone: on a local network the uplink is shared well by TCP, and whoever is not
            // served cannot do its share.
            upload_slots: crate::limits::LINKS_PER_SWARM_MAX,
            bytes_in_flight_max: 64 << 20,
            reader_window: 2 << 20,
            hashes_known: true,
        }
    }
}

/// Where an address came from, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The tracker told it.
    Tracker,
    /// A peer told its own port in its extension handshake.
    Peer,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// Both handshakes are done. Nothing has been sent on the link since.
    LinkUp {
        /// The link.
        link: LinkId,
        /// The other end; of an incoming link, its port is not one to dial.
        address: SocketAddr,
        /// What the peer calls itself.
        peer_id: PeerId,
        /// Whether the peer dialled us.
        incoming: bool,
        /// Whether both sides speak the fast extension (BEP 6).
        fast: bool,
        /// Whether the peer is this program: it is worth asking for larger blocks.
        ours: bool,
    },
    /// The peer's extension handshake (BEP 10).
    ExtHandshake {
        /// The link.
        link: LinkId,
        /// The longest block that it answers with; 16 KiB if it did not say.
        block_len_max: u32,
        /// How many requests it lets wait (`reqq`).
        requests_max: usize,
        /// Where it listens, if it said so.
        listen_port: Option<u16>,
    },
    /// The link is gone, for whatever reason but an [`Action::Close`].
    LinkDown {
        /// The link.
        link: LinkId,
    },
    /// Any message but a block.
    Message {
        /// The link.
        link: LinkId,
        /// What was said.
        message: Message,
    },
    /// A block's bytes arrived. The first action says what becomes of them: [`Action::Keep`] or
    /// [`Action::Drop`].
    Block {
        /// The link.
        link: LinkId,
        /// What it says it is.
        block: RawBlock,
    },
    /// The block of an [`Action::SendBlock`] is on its way: the writer may take another.
    BlockSent {
        /// The link.
        link: LinkId,
        /// Which.
        block: Block,
    },
    /// The piece is on disk and readable, wherever it came from: the outcome of [`Action::Verify`],
    /// or a claimed piece that the upstream brought. Its hash is known from now on. Told twice, it
    /// counts once.
    Stored {
        /// Which.
        piece: PieceIndex,
    },
    /// What the units of a piece hash to whose hash is right: before [`Input::Stored`], if
    /// [`Action::Verify`] wanted it.
    Proof {
        /// Which.
        piece: PieceIndex,
        /// The SHA-1 of each [`crate::limits::BLOCK_LEN`] bytes of it, and of the rest.
        units: Vec<Sha1Hash>,
    },
    /// The outcome of [`Action::Verify`] if the hash is wrong. The engine has thrown the bytes
    /// away.
    Corrupt {
        /// Which.
        piece: PieceIndex,
        /// The SHA-1 of each [`crate::limits::BLOCK_LEN`] bytes of it, and of the rest.
        units: Vec<Sha1Hash>,
    },
    /// Where in-order readers stand now: all of them, sorted offsets.
    Readers {
        /// Offsets into the blob.
        offsets: Vec<u64>,
    },
    /// A peer tells hashes of pieces, before it says that it has them or after. Without effect if
    /// [`Config::hashes_known`].
    Hashes {
        /// The link.
        link: LinkId,
        /// The number of each piece, as it was told, and its hash.
        hashes: Vec<(u32, Sha1Hash)>,
    },
    /// Addresses of peers.
    Candidates {
        /// Where they listen.
        addresses: Vec<SocketAddr>,
        /// Who said so.
        source: Source,
    },
    /// An [`Action::Dial`] did not end in [`Input::LinkUp`].
    DialFailed {
        /// The dialled address.
        address: SocketAddr,
    },
    /// The tracker answered an [`Action::Announce`].
    Announced {
        /// How long it wants us to wait until the next.
        interval: Duration,
    },
    /// The tracker could not be reached or refused.
    AnnounceFailed,
    /// The upstream wants a run of missing pieces, whether their hashes are known or not. The first
    /// action is [`Action::Claimed`].
    Claim {
        /// The run starts with the first free piece that ends after this offset.
        from: u64,
        /// At most this many bytes, but at least one piece.
        max_len: u64,
        /// Whether pieces that links are busy with may be taken from them.
        steal: bool,
    },
    /// The upstream gives back what it claimed and did not store.
    Release {
        /// Pieces that it covers wholly or in part; those not claimed are left alone.
        span: Span,
    },
    /// This swarm's share of memory changed: [`Config::bytes_in_flight_max`].
    Share {
        /// The new bound.
        bytes_in_flight_max: u64,
    },
    /// The time of [`Swarm::next_deadline`](crate::swarm::Swarm::next_deadline) has come.
    Timeout,
    /// Say good-bye: the last input.
    Leave,
}

/// Something to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Send a message.
    Send {
        /// On which link.
        link: LinkId,
        /// What.
        message: Message,
    },
    /// Send a block of a stored piece, then say [`Input::BlockSent`].
    SendBlock {
        /// On which link.
        link: LinkId,
        /// Which.
        block: Block,
    },
    /// Say no to a request: it will not be answered with a block. Without the fast extension (BEP
    /// 6) there is no way to say it. Every request on a link that stays open has one answer: this
    /// or [`Action::SendBlock`].
    Refuse {
        /// On which link.
        link: LinkId,
        /// What was asked for.
        block: RawBlock,
    },
    /// Hold the bytes of [`Input::Block`] until the piece is verified or discarded.
    Keep {
        /// The same block, checked.
        block: Block,
    },
    /// The bytes of [`Input::Block`] are not wanted.
    Drop,
    /// All blocks of the piece are held: hash them; if right, write them and say [`Input::Stored`],
    /// if wrong, throw them away and say [`Input::Corrupt`].
    Verify {
        /// Which.
        piece: PieceIndex,
        /// What those told who sent it; `None`: [`Config::hashes_known`].
        hash: Option<Sha1Hash>,
        /// Whether to say [`Input::Proof`] if it is right.
        proof: bool,
    },
    /// Throw away the blocks held of this piece.
    Discard {
        /// Which.
        piece: PieceIndex,
    },
    /// Close the link; the swarm has forgotten it.
    Close {
        /// Which.
        link: LinkId,
        /// For the log.
        why: CloseReason,
    },
    /// Take nothing from this address again.
    Ban {
        /// Whose.
        address: IpAddr,
    },
    /// Connect to this address, then say [`Input::LinkUp`] or [`Input::DialFailed`].
    Dial {
        /// Where.
        address: SocketAddr,
    },
    /// Tell the tracker, then say [`Input::Announced`] or [`Input::AnnounceFailed`].
    Announce {
        /// What happened.
        event: AnnounceEvent,
    },
    /// The answer to [`Input::Claim`]: whole pieces in a row, nobody else's until they are stored
    /// or released; `None` if there is no such piece.
    Claimed {
        /// The run.
        span: Option<Span>,
    },
    /// All pieces are stored.
    Complete,
}

/// Why a link is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// A number of a piece that does not exist.
    BadPiece,
    /// A request or cancel for a block that does not exist or is too long.
    BadBlock,
    /// A bitfield that does not fit the geometry.
    BadBitfield,
    /// A message that may not come now, or not at all without the fast extension.
    OutOfTurn,
    /// Two hashes of one piece.
    TwoHashes,
    /// A piece that it alone sent had the wrong hash.
    Corrupt,
    /// It was banned for what it did on another link.
    Banned,
    /// The peer is this process.
    Ourselves,
    /// There is another link to the same peer.
    Duplicate,
    /// There are links enough.
    Full,
    /// Both have all pieces.
    BothComplete,
    /// This host leaves the swarm.
    Leaving,
}

impl CloseReason {
    /// Who is to blame.
    #[must_use]
    pub fn blame(self) -> Blame {
        match self {
            CloseReason::BadPiece
            | CloseReason::BadBlock
            | CloseReason::BadBitfield
            | CloseReason::OutOfTurn
            | CloseReason::TwoHashes
            | CloseReason::Corrupt
            | CloseReason::Banned => Blame::Peer,
            CloseReason::Ourselves
            | CloseReason::Duplicate
            | CloseReason::Full
            | CloseReason::BothComplete
            | CloseReason::Leaving => Blame::Local,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            CloseReason::BadPiece => "it named a piece that does not exist",
            CloseReason::BadBlock => "it asked for a block that does not exist or is too long",
            CloseReason::BadBitfield => "its bitfield does not fit",
            CloseReason::OutOfTurn => "it sent a message out of turn",
            CloseReason::TwoHashes => "it told two hashes of one piece",
            CloseReason::Corrupt => "it sent a corrupt piece",
            CloseReason::Banned => "its address is banned",
            CloseReason::Ourselves => "it is this process",
            CloseReason::Duplicate => "there is another link to the same peer",
            CloseReason::Full => "there are links enough",
            CloseReason::BothComplete => "both have all pieces",
            CloseReason::Leaving => "this host leaves the swarm",
        })
    }
}
