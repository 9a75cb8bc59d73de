//! Peers that take their time (requirement R20): that say nothing, or a byte now and then, before and between requests and in bodies
//! that nobody wants, or that do not read what they asked for. Each is gone `header_timeout` after it came, at the default of ten
//! seconds as at two, on TCP, on a unix socket and over TLS; and who comes meanwhile gets in at once.
//!
//! Those who do not read an event stream are in `stalled.rs`, those who flood in `floods.rs`.

mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::{join_all, select};
use support::client::{Io, narrow};
use support::frames::*;
use support::tls::Certificate;
use support::{App, Config, Nats, Request, Sse, Version, Wire, bounded, get};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

/// A busy machine, and a second for those who may cross a goodbye.
const GRACE: Duration = Duration::from_secs(2);
/// Pieces that a slow peer has got out by the end of its time.
const PIECES: u32 = 5;
/// Until somebody who comes meanwhile has a stream.
const AT_ONCE: Duration = Duration::from_secs(1);

/// What a peer sends: a beginning, and then one piece after the other, slowly.
struct Slow {
    name: &'static str,
    start: Vec<u8>,
    pieces: Vec<Vec<u8>>,
    /// It is told at once to go.
    refused: bool,
}

/// A beginning, and then these pieces.
fn slow(name: &'static str, start: impl Into<Vec<u8>>, pieces: Vec<Vec<u8>>) -> Slow {
    Slow { name, start: start.into(), pieces, refused: false }
}

/// A beginning, and then nothing.
fn silent(name: &'static str, start: impl Into<Vec<u8>>) -> Slow {
    slow(name, start, vec![])
}

/// A beginning, and then byte by byte.
fn dripping(name: &'static str, start: impl Into<Vec<u8>>, bytes: &[u8]) -> Slow {
    slow(name, start, bytes.iter().map(|byte| vec![*byte]).collect())
}

fn refused() -> Vec<u8> {
    get("/nope").bytes()
}

fn with_body(request: Request, name: &str, value: &str) -> Vec<u8> {
    request.header(name, value).bytes()
}

/// HTTP/1.1.
fn http_1() -> Vec<Slow> {
    let head = get("/events").user("slow").bytes();
    let post = || Request::new("POST", "/events");
    let body = |name, start: Vec<u8>| Slow { refused: true, ..dripping(name, start, &[b'a'; 100]) };
    vec![
        silent("nothing", ""),
        silent("half a head", "GET /events HTTP/1.1\r\nHost: app.exam"),
        dripping("a slow head", "", &head),
        dripping("empty lines", "", &b"\r\n".repeat(40)),
        silent("idle behind an answer", refused()),
        dripping("a second head, slowly", refused(), &head),
        body("a slow body", with_body(post(), "Content-Length", "1000")),
        body("a slow chunk", with_body(post(), "Transfer-Encoding", "chunked")),
        body("a slow body where there is no route", with_body(get("/nope"), "Content-Length", "1000")),
        silent("the beginning of HTTP/2", "PRI * HT"),
    ]
}

/// HTTP/2.
fn http_2() -> Vec<Slow> {
    let start = preface(65_535);
    let answered = [start.clone(), ask(1, "/nope", "slow")].concat();
    let opened = [start.clone(), frame(HEADERS, END_HEADERS, 1, &block("/events", "slow"))].concat();
    let begun = [start.clone(), frame(HEADERS, 0, 1, &block("/events", "slow"))].concat();
    let again = |one: Vec<u8>| vec![one; 20];
    vec![
        silent("the preface", &start[..24]),
        dripping("a slow preface", "", &start),
        silent("the preface and settings", start.clone()),
        dripping("slow HEADERS", start.clone(), &ask(1, "/events", "slow")),
        slow("slow CONTINUATION", begun.clone(), again(frame(CONTINUATION, 0, 1, &[]))),
        slow("fields, slowly", begun, again(frame(CONTINUATION, 0, 1, &field("a", "b")))),
        slow("PING now and then", start.clone(), again(frame(PING, 0, 0, &[7; 8]))),
        slow("SETTINGS now and then", start, again(settings(&[(4, 65_535)]))),
        silent("idle behind an answer", answered.clone()),
        slow("PING behind an answer", answered, again(frame(PING, 0, 0, &[7; 8]))),
        slow("slow DATA", opened, again(frame(DATA, 0, 1, b"x"))),
    ]
}

