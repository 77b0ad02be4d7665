//! The threads that talk to the tracker (BEP 3, 15).
//!
//! A few threads serve all blobs: [`schedule`] says which announce is next, [`http`] and [`udp`]
//! make it. Swarms that fetch get the answer through the inbox; whole blobs need none.

mod calm;
mod http;
mod schedule;
mod udp;
mod url;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use self::url::{TrackerUrl, TrackerUrlError};

use ureq::Agent;

use self::schedule::{Next, Outcome, Schedule, Task};

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::Sender;
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::base::rng::Rng;
use crate::base::thread::{self, Handle, Role};
use crate::engine::inbox::Event;
use crate::limits::{
    ANNOUNCE_CALL, ANNOUNCE_INTERVAL_MAX, ANNOUNCE_INTERVAL_MIN, ANNOUNCE_THREADS,
};
use crate::log_limited;
use crate::proto::peer::PeerId;
use crate::proto::tracker::{AnnounceRequest, AnnounceResponse};

pub(in crate::engine) use self::schedule::Report;

/// Who we are to the tracker.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) peer_id: PeerId,
    /// Where peers reach us.
    pub(super) port: u16,
    /// The address to hand out, if it is not the one that the tracker sees.
    pub(super) address: Option<IpAddr>,
}

/// What the tracker said to a swarm that asked.
#[derive(Debug)]
pub(super) struct Answer {
    /// When it wants to hear of us again.
    pub(super) interval: Duration,
    pub(super) peers: Vec<SocketAddr>,
}

/// Why an announce failed.
#[derive(Debug)]
enum AnnounceError {
    /// The tracker answered that it does not want this blob, or with nonsense.
    Refused(String),
    /// No answer.
    Failed(String),
}

impl fmt::Display for AnnounceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (AnnounceError::Refused(why) | AnnounceError::Failed(why)) = self;
        f.write_str(why)
    }
}

/// Is called once the tracker knows of a blob, or when nobody need wait for that.
pub(super) type Told = Box<dyn FnOnce() + Send>;

/// The announcing threads and what they share.
#[derive(Debug)]
pub(super) struct Announcer {
    shared: Arc<Shared>,
    threads: Ranked<Vec<Handle>>,
    /// By which the threads call, if that is over HTTP.
    agents: Vec<Agent>,
}

#[derive(Debug)]
struct Shared {
    state: Ranked<State>,
    changed: Signal,
}

struct State {
    schedule: Schedule,
    /// Who is told that a new blob was announced, or cannot be.
    told: HashMap<Sha1Hash, Told>,
    /// What went wrong at the last announce; `None`: it was answered.
    failing: Option<String>,
    /// Set when we stop: no call lasts longer.
    deadline: Option<Time>,
    /// Threads that have not come to their end.
    running: usize,
}

