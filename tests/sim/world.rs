//! A network of swarms in virtual time: hosts with lines and disks, and their faults. Everything
//! follows from one seed.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::net::SocketAddr;
use std::time::Duration;

use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::limits::{BLOCK_LEN, BLOCK_LEN_MAX};
use torrent_cache::proto::bitfield::Pieces;
use torrent_cache::proto::geometry::{Block, Geometry, PieceIndex, Span};
use torrent_cache::proto::peer::{Message, PeerId, RawBlock};
use torrent_cache::swarm::{Action, Config, Input, LinkId, Source, Swarm};

use crate::host::{Host, Manner, Plan};
use crate::network::{Effect, Item, Network, far};

/// Connecting to a host that says nothing fails after this.
const CONNECT: Duration = Duration::from_secs(3);
/// How many others the tracker names.
const NUMWANT: usize = 50;
/// Requests that a greedy host sends at once.
const GREEDY_REQUESTS: u32 = 100;
/// How often idle peers are looked for; see [`World::look`].
const LOOK: Duration = Duration::from_millis(5);
/// After so long everyone has dialled.
const SETTLED: Duration = Duration::from_millis(200);
const MIB: f64 = 1_048_576.0;
/// Pieces before a reader that an idle peer should have been asked for.
const LOOK_AHEAD: usize = 4;

#[derive(Debug)]
enum Event {
    Wake(usize),
    Arrive(usize),
    Input(usize, Input),
    Left(usize),
    Came(LinkId, u64, Option<Item>),
    Dialled(usize, SocketAddr),
    /// A piece was hashed; whether what its units hash to was wanted.
    Verified(usize, PieceIndex, bool),
    /// A host that drips sends a block.
    Drip(LinkId, Block),
    /// The upstream brought a piece, and brings the rest.
    Brought(usize, PieceIndex, Span),
    AskUpstream(usize),
    Die(usize),
    /// Hosts of a side other than their last reach each other no more.
    Part(Vec<u8>),
    Look,
}

struct Scheduled {
    at: Time,
    number: u64,
    event: Event,
}

impl PartialEq for Scheduled {
    fn eq(&self, other: &Scheduled) -> bool {
        self.number == other.number
    }
}

impl Eq for Scheduled {}

