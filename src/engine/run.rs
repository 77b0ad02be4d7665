//! The engine's thread: it owns all swarms and links, and turns events into the inputs of swarms.
//! What swarms want done is in [`crate::engine::act`].
//!
//! **Invariant:** it waits for nothing but its inbox: what it queues, it queues with `try_send`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::base::blame::Blame;
use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::{Nothing, Receiver, Sender};
use crate::base::rng::Rng;
use crate::engine::announce::{Announcer, Answer, Identity};
use crate::engine::collect::Collect;
use crate::engine::disk::Job;
use crate::engine::inbox::{Event, Join, LinkEnd, MemberId, NewLink, Seed, Wish};
use crate::engine::links::Links;
use crate::engine::member::{Fetch, Hashes, Link, Member, Role};
use crate::engine::pool::Buffer;
use crate::engine::status::SwarmStatus;
use crate::limits::{BLOCK_LEN, LINKS_MAX, PEER_REQUESTS_MAX, PIECE_BYTES_IN_FLIGHT_MAX};
use crate::log_limited;
use crate::proto::bitfield::Pieces;
use crate::proto::ext::ExtHandshake;
use crate::proto::geometry::{Geometry, Span};
use crate::proto::hashes::{MESSAGE_NAME, PieceHashes};
use crate::proto::peer::RawBlock;
use crate::store::Blob;
use crate::swarm::{Action, Config, Input, LinkId, Source, Swarm};

/// How many requests a peer takes that does not say: what most clients take at least.
const REQUESTS_USUAL: usize = 250;

/// All that the engine's thread owns.
pub(super) struct Run {
    inbox: Receiver<Event>,
    pub(super) jobs: Sender<Job>,
    /// What waits for room in the queue of the disk threads.
    pub(super) jobs_waiting: VecDeque<Job>,
    pub(super) links: Arc<Links>,
    pub(super) announcer: Arc<Announcer>,
    pub(super) identity: Identity,
    pub(super) members: BTreeMap<MemberId, Member>,
    by_hash: HashMap<Sha1Hash, MemberId>,
    pub(super) open: HashMap<LinkId, Link>,
    /// When swarms want to be woken; one entry for each member that does.
    deadlines: BTreeSet<(Time, MemberId)>,
    /// Inputs that follow from what was done for others.
    pub(super) follow_ups: VecDeque<(MemberId, Input)>,
    /// Kept for its memory.
    actions: Vec<Action>,
    /// What each swarm that fetches may have in flight.
    share: u64,
    /// Memberships of whole blobs have ids of their own, from above.
    next_serving: u64,
    rng: Rng,
}

/// What came with an input, or is to come back.
#[derive(Default)]
pub(super) struct Turn {
    /// The bytes of [`Input::Block`].
    pub(super) body: Option<(LinkId, Buffer)>,
    /// The answer to [`Input::Claim`].
    pub(super) claimed: Option<Span>,
}

impl Run {
    pub(super) fn new(
        inbox: Receiver<Event>,
        jobs: Sender<Job>,
        links: Arc<Links>,
        announcer: Arc<Announcer>,
        identity: &Identity,
    ) -> Run {
        Run {
            inbox,
            jobs,
            jobs_waiting: VecDeque::new(),
            links,
            announcer,
            identity: identity.clone(),
            members: BTreeMap::new(),
            by_hash: HashMap::new(),
            open: HashMap::new(),
            deadlines: BTreeSet::new(),
            follow_ups: VecDeque::new(),
            actions: Vec::new(),
            share: PIECE_BYTES_IN_FLIGHT_MAX,
            next_serving: u64::MAX,
            rng: Rng::from_os(),
        }
    }

