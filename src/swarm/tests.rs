//! Claims about the swarm as a whole.

mod blame;
mod calls;
mod hashes;
mod slow;

use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::base::rng::Rng;
use crate::limits::{BLOCK_LEN, BLOCK_LEN_MAX, NO_PROGRESS, PEER_REQUESTS_MAX};
use crate::proto::bitfield::Pieces;
use crate::proto::geometry::{Geometry, PieceIndex, Span};
use crate::proto::peer::{Message, PeerId, RawBlock};
use crate::proto::tracker::AnnounceEvent;

const PIECE_LEN: u32 = 2 * BLOCK_LEN;

/// A swarm under test, its clock, and what it did last.
struct Host {
    swarm: Swarm,
    now: Time,
    out: Vec<Action>,
    links: u64,
}

impl Host {
    /// A host of a blob of `pieces` pieces of two blocks, with the first `stored` of them.
    fn new(pieces: u32, stored: u32) -> Host {
        Host::with(pieces, stored, |_| {})
    }

    fn with(pieces: u32, stored: u32, set: impl FnOnce(&mut Config)) -> Host {
        let geometry = Geometry::new(u64::from(pieces * PIECE_LEN), PIECE_LEN).unwrap();
        let mut have = Pieces::none(geometry);
        for n in 0..stored {
            have.insert(geometry.piece(n).unwrap());
        }
        let mut config = Config::usual(PeerId([5; 20]));
        set(&mut config);
        let now = Time::after_start(Duration::from_secs(100));
        let swarm = Swarm::new(config, geometry, have, Rng::seeded(1), now);
        Host { swarm, now, out: Vec::new(), links: 0 }
    }

    /// A host of a blob of `pieces` pieces, all of them missing and of none the hash known.
    fn without_hashes(pieces: u32) -> Host {
        Host::with(pieces, 0, |config| config.hashes_known = false)
    }

    /// The link tells of these pieces that their hash is this number.
    fn learn(&mut self, link: LinkId, numbers: &[u32], hash: u8) -> &[Action] {
        let hashes = numbers.iter().map(|number| (*number, Sha1Hash([hash; 20]))).collect();
        self.input(Input::Hashes { link, hashes })
    }

    fn interested(&self, link: LinkId) -> bool {
        self.swarm.links[&link].we_are_interested
    }

    fn input(&mut self, input: Input) -> &[Action] {
        self.out.clear();
        self.swarm.handle(self.now, input, &mut self.out);
        self.swarm.check_invariants();
        &self.out
    }

    fn piece(&self, number: u32) -> PieceIndex {
        self.swarm.geometry().piece(number).unwrap()
    }

    /// A new fast link from an address of its own.
    fn link(&mut self) -> LinkId {
        self.links += 1;
        let n = u8::try_from(self.links).unwrap();
        let link = LinkId(self.links);
        let address = SocketAddr::from(([10, 0, 0, n], 6881));
        let peer_id = PeerId([n + 100; 20]);
        self.input(Input::LinkUp {
            link,
            address,
            peer_id,
            incoming: true,
            fast: true,
            ours: true,
        });
        if let Some(link) = self.swarm.links.get_mut(&link) {
            link.proven = true;
        }
        link
    }

    /// What the last input made us suggest, and to whom.
    fn suggested(&self) -> Vec<(LinkId, u32)> {
        let suggested = self.out.iter().filter_map(|action| match action {
            Action::Send { link, message: Message::Suggest(piece) } => Some((*link, *piece)),
            _ => None,
        });
        suggested.collect()
    }

    fn hear(&mut self, link: LinkId, message: Message) -> &[Action] {
        self.input(Input::Message { link, message })
    }

    /// A new link to a peer that has everything and serves us; what it is asked for.
    fn seed(&mut self) -> (LinkId, Vec<RawBlock>) {
        let link = self.link();
        self.hear(link, Message::HaveAll);
        self.hear(link, Message::Unchoke);
        (link, self.asked(link))
    }

    /// What the last input made us ask of `link`.
    fn asked(&self, link: LinkId) -> Vec<RawBlock> {
        let asked = self.out.iter().filter_map(|action| match action {
            Action::Send { link: to, message: Message::Request(block) } if *to == link => {
                Some(*block)
            }
            _ => None,
        });
        asked.collect()
    }

    /// Whether the last input made us verify the piece, for this hash.
    fn verifies(&self, piece: PieceIndex, hash: Option<Sha1Hash>) -> bool {
        self.did(&Action::Verify { piece, hash, proof: false })
    }

    /// The piece has the wrong hash, and its units these, as a number each.
    fn corrupt(&mut self, number: u32, units: [u8; 2]) -> &[Action] {
        let units = units.map(|unit| Sha1Hash([unit; 20])).to_vec();
        self.input(Input::Corrupt { piece: self.piece(number), units })
    }

