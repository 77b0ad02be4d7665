//! The rules about everything that is not code.

use crate::Finding;

/// Talk about machines and about how the tree was made, which no reader of it needs. Written in two
/// parts, or this file would be found too.
const FOREIGN: &[&str] = &[
    concat!("/wor", "k/"),
    concat!("/home", "/"),
    concat!("far", "m-"),
    concat!("sub", "agent"),
    concat!("this ", "session"),
];

/// No file speaks of anything but the project itself.
fn foreign_words((path, text): &(String, String)) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let line = line.to_lowercase();
        for word in FOREIGN.iter().filter(|word| line.contains(**word)) {
            findings.push(Finding::new(path, index + 1, format!("says {word}")));
        }
    }
    findings
}

mod tree {
    //! The rules, run on the tree.

    use super::*;
    use crate::{files, none};

    #[test]
    fn the_tree_speaks_of_itself_only() {
        let files = files(|path| path != "Cargo.lock" && path != "fuzz/Cargo.lock");
        none(&files.iter().flat_map(foreign_words).collect::<Vec<_>>());
    }
}

mod snippets {
    //! Each rule finds what it is for.

    use super::*;

    #[test]
    fn foreign_words_are_found() {
        let text = format!("fine\nthis machine has /{}/x\n", ["wo", "rk"].concat());
        let findings = foreign_words(&("README.md".to_owned(), text));
        assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
    }
}
