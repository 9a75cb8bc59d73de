//! A running example, and users in front of it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::client::{Answer, Request, Sse, Wire, get};
use crate::support::edge::Proxy;
use crate::support::{DEADLINE, Version, eventually, program, skipped};

/// How long the start of four programs may take on a busy machine.
const START: Duration = Duration::from_secs(60);

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Example {
    /// `examples/express`.
    Express,
    /// `examples/fastapi`.
    Fastapi,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Example {
    /// Where it is.
    pub fn folder(self) -> PathBuf {
        root().join("examples").join(if self == Self::Express { "express" } else { "fastapi" })
    }

    /// What has to be installed before it starts.
    pub fn installed(self) -> PathBuf {
        match self {
            Self::Express => self.folder().join("node_modules/express"),
            Self::Fastapi => root().join(".cache/applications/bin/uvicorn"),
        }
    }
}

/// A signed cookie, as a browser keeps it; empty for nobody.
#[derive(Default)]
pub struct Session(String);

impl Session {
    /// The same with something changed that its signature covers.
    pub fn tampered(&self) -> Self {
        let (name, value) = self.0.split_once('=').expect("a cookie");
        let (first, rest) = value.split_at(1);
        let first = if first == "f" { "e" } else { "f" };
        Self(format!("{name}={first}{rest}"))
    }
}

fn signal(pid: i32, signal: Signal) {
    kill_process(Pid::from_raw(pid).expect("a process"), signal).expect("it is ours");
}

/// Time in which a program is away. Dropping it ends the time as well: the script waits for whoever starts programs.
pub struct Gap {
    keeper: i32,
}

impl Gap {
    /// Lets the script start the program again.
    pub fn close(self) {}
}

impl Drop for Gap {
    fn drop(&mut self) {
        signal(self.keeper, Signal::CONT);
    }
}

/// The example with all that belongs to it. Dropping it ends everything.
pub struct Site {
    run: Child,
    address: String,
    work: tempfile::TempDir,
}

impl Site {
    /// Starts it by its own script; says so and gives nothing where it is not installed.
    pub async fn start(test: &str, example: Example) -> Option<Self> {
        let Some(nginx) = Proxy::Nginx.program() else {
            skipped(test, "no nginx: run scripts/test, or see scripts/lib/edges.sh");
            return None;
        };
        if !example.installed().exists() {
            skipped(test, &format!("no {}: run scripts/test", example.installed().display()));
            return None;
        }
        let work = tempfile::tempdir().expect("a temporary directory");
        let mut run = Command::new(example.folder().join("run"))
            .env_remove("PORT")
            .env("WORK", work.path())
            .env("SIDESTREAM", program::path())
            .env("NATS_SERVER", Version::Current.binary())
            .env("NGINX", nginx)
            .env("PYTHON", root().join(".cache/applications/bin/python"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let mut said = BufReader::new(run.stdout.take().expect("stdout is piped")).lines();
        let mut site = Self { run, address: String::new(), work };
        let ready = tokio::time::timeout(START, said.next_line()).await.expect("ready in time").expect("readable");
        let ready = ready.expect("it ended instead of getting ready");
        let url = ready.split(' ').find_map(|word| word.strip_prefix("http://")).expect("where it is");
        url.trim_end_matches('/').clone_into(&mut site.address);
        // Where the sidecar has not seen NATS yet, a stream is refused softly.
        eventually("the sidecar's stream is there", START, async || {
            std::fs::read_to_string(site.work.path().join("sidestream.log")).ok()?.contains("Feed open").then_some(())
        })
        .await;
        Some(site)
    }

    async fn ask(&self, session: &Session, request: Request, body: &str) -> Answer {
        let mut wire = Wire::tcp(&self.address).await;
        let request = request.header("Cookie", &session.0).header("Connection", "close");
        let request =
            request.header("Content-Type", "application/json").header("Content-Length", body.len().to_string());
        wire.send(&[&request.bytes(), body.as_bytes()].concat()).await;
        wire.answer().await
    }

    /// GET, as no page would do it.
    pub async fn get(&self, session: &Session, path: &str) -> Answer {
        self.ask(session, get(path), "").await
    }

    /// POST as somebody else's page might do it: with headers of its own in place of a page's.
    pub async fn post_with(&self, session: &Session, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut wire = Wire::tcp(&self.address).await;
        let request = Request::new("POST", path).header("Cookie", &session.0).header("Connection", "close");
        let request = request.header("Content-Length", body.len().to_string());
        let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
        wire.send(&[&request.bytes(), body.as_bytes()].concat()).await;
        wire.answer().await
    }

    /// Asks the application for something; it must succeed.
    pub async fn post(&self, session: &Session, path: &str, body: &Value) -> Value {
        let answer = self.ask(session, Request::new("POST", path), &body.to_string()).await;
        assert_eq!(answer.head.status / 100, 2, "{path}: {}", answer.text());
        serde_json::from_str(&answer.text()).unwrap_or_default()
    }

    /// Signs in, or is not let in.
    pub async fn try_sign_in(&self, user: &str) -> Answer {
        let body = serde_json::json!({ "user": user }).to_string();
        self.ask(&Session::default(), Request::new("POST", "/login"), &body).await
    }

    /// Signs in. The cookie must be out of reach of scripts, and of other sites.
    pub async fn sign_in(&self, user: &str) -> Session {
        let head = self.try_sign_in(user).await.head;
        let set = head.headers.iter().filter(|(name, _)| name == "set-cookie").map(|(_, value)| value);
        let cookies: Vec<_> = set
            .map(|cookie| {
                let attributes = cookie.to_ascii_lowercase();
                assert!(attributes.contains("; httponly") && attributes.contains("; samesite=lax"), "{cookie}");
                cookie.split(';').next().unwrap_or_default().to_owned()
            })
            .collect();
        assert!(!cookies.is_empty(), "no cookie: {head:?}");
        Session(cookies.join("; "))
    }

    fn events(session: &Session, headers: &[(&str, &str)]) -> Request {
        let request = get("/events").header("Cookie", &session.0);
        headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    }

    /// Opens a stream through nginx, and reads on until it is up to date.
    pub async fn listen(&self, session: &Session) -> Sse {
        self.listen_with(session, &[]).await
    }

    /// The same with headers of the client's own.
    pub async fn listen_with(&self, session: &Session, headers: &[(&str, &str)]) -> Sse {
        let mut sse = self.open(session, headers).await;
        sse.until_named("sidestream.synced", DEADLINE).await;
        sse
    }

    /// Opens a stream through nginx.
    pub async fn open(&self, session: &Session, headers: &[(&str, &str)]) -> Sse {
        Sse::open(Wire::tcp(&self.address).await, &Self::events(session, headers)).await
    }

    /// What a stream is answered that is not to be opened.
    pub async fn knock(&self, session: &Session, headers: &[(&str, &str)]) -> u16 {
        let mut wire = Wire::tcp(&self.address).await;
        wire.send(&Self::events(session, headers).bytes()).await;
        wire.head().await.status
    }

    /// Comes back as a browser does: again and again, as long as it is told to with a 200.
    pub async fn listen_again(&self, session: &Session, last: &str) -> Sse {
        let request = Self::events(session, &[("Last-Event-ID", last)]);
        eventually("a stream", DEADLINE, async || {
            let mut wire = Wire::tcp(&self.address).await;
            wire.send(&request.bytes()).await;
            let head = wire.head().await;
            assert_eq!(head.status, 200, "{head:?}");
            let retry = head.header("sidestream-refused").is_some() || !head.is_chunked();
            if retry {
                return None;
            }
            Some(Sse::begun(wire, head).await)
        })
        .await
    }

    /// Ends one of the programs by SIGTERM and waits until the script has started another.
    pub async fn restart(&self, name: &str) {
        let old = self.pid(name).expect("it runs");
        signal(old, Signal::TERM);
        eventually(&format!("another {name}"), DEADLINE, async || self.pid(name).filter(|new| *new != old)).await;
    }

    /// Ends one of the programs by SIGTERM and keeps the script from starting another until [`Gap::close`].
    pub async fn interrupt(&self, name: &str) -> Gap {
        let pid = self.pid(name).expect("it runs");
        let status = |field: &str| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("nobody has waited for it");
            let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("proc(5)");
            line.trim().to_owned()
        };
        let keeper = status("PPid:").parse().expect("a process id");
        signal(keeper, Signal::STOP);
        signal(pid, Signal::TERM);
        eventually(&format!("the end of {name}"), DEADLINE, async || status("State:").starts_with('Z').then_some(()))
            .await;
        Gap { keeper }
    }

    fn pid(&self, name: &str) -> Option<i32> {
        std::fs::read_to_string(self.work.path().join(format!("{name}.pid"))).ok()?.trim().parse().ok()
    }

    /// Waits until the application answers again.
    pub async fn answers(&self) {
        eventually("the application answers", DEADLINE, async || {
            (self.get(&Session::default(), "/").await.head.status == 200).then_some(())
        })
        .await;
    }

    /// Two users with the page in Chromium.
    pub async fn open_page(&self) {
        let scripts = root().join("tests/browser");
        let modules = scripts.join("node_modules");
        assert!(modules.is_dir(), "no node_modules in tests/browser: run scripts/test, or `npm ci` there");
        let run = Command::new("node")
            .arg(scripts.join("applications.mjs"))
            .arg(format!("http://{}/", self.address))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let ended = tokio::time::timeout(Duration::from_secs(120), run).await;
        let output = ended.expect("the browser ends").expect("node starts");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }

    fn logs(&self) -> String {
        let log =
            |name: &&str| std::fs::read_to_string(self.work.path().join(format!("{name}.log"))).unwrap_or_default();
        ["application", "sidestream", "nginx"].iter().map(log).collect()
    }

    /// The programs that still run for it. Their command lines name its directory, but for the application's.
    fn left(&self) -> Vec<String> {
        let work = self.work.path().to_string_lossy();
        let processes = std::fs::read_dir("/proc").expect("proc(5)").flatten();
        let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
        lines.filter(|line| line.contains(&*work)).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // Not SIGKILL: the script has to end what it has started.
        if let Some(pid) = self.run.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let started = Instant::now();
        let mut ended = false;
        while !ended && started.elapsed() < Duration::from_secs(10) {
            ended = matches!(self.run.try_wait(), Ok(Some(_)));
            std::thread::sleep(Duration::from_millis(5));
        }
        if std::thread::panicking() {
            eprintln!("--- logs\n{}", self.logs());
            return;
        }
        assert!(ended, "the script does not end on SIGTERM");
        let left = self.left();
        assert!(left.is_empty(), "it runs on: {left:?}");
        // One that the script cannot see is started again beside itself, for ever.
        let log = std::fs::read_to_string(self.work.path().join("nginx.log")).unwrap_or_default();
        assert!(!log.contains("[emerg]"), "{log}");
    }
}