    fn did(&self, action: &Action) -> bool {
        self.out.contains(action)
    }

    fn closed(&self, link: LinkId) -> Option<CloseReason> {
        self.out.iter().find_map(|action| match action {
            Action::Close { link: closed, why } if *closed == link => Some(*why),
            _ => None,
        })
    }

    /// Delivers a block; whether it was kept.
    fn deliver(&mut self, link: LinkId, block: RawBlock) -> bool {
        matches!(self.input(Input::Block { link, block })[0], Action::Keep { .. })
    }

    /// The host has the bytes of all these blocks from the link.
    fn deliver_all(&mut self, link: LinkId, blocks: &[RawBlock]) {
        blocks.iter().for_each(|block| assert!(self.deliver(link, *block), "{block:?}"));
    }

    /// The oldest block that the link was asked for and has not brought.
    fn owed(&self, link: LinkId) -> RawBlock {
        let mut requests = self.swarm.links[&link].requests.iter();
        let block = requests.find(|request| !request.stale).unwrap().block;
        RawBlock { piece: block.piece().get(), begin: block.begin(), len: block.len() }
    }

    fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.input(Input::Timeout);
    }

    /// Asks for a run of pieces; the first and the last.
    fn claim(&mut self, from: u64, max_len: u64, steal: bool) -> Option<(u32, u32)> {
        let actions = self.input(Input::Claim { from, max_len, steal });
        let Action::Claimed { span } = actions[0] else { panic!("{actions:?}") };
        let numbers = |span: Span| {
            let number = |offset| u32::try_from(offset / u64::from(PIECE_LEN)).unwrap();
            (number(span.offset), number(span.end() - 1))
        };
        span.map(numbers)
    }
}

fn block(piece: u32, begin: u32) -> RawBlock {
    RawBlock { piece, begin, len: BLOCK_LEN }
}

#[test]
fn a_whole_piece_is_asked_of_one_link_verified_and_announced() {
    let mut host = Host::new(1, 0);
    let (link, asked) = host.seed();
    assert_eq!(asked, [block(0, 0), block(0, BLOCK_LEN)]);
    let other = host.link();
    assert!(host.deliver(link, asked[1]));
    assert!(host.deliver(link, asked[0]));
    let piece = host.piece(0);
    assert!(host.verifies(piece, None));
    host.input(Input::Stored { piece });
    assert!(host.did(&Action::Send { link: other, message: Message::Have(0) }));
    assert!(host.did(&Action::Complete));
    assert_eq!(host.closed(link), Some(CloseReason::BothComplete));
    let told = |action: &Action| matches!(action, Action::Send { link: to, .. } if *to == link);
    assert!(!host.out.iter().any(told), "it is closed without a word");
    assert_eq!(host.input(Input::Stored { piece }), [], "told twice, it counts once");
}

#[test]
fn readers_come_first_and_in_order() {
    let mut host = Host::with(100, 1, |config| config.reader_window = 3 * u64::from(PIECE_LEN));
    let at = |n: u64| n * u64::from(PIECE_LEN) + 5;
    host.input(Input::Readers { offsets: vec![at(40), at(70)] });
    let (_, asked) = host.seed();
    let pieces: Vec<u32> = asked.iter().map(|block| block.piece).collect();
    assert_eq!(pieces, [40, 40, 70, 70]);
    let (_, asked) = host.seed();
    let pieces: Vec<u32> = asked.iter().map(|block| block.piece).collect();
    assert_eq!(pieces, [41, 41, 71, 71]);
}

#[test]
fn the_first_piece_that_a_reader_needs_is_asked_for_alone() {
    let mut host = Host::new(9, 0);
    host.input(Input::Readers { offsets: vec![0] });
    let (first, asked) = host.seed();
    assert_eq!(asked, [block(0, 0), block(0, BLOCK_LEN)]);
    let (second, others) = host.seed();
    assert_eq!(others, []);
    asked.into_iter().for_each(|block| assert!(host.deliver(first, block)));
    host.input(Input::Stored { piece: host.piece(0) });
    assert!(!host.asked(second).is_empty());
}

#[test]
fn a_link_has_one_piece_at_a_time_until_one_was_right() {
    let mut host = Host::new(9, 0);
    let link = host.link();
    host.swarm.links.get_mut(&link).unwrap().proven = false;
    host.hear(link, Message::HaveAll);
    host.hear(link, Message::Unchoke);
    let asked = host.asked(link);
    assert_eq!(asked.len(), 2, "the blocks of one piece");
    for block in asked.iter().copied() {
        assert!(host.deliver(link, block));
        assert_eq!(host.asked(link), [], "it is not known to be right");
    }
    let piece = host.piece(asked[0].piece);
    host.input(Input::Stored { piece });
    assert!(host.asked(link).len() > 2);
}

