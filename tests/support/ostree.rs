//! OSTree repositories: the one that is served, and those of the hosts that pull from it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use torrent_cache::base::hash::{hex, sha256};
use torrent_cache::base::rng::Rng;

use super::foreign::without_proxies;
use super::process::{Finished, Process};
use super::temp_dir;

/// What a commit holds: the bytes of each file by its path.
pub type Tree = BTreeMap<String, Vec<u8>>;

/// A tree of `small` files of up to 3 kB and of files with these lengths; nothing of it can be
/// compressed.
pub fn tree(seed: u64, small: usize, lens: &[usize]) -> Tree {
    let mut rng = Rng::seeded(seed);
    let mut bytes = |len: usize| {
        let mut bytes = vec![0; len];
        rng.fill(&mut bytes);
        bytes
    };
    let little = (0..small).map(|number| 20 + number * 137 % 3000);
    let lens = little.chain(lens.iter().copied()).enumerate();
    lens.map(|(number, len)| (format!("usr/{}/{number}", number % 7), bytes(len))).collect()
}

fn ostree(repository: &Path, settings: &[(&str, String)], arguments: &[&str]) -> Finished {
    let mut command = without_proxies(Command::new("ostree"));
    command.args(arguments).arg(format!("--repo={}", repository.display()));
    command.envs(settings.iter().map(|(name, value)| (*name, value)));
    Process::run("ostree", command, "ostree")
}

fn done(repository: &Path, arguments: &[&str]) -> String {
    let finished = ostree(repository, &[], arguments);
    assert!(finished.status.success(), "ostree {arguments:?}: {}", finished.output);
    finished.output.trim().to_owned()
}

/// A file of these bytes as an archive repository has it, cut into blocks of so many bytes that are
/// not compressed: its path below the repository, and its own bytes.
pub fn archived(content: &[u8], block_len: u16) -> (String, Vec<u8>) {
    // Owner, group, mode, device, target, and where the target ends.
    let fields = |start: &[u8]| {
        let mut header = start.to_vec();
        for number in [0_u32, 0, 0o100_644, 0] {
            header.extend_from_slice(&number.to_be_bytes());
        }
        header.push(0);
        header.push(u8::try_from(header.len()).expect("a short header"));
        let len = u32::try_from(header.len()).expect("a short header");
        [&len.to_be_bytes()[..], &[0; 4], &header].concat()
    };
    let name = hex(&sha256(&[&fields(&[]), content].concat()));
    let mut bytes = fields(&(content.len() as u64).to_be_bytes());
    let mut blocks = content.chunks(usize::from(block_len)).peekable();
    while let Some(block) = blocks.next() {
        let len = u16::try_from(block.len()).expect("no longer than asked for");
        bytes.push(u8::from(blocks.peek().is_none()));
        bytes.extend_from_slice(&len.to_le_bytes());
        bytes.extend_from_slice(&(!len).to_le_bytes());
        bytes.extend_from_slice(block);
    }
    (format!("objects/{}/{}.filez", &name[..2], &name[2..]), bytes)
}

/// An archive repository.
pub struct Repository {
    path: PathBuf,
}

impl Repository {
    /// An empty one in this folder.
    pub fn make(path: PathBuf) -> Repository {
        fs::create_dir_all(&path).expect("the folder can be made");
        done(&path, &["init", "--mode=archive"]);
        Repository { path }
    }

    /// The one in this folder.
    pub fn open(path: PathBuf) -> Repository {
        Repository { path }
    }

