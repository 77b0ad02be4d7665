//! Announce and scrape over HTTP (BEP 3, 7, 23, 48), both directions: the query of a request, and
//! the bencoded body of an answer. What an HTTP request is, is not here.
//!
//! Peers are written and read in compact form (BEP 23, 7) or as dictionaries (BEP 3).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::base::hash::Sha1Hash;
use crate::limits::{TRACKER_ANSWER_LEN_MAX, TRACKER_PEERS_MAX, TRACKER_SCRAPE_MAX};
use crate::proto::bencode::{self, BencodeError, Dict, DictWriter, Value};
use crate::proto::peer::PeerId;
use crate::proto::printable;
use crate::proto::tracker::{
    self, AnnounceEvent, AnnounceRequest, AnnounceResponse, ScrapeCounts, ScrapeRequest,
    ScrapeResponse,
};

/// The longest `tracker id` that is kept.
const TRACKER_ID_LEN_MAX: usize = 128;
/// Of a failure reason, what is kept.
const REASON_CHARS_MAX: usize = 200;

/// A query that is no request: a parameter is missing or makes no sense. The text is fit for a
/// failure reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueryError {
    /// The name of the parameter.
    pub parameter: &'static str,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "missing or bad parameter {}", self.parameter)
    }
}

impl std::error::Error for QueryError {}

/// An answer that gives nothing to work with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// The tracker refuses, for this reason; without control characters and of bounded length.
    Refused(String),
    /// Longer than [`TRACKER_ANSWER_LEN_MAX`].
    TooLong,
    /// Not canonical bencode.
    Bencode(BencodeError),
    /// A key is missing, or its value has the wrong type.
    BadKey(&'static str),
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnswerError::Refused(reason) => write!(f, "the tracker refuses: {reason}"),
            AnswerError::TooLong => f.write_str("the tracker's answer is too long"),
            AnswerError::Bencode(error) => error.fmt(f),
            AnswerError::BadKey(key) => write!(f, "the tracker's answer has no proper {key:?}"),
        }
    }
}

impl std::error::Error for AnswerError {}

impl From<BencodeError> for AnswerError {
    fn from(error: BencodeError) -> AnswerError {
        AnswerError::Bencode(error)
    }
}

impl AnnounceRequest {
    /// Reads the query of an announce: what follows the `?`. The first of equal parameters counts,
    /// and those that the protocol does not need have to make no sense.
    ///
    /// # Errors
    /// If `info_hash`, `peer_id` or `port` is missing or bad.
    pub fn from_query(query: &str) -> Result<AnnounceRequest, QueryError> {
        let number = |name| text(query, name)?.parse::<u64>().ok();
        let port = text(query, "port").and_then(|port| port.parse().ok());
        Ok(AnnounceRequest {
            info_hash: Sha1Hash(twenty_bytes(query, "info_hash")?),
            peer_id: PeerId(twenty_bytes(query, "peer_id")?),
            port: port.ok_or(QueryError { parameter: "port" })?,
            uploaded: number("uploaded").unwrap_or(0),
            downloaded: number("downloaded").unwrap_or(0),
            left: number("left").unwrap_or(u64::MAX),
            event: match text(query, "event").as_deref() {
                Some("started") => AnnounceEvent::Started,
                Some("stopped") => AnnounceEvent::Stopped,
                Some("completed") => AnnounceEvent::Completed,
                _ => AnnounceEvent::None,
            },
            numwant: text(query, "numwant").and_then(|number| number.parse().ok()),
            key: text(query, "key").and_then(|key| u32::from_str_radix(&key, 16).ok()),
            ip: text(query, "ip").and_then(|ip| ip.parse().ok()),
            tracker_id: values(query, "trackerid")
                .next()
                .filter(|id| id.len() <= TRACKER_ID_LEN_MAX),
        })
    }

    /// Whether the client that sent `query` wants peers as dictionaries; compact is what all but
    /// the oldest take.
    #[must_use]
    pub fn wants_dictionaries(query: &str) -> bool {
        text(query, "compact").as_deref() == Some("0")
    }