#[test]
fn a_seed_suggests_each_piece_to_one_peer_and_what_few_have() {
    let mut host = Host::new(4, 4);
    let links = [host.link(), host.link()];
    for link in links {
        host.hear(link, Message::HaveNone);
    }
    host.hear(links[0], Message::Interested);
    let mut suggested = host.suggested();
    assert_eq!(suggested.len(), 4, "also to a lone peer");
    assert!(suggested.iter().all(|(to, _)| *to == links[0]));
    host.hear(links[1], Message::Interested);
    assert_eq!(host.suggested(), [], "its turns are not over");
    host.pass(Duration::from_secs(2));
    suggested = host.suggested();
    let of = |link| suggested.iter().filter(move |(to, _)| *to == link).count();
    assert_eq!((of(links[0]), of(links[1])), (2, 2));
    let pieces: std::collections::BTreeSet<u32> = suggested.iter().map(|(_, n)| *n).collect();
    assert_eq!(pieces.len(), 4, "each once");
    let (to, first) = suggested[0];
    host.hear(to, Message::Request(block(first, 0)));
    host.hear(to, Message::Have(first));
    let again = host.suggested();
    assert!(!again.is_empty(), "its turn is over");
    assert!(again.iter().all(|(to, n)| !suggested.contains(&(*to, *n))), "{again:?}");
}

#[test]
fn while_others_fetch_too_a_seed_is_asked_for_what_it_suggests() {
    let mut host = Host::new(9, 0);
    let (seed, other) = (host.link(), host.link());
    host.hear(other, Message::HaveNone);
    host.hear(seed, Message::HaveAll);
    host.hear(seed, Message::Unchoke);
    assert_eq!(host.asked(seed), []);
    host.hear(seed, Message::Suggest(7));
    assert_eq!(host.asked(seed), [block(7, 0), block(7, BLOCK_LEN)]);
    let silent = host.link();
    host.hear(silent, Message::HaveAll);
    host.hear(other, Message::Have(0));
    host.link();
    let another = host.link();
    host.hear(another, Message::HaveNone);
    host.hear(silent, Message::Unchoke);
    assert_eq!(host.asked(silent), []);
    host.pass(Duration::from_secs(1));
    assert_eq!(host.asked(silent), []);
    host.pass(Duration::from_millis(1100));
    assert!(!host.asked(silent).is_empty(), "it says nothing for long");
}

#[test]
fn a_host_that_fetches_serves_few_until_they_can_pass_it_on() {
    let mut host = Host::new(4, 1);
    let peers: Vec<LinkId> = (0..5)
        .map(|_| {
            let link = host.link();
            host.hear(link, Message::HaveNone);
            host.hear(link, Message::Interested);
            link
        })
        .collect();
    let no = |link| Action::Refuse { link, block: block(0, 0) };
    for link in &peers {
        host.hear(*link, Message::Request(block(0, 0)));
        assert_eq!(host.did(&no(*link)), *link == peers[4], "{link:?}");
    }
    // Who has begun may go on.
    host.hear(peers[3], Message::Request(block(0, BLOCK_LEN)));
    assert!(!host.did(&Action::Refuse { link: peers[3], block: block(0, BLOCK_LEN) }));
    // One has the piece now: the next has its turn.
    host.hear(peers[0], Message::Have(0));
    host.hear(peers[4], Message::Request(block(0, 0)));
    assert!(!host.did(&no(peers[4])));
    // Who would not understand is served at once.
    if let Some(link) = host.swarm.links.get_mut(&peers[0]) {
        link.ours = false;
    }
    host.hear(peers[0], Message::Request(block(0, 0)));
    assert!(!host.did(&no(peers[0])));
    if let Some(link) = host.swarm.links.get_mut(&peers[0]) {
        link.ours = true;
    }
    // Those who never say that they have it keep nobody waiting for long.
    host.hear(peers[0], Message::Request(block(0, 0)));
    assert!(host.did(&no(peers[0])));
    host.now = host.now + Duration::from_millis(50);
    host.hear(peers[0], Message::Request(block(0, 0)));
    assert!(!host.did(&no(peers[0])));
}

/// A host with so many peers that have all pieces but the last and serve it.
fn host_with_peers(pieces: u32, stored: u32, peers: usize) -> (Host, Vec<LinkId>) {
    let mut host = Host::new(pieces, stored);
    let mut has = Pieces::all(*host.swarm.geometry());
    has.remove(host.piece(pieces - 1));
    let links: Vec<LinkId> = (0..peers).map(|_| host.link()).collect();
    for link in &links {
        host.hear(*link, Message::Bitfield(has.to_bytes()));
        host.hear(*link, Message::Unchoke);
    }
    (host, links)
}

