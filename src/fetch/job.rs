//! One blob on its way: who reads it, and the conductor that starts and ends its sources.
//!
//! A job has a conductor thread, a follower thread (`follow`), at most one stream from upstream
//! (`fill`), and, if the catalog knows the blob, a part in its swarm; if not, a thread that hashes
//! its pieces (`pieces`). It goes on when its readers leave.
//!
//! **Invariant:** the feed of a job ends exactly once: finished when the digest is right, failed
//! otherwise.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::base::clock::{self, Time};
use crate::base::figures;
use crate::base::hash::Sha1Hash;
use crate::base::mailbox::{Receiver, Sender, mailbox};
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::base::thread::{self, Role};
use crate::catalog::Claim;
use crate::engine::Membership;
use crate::fetch::access::Claimant;
use crate::fetch::delta::Lack;
use crate::fetch::early::{EarlySwarm, FirstClaim, Standing};
use crate::fetch::fill::{Fill, FillEnd, FillError, Gauge, Run};
use crate::fetch::follow::{self, Verdict};
use crate::fetch::meter::{self, Meter};
use crate::fetch::pieces;
use crate::fetch::plan::{self, FillView, Step, SwarmView, View};
use crate::fetch::stream::{Place, Stream};
use crate::fetch::{Fetcher, Transfer};
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::geometry::{Geometry, PieceIndex};
use crate::proto::http1::Url;
use crate::proto::metainfo::Metainfo;
use crate::proto::ostree::layout::Layout;
use crate::store::{Partial, SeedEntry, StoreError};
use crate::upstream::{Answer, Body, Origin, UpstreamError};

/// What the conductor is told.
pub(super) enum Event {
    FillEnded {
        gauge: Arc<Gauge>,
        result: Result<FillEnd, FillError>,
    },
    Judged(Option<Verdict>),
    /// It is known whether this host is to bring the blob.
    Claimed,
    /// A part of a delta was wrong and is missing again.
    TakenBack,
    /// Something has changed that the plan looks at.
    Look,
    Cancel,
}

/// Events that wait for one conductor: the follower sends one, each stream one; of readers there
/// may be more.
const EVENTS_MAX: usize = 16;

/// What comes of hashing the pieces; `None`: the program stops, or the job has failed.
type PieceHashes = Result<Option<Vec<Sha1Hash>>, StoreError>;

/// How far a job is.
enum Phase {
    /// The leader asks the catalog and the upstream.
    Opening,
    /// Bytes arrive.
    Open(Arc<Partial>),
    /// It never opened: the leader was answered, others ask for themselves.
    Closed,
    /// It never opened: the upstream gave its leader no answer in time.
    TimedOut,
}

/// What became of a job that others were to open.
pub(super) enum Opened {
    /// Bytes arrive.
    Yes(Arc<Partial>),
    /// Its leader was refused, for reasons that may be its own.
    No,
    /// The upstream did not answer, and would not answer others.
    TimedOut,
    /// The leader is still at it.
    NotYet,
}

/// Why a job that was open ended without the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failure {
    Local,
    WrongDigest,
    /// The upstream has the files of the delta, but not as long as its superblock says.
    OtherLength,
    Sources,
}

/// A job, as its readers and the table of jobs see it.
pub(super) struct Job {
    name: BlobName,
    phase: Ranked<Phase>,
    changed: Signal,
    /// Who asked last and was let in: its credential is the freshest.
    origin: Ranked<Origin>,
    events: Sender<Event>,
    inbox: Receiver<Event>,
    membership: OnceLock<Arc<Membership>>,
    /// Of a delta: its files.
    pub(super) layout: OnceLock<Arc<Layout>>,
    failure: OnceLock<Failure>,
    /// It comes from upstream first, though it is shared with others on its way.
    leads: AtomicBool,
    /// The upstream's latest answer that would be the same if it was asked again.
    refusal: OnceLock<Answer>,
}

