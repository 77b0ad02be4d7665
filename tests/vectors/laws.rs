//! What must hold for each BitTorrent codec and any input at all. `tests/vectors.rs` tries them on
//! changed vectors, the fuzz targets on everything.
//!
//! A law panics where it is broken. Most say: what is read, is read again from what it is written
//! as.

use bip_bencode::{BDecodeOpt, BRefAccess, BencodeRef, BencodeRefKind};
use torrent_cache::proto::bencode::{self, BencodeError, Value};
use torrent_cache::proto::ext::ExtHandshake;
use torrent_cache::proto::hashes::{HASHES_MAX, PieceHashes};
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::proto::peer::{Frame, Handshake, Message, encode_block_head};
use torrent_cache::proto::tracker::{
    AnnounceRequest, AnnounceResponse, ScrapeRequest, ScrapeResponse,
};
use torrent_cache::proto::tracker_udp::{DATAGRAM_LEN_MAX, Family, Request, Response};

/// Bencode that is taken has one form, the one it came in, and means what another decoder reads.
pub fn bencode(input: &[u8]) {
    agree_on_bencode(input);
    if let Ok((value, used)) = bencode::decode_prefix(input) {
        let mut out = Vec::new();
        put(&mut out, &value);
        assert_eq!(out, input[..used]);
        assert_eq!(bencode::decode(input).is_ok(), used == input.len());
    }
}

/// Ours and `bip_bencode` take and refuse the same.
fn agree_on_bencode(input: &[u8]) {
    let theirs = BencodeRef::decode(input, BDecodeOpt::new(32, true, true));
    match (bencode::decode(input), theirs) {
        (Ok(ours), Ok(theirs)) => assert!(same(&ours, &theirs)),
        (Ok(_), Err(error)) => panic!("{}: only ours: {error}", input.escape_ascii()),
        // The other one takes a plus sign in front of a number, against BEP 3.
        (Err(BencodeError::BadNumber | BencodeError::UnexpectedByte(_)), Ok(_))
            if input.contains(&b'+') => {}
        (Err(error), Ok(_)) => panic!("{}: only theirs: {error}", input.escape_ascii()),
        (Err(_), Err(_)) => {}
    }
}

/// Whether both decoders read the same.
fn same(ours: &Value<'_>, theirs: &BencodeRef<'_>) -> bool {
    match (ours, theirs.kind()) {
        (Value::Int(ours), BencodeRefKind::Int(theirs)) => *ours == theirs,
        (Value::Bytes(ours), BencodeRefKind::Bytes(theirs)) => *ours == theirs,
        (Value::List(ours), BencodeRefKind::List(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs))
        }
        (Value::Dict(ours), BencodeRefKind::Dict(theirs)) => {
            let theirs = theirs.to_list();
            ours.iter().count() == theirs.len()
                && ours
                    .iter()
                    .zip(theirs)
                    .all(|(ours, theirs)| ours.0 == *theirs.0 && same(ours.1, theirs.1))
        }
        _ => false,
    }
}

fn put(out: &mut Vec<u8>, value: &Value<'_>) {
    match value {
        Value::Int(number) => bencode::put_int(out, *number),
        Value::Bytes(bytes) => bencode::put_bytes(out, bytes),
        Value::List(values) => {
            out.push(b'l');
            values.iter().for_each(|value| put(out, value));
            out.push(b'e');
        }
        Value::Dict(dict) => {
            let from = out.len();
            out.push(b'd');
            for (key, value) in dict.iter() {
                bencode::put_bytes(out, key);
                put(out, value);
            }
            out.push(b'e');
            assert_eq!(dict.raw(), &out[from..]);
        }
    }
}

/// Metainfo keeps all that its info-hash covers, and has a hash for each piece.
pub fn metainfo(input: &[u8]) {
    if let Ok(metainfo) = Metainfo::decode(input) {
        assert_eq!(Metainfo::decode(&metainfo.encode()), Ok(metainfo.clone()));
        for piece in metainfo.geometry().pieces() {
            let _ = metainfo.piece_hash(piece);
        }
    }
}

