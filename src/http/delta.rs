//! The files of OSTree's static deltas, from wherever they are, to one client.

use crate::fetch::{DeltaRequest, FetchError, Going};
use crate::http::{Front, Place, blob, fail, relay};
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
    let host = exchange.peer().ip();
    let asks_beside = exchange.head().headers.text("user-agent").is_some_and(asks_beside);
    let going = match index > 0 && asks_beside {
        true => front.fetcher.part_goes(host, &superblock.url, index),
        false => None,
    };
    let request = DeltaRequest { id, index, superblock, range };
    match front.fetcher.open_delta(&request) {
        Ok(reader) => {
            let mut fields = Headers::new();
            fields.append("Accept-Ranges", "bytes");
            fields.append("X-Torrent-Cache", reader.source());
            if index == 0 && asks_beside {
                front.fetcher.pull_begins(host, &request.superblock.url);
            }
            blob::send(exchange, fields, reader, range.is_some())?;
            going.into_iter().for_each(Going::gone);
            Ok(())
        }
        Err(FetchError::NoDelta | FetchError::Upstream(UpstreamError::Encoded)) => {
            relay::serve(front, exchange, url)
        }
        Err(error) => {
            blob::count_failed(&error);
            fail(exchange, &Place::Url(&url), &error)
        }
    }
}

/// Whether it is a libostree that asks for the files of a commit beside the delta that brings them:
/// one before 2023.7.
pub(super) fn asks_beside(agent: &str) -> bool {
    let version = agent.split_whitespace().find_map(|word| word.strip_prefix("libostree/"));
    let Some((year, number)) = version.and_then(|version| version.split_once('.')) else {
        return false;
    };
    match (year.parse::<u32>(), number.parse::<u32>()) {
        (Ok(year), Ok(number)) => (year, number) < (2023, 7),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_ask_beside_are_told_apart() {
        for agent in ["libostree/2022.7", "libostree/2022.7 flatpak/1.14.10", "libostree/2023.6"] {
            assert!(asks_beside(agent), "{agent}");
        }
        for agent in ["libostree/2023.7", "libostree/2023.10 x", "libostree/2024.1", "curl/8"] {
            assert!(!asks_beside(agent), "{agent}");
        }
    }
}
