//! The archive repositories of this host (`OSTREE_REPOS`): their static deltas are found, checked,
//! and from then on served and seeded from where they lie; their objects are served.
//!
//! One thread looks through the repositories again and again, and ends with the program. Checking a
//! delta reads all of it once; what came out is kept, so that a start does not read it again.
//!
//! **Invariant:** a delta is given out only after its bytes were found right, and only while its
//! files are the same.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::hash::sha256;
use crate::base::thread::{self, Role};
use crate::fetch::Fetcher;
use crate::fetch::judge::{Files, Judge, Progress};
use crate::fetch::pieces::Pieces;
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::http1::Url;
use crate::proto::metainfo::Metainfo;
use crate::proto::ostree::delta::Superblock;
use crate::proto::ostree::layout::Layout;
use crate::proto::ostree::{self, Checksum, ObjectKind, RepoPath};
use crate::store::in_place::{self, DeltaFiles, DeltaState};

/// Starts the thread that does it.
pub(super) fn start(fetcher: &Arc<Fetcher>) {
    if fetcher.repositories.is_empty() {
        return;
    }
    let mut roots = Roots { fetcher: Arc::clone(fetcher), known: HashMap::new() };
    let spawned = thread::spawn("roots", Role::Connection, move || {
        loop {
            roots.look();
            if roots.fetcher.stop.wait_for(limits::ROOTS_PAUSE) {
                return;
            }
        }
    });
    match spawned {
        Ok(handle) => fetcher.keep(handle),
        Err(error) => log::warn!("the repositories of this host are not served: {error}"),
    }
}

struct Roots {
    fetcher: Arc<Fetcher>,
    /// By directory: how the delta was when it was looked at, and its name if it was right.
    known: HashMap<PathBuf, (DeltaState, Option<BlobName>)>,
}

impl Roots {
    /// Looks through all repositories once.
    fn look(&mut self) {
        let mut seen = Vec::new();
        for repository in &self.fetcher.repositories {
            match in_place::deltas(repository) {
                Ok(dirs) => seen.extend(dirs),
                Err(error) => {
                    crate::log_limited!(warn, "a repository of this host is not served: {error}");
                }
            }
        }
        let seen: HashSet<PathBuf> = seen.into_iter().collect();
        self.known.retain(|dir, (state, name)| {
            let stays = state.is_unchanged() && seen.contains(dir);
            if let Some(name) = name.filter(|_| !stays) {
                log::info!("delta {} is no longer in {}", name.short(), dir.display());
                self.fetcher.store().release(&name);
            }
            stays
        });
        for dir in seen {
            if self.fetcher.is_stopping() {
                return;
            }
            if !self.known.contains_key(&dir) {
                self.look_at(&dir);
            }
        }
    }

    fn look_at(&mut self, dir: &Path) {
        match self.take_in(dir) {
            Ok(Some((state, name))) => {
                log::info!("delta {} is served from {}", name.short(), dir.display());
                self.known.insert(dir.to_owned(), (state, Some(name)));
            }
            // The program stops.
            Ok(None) => {}
            Err(Refused { state, why }) => {
                crate::log_limited!(warn, "{} is not served: {why}", dir.display());
                // One whose files cannot be opened is looked at again: it may be on its way.
                if let Some(state) = state {
                    self.known.insert(dir.to_owned(), (state, None));
                }
            }
        }
    }

