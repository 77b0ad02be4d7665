//! What we know of a connected peer: what it has, what we asked it for, what it asked us for.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::limits::{BLOCK_LEN, BLOCK_LEN_MAX, PEER_REQUESTS_MAX};
use crate::proto::bitfield::Pieces;
use crate::proto::geometry::{Block, Geometry, PieceIndex};
use crate::proto::peer::PeerId;
use crate::swarm::meter::{Meter, bytes_in, time_for};
use crate::swarm::spread::Turn;

/// Blocks of 16 KiB that are asked for before anything is known of a link's speed.
const FIRST_REQUESTS: u32 = 4;
/// How long a block is taken to need on a link whose speed is not known.
const UNKNOWN: Duration = Duration::from_millis(250);
/// The queue at the peer covers this much more than the way there and back.
const QUEUE_SLACK: Duration = Duration::from_millis(50);
/// The longest time that the queue at the peer may cover: what is asked for there is asked for
/// nowhere else, and a reader that jumps waits behind it.
const QUEUE_MAX: Duration = Duration::from_secs(1);

/// A block is what flows in this time: if a link is slow, little of a piece waits for it, and what
/// is asked for twice is little.
const BLOCK_TIME: Duration = Duration::from_millis(50);
/// The longest block that is asked for before anything is known of a link's speed.
const FIRST_BLOCK: u32 = 2 * BLOCK_LEN;

/// A block that we asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) block: Block,
    pub(super) at: Time,
    /// It may be asked of others again; it is still welcome if it comes.
    pub(super) stale: bool,
}

/// What a peer says of a blob of which nobody has the metainfo: what counts is a piece that it has
/// and of which it told the hash.
#[derive(Debug)]
pub(super) struct Vouched {
    pub(super) says: Pieces,
    /// At most one for each piece of the blob.
    pub(super) hashes: BTreeMap<PieceIndex, Sha1Hash>,
}

/// A connected peer.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) address: SocketAddr,
    pub(super) peer_id: PeerId,
    pub(super) incoming: bool,
    pub(super) fast: bool,
    /// Whether the peer is this program.
    pub(super) ours: bool,
    pub(super) since: Time,
    /// Where it can be dialled, if known: it is not while this link is up.
    pub(super) dial_address: Option<SocketAddr>,

    /// When it said or sent something last. Who dies without a word is silent for longest.
    pub(super) heard_at: Time,
    /// What it has: it says so, and if the hashes are not known it has told that of the piece.
    pub(super) has: Pieces,
    /// If the hashes are not known: what else it said.
    pub(super) vouched: Option<Vouched>,
    /// Whether it has said anything about that.
    pub(super) told: bool,
    /// Whether the picker counts what it has: not that of a peer that has everything.
    pub(super) counted: bool,
    /// Pieces that it has and that are not stored here.
    pub(super) useful: u32,
    pub(super) we_are_interested: bool,
    pub(super) they_choke: bool,
    /// The longest block to ask for.
    pub(super) block_len_max: u32,
    pub(super) requests_max: usize,
    pub(super) requests: VecDeque<Request>,
    /// Bytes of requests that are not stale.
    pub(super) asked: u64,
    /// Pieces that it is the owner of.
    pub(super) owned: Vec<PieceIndex>,
    pub(super) down: Meter,
    /// The shortest time from a request to its block.
    pub(super) latency: Option<Duration>,
    /// When a block came or, if later, when the first of the open requests was sent.
    pub(super) progress_at: Time,
    /// It did not deliver in time: it is asked for one block at a time until it does.
    pub(super) snubbed: bool,
    /// It refused a request: it is asked for nothing until then.
    pub(super) rests_until: Time,
    /// How long it rests now: longer if it refuses again and again.
    pub(super) rest: Duration,
    /// It sent a part of a corrupt piece: it owns pieces alone until one is right.
    pub(super) suspected: bool,
    /// The generation of the picker in which it had nothing to give.
    pub(super) dry: Option<u64>,
    /// Whether a whole piece of it was right.
    pub(super) proven: bool,
    /// What it suggests to ask it for, oldest first.
    pub(super) suggested: VecDeque<PieceIndex>,
    /// When it suggested something last, or began.
    pub(super) suggested_at: Time,

    pub(super) they_are_interested: bool,
    pub(super) we_choke: bool,
    /// When `we_choke` or their interest changed last.
    pub(super) turn_since: Time,
    /// Blocks that it asked for.
    pub(super) uploads: VecDeque<Block>,
    /// Bytes given to the writer and not sent yet.
    pub(super) sending: u64,
    /// Pieces that are on their way to it; see `spread`.
    pub(super) turns: Vec<Turn>,
    /// When it was given the last of them.
    pub(super) turn_at: Time,
}

