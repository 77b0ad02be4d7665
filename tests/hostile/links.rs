//! Peers that take links: all of the process, those of one address, and what they pour in.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Instant;

use torrent_cache::limits::{
    BLOCK_LEN, HANDSHAKES_MAX, LINKS_MAX, LINKS_PER_ADDRESS_MAX, LINKS_PER_SWARM_MAX,
    OPEN_BLOBS_MAX, PEER_HANDSHAKE, PEER_MESSAGE_LEN_MAX,
};
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::proto::peer::{
    BLOCK_HEAD_LEN, HANDSHAKE_LEN, Handshake, Message, PeerId, RawBlock,
};

use crate::greedy::{greeted, has_ended};
use crate::peers::{random, seed};
use crate::support::image::Blob;
use crate::support::origin::{Origin, Request, answer, whole};
use crate::support::torrent_cache::Program;
use crate::support::{PATIENCE, get, wait_for, wait_longer};
use crate::{HOSTILE, Targets, connect_from, descriptors, proc_status, resident_kib, threads};

/// Swarms enough for more links than the process may have.
const SWARMS: usize = LINKS_MAX / LINKS_PER_SWARM_MAX + 1;

const BLOB_LEN: usize = 20_000;

/// A client that seeds many blobs.
struct Host {
    client: Program,
    metainfos: Vec<Metainfo>,
    url: String,
    _origin: Origin,
}

impl Host {
    /// With blobs for [`SWARMS`].
    fn start(seed: u64) -> Host {
        Host::with_blobs(seed, SWARMS)
    }

    fn with_blobs(seed: u64, count: usize) -> Host {
        let blobs: Vec<Blob> =
            (0..count as u64).map(|n| Blob::new(random(seed + n, BLOB_LEN))).collect();
        let served = blobs.clone();
        let origin = Origin::start(move |request: &Request| {
            let asked = served.iter().find(|blob| request.target().ends_with(&blob.digest));
            match asked {
                Some(blob) => vec![whole(&blob.bytes)],
                None => vec![answer(&["HTTP/1.1 404 Not Found", "Content-Length: 0"], b"")],
            }
        });
        let registry = format!("http://{}", origin.addr());
        let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
        let url = |blob: &Blob| format!("http://{}/v2/a/blobs/{}", client.addr(), blob.digest);
        for blob in &blobs {
            assert_eq!(get(&url(blob), &[]).expect("it comes").status, 200);
        }
        wait_for("the seeds", || (client.status()["seeds"] == count).then_some(()));
        client.wait_until_synced();
        let torrents = std::path::Path::new(client.option("STORAGE")).join("torrents");
        let torrents = std::fs::read_dir(torrents).expect("it is there");
        let read = |torrent: std::io::Result<std::fs::DirEntry>| {
            let torrent = std::fs::read(torrent.expect("it is there").path());
            Metainfo::decode(&torrent.expect("it is there")).expect("ours")
        };
        let url = url(&blobs[0]);
        Host { metainfos: torrents.map(read).collect(), client, url, _origin: origin }
    }

    /// A call as peer number `number`; `None`: it is not answered.
    fn call(&self, source: Ipv4Addr, swarm: usize, number: u16) -> Option<TcpStream> {
        let mut stream = connect_from(source, self.client.peer_addr());
        let mut peer_id = [b'+'; 20];
        peer_id[..2].copy_from_slice(&number.to_be_bytes());
        let mut hello = Vec::new();
        Handshake::ours(self.metainfos[swarm].info_hash(), PeerId(peer_id)).encode(&mut hello);
        stream.write_all(&hello).ok()?;
        stream.read_exact(&mut [0; HANDSHAKE_LEN]).ok()?;
        Some(stream)
    }

    fn links(&self) -> usize {
        usize::try_from(self.client.metric("torrent_cache_peers")).expect("no less than none")
    }
}

/// Reads until this has come.
fn read_until(mut stream: &TcpStream, message: &Message) {
    let (mut wanted, mut said) = (Vec::new(), Vec::new());
    message.encode(&mut wanted);
    while !said.ends_with(&wanted) {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("it stays open");
        said.extend(byte);
    }
}

fn count(of: usize) -> u16 {
    of.try_into().expect("a small bound")
}

/// An address of its own for each number.
fn address(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(127, 0, 100 + high, low)
}

