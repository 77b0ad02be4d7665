//! What is moved, and who has it.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use torrent_cache::base::clock::Time;
use torrent_cache::base::hash::Sha1Hash;
use torrent_cache::proto::blob::BlobName;
use torrent_cache::proto::geometry::{Geometry, Span};
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::store::{Max, Store, StoreConfig};
use torrent_cache::tracker::{Sockets, Tracker};

use super::peers::{self, Who};
use crate::support::rig::process::Process;
use crate::support::rig::{free_port, loopback, temp_dir};
use crate::support::seeded::{Hasty, random_blob};

/// Blobs in every shape that somebody wants: in a storage of ours, as plain files, as `.torrent`s.
pub struct Cargo {
    dir: TempDir,
    pub hashes: Vec<Sha1Hash>,
    /// Of each blob.
    pub blob_len: u64,
    pub piece_len: u32,
    /// Folders of turns that are over.
    kept: Mutex<Vec<TempDir>>,
}

/// From so many files on, a folder is kept.
const FILES_KEPT: usize = 100;

impl Cargo {
    pub fn new(count: usize, len: usize) -> Cargo {
        let dir = temp_dir();
        for folder in ["storage", "files", "torrents"] {
            fs::create_dir(dir.path().join(folder)).expect("it is new");
        }
        let config = StoreConfig { root: dir.path().join("storage"), max: Max::None };
        let store = Store::open_on(Box::new(Hasty), config).expect("the storage can be opened");
        let piece_len = Geometry::for_blob(len as u64).expect("usual").piece_len();
        let mut hashes = Vec::new();
        for seed in 0..count as u64 {
            let blob = random_blob(seed, len);
            let name = BlobName::parse(&blob.digest).expect("a digest");
            let pieces = blob.bytes.chunks(piece_len as usize).map(Sha1Hash::of).collect();
            let metainfo = Metainfo::of_blob(&name, len as u64, pieces).expect("a hash for each");
            let metainfo = Arc::new(metainfo);
            let partial = store.begin(&name, Some(len as u64)).expect("the storage has room");
            partial.write(0, &[&blob.bytes]).expect("the disk has room");
            partial.feed().mark(Span { offset: 0, len: len as u64 });
            store.seal(&partial, Arc::clone(&metainfo)).expect("it is complete");
            store.settle().expect("the disk has room");
            let write = |folder: &str, bytes: &[u8]| {
                let path = dir.path().join(folder).join(metainfo.name());
                fs::write(path, bytes).expect("the disk has room");
            };
            write("files", &blob.bytes);
            write("torrents", &metainfo.encode());
            hashes.push(metainfo.info_hash());
        }
        Cargo { dir, hashes, blob_len: len as u64, piece_len, kept: Mutex::default() }
    }

    /// Of all blobs together.
    pub fn bytes(&self) -> f64 {
        self.blob_len as f64 * self.hashes.len() as f64
    }

    pub fn path(&self, folder: &str) -> PathBuf {
        self.dir.path().join(folder)
    }

    /// The plain files, by name.
    pub fn files(&self) -> impl Iterator<Item = (OsString, PathBuf)> {
        let files = fs::read_dir(self.path("files")).expect("it is there");
        files.map(|file| file.expect("it is there")).map(|file| (file.file_name(), file.path()))
    }

    /// A folder is not needed any more. If it has many files, it stays until the end: where many
    /// were deleted in the last minutes, ext4 without a journal takes long to make others.
    pub fn done_with(&self, dir: TempDir) {
        if self.hashes.len() >= FILES_KEPT {
            self.kept.lock().expect("nobody panics").push(dir);
        }
    }

    /// Fails unless all of it is in `dir`: who ends early would look fast.
    pub fn check(&self, dir: &Path) {
        for (name, file) in self.files() {
            let [ours, theirs] = [file, dir.join(&name)].map(|path| fs::read(path).ok());
            assert!(ours == theirs, "{} is not there", name.display());
        }
    }

    /// Copies of the `.torrent`s that name the tracker: some clients have no other way to learn it.
    fn put_torrents(&self, to: &Path, announce: &str) {
        fs::create_dir(to).expect("it is new");
        for file in fs::read_dir(self.path("torrents")).expect("it is there") {
            let file = file.expect("it is there");
            let bytes = fs::read(file.path()).expect("it can be read");
            let mut with = format!("d8:announce{}:{announce}", announce.len()).into_bytes();
            with.extend_from_slice(&bytes[1..]);
            let name = format!("{}.torrent", file.file_name().to_string_lossy());
            fs::write(to.join(name), with).expect("the disk has room");
        }
    }
}

/// A process that seeds all of a cargo, and a tracker of its own: one that ended without a word
/// would be told to the next.
pub struct Seeding {
    pub process: Process,
    pub addr: SocketAddr,
    pub announce: String,
    /// The folder of the `.torrent`s that name the tracker.
    pub torrents: PathBuf,
    tracker: Tracker,
    dir: TempDir,
}

impl Seeding {
    pub fn start(cargo: &Cargo, who: Who) -> Seeding {
        let sockets = Sockets::bind(loopback(0)).expect("a port is free");
        let tracker = Tracker::start(sockets, || "none".to_owned()).expect("threads");
        let announce = format!("http://{}/announce", tracker.local_addr());
        let (dir, addr) = (temp_dir(), loopback(free_port()));
        let torrents = dir.path().join("torrents");
        cargo.put_torrents(&torrents, &announce);
        let from = cargo.path(if matches!(who, Who::Ours { .. }) { "storage" } else { "files" });
        let command = peers::command(who, "seed", &from, &torrents, &announce, addr.port());
        let process = Process::spawn("seeder", command, "");
        Seeding { process, addr, announce, torrents, tracker, dir }
    }

    pub fn stop(self, cargo: &Cargo) {
        drop(self.process);
        self.tracker.stop(Time::now());
        cargo.done_with(self.dir);
    }
}
