//! The rules about everything that is not code.

use torrent_cache::base::args::Opt;
use torrent_cache::base::metrics::{Metric, Series};

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

/// Where the tables are that are held against the program.
const REFERENCE: &str = "docs/reference.md";

/// Where lines of the log are quoted.
const TROUBLESHOOTING: &str = "docs/troubleshooting.md";

/// What stands in `page` between `heading` and the next one.
fn section<'a>(page: &'a str, heading: &str) -> &'a str {
    let found = page.split("\n#").find(|section| {
        section.trim_start_matches('#').trim_start().starts_with(&format!("{heading}\n"))
    });
    found.unwrap_or_default()
}

/// The section of the reference under `heading` has exactly the rows `wanted`.
fn rows(reference: &str, heading: &str, wanted: &[String]) -> Vec<Finding> {
    let section = section(reference, heading).lines();
    let rows: Vec<_> = section.filter(|line| line.starts_with("| `")).collect();
    let missing = wanted.iter().filter(|row| !rows.contains(&row.as_str()));
    let stale = rows.iter().filter(|row| !wanted.iter().any(|wanted| wanted == *row));
    let missing = missing.map(|row| format!("no row under {heading}: {row}"));
    let stale = stale.map(|row| format!("stale under {heading}: {row}"));
    missing.chain(stale).map(|what| Finding::new(REFERENCE, 1, what)).collect()
}

/// The row of a metric: its name, its labels with all their values, its meaning.
fn metric_row(metric: &Metric) -> String {
    let mut labels = String::new();
    for series in metric.series {
        let (Series::Counter(text, _) | Series::Gauge(text, _)) = series;
        if let Some((label, value)) = text.split_once('=') {
            let before = if labels.is_empty() { format!("{label}:") } else { ",".to_owned() };
            labels.push_str(&format!("{before} `{}`", value.trim_matches('"')));
        }
    }
    format!("| `{}` | {labels} | {} |", metric.name, metric.help)
}

/// A row of two columns.
fn pair_row(name: &dyn std::fmt::Display, what: &str) -> String {
    format!("| `{name}` | {what} |")
}

/// Each line of the log that `page` quotes stands in one of `sources`: those behind a `>`, and
/// those of the table under "Its log".
fn quotes(page: &str, sources: &[(String, String)]) -> Vec<Finding> {
    let quoted = page.lines().filter_map(|line| line.strip_prefix("> "));
    let table = section(page, "Its log").lines().filter_map(|line| line.strip_prefix("| `"));
    let table = table.filter_map(|line| line.split('`').next());
    let all = quoted.chain(table);
    let gone = all.filter(|quote| !sources.iter().any(|(_, text)| text.contains(quote)));
    gone.map(|quote| Finding::new(TROUBLESHOOTING, 1, format!("nobody says: {quote}"))).collect()
}

/// Every metric that a page names is one of `known`.
fn named_metrics((path, text): &(String, String), known: &[&str]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let words = line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        for word in words.filter(|word| word.starts_with("torrent_cache_")) {
            if !known.contains(&word) {
                findings.push(Finding::new(path, index + 1, format!("no such metric: {word}")));
            }
        }
    }
    findings
}

/// Every link of a page to another place of the tree leads somewhere, and every page in `docs` is
/// linked from the README.
fn links(pages: &[(String, String)], exists: impl Fn(&str) -> bool) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut from_readme = Vec::new();
    for (path, text) in pages {
        let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
        for (index, line) in text.lines().enumerate() {
            for link in line.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if link.contains("://") {
                    continue;
                }
                let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
                let file = if file.is_empty() { path.clone() } else { resolve(folder, file) };
                let page = pages.iter().find(|(other, _)| *other == file);
                let found = match page {
                    Some((_, text)) => anchor.is_empty() || anchors(text).any(|a| a == anchor),
                    None => anchor.is_empty() && exists(&file),
                };
                if !found {
                    findings.push(Finding::new(path, index + 1, format!("leads nowhere: {link}")));
                }
                if path == "README.md" {
                    from_readme.push(file);
                }
            }
        }
    }
    let docs = pages.iter().filter(|(path, _)| path.starts_with("docs/"));
    for (path, _) in docs.filter(|(path, _)| !from_readme.contains(path)) {
        findings.push(Finding::new(path, 1, "is not linked from the README"));
    }
    findings
}

