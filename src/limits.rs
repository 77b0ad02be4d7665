//! Every bound and every time budget, with its reason. The bound of a queue says what "full" means.
//!
//! Lengths are bytes unless the name says otherwise.

use std::time::Duration;

// Blobs and pieces.

/// The smallest piece length of our own metainfo. On slow lines most hosts are idle until the first
/// pieces have been passed on, which smaller ones are sooner; yet smaller ones gain nothing more.
pub const PIECE_LEN_MIN: u32 = 64 << 10;
/// From this length on, the number of pieces costs little beside their bytes.
pub const PIECE_LEN_CHEAP: u32 = 256 << 10;
/// Shorter pieces than [`PIECE_LEN_CHEAP`] are no more than this: with so many, hosts are idle for
/// a twentieth of the time, and each piece is a job of the disk and a message to each peer.
pub const PIECES_CHEAP_MAX: u32 = 512;
/// The most pieces up to [`PIECE_LEN_USUAL_MAX`].
pub const PIECES_USUAL_MAX: u32 = 2048;
/// The largest piece length of our own metainfo, unless that would make more than [`PIECES_MAX`]:
/// a host can pass on only whole pieces, so they stay small.
pub const PIECE_LEN_USUAL_MAX: u32 = 4 << 20;
/// The largest piece length at all: a piece in flight is held in memory.
pub const PIECE_LEN_MAX: u32 = 64 << 20;
/// The most pieces of a blob: its `.torrent` must fit one etcd put.
pub const PIECES_MAX: u32 = 32_768;
/// The largest blob: [`PIECES_MAX`] pieces of [`PIECE_LEN_MAX`], 2 TiB.
pub const BLOB_LEN_MAX: u64 = PIECES_MAX as u64 * PIECE_LEN_MAX as u64;
/// The most parts of a static delta. libostree fills each with 32 MiB by default: 62 GiB.
pub const DELTA_PARTS_MAX: usize = 2000;
/// The largest `.torrent` that is read: 20 bytes for each of [`PIECES_MAX`] pieces, 48 for each
/// file of a delta, and the rest.
pub const TORRENT_LEN_MAX: usize =
    PIECES_MAX as usize * 20 + (DELTA_PARTS_MAX + 1) * 48 + (16 << 10);
/// The largest request that etcd takes by default (`--max-request-bytes`).
pub const ETCD_REQUEST_LEN_MAX: usize = 1536 << 10;
const _: () = assert!(
    2 * TORRENT_LEN_MAX + 1024 < ETCD_REQUEST_LEN_MAX,
    "the .torrent of the largest blob fits one transaction, which holds it twice"
);

/// How many of a blob's last bytes leave only after its digest was found right. Any number above
/// zero keeps the promise; one write's worth costs nothing.
pub const HELD_BACK_LEN: u64 = 64 << 10;

/// The longest superblock: libostree takes none that is longer (`OSTREE_MAX_METADATA_SIZE`).
pub const SUPERBLOCK_LEN_MAX: u64 = 128 << 20;
/// What all superblocks may take in memory that are on their way to the disk: two of the longest,
/// thousands of the usual. A vector that grows may have twice as much. When full, the next are
/// relayed, and their deltas not shared.
pub const SUPERBLOCKS_BYTES_MAX: u64 = 2 * SUPERBLOCK_LEN_MAX;
/// The most that a part of a delta is unpacked to: it is done in memory. libostree fills a part
/// with 32 MB by default.
pub const PART_UNPACKED_LEN_MAX: usize = 64 << 20;
/// The most memory that unpacking takes beside, in KiB: what `xz -9` asks for, and room. libostree
/// compresses with `-8`, half of it.
pub const PART_XZ_KIB_MAX: u32 = (64 << 10) + 1024;
/// The most static deltas that one index or summary may list; 100 bytes are kept of each.
pub const DELTAS_LISTED_MAX: usize = 65_536;

/// Blobs that are kept open when nobody holds them, for those who come next: opening one reads its
/// metainfo. When full, one that was not used for long is closed.
pub const OPEN_BLOBS_MAX: usize = 256;