impl Announcer {
    /// Starts the threads; without a `tracker`, none.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub(super) fn start(
        tracker: Option<&TrackerUrl>,
        identity: &Identity,
        inbox: &Sender<Event>,
    ) -> std::io::Result<Announcer> {
        let state = State {
            schedule: Schedule::new(Rng::from_os()),
            told: HashMap::new(),
            failing: None,
            // Without a tracker it is as if the time were over.
            deadline: tracker.is_none().then_some(Time::ZERO),
            running: 0,
        };
        let shared = Shared { state: Ranked::new(Rank::Remote, state), changed: Signal::new() };
        let mut announcer = Announcer {
            shared: Arc::new(shared),
            threads: Ranked::new(Rank::Leaf, Vec::new()),
            agents: Vec::new(),
        };
        let Some(tracker) = tracker else { return Ok(announcer) };
        let key = Some(u32::try_from(Rng::from_os().below(1 << 32)).unwrap_or(0));
        for number in 0..ANNOUNCE_THREADS {
            let way = Way::to(tracker);
            announcer.agents.extend(way.agent());
            let worker = Worker {
                shared: Arc::clone(&announcer.shared),
                inbox: inbox.clone(),
                identity: identity.clone(),
                key,
                name: tracker.to_string(),
                way,
                urgent_only: number == 0,
            };
            let name = format!("announce-{number}");
            announcer.shared.state.lock().running += 1;
            let spawned = thread::spawn(name, Role::Core, move || worker.run());
            match spawned {
                Ok(handle) => announcer.threads.lock().push(handle),
                Err(error) => {
                    announcer.stop(Time::ZERO);
                    return Err(error);
                }
            }
        }
        Ok(announcer)
    }

    /// From now on the blob is whole: the tracker is told, and told again at its interval.
    pub(super) fn seed(&self, info_hash: Sha1Hash) {
        self.change(|schedule, now| schedule.seed(now, info_hash));
    }

    /// As [`Announcer::seed`], but soon, for a blob that is new to the network. Calls `told` when
    /// the tracker knows of it; at once, if it does already or cannot be told now. Of a blob that
    /// leaves before, or of a program that stops, nobody is told.
    pub(super) fn introduce(&self, info_hash: Sha1Hash, told: Told) {
        let mut state = self.shared.state.lock();
        let waits = state.schedule.introduce(Time::now(), info_hash) && state.deadline.is_none();
        let unused = if waits { state.told.insert(info_hash, told) } else { Some(told) };
        drop(state);
        self.shared.changed.wake_all();
        match unused {
            Some(told) if !waits => told(),
            // An earlier introduction of the same blob, which this one stands for.
            _ => {}
        }
    }

    /// Announces for a swarm, soon; the answer comes to the inbox.
    pub(super) fn ask(&self, info_hash: Sha1Hash, report: Report) {
        self.change(|schedule, _| schedule.ask(info_hash, report));
    }

    /// The blob is gone.
    pub(super) fn leave(&self, info_hash: Sha1Hash) {
        let mut state = self.shared.state.lock();
        state.schedule.leave(info_hash);
        let unused = state.told.remove(&info_hash);
        drop(state);
        drop(unused);
        self.shared.changed.wake_all();
    }

    fn change(&self, act: impl FnOnce(&mut Schedule, Time)) {
        let now = Time::now();
        act(&mut self.shared.state.lock().schedule, now);
        self.shared.changed.wake_all();
    }

    /// How many whole blobs there are.
    pub(super) fn seeds(&self) -> usize {
        self.shared.state.lock().schedule.seeds()
    }

    /// How many announces are due, and what went wrong at the last.
    pub(super) fn health(&self) -> (usize, Option<String>) {
        let mut state = self.shared.state.lock();
        (state.schedule.waiting(Time::now()), state.failing.clone())
    }

    /// Tells the tracker `stopped` for as many blobs as the time until `deadline` allows. Does not
    /// wait.
    pub(super) fn begin_stop(&self, deadline: Time) {
        let mut state = self.shared.state.lock();
        state.deadline = Some(deadline);
        state.schedule.stop();
        drop(state);
        self.shared.changed.wake_all();
    }

    /// Stops, and waits for the threads, which end at `deadline`.
    pub(super) fn stop(&self, deadline: Time) {
        if self.shared.state.lock().deadline.is_none() {
            self.begin_stop(deadline);
        }
        let mut state = self.shared.state.lock();
        while state.running > 0 && Time::now() < deadline {
            state = self.shared.changed.wait_until(state, deadline);
        }
        drop(state);
        // A call that was begun before the stop was given more time.
        self.agents.iter().for_each(|agent| agent.clone().shutdown());
        let threads = std::mem::take(&mut *self.threads.lock());
        threads.into_iter().for_each(Handle::join);
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}, {} introductions", self.schedule, self.told.len())
    }
}

/// How a tracker is talked to.
enum Way {
    Http(http::HttpTracker),
    Udp(udp::UdpTracker),
}

impl Way {
    fn to(tracker: &TrackerUrl) -> Way {
        match tracker {
            TrackerUrl::Http(url) => Way::Http(http::HttpTracker::new(url)),
            TrackerUrl::Udp { host, port } => Way::Udp(udp::UdpTracker::new(host, *port)),
        }
    }

    fn agent(&self) -> Option<Agent> {
        match self {
            Way::Http(tracker) => Some(tracker.agent.clone()),
            Way::Udp(_) => None,
        }
    }
}

/// One thread.
struct Worker {
    shared: Arc<Shared>,
    inbox: Sender<Event>,
    identity: Identity,
    key: Option<u32>,
    name: String,
    way: Way,
    urgent_only: bool,
}

