//! Who may speak for a user: every proof, every spoof of the requirement table (R2-R8), and what becomes of it.

mod support;

use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use support::{App, Config, Nats, Request, Sse, Version, Wire, bounded, get};

async fn app(trust: Option<&str>) -> (Nats, App) {
    started(|config| config.trust(trust)).await
}

async fn started(change: impl FnOnce(Config) -> Config) -> (Nats, App) {
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let app = App::start(&change(Config::on(&nats))).await;
    (nats, app)
}

const LOOPBACK: Option<&str> = Some(support::app::TRUST_LOOPBACK);

#[tokio::test]
async fn without_trust_every_identity_header_is_refused() {
    bounded(async {
        let (_nats, app) = app(None).await;
        app.ask(get("/events").user("admin")).await.is_refusal(403, "untrusted_peer");
        // On any path, known or not: the decision is made before routing.
        app.ask(get("/nothing").user("admin")).await.is_refusal(403, "untrusted_peer");
        app.ask(get("/events")).await.is_refusal(401, "identity_missing");
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_is_not_a_proxy_may_not_speak_for_a_user() {
    bounded(async {
        let (_nats, app) = app(Some("proxies = [\"192.0.2.1\"]\naddress_is_proof = true\n")).await;
        let subscriptions = app.metric("sidestream_nats_subscriptions", &[]).await;
        let answer = app.ask(get("/events").user("admin")).await;
        answer.is_refusal(403, "untrusted_peer");
        assert!(!answer.text().contains("admin"), "the answer echoes the header");
        let after = app.metric("sidestream_nats_subscriptions", &[]).await;
        assert!((after - subscriptions).abs() < 0.5, "a refused request reached NATS");
    })
    .await;
}

#[tokio::test]
async fn exactly_one_value_is_an_identity() {
    bounded(async {
        let (_nats, app) = app(LOOPBACK).await;
        app.ask(get("/events")).await.is_refusal(401, "identity_missing");
        for request in [
            get("/events").user("alice").user("bob"),
            get("/events").user("alice").user("alice"),
            get("/events").user("alice, bob"),
            get("/events").user("alice,bob"),
            get("/events").user("alice").header("x-forwarded-user", "bob"),
        ] {
            app.ask(request).await.is_refusal(400, "identity_ambiguous");
        }
    })
    .await;
}

/// Every header of ours there is, each with a value that would pass.
const EVERY_HEADER: &str = "claims_header = \"X-Claims\"\nexpires_header = \"X-Expires\"\nsubjects_header = \"X-Subjects\"\n\
                            variables = { tenant = \"X-Tenant\" }\n";
const SECRET: &str = "correct-horse-battery-staple";

/// The program with every header of ours, and the names of all of them.
async fn app_with_every_header(dir: &Path) -> (Nats, App, [&'static str; 6]) {
    let file = dir.join("secret");
    std::fs::write(&file, SECRET).expect("written");
    let trust = format!("proxies = [\"127.0.0.1\"]\nsecret_files = [{file:?}]\n");
    let (nats, app) = started(|mut config| {
        config.identity = EVERY_HEADER.to_owned();
        config.trust(Some(&trust))
    })
    .await;
    let names = ["x-forwarded-user", "x-claims", "x-expires", "x-subjects", "x-tenant", "x-sidestream-secret"];
    (nats, app, names)
}

fn proven(method: &str, target: &str) -> Request {
    Request::new(method, target).header("X-Sidestream-Secret", SECRET)
}

#[tokio::test]
async fn alias_spellings_are_refused() {
    bounded(async {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (_nats, app, names) = app_with_every_header(dir.path()).await;
        for alias in ["X_Forwarded_User", "X.Forwarded.User", "x-forwarded_user", "x_forwarded-user"] {
            let request = proven("GET", "/events").user("alice").header(alias, "admin");
            app.ask(request).await.is_refusal(400, "header_alias");
        }
        for name in names {
            for mark in ["_", ".", "!", "~", "+", "'", "|"] {
                let alias = name.replace('-', mark);
                app.ask(proven("GET", "/events").header(&alias, "admin")).await.is_refusal(400, "header_alias");
                app.ask(get("/events").header(&alias, "admin")).await.is_refusal(403, "untrusted_peer");
            }
        }
        // Names that no server takes for one of ours.
        for other in ["XForwardedUser", "X-Forwarded-Users", "X--Forwarded-User", "X-Forwarded-For", "X_Forwarded_For"]
        {
            app.ask(proven("GET", "/events").header(other, "admin")).await.is_refusal(401, "identity_missing");
        }
    })
    .await;
}

#[tokio::test]
async fn a_header_nominated_by_connection_is_refused() {
    bounded(async {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (_nats, app, names) = app_with_every_header(dir.path()).await;
        for name in names {
            let upper = name.to_ascii_uppercase();
            for value in [
                name.to_owned(),
                format!("close, {upper}"),
                format!("keep-alive,{upper} ,te"),
                format!("\"{name}\""),
                format!("close,{upper} ;"),
                format!(",,\t{name};q=1"),
                name.replace('-', "_"),
            ] {
                for header in ["Connection", "Proxy-Connection"] {
                    let request = proven("GET", "/events").header(header, &value);
                    app.ask(request.clone()).await.is_refusal(400, "hop_by_hop_identity");
                    app.ask(request.without("X-Sidestream-Secret")).await.is_refusal(403, "untrusted_peer");
                }
            }
            let two = proven("GET", "/events").header("Connection", "keep-alive").header("connection", name);
            app.ask(two).await.is_refusal(400, "hop_by_hop_identity");
        }
        app.ask(proven("GET", "/events").header("Connection", "keep-alive, x-other"))
            .await
            .is_refusal(401, "identity_missing");
    })
    .await;
}

/// Whatever the path, the method and the rest of the request: what is wrong with an identity is said first.
#[tokio::test]
async fn the_identity_is_evaluated_before_anything_else() {
    bounded(async {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (_nats, app, names) = app_with_every_header(dir.path()).await;
        let targets = ["/events", "/nothing", "/", "/%2e%2e/x", "/events?last_event_id=a&last_event_id=b"];
        for (method, target) in ["GET", "OPTIONS", "POST", "get"].into_iter().flat_map(|m| targets.map(|t| (m, t))) {
            let ask = async |request: Request, status, code| {
                app.ask(request.header("Accept", "text/plain")).await.is_refusal(status, code);
            };
            ask(Request::new(method, target).user("admin"), 403, "untrusted_peer").await;
            ask(proven(method, target).user("a").user("b"), 400, "identity_ambiguous").await;
            ask(proven(method, target).user("a b"), 400, "identity_invalid").await;
            ask(proven(method, target).header("X_Tenant", "a"), 400, "header_alias").await;
            ask(proven(method, target).header("Connection", "x-tenant"), 400, "hop_by_hop_identity").await;
            ask(proven(method, target).header("X-Expires", "1"), 401, "identity_expired").await;
        }
        // HEAD has no body to tell by.
        for name in names.iter().take(5) {
            let mut wire = Wire::tcp(app.address()).await;
            wire.send(&Request::new("HEAD", "/nothing").header(name, "1").bytes()).await;
            assert_eq!(wire.head().await.status, 403, "{name}");
        }
    })
    .await;
}

/// What hyper and h2 do not let through: spellings that only a lenient parser would take for ours.
#[tokio::test]
async fn lines_that_lenient_parsers_take_for_ours_are_no_requests() {
    bounded(async {
        let (_nats, app) = app(LOOPBACK).await;
        for line in [
            "X-Forwarded-User : admin",
            "X-Forwarded-User\t: admin",
            " X-Forwarded-User: admin",
            "X-Other: a\r\n X-Forwarded-User: admin",
            "X-Forwarded-User\u{e9}: admin",
            "X-Forwarded-User\0: admin",
            "X-Forwarded-User",
            ": admin",
        ] {
            let head = format!("GET /events HTTP/1.1\r\nHost: app.example\r\n{line}\r\n\r\n");
            let answer = app.ask_raw(head.as_bytes()).await;
            assert_eq!(answer.head.status, 400, "{line:?}");
        }
    })
    .await;
}

/// Header fields, names and values as they are.
type Fields<'f> = &'f [(&'f str, &'f [u8])];

/// What the server answers to a request that is written frame by frame: the body of its answer, or how it gave up.
async fn ask_http_2(app: &App, fields: Fields<'_>, trailers: Fields<'_>) -> Result<String, &'static str> {
    let request = [(":method", &b"GET"[..]), (":scheme", b"http"), (":authority", b"app.example")];
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let ends = trailers.is_empty();
    bytes.extend(headers_frame(&[&request, fields].concat(), ends));
    if !ends {
        bytes.extend(headers_frame(trailers, true));
    }
    let mut stream = tokio::net::TcpStream::connect(app.address()).await.expect("accepts");
    stream.write_all(&bytes).await.expect("the server reads");
    let answered = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.expect("a whole frame");
            match head[3] {
                0 => return Ok(String::from_utf8(payload).expect("text")),
                3 => return Err("reset"),
                7 => return Err("goaway"),
                _ => {}
            }
        }
    };
    tokio::time::timeout(support::DEADLINE, answered).await.expect("an answer in time")
}

/// HEADERS of stream 1 (RFC 9113 section 6.2), without Huffman codes or indexing (RFC 7541 section 6.2.2).
fn headers_frame(fields: Fields<'_>, ends: bool) -> Vec<u8> {
    let text = |text: &[u8]| [&[u8::try_from(text.len()).ok().filter(|n| *n < 127).expect("short")], text].concat();
    let block: Vec<u8> =
        fields.iter().flat_map(|(name, value)| [vec![0], text(name.as_bytes()), text(value)].concat()).collect();
    let [_, _, high, low] = u32::try_from(block.len()).expect("short").to_be_bytes();
    [vec![0, high, low, 1, if ends { 5 } else { 4 }, 0, 0, 0, 1], block].concat()
}

/// The same over HTTP/2, where names and values come by other code: two values, aliases, bad bytes; what nominates is no
/// request there, and trailers come too late to say anything.
#[tokio::test]
async fn http_2_knows_no_way_around() {
    bounded(async {
        let (_nats, app) = started(|config| config.server("h2c = true\n")).await;
        let ask = async |fields: Fields<'_>, trailers: Fields<'_>| {
            let fields = [&[(":path", &b"/events"[..])], fields].concat();
            ask_http_2(&app, &fields, trailers).await
        };
        let user = ("x-forwarded-user", &b"alice"[..]);
        let opened = ask(&[user], &[]).await.expect("an answer");
        assert!(opened.starts_with("event: sidestream.connected"), "{opened}");
        let refused: [(Fields<'_>, &str); 7] = [
            (&[], "identity_missing"),
            (&[user, ("x-forwarded-user", b"bob")], "identity_ambiguous"),
            (&[user, user], "identity_ambiguous"),
            (&[("x-forwarded-user", b"alice,bob")], "identity_ambiguous"),
            (&[user, ("x_forwarded_user", b"bob")], "header_alias"),
            (&[("x-forwarded-user", b"al\xffice")], "identity_invalid"),
            (&[("x-forwarded-user", b"")], "identity_invalid"),
        ];
        for (fields, code) in refused {
            let answer = ask(fields, &[]).await.expect("an answer");
            assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{fields:?}: {answer}");
        }
        for malformed in [
            ("connection", &b"x-forwarded-user"[..]),
            ("proxy-connection", b"x-forwarded-user"),
            ("keep-alive", b"x-forwarded-user"),
            ("X-Forwarded-User", b"bob"),
            ("x-forwarded-user ", b"bob"),
            ("x-forwarded-user", b"bob\0"),
            ("x-forwarded-user", b"a\r\nx: y"),
        ] {
            let answer = ask(&[user, malformed], &[]).await;
            assert!(answer.is_err(), "{malformed:?}: {answer:?}");
        }
        // Trailers are a body, and bodies are not read.
        for (fields, trailers) in
            [(&[("trailer", &b"x-forwarded-user"[..])][..], &[user][..]), (&[user], &[("x-forwarded-user", b"bob")])]
        {
            let answer = ask(fields, trailers).await;
            assert!(answer.as_ref().is_ok_and(|answer| answer.contains("body_not_allowed")), "{answer:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn values_outside_the_grammar_are_refused() {
    bounded(async {
        let (_nats, app) = app(LOOPBACK).await;
        let long = "x".repeat(129);
        let ours: [&[u8]; 9] =
            [b"", b"al\tice", b"\xff", "a\u{200b}b".as_bytes(), long.as_bytes(), b"al ice", b"a.b", b"a*", b">"];
        for value in ours {
            let answer = app.ask(get("/events").header("X-Forwarded-User", value)).await;
            answer.is_refusal(400, "identity_invalid");
        }
        app.ask(get("/events").user("$JS")).await.is_refusal(400, "identity_invalid");
        // hyper answers these itself, perhaps without a body.
        for value in [&b"a\x1bb"[..], b"a\x7fb", b"a\0b", b"a\x01"] {
            let answer = app.ask(get("/events").header("X-Forwarded-User", value)).await;
            assert_eq!(answer.head.status, 400, "{}", value.escape_ascii());
        }
        // The edge of what is allowed, and no case folding.
        for value in ["a", &"x".repeat(128), "alice@example-com", "Alice", "u:1_2~3"] {
            app.stream(get("/events").user(value)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_shared_secret_proves_the_proxy_and_two_may_rotate() {
    bounded(async {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (old, new) = (dir.path().join("old"), dir.path().join("new"));
        std::fs::write(&old, "correct-horse-battery-staple\n").expect("written");
        std::fs::write(&new, "another-secret-of-some-length").expect("written");
        let trust = format!("proxies = [\"127.0.0.1\"]\nsecret_files = [{old:?}, {new:?}]\n");
        let (_nats, app) = app(Some(&trust)).await;
        let with = |secret: &str| get("/events").user("alice").header("X-Sidestream-Secret", secret);

        for secret in ["correct-horse-battery-staple", "another-secret-of-some-length"] {
            app.stream(with(secret)).await;
        }
        for secret in [
            "",
            "wrong",
            "correct-horse-battery-stapl",
            "correct-horse-battery-staplee",
            "Correct-horse-battery-staple",
            "correct-horse-battery-staple, another-secret-of-some-length",
        ] {
            app.ask(with(secret)).await.is_refusal(403, "untrusted_peer");
        }
        app.ask(get("/events").user("alice")).await.is_refusal(403, "untrusted_peer");
        let twice = with("wrong").header("X-Sidestream-Secret", "correct-horse-battery-staple");
        let status = app.ask(twice).await.head.status;
        assert!(matches!(status, 400 | 403), "two secrets: {status}");

        for canary in ["correct-horse", "another-secret"] {
            let leaked = app.log_lines().into_iter().find(|line| line.contains(canary));
            assert_eq!(leaked, None, "a secret is in the log");
            assert!(!app.admin_get("/metrics").await.text().contains(canary), "a secret is in the metrics");
            assert!(!app.admin_get("/config").await.text().contains(canary), "a secret is in /config");
        }
    })
    .await;
}

#[tokio::test]
async fn the_uid_of_the_peer_proves_the_proxy_on_a_unix_socket() {
    bounded(async {
        let uid = rustix::process::getuid().as_raw();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = format!("unix:{}", dir.path().join("http.sock").display());
        let trust = format!("proxies = [\"unix\"]\npeer_uids = [{uid}]\n");
        let (_nats, app) = started(|c| c.listen(&[&socket]).trust(Some(&trust))).await;
        assert_eq!(app.address(), socket);
        app.events("alice").await;
    })
    .await;
}

#[tokio::test]
async fn another_uid_on_the_unix_socket_is_closed_before_its_request_is_read() {
    bounded(async {
        let other = rustix::process::getuid().as_raw() + 4242;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let socket = format!("unix:{}", dir.path().join("http.sock").display());
        let trust = format!("proxies = [\"unix\"]\npeer_uids = [{other}]\n");
        let (_nats, app) = started(|c| c.listen(&[&socket]).trust(Some(&trust))).await;
        // Nothing is sent: whoever closes first did not wait for a request.
        let mut silent = Wire::tcp(app.address()).await;
        assert_eq!(silent.read_to_end().await, b"");
        let mut asking = Wire::tcp(app.address()).await;
        asking.send_anyway(&get("/events").user("admin").bytes()).await;
        assert_eq!(asking.read_to_end().await, b"", "an answer although the peer is not allowed");
    })
    .await;
}

#[tokio::test]
async fn forwarding_headers_decide_nothing() {
    bounded(async {
        let (nats, app) = app(LOOPBACK).await;
        let publisher = nats.publisher().await;
        let request = ["X-Forwarded-Uri", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Original-URL", "X-Rewrite-URL"]
            .iter()
            .fold(get("/events").user("alice"), |request: Request, name| request.header(name, "/admin?user=bob"));
        let mut alice: Sse = app.stream(request.header("X-Forwarded-For", "203.0.113.9")).await;
        publisher.publish("events.user.bob.note", "bob's").await;
        publisher.publish("events.user.alice.note", "marker").await;
        alice.nothing_before("marker").await;
        // Nor does anything in the URL name a user.
        for query in ["user=admin", "token=admin", "x-forwarded-user=admin", "access_token=admin"] {
            app.ask(get(&format!("/events?{query}"))).await.is_refusal(401, "identity_missing");
        }
        let leaked = app.log_lines().into_iter().find(|line| line.contains("access_token"));
        assert_eq!(leaked, None, "a query string is in the log");
    })
    .await;
}

#[tokio::test]
async fn an_identity_that_expires_at_the_end_of_time_streams() {
    bounded(async {
        let (nats, app) = started(|mut c| {
            c.identity = "expires_header = \"X-Expires\"\n".to_owned();
            c
        })
        .await;
        let publisher = nats.publisher().await;
        for expires in ["18446744073709551615", "18446744073709551", "9223372036854775807", "253402300800"] {
            let mut alice = app.stream(get("/events").user("alice").header("X-Expires", expires)).await;
            publisher.publish("events.user.alice.note", expires).await;
            assert_eq!(alice.event().await.data, expires);
        }
        assert!(app.metric("sidestream_panics_total", &[]).await < 0.5, "a contained panic");
        app.ask(get("/events").user("alice").header("X-Expires", "1")).await.is_refusal(401, "identity_expired");
        let beyond = get("/events").user("alice").header("X-Expires", "18446744073709551616");
        app.ask(beyond).await.is_refusal(400, "identity_invalid");
    })
    .await;
}

#[tokio::test]
async fn authorisation_is_by_token_and_never_by_prefix() {
    bounded(async {
        let route = "\n[[route]]\npath = \"/select\"\nstream = \"EVENTS\"\nsubjects = [\"events.user.{user}.>\"]\nselect = true\n";
        let (nats, app) = started(|c| c.tables(route)).await;
        let publisher = nats.publisher().await;
        let select = |subject: &str| get(&format!("/select?subject={subject}")).user("alice");
        let mut narrowed = app.stream(select("events.user.alice.orders.%3E")).await;
        publisher.publish("events.user.alice.chat.1", "not selected").await;
        publisher.publish("events.user.alice.orders.1", "selected").await;
        narrowed.nothing_before("selected").await;
        for foreign in ["events.user.alice2.x", "events.user.%3E", "events.%2A.alice.x", "%3E", "events.user.bob.x"] {
            app.ask(select(foreign)).await.is_refusal(403, "subject_denied");
        }
    })
    .await;
}

#[tokio::test]
async fn the_configuration_without_proof_does_not_start() {
    bounded(async {
        let trusts = [
            "proxies = [\"127.0.0.1\"]\n",
            "proxies = [\"0.0.0.0/0\"]\naddress_is_proof = true\n",
            "proxies = [\"::/0\"]\naddress_is_proof = true\n",
            "proxies = []\naddress_is_proof = true\n",
            "address_is_proof = true\n",
            "proxies = [\"unix\"]\n",
            "proxies = [\"127.0.0.1\"]\nsecret_files = []\n",
            "proxies = [\"127.0.0.1\"]\nsecret_header = \"X-Secret\"\n",
        ];
        for trust in trusts {
            let mut app = App::spawn(&Config::at("nats://127.0.0.1:1").trust(Some(trust)), |serve| serve);
            let status = app.exit(support::DEADLINE).await;
            assert_eq!(status.code(), Some(78), "{trust:?}: {:?}", app.log_lines());
            // The key is named. What was written before the end may be read after it.
            app.logs("trust", support::DEADLINE).await;
            let log = app.log_lines().join("\n");
            assert!(!log.contains("\"Listening\""), "{trust:?}: something was bound");
        }
    })
    .await;
}

/// Nothing that a client sends is in the log, at any level: queries above all (requirement R14), and what may be a secret.
#[tokio::test]
async fn what_clients_send_is_never_logged() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let live = "\n[[route]]\npath = \"/live/{room}\"\nlive_subjects = [\"live.{user}.{room}\"]\n";
        let mut config = Config::on(&nats).tables(live).server("h2c = true\n");
        config.identity = EVERY_HEADER.replace("claims_header = \"X-Claims\"\n", "");
        let mut app = App::spawn(&config, |mut serve| {
            serve.args(["--log-level", "trace"]);
            serve
        });
        app.announced(1).await;
        app.ready().await;
        let secrets = |request: Request| {
            let request =
                request.header("Cookie", "session=canary-cookie").header("Authorization", "Bearer canary-bearer");
            request.header("X-Forwarded-For", "203.0.113.9, canary-address").header("Referer", "/?canary-referer")
        };
        for target in
            ["/events?access_token=canary-query", "/live/canary-capture?canary-query", "/canary-path?canary-query=1"]
        {
            for method in ["GET", "HEAD", "OPTIONS", "POST"] {
                let mut wire = Wire::tcp(app.address()).await;
                wire.send(&secrets(Request::new(method, target)).user("canary-user").bytes()).await;
                wire.head().await;
            }
        }
        for request in [
            get("/events").user("canary-user").user("canary-user"),
            get("/events").user("canary-user b"),
            get("/events").user("alice").header("X_Tenant", "canary-alias"),
            get("/events").user("alice").header("X-Tenant", "canary.tenant"),
            get("/events").user("alice").header("X-Subjects", "canary.subject"),
            get("/events").user("alice").header("Last-Event-ID", "canary\u{e9}"),
            get("/events?subject=canary&subject=%ff").user("alice"),
            get("/events").user("alice").header("Host", "canary.example"),
            get("/events").user("alice").header("Origin", "https://canary.example"),
        ] {
            assert_ne!(app.ask(request).await.head.status, 200);
        }
        // What the parsers themselves refuse.
        for head in [
            "GET /events?canary-query\x7f HTTP/1.1\r\n\r\n",
            "GET /events HTTP/1.1\r\ncanary header\r\n\r\n",
            "canary\r\n\r\n",
        ] {
            app.ask_raw(head.as_bytes()).await;
        }
        let (path, user) =
            ((":path", &b"/events?access_token=canary-query"[..]), ("x-forwarded-user", &b"canary-user"[..]));
        let cookie = ("cookie", &b"session=canary-cookie"[..]);
        for fields in [
            &[path, user, cookie][..],
            &[path, ("x-forwarded-user", b"canary-user\x01")],
            &[path, ("connection", b"canary")],
            &[path, ("canary header", b"canary")],
            &[path, path],
            &[(":path", b"/events?access_token=canary-query<\x7f")],
            &[(":path", b"canary-path")],
            &[path, (":status", b"200")],
        ] {
            let _ = ask_http_2(&app, fields, &[]).await;
        }
        let mut sse = app.stream(secrets(get("/live/canary-capture?canary-query")).user("canary-user")).await;
        nats.publisher().await.publish_core("live.canary-user.canary-capture", "canary-payload").await;
        assert_eq!(sse.event().await.data, "canary-payload");
        drop(sse);
        app.logs("Stream closed", support::DEADLINE).await;
        app.terminate();
        app.exit(support::DEADLINE).await;

        let log = app.log_lines();
        assert!(log.iter().any(|line| line.contains("\"DEBUG\"")), "nothing was written: nothing was shown");
        let leaked: Vec<_> = log.iter().filter(|line| line.contains("canary")).take(5).collect();
        assert!(leaked.is_empty(), "{leaked:#?}");
    })
    .await;
}

#[tokio::test]
async fn who_was_believed_and_who_was_not_is_counted() {
    bounded(async {
        let (_nats, app) = app(LOOPBACK).await;
        app.stream(get("/events").user("alice")).await;
        app.ask(get("/events").user("alice").user("bob")).await.is_refusal(400, "identity_ambiguous");
        let metrics = app.metrics().await;
        for (name, label, value) in [
            ("sidestream_identities_total", ("proof", "address"), 1.0),
            ("sidestream_identities_total", ("proof", "secret"), 0.0),
            ("sidestream_requests_refused_total", ("code", "identity_ambiguous"), 1.0),
            ("sidestream_requests_refused_total", ("code", "untrusted_peer"), 0.0),
        ] {
            assert!((metrics.sum(name, &[label]) - value).abs() < 0.5, "{name}{label:?}");
        }
    })
    .await;
}
