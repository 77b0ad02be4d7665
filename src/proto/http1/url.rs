//! Absolute `http` and `https` URLs, as far as a proxy needs them (RFC 3986, RFC 9110 section 4.2).

use std::fmt;
use std::net::Ipv6Addr;

/// The longest URL: what servers commonly take, and more than signed redirects of registries need.
pub const URL_LEN_MAX: usize = 16 << 10;
/// The longest host name (RFC 1035 section 2.3.4).
const HOST_LEN_MAX: usize = 255;

/// Where a resource lives. There is never a user, a password or a fragment in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// `https`, else `http`.
    pub https: bool,
    /// Lower case; an IPv6 address stands without its brackets.
    pub host: String,
    /// Never zero.
    pub port: u16,
    /// Path and query: begins with `/`, visible ASCII only.
    pub target: String,
}

/// Text that is no URL we take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// Neither `http://` nor `https://`.
    Scheme,
    /// No host, a bad host, or a user or password.
    Host,
    /// Not a number from 1 to 65,535.
    Port,
    /// A fragment, a space or something else that is not visible ASCII.
    Target,
    /// Longer than [`URL_LEN_MAX`].
    TooLong,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UrlError::Scheme => "the URL is neither http:// nor https://",
            UrlError::Host => "the URL has no valid host, or a user before it",
            UrlError::Port => "the URL has no valid port",
            UrlError::Target => "the URL has a character that cannot be in a path",
            UrlError::TooLong => "the URL is too long",
        })
    }
}

impl std::error::Error for UrlError {}

impl Url {
    /// Reads an absolute URL. A missing path becomes `/`.
    ///
    /// # Errors
    /// Anything else, user information and fragments included.
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        if text.len() > URL_LEN_MAX {
            return Err(UrlError::TooLong);
        }
        let (scheme, rest) = text.split_once("://").ok_or(UrlError::Scheme)?;
        let https = match () {
            () if scheme.eq_ignore_ascii_case("http") => false,
            () if scheme.eq_ignore_ascii_case("https") => true,
            () => return Err(UrlError::Scheme),
        };
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(at);
        let (host, port) = parse_authority(authority)?;
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        if !is_target(&target) {
            return Err(UrlError::Target);
        }
        Ok(Url { https, host, port: port.unwrap_or(default_port(https)), target })
    }

    /// The URL that `reference`, as a `Location` field holds it, means here (RFC 3986 section 5.2);
    /// its fragment is dropped. A relative path replaces what follows our last slash, `..` is not
    /// interpreted.
    ///
    /// # Errors
    /// If the result is no URL for [`Url::parse`].
    pub fn join(&self, reference: &str) -> Result<Url, UrlError> {
        let reference = reference.split('#').next().unwrap_or("");
        let scheme = self.scheme();
        let path = self.path();
        if reference.contains("://") && !reference.starts_with(['/', '?', '.']) {
            Url::parse(reference)
        } else if reference.starts_with("//") {
            Url::parse(&format!("{scheme}:{reference}"))
        } else {
            let base = match reference.bytes().next() {
                Some(b'/') => "",
                Some(b'?') | None => path,
                Some(_) => path.get(..=path.rfind('/').unwrap_or(0)).unwrap_or("/"),
            };
            Url::parse(&format!("{scheme}://{}{base}{reference}", self.authority()))
        }
    }

    /// `http` or `https`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if self.https { "https" } else { "http" }
    }

    /// What the `Host` field says: the host, and the port unless it is the scheme's own.
    #[must_use]
    pub fn authority(&self) -> String {
        let mut authority = String::new();
        // Memory takes everything.
        let _ = self.write_authority(&mut authority);
        authority
    }

    fn write_authority(&self, out: &mut impl fmt::Write) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(out, "[{}]", self.host)?,
            false => out.write_str(&self.host)?,
        }
        if self.port != default_port(self.https) {
            write!(out, ":{}", self.port)?;
        }
        Ok(())
    }

    /// The target without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or("/")
    }

    /// What follows the first `?`.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target.split_once('?').map(|(_, query)| query)
    }

    /// Whether both lie on the same server: scheme, host and port.
    #[must_use]
    pub fn same_origin(&self, other: &Url) -> bool {
        self.https == other.https && self.host == other.host && self.port == other.port
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.scheme())?;
        f.write_str("://")?;
        self.write_authority(f)?;
        f.write_str(&self.target)
    }
}

