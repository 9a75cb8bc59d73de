//! Requirement R68: whatever peers, publishers and servers send, an event is one line that no terminal obeys, and nobody decides
//! how many lines there are.

mod support;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use support::ports::free_port;
use support::tls::Certificate;
use support::{App, Config, DEADLINE, Nats, Request, Version, Wire, bounded, eventually, get, h2};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UnixStream};

/// A line feed, what clears a screen, what turns the rest of a line around, and what a terminal may take for an escape.
const HOSTILE: &str = "a\n{\"level\":\"ERROR\",\"message\":\"forged\"}\r\u{1b}[2J\u{202e}\u{9b}2J\u{7f}";
/// The longest line that is reasonable: a few values of a kilobyte, escaped.
const LINE_BYTES_MAX: usize = 8 * 1024;

#[track_caller]
fn is_innocent(line: &str) {
    assert!(line.len() <= LINE_BYTES_MAX, "{} bytes: {line:.300}", line.len());
    let obeyed = line.chars().find(|c| c.is_control() || ('\u{202a}'..='\u{202e}').contains(c));
    assert_eq!(obeyed, None, "{line:?}");
}

/// Shows that each line is JSON of ours, and the values in it are as innocent as the line.
#[track_caller]
fn are_events(lines: &[String]) {
    for line in lines {
        is_innocent(line);
        let event: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line:?}"));
        let target = event["target"].as_str().unwrap_or_default();
        assert!(event["timestamp"].is_string() && !target.is_empty(), "{line}");
        event.as_object().expect("an object").values().filter_map(Value::as_str).for_each(is_innocent);
        assert_ne!(event["message"], "forged");
    }
}

/// A NATS server whose every word is hostile. Returns its URL.
async fn hostile_nats() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("nats://{}", listener.local_addr().expect("bound"));
    let long = format!("{HOSTILE}{}", "x".repeat(10_000));
    let info = json!({
        "server_id": HOSTILE, "server_name": HOSTILE, "version": format!("2.9.0-{long}"), "go": HOSTILE, "proto": 1,
        "host": HOSTILE, "port": 1, "max_payload": 1_048_576, "headers": true,
    });
    // An error ends with the first CR LF.
    let error = long.replace(['\r', '\''], "");
    let said = format!(
        "INFO {info}\r\nPONG\r\n-ERR '{error}'\r\n-ERR 'Permissions Violation for Publish to \"{error}\"'\r\nMSG x 1 2\r\n"
    );
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let said = said.clone();
            tokio::spawn(async move {
                let _ = stream.write_all(said.as_bytes()).await;
                let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut Vec::new())).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn a_hostile_server_writes_no_lines_of_its_own() {
    bounded(async {
        let url = hostile_nats().await;
        let config = Config::at(&url);
        let app = App::bound(&config).await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let text = Raw::serve(&config, &dir, "text", None);
        let told = ["known security faults", "NATS server error", "The NATS account lacks a permission"];
        for what in told {
            app.logs(what, DEADLINE).await;
            eventually(what, DEADLINE, async || text.log().contains(what).then_some(())).await;
        }
        let lines = app.log_lines();
        let first = lines.iter().position(|line| line.starts_with('{')).expect("JSON after the warnings");
        are_events(&lines[first..]);

        let log = text.log();
        let lines: Vec<_> = log.lines().skip_while(|line| !line.starts_with("20")).collect();
        assert!(lines.len() >= told.len());
        for line in lines {
            is_innocent(line);
            assert!(line.starts_with("20") && line.contains(" sidestream") | line.contains(" async_nats"), "{line:?}");
        }
    })
    .await;
}

/// What clients may put into a request.
fn hostile_requests() -> Vec<Vec<u8>> {
    let long = "x".repeat(10_000);
    let encoded = "%1b%5b2J%0a%e2%80%ae%c2%9b";
    let obs_text = "\u{202e}\u{9b}2J";
    let with = |name: &str, value: &str| get("/events").user("a").header(name, value).bytes();
    let mut requests: Vec<_> = [
        get(&format!("/{encoded}")),
        get(&format!("/events?{encoded}={encoded}&subject={encoded}&last_event_id={encoded}")),
        get(&format!("/{long}")),
        get(&format!("/events?{long}")),
        Request::new("\u{202e}", "/events"),
        Request::new(&long, "/events"),
    ]
    .iter()
    .map(Request::bytes)
    .collect();
    for name in
        ["Host", "Origin", "Accept", "User-Agent", "Referer", "X-Forwarded-User", "X-Forwarded-For", "Last-Event-ID"]
    {
        requests.extend([with(name, obs_text), with(name, &long), with(name, HOSTILE), with(name, "\u{1b}[2J")]);
    }
    requests.push([b"GET /events HTTP/1.1\r\nHost: a\r\n".to_vec(), HOSTILE.into(), b"\r\n\r\n".to_vec()].concat());
    requests.push(HOSTILE.into());
    requests
}

