//! A blob, from wherever it is, to one client.

use crate::base::figures;
use crate::fetch::{BlobRequest, Chunk, FetchError, ReadError, Reader};
use crate::http::{Front, Place, describe_as, fail, fail_read, relay};
use crate::net::serve::{Exchange, ExchangeError};
use crate::proto::blob::BlobName;
use crate::proto::http1::{BodyLen, ByteRange, ContentRange, Headers, Method, Url, Version};
use crate::upstream::{Origin, UpstreamError};

/// How much of a stored blob is sent before the reader is asked for more.
const SEND_LEN: u64 = 8 << 20;

/// Serves `GET` and `HEAD` of a blob.
pub(super) fn serve(
    front: &Front,
    exchange: &mut Exchange<'_>,
    name: BlobName,
    url: Url,
) -> Result<(), ExchangeError> {
    let head = exchange.head();
    let is_head = head.method == Method::Head;
    let etag = etag_of(&name);
    let origin = front.origin(url, &head.headers);
    let range = if is_head { None } else { wanted_range(&head.headers, &etag) };
    let has_it = is_known(&head.headers, &etag);
    let request =
        BlobRequest { name, origin, range, file: None, is_granted: false, told_len: None };
    if is_head || has_it {
        let stat = match is_head {
            // Who pushes asks so what is to be sent.
            true => front.fetcher.stat_now(&request),
            false => front.fetcher.stat(&request),
        };
        match stat {
            Ok(Some(_)) if has_it => return exchange.respond(304, &fields(&etag, "store"), b""),
            Ok(Some(len)) => return describe(exchange, &etag, len),
            Ok(None) if is_head => return ask(front, exchange, &request.origin),
            Ok(None) => {}
            Err(error) => return fail(exchange, &Place::Url(&request.origin.url), &error),
        }
    }
    match front.fetcher.open(&request) {
        Ok(reader) => {
            let fields = fields(&etag, reader.source());
            send(exchange, fields, reader, range.is_some())
        }
        // Compressed for the way: what comes is not the blob, but it is what this client may take.
        Err(FetchError::Upstream(UpstreamError::Encoded)) => {
            relay::serve(front, exchange, request.origin.url)
        }
        Err(error) => {
            count_failed(&error);
            fail(exchange, &Place::Url(&request.origin.url), &error)
        }
    }
}

/// Counts a request for a blob that is answered without it.
pub(super) fn count_failed(error: &FetchError) {
    let is_denied = match error {
        FetchError::Unsatisfiable(_) => return,
        FetchError::Upstream(UpstreamError::Status(answer)) => matches!(answer.status, 401 | 403),
        FetchError::Upstream(UpstreamError::Forbidden) => true,
        _ => false,
    };
    if is_denied { &figures::REQUESTS_DENIED } else { &figures::REQUESTS_FAILED }.add(1);
}

/// The range to answer: none if the client's copy is of something else (`If-Range`, RFC 9110
/// 13.1.5).
pub(super) fn wanted_range(headers: &Headers, etag: &str) -> Option<ByteRange> {
    let is_same = headers.get("if-range").is_none_or(|value| value == etag.as_bytes());
    headers.get("range").filter(|_| is_same).and_then(ByteRange::parse)
}

/// Whether the client has the blob already (`If-None-Match`, RFC 9110 13.1.2).
pub(super) fn is_known(headers: &Headers, etag: &str) -> bool {
    headers.get_all("if-none-match").any(|value| {
        let value = String::from_utf8_lossy(value);
        value.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag)
    })
}

/// The name in quotes.
fn etag_of(name: &BlobName) -> String {
    format!("\"{name}\"")
}

/// What every answer about a blob says (as the reference registry does).
fn fields(etag: &str, source: &str) -> Headers {
    let mut headers = Headers::new();
    headers.append("Accept-Ranges", "bytes");
    headers.append("Cache-Control", "max-age=31536000");
    headers.append("Docker-Content-Digest", etag.trim_matches('"'));
    headers.append("Docker-Distribution-Api-Version", "registry/2.0");
    headers.append("ETag", etag);
    headers.append("X-Torrent-Cache", source);
    headers
}

fn describe(exchange: &mut Exchange<'_>, etag: &str, len: u64) -> Result<(), ExchangeError> {
    let mut headers = fields(etag, "store");
    headers.append("Content-Type", "application/octet-stream");
    exchange.start(200, &headers, BodyLen::Known(len))?;
    exchange.finish()
}

