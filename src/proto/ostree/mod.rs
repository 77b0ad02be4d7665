//! OSTree archive repositories: what their paths name (libostree, `ostree-core.c`), what the
//! metadata of static deltas says ([`delta`]), and the objects inside their parts ([`part`]).
//!
//! A static delta is a directory of a `superblock`, which lists the parts with their SHA-256 and
//! size, and the parts `0`, `1`, …. It leads from one commit, or from nothing, to another.

pub mod delta;
pub mod filez;
pub mod layout;
pub mod object;
pub mod part;

mod gvariant;

use std::fmt;

use crate::base::hash::{from_hex, write_hex};
use crate::proto::base64;

/// The longest decimal number of a part: [`crate::limits::DELTA_PARTS_MAX`] has four digits.
const PART_DIGITS_MAX: usize = 4;

/// A SHA-256: of a commit, another object, a superblock or a part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Checksum(pub [u8; 32]);

impl Checksum {
    /// Reads 64 lower-case hexadecimal digits.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Checksum> {
        let is_lower = !text.bytes().any(|byte| byte.is_ascii_uppercase());
        from_hex(text.as_bytes()).filter(|_| is_lower).map(Checksum)
    }

    /// Reads base64 as it stands in paths: `_` in place of `/`, no padding.
    fn from_path(text: &str) -> Option<Checksum> {
        if text.contains(['/', '=']) {
            return None;
        }
        let bytes = base64::decode(&format!("{}=", text.replace('_', "/")))?;
        bytes.try_into().ok().map(Checksum)
    }

    fn to_path(self) -> String {
        base64::encode(&self.0).trim_end_matches('=').replace('/', "_")
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

/// Which static delta of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeltaId {
    /// The commit that the receiver must have; `None`: it needs none.
    pub from: Option<Checksum>,
    /// The commit that it gets.
    pub to: Checksum,
}

impl DeltaId {
    /// The delta's directory inside the repository: `deltas/ib/JzC…`.
    #[must_use]
    pub fn dir(&self) -> String {
        let to = self.to.to_path();
        let name = match self.from {
            Some(from) => format!("{}-{to}", from.to_path()),
            None => to,
        };
        let (start, rest) = name.split_at_checked(2).unwrap_or((&name, ""));
        format!("deltas/{start}/{rest}")
    }

    /// Reads the directory's name, in its two halves put together.
    fn from_path(name: &str) -> Option<DeltaId> {
        let checksum = Checksum::from_path;
        Some(match name.split_once('-') {
            Some((from, to)) => DeltaId { from: Some(checksum(from)?), to: checksum(to)? },
            None => DeltaId { from: None, to: checksum(name)? },
        })
    }

    /// Reads a key of `ostree.static-deltas`: `<from>-<to>` or `<to>`, in hexadecimal.
    fn from_key(key: &str) -> Option<DeltaId> {
        let checksum = Checksum::from_hex;
        Some(match key.split_once('-') {
            Some((from, to)) => DeltaId { from: Some(checksum(from)?), to: checksum(to)? },
            None => DeltaId { from: None, to: checksum(key)? },
        })
    }
}

/// The kind of an object, which its file name ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// A commit: its bytes have its name for a SHA-256.
    Commit,
    /// A directory's entries, likewise.
    DirTree,
    /// A directory's owner, mode and attributes, likewise.
    DirMeta,
    /// A file, compressed. Its name is the SHA-256 of what it unpacks to, not of its bytes.
    FileZ,
    /// What is said of a commit from outside, such as signatures. It may change.
    CommitMeta,
}

impl ObjectKind {
    const ALL: [ObjectKind; 5] = [
        ObjectKind::Commit,
        ObjectKind::DirTree,
        ObjectKind::DirMeta,
        ObjectKind::FileZ,
        ObjectKind::CommitMeta,
    ];

    /// The ending of its file name.
    #[must_use]
    pub fn ending(self) -> &'static str {
        match self {
            ObjectKind::Commit => "commit",
            ObjectKind::DirTree => "dirtree",
            ObjectKind::DirMeta => "dirmeta",
            ObjectKind::FileZ => "filez",
            ObjectKind::CommitMeta => "commitmeta",
        }
    }

    /// Whether the bytes of such an object have its name for a SHA-256.
    #[must_use]
    pub fn is_named_by_bytes(self) -> bool {
        matches!(self, ObjectKind::Commit | ObjectKind::DirTree | ObjectKind::DirMeta)
    }
}

