//! UDP sockets: bound, with receives that end at a deadline, for one datagram or many at once.

use std::io;
use std::net::{Shutdown, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::base::clock::Time;
use crate::base::sys::{self, Datagram};
use crate::limits::UDP_RECEIVE_BUFFER;

/// A UDP socket. Threads may share it.
#[derive(Debug)]
pub struct Udp(UdpSocket);

impl Udp {
    /// Binds `address`; port 0 takes any free one. `[::]` takes IPv4 as well.
    ///
    /// # Errors
    /// If the address is not ours or its port is taken.
    pub fn bind(address: SocketAddr) -> io::Result<Udp> {
        let socket = unbound(address)?;
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

/// One of several sockets on one address, among which the kernel spreads the senders. It takes and
/// gives many datagrams at once. Threads may share it.
#[derive(Debug)]
pub struct UdpServer(UdpSocket);

impl UdpServer {
    /// Binds `address` as [`Udp::bind`] does. A receive waits at most `patience`.
    ///
    /// # Errors
    /// If the address is not ours, or its port is taken by somebody who does not share it.
    pub fn bind(address: SocketAddr, patience: Duration) -> io::Result<UdpServer> {
        let socket = unbound(address)?;
        socket.set_reuse_port(true)?;
        socket.set_recv_buffer_size(UDP_RECEIVE_BUFFER)?;
        socket.set_read_timeout(Some(patience))?;
        socket.bind(&address.into())?;
        Ok(UdpServer(socket.into()))
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Waits for datagrams and takes those that are there, as many as `datagrams` has room for: how
    /// many that is. None: nothing came in time.
    ///
    /// # Errors
    /// A failure of the kernel.
    pub fn receive(&self, datagrams: &mut [Datagram]) -> io::Result<usize> {
        match sys::receive_datagrams(self.0.as_fd(), datagrams) {
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(0),
                _ => Err(error),
            },
            received => received,
        }
    }

    /// Sends `datagrams`. One that the kernel refuses is reported to `failed`; the others go.
    pub fn send(&self, mut datagrams: &[Datagram], mut failed: impl FnMut(&Datagram, io::Error)) {
        while let Some((first, rest)) = datagrams.split_first() {
            match sys::send_datagrams(self.0.as_fd(), datagrams) {
                Ok(sent) => datagrams = &datagrams[sent..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    failed(first, error);
                    datagrams = rest;
                }
            }
        }
    }

    /// Ends all waits, now and later: they have received something that came from nowhere.
    pub fn shut_down(&self) {
        // An error as well, since there is no connection; the kernel has done it all the same.
        let _ = SockRef::from(&self.0).shutdown(Shutdown::Both);
    }
}

fn unbound(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    Ok(socket)
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
    #[test]
    fn one_port_has_several_sockets_and_a_sender_stays_with_one() {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let first = UdpServer::bind(any, Duration::from_millis(1)).unwrap();
        let address = first.local_addr().unwrap();
        let second = UdpServer::bind(address, Duration::from_millis(1)).unwrap();
        assert!(Udp::bind(address).is_err(), "only those who all share it");
        let mut datagrams = Vec::from_iter((0..8).map(|_| Datagram::with_room(8)));
        let mut counts = [0, 0];
        for _ in 0..32 {
            let sender = Udp::bind(any).unwrap();
            (0..4).for_each(|_| sender.send_to(b"x", address).unwrap());
            for (server, count) in [&first, &second].into_iter().zip(&mut counts) {
                let received = server.receive(&mut datagrams).unwrap();
                assert!(received == 0 || received == 4, "{received}");
                *count += received;
            }
        }
        // Chance alone leaves one of them out once in 2^31 runs.
        assert!(counts[0] + counts[1] == 128 && counts[0] > 0 && counts[1] > 0, "{counts:?}");
    }

    #[test]
    fn what_the_kernel_refuses_does_not_hold_up_the_others() {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let server = UdpServer::bind(any, Duration::from_secs(10)).unwrap();
        let senders: [Udp; 3] = std::array::from_fn(|_| Udp::bind(any).unwrap());
        let new = || Vec::from_iter((0..3).map(|_| Datagram::with_room(1 << 17)));
        let (mut requests, mut answers) = (new(), new());
        for (sender, (request, answer)) in senders.iter().zip(requests.iter_mut().zip(&mut answers))
        {
            sender.send_to(b"x", server.local_addr().unwrap()).unwrap();
            let one = std::slice::from_mut(request);
            assert_eq!(server.receive(one).unwrap(), 1);
            answer.answer(&one[0]);
            answer.bytes.push(b'y');
        }
        // No datagram is as long.
        answers[1].bytes.resize(1 << 17, 0);
        let mut refused = Vec::new();
        server.send(&answers, |answer, _| refused.push(answer.source()));
        assert_eq!(refused, [senders[1].local_addr().ok()]);
        for sender in [&senders[0], &senders[2]] {
            let (len, _) = sender.recv_until(&mut [0; 8], soon()).unwrap().expect("it was sent");
            assert_eq!(len, 1);
        }
    }

    #[test]
    fn a_socket_that_is_shut_down_waits_no_more() {
        let any = (Ipv4Addr::LOCALHOST, 0).into();
        let server = UdpServer::bind(any, Duration::from_secs(1000)).unwrap();
        let mut datagrams = [Datagram::with_room(8)];
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| server.receive(&mut datagrams).unwrap());
            server.shut_down();
            assert_eq!(waiting.join().unwrap(), 1);
        });
        assert_eq!(datagrams[0].source(), None);
    }
}
