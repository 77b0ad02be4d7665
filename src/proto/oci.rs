//! Paths, manifests and error bodies of the registry API (OCI distribution specification 1.1).

use std::fmt;

use serde_json::{Value, json};

use crate::proto::blob::Digest;

/// The longest repository name; the specification says that hosts limit name and host name together
/// to 255.
const REPOSITORY_LEN_MAX: usize = 255;
/// The longest tag, by the specification.
const TAG_LEN_MAX: usize = 128;

/// What a path of the registry API names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OciPath {
    /// `/v2/`: does the registry speak the API, and what credentials does it want?
    Ping,
    /// `/v2/<name>/blobs/<digest>`.
    Blob {
        /// The repository's name.
        repository: String,
        /// The blob's digest.
        digest: Digest,
    },
    /// `/v2/<name>/manifests/<reference>`.
    Manifest {
        /// The repository's name.
        repository: String,
        /// By what it is asked for.
        reference: Reference,
    },
    /// Anything else: uploads, tags, referrers, other paths.
    Other,
}

/// By what a manifest is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// A name that may be given to another manifest at any time.
    Tag(String),
    /// The digest of its bytes.
    Digest(Digest),
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Tag(tag) => f.write_str(tag),
            Reference::Digest(digest) => write!(f, "{digest}"),
        }
    }
}

/// Reads a path without its query. Only the exact spelling of the specification names a blob: what
/// is percent-encoded, has dot segments or doubled slashes is [`OciPath::Other`], since the
/// upstream may read it as something else.
#[must_use]
pub fn parse(path: &str) -> OciPath {
    if path == "/v2/" || path == "/v2" {
        return OciPath::Ping;
    }
    parse_content(path).unwrap_or(OciPath::Other)
}

fn parse_content(path: &str) -> Option<OciPath> {
    let rest = path.strip_prefix("/v2/")?;
    let (rest, last) = rest.rsplit_once('/')?;
    let (repository, kind) = rest.rsplit_once('/')?;
    if !is_repository(repository) {
        return None;
    }
    let repository = repository.to_owned();
    match kind {
        "blobs" => Some(OciPath::Blob { repository, digest: Digest::parse(last).ok()? }),
        "manifests" => Some(OciPath::Manifest { repository, reference: Reference::parse(last)? }),
        _ => None,
    }
}

impl Reference {
    fn parse(text: &str) -> Option<Reference> {
        match Digest::parse(text) {
            Ok(digest) => Some(Reference::Digest(digest)),
            Err(_) => is_tag(text).then(|| Reference::Tag(text.to_owned())),
        }
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
fn is_repository(text: &str) -> bool {
    text.len() <= REPOSITORY_LEN_MAX && text.split('/').all(is_component)
}

fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends = text.bytes().next().is_some_and(is_word) && text.bytes().last().is_some_and(is_word);
    let separator =
        |run: &str| matches!(run, "" | "." | "_" | "__") || run.bytes().all(|byte| byte == b'-');
    // Between two words stands one separator; what is left after splitting at the words are those.
    ends && text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).all(separator)
}

/// `[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}`
fn is_tag(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= TAG_LEN_MAX
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|byte| is_word(byte) || byte == b'.' || byte == b'-')
}

/// A manifest's media type, of those whose digest is that of the bytes that are sent. The one
/// before them, `application/vnd.docker.distribution.manifest.v1+prettyjws`, is signed, and its
/// digest leaves the signatures out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManifestType {
    /// Of one image (OCI image specification).
    OciManifest,
    /// A list of manifests (OCI image specification).
    OciIndex,
    /// Of one image (Docker's image manifest, version 2, schema 2).
    DockerManifest,
    /// A list of manifests (the same).
    DockerList,
}

impl ManifestType {
    const ALL: [ManifestType; 4] = [
        ManifestType::OciManifest,
        ManifestType::OciIndex,
        ManifestType::DockerManifest,
        ManifestType::DockerList,
    ];

    /// As it stands in `Content-Type` and `Accept`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            ManifestType::OciManifest => "application/vnd.oci.image.manifest.v1+json",
            ManifestType::OciIndex => "application/vnd.oci.image.index.v1+json",
            ManifestType::DockerManifest => "application/vnd.docker.distribution.manifest.v2+json",
            ManifestType::DockerList => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    /// Reads a value of `Content-Type`, parameters left aside.
    #[must_use]
    pub fn parse(text: &str) -> Option<ManifestType> {
        let essence = essence(text);
        ManifestType::ALL.into_iter().find(|kind| essence.eq_ignore_ascii_case(kind.as_str()))
    }

