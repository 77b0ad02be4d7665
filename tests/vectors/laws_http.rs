//! What must hold for each codec of the HTTP side and any input at all: heads, chunks, ranges,
//! URLs, registry paths, the answers of etcd. Used as the laws beside it are.

use torrent_cache::proto::etcd::{
    LeaseAnswer, RangeAnswer, Refusal, TxnAnswer, decode_deleted, decode_done, decode_token,
};
use torrent_cache::proto::http1::{
    BodyLen, ByteRange, ChunkDecoder, ChunkStep, ContentRange, RangeAnswer as Cut, RequestHead,
    Target, Url,
};
use torrent_cache::proto::{base64, oci};

/// A head that is taken is taken alike wherever it is cut, frames its body in one way, and has
/// fields that no other field can hide in.
pub fn http_head(input: &[u8]) {
    let Ok(Some((head, used))) = RequestHead::decode(input) else { return };
    assert!(used <= input.len());
    assert_eq!(
        RequestHead::decode(&input[..used]).ok().flatten().map(|(_, used)| used),
        Some(used)
    );
    assert!(matches!(RequestHead::decode(&input[..used - 1]), Ok(None)));
    for (name, value) in head.headers.iter() {
        assert!(!name.is_empty() && !name.contains([' ', ':', '\r', '\n']));
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
    }
    if let Ok(len) = head.framing() {
        let coded = head.headers.get("transfer-encoding").is_some();
        assert_eq!(coded, len == BodyLen::Chunked);
        assert!(!(coded && head.headers.get("content-length").is_some()));
    }
    if let Target::Origin(target) = &head.target {
        assert!(target.starts_with('/'));
    }
}

/// A chunked body comes out the same in one piece and byte by byte.
pub fn http_chunks(input: &[u8]) {
    let whole = unchunk(input, usize::MAX);
    assert_eq!(unchunk(input, 1), whole);
}

/// The bytes of a chunked body and whether it ended, given at most `step` more bytes at a time.
fn unchunk(input: &[u8], step: usize) -> (Vec<u8>, bool) {
    let (mut decoder, mut out, mut at, mut seen) = (ChunkDecoder::new(), Vec::new(), 0, 0);
    loop {
        match decoder.step(&input[at..seen]) {
            Ok(Some(ChunkStep::Framing(used))) => at += used,
            Ok(Some(ChunkStep::Data(len))) => {
                let len = usize::try_from(len).unwrap_or(usize::MAX).min(seen - at);
                out.extend_from_slice(&input[at..at + len]);
                decoder.took(len as u64);
                at += len;
                if len == 0 && seen == input.len() {
                    return (out, false);
                }
                if len == 0 {
                    seen = seen.saturating_add(step).min(input.len());
                }
            }
            Ok(Some(ChunkStep::End)) => return (out, true),
            Ok(None) if seen == input.len() => return (out, false),
            Ok(None) => seen = seen.saturating_add(step).min(input.len()),
            Err(_) => return (out, false),
        }
    }
}

/// A range lies inside of the body it is cut from; what is written is read again.
pub fn http_range(input: &[u8]) {
    if let Some(range) = ByteRange::parse(input) {
        for len in [0, 1, 2, 1 << 20, u64::MAX] {
            if let Cut::Part(first, last) = range.resolve(len) {
                assert!(first <= last && last < len);
            }
        }
    }
    if let Some(range) = ContentRange::parse(input) {
        assert_eq!(ContentRange::parse(range.to_string().as_bytes()), Some(range));
    }
}

/// A URL is read again from what it is written as; a reference to it stays on http.
pub fn url(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let base = Url::parse("https://registry.example/v2/a").expect("a URL");
    for url in [Url::parse(text), base.join(text)].into_iter().flatten() {
        assert_eq!(Url::parse(&url.to_string()), Ok(url.clone()));
        assert!(url.target.starts_with('/') && url.port > 0 && !url.host.is_empty());
    }
}

/// A path that names a blob or a manifest is spelt in the one way that the specification has for
/// it.
pub fn oci(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let spelt = match oci::parse(text) {
        oci::OciPath::Blob { repository, digest } => format!("/v2/{repository}/blobs/{digest}"),
        oci::OciPath::Manifest { repository, reference } => {
            format!("/v2/{repository}/manifests/{reference}")
        }
        oci::OciPath::Ping | oci::OciPath::Other => return,
    };
    assert_eq!(spelt, text);
}

/// No answer of etcd does harm, and base64 is read again from what it is written as.
pub fn etcd(input: &[u8]) {
    let _ = RangeAnswer::decode(input);
    let _ = TxnAnswer::decode(input);
    let _ = LeaseAnswer::decode(input);
    let _ = (decode_deleted(input), decode_done(input), decode_token(input));
    assert!(Refusal::decode(input).message.chars().count() <= 200);
    assert_eq!(base64::decode(&base64::encode(input)).as_deref(), Some(input));
}