impl Worker {
    fn run(mut self) {
        while let Some((task, deadline)) = self.next() {
            let result = self.announce(&task, deadline);
            self.record(&task, &result);
            if task.asked {
                let answer = result.ok().map(|answer| self.for_swarm(answer));
                let _ = self.inbox.send(Event::Announced(task.info_hash, answer));
            }
        }
        self.shared.state.lock().running -= 1;
        self.shared.changed.wake_all();
    }

    /// Waits for the next announce; also says when it must have ended. `None`: the thread ends.
    fn next(&self) -> Option<(Task, Time)> {
        let mut state = self.shared.state.lock();
        loop {
            let now = Time::now();
            let deadline = state.deadline.unwrap_or(now + ANNOUNCE_CALL).min(now + ANNOUNCE_CALL);
            if deadline <= now {
                return None;
            }
            let next = state.schedule.next(now, self.urgent_only);
            figures::QUEUE_ANNOUNCE.set(i64::try_from(state.schedule.waiting(now)).unwrap_or(0));
            match next {
                Next::Announce(task) => return Some((task, deadline)),
                Next::WaitUntil(time) => state = self.shared.changed.wait_until(state, time),
                Next::End => return None,
            }
        }
    }

    fn announce(&mut self, task: &Task, deadline: Time) -> Result<AnnounceResponse, AnnounceError> {
        let request = AnnounceRequest {
            info_hash: task.info_hash,
            peer_id: self.identity.peer_id,
            port: self.identity.port,
            uploaded: task.report.uploaded,
            downloaded: task.report.downloaded,
            left: task.report.left,
            event: task.report.event,
            numwant: Some(task.peers_wanted),
            key: self.key,
            ip: self.identity.address,
            tracker_id: None,
        };
        match &mut self.way {
            Way::Http(tracker) => tracker.announce(&request, deadline),
            Way::Udp(tracker) => tracker.announce(&request, deadline),
        }
    }

    /// Counts, says a change of the tracker's state once, and lets the schedule go on.
    fn record(&self, task: &Task, result: &Result<AnnounceResponse, AnnounceError>) {
        let (outcome, failing) = match result {
            Ok(answer) => (Outcome::Again(interval(answer)), None),
            Err(AnnounceError::Refused(why)) => (Outcome::Refused, Some(why.clone())),
            Err(AnnounceError::Failed(why)) => (Outcome::Failed, Some(why.clone())),
        };
        match &failing {
            None => figures::ANNOUNCES_OK.add(1),
            Some(_) => figures::ANNOUNCES_FAILED.add(1),
        }
        let mut state = self.shared.state.lock();
        state.schedule.done(Time::now(), task, outcome);
        let told: Vec<Told> = match outcome {
            Outcome::Failed => state.told.drain().map(|(_, told)| told).collect(),
            _ => state.told.remove(&task.info_hash).into_iter().collect(),
        };
        let before = std::mem::replace(&mut state.failing, failing.clone());
        drop(state);
        self.shared.changed.wake_all();
        told.into_iter().for_each(|told| told());
        match (before, failing) {
            (None, Some(why)) => log_limited!(warn, "tracker {}: {why}", self.name),
            (Some(_), None) => log_limited!(info, "tracker {} answers again", self.name),
            _ => {}
        }
    }

    /// What a swarm can use of an answer: no address twice, and not our own.
    fn for_swarm(&self, answer: AnnounceResponse) -> Answer {
        let interval = interval(&answer);
        let mut peers = answer.peers;
        peers.sort_unstable();
        peers.dedup();
        let own = |address: IpAddr| {
            address.is_loopback() || self.identity.address.is_some_and(|own| own == address)
        };
        peers.retain(|peer| !(peer.port() == self.identity.port && own(peer.ip())));
        Answer { interval, peers }
    }
}

/// How long until the next announce, within what is sensible.
fn interval(answer: &AnnounceResponse) -> Duration {
    let asked = answer.min_interval.map_or(answer.interval, |min| min.max(answer.interval));
    asked.clamp(ANNOUNCE_INTERVAL_MIN, ANNOUNCE_INTERVAL_MAX)
}
