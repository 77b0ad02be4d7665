//! What announce and scrape say, whatever carries them: [`crate::proto::tracker_http`] and
//! [`crate::proto::tracker_udp`] read and write it. Also the compact form of peers' addresses,
//! which both use (BEP 15, 23, 7).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use crate::base::hash::Sha1Hash;
use crate::limits::TRACKER_PEERS_MAX;
use crate::proto::peer::PeerId;

/// Why a client announces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AnnounceEvent {
    /// It is time again.
    #[default]
    None,
    /// It joined the swarm.
    Started,
    /// It leaves the swarm.
    Stopped,
    /// It has all pieces now and had not at the start.
    Completed,
}

/// A client tells a tracker about itself and asks for peers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnnounceRequest {
    /// Which swarm.
    pub info_hash: Sha1Hash,
    /// Who the client says it is.
    pub peer_id: PeerId,
    /// Where it takes connections; 0: nowhere, it is not to be given to others.
    pub port: u16,
    /// Bytes sent to peers since it started.
    pub uploaded: u64,
    /// Bytes taken from peers since it started.
    pub downloaded: u64,
    /// Bytes that it lacks; 0: it has all. [`u64::MAX`] where it does not say.
    pub left: u64,
    /// Why it announces.
    pub event: AnnounceEvent,
    /// How many peers it wants at most; without it the tracker decides.
    pub numwant: Option<u32>,
    /// A number that proves to the tracker, after a change of address, that it is the same client.
    pub key: Option<u32>,
    /// The address to give to others, where it is not the one that the tracker sees. It is a claim.
    /// UDP carries IPv4 alone.
    pub ip: Option<IpAddr>,
    /// What the tracker gave as [`AnnounceResponse::tracker_id`]. UDP does not carry it.
    pub tracker_id: Option<Vec<u8>>,
}

/// A tracker's answer to an [`AnnounceRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AnnounceResponse {
    /// How long the client is to wait until it announces again; whole seconds.
    pub interval: Duration,
    /// How long it must wait at least; whole seconds. UDP does not carry it.
    pub min_interval: Option<Duration>,
    /// Members that have all pieces.
    pub seeders: u32,
    /// Members that lack some.
    pub leechers: u32,
    /// What the client is to send back with the next request. UDP does not carry it.
    pub tracker_id: Option<Vec<u8>>,
    /// Addresses of members, at most [`TRACKER_PEERS_MAX`] when decoded. None has port 0.
    pub peers: Vec<SocketAddr>,
}

/// A client asks what a tracker counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrapeRequest {
    /// Of which swarms, at most [`crate::limits::TRACKER_SCRAPE_MAX`] when decoded.
    pub info_hashes: Vec<Sha1Hash>,
}

/// A tracker's answer to a [`ScrapeRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScrapeResponse {
    /// The swarms that the tracker knows, at most [`crate::limits::TRACKER_SCRAPE_MAX`] when
    /// decoded.
    pub swarms: BTreeMap<Sha1Hash, ScrapeCounts>,
}

/// What a tracker counts of one swarm.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScrapeCounts {
    /// Members that have all pieces.
    pub seeders: u32,
    /// How often a member said [`AnnounceEvent::Completed`].
    pub completed: u32,
    /// Members that lack some.
    pub leechers: u32,
}

/// Length of a compact IPv4 peer.
pub(super) const PEER_V4_LEN: usize = 6;
/// Length of a compact IPv6 peer.
pub(super) const PEER_V6_LEN: usize = 18;

/// Appends the IPv4 addresses of `peers` in compact form (BEP 23).
pub(super) fn put_peers_v4(out: &mut Vec<u8>, peers: &[SocketAddr]) {
    for peer in peers {
        if let SocketAddr::V4(peer) = peer {
            out.extend_from_slice(&peer.ip().octets());
            out.extend_from_slice(&peer.port().to_be_bytes());
        }
    }
}

/// Appends the IPv6 addresses of `peers` in compact form (BEP 7).
pub(super) fn put_peers_v6(out: &mut Vec<u8>, peers: &[SocketAddr]) {
    for peer in peers {
        if let SocketAddr::V6(peer) = peer {
            out.extend_from_slice(&peer.ip().octets());
            out.extend_from_slice(&peer.port().to_be_bytes());
        }
    }
}

/// Adds the peers that `bytes` names in compact IPv4 form. A rest that is no whole peer is ignored,
/// as other clients do.
pub(super) fn take_peers_v4(bytes: &[u8], peers: &mut Vec<SocketAddr>) {
    let (entries, _) = bytes.as_chunks::<PEER_V4_LEN>();
    for [a, b, c, d, high, low] in entries {
        let ip = Ipv4Addr::new(*a, *b, *c, *d);
        add_peer(peers, ip.into(), u16::from_be_bytes([*high, *low]));
    }
}

/// Adds the peers that `bytes` names in compact IPv6 form, as [`take_peers_v4`] does.
pub(super) fn take_peers_v6(bytes: &[u8], peers: &mut Vec<SocketAddr>) {
    let (entries, _) = bytes.as_chunks::<PEER_V6_LEN>();
    for entry in entries {
        let Some((ip, [high, low])) = entry.split_first_chunk::<16>() else { return };
        add_peer(peers, Ipv6Addr::from(*ip).into(), u16::from_be_bytes([*high, *low]));
    }
}

/// Adds a peer, unless nobody can be reached there or there are enough. An IPv4 address in an IPv6
/// one is added as what it is.
pub(super) fn add_peer(peers: &mut Vec<SocketAddr>, ip: IpAddr, port: u16) {
    let ip = ip.to_canonical();
    if port != 0 && !ip.is_unspecified() && peers.len() < TRACKER_PEERS_MAX {
        peers.push(SocketAddr::new(ip, port));
    }
}
