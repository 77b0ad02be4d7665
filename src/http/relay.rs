//! Requests that pass through: tokens, lists of tags, uploads, and all that proxy clients fetch.
//!
//! Status, headers, body and challenges are the upstream's own; only what concerns one connection
//! is not passed on. Nothing is cached.

use std::io::{self, Read as _};

use crate::base::figures;
use crate::fetch::FetchError;
use crate::http::{Front, Place, fail};
use crate::limits;
use crate::net::serve::{Exchange, ExchangeError};
use crate::proto::http1::{BodyLen, Method, Url};
use crate::upstream::Relayed;

/// Sends the request to `url` and its answer to the client.
pub(super) fn serve(
    front: &Front,
    exchange: &mut Exchange<'_>,
    url: Url,
) -> Result<(), ExchangeError> {
    let method = exchange.head().method.clone();
    let origin = front.origin(url, &exchange.head().headers);
    let len = exchange.body_len();
    let answer = if len == BodyLen::None {
        front.upstream.relay(&method, &origin.url, &origin.headers, None)
    } else {
        let mut body = exchange.body();
        front.upstream.relay(&method, &origin.url, &origin.headers, Some((&mut body, len)))
    };
    match answer {
        Ok(relayed) => answer_with(exchange, &method, relayed),
        Err(error) => {
            figures::RELAYED_FAILED.add(1);
            fail(exchange, &Place::Url(&origin.url), &FetchError::Upstream(error))
        }
    }
}

/// Gives the client the upstream's answer to a request with `method`.
pub(super) fn answer_with(
    exchange: &mut Exchange<'_>,
    method: &Method,
    mut relayed: Relayed,
) -> Result<(), ExchangeError> {
    let mut headers = relayed.headers;
    let declared = headers.text("content-length").and_then(|text| text.parse().ok());
    headers.remove("Content-Length");
    // Without a body, the length is that of the one a GET would bring (RFC 9110 8.6): dockerd gives
    // up a mirror that does not say how long a manifest is.
    let len = match relayed.len {
        BodyLen::None => declared.map_or(BodyLen::None, BodyLen::Known),
        len => len,
    };
    exchange.start(relayed.status, &headers, len)?;
    if *method != Method::Head && relayed.len != BodyLen::None {
        let mut buf = vec![0; limits::COPY_LEN];
        loop {
            match relayed.body.read(&mut buf) {
                Ok(0) => break,
                Ok(len) => exchange.send(&buf[..len])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    figures::RELAYED_FAILED.add(1);
                    crate::log_limited!(warn, "a relayed response is cut: {error}");
                    return Err(ExchangeError::Cut(error.to_string()));
                }
            }
        }
    }
    figures::RELAYED_OK.add(1);
    exchange.finish()
}