/// How often it is looked whether anything is still fetched before whole blobs are synced: longer
/// than between two layers of a pull.
pub const SETTLE_LOOK: Duration = Duration::from_secs(1);
/// Whole blobs that wait to be synced, each with its descriptor; then whoever brings one waits.
pub const SETTLE_BLOBS_MAX: usize = 256;
/// The longest that a whole blob waits to be synced: as long as Linux lets written pages wait.
pub const SETTLE_AFTER: Duration = Duration::from_secs(30);

/// A client that is sent the same bytes twice within this time may have found them wrong. A kubelet
/// tries again after five minutes at most.
pub const RECHECK_WITHIN: Duration = Duration::from_secs(3600);
/// Parts of blobs of which it is remembered that they were sent; when full, all are forgotten.
pub const RECHECK_SENT_MAX: usize = 4096;
/// Blobs that wait to be hashed again; when full, the next is not.
pub const RECHECK_QUEUE_MAX: usize = 16;

// Time budgets (defaults).

/// How long the catalog may take to say whether it knows a blob.
pub const CATALOG_LOOKUP: Duration = Duration::from_millis(250);
/// How long the swarm may take to its first byte before the upstream is asked as well.
pub const SWARM_FIRST_BYTE: Duration = Duration::from_millis(500);
/// A source that makes no progress for this long is slow: another is added.
pub const NO_PROGRESS: Duration = Duration::from_secs(2);
/// Connecting to an upstream, TLS included.
pub const UPSTREAM_CONNECT: Duration = Duration::from_secs(5);
/// From a request to the head of the upstream's response.
pub const UPSTREAM_FIRST_BYTE: Duration = Duration::from_secs(30);
/// Between two reads of an upstream's body.
pub const UPSTREAM_READ: Duration = Duration::from_secs(30);
/// From the first byte of a request to the end of its head.
pub const HTTP_HEAD: Duration = Duration::from_secs(10);
/// A connection that has sent nothing for this long is closed.
pub const HTTP_IDLE: Duration = Duration::from_secs(60);
/// Between two reads of a request's body.
pub const HTTP_READ: Duration = Duration::from_secs(30);
/// How long a connection that was answered for the last time may go on sending: closed at once, the
/// answer could be lost.
pub const HTTP_LINGER: Duration = Duration::from_secs(2);
/// How much it may send in that time: what was on its way when the answer left, which is no more
/// than the kernels' buffers hold, 6 MiB on either side.
pub const HTTP_LINGER_LEN_MAX: usize = 16 << 20;
/// A tunnel in which nothing moved for this long is closed.
pub const HTTP_TUNNEL_IDLE: Duration = Duration::from_secs(600);
/// A tunnel in which nothing moved for this long is not waited for by a stop.
pub const HTTP_TUNNEL_QUIET: Duration = Duration::from_millis(500);
/// A client that takes no byte of its response for this long is gone. Long, because a runtime that
/// unpacks a layer reads in bursts.
pub const HTTP_WRITE: Duration = Duration::from_secs(300);
/// From the signal to the end of the process.
pub const STOP: Duration = Duration::from_secs(10);

/// One question of `torrent-cache health`: shorter than the time-outs of those who run it.
pub const HEALTH_CALL: Duration = Duration::from_secs(5);
/// How much is read of the answer: a line that says why.
pub const HEALTH_ANSWER_LEN_MAX: u64 = 4 << 10;

/// Telling the service manager something; it reads at once or is broken.
pub const NOTIFY: Duration = Duration::from_secs(1);

// HTTP.

/// The longest head of a request: docker sends 1 KiB, tokens of cloud registries reach 12 KiB.
pub const HTTP_HEAD_LEN_MAX: usize = 64 << 10;
/// The most header lines of a request.
pub const HTTP_HEADERS_MAX: usize = 100;
/// Open connections of one server; when full, the one idle longest is closed, or the new one if
/// none is.
pub const HTTP_CONNECTIONS_MAX: usize = 16_384;
/// Open connections of one client address. Many hosts may stand behind one.
pub const HTTP_CONNECTIONS_PER_ADDRESS_MAX: usize = 1024;
/// Workers of one server: requests served at once; when all are busy, readable connections wait.
/// One client address has at most as many as it leaves free, so half of them: slow readers of one
/// host leave workers for the others.
pub const HTTP_WORKERS_MAX: usize = 256;
/// What a handler left of a request's body is read up to this length to keep the connection; beyond
/// it, closing costs less.
pub const HTTP_DRAIN_LEN_MAX: u64 = 64 << 10;
/// How long a worker without work stays.
pub const HTTP_WORKER_IDLE: Duration = Duration::from_secs(30);
/// How long the worker that waits for requests may be busy with some before another waits in its
/// place: a cached blob of a few KiB takes a fiftieth of that.
pub const HTTP_WATCH_KEPT: Duration = Duration::from_millis(1);
/// One read or write of a body that passes through memory.
pub const COPY_LEN: usize = 256 << 10;

