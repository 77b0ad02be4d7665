//! The files of a repository: which are kept, which are asked for again, what a client is told.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use crate::support::faults::{Fault, FaultProxy};
use crate::support::ostree::Repository;
use crate::support::ostree::{Host, archived, tree};
use crate::support::site::{AUTHORIZATION, Site};
use crate::support::torrent_cache::Program;
use crate::support::{Answer, PATIENCE, get};
use crate::{MIB, World, files, proxy};

/// `GET` of a whole URL through the client as its proxy, as libostree asks.
fn fetch(client: &Program, url: &str, fields: &[(&str, &str)]) -> Answer {
    fetch_as(client, url, "libostree/2022.7", fields)
}

fn fetch_as(client: &Program, url: &str, agent: &str, fields: &[(&str, &str)]) -> Answer {
    through(client, url, agent, fields).expect("a whole answer")
}

/// Asks for a whole URL, as only proxies are asked; `None`: the answer did not come whole.
fn through(client: &Program, url: &str, agent: &str, fields: &[(&str, &str)]) -> Option<Answer> {
    let mut stream = TcpStream::connect(client.addr()).expect("the client listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
    let mut request = format!("GET {url} HTTP/1.1\r\nHost: proxy\r\nConnection: close\r\n");
    for (name, value) in fields.iter().chain([&("User-Agent", agent)]) {
        request += &format!("{name}: {value}\r\n");
    }
    stream.write_all((request + "\r\n").as_bytes()).expect("the client reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok()?;
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let body = bytes.split_off(end + 4);
    let head = String::from_utf8(bytes).expect("text");
    let mut lines = head.trim_end().lines();
    let status = lines.next()?.split(' ').nth(1)?.parse().expect("a number");
    let mut headers = ureq::http::HeaderMap::new();
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        let name = ureq::http::HeaderName::try_from(name).expect("a name");
        headers.insert(name, value.parse().expect("a value"));
    }
    let len = headers.get("content-length").and_then(|len| len.to_str().ok()?.parse().ok());
    (status == 304 || len == Some(body.len())).then_some(Answer { status, headers, body })
}

fn field<'a>(answer: &'a Answer, name: &str) -> &'a str {
    answer.headers.get(name).map_or("", |value| value.to_str().expect("text"))
}

/// A site with a file, and a client with nothing else.
fn site_with(path: &str, bytes: &[u8]) -> (Site, Program) {
    let site = Site::start();
    put(&site, path, bytes);
    (site, Program::client("client", &[]))
}

fn put(site: &Site, path: &str, bytes: &[u8]) {
    let path = site.root().join(path);
    fs::create_dir_all(path.parent().expect("below the root")).expect("the folder can be made");
    fs::write(path, bytes).expect("disk has room");
}

#[test]
fn what_may_change_is_asked_for_each_time_and_sent_once() {
    let (site, client) = site_with("repo/summary", b"first");
    let url = site.url("repo/summary");
    let first = fetch(&client, &url, &[]);
    assert_eq!((first.text().as_str(), field(&first, "x-torrent-cache")), ("first", "upstream"));
    let direct = get(&url, &[]).expect("an answer");
    for name in ["etag", "last-modified", "content-type"] {
        assert_eq!(field(&first, name), field(&direct, name), "{name}");
    }
    let second = fetch(&client, &url, &[]);
    assert_eq!((second.text().as_str(), field(&second, "x-torrent-cache")), ("first", "store"));
    let statuses: Vec<u16> = site.accesses().iter().map(|access| access.status).collect();
    assert_eq!(statuses[1..], [200, 200, 304], "the probe, then first, direct, second");
    put(&site, "repo/summary", b"another");
    assert_eq!(fetch(&client, &url, &[]).text(), "another");
    assert_eq!(fetch(&client, &url, &[]).text(), "another");
    assert_eq!(files(&client, "revalidated"), 2);
    assert_eq!(files(&client, "upstream"), 2);
}

