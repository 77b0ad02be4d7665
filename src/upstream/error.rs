//! Why an origin gave no body, and who is to blame.

use std::fmt;
use std::io;

use super::Answer;
use crate::base::blame::Blame;
use crate::net::resolve::ResolveError;

/// Why there is no body, or no more of it.
#[derive(Debug)]
pub enum UpstreamError {
    /// The client may not name this host, or it leads to an address that must not be connected to.
    Forbidden,
    /// The request cannot be written: a header or a URL that HTTP does not have.
    BadRequest,
    /// The client's own body ended early or broke.
    ClientBody(io::Error),
    /// The name of the host leads nowhere.
    Unresolved(ResolveError),
    /// No connection, or it broke before the answer was whole.
    Io(io::Error),
    /// A time budget of [`crate::limits`] ran out.
    TimedOut,
    /// TLS failed: most often the certificate.
    Tls(String),
    /// The answer is no HTTP that we take.
    Malformed(String),
    /// More than [`crate::limits::UPSTREAM_REDIRECTS_MAX`] redirects.
    TooManyRedirects,
    /// Any status but 200 and 206, to be passed on to the client.
    Status(Box<Answer>),
    /// The body is compressed for the way (`Content-Encoding`): its bytes are not the blob's.
    Encoded,
    /// The part that came is not the part that was asked for.
    WrongRange,
    /// The body ended before its declared length, or went on beyond it.
    WrongLength,
    /// The file is whole, and not as long as it was said to be.
    OtherLength {
        /// What was said.
        known: u64,
        /// How long it is.
        told: u64,
    },
    /// [`super::Upstream::stop`] was called.
    Stopped,
}

impl UpstreamError {
    /// Who caused it.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            UpstreamError::Forbidden | UpstreamError::BadRequest | UpstreamError::ClientBody(_) => {
                Blame::Client
            }
            UpstreamError::Unresolved(ResolveError::Busy) | UpstreamError::Stopped => Blame::Local,
            UpstreamError::Io(error) if is_ours(error) => Blame::Local,
            _ => Blame::Upstream,
        }
    }
}

/// Out of descriptors or memory, not out of reach.
fn is_ours(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS))
}

impl fmt::Display for UpstreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamError::Forbidden => f.write_str("this host may not be asked"),
            UpstreamError::BadRequest => f.write_str("the request cannot be sent on"),
            UpstreamError::ClientBody(error) => write!(f, "the client's body broke: {error}"),
            UpstreamError::Unresolved(error) => write!(f, "{error}"),
            UpstreamError::Io(error) => write!(f, "{error}"),
            UpstreamError::TimedOut => f.write_str("the upstream did not answer in time"),
            UpstreamError::Tls(why) => write!(f, "no TLS with the upstream: {why}"),
            UpstreamError::Malformed(why) => write!(f, "the upstream's answer is malformed: {why}"),
            UpstreamError::TooManyRedirects => f.write_str("too many redirects"),
            UpstreamError::Status(answer) => write!(f, "the upstream answered {}", answer.status),
            UpstreamError::Encoded => f.write_str("the upstream sent a compressed body"),
            UpstreamError::WrongRange => {
                f.write_str("the upstream sent another part than asked for")
            }
            UpstreamError::WrongLength => {
                f.write_str("the upstream's body has not its declared length")
            }
            UpstreamError::OtherLength { known, told } => {
                write!(f, "the upstream has a file of {told} bytes that should have {known}")
            }
            UpstreamError::Stopped => f.write_str("stopped"),
        }
    }
}

impl std::error::Error for UpstreamError {}

impl From<ResolveError> for UpstreamError {
    fn from(error: ResolveError) -> UpstreamError {
        match error {
            ResolveError::Refused => UpstreamError::Forbidden,
            error => UpstreamError::Unresolved(error),
        }
    }
}

impl From<ureq::Error> for UpstreamError {
    fn from(error: ureq::Error) -> UpstreamError {
        match error {
            ureq::Error::Timeout(_) => UpstreamError::TimedOut,
            ureq::Error::HostNotFound => UpstreamError::Unresolved(ResolveError::NotFound),
            ureq::Error::Http(_) | ureq::Error::BadUri(_) => UpstreamError::BadRequest,
            ureq::Error::Tls(why) => UpstreamError::Tls(why.to_owned()),
            ureq::Error::Rustls(why) => UpstreamError::Tls(why.to_string()),
            ureq::Error::Io(error) => of_io(error),
            ureq::Error::Other(other) => match other.downcast::<ResolveError>() {
                Ok(why) => UpstreamError::from(*why),
                Err(other) => UpstreamError::Malformed(other.to_string()),
            },
            other => UpstreamError::Malformed(other.to_string()),
        }
    }
}

/// rustls reports its failures as invalid data; a closed agent says "not connected".
fn of_io(error: io::Error) -> UpstreamError {
    match error.kind() {
        io::ErrorKind::InvalidData => UpstreamError::Tls(error.to_string()),
        io::ErrorKind::NotConnected => UpstreamError::Stopped,
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => UpstreamError::TimedOut,
        _ => UpstreamError::Io(error),
    }
}
