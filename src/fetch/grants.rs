//! What upstreams have said about who may read what. Pure: time is an argument.
//!
//! Two facts make a yes: the repository holds the blob (true for everybody, for ever, since a blob
//! is immutable), and this credential may read the repository (true for [`limits::GRANT`]). They
//! are kept apart, so that a client that comes back with a new token costs the upstream one
//! question for a whole image, while a digest of another, private repository gets nobody anything.
//!
//! **Invariant:** a credential is kept as its hash, in memory only.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::hash::{hex, sha256};
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::http1::Headers;

/// A repository of a registry, as its URL up to the blob's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scope(pub Arc<str>);

/// The hash of what a request says of who asks; `None`: it says nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Credential(Option<[u8; 32]>);

impl Credential {
    /// The credential of a request with this query in its URL, which may be a signature, and these
    /// headers.
    #[must_use]
    pub fn of_request(query: Option<&str>, headers: &Headers) -> Credential {
        let secrets: Vec<&[u8]> = headers.secrets().chain(query.map(str::as_bytes)).collect();
        Credential::of((!secrets.is_empty()).then(|| secrets.join(&b'\n')).as_deref())
    }

    /// Whether the request had none.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0.is_none()
    }

    /// The credential of a request that says this of who asks.
    #[must_use]
    pub fn of(secret: Option<&[u8]>) -> Credential {
        Credential(secret.map(sha256))
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            None => f.write_str("no credential"),
            Some(hash) => write!(f, "credential {}", hex(&hash[..4])),
        }
    }
}

/// What is known of one request's right to one blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The upstream would serve it: it said so lately.
    Granted,
    /// It said so once, too long ago: ask again, and take this for a yes if it cannot be asked.
    GrantedBefore,
    /// Ask.
    Unknown,
}

/// The memory. Bounded: the oldest facts go first.
#[derive(Debug, Default)]
pub struct Grants {
    access: Aging<(Scope, Credential)>,
    /// What was granted in an earlier run, nobody knows when.
    access_before: Aging<(Scope, Credential)>,
    holdings: Aging<(Scope, BlobName)>,
}

impl Grants {
    /// Remembers that the upstream served `name` from `scope` to `credential`.
    pub fn grant(&mut self, now: Time, scope: &Scope, credential: Credential, name: &BlobName) {
        self.grant_access(now, scope, credential);
        self.hold(now, scope, name);
    }

    /// Remembers that the upstream served something of `scope` to `credential`.
    pub fn grant_access(&mut self, now: Time, scope: &Scope, credential: Credential) {
        self.access.put((scope.clone(), credential), now);
    }

    /// Remembers that the upstream once served something of `scope` to `credential`, as what is
    /// kept here tells.
    pub fn grant_access_before(&mut self, now: Time, scope: &Scope, credential: Credential) {
        self.access_before.put((scope.clone(), credential), now);
    }

    /// Remembers that `scope` holds `name`.
    pub fn hold(&mut self, now: Time, scope: &Scope, name: &BlobName) {
        self.holdings.put((scope.clone(), *name), now);
    }

    /// Forgets that `credential` may read `scope`: the upstream has just said no.
    pub fn revoke(&mut self, scope: &Scope, credential: Credential) {
        let key = (scope.clone(), credential);
        self.access.times.remove(&key);
        self.access_before.times.remove(&key);
    }

    /// Whether `credential` may have `name` from `scope`.
    #[must_use]
    pub fn standing(
        &self,
        now: Time,
        scope: &Scope,
        credential: Credential,
        name: &BlobName,
    ) -> Standing {
        if !self.holdings.times.contains_key(&(scope.clone(), *name)) {
            return Standing::Unknown;
        }
        self.access(now, scope, credential)
    }

    /// Whether `credential` may read `scope`.
    #[must_use]
    pub fn access(&self, now: Time, scope: &Scope, credential: Credential) -> Standing {
        // What anybody may read needs no credential.
        let own = self.access.times.get(&(scope.clone(), credential));
        let public = self.access.times.get(&(scope.clone(), Credential(None)));
        let before =
            |credential| self.access_before.times.contains_key(&(scope.clone(), credential));
        match own.max(public) {
            Some(&at) if now.since(at) < limits::GRANT => Standing::Granted,
            Some(_) => Standing::GrantedBefore,
            None if before(credential) || before(Credential(None)) => Standing::GrantedBefore,
            None => Standing::Unknown,
        }
    }
}

/// A bounded set of facts with the time each was learnt.
#[derive(Debug)]
struct Aging<K> {
    times: HashMap<K, Time>,
}

