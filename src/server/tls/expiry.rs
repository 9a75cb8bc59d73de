//! When certificates expire. rustls reads them for handshakes and does not tell.

use rustls_pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::Decode as _;

/// The first moment at which one of these is no longer valid, in seconds since 1970; 0 where none can be read.
pub(super) fn first_of(certificates: &[CertificateDer<'_>]) -> u64 {
    certificates.iter().filter_map(|der| not_after(der)).min().unwrap_or(0)
}

fn not_after(der: &[u8]) -> Option<u64> {
    let certificate = Certificate::from_der(der).ok()?;
    Some(certificate.tbs_certificate.validity.not_after.to_unix_duration().as_secs())
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, date_time_ymd};

    use super::*;

    fn until(year: i32) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        params.self_signed(&key).expect("signs").der().clone()
    }

    #[test]
    fn the_first_to_expire_counts() {
        assert_eq!(first_of(&[until(2031), until(2030)]), 1_893_456_000);
        assert_eq!(first_of(&[until(2030), CertificateDer::from(vec![0x30, 0])]), 1_893_456_000);
        assert_eq!(first_of(&[]), 0);
    }
}
