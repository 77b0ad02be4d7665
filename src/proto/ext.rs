//! The extension handshake (BEP 10): what a peer says about itself once both handshakes are done.
//!
//! All of it are hints. A key that we do not know, or whose value has the wrong type or is out of
//! range, is as if it were not there.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::proto::bencode::{self, BencodeError, Dict};
use crate::proto::printable;

/// The id of the extension handshake among extension messages.
pub const HANDSHAKE_ID: u8 = 0;

/// Extension messages that a peer can name. libtorrent names 7.
const MESSAGES_MAX: usize = 64;
/// The longest name of an extension message. BEP 10 wants them short; `ut_metadata` has 11.
const MESSAGE_NAME_LEN_MAX: usize = 64;
/// Of a client's name, what is kept.
const CLIENT_CHARS_MAX: usize = 64;

/// The payload of an extension handshake.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtHandshake {
    /// `v`: name and version of the sender's program, without control characters.
    pub client: Option<String>,
    /// `reqq`: how many requests the sender keeps without dropping any, at least 1.
    pub reqq: Option<u32>,
    /// `p`: the TCP port where the sender takes connections, not 0.
    pub port: Option<u16>,
    /// `tc_block`: the longest block in bytes that the sender takes and gives, at least 1. Ours
    /// alone: BEP 3 clients close the connection on requests above 16 KiB to 128 KiB.
    pub block_len_max: Option<u32>,
    /// `metadata_size`: length in bytes of the info dictionary (BEP 9), at least 1.
    pub metadata_size: Option<u32>,
    /// `yourip`: the receiver's address as the sender sees it.
    pub your_ip: Option<IpAddr>,
    /// `m`: by name, the id that the sender wants in front of each extension message, not 0.
    pub messages: BTreeMap<String, u8>,
}

impl ExtHandshake {
    /// Reads the payload of the extension message [`HANDSHAKE_ID`].
    ///
    /// # Errors
    /// If it is not one bencoded dictionary.
    pub fn decode(payload: &[u8]) -> Result<ExtHandshake, BencodeError> {
        let value = bencode::decode(payload)?;
        let first = payload.first().copied().unwrap_or_default();
        let dict = value.as_dict().ok_or(BencodeError::UnexpectedByte(first))?;
        Ok(ExtHandshake {
            client: dict.bytes(b"v").map(|name| printable(name, CLIENT_CHARS_MAX)),
            reqq: positive(dict, b"reqq"),
            port: positive(dict, b"p"),
            block_len_max: positive(dict, b"tc_block"),
            metadata_size: positive(dict, b"metadata_size"),
            your_ip: dict.bytes(b"yourip").and_then(address),
            messages: dict.dict(b"m").map(messages).unwrap_or_default(),
        })
    }

    /// Appends the payload to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let optional = |dict: &mut bencode::DictWriter<'_>, key: &[u8], number: Option<u32>| {
            if let Some(number) = number {
                dict.int(key, i64::from(number));
            }
        };
        bencode::put_dict(out, |dict| {
            dict.dict(b"m", |messages| {
                for (name, id) in &self.messages {
                    messages.int(name.as_bytes(), i64::from(*id));
                }
            });
            optional(dict, b"metadata_size", self.metadata_size);
            optional(dict, b"p", self.port.map(u32::from));
            optional(dict, b"reqq", self.reqq);
            optional(dict, b"tc_block", self.block_len_max);
            if let Some(client) = &self.client {
                dict.bytes(b"v", client.as_bytes());
            }
            match self.your_ip {
                Some(IpAddr::V4(ip)) => dict.bytes(b"yourip", &ip.octets()),
                Some(IpAddr::V6(ip)) => dict.bytes(b"yourip", &ip.octets()),
                None => {}
            }
        });
    }
}

/// The number under `key`, if it is above zero and fits.
fn positive<N: TryFrom<i64>>(dict: &Dict<'_>, key: &[u8]) -> Option<N> {
    let number = dict.int(key).filter(|number| *number > 0)?;
    N::try_from(number).ok()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::V4(Ipv4Addr::from(octets)));
    }
    let octets = <[u8; 16]>::try_from(bytes).ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

/// The extension messages of `m`; id 0 says that the sender does not speak one (any more).
fn messages(dict: &Dict<'_>) -> BTreeMap<String, u8> {
    dict.iter()
        .filter_map(|(name, value)| {
            let name =
                str::from_utf8(name).ok().filter(|name| name.len() <= MESSAGE_NAME_LEN_MAX)?;
            let id = u8::try_from(value.as_int()?).ok().filter(|id| *id > 0)?;
            Some((name.to_owned(), id))
        })
        .take(MESSAGES_MAX)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(handshake: &ExtHandshake) -> Vec<u8> {
        let mut out = Vec::new();
        handshake.encode(&mut out);
        out
    }

    #[test]
    fn round_trip_with_and_without_each_key() {
        let full = ExtHandshake {
            client: Some("torrent-cache 0.1.0".into()),
            reqq: Some(500),
            port: Some(6881),
            block_len_max: Some(1 << 20),
            metadata_size: Some(123),
            your_ip: Some(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            messages: [("ut_metadata".into(), 2), ("ut_pex".into(), 1)].into(),
        };
        for handshake in [
            full.clone(),
            ExtHandshake { your_ip: Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), ..full },
            ExtHandshake::default(),
        ] {
            assert_eq!(ExtHandshake::decode(&encoded(&handshake)), Ok(handshake));
        }
        assert_eq!(encoded(&ExtHandshake::default()), b"d1:mdee");
    }

    #[test]
    fn values_that_make_no_sense_are_as_if_absent() {
        for payload in [
            &b"de"[..],
            b"d1:mi1e1:pi0e4:reqqi-1e8:tc_blocki0ee",
            b"d1:md6:ut_pexi0ee1:pi65536e4:reqqi4294967296ee",
            b"d1:md6:ut_pexi256ee1:p4:68811:vi1e6:yourip5:abcdee",
            b"d1:md6:ut_pex1:11:\xffi1eee",
        ] {
            let read = ExtHandshake::decode(payload);
            assert_eq!(read, Ok(ExtHandshake::default()), "{}", payload.escape_ascii());
        }
        assert!(ExtHandshake::decode(b"le").is_err());
        assert!(ExtHandshake::decode(b"").is_err());
        assert!(ExtHandshake::decode(b"de\0").is_err());
    }

    #[test]
    fn names_and_their_number_are_bounded() {
        let long = "x".repeat(MESSAGE_NAME_LEN_MAX + 1);
        let mut handshake =
            ExtHandshake { client: Some("\u{e9}".repeat(500)), ..Default::default() };
        handshake.messages = (0..200).map(|number| (format!("m{number:03}"), 1)).collect();
        handshake.messages.insert(long.clone(), 1);
        let read = ExtHandshake::decode(&encoded(&handshake)).unwrap();
        assert_eq!(read.messages.len(), MESSAGES_MAX);
        assert!(!read.messages.contains_key(&long));
        assert_eq!(read.client, Some("\u{e9}".repeat(CLIENT_CHARS_MAX)));
    }

    #[test]
    fn names_of_clients_are_fit_for_a_log_line() {
        let read = ExtHandshake::decode(b"d1:v10:a\x1b[31m\r\nb\xffe").unwrap();
        assert_eq!(read.client.as_deref(), Some("a[31mb\u{fffd}"));
    }
}
