//! Announce and scrape over UDP (BEP 15), both directions: one datagram, one value. Connection and
//! transaction ids are only carried here; who checks them is the sender of the request.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use crate::base::hash::Sha1Hash;
use crate::limits::TRACKER_SCRAPE_MAX;
use crate::proto::peer::PeerId;
use crate::proto::printable;
use crate::proto::tracker::{
    self, AnnounceEvent, AnnounceRequest, AnnounceResponse, PEER_V4_LEN, PEER_V6_LEN, ScrapeCounts,
};

/// The longest datagram that is made: what the smallest path of IPv6 carries in one packet. It
/// holds 202 IPv4 peers or 67 IPv6 peers.
pub const DATAGRAM_LEN_MAX: usize = 1232;

/// What stands in a connect request in the place of a connection id.
const PROTOCOL_ID: u64 = 0x0417_2710_1980;
/// The parts of an announce answer before the peers.
const ANNOUNCE_HEAD_LEN: usize = 20;
/// Whole IPv4 peers that fit behind them, in bytes.
const PEERS_V4_LEN_MAX: usize = (DATAGRAM_LEN_MAX - ANNOUNCE_HEAD_LEN) / PEER_V4_LEN * PEER_V4_LEN;
/// Whole IPv6 peers that fit behind them, in bytes.
const PEERS_V6_LEN_MAX: usize = (DATAGRAM_LEN_MAX - ANNOUNCE_HEAD_LEN) / PEER_V6_LEN * PEER_V6_LEN;
/// Of an error's message, what is kept.
const MESSAGE_CHARS_MAX: usize = 200;

/// The actions on the wire.
mod action {
    pub const CONNECT: u32 = 0;
    pub const ANNOUNCE: u32 = 1;
    pub const SCRAPE: u32 = 2;
    pub const ERROR: u32 = 3;
}

/// Which addresses an answer carries: those of the family of the socket that the request came
/// through, for an answer does not say it itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What a client sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Asks for a connection id, which proves that the client gets what is sent to its address.
    Connect {
        /// Comes back in the answer.
        transaction: u32,
    },
    /// Announces.
    Announce {
        /// As [`Response::Connect`] gave it.
        connection: u64,
        /// Comes back in the answer.
        transaction: u32,
        /// What it says.
        announce: AnnounceRequest,
    },
    /// Scrapes.
    Scrape {
        /// As [`Response::Connect`] gave it.
        connection: u64,
        /// Comes back in the answer.
        transaction: u32,
        /// Which swarms, at most [`TRACKER_SCRAPE_MAX`].
        info_hashes: Vec<Sha1Hash>,
    },
}

/// What a tracker sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To a connect request.
    Connect {
        /// As in the request.
        transaction: u32,
        /// To be sent with the requests of the next minute.
        connection: u64,
    },
    /// To an announce.
    Announce {
        /// As in the request.
        transaction: u32,
        /// What it says.
        announce: AnnounceResponse,
    },
    /// To a scrape.
    Scrape {
        /// As in the request.
        transaction: u32,
        /// Of the swarms in the order of the request.
        counts: Vec<ScrapeCounts>,
    },
    /// The tracker refuses.
    Error {
        /// As in the request.
        transaction: u32,
        /// The reason; without control characters and of bounded length. It may be empty.
        message: String,
    },
}

/// A datagram that is no request or no answer. There is nothing to send back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DatagramError {
    /// Too short for its action.
    Truncated,
    /// An action that the protocol does not have.
    UnknownAction,
    /// A connect request without the protocol's id.
    OtherProtocol,
}

impl fmt::Display for DatagramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DatagramError::Truncated => "the datagram is too short",
            DatagramError::UnknownAction => "the datagram has an unknown action",
            DatagramError::OtherProtocol => "the datagram is of another protocol",
        })
    }
}

impl std::error::Error for DatagramError {}

impl Request {
    /// Reads a datagram that a client sent. Options after an announce (BEP 41) are ignored.
    ///
    /// # Errors
    /// If it is no request.
    pub fn decode(datagram: &[u8]) -> Result<Request, DatagramError> {
        let mut fields = Fields(datagram);
        let connection = fields.u64()?;
        let action = fields.u32()?;
        let transaction = fields.u32()?;
        match action {
            action::CONNECT if connection == PROTOCOL_ID => Ok(Request::Connect { transaction }),
            action::CONNECT => Err(DatagramError::OtherProtocol),
            action::ANNOUNCE => {
                let announce = take_announce(&mut fields)?;
                Ok(Request::Announce { connection, transaction, announce })
            }
            action::SCRAPE => {
                let (hashes, _) = fields.0.as_chunks::<20>();
                let info_hashes = hashes.iter().copied().map(Sha1Hash).take(TRACKER_SCRAPE_MAX);
                let info_hashes = info_hashes.collect();
                Ok(Request::Scrape { connection, transaction, info_hashes })
            }
            _ => Err(DatagramError::UnknownAction),
        }
    }