impl Link {
    pub(super) fn new(
        geometry: &Geometry,
        address: SocketAddr,
        peer_id: PeerId,
        incoming: bool,
        fast: bool,
        now: Time,
    ) -> Link {
        Link {
            address,
            peer_id,
            incoming,
            fast,
            ours: false,
            since: now,
            dial_address: None,
            heard_at: now,
            has: Pieces::none(*geometry),
            vouched: None,
            told: false,
            counted: true,
            useful: 0,
            we_are_interested: false,
            they_choke: true,
            block_len_max: BLOCK_LEN,
            // What clients take that do not say how much they take.
            requests_max: PEER_REQUESTS_MAX / 2,
            requests: VecDeque::new(),
            asked: 0,
            owned: Vec::new(),
            down: Meter::default(),
            latency: None,
            progress_at: now,
            snubbed: false,
            rests_until: Time::ZERO,
            rest: Duration::ZERO,
            suspected: false,
            dry: None,
            proven: false,
            suggested: VecDeque::new(),
            suggested_at: now,
            they_are_interested: false,
            we_choke: true,
            turn_since: now,
            uploads: VecDeque::new(),
            sending: 0,
            turns: Vec::new(),
            turn_at: Time::ZERO,
        }
    }

    /// What it told of the hash of `piece`; `None`: nothing, or the hashes are known.
    pub(super) fn hash_of(&self, piece: PieceIndex) -> Option<Sha1Hash> {
        self.vouched.as_ref()?.hashes.get(&piece).copied()
    }

    /// Notes that it says it has `piece`, and whether that counts.
    pub(super) fn says(&mut self, piece: PieceIndex) -> bool {
        let Some(vouched) = &mut self.vouched else { return true };
        vouched.says.insert(piece);
        vouched.hashes.contains_key(&piece)
    }

    /// It told what it takes. Blocks are asked for in whole units.
    pub(super) fn introduced(&mut self, block_len_max: u32, requests_max: usize) {
        let units = block_len_max.min(BLOCK_LEN_MAX).min(self.has.geometry().piece_len());
        self.block_len_max = (units / BLOCK_LEN).max(1) * BLOCK_LEN;
        self.requests_max = requests_max.clamp(1, PEER_REQUESTS_MAX);
    }

    /// Whether it refused a request and was not asked since.
    pub(super) fn is_resting(&self) -> bool {
        self.rests_until > Time::ZERO
    }

    /// How many bytes may be asked for at once: what flows in the time that a request takes there
    /// and back, twice, so that a faster link is found out, and a little more for the peer's own
    /// pauses.
    fn queue_len(&self, now: Time) -> u64 {
        let least = BLOCK_LEN * FIRST_REQUESTS;
        let time = (self.latency.unwrap_or_default() * 2 + QUEUE_SLACK).min(QUEUE_MAX);
        u64::from(least).saturating_add(bytes_in(self.down.rate(now), time))
    }

