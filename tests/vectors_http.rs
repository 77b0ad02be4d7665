//! The codecs of the HTTP side on inputs near real ones. What clients, registries and etcd sent is
//! written here in full: it is text.

#[path = "vectors/change.rs"]
mod change;
#[path = "vectors/laws_http.rs"]
mod laws;

use change::try_changed;

fn vectors(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

const DIGEST: &str = "sha256:c52f0a9cda9a51df6a0e9e15c9ac3a8cde6a0d5b4a0b6fc6cfe6b5d9c8b4a1aa";

#[test]
fn changed_heads_are_refused_or_mean_one_thing() {
    let docker = "GET /v2/library/three/blobs/sha256:c5 HTTP/1.1\r\nHost: 127.0.0.1:5100\r\n\
        User-Agent: docker/20.10.24+dfsg1 go/go1.19.8\r\nAccept-Encoding: gzip\r\n\
        Range: bytes=5000000-\r\nConnection: close\r\n\r\n";
    let ostree = "GET http://127.0.0.1:8000/repo/deltas/ib/J/superblock HTTP/1.1\r\n\
        Host: 127.0.0.1:8000\r\nProxy-Connection: Keep-Alive\r\n\
        Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n";
    let push = "PATCH /v2/a/blobs/uploads/1 HTTP/1.1\r\nHost: a\r\n\
        Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n";
    let length = "POST /token HTTP/1.0\r\nContent-Length: 10\r\n\r\n0123456789";
    let tunnel = "CONNECT [::1]:5443 HTTP/1.1\r\nHost: [::1]:5443\r\n\r\n";
    try_changed(&vectors(&[docker, ostree, push, length, tunnel]), laws::http_head);
}

#[test]
fn changed_chunks_come_out_the_same_however_cut() {
    let plain = "4\r\nwiki\r\n5;name=value\r\npedia\r\n0\r\n\r\n";
    let trailer = "A\r\n0123456789\r\n0\r\nDigest: x\r\n\r\nGET / HTTP/1.1";
    try_changed(&vectors(&[plain, trailer]), laws::http_chunks);
}

#[test]
fn changed_ranges_stay_inside_the_body() {
    let ranges = ["bytes=0-9", "bytes=5000000-", "bytes=-500", "bytes=0-9,20-29", "lines=1-2"];
    try_changed(&vectors(&ranges), laws::http_range);
    let answers = ["bytes 0-9/100", "bytes 0-9/*", "bytes */100"];
    try_changed(&vectors(&answers), laws::http_range);
}

#[test]
fn changed_urls_are_refused_or_read_again() {
    let urls = [
        "https://registry-1.docker.io/v2/library/a/blobs/x?ns=docker.io",
        "http://[2001:db8::1]:8080/",
        "//cdn.example/b?sig=%2B#fragment",
        "../blobs/y",
    ];
    try_changed(&vectors(&urls), laws::url);
}

#[test]
fn changed_paths_name_a_blob_in_one_spelling_only() {
    let blob = format!("/v2/library/three/blobs/{DIGEST}");
    let manifest = format!("/v2/a/b-c/d__e/manifests/{DIGEST}");
    try_changed(&vectors(&[&blob, &manifest, "/v2/a/manifests/latest", "/v2/"]), laws::oci);
}

#[test]
fn changed_manifests_are_none_or_read_as_one_thing() {
    let descriptor = format!(r#"{{"digest":"{DIGEST}","size":7143}}"#);
    let image = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{descriptor},"layers":[{descriptor}],"annotations":{{"a":"\u00e9"}}}}"#
    );
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{descriptor},{descriptor}]}}"#);
    try_changed(&vectors(&[&image, &index]), laws::manifest);
}

#[test]
fn changed_answers_of_etcd_do_no_harm() {
    let range = r#"{"header":{"revision":"3"},"kvs":[{"key":"L3A=","create_revision":"2",
        "mod_revision":"2","version":"1","value":"djE=","lease":"7668"}],"more":true,"count":"3"}"#;
    let txn = r#"{"header":{},"succeeded":true,"responses":[{"response_put":{"header":{}}},
        {"response_range":{"header":{},"count":"1"}}]}"#;
    let lease = r#"{"result":{"header":{},"ID":"7668682417291389970","TTL":"10"}}"#;
    let error = r#"{"error":{"grpc_code":14,"http_code":503,"message":"transport is closing"}}"#;
    try_changed(&vectors(&[range, txn, lease, error]), laws::etcd);
}
