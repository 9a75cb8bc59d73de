//! Broadcast fan-out of the whole process, against the floor: one write of the same bytes per connection, nothing else.
//!
//! ```sh
//! cargo bench --bench fanout -- 1000 5000      # connections; NATS_SERVER_NEW or nats-server on the PATH
//! ```
//!
//! Server and floor are pinned to one core, readers and NATS to another. Events go out one at a time: the next is published
//! when the last reader has the one before. In each round the floor writes the very bytes that the server wrote. Figures
//! are CPU time of the server process (user and system, to the nanosecond, from `/proc/PID/task/*/schedstat`) and of the floor's thread per delivery, and their
//! ratio; elapsed time is not judged. On loopback the sender also pays for the receiver's half of the kernel's work.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const SERVER_CORE: usize = 0;
const READER_CORE: usize = 1;
/// Deliveries measured per size.
const DELIVERIES: usize = 600_000;
const PAYLOAD_BYTES: usize = 200;
/// No reader may wait longer than this for one event.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1000, 5000] } else { sizes };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let _ = rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit, maximum: limit },
    );
    pin(READER_CORE);
    println!(
        "| connections | events | server CPU µs/delivery | floor CPU µs/delivery | ratio | server PSS KiB/connection |"
    );
    println!("|---|---|---|---|---|---|");
    for connections in sizes {
        measure(connections);
    }
}

fn pin(core: usize) {
    let mut cpus = CpuSet::new();
    cpus.set(core);
    sched_setaffinity(None, &cpus).expect("the cores of this machine");
}

fn measure(connections: usize) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let nats = Nats::start(directory.path());
    let server = Server::start(directory.path(), nats.port);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let readers = Readers::default();
        let before = server.pss_kib();
        readers.open(connections, server.port, true).await;
        readers.all_have(connections as u64).await;
        let idle = (server.pss_kib() - before) / connections as f64;

        let floor = Floor::start(connections);
        let floor_readers = Readers::default();
        floor_readers.open(connections, floor.port, false).await;
        floor.ready();

        let client = async_nats::connect(format!("127.0.0.1:{}", nats.port)).await.expect("NATS");
        let jetstream = async_nats::jetstream::new(client);
        let payload = "x".repeat(PAYLOAD_BYTES);
        let rounds = (DELIVERIES / connections).max(20);
        let (mut server_cpu, mut floor_cpu) = (0.0, 0.0);
        for round in 0..rounds + 5 {
            let start = server.cpu();
            let subject = "events.broadcast.bench";
            jetstream.publish(subject, payload.clone().into()).await.expect("sent").await.expect("stored");
            readers.all_have((connections * (round + 2)) as u64).await;
            let spent = server.cpu() - start;
            let floor_spent = floor.write();
            floor_readers.all_have((connections * (round + 1)) as u64).await;
            // The first rounds warm caches, allocators and TCP windows.
            if round >= 5 {
                server_cpu += spent;
                floor_cpu += floor_spent;
            }
        }
        let deliveries = (rounds * connections) as f64;
        let (ours, raw) = (server_cpu / deliveries * 1e6, floor_cpu / deliveries * 1e6);
        println!("| {connections} | {rounds} | {ours:.2} | {raw:.2} | {:.3} | {idle:.2} |", ours / raw);
    });
}

/// Connections that read and count events.
#[derive(Default)]
struct Readers {
    events: Arc<AtomicU64>,
}

