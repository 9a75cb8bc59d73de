//! The request path of the public listener, in order, on one screen: [`answer`], and [`asker`] and [`asked`], which `sidestream
//! explain` goes through as well.
//!
//! Everything that can be refused is refused here, before a stream takes anything; then the shard opens it. Each step is a
//! module of its own: [`browser`] (host and origin), [`identity`] and [`trust`] (who), [`target`] (what), [`reject`] (how it
//! is said no). Writing the stream is the shard's and the server's business.

pub mod body;
pub mod browser;
pub mod identity;
pub mod reject;
pub mod target;
pub mod trust;

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN, TRANSFER_ENCODING,
};
use hyper::{Method, Response, Uri, Version};
use uuid::Uuid;

use self::body::Request;
use self::identity::{Identity, User};
use self::reject::Refusal;
use self::target::Query;
use self::trust::Peer;
use crate::config::Config;
use crate::cursor::LastEventId;
use crate::limit::Limiter;
use crate::live::Live;
use crate::route::{Audience, Grant, GrantError, Route};
use crate::shard::Shard;
use crate::shard::client::Spec;
use crate::shard::guard::Guard;
use crate::subject::{Pattern, SubjectError, Token};
use crate::telemetry::access::{self, Arrival};
use crate::telemetry::metrics::{Protocol, Refused};
use crate::telemetry::otel::Admission;

/// How long a stream may wait for its feeds before it is refused softly.
const OPEN_PATIENCE: Duration = Duration::from_secs(5);
/// Largest header block, in bytes (requirement R19).
const HEADER_BLOCK_BYTES_MAX: usize = 16 * 1024;

/// What a request is answered from.
#[derive(Debug)]
pub struct Context {
    /// The configuration in force.
    pub config: Arc<Live<Config>>,
    /// The shard this connection is on.
    pub shard: Rc<Shard>,
    /// Quotas of the process.
    pub limiter: Arc<Limiter>,
    /// What the `dev` command puts in front; nobody else.
    pub front: Option<Arc<dyn Front>>,
}

/// What a [`Front`] says to a request; `None` leaves it to the routes.
pub type FrontAnswer<'a> = Pin<Box<dyn Future<Output = Option<Response<Full<Bytes>>>> + 'a>>;

/// Something that sees requests before the routes do, for `sidestream dev` only.
pub trait Front: std::fmt::Debug + Send + Sync {
    /// Answers a request itself, or leaves it to the routes.
    fn answer<'a>(&'a self, request: &'a mut Request) -> FrontAnswer<'a>;
    /// The user that a query names; outside this trait a query never names anyone.
    fn user(&self, query: &Query) -> Option<Result<User, Refusal>>;
}

/// What becomes of a request.
#[derive(Debug)]
pub enum Answer {
    /// An ordinary response.
    Response(Response<Full<Bytes>>),
    /// An event stream: its head, and its client.
    Stream(Response<()>, Guard),
}

/// What stands between a request and its stream.
#[derive(Debug)]
pub enum No {
    /// It is refused for good.
    Refusal(Refusal),
    /// It is refused for now.
    Soft(Refused),
    /// It is answered, and opens no stream.
    Response(Box<Response<Full<Bytes>>>),
}

impl From<Refusal> for No {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(refusal)
    }
}

impl From<Refused> for No {
    fn from(reason: Refused) -> Self {
        Self::Soft(reason)
    }
}

/// Answers a request. Identity headers are evaluated first and are gone afterwards.
pub async fn answer(context: &Context, peer: Peer, mut request: Request) -> Answer {
    let mut admission = Admission::begin(&request);
    let event_stream = browser::is_event_stream_client(request.headers());
    let origin = request.headers().get(ORIGIN).cloned();
    let body = has_body(&request);
    // One and the same for the whole request.
    let config = context.config.get();
    let mut refused = None;
    let mut answer = match stream(context, &config, peer, &mut request, &mut admission).await {
        Ok((head, guard)) => Answer::Stream(head, guard),
        Err(No::Response(response)) => Answer::Response(*response),
        Err(No::Refusal(refusal)) => {
            let (_, code) = refusal.parts();
            tracing::debug!(reason = code, "Request refused");
            refused = Some(code);
            context.shard.metrics.refused_finally(code);
            Answer::Response(refusal.response())
        }
        Err(No::Soft(reason)) => {
            refused = Some(reason.label());
            context.shard.metrics.refused(reason);
            Answer::Response(reject::soft(reason, event_stream))
        }
    };
    // The span of a stream ends with its first byte, in its guard.
    if let Answer::Response(response) = &answer {
        admission.answered(response.status(), refused, || route_of(&config, request.uri()));
    }
    let headers = match &mut answer {
        Answer::Response(response) => response.headers_mut(),
        Answer::Stream(head, _) => head.headers_mut(),
    };
    browser::cors_headers(&config.server, origin.as_ref(), headers);
    // A body nobody reads, and where it ends is what requests are smuggled by; during a drain a proxy is to ask elsewhere.
    if (body && context.front.is_none()) || context.shard.is_draining() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    answer
}

