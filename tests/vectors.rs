//! The BitTorrent codecs against what other software wrote, and what other software makes of ours.
//! `vectors/README.md` says how the files were made.

#[path = "vectors/change.rs"]
mod change;
#[path = "vectors/laws.rs"]
mod laws;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use change::try_changed;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::limits::{BLOB_LEN_MAX, PIECES_MAX};
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::ext::{self, ExtHandshake};
use torrent_cache::proto::geometry::Geometry;
use torrent_cache::proto::hashes::{HASHES_MAX, PieceHashes};
use torrent_cache::proto::metainfo::{Metainfo, MetainfoError};
use torrent_cache::proto::peer::{
    Frame, Handshake, Message, PeerError, RawBlock, encode_block_head,
};
use torrent_cache::proto::tracker::{
    AnnounceEvent, AnnounceRequest, AnnounceResponse, ScrapeCounts, ScrapeRequest, ScrapeResponse,
};
use torrent_cache::proto::tracker_http::AnswerError;
use torrent_cache::proto::tracker_udp::{Family, Request, Response};

/// The swarm of the captures.
const SMALL: &str = "21976a307509d0f5dc21993317d49dcb5338a69f";

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The lines of a `.hex` file: who or what, and the bytes.
fn entries(name: &str) -> Vec<(String, Vec<u8>)> {
    let text = String::from_utf8(file(name)).unwrap();
    let byte = |digits: &[u8]| u8::from_str_radix(str::from_utf8(digits).unwrap(), 16).unwrap();
    text.lines()
        .map(|line| {
            let (name, digits) = line.split_once(' ').unwrap();
            (name.to_owned(), digits.as_bytes().chunks(2).map(byte).collect())
        })
        .collect()
}

fn entry(file: &str, name: &str) -> Vec<u8> {
    let found = entries(file).into_iter().find(|(have, _)| have == name);
    found.unwrap_or_else(|| panic!("{file} has {name}")).1
}

/// The bytes of the captured torrents; `vectors/capture.py` has the same function.
fn content(len: u32) -> Vec<u8> {
    (0..len)
        .map(|n| u8::try_from((n.wrapping_mul(n).wrapping_add(n >> 8)) & 0xff).unwrap())
        .collect()
}

// Torrents.

fn torrent_files() -> Vec<Vec<u8>> {
    ["libtorrent-v1", "libtorrent-hybrid", "libtorrent-v2", "libtorrent-several", "transmission"]
        .map(|name| file(&format!("{name}.torrent")))
        .to_vec()
}

#[test]
fn foreign_torrents_have_the_info_hash_that_their_makers_say() {
    let content = content(600_000);
    for (name, info_hash) in [
        ("libtorrent-v1.torrent", "07a3fd78e222c147a78f003292c7f7af547d2d25"),
        ("libtorrent-hybrid.torrent", "d7035adabde33a690695fc273eeaef5fa5fb6ff8"),
        ("transmission.torrent", "5bc5c5681f20c28412fed75f98ace551384018c3"),
    ] {
        let metainfo = Metainfo::decode(&file(name)).unwrap();
        assert_eq!(metainfo.info_hash().to_string(), info_hash, "{name}");
        assert_eq!(metainfo.name(), "content");
        assert_eq!(*metainfo.geometry(), Geometry::new(600_000, 256 << 10).unwrap());
        for piece in metainfo.geometry().pieces() {
            let span = metainfo.geometry().span(piece);
            let range = usize::try_from(span.offset).unwrap()..usize::try_from(span.end()).unwrap();
            assert_eq!(metainfo.piece_hash(piece), Sha1Hash::of(&content[range]), "{name}");
        }
    }
}

#[test]
fn torrents_of_several_files_or_of_another_version_are_refused() {
    let refused = |name| Metainfo::decode(&file(name)).unwrap_err();
    assert_eq!(refused("libtorrent-several.torrent"), MetainfoError::SeveralFiles);
    assert_eq!(refused("libtorrent-v2.torrent"), MetainfoError::VersionTwoOnly);
}

