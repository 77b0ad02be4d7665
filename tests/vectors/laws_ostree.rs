//! What must hold for the codecs of OSTree and any input at all. Used as the laws beside it are.

use std::io::Cursor;

use torrent_cache::base::hash::sha256;
use torrent_cache::limits::{
    BLOB_LEN_MAX, DELTA_PARTS_MAX, DELTAS_LISTED_MAX, PART_UNPACKED_LEN_MAX,
};
use torrent_cache::proto::ostree::delta::{
    Superblock, contents, listed_in_index, listed_in_summary,
};
use torrent_cache::proto::ostree::filez::FilezCheck;
use torrent_cache::proto::ostree::part::{Objects, unpack};
use torrent_cache::proto::ostree::{self, Checksum, DeltaId, RepoPath};

/// A path of a repository has one spelling, and the metadata of deltas keeps its bounds.
pub fn ostree(input: &[u8]) {
    if let Some((repository, named)) = str::from_utf8(input).ok().and_then(ostree::parse) {
        let spelt = match named {
            RepoPath::Superblock(delta) => format!("{}/superblock", delta.dir()),
            RepoPath::Part(delta, number) => format!("{}/{number}", delta.dir()),
            RepoPath::Index(to) => {
                let dir = DeltaId { from: None, to }.dir();
                format!("{}.index", dir.replacen("deltas/", "delta-indexes/", 1))
            }
            RepoPath::Object(checksum, kind) => ostree::object_path(&checksum, kind),
        };
        assert_eq!(format!("{repository}/{spelt}").as_bytes(), input);
    }
    if let Ok(superblock) = Superblock::decode(input) {
        assert!(superblock.parts.len() <= DELTA_PARTS_MAX);
        assert!(superblock.parts.iter().all(|part| part.size > 0));
        assert!(superblock.parts.iter().map(|part| part.size).sum::<u64>() <= BLOB_LEN_MAX);
        let contents = contents(input).expect("what can be read of it can be read");
        assert_eq!(contents.len(), superblock.parts.len());
        for (contents, part) in contents.iter().zip(&superblock.parts) {
            assert_eq!(contents.inline.is_some(), part.is_inline);
            assert!(contents.len() * 33 <= input.len());
            assert_eq!(contents.object(contents.len()), None);
        }
    }
    for listed in [listed_in_index(input), listed_in_summary(input)] {
        assert!(listed.map_or(0, |deltas| deltas.len()) <= DELTAS_LISTED_MAX);
    }
    // However the bytes are cut, a file is told the same.
    let whole = |parts: [&[u8]; 2]| {
        let mut check = FilezCheck::new(Checksum([0; 32]));
        parts.into_iter().for_each(|part| check.update(part));
        check.finish()
    };
    let (start, end) = input.split_at(input.len() / 3);
    assert_eq!(whole([input, b""]), whole([start, end]));
}

/// The names of what the part in `whole.part` holds.
const SUPERBLOCK: &[u8] = include_bytes!("ostree/whole.superblock");

/// A part, packed or not, gives objects within the bounds, and makes none that is not the one that
/// it is named for.
pub fn part(input: &[u8]) {
    let mut unpacked = Vec::new();
    if unpack(Cursor::new(input), &mut unpacked).is_ok() {
        assert!(unpacked.len() <= PART_UNPACKED_LEN_MAX);
        objects(&unpacked);
    }
    objects(input);
}

fn objects(unpacked: &[u8]) {
    let contents = contents(SUPERBLOCK).expect("a superblock")[0];
    let Ok(objects) = Objects::new(unpacked, contents) else { return };
    let mut cost = 0;
    let mut failed = false;
    let mut room = Vec::new();
    for (count, object) in objects.enumerate() {
        assert!(count <= contents.len() && !failed);
        let Ok(object) = object else {
            failed = true;
            continue;
        };
        cost += object.cost();
        if let Some(archived) = object.archived(&mut room) {
            let is_file = object.file.is_some();
            assert!(is_file || sha256(archived) == object.checksum.0);
        }
    }
    assert!(cost <= PART_UNPACKED_LEN_MAX);
}
