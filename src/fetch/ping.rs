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
use crate::upstream::{Origin, Relayed};

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
        let headers = said.headers.iter().filter(|(name, _)| is_told(name)).collect();
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
        let noted = self.store().file(&note_key(origin)).map(|noted| noted.meta().clone());
        let has_credential = !Claimant::of(origin).credential.is_none();
        let (status, mut headers) = match (self.offline, noted) {
            // Whether a credential is a good one is seen when something is asked for.
            (Offline::Granted, Some(noted)) if has_credential => (200, noted.headers),
            (Offline::Granted, Some(noted)) => (noted.status, noted.headers),
            // Everything is for everybody: nobody has to bring anything.
            (Offline::Allow, noted) => (200, noted.map(|noted| noted.headers).unwrap_or_default()),
            (Offline::Granted, None) | (Offline::Deny, _) => return None,
        };
        if status == 200 {
            headers.remove("WWW-Authenticate");
        }
        log_limited!(warn, "{}: the registry gives no answer, what it said last is", origin.url);
        Some(Ping::Kept(status, headers))
    }
}

/// No URL of a file has such an end.
fn note_key(origin: &Origin) -> String {
    format!("{}#ping", origin.url)
}
