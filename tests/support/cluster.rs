//! A cluster of three NATS servers on loopback, with a stream that has a replica on each.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use async_nats::jetstream;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

use super::nats::{Publisher, account};
use super::ports::free_port;
use super::{Version, Wire, eventually, process};

/// How long an election, a restart or a catch-up may take on a busy machine.
const SETTLED: Duration = Duration::from_secs(40);
/// How long a cluster may take to form before it is tried on other ports.
const FORMED: Duration = Duration::from_secs(20);
const NODES: usize = 3;

/// Three servers. Dropping it kills them and removes their stores.
pub struct Cluster {
    nodes: Vec<Node>,
    _dir: tempfile::TempDir,
}

struct Node {
    version: Version,
    config: PathBuf,
    log: PathBuf,
    url: String,
    monitor: String,
    child: Option<Child>,
}

impl Cluster {
    /// Starts three servers and waits until they have chosen a leader.
    pub async fn start(version: Version) -> Self {
        // Somebody outside this test may take a port between its choice and its use.
        for _ in 0..3 {
            let cluster = Self::launch(version);
            if cluster.forms().await {
                return cluster;
            }
        }
        panic!("no cluster of {NODES} servers has formed in three attempts");
    }

    fn launch(version: Version) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let ports: Vec<_> = (0..3 * NODES).map(|_| free_port()).collect();
        let (clients, rest) = ports.split_at(NODES);
        let (routes, monitors) = rest.split_at(NODES);
        let urls: Vec<_> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let node = |n: usize| {
            let home = dir.path().join(format!("n{n}"));
            std::fs::create_dir(&home).expect("a directory");
            let config = home.join("nats.conf");
            let monitor = format!("127.0.0.1:{}", monitors[n]);
            let text = config_text(n, clients[n], routes[n], &monitor, &urls, &home.join("store"));
            std::fs::write(&config, text).expect("the configuration is written");
            let (log, url) = (home.join("log"), format!("nats://127.0.0.1:{}", clients[n]));
            let mut node = Node { version, config, log, url, monitor, child: None };
            node.launch();
            node
        };
        Self { nodes: (0..NODES).map(node).collect(), _dir: dir }
    }

    async fn forms(&self) -> bool {
        let formed = async {
            for n in 0..NODES {
                while self.meta_leader(n).await.is_none() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        tokio::time::timeout(FORMED, formed).await.is_ok()
    }

    /// Whether this server knows who leads the cluster: only then does JetStream answer.
    async fn meta_leader(&self, n: usize) -> Option<()> {
        let client = async_nats::ConnectOptions::new().request_timeout(Some(Duration::from_secs(1)));
        let client = client.connect(&self.nodes[n].url).await.ok()?;
        account(&jetstream::new(client)).await.map(drop)
    }

    /// The URLs of all servers.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.url.clone()).collect()
    }

    /// A client that knows all servers, and finds one that runs.
    pub async fn client(&self) -> async_nats::Client {
        let options = async_nats::ConnectOptions::new()
            .request_timeout(Some(Duration::from_secs(2)))
            .ping_interval(Duration::from_secs(2))
            .connection_timeout(Duration::from_secs(1));
        // All of them may just have been started.
        eventually("one of the servers accepts a client", SETTLED, async || {
            options.clone().connect(self.urls()).await.ok()
        })
        .await
    }

    /// A JetStream context on a client of its own.
    pub async fn jetstream(&self) -> jetstream::Context {
        let mut jetstream = jetstream::new(self.client().await);
        jetstream.set_timeout(Duration::from_secs(2));
        jetstream
    }

    /// A publisher, after creating the stream `EVENTS` over `events.>` with three replicas.
    pub async fn events(&self) -> Publisher {
        let jetstream = self.jetstream().await;
        let config = json!({"name": "EVENTS", "subjects": ["events.>"], "num_replicas": NODES, "allow_direct": true,
            "retention": "limits", "storage": "file", "max_consumers": -1, "max_msgs": -1, "max_bytes": -1});
        eventually("the stream is created on three servers", SETTLED, async || {
            // Until every server has been seen by the leader, it has no suitable peers.
            ask(&jetstream, "STREAM.CREATE.EVENTS", &config).await
        })
        .await;
        self.healthy().await;
        Publisher::over(jetstream)
    }

    /// Waits until the cluster has a leader, and the stream has one and two followers that have all of it.
    pub async fn healthy(&self) {
        let jetstream = self.jetstream().await;
        eventually("the stream has a leader and two current followers", SETTLED, async || {
            let info = ask(&jetstream, "STREAM.INFO.EVENTS", &json!({})).await?;
            info["cluster"]["leader"].as_str()?;
            let replicas = info["cluster"]["replicas"].as_array()?;
            account(&jetstream).await?;
            let current = |r: &&Value| r["current"] == true && r["offline"] != true && r["lag"].as_u64().is_none();
            (replicas.iter().filter(current).count() == NODES - 1).then_some(())
        })
        .await;
    }

    /// Which server leads the stream.
    pub async fn leader(&self) -> usize {
        let jetstream = self.jetstream().await;
        eventually("the stream has a leader", SETTLED, async || {
            let info = ask(&jetstream, "STREAM.INFO.EVENTS", &json!({})).await?;
            index_of(&info["cluster"]["leader"])
        })
        .await
    }

    /// Makes the stream's leader give way to another.
    pub async fn step_down(&self) {
        let jetstream = self.jetstream().await;
        eventually("the leader steps down", SETTLED, async || {
            ask(&jetstream, "STREAM.LEADER.STEPDOWN.EVENTS", &json!({})).await
        })
        .await;
    }

    /// Which server runs the stream's only consumer.
    pub async fn host_of_consumer(&self) -> usize {
        let jetstream = self.jetstream().await;
        eventually("the stream's consumer has a server", SETTLED, async || {
            let names = ask(&jetstream, "CONSUMER.NAMES.EVENTS", &json!({})).await?;
            let [name] = names["consumers"].as_array()?.as_slice() else { return None };
            let subject = format!("CONSUMER.INFO.EVENTS.{}", name.as_str()?);
            let client = jetstream.client().request(format!("$JS.API.{subject}"), bytes::Bytes::new()).await.ok()?;
            let info: Value = serde_json::from_slice(&client.payload).ok()?;
            index_of(&info["cluster"]["leader"])
        })
        .await
    }

    /// How many consumers the stream has. With nats-server 2.9 only those that a server runs: of one whose creation was asked
    /// for while a server hung it keeps the name, asked about it nobody answers, and nothing ends it (`docs/nats.md`).
    pub async fn consumers(&self) -> usize {
        let jetstream = self.jetstream().await;
        let names = eventually("the consumers are listed", SETTLED, async || {
            ask(&jetstream, "CONSUMER.NAMES.EVENTS", &json!({})).await?["consumers"].as_array().cloned()
        })
        .await;
        if self.nodes[0].version == Version::Current {
            return names.len();
        }
        let infos = names.iter().filter_map(Value::as_str).map(async |name| {
            let subject = format!("$JS.API.CONSUMER.INFO.EVENTS.{name}");
            jetstream.client().request(subject, bytes::Bytes::new()).await.is_ok()
        });
        futures_util::future::join_all(infos).await.into_iter().filter(|runs| *runs).count()
    }

    /// What all of them have logged.
    pub fn log(&self) -> String {
        let logs = self.nodes.iter().map(|node| std::fs::read_to_string(&node.log).unwrap_or_default());
        logs.collect()
    }

    /// `kill -9`.
    pub fn kill(&mut self, n: usize) {
        self.nodes[n].kill();
    }

    /// Starts a server again, with its store.
    pub fn restart(&mut self, n: usize) {
        self.nodes[n].kill();
        self.nodes[n].launch();
    }

    /// `SIGSTOP`.
    pub fn pause(&self, n: usize) {
        process::stop(self.nodes[n].child());
    }

    /// `SIGCONT`.
    pub fn resume(&self, n: usize) {
        process::signal(self.nodes[n].child(), Signal::CONT);
    }

    /// `SIGUSR2`: lame duck. The server sends its clients away and ends.
    pub fn lame_duck(&self, n: usize) {
        process::signal(self.nodes[n].child(), Signal::USR2);
    }

    /// Whether a server has ended by itself.
    pub fn has_ended(&mut self, n: usize) -> bool {
        self.nodes[n].child.as_mut().is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))))
    }

    /// Which server holds the connection of this name, such as `sidestream-feed-EVENTS`.
    pub async fn node_of(&self, connection: &str) -> usize {
        eventually("a server holds the connection", SETTLED, async || {
            for (n, node) in self.nodes.iter().enumerate() {
                if node.connections().await.iter().any(|name| name == connection) {
                    return Some(n);
                }
            }
            None
        })
        .await
    }
}

