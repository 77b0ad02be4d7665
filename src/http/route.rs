//! What a request asks for, by its head alone. Pure.

use crate::fetch::{FileKind, Listing};
use crate::http::registries::Registries;
use crate::proto::blob::BlobName;
use crate::proto::http1::{Headers, Method, RequestHead, Target, Url};
use crate::proto::oci::{self, OciPath, Reference};
use crate::proto::ostree::{self, DeltaId, ObjectKind, RepoPath};

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `GET` or `HEAD` of a blob: from wherever it is.
    Blob {
        /// Which.
        name: BlobName,
        /// Where it really lives.
        url: Url,
    },
    /// `GET` or `HEAD` of a manifest: which one a tag is, the upstream says.
    Manifest {
        /// By what it is asked for.
        reference: Reference,
        /// Where it lives.
        url: Url,
    },
    /// `GET` of a file of one of OSTree's static deltas: from wherever it is.
    Delta {
        /// Which delta.
        id: DeltaId,
        /// Which file: 0 is the superblock, N + 1 is part N.
        index: usize,
        /// Where the file really lives.
        url: Url,
    },
    /// `GET` or `HEAD` of another file of an OSTree repository.
    File {
        /// Where it lives.
        url: Url,
        /// The URL of its repository.
        repository: String,
        /// What its path says of it.
        kind: FileKind,
    },
    /// `GET` or `HEAD` of `/v2/`: what a registry wants of its clients.
    Ping {
        /// Where it lives.
        url: Url,
    },
    /// Anything else that has a URL: passed through.
    Relay {
        /// Where it goes.
        url: Url,
    },
    /// `CONNECT`.
    Tunnel {
        /// To which host.
        host: String,
        /// To which port.
        port: u16,
    },
    /// An answer of our own.
    Refuse {
        /// Its status.
        status: u16,
        /// Why, for the client.
        message: &'static str,
    },
}

/// Routes a request. Paths are those of one of `registries`, whole URLs are what they say. `alias`
/// is our name in `Via`: a request that has passed here before is refused.
#[must_use]
pub fn route(head: &RequestHead, registries: &Registries, alias: &str) -> Route {
    if has_passed(&head.headers, alias) {
        return Route::Refuse { status: 508, message: "the request has passed this proxy before" };
    }
    let url = match &head.target {
        Target::Authority { host, port } => {
            return Route::Tunnel { host: host.clone(), port: *port };
        }
        Target::Asterisk => {
            return Route::Refuse {
                status: 405,
                message: "this method is not for the proxy itself",
            };
        }
        Target::Absolute(url) => url.clone(),
        Target::Origin(target) if target.starts_with(MIRROR) => match mirrored(target) {
            Some(url) => return of_repository(head, url, true),
            None => {
                let message = "a mirror path is /ostree/HOST/PATH, with nothing to be interpreted";
                return Route::Refuse { status: 400, message };
            }
        },
        Target::Origin(target) => {
            let query = target.split_once('?').map(|(_, query)| query);
            match registries.of_query(query.filter(|_| target.starts_with("/v2/"))) {
                Ok(registry) => Url { target: target.clone(), ..registry },
                Err(_) => return Route::Refuse { status: 400, message: "ns= names no registry" },
            }
        }
    };
    let content = oci::parse(url.path());
    let url = if url.path().starts_with("/v2/") { without_namespace(url) } else { url };
    match (&head.method, content) {
        (Method::Get | Method::Head, OciPath::Blob { digest, .. }) => {
            Route::Blob { name: BlobName::Content(digest), url }
        }
        (Method::Get | Method::Head, OciPath::Manifest { reference, .. }) => {
            Route::Manifest { reference, url }
        }
        (Method::Get | Method::Head, OciPath::Ping) => Route::Ping { url },
        (_, OciPath::Other) => of_repository(head, url, false),
        _ => Route::Relay { url },
    }
}

/// Where the repositories of other hosts are found over https.
const MIRROR: &str = "/ostree/";

/// The URL of a mirror path. What a server might read in two ways is refused, as is a user's name.
fn mirrored(target: &str) -> Option<Url> {
    let url = Url::parse(&format!("https://{}", target.strip_prefix(MIRROR)?)).ok()?;
    ostree::is_plain(url.path()).then_some(url)
}

