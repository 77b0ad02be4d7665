//! The swarm of one blob as this host sees it: takes in what happened, and knows the links.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::base::rng::Rng;
use crate::proto::bitfield::Pieces;
use crate::proto::geometry::{Geometry, PieceIndex};
use crate::proto::peer::{Message, PeerId};
use crate::proto::tracker::AnnounceEvent;
use crate::swarm::announce::Announcer;
use crate::swarm::blame::Doubt;
use crate::swarm::candidates::Candidates;
use crate::swarm::interface::{Action, CloseReason, Config, Input, LinkId};
use crate::swarm::link::{Link, Vouched};
use crate::swarm::meter::Meter;
use crate::swarm::pieces::PieceTable;
use crate::swarm::spread::Spread;

/// How often links are looked at that were asked for something.
pub(super) const TICK: Duration = Duration::from_millis(100);
/// A link that ends so soon has not worked: the peer turned us away.
const TURNED_AWAY: Duration = Duration::from_secs(1);
/// Two links to one peer that are at most so far apart were dialled by both sides at the same time.
const CROSSED: Duration = Duration::from_secs(5);

/// The swarm of one blob as this host sees it.
#[derive(Debug)]
pub struct Swarm {
    pub(super) config: Config,
    pub(super) rng: Rng,
    pub(super) pieces: PieceTable,
    /// Pieces of several senders that had the wrong hash.
    pub(super) doubts: BTreeMap<PieceIndex, Doubt>,
    pub(super) links: BTreeMap<LinkId, Link>,
    pub(super) readers: Vec<Reader>,
    /// What all links bring, and the most that they brought so far, in bytes per second.
    pub(super) down: Meter,
    pub(super) fastest: u64,
    pub(super) candidates: Candidates,
    announcer: Announcer,
    pub(super) spread: Spread,
    /// When links that were asked for something are looked at again.
    next_tick: Time,
    /// When the upload slots may be given out anew.
    pub(super) next_round: Time,
    left: bool,
    /// How many inputs came since the last check of all invariants.
    pub(super) unchecked: usize,
}

/// Where an in-order reader stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reader {
    /// The piece that it needs next.
    pub(super) head: PieceIndex,
    /// Since when it needs it.
    pub(super) since: Time,
}

/// What a handshake tells about a new link.
struct Arrival {
    address: SocketAddr,
    peer_id: PeerId,
    incoming: bool,
    fast: bool,
    ours: bool,
}

impl Swarm {
    /// A swarm without links, of which this host has the pieces `have`.
    #[must_use]
    pub fn new(config: Config, geometry: Geometry, have: Pieces, rng: Rng, now: Time) -> Swarm {
        let pieces = PieceTable::new(geometry, have);
        let announcer = Announcer::new(now, !config.hashes_known);
        Swarm {
            config,
            rng,
            pieces,
            doubts: BTreeMap::new(),
            links: BTreeMap::new(),
            readers: Vec::new(),
            down: Meter::default(),
            fastest: 0,
            candidates: Candidates::default(),
            announcer,
            spread: Spread::new(&geometry),
            next_tick: now,
            next_round: now,
            left: false,
            unchecked: 0,
        }
    }

