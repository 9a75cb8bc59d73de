//! Certificates for `app.example` and for proxies, and clients that show and trust them.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
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
        Self::of(&Pem::new())
    }

    /// The files, as they are now.
    pub fn of(pem: &Pem) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let made = Self { certificate: pem.der.clone(), dir };
        std::fs::write(made.cert(), &pem.cert).expect("written");
        std::fs::write(made.key(), &pem.key).expect("written");
        made
    }

    /// The certificate's file.
    pub fn cert(&self) -> PathBuf {
        self.dir.path().join("cert.pem")
    }

    /// The key's file.
    pub fn key(&self) -> PathBuf {
        self.dir.path().join("key.pem")
    }

    /// The table `[server.tls]`.
    pub fn table(&self) -> String {
        format!("[server.tls]\ncert = {:?}\nkey = {:?}\n", self.cert(), self.key())
    }

    /// Secures a connection as a client that trusts nothing else.
    pub async fn handshake(&self, stream: TcpStream, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        self.handshake_as(stream, alpn, "app.example", None).await
    }

    /// The same as a client that asks for a host, or for none by an address, and shows a certificate.
    pub async fn handshake_as(
        &self,
        stream: TcpStream,
        alpn: &[&str],
        host: &str,
        shown: Option<&Pem>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        connect(stream, alpn, host, &self.certificate, shown).await
    }
}

/// A certificate and its key.
#[derive(Clone)]
pub struct Pem {
    /// PEM.
    pub cert: String,
    /// PEM.
    pub key: String,
    der: CertificateDer<'static>,
}

impl Pem {
    /// Self-signed, for `app.example` and the loopback address.
    pub fn new() -> Self {
        Self::named(&["app.example", "127.0.0.1"])
    }

    /// Self-signed, for these names.
    pub fn named(names: &[&str]) -> Self {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let made = rcgen::generate_simple_self_signed(names).expect("a certificate");
        Self { cert: made.cert.pem(), key: made.signing_key.serialize_pem(), der: made.cert.der().clone() }
    }

    /// The same, of these days and for ninety, which is what scanners find right.
    pub fn current() -> Self {
        let names = ["app.example".to_owned(), "127.0.0.1".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        let yesterday = time::OffsetDateTime::now_utc() - time::Duration::DAY;
        (params.not_before, params.not_after) = (yesterday, yesterday + 90 * time::Duration::DAY);
        params.distinguished_name.push(DnType::CommonName, "app.example");
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate");
        Self { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
    }

    /// Whether this is what the peer showed.
    pub fn is_shown_by(&self, stream: &TlsStream<TcpStream>) -> bool {
        stream.get_ref().1.peer_certificates().is_some_and(|shown| shown[0] == self.der)
    }
}

/// An authority that signs client certificates.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// PEM.
    pub cert: String,
}

impl Authority {
    /// Makes one.
    pub fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "proxies");
        let key = KeyPair::generate().expect("a key");
        let cert = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), cert }
    }

    /// A client certificate with these DNS names.
    pub fn client(&self, names: &[&str]) -> Pem {
        self.sign(names, |_| {})
    }

    /// The same, changed before it is signed.
    pub fn sign(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Pem {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pem { cert: cert.pem(), key: key.serialize_pem(), der: cert.der().clone() }
    }
}

async fn connect(
    stream: TcpStream,
    alpn: &[&str],
    host: &str,
    trusted: &CertificateDer<'static>,
    shown: Option<&Pem>,
) -> std::io::Result<TlsStream<TcpStream>> {
    use rustls::pki_types::pem::PemObject as _;
    let mut roots = rustls::RootCertStore::empty();
    roots.add(trusted.clone()).expect("our own certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.3")
        .with_root_certificates(roots);
    let mut config = match shown {
        None => config.with_no_client_auth(),
        Some(pem) => {
            let key = PrivateKeyDer::from_pem_slice(pem.key.as_bytes()).expect("a key");
            config.with_client_auth_cert(vec![pem.der.clone()], key).expect("they fit")
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream);
    tokio::time::timeout(DEADLINE, connecting).await.expect("a handshake in time")
}
