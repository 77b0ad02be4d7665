//! Pulls of static deltas by a libostree that asks for files beside the delta that brings them.
//!
//! Before 2023.7 it asks for each file that is not there when it reads the directory that names it.
//! It reads none before it has the root of the commit. So the root, and the part that holds it, are
//! given to it last: then all files are there. What it would ask for is as long as the delta.
//!
//! **Invariant:** nobody is held for longer than [`limits::ROOT_HELD`], or while no other part of
//! the delta goes to the same host.
//!
//! Not here: what is given to those that ask all the same (`files::unpack`).

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::base::thread;
use crate::fetch::Fetcher;
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::http1::Url;
use crate::proto::ostree::{Checksum, delta};

/// All pulls that are watched. Bounded by [`limits::PULLS_WATCHED_MAX`].
pub(super) struct Pulls {
    all: Ranked<HashMap<Puller, Pull>>,
    changed: Signal,
}

/// Who pulls what.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Puller {
    host: IpAddr,
    /// The URL of the delta's superblock.
    superblock: String,
}

/// How far a pull is. The superblock is file 0, part N is N + 1.
#[derive(Debug)]
struct Pull {
    delta: BlobName,
    root: Checksum,
    /// The file that holds the root.
    holder: usize,
    /// Files that come before it and have not gone out yet.
    left: BTreeSet<usize>,
    /// How many of them are going out.
    going: usize,
    began_at: Time,
    /// When one of them last went out.
    moved_at: Time,
}

impl Pull {
    /// One that begins, of a delta of `files` files; `root`: the root, and the file that holds it.
    fn new(now: Time, delta: BlobName, files: usize, root: (Checksum, usize)) -> Pull {
        let (root, holder) = root;
        let left = (1..files).filter(|index| *index != holder).collect();
        Pull { delta, root, holder, left, going: 0, began_at: now, moved_at: now }
    }

    /// When the root goes out, if nothing else does before.
    fn due_at(&self) -> Time {
        let held_until = self.began_at + limits::ROOT_HELD;
        match self.going {
            _ if self.left.is_empty() => self.began_at,
            0 => held_until.min(self.moved_at + limits::ROOT_IDLE),
            _ => held_until,
        }
    }
}

/// One file of a delta on its way to a host that is watched.
#[derive(Debug)]
pub struct Going {
    pulls: Arc<Pulls>,
    puller: Puller,
    index: usize,
    gone: bool,
}

impl std::fmt::Debug for Pulls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Pulls")
    }
}

impl Going {
    /// All of it went out.
    pub fn gone(mut self) {
        self.gone = true;
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let mut all = self.pulls.all.lock();
        if let Some(pull) = all.get_mut(&self.puller) {
            pull.going = pull.going.saturating_sub(1);
            pull.moved_at = Time::now();
            if self.gone {
                pull.left.remove(&self.index);
            }
        }
        drop(all);
        self.pulls.changed.wake_all();
    }
}

impl Pulls {
    /// None.
    pub(super) fn new() -> Arc<Pulls> {
        Arc::new(Pulls { all: Ranked::new(Rank::Leaf, HashMap::new()), changed: Signal::new() })
    }

    /// A host has the superblock of a delta. It has two places for parts: where it pulls two deltas
    /// at once, nothing waits, for two roots would take both.
    fn begin(&self, puller: Puller, pull: Pull) {
        let now = pull.began_at;
        let mut all = self.all.lock();
        all.retain(|_, pull| pull.due_at() > now);
        let with = all.len();
        all.retain(|other, _| other.host != puller.host || other.superblock == puller.superblock);
        if all.len() == with && with < limits::PULLS_WATCHED_MAX {
            all.insert(puller, pull);
        }
        drop(all);
        self.changed.wake_all();
    }

    /// The delta could not be had: who waits for its parts waits in vain.
    pub(super) fn give_up(&self, delta: &BlobName) {
        self.all.lock().retain(|_, pull| pull.delta != *delta);
        self.changed.wake_all();
    }

    /// Holds nobody any more.
    pub(super) fn end(&self) {
        self.all.lock().clear();
        self.changed.wake_all();
    }

    fn watches(&self, is_meant: impl Fn(&Puller, &Pull) -> bool) -> bool {
        self.all.lock().iter().any(|(puller, pull)| is_meant(puller, pull))
    }

    /// Waits until the root that `is_meant` tells is to go out, or `deadline`.
    fn wait(&self, is_meant: impl Fn(&Puller, &Pull) -> bool, deadline: Time) {
        let mut all = self.all.lock();
        loop {
            let now = Time::now();
            let found = all.iter().find(|(puller, pull)| is_meant(puller, pull));
            let Some((puller, pull)) = found else { return };
            let due_at = pull.due_at();
            if due_at <= now {
                // Whoever asks for it after that is not held.
                let puller = puller.clone();
                all.remove(&puller);
                self.changed.wake_all();
                return;
            }
            if deadline <= now {
                return;
            }
            all = self.changed.wait_until(all, due_at.min(deadline));
        }
    }

    /// A file goes out to `puller`; `None`: nobody watches.
    fn going(self: &Arc<Pulls>, puller: Puller, index: usize) -> Option<Going> {
        let mut all = self.all.lock();
        let pull = all.get_mut(&puller).filter(|pull| pull.left.contains(&index))?;
        pull.going += 1;
        Some(Going { pulls: Arc::clone(self), puller, index, gone: false })
    }
}