#[test]
fn the_process_has_so_many_links_and_no_more_and_goes_on_serving() {
    let mut host = Host::start(140);
    let before = (threads(&mut host.client), resident_kib(&mut host.client));
    let mut streams = Vec::new();
    for number in 0..count(LINKS_MAX) {
        let swarm = usize::from(number) / LINKS_PER_SWARM_MAX;
        let stream = wait_longer(PATIENCE + PEER_HANDSHAKE, "a link", || {
            host.call(address(number), swarm, number)
        });
        streams.push(stream);
    }
    wait_for("all links", || (host.links() == LINKS_MAX).then_some(()));
    let last = SWARMS - 1;
    for number in 600..700 {
        assert!(host.call(address(number), last, number).is_none(), "one too many");
    }
    assert_eq!(host.links(), LINKS_MAX);
    let more_threads = threads(&mut host.client).saturating_sub(before.0);
    assert!(more_threads <= 2 * LINKS_MAX + HANDSHAKES_MAX, "{more_threads} threads");
    let more_kib = resident_kib(&mut host.client).saturating_sub(before.1);
    println!("{LINKS_MAX} links: {more_threads} threads, {more_kib} KiB more");
    assert!(more_kib <= 64 * LINKS_MAX, "{more_kib} KiB");
    assert_eq!(get(&host.url, &[]).expect("it is served").status, 200);
    assert_eq!(host.client.metric("torrent_cache_thread_panics_total"), 0);
    // One goes, another may come.
    drop(streams.pop());
    let newcomer = count(LINKS_MAX);
    wait_for("a link that is free", || host.call(address(newcomer), last, newcomer));
}

#[test]
fn one_address_leaves_half_of_the_links_to_the_others() {
    let host = Host::start(160);
    let mut streams = Vec::new();
    for number in 0..count(LINKS_PER_ADDRESS_MAX) {
        let swarm = usize::from(number) / LINKS_PER_SWARM_MAX;
        let call = || host.call(HOSTILE, swarm, number);
        streams.push(wait_longer(PATIENCE + PEER_HANDSHAKE, "a link", call));
    }
    wait_for("its links", || (host.links() == LINKS_PER_ADDRESS_MAX).then_some(()));
    let last = SWARMS - 1;
    for number in 600..700 {
        assert!(host.call(HOSTILE, last, number).is_none(), "one too many");
    }
    wait_for("another's link", || host.call(address(1), last, 1));
    assert!(streams.iter().all(|stream| !has_ended(stream)), "nobody made room");
}

#[test]
fn one_address_keeps_nobody_out_of_a_swarm() {
    let host = Host::start(180);
    let call = |number| wait_longer(PATIENCE, "a link", || host.call(HOSTILE, 0, number));
    let streams: Vec<TcpStream> = (0..count(LINKS_PER_SWARM_MAX)).map(call).collect();
    wait_for("its links", || (host.links() == LINKS_PER_SWARM_MAX).then_some(()));
    let mut other = host.call(address(1), 0, 999).expect("it is greeted");
    // What it is told first shows that the swarm has taken it.
    other.read_exact(&mut [0; 5]).expect("it stays open");
    wait_for("one of them to go", || {
        let ended = streams.iter().filter(|stream| has_ended(stream)).count();
        (ended == 1).then_some(())
    });
    assert_eq!(host.links(), LINKS_PER_SWARM_MAX);
}

#[test]
fn callers_of_one_address_that_say_nothing_leave_room_for_others_meanwhile() {
    let host = Host::start(200);
    // On a machine that is so slow that the first of them have had their time, once more.
    wait_longer(PATIENCE * 3, "another's link", || {
        let address = host.client.peer_addr();
        let silent: Vec<_> =
            (0..2 * HANDSHAKES_MAX).map(|_| connect_from(HOSTILE, address)).collect();
        let greeted = host.call(self::address(2), 0, 2);
        greeted.filter(|_| !has_ended(&silent[0]))
    });
}

#[test]
fn a_handshake_that_comes_byte_by_byte_ends_in_time() {
    let blob = Blob::new(random(220, 20_000));
    let targets = Targets::start(Some(blob.clone()));
    let metainfo = seed(&targets, &blob);
    let stream = connect_from(HOSTILE, targets.client.peer_addr());
    let mut hello = Vec::new();
    Handshake::ours(metainfo.info_hash(), PeerId([3; 20])).encode(&mut hello);
    let start = Instant::now();
    // The last is never sent.
    let mut bytes = (0u32..).zip(&hello[..HANDSHAKE_LEN - 1]).peekable();
    wait_longer(PEER_HANDSHAKE * 6, "the end", || {
        if has_ended(&stream) {
            return Some(());
        }
        if let Some((_, byte)) =
            bytes.next_if(|(number, _)| start + PEER_HANDSHAKE / 7 * *number <= Instant::now())
        {
            let _ = (&stream).write_all(&[*byte]);
        }
        None
    });
    targets.assert_serves_others();
}

