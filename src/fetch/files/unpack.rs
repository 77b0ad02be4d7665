//! Objects out of the parts of static deltas.
//!
//! libostree before 2023.7 asks for most objects of a commit beside the delta to it. This host has
//! them, or will in a moment: they are inside the parts of that delta. The first request for one
//! unpacks the part that makes it, and what the part carries whole goes into the cache of files,
//! where the other requests find theirs. Objects that a part makes of others, which are on the host
//! that pulls, are the upstream's to give. Who asks for no objects costs nothing.
//!
//! **Invariant:** an object is kept only if it has the checksum that it is named for.
//!
//! Not here: what is in a part (`proto::ostree::part`).

use std::collections::{HashMap, VecDeque};
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::sync::{Arc, OnceLock};

use crate::base::clock::Time;
use crate::base::figures;
use crate::base::ranked::{Rank, Ranked, Signal};
use crate::base::thread;
use crate::fetch::files::{Asker, FileReader, Flights, Seat, Verdict};
use crate::fetch::{FetchError, Fetcher};
use crate::limits;
use crate::log_limited;
use crate::proto::blob::BlobName;
use crate::proto::geometry::Span;
use crate::proto::http1::Headers;
use crate::proto::ostree::layout::Layout;
use crate::proto::ostree::part::{self, Objects};
use crate::proto::ostree::{self, Checksum, RepoPath, delta};
use crate::store::{Blob, FileMeta, Partial, StoreError, Wait};

/// The deltas that were served last, and who unpacks what of them.
pub struct Unpacker {
    /// The latest first.
    served: Ranked<VecDeque<Arc<ServedDelta>>>,
    /// By repository, delta and part.
    flights: Flights,
    turns: Ranked<Turns>,
    freed: Signal,
}

/// Who unpacks, and who waits for that.
#[derive(Default)]
struct Turns {
    /// A part is being unpacked.
    is_busy: bool,
    waiting: usize,
    /// Of the last part, while there is one who takes it over.
    room: Room,
}

/// Memory that is used for one part after another: to take it anew costs as much as to fill it.
#[derive(Default)]
struct Room {
    /// A part that is unpacked.
    part: Vec<u8>,
    /// A file of it, as it is kept.
    object: Vec<u8>,
}

/// A delta that was served.
struct ServedDelta {
    /// The URL of its repository.
    repository: String,
    name: BlobName,
    layout: Arc<Layout>,
    /// Made when the first object is asked for.
    index: OnceLock<Index>,
    /// The parts that were unpacked, or could not be, and when.
    tried: Ranked<HashMap<u16, Time>>,
}

/// Which part makes an object: by the first bytes of its checksum, sorted.
type Index = Box<[(u64, u16)]>;

fn key_of(checksum: &Checksum) -> u64 {
    checksum.0.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

impl Unpacker {
    /// Of no delta yet.
    pub fn new() -> Unpacker {
        Unpacker {
            served: Ranked::new(Rank::Leaf, VecDeque::new()),
            flights: Flights::new(),
            turns: Ranked::new(Rank::Leaf, Turns::default()),
            freed: Signal::new(),
        }
    }

    /// Takes note of a delta whose superblock is being served out of `repository`: a pull begins.
    pub fn note(&self, repository: String, name: BlobName, layout: &Arc<Layout>) {
        let mut served = self.served.lock();
        let known = served.iter().position(|delta| {
            delta.name == name && delta.repository == repository && delta.layout == *layout
        });
        let known = known.and_then(|at| served.remove(at));
        served.push_front(known.unwrap_or_else(|| {
            let tried = Ranked::new(Rank::Leaf, HashMap::new());
            let (layout, index) = (Arc::clone(layout), OnceLock::new());
            Arc::new(ServedDelta { repository, name, layout, index, tried })
        }));
        served.truncate(limits::DELTAS_UNPACKED_MAX);
    }

    fn of_repository(&self, repository: &str) -> Vec<Arc<ServedDelta>> {
        let served = self.served.lock();
        served.iter().filter(|delta| delta.repository == repository).cloned().collect()
    }

    /// Waits until nobody unpacks a part; `None`: not by `deadline`.
    fn turn(&self, deadline: Time) -> Option<Turn<'_>> {
        let mut turns = self.turns.lock();
        turns.waiting += 1;
        while turns.is_busy && Time::now() < deadline {
            turns = self.freed.wait_until(turns, deadline);
        }
        turns.waiting -= 1;
        if turns.is_busy {
            return None;
        }
        turns.is_busy = true;
        let room = std::mem::take(&mut turns.room);
        Some(Turn { unpacker: self, room })
    }
}