/// As libostree asks when it has a signed summary: with the tag, and a date that says `UTC`.
#[test]
fn a_client_that_has_it_is_told_so() {
    let (site, client) = site_with("repo/summary.sig", b"signature");
    let url = site.url("repo/summary.sig");
    let first = fetch(&client, &url, &[]);
    let (tag, date) = (field(&first, "etag"), field(&first, "last-modified").replace("GMT", "UTC"));
    let asked = [("If-None-Match", tag), ("If-Modified-Since", date.as_str())];
    let second = fetch(&client, &url, &asked);
    assert_eq!((second.status, second.body.len()), (304, 0));
    assert_eq!(field(&second, "etag"), tag);
    put(&site, "repo/summary.sig", b"other signature");
    let third = fetch(&client, &url, &asked);
    assert_eq!((third.status, third.text().as_str()), (200, "other signature"));
}

#[test]
fn an_object_is_asked_for_once_and_survives_a_restart() {
    let (path, bytes) = archived(&b"of a file".repeat(1000), 5000);
    let path = format!("repo/{path}");
    let (site, mut client) = site_with(&path, &bytes);
    for _ in 0..3 {
        let answer = fetch(&client, &site.url(&path), &[]);
        assert!(answer.status == 200 && answer.body == bytes);
    }
    assert_eq!(site.accesses().iter().filter(|access| access.path.ends_with("filez")).count(), 1);
    assert!(client.stop().success());
    client.start_again();
    let answer = fetch(&client, &site.url(&path), &[]);
    assert!(answer.body == bytes && field(&answer, "x-torrent-cache") == "store");
    assert_eq!(site.bodies(|path| path.ends_with("filez")), 1, "only asked about");
}

/// Larger than what is held in memory: it is served while it comes.
#[test]
fn a_large_object_is_healed_inside_its_answer() {
    let content = tree(90, 0, &[3 * MIB]).into_values().next().expect("one file");
    let (path, bytes) = archived(&content, u16::MAX);
    let path = format!("repo/{path}");
    let (site, client) = site_with(&path, &bytes);
    let upstream = FaultProxy::start(site.addr());
    upstream.fail(".filez", 1, Fault::Cut { after: 1_500_000 });
    upstream.fail(".filez", 1, Fault::Reset { after: 700_000 });
    upstream.fail(".filez", 1, Fault::Status(503));
    let url = format!("{}/{path}", upstream.url());
    for source in ["upstream", "store"] {
        let answer = fetch(&client, &url, &[]);
        assert!(answer.body == bytes, "{}", client.log());
        assert_eq!(field(&answer, "x-torrent-cache"), source);
    }
    let ranges: Vec<bool> = upstream.requests().iter().map(|r| r.range.is_some()).collect();
    assert_eq!(ranges[..2], [false, true], "the rest is asked for, not the whole");
}

#[test]
fn wrong_bytes_of_an_object_that_its_name_tells_never_leave() {
    for (len, ending) in [10_000, 3 * MIB]
        .into_iter()
        .flat_map(|len| [".dirtree", ".filez"].map(|ending| (len, ending)))
    {
        let content = tree(91, 0, &[len]).into_values().next().expect("one file");
        let name = torrent_cache::base::hash::hex(&torrent_cache::base::hash::sha256(&content));
        let (path, bytes) = match ending {
            ".filez" => archived(&content, u16::MAX),
            _ => (format!("objects/{}/{}.dirtree", &name[..2], &name[2..]), content),
        };
        let path = format!("repo/{path}");
        let (site, client) = site_with(&path, &bytes);
        let upstream = FaultProxy::start(site.addr());
        let url = format!("{}/{path}", upstream.url());
        upstream.fail(ending, 100, Fault::Flip { at: 5_000 });
        let answer = through(&client, &url, "libostree/2022.7", &[]);
        assert!(answer.is_none_or(|answer| answer.status == 500), "{}", client.log());
        upstream.heal();
        // One that came wrong by accident is asked for again, if nothing has been sent.
        upstream.fail(ending, usize::from(len < MIB), Fault::Flip { at: 5_000 });
        assert!(
            through(&client, &url, "libostree/2022.7", &[])
                .is_some_and(|answer| answer.body == bytes)
        );
    }
}

