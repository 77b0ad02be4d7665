//! Announce and scrape over UDP (BEP 15).
//!
//! A client first asks for a connection id, which proves that it receives what is sent to its
//! address; without it one forged datagram would send 1 KiB to a stranger. The id is a keyed hash
//! of the address and of the time, so nothing is kept between datagrams.
//!
//! A thread for each core, with a socket of its own, takes as many datagrams as wait and answers
//! them together: a call of the kernel costs more than an announce. The kernel gives one sender's
//! datagrams to one socket, so they are answered in order.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::stop::Stop;
use crate::base::sys::{self, DATAGRAMS_MAX, Datagram};
use crate::base::thread::{self, Role};
use crate::limits::TRACKER_UDP_THREADS_MAX;
use crate::log_limited;
use crate::net::udp::UdpServer;
use crate::proto::tracker_udp::{DATAGRAM_LEN_MAX, Family, Request, Response};
use crate::tracker::service::Service;

/// A connection id holds in the window in which it was made and in the next: two to four minutes,
/// where BEP 15 asks for two.
const WINDOW: Duration = Duration::from_secs(120);
/// How long a thread sleeps when the system has no memory, and how long a stop may go unnoticed at
/// worst.
const NOTICE: Duration = Duration::from_secs(1);

/// The sockets of a UDP front, one for each of its threads.
pub(super) struct UdpSockets(Vec<UdpServer>);

impl UdpSockets {
    /// Binds `address`, as many times as threads are to answer.
    pub(super) fn bind(address: SocketAddr) -> io::Result<UdpSockets> {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = cores.min(TRACKER_UDP_THREADS_MAX);
        let sockets = (0..threads).map(|_| UdpServer::bind(address, NOTICE));
        sockets.collect::<io::Result<_>>().map(UdpSockets)
    }
}

/// The running UDP front.
pub(super) struct UdpFront {
    sockets: Vec<Arc<UdpServer>>,
    stop: Stop,
    threads: Vec<thread::Handle>,
}

impl UdpFront {
    /// Starts to answer what comes to `sockets`.
    pub(super) fn start(sockets: UdpSockets, service: &Arc<Service>) -> io::Result<UdpFront> {
        let ids = Ids::new();
        let (threads, stop) = (Vec::new(), Stop::new());
        let mut front = UdpFront { sockets: Vec::new(), stop, threads };
        for (number, socket) in sockets.0.into_iter().enumerate() {
            let socket = Arc::new(socket);
            front.sockets.push(Arc::clone(&socket));
            let (stop, service, ids) = (front.stop.clone(), Arc::clone(service), ids.clone());
            let worker = Worker { socket, stop, service, ids };
            let name = format!("tracker-udp-{number}");
            match thread::spawn(name, Role::Core, move || worker.run()) {
                Ok(thread) => front.threads.push(thread),
                Err(error) => {
                    front.stop();
                    return Err(error);
                }
            }
        }
        Ok(front)
    }

    /// Ends it: what has been received is answered.
    pub(super) fn stop(self) {
        self.stop.stop();
        self.sockets.iter().for_each(|socket| socket.shut_down());
        self.threads.into_iter().for_each(thread::Handle::join);
    }
}

struct Worker {
    socket: Arc<UdpServer>,
    stop: Stop,
    service: Arc<Service>,
    ids: Ids,
}

impl Worker {
    fn run(&self) {
        let datagrams =
            || Vec::from_iter((0..DATAGRAMS_MAX).map(|_| Datagram::with_room(DATAGRAM_LEN_MAX)));
        let (mut requests, mut answers) = (datagrams(), datagrams());
        while !self.stop.is_stopped() {
            let received = match self.socket.receive(&mut requests) {
                Ok(received) => received,
                Err(error) => {
                    // Out of memory at worst: it passes, and must not become a loop at full speed.
                    log_limited!(error, "cannot receive over UDP: {error}");
                    let _ = self.stop.wait_for(NOTICE);
                    continue;
                }
            };
            let mut count = 0;
            for request in &requests[..received] {
                count += usize::from(self.answer(request, &mut answers[count]));
            }
            figures::TRACKER_UDP.add(count as u64);
            self.socket.send(&answers[..count], |answer, error| {
                if let Some(source) = answer.source() {
                    log_limited!(debug, "cannot answer {source} over UDP: {error}");
                }
            });
        }
    }

