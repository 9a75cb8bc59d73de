//! A real browser, by its driver: contexts, tabs in them, and what is done to both.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

/// A browser may need this long to start on a busy machine, or for one order.
const PATIENCE: Duration = Duration::from_secs(90);

/// Which browser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// By the DevTools protocol.
    Chromium,
    /// By WebDriver BiDi.
    Firefox,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Chromium => "chromium",
            Self::Firefox => "firefox",
        }
    }
}

/// A running browser.
pub struct Browser {
    child: Child,
    driver: Mutex<Driver>,
    _profile: tempfile::TempDir,
}

/// Takes one order after the other.
struct Driver {
    orders: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Driver {
    async fn answer(&mut self) -> Value {
        let line = tokio::time::timeout(PATIENCE, self.answers.next_line()).await.expect("the browser answers in time");
        let line = line.expect("the driver can be read").expect("the driver goes on");
        let answer: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(answer.get("failed"), None, "the browser's driver");
        answer["ok"].clone()
    }
}

impl Browser {
    /// Starts it.
    pub async fn start(kind: Kind) -> Self {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
        assert!(
            tests.join("browser/node_modules").is_dir(),
            "no node_modules in tests/browser: run scripts/test, or `npm ci` there"
        );
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut child = Command::new("node")
            .arg(tests.join("clients/drive.mjs"))
            .arg(kind.name())
            .arg(profile.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Not killed: a driver that is told nothing more closes its browser, and one that is killed leaves it
            // behind.
            .spawn()
            .expect("node starts");
        let orders = child.stdin.take().expect("piped");
        let answers = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut driver = Driver { orders, answers };
        println!("{}", driver.answer().await);
        Self { child, driver: Mutex::new(driver), _profile: profile }
    }

    /// Gives an order, and what comes of it.
    async fn order(&self, order: &str, mut with: Value) -> Value {
        with["order"] = json!(order);
        let mut driver = self.driver.lock().await;
        driver.orders.write_all(format!("{with}\n").as_bytes()).await.expect("the driver listens");
        driver.answer().await
    }

    /// A context: its tabs share cookies, workers and locks, and nothing with others.
    pub async fn context(&self, name: &str) {
        self.order("context", json!({ "name": name })).await;
    }

    /// A tab with a page whose scripts have run.
    pub async fn tab(&self, context: &str, name: &str, url: &str) {
        self.order("tab", json!({ "context": context, "name": name, "url": url })).await;
    }

    /// Sets a cookie, as a page does.
    pub async fn cookie(&self, tab: &str, cookie: &str) {
        self.order("cookie", json!({ "tab": tab, "cookie": cookie })).await;
    }

    /// Calls a function of the page.
    pub async fn call(&self, tab: &str, name: &str, args: Value) -> Value {
        self.order("call", json!({ "tab": tab, "name": name, "args": args })).await
    }

    /// Closes a tab, as a user does.
    pub async fn close_tab(&self, tab: &str) {
        self.order("close", json!({ "tab": tab })).await;
    }

    /// Ends the process of a tab. Chromium only.
    pub async fn crash(&self, tab: &str) {
        self.order("crash", json!({ "tab": tab })).await;
    }

    /// Takes the network away from a context, or gives it back.
    pub async fn offline(&self, context: &str, value: bool) {
        self.order("offline", json!({ "context": context, "value": value })).await;
    }

    /// Ends it, and waits for that.
    pub async fn close(self) {
        let Self { mut child, driver, .. } = self;
        drop(driver);
        let ended = tokio::time::timeout(PATIENCE, child.wait()).await.expect("the browser ends");
        assert!(ended.is_ok_and(|status| status.success()), "the browser's driver failed");
    }
}
