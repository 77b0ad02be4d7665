//! `torrent-cache tracker` from outside: real clients, its etcd, its start and its end.

mod support;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use support::process::{Finished, Process};
use support::torrent_cache::{Program, binary};
use support::{PATIENCE, free_port, get, loopback, temp_dir, wait_for, wait_longer};
use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::{Sha1Hash, hex, sha256};
use torrent_cache::base::sys;
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::geometry::Geometry;
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::proto::peer::PeerId;
use torrent_cache::proto::tracker::{AnnounceEvent, AnnounceRequest, AnnounceResponse};
use torrent_cache::proto::tracker_udp::{Family, Request, Response};
use torrent_cache::tracker::{Sockets, Tracker};

/// A tracker without an etcd.
fn tracker_alone() -> Program {
    Program::tracker("tracker", &[("NO_ETCD", "1")])
}

fn request(port: u16, left: u64) -> AnnounceRequest {
    AnnounceRequest {
        info_hash: Sha1Hash([7; 20]),
        peer_id: PeerId([1; 20]),
        port,
        uploaded: 0,
        downloaded: 0,
        left,
        event: AnnounceEvent::Started,
        numwant: None,
        key: None,
        ip: None,
        tracker_id: None,
    }
}

fn announce_http(url: &str, request: &AnnounceRequest) -> AnnounceResponse {
    let answer = get(&format!("{url}?{}", request.to_query()), &[]).expect("it answers");
    assert_eq!(answer.status, 200);
    AnnounceResponse::from_bencode(&answer.body).expect("it is an answer")
}

/// A client of the UDP tracker.
struct UdpClient(UdpSocket);

impl UdpClient {
    fn new(tracker: SocketAddr) -> UdpClient {
        let any = if tracker.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
        let socket = UdpSocket::bind(any).expect("loopback has a free port");
        socket.connect(tracker).expect("an address of loopback");
        socket.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
        UdpClient(socket)
    }

    fn ask(&self, request: &Request) -> Response {
        let mut datagram = Vec::new();
        request.encode(&mut datagram);
        self.0.send(&datagram).expect("loopback takes it");
        self.receive()
    }

    fn receive(&self) -> Response {
        let mut answer = [0; 2048];
        let len = self.0.recv(&mut answer).expect("it answers");
        let v4 = self.0.local_addr().expect("it is bound").is_ipv4();
        let family = if v4 { Family::V4 } else { Family::V6 };
        Response::decode(&answer[..len], family).expect("it is an answer")
    }

    fn connect(&self) -> u64 {
        match self.ask(&Request::Connect { transaction: 1 }) {
            Response::Connect { transaction: 1, connection } => connection,
            other => panic!("{other:?}"),
        }
    }

    fn announce(&self, announce: AnnounceRequest) -> AnnounceResponse {
        let connection = self.connect();
        match self.ask(&Request::Announce { connection, transaction: 2, announce }) {
            Response::Announce { transaction: 2, announce } => announce,
            other => panic!("{other:?}"),
        }
    }
}

mod fronts {
    //! HTTP and UDP on one port.

    use super::*;