/// Those who never come to the end of a TLS handshake.
fn hello() -> Vec<Slow> {
    let whole = client_hello();
    // A record for each byte of it (RFC 8446 section 5.1).
    let fragments = whole[5..].iter().map(|byte| vec![0x16, 3, 1, 0, 1, *byte]).collect();
    vec![
        silent("nothing", ""),
        silent("half a ClientHello", &whole[..whole.len() / 2]),
        dripping("a slow ClientHello", "", &whole),
        slow("fragments of a ClientHello", "", fragments),
        silent("a ClientHello", whole),
    ]
}

/// What a client of TLS says first.
fn client_hello() -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.3")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    let name = "app.example".try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut hello = Vec::new();
    client.write_tls(&mut hello).expect("a vector takes it");
    hello
}

/// Plays a slow peer to the end. Gives how long it was let.
async fn lasts(mut io: impl Io, slow: &Slow, pause: Duration) -> Duration {
    let (began, mut scratch) = (Instant::now(), [0; 4096]);
    let _ = io.write_all(&slow.start).await;
    let mut pieces = slow.pieces.iter();
    let mut next = Box::pin(tokio::time::sleep(pause));
    loop {
        tokio::select! {
            read = io.read(&mut scratch) => match read {
                Ok(n) if n > 0 => {}
                _ => return began.elapsed(),
            },
            () = &mut next => {
                next = Box::pin(tokio::time::sleep(pause));
                if let Some(piece) = pieces.next() {
                    // It may have been told to go already.
                    let _ = io.write_all(piece).await;
                    let _ = io.flush().await;
                }
            }
        }
    }
}

/// Asks as long as it is let, and reads nothing.
fn deaf(
    mut io: impl Io + 'static,
    start: Vec<u8>,
    request: impl Fn(u32) -> Vec<u8> + Send + 'static,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut sent = io.write_all(&start).await;
        for n in 0.. {
            if sent.is_err() {
                return;
            }
            sent = io.write_all(&request(n)).await;
        }
    })
}

struct Served {
    plain: App,
    tls: App,
    certificate: Certificate,
    header_timeout: Duration,
    _dir: tempfile::TempDir,
}

impl Served {
    /// With `header_timeout` and `limits.write_timeout` of so many seconds, or with the defaults, which are ten.
    async fn start(nats: &Nats, seconds: Option<u64>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let certificate = Certificate::new();
        let mut config = Config::on(nats).trust(Some("proxies = [\"127.0.0.1\", \"unix\"]\naddress_is_proof = true\n"));
        if let Some(seconds) = seconds {
            config = config.server(&format!("header_timeout = \"{seconds}s\"\n"));
            config = config.limit("write_timeout", &format!("\"{seconds}s\""));
        }
        let unix = format!("unix:{}", dir.path().join("http.sock").display());
        let plain = config.clone().listen(&["127.0.0.1:0", &unix]).server("h2c = true\n");
        let tls = config.server(&certificate.table());
        let (plain, tls) = tokio::join!(App::start(&plain), App::start(&tls));
        Self { plain, tls, certificate, header_timeout: Duration::from_secs(seconds.unwrap_or(10)), _dir: dir }
    }

    async fn tcp(&self) -> TcpStream {
        TcpStream::connect(self.plain.address()).await.expect("accepts")
    }

    async fn unix(&self) -> UnixStream {
        let path = self.plain.public.iter().find_map(|address| address.strip_prefix("unix:")).expect("a unix socket");
        UnixStream::connect(path).await.expect("accepts")
    }

