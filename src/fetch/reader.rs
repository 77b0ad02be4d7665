//! What one request reads: a stored blob, a blob on its way, or a response passed through.
//!
//! **Invariant:** of a body that starts at the first byte and goes to the last, the last
//! [`limits::HELD_BACK_LEN`] bytes leave only after the digest was found right.

use std::fmt;
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::hash::ContentHasher;
use crate::base::thread;
use crate::fetch::detour::Detour;
use crate::fetch::job::Job;
use crate::fetch::recheck::Recheck;
use crate::fetch::room::{Loaded, Room};
use crate::fetch::stream::{Place, Stream};
use crate::limits;
use crate::proto::blob::{BlobName, Digest};
use crate::proto::geometry::{Geometry, Span};
use crate::proto::ostree::layout::Layout;
use crate::store::{Blob, Partial, ReaderTicket, Wait};
use crate::upstream::{Answer, Origin, Upstream, UpstreamError};

/// The bytes of one answer, in order.
pub struct Reader {
    pub(super) name: BlobName,
    pub(super) source: Source,
    /// Where in the blob the file begins of which this is an answer: zero, but for the parts of a
    /// delta.
    pub(super) base: u64,
    /// Length of that file, if it is known.
    pub(super) total: Option<u64>,
    /// The first byte of the blob that is handed out, and the next.
    pub(super) from: u64,
    pub(super) at: u64,
    /// The byte after the last to hand out; `None`: to the end, wherever that is.
    pub(super) end: Option<u64>,
    /// The files of a delta.
    pub(super) layout: Option<Arc<Layout>>,
}

/// Why a reader has no first byte.
pub(super) enum Unsettled {
    /// The catalog's entry has turned out to be wrong, and is passed over from now on.
    Misled,
    /// The delta is not as its superblock says.
    Misdescribed,
    /// No source is left.
    Failed {
        /// What the upstream said, if it was its last word.
        refusal: Option<Box<Answer>>,
        /// Why.
        error: ReadError,
    },
}

/// Where the bytes come from.
pub(super) enum Source {
    /// The store has it.
    Stored(Stored),
    /// It is on its way.
    Arriving(Arriving),
    /// From upstream to the client, past the disk.
    Passing(Box<Passing>),
    /// The superblock of a delta, which cannot be kept on disk.
    Memory(Arc<Loaded>),
}

/// The next bytes.
#[derive(Debug)]
pub enum Chunk<'a> {
    /// A span of a file.
    File {
        /// The file.
        file: &'a File,
        /// Where the span starts.
        offset: u64,
        /// How long it is.
        len: u64,
    },
    /// Bytes in memory.
    Bytes(&'a [u8]),
    /// That was all.
    End,
}

/// Why the bytes end before their time. The response is to be cut, never ended cleanly.
#[derive(Debug)]
pub enum ReadError {
    /// The bytes are not those that the name promises.
    WrongDigest,
    /// No source could go on.
    Failed(Arc<str>),
    /// The upstream broke while passed through.
    Upstream(UpstreamError),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReadError::WrongDigest => f.write_str("the bytes do not have the digest asked for"),
            ReadError::Failed(reason) => f.write_str(reason),
            ReadError::Upstream(error) => write!(f, "{error}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl Reader {
    /// The blob's name.
    #[must_use]
    pub fn name(&self) -> BlobName {
        self.name
    }

    /// The whole length of the blob, or of the part of a delta, if it is known.
    #[must_use]
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The first byte of this answer that was not handed out yet.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.at - self.base
    }

    /// The byte after this answer's last; `None`: not known yet.
    #[must_use]
    pub fn end(&self) -> Option<u64> {
        self.stop().map(|stop| stop - self.base)
    }

    /// The byte of the blob after this answer's last.
    fn stop(&self) -> Option<u64> {
        self.end.or(self.total)
    }

