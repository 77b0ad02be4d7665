//! The server against clients of every kind, over real sockets.

mod tls;
mod tunnel;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;

use socket2::{Domain, Socket, Type};

use super::*;
use crate::net::tcp;
use crate::proto::http1::{BodyLen, Headers, Method, ResponseHead, Target};

/// More than two buffers, and not a multiple of one.
const FILE_LEN: usize = 1_000_003;
const PATIENCE: Duration = Duration::from_secs(10);

/// What the test's handler does, by path.
struct Answers {
    served: AtomicUsize,
    /// `FILE_LEN` bytes of `file_bytes`.
    file: std::fs::File,
    /// `/wait` says that it is there, then waits for a word.
    arrived: mpsc::Sender<()>,
    go: std::sync::Mutex<mpsc::Receiver<()>>,
}

impl Handler for Answers {
    fn handle(&self, exchange: &mut Exchange<'_>) -> Result<(), ExchangeError> {
        self.served.fetch_add(1, Ordering::Relaxed);
        let path = match &exchange.head().target {
            Target::Origin(path) => path.clone(),
            Target::Authority { port, .. } => {
                let upstream = tcp::connect((Ipv4Addr::LOCALHOST, *port).into(), PATIENCE)
                    .map_err(ExchangeError::Client)?;
                return exchange.tunnel(upstream, PATIENCE).map(drop);
            }
            other => format!("{other:?}"),
        };
        let none = Headers::new();
        match path.as_str() {
            "/hello" => exchange.respond(200, &none, b"hello"),
            "/silent" => Ok(()),
            "/error" => Err(ExchangeError::Cut("on purpose".to_owned())),
            "/panic" => panic!("on purpose"),
            "/204" => exchange.respond(204, &none, b""),
            "/chunks" => {
                exchange.start(200, &none, BodyLen::Chunked)?;
                exchange.send(b"one")?;
                exchange.send(b"two")?;
                exchange.finish()
            }
            "/cut/length" | "/cut/chunked" | "/cut/panic" => {
                let known = path != "/cut/chunked";
                let len = if known { BodyLen::Known(10) } else { BodyLen::Chunked };
                exchange.start(200, &none, len)?;
                exchange.send(b"half")?;
                assert!(path != "/cut/panic", "on purpose");
                Err(ExchangeError::Cut("on purpose".to_owned()))
            }
            "/short" => {
                exchange.start(200, &none, BodyLen::Known(10))?;
                exchange.send(b"half")
            }
            "/file" => {
                let len = FILE_LEN as u64 - 1;
                exchange.start(200, &none, BodyLen::Known(len))?;
                exchange.send_file(&self.file, 1, len)?;
                exchange.finish()
            }
            "/file/chunked" => {
                exchange.start(200, &none, BodyLen::Chunked)?;
                exchange.send_file(&self.file, 0, 600_000)?;
                exchange.send_file(&self.file, 600_000, FILE_LEN as u64 - 600_000)?;
                exchange.finish()
            }
            "/file/short" => {
                exchange.start(200, &none, BodyLen::Known(FILE_LEN as u64 + 1))?;
                exchange.send_file(&self.file, 0, FILE_LEN as u64 + 1)
            }
            "/echo" => {
                let mut body = Vec::new();
                exchange.body().read_to_end(&mut body).map_err(ExchangeError::Client)?;
                exchange.respond(200, &none, &body)
            }
            "/wait" => {
                self.arrived.send(()).expect("the test listens");
                self.go.lock().expect("no test panics here").recv().expect("the test speaks");
                exchange.respond(200, &none, b"waited")
            }
            _ => exchange.respond(404, &none, path.as_bytes()),
        }
    }
}

fn file_bytes() -> Vec<u8> {
    let mut bytes = vec![0; FILE_LEN];
    crate::base::rng::Rng::seeded(1).fill(&mut bytes);
    bytes
}

struct Rig {
    server: Server,
    answers: Arc<Answers>,
    arrived: mpsc::Receiver<()>,
    go: mpsc::Sender<()>,
}

fn rig(change: impl FnOnce(&mut ServerConfig)) -> Rig {
    let (arrived_sender, arrived) = mpsc::channel();
    let (go, go_receiver) = mpsc::channel();
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&file_bytes()).unwrap();
    let answers = Arc::new(Answers {
        served: AtomicUsize::new(0),
        file,
        arrived: arrived_sender,
        go: std::sync::Mutex::new(go_receiver),
    });
    let listener = tcp::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    let mut config = ServerConfig::new("test", listener);
    change(&mut config);
    let handler: Arc<dyn Handler> = Arc::<Answers>::clone(&answers);
    Rig { server: Server::start(config, handler).unwrap(), answers, arrived, go }
}

