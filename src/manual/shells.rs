//! Completions for bash, zsh and fish.

use std::fmt::Write as _;

use crate::base::args::Opt;
use crate::process::Command;

use super::TEXTS;

/// The script for `shell`: fish for what is neither bash nor zsh.
pub(super) fn script(commands: &[Command], shell: &str) -> String {
    match shell {
        "bash" => bash(commands),
        "zsh" => zsh(commands),
        _ => fish(commands),
    }
}

/// What a value can be completed to.
enum Values {
    /// Any file.
    Files,
    /// Any folder.
    Folders,
    /// One of these.
    Words(Vec<&'static str>),
    /// Only its user knows.
    Unknown,
}

/// Told by what stands for the value in the help.
fn values(opt: &Opt) -> Values {
    match opt.value {
        "FILE" => Values::Files,
        "DIR" => Values::Folders,
        "FILTER" => Values::Words(vec!["error", "warn", "info", "debug", "trace"]),
        words if words.contains('|') => Values::Words(words.split('|').collect()),
        _ => Values::Unknown,
    }
}

/// The words of a text command that can be completed to.
fn words(text: &super::Text) -> Vec<&'static str> {
    text.words.iter().copied().filter(|word| !word.is_empty()).collect()
}

/// All commands, with what each is.
fn names(commands: &[Command]) -> impl Iterator<Item = (&'static str, &'static str)> {
    let running = commands.iter().map(|command| (command.name, command.about));
    running.chain(TEXTS.iter().map(|text| (text.name, text.about)))
}

fn bash(commands: &[Command]) -> String {
    let mut text = "# Completions for bash, made by `torrent-cache completions bash`.\n\
        _torrent_cache() {\n    \
        local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} words=\n    \
        local command=${COMP_WORDS[1]}\n    \
        COMPREPLY=()\n    \
        # In --option=value the sign is a word of its own.\n    \
        if [[ $cur == = ]]; then\n        cur=\n    \
        elif [[ $prev == = ]]; then\n        prev=${COMP_WORDS[COMP_CWORD - 2]}\n    fi\n    \
        if [[ $command == environment ]]; then\n        command=${COMP_WORDS[2]}\n    fi\n    \
        case $COMP_CWORD:${COMP_WORDS[1]}:$command:$prev in\n"
        .to_owned();
    let all: Vec<_> = names(commands).map(|(name, _)| name).collect();
    let mut case = |pattern: &str, act: &str| {
        let _ = writeln!(text, "        {pattern})\n            {act}\n            ;;");
    };
    case("1:*", &format!("words='{} --help --version'", all.join(" ")));
    for text in TEXTS {
        case(&format!("2:{}:*", text.name), &format!("words='{}'", words(text).join(" ")));
    }
    for command in commands {
        let name = command.name;
        let pattern = |opt: &Opt| format!("*:*:{name}:{}", opt.flag());
        for opt in command.options.iter().filter(|opt| !opt.value.is_empty()) {
            match values(opt) {
                Values::Files => case(&pattern(opt), "_torrent_cache_paths -f \"$cur\""),
                Values::Folders => case(&pattern(opt), "_torrent_cache_paths -d \"$cur\""),
                Values::Words(all) => case(&pattern(opt), &format!("words='{}'", all.join(" "))),
                Values::Unknown => case(&pattern(opt), "return"),
            }
        }
        let flags: Vec<_> = command.options.iter().map(Opt::flag).collect();
        case(&format!("*:*:{name}:*"), &format!("words='{} --help'", flags.join(" ")));
    }
    text.push_str(
        "    esac\n    \
        if [[ -n $words ]]; then\n        \
        mapfile -t COMPREPLY < <(compgen -W \"$words\" -- \"$cur\")\n    fi\n}\n\
        _torrent_cache_paths() {\n    \
        mapfile -t COMPREPLY < <(compgen \"$1\" -- \"$2\")\n    \
        # Refused outside of a completion only.\n    \
        compopt -o filenames 2>/dev/null\n}\n\
        complete -F _torrent_cache torrent-cache\n",
    );
    text
}

/// A command whose flags follow its name.
const ZSH_ENVIRONMENT: &str = "        environment)
            if (( CURRENT == 2 )); then
                compadd WORDS
            else
                shift words
                (( CURRENT-- ))
                (( $+functions[_torrent-cache-$words[1]] )) && _torrent-cache-$words[1]
            fi
            ;;
";