    /// Where the bytes come from, in one word for logs and headers.
    #[must_use]
    pub fn source(&self) -> &'static str {
        match &self.source {
            Source::Stored(..) => "store",
            Source::Arriving(arriving) if arriving.job.is_in_swarm() => "swarm",
            Source::Arriving(_) | Source::Passing(_) | Source::Memory(_) => "upstream",
        }
    }

    /// The next bytes, at most `len_max` of them, waiting for them to come.
    ///
    /// # Errors
    /// If they will not come, or are not to be given out.
    pub fn next(&mut self, len_max: u64) -> Result<Chunk<'_>, ReadError> {
        if self.stop() == Some(self.at) {
            if let Source::Stored(stored) = &self.source {
                stored.recheck.was_sent(self.name, self.from);
            }
            return Ok(Chunk::End);
        }
        let releasable = self.releasable()?;
        let offset = self.at;
        let wanted = len_max.min(releasable - offset);
        match &mut self.source {
            Source::Stored(Stored { blob, .. }) => {
                let gone = || ReadError::Failed("the blob has become shorter".into());
                let (file, place, left) = blob.locate(offset).ok_or_else(gone)?;
                let len = wanted.min(left);
                self.at += len;
                Ok(Chunk::File { file, offset: place, len })
            }
            Source::Arriving(_) if wanted == 0 => Ok(Chunk::End),
            Source::Arriving(arriving) => {
                let len = wanted;
                self.at += len;
                arriving.advance(self.at);
                Ok(Chunk::File { file: arriving.partial.file(), offset, len })
            }
            Source::Passing(passing) => {
                let bytes = passing.next(wanted)?;
                self.at += bytes.len() as u64;
                if self.end.is_some_and(|end| self.at > end) {
                    return Err(ReadError::Upstream(UpstreamError::WrongLength));
                }
                Ok(if bytes.is_empty() { Chunk::End } else { Chunk::Bytes(bytes) })
            }
            Source::Memory(loaded) => {
                let rest = usize::try_from(offset).ok().and_then(|at| loaded.get(at..));
                let rest = rest.unwrap_or_default();
                let len = usize::try_from(wanted).unwrap_or(rest.len()).min(rest.len());
                self.at += len as u64;
                Ok(Chunk::Bytes(&rest[..len]))
            }
        }
    }

    /// The last `unsent` bytes that were handed out cannot be read, and `why`: they and all others
    /// come past our own disk, and what is wrong with that is looked at.
    ///
    /// # Errors
    /// If they cannot be had.
    pub fn go_round(&mut self, unsent: u64, why: &str) -> Result<(), ReadError> {
        let name = self.name;
        crate::log_limited!(warn, "blob {name} cannot be read and is passed on: {why}");
        let at = self.at.saturating_sub(unsent);
        let detour = match &self.source {
            Source::Stored(stored) => {
                stored.recheck.is_suspect(name);
                stored.detour(self.layout.clone())
            }
            Source::Arriving(arriving) => arriving.detour(),
            Source::Passing(_) | Source::Memory(_) => {
                return Err(ReadError::Failed(why.into()));
            }
        };
        let passing = detour.take(&name, self.from, at, self.end)?;
        (self.at, self.source) = (at, Source::Passing(Box::new(passing)));
        Ok(())
    }

    /// Waits for the first byte of a swarm, or of a file of a delta, so that a source that turns
    /// out to be wrong before it is another's turn.
    ///
    /// # Errors
    /// Why there is no such byte.
    pub(super) fn settle(&mut self) -> Result<(), Unsettled> {
        let Source::Arriving(arriving) = &mut self.source else { return Ok(()) };
        let in_swarm = arriving.job.is_in_swarm();
        if !in_swarm && self.layout.is_none() {
            return Ok(());
        }
        thread::before_wait();
        match arriving.wait(self.at, self.end) {
            Err(ReadError::WrongDigest) if in_swarm => Err(Unsettled::Misled),
            Err(_) if arriving.job.is_misdescribed() => Err(Unsettled::Misdescribed),
            // Nothing was sent: the client can be told, and libostree asks again.
            Err(error) if self.layout.is_some() || arriving.job.is_limited() => {
                let refusal = arriving.job.refusal().cloned().map(Box::new);
                Err(Unsettled::Failed { refusal, error })
            }
            _ => Ok(()),
        }
    }

    /// The byte after the last that may leave now, waiting until there is one.
    fn releasable(&mut self) -> Result<u64, ReadError> {
        if let Source::Arriving(arriving) = &mut self.source {
            thread::before_wait();
            if let Some(releasable) = arriving.wait(self.at, self.end)? {
                return Ok(releasable);
            }
            // Our own disk has failed the job: that is no reason to fail a reader.
            let passing = arriving.detour().take(&self.name, self.from, self.at, self.end)?;
            self.source = Source::Passing(Box::new(passing));
        }
        Ok(self.stop().unwrap_or(u64::MAX))
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader of {} from {} at {}", self.name, self.source(), self.at)
    }
}

