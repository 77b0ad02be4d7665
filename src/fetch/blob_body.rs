//! The bytes of a blob for who needs them in memory: an object that is unpacked, a manifest.

use std::os::unix::fs::FileExt as _;

use crate::fetch::{Chunk, ReadError, Reader};
use crate::limits;

/// What a reader gives, in memory, part by part.
#[derive(Debug)]
pub(super) struct BlobBody {
    reader: Reader,
    part: Vec<u8>,
}

impl BlobBody {
    pub(super) fn new(reader: Reader) -> BlobBody {
        BlobBody { reader, part: Vec::new() }
    }

    /// The next part; an empty one is the end.
    pub(super) fn next_part(&mut self) -> Result<&[u8], ReadError> {
        if let Err((len, why)) = self.take_part()? {
            self.reader.go_round(len, &why)?;
            if let Err((_, why)) = self.take_part()? {
                return Err(ReadError::Failed(why.into()));
            }
        }
        Ok(&self.part)
    }

    /// Takes the next part. The inner error: so many bytes of it cannot be read, and why.
    fn take_part(&mut self) -> Result<Result<(), (u64, String)>, ReadError> {
        let part = &mut self.part;
        match self.reader.next(limits::COPY_LEN as u64)? {
            Chunk::File { file, offset, len } => {
                part.resize(usize::try_from(len).unwrap_or(0), 0);
                let read = file.read_exact_at(part, offset);
                return Ok(read.map_err(|error| (len, error.to_string())));
            }
            Chunk::Bytes(bytes) => bytes.clone_into(part),
            Chunk::End => part.clear(),
        }
        Ok(Ok(()))
    }
}
