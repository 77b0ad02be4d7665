//! HTTP/1.1 messages (RFC 9110, RFC 9112): heads, framing, URLs, ranges, the chunked coding.
//!
//! `httparse` reads the syntax of a head; what decides where a message ends is ours and strict,
//! because two readers that disagree about it make request smuggling possible: one `Content-Length`
//! of digits only, never beside `Transfer-Encoding`, which must be exactly `chunked`; one `Host`;
//! no folded lines; CRLF as the only line end.
//!
//! **Invariant:** whatever is encoded here is one message: see [`Headers`].
//! Not here: sockets and time (`net/serve`), what a request means (`http/route`).

mod chunked;
mod headers;
mod range;
#[cfg(test)]
mod tests;
mod url;

use std::fmt;
use std::io::Write as _;
use std::net::Ipv6Addr;

use crate::limits::{HTTP_HEAD_LEN_MAX, HTTP_HEADERS_MAX};

pub use chunked::{CHUNK_END, ChunkDecoder, ChunkError, ChunkStep, LAST_CHUNK, encode_chunk_head};
pub use headers::Headers;
pub use range::{ByteRange, ContentRange, RangeAnswer, parse_range};
pub use url::{URL_LEN_MAX, Url, UrlError};

/// The method of a request. Methods are case-sensitive: `get` is [`Method::Other`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// `GET`.
    Get,
    /// `HEAD`.
    Head,
    /// `POST`.
    Post,
    /// `PUT`.
    Put,
    /// `PATCH`.
    Patch,
    /// `DELETE`.
    Delete,
    /// `OPTIONS`.
    Options,
    /// `CONNECT`.
    Connect,
    /// Any other token.
    Other(String),
}

impl Method {
    fn of_token(token: &str) -> Method {
        match token {
            "GET" => Method::Get,
            "HEAD" => Method::Head,
            "POST" => Method::Post,
            "PUT" => Method::Put,
            "PATCH" => Method::Patch,
            "DELETE" => Method::Delete,
            "OPTIONS" => Method::Options,
            "CONNECT" => Method::Connect,
            other => Method::Other(other.to_owned()),
        }
    }

    /// As it stands in the request line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Connect => "CONNECT",
            Method::Other(token) => token,
        }
    }
}

/// The version of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// What a request asks for (RFC 9112 section 3.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Path and query: begins with `/`, visible ASCII, no fragment.
    Origin(String),
    /// A whole URL: the request was sent to a proxy.
    Absolute(Url),
    /// Where `CONNECT` wants to go.
    Authority {
        /// Lower case; an IPv6 address stands without its brackets.
        host: String,
        /// Never zero.
        port: u16,
    },
    /// `OPTIONS *`.
    Asterisk,
}

/// The head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// What it is asked of.
    pub target: Target,
    /// The client's version.
    pub version: Version,
    /// The fields.
    pub headers: Headers,
}

/// Where a message's body ends (RFC 9112 section 6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLen {
    /// There is no body.
    None,
    /// After so many bytes.
    Known(u64),
    /// At the last chunk.
    Chunked,
    /// When the connection closes: responses only.
    UntilClose,
}

/// Why a head is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// It breaks the syntax; says how.
    Malformed(&'static str),
    /// Two readers could disagree about where the message ends; says why.
    Framing(&'static str),
    /// The request line is longer than the longest head.
    TargetTooLong,
    /// The head is too long or has too many fields.
    TooLarge,
    /// A transfer coding other than `chunked`.
    TransferCoding,
    /// A version other than 1.0 and 1.1.
    Version,
}

impl HeadError {
    /// The status that the client is answered.
    #[must_use]
    pub fn status(&self) -> u16 {
        match self {
            HeadError::Malformed(_) | HeadError::Framing(_) => 400,
            HeadError::TargetTooLong => 414,
            HeadError::TooLarge => 431,
            HeadError::TransferCoding => 501,
            HeadError::Version => 505,
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HeadError::Malformed(why) | HeadError::Framing(why) => why,
            HeadError::TargetTooLong => "the request line is too long",
            HeadError::TooLarge => "the head is too long",
            HeadError::TransferCoding => "the transfer coding is not chunked",
            HeadError::Version => "the version is neither HTTP/1.0 nor HTTP/1.1",
        })
    }
}

