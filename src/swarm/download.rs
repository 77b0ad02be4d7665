//! What to ask of whom.
//!
//! A link owns the pieces that it is asked for and is asked for all blocks of one before it gets
//! the next, so that blame for a wrong hash is certain. When there is room for another piece, the
//! best of all that all links could bring is begun: one that a reader waits for too long, an orphan
//! (begun by a link that is gone), the next before a reader, the rarest. When nothing is left to
//! begin, blocks that others are slow to bring are asked for twice, and the copy that comes later
//! is cancelled.
//!
//! Many hosts read the same blob from its beginning at the same time. If all asked the seed for the
//! first missing piece, it would send every piece to everyone and nobody would have anything to
//! swap. So while others fetch, of those who have everything we ask for what they suggest
//! (`spread`), and for the rest only if they suggest nothing. Only if a reader waits too long for
//! one piece, that piece is asked for at once, and again if it is slow to come.
//!
//! A piece that is on its way cannot be passed on. If we asked every peer for one, and everyone did
//! so, each uplink would be shared by all, every piece would come late, and most of the blob would
//! be on its way at once. So we begin no more pieces than keep our downlink busy, but for the one
//! that a reader needs next, and the first one alone, as long as it comes: until it is here we have
//! nothing to give. What slow peers bring keeps a line from nothing: they do not count, and if a
//! fast seed suggests what one of them brings, the seed is asked for it.

use std::time::Duration;

use crate::base::clock::Time;
use crate::limits::PIECE_LEN_CHEAP;
use crate::proto::geometry::{Block, PieceIndex};
use crate::proto::peer::{Message, RawBlock};
use crate::swarm::interface::{Action, CloseReason, LinkId};
use crate::swarm::link::Link;
use crate::swarm::meter::bytes_in;
use crate::swarm::pace::Pace;
use crate::swarm::pieces::State;
use crate::swarm::swarm::{Reader, Swarm};

/// In-order readers that are looked at: more are not likely, and each costs time at every pick.
const READERS_MAX: usize = 16;
/// How many times as far before a reader we go on in order when seeds need not be saved.
const WINDOW_FROM_SEEDS: usize = 16;
/// All links together are asked for what flows in this time: more would only wait in the queue of
/// our line, and all that is said behind it.
const ASKED_MAX: Duration = Duration::from_secs(1);
/// But for so many bytes in any case: four links that fell silent with a short piece each, when
/// little had come, would keep a host from asking others.
const ASKED_LEAST: u64 = PIECE_LEN_CHEAP as u64;
/// What a link was asked for that has been silent for longer is not on its way.
const ON_ITS_WAY: Duration = Duration::from_secs(2);
/// How many times longer than a seed another link has to need for what the seed suggests, that the
/// seed is asked for it as well.
const SUGGESTED_LATE: u32 = 6;
/// So many times longer a link has to need for what a reader waits for, or for the last of all.
const LATE: u32 = 2;
/// So long the first piece of a host that has nobody to pass it on to is waited for alone.
const FIRST_ALONE: Duration = Duration::from_millis(30);
/// How long a link that refused a request is not asked, as long as it refuses again and again. The
/// first time a peer of this program only asks us to come back when it served others.
const REST: Duration = Duration::from_millis(500);
const REST_FIRST: Duration = Duration::from_millis(4);

/// What all links are held to while the best choice is sought.
#[derive(Clone, Copy, Debug)]
struct Thrift {
    /// Others fetch, too: what a seed sends must not be sent twice.
    saves_seeds: bool,
    /// As many pieces are begun as keep the disk busy, or, while others fetch, the downlink.
    has_enough: bool,
}

/// What a link could be asked for next.
#[derive(Clone, Copy, Debug)]
struct Choice {
    id: LinkId,
    what: What,
    rank: Rank,
}

#[derive(Clone, Copy, Debug)]
enum What {
    /// A missing piece.
    Begin(PieceIndex),
    /// The rest of an orphan.
    Adopt(PieceIndex),
    /// A block that another link is asked for.
    Ask(Block),
}

