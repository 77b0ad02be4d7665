//! Claims about pieces whose hashes are told by those who have them.

use super::*;
use crate::swarm::swarm::TICK;

/// Whether the last input closed the link for this reason.
fn closed(host: &Host, link: LinkId, why: CloseReason) -> bool {
    host.did(&Action::Close { link, why })
}

fn verifies(host: &Host, number: u32, hash: u8) -> bool {
    let (piece, hash) = (host.piece(number), Some(Sha1Hash([hash; 20])));
    host.verifies(piece, hash)
}

#[test]
fn a_peer_is_asked_only_for_that_of_which_it_told_the_hash() {
    let mut host = Host::without_hashes(4);
    let (link, asked) = host.seed();
    assert_eq!(asked, []);
    assert!(!host.interested(link));
    let (silent, _) = host.seed();
    for number in [2, 0] {
        host.learn(link, &[number], 1);
        let blocks = host.asked(link);
        assert_eq!(blocks.len(), 2, "at once");
        assert!(blocks.iter().all(|block| block.piece == number));
        // Of those whose hash is known, the first piece of all is begun alone.
        host.deliver_all(link, &blocks);
        host.input(Input::Stored { piece: host.piece(number) });
    }
    host.input(Input::LinkDown { link });
    assert_eq!(host.asked(silent), [], "it told nothing");
}

#[test]
fn the_hash_may_be_told_before_the_piece_is_there() {
    let mut host = Host::without_hashes(2);
    let link = host.link();
    host.hear(link, Message::HaveNone);
    host.hear(link, Message::Unchoke);
    host.learn(link, &[1], 1);
    assert_eq!(host.out, []);
    host.hear(link, Message::Have(1));
    assert_eq!(host.asked(link).len(), 2);
    host.learn(link, &[1, 1], 1);
    assert_eq!(host.out, [], "told twice, it counts once");
}

#[test]
fn who_tells_two_hashes_of_a_piece_or_one_of_a_piece_that_is_not_there_is_let_go() {
    let mut host = Host::without_hashes(2);
    let (link, _) = host.seed();
    host.learn(link, &[0], 1);
    host.learn(link, &[0], 2);
    assert!(closed(&host, link, CloseReason::TwoHashes));
    let (link, _) = host.seed();
    host.learn(link, &[0, 1, 2], 1);
    assert!(closed(&host, link, CloseReason::BadPiece));
    // Whatever it says if nobody asked for hashes.
    let mut host = Host::new(2, 0);
    let (link, _) = host.seed();
    host.learn(link, &[7], 1);
    assert_eq!(host.out, []);
}

#[test]
fn a_piece_has_the_hash_that_its_senders_told_whatever_others_say() {
    let mut host = Host::without_hashes(1);
    let (liar, _) = host.seed();
    host.learn(liar, &[0], 9);
    let asked = host.asked(liar);
    assert_eq!(asked.len(), 2);
    let (honest, _) = host.seed();
    host.learn(honest, &[0], 1);
    assert_eq!(host.asked(honest), [], "it is the other's");
    host.deliver_all(liar, &asked);
    assert!(verifies(&host, 0, 9));
    let piece = host.piece(0);
    host.corrupt(0, [0, 1]);
    assert!(closed(&host, liar, CloseReason::Corrupt), "it told the hash and sent the bytes");
    let asked = host.asked(honest);
    host.deliver_all(honest, &asked);
    assert!(verifies(&host, 0, 1));
    host.input(Input::Stored { piece });
    assert!(host.swarm.is_complete());
}

#[test]
fn what_a_link_began_others_go_on_with_only_if_they_told_the_same() {
    let mut host = Host::without_hashes(1);
    let (first, _) = host.seed();
    host.learn(first, &[0], 1);
    let asked = host.asked(first);
    host.deliver(first, asked[0]);
    let (other, _) = host.seed();
    host.learn(other, &[0], 2);
    let (same, _) = host.seed();
    host.learn(same, &[0], 1);
    host.hear(first, Message::Choke);
    host.pass(TICK);
    assert_eq!((host.asked(other), host.asked(same)), (vec![], vec![asked[1]]));
    host.deliver(same, asked[1]);
    assert!(verifies(&host, 0, 1));
    host.corrupt(0, [0, 1]);
    assert!(host.swarm.links[&first].suspected && host.swarm.links[&same].suspected);
}

#[test]
fn who_told_a_hash_and_fell_silent_holds_a_piece_up_no_longer_than_the_patience() {
    let mut host = Host::without_hashes(1);
    let (liar, _) = host.seed();
    host.learn(liar, &[0], 9);
    let begun = host.asked(liar);
    host.deliver(liar, begun[0]);
    let (honest, _) = host.seed();
    host.learn(honest, &[0], 1);
    assert_eq!(host.asked(honest), []);
    host.pass(host.swarm.pace().silence());
    let asked = host.asked(honest);
    assert_eq!(asked.len(), 2, "from its beginning");
    assert!(!host.deliver(liar, begun[1]), "it is another piece by now");
    host.deliver_all(honest, &asked);
    assert!(verifies(&host, 0, 1));
}

#[test]
fn who_told_a_hash_and_chokes_us_does_not_hold_a_piece_up() {
    let mut host = Host::without_hashes(1);
    let (liar, _) = host.seed();
    host.learn(liar, &[0], 9);
    let begun = host.asked(liar);
    host.deliver(liar, begun[0]);
    let (honest, _) = host.seed();
    host.learn(honest, &[0], 1);
    host.hear(liar, Message::Choke);
    host.pass(TICK);
    assert_eq!(host.asked(honest).len(), 2, "from its beginning");
}

#[test]
fn the_upstream_claims_pieces_whose_hashes_nobody_told() {
    let mut host = Host::without_hashes(4);
    let (link, _) = host.seed();
    assert_eq!(host.claim(0, 2 * u64::from(PIECE_LEN), false), Some((0, 1)));
    host.learn(link, &[0], 1);
    assert_eq!(host.asked(link), [], "the upstream brings it");
    let len = 2 * u64::from(PIECE_LEN);
    host.input(Input::Release { span: Span { offset: 0, len } });
    let asked = host.asked(link);
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|block| block.piece == 0), "the other has no hash");
}
