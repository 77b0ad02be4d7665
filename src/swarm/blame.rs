//! Who sent wrong bytes.
//!
//! Who alone sent a piece that has the wrong hash is banned. If several did, any of them may have
//! lied. So the hashes of its units stay as evidence until one link has brought a right copy, and
//! whoever sent a unit that differs is banned. So long its senders are suspects: they are asked for
//! nothing, and what they sent of other pieces is thrown away, so that nobody is hurt by a second
//! wrong piece while the first is looked into. Only if nobody else could bring the piece, they are
//! asked for it.

use std::net::IpAddr;

use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::proto::geometry::PieceIndex;
use crate::swarm::interface::{Action, CloseReason, LinkId};
use crate::swarm::link::Link;
use crate::swarm::pieces::{Origin, Progress};
use crate::swarm::swarm::Swarm;

/// Pieces in doubt with evidence, at most: more come only from many liars at once.
const DOUBTS_MAX: usize = 16;

/// A piece of several senders that had the wrong hash, and has not come again.
#[derive(Debug)]
pub(super) struct Doubt {
    origin: Origin,
    /// What each unit hashed to; empty if there is no room for it.
    units: Vec<Sha1Hash>,
    /// So long its senders are suspects: what is looked into must come to an end, too.
    until: Time,
}

impl Doubt {
    fn is_of(&self, ip: IpAddr) -> bool {
        self.origin.senders.iter().any(|(_, sender)| *sender == ip)
    }

    fn is_looked_into(&self, now: Time) -> bool {
        !self.units.is_empty() && now < self.until
    }
}

impl Swarm {
    /// A piece had the wrong hash, and its units these. Whoever sent all of it is banned; if
    /// several did, all are suspects, and none of them is trusted with a part of a piece until a
    /// whole one of it was right.
    pub(super) fn corrupt(
        &mut self,
        piece: PieceIndex,
        units: Vec<Sha1Hash>,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(origin) = self.pieces.corrupt(piece) else { return };
        match &origin.senders[..] {
            [(guilty, ip)] => self.ban(*ip, *guilty, now, out),
            // It came before the ban: who was in it is known.
            senders if senders.iter().any(|(_, ip)| self.candidates.is_banned(*ip)) => {}
            _ => self.doubt(piece, origin, units, now, out),
        }
        self.fill_all(now, out);
    }

    fn doubt(
        &mut self,
        piece: PieceIndex,
        origin: Origin,
        mut units: Vec<Sha1Hash>,
        now: Time,
        out: &mut Vec<Action>,
    ) {
        for (sender, _) in &origin.senders {
            if let Some(link) = self.links.get_mut(sender) {
                link.suspected = true;
            }
        }
        let with_evidence = self.doubts.values().filter(|doubt| !doubt.units.is_empty());
        if with_evidence.count() >= DOUBTS_MAX {
            units.clear();
        }
        let until = now + self.pace().silence();
        let doubt = Doubt { origin, units, until };
        if doubt.is_looked_into(now) {
            self.give_up_of(|ip| doubt.is_of(ip), out);
            let links = self.links.iter().filter(|(_, link)| doubt.is_of(link.address.ip()));
            for id in links.map(|(&id, _)| id).collect::<Vec<_>>() {
                self.cancel_all(id, out);
            }
        }
        self.doubts.insert(piece, doubt);
    }

    /// The bytes that are verified for `hash` now are to be compared with those that were wrong.
    pub(super) fn wants_proof(&self, piece: PieceIndex, hash: Option<Sha1Hash>) -> bool {
        // Without metainfo, a copy of another hash proves nothing.
        let doubt = self.doubts.get(&piece);
        doubt.is_some_and(|doubt| !doubt.units.is_empty() && doubt.origin.hash == hash)
    }

    /// A right copy of a piece in doubt is here, with these hashes of its units: whoever had sent
    /// others is banned, and who had not is trusted again.
    pub(super) fn proven(
        &mut self,
        piece: PieceIndex,
        units: &[Sha1Hash],
        now: Time,
        out: &mut Vec<Action>,
    ) {
        let Some(Doubt { origin, units: before, .. }) = self.doubts.remove(&piece) else { return };
        for (n, (link, ip)) in origin.senders.iter().enumerate() {
            let sent = origin.units.iter().zip(before.iter().zip(units));
            let is_guilty =
                sent.filter(|(from, _)| **from == n).any(|(_, (bad, good))| bad != good);
            if is_guilty {
                self.ban(*ip, *link, now, out);
            } else if !self.doubts.values().any(|doubt| doubt.is_of(*ip))
                && let Some(link) = self.links.get_mut(link)
            {
                link.suspected = false;
            }
        }
    }

    /// Whether a piece that the peer had a part in is looked into.
    pub(super) fn is_suspect(&self, link: &Link, now: Time) -> bool {
        let ip = link.address.ip();
        self.doubts.values().any(|doubt| doubt.is_looked_into(now) && doubt.is_of(ip))
    }

    /// A piece that is looked into and that the link should bring.
    pub(super) fn doubted_for(&self, id: LinkId, now: Time) -> Option<PieceIndex> {
        let link = self.links.get(&id)?;
        let open = self.doubts.iter().filter(|(_, doubt)| doubt.is_looked_into(now));
        open.map(|(piece, _)| *piece).find(|piece| {
            let could_bring = |other: &Link| {
                let gives = !other.they_choke && !other.snubbed && other.has.contains(*piece);
                gives && !self.is_suspect(other, now)
            };
            link.has.contains(*piece)
                && self.may_begin(id, *piece)
                && (!self.is_suspect(link, now) || !self.links.values().any(could_bring))
        })
    }

    /// Bans `ip`: `guilty` is the link that earned it, if it is still there. Once: more of what it
    /// sent may turn out to be wrong after its links were closed.
    fn ban(&mut self, ip: IpAddr, guilty: LinkId, now: Time, out: &mut Vec<Action>) {
        if self.candidates.is_banned(ip) {
            return;
        }
        out.push(Action::Ban { address: ip });
        self.candidates.ban(ip);
        self.give_up_of(|of| of == ip, out);
        let links = self.links.iter().filter(|(_, link)| link.address.ip() == ip);
        for id in links.map(|(&id, _)| id).collect::<Vec<_>>() {
            let why = if id == guilty { CloseReason::Corrupt } else { CloseReason::Banned };
            self.close(id, why, now, out);
        }
    }

    /// What is held of these addresses is thrown away: it would be held against those who bring the
    /// rest.
    fn give_up_of(&mut self, is_of: impl Fn(IpAddr) -> bool, out: &mut Vec<Action>) {
        let held_of = |held: &Progress| held.senders.iter().any(|(_, ip)| is_of(*ip));
        let tainted = self.pieces.progress().iter().filter(|(_, held)| held_of(held));
        for piece in tainted.map(|(&piece, _)| piece).collect::<Vec<_>>() {
            self.give_up(piece, out);
        }
    }

    /// Takes back all that the link was asked for; if something of it comes, it is thrown away.
    fn cancel_all(&mut self, id: LinkId, out: &mut Vec<Action>) {
        let owned = self.links.get(&id).map(|link| link.owned.clone()).unwrap_or_default();
        owned.into_iter().for_each(|piece| self.give_up(piece, out));
        self.cancel_where(id, |_| true, out);
    }
}
