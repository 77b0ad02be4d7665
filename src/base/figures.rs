//! Every metric of the program, in one table. That of `docs/reference.md` is held against it by a
//! test.

use crate::base::metrics::{Counter, Gauge, Metric, Series};

/// Defines the statics and the table in one place, so that no metric is counted but not shown.
macro_rules! figures {
    ($($name:literal, $help:literal: { $($kind:ident $ident:ident $labels:literal),+ $(,)? })+) => {
        $($(
            #[doc = concat!("`", $name, "{", $labels, "}`: ", $help)]
            pub static $ident: $kind = $kind::new();
        )+)+

        /// All metrics, in the order in which they are shown.
        pub const ALL: &[Metric] = &[
            $(Metric {
                name: $name,
                help: $help,
                series: &[$(Series::$kind($labels, &$ident)),+],
            }),+
        ];
    };
}

figures! {
    "torrent_cache_blob_bytes_total", "Bytes of blobs and files received, by source.": {
        Counter BYTES_FROM_UPSTREAM "source=\"upstream\"",
        Counter BYTES_FROM_PEERS "source=\"peer\"",
    }
    "torrent_cache_sent_bytes_total", "Bytes of blobs and files sent, by who asked.": {
        Counter BYTES_TO_CLIENTS "to=\"client\"",
        Counter BYTES_TO_PEERS "to=\"peer\"",
    }
    "torrent_cache_blob_requests_total", "Requests for blobs, by how each was answered.": {
        Counter REQUESTS_HIT "outcome=\"hit\"",
        Counter REQUESTS_SWARM "outcome=\"swarm\"",
        Counter REQUESTS_UPSTREAM "outcome=\"upstream\"",
        Counter REQUESTS_DENIED "outcome=\"denied\"",
        Counter REQUESTS_FAILED "outcome=\"failed\"",
    }
    "torrent_cache_manifest_requests_total", "Requests for manifests, by how each was answered.": {
        Counter MANIFESTS_HIT "outcome=\"hit\"",
        Counter MANIFESTS_SWARM "outcome=\"swarm\"",
        Counter MANIFESTS_UPSTREAM "outcome=\"upstream\"",
        Counter MANIFESTS_STALE "outcome=\"stale\"",
        Counter MANIFESTS_FAILED "outcome=\"failed\"",
    }
    "torrent_cache_cut_responses_total", "Answered requests for blobs whose response was cut.": {
        Counter REQUESTS_CUT ""
    }
    "torrent_cache_deltas_total", "Static deltas of OSTree that were fetched, by outcome.": {
        Counter DELTAS_DONE "outcome=\"done\"",
        Counter DELTAS_FAILED "outcome=\"failed\"",
    }
    "torrent_cache_delta_bytes_total", "Bytes of these deltas, by source; counted at the end.": {
        Counter DELTA_BYTES_FROM_UPSTREAM "source=\"upstream\"",
        Counter DELTA_BYTES_FROM_PEERS "source=\"peer\"",
    }
    "torrent_cache_file_requests_total", "Requests for files, by how they were answered.": {
        Counter FILES_HIT "outcome=\"hit\"",
        Counter FILES_REVALIDATED "outcome=\"revalidated\"",
        Counter FILES_SWARM "outcome=\"swarm\"",
        Counter FILES_UPSTREAM "outcome=\"upstream\"",
        Counter FILES_STALE "outcome=\"stale\"",
        Counter FILES_DENIED "outcome=\"denied\"",
        Counter FILES_FAILED "outcome=\"failed\"",
    }
    "torrent_cache_objects_total", "Large objects of OSTree, by what was done with them.": {
        Counter OBJECTS_SHARED "outcome=\"shared\"",
        Counter OBJECTS_WRONG "outcome=\"wrong\"",
    }
    "torrent_cache_relayed_requests_total", "Requests relayed and tunnels, by how they ended.": {
        Counter RELAYED_OK "outcome=\"ok\"",
        Counter RELAYED_FAILED "outcome=\"failed\"",
    }
    "torrent_cache_http_connections", "Open HTTP connections.": { Gauge HTTP_CONNECTIONS "" }
    "torrent_cache_http_workers", "Worker threads, by what they do.": {
        Gauge HTTP_WORKERS_BUSY "state=\"busy\"",
        Gauge HTTP_WORKERS_IDLE "state=\"idle\"",
    }
    "torrent_cache_http_refused_total", "Connections and requests refused, by reason.": {
        Counter HTTP_REFUSED_FULL "reason=\"full\"",
        Counter HTTP_REFUSED_MALFORMED "reason=\"malformed\"",
        Counter HTTP_REFUSED_SLOW "reason=\"slow\"",
    }
    "torrent_cache_jobs", "Blobs being fetched now.": { Gauge JOBS "" }
    "torrent_cache_store_bytes", "Bytes of whole blobs in the store.": { Gauge STORE_BYTES "" }
    "torrent_cache_store_blobs", "Whole blobs in the store.": { Gauge STORE_BLOBS "" }
    "torrent_cache_store_unsynced_blobs", "Those of them that a loss of power would take.": {
        Gauge STORE_UNSYNCED ""
    }
    "torrent_cache_store_evicted_total", "Blobs removed to make room.": { Counter STORE_EVICTED "" }
    "torrent_cache_store_errors_total", "Failed reads and writes of the store.": {
        Counter STORE_ERRORS ""
    }
    "torrent_cache_store_refused_total", "Blobs passed on but not kept: no room, or a bad disk.": {
        Counter STORE_REFUSED ""
    }
    "torrent_cache_files", "Files that are kept by URL.": { Gauge FILES "" }
    "torrent_cache_files_bytes", "Their bytes on disk.": { Gauge FILES_BYTES "" }
    "torrent_cache_files_dropped_total", "Files that were dropped, by reason.": {
        Counter FILES_EVICTED "reason=\"room\"",
        Counter FILES_DAMAGED "reason=\"damaged\"",
    }
    "torrent_cache_unpacked_objects_total", "Objects taken out of parts of static deltas.": {
        Counter OBJECTS_UNPACKED ""
    }
    "torrent_cache_unpacked_parts_total", "Parts to be unpacked for objects, by how it ended.": {
        Counter PARTS_UNPACKED "outcome=\"done\"",
        Counter PARTS_LATE "outcome=\"late\"",
        Counter PARTS_FAILED "outcome=\"failed\"",
    }
    "torrent_cache_digest_mismatches_total", "Bodies whose digest was wrong, by who sent them.": {
        Counter MISMATCHES_UPSTREAM "source=\"upstream\"",
        Counter MISMATCHES_PEER "source=\"peer\"",
    }
    "torrent_cache_swarms", "Torrents, by what is done with them.": {
        Gauge SWARMS_SEEDING "state=\"seeding\"",
        Gauge SWARMS_LEECHING "state=\"leeching\"",
    }
    "torrent_cache_peers", "Connected peers.": { Gauge PEERS "" }
    "torrent_cache_peers_banned_total", "Peers banned for sending wrong data.": {
        Counter PEERS_BANNED ""
    }
    "torrent_cache_peer_errors_total", "Links ended by an error, by whose it was.": {
        Counter LINKS_FAILED_THEIRS "blame=\"peer\"",
        Counter LINKS_FAILED_OURS "blame=\"local\"",
    }
    "torrent_cache_duplicate_bytes_total", "Bytes of blocks received that were not needed.": {
        Counter DUPLICATE_BYTES ""
    }
    "torrent_cache_announces_total", "Announces to the tracker, by outcome.": {
        Counter ANNOUNCES_OK "outcome=\"ok\"",
        Counter ANNOUNCES_FAILED "outcome=\"failed\"",
    }
    "torrent_cache_catalog_requests_total", "Calls to etcd, by outcome.": {
        Counter CATALOG_HIT "outcome=\"hit\"",
        Counter CATALOG_MISS "outcome=\"miss\"",
        Counter CATALOG_PUBLISHED "outcome=\"published\"",
        Counter CATALOG_FAILED "outcome=\"failed\"",
    }
    "torrent_cache_claims_total", "Blobs that nobody had yet, by which host brings them.": {
        Counter CLAIMS_OURS "leader=\"this\"",
        Counter CLAIMS_OTHERS "leader=\"other\"",
        Counter CLAIMS_TAKEN_OVER "leader=\"successor\"",
    }
    "torrent_cache_upstream_requests_total", "Requests to upstreams, by outcome.": {
        Counter UPSTREAM_OK "outcome=\"ok\"",
        Counter UPSTREAM_STATUS "outcome=\"status\"",
        Counter UPSTREAM_FAILED "outcome=\"failed\"",
    }
    "torrent_cache_queue_depth", "Items waiting, by queue.": {
        Gauge QUEUE_ENGINE "queue=\"engine\"",
        Gauge QUEUE_DISK "queue=\"disk\"",
        Gauge QUEUE_PUBLISH "queue=\"publish\"",
        Gauge QUEUE_ANNOUNCE "queue=\"announce\"",
    }
    "torrent_cache_tracker_peers", "Peers that the tracker knows.": { Gauge TRACKER_PEERS "" }
    "torrent_cache_tracker_swarms", "Swarms that the tracker knows.": { Gauge TRACKER_SWARMS "" }
    "torrent_cache_tracker_requests_total", "Tracker requests, by protocol.": {
        Counter TRACKER_HTTP "protocol=\"http\"",
        Counter TRACKER_UDP "protocol=\"udp\"",
    }
    "torrent_cache_tracker_refused_total", "Tracker requests refused.": {
        Counter TRACKER_REFUSED ""
    }
    "torrent_cache_etcd_restarts_total", "Times that the tracker started etcd again.": {
        Counter ETCD_RESTARTS ""
    }
    "torrent_cache_threads", "Threads of the process.": { Gauge THREADS "" }
    "torrent_cache_thread_panics_total", "Panics of connection threads.": {
        Counter THREAD_PANICS ""
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn names_are_unique_and_follow_the_conventions() {
        let mut names = BTreeSet::new();
        for metric in ALL {
            assert!(names.insert(metric.name), "{} stands twice", metric.name);
            assert!(metric.name.starts_with("torrent_cache_"));
            let counts = metric.series.iter().all(|s| matches!(s, Series::Counter(..)));
            let gauges = metric.series.iter().all(|s| matches!(s, Series::Gauge(..)));
            assert!(counts || gauges, "{} mixes kinds", metric.name);
            assert_eq!(counts, metric.name.ends_with("_total"), "{}", metric.name);
            assert!(metric.help.ends_with('.'));
        }
    }
}
