//! The accept thread. Nothing but a stop ends it.

use std::fs::File;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use crate::base::figures;
use crate::log_limited;
use crate::net::serve::Shared;

/// How long to wait when the system has no descriptor or memory left.
const PAUSE: Duration = Duration::from_millis(50);

/// Accepts until the server stops.
pub(super) fn run(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut reserve = spare();
    while !shared.stop.is_stopped() {
        match listener.accept() {
            Ok((socket, peer)) => take(shared, socket, peer),
            Err(_) if shared.stop.is_stopped() => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::EMFILE | libc::ENFILE) => {
                    log_limited!(warn, "no descriptor left for connections: {error}");
                    // The connection closest to its deadline makes room for the new one.
                    if !shared.evict() {
                        shed(shared, listener, &mut reserve);
                        let _ = shared.stop.wait_for(PAUSE);
                    }
                }
                // Nobody came for a while, or the client was gone before it was accepted.
                Some(libc::EAGAIN | libc::ECONNABORTED | libc::EPROTO | libc::EINTR) => {}
                _ => {
                    log_limited!(warn, "a connection cannot be accepted: {error}");
                    let _ = shared.stop.wait_for(PAUSE);
                }
            },
        }
    }
}

/// A descriptor that is given up when there is no other.
fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}

/// Uses the spare descriptor to accept the next client. Without another spare it is closed, so that
/// it learns now, and not after a timeout, that it is not served.
fn shed(shared: &Arc<Shared>, listener: &TcpListener, reserve: &mut Option<File>) {
    if reserve.take().is_some()
        && let Ok((socket, peer)) = listener.accept()
    {
        *reserve = spare();
        if reserve.is_some() {
            return take(shared, socket, peer);
        }
        figures::HTTP_REFUSED_FULL.add(1);
    }
    *reserve = spare();
}

fn take(shared: &Arc<Shared>, socket: TcpStream, peer: SocketAddr) {
    match shared.admit(socket, peer) {
        Some(conn) => shared.park(conn),
        None => log_limited!(warn, "connection of {peer} refused: too many"),
    }
}
