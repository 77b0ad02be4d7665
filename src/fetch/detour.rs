//! The rest of an answer from upstream to the client, when our own disk does not give it.

use std::sync::Arc;

use crate::base::hash::ContentHasher;
use crate::fetch::judge;
use crate::fetch::reader::{Passing, ReadError};
use crate::fetch::room::Room;
use crate::fetch::stream::{Place, Stream};
use crate::limits;
use crate::proto::blob::{BlobName, Digest};
use crate::store::StoreError;
use crate::upstream::Upstream;

type ReadAt = dyn Fn(&mut [u8], u64) -> Result<(), StoreError>;

/// What is needed to go past the disk.
pub(super) struct Detour {
    pub(super) upstream: Arc<Upstream>,
    pub(super) place: Place,
    /// The length of the blob, if it is known.
    pub(super) len: Option<u64>,
    /// Reads back what has left, which was there.
    pub(super) read_at: Box<ReadAt>,
    /// For superblocks that are read back.
    pub(super) room: Arc<Room>,
}

impl Detour {
    /// The bytes from `at` up to `end`. The answer that began at `from` is checked, if it is all of
    /// a file.
    pub(super) fn take(
        &self,
        name: &BlobName,
        from: u64,
        at: u64,
        end: Option<u64>,
    ) -> Result<Passing, ReadError> {
        let stream = Stream::open(&self.upstream, &self.place, at, end);
        let stream = stream.map_err(ReadError::Upstream)?;
        let layout = self.place.layout.as_deref();
        let file = layout.and_then(|layout| layout.span(layout.file_at(at)?));
        let first = file.map_or(0, |file| file.offset);
        let last = file.map(|file| file.end()).or(self.len);
        if from != first || end.is_some() && end != last {
            return Ok(Passing::new(stream, at));
        }
        let unreadable = |error: StoreError| ReadError::Failed(error.to_string().into());
        let digest = self.digest(name, at).map_err(unreadable)?.ok_or(ReadError::WrongDigest)?;
        let mut hasher = ContentHasher::new(digest.algorithm());
        let mut buf = vec![0; limits::COPY_LEN];
        let mut hashed = from;
        while hashed < at {
            let len = usize::try_from(at - hashed).unwrap_or(usize::MAX).min(buf.len());
            (self.read_at)(&mut buf[..len], hashed).map_err(unreadable)?;
            hasher.update(&buf[..len]);
            hashed += len as u64;
        }
        Ok(Passing::checked(stream, at, hasher, digest))
    }

    /// What the file in which `at` lies must hash to; `None`: the superblock has no such file.
    fn digest(&self, name: &BlobName, at: u64) -> Result<Option<Digest>, StoreError> {
        let part = self.place.layout.as_deref().and_then(|layout| {
            let index = layout.file_at(at).filter(|index| *index > 0)?;
            Some((layout, index - 1))
        });
        let Some((layout, number)) = part else { return Ok(Some(name.digest())) };
        let len = layout.lens().next().unwrap_or(0);
        if len > limits::SUPERBLOCK_LEN_MAX {
            return Ok(None);
        }
        let superblock = self.room.load(len, |buf| (self.read_at)(buf, 0))?;
        Ok(judge::parts(&superblock, layout).and_then(|parts| parts.get(number).copied()))
    }
}
