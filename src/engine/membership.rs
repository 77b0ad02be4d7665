//! Our part in one swarm, as the job that fetches the blob sees it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::{Sender, mailbox};
use crate::base::ranked::Ranked;
use crate::engine::inbox::{Event, MemberId, Wish};
use crate::proto::geometry::{PieceIndex, Span};
use crate::store::Blob;

/// Our part in one swarm while its blob is being fetched. Dropping it leaves the swarm, unless the
/// blob became whole.
pub struct Membership {
    id: MemberId,
    inbox: Sender<Event>,
    progress: Arc<Ranked<Progress>>,
}

/// How the fetch goes.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Bytes of blocks kept, by who sent them.
    pub bytes_from_peers: BTreeMap<IpAddr, u64>,
    /// Connected peers.
    pub links: usize,
    /// Connected peers that let us ask for a piece we want.
    pub useful_links: usize,
    /// When the last block came that was kept; `None`: none yet.
    pub last_byte_at: Option<Time>,
    /// Whether the tracker, if there is one, has named no peer, and none has called.
    pub nobody: bool,
    /// Whether every piece is on disk, whoever it came from.
    pub complete: bool,
    /// Why the swarm is of no more use, if it is not: the disk failed or the engine stops.
    pub failed: Option<String>,
}

impl Membership {
    pub(super) fn new(
        id: MemberId,
        inbox: Sender<Event>,
        progress: Arc<Ranked<Progress>>,
    ) -> Membership {
        Membership { id, inbox, progress }
    }

    /// Takes a run of whole pieces out of the swarm's hands, for the upstream: the next at or after
    /// byte `from` that nobody has and nobody was asked for, at most `len_max` bytes but at least
    /// one piece. With `steal`, pieces that peers were asked for are taken as well. `None`: there
    /// is no such piece, or the engine has stopped.
    #[must_use]
    pub fn claim(&self, from: u64, len_max: u64, steal: bool) -> Option<Span> {
        let (reply, answer) = mailbox(1);
        self.tell(Wish::Claim { from, len_max, steal, reply });
        answer.recv().ok().flatten()
    }

    /// Gives pieces back that were claimed and did not come.
    pub fn release(&self, span: Span) {
        self.tell(Wish::Release(span));
    }

    /// A claimed piece is on disk and in the feed.
    pub fn stored(&self, piece: PieceIndex) {
        self.tell(Wish::Stored(piece));
    }

    /// A piece of an early swarm is on disk and in the feed, and its hash is this.
    pub fn hashed(&self, piece: PieceIndex, hash: Sha1Hash) {
        self.tell(Wish::Hashed(piece, hash));
    }

    /// The feed has new readers, or they stand elsewhere: their windows come first.
    pub fn readers_moved(&self) {
        self.tell(Wish::ReadersMoved);
    }

    /// Addresses where peers of this swarm may be, besides those that the tracker names.
    pub fn offer_candidates(&self, addresses: Vec<SocketAddr>) {
        self.tell(Wish::Candidates(addresses));
    }

    /// How it goes.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.lock().clone()
    }

    /// The blob is sealed: the swarm goes on with the sealed file, and the tracker is told.
    /// Leaving afterwards changes nothing.
    pub fn became_whole(&self, blob: Arc<Blob>) {
        self.tell(Wish::BecomeSeed(blob));
    }

    /// Leaves the swarm: its links are closed, the tracker is told.
    pub fn leave(&self) {
        self.tell(Wish::Leave);
    }

    fn tell(&self, wish: Wish) {
        // An engine that has stopped has left all swarms.
        let _ = self.inbox.send(Event::Member(self.id, wish));
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Membership {:?}", self.id)
    }
}
