//! Early swarms: a blob is shared while one of its hosts still fetches it from upstream.
//!
//! There is no metainfo yet: it holds the hashes of all pieces. Whoever has a piece tells its hash
//! with it, in an extension message of our own (`tc_hashes`, BEP 10), to every link of the swarm.
//! The hash that comes first is believed for as long as the pieces agree with it. Whether all of
//! them are right, the digest of the whole blob says in the end, as it always does.
//!
//! **Invariant:** nobody is banned for a wrong piece of an early swarm, since the one who told the
//! hash and the one who sent the bytes may be two. The swarm is left, and the job goes on without.

use std::sync::Arc;

use crate::base::hash::Sha1Hash;
use crate::engine::inbox::MemberId;
use crate::engine::member::{Hashes, Member, Role};
use crate::engine::peer_io::Outgoing;
use crate::engine::run::Run;
use crate::log_limited;
use crate::proto::bitfield::Pieces;
use crate::proto::geometry::{Geometry, PieceIndex};
use crate::proto::hashes::{HASHES_MAX, PieceHashes};
use crate::proto::peer::Message;
use crate::store::Blob;
use crate::swarm::{Input, LinkId};

/// The id that peers are to put in front of their `tc_hashes` messages.
pub(super) const HASHES_ID: u8 = 1;

/// The hashes of an early swarm, as far as they were told.
#[derive(Debug)]
pub(super) struct Told {
    by_piece: Vec<Option<Sha1Hash>>,
}

/// What a hash that was told is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    First,
    Same,
    Other,
}

impl Told {
    pub(super) fn nothing(geometry: &Geometry) -> Told {
        Told { by_piece: vec![None; geometry.piece_count() as usize] }
    }

    pub(super) fn of(&self, piece: PieceIndex) -> Option<Sha1Hash> {
        self.by_piece.get(piece.index()).copied().flatten()
    }

    fn learn(&mut self, piece: PieceIndex, hash: Sha1Hash) -> News {
        match self.by_piece.get_mut(piece.index()) {
            Some(known) if *known == Some(hash) => News::Same,
            Some(known @ None) => {
                *known = Some(hash);
                News::First
            }
            _ => News::Other,
        }
    }

    /// The messages that tell the hashes of the pieces in `have`.
    fn messages(&self, have: &Pieces) -> Vec<PieceHashes> {
        let mut messages: Vec<PieceHashes> = Vec::new();
        for piece in have.iter() {
            let Some(hash) = self.of(piece) else { continue };
            match messages.last_mut() {
                Some(last) if continues(last, piece) => last.hashes.push(hash),
                _ => messages.push(PieceHashes { first: piece.get(), hashes: vec![hash] }),
            }
        }
        messages
    }
}

/// Whether the hash of `piece` can stand at the end of `message`.
fn continues(message: &PieceHashes, piece: PieceIndex) -> bool {
    let next = message.first.checked_add(u32::try_from(message.hashes.len()).unwrap_or(u32::MAX));
    next == Some(piece.get()) && message.hashes.len() < HASHES_MAX
}

impl Member {
    /// The hashes that were told, if the swarm is an early one.
    fn told(&mut self) -> Option<&mut Told> {
        match &mut self.role {
            Role::Fetch(fetch) => match &mut fetch.hashes {
                Hashes::Told(told) => Some(told),
                Hashes::Known(_) => None,
            },
            Role::Serve(_) => None,
        }
    }

    /// Whether the swarm is an early one.
    pub(super) fn is_early(&self) -> bool {
        match &self.role {
            Role::Fetch(fetch) => matches!(fetch.hashes, Hashes::Told(_)),
            Role::Serve(blob) => blob.info_hash() != self.info_hash,
        }
    }
}

impl Run {
    /// A peer has told hashes.
    pub(super) fn hashes_told(&mut self, link: LinkId, told: &PieceHashes) {
        let Some(id) = self.open.get(&link).map(|open| open.member) else { return };
        let Some(member) = self.members.get_mut(&id) else { return };
        let geometry = *member.swarm.geometry();
        let Some(table) = member.told() else { return };
        let mut pieces = Vec::new();
        for (number, hash) in told.iter() {
            let Some(piece) = geometry.piece(number) else { break };
            match table.learn(piece, hash) {
                News::First => pieces.push(piece),
                News::Same => {}
                News::Other => return self.contested(id, piece),
            }
        }
        if !pieces.is_empty() {
            self.turn(id, Input::Hashes { pieces });
        }
    }

