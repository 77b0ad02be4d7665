//! A blob that nobody has yet and several hosts ask for: one of them brings it from upstream, and
//! the others get each piece from it, and from each other, as soon as it is there.
//!
//! Who has the upstream's answer first claims the blob in the catalog ([`Claim`]), and shares what
//! it gets in the early swarm that the claim names. Who finds the claim of another joins that
//! swarm, as it joins that of a blob that the catalog knows. If no byte comes in time, it takes the
//! claim over and brings the rest itself; of several, one does, and the others wait for it.
//!
//! **Invariant:** a claim is a hint. Without etcd, or whatever it says, a blob comes from upstream
//! after a bounded wait, and is held against its digest as always.

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::mailbox;
use crate::base::rng::Rng;
use crate::base::thread::{self, Role};
use crate::catalog::{Claim, Claimed};
use crate::engine::Membership;
use crate::fetch::Fetcher;
use crate::fetch::job::{Conductor, Event};
use crate::fetch::pieces;
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::geometry::{Geometry, Span};
use crate::store::Partial;

/// A job's part in the early swarm of its blob.
pub(super) struct EarlySwarm {
    pub(super) claim: Claim,
    pub(super) standing: Standing,
    /// Since when the present leader is waited for.
    pub(super) since: Time,
    /// How many leaders were waited for before.
    waits: u32,
}

/// Who brings the blob from upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// We do, and the claim is ours.
    Leader,
    /// We do, though the claim is another's: it was waited for long enough.
    Alone,
    /// Another host does.
    Follower,
}

impl EarlySwarm {
    pub(super) fn new(claim: Claim, standing: Standing) -> EarlySwarm {
        EarlySwarm { claim, standing, since: Time::now(), waits: 0 }
    }
}

/// What became of following others, lately. Who reaches none of them goes alone, and tries again
/// now and then.
#[derive(Debug)]
pub(super) struct Followed {
    /// In a row, of which nothing came.
    in_vain: u32,
    /// Until when nobody is followed.
    alone_until: Time,
}

impl Default for Followed {
    fn default() -> Followed {
        Followed { in_vain: 0, alone_until: Time::ZERO }
    }
}

impl Followed {
    fn may_follow(&self, now: Time) -> bool {
        self.alone_until <= now
    }

    /// Something came of it.
    pub(super) fn worked(&mut self) {
        self.in_vain = 0;
    }

    /// Nothing did. Of several at the same time one counts.
    fn was_in_vain(&mut self, now: Time) {
        if self.may_follow(now) {
            let pause = limits::EARLY_PAUSE_MIN.saturating_mul(1 << self.in_vain.min(16));
            self.in_vain += 1;
            self.alone_until = now + pause.min(limits::EARLY_PAUSE_MAX);
        }
    }
}

impl Fetcher {
    /// Joins the early swarm of `claim`. `None`: there is no such blob, or the engine has stopped.
    pub(super) fn join_early(
        &self,
        name: &BlobName,
        claim: &Claim,
        partial: &Arc<Partial>,
    ) -> Option<Arc<Membership>> {
        let geometry = Geometry::for_blob(claim.blob_len).ok()?;
        let joined = self.engine().join_early(claim.swarm, name, geometry, Arc::clone(partial));
        joined.ok().map(Arc::new)
    }

    /// Whether claims of others are followed.
    pub(super) fn follows_claims(&self) -> bool {
        self.followed.lock().may_follow(Time::now())
    }

    /// Passes over early swarms of a blob of which one led to wrong bytes, or to none.
    pub(super) fn distrust_early(&self, name: &BlobName) {
        self.pass_over_swarm(name, EARLY);
    }

    pub(super) fn is_early_distrusted(&self, name: &BlobName) -> bool {
        self.is_passed_over(name, EARLY)
    }
}

/// What became of a claim that was made before the upstream is asked.
pub(super) enum First {
    /// This host is to ask.
    Ours(FirstClaim),
    /// Another host is at it.
    Others(Claim),
    /// Some host has the blob by now.
    Known,
}

/// A claim of ours whose blob the upstream is still asked for, and our part in its early swarm, so
/// that others find us before the first byte is here. All is given up when this is dropped.
pub(super) struct FirstClaim {
    fetcher: Arc<Fetcher>,
    pub(super) claim: Claim,
    pub(super) partial: Arc<Partial>,
    pub(super) membership: Arc<Membership>,
    is_kept: bool,
}

impl FirstClaim {
    /// A job holds it from now on.
    pub(super) fn keep(mut self) {
        self.is_kept = true;
    }
}

impl Drop for FirstClaim {
    fn drop(&mut self) {
        if !self.is_kept {
            self.fetcher.catalog().release(&self.partial.name(), &self.claim);
            self.fetcher.store().discard(&self.partial);
        }
    }
}

