//! Options: one table makes the parser, the environment variables, the help text, the man pages,
//! the completions and the table of `docs/reference.md`.
//!
//! Every option `NAME` is the flag `--name` (underscores become dashes) and the variable `NAME`. A
//! flag wins over the variable, the variable over the default. An empty value is "not given".

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use lexopt::Arg;

/// One option.
#[derive(Clone, Copy, Debug)]
pub struct Opt {
    /// The variable's name, in capitals.
    pub name: &'static str,
    /// What stands for the value in the help, such as `DIR`; empty: a switch, on if given.
    pub value: &'static str,
    /// The default; empty: none.
    pub default: &'static str,
    /// One sentence.
    pub help: &'static str,
    /// The value is never shown.
    pub secret: bool,
}

impl Opt {
    /// An option that takes a value.
    #[must_use]
    pub const fn new(
        name: &'static str,
        value: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Opt {
        Opt { name, value, default, help, secret: false }
    }

    /// A switch: on if given.
    #[must_use]
    pub const fn switch(name: &'static str, help: &'static str) -> Opt {
        Opt::new(name, "", "", help)
    }

    /// The same option, with a value that is never shown.
    #[must_use]
    pub const fn secret(self) -> Opt {
        Opt { secret: true, ..self }
    }

    /// The flag, with its two dashes.
    #[must_use]
    pub fn flag(&self) -> String {
        format!("--{}", self.name.to_lowercase().replace('_', "-"))
    }
}

/// What is wrong with the command line or the environment: one line, exit status 2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsageError(pub String);

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for UsageError {}

/// What the command line asked for.
#[derive(Debug)]
pub enum Parsed {
    /// `--help`.
    Help,
    /// To run, with these values.
    Run(Values),
}

/// The values of all options of a table.
#[derive(Debug)]
pub struct Values {
    table: &'static [Opt],
    given: BTreeMap<&'static str, OsString>,
}

/// Reads flags from `args` and variables through `variable`.
///
/// # Errors
/// An unknown flag, a flag without its value, an argument that is no flag.
pub fn parse(
    table: &'static [Opt],
    args: Vec<OsString>,
    variable: impl Fn(&str) -> Option<OsString>,
) -> Result<Parsed, UsageError> {
    let mut given = BTreeMap::new();
    for opt in table {
        if let Some(value) = variable(opt.name).filter(|value| !value.is_empty()) {
            given.insert(opt.name, value);
        }
    }
    let mut parser = lexopt::Parser::from_args(args);
    while let Some(arg) = parser.next().map_err(usage)? {
        let flag = match arg {
            Arg::Long("help") | Arg::Short('h') => return Ok(Parsed::Help),
            Arg::Long(name) => format!("--{name}"),
            other => return Err(usage(other.unexpected())),
        };
        let Some(opt) = table.iter().find(|opt| opt.flag() == flag) else {
            return Err(UsageError(format!("unknown option {flag}")));
        };
        let value = if opt.value.is_empty() {
            parser.optional_value().unwrap_or_else(|| "1".into())
        } else {
            parser.value().map_err(usage)?
        };
        if value.is_empty() {
            given.remove(opt.name);
        } else {
            given.insert(opt.name, value);
        }
    }
    Ok(Parsed::Run(Values { table, given }))
}

fn usage(error: lexopt::Error) -> UsageError {
    UsageError(error.to_string())
}

impl Values {
    fn raw(&self, name: &str) -> Option<&OsStr> {
        let opt = self.opt(name);
        match self.given.get(opt.name) {
            Some(value) => Some(value),
            None if opt.default.is_empty() => None,
            None => Some(OsStr::new(opt.default)),
        }
    }

    fn opt(&self, name: &str) -> &'static Opt {
        let found = self.table.iter().find(|opt| opt.name == name);
        found.unwrap_or_else(|| panic!("{name} is not in the table of options"))
    }