#[test]
fn changed_torrents_are_refused_or_read_whole() {
    try_changed(&torrent_files(), laws::metainfo);
}

/// Our metainfo of a blob of this length, with made-up hashes.
fn our_metainfo(blob_len: u64) -> Metainfo {
    let name = BlobName::parse(&format!("sha256:{}", "a7".repeat(32))).unwrap();
    let count = Geometry::for_blob(blob_len).unwrap().piece_count();
    let hashes = (0..count).map(|number| Sha1Hash::of(&number.to_be_bytes())).collect();
    Metainfo::of_blob(&name, blob_len, hashes).unwrap()
}

/// What a program prints, or `None` if it is not there. `CI=true` does not accept that.
fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    match Command::new(program).args(arguments).output() {
        Ok(output) if output.status.success() => {
            Some(String::from_utf8_lossy(&output.stdout).into_owned())
        }
        outcome => {
            let missing = format!("{program} {arguments:?} does not work here: {outcome:?}");
            assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{missing}");
            eprintln!("NOT CHECKED: {missing}");
            None
        }
    }
}

/// Debian's Python, which has libtorrent; another one may stand before it in `PATH`.
const PYTHON: &str = "/usr/bin/python3";

#[test]
fn other_software_computes_our_info_hash() {
    const ASK_LIBTORRENT: &str = "import libtorrent, sys\n\
        info = libtorrent.torrent_info(sys.argv[1])\n\
        print(info.info_hash(), info.total_size(), info.piece_length(), info.priv(), info.name())";
    let folder = tempfile::tempdir().unwrap();
    for blob_len in [1, 256 << 10, 600_000, 3 << 30, BLOB_LEN_MAX] {
        let ours = our_metainfo(blob_len);
        let path: PathBuf = folder.path().join(format!("{blob_len}.torrent"));
        std::fs::write(&path, ours.encode()).unwrap();
        let path = path.to_str().unwrap();
        let info_hash = ours.info_hash().to_string();
        if let Some(text) = printed(PYTHON, &["-c", ASK_LIBTORRENT, path]) {
            let piece_len = ours.geometry().piece_len();
            let name = ours.name();
            assert_eq!(text.trim(), format!("{info_hash} {blob_len} {piece_len} True {name}"));
        }
        for (program, arguments) in [("aria2c", &["-S", path][..]), ("transmission-show", &[path])]
        {
            if let Some(text) = printed(program, arguments) {
                assert!(text.contains(&info_hash), "{program} says of {info_hash}:\n{text}");
            }
        }
    }
    assert_eq!(our_metainfo(BLOB_LEN_MAX).geometry().piece_count(), PIECES_MAX);
}

// Bencode.

#[test]
fn bencode_is_read_as_another_decoder_reads_it() {
    let mut vectors = torrent_files();
    vectors.extend(entries("http-answers-opentracker.hex").into_iter().map(|(_, bytes)| bytes));
    try_changed(&vectors, laws::bencode);
}

// Peers.

/// A capture from the handshake on, as one peer sent it.
struct Capture {
    handshake: Handshake,
    ext: ExtHandshake,
    /// The messages after the extension handshake.
    messages: Vec<Message>,
    blocks: Vec<(RawBlock, Vec<u8>)>,
}

