//! Names to addresses, with a deadline, for ureq and for whoever connects by himself.
//!
//! `getaddrinfo` cannot be interrupted and a dead DNS server holds it for half a minute, so each
//! name is asked for in a thread of its own, once at a time, and those who want it wait no longer
//! than they can. Answers are kept for a short time: ureq resolves before every request, pooled
//! connection or not.
//!
//! **Invariant:** ureq connects to the addresses that [`Check`] let through and to no others; there
//! is no second look-up between the check and the connection.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::sync::Arc;
use std::time::Duration;

use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver as UreqResolver};
use ureq::unversioned::transport::NextTimeout;

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::base::thread::{self, Role};
use crate::limits;

/// Whether a connection to this host (a name or an address, without brackets) and port may go to
/// this address.
pub type Check = Arc<dyn Fn(&str, u16, IpAddr) -> bool + Send + Sync>;

/// Why there is no address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// No answer before the deadline.
    TimedOut,
    /// The name has no address, or its servers fail.
    NotFound,
    /// Too many names are being asked for.
    Busy,
    /// All its addresses are ones that must not be connected to.
    Refused,
}

impl fmt::Display for ResolveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ResolveError::TimedOut => "the name was not resolved in time",
            ResolveError::NotFound => "the name has no address",
            ResolveError::Busy => "too many names are being resolved",
            ResolveError::Refused => "the address is one that must not be connected to",
        })
    }
}

impl std::error::Error for ResolveError {}

/// Resolves names. Clones share what is known.
#[derive(Clone)]
pub struct Resolver {
    names: Arc<Names>,
    check: Check,
}

struct Names {
    known: Ranked<HashMap<String, Entry>>,
    changed: Signal,
}

enum Entry {
    /// A thread asks.
    Asking,
    /// What it was told; no address after a failure.
    Told { addresses: Vec<IpAddr>, until: Time },
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

impl Resolver {
    /// A resolver that knows nothing yet.
    #[must_use]
    pub fn new(check: Check) -> Resolver {
        let known = Ranked::new(Rank::Leaf, HashMap::new());
        Resolver { names: Arc::new(Names { known, changed: Signal::new() }), check }
    }

    /// The addresses of `host` that may be connected to: at least one, in the system's order.
    ///
    /// # Errors
    /// If there is none by `deadline`.
    pub fn lookup(
        &self,
        host: &str,
        port: u16,
        deadline: Time,
    ) -> Result<Vec<SocketAddr>, ResolveError> {
        let addresses = match host.parse() {
            Ok(address) => vec![address],
            Err(_) => self.names.lookup(host, deadline)?,
        };
        let allowed = addresses.into_iter().filter(|address| (self.check)(host, port, *address));
        let allowed: Vec<SocketAddr> = allowed.map(|ip| SocketAddr::new(ip, port)).collect();
        if allowed.is_empty() { Err(ResolveError::Refused) } else { Ok(allowed) }
    }
}

impl Names {
    fn lookup(self: &Arc<Names>, host: &str, deadline: Time) -> Result<Vec<IpAddr>, ResolveError> {
        let mut known = self.known.lock();
        loop {
            let now = Time::now();
            match known.get(host) {
                Some(Entry::Told { addresses, until }) if now < *until => {
                    let found = !addresses.is_empty();
                    return if found { Ok(addresses.clone()) } else { Err(ResolveError::NotFound) };
                }
                Some(Entry::Asking) if now >= deadline => return Err(ResolveError::TimedOut),
                Some(Entry::Asking) => known = self.changed.wait_until(known, deadline),
                _ => {
                    make_room(&mut known, now)?;
                    known.insert(host.to_owned(), Entry::Asking);
                    drop(known);
                    self.ask(host)?;
                    known = self.known.lock();
                }
            }
        }
    }

    fn ask(self: &Arc<Names>, host: &str) -> Result<(), ResolveError> {
        let names = Arc::clone(self);
        let name = host.to_owned();
        let started = thread::spawn("resolve", Role::Connection, move || {
            let answer = (name.as_str(), 0).to_socket_addrs();
            names.told(&name, answer);
        });
        if started.is_err() {
            self.known.lock().remove(host);
            self.changed.wake_all();
        }
        started.map(drop).map_err(|_| ResolveError::Busy)
    }

