//! A host of the test's own: namespaces of the network, the mounts and the processes, with a
//! Docker engine in them. All of it ends with the test.

use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::program::{root, static_binary};
use crate::support::foreign::without_proxies;
use crate::support::image::Image;
use crate::support::process::Process;
use crate::support::registry::Registry;
use crate::support::{PATIENCE, temp_dir, wait_for};

/// The packages that have what is run here.
const PACKAGES: &str = "util-linux iproute2 iptables docker.io curl skopeo";

/// Under which name the registry has the image.
pub const NAME: &str = "library/fedora";

/// A host. Where daemons write, it has folders of its own: `/run` and `/var/lib` begin empty.
#[derive(Debug)]
pub struct Host {
    pub address: Ipv4Addr,
    /// The first process of its namespace, which ends all others when it ends.
    init: u32,
    namespaces: Process,
    dir: TempDir,
}

impl Host {
    fn new(name: &str, address: Ipv4Addr) -> Host {
        let uid = fs::metadata("/proc/self").expect("/proc is there").uid();
        assert_eq!(uid, 0, "a Docker engine that runs containers needs root: run this as root");
        let mut command = Command::new("unshare");
        command.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        command.args(["sh", "-c"]).arg(
            "mount -t tmpfs none /run && mount -t tmpfs none /var/lib && ip link set lo up \
             && echo ready && exec sleep infinity",
        );
        let mut namespaces = Process::spawn(name, command, PACKAGES);
        namespaces.wait_until("it is ready", |output| output.contains("ready").then_some(()));
        let children = format!("/proc/{0}/task/{0}/children", namespaces.pid());
        let children = fs::read_to_string(children).expect("it runs");
        let init = children.trim().parse().expect("unshare has one child");
        Host { address, init, namespaces, dir: temp_dir() }
    }

    /// One that reaches nobody.
    pub fn alone() -> Host {
        let host = Host::new("host", Ipv4Addr::new(10, 77, 0, 1));
        host.sh(&format!("ip address add {}/32 dev lo", host.address));
        host
    }

    /// Two that are connected with each other.
    pub fn pair() -> [Host; 2] {
        let hosts = [1, 2].map(|n| Host::new(&format!("host {n}"), Ipv4Addr::new(10, 77, 0, n)));
        let ends = hosts.each_ref().map(|host| format!("name eth0 netns {}", host.init));
        let cable = format!("ip link add {} type veth peer {}", ends[0], ends[1]);
        let mut command = Command::new("sh");
        command.args(["-c", &cable]);
        run(command);
        for host in &hosts {
            host.sh(&format!("ip address add {}/24 dev eth0 && ip link set eth0 up", host.address));
        }
        hosts
    }

    /// A command that runs on this host, in a folder that the host's end removes.
    pub fn command(&self, program: &str) -> Command {
        let mut command = without_proxies(Command::new("nsenter"));
        command.args(["--net", "--mount", "--pid", "--target", &self.init.to_string(), "env"]);
        // Who enters mounts stands in their root.
        command.arg("--chdir").arg(self.dir.path()).arg(program);
        // Debian's programs before others of the same name.
        let path = std::env::var("PATH").unwrap_or_default();
        command.env("PATH", format!("/usr/sbin:/usr/bin:/sbin:/bin:{path}"));
        command.env("DOCKER_CONFIG", self.dir.path());
        command
    }

    /// Runs a line of shell on this host and fails unless it succeeds; its output.
    pub fn sh(&self, line: &str) -> String {
        let mut command = self.command("sh");
        command.args(["-c", line]);
        run(command)
    }

    /// Starts a registry that has `image` under [`NAME`].
    pub fn registry(&self, image: &Image) -> Registry {
        let registry = Registry::start_at(self.address.into(), self.command("docker-registry"));
        let dir = temp_dir();
        image.write_to(dir.path());
        let (dir, addr) = (dir.path().display(), registry.addr());
        self.sh(&format!(
            "skopeo --insecure-policy copy --quiet --dest-tls-verify=false --dest-no-creds \
             --preserve-digests dir:{dir} docker://{addr}/{NAME}"
        ));
        registry
    }

    /// Starts a Docker engine, which has the images of `make image`.
    pub fn engine(&self, options: &[&str]) -> Process {
        let path = |name: &str| self.dir.path().join(name);
        let config = format!("{{\"deprecated-key-path\": {:?}}}", path("key.json"));
        fs::write(path("daemon.json"), config).expect("disk has room");
        let mut command = self.command("dockerd");
        command.arg("--config-file").arg(path("daemon.json"));
        // Its sockets and its pid stand below /run, which is the host's own.
        command.arg("--data-root").arg(path("docker")).arg("--group=root").args(options);
        let mut process = Process::spawn("dockerd", command, PACKAGES);
        process.wait_until("it serves", |output| output.contains("API listen on").then_some(()));
        let mut command = self.command("make");
        command.arg("--silent").arg("--directory").arg(root()).arg("image");
        command.arg(format!("BINARY={}", static_binary().display()));
        run(command);
        process
    }

