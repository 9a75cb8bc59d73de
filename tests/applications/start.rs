//! How an example's `run` begins: it says what is missing, and is not ready before a stream goes through all of its parts.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use crate::site::Example;
use crate::support::edge::Proxy;
use crate::support::{Version, bounded, program, skipped};

const BOTH: [Example; 2] = [Example::Express, Example::Fastapi];

/// `run` with everything that it needs, and a directory for what it leaves; `None`, and said so, where it is not installed.
fn complete(test: &str, example: Example, temporary: &Path) -> Option<Command> {
    let Some(nginx) = Proxy::Nginx.program().filter(|_| example.installed().exists()) else {
        skipped(test, "no nginx, or the example is not installed: run scripts/test");
        return None;
    };
    let mut run = Command::new(example.folder().join("run"));
    run.env_remove("PORT").env_remove("WORK").env("TMPDIR", temporary).env("SIDESTREAM", program::path());
    run.env("NATS_SERVER", Version::Current.binary()).env("NGINX", nginx);
    run.env("PYTHON", Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/applications/bin/python"));
    Some(run)
}

/// It must end by itself, and not well. Gives what it complained of.
async fn complaint(run: &mut Command) -> String {
    let run = run.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    let pid = run.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("it runs");
    let ended = tokio::time::timeout(Duration::from_secs(60), run.wait_with_output()).await;
    let Output { status, stdout, stderr } = ended
        .unwrap_or_else(|_| {
            // Not SIGKILL: the script has to end what it has started.
            kill_process(pid, Signal::TERM).expect("it is ours");
            panic!("it goes on");
        })
        .expect("its output is read");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    assert!(!status.success() && stdout.is_empty(), "{status}: {}\n{said}", String::from_utf8_lossy(&stdout));
    said
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    bounded(async {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        for variable in ["NATS_SERVER", "SIDESTREAM", "NGINX"] {
            for example in BOTH {
                let Some(mut run) = complete("a_program_that_is_missing_is_named", example, temporary.path()) else {
                    return;
                };
                let said = complaint(run.env(variable, "no-such-program")).await;
                assert!(said.starts_with("no-such-program is missing: ") && said.contains(variable), "{said}");
            }
        }
    })
    .await;
}

#[tokio::test]
async fn a_port_of_somebody_else_is_no_example() {
    bounded(async {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("bound").port().to_string();
        for example in BOTH {
            let Some(mut run) = complete("a_port_of_somebody_else_is_no_example", example, temporary.path()) else {
                return;
            };
            let said = complaint(run.env("PORT", &port)).await;
            assert!(said.contains(&format!("port {port} is taken")), "{said}");
        }
    })
    .await;
}

/// The application's page is there all the same: it is not ready by that.
#[tokio::test]
async fn without_a_sidecar_it_is_not_ready_and_the_logs_stay() {
    bounded(async {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        for example in BOTH {
            let test = "without_a_sidecar_it_is_not_ready_and_the_logs_stay";
            let Some(mut run) = complete(test, example, temporary.path()) else { return };
            let said = complaint(run.env("SIDESTREAM", "false").env("START_SECONDS", "5")).await;
            assert!(said.contains("a stream through nginx does not answer"), "{said}");
            let logs = said.lines().last().and_then(|line| line.strip_prefix("it did not get ready; the logs are in "));
            let logs = Path::new(logs.unwrap_or_else(|| panic!("no logs are named: {said}")));
            assert!(logs.join("application.log").exists() && logs.join("sidestream.log").exists(), "{said}");
        }
    })
    .await;
}

/// What an installation that was broken off has left is made anew. The installers here only say that they were called.
#[tokio::test]
async fn what_was_half_installed_is_installed_again() {
    for (example, left, installer) in [
        (Example::Express, "node_modules/express/index.js", "npm"),
        (Example::Fastapi, ".cache/venv/bin/python", "python3"),
    ] {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        let (folder, programs) = (temporary.path().join("example"), temporary.path().join("bin"));
        let left = folder.join(left);
        for directory in [&programs, left.parent().expect("it has one")] {
            std::fs::create_dir_all(directory).expect("created");
        }
        let is_list = if example == Example::Express { "package-lock.json" } else { "requirements.txt" };
        for file in ["run", is_list] {
            std::fs::copy(example.folder().join(file), folder.join(file)).expect("copied");
        }
        std::fs::copy(example.folder().join("../stack.sh"), temporary.path().join("stack.sh")).expect("copied");
        for program in [&left, &programs.join(installer)] {
            std::fs::write(program, "#!/bin/sh\necho called: \"$@\" >&2\nexit 7\n").expect("written");
            std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).expect("ours");
        }
        let path = format!("{}:{}", programs.display(), std::env::var("PATH").expect("UTF-8"));
        let mut run = Command::new(folder.join("run"));
        let said = complaint(run.env_remove("PYTHON").env("PATH", path)).await;
        assert!(said.starts_with("called: "), "{example:?}: {said}");
    }
}