    /// A piece is on disk and readable, and the job has found its hash.
    pub(super) fn hashed(&mut self, id: MemberId, piece: PieceIndex, hash: Sha1Hash) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let news = member.told().map(|table| table.learn(piece, hash));
        if news == Some(News::Other) {
            return self.contested(id, piece);
        }
        self.early_stored(id, piece);
        self.turn(id, Input::Stored { piece });
    }

    /// Tells all links of an early swarm the hash of a piece that they are about to be offered.
    pub(super) fn early_stored(&mut self, id: MemberId, piece: PieceIndex) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.swarm.have().contains(piece) {
            return;
        }
        let Some(hash) = member.told().and_then(|told| told.of(piece)) else { return };
        let links: Vec<LinkId> = member.links.iter().copied().collect();
        let message = PieceHashes { first: piece.get(), hashes: vec![hash] };
        for link in links {
            self.tell_hashes(link, std::slice::from_ref(&message));
        }
    }

    /// A link of an early swarm has said that it takes hashes: it gets those of all that is here.
    pub(super) fn introduce_hashes(&mut self, link: LinkId) {
        let Some(id) = self.open.get(&link).map(|open| open.member) else { return };
        let Some(member) = self.members.get_mut(&id) else { return };
        let messages = match &member.role {
            Role::Fetch(fetch) => match &fetch.hashes {
                Hashes::Told(told) => told.messages(member.swarm.have()),
                Hashes::Known(_) => return,
            },
            Role::Serve(blob) if member.is_early() => of_blob(blob),
            Role::Serve(_) => return,
        };
        self.tell_hashes(link, &messages);
    }

    fn tell_hashes(&mut self, link: LinkId, messages: &[PieceHashes]) {
        let Some(wanted) = self.open.get(&link).and_then(|open| open.hashes_id) else { return };
        for message in messages {
            let mut payload = Vec::new();
            message.encode(&mut payload);
            self.send(link, Outgoing::Message(Message::Extended { id: wanted, payload }));
        }
    }

    /// Two say different things of a piece of an early swarm, or its bytes are not what was told.
    pub(super) fn contested(&mut self, id: MemberId, piece: PieceIndex) {
        log_limited!(warn, "an early swarm is left: its hosts do not agree about {piece:?}");
        if let Some(member) = self.members.get(&id) {
            member.change_progress(|progress| progress.contested = true);
        }
        self.leave(id);
    }
}

/// The messages that tell all hashes of a whole blob.
fn of_blob(blob: &Arc<Blob>) -> Vec<PieceHashes> {
    let Ok(metainfo) = blob.metainfo() else { return Vec::new() };
    let geometry = *metainfo.geometry();
    let mut told = Told::nothing(&geometry);
    for piece in geometry.pieces() {
        told.learn(piece, metainfo.piece_hash(piece));
    }
    told.messages(&Pieces::all(geometry))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(number: u8) -> Sha1Hash {
        Sha1Hash([number; 20])
    }

    #[test]
    fn hashes_are_told_in_runs_of_what_is_here() {
        let geometry = Geometry::new(2000 * 16384, 16384).unwrap();
        let mut told = Told::nothing(&geometry);
        let mut have = Pieces::none(geometry);
        for piece in geometry.pieces().filter(|piece| piece.get() != 700 && piece.get() != 3) {
            have.insert(piece);
        }
        for piece in geometry.pieces().filter(|piece| piece.get() != 5) {
            assert_eq!(told.learn(piece, hash(1)), News::First);
        }
        let messages = told.messages(&have);
        let spans: Vec<(u32, usize)> =
            messages.iter().map(|message| (message.first, message.hashes.len())).collect();
        assert_eq!(
            spans,
            [(0, 3), (4, 1), (6, 512), (518, 182), (701, 512), (1213, 512), (1725, 275)]
        );
    }

    #[test]
    fn another_hash_than_the_first_is_noticed() {
        let geometry = Geometry::new(2 * 16384, 16384).unwrap();
        let piece = geometry.piece(1).unwrap();
        let mut told = Told::nothing(&geometry);
        assert_eq!(told.of(piece), None);
        assert_eq!(told.learn(piece, hash(1)), News::First);
        assert_eq!(told.learn(piece, hash(1)), News::Same);
        assert_eq!(told.learn(piece, hash(2)), News::Other);
        assert_eq!(told.of(piece), Some(hash(1)));
    }
}