    /// The query of an announce, to follow a `?` or, where the announce URL has a query already, an
    /// `&`.
    #[must_use]
    pub fn to_query(&self) -> String {
        let mut query = format!(
            "info_hash={}&peer_id={}&port={}&uploaded={}&downloaded={}&left={}&compact=1",
            Escaped(&self.info_hash.0),
            Escaped(&self.peer_id.0),
            self.port,
            self.uploaded,
            self.downloaded,
            self.left,
        );
        let mut add = |name: &str, value: &dyn fmt::Display| {
            query.push_str(&format!("&{name}={value}"));
        };
        match self.event {
            AnnounceEvent::None => {}
            AnnounceEvent::Started => add("event", &"started"),
            AnnounceEvent::Stopped => add("event", &"stopped"),
            AnnounceEvent::Completed => add("event", &"completed"),
        }
        if let Some(numwant) = self.numwant {
            add("numwant", &numwant);
        }
        if let Some(key) = self.key {
            add("key", &format_args!("{key:08x}"));
        }
        if let Some(ip) = self.ip {
            add("ip", &Escaped(ip.to_string().as_bytes()));
        }
        if let Some(id) = &self.tracker_id {
            add("trackerid", &Escaped(id));
        }
        query
    }
}

impl AnnounceResponse {
    /// Reads the body of a tracker's answer to an announce.
    ///
    /// # Errors
    /// If the tracker refuses, or the body is no such answer. A single peer that makes no sense is
    /// no error: it is left out.
    pub fn from_bencode(body: &[u8]) -> Result<AnnounceResponse, AnswerError> {
        let value = answer(body)?;
        let dict = value.as_dict().ok_or(AnswerError::BadKey("interval"))?;
        refusal(dict)?;
        let mut peers = Vec::new();
        match dict.get(b"peers") {
            Some(Value::Bytes(compact)) => tracker::take_peers_v4(compact, &mut peers),
            Some(Value::List(list)) => list.iter().for_each(|peer| take_peer(peer, &mut peers)),
            Some(_) => return Err(AnswerError::BadKey("peers")),
            None => {}
        }
        tracker::take_peers_v6(dict.bytes(b"peers6").unwrap_or_default(), &mut peers);
        let seconds = |key| number(dict, key).map(|seconds| Duration::from_secs(seconds.into()));
        let tracker_id = dict.bytes(b"tracker id").filter(|id| id.len() <= TRACKER_ID_LEN_MAX);
        Ok(AnnounceResponse {
            interval: seconds(b"interval").ok_or(AnswerError::BadKey("interval"))?,
            min_interval: seconds(b"min interval"),
            seeders: number(dict, b"complete").unwrap_or(0),
            leechers: number(dict, b"incomplete").unwrap_or(0),
            tracker_id: tracker_id.map(<[u8]>::to_vec),
            peers,
        })
    }

    /// Appends the body of the answer to `out`, with the first [`TRACKER_PEERS_MAX`] peers in
    /// compact form.
    pub fn put_bencode(&self, out: &mut Vec<u8>) {
        let given = self.given();
        let (mut peers, mut peers6) = (Vec::new(), Vec::new());
        tracker::put_peers_v4(&mut peers, given);
        tracker::put_peers_v6(&mut peers6, given);
        self.put_with(out, |dict| {
            dict.bytes(b"peers", &peers);
            if !peers6.is_empty() {
                dict.bytes(b"peers6", &peers6);
            }
        });
    }

    /// Appends the body of the answer to `out`, with the first [`TRACKER_PEERS_MAX`] peers as
    /// dictionaries, without their peer ids: as to clients that say `no_peer_id`.
    pub fn put_bencode_dictionaries(&self, out: &mut Vec<u8>) {
        self.put_with(out, |dict| {
            dict.list(b"peers", self.given(), |peer, out| {
                bencode::put_dict(out, |dict| {
                    dict.bytes(b"ip", peer.ip().to_string().as_bytes());
                    dict.int(b"port", peer.port().into());
                });
            });
        });
    }