/// A stored blob, and what else a reader of it needs.
pub(super) struct Stored {
    pub(super) blob: Arc<Blob>,
    /// Is told what of it was sent.
    pub(super) recheck: Arc<Recheck>,
    /// Where it lives, should the disk not give it.
    pub(super) origin: Origin,
    pub(super) upstream: Arc<Upstream>,
    /// For superblocks that are read back.
    pub(super) room: Arc<Room>,
}

impl Stored {
    fn detour(&self, layout: Option<Arc<Layout>>) -> Detour {
        let blob = Arc::clone(&self.blob);
        Detour {
            upstream: Arc::clone(&self.upstream),
            place: Place { origin: self.origin.clone(), layout },
            len: Some(blob.len()),
            read_at: Box::new(move |buf, at| blob.read_at(buf, at)),
            room: Arc::clone(&self.room),
        }
    }
}

/// A reader's place in a job.
pub(super) struct Arriving {
    pub(super) job: Arc<Job>,
    pub(super) partial: Arc<Partial>,
    pub(super) ticket: ReaderTicket,
    pub(super) upstream: Arc<Upstream>,
    /// How far the swarm was told that this reader is.
    pub(super) told: u64,
    /// Of a file of a delta: what of it has left, while it is not yet known to be right.
    pub(super) early: Option<Early>,
    /// How long such a file is held back: [`limits::PART_HELD`].
    pub(super) held: Duration,
    /// For superblocks that are read back.
    pub(super) room: Arc<Room>,
}

/// A part of a delta that is sent before it is known to be right.
pub(super) struct Early {
    /// The byte of the blob that was sent first.
    from: u64,
    /// What the feed had taken back before that.
    retractions: usize,
}

impl Arriving {
    /// Waits for bytes at `at` that may be given out and says where they end; `at` itself: that was
    /// all. `None`: our own disk has failed.
    fn wait(&mut self, at: u64, end: Option<u64>) -> Result<Option<u64>, ReadError> {
        if let Some(file) = self.file(at) {
            return self.wait_for_file(at, end, file);
        }
        let deadline = Time::now() + limits::READER_PATIENCE;
        let feed = self.partial.feed();
        let mut wait_at = at;
        loop {
            match feed.wait(wait_at, deadline) {
                Wait::Ready { end: readable } => {
                    let limit = self.releasable(readable, end);
                    if limit > at {
                        return Ok(Some(limit));
                    }
                    // All that is readable is held back: wait for what comes after it, or the
                    // verdict.
                    wait_at = readable;
                }
                Wait::Whole => return Ok(Some(end.or(self.partial.len()).unwrap_or(at))),
                ended => return self.ended(ended),
            }
        }
    }

    /// As [`Arriving::wait`] in a file of a delta, which has a checksum of its own. It is held back
    /// until it is known to be right, so that a wrong one can be fetched again; if that takes long,
    /// it is sent as it comes, but for its last bytes.
    fn wait_for_file(
        &mut self,
        at: u64,
        end: Option<u64>,
        file: Span,
    ) -> Result<Option<u64>, ReadError> {
        let feed = self.partial.feed();
        let last = end.unwrap_or(file.end()).min(file.end());
        if self.early.is_none() {
            match feed.wait_proven(file, Time::now() + self.held) {
                Wait::Ready { .. } | Wait::Whole => return Ok(Some(last)),
                Wait::TimedOut => {
                    self.early = Some(Early { from: at, retractions: feed.retractions() });
                }
                ended @ Wait::Failed(_) => return self.ended(ended),
            }
        }
        let deadline = Time::now() + limits::READER_PATIENCE;
        let mut wait_at = at;
        loop {
            let waited = match wait_at >= file.end() {
                // All of the file is there: only its checksum is still to come.
                true => feed.wait_proven(file, deadline),
                false => feed.wait(wait_at, deadline),
            };
            let is_proven = feed.is_proven(file);
            // Looked at after that: what is proven now may not be what was sent before.
            if let Some(early) = &mut self.early
                && feed.was_retracted(file, early.retractions)
            {
                if at > early.from {
                    return Err(ReadError::WrongDigest);
                }
                (early.retractions, wait_at) = (feed.retractions(), at);
                continue;
            }
            match waited {
                _ if is_proven => return Ok(Some(last)),
                Wait::Ready { end: readable } => {
                    let limit = readable.min(file.end().saturating_sub(limits::HELD_BACK_LEN));
                    if limit.min(last) > at {
                        return Ok(Some(limit.min(last)));
                    }
                    wait_at = readable;
                }
                Wait::Whole => return Ok(Some(last)),
                ended => return self.ended(ended),
            }
        }
    }

