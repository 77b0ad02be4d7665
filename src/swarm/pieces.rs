//! The state of each piece.
//!
//! **Invariant:** a piece is in exactly one state at a time: missing, claimed by the upstream, in
//! flight from links, verifying, or stored. Only missing pieces are in the picker.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::base::hash::Sha1Hash;
use crate::limits::BLOCK_LEN;
use crate::proto::bitfield::Pieces;
use crate::proto::geometry::{Block, Geometry, PieceIndex};
use crate::swarm::interface::LinkId;
use crate::swarm::picker::Picker;

/// Where a piece stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Nobody brings it.
    Missing,
    /// The upstream brings it.
    Claimed,
    /// Links bring it: there is a [`Progress`].
    InFlight,
    /// All its blocks are held by the engine, which hashes and writes them.
    Verifying,
    /// On disk.
    Stored,
}

/// A link that sent blocks of a piece, and where it came from: blame outlives the link.
pub(super) type Sender = (LinkId, IpAddr);

/// Who sent a piece.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    /// Who sent some of it.
    pub(super) senders: Vec<Sender>,
    /// Which of them sent each unit.
    pub(super) units: Vec<usize>,
    /// What they told of it, if the hashes are not known.
    pub(super) hash: Option<Sha1Hash>,
}

/// 16 KiB of a piece, or what is left at its end.
#[derive(Clone, Copy, Debug, Default)]
struct Unit {
    /// Which of the senders it came from, if it was received.
    from: Option<usize>,
    /// How many links are asked for it now.
    asked: u16,
}

impl Unit {
    /// Neither received nor asked for.
    fn is_free(&self) -> bool {
        self.from.is_none() && self.asked == 0
    }
}

/// How far a piece in flight has come.
#[derive(Debug)]
pub(super) struct Progress {
    /// The link that is asked for all of it. An orphan has none.
    pub(super) owner: Option<LinkId>,
    /// Whether nobody but the owner may send any of it: blame will be certain.
    pub(super) alone: bool,
    /// What its owner told of it, if the hashes are not known: so must all who help.
    pub(super) hash: Option<Sha1Hash>,
    /// Whether more than one link may still send the same block: the others are told once it is
    /// here.
    pub(super) contested: bool,
    /// Who sent some of it.
    pub(super) senders: Vec<Sender>,
    units: Vec<Unit>,
    received: usize,
    /// Units neither received nor asked for.
    free: usize,
}

impl Progress {
    fn new(piece_len: u32, owner: LinkId, alone: bool, hash: Option<Sha1Hash>) -> Progress {
        let count = piece_len.div_ceil(BLOCK_LEN) as usize;
        let units = vec![Unit::default(); count];
        Progress {
            owner: Some(owner),
            alone,
            hash,
            contested: false,
            senders: Vec::new(),
            units,
            received: 0,
            free: count,
        }
    }

    /// Whether `link` may be asked for some of it.
    pub(super) fn is_open_to(&self, link: LinkId) -> bool {
        !self.alone || self.owner == Some(link)
    }

    /// Whether nothing of it was received.
    pub(super) fn is_empty(&self) -> bool {
        self.received == 0
    }

    /// Whether exactly one link is asked for each unit of `block`.
    pub(super) fn is_asked_once(&self, block: Block) -> bool {
        self.units[units_of(block)].iter().all(|unit| unit.asked == 1 && unit.from.is_none())
    }

    /// Whether any unit of `block` was received.
    pub(super) fn is_received(&self, block: Block) -> bool {
        self.units[units_of(block)].iter().any(|unit| unit.from.is_some())
    }

    /// The first run of free units, at most `len_max` bytes: where it begins and how many bytes it
    /// has if the piece does not end before.
    fn first_free(&self, len_max: u32) -> Option<(u32, u32)> {
        if self.free == 0 {
            return None;
        }
        let first = self.units.iter().position(Unit::is_free)?;
        let units_max = (len_max / BLOCK_LEN).max(1) as usize;
        let run = self.units[first..].iter().take(units_max).take_while(|unit| unit.is_free());
        let run = u32::try_from(run.count()).ok()?;
        Some((u32::try_from(first).ok()? * BLOCK_LEN, run * BLOCK_LEN))
    }

    /// One more link is asked for `block`.
    pub(super) fn ask(&mut self, block: Block) {
        for unit in &mut self.units[units_of(block)] {
            self.free -= usize::from(unit.is_free());
            self.contested |= unit.asked > 0;
            unit.asked += 1;
        }
    }

    /// One link less is asked for `block`.
    pub(super) fn unask(&mut self, block: Block) {
        for unit in &mut self.units[units_of(block)] {
            unit.asked -= 1;
            self.free += usize::from(unit.is_free());
        }
    }

