//! Manifests of images, which are what a pull begins with: by a tag, or by a digest.
//!
//! A manifest is a blob like any other: kept, shared with other hosts, and held against its digest.
//! Which one a tag stands for is the upstream's to say, each time: a `HEAD` with the client's own
//! `Accept` brings the digest, and lets this client in. Registries that limit pulls count the `GET`
//! of a manifest, and not the `HEAD`, so the `GET` is the first host's alone: it claims the blob
//! before it asks ([`BlobRequest::told_len`]), and the others of the network follow it.
//!
//! What a tag stood for last is noted as a file, for when the upstream cannot be asked.
//!
//! **Invariant:** whatever is in the way of this, the client gets the upstream's own answer.

use std::collections::HashMap;
use std::sync::Arc;

use crate::base::hash::{hex, sha256};
use crate::fetch::access::{Claimant, is_refusal};
use crate::fetch::blob_body::BlobBody;
use crate::fetch::grants::Standing;
use crate::fetch::{BlobRequest, FetchError, Fetcher, Loaded, Reader};
use crate::limits;
use crate::log_limited;
use crate::proto::blob::{BlobName, Digest};
use crate::proto::http1::{Headers, Url};
use crate::proto::oci::{self, ManifestType, Reference};
use crate::store::FileMeta;
use crate::upstream::{Answer, Origin, UpstreamError};

/// A request for a manifest.
#[derive(Clone, Debug)]
pub struct ManifestRequest {
    /// Where it lives, with the headers that may be forwarded.
    pub origin: Origin,
    /// By what it is asked for.
    pub reference: Reference,
}

/// A manifest, whole and with the digest that it is named for.
#[derive(Debug)]
pub struct Manifest {
    /// What it is named for.
    pub name: BlobName,
    /// Its type.
    pub media_type: ManifestType,
    /// All of it.
    pub bytes: Loaded,
    /// Where it comes from: `store`, `swarm`, `upstream`, or `stale` if the upstream could not be
    /// asked.
    pub source: &'static str,
}

/// How a `HEAD` is answered.
#[derive(Debug)]
pub enum ManifestHead {
    /// With what the upstream says.
    Said(Answer),
    /// The upstream cannot be asked; with this.
    Kept(Manifest),
}

/// How long manifests are, as the upstream or an index said: a hint for those who claim them.
#[derive(Debug, Default)]
pub(super) struct ToldLens(HashMap<BlobName, u64>);

impl ToldLens {
    fn put(&mut self, name: BlobName, len: u64) {
        if !(1..=limits::MANIFEST_LEN_MAX as u64).contains(&len) {
            return;
        }
        // A pull asks at once for what it was told of: what is older is of no use.
        if self.0.len() >= limits::MANIFEST_LENS_MAX {
            self.0.clear();
        }
        self.0.insert(name, len);
    }
}

impl ManifestRequest {
    /// As a request for the blob, by its digest.
    fn of_blob(&self, name: BlobName, told_len: Option<u64>) -> BlobRequest {
        let url = &self.origin.url;
        let folder = url.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let target = format!("{folder}/{name}{query}");
        let origin = Origin { url: Url { target, ..url.clone() }, ..self.origin.clone() };
        BlobRequest { name, origin, range: None, file: None, is_granted: false, told_len }
    }

    /// Whether its client takes a manifest of this type.
    fn takes(&self, media_type: ManifestType) -> bool {
        media_type.is_accepted(self.origin.headers.get_all("accept"))
    }

    /// Under which the digest is noted that a tag stood for last. What it stands for depends on the
    /// types that the client takes, in any order.
    fn note_key(&self) -> String {
        let accept = self.origin.headers.get_all("accept");
        let accept = accept.map(|value| String::from_utf8_lossy(value).to_ascii_lowercase());
        let accept = accept.collect::<Vec<_>>().join(",");
        let mut types: Vec<&str> = accept.split(',').map(str::trim).collect();
        types.sort_unstable();
        types.dedup();
        format!("{}#{}", self.origin.url, hex(&sha256(types.join(",").as_bytes())))
    }
}