    fn ended(&self, ended: Wait) -> Result<Option<u64>, ReadError> {
        match ended {
            Wait::Failed(_) if self.job.failed_locally() => Ok(None),
            Wait::Failed(_) if self.job.is_wrong() => Err(ReadError::WrongDigest),
            Wait::Failed(reason) => Err(ReadError::Failed(reason)),
            _ => Err(ReadError::Failed("no byte came in time".into())),
        }
    }

    fn detour(&self) -> Detour {
        let partial = Arc::clone(&self.partial);
        Detour {
            upstream: Arc::clone(&self.upstream),
            place: self.job.place(),
            len: partial.len(),
            read_at: Box::new(move |buf, at| partial.read_at(buf, at)),
            room: Arc::clone(&self.room),
        }
    }

    /// The file of a delta in which `at` lies.
    fn file(&self, at: u64) -> Option<Span> {
        let layout = self.job.layout()?;
        layout.file_at(at).and_then(|index| layout.span(index))
    }

    /// How much of what is readable may leave before the verdict. A range that ends before the part
    /// held back is not held back: it is no whole body.
    fn releasable(&self, readable: u64, end: Option<u64>) -> u64 {
        match (self.partial.len(), end) {
            (Some(len), Some(end)) if end + limits::HELD_BACK_LEN <= len => readable.min(end),
            (Some(len), _) => readable.min(len.saturating_sub(limits::HELD_BACK_LEN)),
            (None, _) => readable.saturating_sub(limits::HELD_BACK_LEN),
        }
    }

    fn advance(&mut self, at: u64) {
        self.ticket.advance(at);
        // The swarm thinks in pieces; it is told when the reader has come a good part of one
        // further.
        let geometry = self.partial.len().and_then(|len| Geometry::for_blob(len).ok());
        let piece_len = geometry.map_or(limits::PIECE_LEN_MIN, |geometry| geometry.piece_len());
        if at - self.told >= u64::from(piece_len.min(limits::PIECE_LEN_CHEAP)) {
            self.told = at;
            self.job.readers_moved();
        }
    }
}

/// A response on its way from upstream to the client, past the disk. A whole one is hashed on the
/// way, and its last part held back until the digest is right.
pub(super) struct Passing {
    body: Stream,
    /// Bytes of the body before the first wanted one: the upstream ignored the Range.
    skip: u64,
    check: Option<(ContentHasher, Digest)>,
    /// The part in hand, and the part that waits for the verdict.
    current: Vec<u8>,
    held: Vec<u8>,
    ended: bool,
}

impl Passing {
    /// Passes `body` through from byte `at` on, unhashed.
    pub(super) fn new(body: Stream, at: u64) -> Passing {
        let skip = at.saturating_sub(body.offset);
        Passing { body, skip, check: None, current: Vec::new(), held: Vec::new(), ended: false }
    }

    /// Passes `body` through from byte `at` on to its end; with what `hasher` has seen already, it
    /// is to have `digest`.
    pub(super) fn checked(body: Stream, at: u64, hasher: ContentHasher, digest: Digest) -> Passing {
        Passing { check: Some((hasher, digest)), ..Passing::new(body, at) }
    }

    fn next(&mut self, len_max: u64) -> Result<&[u8], ReadError> {
        if self.check.is_none() {
            self.current = self.read(len_max)?;
            return Ok(&self.current);
        }
        // One part behind: a part leaves when the next has come, the last when the digest is right.
        while !self.ended {
            let part = self.read(limits::COPY_LEN as u64)?;
            if let Some((hasher, _)) = &mut self.check {
                hasher.update(&part);
            }
            self.ended = part.is_empty();
            self.current = std::mem::replace(&mut self.held, part);
            if !self.current.is_empty() && !self.ended {
                return Ok(&self.current);
            }
        }
        let check = self.check.take();
        if check.is_none_or(|(hasher, digest)| hasher.finish() != digest.value()) {
            figures::MISMATCHES_UPSTREAM.add(1);
            return Err(ReadError::WrongDigest);
        }
        Ok(&self.current)
    }