impl Rig {
    fn connect(&self) -> TcpStream {
        let stream = tcp::connect(self.server.local_addr(), PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends `bytes` and reads until the server closes.
    fn all(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").into_bytes()
}

fn last_get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n").into_bytes()
}

/// Reads one answer with a length.
fn answer(stream: &mut BufReader<TcpStream>) -> (ResponseHead, Vec<u8>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        assert!(stream.read_until(b'\n', &mut head).unwrap() > 0, "closed: {head:?}");
    }
    let (head, _) = ResponseHead::decode(&head).unwrap().unwrap();
    let mut body = Vec::new();
    if let BodyLen::Known(len) = head.framing(&Method::Get).unwrap() {
        stream.take(len).read_to_end(&mut body).unwrap();
    }
    (head, body)
}

#[test]
fn a_connection_serves_one_request_after_another() {
    let rig = rig(|_| {});
    let mut stream = BufReader::new(rig.connect());
    for _ in 0..3 {
        stream.get_mut().write_all(&get("/hello")).unwrap();
        let (head, body) = answer(&mut stream);
        assert_eq!((head.status, body.as_slice()), (200, &b"hello"[..]));
        assert!(head.headers.get("date").is_some() && head.headers.get("connection").is_none());
    }
}

#[test]
fn http_1_0_is_closed_unless_it_asks_otherwise() {
    let rig = rig(|_| {});
    let text = rig.all(b"GET /chunks HTTP/1.0\r\n\r\n");
    assert!(text.ends_with("\r\n\r\nonetwo") && text.contains("Connection: close"), "{text}");
    let mut stream = BufReader::new(rig.connect());
    for _ in 0..2 {
        stream
            .get_mut()
            .write_all(b"GET /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            .unwrap();
        let (head, _) = answer(&mut stream);
        assert!(head.headers.contains_token("connection", "keep-alive"));
    }
}

#[test]
fn who_says_that_it_was_the_last_request_is_not_waited_for() {
    let rig = rig(|_| {});
    let mut stream = rig.connect();
    stream.write_all(&last_get("/hello")).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with("hello"), "{answer}");
    // It is still open on this side, and nobody waits until it is not.
    loop {
        let state = rig.server.shared.state.lock();
        assert!(state.parked.is_empty());
        if state.open.is_empty() {
            break;
        }
        drop(state);
        std::thread::yield_now();
    }
}

#[test]
fn bodies_are_framed_as_the_method_and_the_status_want() {
    let rig = rig(|_| {});
    let text = rig.all(&last_get("/chunks"));
    assert!(text.ends_with("\r\n\r\n3\r\none\r\n3\r\ntwo\r\n0\r\n\r\n"), "{text}");
    let head = b"HEAD /hello HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let text = rig.all(head);
    assert!(text.contains("Content-Length: 5\r\n") && text.ends_with("\r\n\r\n"), "{text}");
    let text = rig.all(&last_get("/204"));
    assert!(!text.contains("Content-Length"), "{text}");
    let text = rig.all(&last_get("/silent"));
    assert!(text.starts_with("HTTP/1.1 500 "), "{text}");
    let text = rig.all(&last_get("/error"));
    assert!(text.starts_with("HTTP/1.1 500 "), "{text}");
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let rig = rig(|_| {});
    let stream = rig.connect();
    let mut writer = stream.try_clone().unwrap();
    let one = get("/hello");
    let count = (1 << 20) / one.len();
    let sender = std::thread::spawn(move || {
        writer.write_all(&one.repeat(count)).unwrap();
        writer.write_all(&get("/last")).unwrap();
    });
    let mut stream = BufReader::new(stream);
    for _ in 0..count {
        assert_eq!(answer(&mut stream).1, b"hello");
    }
    assert_eq!(answer(&mut stream).1, b"/last");
    sender.join().unwrap();
}

#[test]
fn request_bodies_are_read_drained_or_refused() {
    let rig = rig(|_| {});
    let mut stream = BufReader::new(rig.connect());
    let chunked = b"POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n\
        3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    stream.get_mut().write_all(chunked).unwrap();
    assert_eq!(answer(&mut stream).1, b"abcdefg");
    // The handler of this one does not look at the body, and the next request still is one.
    let ignored = b"POST /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nGET /evil";
    stream.get_mut().write_all(ignored).unwrap();
    assert_eq!(answer(&mut stream).1, b"hello");
    stream.get_mut().write_all(&get("/next")).unwrap();
    assert_eq!(answer(&mut stream).1, b"/next");
    // A body beyond all bounds costs nothing: it is never read, and no memory is reserved.
    let huge = b"POST /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000000000\r\n\r\n";
    stream.get_mut().write_all(huge).unwrap();
    assert_eq!(answer(&mut stream).1, b"hello");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "the connection is closed");
}