fn pieces_begun(host: &Host) -> usize {
    host.swarm.links.values().map(|link| link.owned.len()).sum()
}

#[test]
fn until_it_has_something_to_give_a_host_begins_one_piece() {
    let (mut host, links) = host_with_peers(100, 0, 25);
    assert_eq!(pieces_begun(&host), 1);
    let begun = links.iter().find_map(|id| Some((*id, *host.swarm.links[id].owned.first()?)));
    let (link, piece) = begun.unwrap();
    // Unless it does not come.
    host.pass(Duration::from_millis(100));
    assert_eq!(pieces_begun(&host), 2);
    for begin in [0, BLOCK_LEN] {
        assert!(host.deliver(link, block(piece.get(), begin)));
    }
    host.input(Input::Stored { piece });
    assert!(pieces_begun(&host) >= 10);
}

#[test]
fn no_more_pieces_are_begun_than_come_soon() {
    let (mut host, _) = host_with_peers(100, 1, 25);
    assert_eq!(pieces_begun(&host), 10);
    // Nor while the disk has as many to take.
    let deliver_one = |host: &mut Host| {
        let links = host.swarm.links.iter().find(|(_, link)| !link.owned.is_empty());
        let (link, piece) = links.map(|(&id, link)| (id, link.owned[0])).unwrap();
        for begin in [0, BLOCK_LEN] {
            assert!(host.deliver(link, block(piece.get(), begin)));
        }
        piece
    };
    let pieces: Vec<_> = (0..10).map(|_| deliver_one(&mut host)).collect();
    let begun = pieces_begun(&host);
    deliver_one(&mut host);
    assert_eq!(pieces_begun(&host), begun - 1);
    for piece in pieces {
        host.input(Input::Stored { piece });
    }
    assert_eq!(pieces_begun(&host), 10);
    // Those who bring nothing do not count.
    host.pass(host.swarm.pace().turn());
    assert_eq!(pieces_begun(&host), 20);
}

#[test]
fn what_a_reader_needs_next_is_begun_whatever_is_on_its_way() {
    let (mut host, _) = host_with_peers(100, 1, 25);
    let begun = |host: &Host, piece| host.swarm.links.values().any(|l| l.owned.contains(&piece));
    let pieces: Vec<_> = (1..90).map(|number| host.piece(number)).collect();
    let next = *pieces.iter().find(|piece| !begun(&host, **piece)).unwrap();
    let offset = host.swarm.geometry().span(next).offset;
    host.input(Input::Readers { offsets: vec![offset] });
    assert!(begun(&host, next));
    assert_eq!(pieces_begun(&host), 11, "and nothing after it");
}

#[test]
fn more_pieces_are_begun_when_words_take_long() {
    let (mut host, links) = host_with_peers(100, 1, 40);
    host.now = host.now + Duration::from_millis(100);
    let asked = links.iter().flat_map(|link| {
        let requests = host.swarm.links[link].requests.iter();
        requests.map(|request| (*link, block(request.block.piece().get(), request.block.begin())))
    });
    for (link, block) in asked.collect::<Vec<_>>() {
        assert!(host.deliver(link, block));
    }
    assert!(pieces_begun(&host) > 20, "{}", pieces_begun(&host));
}

#[test]
fn more_pieces_are_begun_where_many_flow_in_a_moment() {
    let (mut host, _) = host_with_peers(2000, 1, 40);
    let now = host.now;
    // 100 pieces in 50 ms, 40 in 20 ms.
    host.swarm.down.add(now, u64::from(100 * PIECE_LEN));
    host.pass(Duration::from_millis(1));
    assert_eq!(pieces_begun(&host), 40);
}

#[test]
fn what_silent_links_were_asked_for_keeps_a_host_that_got_little_from_asking_no_other() {
    let mut host = Host::new(100, 1);
    host.swarm.fastest = 1000;
    for _ in 0..3 {
        assert_ne!(host.seed().1, []);
    }
}