    /// The bytes of an image.
    pub fn image_bytes(&self, name: &str) -> u64 {
        let size = self.sh(&format!("docker image inspect --format '{{{{.Size}}}}' {name}"));
        size.trim().parse().expect("a size is a number")
    }

    /// Types `line`, a `docker run`, into a terminal, and waits until `image` runs and is ready.
    pub fn run_container(&self, image: &str, line: &str) -> Container<'_> {
        let mut command = self.command("script");
        command.args(["--quiet", "--return", "--flush", "--command", line, "/dev/null"]);
        let mut process = Process::spawn(image, command, "bsdutils");
        let id = process.wait_until("it runs", |_| {
            let id = self.sh(&format!("docker ps --quiet --filter ancestor={image}"));
            (!id.trim().is_empty()).then(|| id.trim().to_owned())
        });
        let container = Container { host: self, pid: self.pid(&id), id, process: Some(process) };
        container.wait_until_ready();
        container
    }

    /// A container that runs already.
    pub fn container(&self, id: &str) -> Container<'_> {
        let container =
            Container { host: self, pid: self.pid(id), id: id.to_owned(), process: None };
        container.wait_until_ready();
        container
    }

    fn pid(&self, id: &str) -> String {
        self.sh(&format!("docker inspect --format '{{{{.State.Pid}}}}' {id}")).trim().to_owned()
    }

    /// Fetches the layers of the image through the client that is published on `port`.
    pub fn skopeo_layers(&self, image: &Image, port: u16) {
        let dir = temp_dir();
        self.sh(&format!(
            "cd {} && \
             skopeo --insecure-policy --tls-verify=false layers docker://localhost:{port}/{NAME}",
            dir.path().display()
        ));
        let made = fs::read_dir(dir.path()).expect("it is there").next().expect("one folder");
        image.assert_is_in(&made.expect("it can be read").path());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.namespaces.kill();
        // Its folder can be removed when the mounts are gone, with the last process.
        let (init, end) = (format!("/proc/{}", self.init), Instant::now() + PATIENCE);
        while Path::new(&init).exists() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// A running container of one of our images.
#[derive(Debug)]
pub struct Container<'a> {
    host: &'a Host,
    id: String,
    /// Its first process, as the host numbers them.
    pid: String,
    /// The `docker run` that is attached to it.
    process: Option<Process>,
}

impl Container<'_> {
    /// `GET url` from within.
    fn get(&self, url: &str) -> Option<String> {
        let mut command = self.host.command("nsenter");
        command.args(["--net", "--target", &self.pid, "curl", "--silent", "--fail", url]);
        let finished = Process::run("curl", command, PACKAGES);
        finished.status.success().then_some(finished.output)
    }

    fn admin(&self, path: &str) -> Option<String> {
        ["8889", "6970"].iter().find_map(|port| self.get(&format!("http://127.0.0.1:{port}{path}")))
    }

    fn wait_until_ready(&self) {
        wait_for("readiness", || self.admin("/readyz"));
    }

    /// One series of `/metrics`.
    pub fn metric(&self, series: &str) -> i64 {
        let text = self.admin("/metrics").expect("it answers");
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no {series} in\n{text}"));
        value.parse().expect("metrics are whole numbers")
    }

    /// Waits until this client has published what it has of `image`.
    pub fn wait_until_published(&self, image: &Image) {
        const PUBLISHED: &str = "torrent_cache_catalog_requests_total{outcome=\"published\"}";
        wait_for("publication", || (self.metric(PUBLISHED) >= image.blob_count()).then_some(()));
    }

    /// Waits until `count` clients have told this tracker of each blob of `image`.
    pub fn wait_until_announced(&self, image: &Image, count: i64) {
        let peers = count * image.blob_count();
        wait_for("announces", || {
            (self.metric("torrent_cache_tracker_peers") >= peers).then_some(())
        });
    }

    /// Everything it has logged.
    pub fn log(&self) -> String {
        self.host.sh(&format!("docker logs {} 2>&1", self.id))
    }

    /// Stops it; how the `docker run` ended.
    pub fn stop(self) -> ExitStatus {
        self.host.sh(&format!("docker stop {}", self.id));
        self.process.expect("it was run here").wait(PATIENCE)
    }
}

/// Runs `command` to its end and fails unless it succeeds; its output.
fn run(command: Command) -> String {
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy()).collect();
    let words = words.join(" ");
    let finished = Process::run("command", command, PACKAGES);
    assert!(finished.status.success(), "{words}: {}", finished.output);
    finished.output
}
