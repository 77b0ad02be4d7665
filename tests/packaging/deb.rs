//! The Debian package: what is in it, and a life with it on a system of its own.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use torrent_cache::COMMANDS;

use crate::manual::printed;
use crate::support::process::Process;
use crate::support::torrent_cache::binary;
use crate::support::{PATIENCE, temp_dir};
use crate::units::{UNITS, settings};
use crate::{text, tree};

/// The package of the binary under test, made once.
fn package() -> &'static Path {
    static PACKAGE: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = PACKAGE.get_or_init(|| {
        let dir = temp_dir();
        let path = build(dir.path());
        (dir, path)
    });
    path
}

/// Makes the package in `folder`.
fn build(folder: &Path) -> PathBuf {
    let mut command = Command::new(tree("packaging/deb/build.sh"));
    command.arg(binary()).arg(folder).env("SOURCE_DATE_EPOCH", "1700000000");
    let output = run(command, "dpkg-dev");
    let path = PathBuf::from(output.lines().last().expect("it names the package"));
    assert!(path.starts_with(folder), "{output}");
    path
}

/// Runs `command`, which must succeed; its output.
fn run(command: Command, package: &str) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let finished = Process::run(&name, command, package);
    assert!(finished.status.success(), "{name}: {}", finished.output);
    finished.output
}

fn dpkg_deb(option: &str, more: &[&Path]) -> String {
    let mut command = Command::new("dpkg-deb");
    command.arg(option).arg(package()).args(more);
    run(command, "dpkg")
}

/// The package, unpacked.
fn unpacked() -> TempDir {
    let dir = temp_dir();
    dpkg_deb("--extract", &[dir.path()]);
    dir
}

#[test]
fn the_package_holds_everything_where_it_belongs() {
    let contents = dpkg_deb("--contents", &[]);
    let modes: BTreeMap<&str, &str> = contents
        .lines()
        .filter_map(|line| Some((line.split_whitespace().nth(5)?, line.split_whitespace().next()?)))
        .collect();
    for (path, mode) in [
        ("./", "drwxr-xr-x"),
        ("./usr/bin/torrent-cache", "-rwxr-xr-x"),
        ("./lib/systemd/system/torrent-cache-client.service", "-rw-r--r--"),
        ("./lib/systemd/system/torrent-cache-tracker.service", "-rw-r--r--"),
        ("./etc/default/torrent-cache-client", "-rw-r-----"),
        ("./etc/default/torrent-cache-tracker", "-rw-r-----"),
        ("./usr/share/man/man1/torrent-cache.1.gz", "-rw-r--r--"),
        ("./usr/share/man/man1/torrent-cache-client.1.gz", "-rw-r--r--"),
        ("./usr/share/man/man1/torrent-cache-tracker.1.gz", "-rw-r--r--"),
        ("./usr/share/bash-completion/completions/torrent-cache", "-rw-r--r--"),
        ("./usr/share/zsh/vendor-completions/_torrent-cache", "-rw-r--r--"),
        ("./usr/share/fish/vendor_completions.d/torrent-cache.fish", "-rw-r--r--"),
        ("./usr/share/doc/torrent-cache/copyright", "-rw-r--r--"),
    ] {
        assert_eq!(modes.get(path), Some(&mode), "{path}:\n{contents}");
    }
    let info = dpkg_deb("--info", &[]);
    assert!(info.contains(&format!(" Version: {}-", env!("CARGO_PKG_VERSION"))), "{info}");
    let conffiles = run(
        {
            let mut command = Command::new("dpkg-deb");
            command.arg("--info").arg(package()).arg("conffiles");
            command
        },
        "dpkg",
    );
    let wanted = "/etc/default/torrent-cache-client\n/etc/default/torrent-cache-tracker\n";
    assert_eq!(conffiles, wanted);
}

#[test]
fn the_package_is_the_same_each_time() {
    let dir = temp_dir();
    let again = build(dir.path());
    let read = |path: &Path| fs::read(path).expect("it was made");
    assert!(read(&again) == read(package()), "two builds differ");
}

#[test]
fn lintian_finds_no_error() {
    let mut command = Command::new("lintian");
    command.args(["--fail-on", "error,warning", "--allow-root"]).arg(package());
    run(command, "lintian");
}

