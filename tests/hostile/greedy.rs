//! Peers that take more than their share of connections, threads, memory and reads of the disk.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use torrent_cache::limits::{
    BLOCK_LEN, HANDSHAKES_MAX, LINKS_PER_SWARM_MAX, PEER_HANDSHAKE, PEER_REQUESTS_MAX,
};
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::proto::peer::{HANDSHAKE_LEN, Handshake, Message, PeerId, RawBlock};

use crate::peers::{random, seed};
use crate::support::image::Blob;
use crate::support::{PATIENCE, wait_for, wait_longer};
use crate::{HOSTILE, Targets, connect_from, resident_kib, threads};

/// Threads that come and go while nothing is served.
const THREADS_USUAL: usize = 24;

/// What the kernel takes of a connection that nobody reads, with room.
const SOCKET_BUFFERS: i64 = 16 << 20;

/// A connection that has said what it wants, as peer number `number`.
pub fn greeted(targets: &Targets, metainfo: &Metainfo, number: u16) -> TcpStream {
    let [high, low] = number.to_be_bytes();
    let source = Ipv4Addr::new(127, 0, 2 + high, low);
    let stream = connect_from(source, targets.client.peer_addr());
    let mut peer_id = [b'-'; 20];
    peer_id[..2].copy_from_slice(&[high, low]);
    let mut hello = Vec::new();
    Handshake::ours(metainfo.info_hash(), PeerId(peer_id)).encode(&mut hello);
    // It may be turned away at once.
    let _ = (&stream).write_all(&hello);
    stream
}

/// Whether the other side has closed it; what came before is dropped.
pub fn has_ended(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).expect("a mode is set");
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}

/// Somebody else is greeted.
fn assert_greets_others(targets: &Targets, metainfo: &Metainfo) {
    wait_longer(PATIENCE + PEER_HANDSHAKE, "a handshake", || {
        let mut stream = greeted(targets, metainfo, 9999);
        let mut answer = [0; 68];
        stream.read_exact(&mut answer).ok()
    });
}

#[test]
fn connections_that_never_shake_hands_are_few_and_end() {
    let blob = Blob::new(random(130, 300_000));
    let mut targets = Targets::start(Some(blob.clone()));
    let metainfo = seed(&targets, &blob);
    let before = threads(&mut targets.client);
    let address = targets.client.peer_addr();
    let streams: Vec<_> = (0..1000).map(|_| connect_from(HOSTILE, address)).collect();
    let more = threads(&mut targets.client).saturating_sub(before);
    assert!(more <= HANDSHAKES_MAX + THREADS_USUAL, "{more} threads");
    targets.assert_serves_others();
    assert_greets_others(&targets, &metainfo);
    drop(streams);
}

#[test]
fn one_swarm_has_so_many_links_and_no_more() {
    let blob = Blob::new(random(131, 300_000));
    let mut targets = Targets::start(Some(blob.clone()));
    let metainfo = seed(&targets, &blob);
    let before = (threads(&mut targets.client), resident_kib(&mut targets.client));
    let streams: Vec<_> = (0..300).map(|number| greeted(&targets, &metainfo, number)).collect();
    wait_for("the others to be turned away", || {
        let ended = streams.iter().filter(|stream| has_ended(stream)).count();
        (ended >= streams.len() - LINKS_PER_SWARM_MAX).then_some(())
    });
    wait_for("their links to end", || {
        let links = targets.client.metric("torrent_cache_peers");
        usize::try_from(links).is_ok_and(|links| links <= LINKS_PER_SWARM_MAX).then_some(())
    });
    let bound = before.0 + 2 * LINKS_PER_SWARM_MAX + HANDSHAKES_MAX + THREADS_USUAL;
    // Those of links that ended wait a moment for the next.
    wait_for("their threads to end", || (threads(&mut targets.client) <= bound).then_some(()));
    let more_kib = resident_kib(&mut targets.client).saturating_sub(before.1);
    assert!(more_kib <= 32 << 10, "{more_kib} KiB");
    targets.assert_serves_others();
}

#[test]
fn a_peer_that_asks_and_never_reads_costs_what_the_kernel_holds() {
    const LEN: usize = 64 << 20;
    let blob = Blob::new(random(132, LEN));
    let mut targets = Targets::start(Some(blob.clone()));
    let metainfo = seed(&targets, &blob);
    let before = resident_kib(&mut targets.client);
    let read_before = targets.client.process().bytes_read();
    let stream = greeted(&targets, &metainfo, 1);
    let mut bytes = Vec::new();
    Message::HaveNone.encode(&mut bytes);
    Message::Interested.encode(&mut bytes);
    let _ = (&stream).write_all(&bytes);
    let sent = "torrent_cache_sent_bytes_total{to=\"peer\"}";
    let pieces = metainfo.geometry().piece_count();
    let mut requests = Vec::new();
    for number in 0..4 * u32::try_from(PEER_REQUESTS_MAX).expect("small") {
        let begin = number / pieces % (metainfo.geometry().piece_len() / BLOCK_LEN) * BLOCK_LEN;
        let block = RawBlock { piece: number % (pieces - 1), begin, len: BLOCK_LEN };
        Message::Request(block).encode(&mut requests);
    }
    // One at a time until it is served at all.
    let one = requests.len() / (4 * PEER_REQUESTS_MAX);
    wait_for("the first block", || {
        (&stream).write_all(&requests[..one]).expect("it is taken");
        (targets.client.metric(sent) > 0).then_some(())
    });
    // Until it is not taken any more: the answers that nobody reads hold it up, or end it.
    stream.set_write_timeout(Some(PEER_HANDSHAKE)).expect("it is no zero");
    for _ in 0..200 {
        if (&stream).write_all(&requests).is_err() {
            break;
        }
    }
    assert!(targets.client.metric(sent) <= SOCKET_BUFFERS, "{}", targets.client.metric(sent));
    let read = targets.client.process().bytes_read() - read_before;
    assert!(read <= SOCKET_BUFFERS, "{read} bytes were read");
    let more_kib = resident_kib(&mut targets.client).saturating_sub(before);
    assert!(more_kib <= 32 << 10, "{more_kib} KiB");
    assert_greets_others(&targets, &metainfo);
    targets.assert_serves_others();
    assert_eq!(targets.client.metric("torrent_cache_thread_panics_total"), 0);
}

