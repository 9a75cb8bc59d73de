//! Client certificates: which of those that an authority signed are a proxy's, by exact DNS names.
//!
//! Chain, dates and purpose are webpki's business. What being a proxy is good for is `http::trust`'s.

use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme};
use webpki::EndEntityCert;

/// Wants a certificate of every client.
#[derive(Debug)]
pub(super) struct Proxies {
    chain: Arc<dyn ClientCertVerifier>,
    /// Lower case; empty takes every name.
    names: Vec<String>,
}

impl Proxies {
    /// Takes certificates that one of `roots` signed for one of `names` (a `dNSName` among the subject's alternative names,
    /// compared whole: neither wildcards nor the common name count).
    pub(super) fn new(
        roots: RootCertStore,
        names: &[String],
        provider: Arc<CryptoProvider>,
    ) -> Result<Self, rustls::server::VerifierBuilderError> {
        let chain = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build()?;
        Ok(Self { chain, names: names.to_vec() })
    }

    fn names_a_proxy(&self, certificate: &CertificateDer<'_>) -> bool {
        let Ok(certificate) = EndEntityCert::try_from(certificate) else { return false };
        let mut named = certificate.valid_dns_names();
        self.names.is_empty() || named.any(|name| self.names.iter().any(|ours| ours.eq_ignore_ascii_case(name)))
    }
}

impl ClientCertVerifier for Proxies {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        // The alert is `access_denied`: a valid certificate, but not of one that may come in (RFC 8446 section 6.2).
        let denied = Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure);
        self.names_a_proxy(end_entity).then_some(verified).ok_or(denied)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}
