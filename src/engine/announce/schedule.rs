//! Which announce is made next. Decisions only: the threads are in the module above.
//!
//! There are three lanes. What a swarm asks for is urgent and goes first come, first served. Then
//! come whole blobs that are new to the network, since others will look for them next. All other
//! whole blobs announce themselves by the tracker's interval in the calm lane, one after the other
//! at a bounded pace, so that thousands never come at once.
//!
//! **Invariant:** of one blob at most one announce is on its way.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::base::metrics::Held;
use crate::base::rng::Rng;
use crate::engine::announce::calm::Calm;
use crate::limits::{ANNOUNCE_BACK_OFF, ANNOUNCE_BACK_OFF_MAX, ANNOUNCE_PACE, INTRODUCTIONS_MAX};
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
    fresh: VecDeque<Sha1Hash>,
    calm: Calm,
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
    /// It stands in the lane of new blobs.
    fresh: bool,
    /// Asked for, and waiting in the urgent lane or for the announce that is on its way.
    asked: Option<Report>,
    /// The tracker was told `started`, or may have been.
    known: bool,
    /// The tracker was told last that nothing is left: when to tell it again.
    told_whole: Option<Time>,
    on_its_way: bool,
}

const WHOLE: Report = Report { event: AnnounceEvent::None, left: 0, downloaded: 0, uploaded: 0 };

