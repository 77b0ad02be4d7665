//! flatpak: a runtime from a test remote, through the mirror path and through the proxy.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::foreign::without_proxies;
use crate::support::ostree::tree;
use crate::support::process::Process;
use crate::support::temp_dir;
use crate::{World, files, proxy};

const REF: &str = "org.test.Platform/x86_64/stable";

/// A user of flatpak, with a home of its own.
struct User {
    home: TempDir,
    proxy: Option<String>,
}

impl User {
    fn new(proxy: Option<String>) -> User {
        User { home: temp_dir(), proxy }
    }

    fn run(&self, arguments: &[&str]) -> String {
        let mut command = without_proxies(Command::new("flatpak"));
        command
            .args(arguments)
            .env("HOME", self.home.path())
            .env_remove("DBUS_SESSION_BUS_ADDRESS");
        for (variable, folder) in [
            ("XDG_DATA_HOME", "data"),
            ("XDG_CACHE_HOME", "cache"),
            ("XDG_CONFIG_HOME", "config"),
            ("FLATPAK_USER_DIR", "flatpak"),
            ("FLATPAK_SYSTEM_DIR", "system"),
        ] {
            command.env(variable, self.home.path().join(folder));
        }
        command.envs(self.proxy.iter().map(|proxy| ("http_proxy", proxy)));
        let finished = Process::run("flatpak", command, "flatpak");
        assert!(finished.status.success(), "flatpak {arguments:?}: {}", finished.output);
        finished.output
    }

    /// Installs the runtime from a remote at `url`, perhaps by this mirror of it, and holds it
    /// against `files`.
    fn install(&self, url: &str, mirror: Option<&str>, files: &Path) {
        self.run(&["--user", "remote-add", "--no-gpg-verify", "test", url]);
        if let Some(mirror) = mirror {
            self.run(&["--user", "remote-modify", &format!("--url={mirror}"), "test"]);
        }
        self.run(&["--user", "install", "-y", "--noninteractive", "test", REF]);
        let installed = self.run(&["--user", "info", "--show-location", REF]);
        let mut command = Command::new("diff");
        // `.ref` is flatpak's own.
        command
            .args(["-r", "-x", ".ref"])
            .arg(files)
            .arg(Path::new(installed.trim()).join("files"));
        let finished = Process::run("diff", command, "diffutils");
        assert!(finished.status.success(), "{}", finished.output);
    }
}

/// Exports a runtime into the repository of `world`; its files.
fn export(world: &World) -> TempDir {
    let dir = temp_dir();
    let metadata = format!("[Runtime]\nname=org.test.Platform\nruntime={REF}\nsdk={REF}\n");
    for (name, bytes) in tree(60, 40, &[200_000]) {
        let path = dir.path().join("files").join(name);
        fs::create_dir_all(path.parent().expect("below dir")).expect("the folder can be made");
        fs::write(path, bytes).expect("disk has room");
    }
    fs::write(dir.path().join("metadata"), metadata).expect("disk has room");
    let publisher = User::new(None);
    let path = |path: &Path| path.display().to_string();
    let (repository, build) = (path(world.repository.path()), path(dir.path()));
    publisher.run(&["build-export", "--runtime", "--files=files", &repository, &build, "stable"]);
    publisher.run(&["build-update-repo", "--generate-static-deltas", &repository]);
    dir
}

#[test]
fn flatpak_installs_through_the_mirror_and_through_the_proxy() {
    let mut world = World::start();
    let built = export(&world);
    let files_there = built.path().join("files");
    let certificate = world.site.certificate().display().to_string();
    let client = world.client("client", &[("CA", &certificate)]);
    let mirror = format!("http://{}/ostree/{}/repo", client.addr(), world.site.tls_addr());
    let url = world.site.url("repo");
    for online in [true, false] {
        if online {
            User::new(None).install(&url, Some(&mirror), &files_there);
        } else {
            world.site.stop();
        }
        User::new(None).install(&mirror, None, &files_there);
        User::new(proxy(&client)).install(&url, None, &files_there);
    }
    assert!(files(&client, "stale") > 0, "{}", client.log());
}
