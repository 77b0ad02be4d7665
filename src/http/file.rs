//! A file of an OSTree repository, from wherever it is, to one client.

use crate::base::figures;
use crate::fetch::{FetchError, FileKind, FileOutcome, FileReader, FileRequest};
use crate::http::delta::asks_beside;
use crate::http::{Front, pass_on, passing_status, refuse, relay, unreachable_status};
use crate::net::serve::{Exchange, ExchangeError};
use crate::proto::http1::{BodyLen, Headers, Method, Url, Version};
use crate::upstream::UpstreamError;

/// Serves `GET` and `HEAD` of a file. Ranges are not: an answer with the whole is a right one
/// (RFC 9110 section 14.2), and no client of such repositories asks for them.
pub(super) fn serve(
    front: &Front,
    exchange: &mut Exchange<'_>,
    url: Url,
    repository: String,
    kind: FileKind,
) -> Result<(), ExchangeError> {
    if let FileKind::Named(checksum) = kind
        && exchange.head().headers.text("user-agent").is_some_and(asks_beside)
    {
        front.fetcher.object_goes(exchange.peer().ip(), &checksum);
    }
    let origin = front.origin(url, &exchange.head().headers);
    let request = FileRequest { origin, repository, kind };
    let is_head = exchange.head().method == Method::Head;
    let outcome = match is_head {
        true => front.fetcher.describe_file(&request),
        false => front.fetcher.open_file(&request),
    };
    match outcome {
        Ok(FileOutcome::Read(reader)) => send(exchange, reader),
        Ok(FileOutcome::Relay) => relay::serve(front, exchange, request.origin.url),
        Err(error) => fail(exchange, &request.origin.url, &error),
    }
}

fn send(exchange: &mut Exchange<'_>, mut reader: FileReader) -> Result<(), ExchangeError> {
    let mut headers = std::mem::take(&mut reader.headers);
    headers.append("X-Torrent-Cache", reader.source);
    if reader.status == 200 && is_known(&exchange.head().headers, &headers) {
        return exchange.respond(304, &headers, b"");
    }
    let len = match reader.len {
        Some(len) => BodyLen::Known(len),
        None if exchange.head().version == Version::Http10 => BodyLen::UntilClose,
        None => BodyLen::Chunked,
    };
    exchange.start(reader.status, &headers, len)?;
    loop {
        match reader.next_part() {
            Ok([]) => return exchange.finish(),
            Ok(part) => {
                exchange.send(part)?;
                figures::BYTES_TO_CLIENTS.add(part.len() as u64);
            }
            Err(why) => {
                figures::FILES_FAILED.add(1);
                return Err(ExchangeError::Cut(why));
            }
        }
    }
}

/// Whether the client has this version already (RFC 9110 sections 13.1.2 and 13.1.3). libostree
/// writes dates with `UTC` where HTTP has `GMT`.
fn is_known(asked: &Headers, file: &Headers) -> bool {
    if asked.get("if-none-match").is_some() {
        let Some(etag) = file.text("etag").map(strong) else { return false };
        return asked.get_all("if-none-match").any(|value| {
            let value = String::from_utf8_lossy(value);
            value.split(',').any(|tag| tag.trim() == "*" || strong(tag.trim()) == etag)
        });
    }
    let date = |headers: &Headers, name| {
        let text = headers.text(name)?.replace("UTC", "GMT");
        httpdate::parse_http_date(&text).ok()
    };
    match (date(asked, "if-modified-since"), date(file, "last-modified")) {
        (Some(since), Some(modified)) => modified <= since,
        _ => false,
    }
}

/// The tag without the mark of a weak one: to compare with, they are the same.
fn strong(tag: &str) -> &str {
    tag.trim_start_matches("W/")
}

/// Tells the client why there is no file.
fn fail(exchange: &mut Exchange<'_>, url: &Url, error: &FetchError) -> Result<(), ExchangeError> {
    let agent = exchange.head().headers.text("user-agent");
    match error {
        FetchError::Upstream(UpstreamError::Status(answer)) => {
            let status = passing_status(agent, answer.status);
            let counter = match answer.status {
                // Not there is an answer.
                404 | 410 => &figures::FILES_UPSTREAM,
                401 | 403 => &figures::FILES_DENIED,
                _ => &figures::FILES_FAILED,
            };
            counter.add(1);
            pass_on(exchange, status, answer)
        }
        FetchError::Upstream(UpstreamError::Forbidden) => {
            figures::FILES_DENIED.add(1);
            refuse(exchange, 403, "DENIED", &error.to_string())
        }
        FetchError::Upstream(error) => {
            figures::FILES_FAILED.add(1);
            crate::log_limited!(warn, "no answer for {url}: {error}");
            let status = unreachable_status(agent, error);
            refuse(exchange, status, "UNAVAILABLE", &error.to_string())
        }
        _ => {
            figures::FILES_FAILED.add(1);
            refuse(exchange, 500, "UNKNOWN", &error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> Headers {
        fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
    }

    const DATE: &str = "Mon, 23 Nov 2026 06:56:03 GMT";

    #[test]
    fn a_client_that_has_the_file_is_told_so() {
        let file = headers(&[("ETag", "\"6b03e383-150\""), ("Last-Modified", DATE)]);
        for asked in [
            &[("If-None-Match", "\"6b03e383-150\"")][..],
            &[("If-None-Match", "W/\"6b03e383-150\"")],
            &[("If-None-Match", "\"x\", \"6b03e383-150\"")],
            &[("If-None-Match", "*")],
            &[("If-Modified-Since", DATE)],
            &[("If-Modified-Since", "Mon, 23 Nov 2026 06:56:03 UTC")],
            &[("If-Modified-Since", "Tue, 24 Nov 2026 00:00:00 UTC")],
            &[("If-None-Match", "\"6b03e383-150\""), ("If-Modified-Since", "nonsense")],
        ] {
            assert!(is_known(&headers(asked), &file), "{asked:?}");
        }
        for asked in [
            &[][..],
            &[("If-None-Match", "\"x\"")],
            // The tag decides, whatever the date says.
            &[("If-None-Match", "\"x\""), ("If-Modified-Since", DATE)],
            &[("If-Modified-Since", "Mon, 23 Nov 2026 06:56:02 UTC")],
            &[("If-Modified-Since", "yesterday")],
        ] {
            assert!(!is_known(&headers(asked), &file), "{asked:?}");
        }
        assert!(!is_known(&headers(&[("If-Modified-Since", DATE)]), &headers(&[])));
    }
}
