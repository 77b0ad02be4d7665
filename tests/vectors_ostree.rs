//! The metadata of OSTree's static deltas against what libostree wrote and says of it.
//! `vectors/README.md` says how the files were made.

#[path = "vectors/change.rs"]
mod change;
#[path = "vectors/laws_ostree.rs"]
mod laws;

use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::path::Path;

use change::try_changed;
use miniz_oxide::deflate::compress_to_vec;
use torrent_cache::base::hash::sha256;
use torrent_cache::base::rng::Rng;
use torrent_cache::limits;
use torrent_cache::proto::ostree::delta::{
    DeltaError, Superblock, contents, listed_in_index, listed_in_summary, root,
};
use torrent_cache::proto::ostree::filez::{FilezCheck, FilezError};
use torrent_cache::proto::ostree::object::Object;
use torrent_cache::proto::ostree::part::{self, Objects, PartError};
use torrent_cache::proto::ostree::{Checksum, DeltaId, ObjectKind};

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
fn the_root_of_the_commit_is_in_the_first_part() {
    let known = "8f71a44238a6199a6fecea5380ed3ff9eefb9dda29c5fd05b0a42f8b92c78e28";
    assert_eq!(root(&file("update.superblock")).unwrap().0.to_string(), known);
    for name in ["fallback", "update", "swapped", "inline", "signed", "whole"] {
        let bytes = file(&format!("{name}.superblock"));
        let (root, number) = root(&bytes).expect(name);
        let contents = contents(&bytes).unwrap();
        let objects: Vec<_> =
            (0..contents[number].len()).filter_map(|at| contents[number].object(at)).collect();
        assert!(objects.contains(&(root, ObjectKind::DirTree)), "{name}: {root}");
    }
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

fn bytes(hex: &str) -> Vec<u8> {
    let byte = |hex: &[u8]| u8::from_str_radix(str::from_utf8(hex).unwrap(), 16).unwrap();
    hex.as_bytes().chunks(2).map(byte).collect()
}

/// What the archive repository has of a file, by its checksum: the file's beginning, up to its
/// compressed bytes.
fn heads() -> BTreeMap<String, Vec<u8>> {
    let heads = text("whole.heads");
    let heads = heads.lines().map(|line| line.split_once(' ').unwrap());
    heads.map(|(name, hex)| (name.to_owned(), bytes(hex))).collect()
}

/// What raw deflate holds that is not compressed (RFC 1951 section 3.2.4).
fn inflated(mut packed: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let (head, rest) = packed.split_at(5);
        let len = u16::from_le_bytes([head[1], head[2]]);
        assert_eq!(!len, u16::from_le_bytes([head[3], head[4]]));
        let (block, rest) = rest.split_at(usize::from(len));
        bytes.extend_from_slice(block);
        packed = rest;
        match head[0] {
            0 => {}
            1 => return bytes,
            other => panic!("a block of kind {other}"),
        }
        assert!(!packed.is_empty());
    }
}

fn unpack(part: &[u8]) -> Result<Vec<u8>, PartError> {
    // Of another part, longer and shorter.
    let mut room = vec![7; 1000];
    part::unpack(Cursor::new(part), &mut room).map(|()| room)
}

#[test]
fn a_part_gives_the_objects_that_the_repository_has() {
    let superblocks = ["whole.superblock", "whole-inline.superblock"].map(file);
    let [own, inline] = superblocks.each_ref().map(|bytes| contents(bytes).unwrap()[0]);
    assert_eq!(own.inline, None);
    let part = file("whole.part");
    // The commit's time is the same: so are all bytes, wherever they are.
    for (names, part) in [(own, &part[..]), (inline, inline.inline.unwrap())] {
        let unpacked = unpack(part).unwrap();
        let objects = Objects::new(&unpacked, names).unwrap();
        let objects: Vec<Object> = objects.map(Result::unwrap).collect();
        assert_eq!(objects.len().to_string(), counted("whole", "openspliceclose"));
        let mut heads = heads();
        for object in &objects {
            let mut room = b"another".to_vec();
            let archived = object.archived(&mut room).expect("it is right");
            if object.kind != ObjectKind::FileZ {
                assert_eq!(sha256(archived), object.checksum.0);
                continue;
            }
            let head = heads.remove(&object.checksum.to_string()).expect("a file of it");
            let (ours, packed) = archived.split_at(head.len());
            assert_eq!(ours, head, "{}", object.checksum);
            match object.file.unwrap().numbers[2] & 0o170_000 {
                0o100_000 => assert_eq!(inflated(packed), object.bytes),
                _ => assert!(packed.is_empty(), "a link has no bytes"),
            }
        }
        assert!(heads.is_empty(), "all of them: {heads:?}");
    }
}

