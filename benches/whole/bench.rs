//! What a table of figures needs around it: a NATS server, a certificate and a directory, gone when it is done.

use tempfile::TempDir;

use crate::certificate;
use crate::support::nats::Nats;
use crate::support::sidecar::Certificate;

/// The surroundings.
pub struct Bench {
    pub nats: Nats,
    pub certificate: Certificate,
    pub directory: TempDir,
}

impl Bench {
    /// New ones: nothing is left of an earlier table.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let nats = Nats::start(directory.path(), false);
        Self { nats, certificate: certificate::make(directory.path()), directory }
    }
}