impl std::error::Error for HeadError {}

impl RequestHead {
    /// Reads a head from the front of `input` and says how many bytes it took; `None`: more bytes
    /// are needed. One empty line before it is passed over (RFC 9112 section 2.2).
    ///
    /// # Errors
    /// A head that breaks the syntax or a bound, or does not have exactly the `Host` it needs.
    pub fn decode(input: &[u8]) -> Result<Option<(RequestHead, usize)>, HeadError> {
        let skipped = if input.starts_with(b"\r\n") { 2 } else { 0 };
        let Some(bytes) = head_bytes(input.get(skipped..).unwrap_or_default())? else {
            return Ok(None);
        };
        let mut fields = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
        let mut parsed = httparse::Request::new(&mut fields);
        match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(used)) if used == bytes.len() => {}
            Ok(_) => return Err(HeadError::Malformed("an empty line in the head")),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(httparse::Error::Version) => return Err(HeadError::Version),
            Err(error) => return Err(HeadError::Malformed(why(error))),
        }
        let (Some(method), Some(target), Some(version)) =
            (parsed.method, parsed.path, parsed.version)
        else {
            return Err(HeadError::Malformed("no request line"));
        };
        let method = Method::of_token(method);
        let head = RequestHead {
            target: parse_target(&method, target)?,
            method,
            version: if version == 0 { Version::Http10 } else { Version::Http11 },
            headers: fields_of(parsed.headers),
        };
        head.check_host()?;
        Ok(Some((head, skipped.saturating_add(bytes.len()))))
    }

    /// RFC 9112 section 3.2: exactly one valid `Host` in 1.1, at most one in 1.0.
    fn check_host(&self) -> Result<(), HeadError> {
        let mut hosts = self.headers.get_all("host");
        match (hosts.next(), hosts.next()) {
            (_, Some(_)) => Err(HeadError::Framing("more than one host field")),
            (None, None) if self.version == Version::Http11 => {
                Err(HeadError::Malformed("no host field"))
            }
            (None | Some(b""), None) => Ok(()),
            (Some(host), None) => {
                let text = std::str::from_utf8(host).ok();
                let valid = |text| url::parse_authority(text).is_ok() || is_bare_v6(text);
                let valid = text.is_some_and(valid);
                if valid { Ok(()) } else { Err(HeadError::Malformed("bad host field")) }
            }
        }
    }

    /// Where the request's body ends: [`BodyLen::None`], [`BodyLen::Known`] or
    /// [`BodyLen::Chunked`].
    ///
    /// # Errors
    /// Framing that two readers could understand in two ways.
    pub fn framing(&self) -> Result<BodyLen, HeadError> {
        let framing = declared_len(&self.headers, self.version)?;
        if self.method == Method::Connect && !matches!(framing, None | Some(BodyLen::Known(0))) {
            return Err(HeadError::Framing("a CONNECT with a body"));
        }
        Ok(match framing {
            None | Some(BodyLen::Known(0)) => BodyLen::None,
            Some(len) => len,
        })
    }

    /// Whether the client keeps the connection for another request (RFC 9112 section 9.3).
    #[must_use]
    pub fn keeps_alive(&self) -> bool {
        match self.version {
            Version::Http11 => !self.headers.contains_token("connection", "close"),
            Version::Http10 => self.headers.contains_token("connection", "keep-alive"),
        }
    }

    /// Whether the client waits for `100 Continue` before it sends its body.
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.version == Version::Http11 && self.headers.contains_token("expect", "100-continue")
    }
}

/// The head of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status, from 100 to 999.
    pub status: u16,
    /// The phrase after it, which means nothing; empty when encoding: the usual one.
    pub reason: String,
    /// The sender's version.
    pub version: Version,
    /// The fields.
    pub headers: Headers,
}

impl ResponseHead {
    /// An HTTP/1.1 head with the usual phrase.
    #[must_use]
    pub fn new(status: u16, headers: Headers) -> ResponseHead {
        ResponseHead { status, reason: String::new(), version: Version::Http11, headers }
    }

