//! Chromium opens the demo page of `sidestream dev`, hears what one should hear, and resumes after a cut.

mod support;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use support::{Version, on_both_servers};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

on_both_servers! {
    async fn the_demo_page_shows_ones_events_and_resumes(version: Version) {
        the_demo_page_works(version).await;
    }
}

async fn the_demo_page_works(version: Version) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts = root.join("tests/browser");
    assert!(
        scripts.join("node_modules").is_dir(),
        "no node_modules in tests/browser: run scripts/test, or `npm ci` there"
    );
    // The server is ours, with the stream still to be made: `dev` makes it.
    let nats = support::Nats::start(version).await;
    let mut dev = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(["dev", "--port", "0", "--yes", "--nats", &nats.url()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the program starts");
    let mut lines = BufReader::new(dev.stdout.take().expect("stdout is piped")).lines();
    let url = async {
        loop {
            let line = lines.next_line().await.expect("readable").expect("dev ended without printing its URL");
            if let Some(url) = line.split_whitespace().find(|word| word.starts_with("http://")) {
                return url.trim_end_matches(|c: char| !c.is_ascii_alphanumeric() && c != '/').to_owned();
            }
        }
    };
    let url = tokio::time::timeout(Duration::from_secs(30), url).await.expect("dev prints its URL");
    // Somebody has to read what dev prints, or it blocks.
    let reader = tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });

    let profile = tempfile::tempdir().expect("a temporary directory");
    let shots = root.join("target/screenshots");
    std::fs::create_dir_all(&shots).expect("a directory for screenshots");
    let run = Command::new("node")
        .arg(scripts.join("dev.mjs"))
        .arg(&url)
        .arg(profile.path())
        .arg(shots.join("dev.png"))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output =
        tokio::time::timeout(Duration::from_secs(120), run).await.expect("the browser ends").expect("node starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    println!("{said}");
    assert!(std::fs::metadata(shots.join("dev.png")).is_ok_and(|m| m.len() > 1000), "no screenshot");
    reader.abort();
    let pid = dev.id().and_then(|id| rustix::process::Pid::from_raw(i32::try_from(id).ok()?)).expect("dev still runs");
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
    tokio::time::timeout(Duration::from_secs(10), dev.wait()).await.expect("dev ends on SIGTERM").expect("waited");
}
