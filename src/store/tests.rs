use std::fs;
use std::os::unix::fs::symlink;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use super::*;
use crate::base::hash::{Sha1, sha256};
use crate::limits;
use crate::proto::blob::Digest;
use crate::proto::geometry::{Geometry, Span};

fn name_of(bytes: &[u8]) -> BlobName {
    BlobName::Content(Digest::Sha256(sha256(bytes)))
}

fn metainfo_of(bytes: &[u8]) -> Metainfo {
    let geometry = Geometry::for_blob(bytes.len() as u64).unwrap();
    let pieces = bytes.chunks(geometry.piece_len() as usize);
    let hashes = pieces.map(|piece| {
        let mut hash = Sha1::default();
        hash.update(piece);
        hash.finish()
    });
    Metainfo::of_blob(&name_of(bytes), bytes.len() as u64, hashes.collect()).unwrap()
}

fn open(root: &Path, max: Max) -> Arc<Store> {
    Store::open(StoreConfig { root: root.to_owned(), max }).unwrap()
}

fn whole(offset: u64, bytes: &[u8]) -> Span {
    Span { offset, len: bytes.len() as u64 }
}

/// A blob that was made durable.
fn put(store: &Arc<Store>, bytes: &[u8]) -> Result<Arc<Blob>, StoreError> {
    let blob = seal(store, bytes)?;
    store.settle()?;
    Ok(blob)
}

/// A whole blob that was not made durable.
fn seal(store: &Arc<Store>, bytes: &[u8]) -> Result<Arc<Blob>, StoreError> {
    let partial = store.begin(&name_of(bytes), Some(bytes.len() as u64))?;
    partial.write(0, &[bytes])?;
    partial.feed().mark(whole(0, bytes));
    store.seal(&partial, Arc::new(metainfo_of(bytes)))
}

fn bytes_of(blob: &Blob) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(blob.len()).unwrap()];
    blob.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The files of all blobs, whole or not.
fn files_in(root: &Path) -> Vec<PathBuf> {
    let dirs = ["blobs", "torrents", "partial"].map(|dir| root.join(dir));
    let files = dirs.iter().flat_map(|dir| fs::read_dir(dir).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}

/// A hundred bytes that differ by `number`.
fn sample(number: u8) -> Vec<u8> {
    vec![number; 100]
}

#[test]
fn bytes_that_were_read_stay_whatever_another_source_has_in_their_place() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let partial = store.begin(&name_of(b"any"), Some(12)).unwrap();
    assert_eq!(partial.write_missing(2, &[b"cd"]).unwrap(), 2);
    assert_eq!(partial.write_missing(7, &[b"h"]).unwrap(), 1);
    assert_eq!(partial.write_missing(1, &[b"BC", b"", b"DEFGHI"]).unwrap(), 5);
    assert_eq!(partial.write_missing(0, &[b"____________"]).unwrap(), 4);
    assert_eq!(partial.write_missing(0, &[b"............"]).unwrap(), 0);
    assert!(partial.feed().is_complete());
    let mut bytes = [0; 12];
    partial.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"_BcdEFGhI___");
}

#[test]
fn a_blob_that_is_not_settled_is_one_like_others() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let bytes = sample(1);
    drop(seal(&store, &bytes).unwrap());
    assert_eq!(store.unsettled().map(|blobs| blobs.count), Some(1));
    let blob = store.blob(&name_of(&bytes)).unwrap();
    assert_eq!((bytes_of(&blob), store.usage().blobs), (bytes.clone(), 1));
    let metainfo = metainfo_of(&bytes);
    assert_eq!(blob.metainfo().unwrap(), metainfo);
    assert_eq!(*store.metainfo(&blob.seed()).unwrap(), metainfo);
    assert_eq!(bytes_of(&store.by_info_hash(&metainfo.info_hash()).unwrap()), bytes);
    drop((blob, store));
    let store = open(dir.path(), Max::None);
    assert_eq!(store.usage().blobs, 0, "it might have lost bytes");
    assert!(files_in(dir.path()).is_empty());
}

#[test]
fn a_blob_that_is_not_settled_makes_room_for_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::Bytes(250));
    for number in 0..4 {
        drop(seal(&store, &sample(number)).unwrap());
    }
    assert_eq!(store.usage().blobs, 2);
    assert!(store.contains(&name_of(&sample(3))) && !store.contains(&name_of(&sample(0))));
}

