//! Buffers for the blocks of pieces in flight: taken by a link's reader, given back when the piece
//! is on disk or the block was dropped.
//!
//! **Invariant:** a buffer is zeroed once in its life, not once per block. The pool keeps at most
//! [`POOL_BYTES_MAX`] of idle memory; what is in use is bounded by what links were asked for.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use crate::base::ranked::{Rank, Ranked};
use crate::limits::{BLOCK_LEN, BLOCK_LEN_MAX, POOL_BYTES_MAX};

/// Sizes of buffers: [`BLOCK_LEN`], doubled until [`BLOCK_LEN_MAX`].
const CLASSES: usize = (BLOCK_LEN_MAX / BLOCK_LEN).trailing_zeros() as usize + 1;

/// Clones share the buffers.
#[derive(Clone)]
pub(super) struct Pool(Arc<Ranked<Idle>>);

#[derive(Default)]
struct Idle {
    classes: [Vec<Vec<u8>>; CLASSES],
    bytes: usize,
}

/// The bytes of one block. Goes back to its pool on drop.
pub(super) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
    pool: Pool,
}

impl Pool {
    /// A pool that holds nothing yet.
    pub(super) fn new() -> Pool {
        Pool(Arc::new(Ranked::new(Rank::Leaf, Idle::default())))
    }

    /// A buffer of `len` bytes with any content.
    pub(super) fn take(&self, len: u32) -> Buffer {
        let class = class_of(len);
        let idle = {
            let mut idle = self.0.lock();
            let found = idle.classes[class].pop();
            idle.bytes -= found.as_ref().map_or(0, Vec::len);
            found
        };
        let bytes = idle.unwrap_or_else(|| vec![0; (BLOCK_LEN as usize) << class]);
        Buffer { bytes, len: len as usize, pool: self.clone() }
    }
}

/// The smallest class that holds `len` bytes.
///
/// # Panics
/// If `len` is above [`BLOCK_LEN_MAX`]: nobody was asked for such a block.
fn class_of(len: u32) -> usize {
    assert!(len <= BLOCK_LEN_MAX, "a block of {len} bytes was never asked for");
    len.div_ceil(BLOCK_LEN).next_power_of_two().trailing_zeros() as usize
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer of {} bytes", self.len)
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let class = class_of(u32::try_from(bytes.len()).unwrap_or(BLOCK_LEN_MAX));
        let mut idle = self.pool.0.lock();
        if idle.bytes + bytes.len() <= POOL_BYTES_MAX {
            idle.bytes += bytes.len();
            idle.classes[class].push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again() {
        let pool = Pool::new();
        let mut buffer = pool.take(BLOCK_LEN);
        buffer[0] = 7;
        drop(buffer);
        let again = pool.take(5);
        assert_eq!((again.len(), again[0]), (5, 7), "same memory, shorter block");
        assert_eq!(pool.take(BLOCK_LEN)[0], 0, "a second buffer is new");
    }

    #[test]
    fn every_length_fits_its_class() {
        let pool = Pool::new();
        for len in [1, BLOCK_LEN, BLOCK_LEN + 1, 5 * BLOCK_LEN, BLOCK_LEN_MAX] {
            let buffer = pool.take(len);
            assert_eq!(buffer.len(), len as usize);
            assert!(buffer.bytes.len() < 2 * buffer.len().max(BLOCK_LEN as usize));
        }
    }

    #[test]
    fn idle_memory_is_bounded() {
        let pool = Pool::new();
        let count = POOL_BYTES_MAX / BLOCK_LEN_MAX as usize + 3;
        let buffers: Vec<Buffer> = (0..count).map(|_| pool.take(BLOCK_LEN_MAX)).collect();
        drop(buffers);
        assert!(pool.0.lock().bytes <= POOL_BYTES_MAX);
    }
}
