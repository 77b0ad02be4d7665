//! Floor 3: etcd as this program sees it: blob name to `.torrent`.
//!
//! The key is `/torrents/<name>`, the value the bencoded `.torrent`; beside these, below
//! `/torrent-cache/ostree/`, it is known which blob an object of OSTree is. A look-up has the
//! deadline that its caller sets, and costs nothing while etcd is known to be away ([`breaker`]).
//! Publication happens in the background and is tried until it succeeds ([`publish`]).
//!
//! **Invariant:** nothing waits for etcd longer than it said it would.
//!
//! Not here: whether a value is believed. It is input from the network like any other.

pub mod breaker;
pub mod etcd;
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
use crate::proto::etcd::{Operation, Range, RangeAnswer, Request};
use crate::proto::http1::Url;

pub use self::etcd::CatalogError;

use self::breaker::Breaker;
use self::etcd::Client;
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

/// What the network knows of blobs.
pub struct Catalog {
    client: Arc<Client>,
    lookups: Ranked<Breaker>,
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

impl Catalog {
    /// A catalog in the etcd of `config`, which need not be there yet.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(config: CatalogConfig) -> io::Result<Catalog> {
        let client = Arc::new(Client::new(config));
        let publisher = Publisher::start(Arc::clone(&client))?;
        Ok(Catalog { client, lookups: Ranked::new(Rank::Remote, Breaker::new()), publisher })
    }

    /// The `.torrent` of a blob; `None`: the catalog does not know it. The bytes may be anything.
    ///
    /// A member answers from what it has, without asking the others (a serializable read): it works
    /// when the cluster has lost its quorum, and a blob published a moment ago is at worst fetched
    /// once more.
    ///
    /// # Errors
    /// If etcd does not answer before `deadline`, or lately did not.
    pub fn lookup(&self, name: &BlobName, deadline: Time) -> Result<Option<Vec<u8>>, CatalogError> {
        self.value(&key(name), deadline)
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
        if !self.lookups.lock().admits(Time::now()) {
            return Err(CatalogError::Away);
        }
        let range = Range { serializable: true, ..Range::of_key(key.as_bytes()) };
        let answer = self.client.call(&Request::Single(Operation::Range(range)), deadline);
        let answer = answer.and_then(|body| Ok(RangeAnswer::decode(&body)?));
        let mut lookups = self.lookups.lock();
        match &answer {
            Ok(_) => lookups.succeeded(),
            Err(_) => lookups.failed(Time::now()),
        }
        drop(lookups);
        let value = answer.map(|answer| answer.pairs.into_iter().next().map(|pair| pair.value));
        match &value {
            Ok(Some(_)) => figures::CATALOG_HIT.add(1),
            Ok(None) => figures::CATALOG_MISS.add(1),
            Err(_) => figures::CATALOG_FAILED.add(1),
        }
        value
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

    /// Stores which blob the object of OSTree at `url` is, in the background.
    pub fn publish_object(&self, url: &str, value: String) {
        self.publisher.push(Task::Publish { key: object_key(url), value: value.into_bytes() });
    }

    /// Deletes what is known of an object, if it is still `value`, in the background.
    pub fn withdraw_object(&self, url: &str, value: String) {
        self.publisher.push(Task::Withdraw { key: object_key(url), value: value.into_bytes() });
    }

    /// Whether the latest call was answered; true before the first.
    #[must_use]
    pub fn is_reachable(&self) -> bool {
        self.client.is_reachable()
    }

    /// Ends the background work; what was not published yet is published after the next start.
    pub fn stop(&self) {
        self.publisher.stop();
        self.client.stop();
    }
}
