//! Files of OSTree repositories: what is asked for by URL and is no blob.
//!
//! A file that may change is asked for at the upstream each time, on the condition that it is not
//! the copy that is here; the copy is given instead of the upstream's answer only when there is
//! none, and [`crate::fetch::Offline`] lets it. An object never changes: once it is here the
//! upstream is asked about the repository only, and only now and then. Its bytes are held against
//! its name before the last of them leaves. Requests for one URL wait for each other.
//!
//! **Invariant:** what came for a credential is given only to a request that the upstream would
//! serve, and a file that may change is kept only if it came without one.
//!
//! Not here: what a path means (`proto::ostree`), the deltas.

mod arriving;
pub(super) mod check;
mod flight;
mod outage;
pub(super) mod shared;
mod unpack;

use std::sync::Arc;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::thread;
use crate::fetch::access::is_refusal;
use crate::fetch::blob_body::BlobBody;
use crate::fetch::grants::{Credential, Scope, Standing};
use crate::fetch::room::Share;
use crate::fetch::roots::PlacedObject;
use crate::fetch::{FetchError, Fetcher, Loaded};
use crate::limits;
use crate::log_limited;
use crate::proto::http1::Headers;
use crate::proto::ostree::{Checksum, delta};
use crate::store::{FileMeta, StoredFile};
use crate::upstream::{Body, FileAnswer, Origin, UpstreamError};

use self::arriving::Arriving;
use self::check::Check;
pub(super) use self::flight::{Flight, Flights, Seat};
pub(super) use self::outage::Outages;
pub(super) use self::unpack::Unpacker;

/// What is known of a file by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// It may change at any time.
    Changing(Listing),
    /// It never changes, and its bytes have this SHA-256.
    Named(Checksum),
    /// It never changes, and what is packed in it has this checksum.
    Packed(Checksum),
}

/// Which deltas a file lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// None.
    None,
    /// It is the list of those that lead to one commit.
    Index,
    /// It is the summary of a repository.
    Summary,
}

/// A request for one file.
#[derive(Clone, Debug)]
pub struct FileRequest {
    /// Where it lives, with the headers that may be forwarded.
    pub origin: Origin,
    /// The URL of its repository: what a yes of the upstream is good for.
    pub repository: String,
    /// What is known of it.
    pub kind: FileKind,
}

/// How a request is answered.
#[derive(Debug)]
pub enum FileOutcome {
    /// With this.
    Read(FileReader),
    /// With what the upstream says, untouched: it is not to be kept.
    Relay,
}

/// The bytes of one answer, in order.
#[derive(Debug)]
pub struct FileReader {
    /// 200 or 404.
    pub status: u16,
    /// Its type and its validators.
    pub headers: Headers,
    /// Its length, if it is known.
    pub len: Option<u64>,
    /// Where it comes from: `store`, `upstream`, or `stale` for a copy that could not be checked.
    pub source: &'static str,
    body: FileBody,
}

#[derive(Debug)]
enum FileBody {
    Whole { bytes: Loaded, taken: bool },
    Stored(Box<StoredFile>),
    InPlace(Box<PlacedObject>),
    Arriving(Box<Arriving>),
    Blob(Box<BlobBody>),
}

/// Why the bytes end before their time: the response is to be cut.
pub type FileReadError = String;

impl FileReader {
    /// The next part; an empty one is the end. The last part comes only once all of it is known to
    /// be right, as far as that can be known.
    ///
    /// # Errors
    /// Why there is no more.
    pub fn next_part(&mut self) -> Result<&[u8], FileReadError> {
        match &mut self.body {
            FileBody::Whole { bytes, taken } => {
                let all: &[u8] = if std::mem::replace(taken, true) { &[] } else { bytes };
                Ok(all)
            }
            FileBody::Stored(file) => file.next_part().map_err(|error| error.to_string()),
            FileBody::InPlace(object) => object.next_part().map_err(|error| error.to_string()),
            FileBody::Arriving(arriving) => arriving.next_part(),
            FileBody::Blob(blob) => blob.next_part().map_err(|error| error.to_string()),
        }
    }

    fn whole(status: u16, headers: Headers, bytes: Loaded, source: &'static str) -> FileReader {
        let len = Some(bytes.len() as u64);
        FileReader { status, headers, len, source, body: FileBody::Whole { bytes, taken: false } }
    }

    fn in_place(object: PlacedObject) -> FileReader {
        let len = Some(object.len());
        let body = FileBody::InPlace(Box::new(object));
        FileReader { status: 200, headers: Headers::new(), len, source: "store", body }
    }

