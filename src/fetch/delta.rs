//! Static deltas of OSTree: from the URL of a superblock or a part to a reader of one blob.
//!
//! A delta is named for its superblock ([`BlobName::Delta`]). Which one the URL stands for is said
//! by an index or a summary that this host got from the upstream, or by the superblock itself;
//! never by the catalog. With the name it is a blob like any other.
//!
//! **Invariant:** a superblock is served whole and right, or not at all. A part is served against
//! the superblock that was served last from the same URL.
//!
//! Not here: where the bytes of the delta come from (`open`, `job`).

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::hash::{ContentHasher, sha256};
use crate::fetch::access::{Claimant, scope_of};
use crate::fetch::files::{Flight, Seat};
use crate::fetch::job::{Conductor, Job, Start};
use crate::fetch::open::DeltaFile;
use crate::fetch::reader::{Passing, Source};
use crate::fetch::stream::{Place, Stream};
use crate::fetch::{BlobRequest, FetchError, Fetcher, Loaded, Reader, judge};
use crate::limits;
use crate::proto::blob::{BlobName, Digest};
use crate::proto::geometry::Span;
use crate::proto::http1::{ByteRange, Url};
use crate::proto::ostree::delta::Superblock;
use crate::proto::ostree::layout::Layout;
use crate::proto::ostree::{self, Checksum, DeltaId};
use crate::upstream::{Answer, Origin, UpstreamError};

/// A request for one file of a static delta.
#[derive(Clone, Debug)]
pub struct DeltaRequest {
    /// Which delta.
    pub id: DeltaId,
    /// Which file: 0 is the superblock, N + 1 is part N.
    pub index: usize,
    /// Where the superblock really lives, with the headers that may be forwarded.
    pub superblock: Origin,
    /// The part of the file that is wanted; `None`: all of it.
    pub range: Option<ByteRange>,
}

/// The name of a delta, and its superblock if that is in hand.
type Named = (BlobName, Option<Arc<Loaded>>);

/// What is known of deltas by their URLs. Bounded by [`limits::DELTAS_LEARNT_MAX`],
/// [`limits::DELTAS_SERVED_MAX`] and [`limits::DELTAS_PASSED_MAX`].
#[derive(Default)]
pub(super) struct Deltas {
    /// By the hash of a superblock's URL: its digest, as an index or a summary has it.
    learnt: HashMap<[u8; 32], Checksum>,
    /// By the URL of a superblock: the delta that was served from there last.
    served: HashMap<String, (BlobName, Arc<Layout>)>,
    /// Those that could not be had lately.
    failed: HashMap<BlobName, Failed>,
    /// The files of those that are not kept here.
    passed: HashMap<BlobName, Arc<Passed>>,
}

/// A delta that could not be had.
struct Failed {
    at: Time,
    why: Lack,
}

/// Why a delta could not be had.
pub(super) enum Lack {
    /// Its superblock is wrong about its parts: the upstream has them all the same.
    Misdescribed,
    /// The upstream refused it to this claimant, and would do so again.
    Refused(Claimant, Answer),
    /// No source was left, or the bytes were wrong.
    Broken,
}

/// The files of a delta that is passed on, past the disk.
struct Passed {
    layout: Arc<Layout>,
    /// What the parts must hash to.
    parts: Vec<Digest>,
}

impl Failed {
    fn is_recent(&self) -> bool {
        let kept = match self.why {
            Lack::Misdescribed => limits::DELTA_MISDESCRIBED_KEPT,
            Lack::Refused(..) | Lack::Broken => limits::DELTA_FAILED_KEPT,
        };
        Time::now().since(self.at) < kept
    }
}

impl Deltas {
    /// The delta that was served last from the superblock at `url`.
    pub(super) fn served(&self, url: &str) -> Option<(BlobName, Arc<Layout>)> {
        self.served.get(url).cloned()
    }

    fn learn(&mut self, url: &str, digest: Checksum) {
        if self.learnt.len() >= limits::DELTAS_LEARNT_MAX {
            self.learnt.clear();
        }
        self.learnt.insert(sha256(url.as_bytes()), digest);
    }