#[test]
fn turns_grow_to_what_peers_fetch_at_once_and_more_when_words_take_long_or_lines_are_fast() {
    for (words_ms, rest_ms, most) in [(0, 20, 10..=10), (100, 0, 11..=14), (0, 0, 24..=24)] {
        let mut host = Host::new(200, 200);
        let links: Vec<LinkId> = (0..30).map(|_| host.link()).collect();
        for link in links {
            host.hear(link, Message::HaveNone);
            host.hear(link, Message::Interested);
        }
        for _ in 0..60 {
            let links = host.swarm.links.iter().filter(|(_, link)| !link.turns.is_empty());
            let (&link, _) = links.min_by_key(|(_, link)| link.turn_at).unwrap();
            let piece = host.swarm.links[&link].turns[0].piece().get();
            host.now = host.now + Duration::from_millis(words_ms);
            host.hear(link, Message::Request(block(piece, 0)));
            host.now = host.now + Duration::from_millis(rest_ms);
            host.hear(link, Message::Have(piece));
        }
        let open: usize = host.swarm.links.values().map(|link| link.turns.len()).sum();
        assert!(most.contains(&open), "{open} with {words_ms} and {rest_ms} ms");
    }
}

#[test]
fn a_host_that_fetches_never_serves_many_at_once() {
    let mut host = Host::new(200, 100);
    let links: Vec<LinkId> = (0..20).map(|_| host.link()).collect();
    for (link, n) in links.iter().zip(0..) {
        host.hear(*link, Message::HaveNone);
        host.hear(*link, Message::Interested);
        for piece in [n, n + 20] {
            host.hear(*link, Message::Request(block(piece, 0)));
            host.hear(*link, Message::Have(piece));
        }
    }
    let request = Message::Request(block(99, 0));
    let refuse = |link| Action::Refuse { link, block: block(99, 0) };
    let mut is_served = |link: &&LinkId| {
        host.hear(**link, request.clone());
        !host.did(&refuse(**link))
    };
    assert_eq!(links.iter().filter(&mut is_served).count(), 8);
}

#[test]
fn what_a_busy_peer_refuses_is_asked_of_who_has_it_by_then() {
    let mut host = Host::new(4, 0);
    let (busy, other) = (host.link(), host.link());
    for link in [busy, other] {
        host.hear(link, Message::HaveNone);
        host.hear(link, Message::Unchoke);
    }
    host.hear(busy, Message::Have(2));
    let asked = host.asked(busy);
    assert!(!asked.is_empty());
    host.hear(other, Message::Have(2));
    assert_eq!(host.asked(other), []);
    for block in &asked {
        host.hear(busy, Message::Reject(*block));
    }
    assert_eq!(host.asked(other), asked);
    // Alone, it is asked again soon, and later each time.
    let mut host = Host::new(4, 0);
    let busy = host.link();
    host.hear(busy, Message::HaveNone);
    host.hear(busy, Message::Unchoke);
    host.hear(busy, Message::Have(2));
    let mut asked = host.asked(busy);
    let mut waits = Vec::new();
    for _ in 0..9 {
        for block in asked {
            host.hear(busy, Message::Reject(block));
        }
        let rested = host.swarm.links[&busy].rests_until;
        waits.push(rested.since(host.now).as_millis());
        host.now = rested;
        host.input(Input::Timeout);
        asked = host.asked(busy);
        assert!(!asked.is_empty());
    }
    assert_eq!(waits[0], 4);
    assert!(waits.is_sorted() && waits[8] == 500, "{waits:?}");
}

#[test]
fn the_rest_of_a_piece_that_a_peer_refuses_is_asked_of_another() {
    let mut host = Host::new(8, 1);
    let (refuses, asked) = host.seed();
    let (other, others) = host.seed();
    host.deliver(refuses, asked[0]);
    host.hear(refuses, Message::Reject(asked[1]));
    host.deliver(other, others[0]);
    assert_eq!(host.asked(other).first(), Some(&asked[1]));
}

#[test]
fn who_was_never_right_gets_no_part_of_what_another_began_if_anybody_was() {
    let mut host = Host::new(8, 1);
    let (dies, asked) = host.seed();
    let (right, rights) = host.seed();
    let (new, news) = host.seed();
    host.swarm.links.get_mut(&new).unwrap().proven = false;
    host.deliver(dies, asked[0]);
    host.input(Input::LinkDown { link: dies });
    host.deliver(new, news[0]);
    let rest = &asked[1..];
    assert!(host.asked(new).iter().all(|block| !rest.contains(block)));
    host.deliver(right, rights[0]);
    assert!(rest.contains(&host.asked(right)[0]));
}

#[test]
fn memory_bounds_what_is_in_flight() {
    let share = 3 * u64::from(PIECE_LEN);
    let mut host = Host::with(100, 1, |config| config.bytes_in_flight_max = share);
    let asked: usize = (0..5).map(|_| host.seed().1.len()).sum();
    assert_eq!(asked, 6);
    host.input(Input::Share { bytes_in_flight_max: share * 2 });
    let asked: usize = (1..=5).map(|n| host.asked(LinkId(n)).len()).sum();
    assert_eq!(asked, 6);
}