// Peers.

/// The lowest `UPLOAD_MAX` and `DOWNLOAD_MAX`, bytes per second: one block of BEP 3.
pub const RATE_MIN: u64 = 16 << 10;
/// Under such a limit, the least that goes at once: less costs more calls than it smooths.
pub const RATE_PART_LEN_MIN: usize = 4 << 10;
/// The most: links take turns, and each turn is over in milliseconds.
pub const RATE_PART_LEN_MAX: usize = 64 << 10;
/// The block of BEP 3 that every client accepts.
pub const BLOCK_LEN: u32 = 16 << 10;
/// The largest block that is sent or taken: 128 KiB is what foreign clients ask at most, our own
/// more.
pub const BLOCK_LEN_MAX: u32 = 1 << 20;
/// The longest message that is no block: a bitfield of [`PIECES_MAX`] pieces is 4 KiB, an extension
/// message with 200 peers 6 KiB, one with a part of a `.torrent` 16 KiB (BEP 9). Each link may hold
/// one that has not come whole.
pub const PEER_MESSAGE_LEN_MAX: u32 = 32 << 10;
const _: () = assert!(PEER_MESSAGE_LEN_MAX > PIECES_MAX / 8);
/// A link over which nothing came for this long is closed (BEP 3 sends keep-alives every 2
/// minutes).
pub const PEER_IDLE: Duration = Duration::from_secs(150);
/// From the connection to the end of the handshake.
pub const PEER_HANDSHAKE: Duration = Duration::from_secs(5);
/// Links of one swarm.
pub const LINKS_PER_SWARM_MAX: usize = 50;
/// Links of the process.
pub const LINKS_MAX: usize = 500;
/// Links with one address, on which many hosts may stand: it leaves as many for the others.
pub const LINKS_PER_ADDRESS_MAX: usize = LINKS_MAX / 2;
/// Requests of one peer that wait for us (`reqq` of BEP 10); when full, the peer is not read until
/// one is answered. Some clients ask for thousands at once, whatever they are told.
pub const PEER_REQUESTS_MAX: usize = 500;
/// Addresses remembered for one swarm; when full, new ones are dropped.
pub const CANDIDATES_MAX: usize = 400;
/// Events waiting for the engine; when full, the reader threads wait and TCP holds the peers back.
pub const ENGINE_INBOX_MAX: usize = 1024;
/// Bytes of blocks among them; when full, the readers wait as well. A reader that waits holds one
/// block more. Of blocks of 16 KiB that is as many as there are events.
pub const INBOX_BYTES_MAX: u64 = 16 << 20;
const _: () = assert!(INBOX_BYTES_MAX >= ENGINE_INBOX_MAX as u64 * BLOCK_LEN as u64);
const _: () = assert!(INBOX_BYTES_MAX > BLOCK_LEN_MAX as u64);
/// Messages waiting for one link's writer: all answers, and as many messages of our own. When full,
/// the peer does not read and the link is closed.
pub const WRITER_QUEUE_MAX: usize = 2 * PEER_REQUESTS_MAX;
/// Bytes of pieces that are in flight, collected or waiting to be written; when full, no block is
/// asked for.
pub const PIECE_BYTES_IN_FLIGHT_MAX: u64 = 256 << 20;
const _: () = assert!(PIECE_BYTES_IN_FLIGHT_MAX >= 2 * PIECE_LEN_MAX as u64);
/// Connecting to a peer: one nearby answers in milliseconds or not at all.
pub const PEER_CONNECT: Duration = Duration::from_secs(3);
/// A peer that takes no byte for this long is gone.
pub const PEER_WRITE: Duration = Duration::from_secs(60);
/// A link on which we have nothing to say for this long gets a keep-alive (BEP 3).
pub const PEER_KEEP_ALIVE: Duration = Duration::from_secs(100);
const _: () = assert!(PEER_KEEP_ALIVE.as_secs() < PEER_IDLE.as_secs());
/// A thread of a link that has ended waits so long for another: links of small blobs follow each
/// other within milliseconds.
pub const LINK_THREAD_IDLE: Duration = Duration::from_secs(1);
/// Connections to peers that are being made, in either direction; when full, callers are turned
/// away and candidates wait.
pub const HANDSHAKES_MAX: usize = 128;
/// Of these, callers from one address: one that calls and says nothing leaves room for the others.
/// A handshake takes milliseconds; who is turned away calls again.
pub const HANDSHAKES_PER_ADDRESS_MAX: usize = HANDSHAKES_MAX / 4;
/// Connections that we make with one address at once: it may learn later than we that one is made,
/// and is not to turn the next away.
pub const CALLS_PER_ADDRESS_MAX: usize = HANDSHAKES_PER_ADDRESS_MAX / 4;
/// Calls to peers that wait until others are made; when full, the next count as failed and are made
/// again later. Each of [`JOBS_MAX`] swarms has at most 16.
pub const CALLS_WAITING_MAX: usize = 16 * JOBS_MAX;
/// Bytes of blocks that a link may bring unasked, beside those that were asked for and taken back:
/// no client does so, but one may be at odds with us about a few. Then it is closed.
pub const LINK_BYTES_UNASKED_MAX: u64 = 4 * BLOCK_LEN_MAX as u64;
const _: () = assert!(LINK_BYTES_UNASKED_MAX < PIECE_BYTES_IN_FLIGHT_MAX);
/// Idle memory of buffers for blocks; more is given back to the system.
pub const POOL_BYTES_MAX: usize = 32 << 20;
/// Banned peers that are remembered; when full, the oldest is forgotten.
pub const BANNED_MAX: usize = 1000;
/// Threads that hash and write pieces.
pub const DISK_THREADS: usize = 2;
/// Jobs waiting for a disk thread; when full, they wait with the engine. Pieces are bounded by
/// [`PIECE_BYTES_IN_FLIGHT_MAX`].
pub const DISK_QUEUE_MAX: usize = 64;