impl Job {
    pub(super) fn new(name: BlobName, origin: Origin) -> Job {
        let (events, inbox) = mailbox(EVENTS_MAX);
        Job {
            name,
            phase: Ranked::new(Rank::Job, Phase::Opening),
            changed: Signal::new(),
            origin: Ranked::new(Rank::Leaf, origin),
            events,
            inbox,
            membership: OnceLock::new(),
            layout: OnceLock::new(),
            failure: OnceLock::new(),
            leads: AtomicBool::new(false),
            refusal: OnceLock::new(),
        }
    }

    /// Waits until the leader has opened the job, or could not, at most until `deadline`.
    pub(super) fn opened(&self, deadline: Time) -> Opened {
        thread::before_wait();
        let mut phase = self.phase.lock();
        loop {
            match &*phase {
                Phase::Opening if Time::now() >= deadline => return Opened::NotYet,
                Phase::Opening => phase = self.changed.wait_until(phase, deadline),
                Phase::Open(partial) => return Opened::Yes(Arc::clone(partial)),
                Phase::Closed => return Opened::No,
                Phase::TimedOut => return Opened::TimedOut,
            }
        }
    }

    /// What of it is here, if it is open.
    pub(super) fn partial(&self) -> Option<Arc<Partial>> {
        match &*self.phase.lock() {
            Phase::Open(partial) => Some(Arc::clone(partial)),
            _ => None,
        }
    }

    fn set_phase(&self, to: Phase) {
        *self.phase.lock() = to;
        self.changed.wake_all();
    }

    /// Ends a job that is not open, because the upstream did not answer.
    pub(super) fn time_out(&self) {
        self.set_phase(Phase::TimedOut);
    }

    /// Ends a job that was never opened, and says whether it is such; an open one goes its own way.
    pub(super) fn close_unless_open(&self) -> bool {
        let mut phase = self.phase.lock();
        if matches!(*phase, Phase::Opening) {
            *phase = Phase::Closed;
            self.changed.wake_all();
        }
        !matches!(*phase, Phase::Open(_))
    }

    /// Where those tell the conductor who work for it.
    pub(super) fn events(&self) -> Sender<Event> {
        self.events.clone()
    }

    pub(super) fn name(&self) -> BlobName {
        self.name
    }

    /// Where its bytes are.
    pub(super) fn place(&self) -> Place {
        Place { origin: self.origin.lock().clone(), layout: self.layout.get().cloned() }
    }

    /// Where who asked last wants it from.
    fn url(&self) -> Url {
        self.origin.lock().url.clone()
    }

    /// The files of a delta, once the job is open; `None`: the blob is one file.
    pub(super) fn layout(&self) -> Option<&Arc<Layout>> {
        self.layout.get()
    }

    /// Takes over the origin of a reader that was let in.
    pub(super) fn set_origin(&self, origin: &Origin) {
        let before = std::mem::replace(&mut *self.origin.lock(), origin.clone());
        if Claimant::of(&before) != Claimant::of(origin) {
            self.look();
        }
    }

    /// Has the conductor look at its plan.
    pub(super) fn look(&self) {
        // A full queue means that it has enough to wake for.
        let _ = self.events.try_send(Event::Look);
    }

    /// Whether its bytes come from a swarm, and from upstream only what is missing there.
    pub(super) fn is_in_swarm(&self) -> bool {
        self.membership.get().is_some() && !self.leads.load(Ordering::Relaxed)
    }

    /// From now on its bytes come from upstream, whatever others have of them.
    pub(super) fn now_leads(&self) {
        self.leads.store(true, Ordering::Relaxed);
    }

    /// Tells the early swarm, if there is one, the hashes after the first `told`, and counts them.
    fn tell_hashes(&self, blob_len: u64, hashes: &[Sha1Hash], told: &mut usize) {
        let Some(membership) = self.membership.get() else { return };
        let Ok(geometry) = Geometry::for_blob(blob_len) else { return };
        let pieces = geometry.pieces().zip(hashes).skip(*told);
        pieces.for_each(|(piece, hash)| membership.hashed(piece, *hash));
        *told = hashes.len();
    }

