//! Opening a stream, over each protocol, and the task that reads it.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::Target;
use super::came::Came;
use crate::certificate::HOST;
use crate::engine::Protocol;

/// How to speak TLS, where it is spoken.
pub fn connector(target: &Target) -> Option<TlsConnector> {
    let alpn = match target.protocol {
        Protocol::Plain | Protocol::H2c => return None,
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
pub async fn open(index: usize, target: &Target, connector: Option<&TlsConnector>, came: &Rc<Came>) {
    let stream = TcpStream::connect(("127.0.0.1", target.port)).await.expect("accepted");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let Some(connector) = connector else { return request(index, target, stream, came).await };
    let name = ServerName::try_from(HOST).expect("a name");
    let stream = connector.connect(name, stream).await.expect("a handshake");
    request(index, target, stream, came).await;
}

async fn request(index: usize, target: &Target, stream: impl Stream, came: &Rc<Came>) {
    if matches!(target.protocol, Protocol::H2 | Protocol::H2c) {
        // Boxed: most readers are none of HTTP/2.
        return Box::pin(http2(index, target, stream, came)).await;
    }
    http1(index, target, stream, came).await;
}

/// With TLS or without.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> Stream for S {}

async fn http1(index: usize, target: &Target, mut stream: impl Stream, came: &Rc<Came>) {
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

async fn http2(index: usize, target: &Target, stream: impl Stream, came: &Rc<Came>) {
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
