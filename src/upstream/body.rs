//! Bodies from upstreams: where they begin, how long they are, and whether they came whole.

use std::fmt;
use std::io::{self, Read};

use ureq::BodyReader;

use super::{Answer, Relayed, Response, UpstreamError};
use crate::base::figures;
use crate::limits;
use crate::proto::http1::{BodyLen, ContentRange, Headers};

/// Which bytes of a blob are wanted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    /// The first byte.
    pub(super) from: u64,
    /// The byte after the last; `None`: to the end.
    pub(super) until: Option<u64>,
}

impl Asked {
    /// The value of the `Range` field; `None` if all is wanted.
    pub(super) fn range(self) -> Option<String> {
        match (self.from, self.until) {
            (0, None) => None,
            (from, None) => Some(format!("bytes={from}-")),
            (from, Some(until)) => Some(format!("bytes={from}-{}", until.saturating_sub(1))),
        }
    }

    /// Whether a part from `first` to `last` is one that may answer this.
    fn takes(self, first: u64, last: u64) -> bool {
        self.range().is_some() && first == self.from && self.until.is_none_or(|until| last < until)
    }
}

/// A blob, or a part of it, as it comes.
pub struct Body {
    /// 200 or 206.
    pub status: u16,
    /// Where in the blob it begins: what was asked for, or zero if the upstream does not do ranges.
    pub offset: u64,
    /// The length of the whole blob, if the upstream says it.
    pub total: Option<u64>,
    /// Its end shows: it is framed by its length or in chunks. Otherwise it may have been cut.
    pub framed: bool,
    /// All its headers but those that concern one connection.
    pub headers: Headers,
    reader: BodyReader<'static>,
    /// Bytes that are still to come, if that is known.
    left: Option<u64>,
    /// The length is declared by `Content-Length`.
    delimited: bool,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Body { status, offset, total, left, .. } = self;
        write!(f, "Body {{ {status}, offset {offset}, total {total:?}, left {left:?} }}")
    }
}

impl Body {
    /// Takes an answer of status 200 or 206.
    pub(super) fn new(response: Response, asked: Asked) -> Result<Body, UpstreamError> {
        let status = response.status().as_u16();
        let mut headers = headers_of(&response);
        if is_encoded(&headers) {
            return Err(UpstreamError::Encoded);
        }
        let declared = response.body().content_length();
        let (offset, total, left) = match status {
            206 => match headers.get("Content-Range").and_then(ContentRange::parse) {
                Some(ContentRange::Part { first, last, total }) if asked.takes(first, last) => {
                    let len = (last - first).checked_add(1).ok_or(UpstreamError::WrongRange)?;
                    if declared.is_some_and(|declared| declared != len) {
                        return Err(UpstreamError::WrongRange);
                    }
                    (first, total, Some(len))
                }
                _ => return Err(UpstreamError::WrongRange),
            },
            _ => (0, declared, declared),
        };
        let delimited = declared.is_some();
        let framed = delimited || headers.contains_token("Transfer-Encoding", "chunked");
        headers.strip_hop_by_hop();
        let reader = response.into_body().into_reader();
        let mut body = Body { status, offset, total, framed, headers, reader, left, delimited };
        body.end_if_done();
        Ok(body)
    }

    /// Bytes that are still to come, if that is known.
    #[must_use]
    pub fn left(&self) -> Option<u64> {
        self.left
    }

    /// Reads what has come, at least one byte unless the body has ended or `buf` is empty; waits at
    /// most [`limits::UPSTREAM_READ`].
    ///
    /// # Errors
    /// If the connection breaks or the body has not its declared length. A body whose length was
    /// not declared may end early without an error.
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, UpstreamError> {
        if buf.is_empty() || (self.delimited && self.left == Some(0)) {
            return Ok(0);
        }
        let count = self.reader.read(buf).map_err(of_read)?;
        figures::BYTES_FROM_UPSTREAM.add(count as u64);
        if let Some(left) = self.left {
            let rest = left.checked_sub(count as u64).ok_or(UpstreamError::WrongLength)?;
            if count == 0 && rest > 0 {
                return Err(UpstreamError::WrongLength);
            }
            self.left = Some(rest);
            self.end_if_done();
        }
        Ok(count)
    }

    /// ureq gives a connection back only after a read that returned nothing. With `Content-Length`
    /// that read does not wait.
    fn end_if_done(&mut self) {
        if self.delimited && self.left == Some(0) {
            let _ = self.reader.read(&mut [0]);
        }
    }
}

/// A body that is passed on as it comes.
pub struct RelayedBody(BodyReader<'static>);

impl fmt::Debug for RelayedBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RelayedBody")
    }
}

impl Read for RelayedBody {
    /// Waits at most [`limits::UPSTREAM_READ`]. A body shorter than declared ends with an error.
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Relayed {
    pub(super) fn new(response: Response, is_head: bool) -> Relayed {
        let mut headers = headers_of(&response);
        let status = response.status().as_u16();
        let len = match response.body().content_length() {
            // Whatever its headers say (RFC 9112 section 6.3).
            _ if is_head || matches!(status, 204 | 304) => BodyLen::None,
            Some(len) => BodyLen::Known(len),
            // ureq tells an empty body from none at all by this alone.
            None if headers.text("content-length") == Some("0") => BodyLen::Known(0),
            None if headers.contains_token("Transfer-Encoding", "chunked") => BodyLen::Chunked,
            None => BodyLen::UntilClose,
        };
        headers.strip_hop_by_hop();
        Relayed { status, headers, len, body: RelayedBody(response.into_body().into_reader()) }
    }
}

/// An answer with as much of its body as comes: a registry that declares a length and sends less
/// (416 of distribution 2.8) still has something to say.
pub(super) fn answer(response: Response) -> Answer {
    let status = response.status().as_u16();
    let mut headers = headers_of(&response);
    headers.strip_hop_by_hop();
    let mut body = Vec::new();
    let bound = limits::UPSTREAM_ANSWER_LEN_MAX as u64;
    let mut reader = response.into_body().into_reader().take(bound);
    let _ = reader.read_to_end(&mut body);
    // One more read than the bytes need, so that the connection can be used again.
    let _ = reader.into_inner().read(&mut [0]);
    Answer { status, headers, body }
}

pub(super) fn headers_of(response: &Response) -> Headers {
    response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect()
}

fn is_encoded(headers: &Headers) -> bool {
    headers.get_all("Content-Encoding").any(|value| {
        let value = value.trim_ascii();
        !value.is_empty() && !value.eq_ignore_ascii_case(b"identity")
    })
}

fn of_read(error: io::Error) -> UpstreamError {
    match UpstreamError::from(ureq::Error::from(error)) {
        UpstreamError::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            UpstreamError::WrongLength
        }
        error => error,
    }
}
