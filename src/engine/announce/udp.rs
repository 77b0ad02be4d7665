//! One announce over UDP (BEP 15).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use super::AnnounceError;
use crate::base::clock::Time;
use crate::base::rng::Rng;
use crate::net::resolve::Resolver;
use crate::net::udp::Udp;
use crate::proto::tracker::{AnnounceRequest, AnnounceResponse};
use crate::proto::tracker_udp::{Family, Request, Response};

/// A tracker takes a connection id for two minutes; a client uses it for one (BEP 15).
const CONNECTION_KEPT: Duration = Duration::from_secs(60);
/// The first wait for an answer; it doubles with each datagram. BEP 15 begins at 15 seconds, which
/// a local network never needs.
const PATIENCE: Duration = Duration::from_millis(500);
/// So long the first addresses of a name may take to answer, if there are others: a name may have
/// one of a family that the tracker does not listen on.
const NEXT_ADDRESS: Duration = Duration::from_secs(1);
/// The longest datagram that is read: 200 IPv6 peers are 3.6 KB.
const DATAGRAM_LEN_MAX: usize = 8 << 10;

/// A tracker that speaks UDP.
pub(super) struct UdpTracker {
    host: String,
    port: u16,
    resolver: Resolver,
    rng: Rng,
    connection: Option<Connection>,
    /// Which of its addresses answered last.
    answered: Option<SocketAddr>,
}

/// What proves to the tracker that we are where we say.
struct Connection {
    id: u64,
    until: Time,
    tracker: SocketAddr,
    socket: Udp,
}

impl UdpTracker {
    pub(super) fn new(host: &str, port: u16) -> UdpTracker {
        let resolver = Resolver::new(Arc::new(|_, _, _| true));
        UdpTracker {
            host: host.to_owned(),
            port,
            resolver,
            rng: Rng::from_os(),
            connection: None,
            answered: None,
        }
    }

    /// Announces; takes no longer than until `deadline`.
    ///
    /// # Errors
    /// If there is no answer, or one that gives nothing.
    pub(super) fn announce(
        &mut self,
        request: &AnnounceRequest,
        deadline: Time,
    ) -> Result<AnnounceResponse, AnnounceError> {
        let connection = match self.connection.take().filter(|known| Time::now() < known.until) {
            Some(connection) => connection,
            None => self.connect(deadline)?,
        };
        let transaction = self.transaction();
        let announce =
            Request::Announce { connection: connection.id, transaction, announce: request.clone() };
        let answer = connection.exchange(&announce, transaction, deadline)?;
        // Kept only after an answer: a tracker that has restarted does not know it any more.
        match answer {
            Response::Announce { announce, .. } => {
                self.connection = Some(connection);
                Ok(announce)
            }
            other => Err(refused(other)),
        }
    }

    fn connect(&mut self, deadline: Time) -> Result<Connection, AnnounceError> {
        let found = self.resolver.lookup(&self.host, self.port, deadline);
        self.connect_to_any(found.map_err(|error| failed(&error))?, deadline)
    }

    /// Connects to the first of `addresses` that answers.
    fn connect_to_any(
        &mut self,
        mut addresses: Vec<SocketAddr>,
        deadline: Time,
    ) -> Result<Connection, AnnounceError> {
        addresses.sort_by_key(|address| Some(*address) != self.answered);
        let (last, others) =
            addresses.split_last().ok_or_else(|| failed(&"the name has no address"))?;
        for address in others {
            if let Ok(connection) =
                self.connect_to(*address, deadline.min(Time::now() + NEXT_ADDRESS))
            {
                return Ok(connection);
            }
        }
        self.connect_to(*last, deadline)
    }

