//! A real browser with a native `EventSource` through each of several proxies, and what became of each.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use crate::attempt::Attempt;
use crate::front::Front;
use crate::support::eventually;

/// A browser may need this long to start on a busy machine, and to come back: what it is told to wait adds up.
const PATIENCE: Duration = Duration::from_secs(90);

/// `EventSource.CLOSED`: it never comes back.
const CLOSED: u64 = 2;
/// `EventSource.OPEN`.
const OPEN: u64 = 1;

/// The browser, by its driver.
pub struct Watched {
    child: Child,
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    _profile: tempfile::TempDir,
}

/// What a page has seen of its `EventSource`.
#[derive(Debug, Deserialize)]
pub struct Page {
    /// Which proxy it is behind.
    name: String,
    state: u64,
    told: Vec<Value>,
}

impl Watched {
    /// Starts a browser with a page behind each of these proxies.
    pub async fn start(browser: &str, fronts: &[Front]) -> Self {
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/browser");
        assert!(
            scripts.join("node_modules").is_dir(),
            "no node_modules in tests/browser: run scripts/test, or `npm ci` there"
        );
        let sites = fronts.iter().map(|front| {
            let cookie = front.kind.cookie(&Attempt::honest().session, &front.issuer);
            json!({ "name": format!("{:?}", front.kind), "port": front.edge.address.port(), "cookie": cookie })
        });
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut child = Command::new("node")
            .arg(scripts.join("survive.mjs"))
            .arg(browser)
            .arg(profile.path())
            .arg(Value::from_iter(sites).to_string())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Not killed: a driver that is told nothing more closes its browser, and one that is killed leaves it behind.
            .spawn()
            .expect("node starts");
        let orders = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut watched = Self { child, orders, answers, _profile: profile };
        assert_eq!(watched.line().await, "ready");
        watched
    }

    async fn line(&mut self) -> String {
        let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await.expect("the browser answers in time");
        line.expect("the browser's driver can be read").expect("the browser's driver goes on")
    }

    /// What every page has seen by now.
    pub async fn pages(&mut self) -> Vec<Page> {
        self.orders.write_all(b"\n").await.expect("the browser's driver listens");
        serde_json::from_str(&self.line().await).expect("JSON")
    }

    /// Waits until this holds for every page. None may have given up.
    pub async fn until(&mut self, what: &str, holds: impl Fn(&Page) -> bool) -> Vec<Page> {
        eventually(what, PATIENCE, async || {
            let pages = self.pages().await;
            pages.iter().for_each(Page::has_not_given_up);
            pages.iter().all(&holds).then_some(pages)
        })
        .await
    }

    /// Ends the browser, and waits for that.
    pub async fn close(self) {
        let Self { mut child, orders, .. } = self;
        drop(orders);
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("the browser ends");
        assert!(ended.is_ok_and(|status| status.success()), "the browser's driver failed");
    }
}

impl Page {
    fn has_not_given_up(&self) {
        let closed = self.state == CLOSED || self.told.iter().any(|told| told["error"] == CLOSED);
        assert!(!closed, "{}: the EventSource is dead for good: {:?}", self.name, self.told);
    }

    /// Whether it was served.
    pub fn is_connected(&self) -> bool {
        self.told.iter().any(|told| told.get("connected").is_some())
    }

    /// How often it was cut off, or told to come back later.
    pub fn errors(&self) -> usize {
        self.told.iter().filter(|told| told.get("error").is_some()).count()
    }

    /// The data of its events.
    pub fn heard(&self) -> Vec<&str> {
        self.told.iter().filter_map(|told| told["data"].as_str()).collect()
    }

    /// Whether it heard exactly this, resumed exactly so many times or more, and is open.
    pub fn survived(&self, expected: &[String], resumes: usize) {
        let Self { name, state, told } = self;
        assert_eq!(*state, OPEN, "{name}: {told:?}");
        assert_eq!(self.heard(), expected, "{name}: lost, doubled or out of order: {told:?}");
        let connected: Vec<_> = told.iter().filter_map(|told| told["connected"]["resume"].as_str()).collect();
        assert_eq!(connected.first(), Some(&"new"), "{name}: {told:?}");
        assert!(connected.len() > resumes, "{name} came back {} times only: {told:?}", connected.len());
        assert!(connected[1..].iter().all(|resume| *resume == "exact"), "{name}: {connected:?}");
        assert!(told.iter().all(|told| told.get("gap").is_none()), "{name}: a gap without a loss: {told:?}");
    }
}
