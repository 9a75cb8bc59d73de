//! Readers that nobody here wrote receive a corpus of nasty payloads, and agree byte for byte with what was published.
//!
//! Four readers: `curl -N` (raw, compared to the byte and parsed by our own parser), npm `eventsource`, npm
//! `eventsource-parser` over fetch, Python `httpx-sse`. CR and CR LF come back as LF, as the HTML standard demands; nothing
//! else may change. Where a reader itself leaves the standard it stands in [`DEVIATIONS`], and only there; a deviation that
//! does not happen fails too, so that the table cannot outlive its reason. `a_canned_stream` turns the readers on frames of
//! ours without server or NATS, so that a fault can be told from a fault of the harness.

mod support;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use sidestream::config::Format;
use sidestream::frame::{EventNaming, Frame, Message, Payload};
use support::{App, Config, Nats, Version, get, on_both_servers};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

/// The event that tells a reader to stop.
const END: &str = "end-of-corpus";

struct Case {
    what: String,
    /// The `Sse-Event` header.
    name: Option<String>,
    payload: String,
    /// What a reader must see.
    event: String,
}

impl Case {
    fn payload(what: &str, payload: impl Into<String>) -> Self {
        Self { what: what.to_owned(), name: None, payload: payload.into(), event: "message".to_owned() }
    }

    fn name(name: &str, event: &str) -> Self {
        let start: String = name.chars().take(20).collect();
        let what = format!("a name of {} bytes, {start:?}", name.len());
        Self { what, name: Some(name.to_owned()), payload: "named".to_owned(), event: event.to_owned() }
    }

    fn data(&self) -> String {
        self.payload.replace("\r\n", "\n").replace('\r', "\n")
    }
}

fn corpus() -> Vec<Case> {
    let payloads = [
        ("plain", "hello"),
        ("empty", ""),
        ("one space", " "),
        ("leading space", " x"),
        ("leading spaces", "   x"),
        ("trailing spaces", "x   "),
        ("tab first", "\tx"),
        ("line feed", "a\nb"),
        ("carriage return", "a\rb"),
        ("CR LF", "a\r\nb"),
        ("LF CR", "a\n\rb"),
        ("CR CR LF", "a\r\r\nb"),
        ("every line end", "a\nb\rc\r\nd\n\re\r\r\nf\n\ng"),
        ("only LF", "\n"),
        ("only CR", "\r"),
        ("only CR LF", "\r\n"),
        ("trailing LF", "a\n"),
        ("trailing CR", "a\r"),
        ("trailing CR LF", "a\r\n"),
        ("two trailing LF", "a\n\n"),
        ("leading LF", "\na"),
        ("leading LF LF", "\n\na"),
        ("blank line inside", "a\n\nb"),
        ("lines of spaces", " \n  \n "),
        ("NUL", "a\0b"),
        ("only NUL", "\0"),
        ("BOM first", "\u{feff}x"),
        ("BOM alone", "\u{feff}"),
        ("BOM on every line", "\u{feff}a\n\u{feff}b"),
        ("colon first", ":x"),
        ("only a colon", ":"),
        ("comment inside", "a\n: comment\nb"),
        ("field inside", "a\ndata: b"),
        ("another event inside", "a\n\nevent: sidestream.gap\ndata: {}\n\n"),
        ("id inside", "a\nid: 1\nid\nb"),
        ("retry inside", "a\nretry: 1\nb"),
        ("chunk inside", "0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        ("emoji", "🦀 👩‍👩‍👧‍👦 é e\u{301}"),
        ("outside the BMP", "𝄞𐀀\u{10ffff}"),
        ("noncharacters", "\u{fffe}\u{ffff}\u{fdd0}"),
        ("U+2028 and U+2029", "a\u{2028}b\u{2029}c"),
        ("U+0085", "a\u{85}b"),
        ("VT, FF, FS, GS, RS", "a\u{b}b\u{c}c\u{1c}d\u{1d}e\u{1e}f"),
        ("other controls", "\u{1}\u{7}\u{8}\u{1b}[31m\u{7f}"),
        ("direction marks", "a\u{202e}b\u{200f}c"),
        ("replacement character", "a\u{fffd}b"),
        ("JSON", "{\"a\":\"\\n\\u0000\",\n \"b\": [1, 2]}"),
        ("markup", "<script>alert('&amp;')</script>"),
        ("backslashes", "\\r\\n\\\\"),
    ];
    let mut corpus: Vec<_> = payloads.into_iter().map(|(what, payload)| Case::payload(what, payload)).collect();
    corpus.push(Case::payload("a line of 64 KiB", "x".repeat(64 * 1024)));
    corpus.push(Case::payload("a line of 64 KiB of three-byte characters", "€".repeat(64 * 1024 / 3)));
    corpus.push(Case::payload("500 lines", (0..500).map(|n| format!("line {n}\n")).collect::<String>()));
    corpus.push(Case::payload("500 empty lines", "\n".repeat(500)));
    corpus.push(Case::payload("300 KiB of lines", "0123456789abcde\r".repeat(20 * 1024)));

    for name in
        ["note", "a b", "a:b", ": x", "data", "id: 1", "größe", "🦀", "Sidestream.x", "sidestream", "error", "open"]
    {
        corpus.push(Case::name(name, name));
    }
    corpus.push(Case::name(&"n".repeat(256), &"n".repeat(256)));
    for refused in [&*"n".repeat(257), "sidestream.gap", "sidestream.", "tab\there", "a\u{85}b", "del\u{7f}", "message"]
    {
        corpus.push(Case::name(refused, "message"));
    }
    corpus
}

/// One event as a reader reports it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Seen {
    event: String,
    data: String,
    id: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    Curl,
    EventSource,
    EventSourceParser,
    HttpxSse,
}