impl Fetcher {
    /// The manifest; `None`: the client is to have the upstream's answer as it is.
    ///
    /// # Errors
    /// [`FetchError`]: nothing has been sent, the client can be told.
    pub fn open_manifest(
        self: &Arc<Self>,
        request: &ManifestRequest,
    ) -> Result<Option<Manifest>, FetchError> {
        let by_digest = match &request.reference {
            Reference::Digest(digest) => Some(BlobName::Content(*digest)),
            Reference::Tag(_) => None,
        };
        let is_tag = by_digest.is_none();
        let name = match by_digest {
            Some(name) if self.store().contains(&name) || self.told_len(&name).is_some() => name,
            // Of a digest it says the length, which who claims it has to know.
            _ => match (self.head_manifest(request), by_digest) {
                (Ok(ManifestHead::Kept(manifest)), _) => return Ok(Some(manifest)),
                (_, Some(name)) => name,
                (Ok(ManifestHead::Said(answer)), None) => match named_by(&answer) {
                    Some((name, media_type)) if request.takes(media_type) => name,
                    _ => return Ok(None),
                },
                // It may break at this question alone.
                (Err(FetchError::Upstream(UpstreamError::Io(_))), None) => return Ok(None),
                (Err(error), None) => return Err(error),
            },
        };
        let told_len = self.told_len(&name);
        match self.open(&request.of_blob(name, told_len)) {
            Ok(reader) => {
                let source = reader.source();
                let manifest = self.whole_manifest(reader, source);
                Ok(manifest.filter(|manifest| request.takes(manifest.media_type)))
            }
            Err(FetchError::Upstream(error)) if is_tag && is_unknown(&error) => Ok(None),
            Err(FetchError::Upstream(UpstreamError::Encoded)) => Ok(None),
            Err(FetchError::Upstream(error)) => Err(FetchError::Upstream(error)),
            Err(error) => {
                log_limited!(warn, "manifest {name} is relayed: {error}");
                Ok(None)
            }
        }
    }

    fn told_len(&self, name: &BlobName) -> Option<u64> {
        self.told_lens.lock().0.get(name).copied()
    }

    /// What the upstream says of a manifest, or the one that it had when it could be asked.
    ///
    /// # Errors
    /// If the upstream cannot be asked, and there is nothing that may be given in its place.
    pub fn head_manifest(
        self: &Arc<Self>,
        request: &ManifestRequest,
    ) -> Result<ManifestHead, FetchError> {
        let url = &request.origin.url;
        // What a tag is it is asked in any case.
        if matches!(request.reference, Reference::Digest(_))
            && self.outages.is_away(url)
            && let Some(manifest) = self.kept_manifest(request)
        {
            return Ok(ManifestHead::Kept(manifest));
        }
        match self.parts.upstream.head(&request.origin) {
            Ok(answer) if answer.status >= 400 && !is_refusal(answer.status) => {
                let kept = self.kept_manifest(request);
                Ok(kept.map_or(ManifestHead::Said(answer), ManifestHead::Kept))
            }
            Ok(answer) => {
                self.learn_manifest(request, &answer);
                Ok(ManifestHead::Said(answer))
            }
            Err(error) => {
                self.outages.note(url, &error);
                let kept = self.kept_manifest(request).map(ManifestHead::Kept);
                kept.ok_or(FetchError::Upstream(error))
            }
        }
    }

