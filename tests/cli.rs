//! The command line: what each command prints for programs, and the exit codes that scripts and units rely on.

mod support;

use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;
use support::command::{command, run};
use support::tls::{Certificate, Pem};
use support::{App, Config, DEADLINE, Nats, Version, eventually, on_both_servers};

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
    for name in [
        "serve",
        "check",
        "config",
        "dev",
        "publish",
        "notify",
        "broadcast",
        "tail",
        "explain",
        "doctor",
        "connections",
        "kick",
        "drain",
        "completions",
        "man",
        "version",
    ] {
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
    assert!(version["rustc"].as_str().is_some_and(|rustc| rustc.starts_with("rustc 1.")), "{version}");
    assert_eq!((&version["crypto"], version["features"].is_array()), (&"aws-lc-rs".into(), true), "{version}");
    assert!(version["revision"].is_string(), "{version}");
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

/// The script of the build, in a directory, with what cargo would tell it; the line that names the revision.
fn revision(program: &std::path::Path, directory: &std::path::Path, profile: &str) -> String {
    let output = std::process::Command::new(program)
        .current_dir(directory)
        .env_remove("SIDESTREAM_REVISION")
        .env("CARGO_MANIFEST_DIR", directory)
        .env("PROFILE", profile)
        .env("RUSTC", "rustc")
        .output()
        .expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    let line = said.lines().find_map(|line| line.strip_prefix("cargo::rustc-env=SIDESTREAM_BUILD_REVISION="));
    line.unwrap_or_else(|| panic!("no revision: {said}")).to_owned()
}

#[test]
fn a_release_knows_its_revision_and_builds_without_git_too() {
    let dir = dir();
    let (program, source) = (dir.path().join("build"), dir.path().join("source"));
    let compiled = std::process::Command::new("rustc")
        .args(["--edition", "2024", "-o"])
        .arg(&program)
        .arg(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("build.rs"))
        .status();
    assert!(compiled.expect("rustc is here").success());
    std::fs::create_dir(&source).expect("created");
    assert_eq!(revision(&program, &source, "release"), "unknown");
    let git = |args: &[&str]| {
        let who = ["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"];
        let output = std::process::Command::new("git").arg("-C").arg(&source).args(who).args(args).output();
        let output = output.expect("git is here");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
    };
    git(&["init", "-q"]);
    std::fs::write(source.join("a"), "1").expect("written");
    git(&["add", "a"]);
    git(&["commit", "-qm", "first"]);
    let head = git(&["rev-parse", "HEAD"]);
    assert_eq!(revision(&program, &source, "release"), head);
    assert_eq!(revision(&program, &source, "debug"), "unknown", "builds for development do not ask");
    std::fs::write(source.join("a"), "2").expect("written");
    assert_eq!(revision(&program, &source, "release"), format!("{head}-dirty"));
    let below = source.join("below");
    std::fs::create_dir(&below).expect("created");
    assert_eq!(revision(&program, &below, "release"), "unknown", "a repository around it is another's");
}

#[tokio::test]
async fn completions_are_ones_that_the_shell_takes() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completions", shell]).await.ends_with(0).stdout;
        assert!(script.contains("broadcast"), "{shell}");
    }
    let dir = dir();
    let path = dir.path().join("sidestream.bash");
    std::fs::write(&path, run(&["completions", "bash"]).await.stdout).expect("written");
    let asks = "source \"$1\"; COMP_WORDS=(sidestream conn); COMP_CWORD=1; _sidestream sidestream conn sidestream; echo \"${COMPREPLY[@]}\"";
    let bash = std::process::Command::new("bash").args(["-c", asks, "-"]).arg(&path).output().expect("bash is here");
    assert_eq!(
        String::from_utf8_lossy(&bash.stdout).trim(),
        "connections",
        "{}",
        String::from_utf8_lossy(&bash.stderr)
    );
    run(&["completions", "no-such-shell"]).await.ends_with(64);
}

#[tokio::test]
async fn the_manual_has_a_page_for_each_command() {
    let page = run(&["man"]).await.ends_with(0).stdout;
    assert!(page.contains(".TH sidestream 1") && page.contains("Exit codes"), "{page}");
    let dir = dir();
    let target = dir.path().join("man1");
    run(&["man", "--dir", target.to_str().expect("UTF-8")]).await.ends_with(0);
    for name in ["sidestream", "sidestream-serve", "sidestream-doctor", "sidestream-config-schema"] {
        let page = std::fs::read_to_string(target.join(format!("{name}.1"))).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(page.contains(".SH SYNOPSIS"), "{name}");
    }
}

/// In place of a status: no answer.
const SILENCE: &str = "silence";

/// An admin listener that answers what it is told to, once for each connection.
async fn admin(answers: Vec<(&'static str, String)>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let served = tokio::spawn(async move {
        let (mut heads, mut held) = (Vec::new(), Vec::new());
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.expect("accepts");
            let mut bytes = Vec::new();
            while memchr::memmem::find(&bytes, b"\r\n\r\n").is_none() {
                assert!(stream.read_buf(&mut bytes).await.expect("readable") > 0, "a request without an end");
            }
            heads.push(String::from_utf8(bytes).expect("UTF-8").to_lowercase());
            if status == SILENCE {
                held.push(stream);
                continue;
            }
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            stream.write_all(answer.as_bytes()).await.expect("writable");
        }
        heads
    });
    (address, served)
}

