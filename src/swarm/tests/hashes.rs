//! Claims about pieces whose hashes are told one by one.

use super::*;

#[test]
fn nothing_is_asked_for_before_its_hash_is_known() {
    let mut host = Host::without_hashes(4);
    let (link, asked) = host.seed();
    assert_eq!(asked, []);
    assert!(host.interested(link));
    for number in [2, 0] {
        host.learn(&[number]);
        let blocks = host.asked(link);
        assert_eq!(blocks.len(), 2, "at once");
        assert!(blocks.iter().all(|block| block.piece == number));
        // Of those whose hash is known, the first piece of all is begun alone.
        blocks.into_iter().for_each(|block| assert!(host.deliver(link, block)));
        host.input(Input::Stored { piece: host.piece(number) });
    }
}

#[test]
fn a_hash_that_is_told_twice_counts_once() {
    let mut host = Host::without_hashes(2);
    let (link, _) = host.seed();
    host.learn(&[1, 1]);
    assert_eq!(host.asked(link).len(), 2);
    host.learn(&[1]);
    assert_eq!(host.out, []);
}

#[test]
fn a_peer_of_whose_pieces_no_hash_was_known_is_asked_as_soon_as_one_is() {
    let mut host = Host::without_hashes(4);
    let (link, _) = host.seed();
    // It is found to have nothing of what may be asked for, and not looked at again.
    host.learn(&[0]);
    let other = host.link();
    host.hear(other, Message::Bitfield(vec![0b0101_0000]));
    host.hear(other, Message::Unchoke);
    assert_eq!((host.asked(other), host.interested(other)), (vec![], true));
    host.input(Input::LinkDown { link });
    host.pass(NO_PROGRESS);
    assert_eq!((host.asked(other), host.interested(other)), (vec![], true));
    host.learn(&[3]);
    assert_eq!(host.asked(other).len(), 2);
}

#[test]
fn the_upstream_claims_pieces_whose_hashes_are_not_known() {
    let mut host = Host::without_hashes(4);
    let (link, _) = host.seed();
    assert_eq!(host.claim(0, 2 * u64::from(PIECE_LEN), false), Some((0, 1)));
    host.learn(&[0]);
    assert_eq!(host.asked(link), [], "the upstream brings it");
    let len = 2 * u64::from(PIECE_LEN);
    host.input(Input::Release { span: Span { offset: 0, len } });
    let asked = host.asked(link);
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|block| block.piece == 0), "the other has no hash");
}

#[test]
fn the_hash_of_a_stored_piece_is_known() {
    let mut host = Host::without_hashes(2);
    let (link, _) = host.seed();
    host.claim(0, 1, false);
    let piece = host.piece(0);
    host.input(Input::Stored { piece });
    // Checked with all invariants: only missing and claimed pieces have none.
    host.learn(&[0]);
    assert_eq!(host.out, []);
    host.learn(&[1]);
    assert_eq!(host.asked(link).len(), 2);
}

#[test]
fn nobody_is_blamed_for_a_piece_whose_hash_a_peer_told() {
    let mut host = Host::without_hashes(2);
    let (first, _) = host.seed();
    host.learn(&[0]);
    let asked = host.asked(first);
    asked.iter().for_each(|block| assert!(host.deliver(first, *block)));
    let piece = host.piece(0);
    assert!(host.did(&Action::Verify { piece }));
    host.input(Input::Corrupt { piece });
    assert_eq!(host.out, [], "no ban, and the hash is not known any more");
    // Of two senders neither is suspected.
    host.learn(&[0]);
    assert_eq!(host.asked(first).len(), 2);
    host.deliver(first, asked[0]);
    host.hear(first, Message::Choke);
    let (second, rest) = host.seed();
    assert_eq!(rest, [asked[1]]);
    host.deliver(second, asked[1]);
    host.input(Input::Corrupt { piece });
    assert_eq!(host.out, []);
    assert!(host.swarm.links.values().all(|link| !link.suspected));
    assert!(!host.swarm.pieces.is_doubtful(piece));
    assert_eq!(host.claim(0, 1, false), Some((0, 0)), "it is missing");
}