    fn told(&self, name: &str, answer: io::Result<std::vec::IntoIter<SocketAddr>>) {
        let addresses: Vec<IpAddr> =
            answer.into_iter().flatten().map(|address| address.ip()).collect();
        let kept =
            if addresses.is_empty() { limits::RESOLVE_FAILURE_KEPT } else { limits::RESOLVED_KEPT };
        let entry = Entry::Told { addresses, until: Time::now() + kept };
        self.known.lock().insert(name.to_owned(), entry);
        self.changed.wake_all();
    }
}

/// Makes room for one more name: what is out of date goes first, then all that is not being asked
/// for.
fn make_room(known: &mut HashMap<String, Entry>, now: Time) -> Result<(), ResolveError> {
    let asking = |entry: &Entry| matches!(entry, Entry::Asking);
    if known.values().filter(|entry| asking(entry)).count() >= limits::RESOLVING_MAX {
        return Err(ResolveError::Busy);
    }
    if known.len() >= limits::RESOLVED_NAMES_MAX {
        known.retain(|_, entry| match entry {
            Entry::Asking => true,
            Entry::Told { until, .. } => now < *until,
        });
    }
    if known.len() >= limits::RESOLVED_NAMES_MAX {
        known.retain(|_, entry| asking(entry));
    }
    Ok(())
}

impl UreqResolver for Resolver {
    fn resolve(
        &self,
        uri: &Uri,
        _config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let bare = host.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')).unwrap_or(host);
        let standard = if uri.scheme_str() == Some("https") { 443 } else { 80 };
        let patience = if timeout.after.is_not_happening() {
            limits::UPSTREAM_CONNECT
        } else {
            Duration::min(*timeout.after, limits::UPSTREAM_CONNECT)
        };
        let found = self.lookup(bare, uri.port_u16().unwrap_or(standard), Time::now() + patience);
        let addresses = found.map_err(|why| match why {
            ResolveError::TimedOut => ureq::Error::Timeout(timeout.reason),
            ResolveError::NotFound => ureq::Error::HostNotFound,
            why => ureq::Error::Other(Box::new(why)),
        })?;
        let mut resolved = self.empty();
        // ureq keeps 16 addresses.
        for address in addresses.into_iter().take(16) {
            resolved.push(address);
        }
        Ok(resolved)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Time {
        Time::now() + Duration::from_secs(20)
    }

    #[test]
    fn an_address_needs_no_look_up() {
        let resolver = Resolver::new(Arc::new(|_, _, _| true));
        let found = resolver.lookup("::1", 80, Time::ZERO);
        assert_eq!(found, Ok(vec!["[::1]:80".parse().expect("an address")]));
        assert_eq!(resolver.names.known.lock().len(), 0);
    }

    #[test]
    fn a_name_is_asked_for_once_and_kept() {
        let resolver = Resolver::new(Arc::new(|_, _, _| true));
        let first = resolver.lookup("localhost", 1, soon()).expect("localhost has an address");
        assert!(first.iter().all(|address| address.ip().is_loopback()), "{first:?}");
        // Known now: a deadline in the past does not matter.
        assert_eq!(resolver.lookup("localhost", 1, Time::ZERO), Ok(first));
    }

    #[test]
    fn an_address_that_the_check_refuses_is_not_given_out() {
        let resolver = Resolver::new(Arc::new(|host, _, ip| host == "localhost" && ip.is_ipv6()));
        assert_eq!(resolver.lookup("127.0.0.1", 80, soon()), Err(ResolveError::Refused));
        let found = resolver.lookup("localhost", 80, soon()).unwrap_or_default();
        assert!(found.iter().all(SocketAddr::is_ipv6), "{found:?}");
    }

    #[test]
    fn one_who_waits_leaves_at_his_deadline() {
        let resolver = Resolver::new(Arc::new(|_, _, _| true));
        resolver.names.known.lock().insert("slow.example".to_owned(), Entry::Asking);
        let deadline = Time::now() + Duration::from_millis(10);
        assert_eq!(resolver.lookup("slow.example", 80, deadline), Err(ResolveError::TimedOut));
        assert!(Time::now() >= deadline);
        let answer = vec!["192.0.2.1:0".parse().expect("an address")].into_iter();
        resolver.names.told("slow.example", Ok(answer));
        let found = resolver.lookup("slow.example", 80, Time::ZERO);
        assert_eq!(found, Ok(vec!["192.0.2.1:80".parse().expect("an address")]));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let now = Time::after_start(Duration::from_secs(100));
        let fresh = || Entry::Told { addresses: Vec::new(), until: now + Duration::from_secs(1) };
        let mut known = HashMap::new();
        for index in 0..limits::RESOLVED_NAMES_MAX {
            make_room(&mut known, now).expect("nothing is being asked for");
            known.insert(format!("{index}.example"), fresh());
        }
        make_room(&mut known, now).expect("nothing is being asked for");
        assert!(known.len() < limits::RESOLVED_NAMES_MAX);
        for index in 0..limits::RESOLVING_MAX {
            known.insert(format!("{index}.example"), Entry::Asking);
        }
        assert_eq!(make_room(&mut known, now), Err(ResolveError::Busy));
    }
}