async fn stream(
    context: &Context,
    config: &Config,
    peer: Peer,
    request: &mut Request,
    admission: &mut Admission,
) -> Result<(Response<()>, Guard), No> {
    let at = Instant::now();
    let Asker { address, identity } = asker(config, peer, request)?;
    admission.came_from(address);
    if let Some(identity) = &identity {
        context.shard.metrics.vouched(identity.proof);
    }
    if let Some(front) = &context.front
        && let Some(answer) = front.answer(request).await
    {
        return Err(No::Response(Box::new(answer)));
    }
    // Only `sidestream dev` has a front; elsewhere a query never names anyone.
    let named = |query: &Query| context.front.as_ref().and_then(|front| front.user(query));
    let Asked { index, route, user, grant, last_event_id } = asked(config, request, identity.as_ref(), named)?;
    if request.method() == Method::HEAD {
        return Err(No::Response(Box::new(head().map(|()| Full::default()))));
    }
    let arrival = Arrival {
        at,
        peer: peer.kind(),
        address,
        proof: identity.as_ref().map(|identity| identity.proof),
        resumes: last_event_id != LastEventId::Absent,
        age: age(last_event_id),
        trace: request
            .headers()
            .get("traceparent")
            .and_then(|value| access::trace_id(value.as_bytes()))
            .map(Into::into),
        admission: admission.clone(),
    };
    let spec = Spec {
        connection: Uuid::now_v7(),
        route: small(index),
        format: small(route.format),
        stream: route.stream.map(small),
        grant,
        last_event_id,
        protocol: if request.version() == Version::HTTP_2 { Protocol::Http2 } else { Protocol::Http1 },
        expires_in: identity.as_ref().and_then(|identity| identity.expires_in),
        arrival: Some(Box::new(arrival)),
        permit: context.limiter.admit(user.as_ref().map(|user| user.id.as_str()), address)?,
    };
    Ok((head(), open(context, spec).await?))
}

/// Who asks, as far as it is decided before the path counts.
#[derive(Debug)]
pub struct Asker {
    /// The client's address, where it is known.
    pub address: Option<IpAddr>,
    /// What a proven proxy vouched for.
    pub identity: Option<Identity>,
}

/// What a request may hear, and from where on.
#[derive(Debug)]
pub struct Asked<'c> {
    /// Number of the route.
    pub index: usize,
    /// The route.
    pub route: &'c Route,
    /// Who hears it.
    pub user: Option<User>,
    /// What is heard.
    pub grant: Grant,
    /// Where it goes on.
    pub last_event_id: LastEventId,
}

/// The first half of the request path: a sound request, of a page that may ask, and its identity, whose headers are then gone.
pub fn asker<B>(config: &Config, peer: Peer, request: &mut hyper::Request<B>) -> Result<Asker, Refusal> {
    well_formed(request)?;
    browser::gate(&config.server, request)?;
    let address = client_address(config, peer, request.headers());
    let identity = identity::evaluate(config, peer, request.headers_mut())?;
    Ok(Asker { address, identity })
}

/// The second half: everything that is decided without a shard. `named`: a user that a query names.
pub fn asked<'c, B: hyper::body::Body>(
    config: &'c Config,
    request: &hyper::Request<B>,
    identity: Option<&Identity>,
    named: impl FnOnce(&Query) -> Option<Result<User, Refusal>>,
) -> Result<Asked<'c>, No> {
    let segments = target::segments(request.uri())?;
    let (index, route, captures) = find(config, &segments)?;
    method(config, request)?;
    no_body(request)?;
    if !browser::accepts_event_stream(request.headers()) {
        return Err(Refusal::NotAcceptable.into());
    }
    let query = Query::parse(request.uri())?;
    let named = named(&query).transpose()?;
    let user = identity.and_then(|identity| identity.user.clone()).or(named);
    let token = user.as_ref().map(|user| user.token.clone());
    let grant = grant(route, token, identity, &captures, &query)?;
    let last_event_id = last_event_id(request.headers(), &query)?;
    Ok(Asked { index, route, user, grant, last_event_id })
}

/// What no request of ours looks like, whatever its route.
fn well_formed<B>(request: &hyper::Request<B>) -> Result<(), Refusal> {
    if !matches!(request.version(), Version::HTTP_11 | Version::HTTP_2) {
        return Err(Refusal::Version);
    }
    if request.method() == Method::CONNECT || request.method() == Method::TRACE {
        return Err(Refusal::Method);
    }
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target > target::TARGET_BYTES_MAX {
        return Err(Refusal::TargetTooLong);
    }
    // As they stood on the wire: name, colon, space, value, line end.
    let block: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if block > HEADER_BLOCK_BYTES_MAX { Err(Refusal::HeadersTooLarge) } else { Ok(()) }
}

fn client_address(config: &Config, peer: Peer, headers: &HeaderMap) -> Option<IpAddr> {
    match &config.trust {
        Some(trust) => trust.client_address(peer, headers),
        None => peer.address(),
    }
}

