//! Requests that get no stream: each answered by the table of the contract, in JSON, without an echo, and before any work.

mod support;

use support::{App, Config, Nats, Request, Version, Wire, bounded, get};

async fn app(change: impl FnOnce(Config) -> Config) -> (Nats, App) {
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let app = App::start(&change(Config::on(&nats))).await;
    (nats, app)
}

fn alice(method: &str, target: &str) -> Request {
    Request::new(method, target).user("alice")
}

#[tokio::test]
async fn an_unknown_path_is_404() {
    bounded(async {
        let (_nats, app) = app(|c| c).await;
        for path in
            ["/", "/event", "/events/", "/events/x", "/EVENTS", "/%3Cscript%3Ealert(1)%3C/script%3E", "//events"]
        {
            let answer = app.ask(alice("GET", path)).await;
            answer.is_refusal(404, "not_found");
            assert!(!answer.text().contains(path) || path == "/", "the answer echoes {path}");
        }
    })
    .await;
}

#[tokio::test]
async fn another_method_is_405_and_says_which_are_allowed() {
    bounded(async {
        let (_nats, app) = app(|c| c).await;
        for method in ["POST", "PUT", "DELETE", "PATCH", "TRACE", "get", "BREW"] {
            let answer = app.ask(alice(method, "/events")).await;
            assert_eq!(answer.head.status, 405, "{method}: {:?}", answer.head);
            let allow = answer.head.header("allow").unwrap_or_default();
            let allowed: Vec<_> = allow.split(',').map(str::trim).collect();
            for needed in ["GET", "HEAD", "OPTIONS"] {
                assert!(allowed.contains(&needed), "{method}: Allow: {allow}");
            }
            answer.is_refusal(405, "method_not_allowed");
        }
    })
    .await;
}

#[tokio::test]
async fn a_client_that_accepts_no_event_stream_is_406() {
    bounded(async {
        let (_nats, app) = app(|c| c).await;
        for accept in ["application/json", "text/html, image/*", "text/event-stream;q=0"] {
            let request = get("/events").user("alice").without("Accept").header("Accept", accept);
            app.ask(request).await.is_refusal(406, "not_acceptable");
        }
        for accept in ["*/*", "text/*", "text/html, text/event-stream;q=0.5", "TEXT/EVENT-STREAM"] {
            app.stream(get("/events").user("alice").without("Accept").header("Accept", accept)).await;
        }
        app.stream(get("/events").user("alice").without("Accept")).await;
    })
    .await;
}

#[tokio::test]
async fn an_unknown_host_is_421() {
    bounded(async {
        let (_nats, app) = app(|c| c.server("hosts = [\"app.example\"]\n")).await;
        app.stream(get("/events").user("alice")).await;
        for host in ["app.example:8443", "APP.example"] {
            app.stream(get("/events").user("alice").without("Host").header("Host", host)).await;
        }
        for host in ["evil.example", "app.example.evil.example", "127.0.0.1"] {
            let request = get("/events").user("alice").without("Host").header("Host", host);
            app.ask(request).await.is_refusal(421, "unknown_host");
        }
    })
    .await;
}

#[tokio::test]
async fn a_body_is_400_and_the_connection_ends() {
    bounded(async {
        let (_nats, app) = app(|c| c).await;
        for (headers, body) in [
            (&[("Content-Length", "3")][..], &b"abc"[..]),
            (&[("Transfer-Encoding", "chunked")], b"3\r\nabc\r\n0\r\n\r\n"),
        ] {
            let request = headers.iter().fold(get("/events").user("alice"), |r, (n, v)| r.header(n, v));
            let mut bytes = request.bytes();
            bytes.extend_from_slice(body);
            // What follows must not be answered: whoever sends bodies here may be smuggling.
            bytes.extend(get("/canary").user("alice").bytes());
            let mut wire = Wire::tcp(app.address()).await;
            wire.send(&bytes).await;
            let answer = wire.answer().await;
            answer.is_refusal(400, "body_not_allowed");
            assert_eq!(answer.head.header("connection"), Some("close"));
            assert_eq!(wire.read_to_end().await, b"", "a second answer");
        }
        app.stream(get("/events").user("alice").header("Content-Length", "0")).await;
    })
    .await;
}