impl Schedule {
    pub(super) fn new(rng: Rng) -> Schedule {
        Schedule {
            entries: HashMap::new(),
            urgent: VecDeque::new(),
            fresh: VecDeque::new(),
            calm: Calm::default(),
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
    pub(super) fn waiting(&mut self, now: Time) -> usize {
        self.urgent.len() + self.fresh.len() + self.calm.due(now)
    }

    /// From now on the blob is whole and announces itself: at once, if the tracker does not know.
    pub(super) fn seed(&mut self, now: Time, info_hash: Sha1Hash) {
        let entry = self.entries.entry(info_hash).or_default();
        entry.seeding.get_or_insert_with(|| figures::SWARMS_SEEDING.hold());
        let waits = entry.due.is_some() || entry.fresh || entry.asked.is_some();
        if !waits && !entry.on_its_way {
            let at = entry.told_whole.unwrap_or(now);
            self.put_off(info_hash, at);
        }
    }

    /// As [`Schedule::seed`], for a blob that is new to the network: it does not wait for its turn.
    /// False: the tracker knows of it or does not answer, or too many are new; then it waits.
    pub(super) fn introduce(&mut self, now: Time, info_hash: Sha1Hash) -> bool {
        self.seed(now, info_hash);
        let Some(entry) = self.entries.get_mut(&info_hash) else { return false };
        if entry.known || self.failures > 0 || self.fresh.len() >= INTRODUCTIONS_MAX {
            return false;
        }
        if let Some(due) = entry.due.take() {
            self.calm.remove(due, info_hash);
            entry.fresh = true;
            self.fresh.push_back(info_hash);
        }
        true
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
        Self::step_out(entry, info_hash, &mut self.calm, &mut self.fresh);
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

    /// What a thread is to do; one with `urgent_only` leaves the calm lane to others, so that a
    /// swarm never waits behind whole blobs.
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
        if !urgent_only && let Some(info_hash) = self.fresh.pop_front() {
            return Next::Announce(self.begin_calm(info_hash));
        }
        let first = self.calm.first();
        let Some((due, info_hash)) = first.filter(|_| !urgent_only) else {
            return Next::WaitUntil(now + ANNOUNCE_BACK_OFF_MAX);
        };
        let open_at = due.max(self.calm_open_at);
        if now < open_at {
            return Next::WaitUntil(open_at);
        }
        self.calm_open_at = now + ANNOUNCE_PACE;
        self.calm.remove(due, info_hash);
        Next::Announce(self.begin_calm(info_hash))
    }

    fn begin_urgent(&mut self, info_hash: Sha1Hash) -> Task {
        let entry = self.entries.entry(info_hash).or_default();
        Self::step_out(entry, info_hash, &mut self.calm, &mut self.fresh);
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
        (entry.due, entry.fresh) = (None, false);
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
            for new in std::mem::take(&mut self.fresh) {
                if let Some(entry) = self.entries.get_mut(&new) {
                    entry.fresh = false;
                }
                self.put_off(new, now);
            }
        }
        let later = now + self.jittered(again);
        let Some(entry) = self.entries.get_mut(&task.info_hash) else { return };
        entry.on_its_way = false;
        entry.known = match task.report.event {
            AnnounceEvent::Stopped => false,
            _ => entry.known || matches!(outcome, Outcome::Again(_)),
        };
        entry.told_whole = (entry.known && task.report.left == 0).then_some(later);
        if entry.asked.is_some() {
            self.urgent.push_back(task.info_hash);
        } else if entry.seeding.is_some() {
            let back_again = task.report.event == AnnounceEvent::Stopped;
            self.put_off(task.info_hash, if back_again { now } else { later });
        } else if !entry.known {
            self.entries.remove(&task.info_hash);
        }
    }

    /// A tenth earlier or later: what began together does not stay together.
    fn jittered(&mut self, wait: Duration) -> Duration {
        let tenth = wait / 10;
        let span = u64::try_from(2 * tenth.as_millis()).unwrap_or(u64::MAX);
        wait - tenth + Duration::from_millis(self.rng.below(span))
    }

    /// Takes an entry out of the lanes of whole blobs.
    fn step_out(
        entry: &mut Entry,
        info_hash: Sha1Hash,
        calm: &mut Calm,
        fresh: &mut VecDeque<Sha1Hash>,
    ) {
        if let Some(due) = entry.due.take() {
            calm.remove(due, info_hash);
        }
        if std::mem::take(&mut entry.fresh) {
            fresh.retain(|other| *other != info_hash);
        }
    }

    fn put_off(&mut self, info_hash: Sha1Hash, due: Time) {
        if let Some(entry) = self.entries.get_mut(&info_hash) {
            entry.due = Some(due);
            self.calm.insert(due, info_hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(1800);

    fn hash(number: u32) -> Sha1Hash {
        Sha1Hash::of(&number.to_be_bytes())
    }

    fn asked(event: AnnounceEvent) -> Report {
        Report { event, left: 1, downloaded: 0, uploaded: 0 }
    }

    fn task(next: Next) -> Task {
        match next {
            Next::Announce(task) => task,
            other => panic!("{other:?} instead of an announce"),
        }
    }

    #[test]
    fn ten_thousand_seeds_are_announced_one_after_the_other() {
        let mut schedule = Schedule::new(Rng::seeded(1));
        let mut now = Time::ZERO;
        (0..10_000).for_each(|number| schedule.seed(now, hash(number)));
        assert_eq!((schedule.seeds(), schedule.waiting(now)), (10_000, 10_000));
        for _ in 0..10_000 {
            let task = task(schedule.next(now, false));
            assert_eq!((task.report.event, task.report.left), (AnnounceEvent::Started, 0));
            let Next::WaitUntil(next) = schedule.next(now, false) else { panic!("two at once") };
            assert!(next >= now + ANNOUNCE_PACE);
            schedule.done(now, &task, Outcome::Again(INTERVAL));
            now = now + ANNOUNCE_PACE;
        }
        assert_eq!(schedule.waiting(now), 0);
        let Next::WaitUntil(again) = schedule.next(now, false) else { panic!("all are told") };
        assert!(again >= Time::ZERO + INTERVAL * 9 / 10, "the interval is respected");
    }

    #[test]
    fn a_swarm_does_not_wait_behind_seeds() {
        let mut schedule = Schedule::new(Rng::seeded(2));
        (0..100).for_each(|number| schedule.seed(Time::ZERO, hash(number)));
        task(schedule.next(Time::ZERO, false));
        schedule.ask(hash(1000), asked(AnnounceEvent::Started));
        let urgent = task(schedule.next(Time::ZERO, true));
        assert_eq!((urgent.info_hash, urgent.asked), (hash(1000), true));
        assert!(urgent.peers_wanted > 0);
        assert!(matches!(schedule.next(Time::ZERO, true), Next::WaitUntil(_)));
    }

    #[test]
    fn a_new_blob_does_not_wait_behind_those_of_earlier_runs() {
        let mut schedule = Schedule::new(Rng::seeded(7));
        (0..100).for_each(|number| schedule.seed(Time::ZERO, hash(number)));
        let calm = task(schedule.next(Time::ZERO, false));
        assert!(schedule.introduce(Time::ZERO, hash(1000)));
        schedule.seed(Time::ZERO, hash(1000));
        assert!(matches!(schedule.next(Time::ZERO, true), Next::WaitUntil(_)), "not the swarms'");
        let new = task(schedule.next(Time::ZERO, false));
        let Report { event, left, .. } = new.report;
        assert_eq!((new.info_hash, event, left), (hash(1000), AnnounceEvent::Started, 0));
        assert!(matches!(schedule.next(Time::ZERO, false), Next::WaitUntil(_)), "once");
        schedule.done(Time::ZERO, &new, Outcome::Again(INTERVAL));
        assert!(!schedule.introduce(Time::ZERO, hash(1000)), "it is known");

        // Gone before its turn.
        assert!(schedule.introduce(Time::ZERO, hash(1001)));
        schedule.leave(hash(1001));
        assert!(matches!(schedule.next(Time::ZERO, false), Next::WaitUntil(_)));

        // With the tracker gone, it is one of all.
        assert!(schedule.introduce(Time::ZERO, hash(1002)));
        schedule.done(Time::ZERO, &calm, Outcome::Failed);
        assert!(!schedule.introduce(Time::ZERO, hash(1003)));
        assert!(matches!(schedule.next(Time::ZERO, false), Next::WaitUntil(_)));
        assert_eq!(schedule.seeds(), 103);
    }

    #[test]
    fn what_was_not_sent_is_melted_and_one_is_on_its_way_at_a_time() {
        let mut schedule = Schedule::new(Rng::seeded(3));
        schedule.ask(hash(1), asked(AnnounceEvent::Started));
        schedule.ask(hash(1), asked(AnnounceEvent::None));
        let first = task(schedule.next(Time::ZERO, true));
        assert_eq!(first.report.event, AnnounceEvent::Started);
        schedule.ask(hash(1), asked(AnnounceEvent::Completed));
        assert!(matches!(schedule.next(Time::ZERO, true), Next::WaitUntil(_)));
        schedule.seed(Time::ZERO, hash(1));
        schedule.done(Time::ZERO, &first, Outcome::Again(INTERVAL));
        let second = task(schedule.next(Time::ZERO, true));
        assert_eq!(second.report.event, AnnounceEvent::Completed);
        schedule.done(Time::ZERO, &second, Outcome::Again(INTERVAL));
        assert_eq!(schedule.waiting(Time::ZERO), 0, "as a seed it waits for the interval");
    }

    #[test]
    fn a_blob_that_was_told_to_be_complete_waits_for_the_interval_once_it_seeds() {
        let mut schedule = Schedule::new(Rng::seeded(8));
        for (event, left) in [(AnnounceEvent::Started, 1), (AnnounceEvent::Completed, 0)] {
            schedule.ask(hash(1), Report { left, ..asked(event) });
            let task = task(schedule.next(Time::ZERO, true));
            schedule.done(Time::ZERO, &task, Outcome::Again(INTERVAL));
        }
        schedule.seed(Time::ZERO, hash(1));
        assert_eq!((schedule.seeds(), schedule.waiting(Time::ZERO)), (1, 0));
        let Next::WaitUntil(again) = schedule.next(Time::ZERO, false) else { panic!("it waits") };
        let again = task(schedule.next(again, false));
        assert_eq!((again.info_hash, again.report.event), (hash(1), AnnounceEvent::None));
    }

    #[test]
    fn while_the_tracker_is_gone_one_seed_tries_ever_later() {
        let mut schedule = Schedule::new(Rng::seeded(4));
        (0..100).for_each(|number| schedule.seed(Time::ZERO, hash(number)));
        let mut now = Time::ZERO;
        let mut waits = Vec::new();
        for _ in 0..8 {
            let task = task(schedule.next(now, false));
            schedule.done(now, &task, Outcome::Failed);
            let Next::WaitUntil(next) = schedule.next(now, false) else { panic!("it tries on") };
            waits.push(next.since(now).as_secs());
            now = next;
        }
        assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300, 300]);
        let task = task(schedule.next(now, false));
        schedule.done(now, &task, Outcome::Again(INTERVAL));
        assert!(matches!(schedule.next(now + ANNOUNCE_PACE, false), Next::Announce(_)));
    }

    #[test]
    fn only_what_the_tracker_knows_is_told_to_be_over() {
        let mut schedule = Schedule::new(Rng::seeded(5));
        schedule.ask(hash(1), asked(AnnounceEvent::Started));
        schedule.leave(hash(1));
        assert!(matches!(schedule.next(Time::ZERO, true), Next::WaitUntil(_)), "never told");
        for number in [2, 3] {
            schedule.ask(hash(number), asked(AnnounceEvent::Started));
            let task = task(schedule.next(Time::ZERO, true));
            schedule.done(Time::ZERO, &task, Outcome::Again(INTERVAL));
        }
        schedule.leave(hash(2));
        let left = task(schedule.next(Time::ZERO, true));
        assert_eq!((left.info_hash, left.report.event), (hash(2), AnnounceEvent::Stopped));
        schedule.done(Time::ZERO, &left, Outcome::Again(INTERVAL));
        schedule.stop();
        let last = task(schedule.next(Time::ZERO, false));
        assert_eq!((last.info_hash, last.report.event), (hash(3), AnnounceEvent::Stopped));
        assert_eq!(schedule.next(Time::ZERO, false), Next::End);
    }

    #[test]
    fn a_blob_that_comes_back_while_it_leaves_is_announced_again_at_once() {
        let mut schedule = Schedule::new(Rng::seeded(6));
        schedule.seed(Time::ZERO, hash(1));
        let first = task(schedule.next(Time::ZERO, false));
        schedule.done(Time::ZERO, &first, Outcome::Again(INTERVAL));
        schedule.leave(hash(1));
        schedule.seed(Time::ZERO, hash(1));
        let stopped = task(schedule.next(Time::ZERO, true));
        schedule.done(Time::ZERO, &stopped, Outcome::Again(INTERVAL));
        let again = task(schedule.next(Time::ZERO + ANNOUNCE_PACE, false));
        assert_eq!(again.report.event, AnnounceEvent::Started);
    }
}
