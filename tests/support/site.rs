//! A web server of OSTree repositories: nginx of the `nginx-light` package, with a log of what was
//! asked of it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use super::foreign::program;
use super::process::Process;
use super::{Access, free_port, get, loopback, temp_dir, wait_for};

/// What the private part of the site wants: `Authorization: Basic` of `user:secret`.
pub const AUTHORIZATION: &str = "Basic dXNlcjpzZWNyZXQ=";

/// nginx, which serves a folder over HTTP and over TLS; what lies in `private/` wants
/// [`AUTHORIZATION`].
pub struct Site {
    dir: TempDir,
    port: u16,
    tls_port: u16,
    process: Option<Process>,
}

impl Site {
    pub fn start() -> Site {
        let dir = temp_dir();
        let (port, tls_port) = (free_port(), free_port());
        fs::create_dir_all(dir.path().join("www/private")).expect("the folder can be made");
        let key = rcgen::KeyPair::generate().expect("a key can be made");
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let certificate = rcgen::CertificateParams::new(names).expect("names of this host");
        let certificate = certificate.self_signed(&key).expect("it signs itself");
        fs::write(dir.path().join("cert.pem"), certificate.pem()).expect("disk has room");
        fs::write(dir.path().join("key.pem"), key.serialize_pem()).expect("disk has room");
        fs::write(dir.path().join("users"), "user:{PLAIN}secret\n").expect("disk has room");
        fs::write(dir.path().join("nginx.conf"), configuration(dir.path(), port, tls_port))
            .expect("disk has room");
        let mut site = Site { dir, port, tls_port, process: None };
        site.start_again();
        site
    }

    /// Starts it, for the first time or after [`Site::stop`].
    pub fn start_again(&mut self) {
        let mut command = Command::new(program("nginx"));
        command.arg("-p").arg(self.dir.path()).arg("-c").arg(self.dir.path().join("nginx.conf"));
        self.process = Some(Process::spawn("nginx", command, "nginx-light"));
        wait_for("nginx to answer", || get(&format!("http://{}/", self.addr()), &[]).ok());
    }

    /// Ends it: nobody listens any more.
    pub fn stop(&mut self) {
        self.process.take().expect("it runs").terminate();
    }

    /// The folder that it serves.
    pub fn root(&self) -> PathBuf {
        self.dir.path().join("www")
    }

    /// Its certificate, for whoever is to trust it.
    pub fn certificate(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    pub fn addr(&self) -> SocketAddr {
        loopback(self.port)
    }

    /// The URL of a folder below [`Site::root`].
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.addr())
    }

    /// Host and port of the server over TLS.
    pub fn tls_addr(&self) -> SocketAddr {
        loopback(self.tls_port)
    }

    /// The requests that were answered so far.
    pub fn accesses(&self) -> Vec<Access> {
        // It logs a request after its answer, and before it answers the next.
        if self.process.is_some() {
            get(&self.url("logged"), &[]).expect("nginx answers");
        }
        let log = fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        let access = |line: &str| {
            let mut words = line.split(' ');
            Some(Access {
                method: words.next()?.to_owned(),
                path: words.next()?.to_owned(),
                status: words.next()?.parse().ok()?,
                bytes: words.next()?.parse().ok()?,
            })
        };
        // The last line may be half written.
        log.split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
            .filter_map(|line| access(line.trim_end()))
            .collect()
    }

    /// How often `GET` of a path that `wanted` takes was answered with a body.
    pub fn bodies(&self, wanted: impl Fn(&str) -> bool) -> usize {
        let is_body = |access: &&Access| {
            access.method == "GET" && matches!(access.status, 200 | 206) && wanted(&access.path)
        };
        self.accesses().iter().filter(is_body).count()
    }
}

fn configuration(dir: &Path, port: u16, tls_port: u16) -> String {
    let dir = dir.display();
    let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("{name}_temp_path {dir}/temp-{name};\n"))
        .concat();
    let server = format!(
        "root {dir}/www;\n\
         location = /logged {{ access_log off; return 204; }}\n\
         location /private/ {{ auth_basic private; auth_basic_user_file {dir}/users; }}\n"
    );
    format!(
        "daemon off;\nmaster_process off;\npid {dir}/nginx.pid;\nerror_log stderr warn;\n\
         events {{ worker_connections 512; }}\n\
         http {{\n\
         log_format plain '$request_method $uri $status $body_bytes_sent';\n\
         access_log {dir}/access.log plain;\n\
         default_type application/octet-stream;\n{temp}\
         server {{ listen 127.0.0.1:{port};\n{server}}}\n\
         server {{ listen 127.0.0.1:{tls_port} ssl;\n\
         ssl_certificate {dir}/cert.pem;\nssl_certificate_key {dir}/key.pem;\n{server}}}\n\
         }}\n"
    )
}
