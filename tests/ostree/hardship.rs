//! Static deltas where something is scarce: the upstream's patience, memory, the disk.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::deltas::{MISMATCHES, asked, pull, through, with_delta};
use crate::support::faults::{Fault, FaultProxy};
use crate::support::origin::{Origin, answer, whole};
use crate::support::ostree::{Host, archived};
use crate::support::site::Site;
use crate::support::torrent_cache::Program;
use crate::support::{PATIENCE, wait_for};
use crate::{MIB, World, proxy};

/// Without a list, who asks for a superblock asks the upstream, but not at the same time as others.
#[test]
fn many_who_ask_for_a_superblock_that_no_list_names_are_one_upstream() {
    const CLIENTS: usize = 6;
    let world = World::start();
    with_delta(&world.repository, 70);
    let path = world.repository.superblocks().remove(0);
    let wanted = fs::read(world.repository.path().join(&path)).expect("it is there");
    let gate = Arc::new((Mutex::new(false), Condvar::new()));
    let (root, pass) = (world.site.root(), Arc::clone(&gate));
    let upstream = Origin::start(move |request| {
        if request.target().ends_with("/superblock") {
            let (open, opened) = &*pass;
            let open = open.lock().expect("no panic");
            drop(opened.wait_timeout_while(open, PATIENCE, |open| !*open));
        }
        vec![match fs::read(root.join(&request.target()[1..])) {
            Ok(bytes) => whole(&bytes),
            Err(_) => answer(&["HTTP/1.1 404 Not Found", "Content-Length: 0"], b""),
        }]
    });
    let client = Program::client("client", &[]);
    let url = format!("http://{}/repo/{path}", upstream.addr());
    std::thread::scope(|scope| {
        let all: Vec<_> =
            (0..CLIENTS).map(|_| scope.spawn(|| through(&client, &url, &[]))).collect();
        wait_for("all to wait", || {
            let busy = client.metric("torrent_cache_http_workers{state=\"busy\"}");
            (busy >= i64::try_from(CLIENTS).expect("a few")).then_some(())
        });
        // A worker is busy a moment before its request joins the others: nothing tells when it has.
        std::thread::sleep(Duration::from_millis(500));
        *gate.0.lock().expect("no panic") = true;
        gate.1.notify_all();
        for one in all {
            let (status, bytes) = one.join().expect("no panic");
            assert!(status == 200 && bytes == wanted, "{status}: {}", client.log());
        }
    });
    let requests = upstream.seen();
    let asked = requests.iter().filter(|request| request.target().ends_with("/superblock"));
    assert_eq!(asked.count(), 1, "{}", client.log());
}

/// The most memory that the process ever had, in bytes.
pub fn peak_memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.expect("a number of KiB") << 10
}

/// The last is longer than libostree would take.
#[test]
fn superblocks_of_hostile_size_do_not_add_up_in_memory() {
    const LENS: [u64; 5] = [120 << 20, 120 << 20, 120 << 20, 120 << 20, 200 << 20];
    let site = Site::start();
    let paths: Vec<String> = (0..LENS.len())
        .map(|number| format!("repo/deltas/{number}A/{}A/superblock", "a".repeat(40)))
        .collect();
    for (path, len) in paths.iter().zip(LENS) {
        let path = site.root().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        let file = File::create(path).expect("disk has room");
        file.set_len(len).expect("it has holes");
    }
    let mut client = Program::client("client", &[]);
    std::thread::scope(|scope| {
        for (path, len) in paths.iter().zip(LENS) {
            let url = site.url(path);
            let client = &client;
            // They are no superblocks, so they are passed on as they are.
            scope.spawn(move || {
                let (status, bytes) = through(client, &url, &[]);
                assert_eq!((status, bytes.len() as u64), (200, len), "{}", client.log());
            });
        }
    });
    let peak = peak_memory(client.process().pid());
    assert!(peak < 600 << 20, "{} MiB", peak >> 20);
}

/// A connection that the system does not read ahead for.
fn with_little_room(addr: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("a size");
    socket.connect(&addr.into()).expect("it listens");
    socket.into()
}

