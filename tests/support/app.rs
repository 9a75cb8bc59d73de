//! The real program: started with a configuration text on free ports, ended by SIGTERM, its log shown when a test fails.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::client::{Answer, Request, Sse, Wire, get};
use super::{DEADLINE, Nats, eventually, process, program};

/// The route that most tests use: stream `EVENTS`, one's own subjects and the broadcasts.
pub const EVENTS_ROUTE: &str = r#"
[[route]]
path = "/events"
stream = "EVENTS"
subjects = ["events.user.{user}.>", "events.broadcast.>"]
audience = "user"
"#;

/// Trust by address: what most tests use, because their client is on loopback.
pub const TRUST_LOOPBACK: &str = "proxies = [\"127.0.0.1\"]\naddress_is_proof = true\n";

/// A configuration text in the making. Limits are wide, so that only tests of a limit meet it.
#[derive(Clone)]
pub struct Config {
    /// Public addresses.
    pub listen: Vec<String>,
    /// `[server] drain_window`.
    pub drain_window: &'static str,
    /// More lines of `[server]`.
    pub server: String,
    /// More lines of `[admin]`.
    pub admin: String,
    /// `[nats] servers`.
    pub nats: Vec<String>,
    /// More lines of `[nats]`.
    pub nats_more: String,
    /// Lines of `[trust]`; `None` leaves the table out.
    pub trust: Option<String>,
    /// Lines of `[identity]` beside `user_header`.
    pub identity: String,
    /// Key to TOML value.
    pub limits: BTreeMap<&'static str, String>,
    /// `[heartbeat] interval`.
    pub heartbeat: &'static str,
    /// More whole tables, routes among them.
    pub tables: String,
}

impl Config {
    /// The usual configuration on this server, with [`EVENTS_ROUTE`].
    pub fn on(nats: &Nats) -> Self {
        Self::at(&nats.url())
    }

    /// The same for any URL.
    pub fn at(nats: &str) -> Self {
        Self::at_any(&[nats.to_owned()])
    }

    /// The same for a server that has several URLs, as a cluster has.
    pub fn at_any(nats: &[String]) -> Self {
        let wide = [
            "connections_per_user",
            "connections_per_address",
            "connects_per_second",
            "connects_per_second_per_user",
            "connects_per_second_per_address",
        ];
        Self {
            listen: vec!["127.0.0.1:0".to_owned()],
            drain_window: "1s",
            server: String::new(),
            admin: String::new(),
            nats: nats.to_vec(),
            nats_more: String::new(),
            trust: Some(TRUST_LOOPBACK.to_owned()),
            identity: String::new(),
            limits: wide.map(|key| (key, "100000".to_owned())).into(),
            heartbeat: "15s",
            tables: EVENTS_ROUTE.to_owned(),
        }
    }

    /// Sets a limit to a TOML value.
    pub fn limit(mut self, key: &'static str, value: &str) -> Self {
        self.limits.insert(key, value.to_owned());
        self
    }

    /// Adds tables.
    pub fn tables(mut self, text: &str) -> Self {
        self.tables.push_str(text);
        self
    }

    /// Adds lines to `[server]`.
    pub fn server(mut self, text: &str) -> Self {
        self.server.push_str(text);
        self
    }

    /// Adds lines to `[admin]`.
    pub fn admin(mut self, text: &str) -> Self {
        self.admin.push_str(text);
        self
    }

    /// Adds lines to `[nats]`.
    pub fn nats(mut self, text: &str) -> Self {
        self.nats_more.push_str(text);
        self
    }

    /// Replaces `[trust]`.
    pub fn trust(mut self, text: Option<&str>) -> Self {
        self.trust = text.map(str::to_owned);
        self
    }

    /// Replaces the public addresses.
    pub fn listen(mut self, addresses: &[&str]) -> Self {
        self.listen = addresses.iter().map(|a| (*a).to_owned()).collect();
        self
    }

    /// Sets the heartbeat interval.
    pub fn heartbeat(mut self, interval: &'static str) -> Self {
        self.heartbeat = interval;
        self
    }

    /// The TOML text.
    pub fn render(&self) -> String {
        let mut text = String::from("version = 1\n");
        let _ = writeln!(
            text,
            "[server]\nlisten = {:?}\ndrain_window = {:?}\n{}",
            self.listen, self.drain_window, self.server
        );
        let _ = writeln!(text, "[admin]\nlisten = \"127.0.0.1:0\"\n{}", self.admin);
        let _ = writeln!(text, "[nats]\nservers = {:?}\n{}", self.nats, self.nats_more);
        if let Some(trust) = &self.trust {
            let _ = writeln!(text, "[trust]\n{trust}");
        }
        let _ = writeln!(text, "[identity]\nuser_header = \"X-Forwarded-User\"\n{}", self.identity);
        let _ = writeln!(text, "[limits]");
        for (key, value) in &self.limits {
            let _ = writeln!(text, "{key} = {value}");
        }
        let _ = writeln!(text, "\n[heartbeat]\ninterval = {:?}\n{}", self.heartbeat, self.tables);
        text
    }
}

