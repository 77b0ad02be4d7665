//! The mirror path: repositories over https, which a proxy cannot see into.

use crate::support::get;
use crate::support::ostree::Repository;
use crate::support::ostree::{Host, archived, tree};
use crate::support::torrent_cache::Program;
use crate::{World, files};

/// A client that trusts the site, and the URL of a path of the site on its mirror.
fn mirror(world: &World, options: &[(&str, &str)]) -> (Program, String) {
    let certificate = world.site.certificate().display().to_string();
    let client = world.client("client", &[&[("CA", certificate.as_str())], options].concat());
    let url = format!("http://{}/ostree/{}/repo", client.addr(), world.site.tls_addr());
    (client, url)
}

#[test]
fn an_https_remote_is_pulled_through_the_mirror_and_kept() {
    let mut world = World::start();
    let files_there = tree(70, 30, &[100_000]);
    let commit = world.repository.commit("main", &files_there);
    world.repository.summarise();
    let (client, url) = mirror(&world, &[]);
    for _ in 0..2 {
        let host = Host::new(&format!("https://{}/repo", world.site.tls_addr()), None);
        host.run(&["config", "set", "--group=remote \"origin\"", "url", &url]);
        host.pull(&["main"]);
        host.assert_has("main", &commit, &files_there);
    }
    let objects = world.repository.objects().len();
    assert_eq!(world.site.bodies(|path| path.contains("/objects/")), objects);
    world.site.stop();
    let host = Host::new(&url, None);
    host.pull(&["main"]);
    host.assert_has("main", &commit, &files_there);
    assert!(files(&client, "stale") > 0);
}

/// The remote stays what it is, and only what is large comes from the mirror.
#[test]
fn content_comes_from_the_mirror_and_the_rest_from_the_remote() {
    let world = World::start();
    let files_there = tree(71, 30, &[]);
    let commit = world.repository.commit("main", &files_there);
    world.repository.summarise();
    let (client, url) = mirror(&world, &[]);
    let content = format!("--contenturl={url}");
    let remote = format!("https://{}/repo", world.site.tls_addr());
    let certificate = format!("--set=tls-ca-path={}", world.site.certificate().display());
    let host = Host::with(&remote, None, &[&content, &certificate]);
    host.pull(&["main"]);
    host.assert_has("main", &commit, &files_there);
    assert!(files(&client, "upstream") > 30, "{}", client.log());
}

#[test]
fn a_mirror_list_may_name_the_mirror() {
    let world = World::start();
    let files_there = tree(72, 10, &[]);
    let commit = world.repository.commit("main", &files_there);
    world.repository.summarise();
    let (client, url) = mirror(&world, &[]);
    std::fs::write(world.site.root().join("mirrors"), format!("{url}\n")).expect("disk has room");
    let host = Host::new(&format!("mirrorlist={}", world.site.url("mirrors")), None);
    host.pull(&["main"]);
    host.assert_has("main", &commit, &files_there);
    assert!(files(&client, "upstream") > 10, "{}", client.log());
}

#[test]
fn a_mirror_path_has_one_spelling_and_the_same_rules_as_the_proxy() {
    let world = World::start();
    let (client, url) = mirror(&world, &[("PROXY_ALLOW", "127.0.0.1")]);
    let status = |url: &str| get(url, &[]).expect("an answer").status;
    assert_eq!(status(&format!("{url}/config")), 200);
    let site = world.site.tls_addr();
    for path in [
        format!("{site}/repo/%2e%2e/repo/config"),
        format!("{site}//repo/config"),
        format!("{site}/repo/./config"),
        format!("user@{site}/repo/config"),
        "/repo/config".to_owned(),
        site.to_string(),
        String::new(),
    ] {
        assert_eq!(status(&format!("http://{}/ostree/{path}", client.addr())), 400, "{path}");
    }
    let other = format!("http://{}/ostree/localhost:{}/repo/config", client.addr(), site.port());
    assert_eq!(status(&other), 403);
}

/// The client does not trust whom it was not told to.
#[test]
fn an_unknown_certificate_is_no_upstream() {
    let world = World::start();
    let client = Program::client("client", &[]);
    let url = format!("http://{}/ostree/{}/repo", client.addr(), world.site.tls_addr());
    let host = Host::new(&url, None);
    assert!(!host.try_pull(&["main"]).status.success());
    assert!(world.site.bodies(|path| path.starts_with("/repo/")) == 0);
}

/// Equal objects of two repositories are told apart: one file may be packed in two ways.
#[test]
fn two_repositories_never_mix() {
    let world = World::start();
    let other = Repository::make(world.site.root().join("other"));
    let packed = [7, 11].map(|block_len| archived(b"of one file, packed in two ways", block_len));
    let [(object, one), (same, two)] = &packed;
    assert!(object == same && one != two);
    for (repository, bytes) in [(&world.repository, one), (&other, two)] {
        let path = repository.path().join(object);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder can be made");
        std::fs::write(path, bytes).expect("room");
    }
    let (_client, url) = mirror(&world, &[]);
    for _ in 0..2 {
        for (repository, bytes) in [("repo", one), ("other", two)] {
            let url = format!("{}/{repository}/{object}", url.trim_end_matches("/repo"));
            assert_eq!(get(&url, &[]).expect("an answer").body, *bytes);
        }
    }
}