    /// Takes note of who may have what, and of what a tag stands for.
    fn learn_manifest(&self, request: &ManifestRequest, answer: &Answer) {
        if let Some((name, _)) = named_by(answer) {
            self.granted(&request.of_blob(name, None));
            if let Some(len) = len_of(answer) {
                self.told_lens.lock().put(name, len);
            }
            if matches!(request.reference, Reference::Tag(_)) {
                self.note_tag(request, name);
            }
        } else if matches!(answer.status, 401 | 403) {
            let Claimant { scope, credential } = Claimant::of(&request.origin);
            self.grants.lock().revoke(&scope, credential);
        } else if matches!(answer.status, 404 | 410) {
            // Nobody is given any more what the upstream does not give.
            self.store().forget_file(&request.note_key());
        }
    }

    /// Notes what a tag stands for. A query may be a secret: then it is not noted.
    fn note_tag(&self, request: &ManifestRequest, name: BlobName) {
        let (url, text) = (request.note_key(), name.to_string());
        if request.origin.url.query().is_some() || self.noted(&url) == Some(name) {
            return;
        }
        let meta = FileMeta { url, status: 200, public: false, headers: Headers::new() };
        if let Err(error) = self.store().put_file(&meta, text.as_bytes()) {
            log_limited!(warn, "what a tag stands for is not noted: {error}");
        }
    }

    /// What may be given in place of the upstream's answer.
    fn kept_manifest(self: &Arc<Self>, request: &ManifestRequest) -> Option<Manifest> {
        let name = match &request.reference {
            Reference::Digest(digest) => BlobName::Content(*digest),
            Reference::Tag(_) => self.noted(&request.note_key())?,
        };
        let mut asked = request.of_blob(name, None);
        let is_known = self.standing(&asked) != Standing::Unknown;
        if !self.offline.serves(is_known) || !self.store().contains(&name) {
            return None;
        }
        asked.is_granted = true;
        let manifest = self.whole_manifest(self.open(&asked).ok()?, "stale")?;
        if !request.takes(manifest.media_type) {
            return None;
        }
        let registry = request.origin.url.authority();
        log_limited!(warn, "manifest {name} is served unchecked: {registry} gives no answer");
        Some(manifest)
    }

    /// What a tag stood for last. It says nothing of who may have that.
    fn noted(&self, url: &str) -> Option<BlobName> {
        let noted = self.store().file(url)?.whole().ok()?;
        BlobName::parse(std::str::from_utf8(&noted).ok()?).ok()
    }

    /// All of a manifest. `None`: it is none, or cannot be had, or has more than
    /// [`limits::MANIFEST_LEN_MAX`] bytes.
    fn whole_manifest(&self, reader: Reader, source: &'static str) -> Option<Manifest> {
        let name = reader.name();
        let mut share = self.files.share();
        let mut body = BlobBody::new(reader);
        let mut bytes = Vec::new();
        loop {
            match body.next_part() {
                Ok([]) => break,
                Ok(part) => bytes.extend_from_slice(part),
                Err(error) => {
                    log_limited!(warn, "manifest {name} is relayed: {error}");
                    return None;
                }
            }
            let taken = bytes.len() as u64 * limits::JSON_EXPANSION;
            if bytes.len() > limits::MANIFEST_LEN_MAX || !share.hold(taken) {
                return None;
            }
        }
        let read = oci::Manifest::decode(&bytes)?;
        let mut told_lens = self.told_lens.lock();
        for (digest, len) in read.listed {
            told_lens.put(BlobName::Content(digest), len);
        }
        drop(told_lens);
        share.shrink(bytes.len() as u64);
        let (media_type, bytes) = (read.media_type, Loaded::new(bytes, share));
        Some(Manifest { name, media_type, bytes, source })
    }
}

/// The manifest that the upstream means, and its type, if it is one that is named for its bytes and
/// can be kept.
fn named_by(answer: &Answer) -> Option<(BlobName, ManifestType)> {
    let headers = Some(&answer.headers).filter(|_| answer.status == 200)?;
    let media_type = headers.text("content-type").and_then(ManifestType::parse)?;
    if len_of(answer).is_some_and(|len| len > limits::MANIFEST_LEN_MAX as u64) {
        return None;
    }
    let digest = Digest::parse(headers.text("docker-content-digest")?).ok()?;
    Some((BlobName::Content(digest), media_type))
}

