//! What TLS costs the whole process: memory of an idle stream, CPU of a connect, CPU of a delivery.
//!
//! ```sh
//! cargo bench --bench tls -- 1000 10000        # connections; NATS_SERVER_NEW or nats-server on the PATH
//! SIDESTREAM=/some/older/sidestream cargo bench --bench tls -- 10000
//! ```
//!
//! HTTP/1.1 streams over TLS 1.3 with a P-256 certificate, X25519, AES-128 and full handshakes. Server and floor are pinned to one core, readers
//! and NATS to another. Memory is what the server's PSS grows by while the streams open, by `smaps_rollup`. CPU is of the
//! server process, user and system, from `/proc/PID/task/*/schedstat`: for a connect from accept to `sidestream.connected`,
//! for a delivery one event of 200 bytes at a time. The floor is a plain write of the same plaintext per connection.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsConnector;

const SERVER_CORE: usize = 0;
const READER_CORE: usize = 1;
/// Deliveries measured per size.
const DELIVERIES: usize = 200_000;
/// Rounds before that: caches, allocators, TCP windows.
const WARM_UP: usize = 5;
const PAYLOAD_BYTES: usize = 200;
/// Connections that open at the same time. What their handshakes leave of the heap is in the memory measured.
const OPENING: usize = 50;
/// No reader may wait longer than this for one event.
const PATIENCE: Duration = Duration::from_secs(120);

fn main() {
    let sizes: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let sizes = if sizes.is_empty() { vec![1000, 5000] } else { sizes };
    let maximum = getrlimit(Resource::Nofile).maximum;
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    pin(READER_CORE);
    println!("| connections | PSS KiB/connection | connect CPU µs | delivery CPU µs | floor CPU µs | ratio |");
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
        let mut readers = Readers::new(&server.certificate);
        // What the first connections cost once is no cost of a connection.
        readers.open(OPENING, server.port).await;
        let (pss, cpu) = (server.pss_kib(), server.cpu());
        readers.open(connections, server.port).await;
        let idle = (server.pss_kib() - pss) / connections as f64;
        let connect = (server.cpu() - cpu) / connections as f64;
        let listeners = connections + OPENING;

        let client = async_nats::connect(format!("127.0.0.1:{}", nats.port)).await.expect("NATS");
        let jetstream = async_nats::jetstream::new(client);
        let rounds = (DELIVERIES / listeners).max(20);
        let (mut ours, heard) = (0.0, readers.events());
        for round in 0..WARM_UP + rounds {
            let start = server.cpu();
            let payload = "x".repeat(PAYLOAD_BYTES);
            jetstream.publish("events.bench", payload.into()).await.expect("sent").await.expect("stored");
            readers.have(heard + (listeners * (round + 1)) as u64).await;
            if round >= WARM_UP {
                ours += server.cpu() - start;
            }
        }
        let ours = ours / (rounds * listeners) as f64;
        // Their sockets are closed before the floor opens as many.
        readers.open.shutdown().await;
        let (ours, raw) = (ours * 1e6, floor(listeners, rounds) * 1e6);
        println!("| {connections} | {idle:.2} | {:.1} | {ours:.2} | {raw:.2} | {:.3} |", connect * 1e6, ours / raw);
    });
}

/// CPU of one plain write, in seconds.
fn floor(connections: usize, rounds: usize) -> f64 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let event = format!("fe\r\nid: 4yyh8gg2.zz.dn1tfqulaj9x\ndata: {}\n\n\r\n", "x".repeat(PAYLOAD_BYTES));
    let (mut read, mut written) = (Vec::new(), Vec::new());
    for _ in 0..connections {
        read.push(TcpStream::connect(address).expect("accepted"));
        let (socket, _) = listener.accept().expect("a reader");
        socket.set_nodelay(true).expect("TCP_NODELAY");
        written.push(socket);
    }
    let mut spent = 0.0;
    let mut buffer = vec![0; event.len()];
    for round in 0..WARM_UP + rounds {
        spent += std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                pin(SERVER_CORE);
                let start = thread_cpu();
                written.iter().for_each(|mut socket| socket.write_all(event.as_bytes()).expect("written"));
                thread_cpu() - start
            });
            read.iter().for_each(|mut socket| socket.read_exact(&mut buffer).expect("read"));
            let took = writer.join().expect("it writes");
            if round < WARM_UP { 0.0 } else { took }
        });
    }
    spent / (rounds * connections) as f64
}

fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Connections that read and count events.
struct Readers {
    tls: TlsConnector,
    events: Arc<AtomicU64>,
    open: tokio::task::JoinSet<()>,
}

