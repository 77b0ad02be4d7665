//! Whether a request may have a blob that this host need not ask the upstream for.

use std::fmt;
use std::str::FromStr;

use crate::base::clock::Time;
use crate::fetch::grants::{Credential, Scope, Standing};
use crate::fetch::{BlobRequest, FetchError, Fetcher};
use crate::proto::blob::BlobName;
use crate::proto::http1::Url;
use crate::proto::oci::{self, OciPath};
use crate::proto::ostree;
use crate::upstream::{Origin, UpstreamError};

/// What to do with a request for something that we have when the upstream cannot be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Offline {
    /// Serve what the same credential, or anybody, was granted before.
    #[default]
    Granted,
    /// Serve everything: for networks where everybody may read everything.
    Allow,
    /// Serve nothing.
    Deny,
}

impl Offline {
    /// Whether a request is served that the upstream cannot be asked about; `known`: it was granted
    /// before.
    pub(super) fn serves(self, known: bool) -> bool {
        match self {
            Offline::Granted => known,
            Offline::Allow => true,
            Offline::Deny => false,
        }
    }
}

impl FromStr for Offline {
    type Err = UnknownOffline;

    fn from_str(text: &str) -> Result<Offline, UnknownOffline> {
        match text {
            "granted" => Ok(Offline::Granted),
            "allow" => Ok(Offline::Allow),
            "deny" => Ok(Offline::Deny),
            _ => Err(UnknownOffline),
        }
    }
}

/// A word that is no [`Offline`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownOffline;

impl fmt::Display for UnknownOffline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("neither granted nor allow nor deny")
    }
}

/// Who asks for what from where.
#[derive(PartialEq, Eq)]
pub(super) struct Claimant {
    pub(super) scope: Scope,
    pub(super) credential: Credential,
}

impl Claimant {
    pub(super) fn of(origin: &Origin) -> Claimant {
        let credential = Credential::of_request(origin.url.query(), &origin.headers);
        Claimant { scope: scope_of(&origin.url), credential }
    }
}

/// The repository of a blob, a manifest, or a file of a delta, that is at `url`.
pub(super) fn scope_of(url: &Url) -> Scope {
    let path = url.path();
    let target = match (ostree::parse(path), oci::parse(path)) {
        (Some((repository, _)), _) => format!("{repository}/"),
        // Who may pull from one may have both (the scope `repository:NAME:pull` of tokens).
        (_, OciPath::Blob { repository, .. } | OciPath::Manifest { repository, .. }) => {
            format!("/v2/{repository}")
        }
        // The repository is all of the path before the blob's own name.
        _ => path.rsplit_once('/').map_or("", |(repository, _)| repository).to_owned(),
    };
    Scope(Url { target, ..url.clone() }.to_string().into())
}

impl Fetcher {
    /// Makes sure that the upstream would serve this request.
    ///
    /// # Errors
    /// The upstream's refusal, or that it could not be asked and nothing better is known.
    pub(super) fn authorise(&self, request: &BlobRequest) -> Result<(), FetchError> {
        let standing = self.standing(request);
        if request.is_granted || standing == Standing::Granted {
            return Ok(());
        }
        self.consult(request, standing)
    }

    /// As [`Fetcher::authorise`], but the upstream is asked whatever it said before: who pushes an
    /// image asks which blobs the registry has, and registries delete blobs.
    ///
    /// # Errors
    /// As there.
    pub(super) fn confirm(&self, request: &BlobRequest) -> Result<(), FetchError> {
        match self.standing(request) {
            Standing::Unknown => self.consult(request, Standing::Unknown),
            _ => self.consult(request, Standing::GrantedBefore),
        }
    }

    fn consult(&self, request: &BlobRequest, standing: Standing) -> Result<(), FetchError> {
        let away = standing == Standing::GrantedBefore && self.outages.is_away(&request.origin.url);
        let answer = if away { Err(UpstreamError::TimedOut) } else { self.ask(&request.origin) };
        match answer {
            Ok(()) => {
                self.granted(request);
                Ok(())
            }
            Err(UpstreamError::Status(answer)) if is_refusal(answer.status) => {
                let claimant = Claimant::of(&request.origin);
                self.grants.lock().revoke(&claimant.scope, claimant.credential);
                Err(FetchError::Upstream(UpstreamError::Status(answer)))
            }
            Err(error) => {
                self.outages.note(&request.origin.url, &error);
                let known = standing == Standing::GrantedBefore;
                if self.offline.serves(known) {
                    crate::log_limited!(warn, "served without asking the upstream: {error}");
                    return Ok(());
                }
                Err(FetchError::Upstream(error))
            }
        }
    }