fn is_right(object: &Object) -> bool {
    object.archived(&mut Vec::new()).is_some()
}

/// How many operations of this kind `ostree static-delta show` has counted in the one part.
fn counted(name: &str, operation: &str) -> String {
    let text = text(&format!("{name}.txt"));
    let (_, rest) = text.split_once(&format!("{operation}=")).unwrap();
    rest.split_whitespace().next().unwrap().to_owned()
}

#[test]
fn objects_that_are_made_of_others_are_left_out() {
    for (name, made_of_others) in [("changed", 2), ("unpatched", 1)] {
        assert_eq!(counted(name, " open"), made_of_others.to_string());
        let superblock = file(&format!("{name}.superblock"));
        let names = contents(&superblock).unwrap()[0];
        let unpacked = unpack(&file(&format!("{name}.part"))).unwrap();
        let objects = Objects::new(&unpacked, names).unwrap();
        let objects: Vec<Object> = objects.map(Result::unwrap).collect();
        assert_eq!(objects.len() + made_of_others, names.len(), "{name}");
        // So the others have kept their places.
        assert!(objects.iter().all(|object| is_right(object)), "{name}");
        let new = objects.iter().any(|object| object.bytes == b"new\n");
        assert!(new, "{name}");
    }
}

#[test]
fn an_object_that_is_not_what_it_is_named_for_is_not_made() {
    let superblock = file("whole.superblock");
    let names = contents(&superblock).unwrap()[0];
    let mut unpacked = unpack(&file("whole.part")).unwrap();
    let at = unpacked.windows(9).position(|window| window == b"\n1000\n100").unwrap();
    unpacked[at + 1] = b'2';
    let objects = Objects::new(&unpacked, names).unwrap().map(Result::unwrap);
    let wrong: Vec<Object> = objects.filter(|object| !is_right(object)).collect();
    let [wrong] = wrong.as_slice() else { panic!("one of them: {wrong:?}") };
    assert!(wrong.bytes.starts_with(b"1\n2\n3\n"));
}

#[test]
fn a_part_that_asks_for_too_much_is_refused() {
    // printf 'a part' | xz --lzma2=dict=256MiB
    const LARGE: &str = "fd377a585a000004e6d6b44602002101200000000988a5760100056120706172740000\
        00830bb27afe0c955300011e06c12fa41d1fb6f37d010000000004595a";
    // The same with --block-size=3 in front of it.
    const BLOCKS: &str = "fd377a585a000004e6d6b44602002101200000000988a576010002612070000078\
        52ffe5cfce2a3e02002101200000000988a5760100026172740000a7e65730c36a7d4d00021b031b0300000f\
        285259b1c467fb020000000004595a";
    let small = file("whole.part");
    let packed = |xz| [&b"x"[..], &bytes(xz)].concat();
    assert_eq!(unpack(&packed(LARGE)).unwrap(), b"a part", "it needs less than it asks for");
    let refused = unpack(&packed(BLOCKS));
    let kind = io::ErrorKind::OutOfMemory;
    assert!(matches!(&refused, Err(PartError::Read(error)) if error.kind() == kind), "{refused:?}");
    assert!(matches!(unpack(&small[..100]), Err(PartError::Read(_))), "cut");
    assert!(matches!(unpack(b"z"), Err(PartError::Compression(b'z'))));
    let long = vec![0; limits::PART_UNPACKED_LEN_MAX + 2];
    assert!(matches!(unpack(&long), Err(PartError::TooLong)));
    assert!(unpack(&long[1..]).is_ok());
    assert_eq!(unpack(b"\0plain").unwrap(), b"plain");
}

#[test]
fn a_part_of_several_blocks_or_filters_is_unpacked_too() {
    // printf 'a part' | xz --block-size=3 --lzma2=dict=4KiB
    const BLOCKS: &str = "fd377a585a000004e6d6b4460200210100000000372797d601000261207000007852\
        ffe5cfce2a3e0200210100000000372797d60100026172740000a7e65730c36a7d4d00021b031b0300000f28\
        5259b1c467fb020000000004595a";
    // printf 'a part' | xz --x86 --lzma2=dict=4KiB
    const FILTERS: &str = "fd377a585a000004e6d6b4460201040021010000da33ad0301000561207061727400\
        0000830bb27afe0c955300011e06c12fa41d1fb6f37d010000000004595a";
    for xz in [BLOCKS, FILTERS] {
        assert_eq!(unpack(&[&b"x"[..], &bytes(xz)].concat()).unwrap(), b"a part");
    }
}