/// Where a reader leaves the HTML standard: reader, case, what it reports instead of the data, why.
type Deviation = (Reader, &'static str, fn(&str) -> String, &'static str);

/// None is known. A row here needs a reason, and stays only while it is true.
const DEVIATIONS: &[Deviation] = &[];

fn expected(reader: Reader, case: &Case) -> (String, String) {
    let deviation = DEVIATIONS.iter().find(|(who, what, ..)| *who == reader && *what == case.what);
    let data = deviation.map_or_else(|| case.data(), |(_, _, instead, _)| instead(&case.data()));
    (case.event.clone(), data)
}

#[test]
fn the_corpus_has_forty_cases_and_more_and_each_is_named_once() {
    let corpus = corpus();
    assert!(corpus.len() >= 40, "{}", corpus.len());
    let mut names: Vec<_> = corpus.iter().map(|case| &case.what).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), corpus.len(), "two cases share a name");
}

on_both_servers! {
    /// The corpus as such is legal: NATS and async-nats carry every name and payload unchanged.
    async fn nats_carries_the_corpus_unchanged(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let reader = nats.jetstream().await;
        for case in corpus() {
            let seq = match &case.name {
                None => publisher.publish("events.x", &case.payload).await,
                Some(name) => publisher.publish_named("events.x", name, &case.payload).await,
            };
            let stream = reader.get_stream_no_info("EVENTS").await.expect("the stream");
            let stored = stream.get_raw_message(seq).await.expect("the message");
            let name = stored.headers.get("Sse-Event").map(ToString::to_string);
            assert_eq!(name, case.name, "{}", case.what);
            assert!(stored.payload == case.payload.as_bytes(), "{}", case.what);
        }
    }

    async fn four_readers_agree_with_what_was_published(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        // A cursor from before the corpus: every reader then gets the whole of it, whenever it connects.
        let start = app.events("alice").await.connected.id.expect("a cursor");
        let corpus = corpus();
        for case in &corpus {
            match &case.name {
                None => publisher.publish("events.user.alice.corpus", &case.payload).await,
                Some(name) => publisher.publish_named("events.user.alice.corpus", name, &case.payload).await,
            };
            publisher.publish("events.user.bob.corpus", "not for alice").await;
        }
        publisher.publish_named("events.user.alice.corpus", END, "end").await;

        let url = format!("http://{}/events?last_event_id={start}", app.address());
        all_readers_agree(&corpus, &url).await;
    }

    async fn readers_that_listen_live_get_the_same(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let url = format!("http://{}/events", app.address());
        let corpus = corpus();
        let publish = async {
            app.metric_is("sidestream_connections", &[], 4.0, Duration::from_secs(30)).await;
            for case in &corpus {
                match &case.name {
                    None => publisher.publish("events.broadcast.corpus", &case.payload).await,
                    Some(name) => publisher.publish_named("events.broadcast.corpus", name, &case.payload).await,
                };
            }
            publisher.publish_named("events.broadcast.corpus", END, "end").await;
        };
        tokio::join!(publish, all_readers_agree(&corpus, &url));
    }
}

