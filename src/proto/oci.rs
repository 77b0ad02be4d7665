//! Paths and error bodies of the OCI distribution specification 1.1 (the registry API).

use serde_json::json;

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
        /// A tag or a digest.
        reference: String,
    },
    /// Anything else: uploads, tags, referrers, other paths.
    Other,
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
        "manifests" if is_tag(last) || Digest::parse(last).is_ok() => {
            Some(OciPath::Manifest { repository, reference: last.to_owned() })
        }
        _ => None,
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
            for reference in ["latest", "_1.0-rc.1", &digest] {
                let manifest = OciPath::Manifest {
                    repository: name.to_owned(),
                    reference: reference.to_owned(),
                };
                assert_eq!(parse(&format!("/v2/{name}/manifests/{reference}")), manifest);
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
    fn error_bodies_are_escaped_json() {
        let body = error_body("BLOB_UNKNOWN", "no \"such\"\nblob");
        let text = String::from_utf8(body).unwrap();
        assert_eq!(text, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"no \"such\"\nblob"}]}"#);
    }
}