/// An object is sent while it comes, so as fast as the host that asked first takes it; libostree
/// gives up after 30 seconds of silence.
#[test]
fn who_pulls_slowly_holds_up_nobody_else() {
    let (path, bytes) = archived(&vec![7; 24 * MIB], 0x8000);
    let upstream = Origin::always(vec![whole(&bytes)]);
    let url = format!("http://{}/repo/{path}", upstream.addr());
    let client = Program::client("client", &[]);
    let mut slow = with_little_room(client.addr());
    slow.set_read_timeout(Some(PATIENCE)).expect("a time to wait");
    let request = format!("GET {url} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    slow.write_all(request.as_bytes()).expect("it reads");
    assert_eq!(slow.peek(&mut [0]).expect("an answer"), 1, "{}", client.log());
    let silence = ["--speed-limit", "1000", "--speed-time", "30"];
    let (status, got) = through(&client, &url, &silence);
    assert!(status == 200 && got == bytes, "{status}, {} bytes: {}", got.len(), client.log());
    let mut answer = Vec::new();
    slow.read_to_end(&mut answer).expect("the rest");
    assert!(answer.ends_with(&bytes), "{} bytes", answer.len());
}

/// Files that may change, as long as they may be to be kept, for clients that do not read.
#[test]
fn long_files_do_not_add_up_in_memory() {
    const LEN: usize = 31 << 20;
    const FILES: usize = 12;
    let upstream = Origin::always(vec![whole(&vec![0; LEN])]);
    let mut client = Program::client("client", &[]);
    let mut waiting: Vec<TcpStream> = (0..FILES)
        .map(|number| {
            let path = format!("repo/delta-indexes/{}A/{}A.index", number % 10, "a".repeat(40));
            let target = format!("http://{}/{number}/{path}", upstream.addr());
            let mut stream = with_little_room(client.addr());
            stream.set_read_timeout(Some(PATIENCE)).expect("a time to wait");
            let request = format!("GET {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).expect("it reads");
            stream
        })
        .collect();
    // Who has the first bytes is served from memory, or past it.
    for stream in &mut waiting {
        assert_eq!(stream.peek(&mut [0]).expect("an answer"), 1, "{}", client.log());
    }
    let peak = peak_memory(client.process().pid());
    for mut stream in waiting {
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("the rest");
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", client.log());
        assert!(answer.len() > LEN && answer.len() < LEN + 4096, "{} bytes", answer.len());
    }
    assert!(peak < 192 << 20, "{} MiB", peak >> 20);
    assert!(upstream.seen().len() > FILES, "all were taken into memory");
}

/// A store that has no room for the delta: it is passed on, and checked as it would be.
#[test]
fn a_delta_without_room_is_passed_on_and_checked() {
    let world = World::start();
    let (commit, files) = with_delta(&world.repository, 71);
    let upstream = FaultProxy::start(world.site.addr());
    let url = format!("{}/repo", upstream.url());
    let client = Program::client("client", &[("STORAGE_MAX", "2000000")]);
    pull(&url, &client, &commit, &files);
    assert_eq!(client.metric("torrent_cache_store_blobs"), 0);
    // Not for each part again.
    assert!(asked(&upstream, "/superblock") <= 2, "{}", client.log());
    let mut parts = world.repository.parts();
    for part in &parts {
        assert_eq!(asked(&upstream, part), 1, "{part}");
    }
    // One that fits in a single write is not begun before it is right: libostree asks again.
    let len = |part: &String| file_len(&world.repository.path().join(part));
    parts.sort_by_key(len);
    let (small, large) = (&parts[0], &parts[parts.len() - 1]);
    assert!(len(small) < MIB as u64 / 4 && len(large) > MIB as u64 / 2, "{parts:?}");
    upstream.fail(small, 1, Fault::Flip { at: 100 });
    pull(&url, &client, &commit, &files);
    assert_eq!((client.metric(MISMATCHES), asked(&upstream, small)), (1, 3));
    upstream.fail(large, usize::MAX, Fault::Flip { at: 100 });
    let finished = Host::new(&url, proxy(&client)).try_pull(&["--require-static-deltas", "main"]);
    let output = finished.output.to_lowercase();
    assert!(!finished.status.success(), "{output}");
    assert!(!output.contains("corrupt") && !output.contains("mismatch"), "{output}");
    assert!(client.metric(MISMATCHES) > 1);
    let (status, bytes) = through(&client, &format!("{url}/{large}"), &["--range", "0-99"]);
    assert_eq!((status, bytes.len()), (206, 100));
}

fn file_len(path: &Path) -> u64 {
    fs::metadata(path).expect("it is there").len()
}
