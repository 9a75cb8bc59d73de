//! The command line: what each command prints for programs, and the exit codes that scripts and units rely on.

mod support;

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use support::tls::{Certificate, Pem};
use support::{App, Config, DEADLINE, Nats, Version, eventually, on_both_servers};
use tokio::process::Command;

struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    #[track_caller]
    fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(self.stdout.trim())
            .unwrap_or_else(|e| panic!("not one JSON value: {:?}: {e}", self.stdout))
    }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    command.args(args).stdin(Stdio::null()).kill_on_drop(true).env_remove("RUST_LOG");
    command
}

async fn run(args: &[&str]) -> Ran {
    let output = tokio::time::timeout(DEADLINE, command(args).output()).await;
    let output =
        output.unwrap_or_else(|_| panic!("{args:?} did not end within {DEADLINE:?}")).expect("the program starts");
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

fn file(dir: &tempfile::TempDir, text: &str) -> String {
    let path: PathBuf = dir.path().join("sidestream.toml");
    std::fs::write(&path, text).expect("written");
    path.to_str().expect("UTF-8").to_owned()
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

#[tokio::test]
async fn wrong_usage_is_64() {
    for args in [&["serve", "--no-such-flag"][..], &["no-such-command"], &["tail"], &["publish"], &[]] {
        let ran = run(args).await.ends_with(64);
        assert!(!ran.stderr.is_empty(), "{args:?} says nothing");
    }
    run(&["--help"]).await.ends_with(0);
    for name in ["serve", "check", "config", "dev", "publish", "notify", "broadcast", "tail", "version"] {
        assert!(run(&[name, "--help"]).await.ends_with(0).stdout.contains("sidestream"), "{name} --help");
    }
}

#[tokio::test]
async fn a_missing_file_is_66_and_named() {
    for args in
        [&["serve", "--config", "/nowhere/sidestream.toml"][..], &["check", "--config", "/nowhere/sidestream.toml"]]
    {
        assert!(run(args).await.ends_with(66).stderr.contains("/nowhere/sidestream.toml"));
    }
}

#[tokio::test]
async fn check_reports_every_fault_with_its_place_and_exits_78() {
    let dir = dir();
    let text = Config::at("nats://127.0.0.1:1").render();
    let good = file(&dir, &text);
    run(&["check", "--config", &good]).await.ends_with(0);

    let bad = text
        .replace("interval = \"15s\"", "interval = \"fifteen\"")
        .replace("audience = \"user\"", "audience = \"everyone\"")
        .replace("\"events.broadcast.>\"", "\"events.>.broadcast\"")
        + "\n[log]\nlevle = \"info\"\n";
    let path = file(&dir, &bad);
    let ran = run(&["check", "--config", &path]).await.ends_with(78);
    for (line, needle) in bad.lines().enumerate().filter_map(|(index, line)| {
        let wrong = ["fifteen", "everyone", "events.>.broadcast", "levle"];
        wrong.iter().find(|needle| line.contains(*needle)).map(|needle| (index + 1, *needle))
    }) {
        assert!(ran.stderr.contains(needle), "{needle} is not reported: {}", ran.stderr);
        assert!(
            ran.stderr.contains(&format!("sidestream.toml:{line}:")),
            "{needle}: line {line} is not told: {}",
            ran.stderr
        );
    }
    assert!(ran.stderr.contains('^'), "no caret: {}", ran.stderr);
    assert!(ran.stderr.contains("level"), "the nearest known key is not told: {}", ran.stderr);
    run(&["serve", "--config", &path]).await.ends_with(78);
}

#[tokio::test]
async fn check_finds_a_key_that_is_not_the_certificates() {
    let dir = dir();
    let (one, other) = (Pem::new(), Pem::new());
    for (cert, key, part) in [
        (&one.cert, &other.key, "server.tls: "),
        (&one.cert, &String::new(), "key.pem: "),
        (&String::new(), &one.key, "no certificate in it"),
    ] {
        let mut pem = one.clone();
        (pem.cert, pem.key) = (cert.clone(), key.clone());
        let files = Certificate::of(&pem);
        let path = file(&dir, &Config::at("nats://127.0.0.1:1").server(&files.table()).render());
        for command in ["check", "serve"] {
            let ran = run(&[command, "--config", &path]).await.ends_with(78);
            assert!(ran.stderr.contains(part), "{command}: {}", ran.stderr);
        }
    }
    let files = Certificate::of(&one);
    let path = file(&dir, &Config::at("nats://127.0.0.1:1").server(&files.table()).render());
    run(&["check", "--config", &path]).await.ends_with(0);
}

#[tokio::test]
async fn the_default_configuration_is_accepted() {
    let dir = dir();
    let default = run(&["config", "default"]).await.ends_with(0).stdout;
    assert!(default.contains('#'), "it has no comments");
    run(&["check", "--config", &file(&dir, &default)]).await.ends_with(0);
}

#[tokio::test]
async fn config_show_tells_values_and_hides_secrets() {
    let dir = dir();
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "correct-horse-battery-staple").expect("written");
    let trust = format!("proxies = [\"127.0.0.1\"]\nsecret_files = [{secret:?}]\n");
    let path = file(&dir, &Config::at("nats://127.0.0.1:1").trust(Some(&trust)).render());
    let shown = run(&["config", "show", "--config", &path]).await.ends_with(0).stdout;
    assert!(shown.contains("queue_bytes") && shown.contains("sidestream.toml"), "{shown}");
    assert!(!shown.contains("correct-horse"), "{shown}");
}

#[tokio::test]
async fn nats_that_is_not_there_is_69() {
    let dir = dir();
    let path = file(&dir, &Config::at("nats://127.0.0.1:1").render());
    run(&["publish", "events.user.alice.note", "x", "--config", &path]).await.ends_with(69);
    run(&["notify", "alice", "x", "--config", &path]).await.ends_with(69);
    run(&["check", "--connect", "--config", &path]).await.ends_with(69);
}

#[tokio::test]
async fn version_tells_programs_what_runs() {
    let version = run(&["version", "--json"]).await.ends_with(0).json();
    assert_eq!(version["version"], env!("CARGO_PKG_VERSION"), "{version}");
    assert!(run(&["version"]).await.ends_with(0).stdout.contains(env!("CARGO_PKG_VERSION")));
}

on_both_servers! {
    async fn publish_prints_stream_and_sequence(version: Version) {
        let nats = Nats::start(version).await;
        nats.events().await;
        let config = Config::on(&nats);
        let app = App::start(&config).await;
        let dir = dir();
        let path = file(&dir, &config.render());
        let mut alice = app.events("alice").await;

        let args = ["publish", "events.user.alice.note", "by hand", "--event", "note", "--config", &path];
        let printed = run(&args).await.ends_with(0).json();
        assert_eq!((&printed["stream"], &printed["seq"]), (&"EVENTS".into(), &1.into()), "{printed}");
        let event = alice.event().await;
        assert_eq!((event.name.as_str(), event.data.as_str()), ("note", "by hand"));
        run(&["check", "--connect", "--config", &path]).await.ends_with(0);
    }

    async fn notify_and_broadcast_reach_those_they_name(version: Version) {
        let nats = Nats::start(version).await;
        nats.events().await;
        let config = Config::on(&nats);
        let app = App::start(&config).await;
        let dir = dir();
        let path = file(&dir, &config.render());
        let (mut alice, mut bob) = (app.events("alice").await, app.events("bob").await);

        for args in [
            &["notify", "alice", "for alice", "--config", &path][..],
            &["broadcast", "for all", "--event", "news", "--config", &path],
        ] {
            let printed = run(args).await.ends_with(0).json();
            let counts = [&printed["sent"], &printed["total"]].map(Value::as_u64);
            assert!(counts[0].is_some_and(|sent| sent >= 1) && counts[0] == counts[1], "{printed}");
            assert_eq!(printed["complete"], true, "{printed}");
        }
        assert_eq!(alice.event().await.data, "for alice");
        for sse in [&mut alice, &mut bob] {
            let event = sse.event().await;
            assert_eq!((event.name.as_str(), event.data.as_str()), ("news", "for all"));
        }
    }

    async fn tail_prints_json_lines_and_stops_by_itself(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let url = format!("http://{}/events", app.address());
        let args = ["tail", &url, "--json", "--header", "X-Forwarded-User: alice", "--exit-after", "3"];
        let tail = command(&args).stdout(Stdio::piped()).spawn().expect("the program starts");
        eventually("tail is connected", DEADLINE, async || {
            (app.metric("sidestream_connections", &[]).await > 0.5).then_some(())
        }).await;
        for n in 1..=4 {
            publisher.publish_named("events.user.alice.note", "note", format!("line {n}\nand more")).await;
        }
        let output = tokio::time::timeout(DEADLINE, tail.wait_with_output()).await.expect("ends by itself").expect("ran");
        assert!(output.status.success(), "{}", output.status);
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let lines: Vec<Value> = text.lines().map(|l| serde_json::from_str(l).expect("a JSON line")).collect();
        let events: Vec<_> = lines.iter().filter(|l| l["event"] == "note").collect();
        assert_eq!(events.len(), 3, "{text}");
        for (index, event) in events.iter().enumerate() {
            assert_eq!(event["data"], format!("line {}\nand more", index + 1), "{event}");
            assert!(event["id"].as_str().is_some_and(|id| id.split('.').count() == 3), "{event}");
        }
    }
}

#[tokio::test]
async fn tail_gives_up_where_trying_again_is_pointless() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let url = format!("http://{}/events", app.address());
        let ran = run(&["tail", &url, "--json", "--timeout", "10s"]).await;
        assert_ne!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stderr.contains("401"), "{}", ran.stderr);
    })
    .await;
}