    /// Runs until [`Event::Stop`].
    pub(super) fn run(mut self) {
        loop {
            let event = match self.deadlines.first() {
                Some((deadline, _)) => self.inbox.recv_until(*deadline),
                None => self.inbox.recv().map_err(|_| Nothing::Closed),
            };
            figures::QUEUE_ENGINE.set(i64::try_from(self.inbox.depth()).unwrap_or(0));
            match event {
                Ok(Event::Stop) | Err(Nothing::Closed) => break,
                Ok(event) => self.take(event),
                Err(Nothing::Yet) => {}
            }
            self.settle();
            self.wake_due(Time::now());
            self.settle();
        }
        for member in self.members.values() {
            member.change_progress(|progress| progress.failed = Some("we stop".to_owned()));
        }
        self.links.waiting.close();
        figures::QUEUE_ENGINE.set(0);
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Join(join) => self.join(*join),
            Event::Member(id, wish) => self.grant(id, wish),
            Event::Unseed(info_hash) => self.unseed(info_hash),
            Event::LinkUp(new) => self.link_up(*new),
            Event::Message(link, message) => {
                self.open.get(&link).into_iter().for_each(|open| open.heard(&message));
                self.of_link(link, Input::Message { link, message });
            }
            Event::ExtHandshake(link, theirs) => self.ext_handshake(link, *theirs),
            Event::Hashes(link, PieceHashes { hashes }) => {
                self.of_link(link, Input::Hashes { link, hashes });
            }
            Event::Block(link, block, body, ticket) => {
                drop(ticket);
                self.block(link, block, body);
            }
            Event::BlockSent(link, block) => self.of_link(link, Input::BlockSent { link, block }),
            Event::LinkDown(link, end) => self.link_down(link, &end),
            Event::DialFailed { info_hash, address } => {
                self.of_swarm(info_hash, Input::DialFailed { address });
            }
            Event::Stored(id, piece, hash, units) => {
                self.refill_disk();
                if !units.is_empty() {
                    self.turn(id, Input::Proof { piece, units });
                }
                match hash {
                    Some(hash) => self.hashed(id, piece, hash),
                    None => self.turn(id, Input::Stored { piece }),
                }
            }
            Event::Corrupt(id, piece, units) => {
                self.refill_disk();
                log_limited!(warn, "a piece from peers was corrupt: {piece:?}");
                self.turn(id, Input::Corrupt { piece, units });
            }
            Event::DiskFailed(id, why) => {
                self.refill_disk();
                self.fail(id, why);
            }
            Event::Announced(info_hash, answer) => self.announced(info_hash, answer),
            Event::Status(reply) => {
                let _ = reply.try_send(self.status());
            }
            // The loop ends before.
            Event::Stop => {}
        }
    }

    /// Lets swarms hear what follows from what was done for others.
    fn settle(&mut self) {
        while let Some((id, input)) = self.follow_ups.pop_front() {
            self.turn(id, input);
        }
    }

    /// Wakes the swarms whose time has come, each once.
    fn wake_due(&mut self, now: Time) {
        let due = self.deadlines.iter().take_while(|(deadline, _)| *deadline <= now);
        let due: Vec<MemberId> = due.map(|(_, id)| *id).collect();
        for id in due {
            self.turn(id, Input::Timeout);
        }
    }

    fn of_swarm(&mut self, info_hash: Sha1Hash, input: Input) {
        if let Some(id) = self.by_hash.get(&info_hash) {
            self.turn(*id, input);
        }
    }

    /// A link that is not open any more has no say.
    fn of_link(&mut self, link: LinkId, input: Input) {
        if let Some(link) = self.open.get(&link) {
            self.turn(link.member, input);
        }
    }

    /// Gives a swarm one input and does what it wants.
    pub(super) fn turn(&mut self, id: MemberId, input: Input) {
        self.turn_with(id, input, &mut Turn::default());
    }

    fn turn_with(&mut self, id: MemberId, input: Input, turn: &mut Turn) {
        let Some(member) = self.members.get_mut(&id) else { return };
        let now = Time::now();
        let mut actions = std::mem::take(&mut self.actions);
        member.swarm.handle(now, input, &mut actions);
        for action in actions.drain(..) {
            self.act(id, now, action, turn);
        }
        self.actions = actions;
        self.after_turn(id);
    }

    /// Notes when the swarm wants to be woken; a whole blob without links is let go.
    fn after_turn(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id) else { return };
        member.change_progress(|progress| progress.useful_links = member.swarm.useful_links());
        let deadline = member.swarm.next_deadline();
        if deadline != member.deadline {
            if let Some(before) = std::mem::replace(&mut member.deadline, deadline) {
                self.deadlines.remove(&(before, id));
            }
            if let Some(deadline) = deadline {
                self.deadlines.insert((deadline, id));
            }
        }
        if matches!(member.role, Role::Serve(_)) && member.links.is_empty() {
            self.forget(id);
        }
    }

    fn forget(&mut self, id: MemberId) {
        let Some(member) = self.members.remove(&id) else { return };
        if let Some(deadline) = member.deadline {
            self.deadlines.remove(&(deadline, id));
        }
        if self.by_hash.get(&member.info_hash) == Some(&id) {
            self.by_hash.remove(&member.info_hash);
        }
        for link in &member.links {
            self.open.remove(link);
        }
        if member.is_early() {
            self.announcer.leave(member.info_hash);
        }
        if let Role::Fetch(fetch) = member.role {
            self.queue_job(Job::LetGo(fetch.partial));
        }
    }
}

