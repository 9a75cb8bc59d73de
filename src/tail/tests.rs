//! The reader without a network where that is enough, and against a scripted server where it is not.

use std::io::Write as _;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::print::{json_line, lag_ms, text_line};
use super::*;

fn event(name: &str, id: Option<&str>, data: &str) -> Event {
    Event { name: name.to_owned(), id: id.map(str::to_owned), data: data.to_owned() }
}

#[test]
fn events_are_one_line_whatever_they_hold() {
    let note = event("note", Some("a.1.b"), "one\ntwo\u{1b}[2J");
    assert_eq!(text_line(&note, Some(3)), "note  a.1.b  +3 ms  one\\ntwo\\u{1b}[2J");
    assert_eq!(text_line(&event("message", None, "x"), None), "message  x");
    assert_eq!(json_line(&note, None), r#"{"event":"note","id":"a.1.b","data":"one\ntwo\u001b[2J","lag_ms":null}"#);
}

#[test]
fn our_own_events_are_told_in_words() {
    let line = |name, data| text_line(&event(name, Some("a.1.b"), data), None);
    let gap = r#"{"stream":"EVENTS","after":3,"next":null,"reason":"retention"}"#;
    assert_eq!(line("sidestream.gap", gap), "!! GAP (retention): events are missing between 3 and ? of EVENTS");
    let connected = r#"{"connection":"c1","resume":"exact","heartbeat":15}"#;
    assert_eq!(line("sidestream.connected", connected), "-- connected, resumed exactly (c1)");
    let bye = r#"{"code":"drain","reconnect":1200}"#;
    assert_eq!(line("sidestream.bye", bye), "-- bye (drain), asked to come back after 1200 ms");
    assert!(line("sidestream.degraded", "{}").starts_with("!! DEGRADED"));
    assert_eq!(line("sidestream.ok", "not json"), "-- ok: NATS is back");
    assert_eq!(line("sidestream.later", "{}"), "-- later  {}");
}

#[test]
fn lag_comes_from_the_cursor_and_only_from_a_cursor() {
    // 2s in base 36 is 100, and the time part counts nanoseconds.
    let now = 5_000_100;
    assert_eq!(lag_ms(&event("note", Some("a.1.2s"), ""), now), Some(5));
    assert_eq!(lag_ms(&event("note", Some("a.1.0"), ""), now), None);
    assert_eq!(lag_ms(&event("note", Some("42"), ""), now), None);
    assert_eq!(lag_ms(&event("note", None, ""), now), None);
    assert_eq!(lag_ms(&event("sidestream.heartbeat", Some("a.1.2s"), ""), now), None);
}

#[test]
fn answers_are_told_apart() {
    let answer = |status: u16, headers: &[(&str, &str)]| {
        let mut builder = Response::builder().status(status);
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        verdict(&builder.body(()).expect("a valid answer"))
    };
    let stream = ("content-type", "text/event-stream; charset=utf-8");
    assert_eq!(answer(200, &[stream]), Verdict::Stream);
    assert_eq!(answer(200, &[stream, ("sidestream-refused", "drain")]), Verdict::RefusedSoftly("drain".to_owned()));
    assert_eq!(answer(200, &[("content-type", "text/html")]), Verdict::NotAnEventStream("text/html".to_owned()));
    assert_eq!(answer(204, &[]), Verdict::NoContent);
    for status in [400, 401, 403, 404, 405, 421, 307] {
        assert_eq!(answer(status, &[]), Verdict::Never, "{status}");
    }
    assert_eq!(answer(503, &[("retry-after", "7")]), Verdict::Later(Some(Duration::from_secs(7))));
    assert_eq!(answer(429, &[]), Verdict::Later(None));
}

#[test]
fn headers_need_a_name_and_a_value() {
    assert!(parse_header("X-Forwarded-User: alice").is_ok());
    for bad in ["X-Forwarded-User", "a b: c", ": c", "x: a\nb"] {
        assert!(parse_header(bad).is_err(), "{bad:?}");
    }
}

/// Answers each connection with the next text and closes; gives back what was asked.
async fn scripted(answers: Vec<&'static str>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/events", listener.local_addr().expect("bound"));
    let requests = tokio::spawn(async move {
        let mut requests = Vec::new();
        for answer in answers {
            let (mut socket, _) = listener.accept().await.expect("a connection");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(socket.read_u8().await.expect("a request head"));
            }
            requests.push(String::from_utf8(head).expect("ASCII").to_lowercase());
            socket.write_all(answer.as_bytes()).await.expect("the reader takes the answer");
        }
        requests
    });
    (url, requests)
}

