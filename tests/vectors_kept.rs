//! What the fuzz targets have found and `fuzz/seeds` keeps, against the law of each.

#[path = "vectors/laws.rs"]
mod laws;
#[path = "vectors/laws_http.rs"]
mod laws_http;
#[path = "vectors/laws_ostree.rs"]
mod laws_ostree;
#[path = "vectors/laws_swarm.rs"]
#[allow(dead_code, reason = "tests/sim uses the rest")]
mod laws_swarm;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

type Law = fn(&[u8]);

const LAWS: &[(&str, Law)] = &[
    ("bencode", laws::bencode),
    ("etcd", laws_http::etcd),
    ("ext", laws::ext),
    ("http_answer", laws::http_answer),
    ("http_chunks", laws_http::http_chunks),
    ("http_head", laws_http::http_head),
    ("http_query", laws::http_query),
    ("http_range", laws_http::http_range),
    ("manifest", laws_http::manifest),
    ("metainfo", laws::metainfo),
    ("oci", laws_http::oci),
    ("ostree", laws_ostree::ostree),
    ("ostree_part", laws_ostree::part),
    ("peer", laws::peer),
    ("swarm", laws_swarm::swarm),
    ("udp", laws::udp),
    ("url", laws_http::url),
];

fn entries(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(&folder);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    entries.map(|entry| entry.expect("it can be read").path()).collect()
}

#[test]
fn what_was_found_keeps_the_laws() {
    for (target, law) in LAWS {
        let kept = entries(&format!("fuzz/seeds/{target}"));
        assert!(!kept.is_empty(), "{target}");
        for path in kept {
            law(&std::fs::read(&path).expect("it can be read"));
        }
    }
}

#[test]
fn every_target_is_tried_here() {
    let name = |path: PathBuf| path.file_stem().map(|name| name.to_string_lossy().into_owned());
    let targets: BTreeSet<_> = entries("fuzz/fuzz_targets").into_iter().filter_map(name).collect();
    let tried: BTreeSet<_> = LAWS.iter().map(|(target, _)| (*target).to_owned()).collect();
    assert_eq!(targets, tried);
}