#[tokio::test]
async fn http_1_0_is_505() {
    bounded(async {
        let (_nats, app) = app(|c| c).await;
        app.ask(get("/events").user("alice").version("HTTP/1.0")).await.is_refusal(505, "http_version");
    })
    .await;
}

#[tokio::test]
async fn a_request_without_exactly_one_host_is_400() {
    bounded(async {
        let (_nats, app) = app(|c| c).await;
        let none = get("/events").user("alice").without("Host");
        let two = get("/events").user("alice").header("Host", "other.example");
        let disagreeing = Request::new("GET", "http://other.example/events").user("alice");
        for request in [none, two, disagreeing] {
            assert_eq!(app.ask(request).await.head.status, 400);
        }
    })
    .await;
}

#[tokio::test]
async fn a_last_event_id_that_is_no_cursor_is_400() {
    bounded(async {
        let (_nats, app) = app(|c| c).await;
        let headers: [&[u8]; 5] = [&[b'1'; 257], b"a b", b"a\tb", "٣".as_bytes(), b"\xff"];
        for value in headers {
            let request = get("/events").user("alice").header("Last-Event-ID", value);
            app.ask(request).await.is_refusal(400, "bad_cursor");
        }
        let long = "1".repeat(257);
        for name in ["last_event_id", "lastEventId"] {
            for value in ["%0a", "%00", "a%20b", "%D9%A3", "%ff", &long] {
                let answer = app.ask(get(&format!("/events?{name}={value}")).user("alice")).await;
                answer.is_refusal(400, "bad_cursor");
            }
        }
        // hyper's own limit answers before us: not a stream, and not a crash.
        let huge = get("/events").user("alice").header("Last-Event-ID", vec![b'1'; 100_000]);
        let mut wire = Wire::tcp(app.address()).await;
        wire.send_anyway(&huge.bytes()).await;
        let bytes = wire.read_to_end().await;
        assert!(
            bytes.is_empty() || bytes.starts_with(b"HTTP/1.1 4"),
            "{}",
            bytes[..bytes.len().min(80)].escape_ascii()
        );
        app.events("alice").await;
    })
    .await;
}

#[tokio::test]
async fn more_than_16_selected_subjects_are_400() {
    bounded(async {
        let route = "\n[[route]]\npath = \"/select\"\nstream = \"EVENTS\"\nsubjects = [\"events.user.{user}.>\"]\nselect = true\n";
        let (nats, app) = app(|c| c.tables(route)).await;
        let select = |path: &str, count: usize| {
            let subjects: Vec<_> = (0..count).map(|n| format!("subject=events.user.alice.n{n}")).collect();
            get(&format!("{path}?{}", subjects.join("&"))).user("alice")
        };
        let mut most = app.stream(select("/select", 16)).await;
        let publisher = nats.publisher().await;
        publisher.publish("events.user.alice.n16", "not selected").await;
        publisher.publish("events.user.alice.n15", "selected last").await;
        most.nothing_before("selected last").await;
        for (path, count) in [("/select", 17), ("/select", 200), ("/events", 17)] {
            app.ask(select(path, count)).await.is_refusal(400, "bad_query");
        }
    })
    .await;
}

#[tokio::test]
async fn head_answers_like_get_without_a_stream_and_keeps_the_connection() {
    bounded(async {
        let (_nats, app) = app(|c| c).await;
        let mut wire = Wire::tcp(app.address()).await;
        for _ in 0..2 {
            wire.send(&alice("HEAD", "/events").bytes()).await;
            let head = wire.head().await;
            assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{head:?}");
            assert_eq!(head.header("cache-control"), Some("no-store, no-transform"));
        }
        assert!(app.metric("sidestream_connections", &[]).await < 0.5, "HEAD opened a stream");
        // No byte of a body stands between the heads and the stream.
        support::Sse::open(wire, &get("/events").user("alice")).await;
        let mut wire = Wire::tcp(app.address()).await;
        wire.send(&Request::new("HEAD", "/events").header("Connection", "close").bytes()).await;
        assert_eq!(wire.head().await.status, 401, "HEAD needs an identity as GET does");
        assert_eq!(wire.read_to_end().await, b"", "HEAD has no body");
    })
    .await;
}

