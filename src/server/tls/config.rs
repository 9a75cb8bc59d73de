//! TLS by rustls on aws-lc-rs: TLS 1.2 and 1.3, ALPN `h2` and `http/1.1`, stateless tickets, no early data; client
//! certificates where they are asked for.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite as suite};
use rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, ServerConfig, SupportedCipherSuite};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::expiry;
use super::host::Host;
use super::proxies::Proxies;
use crate::config::Tls;

/// What is offered, ours first: AES-128 with SHA-256 is as safe as anything here, and the key schedule of a handshake over SHA-384
/// costs 30 µs more. OpenSSL, and so nginx in front of us, would choose that.
const CIPHER_SUITES: [SupportedCipherSuite; 9] = [
    suite::TLS13_AES_128_GCM_SHA256,
    suite::TLS13_AES_256_GCM_SHA384,
    suite::TLS13_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// Why TLS cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A PEM file.
    #[error("{}: {error}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        error: rustls_pki_types::pem::Error,
    },
    /// No certificate in the file.
    #[error("{}: no certificate in it", .0.display())]
    NoCertificate(PathBuf),
    /// Certificate and key do not fit, or the like.
    #[error("server.tls: {0}")]
    Rustls(#[from] rustls::Error),
    /// The authority of client certificates cannot be used.
    #[error("server.tls.client_ca: {0}")]
    ClientCa(#[from] VerifierBuilderError),
    /// The ticket key could not be made.
    #[error("server.tls: {0}")]
    Os(#[from] io::Error),
}

/// What certificate files hold.
#[derive(Debug)]
pub struct Loaded {
    /// For connections.
    pub server: Arc<ServerConfig>,
    /// When the first of the certificates that are shown expires, in seconds since 1970; 0 where that cannot be read.
    pub not_after: u64,
}

/// Reads certificate and key, and the authority of client certificates.
pub fn load(config: &Tls) -> Result<Loaded, TlsError> {
    let provider = CryptoProvider { cipher_suites: CIPHER_SUITES.to_vec(), ..aws_lc_rs::default_provider() };
    let provider = Arc::new(provider);
    let key = PrivateKeyDer::from_pem_file(&config.key).map_err(pem_error(&config.key))?;
    let shown = certificates(&config.cert)?;
    let not_after = expiry::first_of(&shown);
    let certified = CertifiedKey::from_der(shown, key, &provider)?;
    let proxies = match &config.proxies {
        Some(proxies) => Some(Proxies::new(roots(&proxies.ca)?, &proxies.names, provider.clone())?),
        None => None,
    };
    let asks_for_certificates = proxies.is_some();
    let verifier = proxies.map_or_else(WebPkiClientVerifier::no_client_auth, |proxies| Arc::new(proxies));
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Host::new(certified)));
    server.ignore_client_order = true;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Sessions are the clients' to keep, in tickets.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    if asks_for_certificates {
        // A resumed session's certificate is not looked at again: neither its dates nor whether its authority is still ours.
        server.send_tls13_tickets = 0;
    } else {
        server.ticketer = aws_lc_rs::Ticketer::new()?;
        server.send_tls13_tickets = 1;
    }
    Ok(Loaded { server: Arc::new(server), not_after })
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate)?;
    }
    Ok(roots)
}

/// The certificates of a PEM file, at least one.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(pem_error(path))?;
    if certificates.is_empty() { Err(TlsError::NoCertificate(path.to_path_buf())) } else { Ok(certificates) }
}

fn pem_error(path: &Path) -> impl Fn(rustls_pki_types::pem::Error) -> TlsError {
    move |error| TlsError::Pem { path: path.to_path_buf(), error }
}
