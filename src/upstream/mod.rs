//! Floor 3: the origins, and how they are asked.
//!
//! [`Upstream::blob`] streams a blob or a part of it, redirects followed; [`Upstream::file`] asks
//! whether a copy of a file is still right; [`Upstream::relay`]
//! passes any other request on as it is; [`Upstream::connect`] opens what a `CONNECT` asks for.
//! What a body means and where it goes is not decided here.
//!
//! **Invariant:** every wait has a bound of [`crate::limits`], every host and address was let
//! through by the guard, and a body that ends without an error had its declared length. A body
//! without a declared length may have been cut: only its digest tells.

mod body;
mod error;
mod file;
mod guard;
mod redirect;

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use ureq::{Agent, SendBody, http};

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::thread;
use crate::limits;
use crate::net::agent::{AgentConfig, agent_with};
use crate::net::resolve::Resolver;
use crate::net::tcp;
use crate::net::tls::Roots;
use crate::proto::http1::{BodyLen, Headers, Method, Url};

pub use body::{Body, RelayedBody};
pub use error::UpstreamError;
pub use file::FileAnswer;
pub use guard::{HostRule, HostRuleError};

use guard::Guard;

/// How origins are asked.
#[derive(Clone, Debug)]
pub struct UpstreamConfig {
    /// The configured registry: it may be at any address.
    pub registry: Option<Url>,
    /// Whom to trust.
    pub roots: Roots,
    /// The other hosts that clients may name; empty: any.
    pub allow: Vec<HostRule>,
}

/// What a client asked for, and with which headers that may be sent on.
#[derive(Clone, Debug)]
pub struct Origin {
    /// Where it lives.
    pub url: Url,
    /// `Authorization`, `Accept` and the like; what concerns only one connection, ranges and
    /// encodings are left out by [`Upstream`].
    pub headers: Headers,
}

/// An answer whose body is not streamed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// All its headers but those that concern one connection. `Content-Length` is what the upstream
    /// said: true for an answer to `HEAD`, perhaps not for `body`.
    pub headers: Headers,
    /// As much of its body as came, at most [`limits::UPSTREAM_ANSWER_LEN_MAX`].
    pub body: Vec<u8>,
}

/// The answer to a request that was passed on.
#[derive(Debug)]
pub struct Relayed {
    /// Its status.
    pub status: u16,
    /// All its headers but those that concern one connection.
    pub headers: Headers,
    /// Where its body ends.
    pub len: BodyLen,
    /// Its body, as it comes.
    pub body: RelayedBody,
}

/// Asks origins. Shared by all who ask.
#[derive(Debug)]
pub struct Upstream {
    agent: Agent,
    resolver: Resolver,
    guard: Arc<Guard>,
}

type Response = http::Response<ureq::Body>;

impl Upstream {
    /// Makes ready to ask.
    #[must_use]
    pub fn new(config: UpstreamConfig) -> Upstream {
        Upstream::with_patience(config, limits::UPSTREAM_READ)
    }

    /// As [`Upstream::new`], but waits so long for the head of an answer, and as long for each
    /// read.
    #[must_use]
    pub fn with_patience(config: UpstreamConfig, patience: Duration) -> Upstream {
        let guard = Arc::new(Guard::new(config.registry, config.allow));
        let check = Arc::clone(&guard);
        let resolver =
            Resolver::new(Arc::new(move |host, port, ip| check.may_connect(host, port, ip)));
        let budgets = AgentConfig::for_upstreams(config.roots);
        let budgets = AgentConfig { first_byte: patience, read: patience, ..budgets };
        let agent = agent_with(&budgets, resolver.clone());
        Upstream { agent, resolver, guard }
    }

    /// Asks for a blob, from the byte `from` on and up to but not including `until`; `0` and
    /// `None`: all of it. Up to [`limits::UPSTREAM_REDIRECTS_MAX`] redirects are followed, anew
    /// each time, so that a signed URL that has expired does not matter.
    ///
    /// The body begins at [`Body::offset`], which is zero if the upstream does not do ranges.
    ///
    /// # Errors
    /// [`UpstreamError::Status`] for any answer but 200 and 206; see there for the others.
    pub fn blob(
        &self,
        origin: &Origin,
        from: u64,
        until: Option<u64>,
    ) -> Result<Body, UpstreamError> {
        let asked = body::Asked { from, until };
        let mut headers = forwarded(&origin.headers);
        if let Some(range) = asked.range() {
            headers.append("Range", range);
        }
        counted(self.follow(&Method::Get, &origin.url, headers).and_then(|response| {
            match response.status().as_u16() {
                200 | 206 => Body::new(response, asked),
                _ => Err(UpstreamError::Status(Box::new(body::answer(response)))),
            }
        }))
    }

