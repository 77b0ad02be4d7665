//! Which hosts a client may name, and which addresses they may lead to.
//!
//! The forward proxy fetches what clients ask for, so it could be used to reach what only this host
//! can reach: the metadata service of a cloud at a link-local address hands out credentials.
//! Private and loopback addresses stay allowed: that is where a LAN keeps its registries. The
//! configured registry is the operator's word and may be anywhere.
//!
//! The check is made on resolved addresses ([`crate::net::resolve`]), for the first host and for
//! each that a redirect leads to; the allow-list concerns the first host only, for a registry that
//! is allowed sends its clients where it keeps its blobs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use crate::proto::http1::Url;

/// One entry of the allow-list: a host name, or with a leading `*.` all names below a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostRule(String);

/// Text that is no [`HostRule`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostRuleError;

impl fmt::Display for HostRuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an allowed host is a name, an address, or *. and a domain")
    }
}

impl std::error::Error for HostRuleError {}

impl FromStr for HostRule {
    type Err = HostRuleError;

    fn from_str(text: &str) -> Result<HostRule, HostRuleError> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
        if name.is_empty() || !name.bytes().all(valid) {
            return Err(HostRuleError);
        }
        Ok(HostRule(text.to_ascii_lowercase()))
    }
}

impl HostRule {
    fn allows(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some(domain) => host.len() > domain.len() && host.ends_with(domain),
            None => host == self.0,
        }
    }
}

/// What the operator allows.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    registry: Option<Url>,
    allow: Vec<HostRule>,
}

impl Guard {
    /// `registry` may be anywhere; `allow` empty: any host may be named.
    pub(super) fn new(registry: Option<Url>, allow: Vec<HostRule>) -> Guard {
        Guard { registry, allow }
    }

    fn is_registry(&self, host: &str, port: u16) -> bool {
        self.registry.as_ref().is_some_and(|url| url.host == host && url.port == port)
    }

    /// Whether a client may name this host.
    pub(super) fn may_ask(&self, host: &str, port: u16) -> bool {
        self.is_registry(host, port)
            || self.allow.is_empty()
            || self.allow.iter().any(|rule| rule.allows(host))
    }

    /// Whether a connection for this host may go to this address.
    pub(super) fn may_connect(&self, host: &str, port: u16, address: IpAddr) -> bool {
        self.is_registry(host, port) || !is_forbidden(address)
    }
}

/// Metadata services that live at an address outside the link-local ranges: of AWS over IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

/// Whether an address is one that no origin has: link-local (metadata services among them),
/// unspecified (on Linux this host), multicast or broadcast. An IPv4 address inside an IPv6 one
/// counts as itself.
fn is_forbidden(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            v4.is_link_local() || v4.octets()[0] == 0 || v4.is_multicast() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_forbidden(IpAddr::V4(v4)),
            None => {
                v6.is_unicast_link_local()
                    || v6.is_unspecified()
                    || v6.is_multicast()
                    || v6 == METADATA_V6
            }
        },
    }
}

/// The IPv4 address in a mapped one (RFC 4291 section 2.5.5.2) or behind NAT64 (RFC 6052).
fn embedded_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let nat64 = address.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
    let [.., a, b, c, d] = address.octets();
    address.to_ipv4_mapped().or(nat64.then_some(Ipv4Addr::new(a, b, c, d)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn addresses_that_no_origin_has_are_forbidden() {
        for (address, forbidden) in [
            ("169.254.169.254", true),
            ("169.254.0.1", true),
            ("::ffff:169.254.169.254", true),
            ("64:ff9b::a9fe:a9fe", true),
            ("fe80::1", true),
            ("febf::1", true),
            ("fd00:ec2::254", true),
            ("0.0.0.0", true),
            ("0.1.2.3", true),
            ("::", true),
            ("::ffff:0.0.0.0", true),
            ("224.0.0.1", true),
            ("ff02::1", true),
            ("255.255.255.255", true),
            ("127.0.0.1", false),
            ("::1", false),
            ("10.0.0.1", false),
            ("192.168.1.1", false),
            ("fd00::1", false),
            ("1.1.1.1", false),
            ("2606:4700::1111", false),
            ("64:ff9b::101:101", false),
        ] {
            assert_eq!(is_forbidden(address.parse().expect("an address")), forbidden, "{address}");
        }
    }

    #[test]
    fn the_registry_may_be_anywhere_but_only_at_its_own_port() {
        let guard = Guard::new(Some(url("http://169.254.7.7:5000")), Vec::new());
        let address = IpAddr::from([169, 254, 7, 7]);
        assert!(guard.may_connect("169.254.7.7", 5000, address));
        assert!(!guard.may_connect("169.254.7.7", 80, address));
        assert!(!guard.may_connect("other.example", 5000, address));
    }

    #[test]
    fn the_allow_list_names_hosts_and_domains() {
        let allow = ["quay.io", "*.Example.com"].map(|rule| rule.parse().expect("a rule"));
        let guard = Guard::new(Some(url("https://registry.local")), allow.to_vec());
        for (host, allowed) in [
            ("quay.io", true),
            ("xquay.io", false),
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            ("badexample.com", false),
            ("registry.local", true),
        ] {
            assert_eq!(guard.may_ask(host, 443), allowed, "{host}");
        }
        assert!(!guard.may_ask("registry.local", 80));
    }

    #[test]
    fn what_is_no_host_is_no_rule() {
        for text in ["", "*.", "a b", "http://a/", "a/b"] {
            assert_eq!(text.parse::<HostRule>(), Err(HostRuleError), "{text:?}");
        }
    }
}