#[test]
fn a_blob_that_is_removed_before_it_is_settled_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let name = name_of(&sample(1));
    drop(seal(&store, &sample(1)).unwrap());
    store.remove(&name).unwrap();
    assert_eq!(store.unsettled().map(|blobs| blobs.count), None);
    store.settle().unwrap();
    assert!(files_in(dir.path()).is_empty());
    put(&store, &sample(1)).unwrap();
    assert!(store.contains(&name));
}

#[test]
fn a_sealed_blob_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = b"some bytes".repeat(50_000);
    let metainfo = metainfo_of(&bytes);
    let first = open(dir.path(), Max::None);
    drop(put(&first, &bytes).unwrap());
    drop(first);
    let store = open(dir.path(), Max::None);
    let name = name_of(&bytes);
    let len = bytes.len() as u64;
    assert_eq!(store.seeds(), [SeedEntry { name, info_hash: metainfo.info_hash(), len }]);
    let blob = store.by_info_hash(&metainfo.info_hash()).unwrap();
    assert_eq!(bytes_of(&blob), bytes);
    assert!(blob.metainfo().unwrap() == metainfo);
    assert!(Arc::ptr_eq(&blob, &store.blob(&name).unwrap()), "one descriptor serves all");
    assert_eq!(store.usage(), Usage { blobs: 1, bytes: len, partial_bytes: 0, ..Usage::default() });
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let config = StoreConfig { root: dir.path().to_owned(), max: Max::None };
    let store = open(dir.path(), Max::None);
    let error = Store::open(config.clone()).err().unwrap();
    assert!(matches!(error, StoreError::InUse(_)), "{error}");
    assert_eq!(error.to_string(), format!("{} is used by another process", dir.path().display()));
    drop(store);
    assert!(Store::open(config).is_ok());
}

#[test]
fn a_partial_is_written_in_any_order_and_in_parts() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    // More buffers than the kernel takes at once.
    let bytes: Vec<u8> = (0..6000u32).map(|at| at.to_le_bytes()[0]).collect();
    let (front, back) = bytes.split_at(3000);
    let partial = store.begin(&name_of(&bytes), Some(6000)).unwrap();
    let single: Vec<&[u8]> = back.chunks(1).collect();
    partial.write(3000, &single).unwrap();
    partial.feed().mark(whole(3000, back));
    let early = store.seal(&partial, Arc::new(metainfo_of(&bytes))).unwrap_err();
    assert!(matches!(early, StoreError::Misuse(_)), "{early}");
    partial.write(0, &[&[], front, &[]]).unwrap();
    partial.feed().mark(whole(0, front));
    let mut read = [0; 10];
    partial.read_at(&mut read, 2995).unwrap();
    assert_eq!(read, bytes[2995..3005]);
    let blob = store.seal(&partial, Arc::new(metainfo_of(&bytes))).unwrap();
    assert_eq!(bytes_of(&blob), bytes);
    let late = partial.write(0, &[b"x"]).unwrap_err();
    assert!(matches!(late, StoreError::Misuse(_)), "{late}");
}

#[test]
fn rules_are_kept_by_errors() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let bytes = sample(1);
    let name = name_of(&bytes);
    assert!(matches!(store.begin(&name, Some(0)), Err(StoreError::Misuse(_))));
    let partial = store.begin(&name, Some(100)).unwrap();
    assert!(matches!(store.begin(&name, Some(100)), Err(StoreError::Busy)));
    assert!(matches!(partial.write(1, &[&bytes]), Err(StoreError::Misuse(_))));
    assert!(matches!(partial.write(u64::MAX, &[&bytes]), Err(StoreError::Misuse(_))));
    assert!(matches!(partial.set_len(99), Err(StoreError::Misuse(_))));
    partial.write(0, &[&bytes]).unwrap();
    partial.feed().mark(whole(0, &bytes));
    let other = metainfo_of(b"other");
    assert!(matches!(store.seal(&partial, Arc::new(other)), Err(StoreError::Misuse(_))));
    store.seal(&partial, Arc::new(metainfo_of(&bytes))).unwrap();
    assert!(matches!(store.begin(&name, Some(100)), Err(StoreError::Present)));
}

