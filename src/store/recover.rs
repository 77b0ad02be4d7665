//! What a start makes of the files that it finds.
//!
//! A blob with its metainfo is whole ([`crate::store::seal`]). Of anything else that is ours one
//! half is missing, and it is removed. Partials are removed too: which of their bytes were verified
//! is written nowhere, so keeping one would mean to hash it all first.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use crate::base::hash::Sha1Hash;
use crate::proto::blob::BlobName;
use crate::store::SeedEntry;
use crate::store::backend::Backend;
use crate::store::error::StoreError;
use crate::store::layout::{self, Layout};
use crate::store::seal::remove;

/// What a start finds.
pub struct Recovered {
    /// The whole blobs, the least recently used first.
    pub whole: Vec<SeedEntry>,
    /// The latest time at which one was used, by the clock of that time.
    pub last_used: SystemTime,
}

/// Finds the whole blobs and removes what is left over.
pub fn recover(backend: &dyn Backend, layout: &Layout) -> Result<Recovered, StoreError> {
    let mut leftovers = Vec::new();
    list(layout.partials(), layout::parse_partial, |path, _| leftovers.push(path))?;

    let mut torrents: HashMap<BlobName, Vec<Sha1Hash>> = HashMap::new();
    list(layout.torrents(), layout::parse_torrent, |_, (name, info_hash)| {
        torrents.entry(name).or_default().push(info_hash);
    })?;

    let mut whole: Vec<(SystemTime, SeedEntry)> = Vec::new();
    list(layout.blobs(), layout::parse_blob, |path, name| {
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) => meta,
            Err(error) => return log::warn!("{}", StoreError::io("look at", &path, error)),
        };
        // With two metainfos, one is of a seal that failed, and nothing says which.
        match torrents.get(&name).map(Vec::as_slice) {
            Some(&[info_hash]) if meta.len() > 0 => {
                torrents.remove(&name);
                let used = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                whole.push((used, SeedEntry { name, info_hash, len: meta.len() }));
            }
            _ => leftovers.push(path),
        }
    })?;

    for (name, hashes) in &torrents {
        leftovers.extend(hashes.iter().map(|info_hash| layout.torrent(name, info_hash)));
    }
    for path in &leftovers {
        // One that stays does no harm: it is not in the index, and the next start tries again.
        if let Err(error) = remove(backend, path) {
            log::warn!("{error}");
        }
    }
    whole.sort_unstable_by_key(|(used, seed)| (*used, seed.name));
    let last_used = whole.last().map_or(SystemTime::UNIX_EPOCH, |(used, _)| *used);
    Ok(Recovered { whole: whole.into_iter().map(|(_, seed)| seed).collect(), last_used })
}

fn list<N>(
    dir: &Path,
    parse: impl Fn(&std::ffi::OsStr) -> Option<N>,
    found: impl FnMut(std::path::PathBuf, N),
) -> Result<(), StoreError> {
    layout::list(dir, parse, found).map_err(|error| StoreError::io("list", dir, error))
}
