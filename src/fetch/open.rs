//! From a request to a reader: store, running job, catalog and swarm, upstream, in this order.

use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::Arc;

use crate::base::blame::Blame;
use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::ContentHasher;
use crate::base::thread;
use crate::catalog::Claim;
use crate::fetch::access::is_refusal;
use crate::fetch::early::{First, FirstClaim};
use crate::fetch::grants::Standing;
use crate::fetch::job::{Conductor, Job, Opened, Start};
use crate::fetch::reader::{Arriving, Passing, Source, Unsettled};
use crate::fetch::stream::Stream;
use crate::fetch::{Fetcher, Loaded, Reader, plan};
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::http1::{ByteRange, RangeAnswer};
use crate::proto::metainfo::Metainfo;
use crate::proto::ostree::layout::Layout;
use crate::store::Partial;
use crate::upstream::{Body, Origin, Upstream, UpstreamError};

/// A request for one blob.
#[derive(Clone, Debug)]
pub struct BlobRequest {
    /// Which blob.
    pub name: BlobName,
    /// Where it really lives, with the headers that may be forwarded.
    pub origin: Origin,
    /// The part that is wanted; `None`: all of it.
    pub range: Option<ByteRange>,
    /// Of a delta: which of its files; then the range is of that file.
    pub file: Option<DeltaFile>,
    /// That who asks may have it was found out otherwise. Nothing is learnt from such a request:
    /// neither who may have the blob, nor where it is.
    pub is_granted: bool,
    /// Its length, if that is known of a blob that no two hosts are to ask the upstream for: it is
    /// claimed before that, however short it is.
    pub told_len: Option<u64>,
}

/// One file of a static delta, as it is asked for.
#[derive(Clone, Debug, Default)]
pub struct DeltaFile {
    /// Which: 0 is the superblock, N + 1 is part N.
    pub index: usize,
    /// Where the files lie, if that is known.
    pub layout: Option<Arc<Layout>>,
    /// The superblock, if it is in hand.
    pub superblock: Option<Arc<Loaded>>,
}

/// Why a request gets no reader.
#[derive(Debug)]
pub enum FetchError {
    /// The upstream refused it, or could not be asked.
    Upstream(UpstreamError),
    /// The range lies outside of the blob, which has this length.
    Unsatisfiable(u64),
    /// This host cannot serve it now.
    Local(String),
    /// The upstream has another superblock than the name is of; this one.
    Renewed(Arc<Loaded>),
    /// What the upstream has is no static delta that can be shared: to be passed on as it is.
    NoDelta,
    /// The delta has no such file.
    NoFile,
}

impl FetchError {
    /// Whose fault it is.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            FetchError::Upstream(_) | FetchError::Renewed(_) | FetchError::NoDelta => {
                Blame::Upstream
            }
            FetchError::Unsatisfiable(_) | FetchError::NoFile => Blame::Client,
            FetchError::Local(_) => Blame::Local,
        }
    }
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Upstream(error) => write!(f, "{error}"),
            FetchError::Unsatisfiable(len) => write!(f, "the range lies outside of {len} bytes"),
            FetchError::Local(why) => f.write_str(why),
            FetchError::Renewed(_) => f.write_str("the upstream has another superblock"),
            FetchError::NoDelta => f.write_str("the upstream's file is no static delta"),
            FetchError::NoFile => f.write_str("the delta has no such part"),
        }
    }
}

impl std::error::Error for FetchError {}

/// What the catalog knows of a blob.
enum Known {
    /// Some host has all of it.
    Whole(Arc<Metainfo>),
    /// Some host fetches it from upstream now.
    Early(Claim),
}

/// The part of a request in the table of jobs.
enum Seat {
    /// This request leads the job.
    Leader(Leadership),
    /// Another does.
    Follower(Arc<Job>),
    /// There are too many jobs.
    Standing,
}

/// Ends the job if its leader leaves before it is open, by error or panic.
struct Leadership {
    fetcher: Arc<Fetcher>,
    job: Arc<Job>,
}

impl Drop for Leadership {
    fn drop(&mut self) {
        if self.job.close_unless_open() {
            self.fetcher.forget(&self.job);
        }
    }
}

