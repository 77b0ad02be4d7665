//! The programs that pull: each takes one image through two clients, the second from the first.
//!
//! Daemons run with folders and sockets of their own; nothing of the system's is touched.

mod support;

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use support::faults::{Fault, FaultProxy};
use support::foreign::{program, without_proxies};
use support::image::{Blob, Image, digest};
use support::network::{FROM_PEERS, FROM_UPSTREAM, NAME, Network};
use support::process::Process;
use support::registry::{CREDENTIALS, Registry};
use support::torrent_cache::Program;
use support::{get, skopeo, temp_dir};
use tempfile::TempDir;

const MIB: usize = 1 << 20;

/// Runs `pull` through two clients, each time from nothing, and fails unless the image crossed the
/// uplink once.
fn crosses_the_uplink_once(seed: u64, pull: impl Fn(&Image, &Program)) {
    let mut network = Network::start(seed, &[3 * MIB, 2 * MIB, MIB]);
    let first = network.client("first", &[]);
    pull(&network.image, &first);
    assert_eq!(first.metric(FROM_UPSTREAM), network.image.blob_bytes(), "{}", first.log());
    network.wait_until_published(&first);
    network.wait_until_announced(1);
    // Without TLS its port must say no to it at once: most of these programs try it first.
    let second = network.client("second", &[("REGISTRY_NO_SSL", "1")]);
    pull(&network.image, &second);
    assert_eq!(second.metric(FROM_UPSTREAM), 0, "{}", second.log());
    assert_eq!(second.metric(FROM_PEERS), network.image.blob_bytes());
    network.assert_each_blob_left_once();
    // What containerd says to a mirror is not for a registry.
    assert!(!network.registry.process().output().contains("ns=docker.io"));
}

/// Runs `command` to its end and fails unless it succeeds; its output.
fn run(command: Command, package: &str) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let finished = Process::run(&name, without_proxies(command), package);
    assert!(finished.status.success(), "{name}: {}", finished.output);
    finished.output
}

/// A command for what wants to be root: for anybody else, the root of a namespace, with room where
/// root writes.
fn as_root(name: &str) -> Command {
    if fs::metadata("/proc/self").expect("/proc is there").uid() == 0 {
        return Command::new(program(name));
    }
    let mounts = "mount -t tmpfs none /run && mount -t tmpfs none /var/lib && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mounts]).arg(program(name));
    command
}

fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().expect("below dir")).expect("the folder can be made");
    fs::write(&path, text).expect("disk has room");
    path
}

#[test]
fn skopeo_copies() {
    crosses_the_uplink_once(20, |image, client| {
        skopeo::pull_and_verify(image, client.addr(), NAME);
    });
}

#[test]
fn skopeo_fetches_layers() {
    crosses_the_uplink_once(21, |image, client| {
        let dir = temp_dir();
        let mut command = Command::new("skopeo");
        command.current_dir(dir.path()).args(["--insecure-policy", "--tls-verify=false", "layers"]);
        run(with(command, &[format!("docker://{}/{NAME}", client.addr())]), "skopeo");
        let made = fs::read_dir(dir.path()).expect("it is there").next().expect("one folder");
        image.assert_is_in(&made.expect("it can be read").path());
    });
}

fn with(mut command: Command, arguments: &[String]) -> Command {
    command.args(arguments);
    command
}

/// containerd with folders of its own.
struct Containerd {
    socket: PathBuf,
    process: Process,
    dir: TempDir,
}

impl Containerd {
    fn start() -> Containerd {
        let dir = temp_dir();
        let socket = dir.path().join("containerd.sock");
        let text = "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n";
        let config = write(dir.path(), "config.toml", text);
        let mut command = as_root("containerd");
        command.arg("--config").arg(config).arg("--address").arg(&socket);
        command.arg("--root").arg(dir.path().join("root"));
        command.arg("--state").arg(dir.path().join("state"));
        let mut process = Process::spawn("containerd", command, "containerd");
        process.wait_until("it serves", |output| {
            output.contains("containerd successfully booted").then_some(())
        });
        Containerd { socket, process, dir }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = without_proxies(as_root("ctr"));
        command.arg("--address").arg(&self.socket).args(arguments);
        command
    }

    fn ctr(&self, arguments: &[&str]) -> String {
        run(self.command(arguments), "containerd")
    }

    /// Makes `host` the only mirror of Docker Hub; the folder that says so.
    fn hosts(&self, host: &str) -> String {
        self.mirror("docker.io", host)
    }

    /// Makes `host` the only mirror of `registry`; the folder that says so.
    fn mirror(&self, registry: &str, host: &str) -> String {
        let capabilities = "capabilities = [\"pull\", \"resolve\"]";
        let hosts = format!("server = \"http://127.0.0.1:1\"\n{host}\n{capabilities}\n");
        write(self.dir.path(), &format!("hosts/{registry}/hosts.toml"), &hosts);
        self.dir.path().join("hosts").display().to_string()
    }

