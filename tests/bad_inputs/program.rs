//! Runs the real program to its end.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

/// Far longer than any of these commands takes.
const PATIENCE: Duration = Duration::from_secs(20);
/// Nobody: root may read every file.
const NOBODY: u32 = 65534;

/// What came of it.
pub struct Ran {
    /// The exit code.
    pub exit: String,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Whether it says this anywhere.
    pub fn says(&self, text: &str) -> bool {
        self.stdout.contains(text) || self.stderr.contains(text)
    }
}

/// Runs it with nothing in its environment but this; `as_nobody` where root would be let through.
pub async fn sidestream(
    arguments: &[impl AsRef<OsStr> + Debug],
    environment: &[(String, String)],
    as_nobody: bool,
) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    command.args(arguments).env_clear().envs(environment.iter().cloned()).stdin(Stdio::null()).kill_on_drop(true);
    if as_nobody && rustix::process::getuid().is_root() {
        command.uid(NOBODY);
    }
    let output = tokio::time::timeout(PATIENCE, command.output()).await;
    let output = output.unwrap_or_else(|_| panic!("{arguments:?} did not end within {PATIENCE:?}")).expect("it starts");
    Ran {
        exit: output.status.code().map_or_else(|| output.status.to_string(), |code| code.to_string()),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
