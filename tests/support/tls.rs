//! A certificate for `app.example`, and clients that trust it.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::DEADLINE;

/// A self-signed certificate with its key, in files that go with it.
pub struct Certificate {
    certificate: CertificateDer<'static>,
    dir: tempfile::TempDir,
}

impl Certificate {
    /// Makes one.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let made = rcgen::generate_simple_self_signed(vec!["app.example".to_owned()]).expect("a certificate");
        std::fs::write(dir.path().join("cert.pem"), made.cert.pem()).expect("written");
        std::fs::write(dir.path().join("key.pem"), made.signing_key.serialize_pem()).expect("written");
        Self { certificate: made.cert.der().clone(), dir }
    }

    /// The table `[server.tls]`.
    pub fn table(&self) -> String {
        let (cert, key) = (self.dir.path().join("cert.pem"), self.dir.path().join("key.pem"));
        format!("[server.tls]\ncert = {cert:?}\nkey = {key:?}\n")
    }

    /// Secures a connection as a client that trusts nothing else.
    pub async fn handshake(&self, stream: TcpStream, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("our own certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("app.example").expect("a name");
        let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream);
        tokio::time::timeout(DEADLINE, connecting).await.expect("a handshake in time")
    }
}
