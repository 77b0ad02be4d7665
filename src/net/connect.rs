//! Which address of a name a connection is made to: one that does not answer must not hold it up.
//!
//! ureq gives the first address half of the budget or more, each time anew. Where IPv6 leads
//! nowhere, or one address of a registry is dead, that is seconds for each connection, and what is
//! left for the last one is too little. So the first address has a short time here, then the first
//! of the other family, or the next; then all have what is left. One that did not answer comes last
//! for a while.

use std::collections::HashMap;
use std::fmt;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use ureq::Error;
use ureq::unversioned::resolver::ResolvedSocketAddrs;
use ureq::unversioned::transport::{
    ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked};
use crate::limits;
use crate::net::answering::Answering;

/// Makes the connections of an agent.
pub(super) struct Dialler {
    tcp: TcpConnector,
    known: Ranked<Known>,
}

/// What is known of addresses. Pure.
#[derive(Debug)]
struct Known {
    /// Until when each comes last. Bounded by [`limits::CONNECT_SHUNNED_MAX`].
    shunned: HashMap<SocketAddr, Time>,
    /// Until then all have their time at once: the way to them is long, not broken.
    patient_until: Time,
}

impl Known {
    /// The addresses in the order in which they are tried.
    fn order(&self, now: Time, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut order = addresses.to_vec();
        order.sort_by_key(|address| self.shunned.get(address).is_some_and(|until| now < *until));
        order
    }

    fn shun(&mut self, now: Time, address: SocketAddr) {
        if self.shunned.len() >= limits::CONNECT_SHUNNED_MAX {
            self.shunned.clear();
        }
        self.shunned.insert(address, now + limits::CONNECT_SHUNNED);
    }
}

impl Default for Dialler {
    fn default() -> Dialler {
        let known = Known { shunned: HashMap::new(), patient_until: Time::ZERO };
        Dialler { tcp: TcpConnector::default(), known: Ranked::new(Rank::Leaf, known) }
    }
}

impl fmt::Debug for Dialler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Dialler")
    }
}

impl<In: Transport> Connector<In> for Dialler {
    type Out = Answering<<TcpConnector as Connector<In>>::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if chained.is_some() || details.addrs.len() < 2 || details.timeout.after.is_not_happening()
        {
            return answering(self.tcp.connect(details, chained));
        }
        let (began, budget) = (Time::now(), *details.timeout.after);
        let known = self.known.lock();
        let order = known.order(began, &details.addrs);
        let is_patient = began < known.patient_until;
        drop(known);
        let first = first_of(&order);
        for (tried, address) in first.iter().enumerate().filter(|_| !is_patient) {
            let patience = limits::CONNECT_FIRST.min(budget / 4);
            match self.tcp.connect(&narrowed(details, &[*address], patience), None) {
                Err(error) if is_of_address(&error) => {
                    self.known.lock().shun(Time::now(), *address);
                }
                Ok(transport) => {
                    if tried > 0 {
                        self.shun_family_of(first[0], *address, &order);
                    }
                    return answering(Ok(transport));
                }
                Err(error) => return Err(error),
            }
        }
        let left = budget.saturating_sub(Time::now().since(began));
        let outcome = self.tcp.connect(&narrowed(details, &order, left), None);
        if outcome.is_ok() && !is_patient {
            self.known.lock().patient_until = Time::now() + limits::CONNECT_PATIENT;
        }
        answering(outcome)
    }
}

fn answering<T>(connected: Result<Option<T>, Error>) -> Result<Option<Answering<T>>, Error> {
    connected.map(|transport| transport.map(Answering::new))
}

impl Dialler {
    /// What `silent` did not answer, others of its family will not either, if `other` is of another
    /// and has.
    fn shun_family_of(&self, silent: SocketAddr, other: SocketAddr, all: &[SocketAddr]) {
        if silent.is_ipv4() != other.is_ipv4() {
            let mut known = self.known.lock();
            let family = all.iter().filter(|address| address.is_ipv4() == silent.is_ipv4());
            family.for_each(|address| known.shun(Time::now(), *address));
        }
    }
}