#[test]
fn a_peer_that_asks_and_takes_back_makes_us_read_no_more_than_it_is_sent() {
    const ROUNDS: usize = 40;
    let blob = Blob::new(random(134, 4 << 20));
    let mut targets = Targets::start(Some(blob.clone()));
    let metainfo = seed(&targets, &blob);
    let before = (resident_kib(&mut targets.client), targets.client.process().bytes_read());
    let stream = greeted(&targets, &metainfo, 3);
    // The same block each time, in half of the rounds.
    let block = |round: usize, number: u32| RawBlock {
        piece: if round.is_multiple_of(2) { 0 } else { number % 16 },
        begin: if round.is_multiple_of(2) { 0 } else { number % 4 * BLOCK_LEN },
        len: BLOCK_LEN,
    };
    let mut bytes = Vec::new();
    Message::Interested.encode(&mut bytes);
    let requests = u32::try_from(PEER_REQUESTS_MAX).expect("few");
    for round in 0..ROUNDS {
        (0..requests).for_each(|at| Message::Request(block(round, at)).encode(&mut bytes));
        (0..requests).for_each(|at| Message::Cancel(block(round, at)).encode(&mut bytes));
    }
    // The last is answered when all others are: it is longer than any of them.
    let last = RawBlock { piece: 2, begin: 0, len: 2 * BLOCK_LEN };
    Message::Request(last).encode(&mut bytes);
    std::thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(&bytes).expect("it is read on"));
        let mut answers = BufReader::new(&stream);
        answers.read_exact(&mut [0; HANDSHAKE_LEN]).expect("it is greeted");
        loop {
            let mut len = [0; 4];
            answers.read_exact(&mut len).expect("it stays open");
            let mut body = vec![0; u32::from_be_bytes(len) as usize];
            answers.read_exact(&mut body).expect("it stays open");
            let mut no = Vec::new();
            Message::Reject(last).encode(&mut no);
            if body.len() > last.len as usize || body == no[4..] {
                break;
            }
        }
    });
    let sent = targets.client.metric("torrent_cache_sent_bytes_total{to=\"peer\"}");
    let read = targets.client.process().bytes_read() - before.1;
    let more_kib = resident_kib(&mut targets.client).saturating_sub(before.0);
    println!("{sent} bytes sent, {read} read, {more_kib} KiB more");
    // What came over the connection is counted as well.
    let requests = i64::try_from(bytes.len()).expect("small");
    assert!(read <= sent + requests + (1 << 20), "{read} bytes were read to send {sent}");
    assert!(more_kib <= 16 << 10, "{more_kib} KiB");
    targets.assert_serves_others();
}

/// Blocks are long and hold a peer up by themselves; a no is short. So it is all noes.
#[test]
fn however_many_requests_come_at_once_each_is_answered() {
    // Of the answers, the kernel holds half.
    const COUNT: usize = 400_000;
    let blob = Blob::new(random(133, 300_000));
    let mut targets = Targets::start(Some(blob.clone()));
    let metainfo = seed(&targets, &blob);
    let before = resident_kib(&mut targets.client);
    let stream = greeted(&targets, &metainfo, 2);
    // It said that it wants nothing, so it is refused everything.
    let block = RawBlock { piece: 0, begin: 0, len: BLOCK_LEN };
    let (mut request, mut no) = (Vec::new(), Vec::new());
    Message::Request(block).encode(&mut request);
    Message::Reject(block).encode(&mut no);
    let requests = request.repeat(COUNT);
    stream.set_write_timeout(Some(Duration::from_secs(2))).expect("it is no zero");
    let mut taken = 0;
    while taken < requests.len()
        && let Ok(count) = (&stream).write(&requests[taken..])
    {
        taken += count;
    }
    let more_kib = resident_kib(&mut targets.client).saturating_sub(before);
    assert!(more_kib <= 16 << 10, "{more_kib} KiB");
    stream.set_write_timeout(Some(PATIENCE)).expect("it is no zero");
    std::thread::scope(|scope| {
        scope.spawn(|| (&stream).write_all(&requests[taken..]).expect("it is read on"));
        let mut answers = BufReader::new(&stream);
        // The handshakes and what it has come first.
        while !answers.fill_buf().expect("it stays open").starts_with(&no) {
            answers.consume(1);
        }
        let mut answer = vec![0; no.len()];
        for number in 0..COUNT {
            answers.read_exact(&mut answer).expect("it stays open");
            assert!(answer == no, "answer {number}: {answer:?}");
        }
    });
    targets.assert_serves_others();
}