impl std::str::FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Url, UrlError> {
        Url::parse(text)
    }
}

fn default_port(https: bool) -> u16 {
    if https { 443 } else { 80 }
}

/// Whether `text` can stand as origin-form: a slash, then visible ASCII without a fragment.
pub(super) fn is_target(text: &str) -> bool {
    text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#')
}

/// Reads `host`, `host:port`, `[v6]` or `[v6]:port`; the host comes back in lower case and without
/// brackets.
pub(super) fn parse_authority(text: &str) -> Result<(String, Option<u16>), UrlError> {
    if text.contains('@') {
        return Err(UrlError::Host);
    }
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(UrlError::Host)?;
            let address: Ipv6Addr = address.parse().map_err(|_| UrlError::Host)?;
            (address.to_string(), port)
        }
        None => {
            let (host, port) = text.split_at(text.find(':').unwrap_or(text.len()));
            let valid = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            if host.is_empty() || host.len() > HOST_LEN_MAX || !host.bytes().all(valid) {
                return Err(UrlError::Host);
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    if port.is_empty() {
        return Ok((host, None));
    }
    let digits = port.strip_prefix(':').ok_or(UrlError::Host)?;
    if digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UrlError::Port);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(UrlError::Port),
        Ok(port) => Ok((host, Some(port))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_round_trip_in_their_shortest_form() {
        for (text, shortest) in [
            ("http://a", "http://a/"),
            ("HTTPS://A.Example:443/B?c=D", "https://a.example/B?c=D"),
            ("http://a:8080/x+y%2F", "http://a:8080/x+y%2F"),
            ("http://[::1]:80/", "http://[::1]/"),
            ("https://[2001:DB8::1]:5000?q", "https://[2001:db8::1]:5000/?q"),
            ("http://under_score:1/", "http://under_score:1/"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!(url.to_string(), shortest);
            assert_eq!(Url::parse(shortest), Ok(url));
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (text, why) in [
            ("a/b", UrlError::Scheme),
            ("ftp://a/", UrlError::Scheme),
            ("file:///etc/passwd", UrlError::Scheme),
            ("http:///x", UrlError::Host),
            ("http://user:secret@a/", UrlError::Host),
            ("http://user@a/", UrlError::Host),
            ("http://a%2eb/", UrlError::Host),
            ("http://[::1/", UrlError::Host),
            ("http://[::1]x/", UrlError::Host),
            ("http://[fe80::1%25eth0]/", UrlError::Host),
            ("http://a:/", UrlError::Port),
            ("http://a:0/", UrlError::Port),
            ("http://a:65536/", UrlError::Port),
            ("http://a:+80/", UrlError::Port),
            ("http://a/b c", UrlError::Target),
            ("http://a/b#c", UrlError::Target),
            ("http://a/\u{e9}", UrlError::Target),
            ("http://a/\r\nX: y", UrlError::Target),
        ] {
            assert_eq!(Url::parse(text), Err(why), "{text}");
        }
        let long = format!("http://a/{}", "x".repeat(URL_LEN_MAX));
        assert_eq!(Url::parse(&long), Err(UrlError::TooLong));
    }

    #[test]
    fn locations_are_resolved() {
        let base = Url::parse("https://reg:5000/v2/x/blobs/y?ns=a").unwrap();
        for (reference, joined) in [
            ("https://cdn.example/b?sig=%2F#frag", "https://cdn.example/b?sig=%2F"),
            ("//cdn/b", "https://cdn/b"),
            ("/b?to=http://c", "https://reg:5000/b?to=http://c"),
            ("z", "https://reg:5000/v2/x/blobs/z"),
            ("?q", "https://reg:5000/v2/x/blobs/y?q"),
            ("", "https://reg:5000/v2/x/blobs/y"),
        ] {
            assert_eq!(base.join(reference).unwrap().to_string(), joined, "{reference}");
        }
        assert_eq!(base.join("ftp://c/"), Err(UrlError::Scheme));
    }
}
