//! Floor 6: the tracker that peers see, and the etcd beside it.
//!
//! One [`registry`] remembers who is in which swarm; an HTTP and a UDP front on one port number ask
//! it; a sweeper forgets who did not come back. [`supervise`] runs etcd and knows nothing of the
//! rest.

mod http;
pub mod registry;
mod service;
pub mod supervise;
mod udp;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::stop::Stop;
use crate::base::thread::{self, Role};
use crate::net::serve::{Server, ServerConfig};
use crate::net::tcp;
use crate::tracker::http::HttpFront;
use crate::tracker::registry::Limits;
use crate::tracker::service::Service;
use crate::tracker::udp::{UdpFront, UdpSockets};

/// The two sockets of a tracker, bound to one port number and not served yet.
pub struct Sockets {
    tcp: TcpListener,
    udp: UdpSockets,
}

impl Sockets {
    /// Binds `address` for TCP and UDP. With port 0 both get one that is free for both.
    ///
    /// # Errors
    /// If the address is not ours or its port is taken.
    pub fn bind(address: SocketAddr) -> io::Result<Sockets> {
        const ATTEMPTS: usize = 16;
        let mut failure = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..ATTEMPTS {
            let tcp = tcp::bind(address)?;
            match UdpSockets::bind(tcp.local_addr()?) {
                Ok(udp) => return Ok(Sockets { tcp, udp }),
                Err(error) => failure = error,
            }
            // Another free port may be free for UDP as well; a given one stays taken.
            if address.port() != 0 {
                break;
            }
        }
        Err(failure)
    }
}

/// A running tracker.
pub struct Tracker {
    http: Server,
    udp: UdpFront,
    stop: Stop,
    sweeper: thread::Handle,
}

impl Tracker {
    /// Starts to serve `sockets`. `etcd` says in a line how the catalog's etcd is, for the page
    /// that people look at.
    ///
    /// # Errors
    /// If the system refuses a thread or a descriptor.
    pub fn start(
        sockets: Sockets,
        etcd: impl Fn() -> String + Send + Sync + 'static,
    ) -> io::Result<Tracker> {
        let service = Arc::new(Service::new(Limits::default()));
        let front =
            HttpFront { service: Arc::clone(&service), started: Time::now(), etcd: Box::new(etcd) };
        let http = Server::start(ServerConfig::new("tracker", sockets.tcp), Arc::new(front))?;
        let udp = UdpFront::start(sockets.udp, &service)?;
        let stop = Stop::new();
        let until = stop.clone();
        let sweep = move || while !until.wait_for(service.expire()) {};
        let sweeper = thread::spawn("tracker-sweep", Role::Core, sweep)?;
        Ok(Tracker { http, udp, stop, sweeper })
    }

    /// Where it listens, TCP and UDP.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.http.local_addr()
    }

    /// Ends it; answers on their way may take until `deadline`.
    pub fn stop(self, deadline: Time) {
        self.stop.stop();
        self.http.stop(deadline);
        self.udp.stop();
        self.sweeper.join();
    }
}

/// Where this host reaches a socket that is bound to `address`.
fn local(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        ip if !ip.is_unspecified() => ip,
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unspecified_address_is_reached_on_loopback() {
        let local = |text: &str| local(text.parse().expect("an address")).to_string();
        assert_eq!(local("0.0.0.0:1"), "127.0.0.1:1");
        assert_eq!(local("[::]:1"), "[::1]:1");
        assert_eq!(local("10.0.0.1:1"), "10.0.0.1:1");
    }
}