/// A question about a blob that is not here is the upstream's to answer; it fetches nothing.
fn ask(front: &Front, exchange: &mut Exchange<'_>, origin: &Origin) -> Result<(), ExchangeError> {
    match front.upstream.head(origin) {
        Ok(answer) => describe_as(exchange, answer),
        Err(error) => fail(exchange, &Place::Url(&origin.url), &FetchError::Upstream(error)),
    }
}

/// Sends what `reader` gives, with these fields and those that follow from it.
pub(super) fn send(
    exchange: &mut Exchange<'_>,
    mut headers: Headers,
    mut reader: Reader,
    is_range: bool,
) -> Result<(), ExchangeError> {
    headers.append("Content-Type", "application/octet-stream");
    let (first, end) = (reader.offset(), reader.end());
    // Without an end no range can be told: then it is the whole, from the first byte on.
    let is_part = is_range && end.is_some();
    if let (true, Some(end)) = (is_part, end) {
        let last = end.saturating_sub(1);
        let range = ContentRange::Part { first, last, total: reader.total() };
        headers.append("Content-Range", range.to_string());
    }
    let len = match end {
        Some(end) => BodyLen::Known(end - first),
        None if exchange.head().version == Version::Http10 => BodyLen::UntilClose,
        None => BodyLen::Chunked,
    };
    // While no byte is there, the client can still be told that none will come.
    let (name, source) = (reader.name(), reader.source());
    let mut next = match reader.next(SEND_LEN) {
        Err(error) => return fail_read(exchange, name, &error),
        next => next,
    };
    match source {
        "store" => &figures::REQUESTS_HIT,
        "swarm" => &figures::REQUESTS_SWARM,
        _ => &figures::REQUESTS_UPSTREAM,
    }
    .add(1);
    exchange.start(if is_part { 206 } else { 200 }, &headers, len)?;
    loop {
        match next {
            Ok(Chunk::File { file, offset, len }) => {
                let mut left = 0;
                match exchange.send_file(file, offset, len) {
                    Err(ExchangeError::Unreadable { unsent, why }) => {
                        let around = reader.go_round(unsent, &why);
                        around.map_err(|error| cut(&reader, &error))?;
                        left = unsent;
                    }
                    sent => sent?,
                }
                figures::BYTES_TO_CLIENTS.add(len - left);
            }
            Ok(Chunk::Bytes(bytes)) => {
                exchange.send(bytes)?;
                figures::BYTES_TO_CLIENTS.add(bytes.len() as u64);
            }
            Ok(Chunk::End) => return exchange.finish(),
            Err(error) => return Err(cut(&reader, &error)),
        }
        next = reader.next(SEND_LEN);
    }
}

/// Counts a response that ends before its time.
fn cut(reader: &Reader, error: &ReadError) -> ExchangeError {
    figures::REQUESTS_CUT.add(1);
    crate::log_limited!(warn, "blob {}: a response is cut: {error}", reader.name());
    ExchangeError::Cut(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ETAG: &str = "\"sha256:ab\"";

    fn headers(fields: &[(&str, &str)]) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn a_range_of_another_copy_is_not_answered() {
        let range = Some(ByteRange::From { first: 5, last: None });
        assert_eq!(wanted_range(&headers(&[("Range", "bytes=5-")]), ETAG), range);
        let same = headers(&[("Range", "bytes=5-"), ("If-Range", ETAG)]);
        assert_eq!(wanted_range(&same, ETAG), range);
        let other = headers(&[("Range", "bytes=5-"), ("If-Range", "\"x\"")]);
        assert_eq!(wanted_range(&other, ETAG), None);
        let date = headers(&[("Range", "bytes=5-"), ("If-Range", "Mon, 23 Nov 2026 06:56:03 GMT")]);
        assert_eq!(wanted_range(&date, ETAG), None);
    }

    #[test]
    fn a_client_that_has_the_blob_says_so_in_any_spelling() {
        for value in [ETAG, "W/\"sha256:ab\"", "\"x\", \"sha256:ab\""] {
            assert!(is_known(&headers(&[("If-None-Match", value)]), ETAG), "{value}");
        }
        assert!(!is_known(&headers(&[("If-None-Match", "\"x\"")]), ETAG));
        assert!(!is_known(&headers(&[]), ETAG));
    }
}