#[test]
fn a_dead_links_requests_go_to_others_and_its_blocks_are_kept() {
    let mut host = Host::new(1, 0);
    let (first, asked) = host.seed();
    let (second, nothing) = host.seed();
    assert_eq!(nothing, [], "nobody is asked twice without need");
    host.deliver(first, asked[0]);
    host.input(Input::LinkDown { link: first });
    assert_eq!(host.asked(second), [asked[1]]);
    host.deliver(second, asked[1]);
    assert!(host.verifies(host.piece(0), None));
}

#[test]
fn a_silent_link_loses_its_requests_and_the_copy_that_comes_later_is_cancelled() {
    let mut host = Host::new(1, 0);
    let (silent, asked) = host.seed();
    let (link, _) = host.seed();
    host.pass(NO_PROGRESS);
    assert_eq!(host.asked(link), asked);
    host.deliver(link, asked[0]);
    assert!(host.did(&Action::Send { link: silent, message: Message::Cancel(asked[0]) }));
    assert!(host.deliver(silent, asked[1]), "a late block is welcome");
    assert!(host.did(&Action::Send { link, message: Message::Cancel(asked[1]) }));
    assert!(host.verifies(host.piece(0), None));
}

#[test]
fn who_spoke_last_is_asked_for_what_another_is_slow_to_bring() {
    let mut host = Host::new(1, 0);
    let (slow, asked) = host.seed();
    let others = [host.seed().0, host.seed().0, host.seed().0];
    for link in [others[0], others[2], others[1]] {
        host.now = host.now + Duration::from_millis(10);
        host.hear(link, Message::KeepAlive);
    }
    let mut doubled = Vec::new();
    for _ in 0..40 {
        host.pass(Duration::from_millis(100));
        doubled.extend(others.iter().filter(|link| !host.asked(**link).is_empty()));
    }
    assert_eq!((asked.len(), doubled.first()), (2, Some(&others[1])), "{slow:?}: {doubled:?}");
}

#[test]
fn claims_are_runs_that_nobody_else_brings() {
    let len = u64::from(PIECE_LEN);
    let mut host = Host::new(10, 2);
    assert_eq!(host.claim(0, 3 * len, false), Some((2, 4)));
    assert_eq!(host.claim(3 * len + 7, 1, false), Some((5, 5)), "one piece at least");
    assert_eq!(host.claim(10 * len, len, false), None);
    let (link, asked) = host.seed();
    assert!(asked.iter().all(|block| block.piece >= 6), "{asked:?}");
    let in_flight = asked[0].piece;
    host.deliver(link, asked[0]);
    let from = u64::from(in_flight) * len;
    assert_ne!(host.claim(from, 1, false), Some((in_flight, in_flight)));
    assert_eq!(host.claim(from, 1, true), Some((in_flight, in_flight)));
    assert!(host.did(&Action::Discard { piece: host.piece(in_flight) }));
    assert!(host.did(&Action::Send { link, message: Message::Cancel(asked[1]) }));
    assert!(!host.deliver(link, asked[1]));
}

#[test]
fn what_the_upstream_gives_back_is_asked_of_links() {
    let len = u64::from(PIECE_LEN);
    let mut host = Host::new(2, 0);
    assert_eq!(host.claim(0, u64::MAX, false), Some((0, 1)));
    let (link, asked) = host.seed();
    assert_eq!(asked, []);
    host.input(Input::Stored { piece: host.piece(0) });
    host.input(Input::Release { span: Span { offset: 0, len: 2 * len } });
    assert_eq!(host.asked(link), [block(1, 0), block(1, BLOCK_LEN)]);
}

#[test]
fn a_piece_that_came_from_elsewhere_is_withdrawn_from_links() {
    let mut host = Host::new(1, 0);
    let (link, asked) = host.seed();
    host.deliver(link, asked[0]);
    let piece = host.piece(0);
    host.input(Input::Stored { piece });
    assert!(host.did(&Action::Discard { piece }));
    assert!(host.did(&Action::Send { link, message: Message::Cancel(asked[1]) }));
}

#[test]
fn only_stored_blocks_are_sent_and_only_to_the_served() {
    let mut host = Host::with(4, 2, |config| config.upload_slots = 1);
    let (served, waiting) = (host.link(), host.link());
    host.hear(served, Message::Interested);
    assert!(host.did(&Action::Send { link: served, message: Message::Unchoke }));
    host.hear(waiting, Message::Interested);
    assert_eq!(host.out, []);
    let geometry = *host.swarm.geometry();
    let sent = |link, raw: RawBlock| {
        let block = geometry.block(raw.piece, raw.begin, raw.len).unwrap();
        Action::SendBlock { link, block }
    };
    let refused = |link, block| Action::Refuse { link, block };
    let asked = block(1, 0);
    assert_eq!(host.hear(served, Message::Request(asked)), [sent(served, asked)]);
    assert_eq!(host.hear(waiting, Message::Request(asked)), [refused(waiting, asked)]);
    let missing = block(2, 0);
    assert_eq!(host.hear(served, Message::Request(missing)), [refused(served, missing)]);
    host.hear(served, Message::NotInterested);
    assert!(host.did(&Action::Send { link: waiting, message: Message::Unchoke }));
}