/// Routes what is no blob of a registry: a file of an OSTree repository, or anything. Names such as
/// `config` are many programs': they are those of a repository on the `mirror` path, or if it is
/// libostree or flatpak that asks.
fn of_repository(head: &RequestHead, url: Url, mirror: bool) -> Route {
    if !matches!(head.method, Method::Get | Method::Head) || url.query().is_some() {
        return Route::Relay { url };
    }
    let (repository, kind) = match ostree::parse(url.path()) {
        Some((_, path @ (RepoPath::Superblock(_) | RepoPath::Part(..)))) => {
            return of_delta(head, url, path);
        }
        Some((repository, RepoPath::Index(_))) => (repository, FileKind::Changing(Listing::Index)),
        Some((repository, RepoPath::Object(checksum, kind))) => match kind {
            ObjectKind::Commit | ObjectKind::DirTree | ObjectKind::DirMeta => {
                (repository, FileKind::Named(checksum))
            }
            ObjectKind::FileZ => (repository, FileKind::Packed(checksum)),
            ObjectKind::CommitMeta => (repository, FileKind::Changing(Listing::None)),
        },
        None => {
            let known = mirror || is_ostree(&head.headers);
            let Some(repository) = ostree::named_file(url.path()).filter(|_| known) else {
                return Route::Relay { url };
            };
            let is_summary = url.path().ends_with("/summary");
            let listing = if is_summary { Listing::Summary } else { Listing::None };
            (repository, FileKind::Changing(listing))
        }
    };
    let repository = Url { target: format!("{repository}/"), ..url.clone() }.to_string();
    Route::File { url, repository, kind }
}

fn of_delta(head: &RequestHead, url: Url, path: RepoPath) -> Route {
    match path {
        RepoPath::Superblock(id) if head.method == Method::Get => {
            Route::Delta { id, index: 0, url }
        }
        RepoPath::Part(id, number) if head.method == Method::Get => {
            Route::Delta { id, index: number as usize + 1, url }
        }
        _ => Route::Relay { url },
    }
}

fn is_ostree(headers: &Headers) -> bool {
    let agent = headers.text("user-agent").unwrap_or_default().to_ascii_lowercase();
    agent.contains("ostree") || agent.contains("flatpak")
}

fn has_passed(headers: &Headers, alias: &str) -> bool {
    headers.get_all("via").any(|via| {
        let via = String::from_utf8_lossy(via);
        via.split(',').any(|hop| hop.split_whitespace().nth(1) == Some(alias))
    })
}

