//! TLS on the public listener: 1.3, HTTP/1.1 and HTTP/2 by ALPN, and nothing else.

mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use support::tls::Certificate;
use support::{App, Config, DEADLINE, Nats, Sse, Version, Wire, client, get, h2, on_both_servers};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

struct Served {
    nats: Nats,
    app: App,
    certificate: Certificate,
}

impl Served {
    async fn start(version: Version) -> Self {
        Self::with(version, "2s", |config| config).await
    }

    async fn with(version: Version, header_timeout: &str, change: impl FnOnce(Config) -> Config) -> Self {
        let nats = Nats::start(version).await;
        nats.events().await;
        let certificate = Certificate::new();
        let server = format!("header_timeout = {header_timeout:?}\n{}", certificate.table());
        let app = App::start(&change(Config::on(&nats).server(&server))).await;
        Self { nats, app, certificate }
    }

    async fn handshake(&self, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        self.handshake_over(TcpStream::connect(self.app.address()).await.expect("accepts"), alpn).await
    }

    async fn handshake_over(&self, stream: TcpStream, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        self.certificate.handshake(stream, alpn).await
    }
}

fn h2_request() -> hyper::Request<Empty<Bytes>> {
    h2::request("/events", "alice")
}

async fn h2_client(served: &Served) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let stream = served.handshake(&["h2"]).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    h2::over(stream).await
}