/// Jobs and what they wish.
impl Run {
    fn join(&mut self, join: Join) {
        let Join { id, info_hash, name, geometry, hashes, partial, have, progress, nobody } = join;
        if let Some(before) = self.by_hash.get(&info_hash).copied() {
            self.fail(before, "the swarm was joined again".to_owned());
            self.forget(before);
        }
        let counted = figures::SWARMS_LEECHING.hold();
        let fetch = Fetch {
            name,
            hashes,
            geometry,
            partial,
            progress,
            collect: Collect::default(),
            nobody,
            _counted: counted,
        };
        let role = Role::Fetch(fetch);
        self.add_member(id, info_hash, geometry, have, role);
        self.share_memory();
        self.turn(id, Input::Timeout);
    }

    fn add_member(
        &mut self,
        id: MemberId,
        info_hash: Sha1Hash,
        geometry: Geometry,
        have: Pieces,
        role: Role,
    ) {
        let usual = Config::usual(self.identity.peer_id);
        let hashes_known = match &role {
            Role::Fetch(fetch) => matches!(fetch.hashes, Hashes::Known(_)),
            Role::Serve(_) => true,
        };
        let config = Config { bytes_in_flight_max: self.share, hashes_known, ..usual };
        let rng = Rng::seeded(self.rng.next_u64());
        let swarm = Swarm::new(config, geometry, have, rng, Time::now());
        let (links, deadline) = (BTreeSet::new(), None);
        let member = Member { info_hash, swarm, role, links, deadline, bytes_down: 0, bytes_up: 0 };
        self.by_hash.insert(info_hash, id);
        self.members.insert(id, member);
    }

    fn grant(&mut self, id: MemberId, wish: Wish) {
        match wish {
            Wish::Claim { from, len_max, steal, reply } => {
                let mut turn = Turn::default();
                self.turn_with(id, Input::Claim { from, max_len: len_max, steal }, &mut turn);
                let _ = reply.try_send(turn.claimed);
            }
            Wish::Release(span) => self.turn(id, Input::Release { span }),
            Wish::Stored(piece) => self.turn(id, Input::Stored { piece }),
            Wish::Hashed(piece, hash) => self.hashed(id, piece, hash),
            Wish::ReadersMoved => {
                let Some(member) = self.members.get(&id) else { return };
                let Role::Fetch(fetch) = &member.role else { return };
                let offsets = fetch.partial.feed().readers();
                self.turn(id, Input::Readers { offsets });
            }
            Wish::Candidates(addresses) => self.candidates(id, addresses, Source::Peer),
            Wish::BecomeSeed(blob) => self.become_seed(id, blob),
            Wish::Leave => {
                if self.members.get(&id).is_some_and(|m| matches!(m.role, Role::Fetch(_))) {
                    self.leave(id);
                }
            }
        }
    }

    /// The blob is sealed: links go on, from the sealed file.
    fn become_seed(&mut self, id: MemberId, blob: Arc<Blob>) {
        let Some(member) = self.members.get_mut(&id) else { return };
        if member.is_early() {
            // The blob has an info-hash now, under which the job has it announced. Whoever still
            // looks for it under that of the early swarm gets it as well.
            self.links.rename(member.info_hash, blob.info_hash());
        } else {
            self.announcer.seed(blob.info_hash());
        }
        // Sealed means all there, also what the upstream brought without a word.
        let pieces = member.swarm.geometry().pieces();
        let untold = pieces.filter(|piece| !member.swarm.have().contains(*piece));
        let untold: Vec<_> = untold.map(|piece| (id, Input::Stored { piece })).collect();
        self.follow_ups.extend(untold);
        self.settle();
        if let Some(member) = self.members.get_mut(&id) {
            self.links.left(member.info_hash, id);
            member.role = Role::Serve(blob);
        }
        self.share_memory();
        self.after_turn(id);
    }

