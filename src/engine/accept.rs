//! The listener for peers that call.

use std::io;
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use socket2::SockRef;

use crate::base::stop::Stop;
use crate::engine::links::Links;
use crate::log_limited;
use crate::net::tcp;

/// How long accepting pauses when the system is out of descriptors or memory.
const BREATH: Duration = Duration::from_millis(100);

/// Listens on the first free port of `ports`.
///
/// # Errors
/// What the last port said, if none is free.
pub(super) fn bind(interface: IpAddr, ports: RangeInclusive<u16>) -> io::Result<TcpListener> {
    let mut last = io::Error::from(io::ErrorKind::InvalidInput);
    for port in ports {
        match tcp::bind(SocketAddr::new(interface, port)) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Accepts until `stop` is set and the listener was woken by [`wake`].
pub(super) fn run(listener: &TcpListener, links: &Arc<Links>, stop: &Stop) {
    while !stop.is_stopped() {
        match listener.accept() {
            Ok((stream, address)) => {
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                links.accept(stream, address);
            }
            Err(_) if stop.is_stopped() => return,
            // The caller was gone already, or descriptors are short: neither ends the listening.
            Err(error) => {
                log_limited!(warn, "accepting peers: {error}");
                let _ = stop.wait_for(BREATH);
            }
        }
    }
}

/// Ends the wait of an accept.
pub(super) fn wake(listener: &TcpListener) {
    // Linux ends a blocked `accept` of a listener that is shut down.
    let _ = SockRef::from(listener).shutdown(Shutdown::Both);
}