/// The right to unpack a part, and the memory for it.
struct Turn<'a> {
    unpacker: &'a Unpacker,
    room: Room,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut turns = self.unpacker.turns.lock();
        turns.is_busy = false;
        if turns.waiting > 0 {
            turns.room = std::mem::take(&mut self.room);
        }
        drop(turns);
        self.unpacker.freed.wake_one();
    }
}

impl Fetcher {
    /// The object, if a part of a delta that is here, or on its way, carries it.
    pub(super) fn object_of_delta(
        &self,
        asker: &Asker<'_>,
    ) -> Result<Option<FileReader>, FetchError> {
        let path = asker.request.origin.url.path();
        let Some((_, RepoPath::Object(checksum, _))) = ostree::parse(path) else { return Ok(None) };
        let deadline = Time::now() + limits::PART_AWAITED;
        for delta in self.unpacker.of_repository(&asker.request.repository) {
            let Some(number) = self.part_that_makes(&delta, &checksum, deadline) else { continue };
            // Who would not get it from the upstream makes no work here.
            let Ok(Verdict::Give("store")) = self.may_have(asker, false) else { return Ok(None) };
            if self.unpack_once(&delta, number, asker.anonymous, deadline) {
                return self.object_here(asker);
            }
        }
        Ok(None)
    }

    /// The number of the part that makes the object.
    fn part_that_makes(
        &self,
        delta: &ServedDelta,
        checksum: &Checksum,
        deadline: Time,
    ) -> Option<u16> {
        let index = match delta.index.get() {
            Some(index) => index,
            None => {
                let index = self.index_of(delta, deadline)?;
                delta.index.get_or_init(|| index)
            }
        };
        let at = index.binary_search_by_key(&key_of(checksum), |(key, _)| *key).ok()?;
        index.get(at).map(|(_, number)| *number)
    }

    fn index_of(&self, delta: &ServedDelta, deadline: Time) -> Option<Index> {
        let superblock = self.superblock_here(&delta.name, &delta.layout, deadline)?;
        let contents = delta::contents(&superblock).ok()?;
        let count: usize = contents.iter().map(delta::Contents::len).sum();
        if count > limits::FILES_MAX {
            return None;
        }
        let mut index = Vec::with_capacity(count);
        for (number, contents) in (0..).zip(&contents) {
            let objects = (0..contents.len()).filter_map(|at| contents.object(at));
            index.extend(objects.map(|(checksum, _)| (key_of(&checksum), number)));
        }
        index.sort_unstable();
        Some(index.into())
    }

    /// The superblock of a delta that is here or on its way, unless it is long.
    pub(in crate::fetch) fn superblock_here(
        &self,
        name: &BlobName,
        layout: &Layout,
        deadline: Time,
    ) -> Option<Vec<u8>> {
        let span = layout.span(0)?;
        let len = usize::try_from(span.len).ok()?;
        if len > limits::UNPACKED_SUPERBLOCK_LEN_MAX {
            return None;
        }
        let mut superblock = vec![0; len];
        self.proven(name, span, deadline)?.read_at(&mut superblock, 0).ok()?;
        Some(superblock)
    }

    /// Puts what a part carries whole into the cache of files, unless another does, or has.
    /// `false`: it is of no use to look there.
    fn unpack_once(&self, delta: &ServedDelta, number: u16, public: bool, deadline: Time) -> bool {
        let key = format!("{}{}/{number}", delta.repository, delta.name);
        let flight = match self.unpacker.flights.seat(&key) {
            Seat::Leader(flight) => flight,
            Seat::Follower(leg) => return leg.wait(limits::FILE_FLIGHT_PATIENCE),
            Seat::Standing => return false,
        };
        let tried_at = delta.tried.lock().get(&number).copied();
        if tried_at.is_some_and(|at| Time::now().since(at) < limits::PART_TRIED_KEPT) {
            flight.land();
            return true;
        }
        let Some(outcome) = self.unpack_in_turn(delta, number, public, deadline) else {
            figures::PARTS_LATE.add(1);
            return false;
        };
        delta.tried.lock().insert(number, Time::now());
        match outcome {
            Ok(count) => {
                figures::PARTS_UNPACKED.add(1);
                log::debug!("part {number} of delta {}: {count} objects", delta.name.short());
                flight.land();
                true
            }
            Err(why) => {
                figures::PARTS_FAILED.add(1);
                log_limited!(warn, "part {number} of delta {}: {why}", delta.name.short());
                false
            }
        }
    }