impl Fetcher {
    /// Opens a reader for `request`, waiting until the first bytes are certain to be on their way.
    ///
    /// # Errors
    /// [`FetchError`]: nothing has been sent, the client can be told.
    pub fn open(self: &Arc<Self>, request: &BlobRequest) -> Result<Reader, FetchError> {
        let mut reader = self.open_once(request)?;
        let mut settled = reader.settle();
        if matches!(settled, Err(Unsettled::Misled)) {
            drop(reader);
            // Nothing has left yet, and the catalog's entry is passed over from now on.
            reader = self.open_once(request)?;
            settled = reader.settle();
        }
        match settled {
            Err(Unsettled::Failed { refusal: Some(answer), .. }) => {
                Err(FetchError::Upstream(UpstreamError::Status(answer)))
            }
            Err(Unsettled::Misdescribed) => Err(FetchError::NoDelta),
            Err(Unsettled::Failed { error, .. }) => Err(FetchError::Local(error.to_string())),
            // Misled twice: the reader says so when it is read.
            Ok(()) | Err(Unsettled::Misled) => Ok(reader),
        }
    }

    fn open_once(self: &Arc<Self>, request: &BlobRequest) -> Result<Reader, FetchError> {
        // The upstream may have forgotten the leader's question alone. A superblock is asked for
        // more than once, and taken whole, before the job of a delta opens.
        let patience = match request.file {
            Some(_) => limits::READER_PATIENCE,
            None => limits::FILL_STALLED,
        };
        loop {
            if let Some(reader) = self.stored(request)? {
                return Ok(reader);
            }
            if self.is_stopping() {
                return Err(FetchError::Local("the program stops".into()));
            }
            match self.seat(request) {
                Seat::Leader(leadership) => {
                    let reader = self.lead(request, &leadership);
                    if let Err(FetchError::Upstream(UpstreamError::TimedOut)) = &reader {
                        leadership.job.time_out();
                    }
                    return reader;
                }
                Seat::Follower(job) => match job.opened(Time::now() + patience) {
                    Opened::Yes(partial) => return self.join(request, &job, &partial),
                    // One after the other, each would wait as long in vain.
                    Opened::TimedOut if self.standing(request) == Standing::Unknown => {
                        return Err(FetchError::Upstream(UpstreamError::TimedOut));
                    }
                    // The leader's failure may be its own, such as its credential: ask anew.
                    Opened::TimedOut | Opened::No => {}
                    Opened::NotYet => return self.pass(request),
                },
                Seat::Standing => return self.pass(request),
            }
        }
    }

    /// The blob's length, if this host has it whole and the upstream would serve this request.
    ///
    /// # Errors
    /// As [`Fetcher::open`].
    pub fn stat(&self, request: &BlobRequest) -> Result<Option<u64>, FetchError> {
        let Some(blob) = self.store().blob(&request.name) else { return Ok(None) };
        self.authorise(request)?;
        Ok(Some(blob.len()))
    }

    /// As [`Fetcher::stat`], of a blob that the upstream has at this moment, if it can be asked.
    ///
    /// # Errors
    /// As [`Fetcher::open`].
    pub fn stat_now(&self, request: &BlobRequest) -> Result<Option<u64>, FetchError> {
        let Some(blob) = self.store().blob(&request.name) else { return Ok(None) };
        self.confirm(request)?;
        Ok(Some(blob.len()))
    }

    fn stored(&self, request: &BlobRequest) -> Result<Option<Reader>, FetchError> {
        let Some(blob) = self.store().blob(&request.name) else { return Ok(None) };
        self.authorise(request)?;
        let layout = match &request.file {
            Some(DeltaFile { layout: Some(layout), .. }) => Some(Arc::clone(layout)),
            Some(_) => {
                blob.metainfo().ok().and_then(|metainfo| metainfo.layout().cloned().map(Arc::new))
            }
            None => None,
        };
        let part = request.part(layout.as_deref(), Some(blob.len()))?;
        let source = Source::Stored(self.stored_at(blob, &request.origin));
        Ok(Some(part.reader(request.name, source, layout)))
    }

    fn seat(self: &Arc<Self>, request: &BlobRequest) -> Seat {
        let mut jobs = self.jobs.lock();
        let full = jobs.len() >= limits::JOBS_MAX;
        match jobs.entry(request.name) {
            Entry::Occupied(job) => Seat::Follower(Arc::clone(job.get())),
            Entry::Vacant(_) if full => Seat::Standing,
            Entry::Vacant(vacant) => {
                let job = Arc::new(Job::new(request.name, request.origin.clone()));
                vacant.insert(Arc::clone(&job));
                Seat::Leader(Leadership { fetcher: Arc::clone(self), job })
            }
        }
    }

