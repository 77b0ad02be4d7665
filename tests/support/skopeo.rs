//! Pushing and pulling images with skopeo, the client that is easiest to drive.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::image::Image;
use super::process::{Finished, Process};
use super::temp_dir;

/// Pushes `image` to the registry at `addr` as `name`, such as `library/three:latest`.
pub fn push(image: &Image, addr: SocketAddr, name: &str) {
    push_as("--dest-no-creds", image, addr, name);
}

/// As [`push`]; `credentials` is skopeo's option for them.
pub fn push_as(credentials: &str, image: &Image, addr: SocketAddr, name: &str) {
    let dir = temp_dir();
    image.write_to(dir.path());
    let source = format!("dir:{}", dir.path().display());
    let target = format!("docker://{addr}/{name}");
    let finished =
        copy(&["--dest-tls-verify=false", credentials, "--preserve-digests", &source, &target]);
    assert!(finished.status.success(), "push of {name}: {}", finished.output);
}

/// Pulls `name` through `addr` into `dir`; the result is skopeo's own verdict.
pub fn pull(addr: SocketAddr, name: &str, dir: &Path) -> Finished {
    pull_as("--src-no-creds", addr, name, dir)
}

/// As [`pull`]; `credentials` is skopeo's option for them.
pub fn pull_as(credentials: &str, addr: SocketAddr, name: &str, dir: &Path) -> Finished {
    let source = format!("docker://{addr}/{name}");
    let target = format!("dir:{}", dir.display());
    copy(&["--src-tls-verify=false", credentials, &source, &target])
}

/// Pulls `name` through `addr` and fails unless it is exactly `image`.
pub fn pull_and_verify(image: &Image, addr: SocketAddr, name: &str) {
    let dir = temp_dir();
    let finished = pull(addr, name, dir.path());
    assert!(finished.status.success(), "pull of {name} through {addr}: {}", finished.output);
    image.assert_is_in(dir.path());
}

fn copy(arguments: &[&str]) -> Finished {
    let mut command = Command::new("skopeo");
    command.args(["--insecure-policy", "copy", "--quiet"]).args(arguments);
    // Proxies of whoever runs the tests stay out of them.
    for variable in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
        command.env_remove(variable);
    }
    Process::run("skopeo", command, "skopeo")
}