    pub(super) fn readers_moved(&self) {
        if let Some(membership) = self.membership.get() {
            membership.readers_moved();
        }
    }

    pub(super) fn failed_locally(&self) -> bool {
        self.failure.get() == Some(&Failure::Local)
    }

    pub(super) fn is_wrong(&self) -> bool {
        self.failure.get() == Some(&Failure::WrongDigest)
    }

    /// Whether the files of the delta are not those that its superblock describes.
    pub(super) fn is_misdescribed(&self) -> bool {
        self.failure.get() == Some(&Failure::OtherLength)
    }

    /// What the upstream said when it refused to go on.
    pub(super) fn refusal(&self) -> Option<&Answer> {
        self.refusal.get()
    }

    /// Whether the upstream has had enough of questions.
    pub(super) fn is_limited(&self) -> bool {
        self.refusal().is_some_and(|answer| answer.status == 429)
    }

    /// Ends the job without the blob: nobody wants it, or the program stops.
    pub(super) fn cancel(&self) {
        // A full queue means that the conductor has enough to wake for; it looks at the stop flag
        // then.
        let _ = self.events.try_send(Event::Cancel);
    }
}

/// What a leader found before the first byte came.
pub(super) enum Start {
    /// The catalog knows the blob.
    Swarm(Arc<Metainfo>, Arc<Membership>),
    /// It knows which host fetches the blob.
    Early(Claim, Arc<Membership>),
    /// It does not; the upstream's response is open, and this host may have claimed the blob.
    Upstream(Box<Body>, Option<FirstClaim>),
    /// It does not know the delta, which has these files; the superblock is in the partial.
    Delta(Layout),
}

/// The one who starts and ends a job's sources.
pub(super) struct Conductor {
    pub(super) fetcher: Arc<Fetcher>,
    pub(super) job: Arc<Job>,
    pub(super) partial: Arc<Partial>,
    metainfo: Option<Arc<Metainfo>>,
    /// Without metainfo: where the hashes of the pieces come from.
    hashes: Option<Receiver<PieceHashes>>,
    pub(super) membership: Option<Arc<Membership>>,
    /// Without metainfo: our part in the swarm, if there is one.
    pub(super) early: Option<EarlySwarm>,
    /// What becomes of the claim, while it is asked for.
    pub(super) claiming: Option<Receiver<Option<(Claim, Standing)>>>,
    started_at: Time,
    pub(super) fill: Option<Arc<Gauge>>,
    failures: u32,
    ended_at: Option<Time>,
    found_nothing: bool,
    /// As whom the upstream was asked last.
    asked_as: Option<Claimant>,
    /// Whom it has said no to.
    refused: Option<Claimant>,
    run_len: u64,
    wrong_piece: Option<(PieceIndex, Sha1Hash)>,
    upstream_bytes: u64,
    last_error: Option<String>,
    /// Readers were promised the length that the catalog says.
    is_promised: bool,
    /// The last stream ended at a file that has not the length it should have.
    is_other_len: bool,
    meter: Meter,
}