/// containerd tells a mirror with `ns=` which registry it means; registries and the storage behind
/// them answer such a URL with errors (OCI distribution specification, "Registry Proxying").
fn without_namespace(mut url: Url) -> Url {
    let Some((path, query)) = url.target.split_once('?') else { return url };
    let is_kept = |part: &&str| part.split('=').next() != Some("ns");
    let kept: Vec<&str> = query.split('&').filter(is_kept).collect();
    url.target =
        if kept.is_empty() { path.to_owned() } else { format!("{path}?{}", kept.join("&")) };
    url
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::blob::Digest;

    const ALIAS: &str = "torrent-cache-1";

    fn registries() -> Registries {
        Registries::new(Url::parse("https://registry.example").unwrap(), Vec::new())
    }

    fn routed(line: &str, fields: &str) -> Route {
        let text = format!("{line} HTTP/1.1\r\nHost: mirror:8888\r\n{fields}\r\n");
        let (head, _) = RequestHead::decode(text.as_bytes()).unwrap().unwrap();
        route(&head, &registries(), ALIAS)
    }

    fn relay(url: &str) -> Route {
        Route::Relay { url: Url::parse(url).unwrap() }
    }

    fn digest() -> String {
        format!("sha256:{}", "ab".repeat(32))
    }

    fn blob(url: &str) -> Route {
        let name = BlobName::parse(&digest()).unwrap();
        Route::Blob { name, url: Url::parse(url).unwrap() }
    }

    #[test]
    fn paths_are_the_registrys() {
        let path = format!("/v2/library/a/blobs/{}", digest());
        let url = format!("https://registry.example{path}");
        assert_eq!(routed(&format!("GET {path}"), ""), blob(&url));
        assert_eq!(routed(&format!("HEAD {path}"), ""), blob(&url));
        assert_eq!(routed(&format!("DELETE {path}"), ""), relay(&url));
        let ping = Route::Ping { url: Url::parse("https://registry.example/v2/").unwrap() };
        assert_eq!(routed("GET /v2/", ""), ping);
        assert_eq!(routed("POST /v2/", ""), relay("https://registry.example/v2/"));
    }

    #[test]
    fn manifests_are_told_by_tag_and_by_digest() {
        let by_digest = Reference::Digest(Digest::parse(&digest()).unwrap());
        for (text, reference) in
            [("latest".to_owned(), Reference::Tag("latest".into())), (digest(), by_digest)]
        {
            let path = format!("/v2/library/a/manifests/{text}");
            let at = format!("https://registry.example{path}");
            let url = Url::parse(&at).unwrap();
            let wanted = Route::Manifest { reference, url };
            assert_eq!(routed(&format!("GET {path}"), ""), wanted);
            assert_eq!(routed(&format!("HEAD {path}?ns=docker.io"), ""), wanted);
            assert_eq!(routed(&format!("PUT {path}"), ""), relay(&at));
            assert_eq!(routed(&format!("DELETE {path}"), ""), relay(&at));
        }
    }

    #[test]
    fn whole_urls_are_what_they_say() {
        let url = format!("http://other.example:5000/v2/a/blobs/{}", digest());
        assert_eq!(routed(&format!("GET {url}"), ""), blob(&url));
        assert_eq!(routed("GET http://other.example/repo/config", ""), {
            relay("http://other.example/repo/config")
        });
        let tunnel = Route::Tunnel { host: "other.example".into(), port: 443 };
        let text = "CONNECT other.example:443 HTTP/1.1\r\nHost: other.example:443\r\n\r\n";
        let (head, _) = RequestHead::decode(text.as_bytes()).unwrap().unwrap();
        assert_eq!(route(&head, &registries(), ALIAS), tunnel);
    }

    fn file(url: &str, repository: &str, kind: FileKind) -> Route {
        let url = Url::parse(url).unwrap();
        Route::File { url, repository: repository.to_owned(), kind }
    }

    #[test]
    fn files_of_repositories_are_known_by_their_paths() {
        let name = "ab".repeat(32);
        let path = |ending: &str| format!("objects/{}/{}.{ending}", &name[..2], &name[2..]);
        let named = FileKind::Named(ostree::Checksum([0xab; 32]));
        let other = FileKind::Changing(Listing::None);
        for (ending, kind) in [
            ("commit", named),
            ("dirtree", named),
            ("dirmeta", named),
            ("filez", FileKind::Packed(ostree::Checksum([0xab; 32]))),
            ("commitmeta", other),
        ] {
            let url = format!("http://a.example/r/{}", path(ending));
            let wanted = file(&url, "http://a.example/r/", kind);
            assert_eq!(routed(&format!("GET {url}"), ""), wanted);
            assert_eq!(routed(&format!("POST {url}"), ""), relay(&url));
            assert_eq!(routed(&format!("GET {url}?a=b"), ""), relay(&format!("{url}?a=b")));
            let wanted = file(&url.replace("http:", "https:"), "https://a.example/r/", kind);
            assert_eq!(routed(&format!("HEAD /ostree/a.example/r/{}", path(ending)), ""), wanted);
        }
        let index = format!("http://a.example/delta-indexes/{}/{}.index", "ab", "c".repeat(41));
        let wanted = file(&index, "http://a.example/", FileKind::Changing(Listing::Index));
        assert_eq!(routed(&format!("GET {index}"), ""), wanted);
    }

    #[test]
    fn names_that_are_not_ostrees_alone_are_so_for_it_or_on_the_mirror() {
        let url = "http://a.example/r/summary";
        let summary = |url: &str| {
            let repository = format!("{}/", url.strip_suffix("/summary").unwrap());
            file(url, &repository, FileKind::Changing(Listing::Summary))
        };
        assert_eq!(routed(&format!("GET {url}"), "User-Agent: curl/7\r\n"), relay(url));
        for agent in ["libostree/2022.7", "Flatpak 1.14.10"] {
            let agent = format!("User-Agent: {agent}\r\n");
            assert_eq!(routed(&format!("GET {url}"), &agent), summary(url));
        }
        let mirrored = routed("GET /ostree/a.example:8443/r/summary", "");
        assert_eq!(mirrored, summary("https://a.example:8443/r/summary"));
        for rest in ["config", "summary.sig", "refs/heads/a", "summaries/ab.gz"] {
            let kind = FileKind::Changing(Listing::None);
            let wanted = file(&format!("https://a.example/r/{rest}"), "https://a.example/r/", kind);
            assert_eq!(routed(&format!("GET /ostree/a.example/r/{rest}"), ""), wanted);
        }
        assert_eq!(routed("GET /ostree/a.example/r/x", ""), relay("https://a.example/r/x"));
    }

    #[test]
    fn a_mirror_path_has_one_reading() {
        for path in [
            "",
            "a.example",
            "/r/config",
            "user@a.example/r/config",
            "a.example/r/../config",
            "a.example/./config",
            "a.example//config",
            "a.example/r%2fconfig",
            "a.example:0/config",
        ] {
            let route = routed(&format!("GET /ostree/{path}"), "");
            assert!(matches!(route, Route::Refuse { status: 400, .. }), "{path}: {route:?}");
        }
    }

    #[test]
    fn files_of_deltas_are_told_by_their_paths() {
        let dir = "deltas/b7/b2ALJN7vQYyjcDPMs0_qxsbtLCbGwMxXBh2y792ng";
        let url = |file: &str| format!("http://ostree.example/repo/{dir}/{file}");
        for (file, wanted) in [("superblock", 0), ("0", 1), ("11", 12)] {
            match routed(&format!("GET {}", url(file)), "") {
                Route::Delta { index, url: at, .. } => {
                    assert_eq!((index, at.to_string()), (wanted, url(file)));
                }
                other => panic!("{file}: {other:?}"),
            }
        }
        for line in [
            format!("HEAD {}", url("superblock")),
            format!("GET {}?x", url("superblock")),
            format!("GET {}", url("other")),
        ] {
            assert!(matches!(routed(&line, ""), Route::Relay { .. }), "{line}");
        }
    }

    #[test]
    fn the_namespace_goes_no_further() {
        let path = format!("/v2/a/blobs/{}", digest());
        let docker = format!("https://registry.example{path}");
        assert_eq!(routed(&format!("GET {path}?ns=docker.io"), ""), blob(&docker));
        let other = format!("https://r:5000{path}?x=1&y");
        assert_eq!(routed(&format!("GET {path}?x=1&ns=r%3A5000&y"), ""), blob(&other));
        assert_eq!(routed("GET /repo/x?ns=1", ""), relay("https://registry.example/repo/x?ns=1"));
    }

    #[test]
    fn a_namespace_that_is_no_registry_goes_nowhere() {
        let refused = routed("GET /v2/a/manifests/b?ns=a/b", "");
        assert!(matches!(refused, Route::Refuse { status: 400, .. }), "{refused:?}");
    }

    #[test]
    fn paths_that_only_look_like_a_blob_are_not_one() {
        for path in [
            format!("/v2/a/%2e%2e/blobs/{}", digest()),
            format!("/v2/a/../blobs/{}", digest()),
            format!("/v2/a/blobs/{}", digest().to_uppercase()),
            format!("/v2/a/blobs/{}0", digest()),
            format!("//v2/a/blobs/{}", digest()),
        ] {
            assert!(!matches!(routed(&format!("GET {path}"), ""), Route::Blob { .. }), "{path}");
        }
    }

    #[test]
    fn a_request_that_comes_back_is_refused() {
        let passed = routed("GET /v2/", "Via: 1.1 a, 1.1 torrent-cache-1\r\n");
        assert!(matches!(passed, Route::Refuse { status: 508, .. }));
        assert!(matches!(routed("GET /v2/", "Via: 1.1 torrent-cache-2\r\n"), Route::Ping { .. }));
    }
}