    /// What it says itself that it is. One that says nothing, which OCI allows, is known by what it
    /// has. `None`: it is none of these, or both a list and not.
    fn of(manifest: &Value) -> Option<ManifestType> {
        let has = |field: &str| manifest.get(field).is_some();
        if manifest.get("schemaVersion").and_then(Value::as_u64) != Some(2) {
            return None;
        }
        match (manifest.get("mediaType"), has("manifests"), has("config") || has("layers")) {
            (Some(told), _, _) => ManifestType::parse(told.as_str()?),
            (None, true, false) => Some(ManifestType::OciIndex),
            (None, false, true) => Some(ManifestType::OciManifest),
            (None, _, _) => None,
        }
    }

    /// Whether a client takes it whose `Accept` fields have these values; none: it takes anything
    /// (RFC 9110 section 12.5.1).
    #[must_use]
    pub fn is_accepted<'a>(self, accept: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut accept = accept.peekable();
        accept.peek().is_none()
            || accept.any(|value| {
                let value = String::from_utf8_lossy(value);
                value.split(',').map(essence).any(|range| {
                    matches!(range, "*/*" | "application/*")
                        || range.eq_ignore_ascii_case(self.as_str())
                })
            })
    }
}

/// A media type without its parameters.
fn essence(text: &str) -> &str {
    text.split(';').next().unwrap_or_default().trim()
}

/// What is to be known of a manifest to pass it on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its type.
    pub media_type: ManifestType,
    /// The manifests that it lists, and how many bytes it says that each has.
    pub listed: Vec<(Digest, u64)>,
}

impl Manifest {
    /// Reads one. In memory it takes [`crate::limits::JSON_EXPANSION`] times its length. `None`: it
    /// is no manifest of a [`ManifestType`].
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Manifest> {
        let manifest: Value = serde_json::from_slice(bytes).ok()?;
        let media_type = ManifestType::of(&manifest)?;
        let listed = manifest.get("manifests").and_then(Value::as_array).into_iter().flatten();
        let described = listed.filter_map(|descriptor| {
            let digest = Digest::parse(descriptor.get("digest")?.as_str()?).ok()?;
            Some((digest, descriptor.get("size")?.as_u64()?))
        });
        Some(Manifest { media_type, listed: described.collect() })
    }
}

