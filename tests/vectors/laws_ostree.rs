//! What must hold for the codecs of OSTree and any input at all. Used as the laws beside it are.

use torrent_cache::limits::{BLOB_LEN_MAX, DELTA_PARTS_MAX, DELTAS_LISTED_MAX};
use torrent_cache::proto::ostree::delta::{Superblock, listed_in_index, listed_in_summary};
use torrent_cache::proto::ostree::{self, DeltaId, RepoPath};

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
            RepoPath::Object(checksum, kind) => {
                let hex = checksum.to_string();
                format!("objects/{}/{}.{}", &hex[..2], &hex[2..], kind.ending())
            }
        };
        assert_eq!(format!("{repository}/{spelt}").as_bytes(), input);
    }
    if let Ok(superblock) = Superblock::decode(input) {
        assert!(superblock.parts.len() <= DELTA_PARTS_MAX);
        assert!(superblock.parts.iter().all(|part| part.size > 0));
        assert!(superblock.parts.iter().map(|part| part.size).sum::<u64>() <= BLOB_LEN_MAX);
    }
    for listed in [listed_in_index(input), listed_in_summary(input)] {
        assert!(listed.map_or(0, |deltas| deltas.len()) <= DELTAS_LISTED_MAX);
    }
}