    /// Appends the datagram to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Request::Connect { transaction } => {
                put_head(out, PROTOCOL_ID, action::CONNECT, *transaction);
            }
            Request::Announce { connection, transaction, announce } => {
                put_head(out, *connection, action::ANNOUNCE, *transaction);
                put_announce(out, announce);
            }
            Request::Scrape { connection, transaction, info_hashes } => {
                put_head(out, *connection, action::SCRAPE, *transaction);
                for hash in info_hashes.iter().take(TRACKER_SCRAPE_MAX) {
                    out.extend_from_slice(&hash.0);
                }
            }
        }
    }
}

impl Response {
    /// Reads a datagram that a tracker sent to a socket of `family`.
    ///
    /// An announce answer of 8 bytes is how opentracker refuses a swarm that it does not serve: it
    /// is read as an error without a message.
    ///
    /// # Errors
    /// If it is no answer.
    pub fn decode(datagram: &[u8], family: Family) -> Result<Response, DatagramError> {
        let mut fields = Fields(datagram);
        let action = fields.u32()?;
        let transaction = fields.u32()?;
        match action {
            action::CONNECT => Ok(Response::Connect { transaction, connection: fields.u64()? }),
            action::ANNOUNCE if fields.0.is_empty() => {
                Ok(Response::Error { transaction, message: String::new() })
            }
            action::ANNOUNCE => {
                let interval = Duration::from_secs(fields.u32()?.into());
                let (leechers, seeders) = (fields.u32()?, fields.u32()?);
                let mut peers = Vec::new();
                match family {
                    Family::V4 => tracker::take_peers_v4(fields.0, &mut peers),
                    Family::V6 => tracker::take_peers_v6(fields.0, &mut peers),
                }
                let announce = AnnounceResponse {
                    interval,
                    seeders,
                    leechers,
                    peers,
                    ..AnnounceResponse::default()
                };
                Ok(Response::Announce { transaction, announce })
            }
            action::SCRAPE => {
                let mut counts = Vec::new();
                while fields.0.len() >= 12 && counts.len() < TRACKER_SCRAPE_MAX {
                    let (seeders, completed) = (fields.u32()?, fields.u32()?);
                    counts.push(ScrapeCounts { seeders, completed, leechers: fields.u32()? });
                }
                Ok(Response::Scrape { transaction, counts })
            }
            action::ERROR => {
                let message = printable(fields.0, MESSAGE_CHARS_MAX);
                Ok(Response::Error { transaction, message })
            }
            _ => Err(DatagramError::UnknownAction),
        }
    }

    /// Appends the datagram to `out`, for a socket of `family`: peers of the other family are left
    /// out, and so are those for which [`DATAGRAM_LEN_MAX`] has no room.
    pub fn encode(&self, family: Family, out: &mut Vec<u8>) {
        let mut put = |numbers: &[u32]| {
            numbers.iter().for_each(|number| out.extend_from_slice(&number.to_be_bytes()));
        };
        match self {
            Response::Connect { transaction, connection } => {
                put(&[action::CONNECT, *transaction]);
                out.extend_from_slice(&connection.to_be_bytes());
            }
            Response::Announce { transaction, announce } => {
                let interval = u32::try_from(announce.interval.as_secs()).unwrap_or(u32::MAX);
                put(&[
                    action::ANNOUNCE,
                    *transaction,
                    interval,
                    announce.leechers,
                    announce.seeders,
                ]);
                let mut peers = Vec::new();
                match family {
                    Family::V4 => tracker::put_peers_v4(&mut peers, &announce.peers),
                    Family::V6 => tracker::put_peers_v6(&mut peers, &announce.peers),
                }
                peers.truncate(match family {
                    Family::V4 => PEERS_V4_LEN_MAX,
                    Family::V6 => PEERS_V6_LEN_MAX,
                });
                out.extend(peers);
            }
            Response::Scrape { transaction, counts } => {
                put(&[action::SCRAPE, *transaction]);
                for counts in counts.iter().take(TRACKER_SCRAPE_MAX) {
                    put(&[counts.seeders, counts.completed, counts.leechers]);
                }
            }
            Response::Error { transaction, message } => {
                put(&[action::ERROR, *transaction]);
                let room = DATAGRAM_LEN_MAX.saturating_sub(8);
                out.extend(message.bytes().take(room));
            }
        }
    }
}

