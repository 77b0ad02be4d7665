//! `/v2/`: clients of a registry ask it first, to learn which credentials they have to bring.
//!
//! What it says of that to a request without any is noted as a file, so that a pull of what is here
//! can begin when the registry gives no answer.

use std::sync::Arc;

use crate::fetch::access::{Claimant, Offline};
use crate::fetch::{FetchError, Fetcher};
use crate::log_limited;
use crate::proto::http1::{Headers, Method};
use crate::store::FileMeta;
use crate::upstream::{Origin, Relayed, UpstreamError};

/// How a ping is answered.
#[derive(Debug)]
pub enum Ping {
    /// With what the registry says.
    Said(Relayed),
    /// The registry gives no answer; with this status and these fields.
    Kept(u16, Headers),
}

/// The fields by which a registry asks for credentials, and says that it is one.
const TOLD: [&str; 2] = ["www-authenticate", "docker-distribution-api-version"];

impl Fetcher {
    /// What the registry says to a ping at `origin`, or said when it could be asked.
    ///
    /// # Errors
    /// If it cannot be asked, and nothing may be said in its place.
    pub fn ping(self: &Arc<Self>, origin: &Origin, method: &Method) -> Result<Ping, FetchError> {
        if self.outages.is_away(&origin.url)
            && let Some(kept) = self.kept_ping(origin)
        {
            return Ok(kept);
        }
        match self.parts.upstream.relay(method, &origin.url, &origin.headers, None) {
            Err(error @ UpstreamError::Forbidden) => Err(FetchError::Upstream(error)),
            Ok(said) if said.status >= 500 => {
                Ok(self.kept_ping(origin).unwrap_or(Ping::Said(said)))
            }
            Ok(said) => {
                self.note_ping(origin, &said);
                Ok(Ping::Said(said))
            }
            Err(error) => {
                self.outages.note(&origin.url, &error);
                self.kept_ping(origin).ok_or(FetchError::Upstream(error))
            }
        }
    }

    fn note_ping(self: &Arc<Self>, origin: &Origin, said: &Relayed) {
        if !matches!(said.status, 200 | 401) || !Claimant::of(origin).credential.is_none() {
            return;
        }
        let is_told = |name: &str| TOLD.iter().any(|told| name.eq_ignore_ascii_case(told));
        let headers: Headers = said.headers.iter().filter(|(name, _)| is_told(name)).collect();
        // Anything but a registry may have such a path too. A query may be a secret.
        if headers.is_empty() || origin.url.query().is_some() {
            return;
        }
        let url = note_key(origin);
        let meta = FileMeta { url, status: said.status, public: true, headers };
        if self.store().file(&meta.url).is_some_and(|noted| *noted.meta() == meta) {
            return;
        }
        if let Err(error) = self.store().put_file(&meta, b"") {
            log_limited!(warn, "what a registry says to a ping is not noted: {error}");
        }
    }

    fn kept_ping(self: &Arc<Self>, origin: &Origin) -> Option<Ping> {
        let noted = self.store().file(&note_key(origin))?.meta().clone();
        let has_credential = !Claimant::of(origin).credential.is_none();
        let status = match self.offline {
            // Whether a credential is a good one is seen when something is asked for.
            Offline::Granted if has_credential => 200,
            Offline::Granted => noted.status,
            // Everything is for everybody: nobody has to bring anything.
            Offline::Allow => 200,
            Offline::Deny => return None,
        };
        let mut headers = noted.headers;
        if status == 200 {
            headers.remove("WWW-Authenticate");
        }
        let registry = origin.url.authority();
        log_limited!(warn, "{registry} gives no answer: a ping is answered as it last did");
        Some(Ping::Kept(status, headers))
    }
}

/// No URL of a file has such an end.
fn note_key(origin: &Origin) -> String {
    format!("{}#ping", origin.url)
}
