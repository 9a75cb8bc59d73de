//! Where an HTTP/1.1 request ends (requirements R15 to R19): how many answers a connection gives to bytes that two parsers may read
//! differently, whether it goes on behind them, and the limits of a head to the byte.
//!
//! Behind everything stands a canary, a request of its own that asks for the end of the connection: where it is answered, the bytes
//! before it were taken for whole requests. The same behind real proxies is in `edges`; requests that are merely wrong are in
//! `refusals.rs`.

mod support;

use support::{App, Config, Nats, Request, Version, Wire, bounded, get};

const CANARY: &[u8] = b"GET /canary HTTP/1.1\r\nHost: app.example\r\nConnection: close\r\n\r\n";

async fn app() -> (Nats, App) {
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let app = App::start(&Config::on(&nats)).await;
    (nats, app)
}

/// A whole answer, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    status: u16,
    closes: bool,
    /// The head in lower case.
    head: String,
}

/// The answers in what a connection has sent; there must be nothing between them or behind.
fn answers(mut bytes: &[u8]) -> Vec<Said> {
    let mut answers = Vec::new();
    while !bytes.is_empty() {
        let end =
            memchr::memmem::find(bytes, b"\r\n\r\n").unwrap_or_else(|| panic!("no head: {}", bytes.escape_ascii()));
        let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
        let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name));
        let status = head.strip_prefix("http/1.1 ").and_then(|line| line[..3].parse().ok());
        let length: usize = field("content-length: ").map_or(0, |length| length.parse().expect("a length"));
        let closes = field("connection: ") == Some("close");
        answers.push(Said {
            status: status.unwrap_or_else(|| panic!("no status: {head}")),
            closes,
            head: head.clone(),
        });
        bytes = &bytes[end + 4 + length..];
    }
    answers
}

/// Sends bytes and the canary, at once and byte by byte, which must make no difference. The connection has to end.
async fn asked(app: &App, name: &str, bytes: &[u8]) -> Vec<Said> {
    let all = [bytes, CANARY].concat();
    let at_once = async {
        let mut wire = Wire::tcp(app.address()).await;
        wire.send_anyway(&all).await;
        answers(&wire.read_to_end().await)
    };
    let by_bytes = async {
        let mut wire = Wire::tcp(app.address()).await;
        for byte in &all {
            wire.send_anyway(&[*byte]).await;
        }
        answers(&wire.read_to_end().await)
    };
    let (at_once, by_bytes) = tokio::join!(at_once, by_bytes);
    let statuses = |answers: &[Said]| answers.iter().map(|said| said.status).collect::<Vec<_>>();
    assert_eq!(statuses(&at_once), statuses(&by_bytes), "{name}: it depends on segments");
    at_once
}

fn statuses(answers: &[Said]) -> Vec<u16> {
    answers.iter().map(|said| said.status).collect()
}