/// Which choice is best: the least.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    kind: u8,
    /// Bytes that the link is asked for.
    asked: u64,
    /// Among the same kind: how far before a reader, how many have it, or, where time matters most,
    /// for how many milliseconds the peer has been silent.
    order: usize,
    lot: u64,
}

/// The block as a message names it.
fn raw(block: Block) -> RawBlock {
    RawBlock { piece: block.piece().get(), begin: block.begin(), len: block.len() }
}

/// Whether two blocks have a byte in common.
fn overlap(a: Block, b: Block) -> bool {
    a.piece() == b.piece() && a.begin() < b.end() && b.begin() < a.end()
}

impl Swarm {
    /// Asks all links for as much as there is room for, the best first.
    pub(super) fn fill_all(&mut self, now: Time, out: &mut Vec<Action>) {
        let roomy = self.links.iter().filter(|(_, link)| link.has_room(now)).map(|(&id, _)| id);
        let roomy: Vec<LinkId> = roomy.collect();
        roomy.iter().for_each(|id| self.go_on(*id, now, out));
        while !self.is_asked_for_enough(now) {
            let thrift = self.thrift(now);
            let choices = roomy.iter().filter_map(|id| self.choose(*id, thrift, now));
            let Some(best) = choices.min_by_key(|choice| choice.rank) else { return };
            if !self.follow(best, now, out) {
                return;
            }
        }
    }

    /// Asks the link for as much as it has room for.
    pub(super) fn fill(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) {
        self.go_on(id, now, out);
        while !self.is_asked_for_enough(now)
            && let Some(choice) = self.choose(id, self.thrift(now), now)
            && self.follow(choice, now, out)
        {}
    }

    /// Whether as much is on its way from all links together as our line takes in a while.
    fn is_asked_for_enough(&self, now: Time) -> bool {
        let least = ASKED_LEAST.max(u64::from(self.geometry().piece_len()));
        let most = bytes_in(self.fastest, ASKED_MAX).max(least);
        let flowing = self.links.values().filter(|link| now.since(link.progress_at) < ON_ITS_WAY);
        self.fastest > 0 && flowing.map(|link| link.asked).sum::<u64>() >= most
    }

    fn ask(&mut self, id: LinkId, block: Block, now: Time, out: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(progress) = self.pieces.progress_of(block.piece()) else { return };
        progress.ask(block);
        link.add_request(block, now);
        out.push(Action::Send { link: id, message: Message::Request(raw(block)) });
    }

    /// Asks the link for the rest of the pieces that it owns.
    fn go_on(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) {
        while let Some(link) = self.links.get(&id).filter(|link| link.has_room(now))
            && !self.is_asked_for_enough(now)
        {
            let owned = link.owned.iter();
            let free = owned
                .filter_map(|piece| self.pieces.free_block(*piece, link.block_len(now)))
                .next();
            let Some(block) = free else { return };
            self.ask(id, block, now, out);
        }
    }

    fn thrift(&self, now: Time) -> Thrift {
        let mut told = self.links.values().filter(|link| link.told);
        let saves_seeds = told.any(|link| !link.has.is_full());
        let (late, slow) = if saves_seeds {
            (self.pace().turn(), self.pace().turn() * 3)
        } else {
            (FIRST_ALONE, FIRST_ALONE)
        };
        let busy = self.links.values().filter(|link| !link.owned.is_empty());
        let is_slow = |link: &&Link| link.time_to_answer(now) >= slow;
        let alone =
            self.have().is_empty() && (saves_seeds || !busy.clone().any(|link| is_slow(&link)));
        // What a peer that fell silent owes keeps nothing busy, nor what a slow one brings.
        let live = busy.filter(|link| now.since(link.progress_at) < late && !is_slow(link));
        let begun: usize = live.map(|link| link.owned.len()).sum();
        let has_enough = if alone {
            // A reader waits for it, and others for what we can pass on.
            begun > 0
        } else {
            let rate = self.down.rate(now);
            let most = self.pieces_at_once(rate) + self.pieces_in(self.latency() * 2, rate);
            // A slow disk has enough to do as well.
            self.pieces.verifying() >= most || (saves_seeds && begun >= most)
        };
        Thrift { saves_seeds, has_enough }
    }