    /// `None`: it was not here in time, or others were in front.
    fn unpack_in_turn(
        &self,
        delta: &ServedDelta,
        number: u16,
        public: bool,
        deadline: Time,
    ) -> Option<Result<usize, String>> {
        // One that is inside the superblock came with it.
        let file = delta.layout.part(u32::from(number)).or_else(|| delta.layout.span(0))?;
        let bytes = self.proven(&delta.name, file, deadline)?;
        let mut turn = self.unpacker.turn(deadline)?;
        let superblock = self.superblock_here(&delta.name, &delta.layout, deadline)?;
        let unpacked = thread::contain(|| {
            let packed = Window::of(bytes, file);
            self.unpack(delta, number, &superblock, packed, public, &mut turn.room)
        });
        Some(unpacked.unwrap_or_else(|| Err("unpacking it failed".to_owned())))
    }

    /// Unpacks a part, whose file is `packed`, and says how many objects were kept.
    fn unpack(
        &self,
        delta: &ServedDelta,
        number: u16,
        superblock: &[u8],
        packed: Window,
        public: bool,
        room: &mut Room,
    ) -> Result<usize, String> {
        let contents = delta::contents(superblock).map_err(|error| error.to_string())?;
        let contents = *contents.get(usize::from(number)).ok_or("there is no such part")?;
        let unpacked = match contents.inline {
            Some(inline) => part::unpack(Cursor::new(inline), &mut room.part),
            None => part::unpack(packed, &mut room.part),
        };
        unpacked.map_err(|error| error.to_string())?;
        let objects = Objects::new(&room.part, contents).map_err(|error| error.to_string())?;
        let mut kept = 0;
        for object in objects {
            let object = object.map_err(|error| error.to_string())?;
            if self.is_stopping() {
                return Err("the program stops".to_owned());
            }
            let path = ostree::object_path(&object.checksum, object.kind);
            let url = format!("{}{path}", delta.repository);
            if self.store().has_file(&url) {
                continue;
            }
            let Some(archived) = object.archived(&mut room.object) else {
                figures::MISMATCHES_UPSTREAM.add(1);
                log_limited!(warn, "object {} of a delta is another", object.checksum);
                continue;
            };
            let mut headers = Headers::new();
            headers.append("Content-Type", "application/octet-stream");
            match self.store().put_file(&FileMeta { url, status: 200, public, headers }, archived) {
                Ok(()) => {
                    figures::OBJECTS_UNPACKED.add(1);
                    kept += 1;
                }
                // One that is too large; the next may be smaller.
                Err(StoreError::Full { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(kept)
    }

    /// The bytes of a delta, once those of `file` are known to be right. `None`: they are not by
    /// `deadline`, or do not come, or nothing has come for a while.
    fn proven(&self, name: &BlobName, file: Span, deadline: Time) -> Option<Bytes> {
        let stored = || self.store().blob(name).map(Bytes::Stored);
        if let Some(bytes) = stored() {
            return Some(bytes);
        }
        let job = self.jobs.lock().get(name).cloned();
        // Without one it has ended meanwhile, one way or the other.
        let Some(partial) = job.and_then(|job| job.partial()) else { return stored() };
        let feed = partial.feed();
        loop {
            let come = feed.readable();
            let pause = (Time::now() + limits::NO_PROGRESS).min(deadline);
            match feed.wait_proven(file, pause) {
                Wait::Ready { .. } | Wait::Whole => return Some(Bytes::Arriving(partial)),
                Wait::Failed(_) => return None,
                Wait::TimedOut if Time::now() >= deadline || feed.readable() == come => {
                    return None;
                }
                Wait::TimedOut => {}
            }
        }
    }
}

/// Where the bytes of a delta are.
enum Bytes {
    Stored(Arc<Blob>),
    Arriving(Arc<Partial>),
}

impl Bytes {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<(), StoreError> {
        match self {
            Bytes::Stored(blob) => blob.read_at(buf, offset),
            Bytes::Arriving(partial) => partial.read_at(buf, offset),
        }
    }
}

/// The bytes of one file of a delta.
struct Window {
    bytes: Bytes,
    file: Span,
    /// What of the file is read next.
    at: u64,
}

impl Window {
    fn of(bytes: Bytes, file: Span) -> Window {
        Window { bytes, file, at: 0 }
    }
}

impl Read for Window {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = self.file.len.saturating_sub(self.at);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let read = self.bytes.read_at(&mut buf[..len], self.file.offset + self.at);
        read.map_err(|error| io::Error::other(error.to_string()))?;
        self.at += len as u64;
        Ok(len)
    }
}

impl Seek for Window {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.file.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}