    /// Forgets that a delta could not be had, unless that would be the same again.
    fn forgive(&mut self, name: &BlobName) {
        if let Entry::Occupied(failed) = self.failed.entry(*name)
            && !matches!(failed.get().why, Lack::Misdescribed)
        {
            failed.remove();
        }
    }

    fn serve(&mut self, url: String, name: BlobName, layout: Arc<Layout>) {
        if self.served.len() >= limits::DELTAS_SERVED_MAX {
            self.served.clear();
        }
        self.served.insert(url, (name, layout));
    }
}

impl Fetcher {
    /// Takes note of the superblocks that an index or a summary of a repository lists. `listing` is
    /// where it came from, and who got it; `fresh`: from the upstream just now, not from the cache
    /// because the upstream is away.
    pub fn learn_deltas(&self, listing: &Origin, listed: &[(DeltaId, Checksum)], fresh: bool) {
        let Some(repository) = repository_of(&listing.url) else { return };
        let mut deltas = self.deltas.lock();
        for (id, digest) in listed {
            deltas.learn(&format!("{repository}/{}/superblock", id.dir()), *digest);
        }
        drop(deltas);
        // Who may read the list may read what it lists.
        let superblock =
            listed.first().map(|(id, _)| format!("{repository}/{}/superblock", id.dir()));
        if let Some(Ok(url)) = superblock.map(|url| Url::parse(&url)) {
            let origin = Origin { url, headers: listing.headers.clone() };
            self.granted_repository(&origin, fresh);
        }
    }

    /// Opens a reader for one file of a delta.
    ///
    /// # Errors
    /// As [`Fetcher::open`]; [`FetchError::NoDelta`]: what the upstream has is to be passed on as
    /// it is; [`FetchError::NoFile`].
    pub fn open_delta(self: &Arc<Self>, request: &DeltaRequest) -> Result<Reader, FetchError> {
        if request.index == 0 {
            return self.open_superblock(request, request.range);
        }
        let url = request.superblock.url.to_string();
        let served = || self.deltas.lock().served(&url);
        let (name, layout) = match served() {
            Some(known) => known,
            None => {
                drop(self.open_superblock(request, None)?);
                served().ok_or(FetchError::NoDelta)?
            }
        };
        let file = DeltaFile { index: request.index, layout: Some(layout), superblock: None };
        let blob = BlobRequest {
            name,
            origin: request.superblock.clone(),
            range: request.range,
            file: Some(file),
            is_granted: false,
            told_len: None,
        };
        // Another superblock has other parts: none of them is what this client waits for.
        self.open(&blob).map_err(|error| match error {
            FetchError::Renewed(_) => FetchError::NoFile,
            error => error,
        })
    }

