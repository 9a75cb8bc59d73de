//! Spans: the real program, built with the feature `otel`, and a collector.

#[path = "otel/collector.rs"]
mod collector;
mod support;

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use collector::{Collector, attributes};
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use opentelemetry_proto::tonic::trace::v1::status::StatusCode;
use support::ports::free_port;
use support::tls::Certificate;
use support::{App, Config, DEADLINE, Nats, Request, Version, Wire, bounded, get, h2};
use tokio::net::TcpListener;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";
/// Nothing ends of itself within a test: ten minutes, in milliseconds.
const NEVER: &str = "600000";

/// The program with these variables, ready.
async fn with(config: &Config, variables: &[(&str, &str)]) -> App {
    let app = App::launch(config, |mut serve: Command| {
        serve.envs(variables.iter().copied());
        serve
    })
    .await;
    app.ready().await;
    app
}

/// The program, which sends its spans to this collector at once.
async fn told(config: &Config, collector: &Collector) -> App {
    with(config, &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url), ("OTEL_BSP_SCHEDULE_DELAY", "50")]).await
}

/// As a caller that records its trace, or does not.
fn traced(request: Request, flags: &str) -> Request {
    request.header("traceparent", format!("00-{TRACE}-{CALLER}-{flags}"))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Name, kind, and that it has ended: its times are in order and have passed.
#[track_caller]
fn is_served(span: &Span, name: &str, wanted: &[&str]) {
    assert_eq!((span.name.as_str(), span.kind()), (name, SpanKind::Server));
    assert_eq!(attributes(&span.attributes), wanted, "{name}");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    assert!(0 < span.start_time_unix_nano && span.start_time_unix_nano <= span.end_time_unix_nano, "{span:?}");
    assert!(u128::from(span.end_time_unix_nano) <= now, "{span:?}");
}

#[tokio::test]
async fn the_span_of_a_stream_ends_with_its_first_byte() {
    bounded(async {
        let (nats, collector) = (Nats::start(Version::Current).await, Collector::start().await);
        let publisher = nats.events().await;
        let app = told(&Config::on(&nats).server("h2c = true\n"), &collector).await;
        let request = get("/events?secret=in-the-query")
            .user("alice-the-user")
            .header("X-Forwarded-For", "192.0.2.7")
            .header("tracestate", "vendor=by-a-stranger");
        let mut stream = app.stream(traced(request, "01")).await;
        // The collector has it while the stream is open, as what comes afterwards shows.
        let span = collector.first(1).await.remove(0);
        publisher.publish("events.user.alice-the-user.x", "the payload").await;
        let event = stream.event().await;
        assert_eq!(event.data, "the payload");

        let mut wanted = vec![
            "client.address=192.0.2.7",
            "http.request.method=GET",
            "http.response.status_code=200",
            "http.route=/events",
            "network.protocol.version=1.1",
            "sidestream.resume=new",
        ];
        is_served(&span, "GET /events", &wanted);
        assert_eq!((hex(&span.trace_id).as_str(), hex(&span.parent_span_id).as_str()), (TRACE, CALLER));
        assert_eq!(span.trace_state, "");
        let resource = attributes(&collector.resource().attributes);
        for wanted in ["service.name=sidestream", concat!("service.version=", env!("CARGO_PKG_VERSION"))] {
            assert!(resource.iter().any(|attribute| attribute == wanted), "{resource:?}");
        }

        // Over HTTP/2, resumed, by a proxy that does not tell whom it speaks for.
        let mut request = h2::request("/events", "alice-the-user");
        let id = event.id.expect("events of a stream have one");
        request.headers_mut().insert("last-event-id", id.parse().expect("visible ASCII"));
        let mut sender = h2::tcp(app.address()).await;
        let answer = sender.send_request(request).await.expect("answered");
        assert_eq!(answer.status(), 200);
        let span = collector.first(2).await.remove(1);
        wanted.splice(4.., ["network.protocol.version=2", "sidestream.resume=exact"]);
        is_served(&span, "GET /events", &wanted[1..]);
        assert!(span.parent_span_id.is_empty() && hex(&span.trace_id) != TRACE, "nobody told of a trace");

        for secret in ["alice-the-user", "in-the-query", "events.user", "by-a-stranger", "the payload", id.as_str()] {
            assert!(!collector.was_told(secret), "{secret}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_that_is_answered_has_its_status_and_why_it_was_refused() {
    bounded(async {
        let (nats, collector) = (Nats::start(Version::Current).await, Collector::start().await);
        nats.events().await;
        let app = told(&Config::on(&nats).limit("connections", "1"), &collector).await;
        app.ask(get("/nowhere")).await.is_refusal(404, "not_found");
        app.ask(get("/events")).await.is_refusal(401, "identity_missing");
        app.ask(Request::new("FORGED", "/events").user("alice")).await.is_refusal(405, "method_not_allowed");
        let mut wire = Wire::tcp(app.address()).await;
        wire.send(&Request::new("HEAD", "/events").user("alice").bytes()).await;
        assert_eq!(wire.head().await.status, 200);
        let _open = app.events("alice").await;
        app.ask(get("/events").user("alice")).await.is_soft_refusal("connections");

        let spans = collector.first(6).await;
        let wanted = [
            ("GET", "GET", 404, "sidestream.refused=not_found"),
            ("GET /events", "GET", 401, "sidestream.refused=identity_missing"),
            ("HTTP /events", "_OTHER", 405, "sidestream.refused=method_not_allowed"),
            ("HEAD /events", "HEAD", 200, ""),
            ("GET /events", "GET", 200, "sidestream.resume=new"),
            ("GET /events", "GET", 200, "sidestream.refused=connections"),
        ];
        assert_eq!(spans.len(), wanted.len());
        for (span, (name, method, status, more)) in spans.iter().zip(wanted) {
            let method = format!("http.request.method={method}");
            let status = format!("http.response.status_code={status}");
            let route = name.contains("/events").then_some("http.route=/events");
            let mut wanted = vec![method.as_str(), status.as_str()];
            wanted.extend(route);
            wanted.push("network.protocol.version=1.1");
            wanted.extend(Some(more).filter(|more| !more.is_empty()));
            is_served(span, name, &wanted);
            assert!(span.status.as_ref().is_none_or(|status| status.code() == StatusCode::Unset), "{span:?}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_caller_that_records_nothing_is_not_recorded() {
    bounded(async {
        let (nats, collector) = (Nats::start(Version::Current).await, Collector::start().await);
        nats.events().await;
        let app = told(&Config::on(&nats), &collector).await;
        for path in ["/unrecorded", "/recorded"] {
            let flags = if path == "/recorded" { "01" } else { "00" };
            app.ask(traced(get(path), flags)).await.is_refusal(404, "not_found");
        }
        // What is no traceparent, and two of them, are none.
        app.ask(get("/x").header("traceparent", format!("00-{TRACE}-xyz-01"))).await.is_refusal(404, "not_found");
        app.ask(traced(traced(get("/x"), "01"), "01")).await.is_refusal(404, "not_found");
        let spans = collector.first(3).await;
        let parents: Vec<_> = spans.iter().map(|span| hex(&span.parent_span_id)).collect();
        assert_eq!(parents, [CALLER, "", ""]);
        assert!(spans[1..].iter().all(|span| hex(&span.trace_id) != TRACE));
    })
    .await;
}

#[tokio::test]
async fn what_waits_at_the_end_is_sent() {
    bounded(async {
        let (nats, collector) = (Nats::start(Version::Current).await, Collector::start().await);
        nats.events().await;
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", NEVER),
            ("OTEL_SERVICE_NAME", "events-of-the-shop"),
        ];
        let mut app = with(&Config::on(&nats), &variables).await;
        let stream = app.events("alice").await;
        assert_eq!(collector.spans(), []);
        app.terminate();
        assert!(app.exit(DEADLINE).await.success());
        drop(stream);
        assert_eq!(collector.spans().len(), 1);
        let resource = attributes(&collector.resource().attributes);
        assert!(resource.contains(&"service.name=events-of-the-shop".to_owned()), "{resource:?}");
        assert!(!app.log_lines().iter().any(|line| line.contains("Spans were not exported")));
    })
    .await;
}

#[tokio::test]
async fn a_collector_that_hangs_holds_up_nothing() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", silent.local_addr().expect("bound"));
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_EXPORTER_OTLP_TIMEOUT", NEVER),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "8"),
            ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2"),
        ];
        let mut app = with(&Config::on(&nats), &variables).await;
        let mut stream = app.events("alice").await;
        let _asked = silent.accept().await.expect("spans are to be sent");
        // Many more than there is room for.
        for _ in 0..50 {
            app.ask(get("/nowhere")).await.is_refusal(404, "not_found");
        }
        publisher.publish("events.user.alice.x", "still here").await;
        assert_eq!(stream.event().await.data, "still here");
        app.terminate();
        assert!(app.exit(DEADLINE).await.success());
        let lost = app.log_json().into_iter().find(|line| line["message"] == "Spans were not exported");
        assert_eq!(lost.expect("told at the end")["lost"], 51);
    })
    .await;
}

#[tokio::test]
async fn a_collector_that_is_away_costs_a_line_and_its_spans() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let url = format!("http://127.0.0.1:{}", free_port());
        let headers = "authorization=the-key-of-the-collector";
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str()),
            ("OTEL_EXPORTER_OTLP_HEADERS", headers),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
        ];
        let mut app = with(&Config::on(&nats), &variables).await;
        app.ask(get("/nowhere")).await.is_refusal(404, "not_found");
        app.logs("The collector did not answer", DEADLINE).await;
        app.logs("The collector did not take spans", DEADLINE).await;
        app.terminate();
        assert!(app.exit(DEADLINE).await.success());
        let log = app.log_lines().concat();
        assert!(log.contains("Connection refused") && log.contains("\"lost\":1"), "{log}");
        assert!(!log.contains("the-key-of-the-collector"), "{log}");
    })
    .await;
}

