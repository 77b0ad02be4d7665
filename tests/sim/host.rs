//! One host of the network and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use torrent_cache::base::clock::Time;
use torrent_cache::proto::geometry::{Block, Geometry, PieceIndex};
use torrent_cache::proto::peer::{PeerId, RawBlock};
use torrent_cache::swarm::{Action, LinkId, Swarm};

use crate::network::Line;

/// How a host treats others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Honest,
    /// Says that it has everything and sends wrong bytes.
    Corrupts,
    /// Says that it has everything, and sends wrong bytes once it has sent so many right ones.
    TurnsLate(u64),
    /// Says that it has everything and sends nothing.
    Withholds,
    /// Says of each piece that it has it, and refuses every request.
    FalseHave,
    /// Says that it has everything and sends each block so much later.
    Drips(Duration),
    /// Has nothing and asks for everything without end.
    Greedy,
}

impl Manner {
    /// Whether it says that it has what it does not give.
    pub fn pretends(self) -> bool {
        !matches!(self, Manner::Honest | Manner::Greedy)
    }
}

/// A host to be.
#[derive(Clone, Debug)]
pub struct Plan {
    pub line: Line,
    /// How long the disk needs for a MiB; one piece after the other.
    pub disk: Duration,
    pub seeds: bool,
    pub reads: bool,
    pub manner: Manner,
    pub arrives: Duration,
    pub dies: Option<Duration>,
    /// Nobody is told that it dies.
    pub dies_silently: bool,
    /// Bytes per second from the upstream, if it may ask there.
    pub upstream: Option<u64>,
    pub links_max: usize,
}

/// One host and what became of it.
pub struct Host {
    pub plan: Plan,
    pub swarm: Swarm,
    pub address: SocketAddr,
    pub peer_id: PeerId,
    pub alive: bool,
    pub announced: bool,
    pub links: BTreeSet<LinkId>,
    pub wake: Option<Time>,
    pub disk_free: Time,
    /// Pieces of which blocks are held, those that the disk is busy with, and for those with wrong
    /// blocks who sent which.
    pub held: BTreeSet<PieceIndex>,
    pub verifying: BTreeSet<PieceIndex>,
    pub bad: BTreeMap<PieceIndex, Vec<(Block, usize)>>,
    /// Requests that have no answer yet and were not taken back, on which link each: piece and
    /// first byte.
    asked: BTreeSet<(u32, u32, LinkId)>,
    /// Whether each piece was ever asked for.
    ever_asked: Vec<bool>,
    never_asked: usize,
    /// The reader has all bytes before this.
    pub prefix: u64,
    advanced: Time,
    pub arrived: Time,
    pub done: Option<Time>,
    pub first_byte: Option<Time>,
    /// The longest time that a reader did not advance while somebody had what it needed.
    pub longest_stall: Duration,
    /// Since when a piece that the reader needs soon is not asked for though an idle peer has it.
    pub idly_unasked: BTreeMap<PieceIndex, Time>,
    pub longest_idle: Duration,
    /// The same, as long as its own downlink was idle as well.
    pub idly_unasked_with_room: BTreeMap<PieceIndex, Time>,
    pub longest_idle_with_room: Duration,
    /// Bytes of blocks that came, by what became of them; `dropped_early`: before every piece had
    /// been asked for.
    pub kept: u64,
    pub dropped: u64,
    pub dropped_early: u64,
    pub sent: u64,
    pub from_upstream: u64,
    /// For each who sent wrong bytes, how many pieces with some were hashed before it was banned.
    pub lied: BTreeMap<usize, usize>,
    /// Hosts that it banned.
    pub banned: BTreeSet<usize>,
    /// Kept for its memory.
    pub actions: Vec<Action>,
}

impl Host {
    pub fn new(
        n: usize,
        plan: Plan,
        peer_id: PeerId,
        swarm: Swarm,
        whole: bool,
        arrived: Time,
    ) -> Host {
        let [high, low] = u16::try_from(n + 1).unwrap().to_be_bytes();
        let pieces = swarm.geometry().piece_count() as usize;
        Host {
            plan,
            swarm,
            address: SocketAddr::from(([10, 0, high, low], 6881)),
            peer_id,
            alive: true,
            announced: false,
            links: BTreeSet::new(),
            wake: None,
            disk_free: arrived,
            held: BTreeSet::new(),
            verifying: BTreeSet::new(),
            bad: BTreeMap::new(),
            asked: BTreeSet::new(),
            ever_asked: vec![false; pieces],
            never_asked: pieces,
            prefix: 0,
            advanced: arrived,
            arrived,
            done: whole.then_some(arrived),
            first_byte: None,
            longest_stall: Duration::ZERO,
            idly_unasked: BTreeMap::new(),
            longest_idle: Duration::ZERO,
            idly_unasked_with_room: BTreeMap::new(),
            longest_idle_with_room: Duration::ZERO,
            kept: 0,
            dropped: 0,
            dropped_early: 0,
            sent: 0,
            from_upstream: 0,
            lied: BTreeMap::new(),
            banned: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// It asked for a block.
    pub fn asked(&mut self, link: LinkId, block: RawBlock) {
        self.asked.insert((block.piece, block.begin, link));
        let ever = &mut self.ever_asked[block.piece as usize];
        self.never_asked -= usize::from(!std::mem::replace(ever, true));
    }

    /// It took a request back, or has an answer: the block or a refusal.
    pub fn answered(&mut self, link: LinkId, block: RawBlock) {
        self.asked.remove(&(block.piece, block.begin, link));
    }

    /// A link is gone with all its requests.
    pub fn unlinked(&mut self, link: LinkId) -> bool {
        self.asked.retain(|(_, _, of)| *of != link);
        self.links.remove(&link)
    }

    /// Whether there is no piece left to begin.
    pub fn in_end_game(&self) -> bool {
        self.never_asked == 0
    }

    /// Whether some of the piece is asked for now, or it is with the disk.
    pub fn is_under_way(&self, piece: PieceIndex) -> bool {
        let from = (piece.get(), 0, LinkId(0));
        let mut asked = self.asked.range(from..).take_while(|(of, ..)| *of == piece.get());
        asked.next().is_some() || self.verifying.contains(&piece)
    }

    /// The number of the piece that the reader needs next.
    pub fn head(&self, geometry: Geometry) -> usize {
        geometry.piece_at(self.prefix).map_or(usize::MAX, PieceIndex::index)
    }

    /// A piece is stored: where the reader stands now if it moved. `since` says since when somebody
    /// has a piece.
    pub fn advance(
        &mut self,
        now: Time,
        geometry: Geometry,
        since: impl Fn(PieceIndex) -> Time,
    ) -> Option<Vec<u64>> {
        let head = geometry.piece_at(self.prefix)?;
        while let Some(next) = geometry.piece_at(self.prefix)
            && self.swarm.have().contains(next)
        {
            self.prefix = geometry.span(next).end();
        }
        if !self.plan.reads || !self.swarm.have().contains(head) {
            return None;
        }
        self.first_byte.get_or_insert(now);
        let waited = now.since(self.advanced.max(since(head)));
        self.longest_stall = self.longest_stall.max(waited);
        self.advanced = now;
        Some(vec![self.prefix])
    }
}
