//! The certificate, and for which names of hosts it is shown.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use webpki::EndEntityCert;

/// One certificate. A client that asks for another host (server_name, RFC 6066 section 3) gets an alert instead of it: such a
/// connection was meant for somebody else. Who names no host, or no host is named in the certificate, gets it.
#[derive(Debug)]
pub(super) struct Host {
    key: Arc<CertifiedKey>,
    names_hosts: bool,
}

impl Host {
    /// The certificate must be one that rustls has accepted.
    pub(super) fn new(key: CertifiedKey) -> Self {
        let leaf = key.cert.first().and_then(parse);
        let names_hosts = leaf.is_some_and(|leaf| leaf.valid_dns_names().next().is_some());
        Self { key: Arc::new(key), names_hosts }
    }

    fn is_for(&self, host: &str) -> bool {
        let Ok(name) = ServerName::try_from(host) else { return false };
        let leaf = self.key.cert.first().and_then(parse);
        leaf.is_some_and(|leaf| leaf.verify_is_valid_for_subject_name(&name).is_ok())
    }
}

fn parse<'c>(certificate: &'c CertificateDer<'_>) -> Option<EndEntityCert<'c>> {
    EndEntityCert::try_from(certificate).ok()
}

impl ResolvesServerCert for Host {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let shown = !self.names_hosts || hello.server_name().is_none_or(|host| self.is_for(host));
        shown.then(|| self.key.clone())
    }
}