/// A peer's bytes, from the handshake on, make the same frames wherever they are cut once.
pub fn peer(input: &[u8]) {
    let Ok(Some((handshake, mut at))) = Handshake::decode(input) else { return };
    let mut out = Vec::new();
    handshake.encode(&mut out);
    assert_eq!(out, input[..at]);
    while let Ok(Some((frame, used))) = Frame::decode(&input[at..]) {
        assert!(used > 0);
        let cut = (at + used).saturating_sub(1 + at % used);
        if let Ok(Some(early)) = Frame::decode(&input[at..cut]) {
            assert_eq!(early, (frame.clone(), used), "cut at {cut}");
        }
        let mut out = Vec::new();
        match &frame {
            Frame::Message(Message::Unknown(_)) => out.extend_from_slice(&input[at..at + used]),
            Frame::Message(message) => message.encode(&mut out),
            Frame::Block(block) => out.extend_from_slice(&encode_block_head(*block)),
        }
        assert_eq!(out, input[at..at + used]);
        at += used;
        if let Frame::Block(block) = frame {
            at = input.len().min(at + block.len as usize);
        }
    }
}

/// The payload of an extension message, read as a handshake and as hashes.
pub fn ext(input: &[u8]) {
    hashes(input);
    if let Ok(handshake) = ExtHandshake::decode(input) {
        let mut out = Vec::new();
        handshake.encode(&mut out);
        assert_eq!(ExtHandshake::decode(&out), Ok(handshake));
    }
}

/// Hashes that are taken have one form, the one they came in, and there are some, not too many.
pub fn hashes(input: &[u8]) {
    if let Some(hashes) = PieceHashes::decode(input) {
        let mut out = Vec::new();
        hashes.encode(&mut out);
        assert_eq!(out, input);
        assert!((1..=HASHES_MAX).contains(&hashes.hashes.len()));
    }
}

/// The query of a request to an HTTP tracker.
pub fn http_query(input: &[u8]) {
    let Ok(query) = str::from_utf8(input) else { return };
    if let Ok(request) = AnnounceRequest::from_query(query) {
        assert_eq!(AnnounceRequest::from_query(&request.to_query()), Ok(request));
    }
    if let Ok(request) = ScrapeRequest::from_query(query) {
        assert_eq!(ScrapeRequest::from_query(&request.to_query()), Ok(request));
    }
}

/// The answer of an HTTP tracker.
pub fn http_answer(input: &[u8]) {
    if let Ok(mut response) = AnnounceResponse::from_bencode(input) {
        // Written, the two families stand apart.
        response.peers.sort_by_key(|peer| peer.is_ipv6());
        let mut out = Vec::new();
        response.put_bencode(&mut out);
        assert_eq!(AnnounceResponse::from_bencode(&out), Ok(response));
    }
    if let Ok(response) = ScrapeResponse::from_bencode(input) {
        let mut out = Vec::new();
        response.put_bencode(&mut out);
        assert_eq!(ScrapeResponse::from_bencode(&out), Ok(response));
    }
}

/// A datagram, read as a request and as an answer of either family.
pub fn udp(input: &[u8]) {
    if let Ok(request) = Request::decode(input) {
        let mut out = Vec::new();
        request.encode(&mut out);
        assert_eq!(Request::decode(&out), Ok(request));
    }
    for family in [Family::V4, Family::V6] {
        if let Ok(response) = Response::decode(input, family) {
            let mut out = Vec::new();
            response.encode(family, &mut out);
            assert!(out.len() <= DATAGRAM_LEN_MAX);
            match (Response::decode(&out, family), response) {
                // A datagram of ours may hold fewer peers than one of others.
                (
                    Ok(Response::Announce { announce: again, .. }),
                    Response::Announce { announce, .. },
                ) => {
                    let fewer: Vec<_> = announce
                        .peers
                        .into_iter()
                        .filter(|peer| peer.is_ipv4() == (family == Family::V4))
                        .collect();
                    assert!(fewer.starts_with(&again.peers));
                    assert_eq!(again.interval, announce.interval);
                }
                (again, response) => assert_eq!(again, Ok(response)),
            }
        }
    }
}