impl Conductor {
    /// Opens `job`: starts its threads and lets its readers in.
    ///
    /// # Errors
    /// If the system refuses a thread: the job stays as it was.
    pub(super) fn start(
        fetcher: &Arc<Fetcher>,
        job: &Arc<Job>,
        partial: &Arc<Partial>,
        start: Start,
    ) -> std::io::Result<()> {
        let now = Time::now();
        let (mut layout, mut early) = (None, None);
        let is_promised = matches!(start, Start::Swarm(..) | Start::Early(..));
        let (metainfo, membership, body, claim) = match start {
            Start::Swarm(metainfo, membership) => {
                layout = metainfo.layout().cloned();
                (Some(metainfo), Some(membership), None, None)
            }
            Start::Early(claim, membership) => {
                early = Some(EarlySwarm::new(claim, Standing::Follower));
                (None, Some(membership), None, None)
            }
            Start::Upstream(body, ours) => {
                early = ours.as_ref().map(|ours| EarlySwarm::new(ours.claim, Standing::Leader));
                let membership = ours.as_ref().map(|ours| Arc::clone(&ours.membership));
                (None, membership, Some(Stream::of_body(*body)), ours)
            }
            Start::Delta(files) => {
                layout = Some(files);
                (None, None, None, None)
            }
        };
        // The superblock of a delta that nobody has was fetched before there was a job.
        let superblock = layout.as_ref().filter(|_| metainfo.is_none());
        let upstream_bytes = superblock.and_then(|files| files.lens().next()).unwrap_or(0);
        if let Some(layout) = layout {
            let _ = job.layout.set(Arc::new(layout));
        }
        let mut conductor = Conductor {
            fetcher: Arc::clone(fetcher),
            job: Arc::clone(job),
            partial: Arc::clone(partial),
            metainfo,
            hashes: None,
            membership: None,
            early,
            claiming: None,
            started_at: now,
            fill: None,
            failures: 0,
            ended_at: None,
            found_nothing: false,
            asked_as: None,
            refused: None,
            run_len: limits::FILL_RUN_LEN_MIN,
            wrong_piece: None,
            upstream_bytes,
            last_error: None,
            is_promised,
            is_other_len: false,
            meter: Meter::new(now),
        };
        if let Some(membership) = membership {
            conductor.enter(membership);
        }
        conductor.start_threads(body).inspect_err(|_| {
            partial.feed().fail("no thread could be started");
        })?;
        if let Some(claim) = claim {
            claim.keep();
        }
        job.set_phase(Phase::Open(Arc::clone(partial)));
        Ok(())
    }

    /// The job has a part in a swarm from now on.
    pub(super) fn enter(&mut self, membership: Arc<Membership>) {
        if self.leads() && self.metainfo.is_none() {
            self.job.now_leads();
        }
        let _ = self.job.membership.set(Arc::clone(&membership));
        membership.readers_moved();
        self.membership = Some(membership);
    }

    /// Starts those who follow what comes, and then the conductor itself.
    fn start_threads(mut self, body: Option<Stream>) -> std::io::Result<()> {
        let fetcher = Arc::clone(&self.fetcher);
        fetcher.keep(self.start_follower()?);
        if self.metainfo.is_none() {
            fetcher.keep(self.start_hashing()?);
        }
        let name = format!("job {}", self.job.name.short());
        let conductor = thread::spawn(name, Role::Core, move || {
            if let Some(body) = body {
                self.start_fill(Some(body), false);
            }
            self.conduct();
        })?;
        fetcher.keep(conductor);
        Ok(())
    }

    fn start_follower(&self) -> std::io::Result<thread::Handle> {
        let (name, partial) = (self.job.name, Arc::clone(&self.partial));
        let (events, from_upstream) = (self.job.events.clone(), self.metainfo.is_none());
        let layout = self.job.layout().cloned();
        let room = Arc::clone(&self.fetcher.judging);
        thread::spawn(format!("hash {}", name.short()), Role::Core, move || {
            let again = || {
                figures::MISMATCHES_UPSTREAM.add(1);
                crate::log_limited!(warn, "blob {name}: a part is wrong and fetched again");
                let _ = events.send(Event::TakenBack);
            };
            // What comes by a swarm has the hashes of the catalog: then it is that which is wrong.
            let again: Option<&dyn Fn()> = if from_upstream { Some(&again) } else { None };
            let layout = layout.as_deref();
            let verdict = follow::follow(&name, &partial, layout, again, &room);
            let _ = events.send(Event::Judged(verdict));
        })
    }

    fn start_hashing(&mut self) -> std::io::Result<thread::Handle> {
        let (sender, receiver) = mailbox(1);
        self.hashes = Some(receiver);
        let (fetcher, partial) = (Arc::clone(&self.fetcher), Arc::clone(&self.partial));
        let is_delta = self.job.layout().is_some();
        let job = Arc::clone(&self.job);
        thread::spawn(format!("pieces {}", self.job.name.short()), Role::Core, move || {
            thread::give_way(limits::BACKGROUND_NICE);
            let mut told = 0;
            // Those of a delta are told before they are known to be right.
            let mut tell = |hashes: &[Sha1Hash]| {
                if is_delta {
                    return;
                }
                job.tell_hashes(partial.len().unwrap_or(0), hashes, &mut told);
            };
            let hashes = pieces::follow(&partial, is_delta, &|| fetcher.is_stopping(), &mut tell);
            let _ = sender.send(hashes);
        })
    }

