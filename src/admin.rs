//! The admin listener: health, metrics, version and who is connected, on its own address.
//!
//! `/livez` never asks NATS: restarting a sidecar because NATS blinked would only add a storm. `/readyz` does, with a grace.

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::uri::Authority;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::State;
use crate::config::Listen;
use crate::link::{self, Audience, AudienceOf};
use crate::server::listen::Bound;

/// NATS may be away this long before the sidecar stops being ready.
const NATS_GRACE: Duration = Duration::from_secs(30);
/// A shard that has not swept its clients for this long is stuck.
const SHARD_SILENCE_MAX: Duration = Duration::from_secs(10);
/// Connections named in one answer of `/connections`.
const CONNECTIONS_LISTED_MAX: usize = 100;
/// Time for one request and its answer, however slowly it is sent or read.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections at a time; more wait to be accepted. The descriptors for them are set aside (`server::sockets`).
const CONNECTIONS_MAX: usize = 24;

/// Serves until the listener fails for good.
pub async fn serve(bound: Bound, state: Arc<State>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let place = || places.clone().acquire_owned().map(|place| place.map_err(io::Error::other));
    match bound {
        Bound::Tcp(tcp) => {
            let listener = TcpListener::from_std(tcp)?;
            loop {
                let place = place().await?;
                match listener.accept().await {
                    Ok((stream, _)) => connection(stream, state.clone(), place),
                    Err(error) => pause(&error).await,
                }
            }
        }
        Bound::Unix(unix) => {
            let listener = UnixListener::from_std(unix)?;
            loop {
                let place = place().await?;
                match listener.accept().await {
                    Ok((stream, _)) => connection(stream, state.clone(), place),
                    Err(error) => pause(&error).await,
                }
            }
        }
    }
}

async fn pause(error: &io::Error) {
    tracing::warn!(%error, "Admin listener pauses");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

fn connection<S>(stream: S, state: Arc<State>, place: OwnedSemaphorePermit)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let service = service_fn(move |request| answer(request, state.clone()));
    let mut builder = http1::Builder::new();
    // One request each: who asks and does not read holds its place for that long, and not for as long as it likes.
    builder.timer(TokioTimer::new()).header_read_timeout(EXCHANGE_TIMEOUT).keep_alive(false);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::spawn(async move {
        let ended = tokio::time::timeout(EXCHANGE_TIMEOUT, connection).await;
        if let Ok(Err(error)) = ended {
            tracing::debug!(%error, "Admin connection ended");
        }
        drop(place);
    });
}

async fn answer(request: Request<Incoming>, state: Arc<State>) -> Result<Response<Full<Bytes>>, Infallible> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }
    if !names_this_machine(&state, &request) {
        return Ok(text(StatusCode::MISDIRECTED_REQUEST, "ask by address or as localhost\n"));
    }
    let query = request.uri().query().unwrap_or_default();
    Ok(match request.uri().path() {
        "/livez" | "/healthz" => livez(&state),
        "/readyz" => readyz(&state, query),
        "/metrics" => metrics(&state),
        "/version" => json_body(StatusCode::OK, &version()),
        "/connections" if !is_authorized(&state, &request) => unauthorized(),
        "/connections" => connections(&state, query).await,
        _ => text(StatusCode::NOT_FOUND, "not found; there are /livez /readyz /metrics /version /connections\n"),
    })
}

/// A page whose own name leads to the loopback address (DNS rebinding) asks with that name. It can be any that has a dot;
/// addresses, `localhost` and names without a dot are nobody's pages. Where others may connect a token is wanted instead.
fn names_this_machine(state: &State, request: &Request<Incoming>) -> bool {
    let on_loopback = matches!(&state.config.admin.listen, Listen::Tcp(address) if address.ip().is_loopback());
    let host = request.headers().get(HOST).map_or(Some(""), |host| host.to_str().ok()).unwrap_or(".");
    let Ok(authority) = host.parse::<Authority>() else { return host.is_empty() };
    let name = authority.host();
    !on_loopback || !name.contains('.') || name.parse::<Ipv4Addr>().is_ok()
}

/// With a token configured, who is connected is told only to those who have it.
fn is_authorized(state: &State, request: &Request<Incoming>) -> bool {
    let Some(token) = &state.config.admin.token else { return true };
    let given = request.headers().get(AUTHORIZATION).map(|value| value.as_bytes());
    given.and_then(|value| value.strip_prefix(b"Bearer ")).is_some_and(|given| token.expose().ct_eq(given).into())
}

fn unauthorized() -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::UNAUTHORIZED, "send the admin token: Authorization: Bearer …\n");
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    response
}

/// What is running, as `/version` and `sidestream version --json` say it.
pub fn version() -> serde_json::Value {
    json!({"name": env!("CARGO_PKG_NAME"), "version": env!("CARGO_PKG_VERSION"), "crypto": "aws-lc-rs"})
}

fn livez(state: &State) -> Response<Full<Bytes>> {
    let stuck = state.metrics.longest_since_sweep() > SHARD_SILENCE_MAX;
    if stuck { text(StatusCode::SERVICE_UNAVAILABLE, "a shard is stuck\n") } else { text(StatusCode::OK, "ok\n") }
}

fn readyz(state: &State, query: &str) -> Response<Full<Bytes>> {
    let mut checks = vec![("draining".to_owned(), !state.is_draining())];
    for (name, feed) in state.config.routes.streams.iter().zip(&state.feeds.streams) {
        checks.push((format!("stream {name}"), feed.status.is_ready(NATS_GRACE)));
    }
    checks.push(("core subjects".to_owned(), state.feeds.live.status.is_ready(NATS_GRACE)));
    let ready = checks.iter().all(|(_, good)| *good);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if !query.split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose=")) {
        return text(status, if ready { "ready\n" } else { "not ready; see /readyz?verbose\n" });
    }
    let lines: String =
        checks.iter().map(|(name, good)| format!("{} {name}\n", if *good { "ok    " } else { "not ok" })).collect();
    text(status, &lines)
}

fn metrics(state: &State) -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::OK, &state.metrics.render());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// `?user=` and `?subject=` narrow it: the connections of a user, or those that would hear a subject.
async fn connections(state: &State, query: &str) -> Response<Full<Bytes>> {
    let mut of = AudienceOf { limit: CONNECTIONS_LISTED_MAX, ..AudienceOf::default() };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "user" => of.user = Some(value.into_owned()),
            "subject" => of.subject = Some(value.into_owned()),
            _ => {}
        }
    }
    match link::audience(&state.shards, &of).await {
        Some(audience) => json_body(StatusCode::OK, &listed(&audience)),
        None => text(StatusCode::SERVICE_UNAVAILABLE, "a shard did not answer in time\n"),
    }
}

fn listed(audience: &Audience) -> serde_json::Value {
    let connections: Vec<_> = audience
        .connections
        .iter()
        .map(|c| json!({"connection": c.connection.to_string(), "user": c.user, "route": c.route, "live": c.live, "queued_bytes": c.queued_bytes}))
        .collect();
    json!({"total": audience.total, "live": audience.live, "connections": connections})
}

fn json_body(status: StatusCode, value: &serde_json::Value) -> Response<Full<Bytes>> {
    let mut response = text(status, &format!("{value}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}