#[tokio::test]
async fn hostile_requests_and_messages_write_no_lines_of_their_own() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let config = Config::on(&nats).server("h2c = true\n").tables("\n[log]\nlevel = \"debug,async_nats=debug\"\n");
        let app = App::start(&config).await;
        let mut alice = app.events("alice").await;
        join_all(hostile_requests().into_iter().map(async |bytes| {
            let mut wire = Wire::tcp(app.address()).await;
            wire.send_anyway(&bytes).await;
            wire.read_for(Duration::from_millis(300)).await;
        }))
        .await;
        let mut sender = h2::tcp(app.address()).await;
        for value in ["\u{202e}\u{9b}2J".as_bytes(), "x".repeat(10_000).as_bytes()] {
            let mut request = h2::request("/events?%1b%0a=%e2%80%ae", "a");
            let value = hyper::header::HeaderValue::from_bytes(value).expect("visible, or beyond ASCII");
            request.headers_mut().insert("user-agent", value.clone());
            request.headers_mut().insert("x-forwarded-user", value);
            assert_ne!(sender.send_request(request).await.expect("an answer").status(), 200);
        }
        let subject = "events.user.alice.\u{1b}[2J\u{202e}\u{9b}";
        nats.publish_raw(subject.as_bytes(), b"Sse-Event: \x1b[2J\xe2\x80\xae\r\nX: \x1b[2J\r\n", b"\x1b[2J").await;
        // What the NATS client reads as the end of it (docs/upstream/async-nats-header-panic.md), and as nonsense.
        nats.publish_raw(b"events.user.alice.x", b"X: a\rb\x1b[2J\r\n", b"x").await;
        nats.publish_raw(b"events.user.alice.\xff\x1b[2J", b"X: a\r\n", b"x").await;
        publisher.publish("events.user.alice.x", "last").await;
        alice.until_named("sidestream.gap", DEADLINE).await;
        app.logs("panicked at", DEADLINE).await;
        let panics = |line: &Value| line["message"].as_str().is_some_and(|m| m.contains("panicked at"));
        assert_eq!(app.log_json().iter().find(|line| panics(line)).expect("it is JSON")["level"], "ERROR");
        let lines = app.log_lines();
        let first = lines.iter().position(|line| line.starts_with('{')).expect("JSON after the warnings");
        are_events(&lines[first..]);
    })
    .await;
}

#[tokio::test]
async fn ten_thousand_offences_are_a_few_lines_and_counted() {
    bounded(async {
        const EACH: usize = 2_500;
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (certificate, socket) = (Certificate::new(), dir.path().join("http.sock"));
        // Nobody here has this uid.
        let trust = "proxies = [\"127.0.0.1\", \"unix\"]\npeer_uids = [4294967]\naddress_is_proof = true\n";
        let config = Config::on(&nats)
            .listen(&["127.0.0.1:0", &format!("unix:{}", socket.display())])
            .server(&certificate.table())
            .trust(Some(trust));
        let mut app = App::start(&config).await;
        let tls = app.public.iter().find(|address| !address.starts_with("unix:")).expect("a TCP address").clone();

        let peers = async {
            for _ in 0..EACH {
                // Closed by the time that it can be read, or before.
                if let Ok(mut stream) = UnixStream::connect(&socket).await {
                    let _ = stream.read(&mut [0]).await;
                }
            }
        };
        let handshakes = async {
            for _ in 0..EACH {
                let mut stream = TcpStream::connect(&tls).await.expect("accepts");
                let _ = stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
                let _ = stream.read_to_end(&mut Vec::new()).await;
            }
        };
        let requests = async {
            for n in 0..EACH {
                let stream = TcpStream::connect(&app.admin).await.expect("accepts");
                let mut wire = Wire::over(stream);
                wire.send_anyway(format!("NONSENSE {n}\r\n\r\n").as_bytes()).await;
                wire.read_to_end().await;
            }
        };
        let messages = (0..EACH).map(|n| (format!("events.user.u{n}.\u{202e}"), vec![0xff, 0x1b]));
        tokio::join!(peers, handshakes, requests, publisher.publish_all(messages));

        app.metric_is("sidestream_peers_refused_total", &[], EACH as f64, DEADLINE).await;
        app.metric_is("sidestream_tls_handshakes_failed_total", &[], EACH as f64, DEADLINE).await;
        app.metric_is("sidestream_gaps_total", &[("reason", "undecodable")], EACH as f64, DEADLINE).await;
        app.terminate();
        assert!(app.exit(DEADLINE).await.success());
        let log = app.log_json();
        assert!(log.len() <= 48, "{} lines: {:#?}", log.len(), app.log_lines());
        let refused =
            log.iter().filter(|l| l["message"].as_str().is_some_and(|m| m.starts_with("Peer on the unix"))).count();
        let told = log.iter().filter(|l| l["message"] == "Log lines left out");
        let of_accept =
            told.filter(|l| l["site"].as_str().is_some_and(|s| s.starts_with("sidestream::server::accept:")));
        let left_out: u64 = of_accept.filter_map(|l| l["count"].as_u64()).sum();
        assert_eq!(refused as u64 + left_out, EACH as u64);
        assert!((1..=20).contains(&refused), "{refused}");
    })
    .await;
}

