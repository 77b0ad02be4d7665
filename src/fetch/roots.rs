//! The archive repositories of this host (`OSTREE_REPOS`): their static deltas are found, checked,
//! and from then on served and seeded from where they lie; their objects are served.
//!
//! One thread looks through the repositories again and again, and ends with the program. Checking a
//! delta reads all of it once; what came out is kept, so that a start does not read it again. An
//! object is held against its name when it is first asked for.
//!
//! **Invariant:** a delta is given out only after its bytes were found right, and only while its
//! files are the same. The last bytes of an object leave only after it was found right.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::base::hash::sha256;
use crate::base::ranked::{Rank, Ranked};
use crate::base::thread::{self, Role};
use crate::fetch::files::check::Check;
use crate::fetch::judge::Judge;
use crate::fetch::pieces::Pieces;
use crate::fetch::{Fetcher, FileKind};
use crate::limits;
use crate::proto::blob::BlobName;
use crate::proto::http1::Url;
use crate::proto::metainfo::Metainfo;
use crate::proto::ostree::delta::Superblock;
use crate::proto::ostree::layout::Layout;
use crate::proto::ostree::{self, Checksum, ObjectKind, RepoPath};
use crate::store::in_place::{self, DeltaFiles, DeltaState, Stamp};

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
        self.fetcher.introduce(&seed, metainfo, None);
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
        let mut judge = Judge::new(name, layout, &superblock);
        let pieces = Pieces::new(layout.len());
        let mut pieces = pieces.ok_or_else(|| Refused::because(files, &"it is too long"))?;
        let mut buf = vec![0; limits::COPY_LEN];
        let mut at = 0;
        while let Some(file) = layout.file_at(at) {
            if self.fetcher.is_stopping() {
                return Ok(None);
            }
            let end = layout.span(file).map_or(layout.len(), |span| span.end());
            let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(buf.len());
            let part = &mut buf[..len];
            files.read_at(part, at).map_err(Refused::of)?;
            pieces.update(part);
            if judge.update(file, part).map_err(Refused::of)? == Some(false) {
                return Err(Refused::because(files, &"a part has not its checksum"));
            }
            at += len as u64;
        }
        let metainfo = Metainfo::of_delta(name, layout, pieces.finish());
        metainfo.map(Some).map_err(|error| Refused::because(files, &error))
    }
}

/// Which objects were found to be those of their names or not, by the files that they were in.
/// Bounded by [`limits::PLACED_JUDGED_MAX`].
pub(super) struct Judged(Ranked<HashMap<(Checksum, Stamp), bool>>);

impl Judged {
    /// None yet.
    pub(super) fn new() -> Arc<Judged> {
        Arc::new(Judged(Ranked::new(Rank::Leaf, HashMap::new())))
    }

    fn note(&self, object: (Checksum, Stamp), is_right: bool) {
        let mut judged = self.0.lock();
        if judged.len() >= limits::PLACED_JUDGED_MAX {
            judged.clear();
        }
        judged.insert(object, is_right);
    }
}

/// An object in a repository of this host. Its last part is given out only if all of it was found
/// to be the object that it is named for: while it is read the first time, or before.
pub(super) struct PlacedObject {
    file: File,
    object: (Checksum, Stamp),
    /// `None`: it was found right.
    check: Option<Check>,
    judged: Arc<Judged>,
    at: u64,
    part: Vec<u8>,
    /// The first part has been given out.
    taken: bool,
}

impl fmt::Debug for PlacedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PlacedObject {{ {}, {} bytes }}", self.object.0, self.len())
    }
}

impl PlacedObject {
    /// Its length in bytes.
    pub(super) fn len(&self) -> u64 {
        self.object.1.len()
    }

    /// The next part; an empty one is the end.
    ///
    /// # Errors
    /// If the disk fails, the file has become shorter, or it is not the object.
    pub(super) fn next_part(&mut self) -> io::Result<&[u8]> {
        // The first part was read to be checked.
        if std::mem::replace(&mut self.taken, true) {
            self.fill()?;
        }
        Ok(&self.part)
    }

    fn fill(&mut self) -> io::Result<()> {
        let len = usize::try_from(self.len() - self.at).unwrap_or(usize::MAX).min(limits::COPY_LEN);
        self.part.resize(len, 0);
        self.file.read_exact_at(&mut self.part, self.at)?;
        self.at += len as u64;
        let Some(check) = &mut self.check else { return Ok(()) };
        check.update(&self.part);
        if self.at == self.len() {
            let is_right = self.check.take().is_some_and(Check::ends_right);
            self.judged.note(self.object, is_right);
            if !is_right {
                let name = self.object.0;
                crate::log_limited!(warn, "object {name} in a repository of this host is damaged");
                return Err(io::Error::other("its bytes are not those of its name"));
            }
        }
        Ok(())
    }
}

impl Fetcher {
    /// The object that the URL names, if a repository of this host has it; its bytes, if it is
    /// short, are right.
    pub(super) fn placed_object(&self, url: &Url, kind: FileKind) -> Option<PlacedObject> {
        let Some((_, RepoPath::Object(checksum, object))) = ostree::parse(&url.target) else {
            return None;
        };
        // What is said of a commit from outside belongs to one repository.
        let found = self.repositories.iter().filter(|_| object != ObjectKind::CommitMeta);
        let mut found = found.filter_map(|repository| {
            let (file, stamp) = in_place::object(repository, &checksum, object)?;
            let object = (checksum, stamp);
            let known = self.judged.0.lock().get(&object).copied();
            let check = match known {
                Some(false) => return None,
                Some(true) => None,
                None => Some(Check::of(kind)?),
            };
            let (judged, part) = (Arc::clone(&self.judged), Vec::new());
            let mut placed =
                PlacedObject { file, object, check, judged, at: 0, part, taken: false };
            placed.fill().ok()?;
            Some(placed)
        });
        found.next()
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