impl PartialOrd for Scheduled {
    fn partial_cmp(&self, other: &Scheduled) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Scheduled {
    /// Events of one time happen in the order in which they were made.
    fn cmp(&self, other: &Scheduled) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// Keeps since when each piece of `unasked` is so; the longest.
fn note(
    since: &mut BTreeMap<PieceIndex, Time>,
    unasked: &BTreeSet<PieceIndex>,
    now: Time,
) -> Duration {
    since.retain(|piece, _| unasked.contains(piece));
    for piece in unasked {
        since.entry(*piece).or_insert(now);
    }
    since.values().min().map_or(Duration::ZERO, |first| now.since(*first))
}

/// The network and its hosts.
pub struct World {
    pub seed: u64,
    pub now: Time,
    pub start: Time,
    pub geometry: Geometry,
    pub hosts: Vec<Host>,
    network: Network,
    calendar: BinaryHeap<Reverse<Scheduled>>,
    made: u64,
    rng: Rng,
    /// How many living honest hosts have each piece, and since when at least one does.
    copies: Vec<(usize, Time)>,
    /// Pieces that somebody has besides those who began with them, and what the first host had
    /// sent when those were all.
    injected: Pieces,
    pub sent_until_injected: Option<u64>,
    /// Whether hosts were ever seen that no chain of links joined to the first.
    pub was_parted: bool,
    waiting: usize,
    effects: Vec<Effect>,
}

impl World {
    pub fn new(seed: u64, geometry: Geometry, plans: Vec<Plan>) -> World {
        // The program has run for a while: what flows at first is measured from its own beginning.
        let start = Time::after_start(Duration::from_secs(10));
        let mut world = World {
            seed,
            now: start,
            start,
            geometry,
            hosts: Vec::new(),
            network: Network::default(),
            calendar: BinaryHeap::new(),
            made: 0,
            rng: Rng::seeded(seed),
            copies: vec![(0, start); geometry.piece_count() as usize],
            injected: Pieces::none(geometry),
            sent_until_injected: None,
            was_parted: false,
            waiting: 0,
            effects: Vec::new(),
        };
        for plan in plans {
            world.add_host(plan);
        }
        world
    }

    fn add_host(&mut self, plan: Plan) {
        let n = self.hosts.len();
        let peer_id = PeerId::random(&mut self.rng);
        let config = Config { links_max: plan.links_max, ..Config::usual(peer_id) };
        let whole = plan.seeds || plan.manner.pretends();
        let have = if whole { Pieces::all } else { Pieces::none }(self.geometry);
        let rng = Rng::seeded(self.rng.next_u64());
        let arrives = self.start + plan.arrives;
        self.at(arrives, Event::Arrive(n));
        if let Some(after) = plan.dies {
            self.at(self.start + after, Event::Die(n));
        }
        self.network.add_host(plan.line);
        if plan.seeds {
            self.copies.iter_mut().for_each(|copies| copies.0 += 1);
        }
        let counts = !whole && plan.manner == Manner::Honest;
        self.waiting += usize::from(counts);
        let swarm = Swarm::new(config, self.geometry, have, rng, arrives);
        self.hosts.push(Host::new(n, plan, peer_id, swarm, whole, arrives));
    }

    /// At this time the hosts fall into sides that do not reach each other.
    pub fn part_at(&mut self, after: Duration, sides: Vec<u8>) {
        self.at(self.start + after, Event::Part(sides));
    }

    /// Looks now and then for idle peers that have what a reader waits for, and for hosts that are
    /// cut off.
    pub fn look_now_and_then(&mut self) {
        self.at(self.start + LOOK, Event::Look);
    }

    /// Runs until every living honest host has everything; how long that took.
    ///
    /// Panics if it takes longer than `limit`.
    pub fn run(&mut self, limit: Duration) -> Duration {
        while let Some(Reverse(Scheduled { at, event, .. })) = self.calendar.pop() {
            self.now = at;
            self.happen(event);
            if self.waiting == 0 {
                return self.now.since(self.start);
            }
            let late = self.now.since(self.start) >= limit;
            assert!(!late, "SIM_SEED={}: {}", self.seed, self.stuck());
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

    fn at(&mut self, at: Time, event: Event) {
        self.made += 1;
        self.calendar.push(Reverse(Scheduled { at, number: self.made, event }));
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Input(n, input) => self.input(n, input),
            Event::Wake(n) => {
                if self.hosts[n].wake.is_some_and(|wake| wake <= self.now) {
                    self.hosts[n].wake = None;
                    self.input(n, Input::Timeout);
                }
            }
            Event::Arrive(n) => self.arrive(n),
            Event::Left(n) => self.of_network(|network, now, out| network.left(now, n, out)),
            Event::Came(link, len, item) => {
                if let Some(item) = item {
                    self.receive(link, item);
                }
                self.of_network(|network, now, out| network.came(now, link, len, out));
            }
            Event::Dialled(n, address) => self.dialled(n, address),
            Event::Verified(n, piece, proof) => self.verified(n, piece, proof),
            Event::Drip(link, block) => {
                self.send(link, Item::Block(block, false));
            }
            Event::Brought(n, piece, rest) => {
                self.hosts[n].from_upstream += self.geometry.span(piece).len;
                self.stored(n, piece);
                self.bring(n, rest);
            }
            Event::AskUpstream(n) => self.ask_upstream(n),
            Event::Die(n) => self.die(n),
            Event::Part(sides) => {
                for (n, side) in sides.into_iter().enumerate() {
                    self.of_network(|network, now, out| network.move_to_side(now, n, side, out));
                }
            }
            Event::Look => {
                self.look();
                let begun = self.now.since(self.start) > SETTLED;
                let ended = self.hosts.iter().any(|host| !host.plan.seeds && host.done.is_some());
                self.was_parted |= begun && !ended && !self.is_connected();
                self.at(self.now + LOOK, Event::Look);
            }
        }
    }

    fn of_network(&mut self, change: impl FnOnce(&mut Network, Time, &mut Vec<Effect>)) {
        let mut effects = std::mem::take(&mut self.effects);
        change(&mut self.network, self.now, &mut effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Left { host, at } => self.at(at, Event::Left(host)),
                Effect::Came { pipe, len, item, at } => {
                    self.at(at, Event::Came(pipe, len, item));
                }
                Effect::Written { pipe, block } => {
                    let Some((n, _)) = self.network.ends(pipe) else { continue };
                    self.hosts[n].sent += u64::from(block.len());
                    self.at(self.now, Event::Input(n, Input::BlockSent { link: pipe, block }));
                }
            }
        }
        self.effects = effects;
    }

    fn send(&mut self, link: LinkId, item: Item) {
        self.of_network(|network, now, out| network.send(now, link, item, out));
    }

    fn arrive(&mut self, n: usize) {
        let plan = &self.hosts[n].plan;
        let (asks_upstream, reads) = (plan.upstream.is_some(), plan.reads);
        if asks_upstream {
            self.at(self.now, Event::AskUpstream(n));
        }
        if reads {
            self.input(n, Input::Readers { offsets: vec![0] });
        }
        self.input(n, Input::Timeout);
    }

    fn input(&mut self, n: usize, input: Input) {
        if !self.hosts[n].alive {
            return;
        }
        let mut out = std::mem::take(&mut self.hosts[n].actions);
        self.hosts[n].swarm.handle(self.now, input, &mut out);
        for action in out.drain(..) {
            self.act(n, action);
        }
        let host = &mut self.hosts[n];
        host.actions = out;
        let Some(due) = host.swarm.next_deadline() else { return };
        let due = due.max(self.now + Duration::from_micros(1));
        if host.wake.is_none_or(|wake| due < wake) {
            host.wake = Some(due);
            self.at(due, Event::Wake(n));
        }
    }

    fn act(&mut self, n: usize, action: Action) {
        match action {
            Action::Send { link, message } => self.say(n, link, message),
            Action::Refuse { link, block } => self.say(n, link, Message::Reject(block)),
            Action::SendBlock { link, block } => match self.hosts[n].plan.manner {
                Manner::Withholds => {}
                Manner::Drips(after) => self.at(self.now + after, Event::Drip(link, block)),
                Manner::FalseHave => {
                    let (piece, begin, len) = (block.piece().get(), block.begin(), block.len());
                    let no = Message::Reject(RawBlock { piece, begin, len });
                    self.send(link, Item::Message(no));
                    self.at(self.now, Event::Input(n, Input::BlockSent { link, block }));
                }
                Manner::TurnsLate(after) => {
                    let bad = self.hosts[n].sent >= after;
                    self.send(link, Item::Block(block, bad));
                }
                manner => self.send(link, Item::Block(block, manner == Manner::Corrupts)),
            },
            Action::Keep { block } => {
                self.hosts[n].kept += u64::from(block.len());
                self.hosts[n].held.insert(block.piece());
            }
            Action::Drop => {}
            Action::Verify { piece, proof, .. } => {
                let host = &mut self.hosts[n];
                host.verifying.insert(piece);
                let takes = host.plan.disk.mul_f64(f64::from(self.geometry.len_of(piece)) / MIB);
                host.disk_free = host.disk_free.max(self.now) + takes;
                let at = host.disk_free;
                self.at(at, Event::Verified(n, piece, proof));
            }
            Action::Discard { piece } => {
                let host = &mut self.hosts[n];
                assert!(host.held.remove(&piece), "SIM_SEED={}: {piece:?}", self.seed);
                host.bad.remove(&piece);
            }
            Action::Close { link, .. } => self.cut(n, link),
            Action::Ban { address } => {
                let banned = self.hosts.iter().position(|host| host.address.ip() == address);
                self.hosts[n].banned.extend(banned);
            }
            Action::Dial { address } => {
                let to = self.hosts.iter().position(|host| host.address == address);
                let latency = to.map_or(Duration::ZERO, |to| self.network.latency(n, to));
                self.at(self.now + latency * 4, Event::Dialled(n, address));
            }
            Action::Announce { .. } => self.announced(n),
            Action::Claimed { span: Some(span) } => self.bring(n, span),
            Action::Claimed { span: None } => {
                self.at(self.now + Duration::from_millis(100), Event::AskUpstream(n));
            }
            Action::Complete => {
                if self.hosts[n].plan.manner == Manner::Honest {
                    self.waiting -= 1;
                }
                self.hosts[n].done = Some(self.now);
            }
        }
    }

    /// A host says something; hosts of bad manners say something else.
    fn say(&mut self, n: usize, link: LinkId, message: Message) {
        match (&message, self.hosts[n].plan.manner) {
            (Message::HaveAll, Manner::FalseHave) => {
                self.send(link, Item::Message(Message::HaveNone));
                for piece in self.geometry.pieces() {
                    self.send(link, Item::Message(Message::Have(piece.get())));
                }
                return;
            }
            (Message::Request(_), Manner::Greedy) => return,
            (Message::Request(block), _) => self.hosts[n].asked(link, *block),
            (Message::Cancel(block), _) => self.hosts[n].answered(link, *block),
            _ => {}
        }
        self.send(link, Item::Message(message));
    }

    /// The tracker answers with some of those who announced and live.
    fn announced(&mut self, n: usize) {
        self.hosts[n].announced = true;
        let others = self.hosts.iter().enumerate();
        let known = others.filter(|(other, host)| {
            host.alive && host.announced && *other != n && self.network.reaches(n, *other)
        });
        let mut addresses: Vec<_> = known.map(|(_, host)| host.address).collect();
        self.rng.shuffle(&mut addresses);
        addresses.truncate(NUMWANT);
        let soon = self.now + Duration::from_millis(1);
        let interval = Duration::from_secs(30);
        self.at(soon, Event::Input(n, Input::Announced { interval }));
        self.at(soon, Event::Input(n, Input::Candidates { addresses, source: Source::Tracker }));
    }

    fn dialled(&mut self, from: usize, address: SocketAddr) {
        let to = self.hosts.iter().position(|host| host.address == address);
        let Some(to) = to else { return self.input(from, Input::DialFailed { address }) };
        if !self.network.reaches(from, to) {
            let failed = Event::Input(from, Input::DialFailed { address });
            return self.at(self.now + CONNECT, failed);
        }
        if !self.hosts[to].alive || !self.hosts[from].alive {
            return self.input(from, Input::DialFailed { address });
        }
        let (near, far) = self.network.connect(from, to);
        self.hosts[from].links.insert(near);
        self.hosts[to].links.insert(far);
        for (n, link, other) in [(from, near, to), (to, far, from)] {
            let incoming = n == to;
            let Host { mut address, peer_id, .. } = self.hosts[other];
            if incoming {
                address.set_port(50_000);
            }
            let (fast, ours) = (true, true);
            self.input(n, Input::LinkUp { link, address, peer_id, incoming, fast, ours });
            let (block_len_max, requests_max) = (BLOCK_LEN_MAX, 250);
            let listen_port = Some(6881);
            self.input(n, Input::ExtHandshake { link, block_len_max, requests_max, listen_port });
        }
    }

    /// One end closed the link: the other hears of it.
    fn cut(&mut self, n: usize, link: LinkId) {
        self.hosts[n].unlinked(link);
        let Some((_, other)) = self.network.ends(link) else { return };
        self.network.disconnect(link);
        if self.hosts[other].unlinked(far(link)) && self.network.reaches(n, other) {
            let down = Input::LinkDown { link: far(link) };
            let at = self.now + self.network.latency(n, other);
            self.at(at, Event::Input(other, down));
        }
    }

    /// A host dies: with a word, as a process does, or without, as a machine does.
    fn die(&mut self, n: usize) {
        let host = &mut self.hosts[n];
        host.alive = false;
        if host.done.is_none() && host.plan.manner == Manner::Honest {
            self.waiting -= 1;
        }
        let host = &self.hosts[n];
        if host.plan.manner == Manner::Honest {
            for piece in host.swarm.have().iter() {
                self.copies[piece.index()].0 -= 1;
            }
        }
        if host.plan.dies_silently {
            self.of_network(|network, now, out| network.move_to_side(now, n, u8::MAX, out));
        } else {
            for link in host.links.clone() {
                self.cut(n, link);
            }
        }
    }

    fn receive(&mut self, link: LinkId, item: Item) {
        let Some((from, n)) = self.network.ends(link) else { return };
        let link = far(link);
        if self.hosts[n].plan.manner == Manner::Greedy && self.greed(link, &item) {
            return;
        }
        match item {
            Item::Message(message) => {
                if let Message::Reject(block) = &message {
                    self.hosts[n].answered(link, *block);
                }
                self.input(n, Input::Message { link, message });
            }
            Item::Block(block, bad) => self.block_came(n, link, block, bad.then_some(from)),
        }
    }

    /// A greedy host asks for whatever there is, again and again; whether that is all it does.
    fn greed(&mut self, link: LinkId, item: &Item) -> bool {
        let count = match item {
            Item::Message(Message::Unchoke) => GREEDY_REQUESTS,
            Item::Block(..) => 1,
            Item::Message(_) => 0,
        };
        for _ in 0..count {
            let pieces = self.geometry.piece_count();
            let piece = u32::try_from(self.rng.below(u64::from(pieces))).unwrap();
            let len = self.geometry.len_of(self.geometry.piece(piece).unwrap());
            let block = RawBlock { piece, begin: 0, len: len.min(BLOCK_LEN_MAX) };
            self.send(link, Item::Message(Message::Request(block)));
        }
        matches!(item, Item::Block(..))
    }

    /// A block came, with wrong bytes if it is of a liar.
    fn block_came(&mut self, n: usize, link: LinkId, block: Block, liar: Option<usize>) {
        let (piece, len) = (block.piece(), u64::from(block.len()));
        let raw = RawBlock { piece: piece.get(), begin: block.begin(), len: block.len() };
        let kept = self.hosts[n].kept;
        self.hosts[n].answered(link, raw);
        self.input(n, Input::Block { link, block: raw });
        let host = &mut self.hosts[n];
        if host.kept == kept {
            host.dropped += len;
            if !host.in_end_game() {
                host.dropped_early += len;
            }
        } else if let Some(liar) = liar {
            host.bad.entry(piece).or_default().push((block, liar));
        }
    }

    fn verified(&mut self, n: usize, piece: PieceIndex, proof: bool) {
        let host = &mut self.hosts[n];
        host.held.remove(&piece);
        host.verifying.remove(&piece);
        let bad = host.bad.remove(&piece).unwrap_or_default();
        let liars: BTreeSet<usize> = bad.iter().map(|(_, liar)| *liar).collect();
        for liar in liars.difference(&host.banned) {
            *host.lied.entry(*liar).or_default() += 1;
        }
        // Right bytes hash to 0 here, those of a liar to its number.
        let units = self.geometry.blocks(piece, BLOCK_LEN).map(|unit| {
            let of =
                bad.iter().find(|(block, _)| (block.begin()..block.end()).contains(&unit.begin()));
            Sha1Hash([of.map_or(0, |(_, liar)| u8::try_from(*liar).unwrap()); 20])
        });
        let units: Vec<Sha1Hash> = units.collect();
        if !bad.is_empty() {
            return self.input(n, Input::Corrupt { piece, units });
        }
        if proof {
            self.input(n, Input::Proof { piece, units });
        }
        self.stored(n, piece);
    }

    fn stored(&mut self, n: usize, piece: PieceIndex) {
        if !self.hosts[n].alive {
            return;
        }
        let new = !self.hosts[n].swarm.have().contains(piece);
        self.input(n, Input::Stored { piece });
        if new && self.hosts[n].plan.manner == Manner::Honest {
            let (count, since) = &mut self.copies[piece.index()];
            if *count == 0 {
                *since = self.now;
            }
            *count += 1;
            if self.injected.insert(piece) && self.injected.is_full() {
                self.sent_until_injected = Some(self.hosts[0].sent);
            }
        }
        let (now, geometry, copies) = (self.now, self.geometry, &self.copies);
        let moved = self.hosts[n].advance(now, geometry, |piece| copies[piece.index()].1);
        if let Some(offsets) = moved {
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
        let rate = self.hosts[n].plan.upstream.unwrap_or(1).max(1);
        let takes = Duration::from_nanos(len * 1_000_000_000 / rate);
        let rest = Span { offset: span.offset + len, len: span.len - len };
        self.at(self.now + takes, Event::Brought(n, piece, rest));
    }

    /// Notes for how long a piece that a reader needs soon was not asked for, though an idle peer
    /// has it.
    fn look(&mut self) {
        for n in 0..self.hosts.len() {
            let host = &self.hosts[n];
            if !host.alive || host.done.is_some() || !host.plan.reads {
                continue;
            }
            let idle_peers: Vec<usize> = host
                .links
                .iter()
                .filter_map(|link| Some(self.network.ends(*link)?.1))
                .filter(|peer| self.network.is_idle(*peer) && self.network.reaches(n, *peer))
                .filter(|peer| self.hosts[*peer].plan.manner == Manner::Honest)
                .collect();
            let window = self.geometry.pieces().skip(host.head(self.geometry)).take(LOOK_AHEAD);
            let unasked: BTreeSet<PieceIndex> = window
                .filter(|piece| !host.swarm.have().contains(*piece) && !host.is_under_way(*piece))
                .filter(|piece| {
                    idle_peers.iter().any(|peer| self.hosts[*peer].swarm.have().contains(*piece))
                })
                .collect();
            let now = self.now;
            let has_room = self.network.takes_more(n, now);
            let host = &mut self.hosts[n];
            let longest = note(&mut host.idly_unasked, &unasked, now);
            host.longest_idle = host.longest_idle.max(longest);
            let unasked = if has_room { unasked } else { BTreeSet::new() };
            let longest = note(&mut host.idly_unasked_with_room, &unasked, now);
            host.longest_idle_with_room = host.longest_idle_with_room.max(longest);
        }
    }

    /// Whether every living honest host can be reached from the first over links.
    fn is_connected(&self) -> bool {
        let counts = |n: &usize| self.hosts[*n].alive && self.hosts[*n].announced;
        let mut seen = BTreeSet::from([0]);
        let mut next = vec![0];
        while let Some(n) = next.pop() {
            let peers = self.hosts[n].links.iter().filter_map(|link| self.network.ends(*link));
            for peer in peers.map(|(_, peer)| peer).filter(counts).collect::<Vec<_>>() {
                if seen.insert(peer) {
                    next.push(peer);
                }
            }
        }
        (0..self.hosts.len()).filter(counts).all(|n| seen.contains(&n))
    }
}