    /// Reads a head from the front of `input` and says how many bytes it took; `None`: more bytes
    /// are needed.
    ///
    /// # Errors
    /// A head that breaks the syntax or a bound.
    pub fn decode(input: &[u8]) -> Result<Option<(ResponseHead, usize)>, HeadError> {
        let Some(bytes) = head_bytes(input)? else { return Ok(None) };
        let mut fields = [httparse::EMPTY_HEADER; HTTP_HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut fields);
        match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(used)) if used == bytes.len() => {}
            Ok(_) => return Err(HeadError::Malformed("an empty line in the head")),
            Err(httparse::Error::TooManyHeaders) => return Err(HeadError::TooLarge),
            Err(httparse::Error::Version) => return Err(HeadError::Version),
            Err(error) => return Err(HeadError::Malformed(why(error))),
        }
        let head = ResponseHead {
            status: parsed.code.unwrap_or(0),
            reason: parsed.reason.unwrap_or("").to_owned(),
            version: if parsed.version == Some(0) { Version::Http10 } else { Version::Http11 },
            headers: fields_of(parsed.headers),
        };
        if head.status < 100 {
            return Err(HeadError::Malformed("bad status"));
        }
        Ok(Some((head, bytes.len())))
    }

    /// Where the body of this response to a `method` request ends.
    ///
    /// # Errors
    /// Framing that two readers could understand in two ways.
    pub fn framing(&self, method: &Method) -> Result<BodyLen, HeadError> {
        let declared = declared_len(&self.headers, self.version)?;
        if *method == Method::Head || has_no_body(self.status) {
            return Ok(BodyLen::None);
        }
        Ok(declared.unwrap_or(BodyLen::UntilClose))
    }

    /// Writes the head, the empty line included.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let version = if self.version == Version::Http10 { "1.0" } else { "1.1" };
        let status = self.status;
        let reason = if self.reason.is_empty() { reason_phrase(status) } else { &self.reason };
        let clean = reason.replace(|c: char| c.is_control(), " ");
        out.extend_from_slice(format!("HTTP/{version} {status} {clean}\r\n").as_bytes());
        self.headers.encode(|_| true, out);
        out.extend_from_slice(b"\r\n");
    }
}

/// Writes the head of an HTTP/1.1 response, with the usual phrase, straight to where it is sent
/// from.
pub struct HeadWriter<'a>(&'a mut Vec<u8>);

