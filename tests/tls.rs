//! TLS on the public listener: 1.3, HTTP/1.1 and HTTP/2 by ALPN, and nothing else.

mod support;

use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use support::{App, Config, DEADLINE, Event, Nats, Sse, Version, Wire, get, on_both_servers};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

struct Served {
    nats: Nats,
    app: App,
    certificate: CertificateDer<'static>,
    _dir: tempfile::TempDir,
}

impl Served {
    async fn start(version: Version) -> Self {
        let nats = Nats::start(version).await;
        nats.events().await;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        let made = rcgen::generate_simple_self_signed(vec!["app.example".to_owned()]).expect("a certificate");
        std::fs::write(&cert, made.cert.pem()).expect("written");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("written");
        let config = Config::on(&nats)
            .server(&format!("header_timeout = \"2s\"\n[server.tls]\ncert = {cert:?}\nkey = {key:?}\n"));
        let app = App::start(&config).await;
        Self { nats, app, certificate: made.cert.der().clone(), _dir: dir }
    }

    async fn handshake(&self, alpn: &[&str]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("our own certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let stream = TcpStream::connect(self.app.address()).await.expect("accepts");
        let name = ServerName::try_from("app.example").expect("a name");
        let connecting = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream);
        tokio::time::timeout(DEADLINE, connecting).await.expect("a handshake in time")
    }
}

fn h2_request() -> hyper::Request<Empty<Bytes>> {
    hyper::Request::get("https://app.example/events")
        .header("accept", "text/event-stream")
        .header("x-forwarded-user", "alice")
        .body(Empty::new())
        .expect("a request")
}

async fn h2_client(served: &Served) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let stream = served.handshake(&["h2"]).await.expect("a handshake");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("an HTTP/2 handshake");
    tokio::spawn(connection);
    sender
}

/// Events of an HTTP/2 body; one DATA frame may carry several.
#[derive(Default)]
struct H2Events {
    parser: sidestream::sse::Parser,
    read: std::collections::VecDeque<Event>,
}

impl H2Events {
    async fn next(&mut self, body: &mut hyper::body::Incoming) -> Event {
        while self.read.is_empty() {
            let frame = tokio::time::timeout(DEADLINE, body.frame()).await.expect("an event in time");
            let data = frame.expect("the stream goes on").expect("no error").into_data().expect("data");
            self.parser.feed(&data, |event| self.read.push_back(event));
        }
        self.read.pop_front().expect("not empty")
    }
}

on_both_servers! {
    async fn http_1_1_over_tls_1_3(version: Version) {
        let served = Served::start(version).await;
        let publisher = served.nats.publisher().await;
        for alpn in [&["http/1.1"][..], &[]] {
            let stream = served.handshake(alpn).await.expect("a handshake");
            assert_eq!(stream.get_ref().1.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
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
            let (mut body, mut events) = (answer.into_body(), H2Events::default());
            let connected = events.next(&mut body).await;
            assert_eq!(connected.name, "sidestream.connected");
            assert!(connected.id.is_some());
            streams.push((body, events));
        }
        publisher.publish("events.user.bob.note", "bob's").await;
        publisher.publish("events.user.alice.note", "over HTTP/2").await;
        for (body, events) in &mut streams {
            assert_eq!(events.next(body).await.data, "over HTTP/2");
        }
        assert!((served.app.metric("sidestream_connections_total", &[("proto", "h2")]).await - 10.0).abs() < 0.5);
        // One stream goes, its siblings stay; then all go.
        streams.pop();
        served.app.metric_is("sidestream_connections", &[], 9.0, DEADLINE).await;
        publisher.publish("events.user.alice.note", "still").await;
        for (body, events) in &mut streams {
            assert_eq!(events.next(body).await.data, "still");
        }
        drop((streams, sender));
        served.app.metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
    }

    async fn http_2_resumes_and_refuses_like_http_1(version: Version) {
        let served = Served::start(version).await;
        let publisher = served.nats.publisher().await;
        let mut sender = h2_client(&served).await;
        let mut first = sender.send_request(h2_request()).await.expect("an answer").into_body();
        let mut events = H2Events::default();
        let cursor = events.next(&mut first).await.id.expect("a cursor");
        drop(first);
        publisher.publish("events.user.alice.note", "missed").await;
        let mut request = h2_request();
        request.headers_mut().insert("last-event-id", cursor.parse().expect("a header value"));
        let mut again = sender.send_request(request).await.expect("an answer").into_body();
        let mut events = H2Events::default();
        assert_eq!(support::json(&events.next(&mut again).await)["resume"], "exact");
        assert_eq!(events.next(&mut again).await.data, "missed");

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
