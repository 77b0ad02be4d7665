//! One stream from upstream into a partial: of a gap of bytes when no piece hash is known, of a run
//! of claimed pieces when they are.
//!
//! **Invariant:** with known hashes no byte is written before its piece has passed; without, the
//! follower judges the whole before its last bytes leave.
//!
//! Not here: when a stream is started, and what follows from its end (`job`, `plan`).

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::base::clock::Time;
use crate::base::hash::Sha1Hash;
use crate::engine::Membership;
use crate::fetch::lanes::Lane;
use crate::fetch::stream::{Place, Stream};
use crate::limits;
use crate::proto::geometry::{PieceIndex, Span};
use crate::proto::metainfo::Metainfo;
use crate::store::{Partial, StoreError};
use crate::upstream::{Upstream, UpstreamError};

/// How a stream ended.
#[derive(Debug)]
pub(super) enum FillEnd {
    /// It brought what it was started for.
    Done,
    /// There was nothing to bring: every missing piece is asked of peers.
    FoundNothing,
    /// It was left because it had stalled.
    Left,
}

/// Why a stream ended badly.
#[derive(Debug)]
pub(super) enum FillError {
    /// The upstream or the way to it.
    Upstream(UpstreamError),
    /// Our disk.
    Store(StoreError),
    /// The upstream says another length than before.
    Length {
        /// Before.
        known: u64,
        /// Now.
        told: u64,
    },
    /// A piece is not what the catalog says.
    WrongPiece {
        /// Which.
        piece: PieceIndex,
        /// What its bytes hash to.
        got: Sha1Hash,
    },
}

impl fmt::Display for FillError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FillError::Upstream(error) => write!(f, "{error}"),
            FillError::Store(error) => write!(f, "{error}"),
            FillError::Length { known, told } => {
                write!(f, "the upstream says {told} bytes now, it was {known}")
            }
            FillError::WrongPiece { piece, got } => {
                write!(f, "{piece:?} from upstream hashes to {got}, the catalog says otherwise")
            }
        }
    }
}

impl From<UpstreamError> for FillError {
    fn from(error: UpstreamError) -> FillError {
        FillError::Upstream(error)
    }
}

impl From<StoreError> for FillError {
    fn from(error: StoreError) -> FillError {
        FillError::Store(error)
    }
}

/// What a running stream shows to those who watch it.
#[derive(Debug)]
pub(super) struct Gauge {
    started_at: Time,
    last_byte_at: AtomicU64,
    bytes: AtomicU64,
    brought: AtomicU64,
    left: AtomicBool,
}

impl Gauge {
    pub(super) fn new(now: Time) -> Gauge {
        Gauge {
            started_at: now,
            last_byte_at: AtomicU64::new(now.nanos()),
            bytes: AtomicU64::new(0),
            brought: AtomicU64::new(0),
            left: AtomicBool::new(false),
        }
    }

    fn count(&self, len: usize) {
        self.bytes.fetch_add(len as u64, Ordering::Relaxed);
        self.last_byte_at.store(Time::now().nanos(), Ordering::Relaxed);
    }

    /// Counts bytes that came, and says whether somebody still waits for more.
    pub(super) fn goes_on(&self, len: usize) -> bool {
        self.count(len);
        !self.is_left()
    }

    /// When the last byte came, or the stream was started.
    pub(super) fn last_byte_at(&self) -> Time {
        Time::after_start(Duration::from_nanos(self.last_byte_at.load(Ordering::Relaxed)))
    }

    /// Bytes that came and were missing. Those that come again are no progress: an upstream that
    /// ignores Range and always breaks at the same place would be asked for ever.
    pub(super) fn brought(&self) -> u64 {
        self.brought.load(Ordering::Relaxed)
    }