    /// Bytes of the files in one of its folders.
    pub fn bytes(&self, folder: &str) -> u64 {
        let len = |path: String| fs::metadata(self.path.join(path)).expect("it is there").len();
        self.paths(folder).into_iter().map(len).sum()
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Commits `tree` to `branch`; the commit's checksum.
    pub fn commit(&self, branch: &str, tree: &Tree) -> String {
        let dir = temp_dir();
        write(dir.path(), tree);
        let (branch, tree) =
            (format!("--branch={branch}"), format!("--tree=dir={}", dir.path().display()));
        done(&self.path, &["commit", &branch, "--canonical-permissions", &tree])
    }

    /// Makes a static delta to the head of `branch` with these options.
    pub fn delta(&self, branch: &str, options: &[&str]) {
        done(&self.path, &[&["static-delta", "generate", branch], options].concat());
    }

    /// Makes the summary anew.
    pub fn summarise(&self) {
        done(&self.path, &["summary", "--update"]);
    }

    /// The paths of all parts of deltas, below the repository.
    pub fn parts(&self) -> Vec<String> {
        let mut parts = self.paths("deltas");
        parts.retain(|path| !path.ends_with("/superblock"));
        parts
    }

    /// The paths of all superblocks, below the repository.
    pub fn superblocks(&self) -> Vec<String> {
        let mut paths = self.paths("deltas");
        paths.retain(|path| path.ends_with("/superblock"));
        paths
    }

    /// Runs another command of ostree.
    pub fn run(&self, arguments: &[&str]) -> String {
        done(&self.path, arguments)
    }

    /// The commit that `branch` is at.
    pub fn head(&self, branch: &str) -> String {
        done(&self.path, &["rev-parse", branch])
    }

    /// The paths of all objects, below the repository.
    pub fn objects(&self) -> Vec<String> {
        self.paths("objects")
    }

    /// The paths of all files in `folder`, below the repository.
    pub fn paths(&self, folder: &str) -> Vec<String> {
        let mut paths = Vec::new();
        walk(&self.path.join(folder), &mut |path| {
            let path = path.strip_prefix(&self.path).expect("below it");
            paths.push(path.display().to_string());
        });
        paths.sort();
        paths
    }
}

fn walk(dir: &Path, found: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let path = entry.expect("it can be read").path();
        if path.is_dir() {
            walk(&path, found);
        } else {
            found(&path);
        }
    }
}

fn write(dir: &Path, tree: &Tree) {
    for (name, bytes) in tree {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().expect("below dir")).expect("the folder can be made");
        fs::write(path, bytes).expect("disk has room");
    }
}

/// The repository of a host that pulls.
pub struct Host {
    dir: TempDir,
    /// What `http_proxy` is.
    proxy: Option<String>,
}

impl Host {
    /// One whose remote `origin` is at `url`, asked through `proxy`.
    pub fn new(url: &str, proxy: Option<String>) -> Host {
        Host::with(url, proxy, &[])
    }

    /// One with these options of its remote.
    pub fn with(url: &str, proxy: Option<String>, options: &[&str]) -> Host {
        let host = Host { dir: temp_dir(), proxy };
        host.run(&["init", "--mode=bare-user-only"]);
        let add = [&["remote", "add", "--no-sign-verify"], options, &["origin", url]].concat();
        host.run(&add);
        host
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("repo")
    }

    /// Pulls with these arguments; how that went.
    pub fn try_pull(&self, arguments: &[&str]) -> Finished {
        let settings: Vec<_> =
            self.proxy.iter().map(|proxy| ("http_proxy", proxy.clone())).collect();
        ostree(&self.path(), &settings, &[&["pull", "origin"], arguments].concat())
    }

    /// Pulls and fails unless it worked; what it said.
    pub fn pull(&self, arguments: &[&str]) -> String {
        let finished = self.try_pull(arguments);
        assert!(finished.status.success(), "ostree pull {arguments:?}: {}", finished.output);
        finished.output
    }

    /// A command that pulls, for one that is not to run to its end.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = without_proxies(Command::new("ostree"));
        command.args(["pull", "origin"]).args(arguments);
        command.arg(format!("--repo={}", self.path().display()));
        command.envs(self.proxy.iter().map(|proxy| ("http_proxy", proxy)));
        command
    }

    /// Runs another command of ostree.
    pub fn run(&self, arguments: &[&str]) -> String {
        fs::create_dir_all(self.path()).expect("the folder can be made");
        done(&self.path(), arguments)
    }

    /// Fails unless `branch` is `commit` and holds exactly `tree`.
    pub fn assert_has(&self, branch: &str, commit: &str, tree: &Tree) {
        assert_eq!(self.run(&["rev-parse", &format!("origin:{branch}")]), commit);
        self.run(&["fsck", "--quiet"]);
        let dir = temp_dir();
        let out = dir.path().join("out");
        self.run(&["checkout", "-U", &format!("origin:{branch}"), &out.display().to_string()]);
        let mut found = Tree::new();
        walk(&out, &mut |path| {
            let name = path.strip_prefix(&out).expect("below it").display().to_string();
            found.insert(name, fs::read(path).expect("it can be read"));
        });
        assert!(found == *tree, "the host has other files");
    }
}