    /// What is known of this request's right without asking.
    pub(super) fn standing(&self, request: &BlobRequest) -> Standing {
        let claimant = Claimant::of(&request.origin);
        let grants = self.grants.lock();
        grants.standing(Time::now(), &claimant.scope, claimant.credential, &request.name)
    }

    /// Whether the upstream has served something of the URL's repository to who asks.
    pub(super) fn may_read(&self, origin: &Origin) -> bool {
        let Claimant { scope, credential } = Claimant::of(origin);
        self.grants.lock().access(Time::now(), &scope, credential) != Standing::Unknown
    }

    /// Notes that the upstream has served this request.
    pub(super) fn granted(&self, request: &BlobRequest) {
        if request.is_granted {
            return;
        }
        let claimant = Claimant::of(&request.origin);
        let mut grants = self.grants.lock();
        grants.grant(Time::now(), &claimant.scope, claimant.credential, &request.name);
    }

    /// Notes that the upstream served this credential something of the URL's repository: just now,
    /// if it is `fresh`, or at some time before.
    pub(super) fn granted_repository(&self, origin: &Origin, fresh: bool) {
        let Claimant { scope, credential } = Claimant::of(origin);
        let mut grants = self.grants.lock();
        match fresh {
            true => grants.grant_access(Time::now(), &scope, credential),
            false => grants.grant_access_before(Time::now(), &scope, credential),
        }
    }

    /// Notes that the repository of this URL holds the blob.
    pub(super) fn held(&self, origin: &Origin, name: &BlobName) {
        let claimant = Claimant::of(origin);
        self.grants.lock().hold(Time::now(), &claimant.scope, name);
    }

    fn ask(&self, origin: &Origin) -> Result<(), UpstreamError> {
        let answer = self.parts.upstream.head(origin)?;
        match answer.status {
            200..=299 => Ok(()),
            // Registries that fill themselves on demand know a blob only after a GET; storage
            // behind others takes a URL only for the method that it was signed for.
            400 | 403 | 404 | 405 | 501 => self.parts.upstream.blob(origin, 0, Some(1)).map(|_| ()),
            _ => Err(UpstreamError::Status(Box::new(answer))),
        }
    }
}

/// A no, as against a failure to answer.
pub(super) fn is_refusal(status: u16) -> bool {
    (400..500).contains(&status) && !matches!(status, 408 | 425 | 429)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_is_no_policy_is_refused() {
        assert_eq!("allow".parse(), Ok(Offline::Allow));
        assert_eq!("granted".parse(), Ok(Offline::Granted));
        assert_eq!("deny".parse(), Ok(Offline::Deny));
        assert_eq!("maybe".parse::<Offline>(), Err(UnknownOffline));
    }

    #[test]
    fn manifests_and_blobs_of_a_repository_are_for_the_same() {
        let digest = format!("sha256:{}", "ab".repeat(32));
        let of = |path: &str| scope_of(&Url::parse(&format!("https://r:5000{path}")).unwrap());
        let blob = of(&format!("/v2/a/b/blobs/{digest}?key=me"));
        assert_eq!(blob, Scope("https://r:5000/v2/a/b".into()));
        assert_eq!(of("/v2/a/b/manifests/latest"), blob);
        assert_eq!(of(&format!("/v2/a/b/manifests/{digest}")), blob);
        assert_ne!(of(&format!("/v2/a/blobs/{digest}")), blob);
        assert_ne!(of("/v2/a/b/tags/list"), blob);
    }

    #[test]
    fn too_many_requests_is_no_refusal() {
        assert!(is_refusal(401) && is_refusal(403) && is_refusal(404));
        assert!(!is_refusal(429) && !is_refusal(500) && !is_refusal(408));
    }
}
