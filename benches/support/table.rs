//! Results as a table in Markdown, to be copied into `benches/README.md`.

use std::fs;
use std::process::Command;

/// What a value has to reach.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    AtLeast(f64),
    AtMost(f64),
    /// Nothing: it is there to be known.
    Told,
}

/// How a value is written out.
pub type Unit = fn(f64) -> String;

/// One row: a number of ours, beside one of a peer's or a bound.
#[derive(Clone, Debug)]
pub struct Row {
    what: String,
    ours: String,
    theirs: String,
    ratio: String,
    goal: String,
    met: &'static str,
    cpu: String,
}

/// Rows under a heading.
#[derive(Debug)]
pub struct Table {
    title: &'static str,
    rows: Vec<Row>,
}

/// A part of a bench, which adds its rows.
pub type Section = fn(&mut Table);

/// Runs the sections whose names contain a word of the command line, or all if it has none, and
/// prints the table of their rows.
pub fn run(title: &'static str, sections: &[(&str, Section)]) {
    let mut table = Table::new(title);
    for (name, section) in sections {
        if chosen(name) {
            section(&mut table);
        }
    }
    table.print();
}

/// Whether a word of the command line is in `name`, or there is none.
pub fn chosen(name: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|arg| !arg.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| name.contains(word.as_str()))
}

impl Row {
    /// Our value beside a peer's: the goal is one for `ours / theirs`.
    pub fn ratio(what: &str, ours: f64, peer: (&str, f64), unit: Unit, goal: Goal) -> Row {
        let (name, theirs) = peer;
        let ratio = ours / theirs;
        Row {
            theirs: format!("{name}: {}", unit(theirs)),
            ratio: if ratio.is_finite() { format!("{ratio:.2}") } else { String::new() },
            ..Row::judged(what, unit(ours), ratio, goal, |bound| format!("{bound:.2}"))
        }
    }

    /// A value alone: the goal is one for the value itself.
    pub fn alone(what: &str, ours: f64, unit: Unit, goal: Goal) -> Row {
        Row::judged(what, unit(ours), ours, goal, unit)
    }

    fn judged(
        what: &str,
        ours: String,
        value: f64,
        goal: Goal,
        unit: impl Fn(f64) -> String,
    ) -> Row {
        let (goal, met) = match goal {
            Goal::AtLeast(bound) => (format!("≥ {}", unit(bound)), Some(value >= bound)),
            Goal::AtMost(bound) => (format!("≤ {}", unit(bound)), Some(value <= bound)),
            Goal::Told => (String::new(), None),
        };
        let met = met.map_or("", |met| if met { "yes" } else { "**no**" });
        let (theirs, ratio, cpu) = (String::new(), String::new(), String::new());
        Row { what: what.to_owned(), ours, theirs, ratio, goal, met, cpu }
    }

    /// Adds the CPU seconds of both sides.
    pub fn cpu(mut self, ours: f64, theirs: f64) -> Row {
        self.cpu = format!("{ours:.2} / {theirs:.2} s");
        self
    }
}

impl Table {
    pub fn new(title: &'static str) -> Table {
        Table { title, rows: Vec::new() }
    }

    /// Adds a row and shows that something happens.
    pub fn push(&mut self, row: Row) {
        eprintln!("{}: {} | {} | {}", row.what, row.ours, row.theirs, row.ratio);
        self.rows.push(row);
    }

    /// Prints all rows, and what they were measured on.
    pub fn print(&self) {
        println!("\n### {}\n\n{}\n", self.title, machine());
        println!("| | torrent-cache | peer | ratio | goal | met | CPU, ours / peer |");
        println!("|---|---|---|---|---|---|---|");
        for Row { what, ours, theirs, ratio, goal, met, cpu } in &self.rows {
            println!("| {what} | {ours} | {theirs} | {ratio} | {goal} | {met} | {cpu} |");
        }
    }
}

/// The machine and the day, in one line.
fn machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let cpu = field(&read("/proc/cpuinfo"), "model name");
    let count = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let kib: u64 = field(&read("/proc/meminfo"), "MemTotal")
        .trim_end_matches(" kB")
        .parse()
        .unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let day = Command::new("date").args(["-u", "+%F"]).output().expect("date is everywhere");
    let day = String::from_utf8_lossy(&day.stdout).into_owned();
    let (kernel, day, gib) = (kernel.trim(), day.trim(), kib >> 20);
    format!("{day}, {count} × {cpu}, {gib} GiB, Linux {kernel}.")
}

/// Seconds, as milliseconds.
pub fn millis(seconds: f64) -> String {
    format!("{:.1} ms", seconds * 1000.0)
}

/// Seconds, as microseconds.
pub fn micros(seconds: f64) -> String {
    format!("{:.0} µs", seconds * 1e6)
}

/// Seconds.
pub fn seconds(seconds: f64) -> String {
    format!("{seconds:.2} s")
}

/// Bytes per second, as MB (10^6) per second.
pub fn rate(bytes_per_second: f64) -> String {
    format!("{:.0} MB/s", bytes_per_second / 1e6)
}

/// Bytes, as KiB (2^10).
pub fn kib(bytes: f64) -> String {
    format!("{:.1} KiB", bytes / 1024.0)
}

/// Bytes, as MiB (2^20).
pub fn mib(bytes: f64) -> String {
    format!("{:.1} MiB", bytes / f64::from(1 << 20))
}

/// A number of copies.
pub fn share(copies: f64) -> String {
    format!("{copies:.2}")
}

/// A number of things that are whole.
pub fn count(things: f64) -> String {
    format!("{things:.0}")
}

/// A share of one, in percent.
pub fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// How many in a second.
pub fn per_second(count: f64) -> String {
    format!("{count:.0}/s")
}