    fn stored(file: StoredFile, source: &'static str) -> FileReader {
        let (status, headers) = (file.meta().status, file.meta().headers.clone());
        let len = Some(file.body_len());
        FileReader { status, headers, len, source, body: FileBody::Stored(Box::new(file)) }
    }
}

/// Who asks for what.
struct Asker<'a> {
    request: &'a FileRequest,
    url: String,
    scope: Scope,
    credential: Credential,
    /// The request has no credential of any kind.
    anonymous: bool,
}

impl<'a> Asker<'a> {
    fn of(request: &'a FileRequest) -> Asker<'a> {
        let headers = &request.origin.headers;
        let credential = Credential::of_request(request.origin.url.query(), headers);
        Asker {
            request,
            url: request.origin.url.to_string(),
            scope: Scope(request.repository.as_str().into()),
            credential,
            anonymous: credential.is_none(),
        }
    }
}

/// What a question about the upstream's will came to.
enum Verdict {
    /// Give what is here.
    Give(&'static str),
    /// What is here is of no use any more: fetch it.
    Fetch,
}

impl Fetcher {
    /// Opens the answer to `request`.
    ///
    /// # Errors
    /// [`FetchError`]: nothing has been sent, the client can be told.
    pub fn open_file(self: &Arc<Self>, request: &FileRequest) -> Result<FileOutcome, FetchError> {
        let asker = Asker::of(request);
        let changing = matches!(request.kind, FileKind::Changing(_));
        if changing && !asker.anonymous {
            return Ok(FileOutcome::Relay);
        }
        let mut waited = false;
        loop {
            if self.is_stopping() {
                return Err(FetchError::Local("the program stops".into()));
            }
            if !changing && let Some(reader) = self.object_here(&asker)? {
                return Ok(FileOutcome::Read(reader));
            }
            match self.flights.seat(&asker.url) {
                Seat::Leader(flight) if changing => return self.changing(&asker, flight),
                Seat::Leader(flight) => {
                    if let Some(reader) = self.object_of_delta(&asker)? {
                        flight.land();
                        return Ok(FileOutcome::Read(reader));
                    }
                    return self.object(&asker, flight);
                }
                // One that failed, or was not kept: waiting for others to try again is no use.
                Seat::Follower(_) | Seat::Standing if waited => {
                    return match changing {
                        true => self.changing(&asker, Flight::alone()),
                        false => self.object(&asker, Flight::alone()),
                    };
                }
                Seat::Follower(flight) => {
                    thread::before_wait();
                    let fresh = flight.wait(limits::FILE_FLIGHT_PATIENCE);
                    waited = true;
                    if changing
                        && fresh
                        && let Some(file) = self.store().file(&asker.url)
                    {
                        figures::FILES_HIT.add(1);
                        return Ok(FileOutcome::Read(self.learnt(&asker, file, "store")?));
                    }
                }
                Seat::Standing => waited = true,
            }
        }
    }
}

impl Fetcher {
    /// As [`Fetcher::open_file`] for a question about a file: nothing is fetched for it that can be
    /// large.
    ///
    /// # Errors
    /// As [`Fetcher::open_file`].
    pub fn describe_file(
        self: &Arc<Self>,
        request: &FileRequest,
    ) -> Result<FileOutcome, FetchError> {
        if matches!(request.kind, FileKind::Changing(_)) {
            return self.open_file(request);
        }
        let here = self.object_here(&Asker::of(request))?;
        Ok(here.map_or(FileOutcome::Relay, FileOutcome::Read))
    }
}

/// Files that may change.
impl Fetcher {
    fn changing(&self, asker: &Asker<'_>, flight: Flight) -> Result<FileOutcome, FetchError> {
        let copy = self.store().file(&asker.url).filter(|file| file.meta().public);
        let known = copy.as_ref().filter(|file| file.meta().status == 200);
        let known = known.map(|file| file.meta().headers.clone());
        flight.gets_on();
        match self.ask_for_file(asker, known.as_ref()) {
            Ok(FileAnswer::Same(_)) => {
                self.grant_repository(asker);
                let Some(file) = copy else {
                    return Err(FetchError::Local("the copy of a file is gone".into()));
                };
                figures::FILES_REVALIDATED.add(1);
                let reader = self.learnt(asker, file, "store")?;
                flight.land();
                Ok(FileOutcome::Read(reader))
            }
            Ok(FileAnswer::Body(body)) => {
                self.grant_repository(asker);
                self.changed(asker, body, flight)
            }
            Err(UpstreamError::Encoded) => Ok(FileOutcome::Relay),
            Err(UpstreamError::Status(answer)) if matches!(answer.status, 404 | 410) => {
                // Signatures, indexes and metadata of commits are often not there: without the
                // memory of that, a pull would fail as soon as the upstream is away.
                let is_known = copy.is_some_and(|file| file.meta().status == answer.status);
                let headers = kept_fields(&answer.headers);
                if !is_known {
                    let meta = meta_of(asker, answer.status, &headers);
                    self.put(&meta, &answer.body);
                }
                figures::FILES_UPSTREAM.add(1);
                flight.land();
                let body = Loaded::new(answer.body, self.files.share());
                let reader = FileReader::whole(answer.status, headers, body, "upstream");
                Ok(FileOutcome::Read(reader))
            }
            Err(UpstreamError::Status(answer)) if is_refusal(answer.status) => {
                // Nobody is given any more what the upstream does not give.
                self.store().forget_file(&asker.url);
                self.grants.lock().revoke(&asker.scope, asker.credential);
                Err(FetchError::Upstream(UpstreamError::Status(answer)))
            }
            Err(error) => match copy {
                Some(file) if self.offline.serves(true) => {
                    figures::FILES_STALE.add(1);
                    log_limited!(warn, "{}: the copy is served unchecked: {error}", asker.url);
                    Ok(FileOutcome::Read(self.learnt(asker, file, "stale")?))
                }
                _ => Err(FetchError::Upstream(error)),
            },
        }
    }

