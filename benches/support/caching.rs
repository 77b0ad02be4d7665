//! nginx as a caching reverse proxy: what stands in front of repositories today.

use std::fs;
use std::net::SocketAddr;

use tempfile::TempDir;

use super::nginx;
use super::rig::process::Process;
use super::rig::{free_port, loopback, temp_dir, wait_for};

/// A running nginx that keeps what `upstream` answers.
#[derive(Debug)]
pub struct CachingNginx {
    addr: SocketAddr,
    process: Process,
    _dir: TempDir,
}

impl CachingNginx {
    /// One with an empty cache and a worker for each core.
    pub fn start(upstream: SocketAddr) -> CachingNginx {
        let dir = temp_dir();
        let addr = loopback(free_port());
        let config = dir.path().join("nginx.conf");
        let path = dir.path().display();
        let text = format!(
            "daemon off;
             user root;
             pid {path}/pid;
             worker_processes auto;
             events {{ worker_connections 1024; }}
             http {{
                 access_log off;
                 sendfile on;
                 keepalive_requests 1000000000;
                 open_file_cache max=10000 inactive=1h;
                 client_body_temp_path {path}/body;
                 proxy_temp_path {path}/proxy;
                 fastcgi_temp_path {path}/fastcgi;
                 uwsgi_temp_path {path}/uwsgi;
                 scgi_temp_path {path}/scgi;
                 proxy_cache_path {path}/cache levels=2 keys_zone=all:32m use_temp_path=off;
                 upstream site {{ server {upstream}; keepalive 64; keepalive_requests 1000000; }}
                 server {{
                     listen {addr};
                     location / {{
                         proxy_pass http://site;
                         proxy_http_version 1.1;
                         proxy_set_header Connection \"\";
                         proxy_cache all;
                         proxy_cache_valid 200 1h;
                         proxy_cache_lock on;
                     }}
                 }}
             }}\n"
        );
        fs::write(&config, text).expect("disk has room");
        let process = nginx::spawn(dir.path(), &config);
        wait_for("nginx", || std::net::TcpStream::connect(addr).ok());
        CachingNginx { addr, process, _dir: dir }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }
}

impl Drop for CachingNginx {
    fn drop(&mut self) {
        // Killed, it would leave its workers behind.
        self.process.terminate();
    }
}
