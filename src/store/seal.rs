//! How a partial becomes a whole blob that survives a loss of power.
//!
//! ```text
//! 1  write the metainfo to partial/, sync it
//! 2  rename it to torrents/, sync torrents/
//! 3  sync the blob's bytes
//! 4  rename the blob to blobs/, sync blobs/       <- the rename is the commit
//! ```
//!
//! **Invariant:** a file in `blobs/` has all its bytes on disk, they are what was sealed, and its
//! metainfo is in `torrents/`. So a start hashes nothing. A cut before the commit leaves files of
//! which one half is missing: a start removes them ([`crate::store::recover`]).

use std::fs::File;
use std::io;
use std::path::Path;

use crate::store::SeedEntry;
use crate::store::backend::{Backend, write_all_at};
use crate::store::blob::Blob;
use crate::store::error::StoreError;
use crate::store::layout::Layout;

/// Makes a whole blob durable, whose file is still in `partial/`.
pub fn commit(backend: &dyn Backend, layout: &Layout, blob: &Blob) -> Result<(), StoreError> {
    let seed = blob.seed();
    let draft = layout.partial_torrent(&seed.name);
    let torrent = layout.torrent(&seed.name, &seed.info_hash);
    let file = create_anew(backend, &draft)?;
    write_all_at(backend, &file, &[&blob.metainfo()?.encode()], 0)
        .map_err(|error| StoreError::io("write", &draft, error))?;
    backend.sync(&file).map_err(|error| StoreError::io("sync", &draft, error))?;
    move_durably(backend, &draft, &torrent, layout.torrents())?;

    let partial = layout.partial(&seed.name);
    let bytes = blob.own_file().ok_or(StoreError::Misuse("it lies elsewhere"))?;
    backend.sync(bytes).map_err(|error| StoreError::io("sync", &partial, error))?;
    move_durably(backend, &partial, &layout.blob(&seed.name), layout.blobs())
}

fn move_durably(
    backend: &dyn Backend,
    from: &Path,
    to: &Path,
    to_dir: &Path,
) -> Result<(), StoreError> {
    backend.rename(from, to).map_err(|error| StoreError::io("rename", from, error))?;
    backend.sync_dir(to_dir).map_err(|error| StoreError::io("sync", to_dir, error))
}

/// Takes a whole blob off the disk, the blob before its metainfo: a cut between the two leaves
/// metainfo without a blob, which a start removes.
pub fn erase(backend: &dyn Backend, layout: &Layout, seed: &SeedEntry) -> Result<(), StoreError> {
    remove(backend, &layout.blob(&seed.name))?;
    remove(backend, &layout.torrent(&seed.name, &seed.info_hash))
}

/// Makes the file `path`, whose name the caller has claimed: one that is there is left over from a
/// removal that failed.
pub fn create_anew(backend: &dyn Backend, path: &Path) -> Result<File, StoreError> {
    let created = match backend.create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            remove(backend, path)?;
            backend.create(path)
        }
        created => created,
    };
    created.map_err(|error| StoreError::io("create", path, error))
}

/// Removes the file `path`, if there is one.
pub fn remove(backend: &dyn Backend, path: &Path) -> Result<(), StoreError> {
    match backend.remove(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(|error| StoreError::io("remove", path, error)),
    }
}