    /// `block`, of which nothing had been received, came from `sender`.
    fn receive(&mut self, block: Block, sender: Sender) {
        let known = self.senders.iter().position(|known| *known == sender);
        let from = known.unwrap_or(self.senders.len());
        if known.is_none() {
            self.senders.push(sender);
        }
        for unit in &mut self.units[units_of(block)] {
            self.free -= usize::from(unit.asked == 0);
            unit.from = Some(from);
            self.received += 1;
        }
    }

    /// What the counts must be; for the check of invariants.
    pub(super) fn counts_hold(&self) -> bool {
        let received = self.units.iter().filter(|unit| unit.from.is_some()).count();
        let free = self.units.iter().filter(|unit| unit.is_free()).count();
        received == self.received && free == self.free && received < self.units.len()
    }

    /// How many links are asked for each unit.
    pub(super) fn asked(&self) -> impl Iterator<Item = usize> + '_ {
        self.units.iter().map(|unit| usize::from(unit.asked))
    }
}

/// The units that `block` covers. Blocks that we ask for begin and end on units or at the piece's
/// end.
pub(super) fn units_of(block: Block) -> std::ops::Range<usize> {
    (block.begin() / BLOCK_LEN) as usize..block.end().div_ceil(BLOCK_LEN) as usize
}

/// The states of all pieces.
#[derive(Debug)]
pub(super) struct PieceTable {
    geometry: Geometry,
    states: Vec<State>,
    stored: Pieces,
    progress: BTreeMap<PieceIndex, Progress>,
    /// Pieces in flight without an owner.
    orphans: BTreeSet<PieceIndex>,
    /// Who sent the pieces that are being verified.
    verifying: BTreeMap<PieceIndex, Origin>,
    /// Bytes of the pieces in flight and verifying, each counted whole.
    bytes_in_flight: u64,
    pub(super) picker: Picker,
}

