//! What the store asks of a file system when it changes something on it.
//!
//! The trait is small so that a test can stand under it: cut the power after any step, or fail it.
//! Reading goes past it, straight to the files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use crate::base::sys;

/// The changes that the store makes on disk. Nothing is durable before [`Backend::sync`] (a file's
/// bytes) or [`Backend::sync_dir`] (names).
pub trait Backend: Send + Sync + 'static {
    /// Makes an empty file to write and read. There must be none of that name, not even a link.
    ///
    /// # Errors
    /// The file system's.
    fn create(&self, path: &Path) -> io::Result<File>;

    /// Sets `len` bytes of disk aside for `file`, without changing its length.
    ///
    /// # Errors
    /// [`io::ErrorKind::StorageFull`], or another of the file system's.
    fn reserve(&self, file: &File, len: u64) -> io::Result<()>;

    /// Writes from `bufs` at `offset` and says how many bytes it took, as `pwritev(2)`.
    ///
    /// # Errors
    /// The file system's.
    fn write_at(&self, file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;

    /// Makes the bytes of `file` durable.
    ///
    /// # Errors
    /// The file system's. The bytes may be lost even if a second call succeeds.
    fn sync(&self, file: &File) -> io::Result<()>;

    /// Gives the file `from` the name `to`, in place of what has that name now.
    ///
    /// # Errors
    /// The file system's.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file's name; who has it open can go on reading.
    ///
    /// # Errors
    /// The file system's.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// Makes the names in the directory `dir` durable.
    ///
    /// # Errors
    /// The file system's.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
}

/// The file system of this host.
#[derive(Clone, Copy, Debug)]
pub struct Disk;

impl Backend for Disk {
    fn create(&self, path: &Path) -> io::Result<File> {
        // O_EXCL does not follow a link in the last part of the path.
        OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
    }

    fn reserve(&self, file: &File, len: u64) -> io::Result<()> {
        sys::reserve(file, len)
    }

    fn write_at(&self, file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        sys::write_vectored_at(file, bufs, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }
}

/// Writes all of `bufs`, one after the other, at `offset`.
///
/// # Errors
/// The backend's; [`io::ErrorKind::WriteZero`] if it takes no more.
pub fn write_all_at(
    backend: &dyn Backend,
    file: &File,
    bufs: &[&[u8]],
    mut offset: u64,
) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
    let mut rest = slices.as_mut_slice();
    // Empty buffers in front are dropped, so that "nothing left" shows as an empty slice.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match backend.write_at(file, rest, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                offset += count as u64;
                IoSlice::advance_slices(&mut rest, count);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
