//! What the system refuses: descriptors, threads, room on the disk. It waits or does with less,
//! says so, and goes on when there is enough again.

use std::process::Command;

use crate::support::process::Process;
use crate::support::torrent_cache::Program;
use crate::support::wait_for;
use crate::{HOSTILE, Targets, connect_from, descriptors};

/// Changes a limit of a running process (`prlimit(1)`).
fn limit(program: &mut Program, resource: &str, soft: usize) {
    let mut command = Command::new("prlimit");
    command.arg(format!("--pid={}", program.process().pid()));
    command.arg(format!("--{resource}={soft}:"));
    let finished = Process::run("prlimit", command, "util-linux");
    assert!(finished.status.success(), "{}", finished.output);
}

fn lines_of(program: &Program, words: &str) -> usize {
    program.log().lines().filter(|line| line.contains(words)).count()
}

#[test]
fn without_descriptors_it_waits_says_so_and_goes_on() {
    const WORDS: &str = "no descriptor left";
    let mut targets = Targets::start(None);
    let addresses = targets.addresses();
    for (client, addresses) in [(true, &addresses[..2]), (false, &addresses[2..])] {
        let program = if client { &mut targets.client } else { &mut targets.tracker };
        let few = descriptors(program) + 20;
        limit(program, "nofile", few);
        let mut streams = Vec::new();
        for address in addresses {
            streams.extend((0..100).map(|_| connect_from(HOSTILE, *address)));
        }
        wait_for("a word about it", || (lines_of(program, WORDS) > 0).then_some(()));
        let said = lines_of(program, WORDS);
        assert!(said <= 20, "{said} lines about 200 connections");
        drop(streams);
        limit(program, "nofile", 4096);
        assert!(program.process().is_running());
    }
    wait_for("everybody to be gone", || {
        (targets.client.metric("torrent_cache_http_connections") < 10).then_some(())
    });
    targets.assert_serves_others();
}
