//! Who may speak for a user: every proof, every spoof of the requirement table (R2-R8), and what becomes of it.

mod support;

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

#[tokio::test]
async fn alias_spellings_are_refused() {
    bounded(async {
        let (_nats, app) = app(LOOPBACK).await;
        for alias in ["X_Forwarded_User", "X.Forwarded.User", "x-forwarded_user", "x_forwarded-user"] {
            let request = get("/events").user("alice").header(alias, "admin");
            app.ask(request).await.is_refusal(400, "header_alias");
            app.ask(get("/events").header(alias, "admin")).await.is_refusal(400, "header_alias");
        }
    })
    .await;
}

#[tokio::test]
async fn a_header_nominated_by_connection_is_refused() {
    bounded(async {
        let (_nats, app) = app(LOOPBACK).await;
        for value in ["x-forwarded-user", "close, X-Forwarded-User", "keep-alive,X-FORWARDED-USER ,te"] {
            let request = get("/events").user("alice").header("Connection", value);
            app.ask(request).await.is_refusal(400, "hop_by_hop_identity");
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
async fn an_alias_of_the_secret_header_is_refused() {
    bounded(async {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = dir.path().join("secret");
        std::fs::write(&file, "correct-horse-battery-staple").expect("written");
        let (_nats, app) = app(Some(&format!("proxies = [\"127.0.0.1\"]\nsecret_files = [{file:?}]\n"))).await;
        let request = get("/events").user("alice").header("X-Sidestream-Secret", "correct-horse-battery-staple");
        app.ask(request.header("X_Sidestream_Secret", "x")).await.is_refusal(400, "header_alias");
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
