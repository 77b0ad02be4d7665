//! Many connections that do nothing, little, or never read.

use std::io::Write as _;
use std::net::{Ipv4Addr, TcpStream};
use std::time::{Duration, Instant};

use torrent_cache::base::rng::Rng;
use torrent_cache::base::sys;
use torrent_cache::limits;

use crate::support::image::{Blob, digest};
use crate::support::{get, wait_for};
use crate::{HOSTILE, Targets, connect_from, resident_kib, rest, status, threads};

/// Threads that come and go while nothing is served: resolvers, announces, an idle worker.
const THREADS_USUAL: usize = 24;

#[test]
fn ten_thousand_idle_connections_cost_little_and_hold_up_nobody() {
    sys::raise_open_files().expect("the limit can be raised");
    let mut targets = Targets::start(None);
    let before = (threads(&mut targets.client), resident_kib(&mut targets.client));
    let address = targets.client.addr();
    let mut streams = Vec::new();
    for number in 0..10_u8 {
        let source = Ipv4Addr::new(127, 0, 1, number);
        streams.extend((0..1000).map(|_| connect_from(source, address)));
    }
    // Half of them have begun a head.
    for stream in streams.iter().step_by(2) {
        (&*stream).write_all(b"GET /v2/ HTT").expect("it reads");
    }
    wait_for("all of them", || {
        (targets.client.metric("torrent_cache_http_connections") >= 10_000).then_some(())
    });
    targets.assert_serves_others();
    let more_threads = threads(&mut targets.client).saturating_sub(before.0);
    let more_kib = resident_kib(&mut targets.client).saturating_sub(before.1);
    println!("10,000 connections: {more_threads} threads and {more_kib} KiB more");
    // Half of them sent something at once, which ten addresses' share of workers read.
    assert!(more_threads <= limits::HTTP_WORKERS_MAX + THREADS_USUAL, "{more_threads} threads");
    assert!(more_kib < 80 << 10, "{more_kib} KiB, 8 for each");
}

#[test]
fn heads_that_come_a_line_a_second_are_ended_and_hold_up_nobody() {
    let mut targets = Targets::start(None);
    let before = threads(&mut targets.client);
    let start = Instant::now();
    let mut streams: Vec<TcpStream> = Vec::new();
    for address in targets.addresses() {
        streams.extend((0..100).map(|_| connect_from(HOSTILE, address)));
    }
    for stream in &streams {
        (&*stream).write_all(b"GET /v2/ HTTP/1.1\r\n").expect("it reads");
    }
    let mut threads_max = 0;
    while start.elapsed() < limits::HTTP_HEAD - Duration::from_secs(2) {
        // What is tested: time that passes between the lines.
        std::thread::sleep(Duration::from_secs(1));
        for stream in &streams {
            let _ = (&*stream).write_all(b"X-Slow: 1\r\n");
        }
        targets.assert_serves_others();
        threads_max = threads_max.max(threads(&mut targets.client));
    }
    for stream in &streams {
        assert_eq!(status(&rest(stream)), 408);
    }
    // A hundred lines at once are read by as many workers as one address may have of each port.
    let bound = before + 2 * (limits::HTTP_WORKERS_MAX / 2) + THREADS_USUAL;
    assert!(threads_max <= bound, "{threads_max} threads, {before} before");
}

#[test]
fn readers_of_one_address_that_never_read_leave_room_for_the_others() {
    const LEN: usize = 32 << 20;
    let mut bytes = vec![0; LEN];
    Rng::seeded(91).fill(&mut bytes);
    let blob = Blob::new(bytes);
    let mut targets = Targets::start(Some(blob.clone()));
    let path = format!("/v2/a/blobs/{}", blob.digest);
    let url = format!("http://{}{path}", targets.client.addr());
    assert_eq!(get(&url, &[]).expect("it comes").status, 200);
    wait_for("the blob to be kept", || {
        (targets.client.status()["store"]["blobs"] == 1).then_some(())
    });
    let before = (threads(&mut targets.client), resident_kib(&mut targets.client));
    let ask = |_| {
        let stream = connect_from(HOSTILE, targets.client.addr());
        let request = format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n");
        (&stream).write_all(request.as_bytes()).expect("it reads");
        stream
    };
    let streams: Vec<TcpStream> = (0..2 * limits::HTTP_WORKERS_MAX).map(ask).collect();
    wait_for("half of the workers", || {
        let busy = targets.client.metric("torrent_cache_http_workers{state=\"busy\"}");
        (busy >= i64::try_from(limits::HTTP_WORKERS_MAX / 2).expect("small")).then_some(())
    });
    for _ in 0..3 {
        let answer = get(&url, &[]).expect("others are served");
        assert_eq!(digest(&answer.body), blob.digest);
    }
    targets.assert_serves_others();
    let more_threads = threads(&mut targets.client).saturating_sub(before.0);
    let more_kib = resident_kib(&mut targets.client).saturating_sub(before.1);
    println!("{} readers: {more_threads} threads, {more_kib} KiB more", streams.len());
    assert!(more_threads <= limits::HTTP_WORKERS_MAX / 2 + THREADS_USUAL, "{more_threads}");
    let bound = limits::HTTP_WORKERS_MAX / 2 * (limits::COPY_LEN / 1024 + 64);
    assert!(more_kib <= bound + (16 << 10), "{more_kib} KiB, a buffer for each worker is {bound}");
}