    /// The shortest time from a request to its block.
    pub(super) fn latency(&self) -> Duration {
        self.links.values().filter_map(|link| link.latency).min().unwrap_or_default()
    }

    /// The best that the link could be asked for next.
    fn choose(&mut self, id: LinkId, thrift: Thrift, now: Time) -> Option<Choice> {
        let link = self.links.get(&id)?;
        if !link.has_room(now) {
            return None;
        }
        let silent = usize::try_from(now.since(link.heard_at).as_millis()).unwrap_or(usize::MAX);
        let (what, kind, order) = if let Some(piece) = self.doubted_for(id, now) {
            (What::Begin(piece), 0, silent)
        } else if self.is_suspect(link, now) {
            return None;
        } else if let Some(what) = self.urgent(id, thrift.saves_seeds, now) {
            (what, 0, silent)
        } else if let Some(what) = self.orphan_for(id, now) {
            (what, 1, 0)
        } else if let Some(next) = self.next_to_begin(id, thrift, now) {
            next
        } else {
            (What::Ask(self.end_game_block(id, now)?), 4, silent)
        };
        let asked = self.links.get(&id)?.asked;
        let rank = Rank { kind, order, asked, lot: self.rng.next_u64() };
        Some(Choice { id, what, rank })
    }

    /// Does what was chosen; whether it could be done.
    fn follow(&mut self, choice: Choice, now: Time, out: &mut Vec<Action>) -> bool {
        let Choice { id, what, .. } = choice;
        let block = match what {
            What::Begin(piece) => self.begin(id, piece, now, out),
            What::Adopt(piece) => self.adopt(id, piece, now),
            What::Ask(block) => Some(block),
        };
        let Some(block) = block else { return false };
        self.ask(id, block, now, out);
        self.go_on(id, now, out);
        true
    }

    /// What the link could bring of a piece that a reader waits for too long, or, if seeds need not
    /// be saved, at all.
    fn urgent(&self, id: LinkId, saves_seeds: bool, now: Time) -> Option<What> {
        let patience = match (saves_seeds, self.links.get(&id)?.has.is_full()) {
            (false, _) => Duration::ZERO,
            (true, false) => self.pace().patience(),
            (true, true) => self.pace().patience_with_seed(),
        };
        let waiting = self.readers.iter().filter(|reader| now.since(reader.since) >= patience);
        waiting.filter_map(|reader| self.urgent_part(id, reader.head, now)).next()
    }

    fn urgent_part(&self, id: LinkId, piece: PieceIndex, now: Time) -> Option<What> {
        if !self.links.get(&id)?.has.contains(piece) {
            return None;
        }
        match self.pieces.state(piece) {
            State::Missing => self.may_begin(id, piece).then_some(What::Begin(piece)),
            State::InFlight if self.pieces.orphans().contains(&piece) => {
                self.may_adopt(id, piece, now)
            }
            State::InFlight => self.late_block(id, piece, LATE, now).map(What::Ask),
            State::Claimed | State::Verifying | State::Stored => None,
        }
    }

    /// The rest of an orphan, if the link has one.
    fn orphan_for(&self, id: LinkId, now: Time) -> Option<What> {
        let link = self.links.get(&id)?;
        let orphans = self.pieces.orphans().iter();
        let orphans = orphans.filter(|piece| link.has.contains(**piece));
        orphans.filter_map(|piece| self.may_adopt(id, *piece, now)).next()
    }

