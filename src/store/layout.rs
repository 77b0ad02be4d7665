//! The names of the store's files: the only place that makes a path, and the only one that reads
//! one.
//!
//! [`FILES`] lists them. `BLOB` is [`BlobName::file_stem`]. The info-hash stands in a file name so
//! that a start reads two directories and no metainfo. A file with any other name is not ours:
//! nobody touches it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::base::hash::Sha1Hash;
use crate::proto::blob::BlobName;

/// Every file of a store, for its users: a path with the option `STORAGE`, and what is in it.
pub const FILES: &[(&str, &str)] = &[
    ("STORAGE/lock", "Held while a client uses the store."),
    ("STORAGE/blobs/BLOB", "A whole blob; BLOB is its digest, such as `sha256-9f86d0...`."),
    ("STORAGE/torrents/BLOB.INFOHASH.torrent", "The metainfo of a whole blob."),
    ("STORAGE/partial/BLOB", "A blob on its way; dropped by the next start."),
    ("STORAGE/partial/BLOB.torrent", "The metainfo of a blob that is nearly there."),
    (
        "STORAGE/in-place/BLOB.STATE.torrent",
        "The metainfo of a static delta that lies in a repository of this host.",
    ),
    ("STORAGE/files/FOLDER/HASH", "A small answer of an upstream, by the hash of its URL."),
    ("STORAGE/files/FOLDER/.new-NUMBER", "One that is being written; dropped by the next start."),
];

/// Makes the paths of one store.
#[derive(Clone, Debug)]
pub struct Layout {
    root: PathBuf,
    blobs: PathBuf,
    torrents: PathBuf,
    partial: PathBuf,
    in_place: PathBuf,
}

impl Layout {
    /// The layout of the store in the directory `root`.
    #[must_use]
    pub fn new(root: &Path) -> Layout {
        Layout {
            root: root.to_owned(),
            blobs: root.join("blobs"),
            torrents: root.join("torrents"),
            partial: root.join("partial"),
            in_place: root.join("in-place"),
        }
    }

    /// Makes the directories that are not there, and says whether that of the blobs was one of
    /// them. Blobs of private registries are nobody else's business: only our user may enter.
    ///
    /// # Errors
    /// With the path that could not be made, or is no directory.
    pub fn make(&self) -> Result<bool, (PathBuf, io::Error)> {
        fs::create_dir_all(&self.root).map_err(|error| (self.root.clone(), error))?;
        let mut is_new = false;
        for dir in [&self.blobs, &self.torrents, &self.partial, &self.in_place] {
            let made = match DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let is_dir = fs::symlink_metadata(dir).is_ok_and(|meta| meta.is_dir());
                    if is_dir { Ok(()) } else { Err(io::ErrorKind::NotADirectory.into()) }
                }
                Ok(()) => {
                    is_new |= *dir == self.blobs;
                    Ok(())
                }
                Err(error) => Err(error),
            };
            made.map_err(|error| (dir.clone(), error))?;
        }
        Ok(is_new)
    }

    /// The directory of everything.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of whole blobs.
    #[must_use]
    pub fn blobs(&self) -> &Path {
        &self.blobs
    }

    /// The directory of the metainfo of whole blobs.
    #[must_use]
    pub fn torrents(&self) -> &Path {
        &self.torrents
    }

    /// The directory of blobs on their way.
    #[must_use]
    pub fn partials(&self) -> &Path {
        &self.partial
    }

    /// The directory of small answers by URL.
    #[must_use]
    pub fn files(&self) -> PathBuf {
        self.root.join("files")
    }

    /// The file whose lock says that the store is in use.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// A whole blob.
    #[must_use]
    pub fn blob(&self, name: &BlobName) -> PathBuf {
        self.blobs.join(name.file_stem())
    }

    /// The metainfo of a whole blob.
    #[must_use]
    pub fn torrent(&self, name: &BlobName, info_hash: &Sha1Hash) -> PathBuf {
        self.torrents.join(format!("{}.{info_hash}.torrent", name.file_stem()))
    }

    /// A blob on its way.
    #[must_use]
    pub fn partial(&self, name: &BlobName) -> PathBuf {
        self.partial.join(name.file_stem())
    }

    /// The metainfo of a delta that lies in a repository of this host in the state `key`.
    #[must_use]
    pub fn in_place(&self, name: &BlobName, key: &str) -> PathBuf {
        self.in_place.join(format!("{}.{key}.torrent", name.file_stem()))
    }

    /// The metainfo of a blob that is being sealed.
    #[must_use]
    pub fn partial_torrent(&self, name: &BlobName) -> PathBuf {
        self.partial.join(format!("{}.torrent", name.file_stem()))
    }
}

/// The blob whose file in `blobs/` has this name.
#[must_use]
pub fn parse_blob(file: &OsStr) -> Option<BlobName> {
    BlobName::from_file_stem(file.to_str()?).ok()
}

/// The blob and the info-hash of the file in `torrents/` with this name.
#[must_use]
pub fn parse_torrent(file: &OsStr) -> Option<(BlobName, Sha1Hash)> {
    let (stem, hash) = file.to_str()?.strip_suffix(".torrent")?.split_once('.')?;
    // Upper-case digits would be read but never written: such a file is not ours.
    let hash = Sha1Hash::from_hex(hash).filter(|parsed| parsed.to_string() == hash)?;
    Some((BlobName::from_file_stem(stem).ok()?, hash))
}

/// The blob to which the file in `partial/` with this name belongs.
#[must_use]
pub fn parse_partial(file: &OsStr) -> Option<BlobName> {
    let text = file.to_str()?;
    BlobName::from_file_stem(text.strip_suffix(".torrent").unwrap_or(text)).ok()
}

/// Calls `found` with the path and the parsed name of every regular file in `dir` whose name
/// `parse` knows. Others are passed over; symbolic links are not followed.
///
/// # Errors
/// If the directory cannot be read.
pub fn list<N>(
    dir: &Path,
    parse: impl Fn(&OsStr) -> Option<N>,
    mut found: impl FnMut(PathBuf, N),
) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let Some(name) = parse(&entry.file_name())
            && entry.file_type()?.is_file()
        {
            found(entry.path(), name);
        }
    }
    Ok(())
}
