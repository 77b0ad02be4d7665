//! The manifests for Kubernetes: held against its schema, and against the program.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use torrent_cache::COMMANDS;

use crate::support::process::{Finished, Process};
use crate::support::torrent_cache::binary;
use crate::support::{free_port, get, loopback, temp_dir, wait_for};
use crate::{text, tree};

const FOLDER: &str = "packaging/kubernetes";
const MANIFESTS: [&str; 3] = ["namespace.yaml", "tracker.yaml", "client.yaml"];

/// The versions of Kubernetes whose schema the manifests must follow: the oldest that people still
/// run, and the newest that the checker knows.
const VERSIONS: [&str; 2] = ["1.28.0", "1.37.0"];

/// A program of the folder into which `make deps` puts the checker.
fn tool(name: &str) -> Command {
    let path = tree("target/kubernetes-validate/bin").join(name);
    assert!(path.exists(), "{} is missing: make deps", path.display());
    Command::new(path)
}

/// Holds the manifest at `path` against the schema; what is not in there is an error.
fn validate(path: &Path, version: &str) -> Finished {
    let mut command = tool("kubernetes-validate");
    command.args(["--strict", "--kubernetes-version", version]).arg(path);
    Process::run("kubernetes-validate", command, "")
}

/// The objects of a manifest.
fn objects(name: &str) -> Vec<Value> {
    const READ: &str = "import json, sys, yaml\n\
        print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let mut command = tool("python3");
    command.args(["-c", READ]).arg(tree(FOLDER).join(name));
    let finished = Process::run("python3", command, "");
    assert!(finished.status.success(), "{}", finished.output);
    serde_json::from_str(&finished.output).expect("it printed JSON")
}

fn object(manifest: &str, kind: &str) -> Value {
    let mut objects = objects(manifest).into_iter();
    objects.find(|object| object["kind"] == kind).expect("there is one of this kind")
}