/// The program, its standard error in a file, as a service manager may have it.
struct Raw {
    child: Child,
    log: std::path::PathBuf,
}

impl Raw {
    fn serve(config: &Config, dir: &tempfile::TempDir, format: &str, stderr: Option<File>) -> Self {
        Self::serve_at(config, dir, format, stderr, 0)
    }

    /// The same with the port of the admin listener, which nobody announces here.
    fn serve_at(config: &Config, dir: &tempfile::TempDir, format: &str, stderr: Option<File>, admin: u16) -> Self {
        let (file, log) = (dir.path().join("raw.toml"), dir.path().join("log"));
        let text = config
            .render()
            .replace("[admin]\nlisten = \"127.0.0.1:0\"", &format!("[admin]\nlisten = \"127.0.0.1:{admin}\""));
        std::fs::write(&file, text).expect("the configuration is written");
        let written = File::create(&log).expect("a file");
        let child = Command::new(env!("CARGO_BIN_EXE_sidestream"))
            .args(["serve", "--log-format", format, "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(stderr.unwrap_or(written))
            .spawn()
            .expect("the program starts");
        Self { child, log }
    }

    fn log(&self) -> String {
        let mut text = String::new();
        File::open(&self.log).and_then(|mut file| file.read_to_string(&mut text)).expect("UTF-8");
        text
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_log_that_cannot_be_written_ends_nobody() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        // A limit above that of descriptors is worth a warning, and so is every line at `debug`.
        let config = Config::on(&nats)
            .listen(&[&format!("127.0.0.1:{port}")])
            .limit("connections", "10000000")
            .tables("\n[log]\nlevel = \"debug\"\n");
        let full = File::options().write(true).open("/dev/full").expect("Linux has it");
        let mut raw = Raw::serve(&config, &dir, "json", Some(full));
        let request = get("/events").user("alice");
        let mut alice = eventually("a stream is opened", DEADLINE, async || {
            let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            support::Sse::try_open(Wire::over(stream), &request).await
        })
        .await;
        publisher.publish("events.user.alice.x", "one").await;
        assert_eq!(alice.event().await.data, "one");
        support::process::signal(&raw.child, rustix::process::Signal::TERM);
        let status = eventually("it ends", DEADLINE, async || raw.child.try_wait().expect("our own child")).await;
        assert!(status.success(), "{status}");
    })
    .await;
}

/// The lines of streams, as far as they are of this message.
fn access(app: &App, message: &str) -> Vec<Value> {
    let lines = app.log_json();
    lines.into_iter().filter(|l| l["target"] == "sidestream::access" && l["message"] == message).collect()
}

async fn accesses(app: &App, message: &str, count: usize) -> Vec<Value> {
    eventually(&format!("{count} times {message}"), DEADLINE, async || {
        Some(access(app, message)).filter(|lines| lines.len() >= count)
    })
    .await
}

#[tokio::test]
async fn a_stream_is_a_line_at_its_open_and_one_at_its_close() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let request = get("/events?secret=in-the-query")
            .user("alice")
            .header("X-Forwarded-For", "192.0.2.7")
            .header("traceparent", format!("00-{trace}-00f067aa0ba902b7-01"));
        let mut alice = app.stream(request).await;
        publisher.publish("events.user.alice.x", "a payload").await;
        let event = alice.event().await;
        drop(alice);
        let opened = accesses(&app, "Stream opened", 1).await.remove(0);
        let closed = accesses(&app, "Stream closed", 1).await.remove(0);
        let shown = |line: &Value, names: &[&str]| -> Vec<String> {
            names.iter().map(|name| line[*name].to_string().replace('"', "")).collect()
        };
        // printf alice | sha256sum
        let hash = "2bd806c97f0e00af";
        let names = ["level", "route", "user_hash", "proof", "protocol", "peer", "client", "last_event_id", "resume"];
        let wanted = ["INFO", "/events", hash, "address", "h1", "tcp", "192.0.2.7", "false", "new"];
        assert_eq!(shown(&opened, &names), wanted);
        assert_eq!(opened["trace_id"], trace);
        let names = ["level", "route", "user_hash", "protocol", "events", "reason", "phase"];
        assert_eq!(shown(&closed, &names), ["INFO", "/events", hash, "h1", "1", "client", "live"]);
        assert!(closed["bytes"].as_u64().is_some_and(|bytes| bytes > 100), "{closed}");
        assert!(closed["duration_ms"].is_u64(), "{closed}");
        assert_eq!(opened["connection"], closed["connection"]);

