//! Calls to an etcd cluster through its JSON gateway: one `POST` each, to the first member that
//! answers.
//!
//! **Invariant:** a call ends at its deadline, whatever the members do: silent ones (paused, or
//! without a quorum) are given a share of the time, so that one of them cannot use up all of it.
//!
//! Not here: what is stored (`catalog`), what the bytes mean ([`crate::proto::etcd`]).

use std::fmt;
use std::io::{self, Read as _};
use std::time::Duration;

use ureq::Agent;

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked};
use crate::catalog::CatalogConfig;
use crate::limits;
use crate::net::agent::{AgentConfig, agent};
use crate::proto::etcd::{EtcdError, Refusal, Request, decode_token};
use crate::proto::http1::Url;

/// `UNAUTHENTICATED` of gRPC: the token is unknown, most often because the member was restarted.
const UNAUTHENTICATED: u64 = 16;
/// `NOT_FOUND`: to a write under a lease it means that there is no such lease.
const NOT_FOUND: u64 = 5;
/// `FAILED_PRECONDITION`: to a log-in it means that authentication is off.
const FAILED_PRECONDITION: u64 = 9;
/// `INVALID_ARGUMENT`: a call without a token where one is needed, a wrong password, a value too
/// large.
const INVALID_ARGUMENT: u64 = 3;

/// Why etcd gave no answer that is of use.
#[derive(Debug)]
pub enum CatalogError {
    /// It did not answer lately, and was not asked again.
    Away,
    /// The deadline passed.
    TimedOut,
    /// No connection, or it broke.
    Io(io::Error),
    /// It refused.
    Refused(Refusal),
    /// Its answer is not what the gateway writes.
    Malformed(EtcdError),
    /// Its answer is longer than [`limits::ETCD_ANSWER_LEN_MAX`].
    TooLong,
}

impl CatalogError {
    /// Whether the same call would fail again, however often: the cluster has understood it.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, CatalogError::Refused(refusal) if refusal.code == INVALID_ARGUMENT)
    }

    /// Whether a write was refused because its lease has ended.
    #[must_use]
    pub fn is_no_lease(&self) -> bool {
        matches!(self, CatalogError::Refused(refusal) if refusal.code == NOT_FOUND)
    }
}

impl fmt::Display for CatalogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CatalogError::Away => f.write_str("etcd is away"),
            CatalogError::TimedOut => f.write_str("etcd did not answer in time"),
            CatalogError::Io(error) => write!(f, "etcd cannot be reached: {error}"),
            CatalogError::Refused(refusal) => write!(f, "etcd refused: {refusal}"),
            CatalogError::Malformed(error) => write!(f, "{error}"),
            CatalogError::TooLong => f.write_str("the answer of etcd is too long"),
        }
    }
}

impl std::error::Error for CatalogError {}

impl From<EtcdError> for CatalogError {
    fn from(error: EtcdError) -> CatalogError {
        CatalogError::Malformed(error)
    }
}

impl From<io::Error> for CatalogError {
    fn from(error: io::Error) -> CatalogError {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => CatalogError::TimedOut,
            _ => CatalogError::Io(error),
        }
    }
}

impl From<ureq::Error> for CatalogError {
    fn from(error: ureq::Error) -> CatalogError {
        match error {
            ureq::Error::Timeout(_) => CatalogError::TimedOut,
            ureq::Error::Io(error) => error.into(),
            other => CatalogError::Io(io::Error::other(other.to_string())),
        }
    }
}

/// How it stands with etcd, for people: what became of the latest calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CatalogStatus {
    /// Why nobody answered the latest call; `None`: somebody did, be it to refuse it.
    pub unreachable: Option<String>,
    /// Why the latest look-up was of no use.
    pub lookups_failing: Option<String>,
    /// Why the latest attempt to write something failed.
    pub publications_failing: Option<String>,
}

/// One etcd cluster.
pub struct Client {
    agent: Agent,
    login: Option<(String, String)>,
    members: Ranked<Members>,
    token: Ranked<Option<String>>,
    status: Ranked<CatalogStatus>,
}

impl Client {
    /// A client that has called nobody yet.
    #[must_use]
    pub fn new(config: CatalogConfig) -> Client {
        let agent = agent(&AgentConfig::for_calls(limits::CATALOG_CALL, config.roots));
        Client {
            agent,
            login: config.login,
            members: Ranked::new(Rank::Remote, Members::new(config.endpoints)),
            token: Ranked::new(Rank::Leaf, None),
            status: Ranked::new(Rank::Status, CatalogStatus::default()),
        }
    }

