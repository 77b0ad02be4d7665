//! Which announce is made next. Decisions only: the threads are in the module above.
//!
//! There are two lanes. What a swarm asks for is urgent and goes first come, first served. Whole blobs
//! announce themselves by the tracker's interval in the calm lane, one after the other at a bounded pace,
//! so that thousands never come at once.
//!
//! **Invariant:** of one blob at most one announce is on its way.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::base::metrics::Held;
use crate::base::rng::Rng;
use crate::limits::{ANNOUNCE_BACK_OFF, ANNOUNCE_BACK_OFF_MAX, ANNOUNCE_PACE};
use crate::proto::tracker::AnnounceEvent;

/// How many peers a swarm that fetches asks for.
const PEERS_WANTED: u32 = 50;

/// What one announce says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::engine) struct Report {
    /// Why it is made.
    pub(in crate::engine) event: AnnounceEvent,
    /// Bytes not on disk yet.
    pub(in crate::engine) left: u64,
    /// Bytes that came from peers.
    pub(in crate::engine) downloaded: u64,
    /// Bytes that went to peers.
    pub(in crate::engine) uploaded: u64,
}

/// An announce to be made now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) info_hash: Sha1Hash,
    pub(super) report: Report,
    /// How many peers to ask for. Who has all pieces waits for others to call.
    pub(super) peers_wanted: u32,
    /// A swarm waits for the answer.
    pub(super) asked: bool,
}

/// How an announce ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The tracker answered: announce again after this long.
    Again(Duration),
    /// It answered that it does not want this one.
    Refused,
    /// It did not answer.
    Failed,
}

/// What a thread is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Make this announce, then say [`Schedule::done`].
    Announce(Task),
    /// Nothing, until this time or a change.
    WaitUntil(Time),
    /// Nothing any more.
    End,
}

/// The blobs that the tracker is to know of.
#[derive(Debug)]
pub(super) struct Schedule {
    entries: HashMap<Sha1Hash, Entry>,
    urgent: VecDeque<Sha1Hash>,
    calm: BTreeSet<(Time, Sha1Hash)>,
    calm_open_at: Time,
    /// Announces in a row that were not answered.
    failures: u32,
    /// Set when we stop: what is left to be told `stopped`.
    farewells: Option<VecDeque<Sha1Hash>>,
    rng: Rng,
}

#[derive(Debug, Default)]
struct Entry {
    /// A whole blob: it announces itself.
    seeding: Option<Held>,
    /// Where it stands in the calm lane.
    due: Option<Time>,
    /// Asked for, and waiting in the urgent lane or for the announce that is on its way.
    asked: Option<Report>,
    /// The tracker was told `started`, or may have been.
    known: bool,
    on_its_way: bool,
}

const WHOLE: Report = Report { event: AnnounceEvent::None, left: 0, downloaded: 0, uploaded: 0 };

impl Schedule {
    pub(super) fn new(rng: Rng) -> Schedule {
        Schedule {
            entries: HashMap::new(),
            urgent: VecDeque::new(),
            calm: BTreeSet::new(),
            calm_open_at: Time::ZERO,
            failures: 0,
            farewells: None,
            rng,
        }
    }

    /// How many whole blobs there are.
    pub(super) fn seeds(&self) -> usize {
        self.entries.values().filter(|entry| entry.seeding.is_some()).count()
    }

    /// How many announces are due.
    pub(super) fn waiting(&self, now: Time) -> usize {
        self.urgent.len() + self.calm.iter().take_while(|(due, _)| *due <= now).count()
    }

    /// From now on the blob is whole and announces itself.
    pub(super) fn seed(&mut self, now: Time, info_hash: Sha1Hash) {
        let entry = self.entries.entry(info_hash).or_default();
        entry.seeding.get_or_insert_with(|| figures::SWARMS_SEEDING.hold());
        if entry.due.is_none() && entry.asked.is_none() && !entry.on_its_way {
            self.put_off(info_hash, now);
        }
    }

    /// A swarm wants the tracker to know. What it asked for before and was not sent is melted in.
    pub(super) fn ask(&mut self, info_hash: Sha1Hash, report: Report) {
        let entry = self.entries.entry(info_hash).or_default();
        let event = match entry.asked {
            Some(before) if report.event == AnnounceEvent::None => before.event,
            _ => report.event,
        };
        let queued = entry.asked.replace(Report { event, ..report }).is_some();
        if !queued && !entry.on_its_way {
            self.urgent.push_back(info_hash);
        }
    }

    /// The blob is gone: the tracker is told, if it knows.
    pub(super) fn leave(&mut self, info_hash: Sha1Hash) {
        let Some(entry) = self.entries.get_mut(&info_hash) else { return };
        entry.seeding = None;
        if let Some(due) = entry.due.take() {
            self.calm.remove(&(due, info_hash));
        }
        if entry.known || entry.on_its_way {
            self.ask(info_hash, Report { event: AnnounceEvent::Stopped, ..WHOLE });
        } else {
            self.urgent.retain(|other| *other != info_hash);
            self.entries.remove(&info_hash);
        }
    }

