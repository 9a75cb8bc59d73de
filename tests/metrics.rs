//! What `/metrics` says, what `docs/metrics.md` says of it, and what alerts and the dashboard take from it.

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use sidestream::telemetry::metrics::names::{Kind, SECTIONS};
use sidestream::telemetry::metrics::reference;
use support::tls::Certificate;
use support::{App, Config, DEADLINE, Nats, Version, bounded, eventually, get, h2};

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn the_reference_is_what_the_table_says() {
    const FROM: &str = "<!-- made by: SIDESTREAM_WRITE_DOCS=1 cargo test --test metrics -->\n";
    const TO: &str = "<!-- end -->";
    let page = file("docs/metrics.md");
    let (before, rest) = page.split_once(FROM).expect("where the reference begins");
    let (_, after) = rest.split_once(TO).expect("where it ends");
    let made = format!("{before}{FROM}\n{}{TO}{after}", reference::markdown());
    if std::env::var_os("SIDESTREAM_WRITE_DOCS").is_some() {
        std::fs::write(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md"), &made).expect("can be written");
    } else {
        assert!(page == made, "docs/metrics.md is not what the table says: SIDESTREAM_WRITE_DOCS=1 writes it");
    }
}

/// Names of the table as they are scraped.
fn known() -> BTreeSet<String> {
    let metrics = SECTIONS.iter().flat_map(|section| section.metrics);
    metrics
        .flat_map(|metric| match metric.kind {
            Kind::Histogram => ["_bucket", "_sum", "_count"].map(|end| format!("{}{end}", metric.name)).to_vec(),
            Kind::Counter | Kind::Gauge => vec![metric.name.to_owned()],
        })
        .collect()
}

/// A program that has everything there is to be measured.
async fn everything(nats: &Nats) -> App {
    App::start(&Config::on(nats).server(&Certificate::new().table())).await
}

#[tokio::test]
async fn what_is_scraped_is_what_the_table_says() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = everything(&nats).await;
        let text = app.admin_get("/metrics").await.text();
        let scraped: BTreeSet<String> = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .map(|line| line.split(['{', ' ']).next().expect("a name").to_owned())
            .collect();
        assert_eq!(scraped, known());
    })
    .await;
}

#[tokio::test]
async fn streams_are_counted_and_timed() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let count = async |name: &str, wanted: f64| {
            app.metric_is(&format!("sidestream_{name}"), &[], wanted, DEADLINE).await;
        };
        let mut alice = app.events("alice").await;
        let bob = app.events("bob").await;
        let again = app.events("bob").await;
        // Each hears its own subjects and the broadcasts.
        count("subscriptions", 6.0).await;
        count("users", 2.0).await;
        count("time_to_first_byte_seconds_count", 3.0).await;
        publisher.publish("events.user.alice.x", "one").await;
        let one = alice.event().await;
        count("delivery_latency_seconds_count", 1.0).await;
        count("publish_to_socket_seconds_count", 1.0).await;
        // What nobody hears reaches no shard, and what took no socket took no time.
        publisher.publish("events.user.carol.x", "two").await;
        count("events_received_total", 2.0).await;
        count("delivery_latency_seconds_count", 1.0).await;
        let metrics = app.metrics().await;
        for name in ["delivery_latency_seconds", "publish_to_socket_seconds", "time_to_first_byte_seconds"] {
            let sum = metrics.sum(&format!("sidestream_{name}_sum"), &[]);
            assert!(0.0 < sum && sum < DEADLINE.as_secs_f64(), "{name}: {sum}");
        }
        drop((alice, bob, again));
        count("connection_duration_seconds_count", 3.0).await;
        count("client_queue_bytes_count", 3.0).await;
        count("subscriptions", 0.0).await;
        count("users", 0.0).await;
        count("resume_age_seconds_count", 0.0).await;
        let back = app
            .stream(get("/events").user("alice").header("Last-Event-ID", one.id.as_deref().unwrap_or_default()))
            .await;
        count("resume_age_seconds_count", 1.0).await;
        drop(back);
    })
    .await;
}

