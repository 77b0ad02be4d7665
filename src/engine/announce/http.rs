//! One announce over HTTP (BEP 3).

use std::io::Read as _;

use ureq::Agent;

use super::AnnounceError;
use crate::base::clock::Time;
use crate::limits::{ANNOUNCE_CALL, TRACKER_ANSWER_LEN_MAX};
use crate::net::agent::{AgentConfig, agent};
use crate::net::tls::{Roots, client_roots};
use crate::proto::tracker::{AnnounceRequest, AnnounceResponse};
use crate::proto::tracker_http::AnswerError;

/// A tracker that speaks HTTP.
pub(super) struct HttpTracker {
    /// The announce URL, up to where the query is added.
    base: String,
    pub(super) agent: Agent,
}

impl HttpTracker {
    pub(super) fn new(url: &str) -> HttpTracker {
        let joint = if url.contains('?') { '&' } else { '?' };
        let roots = client_roots(None).unwrap_or(Roots(Vec::new()));
        let config = AgentConfig::for_calls(ANNOUNCE_CALL, roots);
        HttpTracker { base: format!("{url}{joint}"), agent: agent(&config) }
    }

    /// Announces; takes no longer than until `deadline`.
    ///
    /// # Errors
    /// If there is no answer, or one that gives nothing.
    pub(super) fn announce(
        &self,
        request: &AnnounceRequest,
        deadline: Time,
    ) -> Result<AnnounceResponse, AnnounceError> {
        let url = format!("{}{}", self.base, request.to_query());
        let patience = deadline.until(Time::now());
        let call = self.agent.get(&url).config().timeout_global(Some(patience)).build().call();
        let answer = call.map_err(|error| AnnounceError::Failed(error.to_string()))?;
        let status = answer.status();
        let mut body = Vec::new();
        let mut reader = answer.into_body().into_reader().take(TRACKER_ANSWER_LEN_MAX as u64 + 1);
        reader.read_to_end(&mut body).map_err(|error| AnnounceError::Failed(error.to_string()))?;
        match AnnounceResponse::from_bencode(&body) {
            Ok(answer) if status.is_success() => Ok(answer),
            Err(error @ AnswerError::Refused(_)) => Err(AnnounceError::Refused(error.to_string())),
            Ok(_) => Err(AnnounceError::Failed(format!("status {status}"))),
            Err(_) if !status.is_success() => {
                Err(AnnounceError::Failed(format!("status {status}")))
            }
            Err(error) => Err(AnnounceError::Failed(error.to_string())),
        }
    }
}
