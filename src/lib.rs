#![doc = include_str!("ARCHITECTURE.md")]

use std::ffi::OsString;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use crate::base::args::{self, Parsed, UsageError};
use crate::base::thread::PANIC_STATUS;
use crate::manual::TEXTS;
use crate::process::{Command, Failure};

pub mod base;
pub mod catalog;
pub mod client;
pub mod engine;
pub mod fetch;
pub mod http;
pub mod limits;
pub mod manual;
pub mod net;
pub mod process;
pub mod proto;
pub mod store;
pub mod swarm;
pub mod tracker;
pub mod tracker_cmd;
pub mod upstream;

/// The commands that run until they are stopped.
pub const COMMANDS: &[Command] = &[
    Command {
        name: "client",
        about: "The HTTP(S) proxy and registry mirror of a host; it shares blobs with other hosts.",
        description: client::DESCRIPTION,
        options: client::OPTIONS,
        files: client::FILES,
        examples: client::EXAMPLES,
        run: client::run,
    },
    Command {
        name: "tracker",
        about: "The BitTorrent tracker of a network, and the etcd that holds its catalog.",
        description: tracker_cmd::DESCRIPTION,
        options: tracker_cmd::OPTIONS,
        files: tracker_cmd::FILES,
        examples: tracker_cmd::EXAMPLES,
        run: tracker_cmd::run,
    },
];

/// Runs the program with `args` (without the program's own name) and returns its exit status, one
/// of [`process::EXIT_STATUSES`].
#[must_use]
pub fn run(args: Vec<OsString>) -> ExitCode {
    let ended = catch_unwind(AssertUnwindSafe(|| dispatch(args))).ok();
    if let Some(Err(failure)) = &ended {
        // Standard error may be closed; there is nowhere else to say it.
        let _ = writeln!(std::io::stderr(), "torrent-cache: {failure}");
    }
    ExitCode::from(status(&ended))
}

/// `None`: the main thread has panicked, which is one that the others need.
fn status(ended: &Option<Result<(), Failure>>) -> u8 {
    match ended {
        Some(Ok(())) => 0,
        Some(Err(failure)) => failure.status(),
        None => PANIC_STATUS,
    }
}

fn dispatch(args: Vec<OsString>) -> Result<(), Failure> {
    let mut args = args.into_iter();
    let Some(word) = args.next() else {
        return Err(usage(&format!("no command: {}", known())));
    };
    match word.to_str() {
        Some("--help" | "-h" | "help") => return print(&help()),
        Some("--version" | "-V") => return print(&version()),
        _ => {}
    }
    if let Some(text) = TEXTS.iter().find(|text| *text.name == *word) {
        let args: Vec<_> = args.collect();
        return match args.first().and_then(|first| first.to_str()) {
            Some("--help" | "-h") => print(&text_help(text)),
            _ => print(&text.print(COMMANDS, args)?),
        };
    }
    let Some(command) = COMMANDS.iter().find(|command| *command.name == *word) else {
        return Err(usage(&format!("unknown command {}: {}", word.to_string_lossy(), known())));
    };
    match args::parse(command.options, args.collect(), |name| std::env::var_os(name))? {
        Parsed::Help => print(&command_help(command)),
        Parsed::Run(values) => (command.run)(values),
    }
}

/// What could stand in the place of the command.
fn known() -> String {
    let commands = COMMANDS.iter().map(|command| command.name);
    let names: Vec<_> = commands.chain(TEXTS.iter().map(|text| text.name)).collect();
    format!("one of {}, or --help", names.join(", "))
}

fn usage(text: &str) -> Failure {
    Failure::Usage(UsageError(text.to_owned()))
}

/// A reader that closes early, such as `head`, is no failure of ours.
fn print(text: &str) -> Result<(), Failure> {
    let _ = std::io::stdout().write_all(text.as_bytes());
    Ok(())
}

fn version() -> String {
    concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"), "\n").to_owned()
}

fn help() -> String {
    let mut text = version();
    text.push_str(concat!(env!("CARGO_PKG_DESCRIPTION"), ".\n\n"));
    text.push_str("Usage: torrent-cache COMMAND [OPTION...]\n\nCommands:\n");
    for command in COMMANDS {
        text.push_str(&format!("  {:11} {}\n", command.name, command.about));
    }
    for made in TEXTS {
        text.push_str(&format!("  {:11} {}\n", made.name, made.about));
    }
    text.push_str(
        "\nEvery option is a flag and an environment variable; the flag wins.\n\
         `torrent-cache COMMAND --help` lists the options of a command.\n",
    );
    text
}

fn command_help(command: &Command) -> String {
    let (name, about) = (command.name, command.about);
    let options = args::help(command.options);
    format!("Usage: torrent-cache {name} [OPTION...]\n\n{about}\n\nOptions:\n{options}")
}

fn text_help(text: &manual::Text) -> String {
    format!("Usage: torrent-cache {} {}\n\n{}\n", text.name, text.usage(), text.about)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::EXIT_STATUSES;

    #[test]
    fn the_help_of_a_command_shows_all_its_options() {
        let help = help();
        assert!(COMMANDS.iter().all(|command| help.contains(command.about)), "{help}");
        assert!(TEXTS.iter().all(|text| help.contains(text.about)), "{help}");
        for command in COMMANDS {
            let text = command_help(command);
            assert!(command.options.iter().all(|opt| text.contains(&opt.flag())), "{text}");
        }
    }

    #[test]
    fn every_end_has_a_status_of_the_table() {
        let broken = || Err(Failure::Broken("it broke".to_owned()));
        let panicked = catch_unwind(|| panic!("ours")).ok();
        let ended = [Some(Ok(())), Some(broken()), Some(Err(usage("no"))), panicked];
        let statuses = ended.map(|ended| status(&ended));
        assert_eq!(statuses, [0, 1, 2, 70]);
        let known =
            |status: &u8| EXIT_STATUSES.iter().any(|(known, _)| *known == i32::from(*status));
        assert!(statuses.iter().all(known));
    }

    #[test]
    fn usage_errors_have_status_2() {
        let status = |args: &[&str]| {
            dispatch(args.iter().map(Into::into).collect()).expect_err("a usage error").status()
        };
        assert_eq!(status(&[]), 2);
        assert_eq!(status(&["trucker"]), 2);
        assert_eq!(status(&["tracker", "--prot=1"]), 2);
        assert_eq!(status(&["client", "stray"]), 2);
        assert_eq!(status(&["completions", "csh"]), 2);
    }
}
