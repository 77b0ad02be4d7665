//! Which addresses are called, and when again.

use super::*;

#[test]
fn we_are_no_link_of_our_own() {
    let mut host = Host::new(4, 0);
    let address = SocketAddr::from(([10, 0, 0, 7], 6881));
    let addresses = vec![address];
    host.input(Input::Candidates { addresses: addresses.clone(), source: Source::Tracker });
    assert!(host.did(&Action::Dial { address }));
    let (link, peer_id) = (LinkId(1), PeerId([5; 20]));
    let up = Input::LinkUp { link, address, peer_id, incoming: false, fast: true, ours: true };
    host.input(up);
    assert_eq!(host.closed(link), Some(CloseReason::Ourselves));
    host.input(Input::Candidates { addresses, source: Source::Tracker });
    assert!(!host.did(&Action::Dial { address }));
}

/// Whoever calls a host is told its id, and could have the host's links with all others closed.
#[test]
fn an_id_at_another_address_is_another_peer() {
    for us in [PeerId([1; 20]), PeerId([9; 20])] {
        for dialled_first in [true, false] {
            let mut host = Host::with(4, 0, |config| config.peer_id = us);
            let mut up = |number: u8, ip: u8, incoming| {
                let address = SocketAddr::from(([10, 0, 0, ip], 6881));
                let (link, peer_id) = (LinkId(number.into()), PeerId([5; 20]));
                let (fast, ours) = (true, true);
                host.input(Input::LinkUp { link, address, peer_id, incoming, fast, ours });
                [1, 2, 3].map(|number| host.closed(LinkId(number)))
            };
            assert_eq!(up(1, 1, !dialled_first), [None; 3]);
            assert_eq!(up(2, 2, dialled_first), [None; 3]);
            assert_eq!(up(3, 2, dialled_first), [None, None, Some(CloseReason::Duplicate)]);
        }
    }
}

/// A host that has left the swarm and is back finds its first link still there.
#[test]
fn a_peer_that_turns_us_away_is_called_again_at_once_and_then_later() {
    let mut host = Host::new(2, 0);
    let address = SocketAddr::from(([10, 0, 0, 9], 6881));
    host.input(Input::Candidates { addresses: vec![address], source: Source::Tracker });
    assert!(host.did(&Action::Dial { address }));
    for (number, wait) in [250, 5000, 10_000].into_iter().enumerate() {
        let link = LinkId(900 + number as u64);
        let (peer_id, incoming, fast, ours) = (PeerId([9; 20]), false, true, true);
        host.input(Input::LinkUp { link, address, peer_id, incoming, fast, ours });
        host.input(Input::LinkDown { link });
        host.pass(Duration::from_millis(wait - 1));
        assert!(!host.did(&Action::Dial { address }), "{wait} ms");
        host.pass(Duration::from_millis(1));
        assert!(host.did(&Action::Dial { address }), "{wait} ms");
    }
}