    /// Takes a new version of a file that may change.
    fn changed(
        &self,
        asker: &Asker<'_>,
        mut body: Body,
        flight: Flight,
    ) -> Result<FileOutcome, FetchError> {
        let bound = limits::FILE_CHANGING_LEN_MAX;
        if body.total.is_some_and(|len| len > bound as u64) || is_private(&body.headers) {
            return Ok(FileOutcome::Relay);
        }
        let bytes = read_whole(&mut body, bound, self.files.share());
        let Some(bytes) = bytes.map_err(FetchError::Upstream)? else {
            return Ok(FileOutcome::Relay);
        };
        let headers = kept_fields(&body.headers);
        if body.framed {
            self.put(&meta_of(asker, 200, &headers), &bytes);
            flight.land();
        }
        figures::FILES_UPSTREAM.add(1);
        self.learn_listing(asker, &bytes, true);
        Ok(FileOutcome::Read(FileReader::whole(200, headers, bytes, "upstream")))
    }

    /// A reader of a copy, from which the deltas that it lists are learnt.
    fn learnt(
        &self,
        asker: &Asker<'_>,
        file: StoredFile,
        source: &'static str,
    ) -> Result<FileReader, FetchError> {
        let mut share = self.files.share();
        let is_list = file.meta().status == 200 && lists_deltas(asker.request.kind);
        if !is_list || !share.hold(file.body_len()) {
            return Ok(FileReader::stored(file, source));
        }
        let FileMeta { status, headers, .. } = file.meta().clone();
        let bytes = file.whole().map_err(|error| FetchError::Local(error.to_string()))?;
        let bytes = Loaded::new(bytes, share);
        self.learn_listing(asker, &bytes, source != "stale");
        Ok(FileReader::whole(status, headers, bytes, source))
    }
}

/// Objects.
impl Fetcher {
    /// The object, if it is here and the upstream would give it to this request.
    fn object_here(&self, asker: &Asker<'_>) -> Result<Option<FileReader>, FetchError> {
        let Some(file) = self.store().file(&asker.url) else { return self.object_in_place(asker) };
        match self.may_have(asker, file.meta().public)? {
            Verdict::Give(source) => {
                let kept = self.kept_object(asker, file, source);
                let kept = kept.map_err(|error| FetchError::Local(error.to_string()))?;
                if kept.is_some() {
                    let stale = source == "stale";
                    if stale { &figures::FILES_STALE } else { &figures::FILES_HIT }.add(1);
                }
                Ok(kept)
            }
            Verdict::Fetch => Ok(None),
        }
    }

    /// The object out of a repository of this host, if one has it.
    fn object_in_place(&self, asker: &Asker<'_>) -> Result<Option<FileReader>, FetchError> {
        let request = asker.request;
        let object = self.placed_object(&request.origin.url, request.kind);
        let Some(object) = object else { return Ok(None) };
        match self.may_have(asker, false)? {
            Verdict::Give(source) => {
                if source == "stale" { &figures::FILES_STALE } else { &figures::FILES_HIT }.add(1);
                Ok(Some(FileReader { source, ..FileReader::in_place(object) }))
            }
            Verdict::Fetch => Ok(None),
        }
    }