    fn conduct(&mut self) {
        let _running = figures::JOBS.hold();
        if self.metainfo.is_none() && self.early.is_none() {
            self.claim_blob();
        }
        let failure = self.run();
        if let Some(fill) = &self.fill {
            fill.leave();
        }
        if let Some((failure, why)) = failure {
            self.claimed();
            self.release_claim();
            // Before anybody learns of it: who asks again at once starts afresh.
            self.fetcher.forget(&self.job);
            self.fetcher.store().discard(&self.partial);
            let _ = self.job.failure.set(failure);
            if self.membership.is_none() && failure != Failure::Local {
                let refused = self.refused.take().zip(self.job.refusal().cloned());
                let why = match refused {
                    _ if failure == Failure::OtherLength => Lack::Misdescribed,
                    Some((claimant, answer)) => Lack::Refused(claimant, answer),
                    None => Lack::Broken,
                };
                self.fetcher.delta_failed(&self.job.name, why);
            }
            self.partial.feed().fail(&why);
            crate::log_limited!(warn, "blob {} failed: {why}", self.job.name);
        }
        self.fetcher.forget(&self.job);
        let transfer = self.transfer(failure_text(self.job.failure.get()));
        log::info!("{transfer}");
        if matches!(transfer.name, BlobName::Delta(_)) {
            count_delta(&transfer);
        }
        self.fetcher.remember(transfer);
    }

    /// Runs the job to its end: `None` if the blob is whole.
    fn run(&mut self) -> Option<(Failure, String)> {
        loop {
            let look_at = match self.step() {
                Ok(look_at) => look_at,
                Err(failure) => return Some(failure),
            };
            match self.job.inbox.recv_until(look_at) {
                Ok(Event::FillEnded { gauge, result }) => {
                    if let Some(failure) = self.fill_ended(&gauge, result) {
                        return Some(failure);
                    }
                }
                Ok(Event::Judged(verdict)) => return self.judged(verdict),
                Ok(Event::Claimed) => self.claimed(),
                Ok(Event::TakenBack) => {
                    // The stream is far ahead of what is wanted now.
                    self.leave_fill();
                    self.leave_early();
                }
                Ok(Event::Cancel) => return Some((Failure::Sources, "given up".into())),
                Ok(Event::Look) | Err(_) => {}
            }
            if self.fetcher.is_stopping() {
                return Some((Failure::Sources, "the program stops".into()));
            }
        }
    }

    /// Lets go of the stream that is running, if there is one.
    pub(super) fn leave_fill(&mut self) {
        if let Some(gauge) = self.fill.take() {
            gauge.leave();
            self.settle(&gauge);
        }
    }

    /// Whether the upstream has said no to who asked last. With the credential of another it may
    /// say yes: a token expires, and a client that was let in comes with a new one.
    fn is_refused(&self) -> bool {
        let origin = || self.job.origin.lock().clone();
        self.refused.as_ref().is_some_and(|refused| *refused == Claimant::of(&origin()))
    }

    /// Does what is due and says when to look again.
    fn step(&mut self) -> Result<Time, (Failure, String)> {
        let now = Time::now();
        if self.partial.feed().is_complete() {
            return Ok(now + limits::READER_PATIENCE);
        }
        let view = self.view(now)?;
        match plan::next(&view) {
            Step::Wait(until) => {
                return Ok(self.renew_claim(now).map_or(until, |renewed| renewed.min(until)));
            }
            Step::Fill { .. } if view.swarm.is_some_and(|swarm| swarm.early.is_some()) => {
                self.take_over();
            }
            Step::Fill { steal } => self.start_fill(None, steal),
            Step::Replace => self.replace_fill(now),
            Step::GiveUp => {
                let why = self.last_error.take().unwrap_or_else(|| "no source is left".into());
                let failure = match self.is_other_len {
                    true => Failure::OtherLength,
                    false => Failure::Sources,
                };
                return Err((failure, why));
            }
        }
        Ok(now)
    }