    fn join(
        &self,
        request: &BlobRequest,
        job: &Arc<Job>,
        partial: &Arc<Partial>,
    ) -> Result<Reader, FetchError> {
        // Who goes on with what it has takes no whole for a part, and the upstream may know how
        // long the blob is.
        if request.range.is_some() && partial.len().is_none() {
            return self.pass(request);
        }
        self.authorise(request)?;
        if !request.is_granted {
            job.set_origin(&request.origin);
        }
        self.reader(request, job, partial)
    }

    pub(super) fn reader(
        &self,
        request: &BlobRequest,
        job: &Arc<Job>,
        partial: &Arc<Partial>,
    ) -> Result<Reader, FetchError> {
        let layout = job.layout().cloned();
        let part = request.part(layout.as_deref(), partial.len())?;
        let at = part.at;
        let arriving = Arriving {
            job: Arc::clone(job),
            partial: Arc::clone(partial),
            ticket: partial.feed().reader(at),
            upstream: self.upstream(),
            told: at,
            early: None,
            held: limits::PART_HELD,
            room: Arc::clone(&self.judging),
        };
        job.readers_moved();
        Ok(part.reader(request.name, Source::Arriving(arriving), layout))
    }

    fn lead(
        self: &Arc<Self>,
        request: &BlobRequest,
        leadership: &Leadership,
    ) -> Result<Reader, FetchError> {
        // The job before this one may have ended between the look into the store and the seat.
        if let Some(reader) = self.stored(request)? {
            return Ok(reader);
        }
        let (known, claim) = self.catalogued(request);
        if let Some(known) = known
            && self.is_worth_room(request, &known)
            && let Some((partial, start)) = self.join_swarm(&leadership.job, known)
        {
            // The pieces are on their way while the upstream is asked. Nobody else reads them yet:
            // who is refused leaves nothing behind, and whoever waits asks for itself.
            self.authorise(request).inspect_err(|_| self.store().discard(&partial))?;
            if Conductor::start(self, &leadership.job, &partial, start).is_ok() {
                return self.reader(request, &leadership.job, &partial);
            }
        }
        match &request.file {
            Some(file) => self.lead_delta(request, file, &leadership.job),
            None => self.lead_from_upstream(request, &leadership.job, claim),
        }
    }

    /// Where the catalog says that the blob is, or that it will be. If nobody has it and it is one
    /// that is claimed first: that this host fetches it.
    fn catalogued(self: &Arc<Self>, request: &BlobRequest) -> (Option<Known>, Option<FirstClaim>) {
        thread::before_wait();
        let name = &request.name;
        // Once more, if it came into the catalog between the look-up and the claim.
        for _ in 0..2 {
            let deadline = Time::now() + limits::CATALOG_LOOKUP;
            let Ok(entry) = self.catalog().lookup(name, deadline) else { break };
            if let Some(torrent) = entry.torrent {
                return (self.metainfo(name, &torrent).map(Known::Whole), None);
            }
            // That of a delta is found once its superblock is here (`Conductor::claim_blob`).
            if request.file.is_some() || self.is_early_distrusted(name) || !self.follows_claims() {
                break;
            }
            // Others wait for who has claimed it: for nobody that the upstream may refuse.
            let told_len = request.told_len.filter(|_| self.may_read(&request.origin));
            match (entry.claim, told_len) {
                (Some(claim), _) => return (Some(Known::Early(claim)), None),
                (None, Some(len)) => match self.claim_first(name, len) {
                    Some(First::Ours(claim)) => return (None, Some(claim)),
                    Some(First::Others(claim)) => return (Some(Known::Early(claim)), None),
                    Some(First::Known) => {}
                    None => break,
                },
                (None, None) => break,
            }
        }
        (None, None)
    }

    /// The metainfo in the catalog's entry for `name`, if it is what we would have made ourselves.
    fn metainfo(&self, name: &BlobName, torrent: &[u8]) -> Option<Arc<Metainfo>> {
        match Metainfo::decode(torrent) {
            Ok(metainfo) if !metainfo.is_of(name) => {
                crate::log_limited!(warn, "blob {name}: the catalog's entry is of another blob");
                None
            }
            Ok(metainfo) if self.is_distrusted(name, &metainfo) => None,
            Ok(metainfo) => Some(Arc::new(metainfo)),
            Err(error) => {
                crate::log_limited!(
                    warn,
                    "blob {name}: the catalog's entry is no torrent: {error}"
                );
                None
            }
        }
    }

