//! `/v2/`: the registry's answer, or what it said last if it gives none.

use crate::base::figures;
use crate::fetch::Ping;
use crate::http::{Front, Place, fail, relay};
use crate::net::serve::{Exchange, ExchangeError};
use crate::proto::http1::Url;
use crate::proto::oci;

/// Serves `GET` and `HEAD` of `/v2/`.
pub(super) fn serve(
    front: &Front,
    exchange: &mut Exchange<'_>,
    url: Url,
) -> Result<(), ExchangeError> {
    let method = exchange.head().method.clone();
    let origin = front.origin(url, &exchange.head().headers);
    match front.fetcher.ping(&origin, &method) {
        Ok(Ping::Said(relayed)) => relay::answer_with(exchange, &method, relayed),
        Ok(Ping::Kept(status, mut headers)) => {
            headers.append("Content-Type", "application/json");
            headers.append("X-Torrent-Cache", "stale");
            let body = match status {
                401 => oci::error_body("UNAUTHORIZED", "authentication required"),
                _ => b"{}".to_vec(),
            };
            exchange.respond(status, &headers, &body)
        }
        Err(error) => {
            figures::RELAYED_FAILED.add(1);
            fail(exchange, &Place::Url(&origin.url), &error)
        }
    }
}