#[test]
fn the_program_runs_from_the_package() {
    let root = unpacked();
    let mut command = Command::new(root.path().join("usr/bin/torrent-cache"));
    command.arg("--version").env_clear();
    let version = run(command, "");
    assert_eq!(version, format!("torrent-cache {}\n", env!("CARGO_PKG_VERSION")));
    for (path, arguments) in [
        ("bash-completion/completions/torrent-cache", ["completions", "bash"]),
        ("zsh/vendor-completions/_torrent-cache", ["completions", "zsh"]),
        ("fish/vendor_completions.d/torrent-cache.fish", ["completions", "fish"]),
    ] {
        let path = root.path().join("usr/share").join(path);
        assert_eq!(fs::read_to_string(path).expect("it is there"), printed(&arguments));
    }
}

#[test]
fn the_files_in_etc_default_list_every_option_and_agree_with_the_units() {
    let root = unpacked();
    for (command, unit) in COMMANDS.iter().zip(UNITS) {
        let path = root.path().join(format!("etc/default/torrent-cache-{}", command.name));
        let file = fs::read_to_string(path).expect("it is there");
        for opt in command.options {
            let set = format!("{}=", opt.name);
            let lines = file.lines().map(|line| line.trim_start_matches('#'));
            assert_eq!(lines.filter(|line| line.starts_with(&set)).count(), 1, "{}", opt.name);
        }
        // What is set there is what the unit says, in the same order or another.
        let mut set: Vec<_> = file.lines().filter(|line| line.contains('=')).collect();
        set.retain(|line| !line.starts_with('#'));
        let unit = text(&format!("packaging/systemd/{unit}"));
        let mut of_unit: Vec<_> = settings(&unit, "Environment");
        set.sort_unstable();
        of_unit.sort_unstable();
        let of_unit: Vec<_> = of_unit.iter().map(|line| line.replace("%S", "/var/lib")).collect();
        assert_eq!(set, of_unit);
    }
}