fn capture(stream: &[u8]) -> Capture {
    let (handshake, mut at) = Handshake::decode(stream).unwrap().unwrap();
    let (mut ext, mut messages, mut blocks) = (None, Vec::new(), Vec::new());
    while let Some((frame, used)) = Frame::decode(&stream[at..]).unwrap() {
        let mut again = Vec::new();
        match frame {
            Frame::Message(Message::Extended { id: ext::HANDSHAKE_ID, payload }) => {
                ext = Some(ExtHandshake::decode(&payload).unwrap());
                Message::Extended { id: 0, payload }.encode(&mut again);
            }
            Frame::Message(message) => {
                message.encode(&mut again);
                messages.push(message);
            }
            Frame::Block(block) => {
                again.extend_from_slice(&encode_block_head(block));
                let body = &stream[at + used..at + used + block.len as usize];
                blocks.push((block, body.to_vec()));
            }
        }
        assert_eq!(again, stream[at..at + used], "written as it was read");
        at += used + blocks.last().filter(|_| used == 13 && again[4] == 7).map_or(0, |b| b.1.len());
    }
    assert_eq!(at, stream.len(), "the capture ends with a whole message");
    assert_eq!(handshake.info_hash.to_string(), SMALL);
    assert!(handshake.supports_fast() && handshake.supports_extensions());
    Capture { handshake, ext: ext.expect("all of them send one"), messages, blocks }
}

fn request(piece: u32, len: u32) -> Message {
    Message::Request(RawBlock { piece, begin: 0, len })
}

#[test]
fn aria2_is_understood() {
    let aria2 = capture(&file("aria2.bin"));
    assert!(aria2.handshake.peer_id.to_string().starts_with("A2-1-36-"));
    assert_eq!(aria2.ext.client.as_deref(), Some("aria2/1.36.0"));
    assert_eq!(aria2.ext.messages, [("ut_metadata".to_owned(), 9)].into());
    assert_eq!(aria2.ext.metadata_size, Some(123));
    assert!(aria2.ext.port.is_some() && aria2.ext.reqq.is_none());
    let fast: BTreeSet<u32> = [0, 1, 2].into();
    let (allowed, said): (Vec<_>, Vec<_>) =
        aria2.messages.into_iter().partition(|said| matches!(said, Message::AllowedFast(_)));
    assert!(
        allowed
            .into_iter()
            .all(|said| matches!(said, Message::AllowedFast(n) if fast.contains(&n)))
    );
    assert_eq!(said[..2], [Message::HaveNone, Message::Interested]);
    assert!(said.contains(&request(0, 16384)) && said.contains(&request(2, 40_000 - 32768)));
}

#[test]
fn encrypted_handshakes_are_told_by_their_first_byte() {
    let stream = file("aria2-encrypted.bin");
    assert_eq!(Handshake::decode(&stream[..1]), Err(PeerError::NoHandshake));
}

#[test]
fn libtorrent_is_understood_in_both_roles() {
    let leecher = capture(&file("libtorrent-leecher.bin"));
    assert_eq!(leecher.ext.client.as_deref(), Some("libtorrent/2.0.8.0"));
    assert_eq!(leecher.ext.reqq, Some(2000));
    assert_eq!(leecher.ext.your_ip, Some("127.0.0.1".parse().unwrap()));
    assert_eq!(leecher.ext.messages.get("ut_pex"), Some(&1));
    assert_eq!(leecher.messages[..2], [Message::HaveNone, Message::Interested]);
    assert!(leecher.messages.contains(&request(2, 40_000 - 32768)));

    let seeder = capture(&file("libtorrent-seeder.bin"));
    assert!(
        seeder.messages.contains(&Message::HaveAll) && seeder.messages.contains(&Message::Unchoke)
    );
    let content = content(40_000);
    let sent: BTreeSet<u32> = seeder.blocks.iter().map(|(block, _)| block.piece).collect();
    assert_eq!(sent, [0, 1, 2].into());
    for (block, bytes) in seeder.blocks {
        let from = (block.piece << 14 | block.begin) as usize;
        assert_eq!(bytes, content[from..from + block.len as usize], "{block:?}");
    }
}

#[test]
fn transmission_is_understood() {
    let seeder = capture(&file("transmission.bin"));
    assert_eq!(seeder.ext.client.as_deref(), Some("Transmission 3.00"));
    assert_eq!(seeder.ext.reqq, Some(512));
    assert!(
        seeder.messages.contains(&Message::HaveAll) && seeder.messages.contains(&Message::Unchoke)
    );
    let block = RawBlock { piece: 2, begin: 0, len: 40_000 - 32768 };
    assert_eq!(seeder.blocks, [(block, content(40_000)[32768..].to_vec())]);
}

