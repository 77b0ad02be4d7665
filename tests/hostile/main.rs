//! Clients that mean harm, and a system that has nothing left to give, against whole processes:
//! the client's two HTTP ports, the tracker's two, and its UDP one.
//!
//! What is promised: a clean 4xx or a closed connection, memory and threads within the bounds that
//! each test states, others served meanwhile, and service as before when it is over.

#[path = "../support/mod.rs"]
mod support;

mod crowds;
mod greedy;
mod heads;
mod links;
mod peers;
mod scarcity;

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use support::origin::{Origin, Request, answer, whole};
use support::torrent_cache::Program;
use support::{PATIENCE, image::Blob};

/// Where everybody else comes from is 127.0.0.1.
const HOSTILE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// A connection from an address of the machine's own.
fn connect_from(source: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket can be had");
    socket.bind(&SocketAddr::from((source, 0)).into()).expect("all of 127/8 is ours");
    socket.connect_timeout(&to.into(), PATIENCE).expect("it listens");
    let stream: TcpStream = socket.into();
    stream.set_read_timeout(Some(PATIENCE)).expect("it is no zero");
    stream.set_write_timeout(Some(PATIENCE)).expect("it is no zero");
    stream
}

/// All that comes back until the connection ends, however it ends.
///
/// # Panics
/// If it is still open after [`PATIENCE`].
fn rest(mut stream: &TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("it was left open"),
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

/// Sends `bytes`, as much of them as the other side takes, and says how it ended.
fn ask(to: SocketAddr, bytes: &[u8]) -> String {
    let stream = connect_from(HOSTILE, to);
    let _ = (&stream).write_all(bytes);
    rest(&stream)
}

/// The status of the first answer; 0: there is none.
fn status(text: &str) -> u16 {
    text.strip_prefix("HTTP/1.1 ").and_then(|text| text.get(..3)?.parse().ok()).unwrap_or(0)
}

/// Every port of both commands that speaks HTTP, and the process behind it.
struct Targets {
    client: Program,
    tracker: Program,
    origin: Origin,
}

impl Targets {
    /// The client's upstream answers 404 to everything but `blob`.
    fn start(blob: Option<Blob>) -> Targets {
        let origin = Origin::start(move |request: &Request| match &blob {
            Some(blob) if request.target().ends_with(&blob.digest) => {
                if request.line.starts_with("HEAD ") {
                    let len = format!("Content-Length: {}", blob.bytes.len());
                    return vec![answer(&["HTTP/1.1 200 OK", &len], b"")];
                }
                vec![whole(&blob.bytes)]
            }
            _ => vec![answer(&["HTTP/1.1 404 Not Found", "Content-Length: 0"], b"")],
        });
        let registry = format!("http://{}", origin.addr());
        let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
        let tracker = Program::tracker("tracker", &[]);
        Targets { client, tracker, origin }
    }

    fn addresses(&self) -> [SocketAddr; 4] {
        let tracker = format!("127.0.0.1:{}", self.tracker.option("TRACKER_PORT"));
        let parse = |text: &str| text.parse().expect("an address");
        [
            self.client.addr(),
            parse(self.client.option("ADMIN")),
            parse(&tracker),
            parse(self.tracker.option("ADMIN")),
        ]
    }

    /// Fails unless all four ports answer somebody else at once.
    fn assert_serves_others(&self) {
        for (address, path) in self.addresses().into_iter().zip(["/v2/", "/health", "/", "/health"])
        {
            let stream = connect_from(Ipv4Addr::LOCALHOST, address);
            stream.set_read_timeout(Some(Duration::from_secs(10))).expect("it is no zero");
            let get = format!("GET {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
            (&stream).write_all(get.as_bytes()).expect("it reads");
            assert_ne!(status(&rest(&stream)), 0, "{address}");
        }
    }
}

fn proc_status(program: &mut Program, name: &str) -> usize {
    program.process().proc_status(name)
}

fn threads(program: &mut Program) -> usize {
    proc_status(program, "Threads")
}

fn resident_kib(program: &mut Program) -> usize {
    proc_status(program, "VmRSS")
}

/// Open descriptors of a process.
fn descriptors(program: &mut Program) -> usize {
    let path = format!("/proc/{}/fd", program.process().pid());
    std::fs::read_dir(path).expect("it runs").count()
}
