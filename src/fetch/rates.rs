//! How fast upstreams send, so that a swarm that is slower by far is known as such. Pure.

use std::collections::HashMap;

use crate::limits;
use crate::proto::http1::Url;

/// The fastest that a stream from each upstream was lately, in bytes per second. An upstream is a
/// host and its port: what a registry next door can do says nothing of one far away.
#[derive(Default)]
pub(super) struct Rates {
    known: HashMap<String, u64>,
}

impl Rates {
    /// That of the upstream of `url`, if it ever sent enough to tell.
    pub(super) fn of(&self, url: &Url) -> Option<u64> {
        self.known.get(&url.authority()).copied()
    }

    /// Takes note of a stream of `url`. The rate rises at once and falls by a quarter of the way:
    /// one slow stream says little.
    pub(super) fn saw(&mut self, url: &Url, rate: u64) {
        let upstream = url.authority();
        if let Some(known) = self.known.get_mut(&upstream) {
            *known = if rate >= *known { rate } else { *known - (*known - rate) / 4 };
            return;
        }
        if self.known.len() >= limits::UPSTREAM_RATES_MAX {
            self.known.clear();
        }
        self.known.insert(upstream, rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(host: &str) -> Url {
        Url::parse(&format!("https://{host}/v2/a/blobs/b")).unwrap()
    }

    #[test]
    fn a_fast_upstream_says_nothing_of_another() {
        let mut rates = Rates::default();
        rates.saw(&url("near.example"), 100 << 20);
        assert_eq!(rates.of(&url("far.example")), None);
        rates.saw(&url("far.example"), 1 << 20);
        assert_eq!(rates.of(&url("far.example")), Some(1 << 20));
        assert_eq!(rates.of(&url("near.example")), Some(100 << 20));
        assert_eq!(rates.of(&url("near.example:5000")), None, "another port, another upstream");
    }

    #[test]
    fn a_rate_rises_at_once_and_falls_slowly() {
        let mut rates = Rates::default();
        for (seen, known) in [(400, 400), (800, 800), (400, 700), (700, 700)] {
            rates.saw(&url("a.example"), seen);
            assert_eq!(rates.of(&url("a.example")), Some(known), "after {seen}");
        }
    }

    #[test]
    fn memory_is_bounded() {
        let mut rates = Rates::default();
        for host in 0..=limits::UPSTREAM_RATES_MAX {
            rates.saw(&url(&format!("h{host}.example")), 1);
        }
        assert_eq!(rates.known.len(), 1);
    }
}
