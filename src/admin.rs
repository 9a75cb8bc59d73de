//! The admin listener: health, metrics, who is connected, and what an operator may do, on its own address.
//!
//! Here requests are taken in and led to whoever answers: [`health`], [`connections`], [`control`], [`publish`], [`send`], [`page`],
//! [`live`]. Who may ask is [`access`]'s business. Its answers are small and for few; streams of users are on the public listener only.

mod access;
mod answer;
mod body;
mod connections;
mod control;
mod health;
mod live;
mod page;
mod publish;
mod send;

use std::convert::Infallible;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt as _;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::answer::{Answer, Refusal, json_body, text};
use crate::app::State;
use crate::reload::Reloader;
use crate::server::listen::{Address, Bound};

pub use self::health::version;

/// Time for one request and its answer, however slowly it is sent or read.
const EXCHANGE_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at a time; more wait to be accepted. The descriptors for them are set aside (`server::sockets`).
const CONNECTIONS_MAX: usize = 24;
/// The live page's event stream.
const LIVE: &str = "/live";
/// What there is, for those who ask for something else.
const PATHS: &str = "/ /livez /readyz /metrics /version /config /connections /live /drain /kick/{connection} /kick?user= \
     /send/{connection} /notify/{user} /broadcast /reload /log-level";

/// What requests are answered from.
#[derive(Debug)]
pub struct Admin {
    /// Where it listens.
    pub address: Address,
    /// The process.
    pub state: Arc<State>,
    /// Its configuration.
    pub reloader: Arc<Reloader>,
    viewers: live::Viewers,
}

impl Admin {
    /// At an address, for a process and its configuration.
    pub fn new(address: Address, state: Arc<State>, reloader: Arc<Reloader>) -> Self {
        Self { address, state, reloader, viewers: live::viewers() }
    }
}

/// Serves until the listener fails for good.
pub async fn serve(bound: Bound, admin: Arc<Admin>) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let place = || places.clone().acquire_owned().map(|place| place.map_err(io::Error::other));
    match bound {
        Bound::Tcp(tcp) => {
            let listener = TcpListener::from_std(tcp)?;
            loop {
                let place = place().await?;
                match listener.accept().await {
                    Ok((stream, _)) => connection(stream, admin.clone(), place),
                    Err(error) => pause(&error).await,
                }
            }
        }
        Bound::Unix(unix) => {
            let listener = UnixListener::from_std(unix)?;
            loop {
                let place = place().await?;
                match listener.accept().await {
                    Ok((stream, _)) => connection(stream, admin.clone(), place),
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

fn connection<S>(stream: S, admin: Arc<Admin>, place: OwnedSemaphorePermit)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
{
    let lasts = Arc::new(AtomicBool::new(false));
    let lasting = lasts.clone();
    let service = service_fn(move |request| {
        let (admin, lasting) = (admin.clone(), lasting.clone());
        async move {
            let is_live = request.uri().path() == LIVE;
            let answer = answer(request, &admin).await;
            lasting.store(is_live && answer.is_ok(), Ordering::Relaxed);
            Ok::<_, Infallible>(answer.unwrap_or_else(Refusal::into_answer))
        }
    });
    let mut builder = http1::Builder::new();
    // One request each: who asks and does not read holds its place for that long, and not for as long as it likes.
    builder.timer(TokioTimer::new()).header_read_timeout(EXCHANGE_TIMEOUT).keep_alive(false);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::spawn(async move {
        let mut connection = pin!(connection);
        let mut ended = tokio::time::timeout(EXCHANGE_TIMEOUT, &mut connection).await;
        if ended.is_err() && lasts.load(Ordering::Relaxed) {
            ended = tokio::time::timeout(live::LASTS, connection).await;
        }
        if let Ok(Err(error)) = ended {
            tracing::debug!(%error, "Admin connection ended");
        }
        drop(place);
    });
}

async fn answer(request: Request<Incoming>, admin: &Admin) -> Result<Answer, Refusal> {
    access::is_for_this_machine(admin, &request)?;
    let path = request.uri().path().to_owned();
    let changes = control::Change::at(&path);
    match (request.method(), changes) {
        (&Method::GET | &Method::HEAD, _) => shown(&request, &path, admin).await,
        (method, Some(change)) if *method == change.method() => {
            access::may_change(admin, &request)?;
            change.make(admin, request).await
        }
        (_, Some(change)) => Err(Refusal::method(change.allowed())),
        (_, None) => Err(Refusal::method("GET, HEAD")),
    }
}

/// What only shows.
async fn shown(request: &Request<Incoming>, path: &str, admin: &Admin) -> Result<Answer, Refusal> {
    let state = &admin.state;
    let query = request.uri().query().unwrap_or_default();
    Ok(match path {
        "/" => page::page(),
        "/livez" | "/healthz" => health::livez(state),
        "/readyz" => health::readyz(state, query),
        "/metrics" => metrics(state),
        "/version" => json_body(StatusCode::OK, &version()),
        "/drain" => json_body(StatusCode::OK, &control::drain_progress(state)),
        "/config" | "/connections" | LIVE => {
            access::may_see_all(admin, request)?;
            match path {
                "/config" => text(StatusCode::OK, &config(admin)),
                LIVE => live::open(state.clone(), &admin.viewers)?,
                _ => connections::list(state, query).await?,
            }
        }
        _ => match control::Change::at(path) {
            Some(change) => return Err(Refusal::method(change.allowed())),
            None => return Err(Refusal::not_found(format!("there are {PATHS}"))),
        },
    })
}

fn metrics(state: &State) -> Answer {
    let mut response = text(StatusCode::OK, &state.metrics.render());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// As `config show` prints it.
fn config(admin: &Admin) -> String {
    admin.reloader.effective().iter().map(|value| format!("{value}\n")).collect()
}
