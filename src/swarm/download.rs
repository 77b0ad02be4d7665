//! What to ask of whom.
//!
//! A link owns the pieces that it is asked for and is asked for all blocks of one before it gets
//! the next, so that blame for a wrong hash is certain. Its next piece is, in this order: one soon
//! needed by an in-order reader, an orphan (begun by a link that is gone), the rarest. When nothing
//! is left to begin, blocks that others are slow to bring are asked for twice, and the copy that
//! comes later is cancelled.
//!
//! Many hosts read the same blob from its beginning at the same time. If all asked the seed for the
//! first missing piece, it would send every piece to everyone and nobody would have anything to
//! swap. So of a peer that has everything we ask for the rarest pieces, those of our share first
//! ([`Share`]), and of the others for what they have in order. Only if the reader waits too long
//! for one piece, or if nobody else is there to swap with, that piece is asked for at once, and
//! again if it is slow to come.

use std::time::Duration;

use crate::base::clock::Time;
use crate::limits::NO_PROGRESS;
use crate::proto::geometry::{Block, PieceIndex};
use crate::proto::peer::{Message, RawBlock};
use crate::swarm::interface::{Action, CloseReason, LinkId};
use crate::swarm::picker::Share;
use crate::swarm::pieces::State;
use crate::swarm::swarm::{Reader, Swarm};

/// In-order readers that are looked at: more are not likely, and each costs time at every pick.
const READERS_MAX: usize = 16;
/// So long a reader waits for others to bring the piece that it needs next.
const PATIENCE: Duration = Duration::from_millis(250);
/// Pieces of the window before a reader for each link.
const WINDOW_PER_LINK: usize = 4;
/// A second link must be this much faster: less gains nothing.
const SLOW: Duration = Duration::from_millis(50);
/// How long a link that refused a request is not asked.
const REST: Duration = Duration::from_millis(500);

/// The block as a message names it.
fn raw(block: Block) -> RawBlock {
    RawBlock { piece: block.piece().get(), begin: block.begin(), len: block.len() }
}

/// Whether two blocks have a byte in common.
fn overlap(a: Block, b: Block) -> bool {
    a.piece() == b.piece() && a.begin() < b.end() && b.begin() < a.end()
}

impl Swarm {
    /// Asks every link for as much as it has room for.
    pub(super) fn fill_all(&mut self, now: Time, out: &mut Vec<Action>) {
        let roomy = self.links.iter().filter(|(_, link)| link.has_room(now)).map(|(&id, _)| id);
        for id in roomy.collect::<Vec<_>>() {
            self.fill(id, now, out);
        }
    }

    /// Asks the link for as much as it has room for.
    pub(super) fn fill(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) {
        while self.links.get(&id).is_some_and(|link| link.has_room(now)) {
            let Some(block) = self.next_block(id, now, out) else { return };
            self.ask(id, block, now, out);
        }
    }

    fn ask(&mut self, id: LinkId, block: Block, now: Time, out: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        let Some(progress) = self.pieces.progress_of(block.piece()) else { return };
        progress.ask(block);
        link.add_request(block, now);
        out.push(Action::Send { link: id, message: Message::Request(raw(block)) });
    }

    fn next_block(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) -> Option<Block> {
        let link = self.links.get(&id)?;
        let owned = link.owned.iter();
        let mut free = owned.filter_map(|piece| self.pieces.free_block(*piece, link.block_len_max));
        if let Some(block) = free.next() {
            return Some(block);
        }
        self.window_block(id, now, out)
            .or_else(|| self.orphan_block(id))
            .or_else(|| self.rarest_block(id, out))
            .or_else(|| self.end_game_block(id, now))
    }

    /// A block that a reader needs soon, of the pieces that the link has.
    fn window_block(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) -> Option<Block> {
        let strict = !self.links.values().any(|link| link.told && !link.has.is_full());
        for at in 0..self.readers.len() {
            let Reader { head, since } = self.readers[at];
            if strict || now.since(since) >= PATIENCE {
                let block = self.urgent_block(id, head, now, out);
                if block.is_some() {
                    return block;
                }
            }
        }
        let link = self.links.get(&id)?;
        let picker = &self.pieces.picker;
        let window = self
            .window()
            .filter(|(_, piece)| picker.is_pickable(*piece) && link.has.contains(*piece));
        let (_, piece) = if strict || !link.has.is_full() {
            window.min()?
        } else {
            let rarest = picker.rarest();
            let share = self.share();
            let is_rare = |piece| Some(picker.availability(piece)) == rarest;
            window.filter(|(_, piece)| is_rare(*piece) && share.place(*piece) == 0).min()?
        };
        self.begin(id, piece, out)
    }