#[tokio::test]
async fn http2_streams_are_counted_and_timed_too() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats).server("h2c = true\n")).await;
        let mut sender = h2::tcp(app.address()).await;
        let answer = sender.send_request(h2::request("/events", "alice")).await.expect("an answer");
        assert_eq!(answer.status(), 200);
        app.metric_is("sidestream_time_to_first_byte_seconds_count", &[("route", "/events")], 1.0, DEADLINE).await;
        drop((answer, sender));
        app.metric_is("sidestream_connection_duration_seconds_count", &[("route", "/events")], 1.0, DEADLINE).await;
    })
    .await;
}

#[tokio::test]
async fn the_process_is_measured() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = everything(&nats).await;
        let metrics = app.metrics().await;
        let resident = metrics.sum("process_resident_memory_bytes", &[]);
        assert!((resident / app.resident() as f64 - 1.0).abs() < 0.5, "{resident} and {}", app.resident());
        assert!(metrics.sum("process_cpu_seconds_total", &[]) > 0.0);
        assert!(metrics.sum("process_cpu_seconds_total", &[]) <= app.cpu().as_secs_f64() + 0.1);
        // The scrape itself is a connection.
        let (open, before) = (metrics.sum("process_open_fds", &[]), app.descriptors() as f64);
        assert!((before - 3.0..=before + 3.0).contains(&open), "{open} and {before}");
        assert!(metrics.sum("process_max_fds", &[]) > open);
        let build = ("version", env!("CARGO_PKG_VERSION"));
        assert!(metrics.sum("sidestream_build_info", &[build, ("crypto", "aws-lc-rs")]) > 0.0);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970").as_secs_f64();
        for name in ["process_start_time_seconds", "sidestream_config_last_reload_timestamp_seconds"] {
            let at = metrics.sum(name, &[]);
            assert!(now - 60.0 < at && at <= now, "{name} {at}");
        }
        assert!(metrics.sum("sidestream_certificate_not_after_timestamp_seconds", &[]) > now);
        assert!(
            !App::start(&Config::on(&nats))
                .await
                .metrics()
                .await
                .has("sidestream_certificate_not_after_timestamp_seconds")
        );
    })
    .await;
}

#[tokio::test]
async fn readiness_is_what_readyz_says() {
    bounded(async {
        let mut nats = Nats::start(Version::Current).await;
        nats.events().await;
        let mut config = Config::on(&nats);
        config.drain_window = "3s";
        let mut app = App::start(&config).await;
        app.metric_is("sidestream_ready", &[], 1.0, DEADLINE).await;
        app.metric_is("sidestream_nats_core_connected", &[], 1.0, DEADLINE).await;
        let _held = [app.events("a").await, app.events("b").await, app.events("c").await];
        nats.kill();
        app.metric_is("sidestream_nats_connected", &[], 0.0, DEADLINE).await;
        app.metric_is("sidestream_nats_core_connected", &[], 0.0, DEADLINE).await;
        // Within the grace.
        app.metric_is("sidestream_ready", &[], 1.0, DEADLINE).await;
        app.metric_is("sidestream_nats_reconnects_total", &[], 0.0, DEADLINE).await;
        nats.restart().await;
        app.metric_is("sidestream_nats_connected", &[], 1.0, DEADLINE).await;
        // Of control, core subjects and the stream's feed.
        app.metric_is("sidestream_nats_reconnects_total", &[], 3.0, DEADLINE).await;
        app.terminate();
        app.metric_is("sidestream_ready", &[], 0.0, DEADLINE).await;
        assert_eq!(app.admin_get("/readyz").await.head.status, 503);
        assert!(app.exit(Duration::from_secs(8)).await.success());
    })
    .await;
}

#[tokio::test]
async fn the_leader_says_how_far_the_stream_is() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await.publish("events.user.a.x", "before the start").await;
        let app = App::start(&Config::on(&nats)).await;
        eventually("the leader has answered", DEADLINE, async || {
            (app.metric("sidestream_nats_rtt_seconds", &[("stream", "EVENTS")]).await > 0.0).then_some(())
        })
        .await;
        app.metric_is("sidestream_nats_lag_events", &[("stream", "EVENTS")], 0.0, DEADLINE).await;
        app.metric_is("sidestream_stream_head", &[("stream", "EVENTS")], 1.0, DEADLINE).await;
    })
    .await;
}