    /// Bytes that came.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Bytes per second from the start to the last byte; `None` if too few came to tell.
    pub(super) fn rate(&self) -> Option<u64> {
        const ENOUGH: u64 = 1 << 20;
        let bytes = self.bytes();
        let millis = self.last_byte_at().since(self.started_at).as_millis().max(1);
        let rate = u128::from(bytes) * 1000 / millis;
        (bytes >= ENOUGH).then(|| u64::try_from(rate).unwrap_or(u64::MAX))
    }

    /// Tells the stream that nobody waits for it any more.
    pub(super) fn leave(&self) {
        self.left.store(true, Ordering::Relaxed);
    }

    fn is_left(&self) -> bool {
        self.left.load(Ordering::Relaxed)
    }
}

/// What every stream works with.
#[derive(Clone)]
pub(super) struct Fill {
    pub(super) upstream: Arc<Upstream>,
    pub(super) place: Place,
    pub(super) partial: Arc<Partial>,
    pub(super) gauge: Arc<Gauge>,
}

impl Fill {
    /// Fills the first gap at or after `from`, or else before it. `begun`: a response that is open
    /// already; its bytes are taken from where it starts.
    pub(super) fn gap(&self, from: u64, begun: Option<Stream>) -> Result<FillEnd, FillError> {
        let gap = self.partial.feed().gap_from(from).or_else(|| self.partial.feed().gap_from(0));
        let Some((start, end)) = gap else { return Ok(FillEnd::FoundNothing) };
        let body = match begun {
            Some(body) => body,
            None => Stream::open(&self.upstream, &self.place, start, end)?,
        };
        self.learn_len(body.total)?;
        match end.or(self.partial.len()) {
            Some(end) => self.apart(Lane { at: body.offset, stream: body, end }),
            None => self.to_the_end(body),
        }
    }

    /// Brings all that comes. The last part read stays unmarked until the next: when the end is
    /// met, the length is known before the last byte is readable, and who follows the feed knows
    /// where it ends.
    fn to_the_end(&self, mut body: Stream) -> Result<FillEnd, FillError> {
        let mut at = body.offset;
        let mut unmarked = Span { offset: at, len: 0 };
        let mut buf = vec![0; limits::COPY_LEN];
        loop {
            let len = body.read(&mut buf)?;
            if self.gauge.is_left() {
                return Ok(FillEnd::Left);
            }
            self.gauge.count(len);
            if len == 0 {
                break;
            }
            self.partial.feed().mark(unmarked);
            unmarked = self.write_new(at, &buf[..len])?;
            at += len as u64;
        }
        if self.partial.len().is_none() {
            self.partial.set_len(at)?;
        }
        self.partial.feed().mark(unmarked);
        Ok(FillEnd::Done)
    }

    /// Writes what of `bytes` is not there yet, and makes it readable.
    fn bring(&self, at: u64, bytes: &[u8]) -> Result<(), FillError> {
        let written = self.partial.write_missing(at, &[bytes])?;
        self.gauge.brought.fetch_add(written, Ordering::Relaxed);
        Ok(())
    }

    /// As [`Fill::bring`] without the last, for a blob whose length is not known; says where it is.
    /// A response that starts before the gap (Range was ignored) brings bytes that are there.
    fn write_new(&self, at: u64, bytes: &[u8]) -> Result<Span, FillError> {
        let end = at + bytes.len() as u64;
        let new_at = self.partial.feed().readable_from(at).min(end);
        let known = usize::try_from(new_at - at).unwrap_or(bytes.len());
        let new = &bytes[known..];
        if !new.is_empty() {
            self.partial.write(new_at, &[new])?;
            self.gauge.brought.fetch_add(new.len() as u64, Ordering::Relaxed);
        }
        Ok(Span { offset: new_at, len: new.len() as u64 })
    }

    /// Takes bytes that came for `span`.
    pub(super) fn take(&self, span: Span, bytes: &[u8]) -> Result<(), FillError> {
        self.gauge.count(bytes.len());
        self.bring(span.offset, bytes)
    }

    /// Whether nobody waits for this stream any more.
    pub(super) fn is_left(&self) -> bool {
        self.gauge.is_left()
    }