    /// Writes the answer to `request`; whether it has one.
    fn answer(&self, request: &Datagram, answer: &mut Datagram) -> bool {
        let Some(source) = request.source() else { return false };
        let Ok(decoded) = Request::decode(&request.bytes) else { return false };
        answer.answer(request);
        answer.bytes.clear();
        let ip = source.ip().to_canonical();
        self.respond(Time::now(), ip, decoded).encode(family(ip), &mut answer.bytes);
        true
    }

    fn respond(&self, now: Time, source: IpAddr, request: Request) -> Response {
        match request {
            Request::Connect { transaction } => {
                Response::Connect { transaction, connection: self.ids.make(now, source) }
            }
            Request::Announce { connection, transaction, announce } => {
                if !self.ids.holds(now, source, connection) {
                    return refusal(transaction);
                }
                let announce = self.service.announce(source, &announce);
                Response::Announce { transaction, announce }
            }
            Request::Scrape { connection, transaction, info_hashes } => {
                if !self.ids.holds(now, source, connection) {
                    return refusal(transaction);
                }
                let counts = info_hashes.iter().map(|hash| self.service.scrape(hash));
                let counts = counts.map(Option::unwrap_or_default).collect();
                Response::Scrape { transaction, counts }
            }
        }
    }
}

/// A client that gets this asks for a new connection id.
fn refusal(transaction: u32) -> Response {
    figures::TRACKER_REFUSED.add(1);
    Response::Error { transaction, message: "connection id does not hold (any more)".to_owned() }
}

fn family(source: IpAddr) -> Family {
    match source {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// Makes and checks connection ids.
#[derive(Clone)]
struct Ids(hmac::Key);

impl Ids {
    fn new() -> Ids {
        let mut secret = [0; 32];
        sys::random(&mut secret);
        Ids(hmac::Key::new(hmac::HMAC_SHA256, &secret))
    }

    fn make(&self, now: Time, address: IpAddr) -> u64 {
        self.of_window(window(now), address)
    }

    fn holds(&self, now: Time, address: IpAddr, connection: u64) -> bool {
        let window = window(now);
        let windows = [Some(window), window.checked_sub(1)];
        windows.into_iter().flatten().any(|window| self.of_window(window, address) == connection)
    }

    /// Bound to the address without the port: some clients use a new one for each datagram.
    fn of_window(&self, window: u64, address: IpAddr) -> u64 {
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&window.to_be_bytes());
        match address.to_canonical() {
            IpAddr::V4(v4) => context.update(&v4.octets()),
            IpAddr::V6(v6) => context.update(&v6.octets()),
        }
        let tag = context.sign();
        let first = tag.as_ref().first_chunk().expect("a SHA-256 has 32 bytes");
        u64::from_be_bytes(*first)
    }
}

fn window(now: Time) -> u64 {
    now.since(Time::ZERO).as_secs() / WINDOW.as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_id_holds_for_its_address_and_its_time() {
        let ids = Ids::new();
        let at = |seconds| Time::after_start(Duration::from_secs(seconds));
        let address = IpAddr::from([10, 0, 0, 1]);
        let id = ids.make(at(119), address);
        assert!(ids.holds(at(119), address, id));
        assert!(ids.holds(at(239), address, id), "two minutes later");
        assert!(!ids.holds(at(240), address, id));
        assert!(!ids.holds(at(119), IpAddr::from([10, 0, 0, 2]), id));
        assert!(!ids.holds(at(119), address, id ^ 1));
        assert!(!Ids::new().holds(at(119), address, id), "the secret is made at the start");
        let mapped = "::ffff:10.0.0.1".parse().expect("an address");
        assert!(ids.holds(at(119), mapped, id));
    }
}