/// `link` of a page in `folder`, seen from the root of the tree.
fn resolve(folder: &str, link: &str) -> String {
    let mut parts: Vec<_> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in link.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// The anchors that headings of a page get where it is shown.
fn anchors(page: &str) -> impl Iterator<Item = String> {
    let headings = page.lines().filter(|line| line.starts_with('#'));
    headings.map(|line| {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    })
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

    use torrent_cache::COMMANDS;
    use torrent_cache::base::figures;
    use torrent_cache::manual::TEXTS;
    use torrent_cache::process::EXIT_STATUSES;

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
    fn the_reference_has_every_option_metric_file_and_exit_status() {
        let reference = text(REFERENCE);
        let mut findings = Vec::new();
        for command in COMMANDS {
            let options: Vec<_> = command.options.iter().map(row).collect();
            let name = format!("torrent-cache {}", command.name);
            findings.extend(rows(&reference, &name, &options));
            let files = command.files.iter().copied().flatten();
            let files: Vec<_> = files.map(|(path, what)| pair_row(path, what)).collect();
            findings.extend(rows(&reference, &format!("Files of {name}"), &files));
        }
        let metrics: Vec<_> = figures::ALL.iter().map(metric_row).collect();
        findings.extend(rows(&reference, "Metrics", &metrics));
        let statuses = EXIT_STATUSES.iter();
        let statuses: Vec<_> = statuses.map(|(status, what)| pair_row(status, what)).collect();
        findings.extend(rows(&reference, "Exit statuses", &statuses));
        let texts = TEXTS.iter().map(|text| {
            let usage = text.usage().replace('|', "\\|");
            let what = text.about.strip_prefix("Prints ").expect("it says what it prints");
            let what = what[..1].to_uppercase() + &what[1..];
            pair_row(&format!("torrent-cache {} {usage}", text.name), &what)
        });
        findings.extend(rows(&reference, "Commands that print", &texts.collect::<Vec<_>>()));
        none(&findings);
    }

    #[test]
    fn lines_that_are_quoted_are_logged() {
        let sources = files(|path| path.starts_with("src/"));
        none(&quotes(&text(TROUBLESHOOTING), &sources));
    }

    #[test]
    fn metrics_that_are_named_exist() {
        let known: Vec<_> = figures::ALL.iter().map(|metric| metric.name).collect();
        let pages = files(|path| path == "README.md" || path.starts_with("docs/"));
        none(&pages.iter().flat_map(|page| named_metrics(page, &known)).collect::<Vec<_>>());
    }

    #[test]
    fn links_lead_somewhere() {
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let pages = files(|path| path.ends_with(".md"));
        none(&links(&pages, |path| root.join(path).exists()));
    }

    #[test]
    fn the_tree_speaks_of_itself_only() {
        let files = files(|path| path != "Cargo.lock" && path != "fuzz/Cargo.lock");
        none(&files.iter().flat_map(foreign_words).collect::<Vec<_>>());
    }
}

mod snippets {
    //! Each rule finds what it is for.

    use torrent_cache::base::metrics::Counter;

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
    fn a_row_of_a_metric_has_its_labels() {
        static COUNTER: Counter = Counter::new();
        let series: &[Series] =
            &[Series::Counter("to=\"client\"", &COUNTER), Series::Counter("to=\"peer\"", &COUNTER)];
        const PLAIN: Metric = Metric { name: "x_total", help: "Xs.", series: &[] as &[Series] };
        assert_eq!(metric_row(&PLAIN), "| `x_total` |  | Xs. |");
        let labelled = Metric { name: "y_total", help: "Ys.", series: Box::leak(series.into()) };
        assert_eq!(metric_row(&labelled), "| `y_total` | to: `client`, `peer` | Ys. |");
    }

    #[test]
    fn undocumented_and_stale_rows_are_found() {
        let opts =
            [Opt::new("A_B", "X", "1", "What."), Opt::switch("C", "Which.")].map(|o| row(&o));
        let good = "# t\n\n### cmd\n\n| `A_B` | `--a-b X` | `1` | What. |\n\
            | `C` | `--c` |  | Which. |\n\n## end\n\n| `D` | `--d` |  | Elsewhere. |\n";
        assert_eq!(rows(good, "cmd", &opts), []);
        assert_eq!(rows(good, "other", &opts).len(), 2);
        assert_eq!(rows(&good.replace("`1`", "`2`"), "cmd", &opts).len(), 2);
        assert_eq!(rows(good, "cmd", &opts[1..]).len(), 1);
    }

    #[test]
    fn quotes_of_nobody_are_found() {
        let sources = [("src/x.rs".to_owned(), "warn!(\"disk {} is full\")".to_owned())];
        let page = "> disk {} is full\n\n> disk {} is gone\n\n## Its log\n\n| `no {}` | warn |\n";
        assert_eq!(quotes(page, &sources).len(), 2);
    }

    #[test]
    fn metrics_that_are_gone_are_found() {
        let text =
            "rate(torrent_cache_a_total{x=\"y\"}[1h])\n`torrent_cache_b`, torrent_cache=debug";
        let page = ("docs/a.md".to_owned(), text.to_owned());
        let findings = named_metrics(&page, &["torrent_cache_a_total"]);
        assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
    }

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let page = |path: &str, text: &str| (path.to_owned(), text.to_owned());
        let pages = [
            page("README.md", "[a](docs/a.md)\n[b](docs/b.md#two-words)\n[x](https://x.example)"),
            page("docs/a.md", "[up](../README.md), [src](../src)\n[gone](../README.md#gone)"),
            page("docs/b.md", "## Two, words\n[top](#two-words) [bad](c.md)"),
            page("docs/d.md", ""),
        ];
        let findings = links(&pages, |path| path == "src");
        let found: Vec<_> = findings.iter().map(|f| (f.path.as_str(), f.line)).collect();
        assert_eq!(found, [("docs/a.md", 2), ("docs/b.md", 2), ("docs/d.md", 1)]);
    }

    #[test]
    fn foreign_words_are_found() {
        let text = format!("fine\nthis machine has /{}/x\n", ["wo", "rk"].concat());
        let findings = foreign_words(&("README.md".to_owned(), text));
        assert_eq!(findings.iter().map(|finding| finding.line).collect::<Vec<_>>(), [2]);
    }
}
