//! The store when the power goes, the disk fails or fills, or nothing special happens.
//!
//! [`Faulty`] stands between the store and a real directory. Beside it, it keeps what would be on
//! disk after a loss of power: the bytes of a file as of its last sync, the names of a directory as
//! of the last sync of that. What was not synced may be there after the cut or not, each change on
//! its own: a seed decides, and it is printed when a claim does not hold.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, IoSlice};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Barrier, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use torrent_cache::base::hash::{Sha1Hash, sha256};
use torrent_cache::base::rng::Rng;
use torrent_cache::proto::blob::{BlobName, Digest};
use torrent_cache::proto::geometry::{Geometry, Span};
use torrent_cache::proto::metainfo::Metainfo;
use torrent_cache::store::backend::{Backend, Disk};
use torrent_cache::store::{Blob, Max, Store, StoreConfig, StoreError};

/// When the disk fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Never,
    /// Everything from this step on fails: the power is gone.
    CutAt(usize),
    /// This one step fails, with this `errno`.
    Once(usize, i32),
    /// This one step lasts until the test has met it twice at [`Faulty::meeting`].
    HoldAt(usize),
}

/// A change of one name in a directory that is not synced yet: the file's number, or its removal.
type Change = (PathBuf, Option<u64>);

struct State {
    fault: Fault,
    steps: usize,
    /// The file with each number, held open: its bytes can be read when it has no name left.
    files: HashMap<u64, File>,
    synced_bytes: HashMap<u64, Vec<u8>>,
    synced_names: BTreeMap<PathBuf, u64>,
    changes: Vec<Change>,
    live_names: BTreeMap<PathBuf, u64>,
}

/// A disk with a live and a durable copy. Clones share them.
#[derive(Clone)]
struct Faulty {
    state: Arc<Mutex<State>>,
    meeting: Arc<Barrier>,
}

