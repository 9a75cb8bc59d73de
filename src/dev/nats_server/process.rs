//! A nats-server process of ours: started on a free loopback port with its data in a private temporary directory, and ended
//! by its own process id.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::NatsServerError;

/// From start to the file that names the port. A server with an empty store needs some ten milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
/// From the polite signal to the other one.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a drop may block for the process to be gone, so that its directory can go too.
const DROP_TIMEOUT: Duration = Duration::from_millis(500);

/// The process and its directory. Dropping ends the one and removes the other.
#[derive(Debug)]
pub struct Child {
    process: tokio::process::Child,
    /// Its drop runs after ours, so the directory goes when the process has ended.
    directory: TempDirectory,
}

impl Child {
    /// The process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// Where it keeps its data and its log.
    pub fn directory(&self) -> &Path {
        &self.directory.path
    }

    /// Ends the process: asks, waits, insists.
    pub(super) async fn stop(mut self) {
        let pid = self.process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid
            && kill_process(pid, Signal::TERM).is_ok()
        {
            let _ = tokio::time::timeout(STOP_TIMEOUT, self.process.wait()).await;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.start_kill();
        let deadline = Instant::now() + DROP_TIMEOUT;
        while let Ok(None) = self.process.try_wait()
            && Instant::now() < deadline
        {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Starts `program` and waits until it tells its port. Gives its URL.
pub(super) async fn start(program: &Path) -> Result<(Child, String), NatsServerError> {
    let directory = TempDirectory::new().map_err(NatsServerError::Directory)?;
    let failed = |why: String| NatsServerError::Start { program: program.display().to_string(), why };
    let process = command(program, &directory.path).spawn().map_err(|error| failed(error.to_string()))?;
    let mut child = Child { process, directory };
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        if let Some(url) = announced_url(&child.directory.path) {
            return Ok((child, url));
        }
        let ended = child.process.try_wait().ok().flatten();
        if ended.is_some() || Instant::now() > deadline {
            return Err(failed(last_words(&child.directory.path)));
        }
        tokio::time::sleep(POLL).await;
    }
}

fn command(program: &Path, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .args(["-js", "-a", "127.0.0.1", "-p", "-1", "-sd"])
        .arg(directory.join("store"))
        .arg("--ports_file_dir")
        .arg(directory)
        .arg("-l")
        .arg(directory.join("log"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        // A group of its own: Ctrl-C on the terminal is for us, and we end the server after our own streams.
        .process_group(0);
    command
}

/// The server writes `<program>_<pid>.ports`, `{"nats":["nats://127.0.0.1:40123"]}`.
fn announced_url(directory: &Path) -> Option<String> {
    let mut entries = fs::read_dir(directory).ok()?.flatten();
    let ports = entries.find(|entry| entry.path().extension().is_some_and(|extension| extension == "ports"))?;
    // Half a file is no JSON yet; the next look will find it whole.
    let ports: serde_json::Value = serde_json::from_slice(&fs::read(ports.path()).ok()?).ok()?;
    ports.pointer("/nats/0")?.as_str().map(str::to_owned)
}

fn last_words(directory: &Path) -> String {
    let log = fs::read_to_string(directory.join("log")).unwrap_or_default();
    log.lines().last().map_or_else(|| "it said nothing".to_owned(), str::to_owned)
}

/// A directory that only we may enter, removed with everything in it on drop.
#[derive(Debug)]
pub(super) struct TempDirectory {
    pub(super) path: PathBuf,
}

impl TempDirectory {
    pub(super) fn new() -> io::Result<Self> {
        let name = format!("sidestream-dev-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        // Fails when the name exists, so nobody can have prepared it.
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self { path })
    }
}

impl Drop for TempDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