    fn connect_to(
        &mut self,
        tracker: SocketAddr,
        deadline: Time,
    ) -> Result<Connection, AnnounceError> {
        let any = match tracker {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = Udp::bind(any).map_err(|error| failed(&error))?;
        let transaction = self.transaction();
        let mut connection = Connection { id: 0, until: Time::ZERO, tracker, socket };
        let request = Request::Connect { transaction };
        match connection.exchange(&request, transaction, deadline)? {
            Response::Connect { connection: id, .. } => {
                connection.id = id;
                connection.until = Time::now() + CONNECTION_KEPT;
                self.answered = Some(tracker);
                Ok(connection)
            }
            other => Err(refused(other)),
        }
    }

    fn transaction(&mut self) -> u32 {
        u32::try_from(self.rng.below(1 << 32)).unwrap_or(0)
    }
}

fn failed(error: &dyn std::fmt::Display) -> AnnounceError {
    AnnounceError::Failed(error.to_string())
}

fn refused(answer: Response) -> AnnounceError {
    AnnounceError::Refused(match answer {
        Response::Error { message, .. } => format!("the tracker refuses: {message}"),
        _ => "the tracker answers something else".to_owned(),
    })
}

impl Connection {
    /// Sends `request` until its answer comes, ever more patiently.
    fn exchange(
        &self,
        request: &Request,
        transaction: u32,
        deadline: Time,
    ) -> Result<Response, AnnounceError> {
        let mut datagram = Vec::new();
        request.encode(&mut datagram);
        let answer = self.send_until_answered(&datagram, transaction, deadline);
        match answer {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => Err(failed(&"no answer")),
            Err(error) => Err(failed(&error)),
        }
    }

    fn send_until_answered(
        &self,
        datagram: &[u8],
        transaction: u32,
        deadline: Time,
    ) -> io::Result<Option<Response>> {
        let family = if self.tracker.is_ipv4() { Family::V4 } else { Family::V6 };
        let mut patience = PATIENCE;
        let mut buf = [0; DATAGRAM_LEN_MAX];
        while Time::now() < deadline {
            self.socket.send_to(datagram, self.tracker)?;
            let again_at = deadline.min(Time::now() + patience);
            while let Some(len) = self.socket.recv_from_until(self.tracker, &mut buf, again_at)? {
                // What is no answer to this request may be a late one to another.
                match Response::decode(&buf[..len], family) {
                    Ok(answer) if transaction_of(&answer) == transaction => {
                        return Ok(Some(answer));
                    }
                    _ => {}
                }
            }
            patience *= 2;
        }
        Ok(None)
    }
}

fn transaction_of(answer: &Response) -> u32 {
    match answer {
        Response::Connect { transaction, .. }
        | Response::Announce { transaction, .. }
        | Response::Scrape { transaction, .. }
        | Response::Error { transaction, .. } => *transaction,
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;
    use crate::limits::ANNOUNCE_CALL;

    #[test]
    fn of_the_addresses_of_a_name_one_that_answers_is_found_and_is_the_first_from_then_on() {
        let bound = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free");
        let address = |socket: &UdpSocket| socket.local_addr().expect("it is bound");
        // The one never answers; to the other nothing can be sent, where there is no IPv6.
        let (silent, answers) = (bound(), bound());
        let unreachable = SocketAddr::from((Ipv6Addr::LOCALHOST, address(&silent).port()));
        let addresses = vec![unreachable, address(&silent), address(&answers)];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let (mut buf, mut seen) = ([0; 64], Vec::new());
                while seen.len() < 2 {
                    let (len, from) = answers.recv_from(&mut buf).expect("it is bound");
                    let Ok(Request::Connect { transaction }) = Request::decode(&buf[..len]) else {
                        panic!("no connect")
                    };
                    // Asked again, it answers the same again.
                    if !seen.contains(&transaction) {
                        seen.push(transaction);
                    }
                    let (connection, mut answer) = (u64::from(transaction), Vec::new());
                    Response::Connect { transaction, connection }.encode(Family::V4, &mut answer);
                    answers.send_to(&answer, from).expect("it is bound");
                }
            });
            let mut tracker = UdpTracker::new("tracker.example", 1);
            for _ in 0..2 {
                let deadline = Time::now() + ANNOUNCE_CALL * 4;
                let connected = tracker.connect_to_any(addresses.clone(), deadline);
                assert_eq!(connected.map(|it| it.tracker).ok(), Some(addresses[2]));
            }
        });
        let mut buf = [0; 64];
        silent.set_nonblocking(true).expect("a mode is set");
        let asked = std::iter::from_fn(|| silent.recv_from(&mut buf).ok()).count();
        assert!((1..=2).contains(&asked), "{asked}: it was tried once");
    }
}