    /// How the blob is cut into pieces.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        self.pieces.geometry()
    }

    /// The stored pieces.
    #[must_use]
    pub fn have(&self) -> &Pieces {
        self.pieces.stored()
    }

    /// Whether all pieces are stored.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.have().is_full()
    }

    /// How many links could give a piece that is not stored here, if asked now.
    #[must_use]
    pub fn useful_links(&self) -> usize {
        self.links.values().filter(|link| !link.they_choke && link.useful > 0).count()
    }

    /// Takes in what happened and appends what is to be done to `out`.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Action>) {
        self.take_in(now, input, out);
        if !self.left {
            self.dial(now, out);
        }
        if cfg!(debug_assertions) {
            self.check_sometimes();
        }
    }

    /// When [`Input::Timeout`] is due, if ever.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        if self.left {
            return None;
        }
        let waits = |link: &Link| {
            let could_give = link.useful > 0 && !link.they_choke;
            could_give || link.asked > 0 || !link.turns.is_empty()
        };
        let tick = self.links.values().any(waits).then_some(self.next_tick);
        let resting = self.links.values().filter(|link| link.is_resting());
        let rested = resting.map(|link| link.rests_until).min();
        let round = self.is_contended().then_some(self.next_round);
        let dial = if self.wants_links() { self.candidates.next_due() } else { None };
        let announce = self.announcer.next_due(self.is_lonely());
        [tick, rested, round, dial, announce].into_iter().flatten().min()
    }

    fn take_in(&mut self, now: Time, input: Input, out: &mut Vec<Action>) {
        match input {
            Input::LinkUp { link, address, peer_id, incoming, fast, ours } => {
                self.link_up(link, &Arrival { address, peer_id, incoming, fast, ours }, now, out);
            }
            Input::ExtHandshake { link, block_len_max, requests_max, listen_port } => {
                self.introduced(link, block_len_max, requests_max, listen_port, now);
            }
            Input::LinkDown { link } => {
                self.forget(link, now, out);
                self.fill_all(now, out);
                self.fill_slots(now, out);
            }
            Input::Message { link, message } => self.message(link, message, now, out),
            Input::Block { link, block } => self.block(link, block, now, out),
            Input::BlockSent { link, block } => self.block_sent(link, block, out),
            Input::Stored { piece } => self.stored(piece, now, out),
            Input::Proof { piece, units } => self.proven(piece, &units, now, out),
            Input::Corrupt { piece, units } => self.corrupt(piece, units, now, out),
            Input::Readers { offsets } => self.readers(&offsets, now, out),
            Input::Hashes { link, hashes } => self.hashes_told(link, &hashes, now, out),
            Input::Candidates { addresses, source } => {
                for address in addresses {
                    self.candidates.add(address, source, now);
                }
            }
            Input::DialFailed { address } => self.candidates.failed(address, now),
            Input::Announced { interval } => self.announcer.answered(now, interval),
            Input::AnnounceFailed => self.announcer.failed(now),
            Input::Claim { from, max_len, steal } => self.claim(from, max_len, steal, now, out),
            Input::Release { span } => self.release(span, now, out),
            Input::Share { bytes_in_flight_max } => {
                self.config.bytes_in_flight_max = bytes_in_flight_max;
                self.fill_all(now, out);
            }
            Input::Timeout => self.timeout(now, out),
            Input::Leave => self.leave(now, out),
        }
    }

    fn link_up(&mut self, id: LinkId, new: &Arrival, now: Time, out: &mut Vec<Action>) {
        if let Some(why) = self.refusal(new, now, out) {
            if !new.incoming && why == CloseReason::Full {
                self.candidates.unlinked(new.address, now);
            }
            out.push(Action::Close { link: id, why });
            return;
        }
        let geometry = *self.geometry();
        let mut link = Link::new(&geometry, new.address, new.peer_id, new.incoming, new.fast, now);
        link.ours = new.ours;
        if !self.config.hashes_known {
            let (says, hashes) = (Pieces::none(geometry), BTreeMap::new());
            link.vouched = Some(Vouched { says, hashes });
        }
        if !new.incoming {
            self.candidates.linked(new.address);
            link.dial_address = Some(new.address);
        }
        self.links.insert(id, link);
        let have = self.have();
        let message = match (new.fast, have.is_empty(), have.is_full()) {
            (true, true, _) => Message::HaveNone,
            (true, _, true) => Message::HaveAll,
            (false, true, _) => return,
            _ => Message::Bitfield(have.to_bytes()),
        };
        out.push(Action::Send { link: id, message });
    }

    /// Why the new link is not taken, if so. Of two links to one peer, the older is kept, unless
    /// both sides dialled at the same time: then both must drop the same one, and the link that the
    /// lower peer id dialled stays. One peer is one id at one address: everybody is told the id of
    /// a host that he calls, and with that alone could take its place with all others.
    fn refusal(&mut self, new: &Arrival, now: Time, out: &mut Vec<Action>) -> Option<CloseReason> {
        if self.left {
            return Some(CloseReason::Leaving);
        }
        if new.peer_id == self.config.peer_id {
            if !new.incoming {
                self.candidates.is_ours(new.address);
            }
            return Some(CloseReason::Ourselves);
        }
        if self.candidates.is_banned(new.address.ip()) {
            return Some(CloseReason::Banned);
        }
        let is_twin =
            |link: &Link| link.peer_id == new.peer_id && link.address.ip() == new.address.ip();
        let twin = self.links.iter_mut().find(|(_, link)| is_twin(link));
        if let Some((&id, twin)) = twin {
            let crossed = twin.incoming != new.incoming && now.since(twin.since) < CROSSED;
            let lower_dialled = new.incoming == (new.peer_id < self.config.peer_id);
            if !(crossed && lower_dialled) {
                if !new.incoming {
                    // The twin is the link to this address: it is not dialled while there is one.
                    self.candidates.linked(new.address);
                    twin.dial_address = Some(new.address);
                }
                return Some(CloseReason::Duplicate);
            }
            self.close(id, CloseReason::Duplicate, now, out);
        }
        if self.links.len() < self.config.links_max {
            return None;
        }
        let Some(crowded) = self.crowded(new.address.ip()) else { return Some(CloseReason::Full) };
        self.close(crowded, CloseReason::Full, now, out);
        None
    }

    /// The youngest link of the address that has most, if `newcomer` has fewer even with one more:
    /// no address keeps the others out.
    fn crowded(&self, newcomer: IpAddr) -> Option<LinkId> {
        let mut counts: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for link in self.links.values() {
            *counts.entry(link.address.ip()).or_default() += 1;
        }
        let with_newcomer = counts.get(&newcomer).map_or(1, |count| count + 1);
        let (crowd, count) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        let of_crowd = self.links.iter().filter(|(_, link)| link.address.ip() == crowd);
        let youngest = of_crowd.max_by_key(|(_, link)| link.since).map(|(&id, _)| id);
        youngest.filter(|_| count > with_newcomer)
    }

    fn introduced(
        &mut self,
        id: LinkId,
        block_len_max: u32,
        requests_max: usize,
        listen_port: Option<u16>,
        now: Time,
    ) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.introduced(block_len_max, requests_max);
        if let (Some(port), None) = (listen_port, link.dial_address) {
            let address = SocketAddr::new(link.address.ip(), port);
            link.dial_address = Some(address);
            self.candidates.add(address, crate::swarm::Source::Peer, now);
            self.candidates.linked(address);
        }
    }

    fn message(&mut self, id: LinkId, message: Message, now: Time, out: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        link.heard_at = now;
        let fast = link.fast;
        let result = match message {
            Message::Choke => self.choked(id, out),
            Message::Unchoke => self.unchoked(id, now, out),
            Message::Interested => self.interest(id, true, now, out),
            Message::NotInterested => self.interest(id, false, now, out),
            Message::Have(number) => self.they_have(id, number, now, out),
            Message::Bitfield(bytes) => match Pieces::from_bytes(*self.geometry(), &bytes) {
                Ok(has) => self.they_told(id, has, now, out),
                Err(_) => Err(CloseReason::BadBitfield),
            },
            Message::HaveAll if fast => self.they_told(id, Pieces::all(*self.geometry()), now, out),
            Message::HaveNone if fast => {
                self.they_told(id, Pieces::none(*self.geometry()), now, out)
            }
            Message::Reject(block) if fast => self.rejected(id, block, now, out),
            Message::HaveAll | Message::HaveNone | Message::Reject(_) => {
                Err(CloseReason::OutOfTurn)
            }
            Message::Request(block) => self.requested(id, block, now, out),
            Message::Cancel(block) => self.cancelled(id, block, out),
            Message::Suggest(number) => self.suggested(id, number, now, out),
            // A hint that is not taken up, but its number must be right.
            Message::AllowedFast(number) => {
                self.geometry().piece(number).map(|_| ()).ok_or(CloseReason::BadPiece)
            }
            Message::KeepAlive
            | Message::Port(_)
            | Message::Extended { .. }
            | Message::Unknown(_) => Ok(()),
        };
        if let Err(why) = result {
            self.close(id, why, now, out);
            self.fill_all(now, out);
        }
    }

    /// The peer says what it has, before anything else about that.
    fn they_told(
        &mut self,
        id: LinkId,
        has: Pieces,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        if link.told {
            return self.they_told_again(id, &has, now, out);
        }
        link.told = true;
        let mut has = has;
        if let Some(vouched) = &mut link.vouched {
            vouched.says = has;
            has = Pieces::none(*self.pieces.geometry());
            for piece in vouched.hashes.keys().filter(|piece| vouched.says.contains(**piece)) {
                has.insert(*piece);
            }
        }
        link.useful = u32::try_from(has.not_in(self.pieces.stored()).count()).unwrap_or(u32::MAX);
        link.has = has;
        link.dry = None;
        if link.has.is_full() {
            link.counted = false;
        } else {
            link.has.iter().for_each(|piece| self.pieces.picker.gained(piece));
        }
        self.they_have_more(id, now, out);
        Ok(())
    }

    /// BEP 3 has it said once and first, but aria2 says it again in place of many `have` messages.
    /// It may only add to what was said before.
    fn they_told_again(
        &mut self,
        id: LinkId,
        has: &Pieces,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        let Some(link) = self.links.get(&id) else { return Ok(()) };
        let before = link.vouched.as_ref().map_or(&link.has, |vouched| &vouched.says);
        if before.not_in(has).next().is_some() {
            return Err(CloseReason::OutOfTurn);
        }
        let new: Vec<PieceIndex> = has.not_in(before).collect();
        new.into_iter().try_for_each(|piece| self.they_have(id, piece.get(), now, out))
    }

    fn they_have(
        &mut self,
        id: LinkId,
        number: u32,
        now: Time,
        out: &mut Vec<Action>,
    ) -> Result<(), CloseReason> {
        let piece = self.geometry().piece(number).ok_or(CloseReason::BadPiece)?;
        let Some(link) = self.links.get_mut(&id) else { return Ok(()) };
        link.told = true;
        if !link.says(piece) {
            self.turn_ends(id, piece, now, out);
            return Ok(());
        }
        self.has_one_more(id, piece, now, out);
        Ok(())
    }

    /// A peer tells hashes of pieces. What it says it has counts if it has told that of it.
    fn hashes_told(
        &mut self,
        id: LinkId,
        hashes: &[(u32, Sha1Hash)],
        now: Time,
        out: &mut Vec<Action>,
    ) {
        for (number, hash) in hashes {
            let piece = self.geometry().piece(*number);
            let Some(vouched) = self.links.get_mut(&id).and_then(|link| link.vouched.as_mut())
            else {
                return;
            };
            let wrong = match piece.map(|piece| *vouched.hashes.entry(piece).or_insert(*hash)) {
                Some(told) if told == *hash => None,
                Some(_) => Some(CloseReason::TwoHashes),
                None => Some(CloseReason::BadPiece),
            };
            if let Some(why) = wrong {
                self.close(id, why, now, out);
                return self.fill_all(now, out);
            }
            if let Some(piece) = piece.filter(|piece| vouched.says.contains(*piece)) {
                self.has_one_more(id, piece, now, out);
            }
        }
    }

    /// The peer has `piece`, whether we knew before or not.
    fn has_one_more(&mut self, id: LinkId, piece: PieceIndex, now: Time, out: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if !link.has.insert(piece) {
            return;
        }
        self.pieces.picker.gained(piece);
        if link.has.is_full() {
            link.counted = false;
            self.geometry().pieces().for_each(|piece| self.pieces.picker.lost(piece));
        }
        self.turn_ends(id, piece, now, out);
        let Some(link) = self.links.get_mut(&id) else { return };
        if !self.pieces.stored().contains(piece) {
            link.useful += 1;
        }
        if self.pieces.picker.is_pickable(piece) {
            link.dry = None;
        }
        self.they_have_more(id, now, out);
    }

    /// After they said that they have something: interest, requests, or good-bye.
    fn they_have_more(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) {
        let Some(link) = self.links.get_mut(&id) else { return };
        if link.has.is_full() && self.pieces.stored().is_full() {
            self.close(id, CloseReason::BothComplete, now, out);
            return;
        }
        if link.useful > 0 && !link.we_are_interested {
            link.we_are_interested = true;
            out.push(Action::Send { link: id, message: Message::Interested });
        }
        self.fill(id, now, out);
    }

    /// A piece is on disk: tell those who lack it, and see who is still useful.
    fn stored(&mut self, piece: PieceIndex, now: Time, out: &mut Vec<Action>) {
        if self.have().contains(piece) {
            return;
        }
        self.withdraw(piece, out);
        self.doubts.remove(&piece);
        if let [(sender, _)] = self.pieces.store(piece)[..]
            && let Some(link) = self.links.get_mut(&sender)
        {
            (link.suspected, link.proven) = (false, true);
        }
        let complete = self.is_complete();
        for (&id, link) in &mut self.links {
            if complete && link.has.is_full() {
                // It is closed below, and nobody there has any use for this.
                continue;
            }
            // Also to those who have it: a seed spreads what few have.
            out.push(Action::Send { link: id, message: Message::Have(piece.get()) });
            if !link.has.contains(piece) {
                continue;
            }
            link.useful -= 1;
            if link.useful == 0 {
                link.we_are_interested = false;
                out.push(Action::Send { link: id, message: Message::NotInterested });
            }
        }
        if self.is_complete() {
            self.completed(now, out);
        } else {
            self.fill_all(now, out);
        }
    }

    fn completed(&mut self, now: Time, out: &mut Vec<Action>) {
        out.push(Action::Complete);
        self.announcer.completed(now);
        self.announce(now, out);
        let full = self.links.iter().filter(|(_, link)| link.has.is_full()).map(|(&id, _)| id);
        for id in full.collect::<Vec<_>>() {
            self.close(id, CloseReason::BothComplete, now, out);
        }
        self.suggest(now, out);
    }

    /// Closes a link and forgets it.
    pub(super) fn close(&mut self, id: LinkId, why: CloseReason, now: Time, out: &mut Vec<Action>) {
        if self.links.contains_key(&id) {
            out.push(Action::Close { link: id, why });
            self.forget(id, now, out);
        }
    }

    /// Forgets a link: what it was asked for goes back, what it has is no longer counted.
    fn forget(&mut self, id: LinkId, now: Time, out: &mut Vec<Action>) {
        self.take_back(id, out);
        let Some(link) = self.links.remove(&id) else { return };
        self.spread.forget(&link);
        if link.counted {
            link.has.iter().for_each(|piece| self.pieces.picker.lost(piece));
        }
        match link.dial_address {
            Some(address) if now.since(link.since) < TURNED_AWAY => {
                self.candidates.failed(address, now);
            }
            Some(address) => self.candidates.unlinked(address, now),
            None => {}
        }
    }

    fn is_lonely(&self) -> bool {
        self.links.is_empty() && !self.is_complete()
    }

    /// Whether more links should be dialled: half of all we may have, so that the network stays
    /// connected and there is room for those who dial us.
    fn wants_links(&self) -> bool {
        if self.is_complete() || self.links.len() >= self.config.links_max {
            return false;
        }
        let dialled = self.links.values().filter(|link| !link.incoming).count();
        let most = self.config.links_max.div_ceil(2);
        // Asked after every input, and there may be many candidates.
        dialled < most && {
            let dialling = self.candidates.dialling();
            dialled + dialling < most && self.links.len() + dialling < self.config.links_max
        }
    }

    fn dial(&mut self, now: Time, out: &mut Vec<Action>) {
        while self.wants_links() {
            let Some(address) = self.candidates.next(now, &mut self.rng) else { return };
            out.push(Action::Dial { address });
        }
    }

    fn announce(&mut self, now: Time, out: &mut Vec<Action>) {
        if let Some(event) = self.announcer.due(now, self.is_lonely()) {
            out.push(Action::Announce { event });
        }
    }

    fn timeout(&mut self, now: Time, out: &mut Vec<Action>) {
        if self.left {
            return;
        }
        self.announce(now, out);
        if self.end_rests(now) {
            self.fill_all(now, out);
        }
        if now >= self.next_tick {
            self.next_tick = now + TICK;
            self.snub_silent(now, out);
            self.give_up_forlorn(out);
            self.fill_all(now, out);
            self.end_late_turns(now);
            self.suggest(now, out);
        }
        if now >= self.next_round && self.is_contended() {
            self.rechoke(now, out);
        }
    }

    fn leave(&mut self, now: Time, out: &mut Vec<Action>) {
        for id in self.links.keys().copied().collect::<Vec<_>>() {
            self.close(id, CloseReason::Leaving, now, out);
        }
        if !self.left && self.announcer.is_known() {
            out.push(Action::Announce { event: AnnounceEvent::Stopped });
        }
        self.left = true;
    }
}