    #[test]
    fn who_announces_over_one_is_found_over_the_other() {
        let tracker = tracker_alone();
        let url = tracker.announce_url();
        announce_http(&url, &request(7001, 0));
        let udp = UdpClient::new(loopback(tracker.option("TRACKER_PORT").parse().expect("a port")));
        let answer = udp.announce(request(7002, 9));
        assert_eq!(answer.peers, [loopback(7001)]);
        assert_eq!((answer.seeders, answer.leechers), (1, 1));
        assert_eq!(announce_http(&url, &request(7001, 0)).peers, [loopback(7002)]);
        let stopped = AnnounceRequest { event: AnnounceEvent::Stopped, ..request(7002, 9) };
        udp.announce(stopped);
        assert_eq!(announce_http(&url, &request(7001, 0)).peers, []);

        let hashes = Request::Scrape {
            connection: udp.connect(),
            transaction: 3,
            info_hashes: vec![Sha1Hash([7; 20]), Sha1Hash([8; 20])],
        };
        let Response::Scrape { counts, .. } = udp.ask(&hashes) else { panic!("no scrape answer") };
        assert_eq!(counts.iter().map(|counts| counts.seeders).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(tracker.metric("torrent_cache_tracker_requests_total{protocol=\"http\"}"), 3);
        // Three announces and a scrape, each with its connect.
        assert_eq!(tracker.metric("torrent_cache_tracker_requests_total{protocol=\"udp\"}"), 6);
    }

    #[test]
    fn the_families_meet_their_own() {
        let address = "[::]:0".parse().expect("an address");
        let sockets = Sockets::bind(address).expect("a port is free");
        let tracker = Tracker::start(sockets, String::new).expect("threads can be started");
        let port = tracker.local_addr().port();
        let v6: SocketAddr = format!("[::1]:{port}").parse().expect("an address");
        for (left, number) in [(0, 0), (9, 1)] {
            let (over_v4, over_v6) = (UdpClient::new(loopback(port)), UdpClient::new(v6));
            let peers = [over_v4.announce(request(7001 + number, left)).peers];
            let others = [over_v6.announce(request(7001 + number, left)).peers];
            if number == 1 {
                assert_eq!(peers, [[loopback(7001)]]);
                assert_eq!(others, [["[::1]:7001".parse().expect("an address")]]);
            }
        }
        let url = format!("http://[::1]:{port}/announce");
        let answer = announce_http(&url, &request(7003, 9));
        assert!(answer.peers.len() == 2 && answer.peers.iter().all(SocketAddr::is_ipv6));
        assert_eq!((answer.seeders, answer.leechers), (2, 3), "counted together");
        tracker.stop(Time::now() + PATIENCE);
    }

    #[test]
    fn a_host_behind_address_translation_is_found_where_it_says() {
        let tracker = tracker_alone();
        let ip = Some(IpAddr::from([192, 168, 7, 9]));
        announce_http(&tracker.announce_url(), &AnnounceRequest { ip, ..request(7001, 0) });
        let answer = announce_http(&tracker.announce_url(), &request(7002, 9));
        assert_eq!(answer.peers, ["192.168.7.9:7001".parse().expect("an address")]);
    }

    #[test]
    fn forged_and_broken_datagrams_change_nothing() {
        let tracker = tracker_alone();
        let port = tracker.option("TRACKER_PORT").parse().expect("a port");
        let udp = UdpClient::new(loopback(port));
        let connection = udp.connect() ^ 1;
        let forged = Request::Announce { connection, transaction: 9, announce: request(7001, 0) };
        let answer = udp.ask(&forged);
        assert!(matches!(answer, Response::Error { transaction: 9, .. }), "{answer:?}");
        for junk in [&b""[..], b"x", &[0; 15], &[0xff; 98], &[0; 2000]] {
            udp.0.send(junk).expect("loopback takes it");
        }
        // Datagrams of one socket stay in order: the next answer is to the next request.
        assert_eq!(udp.announce(request(7002, 9)).peers, []);
    }

    #[test]
    fn of_many_datagrams_at_once_the_good_are_answered_in_order() {
        const COUNT: u32 = 300;
        let tracker = tracker_alone();
        let port = tracker.option("TRACKER_PORT").parse().expect("a port");
        let udp = UdpClient::new(loopback(port));
        let connection = udp.connect();
        let encoded = |request: &Request| {
            let mut datagram = Vec::new();
            request.encode(&mut datagram);
            datagram
        };
        // So few at a time that the kernel keeps all, and more than are received at once.
        for transactions in (0..COUNT).collect::<Vec<_>>().chunks(100) {
            for &transaction in transactions {
                let port = 7000 + u16::try_from(transaction).expect("few");
                let announce = AnnounceRequest { numwant: Some(0), ..request(port, 9) };
                // Every third is forged.
                let connection = connection ^ u64::from(transaction % 3 == 0);
                let good = encoded(&Request::Announce { connection, transaction, announce });
                let junk = [&b""[..], &good[..97], &[0; 16], &[0xff; 98], &[0; 2000]];
                for datagram in [junk[transaction as usize % junk.len()], &good] {
                    udp.0.send(datagram).expect("loopback takes it");
                }
            }
            for &expected in transactions {
                match udp.receive() {
                    Response::Announce { transaction, announce } => {
                        assert_eq!((transaction, transaction % 3 != 0), (expected, true));
                        assert_eq!(announce.leechers, expected - expected / 3);
                    }
                    Response::Error { transaction, .. } => {
                        assert_eq!((transaction, transaction % 3), (expected, 0));
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        wait_for("the figures", || {
            (tracker.metric("torrent_cache_tracker_peers") == 200).then_some(())
        });
    }

    #[test]
    fn many_askers_at_once_are_each_answered_and_a_stop_is_clean() {
        let mut tracker = tracker_alone();
        let address = loopback(tracker.option("TRACKER_PORT").parse().expect("a port"));
        // Each has a port of its own, so all sockets of the tracker get some.
        let askers: Vec<UdpClient> = (0..64).map(|_| UdpClient::new(address)).collect();
        std::thread::scope(|scope| {
            for part in askers.chunks(8) {
                scope.spawn(move || {
                    for (round, asker) in
                        (0..8).flat_map(|round| part.iter().map(move |a| (round, a)))
                    {
                        let port = asker.0.local_addr().expect("it is bound").port();
                        let answer = asker.announce(request(port, 9));
                        assert!(answer.peers.iter().all(|peer| *peer != loopback(port)));
                        assert!(answer.leechers >= 1 && answer.leechers <= 64, "{round}");
                    }
                });
            }
        });
        let answer = askers[0].announce(request(7000, 9));
        assert_eq!((answer.leechers, answer.peers.len()), (65, 50));
        // Status 0 also says that no thread was left.
        assert!(tracker.stop().success());
    }

    #[test]
    fn bad_requests_over_http_get_a_reason_and_the_connection_goes_on() {
        let tracker = tracker_alone();
        let port = tracker.option("TRACKER_PORT").parse().expect("a port");
        let mut stream = TcpStream::connect(loopback(port)).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
        for target in ["/announce", "/announce?info_hash=x&peer_id=y&port=1", "/scrape"] {
            write!(stream, "GET {target} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it is open");
            let answer = read_answer(&mut stream);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            assert!(answer.contains("14:failure reason"), "{answer}");
        }
        for (head, status) in [
            ("GET /favicon.ico HTTP/1.1", "404"),
            ("POST /announce HTTP/1.1", "405"),
            ("GET http://other/ HTTP/1.1", "200"),
        ] {
            write!(stream, "{head}\r\nHost: x\r\n\r\n").expect("it is open");
            assert_eq!(read_answer(&mut stream).split(' ').nth(1), Some(status), "{head}");
        }
    }

    /// One answer with a `Content-Length`.
    fn read_answer(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&answer).to_ascii_lowercase();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let len = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() == len.expect("it has a length").parse::<usize>().expect("a number") {
                    return String::from_utf8_lossy(&answer).into_owned();
                }
            }
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("the answer goes on");
            answer.push(byte[0]);
        }
    }

    #[test]
    fn people_see_a_page() {
        let tracker = tracker_alone();
        announce_http(&tracker.announce_url(), &request(7001, 0));
        let url = tracker.announce_url().replace("/announce", "/");
        let page = get(&url, &[]).expect("it answers").text();
        assert!(page.contains("Seeders</th><td>1<"), "{page}");
        assert!(page.contains("an etcd that runs elsewhere") && !page.contains("<script"));
    }
}

mod clients {
    //! Other people's software finds its peers through us.

    use super::*;

    const BLOB_LEN: usize = 1 << 20;

    /// A blob in `dir/seeder`, and its `.torrent` in `dir`.
    fn blob(dir: &Path) -> String {
        let bytes: Vec<u8> = (0..BLOB_LEN).map(|at| (at * at / 7 % 251).to_le_bytes()[0]).collect();
        let digest = format!("sha256:{}", hex(&sha256(&bytes)));
        let name = BlobName::parse(&digest).expect("it is a digest");
        let len = bytes.len() as u64;
        let geometry = Geometry::for_blob(len).expect("the length is within bounds");
        let pieces = bytes.chunks(geometry.piece_len() as usize).map(Sha1Hash::of).collect();
        let metainfo = Metainfo::of_blob(&name, len, pieces).expect("one piece is within bounds");
        for folder in ["seeder", "leecher"] {
            fs::create_dir(dir.join(folder)).expect("the folder is ours");
        }
        let file = name.file_stem();
        fs::write(dir.join("seeder").join(&file), bytes).expect("the folder is ours");
        fs::write(dir.join("blob.torrent"), metainfo.encode()).expect("the folder is ours");
        file
    }

    fn aria2(dir: &Path, folder: &str, tracker: &str) -> Command {
        let mut command = Command::new("aria2c");
        command.current_dir(dir).env_remove("http_proxy").args([
            "--no-conf=true",
            "--enable-dht=false",
            "--bt-enable-lpd=false",
            "--enable-peer-exchange=false",
            "--check-integrity=true",
            &format!("--bt-tracker={tracker}"),
            &format!("--listen-port={}", free_port()),
            &format!("--dir={folder}"),
        ]);
        let end = if folder == "seeder" { "--seed-ratio=0.0" } else { "--seed-time=0" };
        command.args([end, "-T", "blob.torrent"]);
        command
    }

    #[test]
    fn aria2_finds_aria2() {
        let tracker = tracker_alone();
        let dir = temp_dir();
        let file = blob(dir.path());
        let url = tracker.announce_url();
        let _seeder = Process::spawn("seeder", aria2(dir.path(), "seeder", &url), "aria2");
        wait_for("the seeder to announce", || {
            let page = get(&url.replace("/announce", "/"), &[]).expect("it answers").text();
            page.contains("Seeders</th><td>1<").then_some(())
        });
        let leecher = Process::run("leecher", aria2(dir.path(), "leecher", &url), "aria2");
        assert!(leecher.status.success(), "{}", leecher.output);
        let read = |folder| fs::read(dir.path().join(folder).join(&file)).expect("it is there");
        assert!(read("seeder") == read("leecher"));
    }

    /// Announces twice over each protocol with libtorrent and prints the answers' peer counts.
    const LIBTORRENT: &str = r#"
import libtorrent, sys, time
session = libtorrent.session({
    'listen_interfaces': '127.0.0.1:%s' % sys.argv[1], 'alert_mask': 0x7fffffff,
    'enable_dht': False, 'enable_lsd': False, 'enable_upnp': False, 'enable_natpmp': False,
    'allow_multiple_connections_per_ip': True})
for url in sys.argv[3:]:
    params = libtorrent.add_torrent_params()
    params.ti = libtorrent.torrent_info(sys.argv[2] + '/blob.torrent')
    params.save_path, params.trackers = sys.argv[2] + '/leecher', [url]
    handle = session.add_torrent(params)
    until, seen = time.time() + 30, None
    while time.time() < until and seen is None:
        session.wait_for_alert(200)
        for alert in session.pop_alerts():
            if isinstance(alert, libtorrent.tracker_reply_alert):
                seen = alert.num_peers
            if isinstance(alert, libtorrent.tracker_error_alert):
                print(alert.message())
    print(url.split(':')[0], seen)
    session.remove_torrent(handle)
    until = time.time() + 30
    while time.time() < until and not any(
            isinstance(alert, libtorrent.torrent_removed_alert) for alert in session.pop_alerts()):
        session.wait_for_alert(200)
"#;

    #[test]
    fn libtorrent_understands_both_protocols() {
        let tracker = tracker_alone();
        let dir = temp_dir();
        blob(dir.path());
        let metainfo = fs::read(dir.path().join("blob.torrent")).expect("it was written");
        let info_hash = Metainfo::decode(&metainfo).expect("it is ours").info_hash();
        for port in [7001, 7002] {
            let announce = AnnounceRequest { info_hash, ..request(port, 0) };
            announce_http(&tracker.announce_url(), &announce);
        }
        // Not another one of PATH, which does not have Debian's packages.
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-c", LIBTORRENT, &free_port().to_string()]).arg(dir.path());
        command.args([tracker.announce_url(), tracker.announce_url_udp()]);
        let run = Process::run("libtorrent", command, "python3-libtorrent");
        assert!(run.output.contains("http 2\n"), "{}", run.output);
        assert!(run.output.contains("udp 2\n"), "{}", run.output);
    }
}

mod etcd {
    //! The etcd beside it.

    use super::*;

    /// The process that runs on the storage of `tracker`, if any does.
    fn pid(tracker: &Program) -> Option<u32> {
        let data = format!("{}/etcd", tracker.option("STORAGE"));
        let processes = fs::read_dir("/proc").expect("it is Linux").flatten();
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|argument| argument == data.as_bytes())
        })
    }

    fn wait_until_ready(tracker: &Program) {
        wait_for("etcd to be ready", || (tracker.admin("/ready").status == 200).then_some(()));
    }

    fn call(tracker: &Program, path: &str, body: &str) -> String {
        let url = format!("http://127.0.0.1:{}{path}", tracker.option("ETCD_PORT"));
        let agent = ureq::Agent::config_builder().proxy(None).build().new_agent();
        let mut answer = agent.post(url).send(body).expect("etcd answers");
        answer.body_mut().read_to_string().expect("etcd answers in UTF-8")
    }

    #[test]
    fn it_comes_back_after_a_crash_with_what_it_knew() {
        let tracker = Program::tracker("tracker", &[]);
        wait_until_ready(&tracker);
        let first = pid(&tracker).expect("etcd runs");
        // "a" and "b" in base64.
        call(&tracker, "/v3/kv/put", r#"{"key":"YQ==","value":"Yg=="}"#);
        sys::kill(first, libc::SIGKILL).expect("it is a child of our child");
        wait_for("it to be started again", || pid(&tracker).filter(|pid| *pid != first));
        assert_eq!(tracker.metric("torrent_cache_etcd_restarts_total"), 1);
        wait_until_ready(&tracker);
        let answer = call(&tracker, "/v3/kv/range", r#"{"key":"YQ=="}"#);
        assert!(answer.contains(r#""value":"Yg==""#), "{answer}");
        assert!(tracker.log().contains("etcd ended: signal: 9 (SIGKILL)"), "{}", tracker.log());
    }

    /// Five starts, with pauses between them.
    const EMPTYING: Duration = Duration::from_secs(180);

    /// Meanwhile `busy` is done again and again.
    fn wait_until_emptied(tracker: &Program, mut busy: impl FnMut()) {
        wait_longer(EMPTYING, "a new etcd", || {
            busy();
            tracker.log().contains("etcd ends again and again").then_some(())
        });
        wait_longer(EMPTYING, "etcd to be ready", || {
            (tracker.admin("/ready").status == 200).then_some(())
        });
        call(tracker, "/v3/kv/put", r#"{"key":"Yg==","value":"Yg=="}"#);
    }

    #[test]
    fn it_starts_without_its_data_if_that_is_broken() {
        let mut tracker = Program::tracker("tracker", &[]);
        wait_until_ready(&tracker);
        call(&tracker, "/v3/kv/put", r#"{"key":"YQ==","value":"Yg=="}"#);
        assert!(tracker.stop().success());
        let database = format!("{}/etcd/member/snap/db", tracker.option("STORAGE"));
        fs::write(&database, b"no database").expect("it can be written");
        tracker.start_again();
        let why = wait_for("a reason", || {
            let answer = tracker.admin("/ready");
            let text = answer.text();
            (answer.status == 503 && text.contains("failed to open database")).then_some(text)
        });
        println!("{why}");
        wait_until_emptied(&tracker, || {});
        let answer = call(&tracker, "/v3/kv/range", r#"{"key":"YQ=="}"#);
        assert!(!answer.contains("kvs"), "{answer}");
    }

    #[test]
    fn it_starts_without_its_data_if_that_fills_the_disk() {
        // Its log takes 128 MiB of it from the first.
        let tracker = Program::tracker("tracker", &[("DISK", "200000000")]);
        wait_until_ready(&tracker);
        let agent =
            ureq::Agent::config_builder().proxy(None).timeout_global(Some(PATIENCE / 10)).build();
        let agent = agent.new_agent();
        let url = format!("http://127.0.0.1:{}/v3/kv/put", tracker.option("ETCD_PORT"));
        let value = "YWJj".repeat(300_000);
        let mut number = 0;
        wait_until_emptied(&tracker, || {
            number += 1;
            // Keys of four characters are base64 as they are.
            let put = format!(r#"{{"key":"{number:04}","value":"{value}"}}"#);
            let _ = agent.post(&url).send(put);
        });
        assert!(tracker.log().contains("no space left on device"), "{}", tracker.log());
    }

    #[test]
    fn it_stops_with_us() {
        let mut tracker = Program::tracker("tracker", &[]);
        wait_until_ready(&tracker);
        assert!(pid(&tracker).is_some());
        let status = tracker.stop();
        // Status 0 also says that no thread was left.
        assert!(status.success(), "{status}");
        assert_eq!(pid(&tracker), None);
    }

    #[test]
    fn it_stops_while_etcd_is_frozen() {
        let mut tracker = Program::tracker("tracker", &[]);
        wait_until_ready(&tracker);
        sys::kill(pid(&tracker).expect("etcd runs"), libc::SIGSTOP).expect("it is there");
        assert!(tracker.stop().success());
        assert_eq!(pid(&tracker), None);
    }

    #[test]
    fn a_second_signal_ends_us_at_once() {
        let mut tracker = Program::tracker("tracker", &[]);
        wait_until_ready(&tracker);
        let frozen = pid(&tracker).expect("etcd runs");
        sys::kill(frozen, libc::SIGSTOP).expect("it is there");
        let ours = tracker.process().pid();
        sys::kill(ours, libc::SIGTERM).expect("it is our child");
        tracker.process().wait_until("it says so", |log| log.contains("stopping").then_some(()));
        sys::kill(ours, libc::SIGTERM).expect("it waits for etcd");
        let status = tracker.process().wait(PATIENCE);
        sys::kill(frozen, libc::SIGKILL).expect("it is frozen");
        assert_eq!(status.code(), Some(128 + libc::SIGTERM));
    }

    #[test]
    fn it_does_not_outlive_us() {
        let mut tracker = Program::tracker("tracker", &[]);
        wait_until_ready(&tracker);
        tracker.crash();
        wait_for("etcd to be gone", || pid(&tracker).is_none().then_some(()));
    }

    #[test]
    fn peers_are_served_while_it_is_away() {
        let dir = temp_dir();
        let script = dir.path().join("etcd");
        let text = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'etcd Version: 0' && exit\n\
            echo '{\"level\":\"fatal\",\"msg\":\"no luck\"}' >&2; exit 3\n";
        fs::write(&script, text).expect("the folder is ours");
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&script, mode).expect("the file is ours");
        let binary = script.display().to_string();
        let mut tracker =
            Program::tracker_with_etcd_to_come("tracker", &[("ETCD_BINARY", &binary)]);
        let words = "etcd ended: exit status: 3, after `no luck`";
        wait_for("the end of etcd to be seen", || tracker.log().contains(words).then_some(()));
        let answer = tracker.admin("/ready");
        assert_eq!((answer.status, tracker.admin("/health").status), (503, 200));
        announce_http(&tracker.announce_url(), &request(7001, 0));
        assert!(tracker.stop().success());
    }
}

mod options {
    //! What can be wrong before it starts is one line that names the option, and status 2.

    use super::*;

    /// Runs the program with `options` over ones that work, and without any other.
    fn run(arguments: &[&str], options: &[(&str, &str)]) -> Finished {
        let dir = temp_dir();
        let etcd_port = free_port().to_string();
        let mut command = Command::new(binary());
        command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").expect("a PATH"));
        command.env("STORAGE", dir.path()).env("INTERFACE", "127.0.0.1").env("TRACKER_PORT", "0");
        command.env("ADMIN", "127.0.0.1:0").env("ETCD_PORT", etcd_port);
        command.envs(options.iter().copied());
        let finished = Process::run("torrent-cache", command, "");
        let left = fs::read_dir(dir.path().join("etcd")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "etcd was not started");
        finished
    }

    /// Runs a tracker that cannot start and returns the line that says why.
    fn refused(options: &[(&str, &str)]) -> String {
        let finished = run(&["tracker"], options);
        assert_eq!(finished.status.code(), Some(2), "{}", finished.output);
        assert_eq!(finished.output.lines().count(), 1, "{}", finished.output);
        finished.output
    }

    #[test]
    fn a_missing_etcd_says_how_to_get_one() {
        let line = refused(&[("ETCD_BINARY", "no-such-etcd")]);
        assert!(line.starts_with("torrent-cache: ETCD_BINARY=no-such-etcd: not found: "), "{line}");
        for way in ["apt-get install etcd-server", "ETCD_BINARY", "NO_ETCD"] {
            assert!(line.contains(way), "{line}");
        }
        let line = refused(&[("ETCD_BINARY", "true")]);
        assert_eq!(line, "torrent-cache: ETCD_BINARY=true: is no etcd\n");
    }

    #[test]
    fn a_taken_port_is_named() {
        let tcp = TcpListener::bind(loopback(0)).expect("loopback has a free port");
        let address = tcp.local_addr().expect("it is bound");
        let port = address.port().to_string();
        for (name, value) in
            [("TRACKER_PORT", &port), ("ETCD_PORT", &port), ("ADMIN", &address.to_string())]
        {
            let line = refused(&[(name, value)]);
            // "Address already in use", or without "already": each libc has words of its own.
            let expected = format!("torrent-cache: {name}={value}: Address ");
            assert!(line.starts_with(&expected) && line.contains(" in use "), "{line}");
        }
        let udp = UdpSocket::bind(loopback(0)).expect("loopback has a free port");
        let port = udp.local_addr().expect("it is bound").port().to_string();
        let line = refused(&[("TRACKER_PORT", &port)]);
        assert!(line.starts_with(&format!("torrent-cache: TRACKER_PORT={port}: Addr")), "{line}");
    }

    #[test]
    fn bad_values_are_named() {
        for (name, value) in [
            ("TRACKER_PORT", "65536"),
            ("ETCD_PORT", "0"),
            ("INTERFACE", "localhost"),
            ("INTERFACE", "192.0.2.1"),
            ("ADMIN", "6970"),
            ("STORAGE", "/dev/null"),
        ] {
            let line = refused(&[(name, value)]);
            assert!(line.starts_with(&format!("torrent-cache: {name}={value}: ")), "{line}");
        }
    }

    #[test]
    fn the_commands_are_known() {
        assert_eq!(run(&[], &[]).status.code(), Some(2));
        assert_eq!(run(&["trucker"], &[]).status.code(), Some(2));
        assert_eq!(run(&["tracker", "--no-such-flag"], &[]).status.code(), Some(2));
        let version = run(&["--version"], &[]);
        assert_eq!(version.output, concat!("torrent-cache ", env!("CARGO_PKG_VERSION"), "\n"));
        for arguments in [&["--help"][..], &["tracker", "--help"], &["client", "--help"]] {
            let help = run(arguments, &[]);
            assert!(
                help.status.success() && help.output.starts_with("torrent-cache ")
                    || help.output.starts_with("Usage: torrent-cache "),
                "{}",
                help.output
            );
        }
    }
}