    /// Checks the delta in `dir` and takes it into the store, the swarm and the catalog.
    fn take_in(&self, dir: &Path) -> Result<Option<(DeltaState, BlobName)>, Refused> {
        let (mut files, superblock) = DeltaFiles::open(dir).map_err(Refused::of)?;
        let name = BlobName::Delta(Checksum(sha256(&superblock)));
        let decoded = Superblock::decode(&superblock);
        let decoded = decoded.map_err(|error| Refused::because(&files, &error))?;
        let layout = decoded.layout(superblock.len() as u64);
        let layout = layout.ok_or_else(|| Refused::because(&files, &"some parts are no files"))?;
        for _ in 1..layout.files() {
            files.open_next().map_err(Refused::of)?;
        }
        if !files.lens().eq(layout.lens()) {
            return Err(Refused::because(&files, &"a part has not its size"));
        }
        let state = files.state();
        let store = self.fetcher.store();
        let metainfo = match store.checked_before(&name, &state) {
            Some(metainfo) if metainfo.layout() == Some(&layout) => metainfo,
            _ => match self.check(&files, &name, &layout)? {
                Some(metainfo) => metainfo,
                None => return Ok(None),
            },
        };
        let metainfo = Arc::new(metainfo);
        let seed = store.adopt(&name, state.clone(), &metainfo);
        self.fetcher.introduce(&seed, metainfo);
        Ok(Some((state, name)))
    }

    /// Reads all of the delta and makes its metainfo. `None`: the program stops.
    fn check(
        &self,
        files: &DeltaFiles,
        name: &BlobName,
        layout: &Layout,
    ) -> Result<Option<Metainfo>, Refused> {
        let superblock = || {
            let len = layout.lens().next().unwrap_or(0);
            self.fetcher.judging.load(len, |buf| files.read_at(buf, 0))
        };
        let mut judge = Judge::new(name, Some(Files { layout, superblock: &superblock }));
        let pieces = Pieces::new(layout.len());
        let mut pieces = pieces.ok_or_else(|| Refused::because(files, &"it is too long"))?;
        let mut buf = vec![0; limits::COPY_LEN];
        let mut at = 0;
        while at < layout.len() {
            if self.fetcher.is_stopping() {
                return Ok(None);
            }
            let len = usize::try_from(layout.len() - at).unwrap_or(usize::MAX).min(buf.len());
            let part = &mut buf[..len];
            files.read_at(part, at).map_err(Refused::of)?;
            pieces.update(part);
            if let Progress::Wrong(_) = judge.update(part).map_err(Refused::of)? {
                return Err(Refused::because(files, &"a part has not its checksum"));
            }
            at += len as u64;
        }
        let metainfo = Metainfo::of_delta(name, layout, pieces.finish());
        metainfo.map(Some).map_err(|error| Refused::because(files, &error))
    }
}

/// An object in a repository of this host. It is the word of who runs the host that its bytes are
/// right; only the receiver can check them all.
#[derive(Debug)]
pub(super) struct PlacedObject {
    file: File,
    len: u64,
    at: u64,
    part: Vec<u8>,
}

impl PlacedObject {
    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// The next part; an empty one is the end.
    ///
    /// # Errors
    /// If the disk fails, or the file has become shorter.
    pub(super) fn next_part(&mut self) -> io::Result<&[u8]> {
        let len = usize::try_from(self.len - self.at).unwrap_or(usize::MAX).min(limits::COPY_LEN);
        self.part.resize(len, 0);
        self.file.read_exact_at(&mut self.part, self.at)?;
        self.at += len as u64;
        Ok(&self.part)
    }
}

impl Fetcher {
    /// The object that the URL names, if a repository of this host has it.
    pub(super) fn placed_object(&self, url: &Url) -> Option<PlacedObject> {
        let Some((_, RepoPath::Object(checksum, kind))) = ostree::parse(&url.target) else {
            return None;
        };
        // What is said of a commit from outside belongs to one repository.
        let found = self.repositories.iter().filter(|_| kind != ObjectKind::CommitMeta);
        let mut found =
            found.filter_map(|repository| in_place::object(repository, &checksum, kind));
        let (file, len) = found.next()?;
        Some(PlacedObject { file, len, at: 0, part: Vec::new() })
    }
}

/// Why a delta is not served; with a state it is final until the files change.
struct Refused {
    state: Option<DeltaState>,
    why: String,
}

impl Refused {
    fn of(error: crate::store::StoreError) -> Refused {
        Refused { state: None, why: error.to_string() }
    }

    fn because(files: &DeltaFiles, why: &dyn std::fmt::Display) -> Refused {
        Refused { state: Some(files.state()), why: why.to_string() }
    }
}
