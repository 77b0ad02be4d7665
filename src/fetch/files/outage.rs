//! Upstreams that did not answer a moment ago: a pull from copies must not wait for each of its
//! hundreds of requests to find that out again.

use std::collections::HashMap;

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked};
use crate::limits;
use crate::proto::http1::Url;
use crate::upstream::UpstreamError;

/// When each upstream that does not answer is asked again.
pub struct Outages(Ranked<HashMap<String, Time>>);

impl Outages {
    /// None.
    pub fn new() -> Outages {
        Outages(Ranked::new(Rank::Leaf, HashMap::new()))
    }

    /// Whether the upstream of `url` need not be asked if there is something else to give.
    pub fn is_away(&self, url: &Url) -> bool {
        let until = self.0.lock().get(&origin_of(url)).copied();
        until.is_some_and(|until| Time::now() < until)
    }

    /// Notes that a question failed, if that was for want of an answer.
    pub fn note(&self, url: &Url, error: &UpstreamError) {
        let unreachable = matches!(
            error,
            UpstreamError::Io(_) | UpstreamError::TimedOut | UpstreamError::Unresolved(_)
        );
        if !unreachable || self.is_away(url) {
            return;
        }
        let now = Time::now();
        let mut all = self.0.lock();
        all.retain(|_, until| now < *until);
        if all.len() < limits::FILE_OUTAGES_MAX {
            all.insert(origin_of(url), now + limits::FILE_OUTAGE);
        }
    }
}

fn origin_of(url: &Url) -> String {
    format!("{}://{}", url.scheme(), url.authority())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_upstream_that_gave_no_answer_is_away() {
        let outages = Outages::new();
        let url = |text: &str| Url::parse(text).unwrap();
        outages.note(&url("http://a/x"), &UpstreamError::WrongLength);
        assert!(!outages.is_away(&url("http://a/x")));
        outages.note(&url("http://a/x"), &UpstreamError::TimedOut);
        assert!(outages.is_away(&url("http://a/y")));
        for other in ["http://a:81/x", "https://a/x", "http://b/x"] {
            assert!(!outages.is_away(&url(other)), "{other}");
        }
    }
}