    /// Makes one call and returns the body of its answer, which begins as an object of JSON does.
    /// It may have been carried out even if it fails: only calls that may be repeated are made.
    ///
    /// # Errors
    /// If no member carried it out before `deadline`, or one refused.
    pub fn call(&self, request: &Request<'_>, deadline: Time) -> Result<Vec<u8>, CatalogError> {
        let answer = self.call_as_user(request, deadline);
        let answer = answer.and_then(|body| match body.trim_ascii_start().first() {
            Some(b'{') => Ok(body),
            _ => Err(CatalogError::Malformed(EtcdError::NotJson)),
        });
        self.note(request, answer.as_ref().err());
        answer
    }

    /// Makes one call, with a log-in before it if it needs one.
    fn call_as_user(&self, request: &Request<'_>, deadline: Time) -> Result<Vec<u8>, CatalogError> {
        if self.login.is_some() && self.token.lock().is_none() {
            self.log_in(deadline)?;
        }
        match self.call_members(request, deadline) {
            Err(CatalogError::Refused(refusal)) if self.wants_login(&refusal) => {
                self.log_in(deadline)?;
                self.call_members(request, deadline)
            }
            answer => answer,
        }
    }

    /// What became of the latest calls.
    #[must_use]
    pub fn status(&self) -> CatalogStatus {
        self.status.lock().clone()
    }

    /// Breaks off all calls.
    pub fn stop(&self) {
        self.agent.clone().shutdown();
    }

    fn wants_login(&self, refusal: &Refusal) -> bool {
        // "user name is empty": the token is missing; "revision of auth store is old": it is
        // outdated.
        let outdated = ["user name", "auth store"];
        let stale = outdated.iter().any(|words| refusal.message.contains(words));
        let is_stale = refusal.code == INVALID_ARGUMENT && stale;
        self.login.is_some() && (refusal.code == UNAUTHENTICATED || is_stale)
    }

    fn log_in(&self, deadline: Time) -> Result<(), CatalogError> {
        let Some((user, password)) = &self.login else { return Ok(()) };
        // The old token must not go along: etcd checks it even here, and refuses one that it does
        // not know.
        *self.token.lock() = None;
        let request = Request::Authenticate { user, password };
        let token = match self.call_members(&request, deadline) {
            Ok(body) => decode_token(&body)?,
            // An empty token is sent to nobody: authentication is off.
            Err(CatalogError::Refused(no)) if no.code == FAILED_PRECONDITION => String::new(),
            Err(error) => return Err(error),
        };
        *self.token.lock() = Some(token);
        Ok(())
    }

    fn call_members(&self, request: &Request<'_>, deadline: Time) -> Result<Vec<u8>, CatalogError> {
        let body = request.encode();
        let order = self.members.lock().order(Time::now());
        let mut last = CatalogError::TimedOut;
        for (tried, (number, url)) in order.iter().enumerate() {
            let left = deadline.until(Time::now());
            if left.is_zero() {
                break;
            }
            let others = u32::try_from(order.len() - tried).unwrap_or(u32::MAX);
            // The last gets all that is left; those before it at least half of that.
            let share = if others > 1 { left / 2 } else { left };
            match self.post(url, request.path(), &body, share) {
                Ok(answer) => {
                    self.members.lock().answered(*number);
                    return Ok(answer);
                }
                Err(error @ CatalogError::Refused(_)) if !is_unavailable(&error) => {
                    return Err(error);
                }
                Err(error) => {
                    self.members.lock().failed(*number, Time::now());
                    last = error;
                }
            }
        }
        Err(last)
    }

    /// A member that was restarted closes the connections that we kept: a call on one of them says
    /// nothing about the member, and every call may be repeated.
    fn post(
        &self,
        url: &Url,
        path: &str,
        body: &[u8],
        patience: Duration,
    ) -> Result<Vec<u8>, CatalogError> {
        let deadline = Time::now() + patience;
        match self.post_once(url, path, body, patience) {
            Err(CatalogError::Io(error)) if is_stale(&error) => {
                self.post_once(url, path, body, deadline.until(Time::now()))
            }
            answer => answer,
        }
    }

