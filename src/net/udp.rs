//! UDP sockets: bound, with receives that end at a deadline.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use crate::base::clock::Time;

/// A UDP socket. Threads may share it.
#[derive(Debug)]
pub struct Udp(UdpSocket);

impl Udp {
    /// Binds `address`; port 0 takes any free one. `[::]` takes IPv4 as well.
    ///
    /// # Errors
    /// If the address is not ours or its port is taken.
    pub fn bind(address: SocketAddr) -> io::Result<Udp> {
        let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        socket.bind(&address.into())?;
        Ok(Udp(socket.into()))
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Sends one datagram.
    ///
    /// # Errors
    /// If the kernel cannot send it; that it arrives is never sure.
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<()> {
        self.0.send_to(bytes, to).map(drop)
    }

    /// Waits until `deadline` for a datagram; `None`: none came. What does not fit into `buf` is
    /// lost. IPv4 senders seen through an IPv6 socket come back as IPv4 addresses.
    ///
    /// # Errors
    /// A failure of the kernel. That an earlier datagram of ours met a closed port is none.
    pub fn recv_until(
        &self,
        buf: &mut [u8],
        deadline: Time,
    ) -> io::Result<Option<(usize, SocketAddr)>> {
        loop {
            let patience = deadline.until(Time::now());
            if patience.is_zero() {
                return Ok(None);
            }
            self.0.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
            match self.0.recv_from(buf) {
                Ok((len, from)) => {
                    return Ok(Some((len, SocketAddr::new(from.ip().to_canonical(), from.port()))));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::WouldBlock
                    | io::ErrorKind::TimedOut
                    | io::ErrorKind::Interrupted
                    | io::ErrorKind::ConnectionRefused => {}
                    _ => return Err(error),
                },
            }
        }
    }

    /// Waits until `deadline` for a datagram from `peer`; those of others are dropped, since anyone
    /// can send to a port. `None`: none came.
    ///
    /// # Errors
    /// As [`Udp::recv_until`].
    pub fn recv_from_until(
        &self,
        peer: SocketAddr,
        buf: &mut [u8],
        deadline: Time,
    ) -> io::Result<Option<usize>> {
        loop {
            match self.recv_until(buf, deadline)? {
                Some((len, from)) if from == peer => return Ok(Some(len)),
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn soon() -> Time {
        Time::now() + Duration::from_secs(5)
    }

    #[test]
    fn only_the_peer_is_heard() {
        let [ours, peer, stranger] =
            std::array::from_fn(|_| Udp::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap());
        let to = ours.local_addr().unwrap();
        stranger.send_to(b"forged", to).unwrap();
        peer.send_to(b"true", to).unwrap();
        let mut buf = [0; 64];
        let from = peer.local_addr().unwrap();
        assert_eq!(ours.recv_from_until(from, &mut buf, soon()).unwrap(), Some(4));
        assert_eq!(&buf[..4], b"true");
    }

    #[test]
    fn a_receive_ends_at_its_deadline_though_the_peer_is_gone() {
        let ours = Udp::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let gone = Udp::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap().local_addr().unwrap();
        ours.send_to(b"x", gone).unwrap();
        let deadline = Time::now() + Duration::from_millis(20);
        assert_eq!(ours.recv_until(&mut [0; 8], deadline).unwrap(), None);
        assert!(Time::now() >= deadline);
    }

    #[test]
    fn ipv4_senders_are_ipv4_on_an_ipv6_socket() {
        let both = Udp::bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
        let sender = Udp::bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
        let port = both.local_addr().unwrap().port();
        sender.send_to(b"x", (Ipv4Addr::LOCALHOST, port).into()).unwrap();
        let (_, from) = both.recv_until(&mut [0; 8], soon()).unwrap().unwrap();
        assert_eq!(from, sender.local_addr().unwrap());
    }
}
