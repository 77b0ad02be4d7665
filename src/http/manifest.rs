//! A manifest, from wherever it is, to one client.

use crate::base::figures;
use crate::fetch::{Manifest, ManifestHead, ManifestRequest};
use crate::http::{Front, Place, describe_as, fail, relay};
use crate::net::serve::{Exchange, ExchangeError};
use crate::proto::http1::{BodyLen, Headers, Method, Url};
use crate::proto::oci::Reference;

/// Serves `GET` and `HEAD` of a manifest. Ranges are not: an answer with the whole is a right one
/// (RFC 9110 section 14.2).
pub(super) fn serve(
    front: &Front,
    exchange: &mut Exchange<'_>,
    reference: Reference,
    url: Url,
) -> Result<(), ExchangeError> {
    let origin = front.origin(url, &exchange.head().headers);
    let request = ManifestRequest { origin, reference };
    let found = match exchange.head().method {
        Method::Head => match front.fetcher.head_manifest(&request) {
            Ok(ManifestHead::Said(answer)) => {
                figures::RELAYED_OK.add(1);
                return describe_as(exchange, answer);
            }
            Ok(ManifestHead::Kept(manifest)) => Ok(Some(manifest)),
            Err(error) => Err(error),
        },
        _ => front.fetcher.open_manifest(&request),
    };
    match found {
        Ok(Some(manifest)) => send(exchange, &manifest),
        Ok(None) => relay::serve(front, exchange, request.origin.url),
        Err(error) => {
            figures::MANIFESTS_FAILED.add(1);
            fail(exchange, &Place::Url(&request.origin.url), &error)
        }
    }
}

fn send(exchange: &mut Exchange<'_>, manifest: &Manifest) -> Result<(), ExchangeError> {
    match manifest.source {
        "store" => &figures::MANIFESTS_HIT,
        "swarm" => &figures::MANIFESTS_SWARM,
        "stale" => &figures::MANIFESTS_STALE,
        _ => &figures::MANIFESTS_UPSTREAM,
    }
    .add(1);
    let etag = format!("\"{}\"", manifest.name);
    let mut headers = Headers::new();
    headers.append("Content-Type", manifest.media_type.as_str());
    headers.append("Docker-Content-Digest", etag.trim_matches('"'));
    headers.append("Docker-Distribution-Api-Version", "registry/2.0");
    headers.append("ETag", &etag);
    headers.append("X-Torrent-Cache", manifest.source);
    if super::blob::is_known(&exchange.head().headers, &etag) {
        return exchange.respond(304, &headers, b"");
    }
    exchange.start(200, &headers, BodyLen::Known(manifest.bytes.len() as u64))?;
    if exchange.head().method != Method::Head {
        exchange.send(&manifest.bytes)?;
        figures::BYTES_TO_CLIENTS.add(manifest.bytes.len() as u64);
    }
    exchange.finish()
}