#[test]
fn a_writer_is_given_little_at_a_time_and_cancels_reach_the_rest() {
    let mut host = Host::new(60, 60);
    let link = host.link();
    host.hear(link, Message::Interested);
    let mut sent = 0;
    for n in 0..=PEER_REQUESTS_MAX + 70 {
        let number = u32::try_from(n % 60).unwrap();
        let actions = host.hear(link, Message::Request(block(number, 0)));
        sent += usize::from(matches!(actions, [Action::SendBlock { .. }]));
    }
    assert_eq!(sent, 64, "1 MiB");
    let full = Action::Refuse { link, block: block(10, 0) };
    assert_eq!(host.hear(link, Message::Request(block(10, 0))), [full], "the queue is bounded");
    let next = block(64 % 60, 0);
    assert_eq!(host.hear(link, Message::Cancel(next)).len(), 1);
    let first = host.swarm.geometry().block(0, 0, BLOCK_LEN).unwrap();
    let actions = host.input(Input::BlockSent { link, block: first });
    assert!(matches!(actions, [Action::SendBlock { block, .. }] if block.piece().get() == 5));
}

#[test]
fn nonsense_closes_the_link_and_blames_the_peer() {
    let long = RawBlock { piece: 0, begin: 0, len: u32::MAX };
    for (messages, why) in [
        (vec![Message::Have(4)], CloseReason::BadPiece),
        (vec![Message::Suggest(4)], CloseReason::BadPiece),
        (vec![Message::Bitfield(vec![0, 0])], CloseReason::BadBitfield),
        (vec![Message::Bitfield(vec![0x01])], CloseReason::BadBitfield),
        (vec![Message::Have(1), Message::Bitfield(vec![0xb0])], CloseReason::OutOfTurn),
        (vec![Message::HaveAll, Message::HaveNone], CloseReason::OutOfTurn),
        (vec![Message::Request(long)], CloseReason::BadBlock),
        (vec![Message::Cancel(block(4, 0))], CloseReason::BadBlock),
        (vec![Message::Reject(long)], CloseReason::BadBlock),
    ] {
        let mut host = Host::new(4, 1);
        let link = host.link();
        for message in &messages {
            assert_eq!(host.closed(link), None, "{messages:?}");
            host.hear(link, message.clone());
        }
        assert_eq!(host.closed(link), Some(why), "{messages:?}");
        assert_eq!(why.blame(), crate::base::blame::Blame::Peer);
    }
}

#[test]
fn what_real_clients_send_before_their_bitfield_is_taken() {
    let mut host = Host::new(4, 1);
    let link = host.link();
    for message in [
        Message::Extended { id: 0, payload: Vec::new() },
        Message::AllowedFast(3),
        Message::Port(6881),
        Message::Interested,
        Message::Unknown(77),
        Message::Unchoke,
        Message::Bitfield(vec![0xf0]),
    ] {
        host.hear(link, message);
        assert_eq!(host.closed(link), None);
    }
    assert!(host.did(&Action::Send { link, message: Message::Interested }));
    assert!(!host.asked(link).is_empty());
}

/// As aria2 does.
#[test]
fn a_later_bitfield_adds_to_what_was_said() {
    let mut host = Host::new(4, 1);
    let link = host.link();
    host.hear(link, Message::HaveNone);
    host.hear(link, Message::Have(1));
    host.hear(link, Message::Unchoke);
    host.hear(link, Message::Bitfield(vec![0x60]));
    assert_eq!(host.closed(link), None);
    assert!(host.asked(link).iter().any(|block| block.piece == 2));
    host.hear(link, Message::Bitfield(vec![0x60]));
    assert_eq!(host.closed(link), None, "it added nothing");
    host.hear(link, Message::HaveAll);
    assert_eq!(host.closed(link), None);
    host.hear(link, Message::Bitfield(vec![0x70]));
    assert_eq!(host.closed(link), Some(CloseReason::OutOfTurn), "it took one back");
}

