//! Man pages, completions and environment files, read by the programs that they are for.

use std::fs;
use std::process::Command;

use torrent_cache::COMMANDS;
use torrent_cache::process::EXIT_STATUSES;

use crate::support::process::Process;
use crate::support::temp_dir;
use crate::support::torrent_cache::binary;

/// What `torrent-cache ARGUMENTS` prints.
pub fn printed(arguments: &[&str]) -> String {
    let mut command = Command::new(binary());
    // The variables of whoever runs the tests are no defaults.
    command.args(arguments).env_clear().env("PORT", "1").env("STORAGE", "/elsewhere");
    let finished = Process::run("torrent-cache", command, "");
    assert!(finished.status.success(), "{arguments:?}: {}", finished.output);
    finished.output
}

/// Runs `program` on a file with this text; it must succeed. What it says.
fn read_by(program: &str, package: &str, arguments: &[&str], text: &str) -> String {
    let dir = temp_dir();
    let path = dir.path().join("text");
    fs::write(&path, text).expect("disk has room");
    let mut command = Command::new(program);
    command.args(arguments).arg(&path);
    let finished = Process::run(program, command, package);
    assert!(finished.status.success(), "{program}: {}", finished.output);
    finished.output
}

/// The words of a page as a person sees them, without the breaks of its lines.
fn shown(page: &str) -> String {
    let text = read_by("mandoc", "mandoc", &["-T", "ascii", "-O", "width=70"], page);
    // A terminal writes bold and underlined letters twice.
    let mut plain = String::new();
    for c in text.chars() {
        if c == '\u{8}' {
            plain.pop();
        } else {
            plain.push(c);
        }
    }
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn man_pages_are_complete_and_without_a_warning() {
    for name in ["", "client", "tracker"] {
        let words: Vec<_> = ["man", name].into_iter().filter(|word| !word.is_empty()).collect();
        let page = printed(&words);
        let groff = ["-man", "-Tutf8", "-ww", "-z", "-rCHECKSTYLE=3"];
        assert_eq!(read_by("groff", "groff", &groff, &page), "", "{name}");
        // A page that is made anew has no date, which is all that may be missing.
        let dated = page.replacen(" 1 \"\" ", " 1 \"2000-01-01\" ", 1);
        let lint = ["-T", "lint", "-W", "warning"];
        assert_eq!(read_by("mandoc", "mandoc", &lint, &dated), "", "{name}");
        let shown = shown(&page);
        for (status, meaning) in EXIT_STATUSES {
            assert!(shown.contains(&format!("{status} {meaning}")), "{status}: {shown}");
        }
        match COMMANDS.iter().find(|command| command.name == name) {
            None => assert!(COMMANDS.iter().all(|command| shown.contains(command.about))),
            Some(command) => {
                for opt in command.options {
                    // Backquotes stand for bold.
                    let help = opt.help.replace('`', "");
                    let space = if opt.value.is_empty() { "" } else { " " };
                    let entry = format!("{}{space}{} {help}", opt.flag(), opt.value);
                    assert!(shown.contains(&entry), "{entry}: {shown}");
                    assert!(shown.contains(&format!("Variable: {}.", opt.name)), "{}", opt.name);
                }
                for (path, _) in command.files.iter().copied().flatten() {
                    assert!(shown.contains(path), "{path}: {shown}");
                }
            }
        }
    }
}

#[test]
fn shells_can_read_their_completions() {
    for (shell, package) in [("bash", "bash"), ("zsh", "zsh"), ("fish", "fish")] {
        let script = printed(&["completions", shell]);
        assert_eq!(read_by(shell, package, &["-n"], &script), "", "{shell}");
        for command in COMMANDS {
            for opt in command.options {
                let flag = opt.flag();
                let name = if shell == "fish" { flag.replace("--", "-l ") } else { flag };
                assert!(script.contains(&name), "{shell}: {name}");
            }
        }
    }
}

/// The values of an option that has a few, sorted.
fn offline() -> Vec<&'static str> {
    let options = torrent_cache::client::OPTIONS.iter();
    let value = options.filter(|opt| opt.name == "OFFLINE").map(|opt| opt.value).next();
    let mut words: Vec<_> = value.expect("it is an option").split('|').collect();
    words.sort_unstable();
    assert!(words.len() > 1);
    words
}

/// What bash completes the last of `words` to, sorted.
fn bash_completes(words: &[&str]) -> Vec<String> {
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "{}\nCOMP_WORDS=(torrent-cache {})\nCOMP_CWORD={}\n_torrent_cache\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\"\n",
        printed(&["completions", "bash"]),
        quoted.join(" "),
        words.len(),
    );
    let output = read_by("bash", "bash", &["--norc"], &script);
    let mut lines: Vec<_> =
        output.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    lines.sort();
    lines
}

