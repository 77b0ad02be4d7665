//! Floor 6: the front that HTTP clients see: registry mirror and forward proxy on one port.
//!
//! A request is routed by its head alone ([`route`]); a blob is answered by `blob`, a manifest by
//! `manifest`, a static delta of OSTree by `delta`, everything else passes through (`relay`,
//! `tunnel`).
//!
//! **Invariant:** a response that cannot be finished is cut, never ended cleanly.
//!
//! Not here: connections and framing (`net`), where a blob's bytes come from (`fetch`).

pub mod registries;
pub mod route;
pub mod status;

mod blob;
mod delta;
mod file;
mod manifest;
mod ping;
mod relay;
mod tunnel;

use std::fmt;
use std::sync::Arc;

use crate::base::figures;
use crate::base::hash::hex;
use crate::base::sys;
use crate::fetch::{FetchError, Fetcher, ReadError};
use crate::net::serve::{Exchange, ExchangeError, Handler};
use crate::proto::blob::BlobName;
use crate::proto::http1::{BodyLen, Headers, Url};
use crate::proto::oci;
use crate::upstream::{Answer, Origin, Upstream, UpstreamError};

use self::registries::Registries;
use self::route::Route;

/// Serves clients.
pub struct Front {
    fetcher: Arc<Fetcher>,
    upstream: Arc<Upstream>,
    registries: Registries,
    /// How we sign in `Via`, so that a request that comes back to us is not sent round for ever.
    alias: String,
}

impl Front {
    /// A front for `registries` and for whatever proxy clients name.
    #[must_use]
    pub fn new(fetcher: Arc<Fetcher>, upstream: Arc<Upstream>, registries: Registries) -> Front {
        let mut id = [0; 6];
        sys::random(&mut id);
        Front { fetcher, upstream, registries, alias: format!("torrent-cache-{}", hex(&id)) }
    }

    /// Where a request goes and with which headers, signed.
    fn origin(&self, url: Url, headers: &Headers) -> Origin {
        let mut headers = headers.clone();
        headers.append("Via", format!("1.1 {}", self.alias));
        Origin { url, headers }
    }
}

impl Handler for Front {
    fn handle(&self, exchange: &mut Exchange<'_>) -> Result<(), ExchangeError> {
        match route::route(exchange.head(), &self.registries, &self.alias) {
            Route::Blob { name, url } => blob::serve(self, exchange, name, url),
            Route::Manifest { reference, url } => manifest::serve(self, exchange, reference, url),
            Route::Delta { id, index, url } => delta::serve(self, exchange, id, index, url),
            Route::File { url, repository, kind } => {
                file::serve(self, exchange, url, repository, kind)
            }
            Route::Ping { url } => ping::serve(self, exchange, url),
            Route::Relay { url } => relay::serve(self, exchange, url),
            Route::Tunnel { host, port } => tunnel::serve(self, exchange, &host, port),
            Route::Refuse { status, message } => refuse(exchange, status, "UNSUPPORTED", message),
        }
    }
}

/// An answer of our own with an error body that registry clients understand.
fn refuse(
    exchange: &mut Exchange<'_>,
    status: u16,
    code: &str,
    message: &str,
) -> Result<(), ExchangeError> {
    let mut headers = Headers::new();
    headers.append("Content-Type", "application/json");
    exchange.respond(status, &headers, &oci::error_body(code, message))
}

