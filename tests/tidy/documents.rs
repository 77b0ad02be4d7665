//! The rules about everything that is not code.

use torrent_cache::base::args::Opt;
use torrent_cache::base::metrics::Metric;

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

/// Each dependency of `manifest` has its note among `paths`.
fn notes(manifest: &str, paths: &[String]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_dependencies = false;
    for (index, line) in manifest.lines().enumerate() {
        if let Some(section) = line.strip_prefix('[') {
            in_dependencies = section.trim_end_matches(']').ends_with("dependencies");
        } else if in_dependencies && let Some((name, _)) = line.split_once('=') {
            let note = format!("vendor-notes/{}.md", name.trim());
            if !paths.contains(&note) {
                findings.push(Finding::new("Cargo.toml", index + 1, format!("no {note}")));
            }
        }
    }
    findings
}

/// Each metric has a row in the README with its name and its meaning.
fn metrics(readme: &str, metrics: &[Metric]) -> Vec<Finding> {
    let rows = |metric: &&Metric| {
        let (start, end) = (format!("| `{}` |", metric.name), format!("| {} |", metric.help));
        !readme.lines().any(|line| line.starts_with(&start) && line.ends_with(&end))
    };
    let missing = metrics.iter().filter(rows);
    missing.map(|metric| Finding::new("README.md", 1, format!("no row: {}", metric.name))).collect()
}

/// The section of the README under `heading` has exactly the rows that follow from `options`.
fn options(readme: &str, heading: &str, options: &[Opt]) -> Vec<Finding> {
    let section = readme.split("\n#").find(|section| {
        section.trim_start_matches('#').trim_start().starts_with(&format!("{heading}\n"))
    });
    let rows: Vec<_> =
        section.unwrap_or_default().lines().filter(|l| l.starts_with("| `")).collect();
    let wanted: Vec<_> = options.iter().map(row).collect();
    let missing = wanted.iter().filter(|row| !rows.contains(&row.as_str()));
    let stale = rows.iter().filter(|row| !wanted.iter().any(|wanted| wanted == *row));
    let missing = missing.map(|row| format!("no row under {heading}: {row}"));
    let stale = stale.map(|row| format!("no such option under {heading}: {row}"));
    missing.chain(stale).map(|what| Finding::new("README.md", 1, what)).collect()
}

fn row(opt: &Opt) -> String {
    let space = if opt.value.is_empty() { "" } else { " " };
    let default = match opt.default {
        "" => String::new(),
        default => format!("`{default}`"),
    };
    let (name, flag, value, help) = (opt.name, opt.flag(), opt.value, opt.help);
    // A bar within a cell would end it.
    let value = value.replace('|', "\\|");
    format!("| `{name}` | `{flag}{space}{value}` | {default} | {help} |")
}

mod tree {
    //! The rules, run on the tree.

    use torrent_cache::{base::figures, client, tracker_cmd};

    use super::*;
    use crate::{files, none};

    fn text(path: &str) -> String {
        let (_, text) = files(|found| found == path).pop().expect("the tree has such a file");
        text
    }

    #[test]
    fn dependencies_have_notes() {
        let notes_there = files(|path| path.starts_with("vendor-notes/"));
        let paths: Vec<_> = notes_there.into_iter().map(|(path, _)| path).collect();
        none(&notes(&text("Cargo.toml"), &paths));
    }

    #[test]
    fn metrics_are_in_the_readme() {
        none(&metrics(&text("README.md"), figures::ALL));
    }

    #[test]
    fn options_are_in_the_readme() {
        let readme = text("README.md");
        none(&options(&readme, "torrent-cache client", client::OPTIONS));
        none(&options(&readme, "torrent-cache tracker", tracker_cmd::OPTIONS));
    }

    #[test]
    fn the_tree_speaks_of_itself_only() {
        let files = files(|path| path != "Cargo.lock" && path != "fuzz/Cargo.lock");
        none(&files.iter().flat_map(foreign_words).collect::<Vec<_>>());
    }
}

mod snippets {
    //! Each rule finds what it is for.

    use torrent_cache::base::metrics::Series;

    use super::*;

    #[test]
    fn dependencies_without_notes_are_found() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\n# why\na = \"1\"\nb = {}\n\n\
            [dev-dependencies]\nc-d = \"1\"\n[lints]\ne = 1\n";
        let paths = ["vendor-notes/a.md".to_owned()];
        let lines = notes(manifest, &paths).iter().map(|finding| finding.line).collect::<Vec<_>>();
        assert_eq!(lines, [6, 9]);
    }

    #[test]
    fn undocumented_metrics_are_found() {
        const METRIC: Metric = Metric { name: "x_total", help: "Xs.", series: &[] as &[Series] };
        assert_eq!(metrics("| `x_total` | any | Xs. |", &[METRIC]), []);
        assert_eq!(metrics("| `x_total` | any | Ys. |\n`x_total` Xs.", &[METRIC]).len(), 1);
    }

    #[test]
    fn undocumented_and_stale_options_are_found() {
        let opts = [Opt::new("A_B", "X", "1", "What."), Opt::switch("C", "Which.")];
        let good = "# t\n\n### cmd\n\n| `A_B` | `--a-b X` | `1` | What. |\n\
            | `C` | `--c` |  | Which. |\n\n## end\n\n| `D` | `--d` |  | Elsewhere. |\n";
        assert_eq!(options(good, "cmd", &opts), []);
        assert_eq!(options(good, "other", &opts).len(), 2);
        assert_eq!(options(&good.replace("`1`", "`2`"), "cmd", &opts).len(), 2);
        assert_eq!(options(good, "cmd", &opts[1..]).len(), 1);
    }

    #[test]
    fn foreign_words_are_found() {
        let text = format!("fine\nthis machine has /{}/x\n", ["wo", "rk"].concat());
        let findings = foreign_words(&("README.md".to_owned(), text));
        assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
    }
}