    fn open_superblock(
        self: &Arc<Self>,
        request: &DeltaRequest,
        range: Option<ByteRange>,
    ) -> Result<Reader, FetchError> {
        let url = request.superblock.url.to_string();
        let (flight, (mut name, mut superblock)) = self.named(request, &url)?;
        if request.index == 0 {
            // A pull begins: it is tried in earnest.
            self.deltas.lock().forgive(&name);
        }
        loop {
            let renewed = superblock.is_some();
            let file = DeltaFile { index: 0, layout: None, superblock };
            let origin = request.superblock.clone();
            let (file, is_granted, told_len) = (Some(file), false, None);
            match self.open(&BlobRequest { name, origin, range, file, is_granted, told_len }) {
                // What the index said is no longer true.
                Err(FetchError::Renewed(bytes)) if !renewed => {
                    let digest = Checksum(sha256(&bytes));
                    self.deltas.lock().learn(&url, digest);
                    (name, superblock) = (BlobName::Delta(digest), Some(bytes));
                }
                Ok(reader) => {
                    if let Some(layout) = &reader.layout {
                        let repository = scope_of(&request.superblock.url).0.to_string();
                        self.unpacker.note(repository, name, layout);
                        self.deltas.lock().serve(url, name, Arc::clone(layout));
                        flight.land();
                    }
                    return Ok(reader);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The name of the delta at `url`, as a list has it; without one the upstream is asked, once
    /// for all who ask at the same time.
    fn named(&self, request: &DeltaRequest, url: &str) -> Result<(Flight, Named), FetchError> {
        let learnt = self.deltas.lock().learnt.get(&sha256(url.as_bytes())).copied();
        if let Some(digest) = learnt {
            let name = BlobName::Delta(digest);
            self.held(&request.superblock, &name);
            return Ok((Flight::alone(), (name, None)));
        }
        let flight = match self.flights.seat(url) {
            Seat::Leader(flight) => flight,
            Seat::Standing => Flight::alone(),
            Seat::Follower(leg) => {
                let landed = leg.wait(limits::FILE_FLIGHT_PATIENCE);
                let served = self.deltas.lock().served.get(url).map(|(name, _)| *name);
                if let Some(name) = served.filter(|_| landed) {
                    return Ok((Flight::alone(), (name, None)));
                }
                Flight::alone()
            }
        };
        let named = self.superblock_of(request, url)?;
        Ok((flight, named))
    }

    /// The name of a delta of which nothing is known, by its superblock, which is then in hand. If
    /// the upstream does not answer, it is the delta that was served last.
    fn superblock_of(&self, request: &DeltaRequest, url: &str) -> Result<Named, FetchError> {
        match self.fetch_superblock(&request.superblock, None) {
            Ok(bytes) => {
                let name = BlobName::Delta(Checksum(sha256(&bytes)));
                self.held(&request.superblock, &name);
                self.granted_repository(&request.superblock, true);
                Ok((name, Some(bytes)))
            }
            Err(FetchError::Upstream(error)) if !matches!(error, UpstreamError::Status(_)) => {
                match self.deltas.lock().served.get(url) {
                    Some((name, _)) => Ok((*name, None)),
                    None => Err(FetchError::Upstream(error)),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// Remembers for a moment that a delta could not be had.
    pub(super) fn delta_failed(&self, name: &BlobName, why: Lack) {
        if matches!(name, BlobName::Delta(_)) {
            let mut deltas = self.deltas.lock();
            deltas.failed.retain(|_, failed| failed.is_recent());
            deltas.failed.insert(*name, Failed { at: Time::now(), why });
            drop(deltas);
            self.pulls.give_up(name);
        }
    }

    /// What a request is told whose delta could not be had a moment ago; `None`: it is tried.
    fn has_just_failed(&self, request: &BlobRequest, file: &DeltaFile) -> Option<FetchError> {
        let deltas = self.deltas.lock();
        let failed = deltas.failed.get(&request.name).filter(|failed| failed.is_recent())?;
        match &failed.why {
            Lack::Misdescribed => Some(FetchError::NoDelta),
            _ if file.index == 0 => None,
            // As those were told who waited for it.
            Lack::Refused(claimant, answer) if *claimant == Claimant::of(&request.origin) => {
                Some(FetchError::Upstream(UpstreamError::Status(Box::new(answer.clone()))))
            }
            Lack::Refused(..) | Lack::Broken => {
                Some(FetchError::Local("the delta could not be had a moment ago".into()))
            }
        }
    }

    /// Leads a job for a delta that only the upstream has: its superblock comes first.
    pub(super) fn lead_delta(
        self: &Arc<Self>,
        request: &BlobRequest,
        file: &DeltaFile,
        job: &Arc<Job>,
    ) -> Result<Reader, FetchError> {
        if file.superblock.is_none() && self.is_to_be_passed(&request.name) {
            return self.pass_delta(request, file);
        }
        if let Some(error) = self.has_just_failed(request, file) {
            return Err(error);
        }
        let superblock = self.superblock_in_hand(request, file)?;
        let layout = layout_of(&superblock).ok_or(FetchError::NoDelta)?;
        let file = DeltaFile { superblock: Some(Arc::clone(&superblock)), ..file.clone() };
        let Some(partial) = self.begin(&request.name, Some(layout.len())) else {
            return self.pass_delta(request, &file);
        };
        if let Err(error) = partial.write(0, &[&superblock]) {
            crate::log_limited!(warn, "blob {} is not kept: {error}", request.name);
            self.store().discard(&partial);
            return self.pass_delta(request, &file);
        }
        // It has the digest that the delta is named for, whatever becomes of the parts.
        let span = Span { offset: 0, len: superblock.len() as u64 };
        partial.feed().mark(span);
        partial.feed().prove(span);
        Conductor::start(self, job, &partial, Start::Delta(layout))
            .map_err(|error| FetchError::Local(format!("no thread: {error}")))?;
        self.reader(request, job, &partial)
    }

    /// The superblock of the delta that is asked for, from the upstream if need be.
    fn superblock_in_hand(
        &self,
        request: &BlobRequest,
        file: &DeltaFile,
    ) -> Result<Arc<Loaded>, FetchError> {
        let superblock = match &file.superblock {
            Some(superblock) => Arc::clone(superblock),
            None => self.fetch_superblock(&request.origin, Some(&request.name))?,
        };
        if BlobName::Delta(Checksum(sha256(&superblock))) != request.name {
            return Err(FetchError::Renewed(superblock));
        }
        self.granted(request);
        Ok(superblock)
    }
}

/// Deltas that cannot be kept here.
impl Fetcher {
    /// Whether the delta was passed on before, and there is still no room for it.
    fn is_to_be_passed(&self, name: &BlobName) -> bool {
        let Some(passed) = self.passed(name) else { return false };
        match self.store().begin(name, Some(passed.layout.len())) {
            Ok(partial) => {
                self.store().discard(&partial);
                false
            }
            Err(_) => true,
        }
    }

    fn passed(&self, name: &BlobName) -> Option<Arc<Passed>> {
        self.deltas.lock().passed.get(name).cloned()
    }

    /// Passes one file of a delta on, past the disk. Its last bytes leave, as always, when it was
    /// found right.
    pub(super) fn pass_delta(
        &self,
        request: &BlobRequest,
        file: &DeltaFile,
    ) -> Result<Reader, FetchError> {
        let known = self.passed(&request.name).filter(|_| file.index > 0);
        let passed = match known {
            Some(passed) => passed,
            None => {
                let superblock = self.superblock_in_hand(request, file)?;
                let layout = layout_of(&superblock).ok_or(FetchError::NoDelta)?;
                let parts = judge::parts(&superblock, &layout).ok_or(FetchError::NoDelta)?;
                let passed = Arc::new(Passed { layout: Arc::new(layout), parts });
                let mut deltas = self.deltas.lock();
                if deltas.passed.len() >= limits::DELTAS_PASSED_MAX {
                    deltas.passed.clear();
                }
                deltas.passed.insert(request.name, Arc::clone(&passed));
                drop(deltas);
                if file.index == 0 {
                    let layout = Arc::clone(&passed.layout);
                    let part = request.part(Some(&layout), None)?;
                    let source = Source::Memory(superblock);
                    return Ok(part.reader(request.name, source, Some(layout)));
                }
                passed
            }
        };
        let layout = Arc::clone(&passed.layout);
        let part = request.part(Some(&layout), None)?;
        let digest = file.index.checked_sub(1).and_then(|number| passed.parts.get(number));
        let digest = *digest.ok_or(FetchError::NoFile)?;
        let place = Place { origin: request.origin.clone(), layout: Some(Arc::clone(&layout)) };
        let stream = Stream::open(&self.upstream(), &place, part.at, part.end);
        let stream = stream.map_err(|error| match error {
            UpstreamError::OtherLength { .. } => FetchError::NoDelta,
            error => FetchError::Upstream(error),
        })?;
        self.granted(request);
        let is_whole = part.at == part.base && part.end == part.total.map(|len| part.base + len);
        let passing = match is_whole {
            true => {
                Passing::checked(stream, part.at, ContentHasher::new(digest.algorithm()), digest)
            }
            false => Passing::new(stream, part.at),
        };
        Ok(part.reader(request.name, Source::Passing(Box::new(passing)), Some(layout)))
    }
}

/// Where the files of a delta with this superblock lie; `None`: it is none that can be shared.
fn layout_of(superblock: &[u8]) -> Option<Layout> {
    Superblock::decode(superblock).ok()?.layout(superblock.len() as u64)
}

/// The URL of the repository of which `listing` is an index or a summary.
fn repository_of(listing: &Url) -> Option<String> {
    let path = listing.path();
    let repository = ostree::parse(path).map(|(repository, _)| repository);
    let repository = repository.or_else(|| ostree::named_file(path))?;
    Some(format!("{}://{}{repository}", listing.scheme(), listing.authority()))
}