// Trackers.

/// Threads that announce. The first is for swarms that fetch alone.
pub const ANNOUNCE_THREADS: usize = 4;
/// One announce, whatever the tracker does.
pub const ANNOUNCE_CALL: Duration = Duration::from_secs(5);
/// Between two announces of whole blobs: 10,000 take 100 seconds.
pub const ANNOUNCE_PACE: Duration = Duration::from_millis(10);
/// Blobs that are new to the network and not announced yet; one beyond waits for its turn like
/// those of earlier runs, and the catalog is told of it at once.
pub const INTRODUCTIONS_MAX: usize = 1024;
/// The wait after the first announce that failed; it doubles with each in a row.
pub const ANNOUNCE_BACK_OFF: Duration = Duration::from_secs(5);
/// The longest wait after an announce that failed.
pub const ANNOUNCE_BACK_OFF_MAX: Duration = Duration::from_secs(300);
/// Nobody is asked more often than this, whatever it says.
pub const ANNOUNCE_INTERVAL_MIN: Duration = Duration::from_secs(5);
/// A tracker that restarted has forgotten us: it is told again after this long at the latest.
pub const ANNOUNCE_INTERVAL_MAX: Duration = Duration::from_secs(1800);

/// Threads that answer over UDP, each with a socket of its own: as many as there are cores, up to
/// this. One answers some 100,000 announces per second.
pub const TRACKER_UDP_THREADS_MAX: usize = 8;
/// What the kernel is asked to keep of datagrams that wait; it gives less where the system's own
/// limit is lower. A fleet that starts at once sends thousands within a millisecond.
pub const UDP_RECEIVE_BUFFER: usize = 1 << 20;
/// Peers of one answer, given or taken; more are dropped. libtorrent asks for 200.
pub const TRACKER_PEERS_MAX: usize = 200;
/// Swarms of one scrape; more are not answered. The bound of BEP 15: so many fit one datagram.
pub const TRACKER_SCRAPE_MAX: usize = 74;
/// The longest answer of an HTTP tracker that is read: [`TRACKER_PEERS_MAX`] peers in dictionaries
/// are 20 KB, but a tracker may send more than were asked for.
pub const TRACKER_ANSWER_LEN_MAX: usize = 256 << 10;
/// Peers that the tracker remembers, 12 bytes for each with IPv4 and 24 with IPv6: 1,000 hosts with
/// 4,000 blobs each. When full, a new one is answered but not remembered.
pub const REGISTRY_PEERS_MAX: usize = 4 << 20;
/// Swarms that the tracker remembers; when full, the first peer of a new one is not remembered.
pub const REGISTRY_SWARMS_MAX: usize = 256 << 10;
/// Peers of one swarm and address family: a new one moves half of the others in memory, which must
/// stay a matter of microseconds. When full, a new one is answered but not remembered.
pub const REGISTRY_SWARM_PEERS_MAX: usize = 16 << 10;
/// Peers that are looked at, to forget those who did not come back, while announces wait: tens of
/// microseconds, at most [`REGISTRY_SWARM_PEERS_MAX`] peers moved in memory included.
pub const REGISTRY_SWEEP_PEERS: usize = 2048;
/// All peers are looked at about as often.
pub const REGISTRY_SWEEP: Duration = Duration::from_secs(30);
/// Peers in an answer when the asker does not say how many it wants (BEP 3).
pub const TRACKER_NUMWANT: usize = 50;
/// Announces per second that the intervals aim at when there are many peers.
pub const TRACKER_ANNOUNCES_PER_SECOND: u64 = 1000;
/// The interval of a leecher when there are few: a blob is spread in seconds to minutes, and who
/// came first must hear of who came later.
pub const TRACKER_LEECHER_INTERVAL: Duration = Duration::from_secs(30);
/// The longest interval of a leecher.
pub const TRACKER_LEECHER_INTERVAL_MAX: Duration = Duration::from_secs(300);
/// The interval of a seeder when there are few.
pub const TRACKER_SEEDER_INTERVAL: Duration = Duration::from_secs(300);
/// The longest interval of a seeder; after a restart of the tracker it takes as long until all are
/// known again.
pub const TRACKER_SEEDER_INTERVAL_MAX: Duration = Duration::from_secs(1800);