    /// Whether the upstream would give an object that is here; `public`: it came without a
    /// credential.
    fn may_have(&self, asker: &Asker<'_>, public: bool) -> Result<Verdict, FetchError> {
        let standing = {
            let grants = self.grants.lock();
            grants.access(Time::now(), &asker.scope, asker.credential)
        };
        if standing == Standing::Granted {
            return Ok(Verdict::Give("store"));
        }
        let origin = &asker.request.origin;
        let answer = match self.outages.is_away(&origin.url) {
            true => Err(UpstreamError::TimedOut),
            false => self.parts.upstream.head(origin),
        };
        let error = match answer {
            Ok(answer) if (200..300).contains(&answer.status) => {
                self.grant_repository(asker);
                return Ok(Verdict::Give("store"));
            }
            // Fetching it says what the upstream has against it.
            Ok(answer) if is_refusal(answer.status) => {
                if matches!(answer.status, 401 | 403) {
                    self.grants.lock().revoke(&asker.scope, asker.credential);
                } else {
                    self.store().forget_file(&asker.url);
                }
                return Ok(Verdict::Fetch);
            }
            Ok(answer) => UpstreamError::Status(Box::new(answer)),
            Err(error) => error,
        };
        self.outages.note(&origin.url, &error);
        if !self.offline.serves(public || standing == Standing::GrantedBefore) {
            return Err(FetchError::Upstream(error));
        }
        log_limited!(warn, "{}: served without asking: {error}", asker.url);
        Ok(Verdict::Give("stale"))
    }

    fn object(
        self: &Arc<Self>,
        asker: &Asker<'_>,
        flight: Flight,
    ) -> Result<FileOutcome, FetchError> {
        if let Some(reader) = self.object_of_network(asker) {
            flight.land();
            return Ok(FileOutcome::Read(reader));
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            flight.gets_on();
            let body = match self.ask_for_file(asker, None) {
                Ok(FileAnswer::Body(body)) => body,
                Ok(FileAnswer::Same(_)) => {
                    let why = "304 to a request without conditions";
                    return Err(FetchError::Upstream(UpstreamError::Malformed(why.into())));
                }
                Err(UpstreamError::Encoded) => return Ok(FileOutcome::Relay),
                Err(error) => return Err(FetchError::Upstream(error)),
            };
            self.grant_repository(asker);
            let headers = kept_fields(&body.headers);
            let meta = meta_of(asker, 200, &headers);
            let mut share = self.files.share();
            let fits = |len: &u64| *len <= limits::FILE_WHOLE_LEN_MAX as u64 && share.hold(*len);
            if !body.total.as_ref().is_some_and(fits) {
                figures::FILES_UPSTREAM.add(1);
                let len = body.total;
                let arriving = Arriving::new(self, asker.request, meta, body, flight);
                let body = FileBody::Arriving(Box::new(arriving));
                let reader = FileReader { status: 200, headers, len, source: "upstream", body };
                return Ok(FileOutcome::Read(reader));
            }
            match self.whole_object(asker, body, share) {
                Ok(bytes) => {
                    self.put(&meta, &bytes);
                    self.came(asker.request.kind, &asker.url, bytes.len() as u64);
                    flight.land();
                    figures::FILES_UPSTREAM.add(1);
                    let reader = FileReader::whole(200, headers, bytes, "upstream");
                    return Ok(FileOutcome::Read(reader));
                }
                Err(error) if attempt < limits::FILE_ATTEMPTS_MAX => {
                    log_limited!(warn, "{}: asked for again: {error}", asker.url);
                }
                Err(error) => return Err(FetchError::Upstream(error)),
            }
        }
    }

