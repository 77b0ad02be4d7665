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
/// The longest datagram that is read: 200 IPv6 peers are 3.6 KB.
const DATAGRAM_LEN_MAX: usize = 8 << 10;

/// A tracker that speaks UDP.
pub(super) struct UdpTracker {
    host: String,
    port: u16,
    resolver: Resolver,
    rng: Rng,
    connection: Option<Connection>,
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
        UdpTracker { host: host.to_owned(), port, resolver, rng: Rng::from_os(), connection: None }
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
        let failed = |error: &dyn std::fmt::Display| AnnounceError::Failed(error.to_string());
        let found = self.resolver.lookup(&self.host, self.port, deadline);
        let addresses = found.map_err(|error| failed(&error))?;
        let tracker = *addresses.first().ok_or_else(|| failed(&"the name has no address"))?;
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
                Ok(connection)
            }
            other => Err(refused(other)),
        }
    }

    fn transaction(&mut self) -> u32 {
        u32::try_from(self.rng.below(1 << 32)).unwrap_or(0)
    }
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
            Ok(None) => Err(AnnounceError::Failed("no answer".to_owned())),
            Err(error) => Err(AnnounceError::Failed(error.to_string())),
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
