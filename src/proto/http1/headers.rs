//! Header fields, with their original case and order.

use std::fmt;
use std::ops::Range;

/// Header fields in the order in which they came. Looking up ignores the case of names.
///
/// **Invariant:** every name is a token and no value holds CR, LF or NUL, so that writing them out
/// can never make a second field or a second message.
#[derive(Clone, Default)]
pub struct Headers {
    fields: Vec<Field>,
    /// The names of all fields, also of removed ones, one after the other; a head costs a handful
    /// of allocations and not two for each field.
    names: String,
    /// Their values likewise.
    values: Vec<u8>,
}

/// Where one field stands in `names` and `values`.
#[derive(Clone)]
struct Field {
    name: Range<usize>,
    value: Range<usize>,
}

/// What most heads have at most: so many fields, with so many bytes of names and of values.
const FIELDS: usize = 12;
const NAMES_LEN: usize = 192;
const VALUES_LEN: usize = 576;

/// Fields that belong to one connection, beside those that `Connection` names (RFC 9110 section
/// 7.6.1). `Proxy-*` is added by prefix.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "http2-settings"];

/// A word in the name of a field that says who asks: besides `Authorization` and `Cookie` there are
/// `X-JFrog-Art-Api`, `Private-Token`, `X-Api-Key` and more, which containerd can be told to send.
const SECRET_WORDS: [&str; 9] =
    ["authorization", "auth", "cookie", "token", "key", "apikey", "secret", "password", "session"];

impl Headers {
    /// No fields.
    #[must_use]
    pub const fn new() -> Headers {
        Headers { fields: Vec::new(), names: String::new(), values: Vec::new() }
    }

    /// Adds a field at the end. CR, LF and NUL in the value become spaces (RFC 9110 section 5.5); a
    /// field whose name is no token is left out.
    pub fn append(&mut self, name: &str, value: impl AsRef<[u8]>) {
        if name.is_empty() || !name.bytes().all(is_token_byte) {
            return;
        }
        if self.fields.capacity() == 0 {
            // Room for a usual head at once, instead of growing by and by.
            self.fields.reserve(FIELDS);
            self.names.reserve(NAMES_LEN);
            self.values.reserve(VALUES_LEN);
        }
        let clean = |&byte: &u8| if matches!(byte, b'\r' | b'\n' | 0) { b' ' } else { byte };
        let (name_at, value_at) = (self.names.len(), self.values.len());
        self.names.push_str(name);
        self.values.extend(value.as_ref().iter().map(clean));
        let field = Field { name: name_at..self.names.len(), value: value_at..self.values.len() };
        self.fields.push(field);
    }

    /// Replaces all fields of this name by one.
    pub fn set(&mut self, name: &str, value: impl AsRef<[u8]>) {
        self.remove(name);
        self.append(name, value);
    }

    /// Removes all fields of this name.
    pub fn remove(&mut self, name: &str) {
        self.retain(|other| !other.eq_ignore_ascii_case(name));
    }

    /// The value of the first field of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        let mut same = self.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
        same.next().map(|(_, value)| value)
    }

    /// The value of the first field of this name, if it is UTF-8.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The values of all fields of this name, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let same = move |other: &str| other.eq_ignore_ascii_case(name);
        self.iter().filter(move |(other, _)| same(other)).map(|(_, value)| value)
    }

    /// All fields in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|field| {
            let value = self.values.get(field.value.clone()).unwrap_or_default();
            (name_of(&self.names, field), value)
        })
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// Whether a comma-separated field of this name holds `token`, case ignored.
    #[must_use]
    pub fn contains_token(&self, name: &str, token: &str) -> bool {
        self.tokens(name).any(|other| other.eq_ignore_ascii_case(token.as_bytes()))
    }

    /// The elements of all comma-separated fields of this name.
    fn tokens<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.get_all(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .map(<[u8]>::trim_ascii)
    }

    /// Removes what must not be passed on: the fields of RFC 9110 section 7.6.1, those that
    /// `Connection` names, `Proxy-*` and the offer of HTTP/2.
    pub fn strip_hop_by_hop(&mut self) {
        let named: Vec<Vec<u8>> = self.tokens("connection").map(<[u8]>::to_vec).collect();
        self.retain(|name| {
            let is = |other: &[u8]| name.as_bytes().eq_ignore_ascii_case(other);
            let proxy = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-"));
            !proxy
                && !HOP_BY_HOP.iter().any(|other| is(other.as_bytes()))
                && !named.iter().any(|n| is(n))
        });
    }

    /// The values of the fields that say who asks, in order; not those that are for a proxy.
    pub fn secrets(&self) -> impl Iterator<Item = &[u8]> {
        self.iter().filter(|(name, _)| is_secret(name)).map(|(_, value)| value)
    }

    /// Removes them.
    pub fn remove_secrets(&mut self) {
        self.retain(|name| !is_secret(name));
    }

    fn retain(&mut self, mut is_kept: impl FnMut(&str) -> bool) {
        let Headers { fields, names, .. } = self;
        fields.retain(|field| is_kept(name_of(names, field)));
    }

    /// Writes the fields whose names `is_kept` keeps, each with its line end.
    pub(super) fn encode(&self, is_kept: impl Fn(&str) -> bool, out: &mut Vec<u8>) {
        for (name, value) in self.iter().filter(|(name, _)| is_kept(name)) {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b": ");
            out.extend_from_slice(value);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Whether the field of this name says who asks.
fn is_secret(name: &str) -> bool {
    let mut words = name.split(['-', '_']);
    let is_word = |word: &str| SECRET_WORDS.iter().any(|other| word.eq_ignore_ascii_case(other));
    let ends_in_api = name.rsplit('-').next().is_some_and(|word| word.eq_ignore_ascii_case("api"));
    let is_for_proxy = name.get(..6).is_some_and(|start| start.eq_ignore_ascii_case("proxy-"));
    (words.any(is_word) || ends_in_api) && !is_for_proxy
}

fn name_of<'a>(names: &'a str, field: &Field) -> &'a str {
    names.get(field.name.clone()).unwrap_or_default()
}

impl PartialEq for Headers {
    fn eq(&self, other: &Headers) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |value| String::from_utf8_lossy(value).into_owned();
        f.debug_map().entries(self.iter().map(|(name, value)| (name, text(value)))).finish()
    }
}

impl<'a> FromIterator<(&'a str, &'a [u8])> for Headers {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a [u8])>>(fields: T) -> Headers {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(name, value);
        }
        headers
    }
}

/// RFC 9110 section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}