#[test]
fn a_blob_of_unknown_length_gets_one_before_it_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let bytes = sample(1);
    let partial = store.begin(&name_of(&bytes), None).unwrap();
    partial.write(0, &[&bytes]).unwrap();
    partial.feed().mark(whole(0, &bytes));
    assert!(matches!(partial.set_len(99), Err(StoreError::Misuse(_))));
    partial.set_len(100).unwrap();
    assert_eq!(bytes_of(&store.seal(&partial, Arc::new(metainfo_of(&bytes))).unwrap()), bytes);
    assert_eq!(store.usage(), Usage { blobs: 1, bytes: 100, partial_bytes: 0, ..Usage::default() });
}

#[test]
fn a_dropped_partial_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let bytes = sample(1);
    let partial = store.begin(&name_of(&bytes), Some(100)).unwrap();
    partial.write(0, &[&bytes]).unwrap();
    let file = Arc::clone(partial.file());
    assert_eq!(store.usage().partial_bytes, 100);
    drop(partial);
    assert_eq!(store.usage().partial_bytes, 0);
    assert_eq!(fs::read_dir(dir.path().join("partial")).unwrap().count(), 0);
    assert_eq!(file.metadata().unwrap().len(), 100, "who has it open can go on reading");
    put(&store, &bytes).unwrap();
}

#[test]
fn the_least_recently_used_make_room() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::Bytes(300));
    let told = Arc::new(Mutex::new(Vec::new()));
    let telling = Arc::clone(&told);
    store.on_evict(move |seed| telling.lock().unwrap().push(seed.name));
    for number in 1..=3 {
        drop(put(&store, &sample(number)).unwrap());
    }
    drop(store.blob(&name_of(&sample(1))));
    drop(put(&store, &sample(4)).unwrap());
    assert_eq!(*told.lock().unwrap(), [name_of(&sample(2))]);
    assert!(!store.contains(&name_of(&sample(2))));

    // The only one that may go is too short.
    let open: Vec<_> = [1, 3].map(|number| store.blob(&name_of(&sample(number)))).into();
    let long = store.begin(&name_of(b"long"), Some(101));
    assert!(long.err().is_some_and(|error| error.is_full()));
    assert_eq!(store.usage().blobs, 3, "what does not fit evicts nobody");
    drop(open);
    let partial = store.begin(&name_of(b"long"), Some(101)).unwrap();
    let room = store.begin(&name_of(b"longer"), Some(200));
    assert!(room.err().is_some_and(|error| error.is_full()), "a partial is not evicted");
    drop(partial);
    assert!(store.begin(&name_of(b"longer"), Some(200)).is_ok());
}

#[test]
fn a_lower_bound_and_the_order_of_use_hold_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    for number in 1..=3 {
        let blob = put(&store, &sample(number)).unwrap();
        let age = Duration::from_secs(1000 - u64::from(number));
        let (file, ..) = blob.locate(0).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }
    drop(store.blob(&name_of(&sample(1))));
    drop(store);
    let store = open(dir.path(), Max::Bytes(200));
    let stays = [1, 2, 3].map(|number| store.contains(&name_of(&sample(number))));
    assert_eq!(stays, [true, false, true]);
    assert_eq!(fs::read_dir(dir.path().join("blobs")).unwrap().count(), 2);
    assert_eq!(fs::read_dir(dir.path().join("torrents")).unwrap().count(), 2);
}

#[test]
fn a_removed_blob_can_be_read_by_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let bytes = sample(1);
    let blob = put(&store, &bytes).unwrap();
    store.remove(&blob.name()).unwrap();
    assert!(store.blob(&blob.name()).is_none() && store.seeds().is_empty());
    assert!(store.by_info_hash(&blob.info_hash()).is_none());
    assert_eq!(bytes_of(&blob), bytes);
    put(&store, &bytes).unwrap();
}

#[test]
fn a_damaged_or_missing_file_is_not_served() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let names = [1, 2].map(|number| {
        drop(put(&store, &sample(number)).unwrap());
        name_of(&sample(number))
    });
    let path = |name: &BlobName| dir.path().join("blobs").join(name.file_stem());
    File::options().write(true).open(path(&names[0])).unwrap().set_len(99).unwrap();
    fs::remove_file(path(&names[1])).unwrap();
    for name in &names {
        assert!(store.blob(name).is_none());
        assert!(!store.contains(name));
    }
    put(&store, &sample(1)).unwrap();
}

