use std::os::unix::fs::FileExt as _;

use super::*;
use crate::proto::http1::Headers;
use crate::store::{Max, StoreConfig};

fn open(root: &Path, max: Max) -> Arc<Store> {
    Store::open(StoreConfig { root: root.to_owned(), max }).unwrap()
}

fn meta(url: &str) -> FileMeta {
    let mut headers = Headers::new();
    headers.append("ETag", "\"1\"");
    FileMeta { url: url.into(), status: 200, public: true, headers }
}

fn body(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at % 251).unwrap()).collect()
}

fn read(store: &Arc<Store>, url: &str) -> Option<Vec<u8>> {
    store.file(url)?.whole().ok()
}

/// Changes a bit, as often as it takes for the clock of the file system to go on.
fn rot(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let stamp = || Stamp::of(&file.metadata().unwrap());
    let flip = || {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    };
    let before = stamp();
    flip();
    while stamp() == before {
        flip();
        flip();
    }
}

/// Every length that changes how a file is read.
const LENS: [usize; 7] = [0, 1, 16_000, 16 << 10, limits::COPY_LEN, limits::COPY_LEN + 1, 1 << 20];

#[test]
fn what_was_kept_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let url = |len: usize, how: &str| format!("http://a/{how}/{len}");
    let store = open(dir.path(), Max::None);
    for len in LENS {
        store.put_file(&meta(&url(len, "put")), &body(len)).unwrap();
        let mut writer = store.begin_file(meta(&url(len, "written"))).unwrap();
        body(len).chunks(1000).for_each(|part| writer.write(part).unwrap());
        writer.commit().unwrap();
    }
    drop(store);
    let store = open(dir.path(), Max::None);
    assert_eq!(store.usage().files, 2 * LENS.len());
    for len in LENS {
        for how in ["put", "written"] {
            let file = store.file(&url(len, how)).unwrap();
            assert_eq!(file.meta(), &meta(&url(len, how)));
            assert_eq!(file.body_len(), len as u64);
            assert!(file.whole().unwrap() == body(len), "{how} {len}");
        }
    }
    assert!(store.file("http://a/other").is_none());
}

#[test]
fn the_last_answer_is_the_one() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    store.put_file(&meta("http://a/b"), b"old").unwrap();
    let old = store.file("http://a/b").unwrap();
    let gone = FileMeta { status: 404, ..meta("http://a/b") };
    store.put_file(&gone, b"").unwrap();
    assert_eq!(store.file("http://a/b").unwrap().meta().status, 404);
    assert_eq!(old.whole().unwrap(), b"old", "who has it open can go on reading");
    store.forget_file("http://a/b");
    assert!(store.file("http://a/b").is_none());
    assert_eq!((store.usage().files, store.usage().file_bytes), (0, 0));
}

#[test]
fn a_torn_or_rotten_file_is_dropped_and_never_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let url = "http://a/b";
    let path = store.files.path(&FileKey::of(url));
    for len in [1, 3000, limits::COPY_LEN + 1] {
        store.put_file(&meta(url), &body(len)).unwrap();
        let whole = fs::metadata(&path).unwrap().len();
        let body_at = whole - len as u64;
        for cut in [0, 7, 8, 51, 52, body_at - 1, body_at, whole - 1] {
            store.put_file(&meta(url), &body(len)).unwrap();
            File::options().write(true).open(&path).unwrap().set_len(cut).unwrap();
            assert_eq!(read(&store, url), None, "cut at {cut} of {whole}");
            assert!(store.file(url).is_none() && !path.exists(), "cut at {cut} of {whole}");
        }
        for at in (0..body_at).chain([body_at, whole - 1]) {
            store.put_file(&meta(url), &body(len)).unwrap();
            rot(&path, at);
            assert_eq!(read(&store, url), None, "byte {at} of {whole}");
            assert!(!path.exists(), "byte {at} of {whole}");
        }
    }
    assert_eq!(store.usage().files, 0);
}

