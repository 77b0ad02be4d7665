//! Serving others: who is served, and which blocks are sent.
//!
//! The queue of what a peer asked for is here, so that a cancel or a choke empties it; the writer
//! is given a little at a time and says when it is sent.

use crate::base::clock::Time;
use crate::limits::{BLOCK_LEN_MAX, PEER_REQUESTS_MAX};
use crate::proto::geometry::Block;
use crate::proto::peer::{Message, RawBlock};
use crate::swarm::choker::{self, Peer};
use crate::swarm::interface::{Action, CloseReason, LinkId};
use crate::swarm::link::Link;
use crate::swarm::swarm::Swarm;

/// Bytes that one link's writer holds at most: enough to keep it busy while it tells us that it
/// needs more. One block is always given.
const SENDING_MAX: u64 = BLOCK_LEN_MAX as u64;

fn raw(block: Block) -> RawBlock {
    RawBlock { piece: block.piece().get(), begin: block.begin(), len: block.len() }
}

/// Gives the writer what it can take.
fn pump(id: LinkId, link: &mut Link, out: &mut Vec<Action>) {
    while let Some(block) = link.uploads.front().copied() {
        let len = u64::from(block.len());
        if link.sending > 0 && link.sending + len > SENDING_MAX {
            return;
        }
        link.uploads.pop_front();
        link.sending += len;
        out.push(Action::SendBlock { link: id, block });
    }
}

impl Swarm {
    /// A peer asks for a block.
    pub(super) fn requested(
        &mut self,
        id: LinkId,
        asked: RawBlock,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        let block = self.geometry().block(asked.piece, asked.begin, asked.len);
        let block = block.ok_or(CloseReason::BadBlock)?;
        if block.len() > BLOCK_LEN_MAX {
            return Err(CloseReason::BadBlock);
        }
        let stored = self.have().contains(block.piece());
        let is_busy = self.is_busy_for(id, now);
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        if link.we_choke || !stored || is_busy || link.uploads.len() >= PEER_REQUESTS_MAX {
            out.push(Action::Refuse { link: id, block: asked });
            return Ok(());
        }
        link.uploads.push_back(block);
        pump(id, link, out);
        self.turn_begins(id, block.piece(), now);
        Ok(())
    }

    /// A peer no longer wants a block. If the writer has it already, it is sent all the same.
    pub(super) fn cancelled(
        &mut self,
        id: LinkId,
        asked: RawBlock,
        out: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        let block = self.geometry().block(asked.piece, asked.begin, asked.len);
        let block = block.ok_or(CloseReason::BadBlock)?;
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        if let Some(at) = link.uploads.iter().position(|waiting| *waiting == block) {
            link.uploads.remove(at);
            // Every request is answered, cancelled ones too (BEP 6).
            out.push(Action::Refuse { link: id, block: asked });
        }
        Ok(())
    }

    /// The writer has sent a block.
    pub(super) fn block_sent(&mut self, id: LinkId, block: Block, out: &mut Vec<Action>) {
        if let Some(link) = self.links.get_mut(&id) {
            link.sending = link.sending.saturating_sub(u64::from(block.len()));
            pump(id, link, out);
        }
    }

    /// A peer wants to be served, or no longer.
    pub(super) fn interest(
        &mut self,
        id: LinkId,
        interested: bool,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        if let Some(link) = self.links.get_mut(&id)
            && link.they_are_interested != interested
        {
            link.they_are_interested = interested;
            link.turn_since = now;
        }
        self.fill_slots(now, out);
        Ok(())
    }

    /// Whether more peers want to be served than there are slots.
    pub(super) fn is_contended(&self) -> bool {
        let interested = self.links.values().filter(|link| link.they_are_interested);
        interested.count() > self.config.upload_slots
    }

    /// Serves those who wait, as long as there are free slots. Nobody loses one.
    pub(super) fn fill_slots(&mut self, now: Time, out: &mut Vec<Action>) {
        let interested = self.links.values().filter(|link| link.they_are_interested);
        let served = interested.filter(|link| !link.we_choke).count();
        let free = self.config.upload_slots.saturating_sub(served);
        let waiting = self.links.iter_mut();
        let waiting = waiting.filter(|(_, link)| link.they_are_interested && link.we_choke);
        for (&id, link) in waiting.take(free) {
            (link.we_choke, link.turn_since) = (false, now);
            out.push(Action::Send { link: id, message: Message::Unchoke });
        }
        self.suggest(now, out);
    }

    /// Gives the slots out anew.
    pub(super) fn rechoke(&mut self, now: Time, out: &mut Vec<Action>) {
        self.next_round = now + choker::ROUND;
        let peers = self.links.iter().filter(|(_, link)| link.they_are_interested);
        let peers = peers.map(|(&link, state)| Peer {
            link,
            served: !state.we_choke,
            gives: state.down.rate(now),
            since: state.turn_since,
        });
        let seeding = self.is_complete();
        let chosen = choker::choose(now, peers.collect(), self.config.upload_slots, seeding);
        for (&id, link) in &mut self.links {
            let serve = chosen.contains(&id);
            if serve && link.we_choke {
                (link.we_choke, link.turn_since) = (false, now);
                out.push(Action::Send { link: id, message: Message::Unchoke });
            } else if !serve && !link.we_choke {
                (link.we_choke, link.turn_since) = (true, now);
                out.push(Action::Send { link: id, message: Message::Choke });
                let dropped = std::mem::take(&mut link.uploads).into_iter();
                out.extend(dropped.map(|block| Action::Refuse { link: id, block: raw(block) }));
            }
        }
    }
}
