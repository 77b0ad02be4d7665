//! A network of swarms in virtual time: hosts with uplinks, downlinks and disks, and their faults.
//!
//! A host's uplink sends one block at a time, its links in turn, as TCP would share it; a link has
//! a window, so that a slow receiver holds back its own link only. A downlink takes one block at a
//! time. Messages are small: they cost latency and no bandwidth. Everything follows from one seed.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use torrent_cache::base::clock::Time;
use torrent_cache::base::rng::Rng;
use torrent_cache::limits::BLOCK_LEN_MAX;
use torrent_cache::proto::bitfield::Pieces;
use torrent_cache::proto::geometry::{Block, Geometry, PieceIndex, Span};
use torrent_cache::proto::peer::{PeerId, RawBlock};
use torrent_cache::swarm::{Action, Config, Input, LinkId, Source, Swarm};

const LATENCY: Duration = Duration::from_micros(200);
/// Bytes of one link that are under way at most; one block is always allowed.
const WINDOW: u64 = 256 << 10;
/// A host that drips sends a block so seldom.
const DRIP: Duration = Duration::from_secs(3);

/// How a host treats others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manner {
    Honest,
    /// Says that it has everything and sends wrong bytes.
    Corrupts,
    /// Says that it has everything and sends nothing.
    Withholds,
    /// Says that it has everything and sends a block now and then.
    Drips,
}

/// A host to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Bytes per second.
    pub up: u64,
    pub down: u64,
    /// From the last block of a piece until it is stored.
    pub disk: Duration,
    pub seeds: bool,
    pub reads: bool,
    pub manner: Manner,
    /// When it dies.
    pub dies: Option<Duration>,
    /// Bytes per second from the upstream, if it may ask there.
    pub upstream: Option<u64>,
    pub links_max: usize,
}

/// One host and what became of it.
pub struct Host {
    pub plan: Plan,
    pub swarm: Swarm,
    address: SocketAddr,
    peer_id: PeerId,
    pub alive: bool,
    announced: bool,
    links: BTreeMap<LinkId, Wire>,
    /// Links with blocks to send, in turn.
    turns: VecDeque<LinkId>,
    sending: bool,
    downlink_free: Time,
    wake: Option<Time>,
    /// Pieces of which blocks are held, and those of them with a wrong block.
    held: BTreeSet<PieceIndex>,
    bad: BTreeSet<PieceIndex>,
    prefix: u64,
    advanced: Time,
    pub done: Option<Time>,
    pub first_byte: Option<Time>,
    pub longest_stall: Duration,
    /// Bytes of blocks that came, by what became of them.
    pub kept: u64,
    pub dropped: u64,
    pub sent: u64,
    pub from_upstream: u64,
    /// Pieces that had the wrong hash.
    pub corrupt: usize,
    /// Hosts that it banned.
    pub banned: BTreeSet<usize>,
}

/// One end of a link.
struct Wire {
    host: usize,
    /// What the other end calls it.
    link: LinkId,
    queue: VecDeque<Block>,
    under_way: u64,
}

#[derive(Debug)]
enum Event {
    Wake(usize),
    Input(usize, Input),
    /// A block left the uplink of a host.
    Left(usize, LinkId, Block),
    /// It came through the downlink of a host; whether it is wrong.
    Came(usize, LinkId, Block, bool),
    Dialled(usize, SocketAddr),
    Verified(usize, PieceIndex),
    /// The upstream brought a piece, and brings the rest.
    Brought(usize, PieceIndex, Span),
    AskUpstream(usize),
    Die(usize),
}

/// The network.
pub struct World {
    pub seed: u64,
    pub now: Time,
    pub geometry: Geometry,
    pub hosts: Vec<Host>,
    /// Times of events and their numbers; events of one time happen in the order they were made.
    calendar: BinaryHeap<Reverse<(Time, u64)>>,
    events: BTreeMap<u64, Event>,
    made: u64,
    links: u64,
}

impl World {
    pub fn new(seed: u64, geometry: Geometry, plans: Vec<Plan>) -> World {
        let mut world = World {
            seed,
            now: Time::after_start(Duration::from_secs(1)),
            geometry,
            hosts: Vec::new(),
            calendar: BinaryHeap::new(),
            events: BTreeMap::new(),
            made: 0,
            links: 0,
        };
        let mut rng = Rng::seeded(seed);
        for plan in plans {
            world.add_host(plan, &mut rng);
        }
        world
    }