/// The body of an error answer; `code` is one of the specification's, such as `BLOB_UNKNOWN`.
#[must_use]
pub fn error_body(code: &str, message: &str) -> Vec<u8> {
    json!({ "errors": [{ "code": code, "message": message }] }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest() -> String {
        format!("sha256:{}", "0a".repeat(32))
    }

    #[test]
    fn the_three_paths_are_known() {
        let digest = digest();
        assert_eq!(parse("/v2/"), OciPath::Ping);
        assert_eq!(parse("/v2"), OciPath::Ping);
        for name in ["a", "library/three", "a.b/c_d/e__f/g---h", "v2", "blobs", "a/blobs"] {
            let blob = OciPath::Blob {
                repository: name.to_owned(),
                digest: Digest::parse(&digest).unwrap(),
            };
            assert_eq!(parse(&format!("/v2/{name}/blobs/{digest}")), blob);
            let tag = |tag: &str| (tag.to_owned(), Reference::Tag(tag.to_owned()));
            let by_digest = Reference::Digest(Digest::parse(&digest).unwrap());
            for (text, reference) in [tag("latest"), tag("_1.0-rc.1"), (digest.clone(), by_digest)]
            {
                let manifest = OciPath::Manifest { repository: name.to_owned(), reference };
                assert_eq!(parse(&format!("/v2/{name}/manifests/{text}")), manifest);
            }
        }
    }

    #[test]
    fn everything_else_is_other() {
        let digest = digest();
        let long = "a".repeat(REPOSITORY_LEN_MAX + 1);
        for name in [
            "", "A", "a/", "/a", "a//b", ".", "..", "a/../b", "a/./b", "a..b", "a___b", "a_-b",
            "a._b", "-a", "a-", "a%2fb", "%61", "a b", "a\\b", "é", &long,
        ] {
            assert_eq!(parse(&format!("/v2/{name}/blobs/{digest}")), OciPath::Other, "{name}");
        }
        for path in [
            "/",
            "/v1/",
            "/v2/a/tags/list",
            "/v2/a/blobs/uploads/",
            "/v2/a/blobs/sha256:xyz",
            "/v2/a/manifests/-x",
            "/v2/a/manifests/",
            "/v2/a/manifests/..",
            "//v2/a/manifests/b",
            "v2/a/manifests/b",
        ] {
            assert_eq!(parse(path), OciPath::Other, "{path}");
        }
        for digest in [
            digest.to_uppercase(),
            digest.replace(':', "%3A"),
            format!("{digest}/"),
            format!("{digest}?x"),
            format!("../blobs/{digest}"),
        ] {
            let parsed = parse(&format!("/v2/a/blobs/{digest}"));
            assert!(!matches!(parsed, OciPath::Blob { .. }), "{digest}");
        }
        let tag = "t".repeat(TAG_LEN_MAX + 1);
        assert_eq!(parse(&format!("/v2/a/manifests/{tag}")), OciPath::Other);
    }

    #[test]
    fn a_manifest_is_of_the_type_that_it_says_or_shows() {
        use ManifestType::{DockerList, DockerManifest, OciIndex, OciManifest};
        let of = |text: &str| Manifest::decode(text.as_bytes()).map(|told| told.media_type);
        for kind in ManifestType::ALL {
            let told = format!(r#"{{"schemaVersion":2,"mediaType":"{}"}}"#, kind.as_str());
            assert_eq!(of(&told), Some(kind));
        }
        assert_eq!(of(r#"{"schemaVersion":2,"manifests":[]}"#), Some(OciIndex));
        assert_eq!(of(r#"{"schemaVersion":2,"config":{},"layers":[]}"#), Some(OciManifest));
        for text in [
            "",
            "{",
            "[]",
            "{}",
            r#"{"manifests":[]}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":1,"config":{},"layers":[]}"#,
            r#"{"schemaVersion":"2","manifests":[]}"#,
            r#"{"schemaVersion":2,"mediaType":7,"manifests":[]}"#,
            r#"{"schemaVersion":2,"mediaType":"text/plain","manifests":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        let told = format!("{}; charset=utf-8", DockerList.as_str());
        assert_eq!(ManifestType::parse(&told), Some(DockerList));
        assert_eq!(
            ManifestType::parse(&DockerManifest.as_str().to_uppercase()),
            Some(DockerManifest)
        );
        assert_eq!(ManifestType::parse("application/json"), None);
    }

    #[test]
    fn a_client_gets_no_type_that_it_does_not_take() {
        let takes = |fields: &[&str]| {
            ManifestType::OciIndex.is_accepted(fields.iter().map(|field| field.as_bytes()))
        };
        let (index, list) = (ManifestType::OciIndex.as_str(), ManifestType::DockerList.as_str());
        assert!(takes(&[]) && takes(&[index]) && takes(&["*/*"]) && takes(&["application/*"]));
        assert!(takes(&[list, &format!("text/html , {index};q=0.5")]));
        assert!(takes(&[&format!("{list}, */*;q=0.1")]));
        assert!(!takes(&[""]) && !takes(&[list]) && !takes(&["application/json", "text/*"]));
    }

    #[test]
    fn an_index_tells_its_manifests_and_their_lengths() {
        let digest = digest();
        let index = json!({ "schemaVersion": 2, "manifests": [
            { "digest": digest, "size": 7 },
            { "digest": digest, "size": -1 },
            { "digest": "sha256:x", "size": 7 },
            { "size": 7 },
            7,
        ] });
        let listed = |index: &Value| Manifest::decode(index.to_string().as_bytes()).unwrap().listed;
        assert_eq!(listed(&index), [(Digest::parse(&digest).unwrap(), 7)]);
        assert_eq!(listed(&json!({ "schemaVersion": 2, "manifests": 7 })), []);
    }

    #[test]
    fn error_bodies_are_escaped_json() {
        let body = error_body("BLOB_UNKNOWN", "no \"such\"\nblob");
        let text = String::from_utf8(body).unwrap();
        assert_eq!(text, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no \"such\"\nblob"}]}"#);
    }
}
