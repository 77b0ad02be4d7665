//! The superblock of a delta, from the upstream into memory. Faults that pass are healed here:
//! libostree would not try again.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::sha256;
use crate::base::mailbox::{Nothing, mailbox};
use crate::base::thread::{self, Role};
use crate::fetch::fill::Gauge;
use crate::fetch::room::{Loaded, Share};
use crate::fetch::{FetchError, Fetcher};
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::ostree::Checksum;
use crate::proto::ostree::delta::Superblock;
use crate::upstream::{Body, Origin, UpstreamError};

impl Fetcher {
    /// Fetches the superblock at `origin`. `wanted`: the delta that it should be of; what has
    /// another name, or is no superblock, is asked for a second time before it is believed.
    ///
    /// # Errors
    /// The upstream's; [`FetchError::NoDelta`] if it is longer than
    /// [`limits::SUPERBLOCK_LEN_MAX`], or others take all the memory that there is for superblocks.
    pub(super) fn fetch_superblock(
        &self,
        origin: &Origin,
        wanted: Option<&BlobName>,
    ) -> Result<Arc<Loaded>, FetchError> {
        let bytes = self.whole_superblock(origin)?;
        let is_right = match wanted {
            Some(name) => BlobName::Delta(Checksum(sha256(&bytes))) == *name,
            None => Superblock::decode(&bytes).is_ok(),
        };
        if is_right {
            return Ok(Arc::new(bytes));
        }
        let first = sha256(&bytes);
        drop(bytes);
        let again = self.whole_superblock(origin)?;
        if sha256(&again) != first {
            figures::MISMATCHES_UPSTREAM.add(1);
            crate::log_limited!(warn, "{}: two answers, two superblocks", origin.url);
        }
        Ok(Arc::new(again))
    }

    fn whole_superblock(&self, origin: &Origin) -> Result<Loaded, FetchError> {
        let mut tries = 1;
        loop {
            let is_last = tries == limits::SUPERBLOCK_TRIES_MAX;
            let patience = if is_last { limits::UPSTREAM_READ } else { limits::FILL_STALLED };
            match self.try_superblock(origin, patience) {
                Ok(Some(bytes)) => return Ok(bytes),
                Ok(None) => return Err(FetchError::NoDelta),
                Err(error) if is_last || !is_passing(&error) => {
                    return Err(FetchError::Upstream(error));
                }
                Err(error) => crate::log_limited!(warn, "{}: {error}", origin.url),
            }
            if self.stop.wait_for(Duration::from_millis(100) * tries) {
                return Err(FetchError::Local("the program stops".into()));
            }
            tries += 1;
        }
    }

    /// Tries once, on a thread of its own: one that stalls is left behind. `None`: it is too long.
    fn try_superblock(
        &self,
        origin: &Origin,
        patience: Duration,
    ) -> Result<Option<Loaded>, UpstreamError> {
        let gauge = Arc::new(Gauge::new(Time::now()));
        let (sender, answers) = mailbox(1);
        let (upstream, origin, counting) = (self.upstream(), origin.clone(), Arc::clone(&gauge));
        let share = self.loading.share();
        let spawned = thread::spawn("superblock", Role::Connection, move || {
            let body = upstream.blob(&origin, 0, None);
            let _ = sender.send(body.and_then(|body| read_whole(body, share, &counting)));
        });
        self.keep(spawned.map_err(UpstreamError::Io)?);
        loop {
            match answers.recv_until(gauge.last_byte_at() + patience) {
                Ok(bytes) => return bytes,
                Err(Nothing::Closed) => return Err(UpstreamError::Stopped),
                Err(Nothing::Yet) if Time::now() < gauge.last_byte_at() + patience => {}
                Err(Nothing::Yet) => {
                    gauge.leave();
                    return Err(UpstreamError::TimedOut);
                }
            }
        }
    }
}

/// Reads a response to its end into memory. `None`: it is longer than
/// [`limits::SUPERBLOCK_LEN_MAX`], or there is no room for it.
fn read_whole(
    mut body: Body,
    mut share: Share,
    gauge: &Gauge,
) -> Result<Option<Loaded>, UpstreamError> {
    if body.total.is_some_and(|total| total > limits::SUPERBLOCK_LEN_MAX) {
        return Ok(None);
    }
    // What is declared may never come.
    let declared = usize::try_from(body.total.unwrap_or(0)).unwrap_or(0);
    let mut bytes = Vec::with_capacity(declared.min(limits::COPY_LEN));
    let mut buf = vec![0; limits::COPY_LEN];
    loop {
        let len = body.read(&mut buf)?;
        if len == 0 {
            return Ok(Some(Loaded::new(bytes, share)));
        }
        if !gauge.goes_on(len) {
            return Err(UpstreamError::TimedOut);
        }
        if (bytes.len() + len) as u64 > limits::SUPERBLOCK_LEN_MAX {
            return Ok(None);
        }
        if !share.grow(len as u64) {
            crate::log_limited!(warn, "a superblock is relayed: others take all the memory");
            return Ok(None);
        }
        bytes.extend_from_slice(buf.get(..len).unwrap_or_default());
    }
}

/// Whether it may go better the next time.
fn is_passing(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Status(answer) => matches!(answer.status, 408 | 425 | 429 | 500..=599),
        UpstreamError::Io(error) => error.kind() != io::ErrorKind::ConnectionRefused,
        UpstreamError::TimedOut | UpstreamError::WrongLength | UpstreamError::WrongRange => true,
        _ => false,
    }
}
