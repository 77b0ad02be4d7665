//! The small server for whoever watches the program: health, metrics, and pages of the command's
//! own.
//!
//! `/health` says that the process lives, `/ready` that it can do its work; both have the name with
//! a
//! `z` as well. It is meant for loopback: it has no passwords, and it changes nothing.

use crate::base::figures;
use crate::base::metrics;
use crate::base::thread;
use crate::net::serve::{Exchange, ExchangeError, Handler};
use crate::proto::http1::{Headers, Method, Target};

/// Why the program cannot do its work now; `Ok`: it can.
pub type Readiness = Result<(), String>;

type Body = Box<dyn Fn() -> String + Send + Sync>;

/// Answers the requests.
pub struct Admin {
    ready: Box<dyn Fn() -> Readiness + Send + Sync>,
    pages: Vec<(&'static str, &'static str, Body)>,
}

impl Admin {
    /// Health and metrics; `ready` is asked at each look at `/ready`.
    #[must_use]
    pub fn new(ready: impl Fn() -> Readiness + Send + Sync + 'static) -> Admin {
        Admin { ready: Box::new(ready), pages: Vec::new() }
    }

    /// Adds a page at `path`, made anew for each look at it.
    #[must_use]
    pub fn page(
        mut self,
        path: &'static str,
        content_type: &'static str,
        body: impl Fn() -> String + Send + Sync + 'static,
    ) -> Admin {
        self.pages.push((path, content_type, Box::new(body)));
        self
    }

    /// Status, content type and body of `path`.
    fn answer(&self, path: &str) -> (u16, &'static str, String) {
        const TEXT: &str = "text/plain; charset=utf-8";
        match path {
            "/health" | "/healthz" => (200, TEXT, "ok\n".to_owned()),
            "/ready" | "/readyz" => match (self.ready)() {
                Ok(()) => (200, TEXT, "ready\n".to_owned()),
                Err(why) => (503, TEXT, format!("not ready: {why}\n")),
            },
            "/metrics" => {
                figures::THREADS.set(i64::try_from(thread::live().len()).unwrap_or(i64::MAX));
                (200, "text/plain; version=0.0.4", metrics::render(figures::ALL))
            }
            path => match self.pages.iter().find(|(name, ..)| *name == path) {
                Some((_, content_type, body)) => (200, content_type, body()),
                None => (404, TEXT, "not found\n".to_owned()),
            },
        }
    }
}

impl Handler for Admin {
    fn handle(&self, exchange: &mut Exchange<'_>) -> Result<(), ExchangeError> {
        let mut headers = Headers::new();
        if !matches!(exchange.head().method, Method::Get | Method::Head) {
            headers.append("Allow", "GET, HEAD");
            return exchange.respond(405, &headers, b"");
        }
        let (status, content_type, body) = match &exchange.head().target {
            Target::Origin(target) => {
                self.answer(target.split_once('?').map_or(target.as_str(), |(path, _)| path))
            }
            Target::Absolute(url) => self.answer(url.path()),
            _ => self.answer(""),
        };
        headers.append("Content-Type", content_type);
        headers.append("Cache-Control", "no-store");
        exchange.respond(status, &headers, body.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_page_is_found_and_nothing_else() {
        let admin = Admin::new(|| Err("no etcd".to_owned())).page(
            "/status.json",
            "application/json",
            || "{}".to_owned(),
        );
        let status = |path| admin.answer(path).0;
        assert_eq!(["/health", "/healthz", "/metrics"].map(status), [200; 3]);
        assert_eq!(admin.answer("/ready").2, "not ready: no etcd\n");
        assert_eq!(admin.answer("/readyz").0, 503);
        assert_eq!(admin.answer("/status.json"), (200, "application/json", "{}".to_owned()));
        assert_eq!(["/", "", "/status"].map(status), [404; 3]);
        assert!(admin.answer("/metrics").2.contains("\ntorrent_cache_threads "));
    }
}