    /// Whether there is room for what the catalog has, or the upstream says as well that it is so
    /// long. Nobody vouches for the catalog: others do not go for what it says alone, unless the
    /// upstream cannot be asked. Of a delta the upstream says the lengths of its files alone.
    fn is_worth_room(&self, request: &BlobRequest, known: &Known) -> bool {
        let len = match known {
            Known::Whole(metainfo) => metainfo.geometry().blob_len(),
            Known::Early(claim) => claim.blob_len,
        };
        if request.file.is_some() || self.store().has_room(len) {
            return true;
        }
        match upstream_len(&self.upstream(), &request.origin) {
            Ok(Some(told)) if told != len => {
                let name = request.name;
                crate::log_limited!(warn, "blob {name}: the catalog says {len} bytes, not {told}");
                match known {
                    Known::Whole(metainfo) => self.pass_over(&name, metainfo),
                    Known::Early(_) => self.distrust_early(&name),
                }
                false
            }
            Ok(_) => {
                self.granted(request);
                true
            }
            // Asked for the blob, it says what it has against it.
            Err(UpstreamError::Status(answer)) => !is_refusal(answer.status),
            Err(_) => true,
        }
    }

    /// Joins the swarm of a blob. `None`: it cannot be kept here.
    fn join_swarm(&self, job: &Arc<Job>, known: Known) -> Option<(Arc<Partial>, Start)> {
        let name = &job.name();
        match known {
            Known::Whole(metainfo) => {
                let partial = self.begin(name, Some(metainfo.geometry().blob_len()))?;
                let (of, to_fill) = (Arc::clone(&metainfo), Arc::clone(&partial));
                let conducted = Arc::clone(job);
                let joined = self.engine().join_with(of, to_fill, move || conducted.look());
                let membership = Arc::new(joined.ok()?);
                Some((partial, Start::Swarm(metainfo, membership)))
            }
            Known::Early(claim) => {
                let partial = self.begin(name, Some(claim.blob_len))?;
                let membership = self.join_early(name, &claim, &partial)?;
                figures::CLAIMS_OTHERS.add(1);
                Some((partial, Start::Early(claim, membership)))
            }
        }
    }

    pub(super) fn begin(&self, name: &BlobName, len: Option<u64>) -> Option<Arc<Partial>> {
        match self.store().begin(name, len) {
            Ok(partial) => Some(partial),
            Err(error) => {
                figures::STORE_REFUSED.add(1);
                crate::log_limited!(warn, "blob {name} is passed through, not kept: {error}");
                None
            }
        }
    }

    fn lead_from_upstream(
        self: &Arc<Self>,
        request: &BlobRequest,
        job: &Arc<Job>,
        claim: Option<FirstClaim>,
    ) -> Result<Reader, FetchError> {
        let Some((first, last)) = start_of(request.range) else { return self.pass(request) };
        if !plan::worth_a_job(first, last) {
            return self.pass(request);
        }
        let body = self.upstream().blob(&request.origin, first, None);
        let body = body.map_err(FetchError::Upstream)?;
        self.granted(request);
        let claim = claim.filter(|claim| body.total == Some(claim.claim.blob_len));
        let kept = match (&claim, body.total) {
            (Some(claim), _) => Some(Arc::clone(&claim.partial)),
            // An empty blob has no pieces and needs no store.
            (None, Some(0)) => None,
            (None, total) => self.begin(&request.name, total),
        };
        let Some(partial) = kept else { return passing(request, body) };
        let start = Start::Upstream(Box::new(body), claim);
        Conductor::start(self, job, &partial, start)
            .map_err(|error| FetchError::Local(format!("no thread: {error}")))?;
        self.reader(request, job, &partial)
    }

    /// Passes one answer of the upstream through, past the disk.
    fn pass(&self, request: &BlobRequest) -> Result<Reader, FetchError> {
        if let Some(file) = &request.file {
            return self.pass_delta(request, file);
        }
        let (upstream, origin) = (self.upstream(), &request.origin);
        let (first, end) = match request.range {
            None => (0, None),
            Some(ByteRange::From { first, last }) => {
                (first, last.map(|last| last.saturating_add(1)))
            }
            Some(ByteRange::Suffix(len)) => {
                let total = upstream_len(&upstream, origin).map_err(FetchError::Upstream)?;
                match total.map(|total| cut(Some(ByteRange::Suffix(len)), total)) {
                    Some(cut) => cut.map(|(at, end)| (at, Some(end)))?,
                    None => (0, None),
                }
            }
        };
        let body = upstream.blob(origin, first, end).map_err(FetchError::Upstream)?;
        self.granted(request);
        passing(request, body)
    }
}

