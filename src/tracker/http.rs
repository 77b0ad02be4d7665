//! Announce and scrape over HTTP (BEP 3, 23, 48), and a page for people.

use std::fmt::Write as _;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::figures;
use crate::net::serve::{Exchange, ExchangeError, Handler};
use crate::proto::http1::{Headers, Method, Target};
use crate::proto::tracker::{AnnounceRequest, ScrapeRequest, ScrapeResponse};
use crate::proto::tracker_http::{QueryError, put_failure};
use crate::tracker::service::Service;

/// Answers the requests.
pub(super) struct HttpFront {
    pub(super) service: Arc<Service>,
    pub(super) started: Time,
    /// A line about the catalog's etcd.
    pub(super) etcd: Box<dyn Fn() -> String + Send + Sync>,
}

impl Handler for HttpFront {
    fn handle(&self, exchange: &mut Exchange<'_>) -> Result<(), ExchangeError> {
        let mut headers = Headers::new();
        if !matches!(exchange.head().method, Method::Get | Method::Head) {
            headers.append("Allow", "GET, HEAD");
            return exchange.respond(405, &headers, b"");
        }
        let target = match &exchange.head().target {
            Target::Origin(target) => target.clone(),
            // RFC 9112 section 3.2.2: a server takes this form too.
            Target::Absolute(url) => url.target.clone(),
            _ => String::new(),
        };
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut body = Vec::new();
        let (status, content_type) = match path {
            "/announce" => {
                figures::TRACKER_HTTP.add(1);
                let answered = self.announce(exchange, query, &mut body);
                refuse_if_bad(answered, &mut body);
                (200, "text/plain")
            }
            "/scrape" => {
                figures::TRACKER_HTTP.add(1);
                let answered = self.scrape(query, &mut body);
                refuse_if_bad(answered, &mut body);
                (200, "text/plain")
            }
            "/" => {
                body = self.page().into_bytes();
                (200, "text/html; charset=utf-8")
            }
            _ => {
                body = b"not found\n".to_vec();
                (404, "text/plain")
            }
        };
        headers.append("Content-Type", content_type);
        headers.append("Cache-Control", "no-store");
        exchange.respond(status, &headers, &body)
    }
}

/// Trackers refuse with status 200: clients read the body of no other.
fn refuse_if_bad(answered: Result<(), QueryError>, body: &mut Vec<u8>) {
    if let Err(error) = answered {
        figures::TRACKER_REFUSED.add(1);
        put_failure(body, &error.to_string());
    }
}

impl HttpFront {
    fn announce(
        &self,
        exchange: &Exchange<'_>,
        query: &str,
        body: &mut Vec<u8>,
    ) -> Result<(), QueryError> {
        let request = AnnounceRequest::from_query(query)?;
        let response = self.service.announce(exchange.peer().ip(), &request);
        if AnnounceRequest::wants_dictionaries(query) {
            response.put_bencode_dictionaries(body);
        } else {
            response.put_bencode(body);
        }
        Ok(())
    }

    fn scrape(&self, query: &str, body: &mut Vec<u8>) -> Result<(), QueryError> {
        let request = ScrapeRequest::from_query(query)?;
        if request.info_hashes.is_empty() {
            // It asks for every swarm there is (BEP 48): too much for one answer.
            return Err(QueryError { parameter: "info_hash" });
        }
        let known = request.info_hashes.into_iter();
        let known = known.filter_map(|hash| Some((hash, self.service.scrape(&hash)?)));
        ScrapeResponse { swarms: known.collect() }.put_bencode(body);
        Ok(())
    }

    fn page(&self) -> String {
        let totals = self.service.totals();
        let seconds = Time::now().since(self.started).as_secs();
        let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
        let rows: [(&str, String); 8] = [
            ("Swarms", totals.swarms.to_string()),
            ("Seeders", totals.seeders.to_string()),
            ("Leechers", totals.leechers.to_string()),
            ("Requests over HTTP", figures::TRACKER_HTTP.value().to_string()),
            ("Requests over UDP", figures::TRACKER_UDP.value().to_string()),
            ("Refused", figures::TRACKER_REFUSED.value().to_string()),
            ("Up for", format!("{days} d {hours} h {minutes} min")),
            ("Catalog", (self.etcd)()),
        ];
        let mut page = String::from(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
             <title>torrent-cache tracker</title></head>\n<body>\n\
             <h1>torrent-cache tracker</h1>\n<table>\n",
        );
        for (name, value) in rows {
            let value = escape(&value);
            let _ = writeln!(page, "<tr><th align=\"left\">{name}</th><td>{value}</td></tr>");
        }
        page.push_str("</table>\n</body>\n</html>\n");
        page
    }
}

/// Text inside an element. What etcd said last is part of the page.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}