    pub(super) fn leave(&mut self, id: MemberId) {
        self.turn(id, Input::Leave);
        let Some(member) = self.members.get(&id) else { return };
        self.links.left(member.info_hash, id);
        self.announcer.leave(member.info_hash);
        self.forget(id);
        self.share_memory();
    }

    /// The swarm is of no more use to the job, and says why.
    fn fail(&mut self, id: MemberId, why: String) {
        if let Some(member) = self.members.get(&id) {
            member.change_progress(|progress| progress.failed = Some(why));
            self.leave(id);
        }
    }

    /// Splits the memory for pieces in flight between the swarms that fetch. A blob that fits into
    /// its share before and after is not told: of many small ones, one comes or goes all the time.
    fn share_memory(&mut self) {
        let fetches = |member: &Member| matches!(member.role, Role::Fetch(_));
        let count = self.members.values().filter(|member| fetches(member)).count();
        let bytes_in_flight_max = PIECE_BYTES_IN_FLIGHT_MAX / (count as u64).max(1);
        let before = std::mem::replace(&mut self.share, bytes_in_flight_max);
        let least = before.min(bytes_in_flight_max);
        for (id, member) in &self.members {
            if fetches(member) && member.swarm.geometry().blob_len() > least {
                self.follow_ups.push_back((*id, Input::Share { bytes_in_flight_max }));
            }
        }
    }

    fn unseed(&mut self, info_hash: Sha1Hash) {
        let serves = |member: &Member| match &member.role {
            Role::Serve(blob) => blob.info_hash() == info_hash,
            Role::Fetch(_) => false,
        };
        let gone: Vec<MemberId> =
            self.members.iter().filter(|(_, m)| serves(m)).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| self.forget(id));
    }

    fn candidates(&mut self, id: MemberId, addresses: Vec<SocketAddr>, source: Source) {
        let welcome = |address: &SocketAddr| self.links.is_welcome(address.ip());
        let addresses: Vec<SocketAddr> = addresses.into_iter().filter(welcome).collect();
        match source {
            Source::Tracker if addresses.is_empty() => self.nobody(id),
            _ => self.somebody(id),
        }
        self.turn(id, Input::Candidates { addresses, source });
    }

    /// The tracker has named no peer.
    fn nobody(&mut self, id: MemberId) {
        let Some(member) = self.members.get_mut(&id).filter(|m| m.links.is_empty()) else { return };
        if let Role::Fetch(fetch) = &mut member.role {
            fetch.progress.lock().nobody = true;
            fetch.nobody.take().into_iter().for_each(|nobody| nobody());
        }
    }

    fn somebody(&self, id: MemberId) {
        if let Some(member) = self.members.get(&id) {
            member.change_progress(|progress| progress.nobody = false);
        }
    }

    fn announced(&mut self, info_hash: Sha1Hash, answer: Option<Answer>) {
        let Some(id) = self.by_hash.get(&info_hash).copied() else { return };
        match answer {
            Some(Answer { interval, peers }) => {
                self.turn(id, Input::Announced { interval });
                self.candidates(id, peers, Source::Tracker);
            }
            None => {
                self.nobody(id);
                self.turn(id, Input::AnnounceFailed);
            }
        }
    }

    fn status(&self) -> Vec<SwarmStatus> {
        let of_member = |member: &Member| SwarmStatus {
            info_hash: member.info_hash,
            name: match &member.role {
                Role::Fetch(fetch) => fetch.name.clone(),
                Role::Serve(blob) => blob.name().file_stem(),
            },
            blob_len: member.swarm.geometry().blob_len(),
            pieces_have: member.swarm.have().count(),
            piece_count: member.swarm.geometry().piece_count(),
            links: member.links.iter().filter_map(|id| Some(self.open.get(id)?.status())).collect(),
        };
        self.members.values().map(of_member).collect()
    }
}

