//! Floor 3: etcd as this program sees it: blob name to `.torrent`.
//!
//! The key is `/torrents/<name>`, the value the bencoded `.torrent`; beside these, below
//! `/torrent-cache/ostree/`, it is known which blob an object of OSTree is, and below
//! `/torrent-cache/claims/`, who brings a blob from upstream now ([`claim`]). A look-up has the
//! deadline that its caller sets, and costs nothing while etcd is known to be away ([`breaker`]).
//! Publication happens in the background and is tried until it succeeds ([`publish`]). A claim is
//! made while its caller waits, and lasts while it is renewed ([`lease`]); publication does not
//! depend on it.
//!
//! **Invariant:** nothing waits for etcd longer than it said it would.
//!
//! Not here: whether a value is believed. It is input from the network like any other.

pub mod breaker;
pub mod claim;
pub mod etcd;
pub mod lease;
pub mod publish;

use std::fmt;
use std::io;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::{hex, sha256};
use crate::base::ranked::{Rank, Ranked};
use crate::net::tls::Roots;
use crate::proto::blob::BlobName;
use crate::proto::etcd::{
    Compare, EtcdError, Operation, OperationAnswer, Pair, Range, RangeAnswer, Request, TxnAnswer,
};
use crate::proto::http1::Url;

pub use self::claim::Claim;
pub use self::etcd::{CatalogError, CatalogStatus};

use self::breaker::Breaker;
use self::etcd::Client;
use self::lease::Lease;
use self::publish::{Publisher, Task};

/// Where etcd is, and who we are to it.
#[derive(Clone)]
pub struct CatalogConfig {
    /// The client URLs of its members, at least one; their paths are not used.
    pub endpoints: Vec<Url>,
    /// User name and password, if it asks for them.
    pub login: Option<(String, String)>,
    /// Whom to trust, for `https` endpoints.
    pub roots: Roots,
}

impl fmt::Debug for CatalogConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CatalogConfig at {:?}", self.endpoints)
    }
}

/// What the catalog knows of a blob.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its `.torrent`. The bytes may be anything.
    pub torrent: Option<Vec<u8>>,
    /// Who brings it from upstream.
    pub claim: Option<Claim>,
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimed {
    /// It is ours now.
    Ours,
    /// It is somebody else's.
    Others(Claim),
    /// The blob is in the catalog by now.
    Known,
    /// There is neither: the claim that was to be replaced is gone. Only of
    /// [`Catalog::take_over`].
    Gone,
}

/// How often a claim is tried: once more under a new lease, and once in place of a value that is
/// no claim.
const CLAIM_TRIES: u32 = 3;

/// What the network knows of blobs.
pub struct Catalog {
    client: Arc<Client>,
    lookups: Ranked<Breaker>,
    /// Apart from look-ups, which a member answers also when the cluster cannot be written to.
    claims: Ranked<Breaker>,
    /// Apart from those, which have more time.
    first_claims: Ranked<Breaker>,
    lease: Lease,
    publisher: Publisher,
}

/// The key of a blob's `.torrent`.
#[must_use]
pub fn key(name: &BlobName) -> String {
    format!("/torrents/{name}")
}

/// The key under which it is known which blob the object of OSTree at `url` is. It does not tell
/// the URL.
#[must_use]
pub fn object_key(url: &str) -> String {
    format!("/torrent-cache/ostree/{}", hex(&sha256(url.as_bytes())))
}

/// The key of the claim on a blob.
#[must_use]
pub fn claim_key(name: &BlobName) -> String {
    format!("/torrent-cache/claims/{name}")
}

