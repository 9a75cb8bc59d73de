//! The TLS configuration in force, read again when its files have changed. Sessions keep what they began with.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{self, SHA256};
use rustls::ServerConfig;

use super::config::{Loaded, TlsError, load};
use crate::config::Tls;
use crate::live::Live;

/// Shared by whoever accepts connections and whoever reads files again.
#[derive(Debug)]
pub struct LiveConfig {
    files: Tls,
    current: Live<ServerConfig>,
    not_after: AtomicU64,
    /// What the files held when they were last read, whether that was good or not.
    tried: Mutex<Option<Fingerprint>>,
}

/// What became of reading the files again.
#[derive(Debug)]
pub enum Reloaded {
    /// They hold what they held the last time.
    Unchanged,
    /// New connections get what they hold now.
    Applied,
}

type Fingerprint = Vec<u8>;

impl LiveConfig {
    /// Reads the files for the first time.
    pub fn new(files: &Tls) -> Result<Self, TlsError> {
        let tried = fingerprint(files).ok();
        let Loaded { server, not_after } = load(files)?;
        Ok(Self {
            files: files.clone(),
            current: Live::new(server),
            not_after: AtomicU64::new(not_after),
            tried: Mutex::new(tried),
        })
    }

    /// When the first of the certificates that are shown expires, in seconds since 1970; 0 where that cannot be read.
    pub fn not_after(&self) -> u64 {
        self.not_after.load(Ordering::Relaxed)
    }

    /// For one more connection.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.get()
    }

    /// Reads the files again if they have changed. After an error everything stays as it was, and the same content is not tried
    /// a second time: a pair of which one half is still missing is read when the other half has come.
    pub fn reload(&self) -> Result<Reloaded, TlsError> {
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        // By content: modification times say nothing where files are links that are swapped.
        let found = fingerprint(&self.files).ok();
        if *tried == found {
            return Ok(Reloaded::Unchanged);
        }
        *tried = found;
        let Loaded { server, not_after } = load(&self.files)?;
        self.current.set(server);
        self.not_after.store(not_after, Ordering::Relaxed);
        Ok(Reloaded::Applied)
    }
}

/// A digest of each file, because the content of one is a secret.
fn fingerprint(files: &Tls) -> io::Result<Fingerprint> {
    let client_ca = files.proxies.as_ref().map(|proxies| proxies.ca.as_path());
    let mut all = Fingerprint::new();
    for path in [files.cert.as_path(), files.key.as_path()].into_iter().chain(client_ca) {
        all.extend_from_slice(digest_of(path)?.as_ref());
    }
    Ok(all)
}

fn digest_of(path: &Path) -> io::Result<digest::Digest> {
    Ok(digest::digest(&SHA256, &std::fs::read(path)?))
}