#[test]
fn changed_parts_are_refused_or_within_the_bounds() {
    let packed = file("changed.part");
    let unpacked = unpack(&packed).unwrap();
    try_changed(&[packed, unpacked], laws::part);
}

/// The files of one commit, as `ostree commit` wrote them: text, random bytes, an empty one, and a
/// link.
fn archived_files() -> Vec<(Checksum, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/ostree/files");
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<_> = files
        .map(|path| {
            let name = path.file_stem().unwrap().to_str().unwrap();
            (Checksum::from_hex(name).unwrap(), std::fs::read(&path).unwrap())
        })
        .collect();
    assert_eq!(files.len(), 4);
    files
}

fn check(checksum: Checksum, parts: &[&[u8]]) -> Result<(), FilezError> {
    let mut check = FilezCheck::new(checksum);
    parts.iter().for_each(|part| check.update(part));
    check.finish()
}

#[test]
fn archived_files_are_known_by_their_names_however_they_are_cut() {
    for (checksum, bytes) in archived_files() {
        assert_eq!(check(checksum, &[&bytes]), Ok(()), "{checksum}");
        for at in 0..=bytes.len() {
            let (start, end) = bytes.split_at(at);
            assert_eq!(check(checksum, &[start, end]), Ok(()), "{checksum} at {at}");
            let cut = check(checksum, &[start]);
            assert_eq!(cut.is_ok(), end.is_empty(), "{checksum} up to {at}");
        }
        let bytewise: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(check(checksum, &bytewise), Ok(()), "{checksum}");
        assert!(check(Checksum([7; 32]), &[&bytes]).is_err());
        assert!(check(checksum, &[&bytes, b"x"]).is_err(), "something behind it");
    }
}

/// Longer than what is unpacked at a time, and packed well, badly and not at all.
#[test]
fn a_long_file_is_known_by_its_name() {
    let mut content = vec![0; 1 << 20];
    Rng::seeded(1).fill(&mut content);
    content.extend(b"much the same ".repeat(100_000));
    let mut header = Vec::new();
    for number in [0_u32, 0, 0o100_644, 0] {
        header.extend_from_slice(&number.to_be_bytes());
    }
    header.push(0);
    let hashed = [&[0, 0, 0, 18, 0, 0, 0, 0][..], &header, &[17], &content].concat();
    let checksum = Checksum(sha256(&hashed));
    let len = (content.len() as u64).to_be_bytes();
    for level in [0, 1, 9] {
        let packed = compress_to_vec(&content, level);
        let bytes = [&[0, 0, 0, 26, 0, 0, 0, 0][..], &len, &header, &[25], &packed].concat();
        for part_len in [1000, 32 << 10, 256 << 10, bytes.len()] {
            let parts: Vec<&[u8]> = bytes.chunks(part_len).collect();
            assert_eq!(check(checksum, &parts), Ok(()), "level {level}, parts of {part_len}");
        }
    }
}

/// What the checksum does not cover is the length, and how the bytes are packed.
#[test]
fn archived_files_that_were_changed_are_told() {
    for (checksum, bytes) in archived_files() {
        for at in 0..bytes.len().min(200) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let is_covered = !(4..=40).contains(&at) || (24..32).contains(&at);
            if is_covered && bytes.len() > 1000 {
                assert!(check(checksum, &[&changed]).is_err(), "{checksum} at {at}");
            }
            let _ = check(checksum, &[&changed]);
        }
    }
}

/// A few bytes that unpack to more than the header says.
#[test]
fn a_bomb_is_not_unpacked() {
    let mut header = vec![0; 8];
    for number in [0_u32, 0, 0o100_644, 0] {
        header.extend_from_slice(&number.to_be_bytes());
    }
    header.extend_from_slice(&[0, 25]);
    let mut bomb = vec![0, 0, 0, 26, 0, 0, 0, 0];
    bomb.extend_from_slice(&header);
    // Fixed codes: a zero, and then it again 258 times, on and on.
    bomb.extend_from_slice(&[0x63, 0x60, 0x18]);
    bomb.extend_from_slice(&[0; 4000]);
    assert_eq!(check(Checksum([0; 32]), &[&bomb]), Err(FilezError::Malformed));
}