    /// How long the next block to ask for should be: a power of two of units, or the longest that
    /// the peer takes.
    pub(super) fn block_len(&self, now: Time) -> u32 {
        let flows = match self.down.rate(now) {
            0 => u64::from(FIRST_BLOCK),
            rate => bytes_in(rate, BLOCK_TIME),
        };
        let units = (flows / u64::from(BLOCK_LEN)).clamp(1, u64::from(BLOCK_LEN_MAX / BLOCK_LEN));
        (BLOCK_LEN << units.ilog2()).min(self.block_len_max)
    }

    /// Whether it should be asked for another block.
    pub(super) fn has_room(&self, now: Time) -> bool {
        if self.they_choke || self.useful == 0 || now < self.rests_until {
            return false;
        }
        if self.snubbed {
            return self.requests.is_empty();
        }
        self.requests.len() < self.requests_max && self.asked < self.queue_len(now)
    }

    /// How long until `len` bytes are here, if all that is asked for before takes `ahead` bytes. Of
    /// a link that delivered nothing lately: twice as long as it has been silent.
    fn time_for(&self, ahead: u64, len: u64, now: Time) -> Duration {
        match self.down.rate(now) {
            0 if self.asked == 0 => UNKNOWN,
            0 => now.since(self.progress_at).max(UNKNOWN) * 2,
            rate => time_for(ahead.saturating_add(len), rate),
        }
    }

    /// How long until all that it is asked for is here; no time as long as its speed is not known.
    pub(super) fn time_to_answer(&self, now: Time) -> Duration {
        if self.down.is_known(now) { self.time_to_deliver(0, now) } else { Duration::ZERO }
    }

    /// How long until `len` bytes would be here if they were asked for now.
    pub(super) fn time_to_deliver(&self, len: u32, now: Time) -> Duration {
        self.time_for(self.asked, u64::from(len), now)
    }