    /// Which pieces we ask a seed for while others do the same.
    fn share(&self) -> Share {
        let leechers = self.links.values().filter(|link| link.told && !link.has.is_full());
        Share::new(&self.config.peer_id, leechers.map(|link| &link.peer_id))
    }

    /// The pieces before the readers, and how many pieces before.
    fn window(&self) -> impl Iterator<Item = (usize, PieceIndex)> + '_ {
        let bytes = self.config.reader_window / u64::from(self.geometry().piece_len());
        let pieces = usize::try_from(bytes).unwrap_or(usize::MAX);
        let len = pieces.max(self.links.len() * WINDOW_PER_LINK);
        self.readers.iter().flat_map(move |reader| {
            self.geometry().pieces().skip(reader.head.index()).take(len).enumerate()
        })
    }

    /// A block of the very piece that a reader waits for.
    fn urgent_block(
        &mut self,
        id: LinkId,
        piece: PieceIndex,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Option<Block> {
        if !self.links.get(&id)?.has.contains(piece) {
            return None;
        }
        match self.pieces.state(piece) {
            State::Missing => self.begin(id, piece, out),
            State::InFlight if self.pieces.orphans().contains(&piece) => self.adopt(id, piece),
            State::InFlight => self.late_block(id, piece, now),
            State::Claimed | State::Verifying | State::Stored => None,
        }
    }

    fn orphan_block(&mut self, id: LinkId) -> Option<Block> {
        let link = self.links.get(&id)?;
        let orphans = self.pieces.orphans().iter();
        let piece = orphans.copied().find(|piece| link.has.contains(*piece))?;
        self.adopt(id, piece)
    }

    fn rarest_block(&mut self, id: LinkId, out: &mut Vec<Action>) -> Option<Block> {
        let is_seed = self.links.get(&id)?.has.is_full();
        let share = is_seed.then(|| self.share());
        let link = self.links.get_mut(&id)?;
        let generation = self.pieces.picker.generation();
        if link.dry == Some(generation) {
            return None;
        }
        let Some(piece) = self.pieces.picker.pick(&link.has, share.as_ref(), &mut self.rng) else {
            link.dry = Some(generation);
            return None;
        };
        self.begin(id, piece, out)
    }

    /// The link now has a piece that may be asked for. If it had nothing to give before, this is
    /// what it is asked for, without a look at all the others.
    pub(super) fn offer(
        &mut self,
        id: LinkId,
        piece: PieceIndex,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let generation = self.pieces.picker.generation();
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.dry != Some(generation) {
            return;
        }
        let begun = if link.has_room(now) { self.begin(id, piece, out) } else { None };
        match (begun, self.links.get_mut(&id)) {
            (Some(block), _) => self.ask(id, block, now, out),
            (None, Some(link)) => link.dry = None,
            (None, None) => {}
        }
    }

    /// Makes the link the owner of a missing piece, if there is memory for it. The first block of
    /// it.
    fn begin(&mut self, id: LinkId, piece: PieceIndex, out: &mut Vec<Action>) -> Option<Block> {
        if !self.pieces.picker.is_pickable(piece) || !self.has_memory(piece, out) {
            return None;
        }
        let link = self.links.get_mut(&id)?;
        let alone = link.suspected || self.pieces.is_doubtful(piece);
        self.pieces.start(piece, id, alone);
        link.owned.push(piece);
        self.pieces.free_block(piece, link.block_len_max)
    }

    /// Makes the link the owner of an orphan. A free block of it.
    fn adopt(&mut self, id: LinkId, piece: PieceIndex) -> Option<Block> {
        let link = self.links.get_mut(&id)?;
        if link.suspected {
            return None;
        }
        let block = self.pieces.free_block(piece, link.block_len_max)?;
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
    fn end_game_block(&mut self, id: LinkId, now: Time) -> Option<Block> {
        let link = self.links.get(&id)?;
        if !self.pieces.picker.is_empty() || link.suspected {
            return None;
        }
        for (piece, progress) in self.pieces.progress() {
            if link.has.contains(*piece) && !progress.alone {
                let free = self.pieces.free_block(*piece, link.block_len_max);
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
        (left > link.time_to_deliver(block.len(), now) * 2 + SLOW).then_some(block)
    }

    /// A block of a piece that a reader needs now and that its owner is slow to bring.
    fn late_block(&mut self, id: LinkId, piece: PieceIndex, now: Time) -> Option<Block> {
        let link = self.links.get(&id)?;
        let progress = self.pieces.progress().get(&piece)?;
        let owner = self.links.get(&progress.owner?)?;
        if progress.alone || link.suspected || progress.owner == Some(id) {
            return None;
        }
        let (block, left) = owner.awaited(now).find(|(block, _)| block.piece() == piece)?;
        if left <= link.time_to_deliver(block.len(), now) * 2 + SLOW {
            return None;
        }
        let free = self.pieces.free_block(piece, link.block_len_max);
        free.or_else(|| self.may_double(id, block).then_some(block))
    }

    /// Whether the link may be asked for a block that exactly one other is asked for.
    fn may_double(&self, id: LinkId, block: Block) -> bool {
        let progress = self.pieces.progress().get(&block.piece());
        let link = self.links.get(&id);
        link.zip(progress).is_some_and(|(link, progress)| {
            link.has.contains(block.piece())
                && block.len() <= link.block_len_max
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
            return self.fill(id, now, out);
        }
        out.push(Action::Keep { block });
        if contested {
            self.cancel_copies(block, out);
        }
        let owner = self.pieces.progress().get(&piece).and_then(|progress| progress.owner);
        if self.pieces.receive(block, (id, ip)) {
            self.disown(owner, piece);
            out.push(Action::Verify { piece });
        }
        self.fill(id, now, out);
    }

    /// Whoever else was asked for a part of `block` need not bring it.
    fn cancel_copies(&mut self, block: Block, out: &mut Vec<Action>) {
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.cancel_where(id, |asked| overlap(asked, block), out);
        }
    }

    /// Takes back the requests of one link for the blocks that `select` selects.
    fn cancel_where(&mut self, id: LinkId, select: impl Fn(Block) -> bool, out: &mut Vec<Action>) {
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
            if self.pieces.orphan(piece) {
                out.push(Action::Discard { piece });
            }
        }
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
    ) -> Result<(), CloseReason> {
        let block = self.geometry().block(block.piece, block.begin, block.len);
        let block = block.ok_or(CloseReason::BadBlock)?;
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        // One that we cancelled may be rejected as well.
        let Some(request) = link.take_request(block) else { return Ok(()) };
        if !request.stale {
            link.rests_until = now + REST;
            if let Some(progress) = self.pieces.progress_of(block.piece()) {
                progress.unask(block);
            }
        }
        Ok(())
    }

    /// Links that brought nothing for too long lose what they were asked for.
    pub(super) fn snub_silent(&mut self, now: Time, out: &mut Vec<Action>) {
        let silent = self
            .links
            .iter()
            .filter(|(_, link)| link.asked > 0 && now.since(link.progress_at) >= NO_PROGRESS);
        for id in silent.map(|(&id, _)| id).collect::<Vec<_>>() {
            if let Some(link) = self.links.get_mut(&id) {
                link.snubbed = true;
            }
            self.take_back(id, out);
        }
    }

    /// A piece had the wrong hash. Whoever sent all of it is banned; if several did, none of them
    /// is trusted with a part of a piece until a whole one of it was right.
    pub(super) fn corrupt(&mut self, piece: PieceIndex, now: Time, out: &mut Vec<Action>) {
        match self.pieces.corrupt(piece).as_deref() {
            Some([(guilty, ip)]) => self.ban(*ip, *guilty, now, out),
            Some(senders) => {
                for (sender, _) in senders {
                    if let Some(link) = self.links.get_mut(sender) {
                        link.suspected = true;
                    }
                }
            }
            None => {}
        }
        self.fill_all(now, out);
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