impl Readers {
    /// Opens them; `request`: as an event-stream client.
    async fn open(&self, connections: usize, port: u16, request: bool) {
        for _ in 0..connections {
            let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("accepted");
            let events = self.events.clone();
            if request {
                let head = b"GET /events HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n";
                stream.write_all(head).await.expect("written");
            }
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                let mut last = 0;
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    for byte in &buffer[..n] {
                        events.fetch_add(u64::from(last == b'\n' && *byte == b'\n'), Ordering::Relaxed);
                        last = *byte;
                    }
                }
            });
        }
    }

    async fn all_have(&self, events: u64) {
        let started = Instant::now();
        while self.events.load(Ordering::Relaxed) < events {
            assert!(started.elapsed() < PATIENCE, "{} of {events} events", self.events.load(Ordering::Relaxed));
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
}

/// A thread that writes the same bytes to every connection.
struct Floor {
    port: u16,
    orders: mpsc::Sender<()>,
    spent: mpsc::Receiver<f64>,
}

impl Floor {
    fn start(connections: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (orders, ordered) = mpsc::channel();
        let (tell, spent) = mpsc::channel();
        std::thread::spawn(move || {
            pin(SERVER_CORE);
            let sockets: Vec<TcpStream> = (0..connections)
                .map(|_| {
                    let (socket, _) = listener.accept().expect("a reader");
                    socket.set_nodelay(true).expect("TCP_NODELAY");
                    socket
                })
                .collect();
            let _ = tell.send(0.0);
            let event = format!("fe\r\nid: 4yyh8gg2.zz.dn1tfqulaj9x\ndata: {}\n\n\r\n", "x".repeat(PAYLOAD_BYTES));
            while ordered.recv().is_ok() {
                let start = thread_cpu();
                for mut socket in &sockets {
                    socket.write_all(event.as_bytes()).expect("written");
                }
                let _ = tell.send(thread_cpu() - start);
            }
        });
        Self { port, orders, spent }
    }

    fn ready(&self) {
        self.spent.recv().expect("the floor accepts");
    }

    /// One event to everybody; gives the CPU time it took.
    fn write(&self) -> f64 {
        self.orders.send(()).expect("the floor runs");
        self.spent.recv().expect("the floor runs")
    }
}

fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// The program under measurement.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(directory: &std::path::Path, nats: u16) -> Self {
        let config = directory.join("bench.toml");
        let text = format!(
            r#"
            [server]
            listen = ["127.0.0.1:0"]
            max_age = "0s"
            [admin]
            listen = "127.0.0.1:0"
            [nats]
            servers = ["nats://127.0.0.1:{nats}"]
            [limits]
            connections_per_address = 100000
            connects_per_second = 100000
            connects_per_second_per_address = 100000
            [heartbeat]
            interval = "1h"
            [[stream]]
            name = "EVENTS"
            subjects = ["events.>"]
            create = true
            [[route]]
            path = "/events"
            stream = "EVENTS"
            subjects = ["events.broadcast.>"]
            audience = "anyone"
            "#
        );
        std::fs::write(&config, text).expect("the configuration is written");
        let mut child = Command::new("taskset")
            .args(["-c", &SERVER_CORE.to_string(), env!("CARGO_BIN_EXE_sidestream"), "serve", "--log-format", "json"])
            .arg("--config")
            .arg(&config)
            .stderr(Stdio::piped())
            .spawn()
            .expect("taskset and sidestream start");
        let mut port = 0;
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        while let Some(Ok(line)) = lines.next() {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap_or_default();
            if line["listener"] == "public" {
                port = line["address"].as_str().and_then(|a| a.rsplit(':').next()?.parse().ok()).expect("a port");
            }
            if line["message"] == "Feed open" {
                break;
            }
        }
        assert_ne!(port, 0, "the server did not start");
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, port }
    }

    /// CPU time of the process so far, in seconds.
    fn cpu(&self) -> f64 {
        let schedstat = |task: std::path::PathBuf| -> f64 {
            let text = std::fs::read_to_string(task.join("schedstat")).unwrap_or_default();
            text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
        };
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("the process runs");
        tasks.flatten().map(|task| schedstat(task.path())).sum()
    }

    fn pss_kib(&self) -> f64 {
        let text =
            std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.child.id())).expect("the process runs");
        let line = text.lines().find(|line| line.starts_with("Pss:")).expect("a Pss line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A NATS server of our own.
struct Nats {
    child: Child,
    port: u16,
}

impl Nats {
    fn start(directory: &std::path::Path) -> Self {
        let program = std::env::var("NATS_SERVER_NEW").unwrap_or_else(|_| "nats-server".to_owned());
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let child = Command::new(program)
            .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
            .arg(directory)
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        let started = Instant::now();
        while !answers(port) {
            assert!(started.elapsed() < Duration::from_secs(10), "nats-server does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, port }
    }
}

fn answers(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok_and(|mut stream| stream.read(&mut [0; 4]).is_ok_and(|n| n > 0))
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
