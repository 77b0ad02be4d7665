//! TLS: the server's certificate, made on first start if there is none, and whom our clients trust.
//! The provider is `ring`, named everywhere so that no process-wide default is needed.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// Why there is no TLS. One line that names the file.
#[derive(Debug)]
pub enum TlsError {
    /// One file of the pair is there, the other is not.
    Half {
        /// The one that is there.
        present: PathBuf,
        /// The one that is not.
        absent: PathBuf,
    },
    /// A file cannot be read, or is not what it should be.
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The certificate and the key do not belong together.
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A pair could not be made.
    Make(String),
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsError::Half { present, absent } => {
                write!(f, "{} exists but {} does not", present.display(), absent.display())
            }
            TlsError::File { path, why } => write!(f, "{}: {why}", path.display()),
            TlsError::Pair { cert, why } => {
                write!(f, "{} does not go with its key: {why}", cert.display())
            }
            TlsError::Make(why) => write!(f, "no certificate could be made: {why}"),
        }
    }
}

impl std::error::Error for TlsError {}

/// The provider of all cryptography in TLS.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The server's side, from two PEM files: a chain with our certificate first, and its key. If
/// neither exists, a self-signed pair for `names` (host names and addresses), `localhost` and the
/// loopback addresses is made and kept there.
///
/// # Errors
/// If only one of the two exists, one is broken, or they do not belong together.
pub fn server_config(
    cert: &Path,
    key: &Path,
    names: &[String],
) -> Result<Arc<ServerConfig>, TlsError> {
    match (cert.exists(), key.exists()) {
        (false, false) => make_pair(cert, key, names)?,
        (true, false) => return Err(half(cert, key)),
        (false, true) => return Err(half(key, cert)),
        (true, true) => {}
    }
    let chain = read_certificates(cert)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, &error))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .map_err(|error| TlsError::Make(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .map_err(|error| TlsError::Pair { cert: cert.into(), why: error.to_string() })?;
    Ok(Arc::new(config))
}

fn half(present: &Path, absent: &Path) -> TlsError {
    TlsError::Half { present: present.into(), absent: absent.into() }
}

fn file(path: &Path, why: &dyn fmt::Display) -> TlsError {
    TlsError::File { path: path.into(), why: why.to_string() }
}

/// All certificates of a PEM file: at least one.
fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| file(path, &error))?.collect();
    let certificates = certificates.map_err(|error| file(path, &error))?;
    if certificates.is_empty() {
        return Err(file(path, &"no certificate in it"));
    }
    Ok(certificates)
}

fn make_pair(cert: &Path, key: &Path, names: &[String]) -> Result<(), TlsError> {
    let make = |error: rcgen::Error| TlsError::Make(error.to_string());
    let mut all: Vec<String> =
        ["localhost", "127.0.0.1", "::1"].into_iter().map(str::to_owned).collect();
    all.extend(names.iter().filter(|name| !name.is_empty()).cloned());
    all.sort_unstable();
    all.dedup();
    let mut params = CertificateParams::default();
    // Addresses must stand as addresses: clients do not look for them among the names.
    for name in all {
        params.subject_alt_names.push(match name.parse() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.try_into().map_err(make)?),
        });
    }
    params.distinguished_name.push(DnType::CommonName, "torrent-cache");
    let pair = KeyPair::generate().map_err(make)?;
    let signed = params.self_signed(&pair).map_err(make)?;
    // The key first: a crash in between leaves the half that is named in the error.
    write_new(key, pair.serialize_pem().as_bytes(), 0o600)?;
    write_new(cert, signed.pem().as_bytes(), 0o644)
}

/// Writes a file as a whole or not at all.
fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), TlsError> {
    let written = || -> io::Result<()> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        let temporary = path.with_extension("new");
        // A leftover of a crash may have another mode.
        let _ = fs::remove_file(&temporary);
        let mut out =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        out.write_all(bytes)?;
        out.sync_all()?;
        fs::rename(&temporary, path)
    };
    written().map_err(|error| file(path, &error))
}

/// The certificates of the authorities that our clients trust.
#[derive(Clone, Debug)]
pub struct Roots(pub Vec<CertificateDer<'static>>);

/// The roots of the system, those of Mozilla if it has none, and the certificates of `extra`, a PEM
/// file.
///
/// # Errors
/// If `extra` cannot be read or holds no certificate.
pub fn client_roots(extra: Option<&Path>) -> Result<Roots, TlsError> {
    let native = rustls_native_certs::load_native_certs();
    for error in &native.errors {
        log::warn!("some certificates of the system cannot be read: {error}");
    }
    roots(native.certs, extra)
}

fn roots(system: Vec<CertificateDer<'static>>, extra: Option<&Path>) -> Result<Roots, TlsError> {
    // An empty container has none.
    let mut all = match system.is_empty() {
        true => webpki_root_certs::TLS_SERVER_ROOT_CERTS.to_vec(),
        false => system,
    };
    if let Some(path) = extra {
        all.extend(read_certificates(path)?);
    }
    Ok(Roots(all))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_pair_is_made_once_and_the_key_is_private() {
        let folder = tempfile::tempdir().unwrap();
        let cert = folder.path().join("new/ssl/cert.pem");
        let key = folder.path().join("new/ssl/key.pem");
        server_config(&cert, &key, &["host.example".to_owned(), "192.0.2.1".to_owned()]).unwrap();
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
        let made = fs::read(&cert).unwrap();
        server_config(&cert, &key, &[]).unwrap();
        assert_eq!(fs::read(&cert).unwrap(), made, "the second start takes the first one's");
        assert_eq!(
            fs::read_dir(cert.parent().unwrap()).unwrap().count(),
            2,
            "nothing is left over"
        );
    }

    #[test]
    fn broken_pairs_are_errors_that_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let error = |cert: &str, key: &str| {
            server_config(&path(cert), &path(key), &[]).expect_err("broken").to_string()
        };
        server_config(&path("a.pem"), &path("a.key"), &[]).unwrap();
        server_config(&path("b.pem"), &path("b.key"), &[]).unwrap();
        fs::write(path("junk"), "junk").unwrap();
        for (text, file) in [
            (error("a.pem", "absent"), "absent"),
            (error("absent", "a.key"), "absent"),
            (error("junk", "a.key"), "junk"),
            (error("a.pem", "junk"), "junk"),
            (error("a.pem", "b.key"), "a.pem"),
        ] {
            assert!(text.contains(file) && !text.contains('\n'), "{text}");
        }
    }

    #[test]
    fn extra_roots_are_added_or_refused() {
        let folder = tempfile::tempdir().unwrap();
        let cert = folder.path().join("cert.pem");
        server_config(&cert, &folder.path().join("key.pem"), &[]).unwrap();
        let ours = read_certificates(&cert).unwrap();
        let system = client_roots(Some(&cert)).unwrap().0;
        assert!(system.len() > 1 && system.contains(&ours[0]));
        let built_in = roots(Vec::new(), Some(&cert)).unwrap().0;
        assert!(built_in.len() > 100 && built_in.contains(&ours[0]));
        assert!(client_roots(Some(&folder.path().join("absent"))).is_err());
    }
}
