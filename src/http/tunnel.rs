//! `CONNECT`: a tunnel to another host (RFC 9110 section 9.3.6). What goes through it is not ours
//! to see.

use crate::base::figures;
use crate::fetch::FetchError;
use crate::http::{Front, Place, fail};
use crate::limits;
use crate::net::serve::{Exchange, ExchangeError};

/// Opens the connection and moves bytes until one side ends.
pub(super) fn serve(
    front: &Front,
    exchange: &mut Exchange<'_>,
    host: &str,
    port: u16,
) -> Result<(), ExchangeError> {
    match front.upstream.connect(host, port) {
        Ok(stream) => {
            figures::RELAYED_OK.add(1);
            exchange.tunnel(stream, limits::HTTP_TUNNEL_IDLE).map(|_| ())
        }
        Err(error) => {
            figures::RELAYED_FAILED.add(1);
            fail(exchange, &Place::Host(host, port), &FetchError::Upstream(error))
        }
    }
}
