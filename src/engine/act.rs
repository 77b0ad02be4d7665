//! What swarms want done: messages, pieces to the disk, connections, announces.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::blame::Blame;
use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::Refused;
use crate::engine::announce::Report;
use crate::engine::disk::{Job, Piece};
use crate::engine::early::HASHES_ID;
use crate::engine::inbox::MemberId;
use crate::engine::member::{Clogged, Hashes, Link, Member, Role};
use crate::engine::peer_io::Outgoing;
use crate::engine::run::{Run, Turn};
use crate::limits::PEER_REQUESTS_MAX;
use crate::proto::ext::{ExtHandshake, HANDSHAKE_ID};
use crate::proto::geometry::{Block, PieceIndex};
use crate::proto::hashes::MESSAGE_NAME;
use crate::proto::peer::Message;
use crate::proto::tracker::AnnounceEvent;
use crate::swarm::{Action, CloseReason, Input, LinkId};

impl Run {
    /// Does one thing that the swarm of `id` wants done. Nothing here waits.
    pub(super) fn act(&mut self, id: MemberId, now: Time, action: Action, turn: &mut Turn) {
        match action {
            Action::Send { link, message } => self.send(link, Outgoing::Message(message)),
            Action::SendBlock { link, block } => self.send_block(id, link, block),
            Action::Refuse { link, block } => self.tell(link, |open| open.refuse(block)),
            Action::Keep { block } => self.keep(id, now, block, turn),
            Action::Drop => {
                if let Some((_, body)) = turn.body.take() {
                    figures::DUPLICATE_BYTES.add(body.len() as u64);
                }
            }
            Action::Verify { piece, hash, proof } => self.verify(id, piece, hash, proof),
            Action::Discard { piece } => {
                if let Some(Role::Fetch(fetch)) = self.members.get_mut(&id).map(|m| &mut m.role) {
                    drop(fetch.collect.take(piece));
                }
            }
            Action::Close { link, why } => self.close(link, why),
            Action::Ban { address } => {
                figures::PEERS_BANNED.add(1);
                log::warn!("peer {address} is banned for a corrupt piece");
                self.links.ban_address(address);
                self.close_banned(id);
            }
            Action::Dial { address } => {
                let info_hash = self.members.get(&id).map(|member| member.info_hash);
                if !info_hash.is_some_and(|info_hash| self.links.dial(info_hash, address)) {
                    self.follow_ups.push_back((id, Input::DialFailed { address }));
                }
            }
            Action::Announce { event } => self.announce(id, event),
            Action::Claimed { span } => turn.claimed = span,
            Action::Complete => {
                if let Some(member) = self.members.get(&id) {
                    member.change_progress(|progress| progress.complete = true);
                }
            }
        }
    }

    pub(super) fn send(&mut self, link: LinkId, outgoing: Outgoing) {
        self.tell(link, |open| open.send(outgoing));
    }

    /// Queues something for a link; one that takes no more is let go.
    fn tell(&mut self, link: LinkId, tell: impl FnOnce(&mut Link) -> Result<(), Clogged>) {
        let Some(open) = self.open.get_mut(&link) else { return };
        if let Err(Clogged) = tell(open) {
            log::debug!("peer {}: it does not read", open.address);
            figures::LINKS_FAILED_THEIRS.add(1);
            let id = open.member;
            self.open.remove(&link);
            self.detach(link, id);
            self.follow_ups.push_back((id, Input::LinkDown { link }));
        }
    }