type Found<'c, 's> = (usize, &'c Route, Vec<(&'s str, &'s str)>);

fn find<'c: 's, 's>(config: &'c Config, segments: &'s [String]) -> Result<Found<'c, 's>, Refusal> {
    let mut routes = config.routes.routes.iter().enumerate();
    routes
        .find_map(|(index, route)| route.path.matches(segments).map(|captures| (index, route, captures)))
        .ok_or(Refusal::NotFound)
}

/// The route that a request was for, also where it is refused before that counts.
fn route_of<'c>(config: &'c Config, uri: &Uri) -> Option<&'c str> {
    let segments = target::segments(uri).ok()?;
    find(config, &segments).ok().map(|(_, route, _)| route.path.as_str())
}

fn method<B>(config: &Config, request: &hyper::Request<B>) -> Result<(), No> {
    match *request.method() {
        Method::GET | Method::HEAD => Ok(()),
        Method::OPTIONS => Err(No::Response(Box::new(browser::options(&config.server, request.headers().get(ORIGIN))))),
        _ => Err(Refusal::Method.into()),
    }
}

fn no_body<B: hyper::body::Body>(request: &hyper::Request<B>) -> Result<(), Refusal> {
    if has_body(request) { Err(Refusal::BodyNotAllowed) } else { Ok(()) }
}

fn has_body<B: hyper::body::Body>(request: &hyper::Request<B>) -> bool {
    let headers = request.headers();
    let announced = headers.contains_key(TRANSFER_ENCODING) || headers.get_all(CONTENT_LENGTH).iter().any(|l| l != "0");
    announced || !request.body().is_end_stream()
}

/// The patterns this request may hear; the only place where an identity becomes a grant.
fn grant(
    route: &Route,
    user: Option<Token>,
    identity: Option<&Identity>,
    captures: &[(&str, &str)],
    query: &Query,
) -> Result<Grant, Refusal> {
    if route.audience == Audience::User && user.is_none() {
        return Err(Refusal::IdentityMissing);
    }
    let mut variables: HashMap<&str, Token> = HashMap::new();
    for (name, value) in captures {
        variables.insert(name, Token::parse(value).ok_or(Refusal::BadPath)?);
    }
    let named = identity.map_or(&[][..], |identity| &identity.variables);
    variables.extend(named.iter().map(|(name, token)| (name.as_str(), token.clone())));
    variables.extend(user.map(|token| ("user", token)));
    let subjects = identity.map_or(&[][..], |identity| &identity.subjects);
    let refuse = |error| refuse_grant(&error, !captures.is_empty());
    let grant = route.grant(&variables, subjects).map_err(refuse)?;
    if !route.select || query.subjects.is_empty() {
        return Ok(grant);
    }
    let selected: Result<Vec<_>, _> = query.subjects.iter().map(|subject| Pattern::parse(subject)).collect();
    route.narrow(&grant, &selected.map_err(|_| Refusal::SubjectDenied)?).map_err(refuse)
}

fn refuse_grant(error: &GrantError, captured: bool) -> Refusal {
    match error {
        GrantError::Denied => Refusal::SubjectDenied,
        // A variable whose header or claim the proxy did not send.
        GrantError::Template(SubjectError::MissingVariable(_)) => Refusal::IdentityMissing,
        // Values that make no subject together, or in this place.
        GrantError::Template(_) if captured => Refusal::BadPath,
        GrantError::Template(_) => Refusal::IdentityInvalid,
    }
}

/// The header wins over the query, which is there for pages that recreate an EventSource and cannot set headers.
fn last_event_id(headers: &HeaderMap, query: &Query) -> Result<LastEventId, Refusal> {
    let mut lines = headers.get_all("last-event-id").iter();
    let (first, None) = (lines.next(), lines.next()) else { return Err(Refusal::BadCursor) };
    let header = first.map(HeaderValue::as_bytes).filter(|value| !value.is_empty());
    let value = header.or(query.last_event_id.as_deref()).unwrap_or_default();
    LastEventId::parse(value).map_err(|_| Refusal::BadCursor)
}

/// How old the event is that a cursor points at, where it tells.
fn age(last: LastEventId) -> Option<Duration> {
    let LastEventId::Cursor(cursor) = last else { return None };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (cursor.at.time > 0).then(|| now.saturating_sub(Duration::from_nanos(cursor.at.time)))
}

async fn open(context: &Context, spec: Spec) -> Result<Guard, No> {
    let shard = &context.shard;
    if shard.is_draining() {
        return Err(Refused::Drain.into());
    }
    if !shard.can_serve(spec.stream, !spec.grant.live().is_empty()) {
        return Err(Refused::Nats.into());
    }
    tokio::time::timeout(OPEN_PATIENCE, shard.open(spec)).await.map_err(|_| Refused::Nats.into())
}

/// The head of an event stream.
fn head() -> Response<()> {
    let mut response = Response::new(());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// Indexes of routes, streams and formats; the configuration allows at most 255 of each.
fn small(index: usize) -> u8 {
    u8::try_from(index).expect("checked when the configuration was read")
}

#[cfg(test)]
mod tests;