#[tokio::test]
async fn a_foreign_origin_is_403_before_any_work() {
    bounded(async {
        let (_nats, app) = app(|c| c).await;
        let subscriptions = app.metric("sidestream_nats_subscriptions", &[]).await;
        for origin in ["https://evil.example", "null", "http://app.example.evil.example", "http://app.example:8080"] {
            let answer = app.ask(get("/events").user("alice").header("Origin", origin)).await;
            answer.is_refusal(403, "origin_denied");
            assert_eq!(answer.head.header("access-control-allow-origin"), None);
        }
        let cross = get("/events").user("alice").header("Sec-Fetch-Site", "cross-site");
        app.ask(cross).await.is_refusal(403, "origin_denied");
        let after = app.metric("sidestream_nats_subscriptions", &[]).await;
        assert!((after - subscriptions).abs() < 0.5, "{subscriptions} NATS subscriptions became {after}");

        // The page's own origin, whichever scheme the proxy in front took it by.
        for origin in ["http://app.example", "https://app.example"] {
            app.stream(get("/events").user("alice").header("Origin", origin)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_allowed_origin_is_named_exactly_and_the_answer_varies_by_it() {
    bounded(async {
        let (_nats, app) = app(|c| c.server("origins = [\"https://page.example\"]\n")).await;
        let request = get("/events").user("alice").header("Origin", "https://page.example");
        let request = request.header("Sec-Fetch-Site", "cross-site");
        let sse = app.stream(request).await;
        assert_eq!(sse.head.header("access-control-allow-origin"), Some("https://page.example"));
        assert_eq!(sse.head.header("vary"), Some("Origin"));
        // Where CORS is on, the answer varies also for those who send no Origin.
        assert_eq!(app.events("alice").await.head.header("vary"), Some("Origin"));

        for origin in ["https://page.example:8443", "http://page.example", "https://PAGE.example.evil.example"] {
            let answer = app.ask(get("/events").user("alice").header("Origin", origin)).await;
            answer.is_refusal(403, "origin_denied");
            assert_eq!(answer.head.header("access-control-allow-origin"), None);
        }
    })
    .await;
}

#[tokio::test]
async fn options_answers_a_preflight() {
    bounded(async {
        let (_nats, app) = app(|c| c.server("origins = [\"https://page.example\"]\n")).await;
        let preflight = |origin: &str| {
            Request::new("OPTIONS", "/events")
                .header("Origin", origin)
                .header("Access-Control-Request-Method", "GET")
                .header("Access-Control-Request-Headers", "last-event-id")
        };
        let answer = app.ask(preflight("https://page.example")).await;
        assert!(matches!(answer.head.status, 200 | 204), "{:?}", answer.head);
        assert_eq!(answer.head.header("access-control-allow-origin"), Some("https://page.example"));
        let headers = answer.head.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
        assert!(headers.contains("last-event-id"), "{headers}");
        let vary = answer.head.header("vary").unwrap_or_default().to_ascii_lowercase();
        assert!(vary.contains("origin"), "{vary}");
        app.ask(preflight("https://evil.example")).await.is_refusal(403, "origin_denied");

        let answer = app.ask(Request::new("OPTIONS", "/events")).await;
        assert!(matches!(answer.head.status, 200 | 204), "{:?}", answer.head);
        assert!(answer.head.header("allow").is_some_and(|a| a.contains("GET")), "{:?}", answer.head);
    })
    .await;
}

#[tokio::test]
async fn the_public_listener_knows_no_admin_path() {
    bounded(async {
        let (_nats, app) = app(|c| c).await;
        for path in [
            "/livez",
            "/readyz",
            "/readyz?verbose",
            "/metrics",
            "/version",
            "/config",
            "/connections",
            "/drain",
            "/reload",
            "/log-level",
            "/notify/alice",
            "/broadcast",
            "/healthz",
            "/ui",
            "/%6detrics",
            "//metrics",
        ] {
            let status = app.ask(alice("GET", path)).await.head.status;
            assert!(matches!(status, 404 | 400), "{path}: {status}");
        }
    })
    .await;
}
