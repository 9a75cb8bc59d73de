//! The PROXY protocol (requirement R12): wanted or not read at all, from load balancers only, and whom it names counts for limits.

mod support;

use std::time::Duration;

use proxy_header::{ProxiedAddress, ProxyHeader};
use support::tls::Certificate;
use support::{App, Config, DEADLINE, Nats, Request, Sse, Version, Wire, bounded, get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SECRET: &str = "0123456789abcdef";
/// A route that needs no identity.
const OPEN: &str =
    "\n[[route]]\npath = \"/open\"\nstream = \"EVENTS\"\nsubjects = [\"events.broadcast.>\"]\naudience = \"anyone\"\n";

struct Scene {
    nats: Nats,
    app: App,
    _secret: tempfile::NamedTempFile,
}

impl Scene {
    /// Load balancers at `proxies`, the shared secret as proof.
    async fn with(proxies: &str, change: impl FnOnce(Config) -> Config) -> Self {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let secret = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(secret.path(), SECRET).expect("written");
        let trust = format!("proxies = {proxies}\nsecret_files = [{:?}]\n", secret.path());
        let config = Config::on(&nats).server("header_timeout = \"2s\"\nproxy_protocol = true\n").trust(Some(&trust));
        let app = App::start(&change(config.tables(OPEN))).await;
        Self { nats, app, _secret: secret }
    }

    /// What comes back for a header and a request; nothing where the connection is closed before it is read.
    async fn answer(&self, header: &[u8], request: &Request) -> Vec<u8> {
        let bytes = request.clone().header("Connection", "close").bytes();
        let mut tcp = TcpStream::connect(self.app.address()).await.expect("accepts");
        tcp.write_all(&[header, &bytes].concat()).await.expect("sent");
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut answer)).await;
        // Closed with bytes unread is a reset.
        let _ = ended.expect("an end in time");
        answer
    }

    async fn refused(&self) -> f64 {
        self.app.metric("sidestream_proxy_protocol_refused_total", &[]).await
    }
}

/// A header of version 1 for a client.
fn v1(client: &str) -> Vec<u8> {
    encoded(client, |header, into| header.encode_v1(into).expect("encoded"))
}

/// A header of version 2 for a client.
fn v2(client: &str) -> Vec<u8> {
    encoded(client, |header, into| header.encode_v2(into).expect("encoded"))
}

fn encoded(client: &str, encode: impl FnOnce(&ProxyHeader<'_>, &mut Vec<u8>)) -> Vec<u8> {
    let source: std::net::SocketAddr = client.parse().expect("an address");
    let destination = if source.is_ipv4() { "198.51.100.1:443" } else { "[2001:db8::1]:443" };
    let address = ProxiedAddress::stream(source, destination.parse().expect("an address"));
    let mut bytes = Vec::new();
    encode(&ProxyHeader::with_address(address), &mut bytes);
    bytes
}

/// Version 2 without an address.
fn v2_of(command: u8) -> Vec<u8> {
    [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x20 | command, 0, 0, 0]].concat()
}

fn vouched(user: &str) -> Request {
    get("/events").user(user).header("X-Sidestream-Secret", SECRET)
}

