//! How pieces spread from a seed: each once before any twice, to few at a time.
//!
//! What a seed sends twice before it has sent everything once, all wait for. So a host that has
//! everything says who is to have what: it suggests (BEP 6) a piece that fewest have to one peer,
//! and the next to the next peer. Peers of this program ask a seed for what it suggests, and get
//! the rest from each other. What others ask for is counted too.
//!
//! Those who fetch spread pieces as well. If they served all who ask at once, all would get a piece
//! late, and until then nobody could pass it on. So they serve few peers at a time, too, and refuse
//! the others (BEP 6), who ask again soon, or ask somebody who has the piece by then.
//!
//! A piece that is on its way to a peer has a *turn*, which ends when the peer says that it has it.
//! A piece that shares the uplink with many comes late, and until then nobody can pass it on; so
//! few turns are open at first. But once the peers are busy with each other, each takes only a part
//! of what the seed could send. So turns that ended well allow for more, up to about as many as a
//! peer fetches at once (`download`), and as fill the time in which nothing comes because words are
//! on their way. Beyond that, pieces that begin together come together, all late, and until then
//! the peers have what they have and nothing to swap.

use std::time::Duration;

use crate::base::clock::Time;
use crate::limits::PIECE_LEN_CHEAP;
use crate::proto::geometry::{Geometry, PieceIndex};
use crate::proto::peer::Message;
use crate::swarm::interface::{Action, CloseReason, LinkId};
use crate::swarm::link::Link;
use crate::swarm::meter::{Meter, bytes_in};
use crate::swarm::swarm::Swarm;

/// Turns that are open at once at first: while one is being confirmed, others use the uplink. A
/// host that fetches serves so many peers.
const TURNS_FIRST: usize = 4;
/// The most turns of a seed, and pieces that one who fetches begins at once, where words take no
/// time: enough that some come while others wait for what their peers send to others.
const AT_ONCE: usize = 10;
/// Of short pieces as many as flow in this time, if those are more, but not more bytes than
/// [`AT_ONCE`] of [`PIECE_LEN_CHEAP`].
const AT_ONCE_TIME: Duration = Duration::from_millis(20);
/// The most peers that a host which fetches serves at once, where words take no time.
const SERVED_MAX: usize = 8;
/// Turns of few peers: one has no more than its part of these, but one. So many of [`AT_ONCE`].
const TURNS_SHARED: usize = 8;
/// So many turns that ended well allow one more.
const CONFIRMED_FOR_ONE_MORE: usize = 2;
/// So long what a seed sends may take to be confirmed: it fetches nothing and has no pace.
const TURN_MAX: Duration = Duration::from_secs(6);
/// So soon a peer asks for what was suggested to it, or another has its turn. The suggestion and
/// the request may each wait half a second behind what else is on its way, where lines are slow.
const TAKEN: Duration = Duration::from_secs(2);
/// Among so many of the rarest pieces, the first ones, one is taken at random: seeds that do not
/// know of each other put out different ones, and readers still get what they need about in order.
const CHOICES: usize = 8;
/// Suggestions of one peer that are remembered; the oldest go.
const SUGGESTIONS_MAX: usize = 64;

/// A piece that a peer is to have next.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    piece: PieceIndex,
    /// When it was suggested, or asked for without that.
    since: Time,
    /// Whether the peer asked for it.
    taken: bool,
    /// When it is over in any case.
    until: Time,
}

impl Turn {
    #[cfg(test)]
    pub(super) fn piece(&self) -> PieceIndex {
        self.piece
    }
}

/// For each piece, to how many peers it was sent or suggested that do not have it yet.
#[derive(Debug)]
pub(super) struct Spread {
    coming: Vec<u16>,
    /// Turns that ended well, and how many bytes they brought to peers.
    confirmed: usize,
    up: Meter,
    /// The shortest time that a peer took to ask for what was suggested to it.
    taken_in: Option<Duration>,
}