    /// Whether the user gave the option, by flag or variable.
    #[must_use]
    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(self.opt(name).name)
    }

    /// A switch: on if given with anything.
    #[must_use]
    pub fn switch(&self, name: &str) -> bool {
        self.is_given(name)
    }

    /// The value as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self, name: &str) -> Result<Option<String>, UsageError> {
        self.raw(name).map(|raw| utf8(self.opt(name), raw)).transpose()
    }

    /// The value as a path.
    #[must_use]
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.raw(name).map(PathBuf::from)
    }

    /// The value, read by its type's `FromStr`.
    ///
    /// # Errors
    /// One line that names the option, the value and what is wrong with it.
    pub fn get<T>(&self, name: &str) -> Result<Option<T>, UsageError>
    where
        T: FromStr,
        T::Err: fmt::Display,
    {
        let Some(text) = self.text(name)? else { return Ok(None) };
        text.parse().map(Some).map_err(|error| self.bad(name, &error))
    }

    /// An error about the value of `name`, for checks that no type can make.
    #[must_use]
    pub fn bad(&self, name: &str, why: &dyn fmt::Display) -> UsageError {
        let opt = self.opt(name);
        if opt.secret {
            return UsageError(format!("{name}: {why}"));
        }
        let value = self.raw(name).unwrap_or_default().to_string_lossy();
        UsageError(format!("{name}={value}: {why}"))
    }
}

fn utf8(opt: &Opt, raw: &OsStr) -> Result<String, UsageError> {
    let text = raw.to_str();
    text.map(str::to_owned).ok_or_else(|| UsageError(format!("{}: not UTF-8", opt.name)))
}

/// The help text of a table, one option after the other.
#[must_use]
pub fn help(table: &[Opt]) -> String {
    let mut text = String::new();
    for opt in table {
        let value = if opt.value.is_empty() { String::new() } else { format!(" {}", opt.value) };
        text.push_str(&format!("  {}{value}\n      {}", opt.flag(), opt.help));
        if !opt.default.is_empty() {
            text.push_str(&format!(" [default: {}]", opt.default));
        }
        text.push_str(&format!(" [env: {}]\n", opt.name));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[Opt] = &[
        Opt::new("PORT", "PORT", "8888", "Port."),
        Opt::switch("NO_SSL", "Plain only."),
        Opt::new("PASSWORD", "TEXT", "", "Secret.").secret(),
    ];

    fn values(args: &[&str], variables: &[(&str, &str)]) -> Result<Values, UsageError> {
        let args = args.iter().map(Into::into).collect();
        let find = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        match parse(TABLE, args, find)? {
            Parsed::Run(values) => Ok(values),
            Parsed::Help => panic!("no help was asked for"),
        }
    }

    #[test]
    fn flag_beats_variable_beats_default() {
        let port = |args: &[&str], variables: &[(&str, &str)]| {
            values(args, variables).unwrap().get::<u16>("PORT").unwrap().unwrap()
        };
        assert_eq!(port(&[], &[]), 8888);
        assert_eq!(port(&[], &[("PORT", "1")]), 1);
        assert_eq!(port(&[], &[("PORT", "")]), 8888);
        assert_eq!(port(&["--port", "2"], &[("PORT", "1")]), 2);
        assert_eq!(port(&["--port=2"], &[]), 2);
    }

    #[test]
    fn switches_need_no_value() {
        assert!(!values(&[], &[]).unwrap().switch("NO_SSL"));
        assert!(values(&["--no-ssl"], &[]).unwrap().switch("NO_SSL"));
        assert!(values(&[], &[("NO_SSL", "1")]).unwrap().switch("NO_SSL"));
    }

    #[test]
    fn errors_name_the_option_and_keep_secrets() {
        let text = |args: &[&str]| values(args, &[]).unwrap_err().to_string();
        assert_eq!(text(&["--prot", "1"]), "unknown option --prot");
        assert!(text(&["--port"]).contains("--port"));
        assert!(text(&["stray"]).contains("stray"));
        let bad = values(&["--port", "99999"], &[]).unwrap().get::<u16>("PORT").unwrap_err();
        assert!(bad.to_string().starts_with("PORT=99999: "), "{bad}");
        let secret = values(&["--password", "hunter2"], &[]).unwrap();
        assert_eq!(secret.bad("PASSWORD", &"too short").to_string(), "PASSWORD: too short");
    }

    #[test]
    fn help_shows_every_option() {
        let text = help(TABLE);
        for opt in TABLE {
            assert!(text.contains(&opt.flag()) && text.contains(opt.help));
        }
    }
}