    fn post_once(
        &self,
        url: &Url,
        path: &str,
        body: &[u8],
        patience: Duration,
    ) -> Result<Vec<u8>, CatalogError> {
        let url = format!("{}://{}{path}", url.scheme(), url.authority());
        let mut request = self.agent.post(&url).config().timeout_global(Some(patience)).build();
        let token = self.token.lock().clone().filter(|token| !token.is_empty());
        if let Some(token) = token {
            request = request.header("Authorization", token);
        }
        let response = request.content_type("application/json").send(body)?;
        let is_ok = response.status().is_success();
        let bound = limits::ETCD_ANSWER_LEN_MAX as u64;
        let mut answer = Vec::new();
        response.into_body().into_reader().take(bound + 1).read_to_end(&mut answer)?;
        if answer.len() as u64 > bound {
            return Err(CatalogError::TooLong);
        }
        if is_ok { Ok(answer) } else { Err(CatalogError::Refused(Refusal::decode(&answer))) }
    }

    /// Takes note of what became of a call. That look-ups fail is said once, and once that they do
    /// not any more; what is not published is said by who publishes it.
    fn note(&self, request: &Request<'_>, error: Option<&CatalogError>) {
        let why = error.map(CatalogError::to_string);
        let unreachable = error.filter(|error| match error {
            CatalogError::Refused(_) => is_unavailable(error),
            _ => true,
        });
        let mut status = self.status.lock();
        let was_away = status.is_away();
        status.unreachable = unreachable.and(why.clone());
        match request.writes() {
            Some(false) => status.lookups_failing = why,
            Some(true) => status.publications_failing = why,
            None => {}
        }
        let is_away = status.is_away();
        drop(status);
        match error {
            Some(error) if is_away && !was_away => {
                log::warn!("the catalog is away, pulls go on without it: {error}");
            }
            _ if was_away && !is_away => log::info!("the catalog is back"),
            _ => {}
        }
    }
}

impl CatalogStatus {
    /// Whether pulls go on without it.
    fn is_away(&self) -> bool {
        self.unreachable.is_some() || self.lookups_failing.is_some()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Client of {:?}", self.members.lock().urls)
    }
}

/// How a connection fails that the other side had closed before.
fn is_stale(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// Whether another member may do what this one could not: it has no leader, is overloaded or
/// broken.
fn is_unavailable(error: &CatalogError) -> bool {
    const UNKNOWN: u64 = 2;
    const DEADLINE_EXCEEDED: u64 = 4;
    const INTERNAL: u64 = 13;
    const UNAVAILABLE: u64 = 14;
    let codes = [0, UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE];
    matches!(error, CatalogError::Refused(refusal) if codes.contains(&refusal.code))
}

/// The members of the cluster and which of them failed lately.
#[derive(Debug)]
struct Members {
    urls: Vec<Url>,
    down_until: Vec<Time>,
}

impl Members {
    fn new(urls: Vec<Url>) -> Members {
        let down_until = vec![Time::ZERO; urls.len()];
        Members { urls, down_until }
    }

    /// All members: those that work in the order of the configuration, then those that failed
    /// lately, the longest ago first.
    fn order(&self, now: Time) -> Vec<(usize, Url)> {
        let mut numbers: Vec<usize> = (0..self.urls.len()).collect();
        numbers.sort_by_key(|&number| Some(self.down_until[number]).filter(|until| *until > now));
        numbers.into_iter().map(|number| (number, self.urls[number].clone())).collect()
    }

    fn answered(&mut self, number: usize) {
        self.down_until[number] = Time::ZERO;
    }

    fn failed(&mut self, number: usize, now: Time) {
        self.down_until[number] = now + limits::ETCD_MEMBER_PAUSE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_that_failed_lately_come_last() {
        let url = |port: u16| Url::parse(&format!("http://127.0.0.1:{port}")).unwrap();
        let mut members = Members::new(vec![url(1), url(2), url(3)]);
        let order = |members: &Members, now| -> Vec<usize> {
            members.order(now).into_iter().map(|(number, _)| number).collect()
        };
        assert_eq!(order(&members, Time::ZERO), [0, 1, 2]);
        members.failed(0, Time::ZERO);
        assert_eq!(order(&members, Time::ZERO), [1, 2, 0]);
        members.failed(1, Time::ZERO + Duration::from_secs(1));
        assert_eq!(order(&members, Time::ZERO), [2, 0, 1]);
        assert_eq!(order(&members, Time::ZERO + limits::ETCD_MEMBER_PAUSE), [0, 2, 1]);
        members.answered(1);
        assert_eq!(order(&members, Time::ZERO), [1, 2, 0]);
    }
}