    /// Asks about a blob without its body, redirects followed. Every status is an answer.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn head(&self, origin: &Origin) -> Result<Answer, UpstreamError> {
        let headers = forwarded(&origin.headers);
        let response = self.follow(&Method::Head, &origin.url, headers);
        counted(response.map(body::answer))
    }

    /// Passes a request on and streams the answer back: no redirect is followed, and only the
    /// headers that concern one connection are left out. `len` says where the body ends; it is read
    /// to its end unless the upstream breaks.
    ///
    /// # Errors
    /// If there is no answer. A request with a body is never sent twice.
    pub fn relay(
        &self,
        method: &Method,
        url: &Url,
        headers: &Headers,
        body: Option<(&mut dyn Read, BodyLen)>,
    ) -> Result<Relayed, UpstreamError> {
        let mut headers = headers.clone();
        headers.strip_hop_by_hop();
        for name in ["Host", "Content-Length", "Expect"] {
            headers.remove(name);
        }
        counted(self.ask_first(url).and_then(|()| match body {
            None => self.ask(method, url, &headers),
            Some((body, len)) => self.send(method, url, headers, body, len),
        }))
        .map(|response| Relayed::new(response, *method == Method::Head))
    }

    /// Opens a connection for `CONNECT`, under the same rules.
    ///
    /// # Errors
    /// If the host may not be asked or cannot be reached.
    pub fn connect(&self, host: &str, port: u16) -> Result<TcpStream, UpstreamError> {
        if !self.guard.may_ask(host, port) {
            return Err(UpstreamError::Forbidden);
        }
        thread::before_wait();
        let deadline = Time::now() + limits::UPSTREAM_CONNECT;
        let addresses = self.resolver.lookup(host, port, deadline)?;
        let mut last = UpstreamError::TimedOut;
        let count = u32::try_from(addresses.len()).unwrap_or(u32::MAX);
        for (address, left) in addresses.into_iter().zip((1..=count).rev()) {
            // Each address has an equal share of what is left, so that a dead one does not take
            // all.
            let patience = deadline.until(Time::now()) / left;
            if patience.is_zero() {
                break;
            }
            match tcp::connect(address, patience) {
                Ok(stream) => return Ok(stream),
                Err(error) => last = UpstreamError::from(ureq::Error::Io(error)),
            }
        }
        Err(last)
    }

    /// Cuts every connection; whoever waits for an upstream gets an error, and so does everyone
    /// after.
    pub fn stop(&self) {
        self.agent.clone().shutdown();
    }

    /// Whether a client may name this host.
    fn ask_first(&self, url: &Url) -> Result<(), UpstreamError> {
        let allowed = self.guard.may_ask(&url.host, url.port);
        if allowed { Ok(()) } else { Err(UpstreamError::Forbidden) }
    }

    /// Asks at `url` and wherever it leads.
    fn follow(
        &self,
        method: &Method,
        url: &Url,
        mut headers: Headers,
    ) -> Result<Response, UpstreamError> {
        self.ask_first(url)?;
        let mut at = url.clone();
        // Where the client would have had to go by itself: the first redirect to another origin.
        let mut left_origin = None;
        for _ in 0..=limits::UPSTREAM_REDIRECTS_MAX {
            let response = self.ask(method, &at, &headers)?;
            let status = response.status().as_u16();
            let told = body::headers_of(&response);
            let Some(to) = redirect::target(&at, status, &told) else {
                // A registry that lives elsewhere asks for credentials of its own: only the client
                // can get them, so it is sent there instead.
                return match left_origin {
                    Some(redirect) if status == 401 => Err(UpstreamError::Status(redirect)),
                    _ => Ok(response),
                };
            };
            let redirect = body::answer(response);
            if !at.same_origin(&to) && left_origin.is_none() {
                left_origin = Some(Box::new(redirect));
            }
            redirect::forget_secrets(&at, &to, &mut headers);
            at = to;
        }
        Err(UpstreamError::TooManyRedirects)
    }

    /// Asks once, without a body. A pooled connection may have been closed by the other side a
    /// moment ago: a request that can do no harm is sent a second time, on a new connection.
    fn ask(
        &self,
        method: &Method,
        url: &Url,
        headers: &Headers,
    ) -> Result<Response, UpstreamError> {
        thread::before_wait();
        let harmless = matches!(method, Method::Get | Method::Head | Method::Options);
        // POST without a body says so: some servers insist on it (RFC 9110 section 8.6).
        if matches!(method, Method::Post | Method::Put | Method::Patch) {
            let request = request(method, url, headers)?.body(&[] as &[u8]);
            return Ok(self.agent.run(request.map_err(ureq::Error::Http)?)?);
        }
        let bare = || -> Result<http::Request<()>, UpstreamError> {
            Ok(request(method, url, headers)?.body(()).map_err(ureq::Error::Http)?)
        };
        match self.agent.run(bare()?) {
            Err(error) if harmless && is_stale(&error) => {
                // ureq takes no pooled connection for a request whose buffers differ from the
                // agent's.
                let len = self.agent.config().output_buffer_size() + 1;
                let again = self.agent.configure_request(bare()?).output_buffer_size(len).build();
                Ok(self.agent.run(again)?)
            }
            answer => Ok(answer?),
        }
    }

    fn send(
        &self,
        method: &Method,
        url: &Url,
        mut headers: Headers,
        body: &mut dyn Read,
        len: BodyLen,
    ) -> Result<Response, UpstreamError> {
        match len {
            BodyLen::None | BodyLen::Known(0) => return self.ask(method, url, &headers),
            BodyLen::Known(len) => headers.append("Content-Length", len.to_string()),
            // ureq frames what it is given without a length in chunks.
            BodyLen::Chunked | BodyLen::UntilClose => {}
        }
        thread::before_wait();
        let mut body = ClientBody { inner: body, failed: None };
        let request = request(method, url, &headers)?.body(SendBody::from_reader(&mut body));
        let answer = self.agent.run(request.map_err(ureq::Error::Http)?);
        match body.failed {
            Some(error) => Err(UpstreamError::ClientBody(error)),
            None => Ok(answer?),
        }
    }
}