/// The two that are tried before all: the first, and the first of the other family, or the second.
fn first_of(order: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = order.first() else { return Vec::new() };
    let other = order.iter().find(|address| address.is_ipv4() != first.is_ipv4());
    [Some(first), other.or(order.get(1))].into_iter().flatten().copied().collect()
}

/// The same connection to these addresses alone, in that order and in that time.
fn narrowed<'a>(
    details: &'a ConnectionDetails<'_>,
    addresses: &[SocketAddr],
    patience: Duration,
) -> ConnectionDetails<'a> {
    let mut addrs: ResolvedSocketAddrs = details.resolver.empty();
    addresses.iter().for_each(|address| addrs.push(*address));
    ConnectionDetails {
        uri: details.uri,
        addrs,
        config: details.config,
        request_level: details.request_level,
        resolver: details.resolver,
        now: (details.current_time)(),
        timeout: NextTimeout { after: patience.into(), ..details.timeout },
        current_time: details.current_time.clone(),
        run_connector: details.run_connector.clone(),
        register_shutdown: details.register_shutdown.clone(),
    }
}

/// Whether another address may do better.
fn is_of_address(error: &Error) -> bool {
    use ErrorKind::{
        AddrNotAvailable, ConnectionRefused, HostUnreachable, NetworkDown, NetworkUnreachable,
    };
    match error {
        Error::Timeout(_) => true,
        Error::Io(error) => matches!(
            error.kind(),
            AddrNotAvailable
                | ConnectionRefused
                | HostUnreachable
                | NetworkDown
                | NetworkUnreachable
        ),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use socket2::{Domain, Socket, Type};
    use ureq::Agent;
    use ureq::config::Config;
    use ureq::http::Uri;
    use ureq::unversioned::resolver::Resolver;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn who_did_not_answer_comes_last_for_a_while() {
        let mut known = Known { shunned: HashMap::new(), patient_until: Time::ZERO };
        let all = addresses(&["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1"]);
        assert_eq!(known.order(Time::ZERO, &all), all);
        known.shun(Time::ZERO, all[0]);
        assert_eq!(known.order(Time::ZERO, &all), [all[1], all[2], all[0]]);
        assert_eq!(known.order(Time::ZERO + limits::CONNECT_SHUNNED, &all), all);
    }

    #[test]
    fn the_other_family_is_tried_second() {
        let all = addresses(&["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1"]);
        assert_eq!(first_of(&all), [all[0], all[2]]);
        assert_eq!(first_of(&all[..2]), all[..2]);
        assert_eq!(first_of(&all[..1]), all[..1]);
    }

    /// A name that has these addresses.
    #[derive(Debug)]
    struct Name(Vec<SocketAddr>);

    impl Resolver for Name {
        fn resolve(
            &self,
            _: &Uri,
            _: &Config,
            _: NextTimeout,
        ) -> Result<ResolvedSocketAddrs, Error> {
            let mut all = self.empty();
            self.0.iter().for_each(|address| all.push(*address));
            Ok(all)
        }
    }

    #[test]
    fn an_address_that_swallows_everything_does_not_hold_a_connection_up() {
        // With a full queue the kernel answers nobody.
        let silent = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        silent.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
        silent.listen(0).unwrap();
        let dead = silent.local_addr().unwrap().as_socket().unwrap();
        let patience = Duration::from_millis(200);
        let queued: Vec<_> = (0..3).map(|_| TcpStream::connect_timeout(&dead, patience)).collect();
        assert!(queued.iter().any(Result::is_err), "its queue is full");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let alive = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        // ureq alone would wait 40 s for the first.
        let config = Agent::config_builder().timeout_connect(Some(Duration::from_secs(60))).build();
        let agent = Agent::with_parts(config, Dialler::default(), Name(vec![dead, alive]));
        let began = Time::now();
        assert_eq!(agent.get("http://name.example/").call().unwrap().status(), 204);
        assert!(Time::now().since(began) < Duration::from_secs(30));
        server.join().unwrap();
    }
}