/// What an upstream was asked for, to be logged.
enum Place<'a> {
    /// What is at this URL, whose query may be a secret.
    Url(&'a Url),
    /// A blob.
    Blob(BlobName),
    /// A tunnel to this host and port.
    Host(&'a str, u16),
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Url(url) => write!(f, "{}://{}{}", url.scheme(), url.authority(), url.path()),
            Place::Blob(name) => write!(f, "blob {name}"),
            Place::Host(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Tells the client why there is no body: the upstream's own answer where there is one.
fn fail(
    exchange: &mut Exchange<'_>,
    place: &Place<'_>,
    error: &FetchError,
) -> Result<(), ExchangeError> {
    match error {
        FetchError::Upstream(error) => fail_upstream(exchange, place, error),
        FetchError::Unsatisfiable(len) => {
            let mut headers = Headers::new();
            headers.append("Content-Range", format!("bytes */{len}"));
            exchange.respond(416, &headers, b"")
        }
        FetchError::NoFile => refuse(exchange, 404, "BLOB_UNKNOWN", &error.to_string()),
        FetchError::Local(_) | FetchError::Renewed(_) | FetchError::NoDelta => {
            refuse(exchange, 500, "UNKNOWN", &error.to_string())
        }
    }
}

fn fail_upstream(
    exchange: &mut Exchange<'_>,
    place: &Place<'_>,
    error: &UpstreamError,
) -> Result<(), ExchangeError> {
    match error {
        UpstreamError::Status(answer) => {
            let user_agent = exchange.head().headers.text("user-agent");
            let status = passing_status(user_agent, answer.status);
            pass_on(exchange, status, answer)
        }
        UpstreamError::Forbidden => refuse(exchange, 403, "DENIED", &error.to_string()),
        _ => {
            crate::log_limited!(warn, "no answer from upstream, {place}: {error}");
            let status = unreachable_status(exchange.head().headers.text("user-agent"), error);
            refuse(exchange, status, "UNAVAILABLE", &error.to_string())
        }
    }
}

/// Tells the client that no source has even the first byte, or that what came is wrong.
fn fail_read(
    exchange: &mut Exchange<'_>,
    name: BlobName,
    error: &ReadError,
) -> Result<(), ExchangeError> {
    figures::REQUESTS_FAILED.add(1);
    if let ReadError::Upstream(error) = error {
        return fail_upstream(exchange, &Place::Blob(name), error);
    }
    crate::log_limited!(warn, "blob {name}: no byte of it can be given: {error}");
    let retries_500_only = is_ostree(exchange.head().headers.text("user-agent"));
    let status = if retries_500_only { 500 } else { 502 };
    refuse(exchange, status, "UNAVAILABLE", &error.to_string())
}

/// libostree tries again after 500 and gives up at once after 502 or 504; everybody else is told
/// what it is.
fn unreachable_status(user_agent: Option<&str>, error: &UpstreamError) -> u16 {
    match error {
        UpstreamError::BadRequest | UpstreamError::ClientBody(_) => 400,
        _ if is_ostree(user_agent) => 500,
        UpstreamError::TimedOut => 504,
        _ => 502,
    }
}

/// The status to pass on. libostree gives up at once after any failure but 500 and 408, though the
/// upstream has only asked for patience.
fn passing_status(user_agent: Option<&str>, status: u16) -> u16 {
    let is_passing = matches!(status, 425 | 429 | 501..=599);
    if is_passing && is_ostree(user_agent) { 500 } else { status }
}

fn is_ostree(user_agent: Option<&str>) -> bool {
    user_agent.is_some_and(|agent| agent.contains("libostree"))
}

/// The upstream's answer, as it came but for the status.
fn pass_on(exchange: &mut Exchange<'_>, status: u16, answer: &Answer) -> Result<(), ExchangeError> {
    let mut headers = answer.headers.clone();
    // The body may have been cut to our bound: its length is what we send.
    headers.remove("Content-Length");
    exchange.respond(status, &headers, &answer.body)
}

/// The upstream's answer to a `HEAD`.
fn describe_as(exchange: &mut Exchange<'_>, mut answer: Answer) -> Result<(), ExchangeError> {
    let len = answer.headers.text("content-length").and_then(|text| text.parse().ok());
    answer.headers.remove("Content-Length");
    exchange.start(answer.status, &answer.headers, len.map_or(BodyLen::None, BodyLen::Known))?;
    exchange.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_asked_for_is_named_without_its_secrets() {
        let url = Url::parse("https://registry.example:5000/v2/a?signature=x").unwrap();
        assert_eq!(Place::Url(&url).to_string(), "https://registry.example:5000/v2/a");
        assert_eq!(Place::Host("registry.example", 443).to_string(), "registry.example:443");
    }

    #[test]
    fn libostree_is_told_what_makes_it_try_again() {
        let timed_out = UpstreamError::TimedOut;
        let ostree = Some("libostree/2022.7 flatpak/1.14.10");
        assert_eq!(unreachable_status(ostree, &timed_out), 500);
        assert_eq!(unreachable_status(Some("skopeo/1.9.3"), &timed_out), 504);
        assert_eq!(unreachable_status(None, &UpstreamError::TooManyRedirects), 502);
        for (status, passed) in [(503, 500), (429, 500), (500, 500), (404, 404), (401, 401)] {
            assert_eq!(passing_status(ostree, status), passed);
            assert_eq!(passing_status(None, status), status);
        }
    }
}
