//! Claims about who is to blame for wrong bytes.

use super::*;

#[test]
fn who_sent_all_of_a_corrupt_piece_is_banned() {
    let mut host = Host::new(1, 0);
    let (liar, asked) = host.seed();
    host.deliver_all(liar, &asked);
    let (link, _) = host.seed();
    let piece = host.piece(asked[0].piece);
    host.corrupt(piece.get(), [1, 1]);
    assert!(host.did(&Action::Ban { address: [10, 0, 0, 1].into() }));
    assert_eq!(host.closed(liar), Some(CloseReason::Corrupt));
    assert!(host.asked(link).iter().any(|block| block.piece == piece.get()));
    let address = SocketAddr::from(([10, 0, 0, 1], 9));
    host.input(Input::Candidates { addresses: vec![address], source: Source::Tracker });
    assert!(!host.did(&Action::Dial { address }));
}

/// Two links each sent one half of a piece of which the second half is wrong.
fn two_senders_of_one(pieces: u32) -> (Host, LinkId, LinkId) {
    let mut host = Host::new(pieces, pieces - 1);
    let (first, asked) = host.seed();
    host.deliver(first, asked[0]);
    host.hear(first, Message::Choke);
    let (second, rest) = host.seed();
    assert_eq!(rest, [asked[1]]);
    host.deliver(second, asked[1]);
    host.hear(first, Message::Unchoke);
    (host, first, second)
}

/// The numbers of the links whose addresses the last input made us ban.
fn banned(host: &Host) -> Vec<u64> {
    let is_banned = |number: &u64| {
        let number = u8::try_from(*number).unwrap();
        host.did(&Action::Ban { address: [10, 0, 0, number].into() })
    };
    (1..=host.links).filter(is_banned).collect()
}

/// The link brings all of the piece that is in doubt, and it is right.
fn bring(host: &mut Host, link: LinkId, asked: &[RawBlock], units: [u8; 2]) {
    host.deliver_all(link, asked);
    let piece = host.piece(asked[0].piece);
    assert!(host.did(&Action::Verify { piece, hash: None, proof: true }));
    let units = units.map(|unit| Sha1Hash([unit; 20])).to_vec();
    host.input(Input::Proof { piece, units });
}

#[test]
fn who_sent_a_wrong_part_of_a_piece_is_banned_once_a_right_copy_is_here() {
    let (mut host, first, second) = two_senders_of_one(1);
    let (third, _) = host.seed();
    host.corrupt(0, [1, 9]);
    assert!(banned(&host).is_empty(), "it may be either");
    assert_eq!((host.asked(first), host.asked(second)), (vec![], vec![]));
    let asked = host.asked(third);
    assert_eq!(asked.len(), 2, "all of it, again");
    bring(&mut host, third, &asked, [1, 2]);
    assert_eq!(banned(&host), [2]);
    assert_eq!(host.closed(second), Some(CloseReason::Corrupt));
    assert!(!host.swarm.links[&first].suspected, "what it sent was right");
    host.input(Input::Stored { piece: host.piece(0) });
    assert!(host.swarm.is_complete());
}

#[test]
fn suspects_are_asked_for_nothing_until_it_is_known_who_lied() {
    let mut host = Host::new(20, 1);
    let (first, asked) = host.seed();
    assert!(host.deliver(first, asked[0]));
    host.hear(first, Message::Choke);
    let (second, _) = host.seed();
    // It brings what it is asked for, the other half last, and then a half of one more.
    let mut brought = Vec::new();
    while !brought.contains(&asked[1]) || brought.last() == Some(&asked[1]) {
        let block = host.owed(second);
        assert!(host.deliver(second, block), "{block:?}");
        let piece = host.piece(block.piece);
        if host.verifies(piece, None) && block.piece != asked[0].piece {
            host.input(Input::Stored { piece });
        }
        brought.push(block);
    }
    let other = brought.last().copied().unwrap();
    host.hear(first, Message::Unchoke);
    let (third, _) = host.seed();
    host.corrupt(asked[0].piece, [9, 1]);
    // What is held of another piece may be wrong as well, and what is on its way.
    assert!(host.did(&Action::Discard { piece: host.piece(other.piece) }));
    for link in [first, second] {
        assert!(host.swarm.links[&link].requests.is_empty(), "{link:?}");
        assert_eq!(host.asked(link), [], "{link:?}");
    }
    // The third is asked for it before anything else.
    let owed = host.owed(third);
    assert!(host.deliver(third, owed));
    assert_eq!(host.asked(third)[0].piece, asked[0].piece);
    host.pass(host.swarm.pace().silence());
    let alone = [first, second].map(|link| host.asked(link).len());
    assert!(alone.iter().any(|asked| *asked > 0), "not for ever: {alone:?}");
}

