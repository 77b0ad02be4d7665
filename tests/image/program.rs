//! The static binary: made, looked at, and made to resolve, to encrypt and to unwind.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use crate::support::process::{Finished, Process};

/// How long the compiler may take on a busy machine.
pub const BUILD_PATIENCE: Duration = Duration::from_secs(20 * 60);

/// The folder of the package.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The static binary: the one that `BINARY` names, or the one of `make static`.
pub fn static_binary() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if std::env::var_os("BINARY").is_some() {
            return crate::support::torrent_cache::binary();
        }
        let mut command = Command::new("make");
        command.current_dir(root()).arg("static");
        let output = build(command);
        let line = output.lines().find_map(|line| line.split_once(": static, "));
        root().join(line.unwrap_or_else(|| panic!("no path in\n{output}")).0)
    })
}

/// Runs a command that compiles; its output. Without what cargo tells a test of its package: when
/// that changes, ring is compiled again, and with it nearly all.
fn build(mut command: Command) -> String {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    let mut process = Process::spawn("build", command, "make");
    let status = process.wait(BUILD_PATIENCE);
    assert!(status.success(), "{status}");
    process.output()
}

fn check(file: &Path) -> Finished {
    let mut command = Command::new(root().join("packaging/check-static.sh"));
    command.arg(file);
    Process::run("check-static.sh", command, "binutils")
}

#[test]
fn it_needs_nothing_of_the_system() {
    let checked = check(static_binary());
    assert!(checked.status.success(), "{}", checked.output);
    let ldd = Process::run("ldd", with("ldd", &[static_binary()]), "libc-bin");
    let nothing = ["statically linked", "not a dynamic executable"];
    assert!(nothing.iter().any(|words| ldd.output.contains(words)), "{}", ldd.output);
}

/// The check finds a program that is not.
#[test]
fn a_program_that_needs_libraries_is_refused() {
    let checked = check(Path::new("/usr/bin/env"));
    assert!(!checked.status.success(), "{}", checked.output);
    assert!(checked.output.contains("libc.so.6"), "{}", checked.output);
}

/// A panic in the thread of a connection is caught, with the unwinder and the optimisations of the
/// static binary.
#[test]
fn its_threads_survive_a_panic() {
    const CLAIM: &str = "a_panic_in_a_connection_is_counted_and_survived";
    static_binary();
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(root()).env(format!("CC_{}", target.replace('-', "_")), "musl-gcc");
    command.args(["test", "--release", "--locked", "--test", "panic", "--target", &target, CLAIM]);
    let output = build(command);
    assert!(output.contains(&format!("{CLAIM} ... ok")), "{output}");
}

fn with(program: &str, arguments: &[&Path]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}
