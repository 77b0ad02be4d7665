//! What must hold for each codec of the HTTP side and any input at all: heads, chunks, ranges,
//! URLs, registry paths, the answers of etcd. Used as the laws beside it are.

use torrent_cache::limits::{HTTP_HEAD_LEN_MAX, HTTP_HEADERS_MAX};
use torrent_cache::proto::etcd::{
    LeaseAnswer, RangeAnswer, Refusal, TxnAnswer, decode_deleted, decode_done, decode_token,
};
use torrent_cache::proto::http1::{
    BodyLen, ByteRange, ChunkDecoder, ChunkStep, ContentRange, HeadError, RangeAnswer as Cut,
    RequestHead, Target, URL_LEN_MAX, Url, Version,
};
use torrent_cache::proto::{base64, oci};

/// A head that is taken is taken alike wherever it is cut, frames its body in one way, and has
/// fields that no other field can hide in.
pub fn http_head(input: &[u8]) {
    agree_on_heads(input);
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

/// What ours takes, `httparse` takes alike and RFC 9112 allows; what only `httparse` takes breaks a
/// rule that ours names.
fn agree_on_heads(input: &[u8]) {
    let mut fields = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
    let mut theirs = httparse::Request::new(&mut fields);
    let parsed = theirs.parse(input);
    match (RequestHead::decode(input), parsed) {
        (Ok(Some((head, used))), Ok(httparse::Status::Complete(their_used))) => {
            assert_eq!(used, their_used);
            assert_eq!(Some(head.method.as_str()), theirs.method);
            assert_eq!(head.version == Version::Http11, theirs.version == Some(1));
            let theirs = theirs.headers.iter().map(|field| (field.name, field.value));
            assert!(head.headers.iter().eq(theirs));
            assert!(is_allowed(&input[..used]), "{}", input[..used].escape_ascii());
        }
        (Ok(Some(_)), theirs) => panic!("{}: only ours: {theirs:?}", input.escape_ascii()),
        (Err(error), Ok(httparse::Status::Complete(used))) => {
            let strict = matches!(error, HeadError::Malformed(_) | HeadError::Framing(_))
                || matches!(error, HeadError::TargetTooLong) && used > URL_LEN_MAX
                || matches!(error, HeadError::TooLarge) && used > HTTP_HEAD_LEN_MAX;
            assert!(strict, "{}: {error}", input.escape_ascii());
        }
        (Ok(None), Ok(httparse::Status::Complete(_))) => {
            panic!("{}: ours waits for more", input.escape_ascii())
        }
        _ => {}
    }
}

/// RFC 9112 sections 2.2, 3 and 5, without what it lets a server repair: lines end with CRLF, a
/// request line has three words, a field has a name of token characters and no control in its
/// value.
fn is_allowed(head: &[u8]) -> bool {
    // One character for each byte: those beyond ASCII may stand in values.
    let text: String = head.iter().map(|&byte| char::from(byte)).collect();
    let text = text.strip_prefix("\r\n").unwrap_or(&text);
    let Some(lines) = text.strip_suffix("\r\n\r\n") else { return false };
    let mut lines = lines.split("\r\n");
    let is_token = |text: &str| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        !text.is_empty() && text.chars().all(is_part)
    };
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, version] = words[..] else { return false };
    let is_line = is_token(method)
        && !target.is_empty()
        && target.chars().all(|c| c.is_ascii_graphic())
        && matches!(version, "HTTP/1.0" | "HTTP/1.1");
    is_line
        && lines.all(|line| {
            let Some((name, value)) = line.split_once(':') else { return false };
            is_token(name) && !value.chars().any(|c| c.is_ascii_control() && c != '\t')
        })
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

/// A manifest is read as the same however its JSON is written.
pub fn manifest(input: &[u8]) {
    let Some(read) = oci::Manifest::decode(input) else { return };
    let rewritten: serde_json::Value = serde_json::from_slice(input).expect("it was read");
    assert_eq!(oci::Manifest::decode(rewritten.to_string().as_bytes()), Some(read));
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
