//! Sessions and streams against rustls' own client.

mod session;
mod stream;

use std::sync::{Arc, LazyLock};

use rustls::client::{ClientConnection, Resumption};
use rustls::crypto::{CipherSuiteCommon, CryptoProvider, aws_lc_rs};
use rustls::version::{TLS12, TLS13};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedCipherSuite, SupportedProtocolVersion, Tls12CipherSuite,
    Tls13CipherSuite,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

static IDENTITY: LazyLock<(CertificateDer<'static>, PrivatePkcs8KeyDer<'static>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
    (made.cert.der().clone(), made.signing_key.serialize_der().into())
});

/// A server as `config` makes it: tickets, and HTTP by ALPN.
fn server_with(provider: CryptoProvider) -> Arc<ServerConfig> {
    let (certificate, key) = &*IDENTITY;
    let mut config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], PrivateKeyDer::Pkcs8(key.clone_key()))
        .expect("they fit");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.ticketer = aws_lc_rs::Ticketer::new().expect("a ticketer");
    config.send_tls13_tickets = 1;
    Arc::new(config)
}

fn server() -> Arc<ServerConfig> {
    server_with(aws_lc_rs::default_provider())
}

/// A client that speaks one version only, and comes back with the ticket it got.
fn client(version: &'static SupportedProtocolVersion) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(IDENTITY.0.clone()).expect("our own certificate");
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(4);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").expect("a name")
}

fn connection(config: &Arc<ClientConfig>) -> ClientConnection {
    ClientConnection::new(config.clone(), name()).expect("a client")
}

/// Cipher suites whose keys are worn out after so many records.
fn worn_out_after(records: u64) -> CryptoProvider {
    let limited = |common: &CipherSuiteCommon| CipherSuiteCommon {
        suite: common.suite,
        hash_provider: common.hash_provider,
        confidentiality_limit: records,
    };
    let limit = |suite: SupportedCipherSuite| match suite {
        SupportedCipherSuite::Tls12(suite) => SupportedCipherSuite::Tls12(Box::leak(Box::new(Tls12CipherSuite {
            common: limited(&suite.common),
            kx: suite.kx,
            sign: suite.sign,
            prf_provider: suite.prf_provider,
            aead_alg: suite.aead_alg,
        }))),
        SupportedCipherSuite::Tls13(suite) => SupportedCipherSuite::Tls13(Box::leak(Box::new(Tls13CipherSuite {
            common: limited(&suite.common),
            hkdf_provider: suite.hkdf_provider,
            aead_alg: suite.aead_alg,
            quic: suite.quic,
        }))),
    };
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites = provider.cipher_suites.into_iter().map(limit).collect();
    provider
}
