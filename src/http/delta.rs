//! The files of OSTree's static deltas, from wherever they are, to one client.

use crate::fetch::{DeltaRequest, FetchError};
use crate::http::{Front, blob, fail, relay};
use crate::net::serve::{Exchange, ExchangeError};
use crate::proto::http1::{Headers, Url};
use crate::proto::ostree::DeltaId;
use crate::proto::ostree::layout::file_name;
use crate::upstream::UpstreamError;

/// Serves `GET` of the `index`-th file of a delta, which lives at `url`.
pub(super) fn serve(
    front: &Front,
    exchange: &mut Exchange<'_>,
    id: DeltaId,
    index: usize,
    url: Url,
) -> Result<(), ExchangeError> {
    let headers = &exchange.head().headers;
    // A part has no validator of its own: with `If-Range` all of it is the right answer.
    let range = blob::wanted_range(headers, "");
    let mut superblock = front.origin(url.clone(), headers);
    let dir = superblock.url.target.rfind('/').map_or(0, |slash| slash + 1);
    superblock.url.target.truncate(dir);
    superblock.url.target.push_str(&file_name(0));
    let request = DeltaRequest { id, index, superblock, range };
    match front.fetcher.open_delta(&request) {
        Ok(reader) => {
            let mut fields = Headers::new();
            fields.append("Accept-Ranges", "bytes");
            fields.append("X-Torrent-Cache", reader.source());
            blob::send(exchange, fields, reader, range.is_some())
        }
        Err(FetchError::NoDelta | FetchError::Upstream(UpstreamError::Encoded)) => {
            relay::serve(front, exchange, url)
        }
        Err(error) => fail(exchange, &error),
    }
}