#[tokio::test]
async fn spans_go_through_tls_to_a_collector_that_is_known() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let certificate = Certificate::new();
        let collector = Collector::secured(Some(&certificate)).await;
        let known = certificate.cert();
        let variables = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "50"),
            ("SSL_CERT_FILE", known.to_str().expect("UTF-8")),
        ];
        let app = with(&Config::on(&nats), &variables).await;
        app.ask(get("/nowhere")).await.is_refusal(404, "not_found");
        assert_eq!(collector.first(1).await[0].name, "GET");
    })
    .await;
}

/// The SDK's thread; the kernel keeps 15 bytes of its name.
fn sends_spans(app: &App) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", app.pid())).expect("the program runs");
    let names = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.into_iter().any(|name| name.trim() == "OpenTelemetry.T")
}

#[tokio::test]
async fn without_a_collector_there_is_not_even_a_thread() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let url = format!("http://127.0.0.1:{}", free_port());
        let at = ("OTEL_EXPORTER_OTLP_ENDPOINT", url.as_str());
        let config = Config::on(&nats);
        let with = async |variables: &[(&str, &str)]| {
            let app = with(&config, variables).await;
            app.ask(get("/nowhere")).await.is_refusal(404, "not_found");
            app
        };
        assert!(sends_spans(&with(&[at]).await), "the name by which it is looked for");
        let nowhere = ("OTEL_EXPORTER_OTLP_ENDPOINT", "");
        for variables in
            [&[][..], &[nowhere], &[at, ("OTEL_SDK_DISABLED", "true")], &[at, ("OTEL_TRACES_EXPORTER", "none")]]
        {
            let app = with(variables).await;
            assert!(!sends_spans(&app), "{variables:?}");
            assert!(!app.log_lines().iter().any(|line| line.contains("Spans")), "{variables:?}");
        }
        let app = with(&[at, ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]).await;
        assert!(!sends_spans(&app));
        app.logs("the protocol is http/protobuf only, not \\\"grpc\\\"", DEADLINE).await;
    })
    .await;
}