    fn view(&mut self, now: Time) -> Result<View, (Failure, String)> {
        let fill = match &self.fill {
            Some(gauge) => FillView::Running { last_byte_at: gauge.last_byte_at() },
            None => FillView::Idle {
                failures: self.failures,
                ended_at: self.ended_at,
                found_nothing: self.found_nothing,
                refused: self.is_refused(),
            },
        };
        let progress = self.membership.as_ref().map(|membership| membership.progress());
        let swarm = match progress.filter(|_| self.membership.is_some()) {
            None => None,
            Some(progress) => {
                if let Some(why) = progress.failed {
                    return Err((Failure::Local, why));
                }
                let bytes = progress.bytes_from_peers.values().sum();
                let since = self.early.as_ref().map_or(self.started_at, |early| early.since);
                let is_followed = self.metainfo.is_some() || !self.leads();
                let early = self.early.is_some().then(|| self.patience(progress.links));
                let rate = match early {
                    Some(_) => meter::average(bytes, now.since(self.started_at)),
                    None => self.meter.rate(now, bytes),
                };
                is_followed.then_some(SwarmView {
                    joined_at: since,
                    last_byte_at: progress.last_byte_at.map(|at| at.max(since)),
                    nobody: progress.nobody,
                    rate,
                    early,
                })
            }
        };
        let upstream = self.job.url();
        let upstream_rate = self.fetcher.rates.lock().of(&upstream);
        Ok(View { now, started_at: self.started_at, swarm, fill, upstream_rate })
    }

    fn start_fill(&mut self, begun: Option<Stream>, steal: bool) {
        let gauge = Arc::new(Gauge::new(Time::now()));
        let place = self.job.place();
        self.asked_as = Some(Claimant::of(&place.origin));
        let fill = Fill {
            upstream: self.fetcher.upstream(),
            place,
            partial: Arc::clone(&self.partial),
            gauge: Arc::clone(&gauge),
        };
        let swarm = self.metainfo.clone().zip(self.membership.clone());
        let run = Run { from: self.wanted(), len_max: self.run_len, steal };
        let events = self.job.events.clone();
        let ended = Arc::clone(&gauge);
        let spawned =
            thread::spawn(format!("fill {}", self.job.name.short()), Role::Core, move || {
                let result = match &swarm {
                    Some((metainfo, membership)) => fill.pieces(membership, metainfo, &run),
                    None => match fill.place.layout.clone() {
                        Some(layout) => fill.files(&layout, run.from),
                        None => fill.gap(run.from, begun),
                    },
                };
                let _ = events.send(Event::FillEnded { gauge: ended, result });
            });
        match spawned {
            Ok(handle) => {
                self.fetcher.keep(handle);
                self.fill = Some(gauge);
                self.ask_nobody();
            }
            Err(error) => self.fill_failed(format!("no thread for the stream: {error}")),
        }
    }

    /// The byte that is wanted most: the first missing one at the reader that waits for the
    /// earliest.
    fn wanted(&self) -> u64 {
        let feed = self.partial.feed();
        let missing = feed.readers().into_iter().map(|at| feed.readable_from(at));
        missing.min().unwrap_or_else(|| feed.prefix())
    }

    fn replace_fill(&mut self, now: Time) {
        self.leave_fill();
        let why = format!("the upstream sent nothing for {:?}", limits::FILL_STALLED);
        self.ended_at = Some(now);
        self.fill_failed(why);
    }

    fn fill_failed(&mut self, why: String) {
        self.failures += 1;
        self.ended_at = Some(Time::now());
        self.ask_again();
        crate::log_limited!(warn, "blob {}: {why}", self.job.name);
        self.last_error = Some(why);
    }