    fn learn_len(&self, told: Option<u64>) -> Result<(), FillError> {
        match (self.partial.len(), told) {
            (None, Some(told)) => Ok(self.partial.set_len(told)?),
            (Some(known), Some(told)) if known != told => Err(FillError::Length { known, told }),
            _ => Ok(()),
        }
    }

    /// Takes a run of missing pieces at or after `from` out of the swarm's hands and brings them.
    pub(super) fn pieces(
        &self,
        membership: &Membership,
        metainfo: &Metainfo,
        run: &Run,
    ) -> Result<FillEnd, FillError> {
        let claimed = membership
            .claim(run.from, run.len_max, run.steal)
            .or_else(|| membership.claim(0, run.len_max, run.steal));
        let Some(span) = claimed else { return Ok(FillEnd::FoundNothing) };
        let mut claim = Claim { membership, rest: span };
        let mut body = Stream::open(&self.upstream, &self.place, span.offset, Some(span.end()))?;
        self.learn_len(body.total)?;
        if !self.skip(&mut body, span.offset)? {
            return Ok(FillEnd::Left);
        }
        let geometry = metainfo.geometry();
        let mut buf = Vec::new();
        while let Some(piece) = geometry.piece_at(claim.rest.offset).filter(|_| claim.rest.len > 0)
        {
            buf.resize(geometry.len_of(piece) as usize, 0);
            if !self.read_all(&mut body, &mut buf)? {
                return Ok(FillEnd::Left);
            }
            let got = Sha1Hash::of(&buf);
            if got != metainfo.piece_hash(piece) {
                return Err(FillError::WrongPiece { piece, got });
            }
            let span = geometry.span(piece);
            // A peer may bring it at the same time, if it was stolen.
            self.bring(span.offset, &buf)?;
            if !self.partial.feed().wait_readable(span, Time::now() + limits::DISK_PATIENCE) {
                return Ok(FillEnd::Left);
            }
            claim.stored(piece, span.len);
        }
        drain(&mut body);
        Ok(FillEnd::Done)
    }

    /// Reads to `offset` if the upstream ignored the Range; false: the stream was left.
    fn skip(&self, body: &mut Stream, offset: u64) -> Result<bool, FillError> {
        let mut at = body.offset;
        let mut buf = vec![0; limits::COPY_LEN];
        while at < offset {
            let room = usize::try_from(offset - at).unwrap_or(usize::MAX).min(buf.len());
            if !self.read_all(body, &mut buf[..room])? {
                return Ok(false);
            }
            at += room as u64;
        }
        Ok(true)
    }

    /// Fills `buf`; false: the stream was left.
    fn read_all(&self, body: &mut Stream, buf: &mut [u8]) -> Result<bool, FillError> {
        let mut filled = 0;
        while filled < buf.len() {
            let len = body.read(&mut buf[filled..])?;
            if self.gauge.is_left() {
                return Ok(false);
            }
            if len == 0 {
                return Err(FillError::Upstream(UpstreamError::WrongLength));
            }
            self.gauge.count(len);
            filled += len;
        }
        Ok(true)
    }
}

/// Which pieces a stream is to bring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    /// The most wanted byte.
    pub(super) from: u64,
    /// At most so many bytes, but at least one piece.
    pub(super) len_max: u64,
    /// Pieces that peers were asked for may be taken.
    pub(super) steal: bool,
}

/// Claimed pieces; what is not stored in the end is given back.
struct Claim<'a> {
    membership: &'a Membership,
    rest: Span,
}

impl Claim<'_> {
    fn stored(&mut self, piece: PieceIndex, len: u64) {
        self.membership.stored(piece);
        self.rest = Span { offset: self.rest.offset + len, len: self.rest.len - len };
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.rest.len > 0 {
            self.membership.release(self.rest);
        }
    }
}

/// A connection is used again only if its response was read to the end; after a partial response
/// that is one empty read away.
fn drain(body: &mut Stream) {
    let _ = body.read(&mut [0; 1]);
}