/// Bodies, and headers that say in any way that there is one.
const BODIES: [(&str, &str); 60] = [
    // Both, in either order.
    ("Content-Length: 6\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\nX"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", "5c\r\nGPOST / HTTP/1.1\r\n0\r\n\r\n"),
    // Codings, once and several times.
    ("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: identity\r\n", ""),
    ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunkedx\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked;q=1\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding:\r\n", ""),
    ("Transfer-Encoding: CHUNKED\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked \t\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: \0chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n , identity\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
    ("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n"),
    (" Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("X: y\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    ("X: y\rTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    // Lengths.
    ("Content-Length: 3\r\n", "abc"),
    ("Content-Length:  3\r\n", "abc"),
    ("Content-Length: 03\r\n", "abc"),
    ("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
    ("Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
    ("Content-Length: 3, 3\r\n", "abc"),
    ("Content-Length: 3 3\r\n", "abc"),
    ("Content-Length: +3\r\n", "abc"),
    ("Content-Length: -3\r\n", "abc"),
    ("Content-Length: -0\r\n", ""),
    ("Content-Length: 0x3\r\n", "abc"),
    ("Content-Length: 3.0\r\n", "abc"),
    ("Content-Length: \u{663}\r\n", "abc"),
    ("Content-Length: \r\n", ""),
    ("Content-Length: 9223372036854775808\r\n", "abc"),
    ("Content-Length: 18446744073709551619\r\n", "abc"),
    ("Content-Length : 3\r\n", "abc"),
    ("Content-Length:\r\n 3\r\n", "abc"),
    ("Content-Length: 3\r\nExpect: 100-continue\r\n", "abc"),
    // Chunks.
    ("Transfer-Encoding: chunked\r\n", "3;a=b\r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "3;a\nb\r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "3 \r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "3\nabc\n0\n\n"),
    ("Transfer-Encoding: chunked\r\n", "3\rabc\r0\r\r"),
    ("Transfer-Encoding: chunked\r\n", "3\r\nabc0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "3\r\nabcd\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "\r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "0x3\r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "+3\r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "-3\r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "10000000000000000\r\n"),
    ("Transfer-Encoding: chunked\r\n", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "0\r\nX-Forwarded-User: root\r\n\r\n"),
    ("Transfer-Encoding: chunked\r\n", "0\r\n"),
];

#[tokio::test]
async fn behind_a_body_nothing_is_answered() {
    bounded(async {
        let (_nats, app) = app().await;
        for (headers, body) in BODIES {
            for (path, refused) in [("/events", 400), ("/nope", 404)] {
                let head =
                    format!("GET {path} HTTP/1.1\r\nHost: app.example\r\nX-Forwarded-User: alice\r\n{headers}\r\n");
                let name = format!("{path} {:?}", format!("{headers}{body}"));
                let said = asked(&app, &name, &[head.as_bytes(), body.as_bytes()].concat()).await;
                // The parser says 400 without a body to what it cannot read, and the request path says the rest.
                assert!(
                    matches!(statuses(&said)[..], [status] if status == 400 || status == refused),
                    "{name}: {said:?}"
                );
                assert!(said[0].closes, "{name}: {said:?}");
            }
        }
        assert!(app.metric("sidestream_connections_total", &[]).await < 0.5, "somebody got a stream");
        // Said to be none, it is none.
        for headers in
            ["Content-Length: 0\r\n", "Content-Length: 0\r\nContent-Length: 0\r\n", "Expect: 100-continue\r\n"]
        {
            let head = format!("GET /nope HTTP/1.1\r\nHost: app.example\r\n{headers}\r\n");
            assert_eq!(statuses(&asked(&app, headers, head.as_bytes()).await), [404, 404], "{headers:?}");
        }
    })
    .await;
}

const HOST: &str = "Host: app.example\r\n";

/// Bytes that are no request.
fn broken() -> Vec<Vec<u8>> {
    let lines = [
        // Line ends and white space (RFC 9112 section 2.2).
        "\nGET /nope HTTP/1.1\r\nHost: app.example\r\n\r\n",
        " GET /nope HTTP/1.1\r\nHost: app.example\r\n\r\n",
        "GET /nope HTTP/1.1\nHost: app.example\n\n",
        "GET /nope HTTP/1.1\nHost: app.example\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: app.example\nX: y\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: app.example\r\n\n",
        "GET /nope HTTP/1.1\rHost: app.example\r\r",
        "GET /nope HTTP/1.1\r\r\nHost: app.example\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: app.example\r\nX: a\rb\r\n\r\n",
        "GET  /nope HTTP/1.1\r\nHost: app.example\r\n\r\n",
        "GET /nope  HTTP/1.1\r\nHost: app.example\r\n\r\n",
        "GET\t/nope\tHTTP/1.1\r\nHost: app.example\r\n\r\n",
        "GET /nope HTTP/1.1 \r\nHost: app.example\r\n\r\n",
        "GET /no pe HTTP/1.1\r\nHost: app.example\r\n\r\n",
        "GET  HTTP/1.1\r\nHost: app.example\r\n\r\n",
        "G(T /nope HTTP/1.1\r\nHost: app.example\r\n\r\n",
        // Versions.
        "GET /nope\r\n",
        "GET /nope \r\n\r\n",
        "GET /nope HTTP/1.2\r\nHost: app.example\r\n\r\n",
        "GET /nope HTTP/2.0\r\nHost: app.example\r\n\r\n",
        "GET /nope HTTP/1.10\r\nHost: app.example\r\n\r\n",
        "GET /nope http/1.1\r\nHost: app.example\r\n\r\n",
        "GET /nope HTTP/1,1\r\nHost: app.example\r\n\r\n",
        // Fields.
        "GET /nope HTTP/1.1\r\nHost : app.example\r\n\r\n",
        "GET /nope HTTP/1.1\r\n X: y\r\nHost: app.example\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: app.example\r\nX: y\r\n z\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: app.example\r\nXY\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: app.example\r\n: y\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: app.example\r\nX Y: z\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: app.example\r\nX\0Y: z\r\n\r\n",
        "GET /nope HTTP/1.1\r\nHost: app.example\r\nX: y\0\r\n\r\n",
        "GET /no\0pe HTTP/1.1\r\nHost: app.example\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0",
    ];
    let bytes: [&[u8]; 2] = [
        b"GET /nope HTTP/1.1\r\nHost: app.example\r\nX\xff: y\r\n\r\n",
        b"GET /no\xffpe HTTP/1.1\r\nHost: app.example\r\n\r\n",
    ];
    lines.iter().map(|line| line.as_bytes().to_vec()).chain(bytes.map(<[u8]>::to_vec)).collect()
}

#[tokio::test]
async fn what_is_no_request_is_400_and_the_end() {
    bounded(async {
        let (_nats, app) = app().await;
        for bytes in broken() {
            let name = bytes.escape_ascii().to_string();
            let said = asked(&app, &name, &bytes).await;
            assert_eq!(statuses(&said), [400], "{name}");
            assert!(said[0].closes, "{name}: {said:?}");
            // Also behind one that is in order.
            let behind = [format!("GET /first HTTP/1.1\r\n{HOST}\r\n").as_bytes(), &bytes].concat();
            assert_eq!(statuses(&asked(&app, &name, &behind).await), [404, 400], "{name}, as the second");
        }
    })
    .await;
}

/// Forms of a target, and hosts (RFC 9112 section 3.2).
#[tokio::test]
async fn a_target_names_the_host_that_the_request_is_for() {
    bounded(async {
        let (_nats, app) = app().await;
        let line = |target: &str, hosts: &str| format!("GET {target} HTTP/1.1\r\n{hosts}\r\n");
        let served = [
            line("/nope", HOST),
            line("http://app.example/nope", HOST),
            line("https://app.example/nope", HOST),
            line("//evil.example/nope", HOST),
            format!("\r\n\r\n{}", line("/nope", HOST)),
            line("/nope", "Host: app.example\r\nX: a\tb\r\n"),
            line("/nope", "Host: app.example\r\nX: \u{e9}\r\n"),
            line("/nope", "Host: app.example\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"),
        ];
        for request in served {
            assert_eq!(statuses(&asked(&app, &request, request.as_bytes()).await), [404, 404], "{request:?}");
        }
        let confused = [
            line("http://other.example/nope", HOST),
            line("http://app.example:81/nope", HOST),
            line("http://user@app.example/nope", HOST),
            line("http://user@app.example/nope", "Host: user@app.example\r\n"),
            line("http://app.example/nope", ""),
            line("app.example:80", HOST),
            line("nope", HOST),
            line("/nope", ""),
            line("/nope", "Host:\r\n"),
            line("/nope", "Host: app.example\r\nHost: app.example\r\n"),
            line("/nope", "Host: app.example, other.example\r\n"),
            line("/nope", "Host: app.example/path\r\n"),
        ];
        for request in confused {
            let said = asked(&app, &request, request.as_bytes()).await;
            assert_eq!(statuses(&said), [400], "{request:?}");
            assert!(said[0].closes, "{request:?}: {said:?}");
        }
        // A server as a whole has nothing here.
        for method in ["GET", "OPTIONS", "PRI"] {
            let request = format!("{method} * HTTP/1.1\r\n{HOST}\r\n");
            assert_eq!(statuses(&asked(&app, &request, request.as_bytes()).await), [400, 404], "{request:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn another_method_is_refused_and_opens_no_tunnel() {
    bounded(async {
        let (_nats, app) = app().await;
        let (long, longer) = ("A".repeat(100), "B".repeat(9000));
        let methods = [
            "POST",
            "PUT",
            "PATCH",
            "DELETE",
            "TRACE",
            "get",
            "Get",
            "head",
            "options",
            "PROPFIND",
            "M-SEARCH",
            "PRI",
            "!#$%&'*+-.^_`|~",
            &long,
            &longer,
        ];
        for method in methods {
            let request = format!("{method} /events HTTP/1.1\r\n{HOST}X-Forwarded-User: alice\r\n\r\n");
            let said = asked(&app, method, request.as_bytes()).await;
            assert_eq!(statuses(&said), [405], "{method}");
            assert!(said[0].closes && said[0].head.contains("\r\nallow: get, head, options"), "{method}: {said:?}");
        }
        for target in ["app.example:443", "app.example", "127.0.0.1:22", "/events", "http://app.example/events"] {
            let request = format!("CONNECT {target} HTTP/1.1\r\n{HOST}X-Forwarded-User: alice\r\n\r\n");
            let said = asked(&app, target, request.as_bytes()).await;
            assert!(matches!(statuses(&said)[..], [400 | 405]), "CONNECT {target}: {said:?}");
            assert!(said[0].closes, "CONNECT {target}: {said:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn requests_in_one_segment_get_one_answer_each_in_their_order() {
    bounded(async {
        let (_nats, app) = app().await;
        let requests = [
            (get("/nope"), 404),
            (get("/events"), 401),
            (Request::new("HEAD", "/events").user("alice"), 200),
            (get("/events?last_event_id=%0a").user("alice"), 400),
            (Request::new("OPTIONS", "/events"), 204),
            (get("/%2f").user("alice"), 400),
            (get("/events").user("alice").without("Accept").header("Accept", "text/html"), 406),
            (get("/events").user("alice").header("Origin", "https://evil.example"), 403),
            (Request::new("HEAD", "/nope"), 404),
            (Request::new("DELETE", "/events").user("alice"), 405),
        ];
        let bytes: Vec<u8> = requests.iter().flat_map(|(request, _)| request.bytes()).collect();
        let mut wire = Wire::tcp(app.address()).await;
        wire.send_anyway(&[&bytes, CANARY].concat()).await;
        let mut left = requests.len();
        for (request, status) in &requests {
            let answer = wire.head().await;
            assert_eq!(answer.status, *status, "{}", request.bytes().escape_ascii());
            left -= 1;
            // HEAD and 204 have no body, whatever their length says.
            if let Some(length) = answer.header("content-length").filter(|_| !request.bytes().starts_with(b"HEAD")) {
                wire.skip(length.parse().expect("a length")).await;
            }
        }
        assert_eq!(left, 0);
        assert_eq!(wire.read_to_end().await, b"", "an answer behind the end");
    })
    .await;
}

/// A request whose header block has so many bytes, as it stands on the wire: name, colon, space, value and line end.
fn block(bytes: usize) -> Request {
    let fixed = "Host: app.example\r\nAccept: text/event-stream\r\nX-Pad: \r\n".len();
    get("/nope").header("X-Pad", "y".repeat(bytes - fixed))
}

/// A request with so many header lines.
fn lines(count: usize) -> Request {
    // Host and Accept are there.
    (2..count).fold(get("/nope"), |request, n| request.header(&format!("X-{n}"), "y"))
}

/// A request whose target has so many bytes.
fn target(bytes: usize) -> Request {
    let start = "/nope?x=";
    get(&format!("{start}{}", "y".repeat(bytes - start.len())))
}

#[tokio::test]
async fn the_limits_of_a_head_are_exact() {
    bounded(async {
        const KIB: usize = 1024;
        let (_nats, app) = app().await;
        for (request, status) in [
            (target(8 * KIB - 1), 404),
            (target(8 * KIB), 404),
            (target(8 * KIB + 1), 414),
            (block(16 * KIB - 1), 404),
            (block(16 * KIB), 404),
            (block(16 * KIB + 1), 431),
            (lines(63), 404),
            (lines(64), 404),
            (lines(65), 431),
        ] {
            assert_eq!(app.ask(request.clone()).await.head.status, status, "{} bytes", request.bytes().len());
        }
        // Far beyond: nothing is gathered up to find out how far.
        let before = app.resident();
        for request in [target(10 << 20), block(10 << 20), lines(500_000)] {
            let mut wire = Wire::tcp(app.address()).await;
            wire.send_anyway(&request.bytes()).await;
            let said = answers(&wire.read_to_end().await);
            assert!(matches!(statuses(&said)[..], [] | [414 | 431]), "{said:?}");
        }
        let grown = app.peak_resident().saturating_sub(before);
        assert!(grown < 2 << 20, "{grown} bytes more");
    })
    .await;
}