#[test]
fn a_blob_that_was_used_is_kept_open_but_in_nobodys_way() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::Bytes(100));
    let name = name_of(&sample(1));
    drop(put(&store, &sample(1)).unwrap());
    let first = Arc::downgrade(&store.blob(&name).unwrap());
    assert!(first.upgrade().is_some_and(|first| Arc::ptr_eq(&first, &store.blob(&name).unwrap())));
    // Somebody cuts the file while it is open.
    let path = dir.path().join("blobs").join(name.file_stem());
    File::options().write(true).open(path).unwrap().set_len(99).unwrap();
    assert!(store.blob(&name).is_none() && !store.contains(&name));
    // It makes room for another, though it is open.
    drop(put(&store, &sample(1)).unwrap());
    drop(store.blob(&name));
    drop(put(&store, &sample(2)).unwrap());
    assert!(!store.contains(&name));
}

#[test]
fn no_more_blobs_are_kept_open_than_may_be() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path(), Max::None);
    let names: Vec<BlobName> = (0..=limits::OPEN_BLOBS_MAX)
        .map(|number| {
            let bytes = number.to_le_bytes();
            drop(put(&store, &bytes).unwrap());
            name_of(&bytes)
        })
        .collect();
    let (last, kept) = names.split_last().unwrap();
    let open: Vec<_> = kept.iter().map(|name| Arc::downgrade(&store.blob(name).unwrap())).collect();
    assert!(open.iter().all(|blob| blob.strong_count() == 1));
    // The first was used again: the second has to go.
    drop(store.blob(&names[0]));
    drop(store.blob(last));
    assert_eq!([0, 1, 2].map(|at| open[at].strong_count()), [1, 0, 1]);
}

#[test]
fn leftovers_go_and_foreign_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    drop(put(&open(dir.path(), Max::None), &sample(1)).unwrap());
    let stems = [2, 3, 4].map(|number| name_of(&sample(number)).file_stem());
    let hash = metainfo_of(&sample(2)).info_hash();
    let at = |path: String| dir.path().join(path);
    let leftovers = [
        at(format!("blobs/{}", stems[0])),
        at(format!("torrents/{}.{hash}.torrent", stems[1])),
        at(format!("partial/{}", stems[1])),
        at(format!("partial/{}.torrent", stems[1])),
    ];
    let foreign = [
        at("blobs/notes.txt".into()),
        at(format!("blobs/{}.bak", stems[0])),
        at(format!("torrents/{}.{}.torrent", stems[1], hash.to_string().to_uppercase())),
        at("partial/.nfs01".into()),
        at("lost".into()),
    ];
    for path in leftovers.iter().chain(&foreign) {
        fs::write(path, "x").unwrap();
    }
    let link = at(format!("blobs/{}", stems[2]));
    symlink(at("lost".into()), &link).unwrap();
    let torrent = at(format!("torrents/{}.{hash}.torrent", stems[2]));
    fs::write(torrent, "x").unwrap();

    let store = open(dir.path(), Max::None);
    assert_eq!(store.seeds().len(), 1);
    assert!(leftovers.iter().all(|path| !path.exists()));
    assert!(foreign.iter().all(|path| path.exists()));
    assert!(link.is_symlink() && store.blob(&name_of(&sample(4))).is_none());
}

#[test]
fn a_start_reads_no_metainfo() {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path(), Max::None));
    for number in 0..10_000u32 {
        let bytes = number.to_le_bytes();
        let (stem, hash) = (name_of(&bytes).file_stem(), crate::base::hash::Sha1Hash::of(&bytes));
        fs::write(dir.path().join("blobs").join(&stem), bytes).unwrap();
        // Not metainfo at all: reading it would fail.
        fs::write(dir.path().join("torrents").join(format!("{stem}.{hash}.torrent")), "").unwrap();
    }
    let store = open(dir.path(), Max::None);
    assert_eq!(
        store.usage(),
        Usage { blobs: 10_000, bytes: 40_000, partial_bytes: 0, ..Usage::default() }
    );
    // Who asks for one finds out: a blob without its metainfo cannot be told from one that was cut.
    assert!(store.blob(&name_of(&7u32.to_le_bytes())).is_none());
    assert_eq!(store.usage().blobs, 9_999);
}
