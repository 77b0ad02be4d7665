//! Announce and scrape over UDP (BEP 15).
//!
//! A client first asks for a connection id, which proves that it receives what is sent to its
//! address; without it one forged datagram would send 1 KiB to a stranger. The id is a keyed hash
//! of the address and of the time, so nothing is kept between datagrams.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use ring::hmac;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::stop::Stop;
use crate::base::sys;
use crate::base::thread::{self, Role};
use crate::log_limited;
use crate::net::udp::Udp;
use crate::proto::tracker_udp::{DATAGRAM_LEN_MAX, Family, Request, Response};
use crate::tracker::local;
use crate::tracker::service::Service;

/// A connection id holds in the window in which it was made and in the next: two to four minutes,
/// where BEP 15 asks for two.
const WINDOW: Duration = Duration::from_secs(120);
/// How long a stop may go unnoticed if the datagram that tells of it is lost.
const NOTICE: Duration = Duration::from_secs(1);

/// The running UDP front.
pub(super) struct UdpFront {
    socket: Arc<Udp>,
    stop: Stop,
    thread: thread::Handle,
}

impl UdpFront {
    /// Starts to answer what comes to `socket`.
    pub(super) fn start(socket: Udp, service: Arc<Service>) -> io::Result<UdpFront> {
        let socket = Arc::new(socket);
        let stop = Stop::new();
        let front =
            Front { socket: Arc::clone(&socket), stop: stop.clone(), service, ids: Ids::new() };
        let thread = thread::spawn("tracker-udp", Role::Core, move || front.run())?;
        Ok(UdpFront { socket, stop, thread })
    }

    /// Ends it.
    pub(super) fn stop(self) {
        self.stop.stop();
        // A datagram to itself ends the wait at once.
        if let Ok(address) = self.socket.local_addr() {
            let _ = self.socket.send_to(&[], local(address));
        }
        self.thread.join();
    }
}

struct Front {
    socket: Arc<Udp>,
    stop: Stop,
    service: Arc<Service>,
    ids: Ids,
}

impl Front {
    fn run(&self) {
        let mut datagram = [0; DATAGRAM_LEN_MAX];
        let mut answer = Vec::with_capacity(DATAGRAM_LEN_MAX);
        while !self.stop.is_stopped() {
            let now = Time::now();
            let (len, source) = match self.socket.recv_until(&mut datagram, now + NOTICE) {
                Ok(Some(received)) => received,
                Ok(None) => continue,
                Err(error) => {
                    // Out of memory at worst: it passes, and must not become a loop at full speed.
                    log_limited!(error, "cannot receive over UDP: {error}");
                    let _ = self.stop.wait_for(NOTICE);
                    continue;
                }
            };
            let Ok(request) = Request::decode(&datagram[..len]) else { continue };
            figures::TRACKER_UDP.add(1);
            let response = self.answer(Time::now(), source, request);
            answer.clear();
            response.encode(family(source), &mut answer);
            if let Err(error) = self.socket.send_to(&answer, source) {
                log_limited!(debug, "cannot answer {source} over UDP: {error}");
            }
        }
    }

    fn answer(&self, now: Time, source: SocketAddr, request: Request) -> Response {
        match request {
            Request::Connect { transaction } => {
                Response::Connect { transaction, connection: self.ids.make(now, source.ip()) }
            }
            Request::Announce { connection, transaction, announce } => {
                if !self.ids.holds(now, source.ip(), connection) {
                    return refusal(transaction);
                }
                let announce = self.service.announce(source.ip(), &announce);
                Response::Announce { transaction, announce }
            }
            Request::Scrape { connection, transaction, info_hashes } => {
                if !self.ids.holds(now, source.ip(), connection) {
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

fn family(source: SocketAddr) -> Family {
    match source.ip().to_canonical() {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

/// Makes and checks connection ids.
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