    fn read(&mut self, len_max: u64) -> Result<Vec<u8>, ReadError> {
        loop {
            let mut part = vec![0; usize::try_from(len_max).unwrap_or(0).min(limits::COPY_LEN)];
            let len = self.body.read(&mut part).map_err(ReadError::Upstream)?;
            part.truncate(len);
            let skipped = usize::try_from(self.skip).unwrap_or(len).min(len);
            self.skip -= skipped as u64;
            part.drain(..skipped);
            if !part.is_empty() || len == 0 {
                return Ok(part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fetch::room::Room;
    use crate::net::tls::Roots;
    use crate::proto::http1::{Headers, Url};
    use crate::proto::ostree::Checksum;
    use crate::store::{Max, Store, StoreConfig};
    use crate::upstream::{Upstream, UpstreamConfig};

    /// The one part of a delta, and its reader, which holds it back for `held`.
    fn part_held(held: Duration) -> (tempfile::TempDir, Arc<Partial>, Span, Reader) {
        let dir = tempfile::tempdir().unwrap();
        let config = StoreConfig { root: dir.path().to_owned(), max: Max::None };
        let store = Store::open(config).unwrap();
        let layout = Arc::new(Layout::new([100, 200_000]).unwrap());
        let name = BlobName::Delta(Checksum([1; 32]));
        let partial = store.begin(&name, Some(layout.len())).unwrap();
        let url = Url::parse("http://127.0.0.1:1/superblock").unwrap();
        let job = Job::new(name, Origin { url, headers: Headers::new() });
        job.layout.set(Arc::clone(&layout)).unwrap();
        let file = layout.span(1).unwrap();
        let config = UpstreamConfig { registry: None, roots: Roots(Vec::new()), allow: Vec::new() };
        let arriving = Arriving {
            job: Arc::new(job),
            partial: Arc::clone(&partial),
            ticket: partial.feed().reader(file.offset),
            upstream: Arc::new(Upstream::new(config)),
            told: file.offset,
            early: None,
            held,
            room: Room::new(0),
        };
        let reader = Reader {
            name,
            source: Source::Arriving(arriving),
            base: file.offset,
            total: Some(file.len),
            from: file.offset,
            at: file.offset,
            end: Some(file.end()),
            layout: Some(layout),
        };
        (dir, partial, file, reader)
    }

    fn next_len(reader: &mut Reader) -> u64 {
        match reader.next(u64::MAX).unwrap() {
            Chunk::File { len, .. } => len,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_part_is_held_back_until_it_is_known_to_be_right() {
        let (_dir, partial, file, mut reader) = part_held(Duration::from_secs(3600));
        partial.feed().mark(Span { offset: 0, len: file.end() });
        partial.feed().prove(file);
        assert_eq!(next_len(&mut reader), file.len, "all of it at once");
        assert!(matches!(reader.next(1), Ok(Chunk::End)));
    }

    /// A client that hears nothing for long would give up.
    #[test]
    fn a_part_that_takes_long_is_sent_as_it_comes_but_for_its_end() {
        let (_dir, partial, file, mut reader) = part_held(Duration::ZERO);
        partial.feed().mark(Span { offset: file.offset, len: 100_000 });
        assert_eq!(next_len(&mut reader), 100_000);
        partial.feed().mark(file);
        let held_back = limits::HELD_BACK_LEN;
        assert_eq!(next_len(&mut reader), file.len - 100_000 - held_back);
        partial.feed().prove(file);
        assert_eq!(next_len(&mut reader), held_back);
        assert!(matches!(reader.next(1), Ok(Chunk::End)));
    }

    #[test]
    fn a_part_that_turns_out_wrong_after_some_of_it_has_left_is_cut() {
        let (_dir, partial, file, mut reader) = part_held(Duration::ZERO);
        partial.feed().mark(Span { offset: file.offset, len: 100_000 });
        assert_eq!(next_len(&mut reader), 100_000);
        partial.feed().retract(file);
        partial.feed().mark(file);
        assert!(matches!(reader.next(1), Err(ReadError::WrongDigest)));
    }
}