impl Spread {
    pub(super) fn new(geometry: &Geometry) -> Spread {
        Spread {
            coming: vec![0; geometry.piece_count() as usize],
            confirmed: 0,
            up: Meter::default(),
            taken_in: None,
        }
    }

    /// A link is gone.
    pub(super) fn forget(&mut self, link: &Link) {
        link.turns.iter().for_each(|turn| self.coming[turn.piece.index()] -= 1);
    }

    /// Panics if the counts do not fit the turns of all links.
    pub(super) fn check<'a>(&self, links: impl Iterator<Item = &'a Link>) {
        let mut coming = vec![0; self.coming.len()];
        links.flat_map(|link| &link.turns).for_each(|turn| coming[turn.piece.index()] += 1);
        assert_eq!(coming, self.coming);
    }
}

impl Link {
    /// Whether it wants pieces from us and may have some.
    fn is_served(&self) -> bool {
        self.they_are_interested && !self.we_choke && !self.has.is_full()
    }

    /// Whether it understands that it is refused for a while, or told what to ask for.
    fn is_guided(&self) -> bool {
        self.ours && self.fast
    }

    /// Whether a piece is on its way to it.
    fn has_turn(&self, now: Time) -> bool {
        self.turns.iter().any(|turn| turn.taken && now < turn.until)
    }
}

impl Swarm {
    /// Turns that were not taken or not confirmed in time are over.
    pub(super) fn end_late_turns(&mut self, now: Time) {
        let coming = &mut self.spread.coming;
        for link in self.links.values_mut() {
            link.turns.retain(|turn| {
                let in_time = now < turn.until;
                coming[turn.piece.index()] -= u16::from(!in_time);
                in_time
            });
        }
    }

    /// Whether the peer has to wait until others have what they were sent.
    pub(super) fn is_busy_for(&self, id: LinkId, now: Time) -> bool {
        let is_guided = |link: &Link| link.is_guided() && !link.has_turn(now);
        if self.is_complete() || !self.links.get(&id).is_some_and(is_guided) {
            return false;
        }
        let guided = self.links.values().filter(|link| link.is_guided());
        let served = guided.filter(|link| link.has_turn(now)).count();
        served
            >= self.turns_allowed(SERVED_MAX + self.pieces_in(self.latency(), self.down.rate(now)))
    }

    /// How many turns may be open at once, at most `most`.
    fn turns_allowed(&self, most: usize) -> usize {
        (TURNS_FIRST + self.spread.confirmed / CONFIRMED_FOR_ONE_MORE).min(most)
    }

    /// How many pieces flow in `time` at `rate`.
    pub(super) fn pieces_in(&self, time: Duration, rate: u64) -> usize {
        let pieces = bytes_in(rate, time) / u64::from(self.geometry().piece_len());
        usize::try_from(pieces).unwrap_or(usize::MAX)
    }

    /// How many pieces should be on their way at once at `rate`, where words take no time.
    pub(super) fn pieces_at_once(&self, rate: u64) -> usize {
        let shorter = (PIECE_LEN_CHEAP / self.geometry().piece_len()).max(1) as usize;
        self.pieces_in(AT_ONCE_TIME, rate).clamp(AT_ONCE, AT_ONCE * shorter)
    }

    /// The peer asked for a part of `piece`.
    pub(super) fn turn_begins(&mut self, id: LinkId, piece: PieceIndex, now: Time) {
        let until = now + if self.is_complete() { TURN_MAX } else { self.pace().turn() };
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.has.contains(piece) {
            return;
        }
        if let Some(turn) = link.turns.iter_mut().find(|turn| turn.piece == piece) {
            if !turn.taken {
                let took = now.since(turn.since);
                let shortest = &mut self.spread.taken_in;
                *shortest = Some(shortest.map_or(took, |least| least.min(took)));
            }
            (turn.taken, turn.until) = (true, until);
            return;
        }
        // It did not want what was suggested.
        if let Some(at) = link.turns.iter().position(|turn| !turn.taken) {
            let turn = link.turns.swap_remove(at);
            self.spread.coming[turn.piece.index()] -= 1;
        }
        link.turns.push(Turn { piece, since: now, taken: true, until });
        link.turn_at = now;
        self.spread.coming[piece.index()] += 1;
    }

