//! What the system refuses: descriptors, threads, room on the disk. It waits or does with less,
//! says so, and goes on when there is enough again.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use torrent_cache::base::rng::Rng;

use crate::support::get;
use crate::support::image::Blob;
use crate::support::origin::{Origin, Request, answer, whole};
use crate::support::process::Process;
use crate::support::torrent_cache::{Program, binary};
use crate::support::wait_for;
use crate::{HOSTILE, Targets, connect_from, descriptors, proc_status};

const MIB: usize = 1 << 20;

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

#[test]
fn without_threads_it_waits_says_so_and_goes_on() {
    const WORDS: &str = "there is no thread for them";
    let mut targets = Targets::start(None);
    targets.assert_serves_others();
    // A thread needs more address space for its stack than this leaves.
    let room = proc_status(&mut targets.client, "VmSize") * 1024 + MIB;
    limit(&mut targets.client, "as", room);
    let post = b"POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\n";
    let ask = |_| {
        let stream = connect_from(HOSTILE, targets.client.addr());
        (&stream).write_all(post).expect("it reads");
        stream
    };
    let streams: Vec<_> = (0..20).map(ask).collect();
    wait_for("a word about it", || (lines_of(&targets.client, WORDS) > 0).then_some(()));
    assert!(lines_of(&targets.client, WORDS) <= 20);
    limit(&mut targets.client, "as", usize::MAX >> 1);
    drop(streams);
    targets.assert_serves_others();
    assert!(targets.client.process().is_running());
    assert_eq!(targets.client.metric("torrent_cache_thread_panics_total"), 0);
}

#[test]
fn without_room_on_the_disk_blobs_are_passed_on_until_there_is_some() {
    let blobs: Vec<Blob> = (0..3)
        .map(|seed| {
            let mut bytes = vec![0; MIB];
            Rng::seeded(seed).fill(&mut bytes);
            Blob::new(bytes)
        })
        .collect();
    let served = blobs.clone();
    let origin = Origin::start(move |request: &Request| {
        let asked = |blob: &&Blob| request.target().ends_with(&blob.digest);
        match served.iter().find(asked) {
            Some(blob) if request.line.starts_with("GET ") => vec![whole(&blob.bytes)],
            _ => vec![answer(&["HTTP/1.1 404 Not Found", "Content-Length: 0"], b"")],
        }
    });
    let registry = format!("http://{}", origin.addr());
    let mut client =
        Program::client_with_disk("client", 8 << 20, &[("REGISTRY_LOCATION", &registry)]);
    let pull = |client: &Program, blob: &Blob| {
        let url = format!("http://{}/v2/a/blobs/{}", client.addr(), blob.digest);
        let got = get(&url, &[]).expect("it comes");
        assert!(got.status == 200 && got.body == blob.bytes, "{}", client.log());
    };
    // Its file system, seen from outside.
    let root = PathBuf::from(format!("/proc/{}/root", client.process().pid()));
    let storage = root.join(client.option("STORAGE").trim_start_matches('/'));
    let filler = storage.join("filler");
    let mut file = std::fs::File::create(&filler).expect("there is room for a name");
    while file.write_all(&[0; 4096]).is_ok() {}
    for blob in &blobs[..2] {
        pull(&client, blob);
    }
    assert_eq!(client.status()["store"]["blobs"], 0);
    let said = lines_of(&client, "not kept");
    assert!((1..=4).contains(&said), "{}", client.log());
    assert_eq!(client.admin("/health").status, 200);
    drop(file);
    std::fs::remove_file(filler).expect("it is there");
    pull(&client, &blobs[2]);
    wait_for("it to be kept", || (client.status()["store"]["blobs"] == 1).then_some(()));
    assert!(client.process().is_running());
}

#[test]
fn without_a_disk_to_write_to_it_is_not_ready_and_serves_on() {
    let mut bytes = vec![0; MIB];
    Rng::seeded(7).fill(&mut bytes);
    let blob = Blob::new(bytes);
    let origin = Origin::always(vec![whole(&blob.bytes)]);
    let registry = format!("http://{}", origin.addr());
    let mut client =
        Program::client_with_disk("client", 8 << 20, &[("REGISTRY_LOCATION", &registry)]);
    // A file system with files that are open for writing cannot be made read-only from outside.
    let in_its_mounts = |client: &mut Program, script: &str| {
        let pid = client.process().pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["--target", &pid, "--mount"]);
        let user = |who: &str| std::fs::read_link(format!("/proc/{who}/ns/user")).ok();
        if user(&pid) != user("self") {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["sh", "-ec", &format!("cd {}; {script}", client.option("STORAGE"))]);
        let finished = Process::run("nsenter", command, "util-linux");
        assert!(finished.status.success(), "{}", finished.output);
    };
    let health = |client: &Program| {
        let mut command = Command::new(binary());
        command.args(["health", "client"]).env_clear().env("ADMIN", client.option("ADMIN"));
        let finished = Process::run("health", command, "");
        (finished.status.code(), finished.output)
    };
    assert_eq!(health(&client), (Some(0), "ready\n".to_owned()));

    in_its_mounts(&mut client, "mount --bind partial partial");
    in_its_mounts(&mut client, "mount -o remount,bind,ro $PWD/partial");
    let (status, said) = health(&client);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("503: not ready: ") && said.contains("Read-only"), "{said}");
    assert_eq!(client.admin("/healthz").status, 200, "a restart would not help");
    let url = format!("http://{}/v2/a/blobs/{}", client.addr(), blob.digest);
    let got = get(&url, &[]).expect("it comes");
    assert!(got.status == 200 && got.body == blob.bytes, "{}", client.log());

    in_its_mounts(&mut client, "umount $PWD/partial");
    assert_eq!(health(&client).0, Some(0));
    client.process().terminate();
    let (status, said) = health(&client);
    assert!(status == Some(1) && said.lines().count() == 1, "{said}");
}