#[test]
fn of_two_links_that_crossed_both_sides_keep_the_same() {
    let (low, high) = (PeerId([1; 20]), PeerId([9; 20]));
    for (us, them, keeps_dialled) in [(low, high, true), (high, low, false)] {
        for dialled_first in [true, false] {
            let mut host = Host::with(4, 0, |config| config.peer_id = us);
            let address = SocketAddr::from(([10, 0, 0, 1], 6881));
            let up = |link, incoming| Input::LinkUp {
                link: LinkId(link),
                address,
                peer_id: them,
                incoming,
                fast: true,
                ours: true,
            };
            host.input(up(1, !dialled_first));
            host.input(up(2, dialled_first));
            let dropped = if keeps_dialled == dialled_first { 2 } else { 1 };
            assert_eq!(host.closed(LinkId(dropped)), Some(CloseReason::Duplicate));
            assert_eq!(host.closed(LinkId(3 - dropped)), None);
        }
    }
}

#[test]
fn a_refused_link_rests_and_is_asked_again() {
    let mut host = Host::new(1, 0);
    let (link, asked) = host.seed();
    for block in &asked {
        host.hear(link, Message::Reject(*block));
        assert_eq!(host.asked(link), []);
    }
    let due = host.swarm.next_deadline().expect("it waits for the end of the rest");
    assert!(due <= host.now + Duration::from_secs(1));
    host.pass(Duration::from_secs(1));
    assert_eq!(host.asked(link), asked);
}

#[test]
fn the_tracker_is_told_of_start_completion_and_end() {
    let mut host = Host::new(1, 0);
    assert_eq!(host.swarm.next_deadline(), Some(host.now));
    host.input(Input::Timeout);
    assert_eq!(host.out, [Action::Announce { event: AnnounceEvent::Started }]);
    host.input(Input::Announced { interval: Duration::from_secs(60) });
    host.input(Input::Stored { piece: host.piece(0) });
    assert!(host.did(&Action::Announce { event: AnnounceEvent::Completed }));
    let link = host.link();
    host.input(Input::Leave);
    assert_eq!(host.closed(link), Some(CloseReason::Leaving));
    assert!(host.did(&Action::Announce { event: AnnounceEvent::Stopped }));
    assert_eq!(host.swarm.next_deadline(), None);
}

#[test]
fn a_block_that_is_longer_than_anybody_asks_for_closes_the_link() {
    let geometry = Geometry::new(8 << 20, 4 << 20).unwrap();
    let config = Config::usual(PeerId([5; 20]));
    let now = Time::after_start(Duration::from_secs(100));
    let swarm = Swarm::new(config, geometry, Pieces::all(geometry), Rng::seeded(1), now);
    let mut host = Host { swarm, now, out: Vec::new(), links: 0 };
    for (len, closed) in [(BLOCK_LEN_MAX, None), (BLOCK_LEN_MAX + 1, Some(CloseReason::BadBlock))] {
        let link = host.link();
        host.hear(link, Message::Interested);
        host.hear(link, Message::Request(RawBlock { piece: 1, begin: 0, len }));
        assert_eq!(host.closed(link), closed, "{len}");
    }
}

#[test]
fn what_a_peer_suggests_is_remembered_up_to_a_bound() {
    let mut host = Host::new(500, 0);
    let link = host.link();
    host.hear(link, Message::HaveAll);
    for n in 0..500 {
        host.hear(link, Message::Suggest(n));
        assert!(host.swarm.links[&link].suggested.len() <= 64);
    }
    assert_eq!(host.swarm.links[&link].suggested.back(), Some(&host.piece(499)));
}

#[test]
fn a_full_swarm_makes_room_for_addresses_that_have_fewer_links_than_another() {
    let mut host = Host::with(4, 0, |config| config.links_max = 6);
    let mut up = |ip: u8, number: u8| {
        let address = SocketAddr::from(([10, 0, 1, ip], 6881));
        let (link, peer_id) = (LinkId(number.into()), PeerId([number; 20]));
        let (incoming, fast, ours) = (true, true, true);
        host.input(Input::LinkUp { link, address, peer_id, incoming, fast, ours });
        let closed = host.out.iter().filter_map(|action| match action {
            Action::Close { link, .. } => Some(link.0),
            _ => None,
        });
        closed.collect::<Vec<_>>()
    };
    // One address takes all. Three others have theirs, and it keeps as many as one of them.
    (11..17).for_each(|number| assert!(up(1, number).is_empty()));
    assert_eq!(up(1, 17), [17]);
    for (ip, number) in [(2, 20), (3, 30), (4, 40), (2, 21)] {
        let closed = up(ip, number);
        assert!(matches!(closed[..], [11..=16]), "{closed:?}");
    }
    assert_eq!(up(3, 31), [31], "nobody has more than it would have");
    assert_eq!(up(5, 50).len(), 1);
}
