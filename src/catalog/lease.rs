//! The lease under which the claims of this process lie. It is granted when it is needed, lives
//! while somebody has it renewed, and takes the claims along when it ends.
//!
//! **Invariant:** the lock is not held over a call. Of two that grant at once one is used; the
//! other lease ends with nothing under it.

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked};
use crate::catalog::etcd::{CatalogError, Client};
use crate::limits;
use crate::proto::etcd::{LeaseAnswer, LeaseId, Refusal, Request};

/// One lease at a time, or none.
#[derive(Debug)]
pub struct Lease {
    held: Ranked<Option<Held>>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    id: LeaseId,
    /// It lives for [`limits::CLAIM_TTL`] from here, at least: the call that said so began here.
    alive_from: Time,
    /// When it was last begun to renew it.
    asked: Time,
}

impl Default for Lease {
    fn default() -> Self {
        Lease::new()
    }
}

impl Lease {
    /// None yet.
    #[must_use]
    pub const fn new() -> Lease {
        Lease { held: Ranked::new(Rank::Leaf, None) }
    }

    /// A lease that lives long enough for its holder to come round to renewing it: the one that is
    /// there, after a keep-alive if it is older, or a new one.
    ///
    /// # Errors
    /// If etcd does not answer before `deadline`, or refuses.
    pub fn id(&self, client: &Client, now: Time, deadline: Time) -> Result<LeaseId, CatalogError> {
        let held = *self.held.lock();
        if let Some(held) = held {
            let age = now.since(held.alive_from);
            if age <= limits::CLAIM_TTL / 2 {
                return Ok(held.id);
            }
            if age < limits::CLAIM_TTL && self.keep_alive(client, held.id, now, deadline)? {
                return Ok(held.id);
            }
            self.lost(held.id);
        }
        self.grant(client, now, deadline)
    }

    /// The lease if it is to be renewed now: the last time is [`limits::CLAIM_RENEW`] ago. Who gets
    /// it does so, others need not meanwhile.
    #[must_use]
    pub fn due(&self, now: Time) -> Option<LeaseId> {
        let mut held = self.held.lock();
        let due = held.as_mut().filter(|held| now.since(held.asked) >= limits::CLAIM_RENEW)?;
        due.asked = now;
        Some(due.id)
    }

    /// It was not renewed: it is due again.
    pub fn not_renewed(&self, id: LeaseId) {
        if let Some(held) = self.held.lock().as_mut().filter(|held| held.id == id) {
            held.asked = held.alive_from;
        }
    }

    /// Renews a lease. False: there is no such lease any more.
    ///
    /// # Errors
    /// If etcd does not answer before `deadline`, or refuses.
    pub fn keep_alive(
        &self,
        client: &Client,
        id: LeaseId,
        now: Time,
        deadline: Time,
    ) -> Result<bool, CatalogError> {
        let body = client.call(&Request::LeaseKeepAlive(id), deadline)?;
        if let Some(refusal) = Refusal::in_stream(&body) {
            return Err(CatalogError::Refused(refusal));
        }
        let is_alive = LeaseAnswer::decode(&body)?.ttl_s > 0;
        if is_alive {
            if let Some(held) = self.held.lock().as_mut().filter(|held| held.id == id) {
                held.alive_from = held.alive_from.max(now);
                held.asked = held.asked.max(now);
            }
        } else {
            self.lost(id);
        }
        Ok(is_alive)
    }

    /// There is no such lease any more: the next is a new one.
    pub fn lost(&self, id: LeaseId) {
        let mut held = self.held.lock();
        if held.is_some_and(|held| held.id == id) {
            *held = None;
        }
    }

    /// What another thread was granted in the meantime is used: all claims are under the lease that
    /// is renewed.
    fn grant(&self, client: &Client, now: Time, deadline: Time) -> Result<LeaseId, CatalogError> {
        let ttl_s = u32::try_from(limits::CLAIM_TTL.as_secs()).unwrap_or(u32::MAX);
        let body = client.call(&Request::LeaseGrant { ttl_s }, deadline)?;
        let granted = LeaseAnswer::decode(&body)?.id;
        let mut held = self.held.lock();
        let held = held.get_or_insert(Held { id: granted, alive_from: now, asked: now });
        Ok(held.id)
    }
}