impl PieceTable {
    /// All pieces are missing but those in `have`.
    pub(super) fn new(geometry: Geometry, have: Pieces) -> PieceTable {
        let mut table = PieceTable {
            geometry,
            states: vec![State::Missing; geometry.piece_count() as usize],
            stored: have,
            progress: BTreeMap::new(),
            orphans: BTreeSet::new(),
            verifying: BTreeMap::new(),
            bytes_in_flight: 0,
            picker: Picker::new(&geometry),
        };
        for piece in geometry.pieces() {
            let stored = table.stored.contains(piece);
            table.set(piece, if stored { State::Stored } else { State::Missing });
        }
        table
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    pub(super) fn stored(&self) -> &Pieces {
        &self.stored
    }

    pub(super) fn state(&self, piece: PieceIndex) -> State {
        self.states[piece.index()]
    }

    pub(super) fn bytes_in_flight(&self) -> u64 {
        self.bytes_in_flight
    }

    pub(super) fn progress(&self) -> &BTreeMap<PieceIndex, Progress> {
        &self.progress
    }

    pub(super) fn orphans(&self) -> &BTreeSet<PieceIndex> {
        &self.orphans
    }

    pub(super) fn progress_of(&mut self, piece: PieceIndex) -> Option<&mut Progress> {
        self.progress.get_mut(&piece)
    }

    /// How many pieces are being verified.
    pub(super) fn verifying(&self) -> usize {
        self.verifying.len()
    }

    /// Whether a piece is being verified of which the link sent something.
    pub(super) fn is_verifying_of(&self, link: LinkId) -> bool {
        let mut origins = self.verifying.values();
        origins.any(|origin| origin.senders.iter().any(|(sender, _)| *sender == link))
    }

    /// Missing to in flight: `owner`, who told its `hash`, will be asked for all of it.
    pub(super) fn start(
        &mut self,
        piece: PieceIndex,
        owner: LinkId,
        alone: bool,
        hash: Option<Sha1Hash>,
    ) {
        debug_assert_eq!(self.state(piece), State::Missing, "{piece:?}");
        let piece_len = self.geometry.len_of(piece);
        self.bytes_in_flight += u64::from(piece_len);
        self.progress.insert(piece, Progress::new(piece_len, owner, alone, hash));
        self.set(piece, State::InFlight);
    }

    /// Gives an orphan a new owner.
    pub(super) fn adopt(&mut self, piece: PieceIndex, owner: LinkId) {
        if let Some(progress) = self.progress.get_mut(&piece) {
            progress.owner = Some(owner);
            self.orphans.remove(&piece);
        }
    }

    /// The owner of a piece in flight is no longer asked for it. If only its owner was to send it,
    /// the piece is missing again. Whether the engine holds blocks to discard.
    pub(super) fn orphan(&mut self, piece: PieceIndex) -> bool {
        let Some(progress) = self.progress.get_mut(&piece) else { return false };
        if progress.alone {
            return self.give_up(piece);
        }
        progress.owner = None;
        self.orphans.insert(piece);
        false
    }

    /// In flight to missing. Whether the engine holds blocks to discard.
    pub(super) fn give_up(&mut self, piece: PieceIndex) -> bool {
        let held = self.forget(piece);
        self.set(piece, State::Missing);
        held
    }

    /// The next block of a piece in flight that nobody is asked for, at most `len_max` bytes.
    pub(super) fn free_block(&self, piece: PieceIndex, len_max: u32) -> Option<Block> {
        let (begin, len) = self.progress.get(&piece)?.first_free(len_max)?;
        let len = len.min(self.geometry.len_of(piece).saturating_sub(begin));
        self.geometry.block(piece.get(), begin, len)
    }

    /// A block that was asked for came. In flight to verifying if it was the last; then `true`.
    pub(super) fn receive(&mut self, block: Block, sender: Sender) -> bool {
        let Some(progress) = self.progress.get_mut(&block.piece()) else { return false };
        progress.receive(block, sender);
        if progress.received < progress.units.len() {
            return false;
        }
        let senders = std::mem::take(&mut progress.senders);
        let units = progress.units.iter().filter_map(|unit| unit.from).collect();
        let origin = Origin { senders, units, hash: progress.hash };
        self.progress.remove(&block.piece());
        self.orphans.remove(&block.piece());
        self.verifying.insert(block.piece(), origin);
        self.set(block.piece(), State::Verifying);
        true
    }

    /// Verifying to missing: who sent it and is to blame.
    pub(super) fn corrupt(&mut self, piece: PieceIndex) -> Option<Origin> {
        let origin = self.verifying.remove(&piece)?;
        self.bytes_in_flight -= u64::from(self.geometry.len_of(piece));
        self.set(piece, State::Missing);
        Some(origin)
    }

    /// Any state to stored: who sent it, if links did.
    pub(super) fn store(&mut self, piece: PieceIndex) -> Vec<Sender> {
        self.forget(piece);
        let origin = self.verifying.remove(&piece);
        if origin.is_some() {
            self.bytes_in_flight -= u64::from(self.geometry.len_of(piece));
        }
        self.stored.insert(piece);
        self.set(piece, State::Stored);
        origin.map(|origin| origin.senders).unwrap_or_default()
    }

    /// Missing, or given up before, to claimed.
    pub(super) fn claim(&mut self, piece: PieceIndex) {
        debug_assert_eq!(self.state(piece), State::Missing, "{piece:?}");
        self.set(piece, State::Claimed);
    }

    /// Claimed to missing; any other state stays.
    pub(super) fn release(&mut self, piece: PieceIndex) {
        if self.state(piece) == State::Claimed {
            self.set(piece, State::Missing);
        }
    }

    /// Ends the progress of a piece, if it has one. Whether blocks of it had been received.
    fn forget(&mut self, piece: PieceIndex) -> bool {
        let Some(progress) = self.progress.remove(&piece) else { return false };
        self.orphans.remove(&piece);
        self.bytes_in_flight -= u64::from(self.geometry.len_of(piece));
        !progress.is_empty()
    }

    fn set(&mut self, piece: PieceIndex, state: State) {
        self.states[piece.index()] = state;
        self.picker.set_pickable(piece, state == State::Missing);
    }

    /// Panics if the parts contradict each other. O(pieces).
    pub(super) fn check(&self) {
        let mut bytes = 0;
        for piece in self.geometry.pieces() {
            let state = self.state(piece);
            assert_eq!(state == State::Stored, self.stored.contains(piece), "{piece:?}");
            assert_eq!(state == State::InFlight, self.progress.contains_key(&piece), "{piece:?}");
            assert_eq!(state == State::Verifying, self.verifying.contains_key(&piece), "{piece:?}");
            let pickable = state == State::Missing;
            assert_eq!(pickable, self.picker.is_pickable(piece), "{piece:?}");
            if matches!(state, State::InFlight | State::Verifying) {
                bytes += u64::from(self.geometry.len_of(piece));
            }
        }
        assert_eq!(bytes, self.bytes_in_flight);
        for (piece, progress) in &self.progress {
            assert_eq!(progress.owner.is_none(), self.orphans.contains(piece), "{piece:?}");
            assert!(progress.counts_hold(), "{piece:?} {progress:?}");
        }
        assert!(self.orphans.iter().all(|piece| self.progress.contains_key(piece)));
    }
}
