//! Files that a configuration names: where they are, whether we may read them, and the secrets inside.
//!
//! Requirement R71: a secret comes only from a file. Nothing here puts a file's content, or a value that could be the
//! secret itself, into a message.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use zeroize::Zeroizing;

use super::{Checker, Read};
use crate::config::Secret;
use crate::config::error::{Fault, FaultKind};
use crate::config::load::unreadable;
use crate::config::show::is_file_reference;

/// No password, token or seed is longer; keeps a wrong path from reading a disk.
const SECRET_BYTES_MAX: u64 = 64 * 1024;
const REFERENCE: &str = "allowed: an absolute path, or \"credential:NAME\" for a systemd credential";

/// What a file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Public,
    Secret,
}

impl Checker<'_> {
    /// Resolves a file reference and proves that it can be read.
    pub(super) fn file(&mut self, read: &Read<'_, &str>, usage: Use) -> Option<PathBuf> {
        let path = self.resolve(read)?;
        // Looked at before it is opened: opening a pipe would wait for its other end.
        let metadata = fs::metadata(&path);
        let found = metadata.and_then(|m| if m.is_file() { File::open(&path).map(|_| m) } else { Ok(m) });
        match found {
            Ok(metadata) if !metadata.is_file() => {
                self.fault(read, format!("`{}` is not a file", path.display()));
                None
            }
            Ok(metadata) => {
                if usage == Use::Secret && metadata.permissions().mode() & 0o004 != 0 {
                    self.readable_by_all(read, &path);
                }
                Some(path)
            }
            Err(error) => {
                let message = format!("`{}` cannot be read: {error}", path.display());
                let fault = Fault::new(unreadable(error.kind()), &read.key, message).at(self.texts, read.at);
                self.faults.push(fault);
                None
            }
        }
    }

    /// Reads a secret of at least `bytes_min` bytes.
    pub(super) fn secret(&mut self, read: &Read<'_, &str>, bytes_min: usize) -> Option<Secret> {
        let path = self.file(read, Use::Secret)?;
        // Wiped, and large enough never to move: what a secret leaves behind in freed memory would be anybody's.
        let mut bytes = Zeroizing::new(Vec::with_capacity(SECRET_BYTES_MAX as usize + 64));
        let outcome = File::open(&path).and_then(|file| file.take(SECRET_BYTES_MAX + 1).read_to_end(&mut bytes));
        let secret = Secret::new(&bytes);
        let (name, length) = (path.display(), secret.expose().len());
        let message = match outcome {
            Err(error) => format!("`{name}` cannot be read: {error}"),
            Ok(_) if bytes.len() as u64 > SECRET_BYTES_MAX => format!("`{name}` is too large for a secret"),
            Ok(_) if length == 0 => format!("`{name}` is empty"),
            Ok(_) if length < bytes_min => {
                format!("the secret in `{name}` has {length} bytes; at least {bytes_min} are wanted")
            }
            Ok(_) => return Some(secret),
        };
        self.fault(read, message);
        None
    }

    fn resolve(&mut self, read: &Read<'_, &str>) -> Option<PathBuf> {
        if !is_file_reference(read.value) || read.value.contains('\0') {
            // The value may be the secret itself, so it is not quoted, and its line is not shown.
            let fault = Fault::new(FaultKind::Invalid, &read.key, "this is not a file name").note(REFERENCE);
            self.faults.push(fault.at(self.texts, read.at).hidden());
            return None;
        }
        let Some(name) = read.value.strip_prefix("credential:") else { return Some(PathBuf::from(read.value)) };
        if name.is_empty() || name.contains('/') || matches!(name, "." | "..") {
            self.fault_noted(read, "this is not the name of a credential", Some(REFERENCE));
            return None;
        }
        let directory = self.env.iter().find(|(key, value)| key == "CREDENTIALS_DIRECTORY" && !value.is_empty());
        let Some((_, directory)) = directory else {
            let note = Some("systemd sets it for units with LoadCredential=; elsewhere name the file by its path");
            self.fault_noted(read, "$CREDENTIALS_DIRECTORY is not set, so there are no credentials", note);
            return None;
        };
        Some(PathBuf::from(directory).join(name))
    }

    fn readable_by_all(&mut self, read: &Read<'_, &str>, path: &std::path::Path) {
        let message = format!("every user of this machine can read `{}`", path.display());
        let warning = Fault::new(FaultKind::Invalid, &read.key, message).at(self.texts, read.at);
        self.warnings.push(warning.note("chmod o-r, or use a systemd credential"));
    }
}