    fn assert_has(&self, image: &Image) {
        let listed = self.ctr(&["content", "ls"]);
        for blob in image.kept() {
            let path = blob.digest.replace(':', "/");
            let path = format!("root/io.containerd.content.v1.content/blobs/{path}");
            let bytes = fs::read(self.dir.path().join(path)).expect("it was fetched");
            assert_eq!(digest(&bytes), blob.digest);
            assert!(listed.contains(&blob.digest), "{listed}");
        }
    }
}

/// Fetches the image from a mirror that is `host` in `hosts.toml`, and checks what was stored.
fn fetch_with_containerd(image: &Image, host: &str) {
    let containerd = Containerd::start();
    let (hosts, name) = (containerd.hosts(host), format!("docker.io/{NAME}"));
    containerd.ctr(&["content", "fetch", "--hosts-dir", &hosts, &name]);
    containerd.assert_has(image);
}

#[test]
fn containerd_fetches() {
    crosses_the_uplink_once(22, |image, client| {
        fetch_with_containerd(image, &format!("[host.\"http://{}\"]", client.addr()));
    });
}

/// containerd says which registry it means: one client is the mirror of all.
#[test]
fn containerd_fetches_from_another_registry_than_the_mirrored_one() {
    let network = Network::start(32, &[2 * MIB]);
    let registry = network.registry.addr().to_string();
    let elsewhere = [("REGISTRY_LOCATION", "http://127.0.0.1:1"), ("REGISTRIES_PLAIN", &registry)];
    let fetch_through = |client: &Program| {
        let containerd = Containerd::start();
        let host = format!("[host.\"http://{}\"]", client.addr());
        let (hosts, name) = (containerd.mirror("_default", &host), format!("{registry}/{NAME}"));
        containerd.ctr(&["content", "fetch", "--hosts-dir", &hosts, &name]);
        containerd.assert_has(&network.image);
    };
    let first = network.client("first", &elsewhere);
    fetch_through(&first);
    network.wait_until_published(&first);
    network.wait_until_announced(1);
    let second = network.client("second", &elsewhere);
    fetch_through(&second);
    assert_eq!(second.metric(FROM_PEERS), network.image.blob_bytes(), "{}", second.log());
    network.assert_each_blob_left_once();
}

/// Killed in the middle of a pull, it goes on from the last 10 MiB that it has.
#[test]
fn containerd_goes_on_where_it_was_killed() {
    let registry = Registry::start();
    let image = Image::random(29, &[24 * MIB]);
    skopeo::push(&image, registry.addr(), NAME);
    let upstream = FaultProxy::start(registry.addr());
    let layer = &image.layers[0].digest;
    upstream.fail(&format!("/blobs/{layer}"), 1, Fault::Stall { after: 15 << 20 });
    let client = Program::client("client", &[("REGISTRY_LOCATION", &upstream.url())]);
    let containerd = Containerd::start();
    let hosts = containerd.hosts(&format!("[host.\"http://{}\"]", client.addr()));
    let name = format!("docker.io/{NAME}");
    let fetch = ["content", "fetch", "--hosts-dir", &hosts, &name];
    let mut killed = Process::spawn("ctr", containerd.command(&fetch), "containerd");
    killed.wait_until("it has what there is", |output| {
        output.contains(" 15.0 MiB/24.0 MiB").then_some(())
    });
    killed.kill();
    containerd.ctr(&fetch);
    containerd.assert_has(&image);
    assert_eq!(client.metric(FROM_UPSTREAM), image.blob_bytes(), "{}", client.log());
}

/// The certificate that the client made for itself.
#[test]
fn containerd_and_skopeo_trust_the_certificate() {
    let network = Network::start(27, &[MIB]);
    let client = network.client("client", &[]);
    let certificate = client.option("CERTFILE");
    let host = format!("[host.\"https://{}\"]\nca = \"{certificate}\"", client.addr());
    fetch_with_containerd(&network.image, &host);

    let dir = temp_dir();
    let text = fs::read_to_string(certificate).expect("it was made");
    write(dir.path(), "certificates/client.crt", &text);
    let mut command = Command::new("skopeo");
    command.current_dir(dir.path()).args(["--insecure-policy", "copy", "--src-no-creds"]);
    command.args(["--src-cert-dir=certificates", &format!("docker://{}/{NAME}", client.addr())]);
    command.arg("dir:image");
    run(command, "skopeo");
    network.image.assert_is_in(&dir.path().join("image"));
}