#[test]
fn changed_streams_are_refused_or_mean_the_same_however_cut() {
    let mut seeder = file("libtorrent-seeder.bin");
    seeder.truncate(1000);
    let streams = ["aria2.bin", "aria2-encrypted.bin", "libtorrent-leecher.bin"].map(file);
    try_changed(&[&streams[..], &[seeder]].concat(), laws::peer);
}

#[test]
fn changed_extension_handshakes_are_refused_or_read_whole() {
    let payloads = ["aria2.bin", "libtorrent-leecher.bin", "transmission.bin"].map(|name| {
        let mut out = Vec::new();
        capture(&file(name)).ext.encode(&mut out);
        out
    });
    try_changed(&payloads, laws::ext);
}

#[test]
fn changed_hashes_are_refused_or_read_whole() {
    let payloads = [(0, 1), (7, 3), (u32::MAX - 2, 2), (1000, HASHES_MAX)].map(|(first, count)| {
        let entry = |n: u32| (n, Sha1Hash::of(&n.to_be_bytes()));
        let hashes = (first..=u32::MAX).step_by(2).take(count).map(entry).collect();
        let mut out = Vec::new();
        PieceHashes { hashes }.encode(&mut out);
        assert!(PieceHashes::decode(&out).is_some());
        out
    });
    try_changed(&payloads, laws::hashes);
}

// HTTP trackers.

fn announce_queries() -> Vec<(String, String)> {
    let queries = entries("http-queries.hex").into_iter();
    let queries = queries.map(|(client, query)| (client, String::from_utf8(query).unwrap()));
    queries.filter(|(_, query)| query.contains("peer_id")).collect()
}

#[test]
fn announces_of_other_clients_are_understood() {
    let mut seen = BTreeSet::new();
    for (client, query) in announce_queries() {
        let request = AnnounceRequest::from_query(&query).unwrap();
        assert_eq!(request.info_hash.to_string(), SMALL, "{client}");
        assert_ne!(request.port, 0, "{client}");
        assert_eq!(request.key.is_some(), client != "aria2", "aria2's is raw bytes");
        seen.insert((client, format!("{:?} {:?}", request.event, request.numwant)));
    }
    let expected = [
        ("aria2", "Started Some(50)"),
        ("libtorrent", "Started Some(200)"),
        ("libtorrent", "Stopped Some(0)"),
        ("transmission", "Started Some(80)"),
        ("transmission", "Stopped Some(0)"),
    ];
    assert_eq!(seen, expected.map(|(client, said)| (client.into(), said.into())).into());
}

#[test]
fn scrapes_of_other_clients_are_understood() {
    let queries = entries("http-queries.hex").into_iter().map(|(_, query)| query);
    let mut scrape = queries.map(|query| String::from_utf8(query).unwrap());
    let scrape = scrape.rfind(|query| !query.contains("peer_id")).unwrap();
    let request = ScrapeRequest::from_query(&scrape).unwrap();
    assert_eq!(request.info_hashes, [Sha1Hash::from_hex(SMALL).unwrap()]);
}