// Fetching.

/// A stream from upstream that brings nothing for this long is left and another started. Longer
/// than [`NO_PROGRESS`]: a second connection to a registry is not free, and may be as slow. Who
/// waits for the first byte of another's question asks by itself after as long.
pub const FILL_STALLED: Duration = Duration::from_secs(8);
/// Streams of one blob from upstream at once, if readers wait far apart in it: containerd asks for
/// three parts of a layer at once if nobody tells it otherwise.
pub const FILL_STREAMS: usize = 4;
/// Who waits for a byte so far behind the one that comes next gets a stream of its own: what comes
/// on a fast line while a connection is made, and in a few seconds on a slow one.
pub const FILL_FAR: u64 = 2 << 20;
/// Attempts at upstream without one byte between them before it is given up.
pub const FILL_ATTEMPTS_MAX: u32 = 6;
/// How long a swarm may be silent when upstream is no help.
pub const SWARM_ALONE: Duration = Duration::from_secs(30);
/// A swarm slower than this (bytes per second) gets help when it is not known how fast upstream is.
pub const SWARM_RATE_MIN: u64 = 256 << 10;
/// How long a disk thread waits for what another writes of the same piece.
pub const DISK_PATIENCE: Duration = Duration::from_secs(30);
/// The shortest blob, in bytes, that is claimed when it begins to come from upstream. A shorter one
/// has come before others could profit.
pub const CLAIM_LEN_MIN: u64 = 1 << 20;
/// The longest manifest, in bytes, that is kept and shared; one of an image has a few thousand. A
/// longer one is relayed.
pub const MANIFEST_LEN_MAX: usize = 1 << 20;
/// Manifests of which it is remembered how long they are said to be: when full, all are forgotten.
pub const MANIFEST_LENS_MAX: usize = 4096;
/// How many bytes a byte of JSON may take when it is read: an object of one field takes a node of
/// 11, 630 bytes, and 7 of text.
pub const JSON_EXPANSION: u64 = 100;
const _: () = assert!(MANIFEST_LEN_MAX as u64 * JSON_EXPANSION <= FILES_IN_MEMORY_MAX);
/// How long no byte may come in an early swarm, beside the time of a piece.
pub const EARLY_PATIENCE: Duration = Duration::from_secs(2);
/// How fast (bytes per second) its host must get a piece for that: it shares a piece when it is
/// whole.
pub const EARLY_PIECE_RATE: u64 = 512 << 10;
/// How long a host follows no other after one of which it got nothing: it may not reach any. Each
/// further one in a row makes it twice as long.
pub const EARLY_PAUSE_MIN: Duration = Duration::from_secs(2);
/// The longest such pause.
pub const EARLY_PAUSE_MAX: Duration = Duration::from_secs(300);
/// An early swarm slower than this (bytes per second) is no help: a slow uplink gives more.
pub const EARLY_RATE_MIN: u64 = 16 << 10;
/// How many hosts in turn are waited for that took the claim of a silent one over.
pub const LEADERS_AWAITED: u32 = 2;
/// Early swarms whose blob is whole by now, and is given to whoever still asks for them; when full,
/// the oldest is forgotten.
pub const EARLY_SWARMS_KEPT: usize = 256;
/// Upstreams of which it is known how fast they are; when full, all are forgotten.
pub const UPSTREAM_RATES_MAX: usize = 256;
/// A closed range up to this long is passed through on a miss, without fetching the whole blob.
pub const DIRECT_RANGE_LEN_MAX: u64 = 8 << 20;
/// The first run of pieces that upstream takes beside a swarm; each further run is twice as long.
pub const FILL_RUN_LEN_MIN: u64 = 8 << 20;
/// The longest such run: then the swarm is looked at again.
pub const FILL_RUN_LEN_MAX: u64 = 64 << 20;
/// Blobs fetched at once; a request beyond is passed through without a trace.
pub const JOBS_MAX: usize = 128;
/// How long a reader waits for its next byte. The job ends long before: this is a second line.
pub const READER_PATIENCE: Duration = Duration::from_secs(600);
/// How readily a thread that nobody waits for gives way to others: beside one that is not nice, it
/// gets a tenth of a processor, which hashes more than a line of 1 Gbit/s brings.
pub const BACKGROUND_NICE: i32 = 10;
/// How long a yes of the upstream is good for one credential.
pub const GRANT: Duration = Duration::from_secs(300);
/// Grants remembered; when full, the oldest go.
pub const GRANTS_MAX: usize = 16_384;
/// Superblocks of which the digest was read in an index or a summary, 64 bytes for each; when full,
/// all are forgotten, and learnt again with the next index.
pub const DELTAS_LEARNT_MAX: usize = 2 * DELTAS_LISTED_MAX;
/// Static deltas whose files are remembered by URL, 4 KiB for one of 500 parts; when full, all are
/// forgotten, and a part's superblock is looked at again.
pub const DELTAS_SERVED_MAX: usize = 1024;
/// Static deltas that are passed on past the disk whose checksums are remembered, 64 KiB for each
/// at most; when full, all are forgotten, and the next part's superblock is looked at again.
pub const DELTAS_PASSED_MAX: usize = 64;
/// Files of a delta that come from upstream at once: as many as libostree asks for.
pub const DELTA_STREAMS: usize = 2;
/// How often a part of a delta that is wrong is taken from the upstream before the delta is given
/// up.
pub const PART_TRIES_MAX: u32 = 2;
/// How long a part is held back until it is known to be right, before it is sent as it comes but
/// for its end. So a wrong one is fetched again and the client does not notice; longer, and a
/// client that gives up on silence would.
pub const PART_HELD: Duration = Duration::from_secs(10);
/// How often a superblock is asked for when the upstream fails in passing.
pub const SUPERBLOCK_TRIES_MAX: u32 = 3;
/// For how long a delta that could not be had is not tried again for a part alone: libostree asks
/// six times without a pause, and each would fetch all that comes before what is broken.
pub const DELTA_FAILED_KEPT: Duration = Duration::from_secs(2);
/// For how long a delta whose superblock is wrong about the lengths of its parts is relayed, before
/// it is looked at again.
pub const DELTA_MISDESCRIBED_KEPT: Duration = Duration::from_secs(60);
/// For how long the root of a commit, which comes last to a libostree that asks for files beside a
/// delta, waits for the parts. Those versions do not give up on silence.
pub const ROOT_HELD: Duration = Duration::from_secs(60);
/// A host that takes no other part for so long has the objects of those that it did not ask for. A
/// part of the usual length keeps it busy for less.
pub const ROOT_IDLE: Duration = Duration::from_secs(1);
/// Pulls in which the root waits.
pub const PULLS_WATCHED_MAX: usize = 64;
/// How long a catalog's entry that led to wrong bytes is passed over.
pub const DISTRUST: Duration = Duration::from_secs(3600);
/// Transfers shown on the status page.
pub const RECENT_TRANSFERS_MAX: usize = 100;

