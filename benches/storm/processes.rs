//! The programs under measurement, and what the kernel and NATS say about them.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Which limits are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// None that a storm meets.
    Wide,
    /// The defaults.
    Default,
}

const WIDE: &str = "
    connects_per_second = 100000
    connects_per_second_per_user = 100000
    replays = 100000
";

/// A sidecar.
pub struct Server {
    child: Child,
    /// Public.
    pub port: u16,
    admin: u16,
}

impl Server {
    /// Starts one and waits until it lets clients in.
    pub async fn start(directory: &Path, nats: u16, limits: Limits, history: &str) -> Self {
        let config = directory.join("bench.toml");
        let limits = if limits == Limits::Wide { WIDE } else { "" };
        let text = format!(
            r#"
            [server]
            listen = ["127.0.0.1:0"]
            max_age = "0s"
            [admin]
            listen = "127.0.0.1:0"
            [nats]
            servers = ["nats://127.0.0.1:{nats}"]
            [trust]
            proxies = ["127.0.0.1"]
            address_is_proof = true
            [heartbeat]
            interval = "1h"
            [history]
            bytes = "{history}"
            [[route]]
            path = "/events"
            stream = "EVENTS"
            subjects = ["events.user.{{user}}.>", "events.broadcast.>"]
            audience = "user"
            [limits]
            {limits}
            "#
        );
        std::fs::write(&config, text).expect("the configuration is written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_sidestream"))
            .args(["serve", "--log-format", "json", "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("sidestream starts");
        let (mut port, mut admin) = (None, None);
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        while port.is_none() || admin.is_none() {
            let line = lines.next().expect("the server starts").expect("text");
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            let address = line["address"].as_str().and_then(|a| a.rsplit(':').next()?.parse().ok());
            match line["listener"].as_str() {
                Some("public") => port = address,
                Some("admin") => admin = address,
                _ => {}
            }
        }
        std::thread::spawn(move || lines.for_each(drop));
        let server = Self { child, port: port.expect("a port"), admin: admin.expect("a port") };
        server.until("ready", || http(server.admin, "/readyz").starts_with("HTTP/1.1 200")).await;
        server
    }

    /// Waits until it has read the stream up to a sequence.
    pub async fn has_read(&self, seq: u64) {
        let head = || {
            let metrics = http(self.admin, "/metrics");
            let line = metrics.lines().find(|line| line.starts_with("sidestream_stream_head"));
            line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        };
        self.until("the head", || head().is_some_and(|head| head >= seq as f64)).await;
    }

    /// Waits until no client is connected.
    pub async fn is_empty(&self) {
        let gone = || {
            let metrics = http(self.admin, "/metrics");
            let counts = metrics.lines().filter(|line| line.starts_with("sidestream_connections{"));
            counts.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>() < 0.5
        };
        self.until("nobody is connected", gone).await;
    }

    async fn until(&self, what: &str, mut met: impl FnMut() -> bool) {
        let started = Instant::now();
        while !met() {
            assert!(started.elapsed() < Duration::from_secs(120), "not in time: {what}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// CPU time of all threads so far, in seconds.
    pub fn cpu(&self) -> f64 {
        let schedstat = |task: std::path::PathBuf| -> f64 {
            let text = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
        };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the process runs");
        tasks.flatten().map(|task| schedstat(task.path())).sum()
    }

    /// The peak of resident memory counts from now.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.child.id()), "5").expect("our own child");
    }

    /// Resident memory in MiB, by the name of its line: `VmRSS`, or `VmHWM` for the peak.
    pub fn resident(&self, line: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process runs");
        let line = status.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(':')).expect("a line");
        line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") / 1024.0
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A NATS server.
pub struct Nats {
    child: Child,
    pub port: u16,
    monitor: u16,
}

impl Nats {
    /// The program: Debian's, or a current one.
    fn program(old: bool) -> String {
        let (variable, fallback) = if old {
            ("NATS_SERVER_OLD", "nats-server".to_owned())
        } else {
            (
                "NATS_SERVER_NEW",
                concat!(env!("CARGO_MANIFEST_DIR"), "/.cache/nats-server/2.15.1/nats-server").to_owned(),
            )
        };
        std::env::var(variable).unwrap_or(fallback)
    }

    pub fn version(old: bool) -> String {
        let output = Command::new(Self::program(old)).arg("--version").output().expect("nats-server runs");
        String::from_utf8_lossy(&output.stdout).trim().trim_start_matches("nats-server: v").to_owned()
    }

    pub async fn start(directory: &Path, old: bool) -> Self {
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let (port, monitor) = (free(), free());
        let child = Command::new(Self::program(old))
            .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-m", &monitor.to_string(), "-sd"])
            .arg(directory)
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        let nats = Self { child, port, monitor };
        let started = Instant::now();
        while !http(monitor, "/healthz").starts_with("HTTP/1.1 200") {
            assert!(started.elapsed() < Duration::from_secs(10), "nats-server does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        nats
    }

    /// Bytes sent to the sidecar's connections so far.
    pub fn sent(&self) -> u64 {
        // In HTTP/1.0 an answer is not chunked.
        let answer = http_of("1.0", self.monitor, "/connz?limit=1000");
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let all: serde_json::Value = serde_json::from_str(body).expect("JSON");
        let connections = all["connections"].as_array().expect("a list").iter();
        let ours = connections.filter(|c| c["name"].as_str().is_some_and(|name| name.starts_with("sidestream-")));
        ours.filter_map(|c| c["out_bytes"].as_u64()).sum()
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One GET; empty when nobody answers.
fn http(port: u16, path: &str) -> String {
    http_of("1.1", port, path)
}

fn http_of(version: &str, port: u16, path: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return String::new() };
    let mut answer = Vec::new();
    let _ = write!(stream, "GET {path} HTTP/{version}\r\nHost: bench\r\nConnection: close\r\n\r\n");
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}