impl Catalog {
    /// A catalog in the etcd of `config`, which need not be there yet.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(config: CatalogConfig) -> io::Result<Catalog> {
        let client = Arc::new(Client::new(config));
        let publisher = Publisher::start(Arc::clone(&client))?;
        let breaker = || Ranked::new(Rank::Remote, Breaker::new());
        let (lookups, claims, first_claims) = (breaker(), breaker(), breaker());
        Ok(Catalog { client, lookups, claims, first_claims, lease: Lease::new(), publisher })
    }

    /// What is known of a blob, in one call. A claim that cannot be read is none.
    ///
    /// A member answers from what it has, without asking the others (a serializable read): it works
    /// when the cluster has lost its quorum, and a blob published a moment ago is at worst fetched
    /// once more.
    ///
    /// # Errors
    /// If etcd does not answer before `deadline`, or lately did not.
    pub fn lookup(&self, name: &BlobName, deadline: Time) -> Result<Entry, CatalogError> {
        let keys = [key(name), claim_key(name)];
        let reads = keys.each_ref().map(|key| {
            Operation::Range(Range { serializable: true, ..Range::of_key(key.as_bytes()) })
        });
        let request = Request::Txn { compare: &[], success: &reads, failure: &[] };
        let read = || {
            let answer = TxnAnswer::decode(&self.client.call(&request, deadline)?)?;
            let (torrent, claim) = two_pairs(answer)?;
            let claim = claim.and_then(|pair| Claim::decode(&pair.value));
            Ok(Entry { torrent: torrent.map(|pair| pair.value), claim })
        };
        self.look(read, |entry| entry.torrent.is_some())
    }

    /// What is known of the object of OSTree at `url`. The bytes may be anything.
    ///
    /// # Errors
    /// As [`Catalog::lookup`].
    pub fn lookup_object(
        &self,
        url: &str,
        deadline: Time,
    ) -> Result<Option<Vec<u8>>, CatalogError> {
        self.value(&object_key(url), deadline)
    }

    fn value(&self, key: &str, deadline: Time) -> Result<Option<Vec<u8>>, CatalogError> {
        let range = Range { serializable: true, ..Range::of_key(key.as_bytes()) };
        let read = || {
            let body = self.client.call(&Request::Single(Operation::Range(range)), deadline)?;
            Ok(RangeAnswer::decode(&body)?.pairs.into_iter().next().map(|pair| pair.value))
        };
        self.look(read, Option::is_some)
    }

    fn look<T>(
        &self,
        read: impl FnOnce() -> Result<T, CatalogError>,
        is_hit: impl FnOnce(&T) -> bool,
    ) -> Result<T, CatalogError> {
        let found = past(&self.lookups, read)?;
        let outcome = if is_hit(&found) { &figures::CATALOG_HIT } else { &figures::CATALOG_MISS };
        outcome.add(1);
        Ok(found)
    }

    /// Whether there is an entry for a blob, whatever its value. For who has time: it is asked also
    /// when etcd was away lately, and counts as nobody's look-up.
    ///
    /// # Errors
    /// If etcd does not answer before `deadline`.
    pub fn knows(&self, name: &BlobName, deadline: Time) -> Result<bool, CatalogError> {
        self.has(&key(name), deadline)
    }

    /// Whether anything is known of the object of OSTree at `url`, asked as [`Catalog::knows`] is.
    ///
    /// # Errors
    /// As [`Catalog::knows`].
    pub fn knows_object(&self, url: &str, deadline: Time) -> Result<bool, CatalogError> {
        self.has(&object_key(url), deadline)
    }

    fn has(&self, key: &str, deadline: Time) -> Result<bool, CatalogError> {
        let range = Range { serializable: true, keys_only: true, ..Range::of_key(key.as_bytes()) };
        let answer = self.client.call(&Request::Single(Operation::Range(range)), deadline)?;
        Ok(!RangeAnswer::decode(&answer)?.pairs.is_empty())
    }

    /// Stores the `.torrent` of a blob, in the background. A value that differs is replaced: the
    /// metainfo of a blob follows from its bytes, so another one is wrong.
    pub fn publish(&self, name: &BlobName, torrent: Vec<u8>) {
        self.publisher.push(Task::Publish { key: key(name), value: torrent });
    }

    /// Deletes the entry of a blob if its value is still `torrent`, in the background.
    pub fn withdraw(&self, name: &BlobName, torrent: Vec<u8>) {
        self.publisher.push(Task::Withdraw { key: key(name), value: torrent });
    }

    /// Says that `claim` brings a blob, if nobody else does and the catalog does not know it. It
    /// lasts for [`crate::limits::CLAIM_TTL`], or while [`Catalog::renew`] is called. May be
    /// repeated.
    ///
    /// # Errors
    /// If etcd does not answer before `deadline`, or lately did not, or refuses.
    pub fn claim(
        &self,
        name: &BlobName,
        claim: &Claim,
        deadline: Time,
    ) -> Result<Claimed, CatalogError> {
        self.put_or_release(&self.claims, name, None, claim, deadline)
    }

    /// As [`Catalog::claim`], for who waits for it and has little time: that this was not enough
    /// keeps nobody else from claiming.
    ///
    /// # Errors
    /// As [`Catalog::claim`].
    pub fn claim_first(
        &self,
        name: &BlobName,
        claim: &Claim,
        deadline: Time,
    ) -> Result<Claimed, CatalogError> {
        self.put_or_release(&self.first_claims, name, None, claim, deadline)
    }

    /// Puts the claim `to` in the place of `from`, if that is still there and the catalog does not
    /// know the blob: who held it is gone. Otherwise as [`Catalog::claim`].
    ///
    /// # Errors
    /// As [`Catalog::claim`].
    pub fn take_over(
        &self,
        name: &BlobName,
        from: &Claim,
        to: &Claim,
        deadline: Time,
    ) -> Result<Claimed, CatalogError> {
        self.put_or_release(&self.claims, name, Some(from), to, deadline)
    }

    /// Deletes a claim if it is still this one, in the background. One for which there is no room
    /// there goes when the lease does.
    pub fn release(&self, name: &BlobName, claim: &Claim) {
        let value = claim.encode().into_bytes();
        self.publisher.push(Task::Withdraw { key: claim_key(name), value });
    }

    /// Keeps the claims of this process, all together. For who holds one, as often as they like:
    /// nothing is done if it was less than [`crate::limits::CLAIM_RENEW`] ago. Where it fails they
    /// end, and others may claim the same.
    pub fn renew(&self, deadline: Time) {
        let now = Time::now();
        let Some(id) = self.lease.due(now) else { return };
        match past(&self.claims, || self.lease.keep_alive(&self.client, id, now, deadline)) {
            Ok(true) => {}
            Ok(false) => log::debug!("the claims of this host are gone"),
            Err(_) => self.lease.not_renewed(id),
        }
    }

    fn put_or_release(
        &self,
        breaker: &Ranked<Breaker>,
        name: &BlobName,
        from: Option<&Claim>,
        to: &Claim,
        deadline: Time,
    ) -> Result<Claimed, CatalogError> {
        let outcome = past(breaker, || self.put_claim(name, from, to, deadline));
        // It may have been done all the same: then others would wait for us.
        if !matches!(outcome, Ok(_) | Err(CatalogError::Away)) {
            self.release(name, to);
        }
        outcome
    }

    fn put_claim(
        &self,
        name: &BlobName,
        from: Option<&Claim>,
        to: &Claim,
        deadline: Time,
    ) -> Result<Claimed, CatalogError> {
        let (torrent_key, key) = (key(name), claim_key(name));
        let (torrent_key, key) = (torrent_key.as_bytes(), key.as_bytes());
        let (old, new) = (from.map(Claim::encode), to.encode());
        let mut there = match &old {
            None => Compare::Absent { key },
            Some(old) => Compare::Value { key, value: old.as_bytes() },
        };
        let mut error = CatalogError::Malformed(EtcdError::Field("responses"));
        for _ in 0..CLAIM_TRIES {
            let lease = self.lease.id(&self.client, Time::now(), deadline)?;
            let torrent = Range { keys_only: true, ..Range::of_key(torrent_key) };
            let request = Request::Txn {
                compare: &[Compare::Absent { key: torrent_key }, there],
                success: &[Operation::Put { key, value: new.as_bytes(), lease: Some(lease) }],
                failure: &[Operation::Range(torrent), Operation::Range(Range::of_key(key))],
            };
            let answer = match self.client.call(&request, deadline) {
                Ok(body) => TxnAnswer::decode(&body)?,
                Err(gone) if gone.is_no_lease() => {
                    self.lease.lost(lease);
                    error = gone;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if answer.succeeded {
                return Ok(Claimed::Ours);
            }
            let (torrent, claim) = two_pairs(answer)?;
            if torrent.is_some() {
                return Ok(Claimed::Known);
            }
            match claim.as_ref().and_then(|pair| Claim::decode(&pair.value)) {
                // A call that was repeated.
                Some(claim) if claim == *to => return Ok(Claimed::Ours),
                Some(claim) => return Ok(Claimed::Others(claim)),
                None if from.is_some() => return Ok(Claimed::Gone),
                None => {}
            }
            there = match claim {
                Some(pair) => Compare::ModRevision { key, revision: pair.mod_revision },
                None => Compare::Absent { key },
            };
        }
        Err(error)
    }

    /// Stores which blob the object of OSTree at `url` is, in the background.
    pub fn publish_object(&self, url: &str, value: String) {
        self.publisher.push(Task::Publish { key: object_key(url), value: value.into_bytes() });
    }

    /// Deletes what is known of an object, if it is still `value`, in the background.
    pub fn withdraw_object(&self, url: &str, value: String) {
        self.publisher.push(Task::Withdraw { key: object_key(url), value: value.into_bytes() });
    }

    /// How it stands with etcd.
    #[must_use]
    pub fn status(&self) -> CatalogStatus {
        self.client.status()
    }

    /// Ends the background work; what was not published yet is published after the next start.
    pub fn stop(&self) {
        self.publisher.stop();
        self.client.stop();
    }
}

/// Makes a call unless `breaker` knows better, and tells it what became of it.
fn past<T>(
    breaker: &Ranked<Breaker>,
    call: impl FnOnce() -> Result<T, CatalogError>,
) -> Result<T, CatalogError> {
    if !breaker.lock().admits(Time::now()) {
        return Err(CatalogError::Away);
    }
    let answer = call();
    match &answer {
        Ok(_) => breaker.lock().succeeded(),
        Err(error) => {
            breaker.lock().failed(Time::now());
            figures::CATALOG_FAILED.add(1);
            if matches!(error, CatalogError::Refused(_)) {
                // Who does not answer is logged by the client; this one does.
                crate::log_limited!(warn, "a pull goes on without the catalog: {error}");
            }
        }
    }
    answer
}

/// What a transaction read that reads two keys.
fn two_pairs(answer: TxnAnswer) -> Result<(Option<Pair>, Option<Pair>), CatalogError> {
    let mut ranges = answer.answers.into_iter().map(|answer| match answer {
        OperationAnswer::Range(range) => Some(range.pairs.into_iter().next()),
        OperationAnswer::Put | OperationAnswer::Delete(_) => None,
    });
    match (ranges.next().flatten(), ranges.next().flatten(), ranges.next()) {
        (Some(first), Some(second), None) => Ok((first, second)),
        _ => Err(CatalogError::Malformed(EtcdError::Field("responses"))),
    }
}