// Files: small answers that are kept by URL.

/// Files that are kept: two commits of a whole operating system. When full, the least recently
/// used go.
pub const FILES_MAX: usize = 256 << 10;
/// Bytes that they may take on disk where no other bound is lower; when full, the least recently
/// used go.
pub const FILES_BYTES_MAX: u64 = 8 << 30;
/// Files may take this part of `STORAGE_MAX`, and one file this part of what all may take.
pub const FILES_SHARE: u64 = 4;
/// An object up to this long is taken into memory and checked before its first byte leaves; a
/// longer one is served while it comes.
pub const FILE_WHOLE_LEN_MAX: usize = 1 << 20;
/// Objects from this length on are shared between hosts, if any are: for shorter ones a swarm costs
/// more than the bytes.
pub const FILEZ_SHARED_LEN_MIN: u64 = 256 << 10;
/// Objects that came and wait to be shared; when full, the next are not.
pub const SHARE_QUEUE_MAX: usize = 4096;
/// Entries of the catalog that led to something else than the object; when full, the next are asked
/// for again.
pub const POINTERS_MISLEADING_MAX: usize = 4096;
/// The longest header of a `.filez`: extended attributes of a file have 64 KiB together on the
/// usual file systems.
pub const FILEZ_HEADER_LEN_MAX: usize = 1 << 20;
/// A file that may change is taken into memory up to this length: the summary of a large repository
/// has 10 MB. A longer one is relayed, and not kept.
pub const FILE_CHANGING_LEN_MAX: usize = 32 << 20;
/// What all files may take in memory that are there whole on their way: four of the longest that
/// may change, hundreds of the usual. A vector that grows may have twice as much. When full, the
/// next that may change are relayed and not kept, or given without a look at which deltas they
/// list; objects are served while they come.
pub const FILES_IN_MEMORY_MAX: u64 = 4 * FILE_CHANGING_LEN_MAX as u64;
/// Attempts at a file whose upstream fails in a way that may pass.
pub const FILE_ATTEMPTS_MAX: u32 = 3;
/// The pause before the second of them; each is twice as long as the one before.
pub const FILE_RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long a request waits for another one of the same URL that gets on before it asks by itself:
/// below the 30 s of silence after which clients give up. One that does not get on is waited for as
/// a stream from upstream is, [`FILL_STALLED`].
pub const FILE_FLIGHT_PATIENCE: Duration = Duration::from_secs(20);
/// URLs that are waited for at once; when full, each request asks by itself.
pub const FILE_FLIGHTS_MAX: usize = 4096;
/// How long an upstream that did not answer is not asked about what there is a copy of.
pub const FILE_OUTAGE: Duration = Duration::from_secs(5);
/// Upstreams of which that is remembered; when full, it is not of the next.
pub const FILE_OUTAGES_MAX: usize = 256;
/// What is noted of a file beside its body: its URL and a few header fields.
pub const FILE_NOTES_LEN_MAX: usize = 24 << 10;

