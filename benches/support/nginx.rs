//! nginx, the fastest server of files there is, set up as one that is meant to be fast.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use torrent_cache::base::sys;

use super::rig::process::Process;
use super::rig::{free_port, loopback, temp_dir, wait_for};

/// A running nginx that serves the files below its root as a registry serves blobs.
#[derive(Debug)]
pub struct Nginx {
    plain: SocketAddr,
    tls: SocketAddr,
    process: Process,
    dir: TempDir,
}

/// The path of a blob, here and at any registry.
pub fn blob_path(digest: &str) -> String {
    format!("/v2/library/bench/blobs/{digest}")
}

impl Nginx {
    /// One with a worker for each core, and this certificate and key.
    pub fn start(cert: &Path, key: &Path) -> Nginx {
        let dir = temp_dir();
        let (plain, tls) = (loopback(free_port()), loopback(free_port()));
        let blobs = dir.path().join("root").join(&blob_path("")[1..]);
        fs::create_dir_all(&blobs).expect("the folder can be made");
        let config = dir.path().join("nginx.conf");
        fs::write(&config, config_text(dir.path(), plain, tls, cert, key)).expect("disk has room");
        let process = spawn(dir.path(), &config);
        wait_for("nginx", || std::net::TcpStream::connect(plain).ok());
        Nginx { plain, tls, process, dir }
    }

    pub fn addr(&self) -> SocketAddr {
        self.plain
    }

    pub fn tls_addr(&self) -> SocketAddr {
        self.tls
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its address as `http://host:port`, as `REGISTRY_LOCATION` takes it.
    pub fn url(&self) -> String {
        format!("http://{}", self.plain)
    }

    /// Makes `bytes` a blob that it serves.
    pub fn add(&self, digest: &str, bytes: &[u8]) {
        fs::write(self.file(digest), bytes).expect("disk has room");
    }

    fn file(&self, digest: &str) -> PathBuf {
        self.dir.path().join("root").join(&blob_path(digest)[1..])
    }
}

/// Starts nginx in the foreground. However the bench ends, its workers end with it: the first
/// process is told, and tells them.
pub fn spawn(dir: &Path, config: &Path) -> Process {
    let mut command = Command::new("nginx");
    command.arg("-p").arg(dir).arg("-c").arg(config).args(["-e", "stderr"]);
    sys::end_with_parent(&mut command);
    Process::spawn("nginx", command, "nginx-light")
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Killed, it would leave its workers behind.
        self.process.terminate();
    }
}

fn config_text(dir: &Path, plain: SocketAddr, tls: SocketAddr, cert: &Path, key: &Path) -> String {
    let (dir, cert, key) = (dir.display(), cert.display(), key.display());
    // Run by root, its workers would be somebody who may not enter the folder.
    format!(
        "daemon off;
         user root;
         pid {dir}/pid;
         worker_processes auto;
         events {{ worker_connections 1024; }}
         http {{
             access_log off;
             sendfile on;
             tcp_nopush on;
             keepalive_requests 1000000000;
             open_file_cache max=10000 inactive=1h;
             default_type application/octet-stream;
             client_body_temp_path {dir}/body;
             proxy_temp_path {dir}/proxy;
             fastcgi_temp_path {dir}/fastcgi;
             uwsgi_temp_path {dir}/uwsgi;
             scgi_temp_path {dir}/scgi;
             ssl_certificate {cert};
             ssl_certificate_key {key};
             server {{
                 listen {plain};
                 listen {tls} ssl;
                 root {dir}/root;
             }}
         }}\n"
    )
}