impl Faulty {
    fn new(fault: Fault) -> Faulty {
        let state = State {
            fault,
            steps: 0,
            files: HashMap::new(),
            synced_bytes: HashMap::new(),
            synced_names: BTreeMap::new(),
            changes: Vec::new(),
            live_names: BTreeMap::new(),
        };
        Faulty { state: Arc::new(Mutex::new(state)), meeting: Arc::new(Barrier::new(2)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn set(&self, fault: Fault) {
        let mut state = self.state();
        state.fault = fault;
        state.steps = 0;
    }

    fn steps(&self) -> usize {
        self.state().steps
    }

    /// Counts a step, and fails it if it is its turn.
    fn step(&self) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.state();
        let step = state.steps;
        state.steps += 1;
        match state.fault {
            Fault::HoldAt(at) if step == at => {
                drop(state);
                self.meeting.wait();
                self.meeting.wait();
                Ok(self.state())
            }
            Fault::CutAt(at) if step >= at => Err(io::Error::from_raw_os_error(libc::EIO)),
            Fault::Once(at, errno) if step == at => Err(io::Error::from_raw_os_error(errno)),
            _ => Ok(state),
        }
    }

    /// Writes what survives a cut now into the store directory `to`.
    fn survive(&self, from: &Path, to: &Path, rng: &mut Rng) {
        let state = self.state();
        let mut names = state.synced_names.clone();
        for (path, number) in &state.changes {
            match number {
                _ if rng.below(2) == 0 => {}
                Some(number) => drop(names.insert(path.clone(), *number)),
                None => drop(names.remove(path)),
            }
        }
        for (path, number) in names {
            let path = to.join(path.strip_prefix(from).expect("the store stays in its root"));
            fs::create_dir_all(path.parent().expect("a file is in a directory")).unwrap();
            fs::write(path, state.bytes_after_cut(number, rng)).unwrap();
        }
    }
}

impl State {
    /// The bytes of a file after a cut: as synced, or if it never was, whatever the seed says.
    fn bytes_after_cut(&self, number: u64, rng: &mut Rng) -> Vec<u8> {
        if let Some(bytes) = self.synced_bytes.get(&number) {
            return bytes.clone();
        }
        let mut bytes = read_all(&self.files[&number]);
        match rng.below(3) {
            0 => bytes.clear(),
            1 => bytes.fill(0),
            _ => bytes.truncate(rng.index(bytes.len() + 1)),
        }
        bytes
    }

    fn change(&mut self, path: &Path, number: Option<u64>) {
        self.changes.push((path.to_owned(), number));
        match number {
            Some(number) => self.live_names.insert(path.to_owned(), number),
            None => self.live_names.remove(path),
        };
    }
}

fn number_of(file: &File) -> u64 {
    file.metadata().expect("an open file").ino()
}

fn read_all(file: &File) -> Vec<u8> {
    use std::os::unix::fs::FileExt as _;
    let mut bytes = vec![0; usize::try_from(file.metadata().unwrap().len()).unwrap()];
    file.read_exact_at(&mut bytes, 0).unwrap();
    bytes
}

impl Backend for Faulty {
    fn create(&self, path: &Path) -> io::Result<File> {
        let mut state = self.step()?;
        let file = Disk.create(path)?;
        let number = number_of(&file);
        state.files.insert(number, file.try_clone()?);
        state.change(path, Some(number));
        Ok(file)
    }

    fn reserve(&self, file: &File, len: u64) -> io::Result<()> {
        let _state = self.step()?;
        Disk.reserve(file, len)
    }

    fn write_at(&self, file: &File, bufs: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let _state = self.step()?;
        Disk.write_at(file, bufs, offset)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        let mut state = self.step()?;
        state.synced_bytes.insert(number_of(file), read_all(file));
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        Disk.rename(from, to)?;
        let number = state.live_names[from];
        state.change(to, Some(number));
        state.change(from, None);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        Disk.remove(path)?;
        state.change(path, None);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut state = self.step()?;
        let changes = std::mem::take(&mut state.changes);
        for (path, number) in changes {
            match number {
                _ if path.parent() != Some(dir) => state.changes.push((path, number)),
                Some(number) => drop(state.synced_names.insert(path, number)),
                None => drop(state.synced_names.remove(&path)),
            }
        }
        Ok(())
    }
}

fn config(root: &Path, max: Max) -> StoreConfig {
    StoreConfig { root: root.to_owned(), max }
}

fn name_of(bytes: &[u8]) -> BlobName {
    BlobName::Content(Digest::Sha256(sha256(bytes)))
}

/// A store on a healthy disk on which a sync costs nothing: what these tests claim is the same
/// there, and a real one would be told to thousands of times.
fn open(root: &Path, max: Max) -> Result<Arc<Store>, StoreError> {
    Store::open_on(Box::new(Faulty::new(Fault::Never)), config(root, max))
}

/// A blob that was made durable.
fn put(store: &Arc<Store>, bytes: &[u8]) -> Result<Arc<Blob>, StoreError> {
    let blob = seal(store, bytes)?;
    store.settle()?;
    Ok(blob)
}

/// A whole blob that was not made durable.
fn seal(store: &Arc<Store>, bytes: &[u8]) -> Result<Arc<Blob>, StoreError> {
    let (name, len) = (name_of(bytes), bytes.len() as u64);
    let partial = store.begin(&name, Some(len))?;
    partial.write(0, &[bytes])?;
    partial.feed().mark(Span { offset: 0, len });
    let geometry = Geometry::for_blob(len).expect("a short blob");
    let pieces = bytes.chunks(geometry.piece_len() as usize);
    let metainfo = Metainfo::of_blob(&name, len, pieces.map(Sha1Hash::of).collect());
    store.seal(&partial, Arc::new(metainfo.expect("one hash for each piece")))
}

/// Checks that everything the store gives is whole and right, and returns the names.
fn check(store: &Arc<Store>, context: &str) -> Vec<BlobName> {
    let seeds = store.seeds();
    for seed in &seeds {
        let blob = store.blob(&seed.name).unwrap_or_else(|| panic!("{context}: no blob"));
        let mut bytes = vec![0; usize::try_from(blob.len()).unwrap()];
        blob.read_at(&mut bytes, 0).unwrap_or_else(|error| panic!("{context}: {error}"));
        assert_eq!(name_of(&bytes), seed.name, "{context}: a wrong byte");
        let metainfo = blob.metainfo().unwrap_or_else(|error| panic!("{context}: {error}"));
        assert!(metainfo.is_of(&seed.name), "{context}: the wrong metainfo");
        assert_eq!(metainfo.info_hash(), seed.info_hash, "{context}");
    }
    seeds.iter().map(|seed| seed.name).collect()
}

/// Every file in `root` belongs to a whole blob: nothing was left behind.
fn check_clean(root: &Path, blobs: usize, context: &str) {
    let count = |dir: &str| fs::read_dir(root.join(dir)).unwrap().count();
    let counts = ["blobs", "torrents", "partial"].map(count);
    assert_eq!(counts, [blobs, blobs, 0], "{context}: files are left");
}

const FIRST: &[u8] = b"stored before anything happens";

fn second() -> Vec<u8> {
    // Two pieces.
    let mut bytes = vec![0; 100 << 10];
    Rng::seeded(9).fill(&mut bytes);
    bytes
}

/// A store that holds [`FIRST`], and the disk under it.
fn started(root: &Path, max: Max) -> (Arc<Store>, Faulty) {
    let disk = Faulty::new(Fault::Never);
    let store = Store::open_on(Box::new(disk.clone()), config(root, max)).unwrap();
    put(&store, FIRST).unwrap();
    disk.set(Fault::Never);
    (store, disk)
}

/// How many steps `act` takes on a healthy disk.
fn steps_of(max: Max, act: impl Fn(&Arc<Store>)) -> usize {
    let root = tempfile::tempdir().unwrap();
    let (store, disk) = started(root.path(), max);
    act(&store);
    disk.steps()
}

/// Cuts the power at every step of `act`, and before and after; then opens what survives and gives
/// the names of the blobs in it to `claim`, with whether `act` was over.
fn cut_everywhere(max: Max, act: impl Fn(&Arc<Store>), claim: impl Fn(&[BlobName], bool, &str)) {
    let steps = steps_of(max, &act);
    assert!(steps > 1);
    for at in 0..=steps {
        for seed in 0..16 {
            let context = format!("cut at step {at} of {steps}, seed {seed}");
            let root = tempfile::tempdir().unwrap();
            let (store, disk) = started(root.path(), max);
            disk.set(Fault::CutAt(at));
            act(&store);
            let after = tempfile::tempdir().unwrap();
            disk.survive(root.path(), after.path(), &mut Rng::seeded(seed));
            let store =
                open(after.path(), max).unwrap_or_else(|error| panic!("{context}: {error}"));
            let names = check(&store, &context);
            check_clean(after.path(), names.len(), &context);
            claim(&names, at == steps, &context);
        }
    }
}

#[test]
fn a_cut_while_sealing_leaves_the_blob_whole_or_not_at_all() {
    let act = |store: &Arc<Store>| drop(put(store, &second()));
    cut_everywhere(Max::None, act, |names, over, context| {
        assert!(names.contains(&name_of(FIRST)), "{context}: an older blob is lost");
        assert!(!over || names.len() == 2, "{context}: a sealed blob is lost");
    });
}

#[test]
fn a_cut_while_evicting_leaves_no_half() {
    let second = second();
    let act = |store: &Arc<Store>| drop(put(store, &second));
    cut_everywhere(Max::Bytes(second.len() as u64), act, |names, over, context| {
        assert!(!over || names.contains(&name_of(&second)), "{context}: a sealed blob is lost");
    });
}

#[test]
fn a_removed_blob_does_not_come_back() {
    let act = |store: &Arc<Store>| drop(store.remove(&name_of(FIRST)));
    cut_everywhere(Max::None, act, |names, over, context| {
        assert!(!over || names.is_empty(), "{context}: it came back");
    });
}

#[test]
fn a_step_that_fails_is_named_and_the_store_goes_on() {
    let act = |store: &Arc<Store>| put(store, &second()).err();
    let steps = steps_of(Max::None, |store| assert!(act(store).is_none()));
    for errno in [libc::EIO, libc::ENOSPC] {
        for at in 0..steps {
            let context = format!("errno {errno} at step {at} of {steps}");
            let root = tempfile::tempdir().unwrap();
            let (store, disk) = started(root.path(), Max::None);
            disk.set(Fault::Once(at, errno));
            if let Some(error) = act(&store) {
                let text = error.to_string();
                assert!(matches!(error, StoreError::Io { .. }), "{context}: {text}");
                assert!(text.starts_with("cannot "), "{context}: {text}");
                assert_eq!(error.is_full(), errno == libc::ENOSPC, "{context}: {text}");
                assert!(!store.contains(&name_of(&second())), "{context}");
            } else {
                // A disk that is full for a moment costs the oldest blob and nothing else.
                assert!(errno == libc::ENOSPC && !store.contains(&name_of(FIRST)), "{context}");
                assert!(put(&store, FIRST).is_ok(), "{context}");
            }
            let names = check(&store, &context);
            check_clean(root.path(), names.len(), &context);
            assert_eq!(store.usage().partial_bytes, 0, "{context}: room is kept for nobody");
            assert!(store.contains(&name_of(&second())) || act(&store).is_none(), "{context}");
            let names = check(&store, &context);
            assert_eq!(names.len(), 2, "{context}");
            check_clean(root.path(), 2, &context);
        }
    }
}

#[test]
fn who_needs_room_waits_for_the_blobs_that_are_being_synced() {
    let root = tempfile::tempdir().unwrap();
    let second = second();
    let (store, disk) = started(root.path(), Max::Bytes(second.len() as u64));
    drop(seal(&store, &second).unwrap());
    disk.set(Fault::HoldAt(0));
    std::thread::scope(|scope| {
        let settle = scope.spawn(|| store.settle());
        disk.meeting.wait();
        let begin = scope.spawn(|| drop(store.begin(&name_of(b"third"), Some(5)).unwrap()));
        // Whoever does not wait is back by then.
        let until = Instant::now() + Duration::from_millis(200);
        while !begin.is_finished() && Instant::now() < until {
            std::thread::yield_now();
        }
        disk.meeting.wait();
        settle.join().unwrap().unwrap();
        begin.join().expect("there is room");
    });
    assert!(!store.contains(&name_of(&second)));
    check_clean(root.path(), 0, "all is evicted or given up");
}

#[test]
fn a_partial_that_failed_stays_failed() {
    let root = tempfile::tempdir().unwrap();
    let (store, disk) = started(root.path(), Max::None);
    let partial = store.begin(&name_of(b"second"), Some(6)).unwrap();
    disk.set(Fault::Once(0, libc::EIO));
    assert!(matches!(partial.write(0, &[b"second"]), Err(StoreError::Io { .. })));
    assert!(matches!(partial.write(0, &[b"second"]), Err(StoreError::Earlier)));
    drop(partial);
    assert!(put(&store, b"second").is_ok(), "a new one is another matter");
}

/// The bytes of one of twelve small blobs, each of another length.
fn sample(rng: &mut Rng) -> Vec<u8> {
    let number = rng.index(12);
    vec![b'a'; 50 + 7 * number]
}

/// Random acts on a store and on a list of names in the order of their use: both agree.
fn run_model(seed: u64) {
    const MAX: u64 = 500;
    let rng = &mut Rng::seeded(seed);
    let root = tempfile::tempdir().unwrap();
    let open = || open(root.path(), Max::Bytes(MAX)).unwrap();
    let mut store = open();
    let mut model: Vec<(BlobName, u64)> = Vec::new();
    let total = |model: &[(BlobName, u64)]| model.iter().map(|(_, len)| len).sum::<u64>();
    for act in 0..80 {
        let context = format!("seed {seed}, act {act}");
        let bytes = sample(rng);
        let (name, len) = (name_of(&bytes), bytes.len() as u64);
        let known = model.iter().position(|(other, _)| *other == name);
        match rng.below(10) {
            0..5 => match (put(&store, &bytes), known) {
                (Ok(_), None) => {
                    while total(&model) + len > MAX {
                        model.remove(0);
                    }
                    model.push((name, len));
                }
                (Err(StoreError::Present), Some(_)) => {}
                (result, _) => panic!("{context}: {:?}", result.err()),
            },
            5..8 => {
                assert_eq!(store.blob(&name).is_some(), known.is_some(), "{context}");
                if let Some(at) = known {
                    model[at..].rotate_left(1);
                }
            }
            8 => {
                store.remove(&name).unwrap();
                model.retain(|(other, _)| *other != name);
            }
            _ => {
                drop(store);
                store = open();
                // The clock of a file system is too coarse for acts this fast.
                model.iter().for_each(|(name, _)| drop(store.blob(name)));
            }
        }
        let mut ours: Vec<_> = model.iter().map(|(name, _)| *name).collect();
        ours.sort();
        let mut theirs = check(&store, &context);
        theirs.sort();
        assert_eq!(theirs, ours, "{context}");
        // The check used them all, in no order.
        model.iter().for_each(|(name, _)| drop(store.blob(name)));
        assert_eq!(store.usage().bytes, total(&model), "{context}");
    }
    check_clean(root.path(), model.len(), &format!("seed {seed}"));
}

#[test]
fn random_acts_agree_with_a_list() {
    (0..20).for_each(run_model);
}

/// Random acts while one step in ten fails: nothing wrong is ever given, and the store goes on.
fn run_with_faults(seed: u64) {
    let rng = &mut Rng::seeded(seed);
    let root = tempfile::tempdir().unwrap();
    let (store, disk) = started(root.path(), Max::Bytes(500));
    for act in 0..80 {
        let context = format!("seed {seed}, act {act}");
        let errno = [libc::EIO, libc::ENOSPC][rng.index(2)];
        disk.set(Fault::Once(rng.index(10), errno));
        let bytes = sample(rng);
        let failed = match rng.below(4) {
            0 => store.remove(&name_of(&bytes)).err(),
            _ => put(&store, &bytes).err(),
        };
        let expected = failed.is_none_or(|error| {
            matches!(error, StoreError::Io { .. } | StoreError::Full { .. } | StoreError::Present)
        });
        assert!(expected, "{context}");
        let names = check(&store, &context);
        let usage = store.usage();
        assert_eq!((usage.blobs, usage.partial_bytes), (names.len(), 0), "{context}");
        assert!(usage.bytes <= 500, "{context}");
    }
    disk.set(Fault::Never);
    drop(store);
    let store = Store::open(config(root.path(), Max::None)).unwrap();
    let names = check(&store, &format!("seed {seed}, opened again"));
    check_clean(root.path(), names.len(), &format!("seed {seed}, opened again"));
}

#[test]
fn random_failures_leave_a_store_that_works() {
    (0..20).for_each(run_with_faults);
}