// Objects out of deltas.

/// Deltas whose parts may be unpacked for objects: those that were served last. Of each is known
/// which part makes which object, 16 bytes for each of up to [`FILES_MAX`].
pub const DELTAS_UNPACKED_MAX: usize = 8;
/// A superblock up to this length is read for that. One of [`FILES_MAX`] objects has 9 MB.
pub const UNPACKED_SUPERBLOCK_LEN_MAX: usize = 16 << 20;
const _: () = assert!(FILES_MAX * 33 < UNPACKED_SUPERBLOCK_LEN_MAX);
/// How long a request for an object waits for the part that makes it, while the delta comes, and
/// for others to be unpacked: what it would fetch from upstream is on the same way. Shorter than
/// the 30 s of silence after which clients give up; where the upstream is so slow, a delta saves
/// most.
pub const PART_AWAITED: Duration = Duration::from_secs(20);

/// For how long a part that was unpacked is not unpacked again: what it does not carry whole is
/// asked for again and again by each who pulls.
pub const PART_TRIED_KEPT: Duration = Duration::from_secs(600);

/// Between two looks through the repositories of this host.
pub const ROOTS_PAUSE: Duration = Duration::from_secs(10);
/// Objects in them of which it is remembered that they are right, or that they are not, 100 bytes
/// for each; when full, all are forgotten, and checked again when they are asked for.
pub const PLACED_JUDGED_MAX: usize = 64 << 10;

