//! What clients ask for beside whole blobs, and how many ask at once.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::curl::curl;
use crate::site::{MIB, REPOSITORY, Site, blobs_kept, pull, url, wait_until_kept};
use crate::support::faults::Fault;
use crate::support::image::Blob;
use crate::support::origin::{Origin, Step, answer, part, whole};
use crate::support::torrent_cache::Program;
use crate::support::wait_for;
use crate::upstream::random_blob;
use torrent_cache::proto::http1::{ByteRange, RangeAnswer};

#[test]
fn a_stored_blob_is_served_in_every_shape_without_asking_for_its_bytes_again() {
    let site = Site::start(70, &[MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    let (bytes, len) = (&blob.bytes, blob.bytes.len());
    pull(&client, blob, &[]).assert_is(200, bytes);
    wait_until_kept(&client, 1);
    let part = |range: &str, wanted: &[u8], first: usize| {
        let got = pull(&client, blob, &["--range", range]);
        got.assert_is(206, wanted);
        let content_range = format!("bytes {first}-{}/{len}", first + wanted.len() - 1);
        assert_eq!(got.header("content-range"), Some(content_range.as_str()));
    };
    part("0-0", &bytes[..1], 0);
    part("1000-1999", &bytes[1000..2000], 1000);
    part("1000-", &bytes[1000..], 1000);
    part("-10", &bytes[len - 10..], len - 10);
    part(&format!("5-{}", len + 5), &bytes[5..], 5);
    let outside = pull(&client, blob, &["--range", &format!("{len}-")]);
    outside.assert_is(416, b"");
    assert_eq!(outside.header("content-range"), Some(format!("bytes */{len}").as_str()));
    pull(&client, blob, &["--range", "0-1,5-6"]).assert_is(200, bytes);
    let etag = format!("If-None-Match: \"{}\"", blob.digest);
    pull(&client, blob, &["--header", &etag]).assert_is(304, b"");
    pull(&client, blob, &["--header", "If-None-Match: \"x\""]).assert_is(200, bytes);
    let head = pull(&client, blob, &["--head"]);
    assert_eq!((head.exit, head.status), (Some(0), 200));
    assert_eq!(head.header("content-length"), Some(len.to_string().as_str()));
    assert_eq!(head.header("docker-content-digest"), Some(blob.digest.as_str()));
    assert_eq!(site.fetches(blob), 1);
}

#[test]
fn a_small_part_of_an_absent_blob_is_passed_through() {
    let site = Site::start(71, &[4 * MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    let (bytes, len) = (&blob.bytes, blob.bytes.len());
    pull(&client, blob, &["--range", "1000-1999"]).assert_is(206, &bytes[1000..2000]);
    pull(&client, blob, &["--range", "-10"]).assert_is(206, &bytes[len - 10..]);
    assert_eq!(site.proxy.blob_bytes(&blob.digest), 1010);
    for range in [format!("{len}-"), format!("{len}-{}", len + 1)] {
        assert_eq!(pull(&client, blob, &["--range", &range]).status, 416, "{range}");
    }
    assert_eq!(blobs_kept(&client), 0);
}

#[test]
fn a_part_of_a_blob_of_unknown_length_is_told_as_a_part() {
    let lines = ["HTTP/1.1 206 Partial Content", "Content-Range: bytes 5-9/*", "Content-Length: 5"];
    let origin = Origin::always(vec![answer(&lines, b"fghij")]);
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    let got = pull(&client, &Blob::new(b"abcdefghijkl".to_vec()), &["--range", "5-9"]);
    got.assert_is(206, b"fghij");
    assert_eq!(got.header("content-range"), Some("bytes 5-9/*"));
}

/// Registries that fill themselves on demand know a blob only after a `GET`.
#[test]
fn the_last_bytes_of_a_blob_come_also_where_only_a_get_knows_it() {
    let blob = random_blob(78, 2 * MIB);
    let bytes = blob.bytes.clone();
    let origin = Origin::start(move |request| {
        if request.line.starts_with("HEAD") {
            return vec![answer(&["HTTP/1.1 404 Not Found", "Content-Length: 19"], b"")];
        }
        let range = request.header("range").and_then(|range| ByteRange::parse(range.as_bytes()));
        match range.map(|range| range.resolve(bytes.len() as u64)) {
            Some(RangeAnswer::Part(first, last)) => {
                let [first, last] = [first, last].map(|at| usize::try_from(at).expect("small"));
                let range = format!("Content-Range: bytes {first}-{last}/{}", bytes.len());
                let len = format!("Content-Length: {}", last + 1 - first);
                let lines = ["HTTP/1.1 206 Partial Content", &range, &len];
                vec![answer(&lines, &bytes[first..=last])]
            }
            _ => vec![whole(&bytes)],
        }
    });
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    let got = pull(&client, &blob, &["--range", "-10"]);
    got.assert_is(206, &blob.bytes[2 * MIB - 10..]);
}

/// podman takes no whole for the part that it wants to go on with.
#[test]
fn a_part_of_a_blob_on_its_way_is_told_as_a_part_though_its_length_is_unknown() {
    let blob = random_blob(79, 2 * MIB);
    let bytes = blob.bytes.clone();
    let origin = Origin::start(move |request| match request.header("range") {
        Some(_) => vec![part(&bytes, MIB)],
        None => {
            let mut chunk = format!("{:x}\r\n", MIB + 1).into_bytes();
            chunk.extend_from_slice(&bytes[..=MIB]);
            let head = answer(&["HTTP/1.1 200 OK", "Transfer-Encoding: chunked"], &chunk);
            vec![head, Step::Stall]
        }
    });
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    let mut first = TcpStream::connect(client.addr()).expect("it listens");
    let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
    write!(first, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    first.read_exact(&mut [0; 1]).expect("it answers");
    let got = pull(&client, &blob, &["--range", &format!("{MIB}-")]);
    got.assert_is(206, &blob.bytes[MIB..]);
}

/// containerd 2 can ask for several parts of a layer at once: the later ones do not wait until the
/// stream of the first comes to them.
#[test]
fn readers_far_apart_do_not_wait_for_each_other() {
    let site = Site::start(80, &[16 * MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    site.proxy.fail(&blob.digest, 1, Fault::Drip { every: Duration::from_millis(1) });
    let mut first = TcpStream::connect(client.addr()).expect("it listens");
    let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
    write!(first, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    first.read_exact(&mut [0; 1]).expect("it answers");
    // Not to the end: the last bytes wait for the digest.
    for (first, end) in [(12 * MIB, 15 * MIB), (4 * MIB, 8 * MIB)] {
        let got = pull(&client, blob, &["--range", &format!("{first}-{}", end - 1)]);
        got.assert_is(206, &blob.bytes[first..end]);
    }
    let bytes = site.proxy.blob_bytes(&blob.digest);
    assert!(bytes < 13 * MIB as u64, "no byte twice, but {bytes}");
}

#[test]
fn an_open_part_of_an_absent_blob_comes_at_once_and_the_rest_is_fetched_too() {
    let site = Site::start(72, &[4 * MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    let got = pull(&client, blob, &["--range", "3000000-"]);
    got.assert_is(206, &blob.bytes[3_000_000..]);
    wait_until_kept(&client, 1);
    assert_eq!(site.proxy.blob_bytes(&blob.digest), blob.bytes.len() as u64, "no byte twice");
    pull(&client, blob, &[]).assert_is(200, &blob.bytes);
}

#[test]
fn a_question_about_an_absent_blob_fetches_nothing() {
    let site = Site::start(73, &[MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    let head = pull(&client, blob, &["--head"]);
    assert_eq!((head.exit, head.status), (Some(0), 200));
    let len = blob.bytes.len().to_string();
    assert_eq!(head.header("content-length"), Some(len.as_str()));
    let nothing = format!("sha256:{}", "0".repeat(64));
    assert_eq!(curl(&url(&client, REPOSITORY, &nothing), &["--head"]).status, 404);
    assert_eq!(site.fetches(blob), 0);
    assert_eq!(blobs_kept(&client), 0);
}

#[test]
fn many_readers_share_one_request() {
    let site = Site::start(74, &[8 * MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    let etag = format!("If-None-Match: W/\"{}x\"", blob.digest);
    std::thread::scope(|scope| {
        for number in 0..6 {
            let (client, etag) = (&client, &etag);
            scope.spawn(move || match number {
                0 => pull(client, blob, &["--header", etag]).assert_is(200, &blob.bytes),
                _ => pull(client, blob, &[]).assert_is(200, &blob.bytes),
            });
        }
    });
    assert_eq!(site.fetches(blob), 1);
}

#[test]
fn a_reader_that_has_the_blob_does_not_break_the_stream_of_another() {
    let site = Site::start(75, &[2 * MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    // The second request goes with the headers of whoever asked last.
    site.proxy.fail(&blob.digest, 1, Fault::Stall { after: MIB as u64 });
    std::thread::scope(|scope| {
        let first = scope.spawn(|| pull(&client, blob, &[]));
        wait_for("the stream", || (site.fetches(blob) == 1).then_some(()));
        let etag = format!("If-None-Match: \"{}\"", blob.digest);
        let second = pull(&client, blob, &["--header", &etag]);
        assert!(matches!(second.status, 200 | 304), "{}", second.head);
        first.join().expect("curl ran").assert_is(200, &blob.bytes);
    });
}

#[test]
fn a_reader_that_leaves_stops_nobody() {
    let site = Site::start(76, &[8 * MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    let mut leaver = TcpStream::connect(client.addr()).expect("it listens");
    let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
    write!(leaver, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").expect("it reads");
    leaver.read_exact(&mut [0; 1]).expect("it answers");
    let stays = || pull(&client, blob, &[]).assert_is(200, &blob.bytes);
    std::thread::scope(|scope| {
        let stayer = scope.spawn(stays);
        drop(leaver);
        stayer.join().expect("curl ran");
    });
    wait_until_kept(&client, 1);
    assert_eq!(site.fetches(blob), 1);
}

#[test]
fn an_empty_answer_does_not_end_the_connection() {
    let origin = Origin::always(vec![answer(&["HTTP/1.1 202 Accepted", "Content-Length: 0"], b"")]);
    let registry = format!("http://{}", origin.addr());
    let client = Program::client("client", &[("REGISTRY_LOCATION", &registry)]);
    let url = format!("http://{}/v2/a/blobs/uploads/", client.addr());
    let got = curl(&url, &[&url, "--request", "POST"]);
    assert_eq!(got.connections, ["1", "0"], "{}", got.head);
}

#[test]
fn one_connection_serves_request_after_request() {
    let site = Site::start(77, &[MIB]);
    let (client, blob) = (site.lone_client(), site.layer(0));
    let blob_url = url(&client, REPOSITORY, &blob.digest);
    let nothing = url(&client, REPOSITORY, &format!("sha256:{}", "0".repeat(64)));
    let api = format!("http://{}/v2/", client.addr());
    let mut arguments = vec![blob_url.as_str(), &blob_url, &nothing, &api];
    arguments.extend(["--output", "/dev/null"].repeat(4));
    for more in [&[][..], &["--range", "5-9"], &["--head"]] {
        let got = curl(&blob_url, &[&arguments, more].concat());
        assert_eq!(got.exit, Some(0), "{}", got.head);
        assert_eq!(got.connections, ["1", "0", "0", "0", "0"], "{}", got.head);
    }
}