    /// The piece that the link should begin next, and its place among what others could begin.
    fn next_to_begin(
        &mut self,
        id: LinkId,
        thrift: Thrift,
        now: Time,
    ) -> Option<(What, u8, usize)> {
        let link = self.links.get(&id)?;
        let begin = |kind, piece, order| {
            self.may_begin(id, piece).then_some((What::Begin(piece), kind, order))
        };
        if thrift.saves_seeds && link.has.is_full() {
            if link.ours && link.fast {
                if let Some(piece) =
                    self.still_suggested(link).find(|it| self.pieces.picker.is_pickable(*it))
                {
                    return begin(3, piece, usize::from(self.pieces.picker.availability(piece)));
                }
                // What a slow one brings that it could bring sooner.
                let late = |piece| self.late_block(id, piece, SUGGESTED_LATE, now);
                if let Some(block) = self.still_suggested(link).find_map(late) {
                    return Some((What::Ask(block), 3, 0));
                }
                if now.since(link.suggested_at) < self.pace().suggestion(self.links.len()) {
                    return None;
                }
            }
        } else if let Some((at, piece)) = self.next_for_readers(link, thrift) {
            return begin(2, piece, at);
        } else if thrift.has_enough {
            return None;
        }
        let piece = self.rarest(id)?;
        let order = usize::from(self.pieces.picker.availability(piece));
        self.may_begin(id, piece).then_some((What::Begin(piece), 3, order))
    }

    /// What the link suggested and is not here, oldest first.
    fn still_suggested<'a>(&'a self, link: &'a Link) -> impl Iterator<Item = PieceIndex> + 'a {
        link.suggested.iter().copied().filter(|piece| !self.pieces.stored().contains(*piece))
    }

    /// The first piece before a reader that the link could begin, and how many pieces before. What
    /// a reader needs next is begun in any case, others only if we have not enough.
    fn next_for_readers(&self, link: &Link, thrift: Thrift) -> Option<(usize, PieceIndex)> {
        let bytes = self.config.reader_window / u64::from(self.geometry().piece_len());
        let window = usize::try_from(bytes).unwrap_or(usize::MAX).max(1);
        let len = match thrift {
            Thrift { has_enough: true, .. } => 1,
            Thrift { saves_seeds: true, .. } => window,
            Thrift { saves_seeds: false, .. } => window.saturating_mul(WINDOW_FROM_SEEDS),
        };
        let could_begin = |(_, piece): &(usize, PieceIndex)| {
            self.pieces.picker.is_pickable(*piece) && link.has.contains(*piece)
        };
        let readers = self.readers.iter();
        let windows = readers.map(|reader| self.geometry().pieces_from(reader.head).take(len));
        windows.filter_map(|window| window.enumerate().find(could_begin)).min()
    }

    fn rarest(&mut self, id: LinkId) -> Option<PieceIndex> {
        let link = self.links.get_mut(&id)?;
        let generation = self.pieces.picker.generation();
        if link.dry == Some(generation) {
            return None;
        }
        let piece = self.pieces.picker.pick(&link.has, link.counted, &mut self.rng);
        if piece.is_none() {
            link.dry = Some(generation);
        }
        piece
    }

    /// Whether the link may own another piece. Before one of it was right it has one at a time:
    /// who sends wrong bytes does so once.
    pub(super) fn may_begin(&self, id: LinkId, piece: PieceIndex) -> bool {
        self.pieces.picker.is_pickable(piece)
            && self.links.get(&id).is_some_and(|link| {
                link.proven || (link.owned.is_empty() && !self.pieces.is_verifying_of(id))
            })
    }