impl Fetcher {
    /// Claims a blob of which the catalog knew nothing a moment ago, before the upstream is asked
    /// for it. `None`: it cannot be claimed, or not be kept.
    pub(super) fn claim_first(self: &Arc<Self>, name: &BlobName, len: u64) -> Option<First> {
        Geometry::for_blob(len).ok()?;
        let claim = new_claim(len);
        let deadline = Time::now() + limits::CATALOG_LOOKUP;
        match self.catalog().claim_first(name, &claim, deadline).ok()? {
            Claimed::Ours => self.begin_claimed(name, claim).map(First::Ours),
            Claimed::Others(claim) => Some(First::Others(claim)),
            Claimed::Known => Some(First::Known),
            Claimed::Gone => None,
        }
    }

    fn begin_claimed(self: &Arc<Self>, name: &BlobName, claim: Claim) -> Option<FirstClaim> {
        let begun = self.begin(name, Some(claim.blob_len));
        let joined = begun.and_then(|partial| {
            let membership = self.join_early(name, &claim, &partial)?;
            Some((partial, membership))
        });
        let Some((partial, membership)) = joined else {
            self.catalog().release(name, &claim);
            return None;
        };
        // Who brings it takes none of it from others.
        while membership.claim(0, u64::MAX, true).is_some() {}
        figures::CLAIMS_OURS.add(1);
        log::debug!("blob {name}: an early swarm, the upstream is asked");
        let fetcher = Arc::clone(self);
        Some(FirstClaim { fetcher, claim, partial, membership, is_kept: false })
    }
}

/// Stands for all early swarms of a blob among those that are passed over.
const EARLY: Sha1Hash = Sha1Hash([0; 20]);

impl Conductor {
    /// Has the blob claimed that begins to come from upstream. The bytes do not wait for it.
    pub(super) fn claim_blob(&mut self) {
        let Some(blob_len) = self.partial.len().filter(|len| *len >= limits::CLAIM_LEN_MIN) else {
            return;
        };
        let name = self.job.name();
        if self.fetcher.is_early_distrusted(&name) {
            return;
        }
        let (answers, answer) = mailbox(1);
        let (fetcher, events) = (Arc::clone(&self.fetcher), self.job.events());
        let claim = move || {
            let ours = new_claim(blob_len);
            // Two writes, each of which etcd syncs to its disk.
            let deadline = Time::now() + limits::CATALOG_CALL;
            let claimed = fetcher.catalog().claim(&name, &ours, deadline);
            let _ = answers.try_send(match claimed {
                Ok(Claimed::Ours) => Some((ours, Standing::Leader)),
                Ok(Claimed::Others(claim)) => Some((claim, Standing::Follower)),
                Ok(Claimed::Known | Claimed::Gone) | Err(_) => None,
            });
            let _ = events.try_send(Event::Claimed);
        };
        if let Ok(handle) = thread::spawn(format!("claim {}", name.short()), Role::Core, claim) {
            self.fetcher.keep(handle);
            self.claiming = Some(answer);
        }
    }

    /// Takes what became of the claim. If another host was first, the stream is left, and the rest
    /// comes from there.
    pub(super) fn claimed(&mut self) {
        let answer = self.claiming.take().and_then(|answer| answer.recv().ok()).flatten();
        if let Some((claim, standing)) = answer
            && (standing == Standing::Leader || self.fetcher.follows_claims())
            && Some(claim.blob_len) == self.partial.len()
        {
            self.take_part(claim, standing);
        }
    }

    /// Takes part in the early swarm of `claim`.
    fn take_part(&mut self, claim: Claim, standing: Standing) {
        let name = self.job.name();
        let membership = self.fetcher.join_early(&name, &claim, &self.partial);
        self.early = Some(EarlySwarm::new(claim, standing));
        let Some(membership) = membership else { return };
        log::debug!("blob {name}: an early swarm, we are its {standing:?}");
        match standing {
            Standing::Follower => {
                figures::CLAIMS_OTHERS.add(1);
                self.leave_fill();
            }
            Standing::Leader | Standing::Alone => figures::CLAIMS_OURS.add(1),
        }
        if self.job.layout().is_some() {
            self.tell_as_they_come(Arc::clone(&membership));
        }
        self.enter(membership);
        self.ask_nobody();
    }

    /// Tells the early swarm of a delta the hash of each piece as soon as it is readable: clients
    /// ask for parts in no order, and a part is known to be right only when all of it is there.
    fn tell_as_they_come(&self, membership: Arc<Membership>) {
        let (fetcher, partial) = (Arc::clone(&self.fetcher), Arc::clone(&self.partial));
        let tell = move || {
            thread::give_way(limits::BACKGROUND_NICE);
            let tell = |piece, hash| membership.hashed(piece, hash);
            if let Err(error) = pieces::each(&partial, &|| fetcher.is_stopping(), &tell) {
                crate::log_limited!(warn, "{}: not shared further: {error}", partial.name());
            }
        };
        let name = format!("tell {}", self.job.name().short());
        if let Ok(handle) = thread::spawn(name, Role::Core, tell) {
            self.fetcher.keep(handle);
        }
    }