#[test]
fn answers_of_opentracker_are_understood() {
    let body = |name| entry("http-answers-opentracker.hex", name);
    let address = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
    let first = AnnounceResponse::from_bencode(&body("announce")).unwrap();
    assert_eq!((first.seeders, first.leechers), (1, 0));
    assert_eq!(first.peers, [address(7001)]);
    let seconds = first.interval.as_secs();
    assert!((1620..=1980).contains(&seconds), "{seconds}");
    assert_eq!(first.min_interval.unwrap().as_secs(), seconds / 2);

    let second = AnnounceResponse::from_bencode(&body("announce-second")).unwrap();
    assert_eq!((second.seeders, second.leechers), (1, 1));
    assert_eq!(second.peers.into_iter().collect::<BTreeSet<_>>(), [7001, 7002].map(address).into());

    let stopped = AnnounceResponse::from_bencode(&body("stopped")).unwrap();
    assert_eq!((stopped.seeders, stopped.leechers, stopped.peers.len()), (1, 0, 0));

    let refused = AnnounceResponse::from_bencode(&body("refused"));
    assert!(
        matches!(refused, Err(AnswerError::Refused(reason)) if reason.contains("not authorized"))
    );

    let scrape = ScrapeResponse::from_bencode(&body("scrape")).unwrap();
    let known = Sha1Hash(std::array::from_fn(|n| u8::try_from(n).unwrap()));
    let counts = ScrapeCounts { seeders: 1, completed: 0, leechers: 1 };
    assert_eq!(scrape.swarms, [(known, counts)].into());
}

#[test]
fn changed_queries_are_refused_or_read_whole() {
    let queries: Vec<_> = entries("http-queries.hex").into_iter().map(|(_, query)| query).collect();
    try_changed(&queries, laws::http_query);
}

#[test]
fn changed_answers_are_refused_or_read_whole() {
    let bodies = entries("http-answers-opentracker.hex").into_iter();
    let mut bodies: Vec<_> = bodies.map(|(_, body)| body).collect();
    bodies.push(b"d8:intervali60e5:peersld2:ip3:::14:porti9eeee6:peers60:".to_vec());
    try_changed(&bodies, laws::http_answer);
}

// UDP trackers.

#[test]
fn datagrams_of_other_clients_are_understood() {
    let asked = |name: String| Request::decode(&entry("udp-requests.hex", &name)).unwrap();
    for (client, wanted) in [("libtorrent", Some(200)), ("aria2", Some(50))] {
        assert!(matches!(asked(format!("{client}-connect")), Request::Connect { .. }));
        let Request::Announce { connection, announce, .. } = asked(format!("{client}-announce"))
        else {
            panic!("{client} announces")
        };
        assert_eq!(connection.to_be_bytes(), *b"connecti");
        assert_eq!(announce.info_hash.to_string(), SMALL);
        assert_eq!(
            (announce.event, announce.numwant),
            (AnnounceEvent::Started, wanted),
            "{client}"
        );
        assert!(announce.port != 0 && announce.ip.is_none());
    }
}

#[test]
fn datagrams_of_opentracker_are_understood() {
    let answer = |name| {
        let datagram = entry("udp-answers-opentracker.hex", name);
        Response::decode(&datagram, Family::V4).unwrap()
    };
    let connected = answer("connect");
    assert!(matches!(connected, Response::Connect { transaction: 0x1111_1111, .. }));
    let Response::Announce { transaction: 0x2222_2222, announce } = answer("announce") else {
        panic!("an announce is answered")
    };
    assert_eq!((announce.seeders, announce.leechers), (2, 0));
    let ports: BTreeSet<u16> = announce.peers.iter().map(SocketAddr::port).collect();
    assert_eq!(ports, [7001, 7003].into());
    let known = ScrapeCounts { seeders: 2, completed: 0, leechers: 0 };
    let counts = vec![known, ScrapeCounts::default()];
    assert_eq!(answer("scrape"), Response::Scrape { transaction: 0x3333_3333, counts });
    let refused = Response::Error { transaction: 0x2222_2222, message: String::new() };
    assert_eq!(answer("announce-refused"), refused);
    let message = "Connection ID missmatch.".to_owned();
    let foreign = Response::Error { transaction: 0x4444_4444, message };
    assert_eq!(answer("bad-connection"), foreign);
}

#[test]
fn changed_datagrams_are_refused_or_read_whole() {
    let files = ["udp-requests.hex", "udp-answers-opentracker.hex"].map(entries).into_iter();
    let datagrams: Vec<_> = files.flatten().map(|(_, datagram)| datagram).collect();
    try_changed(&datagrams, laws::udp);
}
