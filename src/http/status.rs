//! `/status.json`: what this host has, does and did lately, for people and scripts.

use serde_json::{Value, json};

use crate::base::figures;
use crate::catalog::CatalogStatus;
use crate::engine::{EngineStatus, SwarmStatus};
use crate::fetch::Transfer;
use crate::store::Usage;

/// What the page is made of.
#[derive(Clone, Debug)]
pub struct Status {
    /// The store.
    pub usage: Usage,
    /// The swarms.
    pub engine: EngineStatus,
    /// The port on which peers are served.
    pub peer_port: u16,
    /// How it stands with etcd.
    pub catalog: CatalogStatus,
    /// The latest transfers, newest first.
    pub transfers: Vec<Transfer>,
}

/// The body of the page.
#[must_use]
pub fn render(status: &Status) -> String {
    let tracker = status.engine.tracker.as_ref().map(|tracker| {
        json!({ "url": tracker.url, "failing": tracker.failing, "waiting": tracker.waiting })
    });
    let page = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "store": {
            "blobs": status.usage.blobs,
            "bytes": status.usage.bytes,
            "files": status.usage.files,
            "file_bytes": status.usage.file_bytes,
            "partial_bytes": status.usage.partial_bytes,
        },
        "deltas": {
            "done": figures::DELTAS_DONE.value(),
            "failed": figures::DELTAS_FAILED.value(),
            "upstream_bytes": figures::DELTA_BYTES_FROM_UPSTREAM.value(),
            "peer_bytes": figures::DELTA_BYTES_FROM_PEERS.value(),
        },
        "jobs": figures::JOBS.value(),
        "peer_port": status.peer_port,
        "seeds": status.engine.seeds,
        "swarms": status.engine.swarms.iter().map(swarm).collect::<Vec<Value>>(),
        "tracker": tracker,
        "catalog": {
            "reachable": status.catalog.unreachable.is_none(),
            "lookups_failing": status.catalog.lookups_failing,
            "publications_failing": status.catalog.publications_failing,
        },
        "transfers": status.transfers.iter().map(transfer).collect::<Vec<Value>>(),
    });
    format!("{page:#}\n")
}

fn swarm(swarm: &SwarmStatus) -> Value {
    let links = swarm.links.iter().map(|link| {
        json!({
            "address": link.address.to_string(),
            "client": link.client,
            "incoming": link.incoming,
            "bytes_down": link.bytes_down,
            "bytes_up": link.bytes_up,
        })
    });
    json!({
        "info_hash": swarm.info_hash.to_string(),
        "name": swarm.name,
        "bytes": swarm.blob_len,
        "pieces_have": swarm.pieces_have,
        "pieces": swarm.piece_count,
        "links": links.collect::<Vec<Value>>(),
    })
}

fn transfer(transfer: &Transfer) -> Value {
    let peers: serde_json::Map<String, Value> =
        transfer.peers.iter().map(|(peer, bytes)| (peer.to_string(), (*bytes).into())).collect();
    json!({
        "name": transfer.name.to_string(),
        "ended": transfer.ended_unix,
        "bytes": transfer.bytes,
        "ms": transfer.millis,
        "sources": { "upstream": transfer.upstream, "peers": peers },
        "failure": transfer.failure,
    })
}
