//! What an address says about where its host is.

use std::net::IpAddr;

/// Whether the address can only be that of a host nearby: private, link-local or loopback.
#[must_use]
pub fn is_local(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.is_private() || v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unique_local() || v6.is_unicast_link_local() || v6.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
