//! A storage that holds many blobs, made by the store itself without waiting for the disk.

use std::fs::File;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::base::rng::Rng;
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::geometry::{Geometry, Span};
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::store::backend::{Backend, Disk};
use torrent_cache::store::{Max, Store, StoreConfig};

use super::rig::image::Blob;

/// The disk, without what makes it safe.
pub struct Hasty;

impl Backend for Hasty {
    fn create(&self, path: &Path) -> io::Result<File> {
        Disk.create(path)
    }

    fn reserve(&self, _: &File, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn write_at(&self, file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        Disk.write_at(file, bufs, offset)
    }

    fn sync(&self, _: &File) -> io::Result<()> {
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// Random bytes with their digest, the same for the same seed.
pub fn random_blob(seed: u64, len: usize) -> Blob {
    let mut bytes = vec![0; len];
    Rng::seeded(seed).fill(&mut bytes);
    Blob::new(bytes)
}

/// Fills the storage `root` with `count` blobs of `len` bytes and says what they are called.
pub fn fill(root: &Path, count: u64, len: usize) -> Vec<String> {
    let config = StoreConfig { root: root.to_owned(), max: Max::None };
    let store = Store::open_on(Box::new(Hasty), config).expect("the storage can be opened");
    let geometry = Geometry::for_blob(len as u64).expect("a usual length");
    let piece_len = geometry.piece_len() as usize;
    let digests = (0..count).map(|seed| {
        let blob = random_blob(seed, len);
        let name = BlobName::parse(&blob.digest).expect("a digest");
        let partial = store.begin(&name, Some(len as u64)).expect("the storage has room");
        partial.write(0, &[&blob.bytes]).expect("the disk has room");
        partial.feed().mark(Span { offset: 0, len: len as u64 });
        let hashes = blob.bytes.chunks(piece_len).map(Sha1Hash::of).collect();
        let metainfo = Metainfo::of_blob(&name, len as u64, hashes).expect("a hash for each");
        store.seal(&partial, Arc::new(metainfo)).expect("it is complete");
        store.settle().expect("the disk has room");
        blob.digest
    });
    digests.collect()
}