fn zsh(commands: &[Command]) -> String {
    let mut text = "#compdef torrent-cache\n\
        # Completions for zsh, made by `torrent-cache completions zsh`.\n\
        _torrent-cache() {\n    \
        local context state state_descr line\n    \
        typeset -A opt_args\n    \
        _arguments -C '(- *)'{-h,--help}'[print the commands]' \\\n        \
        '(- *)'{-V,--version}'[print the version]' \\\n        \
        '1: :->command' '*:: :->arguments' && return\n    \
        case $state in\n    command)\n        local -a commands=(\n"
        .to_owned();
    for (name, about) in names(commands) {
        let _ = writeln!(text, "            {}", quoted(&format!("{name}:{about}")));
    }
    text.push_str(
        "        )\n        _describe command commands\n        ;;\n    arguments)\n        \
        case $words[1] in\n",
    );
    for command in commands {
        let _ = writeln!(text, "        {0}) _torrent-cache-{0} ;;", command.name);
    }
    for words_of in TEXTS {
        let (name, all) = (words_of.name, words(words_of).join(" "));
        if name == "environment" {
            text.push_str(&ZSH_ENVIRONMENT.replace("WORDS", &all));
        } else {
            let _ = writeln!(text, "        {name}) (( CURRENT == 2 )) && compadd {all} ;;");
        }
    }
    text.push_str("        esac\n        ;;\n    esac\n}\n");
    for command in commands {
        let _ = write!(text, "_torrent-cache-{}() {{\n    _arguments", command.name);
        for opt in command.options {
            let _ = write!(text, " \\\n        {}", quoted(&zsh_option(opt)));
        }
        text.push_str(" \\\n        '(- *)'{-h,--help}'[print the options]'\n}\n");
    }
    text.push_str(
        "if [[ $funcstack[1] == _torrent-cache ]]; then\n    _torrent-cache \"$@\"\nelse\n    \
        compdef _torrent-cache torrent-cache\nfi\n",
    );
    text
}

/// One specification for `_arguments`.
fn zsh_option(opt: &Opt) -> String {
    let help = opt.help.replace('\\', "\\\\").replace(['[', ']'], "").replace(':', "\\:");
    if opt.value.is_empty() {
        return format!("{}[{help}]", opt.flag());
    }
    let act = match values(opt) {
        Values::Files => "_files".to_owned(),
        Values::Folders => "_files -/".to_owned(),
        Values::Words(all) => format!("({})", all.join(" ")),
        Values::Unknown => " ".to_owned(),
    };
    let value = opt.value.to_lowercase();
    format!("{}=[{help}]:{value}:{act}", opt.flag())
}

fn fish(commands: &[Command]) -> String {
    let mut text = "# Completions for fish, made by `torrent-cache completions fish`.\n\
        complete -c torrent-cache -f\n\
        complete -c torrent-cache -n __fish_use_subcommand -s h -l help -d 'Print the commands'\n\
        complete -c torrent-cache -n __fish_use_subcommand -s V -l version -d 'Print the version'\n"
        .to_owned();
    for (name, about) in names(commands) {
        let about = quoted(about);
        let _ = writeln!(
            text,
            "complete -c torrent-cache -n __fish_use_subcommand -a {name} -d {about}"
        );
    }
    for words_of in TEXTS {
        let all = words(words_of).join(" ");
        let _ = writeln!(
            text,
            "complete -c torrent-cache -n '__fish_seen_subcommand_from {}; \
            and not __fish_seen_subcommand_from {all}' -a '{all}'",
            words_of.name
        );
    }
    let others: Vec<_> =
        TEXTS.iter().map(|text| text.name).filter(|n| *n != "environment").collect();
    for command in commands {
        let condition = format!(
            "'__fish_seen_subcommand_from {}; and not __fish_seen_subcommand_from {}'",
            command.name,
            others.join(" ")
        );
        for opt in command.options {
            let flag = opt.flag();
            let name = flag.trim_start_matches('-');
            let value = match values(opt) {
                _ if opt.value.is_empty() => String::new(),
                Values::Files => " -r -F".to_owned(),
                Values::Folders => " -x -a '(__fish_complete_directories)'".to_owned(),
                Values::Words(all) => format!(" -x -a '{}'", all.join(" ")),
                Values::Unknown => " -x".to_owned(),
            };
            let help = quoted(opt.help);
            let _ = writeln!(
                text,
                "complete -c torrent-cache -n {condition} -l {name}{value} -d {help}"
            );
        }
        let _ = writeln!(
            text,
            "complete -c torrent-cache -n {condition} -s h -l help -d 'Print the options'"
        );
    }
    text
}

/// In single quotes, for zsh and fish, which both take `'\''` for one within.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_told_by_what_stands_for_them() {
        let opt = |value| Opt::new("X", value, "", "X.");
        assert!(matches!(values(&opt("FILE")), Values::Files));
        assert!(matches!(values(&opt("DIR")), Values::Folders));
        assert!(matches!(values(&opt("PORT")), Values::Unknown));
        assert!(matches!(values(&opt("a|b")), Values::Words(words) if words == ["a", "b"]));
    }

    #[test]
    fn quotes_and_brackets_of_a_help_text_end_nothing() {
        assert_eq!(quoted("etcd's"), "'etcd'\\''s'");
        let opt = Opt::new("X", "FILE", "", "A [b]: c.");
        assert_eq!(zsh_option(&opt), "--x=[A b\\: c.]:file:_files");
    }
}
