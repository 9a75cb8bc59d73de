//! The readers' own process: a task for each connection, one buffer for all of them.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::Target;
use crate::certificate::HOST;
use crate::clock;
use crate::engine::Protocol;
use crate::framing::{MARK, stamp};
use crate::statistics::Latencies;

const BUFFER_BYTES: usize = 64 * 1024;
/// No event, and no stream's beginning, may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

/// Opens the connections and answers until there are no more orders.
pub fn run(arguments: &[String]) {
    let target: Target = serde_json::from_str(&arguments[0]).expect("a target");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let came = Rc::new(Came::default());
        let connector = connector(&target);
        let began = clock::now();
        let opening = futures_util::stream::iter(0..target.connections).map(|index| {
            let opened = open(index, &target, connector.as_ref(), &came);
            async { tokio::time::timeout(PATIENCE, opened).await.expect("a stream in time") }
        });
        opening.buffer_unordered(target.at_once).collect::<()>().await;
        println!("open {began}");
        obey(&came).await;
    });
}

async fn obey(came: &Came) {
    let mut orders = tokio::io::BufReader::new(tokio::io::stdin()).lines();
    while let Some(order) = orders.next_line().await.expect("text") {
        if let Some(events) = order.strip_prefix("wait ") {
            let events = events.parse().expect("a number");
            let reached = tokio::time::timeout(PATIENCE, came.reach(events)).await;
            assert!(reached.is_ok(), "{} of {events} events", came.events.get());
            println!("have {}", came.last.get());
        } else {
            let latencies = came.latencies.take();
            println!(
                "tails {} {} {} {}",
                latencies.permille(500),
                latencies.permille(990),
                latencies.max(),
                came.reads.take()
            );
        }
    }
}

/// What came.
struct Came {
    events: Cell<u64>,
    /// When the last event came.
    last: Cell<u64>,
    reads: Cell<u64>,
    latencies: RefCell<Latencies>,
    awaited: Cell<u64>,
    reached: Notify,
    buffer: RefCell<Box<[u8]>>,
}

impl Default for Came {
    fn default() -> Self {
        Self {
            events: Cell::new(0),
            last: Cell::new(0),
            reads: Cell::new(0),
            latencies: RefCell::default(),
            awaited: Cell::new(u64::MAX),
            reached: Notify::new(),
            buffer: RefCell::new(vec![0; BUFFER_BYTES].into()),
        }
    }
}

impl Came {
    fn count(&self, bytes: &[u8]) {
        let before = self.events.get();
        let now = clock::now();
        for mark in memchr::memchr_iter(MARK, bytes) {
            self.events.update(|events| events + 1);
            // One that is cut by the end of a read is counted and not timed.
            if let Some(made) = stamp(&bytes[mark + 1..]) {
                self.latencies.borrow_mut().add(now.saturating_sub(made));
            }
        }
        self.reads.update(|reads| reads + 1);
        if self.events.get() > before {
            self.last.set(now);
        }
        if self.events.get() >= self.awaited.get() {
            self.reached.notify_one();
        }
    }

    async fn reach(&self, events: u64) {
        self.awaited.set(events);
        while self.events.get() < events {
            self.reached.notified().await;
        }
        self.awaited.set(u64::MAX);
    }

    /// One read, counted; `seen` is shown what came. False at the end.
    async fn read(&self, from: &mut (impl AsyncRead + Unpin), mut seen: impl FnMut(&[u8])) -> bool {
        let read = poll_fn(|context| {
            let mut shared = self.buffer.borrow_mut();
            let mut buffer = ReadBuf::new(&mut shared);
            Pin::new(&mut *from).poll_read(context, &mut buffer).map_ok(|()| {
                self.count(buffer.filled());
                seen(buffer.filled());
                buffer.filled().len()
            })
        });
        read.await.is_ok_and(|bytes| bytes > 0)
    }
}

fn connector(target: &Target) -> Option<TlsConnector> {
    let alpn = match target.protocol {
        Protocol::Plain => return None,
        Protocol::Tls => "http/1.1",
        Protocol::H2 => "h2",
    };
    let mut roots = rustls::RootCertStore::empty();
    let certificate = CertificateDer::from_pem_file(Path::new(&target.certificate)).expect("a certificate");
    roots.add(certificate).expect("our own certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("the provider knows TLS 1.3");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    // Every connection is a new one, as a bar for handshakes means it.
    config.resumption = rustls::client::Resumption::disabled();
    Some(TlsConnector::from(Arc::new(config)))
}

/// Opens one stream, and leaves it to a task.
async fn open(index: usize, target: &Target, connector: Option<&TlsConnector>, came: &Rc<Came>) {
    let stream = TcpStream::connect(("127.0.0.1", target.port)).await.expect("accepted");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let Some(connector) = connector else { return http1(index, target, stream, came).await };
    let name = ServerName::try_from(HOST).expect("a name");
    let stream = connector.connect(name, stream).await.expect("a handshake");
    if target.protocol == Protocol::Tls {
        return http1(index, target, stream, came).await;
    }
    // Boxed: most readers are none of HTTP/2.
    Box::pin(http2(index, target, stream, came)).await;
}

async fn http1(
    index: usize,
    target: &Target,
    mut stream: impl AsyncRead + AsyncWriteExt + Unpin + 'static,
    came: &Rc<Came>,
) {
    if let Some(ready) = &target.ready {
        let cursor = target.cursor.as_ref().map_or(String::new(), |cursor| format!("Last-Event-ID: {cursor}\r\n"));
        let request = format!(
            "GET {} HTTP/1.1\r\nHost: {HOST}\r\nAccept: text/event-stream\r\nX-Forwarded-User: u{index}\r\n{cursor}\r\n",
            path(index, target),
        );
        stream.write_all(request.as_bytes()).await.expect("written");
        stream.flush().await.expect("written");
        let mut beginning = Vec::new();
        while memchr::memmem::find(&beginning, ready.as_bytes()).is_none() {
            let open = came.read(&mut stream, |bytes| beginning.extend_from_slice(bytes)).await;
            assert!(open, "not a stream: {}", beginning.escape_ascii());
        }
    }
    let came = came.clone();
    tokio::task::spawn_local(async move { while came.read(&mut stream, |_| {}).await {} });
}

async fn http2(index: usize, target: &Target, stream: tokio_rustls::client::TlsStream<TcpStream>, came: &Rc<Came>) {
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("an HTTP/2 handshake");
    tokio::task::spawn_local(connection);
    let request = hyper::Request::get(format!("https://{HOST}{}", path(index, target)))
        .header("accept", "text/event-stream")
        .header("x-forwarded-user", format!("u{index}"));
    let request = match &target.cursor {
        Some(cursor) => request.header("last-event-id", cursor),
        None => request,
    };
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request")).await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 200);
    let ready = target.ready.as_deref().unwrap_or_default();
    let mut body = response.into_body();
    let mut beginning = Vec::new();
    while memchr::memmem::find(&beginning, ready.as_bytes()).is_none() {
        let frame = body.frame().await.expect("not the end").expect("no fault");
        let data = frame.into_data().expect("data");
        came.count(&data);
        beginning.extend_from_slice(&data);
    }
    let came = came.clone();
    tokio::task::spawn_local(async move {
        // The connection ends with its sender.
        let _sender = sender;
        while let Some(Ok(frame)) = body.frame().await {
            frame.data_ref().inspect(|data| came.count(data));
        }
    });
}

fn path(index: usize, target: &Target) -> String {
    target.path.replace("{user}", &format!("u{index}"))
}