/// Links and what comes from them.
impl Run {
    fn link_up(&mut self, mut new: NewLink) {
        let info_hash = new.theirs.info_hash;
        let found = self.by_hash.get(&info_hash).copied();
        let member = match (found, new.seed.take()) {
            _ if self.open.len() >= LINKS_MAX => None,
            // It was here before the ban was, and shook hands meanwhile.
            _ if self.links.is_banned(new.address, new.theirs.peer_id) => None,
            (Some(id), _) => Some(id),
            (None, Some(seed)) => Some(self.serve(info_hash, seed)),
            (None, None) => None,
        };
        let Some(id) = member else {
            // Letting go of it closes it.
            drop(new.outgoing);
            if !new.incoming {
                self.of_swarm(info_hash, Input::DialFailed { address: new.address });
            }
            return;
        };
        let (link, address, theirs) = (new.id, new.address, new.theirs);
        let incoming = new.incoming;
        if let Some(member) = self.members.get_mut(&id) {
            member.links.insert(link);
            member.change_progress(|progress| {
                progress.links += 1;
                progress.nobody = false;
            });
        }
        self.open.insert(link, Link::new(new, id, figures::PEERS.hold()));
        let (peer_id, fast, ours) =
            (theirs.peer_id, theirs.supports_fast(), theirs.peer_id.is_ours());
        self.turn(id, Input::LinkUp { link, address, peer_id, incoming, fast, ours });
        if theirs.supports_extensions() {
            self.send_ext_handshake(link);
        }
    }

    /// Begins to serve a whole blob; its first link is about to be added.
    fn serve(&mut self, info_hash: Sha1Hash, seed: Seed) -> MemberId {
        let id = MemberId(self.next_serving);
        self.next_serving -= 1;
        let Seed { blob, geometry } = seed;
        self.add_member(id, info_hash, geometry, Pieces::all(geometry), Role::Serve(blob));
        id
    }

    fn ext_handshake(&mut self, link: LinkId, theirs: ExtHandshake) {
        let Some(open) = self.open.get_mut(&link) else { return };
        open.client = theirs.client;
        // Who says it again is not told all of it again.
        let before = open.hashes_id;
        open.hashes_id = before.or_else(|| theirs.messages.get(MESSAGE_NAME).copied());
        let is_new = before != open.hashes_id;
        let reqq = theirs.reqq.and_then(|reqq| usize::try_from(reqq).ok());
        let ours = self.links.down.block_len_max();
        let input = Input::ExtHandshake {
            link,
            block_len_max: theirs.block_len_max.unwrap_or(BLOCK_LEN).min(ours),
            requests_max: reqq.unwrap_or(REQUESTS_USUAL).min(PEER_REQUESTS_MAX),
            listen_port: theirs.port,
        };
        self.of_link(link, input);
        if is_new {
            self.introduce_hashes(link);
        }
    }

    fn block(&mut self, link: LinkId, block: RawBlock, body: Buffer) {
        let Some(id) = self.open.get(&link).map(|open| open.member) else { return };
        let mut turn = Turn { body: Some((link, body)), claimed: None };
        self.turn_with(id, Input::Block { link, block }, &mut turn);
    }

    fn link_down(&mut self, link: LinkId, end: &LinkEnd) {
        let Some(open) = self.open.remove(&link) else { return };
        log::debug!("peer {}: {end}", open.address);
        if let (LinkEnd::File(_), Some(member)) = (end, self.members.get(&open.member))
            && let Role::Serve(blob) = &member.role
        {
            log_limited!(warn, "blob {} cannot be read for a peer: {end}", blob.name());
            self.links.doubt(&blob.name());
        }
        match end.blame() {
            Some(Blame::Peer) => figures::LINKS_FAILED_THEIRS.add(1),
            Some(_) => figures::LINKS_FAILED_OURS.add(1),
            None => {}
        }
        self.detach(link, open.member);
        self.turn(open.member, Input::LinkDown { link });
    }

    /// Takes a link that is not open any more out of its swarm's list.
    pub(super) fn detach(&mut self, link: LinkId, id: MemberId) {
        if let Some(member) = self.members.get_mut(&id)
            && member.links.remove(&link)
        {
            member.change_progress(|progress| progress.links -= 1);
        }
    }
}
