//! Early swarms: a blob is shared while one of its hosts still fetches it from upstream.
//!
//! There is no metainfo yet: it holds the hashes of all pieces. Whoever has a piece tells its hash
//! with it, in an extension message of our own (`tc_hashes`, BEP 10), to every link of the swarm,
//! and answers for it: a piece is asked for only of those who told the same hash of it
//! ([`crate::swarm`]). Who sends bytes that are not those of the hash that it told is banned.
//! Whether all hashes are right, the digest of the whole blob says in the end, as it always does.
//!
//! **Invariant:** we tell only hashes of bytes that are readable here, and those stay as they are.
//! A part of a delta that turns out wrong comes again: then the job leaves the swarm.

use std::sync::Arc;

use crate::base::hash::Sha1Hash;
use crate::engine::inbox::MemberId;
use crate::engine::member::{Hashes, Member, Role};
use crate::engine::peer_io::Outgoing;
use crate::engine::run::Run;
use crate::proto::geometry::{Geometry, PieceIndex};
use crate::proto::hashes::{HASHES_MAX, PieceHashes};
use crate::proto::peer::Message;
use crate::store::Blob;
use crate::swarm::{Input, LinkId};

/// The id that peers are to put in front of their `tc_hashes` messages.
pub(super) const HASHES_ID: u8 = 1;

/// The hashes of the pieces that are here, of an early swarm.
#[derive(Debug)]
pub(super) struct OurHashes {
    by_piece: Vec<Option<Sha1Hash>>,
}

impl OurHashes {
    pub(super) fn none(geometry: &Geometry) -> OurHashes {
        OurHashes { by_piece: vec![None; geometry.piece_count() as usize] }
    }

    /// Notes the hash of a piece, and says whether it is new.
    fn learn(&mut self, piece: PieceIndex, hash: Sha1Hash) -> bool {
        match self.by_piece.get_mut(piece.index()) {
            Some(known @ None) => {
                *known = Some(hash);
                true
            }
            _ => false,
        }
    }

    /// The messages that tell all of them: as few as can be, a link's queue is not endless.
    fn messages(&self) -> Vec<PieceHashes> {
        let known = (0..).zip(&self.by_piece);
        let known: Vec<(u32, Sha1Hash)> =
            known.filter_map(|(number, hash)| Some((number, (*hash)?))).collect();
        known.chunks(HASHES_MAX).map(|hashes| PieceHashes { hashes: hashes.to_vec() }).collect()
    }
}

impl Member {
    /// The hashes of what is here, if the swarm is an early one.
    fn our_hashes(&mut self) -> Option<&mut OurHashes> {
        match &mut self.role {
            Role::Fetch(fetch) => match &mut fetch.hashes {
                Hashes::Early(ours) => Some(ours),
                Hashes::Known(_) => None,
            },
            Role::Serve(_) => None,
        }
    }

    /// Whether the swarm is an early one.
    pub(super) fn is_early(&self) -> bool {
        match &self.role {
            Role::Fetch(fetch) => matches!(fetch.hashes, Hashes::Early(_)),
            Role::Serve(blob) => blob.info_hash() != self.info_hash,
        }
    }
}

impl Run {
    /// A piece is on disk and readable, and this is its hash.
    pub(super) fn hashed(&mut self, id: MemberId, piece: PieceIndex, hash: Sha1Hash) {
        self.tell_all(id, piece, hash);
        self.turn(id, Input::Stored { piece });
    }

    /// Tells all links of an early swarm the hash of a piece that they are about to be offered.
    fn tell_all(&mut self, id: MemberId, piece: PieceIndex, hash: Sha1Hash) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if !member.our_hashes().is_some_and(|ours| ours.learn(piece, hash)) {
            return;
        }
        let links: Vec<LinkId> = member.links.iter().copied().collect();
        let message = PieceHashes { hashes: vec![(piece.get(), hash)] };
        for link in links {
            self.tell_hashes(link, std::slice::from_ref(&message));
        }
    }

    /// A link of an early swarm has said that it takes hashes: it gets those of all that is here.
    pub(super) fn introduce_hashes(&mut self, link: LinkId) {
        let Some(id) = self.open.get(&link).map(|open| open.member) else { return };
        let Some(member) = self.members.get(&id) else { return };
        let messages = match &member.role {
            Role::Fetch(fetch) => match &fetch.hashes {
                Hashes::Early(ours) => ours.messages(),
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
}

/// The messages that tell all hashes of a whole blob.
fn of_blob(blob: &Arc<Blob>) -> Vec<PieceHashes> {
    let Ok(metainfo) = blob.metainfo() else { return Vec::new() };
    let geometry = *metainfo.geometry();
    let mut hashes = OurHashes::none(&geometry);
    for piece in geometry.pieces() {
        hashes.learn(piece, metainfo.piece_hash(piece));
    }
    hashes.messages()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{PIECES_MAX, WRITER_QUEUE_MAX};

    fn hash(number: u8) -> Sha1Hash {
        Sha1Hash([number; 20])
    }

    /// However many there are, and in however many places: nobody who reads is clogged by them.
    #[test]
    fn all_hashes_are_told_in_few_messages() {
        let geometry = Geometry::new(u64::from(PIECES_MAX) * 16384, 16384).unwrap();
        let mut ours = OurHashes::none(&geometry);
        assert!(ours.messages().is_empty());
        let here: Vec<PieceIndex> = geometry.pieces().step_by(2).collect();
        assert!(here.iter().rev().all(|piece| ours.learn(*piece, hash(1))));
        let messages = ours.messages();
        assert!(messages.iter().all(|message| message.hashes.len() <= HASHES_MAX));
        assert!(messages.len() <= here.len().div_ceil(HASHES_MAX));
        assert!(messages.len() <= WRITER_QUEUE_MAX / 10);
        let told = messages.iter().flat_map(|message| &message.hashes);
        assert!(told.copied().eq(here.iter().map(|piece| (piece.get(), hash(1)))));
    }

    #[test]
    fn a_piece_that_is_here_keeps_its_hash() {
        let geometry = Geometry::new(2 * 16384, 16384).unwrap();
        let piece = geometry.piece(1).unwrap();
        let mut ours = OurHashes::none(&geometry);
        assert!(ours.learn(piece, hash(1)));
        assert!(!ours.learn(piece, hash(1)));
        assert!(!ours.learn(piece, hash(2)));
        assert_eq!(ours.by_piece, [None, Some(hash(1))]);
    }
}