/// What fish completes the end of `line` to, sorted.
fn fish_completes(line: &str) -> Vec<String> {
    let script = format!("{}\ncomplete -C '{line}'\n", printed(&["completions", "fish"]));
    let output = read_by("fish", "fish", &["--no-config"], &script);
    let mut lines: Vec<_> =
        output.lines().map(|line| line.split('\t').next().unwrap_or_default().to_owned()).collect();
    lines.sort();
    lines
}

#[test]
fn bash_completes_commands_options_and_values() {
    assert_eq!(bash_completes(&["tr"]), ["tracker"]);
    assert_eq!(bash_completes(&["--v"]), ["--version"]);
    assert_eq!(bash_completes(&["completions", ""]), ["bash", "fish", "zsh"]);
    assert_eq!(bash_completes(&["man", "c"]), ["client"]);
    assert_eq!(bash_completes(&["man", "client", "--po"]), [""; 0]);
    assert_eq!(bash_completes(&["client", "--cert"]), ["--certfile"]);
    assert_eq!(bash_completes(&["environment", "tracker", "--no"]), ["--no-etcd"]);
    assert_eq!(bash_completes(&["client", "--offline", ""]), offline());
    assert_eq!(bash_completes(&["client", "--offline", "=", "a"]), ["allow"]);
    assert_eq!(bash_completes(&["client", "--offline", "="]), offline());
    assert_eq!(bash_completes(&["client", "--port", "--"]), [""; 0]);
    let dir = temp_dir();
    let folder = dir.path().join("two words");
    fs::create_dir(&folder).expect("disk has room");
    fs::write(dir.path().join("two.pem"), "").expect("disk has room");
    let prefix = format!("{}/tw", dir.path().display());
    let folder = folder.to_str().expect("temporary names are UTF-8");
    assert_eq!(bash_completes(&["client", "--storage", &prefix]), [folder]);
    let file = format!("{prefix}o.pem");
    assert_eq!(bash_completes(&["client", "--ca", "=", &prefix]), [folder, file.as_str()]);
}

#[test]
fn fish_completes_commands_options_and_values() {
    assert_eq!(fish_completes("torrent-cache tr"), ["tracker"]);
    assert_eq!(fish_completes("torrent-cache completions "), ["bash", "fish", "zsh"]);
    assert_eq!(fish_completes("torrent-cache client --cert"), ["--certfile"]);
    assert_eq!(fish_completes("torrent-cache man client --cert"), [""; 0]);
    assert_eq!(fish_completes("torrent-cache environment tracker --no"), ["--no-etcd"]);
    assert_eq!(fish_completes("torrent-cache client --offline "), offline());
}

/// What zsh offers for `line`, as it stands on a terminal.
fn zsh_offers(line: &str) -> String {
    let dir = temp_dir();
    fs::write(dir.path().join("_torrent-cache"), printed(&["completions", "zsh"]))
        .expect("disk has room");
    let script = format!(
        "zmodload zsh/zpty\nzpty shell zsh -f -i\n\
         zpty -w shell \"PROMPT=; cd {0}; fpath=({0} \\$fpath); autoload -Uz compinit\"\n\
         zpty -w shell \"compinit -u -d {0}/dump; setopt list_packed; LISTMAX=0; print re''ady\"\n\
         zpty -r shell seen '*ready*'\n\
         zpty -w -n shell $'{line}\\t\\t'\n\
         zpty -w -n shell $'\\C-a\\C-k print do\\'\\'ne\\n'\n\
         zpty -r shell seen '*done*'\nprint -r -- $seen\n",
        dir.path().display()
    );
    read_by("zsh", "zsh", &["-f"], &script)
}

#[test]
fn zsh_completes_commands_options_and_values() {
    for (line, offered) in [
        ("torrent-cache tr", "tracker"),
        ("torrent-cache completions f", "fish"),
        ("torrent-cache client --cert", "--certfile"),
        ("torrent-cache environment tracker --no-", "--no-etcd"),
        ("torrent-cache client --offline=g", "granted"),
    ] {
        let seen = zsh_offers(line);
        assert!(seen.contains(offered), "{line}: {seen}");
    }
}

#[test]
fn environment_files_list_every_option_with_its_default() {
    for command in COMMANDS {
        let text = printed(&["environment", command.name]);
        let found: Vec<_> = text.lines().filter_map(|line| line.strip_prefix('#')).collect();
        let found: Vec<_> = found.iter().filter(|line| !line.starts_with(' ')).collect();
        let wanted = command.options.iter().map(|opt| match opt.value {
            "" => format!("{}=1", opt.name),
            _ => format!("{}={}", opt.name, opt.default),
        });
        assert!(found.iter().copied().copied().eq(wanted), "{text}");
        assert!(command.options.iter().all(|opt| text.contains(opt.help)), "{text}");
    }
}
