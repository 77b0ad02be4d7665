//! Claims about peers that are slow.

use super::*;
use crate::swarm::swarm::TICK;

/// Each of the links brings a block of what it is asked for, now and then.
fn bring_slowly(host: &mut Host, links: &[LinkId]) {
    for _ in 0..4 {
        host.now = host.now + Duration::from_millis(100);
        for &link in links {
            let block = host.owed(link);
            assert!(host.deliver(link, block));
            let piece = host.piece(block.piece);
            if host.verifies(piece, None) {
                host.input(Input::Stored { piece });
            }
        }
    }
}

fn begun_of(host: &Host, link: LinkId) -> usize {
    host.swarm.links[&link].owned.len()
}

#[test]
fn as_many_slow_seeds_as_there_may_be_pieces_keep_nobody_from_a_fast_one() {
    let mut host = Host::new(400, 1);
    let slow: Vec<LinkId> = (0..15).map(|_| host.seed().0).collect();
    assert!(slow.iter().all(|link| begun_of(&host, *link) > 0), "there is nobody else to wait for");
    bring_slowly(&mut host, &slow);
    let (_, asked) = host.seed();
    assert!(!asked.is_empty());
}

#[test]
fn what_slow_peers_bring_does_not_count_as_enough() {
    let mut host = Host::new(400, 1);
    let reader = host.link();
    host.hear(reader, Message::HaveNone);
    // They have nearly all, and fetch the rest.
    let mut has = Pieces::all(*host.swarm.geometry());
    has.remove(host.piece(399));
    let peer = |host: &mut Host| {
        let link = host.link();
        host.hear(link, Message::Bitfield(has.to_bytes()));
        host.hear(link, Message::Unchoke);
        link
    };
    let peers: Vec<LinkId> = (0..12).map(|_| peer(&mut host)).collect();
    let busy = |host: &Host, link: &LinkId| begun_of(host, *link) > 0;
    let last = peer(&mut host);
    assert!(!busy(&host, &last), "there is enough on its way");
    let slow: Vec<LinkId> = peers.iter().copied().filter(|link| busy(&host, link)).collect();
    assert_eq!(slow.iter().map(|link| begun_of(&host, *link)).sum::<usize>(), 10);
    bring_slowly(&mut host, &slow);
    assert!(busy(&host, &last));
}

#[test]
fn seeds_are_saved_as_soon_as_one_other_fetches() {
    let mut host = Host::new(9, 1);
    let other = host.link();
    host.hear(other, Message::HaveNone);
    let seeds: Vec<LinkId> = (0..3)
        .map(|_| {
            let (seed, asked) = host.seed();
            assert_eq!(asked, [], "it has suggested nothing");
            seed
        })
        .collect();
    // Nobody fetches any more.
    host.hear(other, Message::HaveAll);
    host.pass(TICK);
    let asked = seeds.iter().filter(|seed| !host.swarm.links[seed].requests.is_empty());
    assert!(asked.count() > 0, "{:?}", host.out);
}

#[test]
fn a_seed_that_suggests_what_a_slow_one_brings_is_asked_for_it() {
    let mut host = Host::new(40, 1);
    let other = host.link();
    host.hear(other, Message::HaveNone);
    let (slow, _) = host.seed();
    host.hear(slow, Message::Suggest(7));
    let asked = host.asked(slow);
    assert_eq!(asked.len(), 2);
    let (fast, _) = host.seed();
    // A fast one: what it suggests comes at once.
    for number in 10..30 {
        host.hear(fast, Message::Suggest(number));
        host.now = host.now + Duration::from_millis(1);
        for block in [block(number, 0), block(number, BLOCK_LEN)] {
            assert!(host.deliver(fast, block), "{number}");
        }
        host.input(Input::Stored { piece: host.piece(number) });
    }
    host.hear(fast, Message::Suggest(7));
    assert!(asked.contains(&host.asked(fast)[0]), "{:?}", host.out);
}
