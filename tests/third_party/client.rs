//! One client's process, and what it has said.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinHandle;

use crate::roster::{self, Form, Origin};
use crate::support::seq_of;

/// A line of a client: an event as it was handed over, or why it has given up and is started anew.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Line {
    event: Option<String>,
    id: Option<String>,
    data: Option<String>,
    /// Why it has given up.
    pub ended: Option<String>,
}

impl Line {
    /// The name, where it is an event.
    pub fn name(&self) -> Option<&str> {
        let name = self.event.as_deref().filter(|name| !name.is_empty()).unwrap_or("message");
        self.ended.is_none().then_some(name)
    }

    /// Whether it is an event of which nothing is known, not even a name.
    pub fn is_nothing(&self) -> bool {
        self.event.is_none() && self.id.is_none() && self.data.is_none() && self.ended.is_none()
    }

    /// The data, empty where there is none.
    pub fn data(&self) -> &str {
        self.data.as_deref().unwrap_or_default()
    }

    /// Whether it is an event of ours that says all this.
    pub fn says(&self, name: &str, what: &Value) -> bool {
        let said: Value = serde_json::from_str(self.data()).unwrap_or_default();
        let what = what.as_object().expect("an object");
        self.name() == Some(name) && what.iter().all(|(key, value)| said[key] == *value)
    }

    /// The sequence in its id; `None` where it has no id.
    pub fn seq(&self) -> Option<u64> {
        self.id.as_deref().filter(|id| !id.is_empty()).map(seq_of)
    }
}

/// A client at work. Dropping it kills its process.
pub struct Client {
    /// Who it is.
    pub who: &'static roster::Client,
    lines: Arc<Mutex<Vec<Line>>>,
    task: JoinHandle<()>,
}

impl Client {
    /// Starts it.
    pub fn start(who: &'static roster::Client, port: u16) -> Self {
        let url = format!("http://127.0.0.1:{port}/{}", who.user());
        let lines = Arc::new(Mutex::new(Vec::new()));
        let of_task = Arc::clone(&lines);
        let task = tokio::spawn(async move {
            match who.origin {
                Origin::Curl => curl(&url, &of_task).await,
                _ => program(who, &url, &of_task).await,
            }
        });
        Self { who, lines, task }
    }

    /// Looks at everything it has said.
    pub fn read<T>(&self, look: impl FnOnce(&[Line]) -> T) -> T {
        assert!(!self.task.is_finished(), "{} is gone: {:#?}", self.who.user(), self.last_words());
        look(&self.lines.lock().expect("no holder panics"))
    }

    /// What is not ours, phantoms among it, but for those that come and go with the network.
    pub fn events<'l>(&self, lines: &'l [Line]) -> impl Iterator<Item = &'l Line> {
        let in_pieces = self.who.phantoms.contains(&Form::Piece);
        let is_event = |line: &&Line| line.name().is_some_and(|name| !name.starts_with("sidestream."));
        lines.iter().filter(is_event).filter(move |line| !(in_pieces && line.is_nothing()))
    }

    /// The end of what it has said, long payloads cut.
    pub fn last_words(&self) -> Vec<String> {
        let lines = self.lines.lock().expect("no holder panics");
        lines.iter().skip(lines.len().saturating_sub(12)).map(|line| format!("{line:.300?}")).collect()
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/third_party")
}

/// The programs that clients run in, each with what installs it; `None` where one is missing.
pub fn missing() -> Option<PathBuf> {
    let programs = [Origin::Npm, Origin::NpmOnNewerNode, Origin::Pypi, Origin::Crates].map(interpreter);
    let packages = here().join("node/node_modules/eventsource5");
    programs.into_iter().chain([packages]).find(|path| path.is_absolute() && !path.exists())
}

fn interpreter(origin: Origin) -> PathBuf {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/third-party");
    match origin {
        Origin::Npm => "node".into(),
        Origin::NpmOnNewerNode => here().join(format!("node/node_modules/node-linux-{}/bin/node", architecture())),
        Origin::Pypi => cache.join("python/bin/python"),
        Origin::Crates => cache.join("rust/debug/sidestream-third-party"),
        Origin::Curl => "curl".into(),
    }
}

/// As npm calls it.
fn architecture() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" }
}

/// A command that goes to nobody but this machine, and dies with its handle.
fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.env("NO_PROXY", "*").env("no_proxy", "*").stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    command
}

async fn program(who: &roster::Client, url: &str, lines: &Mutex<Vec<Line>>) {
    let mut command = command(&interpreter(who.origin));
    match who.origin {
        Origin::Npm | Origin::NpmOnNewerNode => _ = command.arg(here().join("node/client.mjs")),
        Origin::Pypi => _ = command.arg(here().join("python/client.py")),
        Origin::Crates | Origin::Curl => {}
    }
    // What clients complain of beside their events is of no interest, unless a test fails: cargo keeps it from view until then.
    let mut child = command.args([who.name, url]).stderr(Stdio::null()).spawn().expect("the client starts");
    let mut out = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
    while let Some(line) = out.next_line().await.expect("readable") {
        let line = serde_json::from_str(&line).unwrap_or_else(|e| panic!("{}: not a line: {line:?}: {e}", who.user()));
        lines.lock().expect("no holder panics").push(line);
    }
}

/// curl is no client but a pipe: our own parser reads what it passes, and it is started anew as the others are.
async fn curl(url: &str, lines: &Mutex<Vec<Line>>) {
    let mut last = String::new();
    loop {
        let mut command = command(Path::new("curl"));
        command.args(["-sSNf", "-H", "Accept: text/event-stream"]).stderr(Stdio::null());
        if !last.is_empty() {
            command.args(["-H", &format!("Last-Event-ID: {last}")]);
        }
        let mut child = command.arg(url).spawn().expect("curl starts");
        let mut out = child.stdout.take().expect("stdout is piped");
        let (mut parser, mut bytes) = (sidestream::sse::Parser::default(), Vec::new());
        while out.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {
            parser.feed(&bytes, |event| {
                last = event.id.clone().unwrap_or(std::mem::take(&mut last));
                let line = Line { event: Some(event.name), id: event.id, data: Some(event.data), ended: None };
                lines.lock().expect("no holder panics").push(line);
            });
            bytes.clear();
        }
        let status = child.wait().await.expect("our own child");
        lines.lock().expect("no holder panics").push(Line { ended: Some(status.to_string()), ..Line::default() });
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