impl Readers {
    fn new(certificate: &CertificateDer<'static>) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.clone()).expect("our own certificate");
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        // As browsers ask: AES-128 before AES-256. The server follows its clients.
        provider.cipher_suites = vec![rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256];
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.resumption = rustls::client::Resumption::disabled();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Self { tls: TlsConnector::from(Arc::new(config)), events: Arc::default(), open: tokio::task::JoinSet::new() }
    }

    fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }

    /// Opens so many more and waits until each has heard `sidestream.connected`.
    async fn open(&mut self, connections: usize, port: u16) {
        let before = self.events();
        let mut opening = futures_util::stream::iter(0..connections)
            .map(|_| {
                let tls = self.tls.clone();
                async move {
                    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("accepted");
                    let name = ServerName::try_from("bench").expect("a name");
                    let mut stream = tls.connect(name, stream).await.expect("a handshake");
                    let head = b"GET /events HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n";
                    stream.write_all(head).await.expect("written");
                    // What is written may wait in the session: all of these share one task's budget.
                    stream.flush().await.expect("written");
                    stream
                }
            })
            .buffer_unordered(OPENING);
        while let Some(mut stream) = opening.next().await {
            let events = self.events.clone();
            self.open.spawn(async move {
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
        drop(opening);
        self.have(before + connections as u64).await;
    }

    async fn have(&self, events: u64) {
        let started = Instant::now();
        while self.events() < events {
            assert!(started.elapsed() < PATIENCE, "{} of {events} events", self.events());
            tokio::time::sleep(Duration::from_micros(500)).await;
        }
    }
}

/// The program under measurement.
struct Server {
    process: Process,
    port: u16,
    certificate: CertificateDer<'static>,
}

impl Server {
    fn start(directory: &Path, nats: u16) -> Self {
        let (cert, key) = (directory.join("cert.pem"), directory.join("key.pem"));
        let made = rcgen::generate_simple_self_signed(vec!["bench".to_owned()]).expect("a certificate");
        std::fs::write(&cert, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let text = format!(
            "[server]\nlisten = [\"127.0.0.1:0\"]\nmax_age = \"0s\"\n[server.tls]\ncert = {cert:?}\nkey = {key:?}\n\
             [admin]\nlisten = \"127.0.0.1:0\"\n[nats]\nservers = [\"nats://127.0.0.1:{nats}\"]\n\
             [limits]\nconnections_per_address = 100000\nconnects_per_second = 100000\n\
             connects_per_second_per_address = 100000\n[heartbeat]\ninterval = \"1h\"\n\
             [[stream]]\nname = \"EVENTS\"\nsubjects = [\"events.>\"]\ncreate = true\n\
             [[route]]\npath = \"/events\"\nstream = \"EVENTS\"\nsubjects = [\"events.>\"]\naudience = \"anyone\"\n"
        );
        let config = directory.join("bench.toml");
        std::fs::write(&config, text).expect("the configuration is written");
        let program = std::env::var("SIDESTREAM").unwrap_or_else(|_| env!("CARGO_BIN_EXE_sidestream").to_owned());
        let mut child = Command::new("taskset")
            .args(["-c", &SERVER_CORE.to_string(), &program, "serve", "--log-format", "json", "--config"])
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
        std::thread::spawn(move || lines.for_each(drop));
        Self { process: Process(child), port, certificate: made.cert.der().clone() }
    }

    /// CPU time of the process so far, in seconds.
    fn cpu(&self) -> f64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.process.0.id())).expect("the process runs");
        let schedstat = |task: std::fs::DirEntry| -> Option<f64> {
            let text = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse::<f64>().ok()
        };
        tasks.flatten().filter_map(schedstat).sum::<f64>() / 1e9
    }

    fn pss_kib(&self) -> f64 {
        let path = format!("/proc/{}/smaps_rollup", self.process.0.id());
        let text = std::fs::read_to_string(path).expect("the process runs");
        let line = text.lines().find(|line| line.starts_with("Pss:")).expect("a Pss line");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }
}

/// A NATS server of our own.
struct Nats {
    _process: Process,
    port: u16,
}

impl Nats {
    fn start(directory: &Path) -> Self {
        let program = std::env::var("NATS_SERVER_NEW").unwrap_or_else(|_| "nats-server".to_owned());
        let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port").port();
        let child = Command::new(program)
            .args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"])
            .arg(directory)
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server starts");
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { _process: Process(child), port }
    }
}

/// A process that ends with its owner.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