    /// Books what a stream brought.
    fn settle(&mut self, gauge: &Gauge) {
        self.upstream_bytes += gauge.bytes();
        // An upstream that sends a few bytes at a time before it breaks is as good as one that is
        // down.
        if gauge.brought() >= limits::COPY_LEN as u64 {
            self.failures = 0;
        }
        if let Some(rate) = gauge.rate() {
            let upstream = self.job.url();
            self.fetcher.rates.lock().saw(&upstream, rate);
        }
    }

    fn fill_ended(
        &mut self,
        gauge: &Arc<Gauge>,
        result: Result<FillEnd, FillError>,
    ) -> Option<(Failure, String)> {
        // A stream that was left is booked already.
        if !self.fill.as_ref().is_some_and(|fill| Arc::ptr_eq(fill, gauge)) {
            return None;
        }
        self.fill = None;
        self.settle(gauge);
        self.ended_at = Some(Time::now());
        self.found_nothing = matches!(result, Ok(FillEnd::FoundNothing));
        match result {
            Ok(FillEnd::Done) => {
                self.run_len = (self.run_len * 2).min(limits::FILL_RUN_LEN_MAX);
            }
            Ok(FillEnd::FoundNothing | FillEnd::Left) => {}
            Err(FillError::Store(error)) => return Some((Failure::Local, error.to_string())),
            Err(FillError::WrongPiece { piece, got }) => {
                if self.wrong_piece == Some((piece, got)) {
                    // Twice the same bytes: it is the catalog that is wrong, and with it every
                    // piece.
                    self.distrust();
                    let why = "the catalog's piece hashes are not the upstream's".into();
                    return Some((Failure::WrongDigest, why));
                }
                self.wrong_piece = Some((piece, got));
                self.fill_failed(FillError::WrongPiece { piece, got }.to_string());
            }
            Err(error) if self.is_promised && is_other_len(&error) => {
                // Readers were promised the catalog's length: this job cannot end well.
                self.pass_over();
                return Some((Failure::WrongDigest, error.to_string()));
            }
            Err(error) => {
                let is_begun = self.partial.feed().readable() > 0;
                let is_refused = matches!(&error, FillError::Upstream(error)
                    if is_final(error) || (!is_begun && is_limited(error)));
                self.refused = self.asked_as.take().filter(|_| is_refused);
                self.is_other_len =
                    matches!(&error, FillError::Upstream(UpstreamError::OtherLength { .. }));
                self.fill_failed(error.to_string());
                if let (true, FillError::Upstream(UpstreamError::Status(answer))) =
                    (is_refused, error)
                {
                    let _ = self.job.refusal.set(*answer);
                }
            }
        }
        None
    }

    fn judged(&mut self, verdict: Option<Verdict>) -> Option<(Failure, String)> {
        match verdict {
            Some(Verdict::Right) => {
                self.partial.feed().finish();
                // The readers have all: who is to seal it knows whose claim it is.
                self.claimed();
                if self.early.is_some() && self.has_bytes_of_peers() {
                    self.fetcher.followed.lock().worked();
                }
                if let Err(error) = self.seal() {
                    // The readers have their bytes; only the next one asks again.
                    log::warn!("blob {} is not kept: {error}", self.job.name);
                    self.release_claim();
                }
                None
            }
            Some(Verdict::Wrong) => {
                if self.has_bytes_of_peers() {
                    figures::MISMATCHES_PEER.add(1);
                    self.distrust();
                } else {
                    figures::MISMATCHES_UPSTREAM.add(1);
                }
                Some((Failure::WrongDigest, "the digest is wrong".into()))
            }
            Some(Verdict::Unreadable(error)) => Some((Failure::Local, error.to_string())),
            None => Some((Failure::Sources, "ended from outside".into())),
        }
    }

