//! The rig itself: what tests of whole processes lean on does what it says.

mod support;

use std::process::Command;

use support::faults::{Fault, FaultProxy};
use support::image::Image;
use support::process::Process;
use support::registry::Registry;
use support::{get, skopeo, wait_for};

const NAME: &str = "library/rig:latest";

fn image() -> Image {
    Image::random(1, &[300_000, 0, 70_000])
}

#[test]
fn an_image_survives_push_and_pull() {
    let registry = Registry::start();
    let image = image();
    skopeo::push(&image, registry.addr(), NAME);
    skopeo::pull_and_verify(&image, registry.addr(), NAME);
    for blob in image.blobs() {
        let len = blob.bytes.len() as u64;
        wait_for("the log", || (registry.blob_bytes(&blob.digest) == len).then_some(()));
    }
}

#[test]
fn images_follow_from_their_seed() {
    assert_eq!(image().manifest, image().manifest);
    assert_ne!(image().manifest, Image::random(2, &[300_000, 0, 70_000]).manifest);
}

#[test]
fn layers_are_what_tar_and_gzip_read() {
    let dir = support::temp_dir();
    let path = dir.path().join("layer.tar.gz");
    std::fs::write(&path, &image().layers[0].bytes).expect("disk has room");
    let mut command = Command::new("tar");
    command.arg("tvzf").arg(&path);
    let finished = Process::run("tar", command, "tar");
    assert!(finished.status.success(), "{}", finished.output);
    assert!(finished.output.contains(" 300000 "), "{}", finished.output);
}

#[test]
fn faults_hit_what_they_name_as_often_as_they_say() {
    let registry = Registry::start();
    let image = image();
    skopeo::push(&image, registry.addr(), NAME);
    let proxy = FaultProxy::start(registry.addr());
    let blob = &image.layers[0];
    let path = format!("/v2/library/rig/blobs/{}", blob.digest);
    let fetch = |headers: &[(&str, &str)]| get(&format!("{}{path}", proxy.url()), headers);

    proxy.fail(&blob.digest, 1, Fault::Cut { after: 1000 });
    assert!(fetch(&[]).is_err());
    assert_eq!(proxy.requests().last().expect("one request").bytes, 1000);
    proxy.fail(&blob.digest, 1, Fault::Reset { after: 1000 });
    assert!(fetch(&[]).is_err());
    proxy.fail(&blob.digest, 1, Fault::Status(429));
    let refused = fetch(&[]).expect("an answer");
    assert_eq!((refused.status, refused.headers.get("retry-after").is_some()), (429, true));
    proxy.fail(&blob.digest, 1, Fault::Flip { at: 5 });
    let flipped = fetch(&[]).expect("an answer").body;
    assert_eq!(flipped[5], blob.bytes[5] ^ 1);
    assert_eq!(flipped[6..], blob.bytes[6..]);

    let range = [("Range", "bytes=10-19")];
    proxy.fail(&blob.digest, 1, Fault::IgnoreRange);
    let whole = fetch(&range).expect("an answer");
    assert_eq!((whole.status, whole.body.len()), (200, blob.bytes.len()));
    let part = fetch(&range).expect("an answer");
    assert_eq!((part.status, part.body), (206, blob.bytes[10..20].to_vec()));
    let last = proxy.blob_requests("GET", &blob.digest).pop().expect("it was asked");
    assert_eq!((last.bytes, last.range.as_deref()), (10, Some("bytes=10-19")));

    proxy.fail("/no/such/path", 1, Fault::Status(500));
    skopeo::pull_and_verify(&image, proxy.addr(), NAME);
}

#[test]
fn a_stalled_answer_ends_with_the_proxy() {
    let registry = Registry::start();
    skopeo::push(&image(), registry.addr(), NAME);
    let proxy = FaultProxy::start(registry.addr());
    proxy.fail("/manifests/", 1, Fault::Stall { after: 10 });
    let url = format!("{}/v2/library/rig/manifests/latest", proxy.url());
    let client = std::thread::spawn(move || get(&url, &[]));
    wait_for("ten bytes", || proxy.requests().first().filter(|r| r.bytes == 10).map(drop));
    assert!(!client.is_finished());
    drop(proxy);
    assert!(client.join().expect("no panic").is_err());
}

#[test]
fn processes_stop_when_told() {
    let sleep = || {
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; exec sleep 600"]);
        let mut process = Process::spawn("sleeper", command, "dash");
        process.wait_until("it is ready", |output| output.contains("ready").then_some(()));
        process
    };
    assert!(!sleep().terminate().success());
    let mut frozen = sleep();
    frozen.pause();
    assert!(frozen.is_running());
    assert!(!frozen.kill().success());
    let dropped = sleep();
    let pid = dropped.pid();
    drop(dropped);
    assert!(torrent_cache::base::sys::kill(pid, 0).is_err(), "{pid} still runs");
}
