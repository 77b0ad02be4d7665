//! What the program leaves on disk is what its tables say, which are in its manual.

use std::fs;
use std::path::Path;

use torrent_cache::COMMANDS;
use torrent_cache::process::Command;

use crate::support::network::Network;
use crate::support::torrent_cache::Program;

/// All files below `dir`.
fn files(dir: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the folder can be read") {
        let path = entry.expect("the folder can be read").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path.to_str().expect("our names are ASCII").to_owned());
        }
    }
    found
}

/// Whether `path` is one that `row` stands for: words in capitals stand for anything.
fn matches(row: &str, path: &str) -> bool {
    let part = |(row, part): (&str, &str)| {
        row == part || row.bytes().all(|byte| byte.is_ascii_uppercase())
    };
    let parts = |text: &str| text.matches(['/', '.']).count();
    parts(row) == parts(path) && row.split(['/', '.']).zip(path.split(['/', '.'])).all(part)
}

fn command(name: &str) -> &'static Command {
    COMMANDS.iter().find(|command| command.name == name).expect("a command")
}

/// Fails unless the table of the command has a row for each file below the storage of `program`.
fn assert_listed(command: &Command, program: &Program) -> usize {
    let storage = program.option("STORAGE");
    let found = files(Path::new(storage));
    for file in &found {
        let path = file.replacen(storage, "STORAGE", 1);
        let mut rows = command.files.iter().copied().flatten();
        let listed = rows.any(|(row, _)| {
            matches(row, &path) || (*row == "STORAGE/etcd" && path.starts_with("STORAGE/etcd/"))
        });
        assert!(listed, "{path} is not in the table");
    }
    found.len()
}

#[test]
fn every_file_on_disk_is_in_the_table() {
    let network = Network::start(60, &[1 << 20]);
    let client = network.client("client", &[]);
    network.pull_through(&client);
    network.wait_until_published(&client);
    client.wait_until_synced();
    // The lock, and two files for each blob.
    let blobs = usize::try_from(network.image.blob_count()).expect("a few");
    assert!(assert_listed(command("client"), &client) > 2 * blobs);
    assert!(assert_listed(command("tracker"), &network.tracker) > 0);
}

#[test]
fn a_row_stands_for_its_files_only() {
    assert!(matches("STORAGE/torrents/BLOB.INFOHASH.torrent", "STORAGE/torrents/a-1.2.torrent"));
    assert!(!matches("STORAGE/torrents/BLOB.INFOHASH.torrent", "STORAGE/torrents/a-1.torrent"));
    assert!(!matches("STORAGE/blobs/BLOB", "STORAGE/blob/a"));
    assert!(!matches("STORAGE/blobs/BLOB", "STORAGE/blobs/a/b"));
}
