//! Where a tracker is.

use std::fmt;
use std::str::FromStr;

/// The address of a tracker: `http://`, `https://` (BEP 3) or `udp://` (BEP 15).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrackerUrl {
    /// The whole URL, to which the query of an announce is added.
    Http(String),
    /// Where the datagrams go; what stands behind the port means nothing in BEP 15.
    Udp {
        /// A name or an address; an IPv6 address without its brackets.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// Text that names no tracker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrackerUrlError {
    /// Neither `http://`, `https://` nor `udp://`.
    Scheme,
    /// No host, or characters that belong in none.
    Host,
    /// No port from 1 to 65535, which `udp://` needs.
    Port,
}

impl fmt::Display for TrackerUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TrackerUrlError::Scheme => "a tracker has the form http://, https:// or udp://",
            TrackerUrlError::Host => "the tracker's host is missing or malformed",
            TrackerUrlError::Port => "the tracker's port is missing or malformed",
        })
    }
}

impl std::error::Error for TrackerUrlError {}

impl FromStr for TrackerUrl {
    type Err = TrackerUrlError;

    fn from_str(text: &str) -> Result<TrackerUrl, TrackerUrlError> {
        let (scheme, rest) = text.split_once("://").ok_or(TrackerUrlError::Scheme)?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        let (host, port) = split_authority(authority)?;
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
        if host.is_empty() || host.contains('@') || !plain {
            return Err(TrackerUrlError::Host);
        }
        match (scheme.to_ascii_lowercase().as_str(), port) {
            ("http" | "https", _) => Ok(TrackerUrl::Http(text.to_owned())),
            ("udp", Some(port)) => Ok(TrackerUrl::Udp { host: host.to_owned(), port }),
            ("udp", None) => Err(TrackerUrlError::Port),
            _ => Err(TrackerUrlError::Scheme),
        }
    }
}

/// Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`.
fn split_authority(authority: &str) -> Result<(&str, Option<u16>), TrackerUrlError> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or(TrackerUrlError::Host)?;
            (host, port)
        }
        None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
    };
    let Some(digits) = port.strip_prefix(':') else {
        return if port.is_empty() { Ok((host, None)) } else { Err(TrackerUrlError::Host) };
    };
    match digits.parse() {
        Ok(0) | Err(_) => Err(TrackerUrlError::Port),
        Ok(port) => Ok((host, Some(port))),
    }
}

impl fmt::Display for TrackerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TrackerUrl::Http(url) => f.write_str(url),
            TrackerUrl::Udp { host, port } if host.contains(':') => {
                write!(f, "udp://[{host}]:{port}")
            }
            TrackerUrl::Udp { host, port } => write!(f, "udp://{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_protocols_are_read() {
        let http = "http://192.168.1.1:6969/announce?x=1";
        assert_eq!(http.parse(), Ok(TrackerUrl::Http(http.to_owned())));
        let udp = "udp://[fe80::1]:6969/announce".parse::<TrackerUrl>().unwrap();
        assert_eq!(udp, TrackerUrl::Udp { host: "fe80::1".to_owned(), port: 6969 });
        assert_eq!(udp.to_string(), "udp://[fe80::1]:6969");
        assert!("https://tracker".parse::<TrackerUrl>().is_ok());
    }

    #[test]
    fn what_is_no_tracker_is_refused() {
        let error = |text: &str| text.parse::<TrackerUrl>().unwrap_err();
        assert_eq!(error("192.168.1.1:6969"), TrackerUrlError::Scheme);
        assert_eq!(error("ftp://x"), TrackerUrlError::Scheme);
        assert_eq!(error("http://"), TrackerUrlError::Host);
        assert_eq!(error("http://user@host/"), TrackerUrlError::Host);
        assert_eq!(error("http://a b/"), TrackerUrlError::Host);
        assert_eq!(error("http://[::1/"), TrackerUrlError::Host);
        assert_eq!(error("udp://host"), TrackerUrlError::Port);
        assert_eq!(error("udp://host:0"), TrackerUrlError::Port);
        assert_eq!(error("http://host:99999/"), TrackerUrlError::Port);
    }
}