    /// Reads an object that fits in memory, and checks it.
    fn whole_object(
        &self,
        asker: &Asker<'_>,
        mut body: Body,
        share: Share,
    ) -> Result<Loaded, UpstreamError> {
        let bytes = read_whole(&mut body, limits::FILE_WHOLE_LEN_MAX, share)?;
        let bytes = bytes.ok_or(UpstreamError::WrongLength)?;
        let is_right = Check::of(asker.request.kind).is_none_or(|mut check| {
            check.update(&bytes);
            check.ends_right()
        });
        if !is_right {
            figures::MISMATCHES_UPSTREAM.add(1);
            let why = "the bytes of the object are not those of its name";
            return Err(UpstreamError::Malformed(why.into()));
        }
        Ok(bytes)
    }
}

impl Fetcher {
    /// Asks the upstream, more than once if that may help: libostree would give up.
    fn ask_for_file(
        &self,
        asker: &Asker<'_>,
        copy: Option<&Headers>,
    ) -> Result<FileAnswer, UpstreamError> {
        let origin = &asker.request.origin;
        if copy.is_some() && self.outages.is_away(&origin.url) {
            return Err(UpstreamError::TimedOut);
        }
        let mut pause = limits::FILE_RETRY_PAUSE;
        for _ in 1..limits::FILE_ATTEMPTS_MAX {
            match self.parts.upstream.file(origin, copy) {
                Err(error) if may_pass(&error) => {
                    log_limited!(warn, "{}: asked for again: {error}", asker.url);
                }
                answer => return answer.inspect_err(|error| self.outages.note(&origin.url, error)),
            }
            if self.stop.wait_for(pause) {
                return Err(UpstreamError::Stopped);
            }
            pause *= 2;
        }
        let answer = self.parts.upstream.file(origin, copy);
        answer.inspect_err(|error| self.outages.note(&origin.url, error))
    }

    fn grant_repository(&self, asker: &Asker<'_>) {
        self.grants.lock().grant_access(Time::now(), &asker.scope, asker.credential);
    }

    /// A file that cannot be kept is served all the same.
    fn put(&self, meta: &FileMeta, bytes: &[u8]) {
        if let Err(error) = self.store().put_file(meta, bytes) {
            log_limited!(warn, "a file is passed on, not kept: {error}");
        }
    }

    /// Takes note of the deltas that a file lists; `fresh`: it is the upstream's word of now.
    fn learn_listing(&self, asker: &Asker<'_>, bytes: &[u8], fresh: bool) {
        let listed = match asker.request.kind {
            FileKind::Changing(Listing::Index) => delta::listed_in_index(bytes),
            FileKind::Changing(Listing::Summary) => delta::listed_in_summary(bytes),
            _ => return,
        };
        match listed {
            Ok(listed) => self.learn_deltas(&asker.request.origin, &listed, fresh),
            Err(error) => log_limited!(warn, "{}: no list of deltas: {error}", asker.url),
        }
    }
}

fn lists_deltas(kind: FileKind) -> bool {
    matches!(kind, FileKind::Changing(Listing::Index | Listing::Summary))
}

/// Whether the failure may be over the next time. One that took its whole time is not tried again:
/// the client waits.
fn may_pass(error: &UpstreamError) -> bool {
    match error {
        UpstreamError::Io(_) | UpstreamError::WrongLength => true,
        UpstreamError::Status(answer) => answer.status >= 500 || answer.status == 408,
        _ => false,
    }
}

/// What a file is told by: its type and its validators, as they came.
fn kept_fields(headers: &Headers) -> Headers {
    let kept = |name: &str| {
        ["content-type", "etag", "last-modified", "cache-control"]
            .iter()
            .any(|other| name.eq_ignore_ascii_case(other))
    };
    headers.iter().filter(|(name, _)| kept(name)).collect()
}

fn meta_of(asker: &Asker<'_>, status: u16, headers: &Headers) -> FileMeta {
    FileMeta { url: asker.url.clone(), status, public: asker.anonymous, headers: headers.clone() }
}

/// RFC 9111 section 3: what a cache that serves several must not keep.
fn is_private(headers: &Headers) -> bool {
    ["no-store", "private"].iter().any(|word| headers.contains_token("Cache-Control", word))
}

/// The whole body; `None`: it is longer than `bound`, or there is no room for it.
fn read_whole(
    body: &mut Body,
    bound: usize,
    mut share: Share,
) -> Result<Option<Loaded>, UpstreamError> {
    let declared = body.total.and_then(|len| usize::try_from(len).ok()).unwrap_or(0);
    // One byte more than declared, so that the end shows without another allocation.
    let mut bytes = vec![0; declared.min(bound) + 1];
    let mut len = 0;
    loop {
        if len == bytes.len() {
            if len > bound {
                return Ok(None);
            }
            bytes.resize((2 * len).clamp(4096, bound + 1), 0);
        }
        match body.read(&mut bytes[len..])? {
            0 => break,
            count => len += count,
        }
        if !share.hold(len as u64) {
            log_limited!(warn, "a file is passed on, not kept: others take all the memory");
            return Ok(None);
        }
    }
    bytes.truncate(len);
    Ok(Some(Loaded::new(bytes, share)))
}
