//! Where a redirect leads (RFC 9110 section 15.4), and what of the request goes along.

use crate::proto::http1::{Headers, Url};

/// Whether an answer of this status sends the client elsewhere, if it says where.
fn redirects(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Where an answer leads, if it is a redirect that names a URL we take. One that does not is an
/// answer like any other: the client is told.
pub(super) fn target(from: &Url, status: u16, answer: &Headers) -> Option<Url> {
    if !redirects(status) {
        return None;
    }
    from.join(answer.text("Location")?).ok()
}

/// Takes out what must not leave the origin `from`, if `to` is another (S3 refuses a signed URL
/// with credentials beside it). Once gone it stays gone: a redirect back gives nothing back.
pub(super) fn forget_secrets(from: &Url, to: &Url, headers: &mut Headers) {
    if !from.same_origin(to) {
        headers.remove_secrets();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).expect("a URL")
    }

    #[test]
    fn locations_of_every_form_are_followed() {
        let from = url("https://registry.example/v2/a/blobs/x?y=1");
        for (location, to) in [
            ("https://cdn.example/b?sig=%2B", "https://cdn.example/b?sig=%2B"),
            ("//cdn.example/b", "https://cdn.example/b"),
            ("/b?c", "https://registry.example/b?c"),
            ("z", "https://registry.example/v2/a/blobs/z"),
            ("?z", "https://registry.example/v2/a/blobs/x?z"),
            ("http://cdn.example:8080/b#f", "http://cdn.example:8080/b"),
        ] {
            let mut answer = Headers::new();
            answer.append("location", location);
            assert_eq!(target(&from, 307, &answer), Some(url(to)), "{location}");
        }
    }

    #[test]
    fn what_is_no_redirect_is_not_followed() {
        let from = url("http://a/");
        let mut answer = Headers::new();
        assert_eq!(target(&from, 302, &answer), None);
        answer.append("Location", "http://b/");
        assert_eq!(target(&from, 200, &answer), None);
        assert_eq!(target(&from, 304, &answer), None);
        assert_eq!(target(&from, 300, &answer), None);
        for bad in ["ftp://b/", "http://u:p@b/", "javascript:alert(1)//://"] {
            answer.set("Location", bad);
            assert_eq!(target(&from, 302, &answer), None, "{bad}");
        }
    }

    #[test]
    fn secrets_stay_with_scheme_host_and_port() {
        let from = url("https://a.example/x");
        for (to, kept) in [
            ("https://a.example/y", true),
            ("https://a.example:443/y", true),
            ("http://a.example/y", false),
            ("https://a.example:8443/y", false),
            ("https://b.a.example/y", false),
        ] {
            let mut headers = Headers::new();
            for name in ["AUTHORIZATION", "cookie", "X-JFrog-Art-Api", "Accept"] {
                headers.append(name, "v");
            }
            forget_secrets(&from, &url(to), &mut headers);
            assert_eq!(headers.get("Authorization").is_some(), kept, "{to}");
            assert_eq!(headers.get("Cookie").is_some(), kept, "{to}");
            assert_eq!(headers.get("X-JFrog-Art-Api").is_some(), kept, "{to}");
            assert!(headers.get("Accept").is_some());
        }
    }
}