    /// The peer has `piece`.
    pub(super) fn turn_ends(
        &mut self,
        id: LinkId,
        piece: PieceIndex,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if let Some(at) = link.turns.iter().position(|turn| turn.piece == piece) {
            let turn = link.turns.swap_remove(at);
            self.spread.coming[piece.index()] -= 1;
            if turn.taken {
                self.spread.confirmed += 1;
                self.spread.up.add(now, u64::from(self.pieces.geometry().len_of(piece)));
            }
            self.suggest(now, out);
        }
    }

    /// While we have everything: gives turns to those who have fewest and wait longest, as long as
    /// there are some. Also to a lone peer: it may pass on to others what we do not know of.
    pub(super) fn suggest(&mut self, now: Time, out: &mut Vec<Action>) {
        if !self.is_complete() {
            return;
        }
        let served = self.links.values().filter(|link| link.is_served()).count();
        let rate = self.spread.up.rate(now);
        let turns = self.pieces_at_once(rate);
        let each = (turns * TURNS_SHARED / AT_ONCE / served.max(1)).max(1);
        // No peer keeps the others waiting with turns that it does not end.
        let open: usize = self.links.values().map(|link| link.turns.len().min(each)).sum();
        // From a suggestion to the word that the piece is there, words go there and back twice.
        let words = self.spread.taken_in.unwrap_or_default() * 2;
        let most = turns + self.pieces_in(words, rate);
        for _ in open..self.turns_allowed(most) {
            let guided = self.links.iter().filter(|(_, link)| link.is_served() && link.is_guided());
            let roomy = guided.filter(|(_, link)| link.turns.len() < each);
            let next = roomy.min_by_key(|(_, link)| (link.turns.len(), link.turn_at));
            let Some((&id, _)) = next else { return };
            let Some(piece) = self.rarest_for(id) else { return };
            let Some(link) = self.links.get_mut(&id) else { return };
            link.turns.push(Turn { piece, since: now, taken: false, until: now + TAKEN });
            link.turn_at = now;
            self.spread.coming[piece.index()] += 1;
            out.push(Action::Send { link: id, message: Message::Suggest(piece.get()) });
        }
    }

    /// A piece that the peer lacks and that fewest have or are about to have.
    fn rarest_for(&mut self, id: LinkId) -> Option<PieceIndex> {
        let link = self.links.get(&id)?;
        let (mut least, mut rarest) = (u16::MAX, Vec::with_capacity(CHOICES));
        let is_new = |piece: &PieceIndex| link.turns.iter().all(|turn| turn.piece != *piece);
        for piece in link.has.missing().filter(is_new) {
            let count = self.pieces.picker.availability(piece);
            let count = count.saturating_add(self.spread.coming[piece.index()]);
            if count < least {
                least = count;
                rarest.clear();
            }
            if count == least && rarest.len() < CHOICES {
                rarest.push(piece);
            }
            if least == 0 && rarest.len() == CHOICES {
                break;
            }
        }
        rarest.get(self.rng.index(rarest.len())).copied()
    }

    /// A peer suggests a piece.
    pub(super) fn suggested(
        &mut self,
        id: LinkId,
        number: u32,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        let piece = self.geometry().piece(number).ok_or(CloseReason::BadPiece)?;
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.suggested_at = now;
        if link.has.contains(piece) && !self.pieces.stored().contains(piece) {
            if link.suggested.len() >= SUGGESTIONS_MAX {
                link.suggested.pop_front();
            }
            link.suggested.push_back(piece);
            self.fill(id, now, out);
        }
        Ok(())
    }
}