    /// Makes the link the owner of a missing piece, if there is memory for it. The first block of
    /// it.
    fn begin(
        &mut self,
        id: LinkId,
        piece: PieceIndex,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Option<Block> {
        if !self.may_begin(id, piece) || !self.has_memory(piece, out) {
            return None;
        }
        let link = self.links.get_mut(&id)?;
        let alone = link.suspected || self.doubts.contains_key(&piece);
        self.pieces.start(piece, id, alone, link.hash_of(piece));
        link.owned.push(piece);
        self.pieces.free_block(piece, link.block_len(now))
    }

    /// Whether the link may be asked for what another has begun. A piece of two senders tells
    /// nobody who of them lied, so both should be known to be right, if any link is.
    fn may_help(&self, link: &Link) -> bool {
        !link.suspected && (link.proven || self.links.values().all(|other| !other.proven))
    }

    /// Whether the link has told the hash that the piece in flight is to have, if the hashes are
    /// not known.
    fn agrees(&self, link: &Link, piece: PieceIndex) -> bool {
        let progress = self.pieces.progress().get(&piece);
        progress.is_some_and(|progress| progress.hash == link.hash_of(piece))
    }

    /// Orphans whose hash nobody else told who could bring the rest are begun anew, so that who
    /// told a wrong one and then fell silent holds nothing up.
    pub(super) fn give_up_forlorn(&mut self, out: &mut Vec<Action>) {
        let could_bring = |link: &Link, piece: PieceIndex| {
            let has = link.has.contains(piece) && self.agrees(link, piece);
            has && !link.they_choke && !link.snubbed && self.may_help(link)
        };
        let of_links = |piece: &PieceIndex| {
            self.pieces.progress().get(piece).is_some_and(|progress| progress.hash.is_some())
        };
        let orphans = self.pieces.orphans().iter().copied().filter(of_links);
        let forlorn: Vec<PieceIndex> = orphans
            .filter(|piece| !self.links.values().any(|link| could_bring(link, *piece)))
            .collect();
        forlorn.into_iter().for_each(|piece| self.give_up(piece, out));
    }

    fn may_adopt(&self, id: LinkId, piece: PieceIndex, now: Time) -> Option<What> {
        let link = self.links.get(&id)?;
        let free = self.pieces.free_block(piece, link.block_len(now));
        let may = self.may_help(link) && self.agrees(link, piece);
        (may && free.is_some()).then_some(What::Adopt(piece))
    }

    /// Makes the link the owner of an orphan. A free block of it.
    fn adopt(&mut self, id: LinkId, piece: PieceIndex, now: Time) -> Option<Block> {
        let link = self.links.get_mut(&id)?;
        let block = self.pieces.free_block(piece, link.block_len(now))?;
        self.pieces.adopt(piece, id);
        link.owned.push(piece);
        Some(block)
    }

    /// Whether `piece` fits into this swarm's share of memory. Orphans make room: whoever asks had
    /// none that it could go on with.
    fn has_memory(&mut self, piece: PieceIndex, out: &mut Vec<Action>) -> bool {
        let len = u64::from(self.geometry().len_of(piece));
        loop {
            let in_flight = self.pieces.bytes_in_flight();
            if in_flight == 0 || in_flight + len <= self.config.bytes_in_flight_max {
                return true;
            }
            let Some(&orphan) = self.pieces.orphans().first() else { return false };
            self.give_up(orphan, out);
        }
    }

    /// When nothing is left to begin: a block that another link is slow to bring.
    fn end_game_block(&self, id: LinkId, now: Time) -> Option<Block> {
        let link = self.links.get(&id)?;
        if !self.pieces.picker.is_empty() || !self.may_help(link) {
            return None;
        }
        for (piece, progress) in self.pieces.progress() {
            if link.has.contains(*piece) && !progress.alone && self.agrees(link, *piece) {
                let free = self.pieces.free_block(*piece, link.block_len(now));
                if free.is_some() {
                    return free;
                }
            }
        }
        let owners = self.links.iter().filter(|(other, owner)| **other != id && owner.asked > 0);
        let slow = owners.filter_map(|(_, owner)| {
            let (block, left) =
                owner.awaited(now).find(|(block, _)| self.may_double(id, *block))?;
            Some((left, block))
        });
        let (left, block) = slow.max()?;
        self.is_late(left, link, block, LATE, now).then_some(block)
    }

    /// A block of a piece that its owner needs more than so many `times` longer for than the link.
    fn late_block(&self, id: LinkId, piece: PieceIndex, times: u32, now: Time) -> Option<Block> {
        let link = self.links.get(&id)?;
        let progress = self.pieces.progress().get(&piece)?;
        let owner = self.links.get(&progress.owner?)?;
        if progress.alone || !self.may_help(link) || progress.owner == Some(id) {
            return None;
        }
        if !self.agrees(link, piece) {
            return None;
        }
        let (block, left) = owner.awaited(now).find(|(block, _)| block.piece() == piece)?;
        if !self.is_late(left, link, block, times, now) {
            return None;
        }
        let free = self.pieces.free_block(piece, link.block_len(now));
        free.or_else(|| self.may_double(id, block).then_some(block))
    }

    /// Whether the time that is `left` is more than so many `times` what `link` would need for
    /// `block`, and a little: then a copy is worth it.
    fn is_late(&self, left: Duration, link: &Link, block: Block, times: u32, now: Time) -> bool {
        left > link.time_to_deliver(block.len(), now) * times + self.pace().late()
    }

    /// Whether the link may be asked for a block that exactly one other is asked for.
    fn may_double(&self, id: LinkId, block: Block) -> bool {
        let progress = self.pieces.progress().get(&block.piece());
        let link = self.links.get(&id);
        link.zip(progress).is_some_and(|(link, progress)| {
            link.has.contains(block.piece())
                && block.len() <= link.block_len_max
                && self.agrees(link, block.piece())
                && !progress.alone
                && progress.is_asked_once(block)
                && link.requests.iter().all(|request| !overlap(request.block, block))
        })
    }

    /// A block has come: the first action says what becomes of it.
    pub(super) fn block(&mut self, id: LinkId, block: RawBlock, now: Time, out: &mut Vec<Action>) {
        let Some(block) = self.geometry().block(block.piece, block.begin, block.len) else {
            out.push(Action::Drop);
            self.close(id, CloseReason::BadBlock, now, out);
            return;
        };
        let request = self.links.get_mut(&id).and_then(|link| {
            let request = link.take_request(block)?;
            link.delivered(&request, now);
            Some((request, link.address.ip()))
        });
        // One that was not asked for: it crossed our cancel, or they made it up.
        let Some((request, ip)) = request else { return out.push(Action::Drop) };
        self.down.add(now, u64::from(block.len()));
        self.fastest = self.fastest.max(self.down.rate(now));
        let piece = block.piece();
        let mut contested = request.stale;
        let wanted = self.pieces.progress_of(piece).is_some_and(|progress| {
            if !request.stale {
                progress.unask(block);
            }
            contested |= progress.contested;
            progress.is_open_to(id) && !progress.is_received(block)
        });
        if !wanted {
            out.push(Action::Drop);
            return self.fill_all(now, out);
        }
        out.push(Action::Keep { block });
        if contested {
            self.cancel_copies(block, out);
        }
        let progress = self.pieces.progress().get(&piece);
        let (owner, hash) = progress.map_or((None, None), |held| (held.owner, held.hash));
        if self.pieces.receive(block, (id, ip)) {
            self.disown(owner, piece);
            let proof = self.wants_proof(piece, hash);
            out.push(Action::Verify { piece, hash, proof });
        }
        self.fill_all(now, out);
    }

    /// Whoever else was asked for a part of `block` need not bring it.
    fn cancel_copies(&mut self, block: Block, out: &mut Vec<Action>) {
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.cancel_where(id, |asked| overlap(asked, block), out);
        }
    }