/// Whether the upstream knows a manifest by its tag alone.
fn is_unknown(error: &UpstreamError) -> bool {
    matches!(error, UpstreamError::Status(answer) if matches!(answer.status, 400 | 404 | 405))
}

fn len_of(answer: &Answer) -> Option<u64> {
    answer.headers.text("content-length")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(url: &str, accept: &[&str]) -> ManifestRequest {
        let mut headers = Headers::new();
        for value in accept {
            headers.append("Accept", value);
        }
        let origin = Origin { url: Url::parse(url).unwrap(), headers };
        ManifestRequest { origin, reference: Reference::Tag("latest".into()) }
    }

    #[test]
    fn a_manifest_is_asked_for_by_its_digest_in_the_same_repository() {
        let name = BlobName::parse(&format!("sha256:{}", "ab".repeat(32))).unwrap();
        for query in ["", "?key=me"] {
            let tagged = request(&format!("https://r:5000/v2/a/b/manifests/latest{query}"), &[]);
            let asked = tagged.of_blob(name, Some(7));
            let url = format!("https://r:5000/v2/a/b/manifests/{name}{query}");
            assert_eq!(asked.origin.url.to_string(), url);
            assert_eq!((asked.name, asked.told_len), (name, Some(7)));
        }
    }

    #[test]
    fn what_a_tag_stands_for_is_noted_for_each_set_of_types() {
        let url = "https://r/v2/a/manifests/latest";
        let key = |accept: &[&str]| request(url, accept).note_key();
        assert_eq!(key(&["a/b", "c/d"]), key(&["c/d, A/B"]));
        assert_eq!(key(&["a/b", "a/b"]), key(&["a/b"]));
        assert_ne!(key(&["a/b"]), key(&["a/b", "c/d"]));
        assert_ne!(key(&["a/b"]), request(&format!("{url}r"), &["a/b"]).note_key());
        assert!(key(&[]).starts_with(&format!("{url}#")));
    }

    #[test]
    fn only_a_manifest_that_is_named_for_its_bytes_is_known_by_an_answer() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let oci = ManifestType::OciIndex.as_str();
        let answer = |status, kind: &str, digest: &str, len: &str| {
            let mut headers = Headers::new();
            headers.append("Content-Type", kind);
            headers.append("Docker-Content-Digest", digest);
            headers.append("Content-Length", len);
            named_by(&Answer { status, headers, body: Vec::new() }).map(|(name, _)| name)
        };
        assert_eq!(answer(200, oci, &digest, "7"), BlobName::parse(&digest).ok());
        let signed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        for (status, kind, digest, len) in [
            (404, oci, &*digest, "7"),
            (200, signed, &digest, "7"),
            (200, oci, "md5:ab", "7"),
            (200, oci, &digest, "1048577"),
        ] {
            assert_eq!(answer(status, kind, digest, len), None, "{status} {kind} {digest} {len}");
        }
    }

    #[test]
    fn what_was_told_of_lengths_is_bounded() {
        let mut told = ToldLens::default();
        for number in 0..=limits::MANIFEST_LENS_MAX as u64 {
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&number.to_be_bytes());
            told.put(BlobName::Content(Digest::Sha256(digest)), 7);
            assert!(told.0.len() <= limits::MANIFEST_LENS_MAX);
        }
        assert_eq!(told.0.len(), 1);
        let (name, max) = (BlobName::Content(Digest::Sha256([9; 32])), limits::MANIFEST_LEN_MAX);
        for (len, known) in [(0, None), (max as u64 + 1, None), (max as u64, Some(max as u64))] {
            told.put(name, len);
            assert_eq!(told.0.get(&name).copied(), known);
        }
    }
}