impl<'a> HeadWriter<'a> {
    /// Begins a head at the end of `out`.
    pub fn new(status: u16, out: &'a mut Vec<u8>) -> HeadWriter<'a> {
        let mut writer = HeadWriter(out);
        writer.push(format_args!("HTTP/1.1 {status} {}\r\n", reason_phrase(status)));
        writer
    }

    /// Adds the fields of `headers` but those named in `but`.
    pub fn fields(&mut self, headers: &Headers, but: &[&str]) {
        headers.encode(|name| !but.iter().any(|other| name.eq_ignore_ascii_case(other)), self.0);
    }

    /// Adds a field. Name and value are our own: nothing in them that could end it.
    pub fn field(&mut self, name: &'static str, value: impl fmt::Display) {
        self.push(format_args!("{name}: {value}\r\n"));
    }

    /// Ends the head.
    pub fn end(self) {
        self.0.extend_from_slice(b"\r\n");
    }

    fn push(&mut self, text: fmt::Arguments<'_>) {
        // Memory takes everything.
        let _ = self.0.write_fmt(text);
    }
}

/// Whether a response with this status never has a body (RFC 9110 section 6.4.1).
#[must_use]
pub fn has_no_body(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

/// The usual phrase of a status (RFC 9110 section 15).
#[must_use]
pub fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

/// The bytes of the head at the front of `input`, up to and with its empty line. Looks at every
/// byte, since `httparse` takes a bare LF for a line end, and refuses as early as it can, so that a
/// head cut anywhere is refused like the whole or waits.
fn head_bytes(input: &[u8]) -> Result<Option<&[u8]>, HeadError> {
    let mut lines = 0_usize;
    // As if a line had just ended: the head may begin with neither a space nor an empty line.
    let mut before = [0, b'\r', b'\n'];
    for (at, &byte) in input.iter().enumerate().take(HTTP_HEAD_LEN_MAX) {
        match (before, byte) {
            ([b'\r', b'\n', b'\r'], b'\n') => return Ok(input.get(..=at)),
            ([_, _, b'\r'], b'\n') => lines = lines.saturating_add(1),
            (_, b'\n') => return Err(HeadError::Malformed("a line ends without CR")),
            ([_, _, b'\r'], _) => return Err(HeadError::Malformed("a CR without LF")),
            (_, 0) => return Err(HeadError::Malformed("a NUL in the head")),
            ([_, b'\r', b'\n'], b' ' | b'\t') => {
                return Err(HeadError::Malformed("a folded or empty line"));
            }
            _ => {}
        }
        let [_, second, third] = before;
        before = [second, third, byte];
    }
    // The request line stands beside the fields.
    if lines > HTTP_HEADERS_MAX.saturating_add(1) {
        return Err(HeadError::TooLarge);
    }
    match (input.len() < HTTP_HEAD_LEN_MAX, lines) {
        (true, _) => Ok(None),
        (false, 0) => Err(HeadError::TargetTooLong),
        (false, _) => Err(HeadError::TooLarge),
    }
}

fn fields_of(parsed: &[httparse::Header<'_>]) -> Headers {
    parsed.iter().map(|field| (field.name, field.value)).collect()
}

fn why(error: httparse::Error) -> &'static str {
    match error {
        httparse::Error::HeaderName => "bad field name",
        httparse::Error::HeaderValue => "bad field value",
        httparse::Error::NewLine => "bad line end",
        httparse::Error::Status => "bad status",
        httparse::Error::Token => "bad request line",
        httparse::Error::TooManyHeaders => "too many fields",
        httparse::Error::Version => "bad version",
    }
}

/// Whether `text` is an IPv6 address that lacks its brackets, perhaps with a port: libtorrent 2.0
/// asks trackers so.
fn is_bare_v6(text: &str) -> bool {
    let is_v6 = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    let is_port = |text: &str| !text.starts_with('+') && text.parse::<u16>().is_ok();
    is_v6(text) || text.rsplit_once(':').is_some_and(|(host, port)| is_v6(host) && is_port(port))
}

fn parse_target(method: &Method, text: &str) -> Result<Target, HeadError> {
    if *method == Method::Connect {
        return match url::parse_authority(text) {
            Ok((host, Some(port))) => Ok(Target::Authority { host, port }),
            _ => Err(HeadError::Malformed("CONNECT takes a host and a port")),
        };
    }
    if text == "*" && *method == Method::Options {
        return Ok(Target::Asterisk);
    }
    if text.starts_with('/') {
        return if url::is_target(text) {
            Ok(Target::Origin(text.to_owned()))
        } else {
            Err(HeadError::Malformed("a character that cannot be in a target"))
        };
    }
    match Url::parse(text) {
        Ok(url) => Ok(Target::Absolute(url)),
        Err(UrlError::TooLong) => Err(HeadError::TargetTooLong),
        Err(_) => Err(HeadError::Malformed("bad target")),
    }
}

/// The length that the fields declare; `None`: they declare none (RFC 9112 section 6).
fn declared_len(headers: &Headers, version: Version) -> Result<Option<BodyLen>, HeadError> {
    let mut codings = headers.get_all("transfer-encoding");
    let mut lengths = headers.get_all("content-length");
    let coding = codings.next();
    let length = lengths.next();
    if codings.next().is_some() {
        return Err(HeadError::Framing("more than one transfer-encoding field"));
    }
    if lengths.next().is_some() {
        return Err(HeadError::Framing("more than one content-length field"));
    }
    match (coding, length) {
        (Some(_), Some(_)) => Err(HeadError::Framing("transfer-encoding beside content-length")),
        (Some(_), None) if version == Version::Http10 => {
            Err(HeadError::Framing("transfer-encoding in HTTP/1.0"))
        }
        (Some(coding), None) if coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Some(BodyLen::Chunked))
        }
        (Some(_), None) => Err(HeadError::TransferCoding),
        (None, Some(length)) => {
            let digits = std::str::from_utf8(length).ok();
            let digits = digits.filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
            let len = digits.and_then(|text| text.parse().ok());
            len.map(|len| Some(BodyLen::Known(len)))
                .ok_or(HeadError::Framing("content-length is not one number"))
        }
        (None, None) => Ok(None),
    }
}
