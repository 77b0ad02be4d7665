//! TCP sockets with the options that every one of ours has.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// Connections that the kernel completes before they are accepted; it cuts this to `somaxconn`.
const BACKLOG: i32 = 1024;
/// How long a connection may be silent before the kernel asks whether the other side lives.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long sent bytes may stay unacknowledged: then the other side or the way to it is gone.
const UNACKNOWLEDGED: Duration = Duration::from_secs(120);

/// Listens on `address`; port 0 takes any free one. `[::]` takes IPv4 as well. What is accepted has
/// the same options as what is connected: it inherits them from the listener.
///
/// # Errors
/// If the address is not ours or its port is taken.
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Without it a restart has to wait until the connections of the last run are forgotten.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    tune(&socket)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Connects to `address`. The connection does not wait for more to send, and ends when the other
/// side is gone without a word.
///
/// # Errors
/// If the other side refuses or does not answer within `patience`.
pub fn connect(address: SocketAddr, patience: Duration) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, patience)?;
    tune(&stream)?;
    Ok(stream)
}

/// Sets what every connection needs: no waiting for more bytes to send (we write whole messages),
/// and an end when the other side is gone without a word.
///
/// # Errors
/// If the kernel refuses.
fn tune<'s>(socket: impl Into<SockRef<'s>>) -> io::Result<()> {
    let socket = socket.into();
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn a_taken_port_is_an_error_and_a_left_one_is_free_at_once() {
        let first = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = first.local_addr().unwrap();
        assert_eq!(bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let ours = connect(address, PATIENCE).unwrap();
        let (theirs, _) = first.accept().unwrap();
        // We close first, so that the port's old connection lingers on our side.
        drop((theirs, ours, first));
        bind(address).unwrap();
    }

    #[test]
    fn the_unspecified_ipv6_address_takes_ipv4_as_well_and_all_are_tuned() {
        let listener = bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = connect((Ipv4Addr::LOCALHOST, port).into(), PATIENCE).unwrap();
        let (accepted, peer) = listener.accept().unwrap();
        for end in [&stream, &accepted] {
            let socket = SockRef::from(end);
            assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
            assert_eq!(socket.tcp_keepalive_time().unwrap(), KEEPALIVE);
            assert_eq!(socket.tcp_keepalive_interval().unwrap(), KEEPALIVE);
            assert_eq!(socket.tcp_user_timeout().unwrap(), Some(UNACKNOWLEDGED));
        }
        assert_eq!(peer.ip().to_canonical(), IpAddr::V4(Ipv4Addr::LOCALHOST));
    }

    #[test]
    fn a_refused_connection_is_an_error_at_once() {
        let listener = bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let error = connect(address, PATIENCE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