impl<K> Default for Aging<K> {
    fn default() -> Self {
        Aging { times: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash> Aging<K> {
    fn put(&mut self, key: K, now: Time) {
        self.times.insert(key, now);
        if self.times.len() > limits::GRANTS_MAX {
            // The older half goes at once: rare, and cheaper than an order kept on every look.
            let mut ages: Vec<Time> = self.times.values().copied().collect();
            let middle = ages.len() / 2;
            let (_, &mut median, _) = ages.select_nth_unstable(middle);
            self.times.retain(|_, at| *at >= median);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn at(secs: u64) -> Time {
        Time::after_start(Duration::from_secs(secs))
    }

    fn name(digit: char) -> BlobName {
        BlobName::parse(&format!("sha256:{}", digit.to_string().repeat(64))).unwrap()
    }

    fn scope(repository: &str) -> Scope {
        Scope(format!("https://registry/v2/{repository}/blobs/").into())
    }

    #[test]
    fn a_yes_is_good_for_its_time_and_then_only_a_memory() {
        let mut grants = Grants::default();
        let me = Credential::of(Some(b"Bearer me"));
        assert_eq!(grants.standing(at(0), &scope("a"), me, &name('1')), Standing::Unknown);
        grants.grant(at(0), &scope("a"), me, &name('1'));
        assert_eq!(grants.standing(at(299), &scope("a"), me, &name('1')), Standing::Granted);
        assert_eq!(grants.standing(at(300), &scope("a"), me, &name('1')), Standing::GrantedBefore);
        grants.revoke(&scope("a"), me);
        assert_eq!(grants.standing(at(301), &scope("a"), me, &name('1')), Standing::Unknown);
    }

    #[test]
    fn what_an_earlier_run_was_granted_is_no_yes_however_young_the_process() {
        let mut grants = Grants::default();
        let (me, you) = (Credential::of(Some(b"Bearer me")), Credential::of(Some(b"you")));
        grants.grant_access_before(at(0), &scope("a"), me);
        assert_eq!(grants.access(at(0), &scope("a"), me), Standing::GrantedBefore);
        assert_eq!(grants.access(at(0), &scope("a"), you), Standing::Unknown);
        grants.revoke(&scope("a"), me);
        assert_eq!(grants.access(at(0), &scope("a"), me), Standing::Unknown);
    }

    #[test]
    fn one_credential_is_not_another() {
        let mut grants = Grants::default();
        let me = Credential::of(Some(b"Bearer me"));
        grants.grant(at(0), &scope("a"), me, &name('1'));
        for other in [Credential::of(Some(b"Bearer you")), Credential::of(None)] {
            assert_eq!(grants.standing(at(0), &scope("a"), other, &name('1')), Standing::Unknown);
        }
    }

    #[test]
    fn a_cookie_is_a_credential_too() {
        let of = |fields: &[(&'static str, &'static str)]| {
            let mut headers = Headers::new();
            for (name, value) in fields {
                headers.append(name, value);
            }
            Credential::of_request(None, &headers)
        };
        assert!(of(&[("User-Agent", "x")]).is_none());
        assert_eq!(of(&[("Authorization", "me")]), Credential::of(Some(b"me")));
        let mine = of(&[("Cookie", "me")]);
        assert!(!mine.is_none() && mine != of(&[("Cookie", "you")]));
        assert_ne!(mine, of(&[("Cookie", "me"), ("Authorization", "me")]));
    }

    #[test]
    fn a_query_is_a_credential_too() {
        let of = |query| Credential::of_request(query, &Headers::new());
        assert!(of(None).is_none() && !of(Some("key=me")).is_none());
        assert_ne!(of(Some("key=me")), of(Some("key=you")));
    }

    #[test]
    fn what_is_public_is_public_for_all() {
        let mut grants = Grants::default();
        grants.grant(at(0), &scope("a"), Credential::of(None), &name('1'));
        let me = Credential::of(Some(b"Bearer me"));
        assert_eq!(grants.standing(at(0), &scope("a"), me, &name('1')), Standing::Granted);
    }

    #[test]
    fn a_right_to_one_repository_opens_no_blob_of_another() {
        let mut grants = Grants::default();
        let (me, you) = (Credential::of(Some(b"me")), Credential::of(Some(b"you")));
        grants.grant(at(0), &scope("mine"), me, &name('1'));
        grants.grant(at(0), &scope("yours"), you, &name('2'));
        assert_eq!(grants.standing(at(0), &scope("mine"), me, &name('2')), Standing::Unknown);
        assert_eq!(grants.standing(at(0), &scope("yours"), me, &name('2')), Standing::Unknown);
    }

    #[test]
    fn memory_is_bounded_and_keeps_the_newest() {
        let mut grants = Grants::default();
        let me = Credential::of(None);
        for number in 0..=limits::GRANTS_MAX as u64 {
            grants.grant(at(number), &scope(&number.to_string()), me, &name('1'));
        }
        assert!(grants.access.times.len() <= limits::GRANTS_MAX);
        let newest = scope(&limits::GRANTS_MAX.to_string());
        let now = at(limits::GRANTS_MAX as u64);
        assert_eq!(grants.standing(now, &newest, me, &name('1')), Standing::Granted);
    }
}