impl Node {
    fn launch(&mut self) {
        let child = Command::new(self.version.binary())
            .arg("-c")
            .arg(&self.config)
            .arg("-l")
            .arg(&self.log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        self.child = Some(child);
    }

    /// The names of its clients' connections; none while it does not run.
    async fn connections(&self) -> Vec<String> {
        let Ok(stream) = TcpStream::connect(&self.monitor).await else { return Vec::new() };
        let mut wire = Wire::over(stream);
        wire.send(b"GET /connz HTTP/1.1\r\nHost: nats\r\nConnection: close\r\n\r\n").await;
        let connz: Value = serde_json::from_slice(&wire.answer().await.body).expect("JSON");
        let connections = connz["connections"].as_array().cloned().unwrap_or_default();
        connections.iter().filter_map(|c| c["name"].as_str().map(str::to_owned)).collect()
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("the server runs")
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let tail: Vec<_> = log.lines().rev().take(10).collect();
            eprintln!("--- {}, last lines", self.url);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn config_text(n: usize, client: u16, route: u16, monitor: &str, routes: &[String], store: &Path) -> String {
    // Nobody is told of servers past a proxy. 30 s is the shortest lame duck the server allows; the grace is what clients wait for.
    format!(
        "server_name: n{n}\nlisten: \"127.0.0.1:{client}\"\nhttp: \"{monitor}\"\n\
         jetstream {{ store_dir: {store:?}, max_file: 256MB, max_mem: 64MB }}\n\
         cluster {{ name: test, listen: \"127.0.0.1:{route}\", routes: {routes:?}, no_advertise: true }}\n\
         lame_duck_duration: \"30s\"\nlame_duck_grace_period: \"1s\"\n"
    )
}

/// The number in a server's name `nN`.
fn index_of(name: &Value) -> Option<usize> {
    name.as_str()?.strip_prefix('n')?.parse().ok()
}

/// A request to JetStream; `None` unless it succeeds.
async fn ask(jetstream: &jetstream::Context, subject: &str, body: &Value) -> Option<Value> {
    let answer: Value = jetstream.request(subject.to_owned(), body).await.ok()?;
    answer.get("error").is_none().then_some(answer)
}