/// What happens on the system. It runs as the one service of a booted systemd, with the package's
/// folder at /probe, and says what it saw; each line that starts with `saw` is looked at below.
const LIFE: &str = r#"
exec 2>&1
saw() { echo "saw $1: ${*:2}"; }
pid() { systemctl show -P MainPID "torrent-cache-$1"; }
# What keeps packages from starting services on the host is not meant for this system.
rm -f /usr/sbin/policy-rc.d
dpkg -i /probe/*.deb
saw enabled "$(systemctl is-enabled torrent-cache-client torrent-cache-tracker)"
saw active "$(systemctl is-active torrent-cache-client torrent-cache-tracker)"
systemctl start torrent-cache-tracker torrent-cache-client
saw started "$(systemctl is-active torrent-cache-client torrent-cache-tracker)"
# Started means that they answer: no second attempt.
saw client "$(curl -s 127.0.0.1:8889/readyz)"
saw tls "$(curl -sk https://127.0.0.1:8888/v2/ -o /dev/null -w '%{http_code}')"
saw tracker "$(curl -s 127.0.0.1:6970/healthz)"
saw etcd "$(curl -sf --retry 60 --retry-delay 1 127.0.0.1:6970/readyz)"
saw status "$(systemctl show -P StatusText torrent-cache-client)"
saw user "$(awk '/^Uid/ { print ($2 == 0 ? "root" : "another") }' "/proc/$(pid client)/status")"
saw capabilities "$(awk '/^CapBnd/ { print $2 }' "/proc/$(pid client)/status")"
saw store "$(ls /var/lib/torrent-cache-client /var/lib/torrent-cache-client/storage)"
certificate=/var/lib/torrent-cache-client/ssl/cert.pem
saw names "$(openssl x509 -in "$certificate" -noout -ext subjectAltName)"
saw host "$(hostname)"
# The journal knows how much a line matters.
saw warnings "$(journalctl -q -o cat -p warning -u torrent-cache-client)"
saw infos "$(journalctl -q -o cat -p info -u torrent-cache-client | grep -c '^INFO  main: serving')"
# The options come from the file, and the process comes back by itself.
echo 'LOG=debug' >>/etc/default/torrent-cache-client
before=$(pid client)
kill -9 "$before"
for _ in $(seq 300); do
  [[ $(pid client) != "$before" && $(systemctl is-active torrent-cache-client) == active ]] && break
  sleep 0.1
done
saw restarted "$(systemctl is-active torrent-cache-client)" \
  "$(tr '\0' '\n' <"/proc/$(pid client)/environ" | grep ^LOG=)"
# An upgrade starts what runs anew, and keeps the files of its owner.
before=$(pid client)
dpkg -i /probe/*.deb
saw upgraded "$(systemctl is-active torrent-cache-client)" \
  "$([[ $(pid client) != "$before" ]] && echo anew)" \
  "$(grep -c ^LOG=debug /etc/default/torrent-cache-client)"
dpkg -r torrent-cache
saw removed "$(systemctl is-active torrent-cache-client torrent-cache-tracker)" \
  "$(ls /etc/default | grep -c torrent)" "$(ls /var/lib/private | grep -c torrent)"
dpkg -P torrent-cache
saw purged "$(ls /etc/default | grep -c torrent)" "$(ls /var/lib/private | grep -c torrent)" \
  "$(find /etc/systemd /lib/systemd -name 'torrent-cache*' | wc -l)"
journalctl --no-pager -u 'torrent-cache*'
"#;

const LIFE_UNIT: &str = "\
    [Service]\nType=oneshot\nExecStart=/bin/bash /probe/life.sh\nTimeoutStartSec=150\n\
    StandardOutput=file:/probe/log\nStandardError=inherit\n\
    ExecStopPost=systemctl --no-block poweroff\n";

/// Boots a systemd on what this system has installed, over a file system in memory that takes all
/// changes, with a network of its own; runs [`LIFE`] in it. What that said.
fn live() -> String {
    let probe = temp_dir();
    fs::set_permissions(probe.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    fs::create_dir(probe.path().join("root")).expect("disk has room");
    fs::copy(package(), probe.path().join("torrent-cache.deb")).expect("disk has room");
    fs::write(probe.path().join("life.sh"), LIFE).expect("disk has room");
    fs::write(probe.path().join("life.service"), LIFE_UNIT).expect("disk has room");
    // A container on `/` itself is refused; the mount goes with the namespace.
    let boot = "mount --bind / \"$1/root\" && exec systemd-nspawn --directory=\"$1/root\" \
        --volatile=overlay --private-network --register=no --keep-unit \
        --machine=torrent-cache-test --bind=\"$1:/probe\" \
        --bind-ro=\"$1/life.service:/etc/systemd/system/life.service\" \
        --boot systemd.unit=life.service";
    let is_root = fs::metadata("/proc/self").map(|meta| std::os::unix::fs::MetadataExt::uid(&meta));
    let words: &[&str] = if matches!(is_root, Ok(0)) { &[] } else { &["sudo"] };
    let words: Vec<&str> =
        words.iter().copied().chain(["unshare", "--mount", "sh", "-c", boot, "sh"]).collect();
    let start = Instant::now();
    let booted = loop {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(probe.path()).env("SYSTEMD_COLORS", "0");
        let output = Process::run("systemd-nspawn", command, "systemd-container").output;
        // One at a time may be over this root, and it may be that of another run of the tests.
        if !output.contains("is currently busy") || start.elapsed() > 4 * PATIENCE {
            break output;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    let log = fs::read_to_string(probe.path().join("log"));
    log.unwrap_or_else(|error| panic!("no log: {error}\n{booted}"))
}

#[test]
fn a_system_lives_with_the_package() {
    let log = live();
    let saw: BTreeMap<String, String> = log
        .split("\nsaw ")
        .filter_map(|part| part.split_once(": "))
        .map(|(name, seen)| (name.to_owned(), seen.to_owned()))
        .collect();
    for (name, wanted) in [
        ("enabled", "disabled\ndisabled"),
        ("active", "inactive\ninactive"),
        ("started", "active\nactive"),
        ("client", "ready"),
        // The upstream has no address in there.
        ("tls", "50"),
        ("tracker", "ok"),
        ("etcd", "ready"),
        ("status", "serving clients on 0.0.0.0:8888,"),
        ("user", "another"),
        ("capabilities", "0000000000000000"),
        ("store", "/var/lib/torrent-cache-client:\nssl\nstorage\n"),
        ("warnings", "WARN  http-worker: no answer from upstream"),
        ("infos", "1"),
        ("restarted", "active LOG=debug"),
        ("upgraded", "active anew 1"),
        ("removed", "inactive\ninactive 2 2"),
        ("purged", "0 0 0"),
    ] {
        let seen = saw.get(name).unwrap_or_else(|| panic!("{name} is missing in\n{log}"));
        assert!(seen.starts_with(wanted), "{name}: {seen}\nin\n{log}");
    }
    assert!(!saw["warnings"].contains("INFO"), "{log}");
    let host = saw["host"].lines().next().expect("a name");
    assert!(saw["names"].contains(&format!("DNS:{host}")), "{host} is missing in\n{log}");
}