on_both_servers! {
    async fn http_1_1_over_tls_1_3(version: Version) {
        let served = Served::start(version).await;
        let publisher = served.nats.publisher().await;
        for alpn in [&["http/1.1"][..], &[]] {
            let stream = served.handshake(alpn).await.expect("a handshake");
            let session = stream.get_ref().1;
            assert_eq!(session.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            // The client would rather have AES-256, whose handshake costs the server more.
            let suite = session.negotiated_cipher_suite().map(|suite| suite.suite());
            assert_eq!(suite, Some(rustls::CipherSuite::TLS13_AES_128_GCM_SHA256));
            let mut sse = Sse::open(Wire::over(stream), &get("/events").user("alice")).await;
            publisher.publish("events.user.alice.note", "over TLS").await;
            assert_eq!(sse.event().await.data, "over TLS");
            publisher.publish("events.user.alice.note", "x".repeat(200_000)).await;
            assert_eq!(sse.event().await.data.len(), 200_000);
        }
    }

    async fn http_2_by_alpn(version: Version) {
        let served = Served::start(version).await;
        let publisher = served.nats.publisher().await;
        let mut sender = h2_client(&served).await;
        let mut streams = Vec::new();
        for _ in 0..10 {
            let answer = sender.send_request(h2_request()).await.expect("an answer");
            assert_eq!(answer.status(), 200);
            let header = |name: &str| answer.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
            assert_eq!(header("content-type").as_deref(), Some("text/event-stream"));
            assert_eq!(header("cache-control").as_deref(), Some("no-store, no-transform"));
            let mut events = h2::Events::of(answer.into_body());
            let connected = events.next().await;
            assert_eq!(connected.name, "sidestream.connected");
            assert!(connected.id.is_some());
            streams.push(events);
        }
        publisher.publish("events.user.bob.note", "bob's").await;
        publisher.publish("events.user.alice.note", "over HTTP/2").await;
        for events in &mut streams {
            assert_eq!(events.next().await.data, "over HTTP/2");
        }
        // More than any window or buffer on the way; all read at once, as they share the connection's window.
        publisher.publish("events.user.alice.note", "x".repeat(900_000)).await;
        for event in futures_util::future::join_all(streams.iter_mut().map(h2::Events::next)).await {
            assert!(event.data == "x".repeat(900_000), "a large event is not whole");
        }
        assert!((served.app.metric("sidestream_connections_total", &[("proto", "h2")]).await - 10.0).abs() < 0.5);
        // One stream goes, its siblings stay; then all go.
        streams.pop();
        served.app.metric_is("sidestream_connections", &[], 9.0, DEADLINE).await;
        publisher.publish("events.user.alice.note", "still").await;
        for events in &mut streams {
            assert_eq!(events.next().await.data, "still");
        }
        drop((streams, sender));
        served.app.metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
    }

    async fn http_2_resumes_and_refuses_like_http_1(version: Version) {
        let served = Served::start(version).await;
        let publisher = served.nats.publisher().await;
        let mut sender = h2_client(&served).await;
        let mut first = h2::Events::of(sender.send_request(h2_request()).await.expect("an answer").into_body());
        let cursor = first.next().await.id.expect("a cursor");
        drop(first);
        publisher.publish("events.user.alice.note", "missed").await;
        let mut request = h2_request();
        request.headers_mut().insert("last-event-id", cursor.parse().expect("a header value"));
        let mut again = h2::Events::of(sender.send_request(request).await.expect("an answer").into_body());
        assert_eq!(support::json(&again.next().await)["resume"], "exact");
        assert_eq!(again.next().await.data, "missed");

        let mut nobody = h2_request();
        nobody.headers_mut().remove("x-forwarded-user");
        let mut twice = h2_request();
        twice.headers_mut().append("x-forwarded-user", "bob".parse().expect("a header value"));
        let mut nowhere = h2_request();
        *nowhere.uri_mut() = "https://app.example/nothing".parse().expect("a URI");
        for (request, status) in [(nobody, 401), (twice, 400), (nowhere, 404)] {
            assert_eq!(sender.send_request(request).await.expect("an answer").status(), status);
        }
    }
}

#[tokio::test]
async fn a_stream_outlives_its_keys() {
    support::bounded(async {
        let served = Served::start(Version::Current).await;
        let publisher = served.nats.publisher().await;
        let mut stream = served.handshake(&["http/1.1"]).await.expect("a handshake");
        stream.write_all(&get("/events").user("alice").bytes()).await.expect("the server reads");
        served.app.metric_is("sidestream_connections", &[], 1.0, DEADLINE).await;
        let (mut got, mut part) = (Vec::new(), vec![0; 8192]);
        for round in 0..40 {
            // Each is to be answered before the next event (RFC 8446 section 4.6.3). A peer that says nothing else may ask
            // some thirty times.
            if round < 30 {
                stream.get_mut().1.refresh_traffic_keys().expect("TLS 1.3");
                stream.flush().await.expect("the server reads");
            }
            let data = format!("number {round} of many");
            publisher.publish("events.user.alice.note", data.clone()).await;
            while memchr::memmem::find(&got, data.as_bytes()).is_none() {
                let read = tokio::time::timeout(DEADLINE, stream.read(&mut part)).await.expect("bytes in time");
                let n = read.expect("the stream goes on");
                assert_ne!(n, 0, "the stream ended in round {round}");
                got.extend_from_slice(&part[..n]);
            }
        }
    })
    .await;
}

#[tokio::test]
async fn an_unknown_protocol_is_refused_in_the_handshake() {
    support::bounded(async {
        let served = Served::start(Version::Current).await;
        for alpn in [&["spdy/3"][..], &["http/1.0"], &["h2c"]] {
            let refused = served.handshake(alpn).await.expect_err("no common protocol");
            assert!(refused.to_string().contains("NoApplicationProtocol"), "{refused}");
        }
        served.handshake(&["spdy/3", "http/1.1"]).await.expect("a common protocol");
    })
    .await;
}

#[tokio::test]
async fn plain_bytes_on_the_tls_port_get_no_answer_and_harm_nobody() {
    support::bounded(async {
        let served = Served::start(Version::Current).await;
        for bytes in
            [get("/events").user("alice").bytes(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), vec![0x16, 3, 1]]
        {
            let mut wire = Wire::tcp(served.app.address()).await;
            wire.send_anyway(&bytes).await;
            let answer = wire.read_to_end().await;
            // A TLS alert is allowed (content type 21); HTTP is not.
            assert!(answer.first().is_none_or(|kind| *kind == 21), "{}", answer.escape_ascii());
        }
        served.handshake(&["http/1.1"]).await.expect("a handshake");
    })
    .await;
}

#[tokio::test]
async fn a_large_event_on_a_slow_line_counts_as_progress() {
    support::bounded(async {
        const BYTES: usize = 900_000;
        let write_timeout = Duration::from_secs(4);
        let served = Served::with(Version::Current, "2s", |c| c.limit("write_timeout", "\"4s\"")).await;
        let publisher = served.nats.publisher().await;
        let line = client::narrow(served.app.address()).await;
        let mut stream = served.handshake_over(line, &["http/1.1"]).await.expect("a handshake");
        stream.write_all(&get("/events").user("alice").bytes()).await.expect("the server reads");
        served.app.metric_is("sidestream_connections", &[], 1.0, DEADLINE).await;
        publisher.publish("events.user.alice.note", "x".repeat(BYTES)).await;
        publisher.publish("events.user.alice.note", "the end").await;
        let (started, mut got, mut part) = (Instant::now(), Vec::new(), vec![0; 8192]);
        while memchr::memmem::find(&got, b"the end").is_none() {
            // 100 kB a second: the line itself, and nothing that a test waits for.
            tokio::time::sleep(Duration::from_millis(80)).await;
            let n = tokio::time::timeout(DEADLINE, stream.read(&mut part)).await.expect("bytes in time").unwrap_or(0);
            assert_ne!(n, 0, "the stream ended after {} bytes and {:?}", got.len(), started.elapsed());
            got.extend_from_slice(&part[..n]);
        }
        assert!(started.elapsed() > write_timeout, "the line was too fast to show anything");
        assert!(memchr::memmem::find(&got, "x".repeat(BYTES).as_bytes()).is_some(), "the event is not whole");
        assert!(served.app.metric("sidestream_connections_closed_total", &[]).await < 0.5, "a stream ended");
    })
    .await;
}

#[tokio::test]
async fn peers_that_never_begin_a_handshake_delay_nobody_elses() {
    support::bounded(async {
        const SILENT: usize = 500;
        let served = Served::with(Version::Current, "30s", |c| c).await;
        let connecting = (0..SILENT).map(|_| TcpStream::connect(served.app.address()));
        let silent = futures_util::future::try_join_all(connecting).await.expect("accepts");
        support::eventually("every silent peer is accepted", DEADLINE, async || {
            (served.app.metric("sidestream_tasks", &[]).await > 499.5).then_some(())
        })
        .await;
        // Several, so that each shard has to answer.
        for _ in 0..8 {
            let started = Instant::now();
            served.handshake(&["http/1.1"]).await.expect("a handshake");
            assert!(started.elapsed() < Duration::from_secs(1), "a handshake took {:?}", started.elapsed());
        }
        drop(silent);
    })
    .await;
}

#[tokio::test]
async fn handshakes_that_stop_after_a_byte_delay_nobody_elses() {
    support::bounded(async {
        let served = Served::with(Version::Current, "10s", |config| config).await;
        // More than all shards of two cores begin at the same time.
        let mut begun = Vec::new();
        for _ in 0..800 {
            let mut stream = TcpStream::connect(served.app.address()).await.expect("accepts");
            stream.write_all(&[0x16]).await.expect("sent");
            begun.push(stream);
        }
        let started = Instant::now();
        served.handshake(&["http/1.1"]).await.expect("a handshake");
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    })
    .await;
}