#[test]
fn a_client_that_asks_before_it_sends_is_told_to_go_on() {
    let rig = rig(|_| {});
    let mut stream = BufReader::new(rig.connect());
    let head =
        b"PUT /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    stream.get_mut().write_all(head).unwrap();
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
    stream.read_line(&mut line).unwrap();
    stream.get_mut().write_all(b"abc").unwrap();
    assert_eq!(answer(&mut stream).1, b"abc");
    // Answered without the body: whether it comes is not known, so the connection ends.
    let head =
        b"PUT /hello HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n";
    stream.get_mut().write_all(head).unwrap();
    assert!(answer(&mut stream).0.headers.contains_token("connection", "close"));
}

#[test]
fn an_answer_that_failed_is_seen_as_cut() {
    let rig = rig(|_| {});
    for path in ["/cut/length", "/short", "/cut/panic"] {
        let text = rig.all(&get(path));
        assert!(text.contains("Content-Length: 10") && text.ends_with("\r\n\r\nhalf"), "{text}");
    }
    let text = rig.all(&get("/cut/chunked"));
    assert!(text.ends_with("\r\n\r\n4\r\nhalf"), "{text}");
    // Without a length only a reset tells.
    let mut stream = rig.connect();
    stream.write_all(b"GET /cut/chunked HTTP/1.0\r\n\r\n").unwrap();
    let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn a_panic_costs_one_connection() {
    let rig = rig(|config| config.workers_max = 1);
    let before = figures::THREAD_PANICS.value();
    assert_eq!(rig.all(&get("/panic")), "");
    // The one worker counts before it serves again, but after the connection is gone.
    assert!(rig.all(&last_get("/hello")).ends_with("hello"));
    assert!(figures::THREAD_PANICS.value() > before);
}

#[test]
fn malformed_requests_are_answered_and_closed() {
    let rig = rig(|_| {});
    for (request, status) in [
        (&b"GET / HTTP/1.1\r\n\r\n"[..], 400),
        (b"GET / HTTP/1.1\nHost: h\n\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 40\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
    ] {
        let text = rig.all(request);
        assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
    }
    assert_eq!(rig.answers.served.load(Ordering::Relaxed), 0);
}

#[test]
fn an_endless_head_is_refused_and_the_answer_arrives() {
    let rig = rig(|_| {});
    let endless = [b"GET / HTTP/1.1\r\nX: ", &b"a".repeat(1 << 20)[..]].concat();
    assert!(rig.all(&endless).starts_with("HTTP/1.1 431 "));
    let endless = [b"GET /", &b"a".repeat(1 << 20)[..]].concat();
    assert!(rig.all(&endless).starts_with("HTTP/1.1 414 "));
}

#[test]
fn slow_heads_hold_no_worker_and_get_408() {
    let rig = rig(|config| {
        config.workers_max = 1;
        config.head = Duration::from_millis(300);
    });
    let mut slow: Vec<TcpStream> = (0..20).map(|_| rig.connect()).collect();
    for stream in &mut slow {
        stream.write_all(b"GET /hello HTTP/1.1\r\nHo").unwrap();
    }
    // One worker is all there is.
    assert!(rig.all(&last_get("/hello")).ends_with("hello"));
    for mut stream in slow {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.starts_with("HTTP/1.1 408 "), "{text}");
    }
}

#[test]
fn silent_connections_are_closed_without_a_word() {
    let rig = rig(|config| config.idle = Duration::from_millis(50));
    assert_eq!(rig.all(b""), "");
    let mut half = rig.connect();
    half.write_all(b"GET /").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(half.read(&mut [0; 64]).unwrap(), 0, "half a head is no request");
}

#[test]
fn the_caps_hold_and_what_waits_longest_makes_room() {
    let few = rig(|config| config.per_address_max = 2);
    let mut kept = [few.connect(), few.connect()];
    for stream in &mut kept {
        // Served: it is in the tables.
        stream.write_all(&get("/hello")).unwrap();
        answer(&mut BufReader::new(stream.try_clone().unwrap()));
    }
    assert!(matches!(few.connect().read(&mut [0]), Ok(0) | Err(_)), "the third is closed");
    drop(kept);

    let full = rig(|config| config.connections_max = 1);
    let mut first = full.connect();
    first.write_all(&get("/hello")).unwrap();
    answer(&mut BufReader::new(first.try_clone().unwrap()));
    while rig_is_busy(&full) {
        std::thread::yield_now();
    }
    assert!(full.all(&last_get("/hello")).ends_with("hello"));
    assert_eq!(first.read(&mut [0]).unwrap(), 0, "the idle one made room");
}

#[test]
fn while_no_worker_is_free_connections_are_taken_in_all_the_same() {
    let rig = rig(|config| config.workers_max = 1);
    let mut waiting = rig.connect();
    waiting.write_all(&last_get("/wait")).unwrap();
    rig.arrived.recv().unwrap();
    let others: Vec<TcpStream> = (0..3).map(|_| rig.connect()).collect();
    for mut stream in &others {
        stream.write_all(&last_get("/hello")).unwrap();
    }
    while rig.server.shared.state.lock().open.len() < 4 {
        std::thread::yield_now();
    }
    rig.go.send(()).unwrap();
    let mut text = String::new();
    waiting.read_to_string(&mut text).unwrap();
    assert!(text.ends_with("waited"), "{text}");
    for mut stream in others {
        text.clear();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("hello"), "{text}");
    }
}