/// libostree gives up after one 502, 503, 504 or cut body.
#[test]
fn faults_that_pass_do_not_show() {
    for fault in [
        Fault::Status(500),
        Fault::Status(502),
        Fault::Status(503),
        Fault::Status(504),
        Fault::Cut { after: 3 },
        Fault::Reset { after: 3 },
    ] {
        let world = World::start();
        let files = tree(92, 20, &[]);
        let commit = world.repository.commit("main", &files);
        world.repository.summarise();
        let upstream = FaultProxy::start(world.site.addr());
        let client = Program::client("client", &[]);
        let host = Host::new(&format!("{}/repo", upstream.url()), proxy(&client));
        for path in ["/repo/summary", "/repo/config", ".commit", ".dirtree", ".filez"] {
            upstream.fail(path, 1, fault);
        }
        host.pull(&["main"]);
        host.assert_has("main", &commit, &files);
    }
}

#[test]
fn files_of_a_private_repository_are_given_to_whoever_may_have_them() {
    let site = Site::start();
    let repository = Repository::make(site.root().join("private/repo"));
    let files = tree(93, 20, &[]);
    let commit = repository.commit("main", &files);
    repository.summarise();
    let client = Program::client("client", &[]);
    let url = site.url("private/repo");
    let header = format!("--http-header=Authorization={AUTHORIZATION}");
    for _ in 0..2 {
        let host = Host::new(&url, proxy(&client));
        host.pull(&[&header, "main"]);
        host.assert_has("main", &commit, &files);
    }
    // Of two pulls, the second took the objects from the first.
    let objects = |path: &str| path.contains("/objects/");
    let count = repository.objects().len();
    assert_eq!(site.bodies(objects), count);
    for other in [&[][..], &["--http-header=Authorization=Basic dXNlcjp3cm9uZw=="]] {
        let host = Host::new(&url, proxy(&client));
        assert!(!host.try_pull(&[other, &["main"]].concat()).status.success());
    }
    let object = repository.objects().pop().expect("there are some");
    for fields in [&[][..], &[("Authorization", "Basic dXNlcjp3cm9uZw==")]] {
        assert_eq!(fetch(&client, &format!("{url}/{object}"), fields).status, 401);
    }
    let mine = [("Authorization", AUTHORIZATION)];
    assert_eq!(fetch(&client, &format!("{url}/{object}"), &mine).status, 200);
    // What may change was never kept.
    assert_eq!(site.bodies(|path| path.ends_with("/config")), 2);
}

/// Names such as `summary` and `config` are not OSTree's alone.
#[test]
fn other_programs_files_of_the_same_names_are_relayed() {
    let (site, client) = site_with("any/config", b"one");
    for _ in 0..2 {
        let answer = fetch_as(&client, &site.url("any/config"), "curl/7", &[]);
        assert_eq!((answer.text().as_str(), field(&answer, "x-torrent-cache")), ("one", ""));
    }
    assert_eq!(site.bodies(|path| path == "/any/config"), 2);
}

#[test]
fn requests_for_one_object_at_once_are_one_upstream() {
    let content = tree(94, 0, &[3 * MIB]).into_values().next().expect("one file");
    for len in [100_000, 3 * MIB] {
        let (path, bytes) = archived(&content[..len], u16::MAX);
        let path = format!("repo/{path}");
        let (site, client) = site_with(&path, &bytes);
        let url = site.url(&path);
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..8).map(|_| scope.spawn(|| fetch(&client, &url, &[]))).collect();
            for one in all {
                assert!(one.join().expect("no panic").body == bytes);
            }
        });
        assert_eq!(site.bodies(|path| path.ends_with("filez")), 1);
    }
}
