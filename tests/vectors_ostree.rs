//! The metadata of OSTree's static deltas against what libostree wrote and says of it.
//! `vectors/README.md` says how the files were made.

#[path = "vectors/change.rs"]
mod change;
#[path = "vectors/laws_ostree.rs"]
mod laws;

use std::path::Path;

use change::try_changed;
use torrent_cache::base::hash::sha256;
use torrent_cache::proto::ostree::delta::{
    DeltaError, Superblock, listed_in_index, listed_in_summary,
};
use torrent_cache::proto::ostree::{Checksum, DeltaId};

fn file(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/ostree").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn text(name: &str) -> String {
    String::from_utf8(file(name)).unwrap()
}

/// What stands behind `label` in what `ostree static-delta show` printed.
fn shown(name: &str, label: &str) -> Vec<String> {
    let text = text(&format!("{name}.txt"));
    let values = text.lines().filter(|line| line.starts_with(label));
    values.map(|line| line.rsplit(' ').next().unwrap().to_owned()).collect()
}

fn superblock(name: &str) -> Superblock {
    Superblock::decode(&file(&format!("{name}.superblock"))).unwrap()
}

#[test]
fn superblocks_say_what_ostree_shows() {
    for name in ["fallback", "update", "swapped", "inline"] {
        let superblock = superblock(name);
        assert_eq!(shown(name, "To:"), [superblock.id.to.to_string()], "{name}");
        let from = superblock.id.from.map_or("<scratch>".to_owned(), |from| from.to_string());
        assert_eq!(shown(name, "From"), [from], "{name}");
        let text = text(&format!("{name}.txt"));
        let sizes: Vec<u64> = text
            .lines()
            .filter(|line| line.starts_with("PartMeta"))
            .map(|line| line.split(" size=").nth(1).unwrap().split(' ').next().unwrap())
            .map(|size| size.parse().unwrap())
            .collect();
        assert_eq!(superblock.parts.iter().map(|part| part.size).collect::<Vec<_>>(), sizes);
        assert_eq!(sizes.len().to_string(), shown(name, "Number of parts")[0], "{name}");
    }
}

#[test]
fn parts_have_the_checksums_of_their_files() {
    for (name, count) in [("fallback", 6), ("update", 1), ("swapped", 1)] {
        let sums = text(&format!("{name}.sums"));
        let sums: Vec<&str> = sums.lines().map(|line| line.split(' ').next().unwrap()).collect();
        let parts = superblock(name).parts;
        assert_eq!(parts.iter().map(|part| part.checksum.to_string()).collect::<Vec<_>>(), sums);
        assert!(parts.len() == count && parts.iter().all(|part| !part.is_inline), "{name}");
    }
    assert!(superblock("inline").parts.iter().all(|part| part.is_inline));
}

#[test]
fn a_signature_changes_nothing() {
    let signed = file("signed.superblock");
    assert!(signed.starts_with(b"OSTSGNDT"));
    // The byte order of the plain one was set to the other: the part is the same.
    assert_eq!(Superblock::decode(&signed), Ok(superblock("swapped")));
}

#[test]
fn indexes_and_summaries_vouch_for_the_superblocks() {
    let vouched = |name: &str| {
        let bytes = file(&format!("{name}.superblock"));
        (superblock(name).id, Checksum(sha256(&bytes)))
    };
    assert_eq!(listed_in_index(&file("second.index")), Ok(vec![vouched("update")]));
    let mut listed = listed_in_summary(&file("summary")).unwrap();
    let mut expected = vec![vouched("update"), vouched("fallback")];
    listed.sort_unstable();
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

#[test]
fn a_superblock_of_another_commit_is_refused() {
    let to = superblock("update").id.to;
    let mut bytes = file("update.superblock");
    let at = bytes.windows(32).position(|window| window == to.0).unwrap();
    bytes[at] ^= 1;
    assert_eq!(Superblock::decode(&bytes), Err(DeltaError::Commit));
}

#[test]
fn sizes_that_no_blob_can_have_are_refused() {
    let size = superblock("update").parts[0].size;
    for (lie, is_read) in [(0, false), (1, true), (u64::MAX, false), (1 << 62, false)] {
        let mut bytes = file("update.superblock");
        let at = bytes.windows(8).position(|window| window == size.to_le_bytes()).unwrap();
        bytes[at..at + 8].copy_from_slice(&u64::to_le_bytes(lie));
        let expected = if is_read { lie } else { 0 };
        let read = Superblock::decode(&bytes);
        assert_eq!(read.as_ref().map_or(0, |read| read.parts[0].size), expected, "{lie}");
        assert!(is_read || read == Err(DeltaError::PartSize), "{lie}");
    }
}

#[test]
fn changed_metadata_is_refused_or_within_the_bounds() {
    let names = ["fallback", "update", "swapped", "inline", "signed"];
    let mut vectors: Vec<Vec<u8>> = names.map(|name| file(&format!("{name}.superblock"))).to_vec();
    vectors.extend([file("summary"), file("second.index")]);
    let delta: DeltaId = superblock("update").id;
    vectors.push(format!("/repo/{}/superblock", delta.dir()).into_bytes());
    vectors.push(format!("/repo/{}/12", delta.dir()).into_bytes());
    vectors.push(format!("/repo/objects/ab/{}.filez", "0".repeat(62)).into_bytes());
    try_changed(&vectors, laws::ostree);
}