    /// Makes the blob one of the store's, and tells the catalog and the swarm.
    fn seal(&self) -> Result<(), StoreError> {
        let metainfo = match &self.metainfo {
            Some(metainfo) => Arc::clone(metainfo),
            None => match self.make_metainfo()? {
                Some(metainfo) => Arc::new(metainfo),
                None => {
                    self.release_claim();
                    return Ok(());
                }
            },
        };
        let blob = self.fetcher.seal(&self.partial, &metainfo)?;
        let entry = SeedEntry { name: blob.name(), info_hash: blob.info_hash(), len: blob.len() };
        if self.metainfo.is_none() {
            let ours = self.early.as_ref().filter(|early| early.standing == Standing::Leader);
            self.fetcher.introduce(&entry, metainfo, ours.map(|early| early.claim));
        }
        if let Some(membership) = &self.membership {
            membership.became_whole(blob);
        }
        Ok(())
    }

    /// Waits for the hashes of the pieces. `None`: the blob is not to be kept.
    fn make_metainfo(&self) -> Result<Option<Metainfo>, StoreError> {
        let hashes = self.hashes.as_ref().and_then(|hashes| hashes.recv().ok());
        let Some(hashes) = hashes.transpose()?.flatten() else { return Ok(None) };
        let made = match self.job.layout() {
            Some(layout) => Metainfo::of_delta(&self.job.name, layout, hashes),
            None => {
                let blob_len = self.partial.len().unwrap_or(0);
                Metainfo::of_blob(&self.job.name, blob_len, hashes)
            }
        };
        Ok(made.inspect_err(|error| log::error!("blob {}: {error}", self.job.name)).ok())
    }

    fn distrust(&self) {
        match &self.metainfo {
            Some(metainfo) => self.fetcher.distrust(&self.job.name, metainfo),
            None => self.fetcher.distrust_early(&self.job.name),
        }
    }

    fn pass_over(&self) {
        match &self.metainfo {
            Some(metainfo) => self.fetcher.pass_over(&self.job.name, metainfo),
            None => self.fetcher.distrust_early(&self.job.name),
        }
    }

    pub(super) fn has_bytes_of_peers(&self) -> bool {
        let progress = self.membership.as_ref().map(|membership| membership.progress());
        progress.is_some_and(|progress| !progress.bytes_from_peers.is_empty())
    }

    fn transfer(&self, failure: Option<&'static str>) -> Transfer {
        let peers = match &self.membership {
            Some(membership) => membership.progress().bytes_from_peers,
            None => BTreeMap::new(),
        };
        let running = self.fill.as_ref().map_or(0, |fill| fill.bytes());
        Transfer {
            name: self.job.name,
            ended_unix: clock::unix_seconds(),
            bytes: self.partial.len().unwrap_or_else(|| self.partial.feed().prefix()),
            millis: u64::try_from(Time::now().since(self.started_at).as_millis()).unwrap_or(0),
            upstream: self.upstream_bytes + running,
            peers,
            failure,
        }
    }
}

fn count_delta(transfer: &Transfer) {
    let is_done = transfer.failure.is_none();
    if is_done { &figures::DELTAS_DONE } else { &figures::DELTAS_FAILED }.add(1);
    figures::DELTA_BYTES_FROM_UPSTREAM.add(transfer.upstream);
    figures::DELTA_BYTES_FROM_PEERS.add(transfer.peers.values().sum());
}

fn failure_text(failure: Option<&Failure>) -> Option<&'static str> {
    failure.map(|failure| match failure {
        Failure::Local => "the local disk failed",
        Failure::WrongDigest => "wrong digest",
        Failure::OtherLength => "the superblock is wrong about its parts",
        Failure::Sources => "no source was left",
    })
}

/// Whether the upstream says that the blob has another length than the catalog does.
fn is_other_len(error: &FillError) -> bool {
    match error {
        FillError::Length { .. } => true,
        FillError::Upstream(UpstreamError::Status(answer)) => answer.status == 416,
        _ => false,
    }
}

/// Whether the upstream has had enough of questions: nothing is lost yet if the client is told so.
fn is_limited(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Status(answer) if answer.status == 429)
}

/// Whether asking again would bring the same answer.
fn is_final(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Status(answer) => {
            (400..500).contains(&answer.status) && !matches!(answer.status, 408 | 425 | 429)
        }
        _ => false,
    }
}