    /// Takes back the requests of one link for the blocks that `select` selects.
    pub(super) fn cancel_where(
        &mut self,
        id: LinkId,
        select: impl Fn(Block) -> bool,
        out: &mut Vec<Action>,
    ) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let asked = link.requests.iter().map(|request| request.block).filter(|b| select(*b));
        for block in asked.collect::<Vec<_>>() {
            let Some(request) = link.take_request(block) else { continue };
            if let (false, Some(progress)) = (request.stale, self.pieces.progress_of(block.piece()))
            {
                progress.unask(block);
            }
            out.push(Action::Send { link: id, message: Message::Cancel(raw(block)) });
        }
    }

    fn disown(&mut self, owner: Option<LinkId>, piece: PieceIndex) {
        if let Some(link) = owner.and_then(|owner| self.links.get_mut(&owner)) {
            link.owned.retain(|owned| *owned != piece);
        }
    }

    /// Asks nobody for `piece` any longer and throws away what has come of it. It may be in any
    /// state.
    pub(super) fn withdraw(&mut self, piece: PieceIndex, out: &mut Vec<Action>) {
        let Some(progress) = self.pieces.progress().get(&piece) else { return };
        let owner = progress.owner;
        let held = !progress.is_empty();
        self.disown(owner, piece);
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.cancel_where(id, |asked| asked.piece() == piece, out);
        }
        if held {
            out.push(Action::Discard { piece });
        }
    }

    /// A piece in flight is missing again.
    pub(super) fn give_up(&mut self, piece: PieceIndex, out: &mut Vec<Action>) {
        self.withdraw(piece, out);
        self.pieces.give_up(piece);
    }

    /// A piece in flight has no owner any more.
    fn orphan(&mut self, piece: PieceIndex, out: &mut Vec<Action>) {
        if self.pieces.orphan(piece) {
            out.push(Action::Discard { piece });
        }
    }

    /// What the link was asked for may be asked of others. It is still welcome if it comes.
    pub(super) fn take_back(&mut self, id: LinkId, out: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        for block in link.make_stale() {
            if let Some(progress) = self.pieces.progress_of(block.piece()) {
                progress.unask(block);
                progress.contested = true;
            }
        }
        for piece in std::mem::take(&mut link.owned) {
            self.orphan(piece, out);
        }
    }

    /// How fast pieces come.
    pub(super) fn pace(&self) -> Pace {
        Pace::new(self.geometry().piece_len(), self.fastest)
    }

    pub(super) fn choked(&mut self, id: LinkId, out: &mut Vec<Action>) -> Result<(), CloseReason> {
        self.take_back(id, out);
        if let Some(link) = self.links.get_mut(&id) {
            link.they_choke = true;
            if !link.fast {
                // Without the fast extension a choke answers all requests.
                link.requests.clear();
            }
        }
        Ok(())
    }

    pub(super) fn unchoked(
        &mut self,
        id: LinkId,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        if let Some(link) = self.links.get_mut(&id) {
            link.they_choke = false;
        }
        self.fill(id, now, out);
        Ok(())
    }

    /// The peer will not answer a request (BEP 6). It is not asked again at once.
    pub(super) fn rejected(
        &mut self,
        id: LinkId,
        block: RawBlock,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        let block = self.geometry().block(block.piece, block.begin, block.len);
        let block = block.ok_or(CloseReason::BadBlock)?;
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        // One that we cancelled may be rejected as well.
        if link.take_request(block).is_none_or(|request| request.stale) {
            return Ok(());
        }
        if link.rests_until <= now {
            link.rest = if link.ours { (link.rest * 2).clamp(REST_FIRST, REST) } else { REST };
            link.rests_until = now + link.rest;
        }
        let goes_on = link.requests.iter().any(|request| request.block.piece() == block.piece());
        let Some(progress) = self.pieces.progress_of(block.piece()) else { return Ok(()) };
        progress.unask(block);
        if progress.owner == Some(id) && !goes_on {
            // Others may have it by now.
            if progress.is_empty() {
                self.give_up(block.piece(), out);
            } else {
                self.disown(Some(id), block.piece());
                self.orphan(block.piece(), out);
            }
            self.fill_all(now, out);
        }
        Ok(())
    }

    /// Whether a link that rested may be asked again.
    pub(super) fn end_rests(&mut self, now: Time) -> bool {
        let links = self.links.values_mut();
        let rested = links.filter(|link| link.is_resting() && link.rests_until <= now);
        rested.map(|link| link.rests_until = Time::ZERO).count() > 0
    }

    /// Links that brought nothing for too long lose what they were asked for.
    pub(super) fn snub_silent(&mut self, now: Time, out: &mut Vec<Action>) {
        let longest = self.pace().silence();
        let links = self.links.iter();
        let silent =
            links.filter(|(_, link)| link.asked > 0 && now.since(link.progress_at) >= longest);
        for id in silent.map(|(&id, _)| id).collect::<Vec<_>>() {
            if let Some(link) = self.links.get_mut(&id) {
                link.snubbed = true;
            }
            self.take_back(id, out);
        }
    }

    pub(super) fn readers(&mut self, offsets: &[u64], now: Time, out: &mut Vec<Action>) {
        let heads = offsets.iter().filter_map(|offset| self.geometry().piece_at(*offset));
        let readers = heads.take(READERS_MAX).map(|head| {
            let known = self.readers.iter().find(|reader| reader.head == head);
            Reader { head, since: known.map_or(now, |reader| reader.since) }
        });
        self.readers = readers.collect();
        self.fill_all(now, out);
    }
}