const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";

fn stream(body: &'static str) -> &'static str {
    Box::leak(format!("{HEAD}{body}").into_boxed_str())
}

async fn tail(options: Options) -> (Result<Outcome, TailError>, String) {
    let mut out = Vec::new();
    let outcome = tokio::time::timeout(Duration::from_secs(20), run(options, &mut out)).await.expect("it ends");
    (outcome, String::from_utf8(out).expect("UTF-8"))
}

#[tokio::test]
async fn resumes_after_the_last_whole_event_and_counts_no_reserved_ones() {
    let connected = "event: sidestream.connected\nretry: 20\nid: e.1.1\ndata: {\"heartbeat\":15}\n\n";
    let first = Box::leak(format!("{connected}id: e.2.2\ndata: a\n\nid: e.3.3\ndata: cut in ha").into_boxed_str());
    let (url, requests) = scripted(vec![
        stream(first),
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nsidestream-refused: drain\r\ncontent-length: 10\r\n\r\nretry: 30\n",
        "HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n",
        stream("id: e.3.3\ndata: b\n\ndata: c\n\n"),
    ])
    .await;
    let options = Options {
        url,
        json: true,
        exit_after: Some(2),
        last_event_id: Some("e.1.0".to_owned()),
        headers: vec!["X-Forwarded-User: alice".to_owned()],
        ..Options::default()
    };
    let (outcome, out) = tail(options).await;
    assert_eq!(outcome.expect("no error"), Outcome::Counted);
    let names: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(names.iter().map(|e| e["data"].as_str().unwrap_or_default()).skip(1).collect::<Vec<_>>(), ["a", "b"]);
    let requests = requests.await.expect("the server ran");
    assert!(requests[0].contains("last-event-id: e.1.0\r\n") && requests[0].contains("x-forwarded-user: alice\r\n"));
    for request in &requests[1..] {
        assert!(request.contains("last-event-id: e.2.2\r\n"), "{request}");
    }
}

#[tokio::test]
async fn stops_with_the_reason_when_trying_again_is_pointless() {
    let body = r#"{"error":{"code":"identity_missing","status":401}}"#;
    let answer = format!("HTTP/1.1 401 Unauthorized\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (url, _requests) = scripted(vec![Box::leak(answer.into_boxed_str())]).await;
    let (outcome, _) = tail(Options { url, ..Options::default() }).await;
    assert_eq!(outcome.expect_err("refused").to_string(), "the server answered 401: identity_missing");

    let (url, _requests) = scripted(vec!["HTTP/1.1 204 No Content\r\n\r\n"]).await;
    let (outcome, _) = tail(Options { url, ..Options::default() }).await;
    assert_eq!(outcome.expect("no error"), Outcome::NoContent);
}

#[tokio::test]
async fn a_timeout_and_a_closed_output_are_outcomes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let timeout = Some(Duration::from_millis(50));
    let (outcome, _) = tail(Options { url, timeout, ..Options::default() }).await;
    assert_eq!(outcome.expect("no error"), Outcome::TimedOut);

    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    assert!(Closed.write(b"x").is_err());
    let (url, _requests) = scripted(vec![stream("data: a\n\n")]).await;
    let outcome = run(Options { url, ..Options::default() }, &mut Closed).await;
    assert_eq!(outcome.expect("no error"), Outcome::OutputClosed);
}

#[tokio::test(start_paused = false)]
async fn silence_beyond_the_heartbeats_is_a_broken_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let url = format!("http://{}/", listener.local_addr().expect("bound"));
    let server = tokio::spawn(async move {
        let (mut silent, _) = listener.accept().await.expect("a connection");
        let connected = "event: sidestream.connected\nretry: 10\ndata: {\"heartbeat\":1}\n\n";
        silent.write_all(format!("{HEAD}{connected}").as_bytes()).await.expect("the reader is there");
        let (mut second, _) = listener.accept().await.expect("it comes back");
        second.write_all(format!("{HEAD}data: a\n\n").as_bytes()).await.expect("the reader is there");
        silent
    });
    let (outcome, out) = tail(Options { url, exit_after: Some(1), ..Options::default() }).await;
    assert_eq!(outcome.expect("no error"), Outcome::Counted);
    assert!(out.contains("-- silent for 2.5 s"), "{out}");
    drop(server.await.expect("the server ran"));
}