#[tokio::test]
async fn a_connection_without_a_header_is_closed_unread() {
    bounded(async {
        let scene = Scene::with("[\"127.0.0.1\"]", |config| config).await;
        let long = [&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat();
        let bad_length = [&b"\r\n\r\n\0\r\nQUIT\n"[..], &[0x21, 0x11, 0, 11], &[0; 11]].concat();
        let headers: [&[u8]; 6] = [b"", b"PROXY TCP4 1.2.3.4\r\n", b"\r\n", b"\x16\x03\x01", &long, &bad_length];
        for header in headers {
            let answer = scene.answer(header, &get("/nothing")).await;
            assert_eq!(answer, b"", "{}: {}", header.escape_ascii(), answer.escape_ascii());
        }
        assert!((scene.refused().await - headers.len() as f64).abs() < 0.5);
        // One byte less is the longest there is.
        let longest = [&b"PROXY UNKNOWN "[..], &[b'x'; 91], b"\r\n"].concat();
        assert!(scene.answer(&longest, &get("/nothing")).await.starts_with(b"HTTP/1.1 404"));
    })
    .await;
}

#[tokio::test]
async fn a_header_that_does_not_come_is_waited_for_as_long_as_a_request() {
    bounded(async {
        let scene = Scene::with("[\"127.0.0.1\"]", |config| config).await;
        let began = std::time::Instant::now();
        let silent = async |beginning: &[u8]| {
            let mut tcp = TcpStream::connect(scene.app.address()).await.expect("accepts");
            tcp.write_all(beginning).await.expect("sent");
            let mut answer = Vec::new();
            let _ = tokio::time::timeout(DEADLINE, tcp.read_to_end(&mut answer)).await.expect("an end in time");
            assert_eq!(answer, b"", "{}", beginning.escape_ascii());
        };
        let (whole, binary) = (v1("192.0.2.7:1"), v2("192.0.2.7:1"));
        tokio::join!(
            silent(b""),
            silent(b"PROXY TCP4 "),
            silent(b"\r\n\r\n\0\r\nQ"),
            silent(&binary[..20]),
            silent(&whole)
        );
        assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test]
async fn nobody_but_a_load_balancer_may_say_where_a_client_is() {
    bounded(async {
        let scene = Scene::with("[\"192.0.2.0/24\"]", |config| config).await;
        for header in [v1("192.0.2.7:1"), v2("192.0.2.7:1"), v2_of(0), Vec::new()] {
            assert_eq!(scene.answer(&header, &vouched("alice")).await, b"");
        }
        assert!((scene.refused().await - 4.0).abs() < 0.5);
    })
    .await;
}

#[tokio::test]
async fn a_load_balancer_with_a_proof_speaks_for_users_and_its_clients_do_not() {
    bounded(async {
        let scene = Scene::with("[\"127.0.0.1\"]", |config| config).await;
        let publisher = scene.nats.publisher().await;
        for header in [v2_of(0), v2_of(1), v1("203.0.113.1:4660"), v2("203.0.113.1:4660"), v2("[2001:db8::7]:1")] {
            let mut wire = Wire::tcp(scene.app.address()).await;
            // In two parts, and the request with the second.
            wire.send(&header[..9]).await;
            wire.send(&header[9..]).await;
            let mut alice = Sse::open(wire, &vouched("alice")).await;
            publisher.publish("events.user.alice.note", "hers").await;
            assert_eq!(alice.event().await.data, "hers");
            // A client that is passed on knows no secret, whatever address it has.
            for request in [get("/events").user("alice"), vouched("alice").header("X-Sidestream-Secret", SECRET)] {
                let answer = scene.answer(&header, &request).await;
                assert!(answer.starts_with(b"HTTP/1.1 403"), "{}: {}", header.escape_ascii(), answer.escape_ascii());
            }
        }
    })
    .await;
}

#[tokio::test]
async fn limits_count_the_client_that_the_header_names() {
    bounded(async {
        let one = |config: Config| config.limit("connections_per_address", "1");
        let scene = Scene::with("[\"127.0.0.1\"]", one).await;
        let open = async |header: Vec<u8>, forwarded: &str| {
            let mut wire = Wire::tcp(scene.app.address()).await;
            wire.send(&header).await;
            Sse::try_open(wire, &get("/open").header("X-Forwarded-For", forwarded)).await
        };
        let first = open(v1("203.0.113.1:1"), "198.51.100.1").await.expect("the first of its address");
        assert!(open(v2("203.0.113.1:2"), "198.51.100.2").await.is_none(), "what a client forwards says nothing");
        let other = open(v1("203.0.113.2:1"), "198.51.100.1").await.expect("another address");
        drop((first, other));
    })
    .await;
}

#[tokio::test]
async fn tls_comes_behind_the_header() {
    bounded(async {
        let certificate = Certificate::new();
        let scene = Scene::with("[\"127.0.0.1\", \"192.0.2.7\"]", |config| config.server(&certificate.table())).await;
        let mut tcp = TcpStream::connect(scene.app.address()).await.expect("accepts");
        tcp.write_all(&v2("192.0.2.7:1")).await.expect("sent");
        let stream = certificate.handshake(tcp, &["http/1.1"]).await.expect("a handshake");
        Sse::open(Wire::over(stream), &vouched("alice")).await;
    })
    .await;
}

#[tokio::test]
async fn a_header_that_nobody_wants_is_no_http() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        for header in [v1("192.0.2.7:1"), v2("192.0.2.7:1"), v2_of(0)] {
            let mut wire = Wire::tcp(app.address()).await;
            wire.send(&[&header[..], &get("/events").user("alice").bytes()].concat()).await;
            let answer = wire.read_to_end().await;
            assert!(answer.starts_with(b"HTTP/1.1 400"), "{}: {}", header.escape_ascii(), answer.escape_ascii());
            assert_eq!(memchr::memmem::find_iter(&answer, b"HTTP/1.1").count(), 1);
        }
    })
    .await;
}