#[tokio::test]
async fn drain_waits_until_nobody_is_left() {
    let said = |left: u32| ("200 OK", format!("{{\"draining\":true,\"connections\":{left}}}"));
    let begun = ("202 Accepted", "{\"draining\":true,\"connections\":2,\"window_seconds\":1}".to_owned());
    let (address, served) = admin(vec![begun.clone(), said(2), said(1), said(0)]).await;
    let dir = dir();
    let token = dir.path().join("token");
    std::fs::write(&token, "open-sesame-open\n").expect("written");
    let token = token.to_str().expect("UTF-8");
    let ran = run(&["drain", "--admin", &address, "--token-file", token]).await.ends_with(0);
    assert!(ran.stdout.contains("draining 2 connections") && ran.stdout.contains("drained"), "{}", ran.stdout);
    let heads = served.await.expect("served");
    assert!(heads[0].starts_with("post /drain http/1.1") && heads[1].starts_with("get /drain "), "{heads:?}");
    assert!(heads.iter().all(|head| head.contains("authorization: bearer open-sesame-open\r\n")), "{heads:?}");

    // The token of the configuration goes to a listener that is named, too.
    let (address, served) = admin(vec![begun.clone()]).await;
    let set = format!("admin.token_file={token}");
    run(&["drain", "--no-wait", "--admin", &address, "--set", &set]).await.ends_with(0);
    assert!(served.await.expect("served")[0].contains("authorization: bearer open-sesame-open\r\n"));

    let (address, served) = admin(vec![begun]).await;
    run(&["drain", "--no-wait", "--admin", &address]).await.ends_with(0);
    let heads = served.await.expect("served");
    assert!(!heads[0].contains("authorization"), "{heads:?}");
}

/// One that is too busy to answer is not one that has ended.
#[tokio::test]
async fn drain_does_not_take_silence_for_the_end() {
    let begun = ("202 Accepted", "{\"draining\":true,\"connections\":2,\"window_seconds\":1}".to_owned());
    let none_left = ("200 OK", "{\"draining\":true,\"connections\":0}".to_owned());
    let (address, served) = admin(vec![begun, (SILENCE, String::new()), none_left]).await;
    let ran = run(&["drain", "--admin", &address]).await.ends_with(0);
    assert!(ran.stdout.ends_with("\ndrained\n"), "{}", ran.stdout);
    served.await.expect("served");
}

#[tokio::test]
async fn kick_names_a_connection_and_says_when_there_is_none() {
    let id = "0198c1b2-7d4e-7c3a-9f00-2b1c5a6d7e8f";
    let refused =
        |code: &str| format!("{{\"error\":{{\"code\":\"{code}\",\"status\":401,\"message\":\"no, says {code}\"}}}}");
    let answers = vec![
        ("200 OK", "{\"kicked\":true}".to_owned()),
        ("404 Not Found", refused("not_found")),
        ("401 Unauthorized", refused("token_missing")),
        ("503 Service Unavailable", refused("busy")),
    ];
    let (address, served) = admin(answers).await;
    assert_eq!(run(&["kick", id, "--admin", &address]).await.ends_with(0).json()["kicked"], true);
    run(&["kick", id, "--admin", &address]).await.ends_with(1);
    let ran = run(&["kick", id, "--admin", &address]).await.ends_with(77);
    assert!(ran.stderr.contains("no, says token_missing"), "{}", ran.stderr);
    run(&["kick", id, "--admin", &address]).await.ends_with(69);
    let heads = served.await.expect("served");
    assert!(heads.iter().all(|head| head.starts_with(&format!("post /kick/{id} "))), "{heads:?}");
    run(&["kick", id, "--admin", &address]).await.ends_with(69);
    run(&["kick", "no-uuid", "--admin", &address]).await.ends_with(64);
    run(&["kick", id, "--admin", &address, "--token-file", "/nowhere/token"]).await.ends_with(66);
}

#[tokio::test]
async fn connections_lists_who_is_connected() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let (_alice, _bob) = (app.events("alice").await, app.events("bob").await);
        let all = run(&["connections", "--json", "--admin", &app.admin]).await.ends_with(0).json();
        assert_eq!((&all["total"], all["connections"].as_array().map(Vec::len)), (&2.into(), Some(2)), "{all}");
        let ran = run(&["connections", "--user", "alice", "--admin", &app.admin]).await.ends_with(0);
        assert!(
            ran.stdout.contains("  alice  ") && ran.stdout.contains("  live  ") && !ran.stdout.contains("bob"),
            "{}",
            ran.stdout
        );
        let hears = ["connections", "--subject", "events.user.bob.x", "--json", "--admin", &app.admin];
        assert_eq!(run(&hears).await.ends_with(0).json()["total"], 1);
        // The address from a configuration.
        let dir = dir();
        let path = file(&dir, &format!("[admin]\nlisten = \"{}\"\n", app.admin));
        assert_eq!(run(&["connections", "--json", "--config", &path]).await.ends_with(0).json()["total"], 2);
    })
    .await;
}
