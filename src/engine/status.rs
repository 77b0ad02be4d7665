//! What the status page shows of the engine.

use std::net::SocketAddr;

use crate::base::hash::Sha1Hash;

/// The engine as it is at one moment.
#[derive(Clone, Debug, Default)]
pub struct EngineStatus {
    /// Blobs that are announced as whole; most of them have no link and cost nothing.
    pub seeds: usize,
    /// The swarms that we fetch from or that have links.
    pub swarms: Vec<SwarmStatus>,
    /// The tracker, if there is one.
    pub tracker: Option<TrackerStatus>,
}

/// One swarm with links, or one that we fetch from.
#[derive(Clone, Debug)]
pub struct SwarmStatus {
    /// Which.
    pub info_hash: Sha1Hash,
    /// The name in its metainfo.
    pub name: String,
    /// Length of the blob in bytes.
    pub blob_len: u64,
    /// Pieces on our disk.
    pub pieces_have: u32,
    /// Pieces in all.
    pub piece_count: u32,
    /// Its links.
    pub links: Vec<LinkStatus>,
}

/// One connected peer.
#[derive(Clone, Debug)]
pub struct LinkStatus {
    /// The other end of the connection.
    pub address: SocketAddr,
    /// What the peer says it is.
    pub client: String,
    /// Whether the peer called us.
    pub incoming: bool,
    /// Bytes of blocks that came from it.
    pub bytes_down: u64,
    /// Bytes of blocks that it was granted.
    pub bytes_up: u64,
}

/// How it stands with the tracker.
#[derive(Clone, Debug)]
pub struct TrackerStatus {
    /// Its address.
    pub url: String,
    /// What went wrong at the last announce; `None`: it answered.
    pub failing: Option<String>,
    /// Announces that are due and wait.
    pub waiting: usize,
}