/// Reads an announce after the ids.
fn take_announce(fields: &mut Fields<'_>) -> Result<AnnounceRequest, DatagramError> {
    let info_hash = Sha1Hash(fields.take()?);
    let peer_id = PeerId(fields.take()?);
    let (downloaded, left, uploaded) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let event = match fields.u32()? {
        1 => AnnounceEvent::Completed,
        2 => AnnounceEvent::Started,
        3 => AnnounceEvent::Stopped,
        _ => AnnounceEvent::None,
    };
    let ip = Ipv4Addr::from(fields.u32()?);
    let key = fields.u32()?;
    // -1 leaves the number to the tracker.
    let numwant = u32::try_from(i32::from_be_bytes(fields.take()?)).ok();
    Ok(AnnounceRequest {
        info_hash,
        peer_id,
        port: u16::from_be_bytes(fields.take()?),
        uploaded,
        downloaded,
        left,
        event,
        numwant,
        key: Some(key),
        ip: (!ip.is_unspecified()).then_some(IpAddr::V4(ip)),
        tracker_id: None,
    })
}

fn put_announce(out: &mut Vec<u8>, announce: &AnnounceRequest) {
    out.extend_from_slice(&announce.info_hash.0);
    out.extend_from_slice(&announce.peer_id.0);
    for number in [announce.downloaded, announce.left, announce.uploaded] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    let event = match announce.event {
        AnnounceEvent::None => 0u32,
        AnnounceEvent::Completed => 1,
        AnnounceEvent::Started => 2,
        AnnounceEvent::Stopped => 3,
    };
    let ip = match announce.ip {
        Some(IpAddr::V4(ip)) => ip,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    let numwant = announce.numwant.map_or(-1, |wanted| i32::try_from(wanted).unwrap_or(i32::MAX));
    out.extend_from_slice(&event.to_be_bytes());
    out.extend_from_slice(&ip.octets());
    out.extend_from_slice(&announce.key.unwrap_or(0).to_be_bytes());
    out.extend_from_slice(&numwant.to_be_bytes());
    out.extend_from_slice(&announce.port.to_be_bytes());
}

fn put_head(out: &mut Vec<u8>, connection: u64, action: u32, transaction: u32) {
    out.extend_from_slice(&connection.to_be_bytes());
    out.extend_from_slice(&action.to_be_bytes());
    out.extend_from_slice(&transaction.to_be_bytes());
}

/// The fields of a datagram, taken from the front.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DatagramError> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(DatagramError::Truncated)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u32(&mut self) -> Result<u32, DatagramError> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, DatagramError> {
        self.take().map(u64::from_be_bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn announce() -> AnnounceRequest {
        AnnounceRequest {
            info_hash: Sha1Hash::of(b"x"),
            peer_id: PeerId(*b"-TC0100-abcdefghijkl"),
            port: 6881,
            uploaded: 1,
            downloaded: 2,
            left: u64::MAX,
            event: AnnounceEvent::Started,
            numwant: None,
            key: Some(7),
            ip: None,
            tracker_id: None,
        }
    }

    fn asked(request: &Request) -> Vec<u8> {
        let mut datagram = Vec::new();
        request.encode(&mut datagram);
        datagram
    }

    fn answered(response: &Response, family: Family) -> Vec<u8> {
        let mut datagram = Vec::new();
        response.encode(family, &mut datagram);
        datagram
    }

    fn peers(count: u16, ip: &str) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::new(ip.parse().unwrap(), port)).collect()
    }

    #[test]
    fn requests_round_trip_and_a_cut_is_truncated() {
        let events = [
            AnnounceEvent::None,
            AnnounceEvent::Started,
            AnnounceEvent::Stopped,
            AnnounceEvent::Completed,
        ];
        let announces = events.map(|event| Request::Announce {
            connection: 9,
            transaction: 8,
            announce: AnnounceRequest { event, ..announce() },
        });
        let wanting = Request::Announce {
            connection: 9,
            transaction: 8,
            announce: AnnounceRequest {
                numwant: Some(0),
                ip: Some(Ipv4Addr::LOCALHOST.into()),
                ..announce()
            },
        };
        for request in announces.into_iter().chain([wanting, Request::Connect { transaction: 1 }]) {
            let datagram = asked(&request);
            for cut in 0..datagram.len() {
                assert_eq!(Request::decode(&datagram[..cut]), Err(DatagramError::Truncated));
            }
            assert_eq!(Request::decode(&datagram), Ok(request.clone()));
            let with_options = [&datagram[..], b"\x02\x05/path"].concat();
            assert_eq!(Request::decode(&with_options), Ok(request), "BEP 41");
        }
    }

    #[test]
    fn a_scrape_is_bounded() {
        let scrape = |count: u8| Request::Scrape {
            connection: 1,
            transaction: 2,
            info_hashes: (0..count).map(|number| Sha1Hash::of(&[number])).collect(),
        };
        for count in [0, 1, 74] {
            assert_eq!(Request::decode(&asked(&scrape(count))), Ok(scrape(count)));
        }
        assert_eq!(Request::decode(&asked(&scrape(75))), Ok(scrape(74)));
        let mut datagram = asked(&scrape(74));
        datagram.extend_from_slice(&[7; 45]);
        assert_eq!(Request::decode(&datagram), Ok(scrape(74)));
        let counts = vec![ScrapeCounts { seeders: 1, completed: 2, leechers: 3 }; 75];
        let answer = answered(&Response::Scrape { transaction: 2, counts }, Family::V4);
        assert_eq!(answer.len(), 8 + 74 * 12);
    }

    #[test]
    fn connecting_needs_the_protocols_id() {
        let mut datagram = asked(&Request::Connect { transaction: 1 });
        datagram[7] ^= 1;
        assert_eq!(Request::decode(&datagram), Err(DatagramError::OtherProtocol));
        datagram[11] = 9;
        assert_eq!(Request::decode(&datagram), Err(DatagramError::UnknownAction));
    }

    #[test]
    fn responses_round_trip_by_the_family_of_the_socket() {
        let both = [peers(3, "10.0.0.1"), peers(2, "2001:db8::1")].concat();
        let answer = |peers| Response::Announce {
            transaction: 5,
            announce: AnnounceResponse {
                interval: Duration::from_secs(1800),
                seeders: 1,
                leechers: 2,
                peers,
                ..AnnounceResponse::default()
            },
        };
        for (family, kept) in
            [(Family::V4, peers(3, "10.0.0.1")), (Family::V6, peers(2, "2001:db8::1"))]
        {
            let datagram = answered(&answer(both.clone()), family);
            assert_eq!(Response::decode(&datagram, family), Ok(answer(kept)));
        }
        for response in [
            Response::Connect { transaction: 1, connection: u64::MAX },
            Response::Error { transaction: 1, message: "no".into() },
            Response::Scrape { transaction: 1, counts: vec![ScrapeCounts::default(); 3] },
        ] {
            let datagram = answered(&response, Family::V4);
            assert_eq!(Response::decode(&datagram, Family::V4), Ok(response));
        }
    }

    #[test]
    fn an_answer_fits_one_packet_and_keeps_few_peers() {
        for (family, ip, kept) in [(Family::V4, "10.0.0.1", 200), (Family::V6, "::1", 67)] {
            let announce =
                AnnounceResponse { peers: peers(500, ip), ..AnnounceResponse::default() };
            let datagram = answered(&Response::Announce { transaction: 1, announce }, family);
            assert!(datagram.len() <= DATAGRAM_LEN_MAX);
            let Ok(Response::Announce { announce, .. }) = Response::decode(&datagram, family)
            else {
                panic!("an announce comes back")
            };
            assert_eq!(announce.peers, peers(kept, ip));
        }
        let shout = Response::Error { transaction: 1, message: "a".repeat(5000) };
        assert_eq!(answered(&shout, Family::V4).len(), DATAGRAM_LEN_MAX);
    }

    #[test]
    fn short_answers_are_refusals_or_errors() {
        let refused = Response::Error { transaction: 2, message: String::new() };
        assert_eq!(Response::decode(b"\0\0\0\x01\0\0\0\x02", Family::V4), Ok(refused.clone()));
        assert_eq!(Response::decode(b"\0\0\0\x03\0\0\0\x02", Family::V4), Ok(refused));
        for len in (0..8).chain(9..20) {
            let datagram = [&b"\0\0\0\x01\0\0\0\x02"[..], &[0; 20]].concat();
            let answer = Response::decode(&datagram[..len], Family::V6);
            assert_eq!(answer, Err(DatagramError::Truncated), "{len} bytes");
        }
        for len in 8..16 {
            let datagram = [0; 16];
            let answer = Response::decode(&datagram[..len], Family::V4);
            assert_eq!(answer, Err(DatagramError::Truncated), "{len} bytes");
        }
        let unknown = Response::decode(b"\0\0\0\x09\0\0\0\x02", Family::V4);
        assert_eq!(unknown, Err(DatagramError::UnknownAction));
    }
}