/// The pods of the two commands.
fn pods() -> [(&'static str, Value); 2] {
    let pod = |manifest, kind| object(manifest, kind)["spec"]["template"]["spec"].clone();
    [("client", pod("client.yaml", "DaemonSet")), ("tracker", pod("tracker.yaml", "Deployment"))]
}

/// The variables of a container that have a value, and the names of all.
fn variables(container: &Value) -> (Vec<(&str, &str)>, Vec<&str>) {
    let all = container["env"].as_array().expect("a list");
    let named = all
        .iter()
        .filter_map(|variable| Some((variable["name"].as_str()?, variable["value"].as_str()?)));
    (named.collect(), all.iter().filter_map(|variable| variable["name"].as_str()).collect())
}

#[test]
fn the_manifests_follow_the_schema() {
    for name in MANIFESTS {
        for version in VERSIONS {
            let finished = validate(&tree(FOLDER).join(name), version);
            assert!(finished.status.success(), "{name}, {version}: {}", finished.output);
            let passed = finished.output.matches(" passed for resource ").count();
            assert_eq!(passed, objects(name).len(), "{}", finished.output);
        }
    }
}

#[test]
fn a_typo_in_a_manifest_is_found() {
    let dir = temp_dir();
    for (name, right, wrong) in [
        ("namespace.yaml", "labels:", "lables:"),
        ("tracker.yaml", "readinessProbe:", "readynessProbe:"),
        ("tracker.yaml", "replicas: 1", "replicas: one"),
        ("client.yaml", "hostNetwork:", "hostNetwrok:"),
        ("client.yaml", " hostPath: { path:", " hostPath: { paht:"),
    ] {
        let manifest = text(&format!("{FOLDER}/{name}"));
        assert!(manifest.contains(right), "{name} has no {right}");
        let path = dir.path().join(name);
        fs::write(&path, manifest.replace(right, wrong)).expect("disk has room");
        for version in VERSIONS {
            let finished = validate(&path, version);
            assert!(!finished.status.success(), "{wrong} passes: {}", finished.output);
        }
    }
}

#[test]
fn every_variable_is_an_option_and_nothing_else_becomes_one() {
    for (name, pod) in pods() {
        // A Service named "etcd" or "tracker" would set ETCD_PORT or TRACKER_PORT.
        assert_eq!(pod["enableServiceLinks"], false, "{name}");
        let container = &pod["containers"][0];
        assert_eq!(container["args"], serde_json::json!([name]));
        let command = COMMANDS.iter().find(|command| command.name == name).expect("a command");
        for variable in variables(container).1 {
            let known = command.options.iter().any(|opt| opt.name == variable);
            assert!(known, "{name} has no option {variable}");
        }
    }
}

#[test]
fn probes_ask_where_the_program_answers() {
    for (name, pod) in pods() {
        let container = &pod["containers"][0];
        let (values, _) = variables(container);
        let admin = values.iter().find(|(name, _)| *name == "ADMIN").expect("it is set").1;
        let admin: SocketAddr = admin.parse().expect("an address");
        let ports = container["ports"].as_array().expect("a list");
        let port = ports.iter().find(|port| port["name"] == "admin").expect("it is named");
        assert_eq!(port["containerPort"], admin.port(), "{name}");
        // The kubelet asks the address of the pod, or the loopback of the node that the pod shares.
        let shared = pod["hostNetwork"] == true;
        assert!(admin.ip().is_unspecified() || (shared && admin.ip().is_loopback()), "{name}");
        let (served, mut process) = serve(name, &values);
        for probe in ["livenessProbe", "readinessProbe"] {
            let asked = &container[probe]["httpGet"];
            assert_eq!(asked["port"], "admin");
            let host = asked["host"].as_str().unwrap_or("127.0.0.1");
            assert!(host == "127.0.0.1" && (shared || asked["host"].is_null()), "{name}: {host}");
            let path = asked["path"].as_str().expect("a path");
            wait_for(path, || {
                let answer = get(&format!("http://{served}{path}"), &[]).ok()?;
                (answer.status == 200).then_some(())
            });
        }
        assert!(process.terminate().success());
    }
}

/// Runs the command with the variables of its pod, but on free ports and in a folder of its own.
/// Where its admin port is, and the process.
fn serve(name: &str, variables: &[(&str, &str)]) -> (SocketAddr, Process) {
    let dir = temp_dir();
    let admin = loopback(free_port());
    let mut command = Command::new(binary());
    command.arg(name).env_clear().envs(variables.iter().copied());
    command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
    command.env("STORAGE", dir.path().join("storage")).env("ADMIN", admin.to_string());
    command.env("INTERFACE", "127.0.0.1");
    if name == "client" {
        command.env("PORT", "0").env("TORRENT_FIRST_PORT", "0").env("TORRENT_LAST_PORT", "0");
        // Not this machine's business, and no address at all.
        command.env("TRACKER", "http://127.0.0.1:1/announce").env("ETCD_HOST", "127.0.0.1");
        command.env("ETCD_PORT", "1").env("ADVERTISE", "10.0.0.1");
    } else {
        command.env("TRACKER_PORT", "0").env("ETCD_PORT", free_port().to_string());
    }
    (admin, Process::spawn(name, command, "etcd-server"))
}

#[test]
fn the_service_leads_to_the_tracker() {
    let service = object("tracker.yaml", "Service");
    let deployment = object("tracker.yaml", "Deployment");
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    assert_eq!(service["spec"]["selector"], *labels);
    assert_eq!(deployment["spec"]["selector"]["matchLabels"], *labels);
    let daemon_set = object("client.yaml", "DaemonSet");
    let of_clients = &daemon_set["spec"]["template"]["metadata"]["labels"];
    assert_eq!(daemon_set["spec"]["selector"]["matchLabels"], *of_clients);
    assert_ne!(labels, of_clients);
    let host = format!(
        "{}.{}.svc",
        service["metadata"]["name"].as_str().expect("a name"),
        service["metadata"]["namespace"].as_str().expect("a name"),
    );
    let [(_, client), _] = pods();
    let (values, _) = variables(&client["containers"][0]);
    assert!(values.contains(&("ETCD_HOST", &host)), "{values:?}");
    assert!(values.contains(&("TRACKER", &format!("http://{host}:6969/announce"))), "{values:?}");
    // Each of its ports is one of the container, under that name.
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    for port in service["spec"]["ports"].as_array().expect("a list") {
        let ports = container["ports"].as_array().expect("a list");
        let target = ports.iter().find(|target| target["name"] == port["targetPort"]);
        let target = target.unwrap_or_else(|| panic!("no {}", port["targetPort"]));
        assert_eq!(target["containerPort"], port["port"]);
        assert_eq!(target["protocol"], port["protocol"]);
    }
}

/// Runs the script of the ConfigMap for a node whose containerd looks into `certs_d`.
fn install(certs_d: &Path) -> Finished {
    let map = object("client.yaml", "ConfigMap");
    let config = temp_dir();
    for (name, text) in map["data"].as_object().expect("files") {
        fs::write(config.path().join(name), text.as_str().expect("text")).expect("disk has room");
    }
    let mut command = Command::new("sh");
    command.arg(config.path().join("install.sh"));
    command.env("CONFIG", config.path()).env("CERTS_D", certs_d);
    Process::run("sh", command, "")
}

#[test]
fn nodes_get_the_mirror_and_keep_what_they_have() {
    let dir = temp_dir();
    let file: PathBuf = dir.path().join("certs.d/_default/hosts.toml");
    let map = object("client.yaml", "ConfigMap");
    let ours = map["data"]["hosts.toml"].as_str().expect("text");
    for _ in 0..2 {
        assert!(install(&dir.path().join("certs.d")).status.success());
        assert_eq!(fs::read_to_string(&file).expect("it was made"), ours);
    }
    // Of an earlier version: replaced.
    fs::write(&file, "# torrent-cache\n[host.\"http://127.0.0.1:1\"]\n").expect("disk has room");
    assert!(install(&dir.path().join("certs.d")).status.success());
    assert_eq!(fs::read_to_string(&file).expect("it was made"), ours);
    // Of somebody else: kept.
    fs::write(&file, "server = \"https://mirror.example\"\n").expect("disk has room");
    let finished = install(&dir.path().join("certs.d"));
    assert!(finished.status.success() && finished.output.contains("is not ours"));
    assert!(fs::read_to_string(&file).expect("it is there").contains("mirror.example"));
    // It is what the manual says, for the port that is the default.
    let lines: Vec<_> = ours.lines().filter(|line| !line.starts_with('#')).collect();
    assert!(text("README.md").contains(&lines.join("\n")), "the README says something else");
}
