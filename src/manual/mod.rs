//! Floor 7: the commands that print something and end: man pages, completions for shells,
//! environment files, all made from the program's tables, and the health of a running command.
//!
//! **Invariant:** no option, file or exit status is written down here; all come from the commands'
//! tables.

mod environment;
mod health;
mod page;
mod shells;

use std::ffi::OsString;

use crate::base::args::UsageError;
use crate::process::{Command, Failure};

type Make = fn(&[Command], &str, Vec<OsString>) -> Result<String, Failure>;

/// A command that prints a text and ends.
pub struct Text {
    /// The word on the command line.
    pub name: &'static str,
    /// The words that may follow it. An empty one: nothing need follow.
    pub words: &'static [&'static str],
    /// What it prints, in one line.
    pub about: &'static str,
    /// Makes the text about these commands, from the word and what follows it.
    make: Make,
}

/// All of them.
pub const TEXTS: &[Text] = &[
    Text {
        name: "man",
        words: &["", "client", "tracker"],
        about: "Prints a man page: of the program, or of a command.",
        make: |commands, word, rest| nothing_more(rest).map(|()| page::page(commands, word)),
    },
    Text {
        name: "completions",
        words: &["bash", "zsh", "fish"],
        about: "Prints the completions for a shell.",
        make: |commands, word, rest| nothing_more(rest).map(|()| shells::script(commands, word)),
    },
    Text {
        name: "environment",
        words: &["client", "tracker"],
        about: "Prints a file of all variables of a command; options that follow are set in it.",
        make: |commands, word, rest| Ok(environment::file(commands, word, rest)?),
    },
    Text {
        name: "health",
        words: &["client", "tracker"],
        about: "Prints whether the one that runs here can work; if it cannot, why, and status 1.",
        make: health::look,
    },
];

impl Text {
    /// What may follow the name, for people: `bash|zsh|fish`, in brackets if it may be left out.
    #[must_use]
    pub fn usage(&self) -> String {
        match self.words {
            ["", words @ ..] => format!("[{}]", words.join("|")),
            words => words.join("|"),
        }
    }

    /// The text that `args`, which follow the name on the command line, ask for.
    ///
    /// # Errors
    /// A word that is missing or unknown, or more than there should be; what is looked at is not
    /// well.
    pub fn print(&self, commands: &[Command], mut args: Vec<OsString>) -> Result<String, Failure> {
        let word = if args.is_empty() { OsString::new() } else { args.remove(0) };
        let Some(word) = self.words.iter().find(|known| word.as_os_str() == **known) else {
            let what = match word.is_empty() {
                true => "something is missing".to_owned(),
                false => format!("unknown: {}", word.to_string_lossy()),
            };
            let why = format!("{} {}: {what}", self.name, self.usage());
            return Err(UsageError(why).into());
        };
        (self.make)(commands, word, args)
    }
}

fn nothing_more(rest: Vec<OsString>) -> Result<(), Failure> {
    match rest.first() {
        None => Ok(()),
        Some(arg) => {
            Err(UsageError(format!("nothing may follow: {}", arg.to_string_lossy())).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_are_missing_or_unknown_are_named() {
        let refused = |name: &str, args: &[&str]| {
            let text = TEXTS.iter().find(|text| text.name == name).expect("a text");
            let args = args.iter().map(Into::into).collect();
            text.print(&[], args).expect_err("a usage error").to_string()
        };
        assert_eq!(refused("completions", &[]), "completions bash|zsh|fish: something is missing");
        assert_eq!(refused("completions", &["csh"]), "completions bash|zsh|fish: unknown: csh");
        assert_eq!(refused("man", &["2"]), "man [client|tracker]: unknown: 2");
        assert_eq!(refused("completions", &["fish", "x"]), "nothing may follow: x");
    }
}