/// What a host has, and what it may take from others, is still the registry's to give.
#[test]
fn a_private_image_is_shared_among_those_who_may_have_it() {
    let network = Network::start_private(28, &[2 * MIB]);
    let credentials = format!("--src-creds={CREDENTIALS}");
    let pull = |credentials: &str, client: &Program| {
        let dir = temp_dir();
        let finished = skopeo::pull_as(credentials, client.addr(), NAME, dir.path());
        if finished.status.success() {
            network.image.assert_is_in(dir.path());
        }
        finished.status.success()
    };
    let first = network.client("first", &[]);
    assert!(pull(&credentials, &first), "{}", first.log());
    network.wait_until_published(&first);
    network.wait_until_announced(1);
    let second = network.client("second", &[]);
    for client in [&first, &second] {
        for others in ["--src-no-creds", "--src-creds=user:wrong"] {
            assert!(!pull(others, client), "{others}");
            for blob in network.image.blobs() {
                let path = format!("/v2/library/image/blobs/{}", blob.digest);
                let answer = get(&format!("http://{}{path}", client.addr()), &[]);
                assert_eq!(answer.expect("an answer").status, 401);
            }
        }
    }
    assert!(pull(&credentials, &second), "{}", second.log());
    assert_eq!(second.metric(FROM_UPSTREAM), 0, "{}", second.log());
    let given = |blob: &Blob| {
        let accesses = network.registry.blob_accesses("GET", &blob.digest);
        accesses.iter().filter(|access| access.status == 200).count()
    };
    for blob in network.image.kept() {
        assert_eq!(given(blob), 1, "{}", blob.digest);
    }
}

#[test]
fn podman_pulls() {
    crosses_the_uplink_once(23, |image, client| {
        let dir = temp_dir();
        let registries = format!(
            "[[registry]]\nprefix = \"docker.io\"\nlocation = \"127.0.0.1:1\"\n\
             [[registry.mirror]]\nlocation = \"{}\"\ninsecure = true\n",
            client.addr()
        );
        let registries = write(dir.path(), "registries.conf", &registries);
        let policy = "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}";
        let policy = write(dir.path(), "policy.json", policy);
        // Its other locks are the same for all podmans of a user.
        let engine = write(dir.path(), "containers.conf", "[engine]\nlock_type = \"file\"\n");
        let podman = |arguments: &[&str]| {
            let mut command = as_root("podman");
            command.env("CONTAINERS_REGISTRIES_CONF", &registries);
            command.env("CONTAINERS_CONF", &engine).env("HOME", dir.path());
            command.arg("--root").arg(dir.path().join("root"));
            command.arg("--runroot").arg(dir.path().join("run"));
            command.arg("--tmpdir").arg(dir.path().join("tmp"));
            command.args(["--storage-driver=vfs", "--cgroup-manager=cgroupfs"]);
            command.args(["--events-backend=none", "image"]).args(arguments);
            run(command, "podman")
        };
        let name = format!("docker.io/{NAME}");
        let signatures = format!("--signature-policy={}", policy.display());
        podman(&["pull", "--quiet", &signatures, &name]);
        // It has checked each layer against the configuration that has this id.
        let seen = podman(&["inspect", "--format", "sha256:{{.Id}} {{.Digest}}", &name]);
        let wanted = format!("{} {}", image.config.digest, image.manifest.digest);
        assert!(seen.contains(&wanted), "{seen}");
    });
}

/// dockerd on a containerd of its own.
struct Dockerd {
    host: String,
    process: Process,
    containerd: Containerd,
}

impl Dockerd {
    /// One with this mirror. Where it would fall back to when a mirror fails, nobody listens.
    fn start(mirror: &str) -> Dockerd {
        let containerd = Containerd::start();
        let path = |name: &str| containerd.dir.path().join(name);
        let host = format!("unix://{}", path("docker.sock").display());
        let config = format!("{{\"deprecated-key-path\": {:?}}}", path("key.json"));
        let config = write(containerd.dir.path(), "daemon.json", &config);
        let mut command = without_proxies(as_root("dockerd"));
        command.env("HTTPS_PROXY", "http://127.0.0.1:9").env("HTTP_PROXY", "http://127.0.0.1:9");
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false", "--group=root"]);
        command.args(["--storage-driver=vfs", "--host", &host, "--registry-mirror", mirror]);
        command.arg("--config-file").arg(config).arg("--containerd").arg(&containerd.socket);
        command.arg("--data-root").arg(path("docker")).arg("--exec-root").arg(path("exec"));
        command.arg("--pidfile").arg(path("docker.pid"));
        let mut process = Process::spawn("dockerd", command, "docker.io");
        process.wait_until("it serves", |output| output.contains("API listen on").then_some(()));
        Dockerd { host, process, containerd }
    }

    fn docker(&self, arguments: &[&str]) -> String {
        let mut command = as_root("docker");
        command.env("DOCKER_CONFIG", self.containerd.dir.path());
        command.args(["--host", &self.host]).args(arguments);
        run(command, "docker.io")
    }

    /// Ends it in order, so that it lets go of its mounts.
    fn stop(mut self) {
        self.process.terminate();
        self.containerd.process.terminate();
    }
}

#[test]
fn docker_pulls() {
    crosses_the_uplink_once(24, |image, client| {
        let dockerd = Dockerd::start(&format!("http://{}", client.addr()));
        let name = NAME.trim_start_matches("library/");
        dockerd.docker(&["pull", "--quiet", name]);
        // It has checked each layer against the configuration that has this id.
        let seen =
            dockerd.docker(&["image", "inspect", "--format", "{{.Id}}{{.RepoDigests}}", name]);
        assert!(seen.starts_with(&image.config.digest), "{seen}");
        assert!(seen.contains(&image.manifest.digest), "{seen}");
        dockerd.stop();
    });
}