/// The running program.
pub struct App {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    /// Public addresses as the program announced them, in the order of the announcements.
    pub public: Vec<String>,
    /// The admin address.
    pub admin: String,
    _dir: Option<tempfile::TempDir>,
}

impl App {
    /// Starts the program and waits until it is ready: bound, NATS up, its streams open.
    pub async fn start(config: &Config) -> Self {
        let app = Self::bound(config).await;
        app.ready().await;
        app
    }

    /// Starts the program and waits until its addresses are bound, not for NATS.
    pub async fn bound(config: &Config) -> Self {
        Self::launch(config, |serve| serve).await
    }

    /// As [`App::bound`], the command line wrapped by the caller.
    pub async fn launch(config: &Config, wrap: impl FnOnce(Command) -> Command) -> Self {
        let mut app = Self::spawn(config, wrap);
        app.announced(config.listen.len()).await;
        app
    }

    /// Starts the program from a file as it is, with keys set on the command line, and waits until it is ready.
    pub async fn from_file(file: &Path, set: &[String]) -> Self {
        let mut app = Self::serve(file, None, |mut serve| {
            serve.args(set.iter().flat_map(|assignment| ["--set", assignment]));
            serve
        });
        app.announced(1).await;
        app.ready().await;
        app
    }

    /// Starts the program and waits for nothing.
    pub fn spawn(config: &Config, wrap: impl FnOnce(Command) -> Command) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("sidestream.toml");
        std::fs::write(&file, config.render()).expect("the configuration is written");
        Self::serve(&file, Some(dir), wrap)
    }

    fn serve(file: &Path, dir: Option<tempfile::TempDir>, wrap: impl FnOnce(Command) -> Command) -> Self {
        let mut serve = program::command();
        serve.arg("serve").arg("--config").arg(file).args(["--log-format", "json"]);
        let mut child = wrap(serve)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let log = Arc::new(Mutex::new(Vec::new()));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let lines = Arc::clone(&log);
        std::thread::spawn(move || {
            for line in stderr.split(b'\n').map_while(Result::ok) {
                lines.lock().expect("no reader panics").push(String::from_utf8_lossy(&line).into_owned());
            }
        });
        Self { child, log, public: Vec::new(), admin: String::new(), _dir: dir }
    }

    /// Waits for the announcements of `listeners` public addresses and of the admin address.
    pub async fn announced(&mut self, listeners: usize) {
        let started = Instant::now();
        loop {
            let of = |wanted: &str| -> Vec<String> {
                let announced =
                    self.log_json().into_iter().filter(|l| l["message"] == "Listening" && l["listener"] == wanted);
                announced.filter_map(|l| l["address"].as_str().map(str::to_owned)).collect()
            };
            let (public, admin) = (of("public"), of("admin"));
            if public.len() >= listeners && !admin.is_empty() {
                (self.public, self.admin) = (public, admin[0].clone());
                return;
            }
            if let Some(status) = self.child.try_wait().expect("our own child") {
                panic!("the program ended instead of listening: {status}");
            }
            assert!(
                started.elapsed() < DEADLINE,
                "not announced within {DEADLINE:?}: {listeners} public addresses, admin"
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until `/readyz` says 200.
    pub async fn ready(&self) {
        eventually("/readyz answers 200", DEADLINE, async || {
            (self.admin_get("/readyz").await.head.status == 200).then_some(())
        })
        .await;
    }

    /// The first public TCP address.
    pub fn address(&self) -> &str {
        &self.public[0]
    }

    /// Opens `/events` for a user and reads `sidestream.connected`.
    pub async fn events(&self, user: &str) -> Sse {
        self.stream(get("/events").user(user)).await
    }

    /// Opens any stream and reads `sidestream.connected`.
    pub async fn stream(&self, request: Request) -> Sse {
        Sse::open(Wire::tcp(self.address()).await, &request).await
    }

    /// Sends one request on a connection of its own and reads the whole answer.
    pub async fn ask(&self, request: Request) -> Answer {
        self.ask_raw(&request.bytes()).await
    }

    /// Sends exact bytes on a connection of their own and reads the whole answer.
    pub async fn ask_raw(&self, bytes: &[u8]) -> Answer {
        let mut wire = Wire::tcp(self.address()).await;
        wire.send(bytes).await;
        wire.answer().await
    }

    /// GET on the admin listener.
    pub async fn admin_get(&self, path: &str) -> Answer {
        let mut wire = Wire::tcp(&self.admin).await;
        wire.send(format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").as_bytes()).await;
        wire.answer().await
    }

    /// Any request on the admin listener, with a token if one is given.
    pub async fn admin_ask(&self, method: &str, path: &str, token: Option<&str>) -> Answer {
        self.admin_send(method, path, token, "").await
    }

    /// The same with a body.
    pub async fn admin_send(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
        let mut wire = Wire::tcp(&self.admin).await;
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: admin\r\n{token}Content-Length: {length}\r\n\r\n{body}");
        wire.send(head.as_bytes()).await;
        wire.answer().await
    }

    /// Starts the program from a file of the caller's, who may change it, and waits until it is ready.
    pub async fn of_file(file: &Path, config: &Config) -> Self {
        std::fs::write(file, config.render()).expect("the configuration is written");
        let mut app = Self::serve(file, None, |serve| serve);
        app.announced(config.listen.len()).await;
        app.ready().await;
        app
    }

    /// The sum of a metric over all series that carry these labels; 0 where there is none.
    pub async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.sum(name, labels)
    }

    /// All metrics.
    pub async fn metrics(&self) -> Metrics {
        let answer = self.admin_get("/metrics").await;
        assert_eq!(answer.head.status, 200);
        Metrics::parse(&answer.text())
    }

    /// Waits until a metric is exactly this.
    pub async fn metric_is(&self, name: &str, labels: &[(&str, &str)], wanted: f64, within: Duration) {
        let mut last = f64::NAN;
        let started = Instant::now();
        while started.elapsed() < within {
            last = self.metric(name, labels).await;
            #[allow(clippy::float_cmp, reason = "gauges and counters here are whole numbers")]
            if last == wanted {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{name}{labels:?} is {last}, not {wanted}, after {within:?}");
    }

    /// Every log line that is JSON.
    pub fn log_json(&self) -> Vec<serde_json::Value> {
        self.log_lines().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Every log line.
    pub fn log_lines(&self) -> Vec<String> {
        self.log.lock().expect("no writer panics").clone()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// Lets [`App::peak_resident`] begin anew.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.pid()), "5").expect("our own child");
    }

    /// The most resident memory there has been, in bytes.
    pub fn peak_resident(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("the program runs");
        let line = status.lines().find_map(|l| l.strip_prefix(name)).expect("the kernel tells it in /proc");
        let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().expect("a number of kB");
        kib * 1024
    }

    /// CPU time used so far, user and system.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("the program runs");
        // The name may hold anything but ends with the last parenthesis; utime and stime are the fields 14 and 15.
        let fields = stat.rsplit_once(')').expect("proc(5)").1.split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 10)
    }

    /// Open file descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(Path::new("/proc").join(self.pid().to_string()).join("fd")).expect("the program runs").count()
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
    }

    /// `SIGHUP`.
    pub fn hang_up(&self) {
        process::signal(&self.child, Signal::HUP);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// `SIGSTOP`.
    pub fn pause(&self) {
        process::stop(&self.child);
    }

    /// `SIGCONT`.
    pub fn resume(&self) {
        process::signal(&self.child, Signal::CONT);
    }

    /// Waits until a line of the log holds this text.
    pub async fn logs(&self, text: &str, within: Duration) {
        eventually(&format!("the log says {text:?}"), within, async || {
            self.log_lines().iter().any(|line| line.contains(text)).then_some(())
        })
        .await;
    }

    /// Waits for the end.
    pub async fn exit(&mut self, within: Duration) -> ExitStatus {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(started.elapsed() < within, "the program still runs after {within:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.terminate();
        let started = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && started.elapsed() < Duration::from_secs(4) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let ended = matches!(self.child.try_wait(), Ok(Some(_)));
        let _ = self.child.kill();
        let _ = self.child.wait();
        let lines = self.log_lines();
        if std::thread::panicking() {
            eprintln!("--- sidestream, log");
            lines.iter().rev().take(200).rev().for_each(|line| eprintln!("{line}"));
            return;
        }
        assert!(ended, "SIGTERM did not end the program within 4 s (drain_window is 1 s)");
        // async-nats panics over a header value with a carriage return (docs/upstream/async-nats-header-panic.md). That ends one
        // of its own tasks, and the tests that provoke it show that nobody notices. Every other panic is a fault of ours.
        let ours = |line: &&String| line.contains("panicked at") && !line.contains("/async-nats-0.51.0/src/header.rs:");
        let panicked = lines.iter().find(ours);
        assert!(panicked.is_none(), "the program panicked: {panicked:?}");
    }
}

/// A scrape.
pub struct Metrics(Vec<(String, BTreeMap<String, String>, f64)>);

impl Metrics {
    fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
        Self(samples.map(|line| Self::sample(line).unwrap_or_else(|| panic!("not a sample: {line:?}"))).collect())
    }

    fn sample(line: &str) -> Option<(String, BTreeMap<String, String>, f64)> {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').map_or((series, ""), |(n, l)| (n, l.trim_end_matches('}')));
        let pairs = labels.split("\",").filter(|p| !p.is_empty()).filter_map(|pair| {
            let (key, value) = pair.split_once("=\"")?;
            Some((key.trim().to_owned(), value.trim_end_matches('"').to_owned()))
        });
        Some((name.to_owned(), pairs.collect(), value.parse().ok()?))
    }

    /// The sum over all series of this name that carry these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries =
            |of: &BTreeMap<String, String>| labels.iter().all(|(k, v)| of.get(*k).is_some_and(|have| have == v));
        self.0.iter().filter(|(n, l, _)| n == name && carries(l)).map(|(_, _, value)| value).sum()
    }

    /// Whether there is such a series at all.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, ..)| n == name)
    }

    /// How many series there are.
    pub fn series(&self) -> usize {
        self.0.len()
    }
}