/// Remembers that it was the client's side that broke.
struct ClientBody<'a> {
    inner: &'a mut dyn Read,
    failed: Option<io::Error>,
}

impl Read for ClientBody<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.inner.read(buf).map_err(|error| {
            let kind = error.kind();
            self.failed = Some(error);
            kind.into()
        })
    }
}

const CONDITIONS: [&str; 5] =
    ["If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since"];

/// What goes along with a request for a blob: its bytes as they are, and all of them unless said
/// otherwise. Conditions (RFC 9110 section 13.1) are one client's alone: what is asked for here is
/// for others too.
fn forwarded(headers: &Headers) -> Headers {
    let mut headers = headers.clone();
    headers.strip_hop_by_hop();
    for name in ["Host", "Content-Length", "Expect", "Range", "Accept-Encoding"] {
        headers.remove(name);
    }
    for condition in CONDITIONS {
        headers.remove(condition);
    }
    headers.append("Accept-Encoding", "identity");
    headers
}

fn request(
    method: &Method,
    url: &Url,
    headers: &Headers,
) -> Result<http::request::Builder, UpstreamError> {
    let mut request = http::Request::builder().method(method.as_str()).uri(url.to_string());
    for (name, value) in headers.iter() {
        request = request.header(name, value);
    }
    if request.headers_ref().is_some() { Ok(request) } else { Err(UpstreamError::BadRequest) }
}

/// Whether a request failed as it does when a pooled connection was closed by the other side.
fn is_stale(error: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    let ureq::Error::Io(error) = error else { return false };
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

fn counted<T>(outcome: Result<T, UpstreamError>) -> Result<T, UpstreamError> {
    let counter = match &outcome {
        Ok(_) => &figures::UPSTREAM_OK,
        Err(UpstreamError::Status(_)) => &figures::UPSTREAM_STATUS,
        Err(_) => &figures::UPSTREAM_FAILED,
    };
    counter.add(1);
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_it_may_move_between_threads() {
        fn check<T: Send>() {}
        fn check_shared<T: Send + Sync>() {}
        check::<Body>();
        check::<Relayed>();
        check_shared::<Upstream>();
    }
}
