//! What the engine's thread owns: our side of each swarm, and each link.

use std::collections::BTreeSet;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::{LeanSender, Refused};
use crate::base::metrics::Held;
use crate::base::ranked::Ranked;
use crate::engine::asked::Asked;
use crate::engine::collect::Collect;
use crate::engine::early::OurHashes;
use crate::engine::inbox::{MemberId, NewLink, Nobody};
use crate::engine::membership::Progress;
use crate::engine::owed::Owed;
use crate::engine::peer_io::{Bytes, Outgoing};
use crate::engine::status::LinkStatus;
use crate::proto::geometry::Geometry;
use crate::proto::metainfo::Metainfo;
use crate::proto::peer::{Message, PeerId, RawBlock};
use crate::store::{Blob, Partial};
use crate::swarm::{LinkId, Swarm};

/// Our side of one swarm.
pub(super) struct Member {
    pub(super) info_hash: Sha1Hash,
    pub(super) swarm: Swarm,
    pub(super) role: Role,
    pub(super) links: BTreeSet<LinkId>,
    /// When the swarm wants to be woken.
    pub(super) deadline: Option<Time>,
    pub(super) bytes_down: u64,
    pub(super) bytes_up: u64,
}

/// Why we are in a swarm.
pub(super) enum Role {
    /// To fetch a blob, and to share what is there of it.
    Fetch(Fetch),
    /// To serve a whole blob, for as long as there is a link.
    Serve(Arc<Blob>),
}

/// What fetching needs.
pub(super) struct Fetch {
    /// The name in its metainfo, or of its blob.
    pub(super) name: String,
    pub(super) hashes: Hashes,
    pub(super) geometry: Geometry,
    pub(super) partial: Arc<Partial>,
    pub(super) progress: Arc<Ranked<Progress>>,
    pub(super) collect: Collect,
    /// `None`: it was called, or nobody wants to know.
    pub(super) nobody: Option<Nobody>,
    pub(super) _counted: Held,
}

/// What pieces must hash to.
pub(super) enum Hashes {
    /// It stands in the metainfo.
    Known(Arc<Metainfo>),
    /// The swarm is an early one: who sends a piece has told it.
    Early(OurHashes),
}

impl Member {
    /// Where the bytes lie that links are served from.
    pub(super) fn bytes(&self) -> Bytes {
        match &self.role {
            Role::Fetch(fetch) => Bytes::Partial(Arc::clone(&fetch.partial)),
            Role::Serve(blob) => Bytes::Whole(Arc::clone(blob)),
        }
    }

    /// What the job that fetches sees, if there is one.
    pub(super) fn change_progress(&self, change: impl FnOnce(&mut Progress)) {
        if let Role::Fetch(fetch) = &self.role {
            change(&mut fetch.progress.lock());
        }
    }

    /// Bytes that are not on disk yet.
    pub(super) fn left(&self) -> u64 {
        let geometry = self.swarm.geometry();
        let missing = geometry.pieces().filter(|piece| !self.swarm.have().contains(*piece));
        missing.map(|piece| geometry.span(piece).len).sum()
    }
}

/// One connected peer.
pub(super) struct Link {
    pub(super) member: MemberId,
    pub(super) address: SocketAddr,
    pub(super) peer_id: PeerId,
    pub(super) incoming: bool,
    /// What the peer says it is.
    pub(super) client: Option<String>,
    /// The id that it wants in front of `tc_hashes`, if it takes them.
    pub(super) hashes_id: Option<u8>,
    pub(super) bytes_down: u64,
    pub(super) bytes_up: u64,
    stream: Arc<TcpStream>,
    outgoing: LeanSender<Outgoing>,
    asked: Arc<Asked>,
    owed: Arc<Owed>,
    /// Whether it can be told no (BEP 6).
    fast: bool,
    _counted: Held,
}

/// The link takes no more: its peer does not read.
pub(super) struct Clogged;