// Catalog.

/// Blobs waiting to be published; when full, the oldest is dropped: it is published again at the
/// next start.
pub const PUBLISH_QUEUE_MAX: usize = 1024;
/// Bytes of `.torrent` files that wait there: a hundred of the largest, thousands of the usual.
pub const PUBLISH_BYTES_MAX: usize = 64 << 20;
const _: () = assert!(PUBLISH_BYTES_MAX > TORRENT_LEN_MAX);
/// Between two blobs of an earlier run that the catalog is asked about after a start.
pub const REPUBLISH_PACE: Duration = Duration::from_millis(20);
/// How often the catalog is asked whether it still knows one of the blobs here, whichever: an etcd
/// that comes back empty is told within seconds, and a thousand hosts ask it 100 times a second.
pub const REPUBLISH_LOOK: Duration = Duration::from_secs(10);
/// Between two blobs when the catalog has forgotten: all hosts of the network tell it at once.
pub const REPUBLISH_PACE_AGAIN: Duration = Duration::from_millis(100);
/// Before it is looked again after all was told: a blob that etcd refuses is not told for ever.
pub const REPUBLISH_AGAIN: Duration = Duration::from_secs(600);
/// Before the catalog is asked again when it was away.
pub const REPUBLISH_PAUSE: Duration = Duration::from_secs(5);
/// One call to etcd when nobody waits for it.
pub const CATALOG_CALL: Duration = Duration::from_secs(2);
/// How long a claim outlives a host that is gone.
pub const CLAIM_TTL: Duration = Duration::from_secs(30);
/// Between two keep-alives of a host that holds claims: two of them may fail.
pub const CLAIM_RENEW: Duration = Duration::from_secs(10);
const _: () = assert!(CLAIM_RENEW.as_millis() * 3 <= CLAIM_TTL.as_millis());

// Names.

/// How long the addresses of a name are used: below any TTL that is meant to be followed.
pub const RESOLVED_KEPT: Duration = Duration::from_secs(30);
/// How long it is believed that a name has no address.
pub const RESOLVE_FAILURE_KEPT: Duration = Duration::from_secs(2);
/// Names whose addresses are remembered; when full, all are forgotten.
pub const RESOLVED_NAMES_MAX: usize = 1024;
/// Names that are asked for at once, a thread each; when full, the next fails.
pub const RESOLVING_MAX: usize = 64;
/// The longest answer that is read from etcd: one `.torrent` in base64 and its frame, with room.
pub const ETCD_ANSWER_LEN_MAX: usize = 4 << 20;
/// How long a member of etcd that failed is asked only after the others.
pub const ETCD_MEMBER_PAUSE: Duration = Duration::from_secs(10);
/// The first pause after a look-up that failed.
pub const BREAKER_PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause: sharing resumes this long after etcd is back, at the latest.
pub const BREAKER_PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long the first address of a name may take to answer before another is tried, if there is
/// one: as long as Go, and with it every container engine, gives it.
pub const CONNECT_FIRST: Duration = Duration::from_millis(300);
/// How long an address that did not answer is tried last.
pub const CONNECT_SHUNNED: Duration = Duration::from_secs(60);
/// Addresses that are tried last; when full, all are forgotten.
pub const CONNECT_SHUNNED_MAX: usize = 1024;
/// How long no address is hurried after none was fast enough.
pub const CONNECT_PATIENT: Duration = Duration::from_secs(600);

// Upstreams.

/// Redirects that are followed for one blob; containerd follows as many.
pub const UPSTREAM_REDIRECTS_MAX: usize = 10;
/// How much of the body of an answer that is no blob is read: errors of registries are below 1 KiB.
pub const UPSTREAM_ANSWER_LEN_MAX: usize = 64 << 10;