    /// From now on only `stopped` is announced, for each blob that the tracker knows.
    pub(super) fn stop(&mut self) {
        let known = self.entries.iter().filter(|(_, entry)| entry.known);
        self.farewells = Some(known.map(|(info_hash, _)| *info_hash).collect());
    }

    /// What a thread is to do; one with `urgent_only` leaves the calm lane to others, so that a swarm
    /// never waits behind whole blobs.
    pub(super) fn next(&mut self, now: Time, urgent_only: bool) -> Next {
        if let Some(farewells) = &mut self.farewells {
            // A tracker that does not answer now is not going to learn it.
            let next = if self.failures == 0 { farewells.pop_front() } else { None };
            let stopped = Report { event: AnnounceEvent::Stopped, ..WHOLE };
            return next.map_or(Next::End, |info_hash| {
                Next::Announce(Task { info_hash, report: stopped, peers_wanted: 0, asked: false })
            });
        }
        if let Some(info_hash) = self.urgent.pop_front() {
            return Next::Announce(self.begin_urgent(info_hash));
        }
        let first = self.calm.first().copied();
        let Some((due, info_hash)) = first.filter(|_| !urgent_only) else {
            return Next::WaitUntil(now + ANNOUNCE_BACK_OFF_MAX);
        };
        let open_at = due.max(self.calm_open_at);
        if now < open_at {
            return Next::WaitUntil(open_at);
        }
        self.calm_open_at = now + ANNOUNCE_PACE;
        self.calm.remove(&(due, info_hash));
        Next::Announce(self.begin_calm(info_hash))
    }

    fn begin_urgent(&mut self, info_hash: Sha1Hash) -> Task {
        let entry = self.entries.entry(info_hash).or_default();
        if let Some(due) = entry.due.take() {
            self.calm.remove(&(due, info_hash));
        }
        let mut report = entry.asked.take().unwrap_or(WHOLE);
        if report.event == AnnounceEvent::None && !entry.known {
            report.event = AnnounceEvent::Started;
        }
        entry.on_its_way = true;
        let fetching = report.left > 0 && report.event != AnnounceEvent::Stopped;
        let peers_wanted = if fetching { PEERS_WANTED } else { 0 };
        Task { info_hash, report, peers_wanted, asked: true }
    }

    fn begin_calm(&mut self, info_hash: Sha1Hash) -> Task {
        let entry = self.entries.entry(info_hash).or_default();
        entry.due = None;
        entry.on_its_way = true;
        let event = if entry.known { AnnounceEvent::None } else { AnnounceEvent::Started };
        Task { info_hash, report: Report { event, ..WHOLE }, peers_wanted: 0, asked: false }
    }

    /// The announce of a [`Task`] has ended.
    pub(super) fn done(&mut self, now: Time, task: &Task, outcome: Outcome) {
        let again = match outcome {
            Outcome::Again(interval) => {
                self.failures = 0;
                interval
            }
            Outcome::Refused => {
                self.failures = 0;
                ANNOUNCE_BACK_OFF_MAX
            }
            Outcome::Failed => {
                self.failures = self.failures.saturating_add(1);
                let back_off = ANNOUNCE_BACK_OFF * (1 << self.failures.min(10));
                back_off.min(ANNOUNCE_BACK_OFF_MAX)
            }
        };
        if outcome == Outcome::Failed {
            // The next one would fail as well: whole blobs wait, one of them tries.
            self.calm_open_at = now + again;
        }
        let Some(entry) = self.entries.get_mut(&task.info_hash) else { return };
        entry.on_its_way = false;
        entry.known = match task.report.event {
            AnnounceEvent::Stopped => false,
            _ => entry.known || matches!(outcome, Outcome::Again(_)),
        };
        if entry.asked.is_some() {
            self.urgent.push_back(task.info_hash);
        } else if entry.seeding.is_some() {
            // A tenth earlier or later: what began together does not stay together.
            let tenth = u64::try_from(again.as_millis() / 10).unwrap_or(0);
            let jitter = Duration::from_millis(self.rng.below(2 * tenth + 1));
            let again = again.saturating_sub(Duration::from_millis(tenth)) + jitter;
            self.put_off(task.info_hash, now + again);
        } else if !entry.known {
            self.entries.remove(&task.info_hash);
        }
    }

    fn put_off(&mut self, info_hash: Sha1Hash, due: Time) {
        if let Some(entry) = self.entries.get_mut(&info_hash) {
            entry.due = Some(due);
            self.calm.insert((due, info_hash));
        }
    }
}
