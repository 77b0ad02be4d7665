//! One host of the network and what became of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use torrent_cache::base::clock::Time;
use torrent_cache::proto::geometry::{Geometry, PieceIndex};
use torrent_cache::proto::peer::PeerId;
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
    /// Says that it has everything and sends a block now and then.
    Drips,
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
    /// How long the disk needs for a piece; one after the other.
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
    /// Pieces of which blocks are held, and those of them with a wrong block.
    pub held: BTreeSet<PieceIndex>,
    pub bad: BTreeSet<PieceIndex>,
    /// For each piece, requests that were not answered, and whether there ever was one.
    asked: Vec<(u32, bool)>,
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
    /// Bytes of blocks that came, by what became of them; `dropped_early`: before every piece had
    /// been asked for.
    pub kept: u64,
    pub dropped: u64,
    pub dropped_early: u64,
    pub sent: u64,
    pub from_upstream: u64,
    /// Pieces that had the wrong hash.
    pub corrupt: usize,
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
            bad: BTreeSet::new(),
            asked: vec![(0, false); pieces],
            never_asked: pieces,
            prefix: 0,
            advanced: arrived,
            arrived,
            done: whole.then_some(arrived),
            first_byte: None,
            longest_stall: Duration::ZERO,
            idly_unasked: BTreeMap::new(),
            longest_idle: Duration::ZERO,
            kept: 0,
            dropped: 0,
            dropped_early: 0,
            sent: 0,
            from_upstream: 0,
            corrupt: 0,
            banned: BTreeSet::new(),
            actions: Vec::new(),
        }
    }

    /// It asked for a part of a piece, or a request ended.
    pub fn asked(&mut self, piece: u32, more: bool) {
        let (open, ever) = &mut self.asked[piece as usize];
        if more {
            *open += 1;
            self.never_asked -= usize::from(!std::mem::replace(ever, true));
        } else {
            *open = open.saturating_sub(1);
        }
    }

    /// Whether there is no piece left to begin.
    pub fn in_end_game(&self) -> bool {
        self.never_asked == 0
    }

    /// Whether the piece was asked for or is with the disk.
    pub fn is_under_way(&self, piece: PieceIndex) -> bool {
        self.asked[piece.index()].0 > 0 || self.held.contains(&piece)
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