/// What a path inside a repository names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoPath {
    /// The superblock of a static delta. It may be made anew, with other parts.
    Superblock(DeltaId),
    /// A part of a static delta, by number.
    Part(DeltaId, u32),
    /// The list of the static deltas that lead to a commit.
    Index(Checksum),
    /// An object.
    Object(Checksum, ObjectKind),
}

/// The path of an object inside its repository.
#[must_use]
pub fn object_path(checksum: &Checksum, kind: ObjectKind) -> String {
    let hex = checksum.to_string();
    let (start, rest) = hex.split_at_checked(2).unwrap_or((&hex, ""));
    format!("objects/{start}/{rest}.{}", kind.ending())
}

/// Reads the path of a URL, without its query: where the repository is, without a slash at its end,
/// and what of it is named. Only the exact spelling names anything: the upstream may read another
/// one otherwise.
#[must_use]
pub fn parse(path: &str) -> Option<(&str, RepoPath)> {
    let (dir, file) = path.rsplit_once('/')?;
    let (repository, named) = match dir.rsplit_once('/') {
        Some((parent, start)) if parent.ends_with("/objects") => {
            (parent.strip_suffix("/objects")?, object(start, file)?)
        }
        Some((parent, start)) if parent.ends_with("/delta-indexes") => {
            let rest = file.strip_suffix(".index")?;
            let to = Checksum::from_path(&joined(start, rest)?)?;
            (parent.strip_suffix("/delta-indexes")?, RepoPath::Index(to))
        }
        Some((parent, rest)) => {
            let (parent, start) = parent.rsplit_once('/')?;
            let delta = DeltaId::from_path(&joined(start, rest)?)?;
            (parent.strip_suffix("/deltas")?, of_delta(delta, file)?)
        }
        None => return None,
    };
    is_plain(repository).then_some((repository, named))
}

/// The name whose first two characters are a directory's name of their own.
fn joined(start: &str, rest: &str) -> Option<String> {
    (start.len() == 2).then(|| format!("{start}{rest}"))
}

fn object(start: &str, file: &str) -> Option<RepoPath> {
    let (rest, ending) = file.split_once('.')?;
    let kind = ObjectKind::ALL.into_iter().find(|kind| kind.ending() == ending)?;
    Some(RepoPath::Object(Checksum::from_hex(&joined(start, rest)?)?, kind))
}

fn of_delta(delta: DeltaId, file: &str) -> Option<RepoPath> {
    if file == "superblock" {
        return Some(RepoPath::Superblock(delta));
    }
    let is_number = file.len() <= PART_DIGITS_MAX
        && file.bytes().all(|byte| byte.is_ascii_digit())
        && (file == "0" || !file.starts_with('0'));
    let number = file.parse().ok().filter(|_| is_number)?;
    Some(RepoPath::Part(delta, number))
}

/// Whether a path, which is empty or starts with a slash, has one reading only: no empty or dot
/// segments and nothing percent-encoded.
#[must_use]
pub fn is_plain(path: &str) -> bool {
    path.is_empty()
        || path.strip_prefix('/').is_some_and(|path| {
            !path.contains('%') && path.split('/').all(|part| !matches!(part, "" | "." | ".."))
        })
}

