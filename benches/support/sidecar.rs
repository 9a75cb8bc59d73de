//! The program under measurement: `sidestream serve` with a configuration for benches.

use std::io::{BufRead, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, Stdio};

use super::http;
use super::process::{Process, command, until};

/// Which limits are in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limits {
    /// None that a bench meets.
    Wide,
    /// The defaults.
    Default,
}

const WIDE: &str = "
    connections_per_address = 100000
    connects_per_second = 100000
    connects_per_second_per_user = 100000
    connects_per_second_per_address = 100000
    replays = 100000
";

/// A certificate and its key, as files.
#[derive(Debug, Clone)]
pub struct Certificate {
    pub chain: PathBuf,
    pub key: PathBuf,
}

/// How it is started.
pub struct Setup<'a> {
    /// First token of its subjects; its stream has the same name in capitals.
    pub name: &'a str,
    /// Where it runs; anywhere without one.
    pub core: Option<usize>,
    /// A program that runs it, and that one's arguments, where there is one.
    pub under: &'a [String],
    /// With one it speaks TLS, HTTP/1.1 and HTTP/2, and plain HTTP/1.1 otherwise.
    pub certificate: Option<&'a Certificate>,
    /// HTTP/2 without TLS.
    pub h2c: bool,
    pub limits: Limits,
    pub history: &'a str,
    pub heartbeat: &'a str,
}

/// A sidecar. `/events` is for anyone who hears broadcasts, `/mine` for users and what is theirs as well.
pub struct Sidecar {
    pub process: Process,
    /// Public.
    pub port: u16,
    admin: u16,
}

impl Sidecar {
    /// Starts one and waits until it lets clients in.
    pub fn start(directory: &Path, nats: u16, setup: &Setup<'_>) -> Self {
        let config = directory.join(format!("{}.toml", setup.name));
        std::fs::write(&config, configuration(nats, setup)).expect("the configuration is written");
        let mut words = setup.under.iter().map(String::as_str).chain([env!("CARGO_BIN_EXE_sidestream")]);
        let mut command = command(setup.core, Path::new(words.next().expect("at least the sidecar")));
        command.args(words).args(["serve", "--log-format", "json", "--config"]).arg(&config).stderr(Stdio::piped());
        let mut process = Process::spawn(&mut command);
        let mut lines = BufReader::new(process.pipes().stderr.take().expect("piped")).lines();
        let (port, admin) = ports(&mut lines);
        // Nobody reads what else it says; a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        until("a sidecar that is ready", || http::is_well(admin, "/readyz"));
        Self { process, port, admin }
    }

    /// Waits until it has read the stream up to a sequence.
    pub fn has_read(&self, seq: u64) {
        until("the head", || self.metric("sidestream_stream_head") >= seq as f64);
    }

    /// Waits until no client is connected.
    pub fn is_empty(&self) {
        until("nobody is connected", || self.metric("sidestream_connections") < 0.5);
    }

    /// A metric, summed over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let metrics = http::get(self.admin, "/metrics");
        let values = metrics.lines().filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let value = if rest.starts_with('{') { rest.rsplit_once("} ")?.1 } else { rest.strip_prefix(' ')? };
            value.trim().parse::<f64>().ok()
        });
        values.sum()
    }
}

fn configuration(nats: u16, setup: &Setup<'_>) -> String {
    let Setup { name, h2c, history, heartbeat, .. } = setup;
    let tls = setup.certificate.map_or(String::new(), |files| {
        format!("[server.tls]\ncert = {:?}\nkey = {:?}", files.chain.display(), files.key.display())
    });
    let limits = if setup.limits == Limits::Wide { WIDE } else { "" };
    format!(
        r#"
        [server]
        listen = ["127.0.0.1:0"]
        max_age = "0s"
        h2c = {h2c}
        {tls}
        [admin]
        listen = "127.0.0.1:0"
        [nats]
        servers = ["nats://127.0.0.1:{nats}"]
        [trust]
        proxies = ["127.0.0.1"]
        address_is_proof = true
        [heartbeat]
        interval = "{heartbeat}"
        [history]
        bytes = "{history}"
        [limits]
        {limits}
        [[stream]]
        name = "{stream}"
        subjects = ["{name}.>"]
        create = true
        [[route]]
        path = "/events"
        stream = "{stream}"
        subjects = ["{name}.broadcast.>"]
        audience = "anyone"
        [[route]]
        path = "/mine"
        stream = "{stream}"
        subjects = ["{name}.user.{{user}}.>", "{name}.broadcast.>"]
        audience = "user"
        "#,
        stream = name.to_uppercase(),
    )
}

/// The public port and the admin listener's, as it logs them.
fn ports(lines: &mut Lines<BufReader<ChildStderr>>) -> (u16, u16) {
    let (mut public, mut admin) = (None, None);
    loop {
        if let (Some(public), Some(admin)) = (public, admin) {
            return (public, admin);
        }
        let line = lines.next().expect("the server starts").expect("text");
        let fields: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
        let port = fields["address"].as_str().and_then(|address| address.rsplit(':').next()?.parse().ok());
        match fields["listener"].as_str() {
            Some("public") => public = port,
            Some("admin") => admin = port,
            _ => {}
        }
    }
}