/// The length of a blob that is not here, if the upstream says it. A refused `HEAD` has a length
/// too, that of the refusal, and is not the upstream's last word about a `GET`.
fn upstream_len(upstream: &Upstream, origin: &Origin) -> Result<Option<u64>, UpstreamError> {
    let head = upstream.head(origin)?;
    let said = head.headers.text("content-length").filter(|_| head.status == 200);
    match said.and_then(|text| text.parse().ok()) {
        Some(len) => Ok(Some(len)),
        None => Ok(upstream.blob(origin, 0, Some(1))?.total),
    }
}

/// The first and the last byte of a request on a miss, before the length is known; `None`: a range
/// of the last bytes, which only the upstream can resolve.
fn start_of(range: Option<ByteRange>) -> Option<(u64, Option<u64>)> {
    match range {
        None => Some((0, None)),
        Some(ByteRange::From { first, last }) => Some((first, last)),
        Some(ByteRange::Suffix(_)) => None,
    }
}

/// A reader of `body`, which is checked on the way if it is all of the blob.
fn passing(request: &BlobRequest, body: Body) -> Result<Reader, FetchError> {
    let total = body.total;
    let (at, end) = match total {
        Some(0) => (0, None),
        // A part of a blob whose length the upstream does not tell is passed on as that.
        None if body.status == 206 => (body.offset, body.left().map(|left| body.offset + left)),
        None => (0, None),
        Some(len) => cut(request.range, len).map(|(at, end)| (at, Some(end)))?,
    };
    let whole = at == 0 && body.offset == 0 && (end.is_none() || end == total);
    let stream = Stream::of_body(body);
    let digest = request.name.digest();
    let passing = match whole {
        true => Passing::checked(stream, 0, ContentHasher::new(digest.algorithm()), digest),
        false => Passing::new(stream, at),
    };
    let source = Source::Passing(Box::new(passing));
    Ok(Part { base: 0, total, at, end }.reader(request.name, source, None))
}

/// What of a blob an answer is made of.
pub(super) struct Part {
    pub(super) base: u64,
    pub(super) total: Option<u64>,
    pub(super) at: u64,
    pub(super) end: Option<u64>,
}

impl Part {
    pub(super) fn reader(
        self,
        name: BlobName,
        source: Source,
        layout: Option<Arc<Layout>>,
    ) -> Reader {
        let Part { base, total, at, end } = self;
        Reader { name, source, base, total, from: at, at, end, layout }
    }
}

impl BlobRequest {
    /// What is to be answered from a blob of `len` bytes whose files, if it is a delta, lie as
    /// `layout` says.
    pub(super) fn part(
        &self,
        layout: Option<&Layout>,
        len: Option<u64>,
    ) -> Result<Part, FetchError> {
        let (base, total) = match (&self.file, layout) {
            (Some(file), Some(layout)) => {
                let span = layout.span(file.index).ok_or(FetchError::NoFile)?;
                (span.offset, Some(span.len))
            }
            (Some(_), None) => return Err(FetchError::Local("a delta without its files".into())),
            (None, _) => (0, len),
        };
        // Without a length no range can be answered; the whole body is a right answer to any.
        let (at, end) = match total {
            Some(len) => cut(self.range, len).map(|(at, end)| (base + at, Some(base + end)))?,
            None => (0, None),
        };
        Ok(Part { base, total, at, end })
    }
}

/// The first byte and the byte after the last of `range` in a blob of `len` bytes.
fn cut(range: Option<ByteRange>, len: u64) -> Result<(u64, u64), FetchError> {
    match range.map(|range| range.resolve(len)) {
        None | Some(RangeAnswer::Whole) => Ok((0, len)),
        Some(RangeAnswer::Part(first, last)) => Ok((first, last.saturating_add(1))),
        Some(RangeAnswer::Unsatisfiable) => Err(FetchError::Unsatisfiable(len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_the_blob() {
        let from = |first, last| Some(ByteRange::From { first, last });
        assert_eq!(cut(None, 10).unwrap(), (0, 10));
        assert_eq!(cut(from(3, None), 10).unwrap(), (3, 10));
        assert_eq!(cut(from(3, Some(99)), 10).unwrap(), (3, 10));
        assert_eq!(cut(Some(ByteRange::Suffix(4)), 10).unwrap(), (6, 10));
        assert!(matches!(cut(from(10, None), 10), Err(FetchError::Unsatisfiable(10))));
    }
}
