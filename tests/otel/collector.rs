//! A collector of spans on loopback: OTLP over HTTP, decoded by OpenTelemetry's own types.

use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::support::client::Io;
use super::support::tls::Certificate;
use super::support::{DEADLINE, eventually};

/// Every request's body as it came, and what was in it.
#[derive(Default)]
struct Taken {
    bodies: Vec<Bytes>,
    resources: Vec<Resource>,
    spans: Vec<Span>,
}

/// A running collector.
pub struct Collector {
    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to be.
    pub url: String,
    taken: Arc<Mutex<Taken>>,
}

impl Collector {
    /// Starts one.
    pub async fn start() -> Self {
        Self::secured(None).await
    }

    /// Starts one that speaks TLS, if there is a certificate.
    pub async fn secured(certificate: Option<&Certificate>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let scheme = if certificate.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://{}", listener.local_addr().expect("bound"));
        let taken = Arc::<Mutex<Taken>>::default();
        tokio::spawn(accept(listener, certificate.map(acceptor), taken.clone()));
        Self { url, taken }
    }

    /// All spans so far.
    pub fn spans(&self) -> Vec<Span> {
        self.taken.lock().expect("no writer panics").spans.clone()
    }

    /// The first so many spans, in the order of their ends.
    pub async fn first(&self, count: usize) -> Vec<Span> {
        eventually(&format!("{count} spans"), DEADLINE, async || {
            Some(self.spans()).filter(|spans| spans.len() >= count)
        })
        .await
    }

    /// What the spans are of.
    pub fn resource(&self) -> Resource {
        self.taken.lock().expect("no writer panics").resources.first().expect("spans have come").clone()
    }

    /// Whether this text was in any request, wherever.
    pub fn was_told(&self, text: &str) -> bool {
        let taken = self.taken.lock().expect("no writer panics");
        taken.bodies.iter().any(|body| body.windows(text.len()).any(|part| part == text.as_bytes()))
    }
}

/// `name=value`, sorted.
pub fn attributes(attributes: &[KeyValue]) -> Vec<String> {
    let mut shown: Vec<_> = attributes.iter().map(shown).collect();
    shown.sort();
    shown
}

fn shown(attribute: &KeyValue) -> String {
    let value = attribute.value.as_ref().and_then(|value| value.value.clone());
    match value {
        Some(Value::StringValue(text)) => format!("{}={text}", attribute.key),
        Some(Value::IntValue(number)) => format!("{}={number}", attribute.key),
        other => panic!("{} is {other:?}", attribute.key),
    }
}

fn acceptor(certificate: &Certificate) -> TlsAcceptor {
    let chain = CertificateDer::pem_file_iter(certificate.cert()).expect("readable").map(|c| c.expect("PEM")).collect();
    let key = PrivateKeyDer::from_pem_file(certificate.key()).expect("PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate and its key");
    TlsAcceptor::from(Arc::new(config))
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, taken: Arc<Mutex<Taken>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (tls, taken) = (tls.clone(), taken.clone());
        tokio::spawn(async move {
            let io = secured(stream, tls).await;
            let service = service_fn(|request| take(request, &taken));
            // The program may end its connections as it likes.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(io), service).await;
        });
    }
}

async fn secured(stream: TcpStream, tls: Option<TlsAcceptor>) -> Box<dyn Io> {
    match tls {
        None => Box::new(stream),
        Some(tls) => Box::new(tls.accept(stream).await.expect("a handshake")),
    }
}

async fn take(request: Request<Incoming>, taken: &Mutex<Taken>) -> Result<Response<Full<Bytes>>, Infallible> {
    assert_eq!((request.method().as_str(), request.uri().path()), ("POST", "/v1/traces"));
    assert_eq!(request.headers()["content-type"], "application/x-protobuf");
    let body = request.into_body().collect().await.expect("a whole request").to_bytes();
    let decoded = ExportTraceServiceRequest::decode(body.clone()).expect("protobuf");
    let mut taken = taken.lock().expect("no writer panics");
    taken.bodies.push(body);
    for of in decoded.resource_spans {
        taken.resources.extend(of.resource);
        taken.spans.extend(of.scope_spans.into_iter().flat_map(|scope| scope.spans));
    }
    Ok(Response::new(Full::default()))
}