/// No server, no NATS: our frames, sent in pieces of 7 bytes and more, by a listener of this test.
#[tokio::test]
async fn a_canned_stream() {
    support::bounded(async {
        let format = Format { naming: EventNaming::Header, payload: Payload::Text };
        let frame = |name: Option<&str>, payload: &str, id: usize| {
            let message = Message { subject: "s", name, payload: payload.as_bytes(), time: 0 };
            Frame::encode(&format, message, Some(&format!("e.{id}.t"))).expect("UTF-8").frame
        };
        let corpus = corpus();
        let mut body = b"37\r\nevent: sidestream.connected\nretry: 2000\nid: e.0.t\ndata: {}\n\n\r\n".to_vec();
        let head = body.iter().position(|b| *b == b'\r').expect("a chunk head");
        let size = format!("{:x}", body.len() - head - 4);
        body.splice(..head, size.into_bytes());
        for (index, case) in corpus.iter().enumerate() {
            body.extend_from_slice(frame(case.name.as_deref(), &case.payload, index + 1).wire());
        }
        body.extend_from_slice(frame(Some(END), "end", corpus.len() + 1).wire());

        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/", listener.local_addr().expect("bound"));
        let serve = async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("accepts");
                let body = body.clone();
                tokio::spawn(async move {
                    let mut request = Vec::new();
                    while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
                    let head =
                        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                    let _ = stream.write_all(head).await;
                    let (small, large) = body.split_at(4096);
                    for piece in small.chunks(7).chain(large.chunks(1021)) {
                        if stream.write_all(piece).await.is_err() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                    let _ = stream.read_buf(&mut request).await;
                });
            }
        };
        tokio::select! {
            () = serve => {}
            () = all_readers_agree(&corpus, &url) => {}
        }
    })
    .await;
}

async fn all_readers_agree(corpus: &[Case], url: &str) {
    let names = names(corpus);
    let names = names.path().to_str().expect("UTF-8");
    let ((raw, curl), source, parser, httpx) = tokio::join!(
        read_by_curl(url),
        read_by(node("eventsource.mjs"), [url, "alice", END, names]),
        read_by(node("eventsource-parser.mjs"), [url, "alice", END]),
        read_by(python(), [url, "alice", END]),
    );
    for (reader, seen) in [
        (Reader::Curl, &curl),
        (Reader::EventSource, &source),
        (Reader::EventSourceParser, &parser),
        (Reader::HttpxSse, &httpx),
    ] {
        assert_eq!(seen.first().map(|s| s.event.as_str()), Some("sidestream.connected"), "{reader:?}");
        let seen = &seen[1..];
        for (case, seen) in corpus.iter().zip(seen) {
            let (event, data) = expected(reader, case);
            assert_eq!(seen.event, event, "{reader:?}, {}", case.what);
            assert!(seen.data == data, "{reader:?}, {}: {:.200?} is not {:.200?}", case.what, seen.data, data);
        }
        assert_eq!(seen.len(), corpus.len() + 1, "{reader:?}: events besides the corpus and its end");
    }
    // Same ids everywhere, each new.
    let ids = |seen: &[Seen]| seen.iter().skip(1).map(|s| s.id.clone()).collect::<Vec<_>>();
    for (reader, other) in
        [(Reader::EventSource, &source), (Reader::EventSourceParser, &parser), (Reader::HttpxSse, &httpx)]
    {
        assert_eq!(ids(other), ids(&curl), "{reader:?} saw other ids than curl");
    }
    assert!(ids(&curl).windows(2).all(|pair| pair[0] != pair[1]), "an id stands twice");

    // To the byte: exactly these lines, nothing between them.
    let mut wire = raw.split_inclusive(|b| *b == b'\n').take(5).flatten().copied().collect::<Vec<u8>>();
    for (case, seen) in corpus.iter().zip(&curl[1..]) {
        if case.event != "message" {
            wire.extend_from_slice(format!("event: {}\n", case.event).as_bytes());
        }
        wire.extend_from_slice(format!("id: {}\n", seen.id).as_bytes());
        for line in case.data().split('\n') {
            wire.extend_from_slice(format!("data: {line}\n").as_bytes());
        }
        wire.push(b'\n');
    }
    let end = curl.last().expect("the end");
    wire.extend_from_slice(format!("event: {END}\nid: {}\ndata: end\n\n", end.id).as_bytes());
    let differs = raw.iter().zip(&wire).position(|(a, b)| a != b);
    let around = differs.map(|at| raw[at.saturating_sub(60)..(at + 60).min(raw.len())].escape_ascii().to_string());
    assert!(raw == wire, "the raw stream differs at {differs:?}: {around:?}; {} bytes, not {}", raw.len(), wire.len());
}