    fn given(&self) -> &[SocketAddr] {
        self.peers.get(..TRACKER_PEERS_MAX).unwrap_or(&self.peers)
    }

    fn put_with(&self, out: &mut Vec<u8>, put_peers: impl FnOnce(&mut DictWriter<'_>)) {
        bencode::put_dict(out, |dict| {
            dict.int(b"complete", self.seeders.into());
            dict.int(b"incomplete", self.leechers.into());
            dict.int(b"interval", seconds(self.interval));
            if let Some(interval) = self.min_interval {
                dict.int(b"min interval", seconds(interval));
            }
            put_peers(dict);
            if let Some(id) = &self.tracker_id {
                dict.bytes(b"tracker id", id);
            }
        });
    }
}

impl ScrapeRequest {
    /// Reads the query of a scrape: each `info_hash` in it, at most [`TRACKER_SCRAPE_MAX`]. None at
    /// all asks for every swarm.
    ///
    /// # Errors
    /// If one is bad.
    pub fn from_query(query: &str) -> Result<ScrapeRequest, QueryError> {
        let bad = QueryError { parameter: "info_hash" };
        let hashes = values(query, "info_hash").take(TRACKER_SCRAPE_MAX);
        let hashes = hashes.map(|hash| hash.try_into().map(Sha1Hash).map_err(|_| bad));
        Ok(ScrapeRequest { info_hashes: hashes.collect::<Result<_, _>>()? })
    }

    /// The query of a scrape.
    #[must_use]
    pub fn to_query(&self) -> String {
        let parameters: Vec<String> =
            self.info_hashes.iter().map(|hash| format!("info_hash={}", Escaped(&hash.0))).collect();
        parameters.join("&")
    }
}

impl ScrapeResponse {
    /// Reads the body of a tracker's answer to a scrape: the first [`TRACKER_SCRAPE_MAX`] swarms.
    ///
    /// # Errors
    /// If the tracker refuses, or the body is no such answer.
    pub fn from_bencode(body: &[u8]) -> Result<ScrapeResponse, AnswerError> {
        let value = answer(body)?;
        let dict = value.as_dict().ok_or(AnswerError::BadKey("files"))?;
        refusal(dict)?;
        let files = dict.dict(b"files").ok_or(AnswerError::BadKey("files"))?;
        let swarms = files.iter().filter_map(|(hash, counts)| {
            let counts = counts.as_dict()?;
            let counts = ScrapeCounts {
                seeders: number(counts, b"complete").unwrap_or(0),
                completed: number(counts, b"downloaded").unwrap_or(0),
                leechers: number(counts, b"incomplete").unwrap_or(0),
            };
            Some((Sha1Hash(hash.try_into().ok()?), counts))
        });
        Ok(ScrapeResponse { swarms: swarms.take(TRACKER_SCRAPE_MAX).collect() })
    }

    /// Appends the body of the answer to `out`.
    pub fn put_bencode(&self, out: &mut Vec<u8>) {
        bencode::put_dict(out, |dict| {
            dict.dict(b"files", |files| {
                for (hash, counts) in &self.swarms {
                    files.dict(&hash.0, |dict| {
                        dict.int(b"complete", counts.seeders.into());
                        dict.int(b"downloaded", counts.completed.into());
                        dict.int(b"incomplete", counts.leechers.into());
                    });
                }
            });
        });
    }
}

/// Appends the body of a refusal to `out`: of an announce (BEP 3) or of a scrape (BEP 48).
pub fn put_failure(out: &mut Vec<u8>, reason: &str) {
    bencode::put_dict(out, |dict| dict.bytes(b"failure reason", reason.as_bytes()));
}

fn answer(body: &[u8]) -> Result<Value<'_>, AnswerError> {
    if body.len() > TRACKER_ANSWER_LEN_MAX {
        return Err(AnswerError::TooLong);
    }
    Ok(bencode::decode(body)?)
}

fn refusal(dict: &Dict<'_>) -> Result<(), AnswerError> {
    match dict.bytes(b"failure reason") {
        Some(reason) => Err(AnswerError::Refused(printable(reason, REASON_CHARS_MAX))),
        None => Ok(()),
    }
}

