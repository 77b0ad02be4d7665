//! etcd of the `etcd-server` package: one member or a cluster, each with a storage of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;
use torrent_cache::proto::http1::Url;

use super::process::{Finished, Process};
use super::{etcd_dir, free_port, get, wait_for};

/// One running member.
#[derive(Debug)]
pub struct Etcd {
    name: String,
    arguments: Vec<String>,
    client_port: u16,
    process: Process,
    dir: TempDir,
}

impl Etcd {
    /// A member that is a cluster by itself.
    pub fn start() -> Etcd {
        Etcd::cluster(1).remove(0)
    }

    /// A cluster of `count` members that answer.
    pub fn cluster(count: usize) -> Vec<Etcd> {
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let peers: Vec<String> = (ports.iter().enumerate())
            .map(|(number, (_, peer))| format!("etcd{number}=http://127.0.0.1:{peer}"))
            .collect();
        let start = |(number, (client, peer)): (usize, &(u16, u16))| {
            let dir = etcd_dir();
            let client_url = format!("http://127.0.0.1:{client}");
            let peer_url = format!("http://127.0.0.1:{peer}");
            let arguments = [
                ("--name", format!("etcd{number}")),
                ("--data-dir", dir.path().display().to_string()),
                ("--listen-client-urls", client_url.clone()),
                ("--advertise-client-urls", client_url),
                ("--listen-peer-urls", peer_url.clone()),
                ("--initial-advertise-peer-urls", peer_url),
                ("--initial-cluster", peers.join(",")),
            ];
            let arguments: Vec<String> =
                arguments.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            let name = format!("etcd{number}");
            let process = spawn(&name, &arguments);
            Etcd { name, arguments, client_port: *client, process, dir }
        };
        let members: Vec<Etcd> = ports.iter().enumerate().map(start).collect();
        members.iter().for_each(Etcd::wait_until_healthy);
        members
    }

    pub fn url(&self) -> Url {
        Url::parse(&format!("http://127.0.0.1:{}", self.client_port)).expect("a URL")
    }

    pub fn client_port(&self) -> u16 {
        self.client_port
    }

    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }

    /// A member that speaks TLS alone, with a certificate that signs itself, and where that is.
    pub fn start_with_tls() -> (Etcd, PathBuf) {
        let dir = etcd_dir();
        let [client_port, peer_port, metrics_port] = [(); 3].map(|()| free_port());
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).expect("names of this host");
        let certificate = certificate.self_signed(&key).expect("it signs itself");
        let [certificate_path, key_path] =
            ["cert.pem", "key.pem"].map(|name| dir.path().join(name));
        fs::write(&certificate_path, certificate.pem()).expect("disk has room");
        fs::write(&key_path, key.serialize_pem()).expect("disk has room");
        let client_url = format!("https://127.0.0.1:{client_port}");
        let metrics_url = format!("http://127.0.0.1:{metrics_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let arguments = [
            ("--data-dir", dir.path().join("data").display().to_string()),
            ("--cert-file", certificate_path.display().to_string()),
            ("--key-file", key_path.display().to_string()),
            ("--listen-client-urls", client_url.clone()),
            ("--advertise-client-urls", client_url),
            ("--listen-metrics-urls", metrics_url.clone()),
            ("--listen-peer-urls", peer_url.clone()),
            ("--initial-advertise-peer-urls", peer_url.clone()),
            ("--initial-cluster", format!("default={peer_url}")),
        ];
        let arguments: Vec<String> =
            arguments.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        let process = spawn("etcd", &arguments);
        wait_until_healthy(&metrics_url);
        (Etcd { name: "etcd".to_owned(), arguments, client_port, process, dir }, certificate_path)
    }

    /// Starts a member that was ended, with the storage that it had.
    pub fn start_again(&mut self) {
        self.process = spawn(&self.name, &self.arguments);
    }

    /// Starts a member that was ended, with an empty storage.
    pub fn start_empty(&mut self) {
        let data = fs::read_dir(self.dir.path()).expect("it is there");
        for entry in data {
            let path = entry.expect("it can be read").path();
            fs::remove_dir_all(path).expect("etcd makes folders");
        }
        self.start_again();
    }

    pub fn wait_until_healthy(&self) {
        wait_until_healthy(&format!("http://127.0.0.1:{}", self.client_port));
    }

    /// Runs `etcdctl` of the `etcd-client` package against this member.
    pub fn ctl(&self, arguments: &[&str]) -> Finished {
        let mut command = Command::new("etcdctl");
        let endpoint = format!("--endpoints=http://127.0.0.1:{}", self.client_port);
        command.env("ETCDCTL_API", "3").arg(endpoint).args(arguments);
        Process::run("etcdctl", command, "etcd-client")
    }
}

fn wait_until_healthy(url: &str) {
    let url = format!("{url}/health");
    wait_for("etcd to be healthy", || {
        get(&url, &[]).ok().filter(|answer| answer.text().contains("true"))
    });
}

fn spawn(name: &str, arguments: &[String]) -> Process {
    let mut command = Command::new("etcd");
    command.args(arguments);
    Process::spawn(name, command, "etcd-server")
}
