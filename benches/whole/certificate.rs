//! A certificate for `localhost` with a P-256 key.

use std::path::Path;

use crate::support::sidecar::Certificate;

/// The name it is for.
pub const HOST: &str = "localhost";

/// Makes one in a directory.
pub fn make(directory: &Path) -> Certificate {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).expect("a key");
    let parameters = rcgen::CertificateParams::new(vec![HOST.to_owned()]).expect("a name");
    let certificate = parameters.self_signed(&key).expect("a certificate");
    let files = Certificate { chain: directory.join("cert.pem"), key: directory.join("key.pem") };
    std::fs::write(&files.chain, certificate.pem()).expect("written");
    std::fs::write(&files.key, key.serialize_pem()).expect("written");
    files
}