#[test]
fn if_nobody_else_has_it_a_suspect_is_asked_for_all_of_a_piece_in_doubt() {
    let (mut host, first, second) = two_senders_of_one(1);
    host.corrupt(0, [9, 1]);
    let asked = [first, second].map(|link| host.asked(link));
    let (link, other) = if asked[0].is_empty() { (second, first) } else { (first, second) };
    let asked = asked.concat();
    assert_eq!(asked.len(), 2, "all of it, of one of them");
    // It lies again: now it is known.
    let mut lying = two_senders_of_one(1).0;
    lying.corrupt(0, [9, 1]);
    lying.deliver_all(link, &asked);
    lying.corrupt(0, [9, 9]);
    assert_eq!(lying.closed(link), Some(CloseReason::Corrupt));
    assert_eq!(lying.asked(other).len(), 2);
    // It does not: the first half was wrong.
    bring(&mut host, link, &asked, [1, 1]);
    assert_eq!(banned(&host), [1]);
}

#[test]
fn the_upstreams_copy_of_a_piece_in_doubt_proves_nothing() {
    let (mut host, first, second) = two_senders_of_one(2);
    let (third, _) = host.seed();
    host.corrupt(1, [1, 9]);
    assert!(!host.asked(third).is_empty());
    host.input(Input::Stored { piece: host.piece(1) });
    assert!(banned(&host).is_empty());
    assert!([first, second].iter().all(|link| !host.swarm.links.contains_key(link)), "complete");
    host.input(Input::Proof { piece: host.piece(1), units: vec![Sha1Hash([1; 20]); 2] });
    assert!(banned(&host).is_empty());
}

#[test]
fn a_copy_of_another_hash_than_was_told_convicts_nobody() {
    let mut host = Host::without_hashes(1);
    let (first, _) = host.seed();
    host.learn(first, &[0], 1);
    let asked = host.asked(first);
    assert!(host.deliver(first, asked[0]));
    host.hear(first, Message::Choke);
    let (second, _) = host.seed();
    host.learn(second, &[0], 1);
    assert!(host.deliver(second, asked[1]));
    let (liar, _) = host.seed();
    host.learn(liar, &[0], 2);
    host.corrupt(0, [1, 9]);
    let asked = host.asked(liar);
    host.deliver_all(liar, &asked);
    assert!(host.verifies(host.piece(0), Some(Sha1Hash([2; 20]))), "no proof is wanted");
}

#[test]
fn what_a_banned_peer_sent_is_not_held_against_those_who_bring_the_rest() {
    let mut host = Host::new(4, 1);
    let (liar, asked) = host.seed();
    // One piece of it is whole, one is begun.
    let (whole, begun, mut mixed) = (&asked[..2], &asked[2..], Vec::new());
    for block in [whole[0], whole[1], begun[0]] {
        assert!(host.deliver(liar, block));
        mixed.extend(host.asked(liar));
    }
    // A third is of two senders and with the disk when it turns out that one of them lies.
    assert_eq!(mixed.len(), 2, "{asked:?}, {mixed:?}");
    assert!(host.deliver(liar, mixed[0]));
    host.hear(liar, Message::Choke);
    let (honest, rest) = host.seed();
    assert!(rest.contains(&mixed[1]), "{rest:?}");
    assert!(host.deliver(honest, mixed[1]));
    host.corrupt(whole[0].piece, [1, 1]);
    assert!(host.did(&Action::Discard { piece: host.piece(begun[0].piece) }));
    assert!(host.did(&Action::Send { link: honest, message: Message::Cancel(begun[1]) }));
    host.corrupt(mixed[0].piece, [0, 1]);
    assert!(!host.swarm.links[&honest].suspected);
}
