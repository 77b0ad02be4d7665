//! What an address says about where its host is, and ranges of addresses.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Whether the address can only be that of a host nearby: private, link-local or loopback.
#[must_use]
pub fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

/// A range of addresses in CIDR notation (RFC 4632, RFC 4291 section 2.3): `10.0.0.0/8`,
/// `fd00::/8`; an address alone is a range of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// IPv4 as mapped into IPv6 (RFC 4291 section 2.5.5.2).
    first: u128,
    /// How many leading bits count, of 128.
    prefix: u32,
}

/// Why a text is no [`Network`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NetworkError;

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not a range of addresses such as 10.0.0.0/8 or fd00::/8")
    }
}

impl std::error::Error for NetworkError {}

impl Network {
    /// Whether the address lies in the range. IPv4 seen through IPv6 counts as IPv4.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let differs = bits(address) ^ self.first;
        self.prefix == 0 || differs >> (128 - self.prefix) == 0
    }
}

impl FromStr for Network {
    type Err = NetworkError;

    /// Bits after the prefix must be zero: a range that somebody mistyped is not guessed.
    fn from_str(text: &str) -> Result<Network, NetworkError> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let bits_max: u32 = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(bits_max), str::parse).map_err(|_| NetworkError)?;
        let host_bits = bits_max.checked_sub(prefix).ok_or(NetworkError)?;
        let first = bits(address);
        if first.trailing_zeros() < host_bits {
            return Err(NetworkError);
        }
        Ok(Network { first, prefix: 128 - host_bits })
    }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_what_its_prefix_says() {
        let holds = |network: &str, address: &str| {
            let network: Network = network.parse().expect("a network");
            network.holds(address.parse().expect("an address"))
        };
        assert!(holds("10.0.0.0/8", "10.255.1.2") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("10.0.0.0/8", "::ffff:10.1.2.3"), "IPv4 through IPv6");
        assert!(holds("192.0.2.7", "192.0.2.7") && !holds("192.0.2.7", "192.0.2.6"));
        assert!(holds("0.0.0.0/0", "203.0.113.9") && !holds("0.0.0.0/0", "2001:db8::1"));
        assert!(holds("2001:db8::/32", "2001:db8:9::1") && !holds("2001:db8::/32", "2001:db9::"));
        assert!(holds("::/0", "2001:db8::1") && holds("::/0", "10.0.0.1"), "everybody");
    }

    #[test]
    fn what_is_no_network_is_refused() {
        let bad = ["", "x", "10.0.0.0/33", "10.0.0.1/8", "10.0.0.0/", "/8", "fd00::/129", "::1/0"];
        for text in bad {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
    }

    #[test]
    fn local_addresses_are_told_from_others() {
        let local = |text: &str| is_local(text.parse().expect("an address"));
        for text in ["10.1.2.3", "192.168.0.1", "127.0.0.1", "169.254.1.1", "::1", "fd00::1"] {
            assert!(local(text), "{text}");
        }
        assert!(local("fe80::1") && local("::ffff:10.0.0.1"));
        for text in ["8.8.8.8", "172.32.0.1", "0.0.0.0", "2001:db8::1", "::ffff:8.8.8.8"] {
            assert!(!local(text), "{text}");
        }
    }
}
