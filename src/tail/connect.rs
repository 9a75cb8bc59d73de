//! One connection of a reader: dial, TLS, request, head of the answer. Reconnecting is left to the caller. `sidestream doctor`
//! reads by it as well.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;

use super::TailError;
use super::target::Target;

/// From dialling to the head of the answer. A server that takes longer is treated as one that is away.
const OPEN_TIMEOUT: Duration = Duration::from_secs(15);

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The certificate is not acceptable: it will not be on the next attempt either.
    Tls(String),
    /// Anything that may pass.
    Network(String),
}

/// Opens the same request again and again.
#[derive(Clone)]
pub(crate) struct Connector {
    method: Method,
    target: Target,
    headers: HeaderMap,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Connector {
    /// Prepares everything that cannot change between attempts.
    pub(crate) fn new(target: Target, extra: Vec<(HeaderName, HeaderValue)>) -> Result<Self, TailError> {
        let headers = request_headers(&target, extra)?;
        let tls = if target.tls { Some((tls_connector(&[b"http/1.1"])?, server_name(&target)?)) } else { None };
        Ok(Self { method: Method::GET, target, headers, tls })
    }

    /// The same with other headers beside ours, and another method.
    pub(crate) fn asking(&self, method: Method, extra: Vec<(HeaderName, HeaderValue)>) -> Result<Self, TailError> {
        let headers = request_headers(&self.target, extra)?;
        Ok(Self { method, headers, ..self.clone() })
    }

    /// Whether the server would rather speak HTTP/2; `None` without TLS, where browsers do not.
    pub(crate) async fn offers_http2(&self) -> Result<Option<bool>, ConnectError> {
        let Some((_, name)) = &self.tls else { return Ok(None) };
        let connector = tls_connector(&[b"h2", b"http/1.1"]).map_err(|error| ConnectError::Tls(error.to_string()))?;
        let handshake =
            async { connector.connect(name.clone(), self.dial().await?).await.map_err(|e| handshake_error(&e)) };
        let late = |_| ConnectError::Network(format!("no handshake within {} s", OPEN_TIMEOUT.as_secs()));
        let stream = tokio::time::timeout(OPEN_TIMEOUT, handshake).await.map_err(late)??;
        Ok(Some(stream.get_ref().1.alpn_protocol() == Some(b"h2")))
    }

    /// Dials, sends the request and waits for the head of the answer.
    pub(crate) async fn open(&self, last_event_id: Option<HeaderValue>) -> Result<Response<Body>, ConnectError> {
        let late = |_| ConnectError::Network(format!("no answer within {} s", OPEN_TIMEOUT.as_secs()));
        tokio::time::timeout(OPEN_TIMEOUT, self.open_unbounded(last_event_id)).await.map_err(late)?
    }

    async fn open_unbounded(&self, last_event_id: Option<HeaderValue>) -> Result<Response<Body>, ConnectError> {
        let socket = self.dial().await?;
        let request = self.request(last_event_id)?;
        match &self.tls {
            None => exchange(socket, request).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), socket).await.map_err(|error| handshake_error(&error))?;
                exchange(stream, request).await
            }
        }
    }

    async fn dial(&self) -> Result<TcpStream, ConnectError> {
        let Target { host, port, .. } = &self.target;
        let socket = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(|error| ConnectError::Network(format!("cannot connect to {host}, port {port}: {error}")))?;
        // The request is one small write; do not let it wait for company.
        let _ = socket.set_nodelay(true);
        Ok(socket)
    }

    fn request(&self, last_event_id: Option<HeaderValue>) -> Result<Request<Empty<Bytes>>, ConnectError> {
        let mut request = Request::new(Empty::new());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() =
            self.target.path.parse().map_err(|_| ConnectError::Network("the path cannot be sent".to_owned()))?;
        *request.headers_mut() = self.headers.clone();
        if let Some(id) = last_event_id {
            request.headers_mut().insert("last-event-id", id);
        }
        Ok(request)
    }
}

fn request_headers(target: &Target, extra: Vec<(HeaderName, HeaderValue)>) -> Result<HeaderMap, TailError> {
    let mut headers = HeaderMap::new();
    let host = HeaderValue::from_str(&target.authority).map_err(|_| TailError::Header(target.authority.clone()))?;
    headers.insert(header::HOST, host);
    headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let agent = concat!("sidestream-tail/", env!("CARGO_PKG_VERSION"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(agent));
    // Ours go; several of the user's with one name stay, since sending an identity twice is a test people make.
    for (name, _) in &extra {
        headers.remove(name);
    }
    for (name, value) in extra {
        headers.append(name, value);
    }
    Ok(headers)
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Response<Body>, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broke = |error: hyper::Error| ConnectError::Network(format!("no answer: {}", root_cause(&error)));
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let driver = tokio::spawn(async move {
        // What goes wrong here also ends the answer's body, where it is reported.
        let _ = connection.await;
    });
    let guard = Driver(driver.abort_handle());
    let response = sender.send_request(request).await.map_err(broke)?;
    Ok(response.map(|inner| Body { inner, _driver: guard }))
}

/// The answer's body. Dropping it closes the connection.
#[derive(Debug)]
pub(crate) struct Body {
    inner: Incoming,
    _driver: Driver,
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>> {
        std::pin::Pin::new(&mut self.inner).poll_frame(context)
    }
}

/// Ends the task that moves a connection's bytes when nobody reads them any more.
#[derive(Debug)]
struct Driver(AbortHandle);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn tls_connector(protocols: &[&[u8]]) -> Result<TlsConnector, TailError> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        let why = found.errors.first().map_or_else(|| "none installed".to_owned(), ToString::to_string);
        return Err(TailError::Tls(format!("no certificate authorities to check the server with: {why}")));
    }
    // The provider is named, not taken from a process-wide default: a library does not install one.
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| TailError::Tls(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(TlsConnector::from(Arc::new(config)))
}

fn server_name(target: &Target) -> Result<ServerName<'static>, TailError> {
    ServerName::try_from(target.host.clone())
        .map_err(|_| TailError::Tls(format!("`{}` cannot be the name on a certificate", target.host)))
}

fn handshake_error(error: &io::Error) -> ConnectError {
    let certificate = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .filter(|error| matches!(error, rustls::Error::InvalidCertificate(_)));
    match certificate {
        Some(error) => ConnectError::Tls(error.to_string()),
        None => ConnectError::Network(format!("the TLS handshake failed: {error}")),
    }
}

/// The innermost cause: hyper's outer texts ("connection error") do not tell what happened.
pub(crate) fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
