//! Man pages, in the macros of `man(7)`.

use crate::base::args::Opt;
use crate::process::{Command, EXIT_STATUSES};

use super::TEXTS;

/// The page of the command `name`; that of the whole program if there is none of this name.
pub(super) fn page(commands: &[Command], name: &str) -> String {
    match commands.iter().find(|command| command.name == name) {
        Some(command) => of_command(commands, command),
        None => of_program(commands),
    }
}

fn of_program(commands: &[Command]) -> String {
    let mut page = Page::new("torrent-cache", env!("CARGO_PKG_DESCRIPTION"));
    page.section("SYNOPSIS");
    page.line(".B torrent\\-cache");
    page.line("\\fICOMMAND\\fR [\\fIARGUMENT\\fR...]");
    page.section("DESCRIPTION");
    page.paragraph(
        "Hosts of one network pull the same container images and OSTree updates. With this program \
         each of them takes the bytes from the others over BitTorrent, and from the upstream only \
         what nobody has yet. One command runs on every host, the other once in the network.",
    );
    page.section("COMMANDS");
    for command in commands {
        page.item(&bold(command.name), command.about);
    }
    for text in TEXTS {
        page.item(&format!("{} {}", bold(text.name), escape(&text.usage())), text.about);
    }
    page.item(&bold("--help"), "Prints the commands, or the options of the command before it.");
    page.item(&bold("--version"), "Prints the version.");
    page.exit_statuses();
    page.see_also(commands.iter().map(|command| format!("torrent-cache-{}", command.name)));
    page.text
}

fn of_command(commands: &[Command], command: &Command) -> String {
    let mut page = Page::new(&format!("torrent-cache-{}", command.name), command.about);
    page.section("SYNOPSIS");
    page.line(&format!(".B torrent\\-cache {}", command.name));
    page.line("[\\fIOPTION\\fR...]");
    page.section("DESCRIPTION");
    for paragraph in command.description.split("\n\n") {
        page.paragraph(paragraph);
    }
    page.section("OPTIONS");
    for opt in command.options {
        page.option(opt);
    }
    page.item(&bold("--help"), "Prints the options and ends.");
    page.section("ENVIRONMENT");
    page.paragraph(
        "Each option can be given as a variable: its name in capitals, with underscores. The \
         option on the command line wins, and an empty value is no value.",
    );
    page.item(
        &bold("NOTIFY_SOCKET"),
        "Set by systemd: where the program says that it is ready, and that it stops.",
    );
    page.section("FILES");
    for (path, what) in command.files.iter().copied().flatten() {
        page.item(&italic(path), what);
    }
    page.section("SIGNALS");
    page.item(
        &format!("{}, {}", bold("SIGTERM"), bold("SIGINT")),
        "The first stops the program in order, within ten seconds; the second ends it at once.",
    );
    page.exit_statuses();
    page.section("EXAMPLES");
    for (line, what) in command.examples {
        page.paragraph(what);
        page.code(line);
    }
    let others = commands.iter().filter(|other| other.name != command.name);
    let others = others.map(|other| format!("torrent-cache-{}", other.name));
    page.see_also(["torrent-cache".to_owned()].into_iter().chain(others));
    page.text
}

/// A page being written.
struct Page {
    text: String,
}

impl Page {
    fn new(name: &str, about: &str) -> Page {
        let title = escape(&name.to_uppercase());
        let version = concat!("torrent\\-cache ", env!("CARGO_PKG_VERSION"));
        let mut page = Page { text: String::new() };
        page.line(&format!(".TH {title} 1 \"\" \"{version}\" \"User Commands\""));
        page.section("NAME");
        page.line(&format!("{} \\- {}", escape(name), escape(about.trim_end_matches('.'))));
        page
    }

    /// Adds a line of roff as it is.
    fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    fn section(&mut self, name: &str) {
        self.line(&format!(".SH {name}"));
    }

    /// Sentences of their own; a section begins a paragraph by itself.
    fn paragraph(&mut self, text: &str) {
        let in_section = self.text.lines().last().is_some_and(|line| line.starts_with(".SH "));
        if !in_section {
            self.line(".PP");
        }
        self.prose(text);
    }

    /// A term, in roff, and what it means.
    fn item(&mut self, term: &str, text: &str) {
        self.line(".TP");
        self.line(term);
        self.prose(text);
    }

    fn option(&mut self, opt: &Opt) {
        let value = if opt.value.is_empty() { String::new() } else { format!(" {}", opt.value) };
        let mut text = opt.help.to_owned();
        if !opt.default.is_empty() {
            text.push_str(&format!(" Default: `{}`.", opt.default));
        }
        text.push_str(&format!(" Variable: `{}`.", opt.name));
        self.item(&format!("{}{}", bold(&opt.flag()), italic(&value)), &text);
    }

    fn code(&mut self, text: &str) {
        self.line(".PP");
        self.line(".RS 4");
        self.line(".EX");
        for line in text.lines() {
            self.line(&protect(&escape(line)));
        }
        self.line(".EE");
        self.line(".RE");
    }

    /// Sentences; what stands between backquotes is set in bold.
    fn prose(&mut self, text: &str) {
        let mut line = String::new();
        for (index, part) in text.split('`').enumerate() {
            line.push_str(&if index % 2 == 1 { bold(part) } else { escape(part) });
        }
        self.line(&protect(&line.replace('\n', " ")));
    }

    fn exit_statuses(&mut self) {
        self.section("EXIT STATUS");
        for (status, meaning) in EXIT_STATUSES {
            self.item(&bold(&status.to_string()), meaning);
        }
    }

    fn see_also(&mut self, pages: impl Iterator<Item = String>) {
        self.section("SEE ALSO");
        let pages: Vec<_> = pages.map(|page| format!("{}(1)", bold(&page))).collect();
        self.line(&pages.join(",\n"));
    }
}

/// A backslash begins an escape; a minus is only one that can be copied if it says so.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

/// A dot or an apostrophe at the start of a line begins a request.
fn protect(line: &str) -> String {
    if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() }
}

fn bold(text: &str) -> String {
    font('B', text)
}

fn italic(text: &str) -> String {
    font('I', text)
}

/// Spaces before the text keep the font of what stands around them.
fn font(font: char, text: &str) -> String {
    let word = text.trim_start();
    let space = &text[..text.len() - word.len()];
    if word.is_empty() { space.to_owned() } else { format!("{space}\\f{font}{}\\fR", escape(word)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_roff_would_take_for_itself_is_escaped() {
        let mut page = Page { text: String::new() };
        page.prose(".so /etc/passwd is a\\b of `--x`");
        page.code("'x\ny");
        assert_eq!(
            page.text,
            "\\&.so /etc/passwd is a\\eb of \\fB\\-\\-x\\fR\n\
             .PP\n.RS 4\n.EX\n\\&'x\ny\n.EE\n.RE\n"
        );
    }
}