#[test]
fn one_address_never_has_all_workers() {
    let rig = rig(|config| config.workers_max = 4);
    let ask = |source: [u8; 4], path: &str| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((source, 0)).into()).unwrap();
        socket.connect_timeout(&rig.server.local_addr().into(), PATIENCE).unwrap();
        let mut stream: TcpStream = socket.into();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&last_get(path)).unwrap();
        stream
    };
    let mut all: Vec<TcpStream> = (0..8).map(|_| ask([127, 0, 0, 2], "/wait")).collect();
    (0..2).for_each(|_| rig.arrived.recv().unwrap());
    // Two are free, and the other six requests leave them alone.
    let mut text = String::new();
    ask([127, 0, 0, 3], "/hello").read_to_string(&mut text).unwrap();
    assert!(text.ends_with("hello"), "{text}");
    all.push(ask([127, 0, 0, 3], "/wait"));
    rig.arrived.recv().unwrap();
    assert_eq!(rig.answers.served.load(Ordering::Relaxed), 4);
    // Whoever waits gets its turn.
    (0..9).for_each(|_| rig.go.send(()).unwrap());
    (0..6).for_each(|_| rig.arrived.recv().unwrap());
    for mut stream in all {
        text.clear();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("waited"), "{text}");
    }
}

fn rig_is_busy(rig: &Rig) -> bool {
    rig.server.shared.state.lock().parked.is_empty()
}

#[test]
fn a_stop_lets_answers_end_and_leaves_nothing() {
    let rig = rig(|config| config.name = "stopping");
    // One that has sent nothing yet would still be the kernel's.
    let mut idle = rig.connect();
    idle.write_all(&get("/hello")).unwrap();
    answer(&mut BufReader::new(idle.try_clone().unwrap()));
    let mut stream = rig.connect();
    stream.write_all(&get("/wait")).unwrap();
    rig.arrived.recv().unwrap();
    let address = rig.server.local_addr();
    std::thread::scope(|scope| {
        let stop = scope.spawn(|| rig.server.stop(Time::now() + PATIENCE));
        assert_eq!(idle.read(&mut [0]).unwrap(), 0, "the idle connection is closed");
        rig.go.send(()).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(text.ends_with("waited") && text.contains("Connection: close"), "{text}");
        stop.join().unwrap();
    });
    assert!(!thread::live().iter().any(|name| name.starts_with("stopping")));
    drop(rig);
    assert!(tcp::connect(address, PATIENCE).is_err(), "nobody listens");
}

#[test]
fn a_stop_cuts_what_does_not_end() {
    let rig = rig(|config| config.name = "cutting");
    let mut stream = rig.connect();
    stream.write_all(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nhalf").unwrap();
    while rig.answers.served.load(Ordering::Relaxed) == 0 {
        std::thread::yield_now();
    }
    rig.server.stop(Time::now());
    assert!(matches!(stream.read(&mut [0]), Ok(0) | Err(_)));
    assert!(!thread::live().iter().any(|name| name.starts_with("cutting")));
}