fn number(dict: &Dict<'_>, key: &[u8]) -> Option<u32> {
    u32::try_from(dict.int(key)?).ok()
}

fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX)
}

/// Adds the peer that a dictionary names (BEP 3); its `ip` may be a host name, which is not looked
/// up.
fn take_peer(peer: &Value<'_>, peers: &mut Vec<SocketAddr>) {
    let Some(dict) = peer.as_dict() else { return };
    let ip = dict.bytes(b"ip").and_then(|ip| str::from_utf8(ip).ok()?.parse::<IpAddr>().ok());
    let port = dict.int(b"port").and_then(|port| u16::try_from(port).ok());
    if let (Some(ip), Some(port)) = (ip, port) {
        tracker::add_peer(peers, ip, port);
    }
}

/// The unescaped values of the parameters with this name.
fn values<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = Vec<u8>> + 'a {
    query
        .split('&')
        .filter_map(move |pair| pair.strip_prefix(name)?.strip_prefix('='))
        .map(|value| unescape(value.as_bytes()))
}

fn text(query: &str, name: &str) -> Option<String> {
    String::from_utf8(values(query, name).next()?).ok()
}

fn twenty_bytes(query: &str, name: &'static str) -> Result<[u8; 20], QueryError> {
    let bytes = values(query, name).next().and_then(|value| value.try_into().ok());
    bytes.ok_or(QueryError { parameter: name })
}

/// Undoes percent-encoding (RFC 3986). A `%` without two digits stands for itself, and so does `+`:
/// it is a space in HTML forms alone.
fn unescape(mut text: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    while let Some((&first, rest)) = text.split_first() {
        let escaped = rest.split_first_chunk::<2>().filter(|_| first == b'%');
        let decoded = escaped
            .and_then(|(digits, rest)| Some((crate::base::hash::from_hex::<1>(digits)?, rest)));
        if let Some(([byte], rest)) = decoded {
            bytes.push(byte);
            text = rest;
        } else {
            bytes.push(first);
            text = rest;
        }
    }
    bytes
}