    fn add_host(&mut self, plan: Plan, rng: &mut Rng) {
        let n = self.hosts.len();
        let [high, low] = u16::try_from(n + 1).unwrap().to_be_bytes();
        let peer_id = PeerId::random(rng);
        let config = Config { links_max: plan.links_max, ..Config::usual(peer_id) };
        let whole = plan.seeds || plan.manner != Manner::Honest;
        let have = if whole { Pieces::all } else { Pieces::none }(self.geometry);
        let rng = Rng::seeded(rng.next_u64());
        self.at(self.now, Event::Wake(n));
        if let Some(after) = plan.dies {
            self.at(self.now + after, Event::Die(n));
        }
        if plan.upstream.is_some() {
            self.at(self.now, Event::AskUpstream(n));
        }
        if plan.reads {
            self.at(self.now, Event::Input(n, Input::Readers { offsets: vec![0] }));
        }
        self.hosts.push(Host {
            plan,
            swarm: Swarm::new(config, self.geometry, have, rng, self.now),
            address: SocketAddr::from(([10, 0, high, low], 6881)),
            peer_id,
            alive: true,
            announced: false,
            links: BTreeMap::new(),
            turns: VecDeque::new(),
            sending: false,
            downlink_free: self.now,
            wake: None,
            held: BTreeSet::new(),
            bad: BTreeSet::new(),
            prefix: 0,
            advanced: self.now,
            done: whole.then_some(self.now),
            first_byte: None,
            longest_stall: Duration::ZERO,
            kept: 0,
            dropped: 0,
            sent: 0,
            from_upstream: 0,
            corrupt: 0,
            banned: BTreeSet::new(),
        });
    }

    /// Runs until every living host has everything; how long that took.
    ///
    /// Panics if it takes longer than `limit`.
    pub fn run(&mut self, limit: Duration) -> Duration {
        let start = self.now;
        while let Some(Reverse((time, number))) = self.calendar.pop() {
            let Some(event) = self.events.remove(&number) else { continue };
            self.now = time;
            self.happen(event);
            if self.hosts.iter().all(|host| !host.alive || host.done.is_some()) {
                return self.now.since(start);
            }
            assert!(self.now.since(start) < limit, "SIM_SEED={}: {}", self.seed, self.stuck());
        }
        panic!("SIM_SEED={}: nothing more happens: {}", self.seed, self.stuck());
    }

    fn stuck(&self) -> String {
        let hosts = self.hosts.iter().enumerate();
        let late = hosts.filter(|(_, host)| host.alive && host.done.is_none());
        late.map(|(n, host)| {
            let (have, useful) = (host.swarm.have(), host.swarm.useful_links());
            format!("host {n}: {have:?}, {} links, {useful} useful; ", host.links.len())
        })
        .collect()
    }

    fn at(&mut self, time: Time, event: Event) {
        self.made += 1;
        self.calendar.push(Reverse((time, self.made)));
        self.events.insert(self.made, event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Input(n, input) => self.input(n, input),
            Event::Wake(n) => {
                self.hosts[n].wake = None;
                self.input(n, Input::Timeout);
            }
            Event::Left(n, link, block) => self.block_left(n, link, block),
            Event::Came(n, link, block, bad) => self.block_came(n, link, block, bad),
            Event::Dialled(n, address) => self.dialled(n, address),
            Event::Verified(n, piece) => self.verified(n, piece),
            Event::Brought(n, piece, rest) => {
                self.hosts[n].from_upstream += self.geometry.span(piece).len;
                self.stored(n, piece);
                self.bring(n, rest);
            }
            Event::AskUpstream(n) => self.ask_upstream(n),
            Event::Die(n) => {
                self.hosts[n].alive = false;
                for link in self.hosts[n].links.keys().copied().collect::<Vec<_>>() {
                    self.cut(n, link);
                }
            }
        }
    }