/// What was written or found right is not hashed again, unless it is another or was changed.
#[test]
fn what_changed_after_it_was_known_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let url = "http://a/b";
    let path = store.files.path(&FileKey::of(url));
    let is_hashed = || store.file(url).unwrap().hasher.is_some();
    for len in [3000, 2 * limits::COPY_LEN] {
        store.put_file(&meta(url), &body(len)).unwrap();
        assert!(!is_hashed(), "it was hashed when it was written");
        assert!(!is_hashed() && read(&store, url).unwrap() == body(len));
        rot(&path, fs::metadata(&path).unwrap().len() - 1);
        assert_eq!(read(&store, url), None);
        store.put_file(&meta(url), &body(len)).unwrap();
        assert!(read(&store, url).unwrap() == body(len), "another of that name");
    }
}

#[test]
fn what_was_not_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let mut writer = store.begin_file(meta("http://a/b")).unwrap();
    writer.write(b"half").unwrap();
    let left = writer.path.clone();
    assert!(left.exists());
    drop(writer);
    assert!(!left.exists() && store.file("http://a/b").is_none());
    assert!(left.file_name().unwrap().to_str().unwrap().starts_with(DRAFT));
    fs::write(&left, b"of a process that was killed").unwrap();
    drop(store);
    let store = open(dir.path(), Max::None);
    assert!(!left.exists());
    assert_eq!(store.usage().files, 0);
}

/// A new store would take a second for 256 folders on a slow disk.
#[test]
fn a_folder_is_made_with_its_first_file_and_other_folders_are_nobodys_business() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let root = store.files.root.clone();
    assert_eq!(list(&root).unwrap(), [] as [PathBuf; 0]);
    store.put_file(&meta("http://a/b"), b"kept").unwrap();
    drop(store.begin_file(meta("http://a/c")).unwrap());
    let folders = ["http://a/b", "http://a/c"].map(|url| root.join(FileKey::of(url).path().0));
    let mut made = list(&root).unwrap();
    made.sort_unstable();
    assert!(folders.is_sorted() && made == folders, "{made:?}");
    let foreign = root.join("abc").join(format!("{DRAFT}1"));
    fs::create_dir(root.join("abc")).unwrap();
    fs::write(&foreign, b"of somebody else").unwrap();
    drop(store);
    let store = open(dir.path(), Max::None);
    assert_eq!(read(&store, "http://a/b").unwrap(), b"kept");
    assert!(foreign.exists());
}

#[test]
fn files_stay_within_their_part_of_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let max = 1 << 20;
    let store = open(dir.path(), Max::Bytes(max));
    let url = |number: usize| format!("http://a/{number}");
    for number in 0..100 {
        store.put_file(&meta(&url(number)), &body(10_000)).unwrap();
        assert!(store.usage().file_bytes <= max / limits::FILES_SHARE);
        assert!(store.file(&url(0)).is_some(), "used after each");
    }
    assert!(store.usage().files > 20);
    assert!(store.file(&url(1)).is_none(), "the least recently used goes");
    let full = store.put_file(&meta(&url(1000)), &body(70_000)).unwrap_err();
    assert!(full.is_full(), "{full}");
    let mut writer = store.begin_file(meta(&url(1000))).unwrap();
    let full = body(70_000).chunks(1000).find_map(|part| writer.write(part).err());
    assert!(full.is_some_and(|full| full.is_full()));
    drop(writer);
    let on_disk: u64 = list(&store.files.root)
        .unwrap()
        .iter()
        .flat_map(|folder| list(folder).unwrap())
        .map(|path| fs::metadata(path).unwrap().len())
        .sum();
    assert_eq!(on_disk, store.usage().file_bytes);
}

#[test]
fn another_url_under_the_same_name_is_a_miss() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    store.put_file(&meta("http://a/1"), b"1").unwrap();
    store.put_file(&meta("http://a/2"), b"2").unwrap();
    let path = |url: &str| store.files.path(&FileKey::of(url));
    fs::copy(path("http://a/1"), path("http://a/2")).unwrap();
    assert_eq!(read(&store, "http://a/2"), None);
    assert_eq!(read(&store, "http://a/1").unwrap(), b"1");
}