/// The repository of a path that names one of its small files that may change: `config`, `summary`,
/// `summary.sig`, flatpak's `summary.idx` and `summaries/…`, and `refs/…`. Such names are not
/// OSTree's alone.
#[must_use]
pub fn named_file(path: &str) -> Option<&str> {
    let at = ["/config", "/summary", "/summary.sig", "/summary.idx"]
        .into_iter()
        .find_map(|file| path.strip_suffix(file))
        .or_else(|| path.rsplit_once("/summaries/").map(|(repository, _)| repository))
        .or_else(|| path.rsplit_once("/refs/").map(|(repository, _)| repository));
    at.filter(|_| is_plain(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checksum(text: &str) -> Checksum {
        Checksum::from_hex(text).unwrap()
    }

    const FROM: &str = "11837f79bd6401e70664b23ebf6ae1d621af7bff4e60edcd0280bde0397df02c";
    const TO: &str = "6fb6f600b24deef418ca37033ccb34feac6c6ed2c26c6c0cc57061db2efdda78";
    const FROM_PATH: &str = "EYN_eb1kAecGZLI+v2rh1iGve_9OYO3NAoC94Dl98Cw";
    const TO_PATH: &str = "b7b2ALJN7vQYyjcDPMs0_qxsbtLCbGwMxXBh2y792ng";

    fn scratch() -> DeltaId {
        DeltaId { from: None, to: checksum(TO) }
    }

    fn update() -> DeltaId {
        DeltaId { from: Some(checksum(FROM)), to: checksum(TO) }
    }

    #[test]
    fn deltas_are_found_where_ostree_puts_them() {
        let (start, rest) = TO_PATH.split_at(2);
        assert_eq!(scratch().dir(), format!("deltas/{start}/{rest}"));
        let (start, rest) = FROM_PATH.split_at(2);
        assert_eq!(update().dir(), format!("deltas/{start}/{rest}-{TO_PATH}"));
        for delta in [scratch(), update()] {
            for repository in ["", "/repo", "/a/deltas/b"] {
                let path = |file: &str| format!("{repository}/{}/{file}", delta.dir());
                let superblock = Some((repository, RepoPath::Superblock(delta)));
                assert_eq!(parse(&path("superblock")), superblock);
                assert_eq!(parse(&path("0")), Some((repository, RepoPath::Part(delta, 0))));
                assert_eq!(parse(&path("4095")), Some((repository, RepoPath::Part(delta, 4095))));
            }
        }
    }

    #[test]
    fn indexes_and_objects_are_found() {
        let (start, rest) = TO_PATH.split_at(2);
        let path = format!("/repo/delta-indexes/{start}/{rest}.index");
        assert_eq!(parse(&path), Some(("/repo", RepoPath::Index(checksum(TO)))));
        let (start, rest) = TO.split_at(2);
        for kind in ObjectKind::ALL {
            let path = format!("/objects/{start}/{rest}.{}", kind.ending());
            assert_eq!(parse(&path), Some(("", RepoPath::Object(checksum(TO), kind))));
        }
    }

    #[test]
    fn other_spellings_name_nothing() {
        let dir = scratch().dir();
        let (start, rest) = TO.split_at(2);
        for path in [
            format!("{dir}/superblock"),
            format!("//{dir}/superblock"),
            format!("/repo/../{dir}/superblock"),
            format!("/re%70o/{dir}/superblock"),
            format!("/{dir}/superblock/"),
            format!("/{dir}/00"),
            format!("/{dir}/01"),
            format!("/{dir}/+1"),
            format!("/{dir}/10000"),
            format!("/{dir}=/0"),
            format!("/{}/0", dir.replace('_', "%2F")),
            format!("/{}/0", dir.replace("deltas/b7/", "deltas/b7b/")),
            format!("/objects/{}/{rest}.filez", start.to_uppercase()),
            format!("/objects/{start}/{rest}.file"),
            format!("/objects/{start}/{rest}.filez.bak"),
            format!("/objects/{start}/{}.filez", &rest[1..]),
            "/deltas//superblock".into(),
            "/superblock".into(),
            String::new(),
        ] {
            assert_eq!(parse(&path), None, "{path}");
        }
    }

    #[test]
    fn small_files_are_told_by_their_names() {
        for (path, repository) in [
            ("/repo/summary", "/repo"),
            ("/summary.sig", ""),
            ("/a/b/config", "/a/b"),
            ("/repo/summary.idx", "/repo"),
            ("/repo/summaries/ab.gz", "/repo"),
            ("/repo/refs/heads/a/b", "/repo"),
        ] {
            assert_eq!(named_file(path), Some(repository), "{path}");
        }
        for path in ["/repo/summaryx", "/repo/../config", "/repo/objects", "config", "/a//config"] {
            assert_eq!(named_file(path), None, "{path}");
        }
    }
}
