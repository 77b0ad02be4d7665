//! Which registry a request of the registry API means. Pure.
//!
//! A mirror serves one registry to docker, podman and skopeo, which do not say whom they mean.
//! containerd does, with `ns=` (OCI distribution specification, "Registry Proxying"): it may use
//! this host as a mirror of every registry.

use crate::proto::http1::{Url, UrlError};

/// What containerd calls Docker Hub, whose API has a host of its own.
const DOCKER_HUB: &str = "docker.io";

/// The registries of this host.
#[derive(Clone, Debug)]
pub struct Registries {
    /// The one that is meant when a request names none, or Docker Hub.
    default: Url,
    /// Those that are spoken to without TLS.
    plain: Vec<Url>,
}

impl Registries {
    /// `default` is mirrored for who names none; those of `plain` are asked over plain HTTP, all
    /// others over HTTPS.
    #[must_use]
    pub fn new(default: Url, plain: Vec<Url>) -> Registries {
        Registries { default, plain }
    }

    /// The registry that a request with this query is for.
    ///
    /// # Errors
    /// If it names something that is no host.
    pub fn of_query(&self, query: Option<&str>) -> Result<Url, UrlError> {
        let fields = query.unwrap_or_default().split('&');
        match fields.filter_map(|field| field.strip_prefix("ns=")).next_back() {
            None | Some(DOCKER_HUB) => Ok(self.default.clone()),
            Some(namespace) => self.named(namespace),
        }
    }

    fn named(&self, namespace: &str) -> Result<Url, UrlError> {
        let authority = namespace.replace("%3A", ":").replace("%3a", ":");
        let url = Url::parse(&format!("https://{authority}"))?;
        if url.target != "/" || authority.contains('/') {
            return Err(UrlError::Host);
        }
        // The mirrored one may be without TLS as well.
        let plain = Url::parse(&format!("http://{authority}"))?;
        let mut known = [&self.default].into_iter().chain(&self.plain);
        Ok(known.find(|known| **known == plain).cloned().unwrap_or(url))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    fn registries(default: &str) -> Registries {
        Registries::new(url(default), vec![url("http://plain.example:5000"), url("http://bare")])
    }

    #[test]
    fn who_names_none_or_docker_hub_means_the_mirrored_one() {
        let registries = registries("https://registry.example");
        for query in [None, Some(""), Some("x=1"), Some("ns=docker.io"), Some("xns=other")] {
            let registry = registries.of_query(query).unwrap();
            assert_eq!(registry, url("https://registry.example"), "{query:?}");
        }
    }

    #[test]
    fn others_are_asked_where_they_are() {
        let registries = registries("http://mirrored.example:5000");
        for (query, registry) in [
            ("ns=other.example", "https://other.example"),
            ("a=b&ns=other.example%3A8443&c", "https://other.example:8443"),
            ("ns=plain.example%3a5000", "http://plain.example:5000"),
            ("ns=plain.example:5000", "http://plain.example:5000"),
            ("ns=plain.example", "https://plain.example"),
            ("ns=bare", "http://bare"),
            ("ns=mirrored.example:5000", "http://mirrored.example:5000"),
            ("ns=[2001:db8::1]:5000", "https://[2001:db8::1]:5000"),
        ] {
            assert_eq!(registries.of_query(Some(query)), Ok(url(registry)), "{query}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for namespace in ["", "a/b", "a/", "u:p@a", "a?b", "a%2Fb", "a%00", "a:0", "a b"] {
            let query = format!("ns={namespace}");
            assert!(registries("https://r").of_query(Some(&query)).is_err(), "{namespace:?}");
        }
    }
}