    async fn before_tls(&self) -> TcpStream {
        TcpStream::connect(self.tls.address()).await.expect("accepts")
    }

    async fn tls(&self, alpn: &str) -> impl Io + use<> {
        self.certificate.handshake(self.before_tls().await, &[alpn]).await.expect("a handshake")
    }

    /// Each of the slow, on every way that there is for it.
    async fn slow_peers_go(&self) {
        let (one, two, hello) = (http_1(), http_2(), hello());
        let both = || one.iter().chain(&two);
        let pause = self.header_timeout / PIECES;
        tokio::join!(
            join_all(both().map(async |slow| self.goes("TCP", slow, lasts(self.tcp().await, slow, pause).await))),
            join_all(both().map(async |slow| self.goes("unix", slow, lasts(self.unix().await, slow, pause).await))),
            join_all(hello.iter().map(async |slow| {
                self.goes("before TLS", slow, lasts(self.before_tls().await, slow, pause).await);
            })),
            join_all(one.iter().map(async |slow| {
                self.goes("TLS", slow, lasts(self.tls("http/1.1").await, slow, pause).await);
            })),
            join_all(two.iter().map(async |slow| self.goes(
                "TLS",
                slow,
                lasts(self.tls("h2").await, slow, pause).await
            ))),
        );
    }

    fn goes(&self, way: &str, slow: &Slow, lasted: Duration) {
        println!("{:?}, {way}, {}: {lasted:?}", self.header_timeout, slow.name);
        assert!(lasted < self.header_timeout + GRACE, "{way}, {}: {lasted:?}", slow.name);
        // Who is only slow has all the time that it is promised, but for what connecting took.
        assert!(slow.refused == (lasted < self.header_timeout / 2), "{way}, {}: {lasted:?}", slow.name);
    }

    /// Some whose sockets stay open here, which nobody reads.
    async fn deaf_peers(&self) -> Vec<JoinHandle<()>> {
        let answers = |_| refused();
        let streams = |n| if n < 3000 { refused() } else { get("/events").user("deaf").bytes() };
        let http_2 = |n| ask(2 * n + 1, "/nope", "deaf");
        vec![
            deaf(self.tcp().await, vec![], answers),
            deaf(narrow(self.plain.address()).await, vec![], answers),
            deaf(self.unix().await, vec![], answers),
            deaf(self.tls("http/1.1").await, vec![], answers),
            deaf(self.unix().await, vec![], streams),
            deaf(self.tcp().await, preface(1 << 20), http_2),
            deaf(self.unix().await, preface(1 << 20), http_2),
            deaf(self.tls("h2").await, preface(1 << 20), http_2),
        ]
    }

    /// Who comes again and again.
    async fn others_come(&self) {
        let mut slowest = Duration::ZERO;
        loop {
            let connects: [Box<dyn Io>; 3] =
                [Box::new(self.tcp().await), Box::new(self.unix().await), Box::new(self.tls("http/1.1").await)];
            for io in connects {
                let began = Instant::now();
                Sse::open(Wire::over(io), &get("/events").user("alice")).await;
                slowest = slowest.max(began.elapsed());
            }
            assert!(slowest < AT_ONCE, "somebody waited for {slowest:?}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn all_go_in_time(&self) {
        let began = Instant::now();
        let deaf = self.deaf_peers().await;
        select(Box::pin(self.slow_peers_go()), Box::pin(self.others_come())).await;
        for app in [&self.plain, &self.tls] {
            let left = (self.header_timeout + 2 * GRACE).saturating_sub(began.elapsed());
            app.metric_is("sidestream_tasks", &[], 0.0, left).await;
        }
        deaf.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test]
async fn slow_peers_are_gone_in_time_and_delay_nobody() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let (default, short) = tokio::join!(Served::start(&nats, None), Served::start(&nats, Some(2)));
        tokio::join!(default.all_go_in_time(), short.all_go_in_time());
    })
    .await;
}