        let id = event.id.expect("events of a stream have one");
        drop(app.stream(get("/events").user("alice").header("Last-Event-ID", id)).await);
        let again = accesses(&app, "Stream opened", 2).await.remove(1);
        assert_eq!(shown(&again, &["last_event_id", "resume", "trace_id"]), ["true", "exact", "null"]);
        accesses(&app, "Stream closed", 2).await;
        let log = app.log_lines().concat();
        for secret in ["alice", "in-the-query", "a payload"] {
            assert!(!log.contains(secret), "{secret} in {log}");
        }
    })
    .await;
}

#[tokio::test]
async fn the_lines_of_streams_are_not_thinned_out_and_can_be_left_out() {
    bounded(async {
        const STREAMS: usize = 50;
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let loud = App::start(&Config::on(&nats)).await;
        let filter = "\n[log]\nlevel = \"info,sidestream::access=off\"\n";
        let silent = App::start(&Config::on(&nats).tables(filter)).await;
        for n in 0..STREAMS {
            drop(loud.events(&format!("u{n}")).await);
            drop(silent.events(&format!("u{n}")).await);
        }
        assert_eq!(accesses(&loud, "Stream opened", STREAMS).await.len(), STREAMS);
        assert_eq!(accesses(&loud, "Stream closed", STREAMS).await.len(), STREAMS);
        silent.metric_is("sidestream_connections_closed_total", &[], STREAMS as f64, DEADLINE).await;
        assert!(access(&silent, "Stream opened").is_empty() && access(&silent, "Stream closed").is_empty());
        assert!(silent.metric("sidestream_log_lines_dropped_total", &[]).await < 1.0);
    })
    .await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_holds_up_no_stream_and_is_counted() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (port, admin) = (free_port(), free_port());
        let config = Config::on(&nats).listen(&[&format!("127.0.0.1:{port}")]);
        let (read, write) = std::io::pipe().expect("a pipe");
        let mut raw = Raw::serve_at(&config, &dir, "json", Some(File::from(std::os::fd::OwnedFd::from(write))), admin);
        let address = format!("127.0.0.1:{port}");
        let mut alice = eventually("a stream is opened", DEADLINE, async || {
            let stream = TcpStream::connect(&address).await.ok()?;
            support::Sse::try_open(Wire::over(stream), &get("/events").user("alice")).await
        })
        .await;
        // A pipe holds 64 KiB and the queue one MiB; each stream writes half a kilobyte.
        let lost = eventually("lines are lost", support::TEST_DEADLINE, async || {
            let visits = (0..200).map(async |n| {
                let request = get("/events").user(&format!("u{n}"));
                drop(support::Sse::open(Wire::tcp(&address).await, &request).await);
            });
            join_all(visits).await;
            let mut wire = Wire::tcp(&format!("127.0.0.1:{admin}")).await;
            wire.send(b"GET /metrics HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n").await;
            let text = wire.answer().await.text();
            let line = text.lines().find(|l| l.starts_with("sidestream_log_lines_dropped_total{cause=\"blocked\"}"));
            line?.rsplit_once(' ')?.1.parse::<f64>().ok().filter(|lost| *lost > 0.0)
        })
        .await;
        assert!(lost > 0.0);
        publisher.publish("events.user.alice.x", "still here").await;
        assert_eq!(alice.event().await.data, "still here");
        // Somebody reads again: what was lost is told, and the last lines are there.
        let text = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            for line in BufReader::new(read).lines().map_while(Result::ok) {
                let mut text = shared.lock().expect("no holder panics");
                text.push_str(&line);
                text.push('\n');
            }
        });
        // There is room for more lines then.
        let lost = || text.lock().expect("no holder panics").contains("Log lines lost").then_some(());
        eventually("what was lost is told", DEADLINE, async || lost()).await;
        support::process::signal(&raw.child, rustix::process::Signal::TERM);
        let status = eventually("it ends", DEADLINE, async || raw.child.try_wait().expect("our own child")).await;
        assert!(status.success(), "{status}");
        reader.join().expect("reads");
        let log = text.lock().expect("no holder panics");
        assert!(log.contains("\"Draining\""), "{log:.2000}");
        let last = log.lines().rev().find(|line| line.contains("Stream closed")).expect("of alice");
        assert!(last.contains("\"drain\""), "{last}");
    })
    .await;
}