    /// The requests that are not stale, last first, and how long until each is here.
    pub(super) fn awaited(&self, now: Time) -> impl Iterator<Item = (Block, Duration)> + '_ {
        let fresh = self.requests.iter().rev().filter(|request| !request.stale);
        let mut until = self.asked;
        fresh.map(move |request| {
            let len = u64::from(request.block.len());
            until -= len;
            (request.block, self.time_for(until, len, now))
        })
    }

    pub(super) fn add_request(&mut self, block: Block, now: Time) {
        if self.asked == 0 {
            self.progress_at = now;
        }
        self.rests_until = Time::ZERO;
        self.requests.push_back(Request { block, at: now, stale: false });
        self.asked += u64::from(block.len());
    }

    /// Takes back the request for `block`, if there is one.
    pub(super) fn take_request(&mut self, block: Block) -> Option<Request> {
        let at = self.requests.iter().position(|request| request.block == block)?;
        let request = self.requests.remove(at)?;
        if !request.stale {
            self.asked -= u64::from(block.len());
        }
        Some(request)
    }

    /// The block of `request` has come.
    pub(super) fn delivered(&mut self, request: &Request, now: Time) {
        let took = now.since(request.at);
        self.latency = Some(self.latency.map_or(took, |least| least.min(took)));
        self.down.add(now, u64::from(request.block.len()));
        (self.progress_at, self.heard_at) = (now, now);
        self.rest = Duration::ZERO;
        self.snubbed = false;
    }

    /// Makes all requests stale; the blocks of those that were not.
    pub(super) fn make_stale(&mut self) -> Vec<Block> {
        self.asked = 0;
        let fresh = self.requests.iter_mut().filter(|request| !request.stale);
        fresh
            .map(|request| {
                request.stale = true;
                request.block
            })
            .collect()
    }

    /// Panics if the counts do not fit what they count.
    pub(super) fn check(&self, stored: &Pieces) {
        let fresh = self.requests.iter().filter(|request| !request.stale);
        assert_eq!(self.asked, fresh.map(|request| u64::from(request.block.len())).sum::<u64>());
        assert_eq!(self.useful as usize, self.has.not_in(stored).count());
        assert_eq!(self.we_are_interested, self.useful > 0);
        if let Some(vouched) = &self.vouched {
            let counts = |piece: &PieceIndex| vouched.hashes.contains_key(piece);
            assert!(self.has.iter().eq(vouched.says.iter().filter(counts)));
        }
        assert!(self.uploads.len() <= PEER_REQUESTS_MAX);
        assert!(!self.we_choke || self.uploads.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> (Geometry, Link) {
        let geometry = Geometry::new(8 << 20, 256 << 10).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], 1));
        let id = PeerId([0; 20]);
        let mut link = Link::new(&geometry, address, id, false, true, Time::ZERO);
        (link.they_choke, link.useful) = (false, 1);
        (geometry, link)
    }

    /// Asks for blocks as long as there is room, and delivers all of them `latency` later.
    fn round(geometry: &Geometry, link: &mut Link, now: Time, latency: Duration) -> u64 {
        let block = geometry.block(0, 0, BLOCK_LEN).expect("inside the piece");
        while link.has_room(now) {
            link.add_request(block, now);
        }
        let asked = link.asked;
        while let Some(request) = link.take_request(block) {
            link.delivered(&request, now + latency);
        }
        asked
    }

    #[test]
    fn the_queue_grows_until_it_fills_the_way_and_never_beyond_the_peers_bound() {
        let (geometry, mut link) = link();
        link.requests_max = 100;
        let latency = Duration::from_millis(300);
        let mut now = Time::ZERO + Duration::from_secs(10);
        let first = round(&geometry, &mut link, now, latency);
        assert_eq!(first, u64::from(BLOCK_LEN * FIRST_REQUESTS));
        let mut asked = first;
        for _ in 0..20 {
            now = now + latency;
            asked = round(&geometry, &mut link, now, latency);
        }
        assert_eq!(asked, 100 * u64::from(BLOCK_LEN));
    }

    #[test]
    fn a_block_is_what_flows_in_a_moment_within_what_the_peer_takes() {
        let (_, mut link) = link();
        link.introduced(BLOCK_LEN_MAX, PEER_REQUESTS_MAX);
        let longest = link.block_len_max;
        assert_eq!(link.block_len(Time::ZERO), FIRST_BLOCK);
        for (mbits, expected) in [(1, BLOCK_LEN), (10, 2 * BLOCK_LEN), (1000, longest)] {
            link.down = Meter::default();
            let now = Time::after_start(Duration::from_secs(10));
            link.down.add(now, 0);
            link.down.add(now + Duration::from_secs(1), mbits * 125_000);
            let now = now + Duration::from_secs(1);
            assert_eq!(link.block_len(now), expected, "at {mbits} Mbit/s");
            link.block_len_max = BLOCK_LEN;
            assert_eq!(link.block_len(now), BLOCK_LEN, "a peer that takes no more");
            link.block_len_max = longest;
        }
    }

    #[test]
    fn a_snubbing_link_is_asked_for_one_block_until_it_delivers() {
        let (geometry, mut link) = link();
        let now = Time::ZERO;
        link.snubbed = true;
        assert_eq!(round(&geometry, &mut link, now, Duration::ZERO), u64::from(BLOCK_LEN));
        assert!(!link.snubbed);
        assert!(round(&geometry, &mut link, now, Duration::ZERO) > u64::from(BLOCK_LEN));
    }

    #[test]
    fn stale_requests_do_not_count_but_are_still_known() {
        let (geometry, mut link) = link();
        let block = geometry.block(1, 0, BLOCK_LEN).unwrap();
        link.add_request(block, Time::ZERO);
        assert_eq!(link.make_stale(), [block]);
        assert_eq!(link.make_stale(), []);
        assert_eq!(link.asked, 0);
        assert!(link.take_request(block).is_some_and(|request| request.stale));
        assert!(link.take_request(block).is_none());
    }
}