impl Fetcher {
    /// Takes note that `host` is about to get the superblock at this URL, and asks for files beside
    /// deltas.
    pub fn pull_begins(&self, host: IpAddr, superblock: &Url) {
        let url = superblock.to_string();
        let known = self.deltas.lock().served(&url);
        let Some((name, layout)) = known.filter(|_| !self.is_stopping()) else { return };
        let now = Time::now();
        let Some(bytes) = self.superblock_here(&name, &layout, now) else { return };
        let Some((root, number)) = delta::root(&bytes) else { return };
        let pull = Pull::new(now, name, layout.files(), (root, number + 1));
        self.pulls.begin(Puller { host, superblock: url }, pull);
    }

    /// One file of a delta is about to go to `host`: waits for the others if they are to go first.
    pub fn part_goes(&self, host: IpAddr, superblock: &Url, index: usize) -> Option<Going> {
        let puller = Puller { host, superblock: superblock.to_string() };
        self.hold(host, |other, pull| *other == puller && pull.holder == index);
        self.pulls.going(puller, index)
    }

    /// An object is about to go to `host`: waits for the parts of a delta if it is its root.
    pub fn object_goes(&self, host: IpAddr, object: &Checksum) {
        self.hold(host, |puller, pull| puller.host == host && pull.root == *object);
    }

    fn hold(&self, host: IpAddr, is_meant: impl Fn(&Puller, &Pull) -> bool) {
        if self.pulls.watches(&is_meant) {
            log::debug!("the root of a delta's commit waits for its parts, for {host}");
            thread::before_wait();
            self.pulls.wait(is_meant, Time::now() + limits::ROOT_HELD);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn puller(host: u8, delta: &str) -> Puller {
        Puller { host: IpAddr::from([127, 0, 0, host]), superblock: delta.to_owned() }
    }

    fn due_at(pulls: &Pulls, puller: &Puller) -> Option<Time> {
        pulls.all.lock().get(puller).map(Pull::due_at)
    }

    const ROOT: Checksum = Checksum([1; 32]);
    const DELTA: BlobName = BlobName::Delta(Checksum([2; 32]));

    #[test]
    fn the_root_is_due_when_all_others_are_gone() {
        let (pulls, now) = (Pulls::new(), Time::now());
        let one = puller(1, "a");
        pulls.begin(one.clone(), Pull::new(now, DELTA, 4, (ROOT, 2)));
        assert_eq!(due_at(&pulls, &one), Some(now + limits::ROOT_IDLE));
        assert!(pulls.going(one.clone(), 2).is_none(), "the root itself is no reason to wait");
        assert!(pulls.going(puller(2, "a"), 1).is_none(), "another host");
        let first = pulls.going(one.clone(), 1).unwrap();
        assert_eq!(due_at(&pulls, &one), Some(now + limits::ROOT_HELD), "one is on its way");
        first.gone();
        let due = due_at(&pulls, &one).unwrap();
        assert!(due >= now + limits::ROOT_IDLE && due < now + limits::ROOT_HELD);
        drop(pulls.going(one.clone(), 3).unwrap());
        assert!(due_at(&pulls, &one).unwrap() > now, "one that broke has not gone");
        pulls.going(one.clone(), 3).unwrap().gone();
        assert_eq!(due_at(&pulls, &one), Some(now));
        let late = Time::now() + Duration::from_secs(3600);
        pulls.wait(|_, pull| pull.root == ROOT, late);
        assert_eq!(due_at(&pulls, &one), None, "the next who asks is not held");
    }

    #[test]
    fn a_delta_of_one_part_has_nothing_to_wait_for() {
        let (pulls, now) = (Pulls::new(), Time::now());
        pulls.begin(puller(1, "a"), Pull::new(now, DELTA, 2, (ROOT, 1)));
        assert_eq!(due_at(&pulls, &puller(1, "a")), Some(now));
    }

    #[test]
    fn a_host_that_pulls_two_deltas_at_once_is_not_held() {
        let (pulls, now) = (Pulls::new(), Time::now());
        let begin = |host, delta| {
            pulls.begin(puller(host, delta), Pull::new(now, DELTA, 9, (ROOT, 1)));
        };
        begin(1, "a");
        begin(2, "a");
        begin(1, "a");
        assert!(due_at(&pulls, &puller(1, "a")).is_some(), "it began again");
        begin(1, "b");
        let left = [puller(1, "a"), puller(1, "b"), puller(2, "a")];
        let left = left.map(|puller| due_at(&pulls, &puller).is_some());
        assert_eq!(left, [false, false, true]);
    }

    #[test]
    fn nobody_is_held_when_the_delta_fails_or_the_program_stops() {
        let end: [fn(&Pulls); 2] = [|pulls| pulls.give_up(&DELTA), |pulls| pulls.end()];
        for end in end {
            let pulls = Pulls::new();
            let pull = Pull::new(Time::now(), DELTA, 9, (ROOT, 1));
            pulls.begin(puller(1, "a"), pull);
            pulls.give_up(&BlobName::Delta(ROOT));
            assert!(pulls.watches(|_, _| true), "it was another");
            end(&pulls);
            pulls.wait(|_, _| true, Time::now() + Duration::from_secs(3600));
        }
    }
}
