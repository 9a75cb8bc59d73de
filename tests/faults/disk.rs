//! A directory for a server: an ordinary one, or one on a file system so small that it fills (root only).

use std::path::Path;
use std::process::Command;

/// Where a server may put its directory. Drop it after the server.
pub struct Disk {
    mount: Option<tempfile::TempDir>,
}

impl Disk {
    /// A file system of so many MiB; the usual one where nothing is said.
    pub fn of(mib: Option<u32>) -> Self {
        let Some(mib) = mib else { return Self { mount: None } };
        let disk = Self { mount: Some(tempfile::tempdir().expect("a temporary directory")) };
        let size = format!("size={mib}m");
        run(Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(disk.path().expect("just made")));
        disk
    }

    fn path(&self) -> Option<&Path> {
        self.mount.as_ref().map(tempfile::TempDir::path)
    }

    /// A new directory on it.
    pub fn directory(&self) -> tempfile::TempDir {
        let made = self.path().map_or_else(tempfile::tempdir, tempfile::tempdir_in);
        made.expect("a temporary directory")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Some(path) = self.path() {
            // Whatever is left of the server's directory goes with the file system.
            let _ = Command::new("umount").arg("--lazy").arg(path).status();
        }
    }
}

fn run(command: &mut Command) {
    let status = command.status().expect("the command starts");
    assert!(status.success(), "{command:?}: {status}");
}
