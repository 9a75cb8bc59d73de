//! The admin listener: health that tells the truth, metrics that promtool accepts and that do not grow with traffic.

mod support;

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{App, Config, DEADLINE, Nats, Version, Wire, bounded, eventually, get};

async fn app() -> (Nats, App) {
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let app = App::start(&Config::on(&nats)).await;
    (nats, app)
}

#[tokio::test]
async fn health_and_version_answer() {
    bounded(async {
        let (_nats, app) = app().await;
        for path in ["/livez", "/readyz", "/readyz?verbose"] {
            assert_eq!(app.admin_get(path).await.head.status, 200, "{path}");
        }
        let version = app.admin_get("/version").await;
        assert_eq!(version.head.status, 200);
        assert!(version.text().contains(env!("CARGO_PKG_VERSION")), "{}", version.text());
        assert_eq!(app.admin_get("/nothing").await.head.status, 404);
        // Streams are on the public listener only.
        assert_eq!(app.admin_get("/events").await.head.status, 404);
    })
    .await;
}

#[tokio::test]
async fn draining_is_alive_and_not_ready() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let mut config = Config::on(&nats);
        config.drain_window = "3s";
        let mut app = App::start(&config).await;
        let _held = [app.events("a").await, app.events("b").await, app.events("c").await];
        app.terminate();
        eventually("/readyz says 503 during the drain", Duration::from_secs(2), async || {
            (app.admin_get("/readyz").await.head.status == 503).then_some(())
        })
        .await;
        assert_eq!(app.admin_get("/livez").await.head.status, 200);
        assert!(app.exit(Duration::from_secs(5)).await.success());
    })
    .await;
}

#[tokio::test]
async fn promtool_accepts_the_metrics() {
    bounded(async {
        let (nats, app) = app().await;
        let publisher = nats.publisher().await;
        let mut alice = app.events("alice").await;
        publisher.publish("events.user.alice.note", "one").await;
        alice.event().await;
        app.ask(get("/events")).await;
        is_accepted_by_promtool(&app.admin_get("/metrics").await.text());
    })
    .await;
}

fn is_accepted_by_promtool(text: &str) {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool starts (Debian: apt-get install prometheus; scripts/test does)");
    promtool.stdin.take().expect("stdin is piped").write_all(text.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{text}");
}

#[tokio::test]
async fn the_counters_count() {
    bounded(async {
        let (nats, app) = app().await;
        let publisher = nats.publisher().await;
        let (mut alice, mut bob) = (app.events("alice").await, app.events("bob").await);
        app.metric_is("sidestream_connections", &[], 2.0, DEADLINE).await;
        app.metric_is("sidestream_connections_total", &[("route", "/events"), ("proto", "h1")], 2.0, DEADLINE).await;
        publisher.publish("events.user.alice.note", "one").await;
        publisher.publish("events.broadcast.news", "two").await;
        alice.before("two").await;
        bob.before("two").await;
        app.metric_is("sidestream_events_received_total", &[], 2.0, DEADLINE).await;
        app.metric_is("sidestream_events_sent_total", &[], 3.0, DEADLINE).await;
        assert!(app.metric("sidestream_tasks", &[]).await >= 2.0);
        drop((alice, bob));
        app.metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
        app.metric_is("sidestream_connections_closed_total", &[("route", "/events")], 2.0, DEADLINE).await;
        app.metric_is("sidestream_subject_violations_total", &[], 0.0, DEADLINE).await;
    })
    .await;
}

#[tokio::test]
async fn the_number_of_series_does_not_grow_with_traffic() {
    bounded(async {
        let (nats, app) = app().await;
        let publisher = nats.publisher().await;
        let visit = async |user: String| {
            let mut sse = app.events(&user).await;
            publisher.publish_named(&format!("events.user.{user}.{user}"), &user, "x").await;
            sse.event().await;
            drop(sse);
            let stranger = get(&format!("/no-{user}?{user}={user}")).user(&user);
            app.ask(stranger.header("Origin", format!("https://{user}.example")).header("User-Agent", &user)).await;
        };
        visit("first".to_owned()).await;
        app.metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
        let before = app.metrics().await.series();
        let visitors = (0..20).map(async |batch| {
            for index in 0..250 {
                visit(format!("user{batch}x{index}")).await;
            }
        });
        futures_util::future::join_all(visitors).await;
        app.metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
        let metrics = app.metrics().await;
        assert_eq!(metrics.series(), before);
        assert!(metrics.series() <= 300, "{} series", metrics.series());
        assert!(!app.admin_get("/metrics").await.text().contains("user1"), "a user is in the metrics");
    })
    .await;
}

#[tokio::test]
async fn what_the_configuration_names_is_escaped_in_the_metrics() {
    bounded(async {
        let route = "\n[[route]]\npath = '/q\"uo\\te,x=\"'\nstream = 'S\"{},='\nsubjects = [\"a.{user}\"]\n";
        let app = App::bound(&Config::at("nats://127.0.0.1:1").tables(route)).await;
        let text = app.admin_get("/metrics").await.text();
        is_accepted_by_promtool(&text);
        assert!(text.contains(r#"sidestream_resumes_total{route="/q\"uo\\te,x=\"",outcome="new"} 0"#), "{text}");
        assert!(text.contains(r#"sidestream_stream_head{stream="S\"{},="} 0"#), "{text}");
    })
    .await;
}

#[tokio::test]
async fn a_page_that_took_over_the_loopback_name_is_not_answered() {
    support::bounded(async {
        let (_nats, app) = app().await;
        let asked = async |host: &str| {
            let mut wire = Wire::tcp(&app.admin).await;
            let request = format!("GET /connections HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
            wire.send(request.as_bytes()).await;
            wire.answer().await.head.status
        };
        for host in ["127.0.0.1", "127.0.0.1:9464", "localhost:9464", "[::1]:9464", "sidestream"] {
            assert_eq!(asked(host).await, 200, "{host}");
        }
        for host in ["evil.example", "evil.example:9464", "127.0.0.1.evil.example", "localhost.", "a b", "évil.example"]
        {
            assert_eq!(asked(host).await, 421, "{host}");
        }
    })
    .await;
}

#[tokio::test]
async fn silent_connections_do_not_take_every_descriptor() {
    support::bounded(async {
        let (_nats, app) = app().await;
        let before = app.descriptors();
        let mut silent = Vec::new();
        for _ in 0..100 {
            silent.push(Wire::tcp(&app.admin).await);
        }
        // Those that are let in are answered; the rest wait in the backlog.
        silent[0].send(b"GET /livez HTTP/1.1\r\nHost: admin\r\n\r\n").await;
        assert_eq!(silent[0].answer().await.head.status, 200);
        assert!(app.descriptors() <= before + 24, "{} and {before}", app.descriptors());
        drop(silent);
        app.ready().await;
    })
    .await;
}

#[tokio::test]
async fn who_asks_and_does_not_read_holds_the_listener_for_seconds_only() {
    support::bounded(async {
        let (_nats, app) = app().await;
        let mut deaf = Vec::new();
        for _ in 0..30 {
            let mut wire = Wire::narrow(&app.admin).await;
            wire.send_anyway(&b"GET /metrics HTTP/1.1\r\nHost: admin\r\n\r\n".repeat(200)).await;
            deaf.push(wire);
        }
        eventually("the listener answers", Duration::from_secs(12), async || {
            let asked = tokio::time::timeout(Duration::from_secs(1), app.admin_get("/livez")).await;
            asked.is_ok_and(|answer| answer.head.status == 200).then_some(())
        })
        .await;
        drop(deaf);
    })
    .await;
}
