//! A file with every variable of a command, as systemd (`EnvironmentFile=`) and container engines
//! (`--env-file`) read it.

use std::ffi::OsString;

use crate::base::args::{self, Opt, Parsed, UsageError};
use crate::process::Command;

/// The file of the command `name`: each option as a comment with its default, those that `flags`
/// give as they are given.
pub(super) fn file(
    commands: &[Command],
    name: &str,
    flags: Vec<OsString>,
) -> Result<String, UsageError> {
    let Some(command) = commands.iter().find(|command| command.name == name) else {
        return Err(UsageError(format!("no such command: {name}")));
    };
    // The environment of the one who makes the file is not meant.
    let Parsed::Run(values) = args::parse(command.options, flags, |_| None)? else {
        return Err(UsageError("only options that the file is to set may follow".to_owned()));
    };
    let mut text = format!(
        "# The options of `torrent-cache {name}`, as variables. Those behind a # have the value\n\
         # that is shown; one without a value is not set, and a switch is on with any value.\n"
    );
    for opt in command.options {
        text.push_str(&format!("\n# {}\n", opt.help));
        match values.text(opt.name)?.filter(|_| values.is_given(opt.name)) {
            Some(value) => text.push_str(&assignment(opt, &value)?),
            None if opt.value.is_empty() => text.push_str(&format!("#{}=1\n", opt.name)),
            None => text.push_str(&format!("#{}={}\n", opt.name, opt.default)),
        }
    }
    Ok(text)
}

/// A line that sets `opt`. Only a value that systemd would read differently is quoted: container
/// engines take quotes for a part of it.
fn assignment(opt: &Opt, value: &str) -> Result<String, UsageError> {
    if value.contains(['\n', '\r']) {
        return Err(UsageError(format!("{}: a line break cannot stand in the file", opt.name)));
    }
    let plain = |c: char| !c.is_whitespace() && !"\"'\\`$#;".contains(c);
    if value.chars().all(plain) {
        return Ok(format!("{}={value}\n", opt.name));
    }
    let mut quoted = String::new();
    for c in value.chars() {
        if "\"\\`$".contains(c) {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    Ok(format!("{}=\"{quoted}\"\n", opt.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMAND: Command = Command {
        options: &[
            Opt::new("PORT", "PORT", "8888", "Port."),
            Opt::switch("NO_SSL", "Plain only."),
            Opt::new("PASSWORD", "TEXT", "", "Secret.").secret(),
        ],
        ..Command::EMPTY
    };

    fn made(flags: &[&str]) -> Result<String, UsageError> {
        file(&[COMMAND], COMMAND.name, flags.iter().map(Into::into).collect())
    }

    #[test]
    fn every_option_stands_there_and_given_ones_are_set() {
        let text = made(&[]).expect("a file");
        let lines: Vec<_> = text.lines().filter(|line| line.contains('=')).collect();
        assert_eq!(lines, ["#PORT=8888", "#NO_SSL=1", "#PASSWORD="]);
        assert!(text.contains("\n# Plain only.\n#NO_SSL=1\n"));
        let text = made(&["--port", "1", "--no-ssl", "--password=a b\"$"]).expect("a file");
        let lines: Vec<_> = text.lines().filter(|line| line.contains('=')).collect();
        assert_eq!(lines, ["PORT=1", "NO_SSL=1", "PASSWORD=\"a b\\\"\\$\""]);
    }

    #[test]
    fn what_no_file_can_say_is_refused() {
        assert!(made(&["--password", "a\nPORT=1"]).is_err());
        assert!(made(&["--help"]).is_err());
        assert!(made(&["--no-such"]).is_err());
    }
}