/// Bytes with percent-encoding of all that RFC 3986 does not call unreserved.
struct Escaped<'a>(&'a [u8]);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| match byte {
            b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' | b'-' | b'.' | b'_' | b'~' => {
                write!(f, "{}", char::from(*byte))
            }
            _ => write!(f, "%{byte:02X}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::SocketAddr;

    use super::*;

    fn request() -> AnnounceRequest {
        AnnounceRequest {
            // Every kind of byte that must be escaped, or must not.
            info_hash: Sha1Hash(*b"\0%+&=?# a~-._z\xff\x7f\n09A"),
            peer_id: PeerId(*b"-TC0100-abcdefghijkl"),
            port: 6881,
            uploaded: 1,
            downloaded: u64::MAX,
            left: 0,
            event: AnnounceEvent::Started,
            numwant: Some(50),
            key: Some(0xab),
            ip: Some("2001:db8::1".parse().unwrap()),
            tracker_id: Some(b"a b".to_vec()),
        }
    }

    fn addresses(count: u16) -> Vec<SocketAddr> {
        (1..=count).map(|port| SocketAddr::from(([10, 0, 0, 1], port))).collect()
    }

    fn answered(body: &[u8]) -> Vec<SocketAddr> {
        AnnounceResponse::from_bencode(body).unwrap().peers
    }

    #[test]
    fn request_round_trips() {
        let bare = AnnounceRequest {
            event: AnnounceEvent::None,
            numwant: None,
            key: None,
            ip: None,
            tracker_id: None,
            ..request()
        };
        let stopped = AnnounceRequest { event: AnnounceEvent::Stopped, ..request() };
        let completed = AnnounceRequest { event: AnnounceEvent::Completed, ..request() };
        for request in [request(), bare, stopped, completed] {
            let query = request.to_query();
            assert!(query.bytes().all(|byte| byte.is_ascii_graphic()), "{query}");
            assert_eq!(AnnounceRequest::from_query(&query), Ok(request));
        }
    }

    #[test]
    fn what_names_the_member_must_be_there() {
        let query = request().to_query();
        for (from, to, parameter) in [
            ("info_hash=", "info_hash=x", "info_hash"),
            ("info_hash=%00", "info_hash=", "info_hash"),
            ("&peer_id=", "&peer-id=", "peer_id"),
            ("&port=6881", "", "port"),
            ("&port=6881", "&port=68810", "port"),
            ("&port=6881", "&port=", "port"),
        ] {
            let query = query.replacen(from, to, 1);
            assert_eq!(
                AnnounceRequest::from_query(&query),
                Err(QueryError { parameter }),
                "{query}"
            );
        }
        assert!(AnnounceRequest::from_query("").is_err());
    }

    #[test]
    fn peers_as_dictionaries_are_read_back() {
        let peers = ["10.0.0.1:1", "[fd00::1]:65535"].map(|peer| peer.parse().expect("an address"));
        let interval = Duration::from_secs(30);
        let response =
            AnnounceResponse { interval, peers: peers.to_vec(), ..AnnounceResponse::default() };
        let mut body = Vec::new();
        response.put_bencode_dictionaries(&mut body);
        assert!(body.ends_with(b"5:peersld2:ip8:10.0.0.14:porti1eed2:ip7:fd00::14:porti65535eeee"));
        assert_eq!(AnnounceResponse::from_bencode(&body), Ok(response));
        let wants = |query| AnnounceRequest::wants_dictionaries(query);
        assert!(wants("a=1&compact=0") && !wants("a=1") && !wants("compact=1"));
    }

    #[test]
    fn parameters_that_make_no_sense_are_as_if_absent() {
        let odd = "uploaded=-1&downloaded=x&left=&event=paused&numwant=-1&key=\
                   %FFnohex&ip=host.example&supportcrypto=1&&=&a=%zz";
        let query = format!(
            "info_hash={}&peer_id={}&port=0&{odd}",
            Escaped(&request().info_hash.0),
            Escaped(&request().peer_id.0)
        );
        let expected = AnnounceRequest {
            port: 0,
            uploaded: 0,
            downloaded: 0,
            left: u64::MAX,
            event: AnnounceEvent::None,
            numwant: None,
            key: None,
            ip: None,
            tracker_id: None,
            ..request()
        };
        assert_eq!(AnnounceRequest::from_query(&query), Ok(expected));
    }

    #[test]
    fn response_round_trips() {
        let response = AnnounceResponse {
            interval: Duration::from_secs(1800),
            min_interval: Some(Duration::from_secs(60)),
            seeders: 3,
            leechers: 4,
            tracker_id: Some(b"id".to_vec()),
            peers: vec!["10.0.0.1:6881".parse().unwrap(), "[2001:db8::1]:6882".parse().unwrap()],
        };
        for response in [response, AnnounceResponse::default()] {
            let mut body = Vec::new();
            response.put_bencode(&mut body);
            assert_eq!(AnnounceResponse::from_bencode(&body), Ok(response));
        }
    }

    #[test]
    fn peers_in_dictionaries_are_read_and_host_names_passed_over() {
        let peers = answered(
            b"d8:intervali60e5:peersl\
              d2:ip8:10.0.0.17:peer id20:aaaaaaaaaaaaaaaaaaaa4:porti6881ee\
              d2:ip12:host.example4:porti6881ee\
              d2:ip3:::14:porti6882ee\
              d2:ip8:10.0.0.24:porti0ee\
              d2:ip8:10.0.0.24:porti65536ee\
              d2:ip7:0.0.0.04:porti1ee\
              i5eee",
        );
        assert_eq!(peers, ["10.0.0.1:6881".parse().unwrap(), "[::1]:6882".parse().unwrap()]);
    }

    #[test]
    fn peers_that_cannot_be_reached_or_are_no_whole_peer_are_left_out() {
        let peers = answered(
            b"d8:intervali60e5:peers21:\
              \x0a\0\0\x01\x1a\xe1\
              \x0a\0\0\x02\0\0\
              \0\0\0\0\x1a\xe1\
              \x0a\0\0e",
        );
        assert_eq!(peers, ["10.0.0.1:6881".parse().unwrap()]);
        let mapped = b"d8:intervali60e6:peers618:\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\x01\x1a\xe1e";
        assert_eq!(answered(mapped), ["10.0.0.1:6881".parse().unwrap()], "IPv4 in IPv6");
    }

    #[test]
    fn peers_are_bounded_on_both_sides() {
        let many = AnnounceResponse { peers: addresses(300), ..Default::default() };
        let mut body = Vec::new();
        many.put_bencode(&mut body);
        assert_eq!(answered(&body), addresses(200));
        let compact: Vec<u8> = [10, 0, 0, 1, 1, 1].repeat(300);
        let body = [b"d8:intervali60e5:peers1800:", &compact[..], b"e"].concat();
        assert_eq!(answered(&body).len(), TRACKER_PEERS_MAX);
        let dicts = b"d2:ip8:10.0.0.14:porti1ee".repeat(300);
        let body = [b"d8:intervali60e5:peersl", &dicts[..], b"ee"].concat();
        assert_eq!(answered(&body).len(), TRACKER_PEERS_MAX);
    }

    #[test]
    fn answers_that_give_nothing_say_why() {
        let failed = |body: &[u8]| AnnounceResponse::from_bencode(body).unwrap_err();
        let mut refusal = Vec::new();
        put_failure(&mut refusal, "not\there");
        assert_eq!(failed(&refusal), AnswerError::Refused("nothere".into()));
        let shout = "a".repeat(5000);
        refusal.clear();
        put_failure(&mut refusal, &shout);
        assert_eq!(failed(&refusal), AnswerError::Refused(shout[..REASON_CHARS_MAX].into()));
        assert_eq!(failed(b"de"), AnswerError::BadKey("interval"));
        assert_eq!(failed(b"d8:intervali-1ee"), AnswerError::BadKey("interval"));
        assert_eq!(failed(b"d8:intervali1e5:peersi1ee"), AnswerError::BadKey("peers"));
        assert_eq!(failed(b"<html>"), AnswerError::Bencode(BencodeError::UnexpectedByte(b'<')));
        assert_eq!(failed(&vec![b'l'; TRACKER_ANSWER_LEN_MAX + 1]), AnswerError::TooLong);
    }

    #[test]
    fn scrape_round_trips_and_is_bounded() {
        let info_hashes: Vec<Sha1Hash> = (0..100u8).map(|number| Sha1Hash::of(&[number])).collect();
        let request = ScrapeRequest { info_hashes: info_hashes.clone() };
        let read = ScrapeRequest::from_query(&request.to_query()).unwrap();
        assert_eq!(read.info_hashes, info_hashes[..TRACKER_SCRAPE_MAX]);
        assert_eq!(ScrapeRequest::from_query("x=1"), Ok(ScrapeRequest::default()));
        assert!(ScrapeRequest::from_query("info_hash=short").is_err());

        let counts = |n| ScrapeCounts { seeders: n, completed: n + 1, leechers: n + 2 };
        let swarms: BTreeMap<_, _> = info_hashes.iter().copied().zip((0..).map(counts)).collect();
        let mut body = Vec::new();
        ScrapeResponse { swarms: swarms.clone() }.put_bencode(&mut body);
        let read = ScrapeResponse::from_bencode(&body).unwrap();
        assert!(read.swarms.into_iter().eq(swarms.into_iter().take(TRACKER_SCRAPE_MAX)));
        let refused = ScrapeResponse::from_bencode(b"d14:failure reason1:xe");
        assert_eq!(refused, Err(AnswerError::Refused("x".into())));
    }

    #[test]
    fn unescaping_leaves_what_is_no_escape() {
        assert_eq!(unescape(b"%41%6a%6A+%"), b"Ajj+%");
        assert_eq!(unescape(b"%4%zz%%41"), b"%4%zz%A");
    }
}