#[test]
fn messages_that_come_as_fast_as_they_are_taken_cost_no_memory() {
    let blob = Blob::new(random(221, 3_000_000));
    let mut targets = Targets::start(Some(blob.clone()));
    let metainfo = seed(&targets, &blob);
    let before = resident_kib(&mut targets.client);
    let block = RawBlock { piece: 1, begin: 0, len: 16 << 10 };
    let mut round = Vec::new();
    for message in [
        Message::Interested,
        Message::Unchoke,
        Message::Have(3),
        Message::Suggest(4),
        Message::AllowedFast(5),
        Message::Cancel(block),
        Message::KeepAlive,
        Message::Port(1),
        Message::Bitfield(vec![0x10, 0, 0, 0, 0, 0]),
        Message::Extended { id: 0, payload: b"d1:md6:ut_pexi1ee1:v4:xxxxe".to_vec() },
        Message::Extended { id: 1, payload: vec![b'd'; 1000] },
        Message::Choke,
        Message::NotInterested,
    ] {
        message.encode(&mut round);
    }
    let streams: Vec<_> = (1..=3).map(|number| greeted(&targets, &metainfo, number)).collect();
    let poured = round.repeat(10_000);
    std::thread::scope(|scope| {
        for stream in &streams {
            let (mut stream, poured) = (stream, &poured);
            scope.spawn(move || {
                stream.set_write_timeout(Some(PATIENCE * 2)).expect("it is no zero");
                stream.write_all(poured).expect("all of it is taken");
            });
        }
        targets.assert_serves_others();
    });
    let more_kib = resident_kib(&mut targets.client).saturating_sub(before);
    assert!(more_kib <= 16 << 10, "{more_kib} KiB");
    assert_eq!(targets.client.metric("torrent_cache_thread_panics_total"), 0);
}

#[test]
fn messages_of_which_the_end_never_comes_cost_little() {
    let mut host = Host::start(240);
    let before = proc_status(&mut host.client, "VmHWM");
    // The head of the longest message that is read at all, with an id that nobody knows.
    let mut message = PEER_MESSAGE_LEN_MAX.to_be_bytes().to_vec();
    message.resize(4 + PEER_MESSAGE_LEN_MAX as usize, 77);
    let (last, most) = message.split_last().expect("it is long");
    let stuff = |number: u16| {
        let swarm = usize::from(number) / LINKS_PER_SWARM_MAX;
        let call = || host.call(HOSTILE, swarm, number);
        let stream = wait_longer(PATIENCE + PEER_HANDSHAKE, "a link", call);
        (&stream).write_all(most).expect("it is read");
        stream
    };
    let streams: Vec<TcpStream> = (0..count(LINKS_PER_ADDRESS_MAX)).map(stuff).collect();
    // Who answers what comes after a message has read it.
    let (mut rest, question) = (vec![*last], RawBlock { piece: 0, begin: 0, len: 1 });
    Message::Request(question).encode(&mut rest);
    for stream in &streams {
        (&*stream).write_all(&rest).expect("it is read");
        read_until(stream, &Message::Reject(question));
    }
    let more_kib = proc_status(&mut host.client, "VmHWM").saturating_sub(before);
    println!("{} such links: {more_kib} KiB more", streams.len());
    assert!(more_kib <= 128 * streams.len(), "{more_kib} KiB");
}

#[test]
fn a_peer_of_many_swarms_makes_us_read_what_it_gets_and_open_a_bounded_number() {
    let mut host = Host::with_blobs(260, OPEN_BLOBS_MAX + 50);
    let before = (
        resident_kib(&mut host.client),
        descriptors(&mut host.client),
        host.client.process().bytes_read(),
    );
    let block = RawBlock { piece: 0, begin: 0, len: BLOCK_LEN };
    let asked = 4 * host.metainfos.len();
    for number in 0..asked {
        // Never the one that it asked for last, nor one of those that are open.
        let swarm = number * 7919 % host.metainfos.len();
        let call = || host.call(HOSTILE, swarm, 7);
        let mut stream = wait_longer(PATIENCE + PEER_HANDSHAKE, "a link", call);
        let mut bytes = Vec::new();
        Message::Interested.encode(&mut bytes);
        stream.write_all(&bytes).expect("it is read");
        read_until(&stream, &Message::Unchoke);
        bytes.clear();
        Message::Request(block).encode(&mut bytes);
        stream.write_all(&bytes).expect("it is read");
        let mut answer = vec![0; BLOCK_HEAD_LEN + BLOCK_LEN as usize];
        stream.read_exact(&mut answer).expect("it comes");
    }
    let more_descriptors = descriptors(&mut host.client).saturating_sub(before.1);
    let more_kib = resident_kib(&mut host.client).saturating_sub(before.0);
    let read = host.client.process().bytes_read() - before.2;
    println!("{asked} blocks: {more_descriptors} descriptors, {more_kib} KiB, {read} bytes read");
    // Links that ended may not be gone yet.
    assert!(more_descriptors <= OPEN_BLOBS_MAX + LINKS_PER_ADDRESS_MAX, "{more_descriptors}");
    assert!(more_kib <= 16 << 10, "{more_kib} KiB");
    let sent = i64::try_from(asked).expect("few") * i64::from(BLOCK_LEN);
    assert!(read <= 2 * sent, "{read} bytes were read to send {sent}");
}