    fn input(&mut self, n: usize, input: Input) {
        if !self.hosts[n].alive {
            return;
        }
        let mut out = Vec::new();
        self.hosts[n].swarm.handle(self.now, input, &mut out);
        for action in out {
            self.act(n, action);
        }
        let host = &mut self.hosts[n];
        let Some(due) = host.swarm.next_deadline() else { return };
        let due = due.max(self.now + Duration::from_micros(1));
        if host.wake.is_none_or(|wake| due < wake) {
            host.wake = Some(due);
            self.at(due, Event::Wake(n));
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        match action {
            Action::Send { link, message } => {
                if let Some(wire) = self.hosts[n].links.get(&link) {
                    let heard = Input::Message { link: wire.link, message };
                    self.at(self.now + LATENCY, Event::Input(wire.host, heard));
                }
            }
            Action::SendBlock { link, block } => self.queue_block(n, link, block),
            Action::Keep { block } => {
                self.hosts[n].kept += u64::from(block.len());
                self.hosts[n].held.insert(block.piece());
            }
            Action::Drop => {}
            Action::Verify { piece } => {
                let disk = self.hosts[n].plan.disk;
                self.at(self.now + disk, Event::Verified(n, piece));
            }
            Action::Discard { piece } => {
                assert!(self.hosts[n].held.remove(&piece), "SIM_SEED={}: {piece:?}", self.seed);
                self.hosts[n].bad.remove(&piece);
            }
            Action::Close { link, .. } => self.cut(n, link),
            Action::Ban { address } => {
                let banned = self.hosts.iter().position(|host| host.address.ip() == address);
                self.hosts[n].banned.extend(banned);
            }
            Action::Dial { address } => {
                self.at(self.now + LATENCY * 2, Event::Dialled(n, address));
            }
            Action::Announce { .. } => self.announced(n),
            Action::Claimed { span: Some(span) } => self.bring(n, span),
            Action::Claimed { span: None } => {
                self.at(self.now + Duration::from_millis(100), Event::AskUpstream(n));
            }
            Action::Complete => self.hosts[n].done = Some(self.now),
        }
    }

    /// The tracker answers with everyone who announced and lives, the asker among them.
    fn announced(&mut self, n: usize) {
        self.hosts[n].announced = true;
        let known = self.hosts.iter().filter(|host| host.alive && host.announced);
        let addresses = known.map(|host| host.address).collect();
        let soon = self.now + LATENCY * 2;
        let interval = Duration::from_secs(60);
        self.at(soon, Event::Input(n, Input::Candidates { addresses, source: Source::Tracker }));
        self.at(soon, Event::Input(n, Input::Announced { interval }));
    }

    fn dialled(&mut self, from: usize, address: SocketAddr) {
        let to = self.hosts.iter().position(|host| host.address == address && host.alive);
        let Some(to) = to else { return self.input(from, Input::DialFailed { address }) };
        self.links += 2;
        let (near, far) = (LinkId(self.links), LinkId(self.links + 1));
        for (n, link, host, other) in [(from, near, to, far), (to, far, from, near)] {
            let wire = Wire { host, link: other, queue: VecDeque::new(), under_way: 0 };
            self.hosts[n].links.insert(link, wire);
        }
        for (n, link, other) in [(from, near, to), (to, far, from)] {
            let incoming = n == to;
            let Host { mut address, peer_id, .. } = self.hosts[other];
            if incoming {
                address.set_port(50_000);
            }
            self.input(
                n,
                Input::LinkUp { link, address, peer_id, incoming, fast: true, ours: true },
            );
            let (block_len_max, requests_max) = (BLOCK_LEN_MAX, 250);
            let listen_port = Some(6881);
            self.input(n, Input::ExtHandshake { link, block_len_max, requests_max, listen_port });
        }
    }

    /// One end closed the link: the other hears of it.
    fn cut(&mut self, n: usize, link: LinkId) {
        let Some(wire) = self.hosts[n].links.remove(&link) else { return };
        if self.hosts[wire.host].links.remove(&wire.link).is_some() {
            let down = Input::LinkDown { link: wire.link };
            self.at(self.now + LATENCY, Event::Input(wire.host, down));
        }
    }

    fn queue_block(&mut self, n: usize, link: LinkId, block: Block) {
        let host = &mut self.hosts[n];
        let Some(wire) = host.links.get_mut(&link) else { return };
        match host.plan.manner {
            Manner::Withholds => return,
            Manner::Drips => return self.at(self.now + DRIP, Event::Left(n, link, block)),
            Manner::Honest | Manner::Corrupts => wire.queue.push_back(block),
        }
        if !host.turns.contains(&link) {
            host.turns.push_back(link);
        }
        self.send_next(n);
    }

    /// If the uplink is free, the next link whose window is open gets it.
    fn send_next(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        if host.sending || !host.alive {
            return;
        }
        for _ in 0..host.turns.len() {
            let Some(link) = host.turns.pop_front() else { return };
            let Some(wire) = host.links.get_mut(&link) else { continue };
            let Some(block) = wire.queue.front().copied() else { continue };
            host.turns.push_back(link);
            let len = u64::from(block.len());
            if wire.under_way > 0 && wire.under_way + len > WINDOW {
                continue;
            }
            wire.queue.pop_front();
            wire.under_way += len;
            host.sending = true;
            let takes = time_for(len, host.plan.up);
            return self.at(self.now + takes, Event::Left(n, link, block));
        }
    }

    fn block_left(&mut self, n: usize, link: LinkId, block: Block) {
        let host = &mut self.hosts[n];
        if host.plan.manner == Manner::Drips {
            if let Some(wire) = host.links.get_mut(&link) {
                wire.under_way += u64::from(block.len());
            }
        } else {
            host.sending = false;
        }
        if let (true, Some(wire)) = (host.alive, host.links.get(&link)) {
            let (to, far) = (wire.host, wire.link);
            let len = u64::from(block.len());
            host.sent += len;
            let bad = host.plan.manner == Manner::Corrupts;
            let receiver = &mut self.hosts[to];
            // The block streams through: the downlink takes it in while the uplink sends it.
            let begins = receiver.downlink_free.max(self.now + LATENCY);
            let comes = begins + time_for(len, receiver.plan.down);
            receiver.downlink_free = comes;
            self.at(comes, Event::Came(to, far, block, bad));
            self.input(n, Input::BlockSent { link, block });
        }
        self.send_next(n);
    }

    fn block_came(&mut self, n: usize, link: LinkId, block: Block, bad: bool) {
        let Some(wire) = self.hosts[n].links.get(&link) else { return };
        let (from, far) = (wire.host, wire.link);
        let (piece, len) = (block.piece(), u64::from(block.len()));
        let raw = RawBlock { piece: piece.get(), begin: block.begin(), len: block.len() };
        let kept = self.hosts[n].kept;
        self.input(n, Input::Block { link, block: raw });
        if self.hosts[n].kept == kept {
            self.hosts[n].dropped += len;
        } else if bad {
            self.hosts[n].bad.insert(piece);
        }
        if let Some(wire) = self.hosts[from].links.get_mut(&far) {
            wire.under_way -= len;
            self.send_next(from);
        }
    }

    fn verified(&mut self, n: usize, piece: PieceIndex) {
        self.hosts[n].held.remove(&piece);
        if self.hosts[n].bad.remove(&piece) {
            self.hosts[n].corrupt += 1;
            self.input(n, Input::Corrupt { piece });
        } else {
            self.stored(n, piece);
        }
    }

    fn stored(&mut self, n: usize, piece: PieceIndex) {
        self.input(n, Input::Stored { piece });
        let host = &mut self.hosts[n];
        let before = host.prefix;
        while let Some(next) = self.geometry.piece_at(host.prefix)
            && host.swarm.have().contains(next)
        {
            host.prefix = self.geometry.span(next).end();
        }
        if host.prefix > before && host.plan.reads {
            host.first_byte.get_or_insert(self.now);
            host.longest_stall = host.longest_stall.max(self.now.since(host.advanced));
            host.advanced = self.now;
            let offsets = vec![host.prefix];
            self.input(n, Input::Readers { offsets });
        }
    }

    fn ask_upstream(&mut self, n: usize) {
        if self.hosts[n].done.is_none() {
            let max_len = 4 * u64::from(self.geometry.piece_len());
            let from = self.hosts[n].prefix;
            self.input(n, Input::Claim { from, max_len, steal: false });
        }
    }

    /// The upstream brings the first piece of `span` next.
    fn bring(&mut self, n: usize, span: Span) {
        let Some(piece) = self.geometry.piece_at(span.offset).filter(|_| span.len > 0) else {
            return self.at(self.now, Event::AskUpstream(n));
        };
        let len = self.geometry.span(piece).len;
        let takes = time_for(len, self.hosts[n].plan.upstream.unwrap_or(1));
        let rest = Span { offset: span.offset + len, len: span.len - len };
        self.at(self.now + takes, Event::Brought(n, piece, rest));
    }
}

fn time_for(bytes: u64, rate: u64) -> Duration {
    Duration::from_nanos(bytes * 1_000_000_000 / rate.max(1))
}
