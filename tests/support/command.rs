//! The program as a command: run to its end, with what it printed.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

/// How a command ended, and what it said.
pub struct Ran {
    /// Exit code.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Ran {
    /// Fails the test unless it ended with this code.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// Standard output as one JSON value.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(self.stdout.trim())
            .unwrap_or_else(|e| panic!("not one JSON value: {:?}: {e}\n{}", self.stdout, self.stderr))
    }
}

/// The program, to be given more.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(super::program::path());
    command.args(args).stdin(Stdio::null()).kill_on_drop(true).env_remove("RUST_LOG");
    command
}

/// Runs it to its end.
pub async fn run(args: &[&str]) -> Ran {
    output(args, &mut command(args), super::DEADLINE).await
}

/// Runs a command that the caller made to its end, within a time.
pub async fn output(args: &[&str], command: &mut Command, within: std::time::Duration) -> Ran {
    let output = tokio::time::timeout(within, command.output()).await;
    let output =
        output.unwrap_or_else(|_| panic!("{args:?} did not end within {within:?}")).expect("the program starts");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
