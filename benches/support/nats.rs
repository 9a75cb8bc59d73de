//! A NATS server of the bench's own.

use std::path::Path;
use std::process::{Command, Stdio};

use super::http;
use super::process::{Process, command, free_port, until};

/// A NATS server.
pub struct Nats {
    _process: Process,
    pub port: u16,
    monitor: u16,
}

impl Nats {
    /// Starts one with its files in a directory, and waits until it is well.
    pub fn start(directory: &Path, old: bool) -> Self {
        let (port, monitor) = (free_port(), free_port());
        let mut command = command(None, Path::new(&Self::program(old)));
        command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-m", &monitor.to_string(), "-sd"]);
        let process = Process::spawn(command.arg(directory).stderr(Stdio::null()));
        until("a NATS server that is well", || http::is_well(monitor, "/healthz"));
        Self { _process: process, port, monitor }
    }

    /// The program: Debian's, or a current one.
    fn program(old: bool) -> String {
        let fetched = concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/nats-server/2.15.1/nats-server");
        let (variable, fallback) = if old { ("NATS_SERVER_OLD", "nats-server") } else { ("NATS_SERVER_NEW", fetched) };
        std::env::var(variable).unwrap_or_else(|_| fallback.to_owned())
    }

    /// Its version.
    pub fn version(old: bool) -> String {
        let output = Command::new(Self::program(old)).arg("--version").output().expect("nats-server runs");
        String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("nats-server: v").to_owned()
    }

    /// Bytes sent to the sidecar's connections so far.
    pub fn sent(&self) -> u64 {
        let answer = http::get(self.monitor, "/connz?limit=1000");
        let all: serde_json::Value = serde_json::from_str(http::body(&answer)).expect("JSON");
        let connections = all["connections"].as_array().expect("a list").iter();
        let ours = connections.filter(|c| c["name"].as_str().is_some_and(|name| name.starts_with("sidestream-")));
        ours.filter_map(|c| c["out_bytes"].as_u64()).sum()
    }
}