/// The names that `EventSource` has to listen for: also those that must never come.
fn names(corpus: &[Case]) -> tempfile::NamedTempFile {
    let all: Vec<_> = corpus.iter().flat_map(|c| [Some(&c.event), c.name.as_ref()]).flatten().collect();
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), serde_json::to_vec(&all).expect("JSON")).expect("written");
    file
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn node(script: &str) -> Command {
    let dir = root().join("tests/readers");
    assert!(dir.join("node_modules").is_dir(), "no node_modules in tests/readers: run scripts/test, or `npm ci` there");
    let mut command = Command::new("node");
    command.arg(dir.join(script));
    command
}

fn python() -> Command {
    let python: PathBuf = root().join(".cache/readers/bin/python");
    assert!(python.exists(), "no httpx-sse in .cache/readers: run scripts/test");
    let mut command = Command::new(python);
    command.arg(root().join("tests/readers/httpx_sse_reader.py"));
    command
}

async fn read_by(mut command: Command, args: impl IntoIterator<Item = &str>) -> Vec<Seen> {
    let run = command.args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(60), run).await;
    let output = output.unwrap_or_else(|_| panic!("no end within 60 s: {command:?}")).expect("the reader starts");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}: {stderr}", output.status);
    let lines = output.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines.map(|line| serde_json::from_slice(line).expect("a JSON line")).collect()
}

/// `curl -N`: raw bytes until the end marker, and the events our own parser finds in them.
async fn read_by_curl(url: &str) -> (Vec<u8>, Vec<Seen>) {
    let mut curl = Command::new("curl")
        .args(["-sSN", "--noproxy", "*", "-H", "Accept: text/event-stream", "-H", "X-Forwarded-User: alice", url])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("curl starts");
    let mut stdout = curl.stdout.take().expect("stdout is piped");
    let (mut raw, mut parser, mut seen) = (Vec::new(), sidestream::sse::Parser::default(), Vec::<Seen>::new());
    let reading = async {
        while seen.last().is_none_or(|s| s.event != END) {
            let start = raw.len();
            assert_ne!(
                stdout.read_buf(&mut raw).await.expect("curl writes"),
                0,
                "curl ended before the end of the corpus"
            );
            parser.feed(&raw[start..], |event| {
                let id = event.id.expect("every event of this route has an id");
                seen.push(Seen { event: event.name, data: event.data, id });
            });
        }
    };
    tokio::time::timeout(Duration::from_secs(60), reading).await.expect("curl reads the corpus within 60 s");
    (raw, seen)
}

#[tokio::test]
async fn a_reader_by_hand_sees_what_curl_sees() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut sse = app.stream(get("/events").user("alice")).await;
        for case in corpus() {
            publisher
                .publish_named("events.user.alice.corpus", case.name.as_deref().unwrap_or("message"), &case.payload)
                .await;
            let event = sse.event().await;
            assert_eq!(event.name, case.event, "{}", case.what);
            assert!(event.data == case.data(), "{}", case.what);
        }
    })
    .await;
}