    fn send_block(&mut self, id: MemberId, link: LinkId, block: Block) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.bytes_up += u64::from(block.len());
        let offset = member.swarm.geometry().block_span(block).offset;
        let bytes = member.bytes();
        self.send(link, Outgoing::Block { block, offset, bytes });
    }

    /// Tells a peer who we are and what we take (BEP 10).
    pub(super) fn send_ext_handshake(&mut self, link: LinkId) {
        let ours = ExtHandshake {
            client: Some(format!("torrent-cache/{}", env!("CARGO_PKG_VERSION"))),
            reqq: u32::try_from(PEER_REQUESTS_MAX).ok(),
            port: Some(self.identity.port),
            block_len_max: Some(self.links.up.block_len_max()),
            messages: self.extensions_of(link),
            ..ExtHandshake::default()
        };
        let mut payload = Vec::new();
        ours.encode(&mut payload);
        let message = Message::Extended { id: HANDSHAKE_ID, payload };
        self.send(link, Outgoing::Message(message));
    }

    /// The extension messages that we take on a link.
    fn extensions_of(&self, link: LinkId) -> BTreeMap<String, u8> {
        let member = self.open.get(&link).and_then(|open| self.members.get(&open.member));
        let takes_hashes = member.is_some_and(Member::is_early);
        takes_hashes.then(|| (MESSAGE_NAME.to_owned(), HASHES_ID)).into_iter().collect()
    }

    /// Holds a block until its piece is whole.
    fn keep(&mut self, id: MemberId, now: Time, block: Block, turn: &mut Turn) {
        let Some((link, body)) = turn.body.take() else { return };
        let Some(member) = self.members.get_mut(&id) else { return };
        let len = u64::from(block.len());
        member.bytes_down += len;
        figures::BYTES_FROM_PEERS.add(len);
        let address = self.open.get_mut(&link).map(|open| {
            open.bytes_down += len;
            open.address.ip()
        });
        let Role::Fetch(fetch) = &mut member.role else { return };
        fetch.collect.keep(block, body);
        let mut progress = fetch.progress.lock();
        progress.last_byte_at = Some(now);
        if let Some(address) = address {
            *progress.bytes_from_peers.entry(address).or_default() += len;
        }
    }

    /// Hands a piece to the disk threads. `told`: what its hash is said to be, if there is no
    /// metainfo. `proof`: whether what its units hash to is wanted even if it is right.
    fn verify(&mut self, id: MemberId, piece: PieceIndex, told: Option<Sha1Hash>, proof: bool) {
        let Some(Role::Fetch(fetch)) = self.members.get_mut(&id).map(|m| &mut m.role) else {
            return;
        };
        let hash = match &fetch.hashes {
            Hashes::Known(metainfo) => Some(metainfo.piece_hash(piece)),
            Hashes::Early(_) => told,
        };
        let Some(hash) = hash else { return };
        let piece = Piece {
            member: id,
            piece,
            span: fetch.geometry.span(piece),
            hash,
            proof,
            blocks: fetch.collect.take(piece),
            partial: Arc::clone(&fetch.partial),
            queued: figures::QUEUE_DISK.hold(),
        };
        self.queue_job(Job::Finish(piece));
    }

    /// Queues a job; never waits.
    pub(super) fn queue_job(&mut self, job: Job) {
        self.jobs_waiting.push_back(job);
        self.refill_disk();
    }

    /// Fills the queue of the disk threads; the rest waits here.
    pub(super) fn refill_disk(&mut self) {
        while let Some(job) = self.jobs_waiting.pop_front() {
            if let Err(Refused::Full(job) | Refused::Closed(job)) = self.jobs.try_send(job) {
                self.jobs_waiting.push_front(job);
                return;
            }
        }
    }

    fn close(&mut self, link: LinkId, why: CloseReason) {
        let Some(open) = self.open.remove(&link) else { return };
        log::debug!("peer {}: closed: {why}", open.address);
        if why.blame() == Blame::Peer {
            figures::LINKS_FAILED_THEIRS.add(1);
        }
        if why == CloseReason::Corrupt {
            self.links.ban_peer(open.address.ip(), open.peer_id);
            self.close_banned(open.member);
        }
        self.detach(link, open.member);
    }

    /// Somebody was banned by the swarm of `id`, which closes its own links: so are the links that
    /// others have with him.
    fn close_banned(&mut self, id: MemberId) {
        let others = self.open.iter().filter(|(_, open)| open.member != id);
        let banned = others.filter(|(_, open)| self.links.is_banned(open.address, open.peer_id));
        let banned: Vec<(LinkId, MemberId)> =
            banned.map(|(link, open)| (*link, open.member)).collect();
        for (link, member) in banned {
            self.close(link, CloseReason::Banned);
            self.follow_ups.push_back((member, Input::LinkDown { link }));
        }
    }

    /// Whole blobs announce themselves; a swarm that fetches says when.
    fn announce(&mut self, id: MemberId, event: AnnounceEvent) {
        let Some(member) = self.members.get(&id) else { return };
        if matches!(member.role, Role::Serve(_)) || event == AnnounceEvent::Stopped {
            // Of leaving, the announcer is told when it is done.
            return;
        }
        let report = Report {
            event,
            left: member.left(),
            downloaded: member.bytes_down,
            uploaded: member.bytes_up,
        };
        self.announcer.ask(member.info_hash, report);
    }
}