impl Link {
    pub(super) fn new(new: NewLink, member: MemberId, counted: Held) -> Link {
        Link {
            member,
            address: new.address,
            peer_id: new.theirs.peer_id,
            incoming: new.incoming,
            client: None,
            hashes_id: None,
            bytes_down: 0,
            bytes_up: 0,
            stream: new.stream,
            outgoing: new.outgoing,
            asked: new.asked,
            owed: new.owed,
            fast: new.theirs.supports_fast(),
            _counted: counted,
        }
    }

    /// Queues something for the writer. Never waits.
    pub(super) fn send(&mut self, outgoing: Outgoing) -> Result<(), Clogged> {
        match &outgoing {
            Outgoing::Message(Message::Request(block)) => self.asked.add(*block),
            Outgoing::Message(Message::Cancel(block)) => self.asked.take_back(*block),
            Outgoing::Message(_) => {}
            Outgoing::Block { block, .. } => self.bytes_up += u64::from(block.len()),
        }
        match self.outgoing.try_send(outgoing) {
            Err(Refused::Full(_)) => Err(Clogged),
            // The writer has ended: the reader is about to tell why.
            Ok(()) | Err(Refused::Closed(_)) => Ok(()),
        }
    }

    /// Notes which requests a message of the peer is the answer to.
    pub(super) fn heard(&self, message: &Message) {
        match message {
            Message::Reject(block) => self.asked.refused(*block),
            Message::Choke if !self.fast => self.asked.take_all_back(),
            _ => {}
        }
    }

    /// Answers a request with no, if there is a way to say it.
    pub(super) fn refuse(&mut self, block: RawBlock) -> Result<(), Clogged> {
        if self.fast {
            return self.send(Outgoing::Message(Message::Reject(block)));
        }
        self.owed.answered(1);
        Ok(())
    }

    pub(super) fn status(&self) -> LinkStatus {
        LinkStatus {
            address: self.address,
            client: self.client.clone().unwrap_or_else(|| self.peer_id.to_string()),
            incoming: self.incoming,
            bytes_down: self.bytes_down,
            bytes_up: self.bytes_up,
        }
    }
}

impl Drop for Link {
    /// Ends both threads: the connection is shut, the queue closes.
    fn drop(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;
    use crate::base::figures;
    use crate::base::mailbox::{LeanReceiver, lean_mailbox};
    use crate::engine::asked::Came;
    use crate::proto::peer::Handshake;

    fn link(fast: bool) -> (Link, Arc<Asked>, LeanReceiver<Outgoing>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let stream = TcpStream::connect(address).expect("it listens");
        let mut theirs = Handshake::ours(Sha1Hash([7; 20]), PeerId([8; 20]));
        if !fast {
            theirs.reserved = [0; 8];
        }
        let (outgoing, queue) = lean_mailbox(100);
        let asked = Arc::new(Asked::new());
        let new = NewLink {
            id: LinkId(1),
            address,
            incoming: false,
            theirs,
            stream: Arc::new(stream),
            outgoing,
            asked: Arc::clone(&asked),
            owed: Arc::new(Owed::new()),
            seed: None,
        };
        (Link::new(new, MemberId(1), figures::PEERS.hold()), asked, queue)
    }

    #[test]
    fn what_is_taken_back_or_refused_is_not_asked_for_any_more() {
        let block = |piece| RawBlock { piece, begin: 0, len: 1 << 14 };
        for fast in [true, false] {
            let (mut link, asked, _queue) = link(fast);
            let is_asked = |block| asked.came(block) == Came::Asked;
            let mut send = |message| assert!(link.send(Outgoing::Message(message)).is_ok());
            (0..5).for_each(|piece| send(Message::Request(block(piece))));
            send(Message::Cancel(block(0)));
            assert!(!is_asked(block(0)));
            link.heard(&Message::Reject(block(1)));
            assert!(!is_asked(block(1)));
            link.heard(&Message::Unchoke);
            assert!(is_asked(block(2)));
            link.heard(&Message::Choke);
            assert_eq!(is_asked(block(3)), fast, "a choke answers all, or each has its own");
        }
    }
}