    /// Something that was told was wrong: goes on without the swarm.
    pub(super) fn leave_early(&mut self) {
        if self.early.is_none() {
            return;
        }
        self.release_claim();
        self.fetcher.distrust_early(&self.job.name());
        self.early = None;
        // Kept for what came of it.
        if let Some(membership) = &self.membership {
            membership.leave();
        }
        self.job.now_leads();
    }

    /// Whether this host brings the blob from upstream as if there were no swarm.
    pub(super) fn leads(&self) -> bool {
        self.early.as_ref().is_none_or(|early| early.standing != Standing::Follower)
    }

    /// While this host brings the blob from upstream, it takes no piece from others, who could only
    /// have it if they had it from here, or lied.
    pub(super) fn ask_nobody(&self) {
        if let (Some(_), true, true) = (&self.early, self.leads(), self.fill.is_some())
            && let Some(membership) = &self.membership
        {
            while membership.claim(0, u64::MAX, true).is_some() {}
        }
    }

    /// The upstream failed: others may have more by now.
    pub(super) fn ask_again(&self) {
        if let (Some(_), Some(membership)) = (&self.early, &self.membership) {
            membership.release(Span { offset: 0, len: self.partial.len().unwrap_or(0) });
        }
    }

    /// The leader is too slow, or gone: takes its place, unless another follower just did.
    pub(super) fn take_over(&mut self) {
        let name = self.job.name();
        let Some(early) = &mut self.early else { return };
        let ours = Claim { holder: Rng::from_os().next_u64(), ..early.claim };
        let deadline = Time::now() + limits::CATALOG_LOOKUP;
        let taken = self.fetcher.catalog().take_over(&name, &early.claim, &ours, deadline);
        // Who gave its claim up was there, and may have been refused.
        let was_there = matches!(taken, Ok(Claimed::Gone));
        match taken {
            Ok(Claimed::Ours) => {
                figures::CLAIMS_TAKEN_OVER.add(1);
                early.claim = ours;
                early.standing = Standing::Leader;
            }
            Ok(Claimed::Others(claim))
                if claim.swarm == early.claim.swarm && early.waits < limits::LEADERS_AWAITED =>
            {
                early.claim = claim;
                early.waits += 1;
                early.since = Time::now();
            }
            _ => early.standing = Standing::Alone,
        }
        if early.standing != Standing::Follower {
            self.job.now_leads();
            if !was_there && !self.has_bytes_of_peers() {
                self.fetcher.followed.lock().was_in_vain(Time::now());
            }
            log::info!("blob {name}: its host is silent, the rest comes from upstream");
        }
    }

    /// How long no byte may come from the early swarm, in which we have so many links.
    pub(super) fn patience(&self, links: usize) -> Duration {
        let geometry = self.partial.len().and_then(|len| Geometry::for_blob(len).ok());
        let piece_len = geometry.map_or(0, |geometry| u64::from(geometry.piece_len()));
        let piece = Duration::from_millis(piece_len * 1000 / limits::EARLY_PIECE_RATE);
        limits::EARLY_PATIENCE + if links > 0 { piece } else { Duration::ZERO }
    }

    /// Tells the catalog that the claim still stands, if it is ours; and when to do so again.
    pub(super) fn renew_claim(&self, now: Time) -> Option<Time> {
        let early = self.early.as_ref().filter(|early| early.standing == Standing::Leader)?;
        debug_assert_eq!(Some(early.claim.blob_len), self.partial.len());
        self.fetcher.catalog().renew(now + limits::CATALOG_LOOKUP);
        Some(now + limits::CLAIM_RENEW)
    }

    /// Gives the claim up, if it is ours.
    pub(super) fn release_claim(&self) {
        if let Some(early) = &self.early
            && early.standing == Standing::Leader
        {
            self.fetcher.catalog().release(&self.job.name(), &early.claim);
        }
    }
}

fn new_claim(blob_len: u64) -> Claim {
    let mut rng = Rng::from_os();
    let mut swarm = [0; 20];
    rng.fill(&mut swarm);
    Claim { swarm: Sha1Hash(swarm), blob_len, holder: rng.next_u64() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_follows_in_vain_goes_alone_ever_longer() {
        let at = |seconds| Time::after_start(Duration::from_secs(seconds));
        let mut followed = Followed::default();
        assert!(followed.may_follow(at(0)));
        let mut now = at(100);
        for pause in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            followed.was_in_vain(now);
            followed.was_in_vain(now);
            assert!(!followed.may_follow(now + Duration::from_secs(pause - 1)), "{pause}");
            now = now + Duration::from_secs(pause);
            assert!(followed.may_follow(now), "{pause}");
        }
        followed.worked();
        followed.was_in_vain(now);
        assert!(followed.may_follow(now + Duration::from_secs(2)), "it starts anew");
    }
}
