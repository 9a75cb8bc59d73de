//! Spans for OpenTelemetry, with the cargo feature `otel`: one for each request that is answered or becomes an event
//! stream.
//!
//! A span ends with the answer, that of a stream with its first byte: how long streams last would make a latency of
//! nonsense. It is put together when it ends, so that nothing of it exists while a request waits. Where spans go, and
//! how, is [`export`]'s business. Without the feature `otel_off.rs` takes this place.

mod export;

use std::net::IpAddr;
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use hyper::{HeaderMap, Method, Request, StatusCode, Version};
use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{Span as _, SpanKind, Status, Tracer as _};
use opentelemetry::{Context, KeyValue};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;

use self::export::Tracing;
use crate::frame::notice::Resume;

const TRACEPARENT: &str = "traceparent";
/// At the end of the process, what waits is sent within this time, or is lost.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Set once, before the first request, if spans are wanted.
static TRACING: OnceLock<Tracing> = OnceLock::new();

/// The export of spans, if there is one.
#[derive(Debug)]
pub struct Export(Option<SdkTracerProvider>);

/// Starts the export, if the environment names a collector. What is wrong with it is logged, and is no reason not to
/// serve.
pub fn start() -> Export {
    if !export::is_wanted() {
        return Export(None);
    }
    match export::build() {
        Ok((tracing, provider)) => {
            // A second call in one process changes nothing.
            let _ = TRACING.set(tracing);
            Export(Some(provider))
        }
        Err(error) => {
            tracing::error!(%error, "Spans are not exported");
            Export(None)
        }
    }
}

impl Export {
    /// Sends what waits, for at most a second, and tells what was lost.
    pub fn finish(self) {
        let Some(provider) = self.0 else { return };
        // What it says is also what the counts tell.
        let _ = provider.shutdown_with_timeout(LAST_WORDS);
        if let Some(lost) = TRACING.get().map(|tracing| tracing.counts.unsent()).filter(|&lost| lost > 0) {
            tracing::warn!(lost, "Spans were not exported");
        }
    }
}

/// What the span of a request will tell, from when its head has been read. Without an export there is nothing in it.
#[derive(Debug, Clone)]
pub struct Admission(Option<Box<Begun>>);

#[derive(Debug, Clone)]
struct Begun {
    at: SystemTime,
    since: Instant,
    /// Holds the caller's span, if the request told of one.
    parent: Context,
    method: &'static str,
    version: &'static str,
    address: Option<IpAddr>,
}

/// What a span says beyond what the request told.
struct End<'r> {
    route: Option<&'r str>,
    status: StatusCode,
    more: Option<KeyValue>,
}

impl Admission {
    /// A request has come.
    pub fn begin<B>(request: &Request<B>) -> Self {
        Self(TRACING.get().map(|_| {
            Box::new(Begun {
                at: SystemTime::now(),
                since: Instant::now(),
                parent: parent(request.headers()),
                method: method(request.method()),
                version: if request.version() == Version::HTTP_2 { "2" } else { "1.1" },
                address: None,
            })
        }))
    }

    /// The client's address, where it is known.
    pub fn came_from(&mut self, address: Option<IpAddr>) {
        if let Some(begun) = &mut self.0 {
            begun.address = address;
        }
    }

    /// Ends it: the request is answered. `refused`: the public code or reason, if it is refused. `route`: the path of
    /// its route, as configured.
    pub fn answered<'r>(
        &self,
        status: StatusCode,
        refused: Option<&'static str>,
        route: impl FnOnce() -> Option<&'r str>,
    ) {
        if let Some(begun) = &self.0 {
            let more = refused.map(|code| KeyValue::new("sidestream.refused", code));
            begun.end(End { route: route(), status, more });
        }
    }

    /// Ends it: the request has become a stream.
    pub fn opened(&self, route: &str, resume: Resume) {
        if let Some(begun) = &self.0 {
            let more = Some(KeyValue::new("sidestream.resume", resume.label()));
            begun.end(End { route: Some(route), status: StatusCode::OK, more });
        }
    }
}

impl Begun {
    fn end(&self, End { route, status, more }: End<'_>) {
        let Some(tracing) = TRACING.get() else { return };
        let mut attributes = vec![
            KeyValue::new("http.request.method", self.method),
            KeyValue::new("http.response.status_code", i64::from(status.as_u16())),
            KeyValue::new("network.protocol.version", self.version),
        ];
        attributes.extend(route.map(|route| KeyValue::new("http.route", route.to_owned())));
        attributes.extend(self.address.map(|address| KeyValue::new("client.address", address.to_string())));
        attributes.extend(more);
        let tracer = &tracing.tracer;
        let mut span = tracer
            .span_builder(name(self.method, route))
            .with_kind(SpanKind::Server)
            .with_start_time(self.at)
            .with_attributes(attributes)
            .start_with_context(tracer, &self.parent);
        if status.is_server_error() {
            span.set_status(Status::error(""));
        }
        if span.is_recording() {
            tracing.counts.ended();
        }
        // By the clock that nobody sets: a span is never shorter than nothing.
        span.end_with_timestamp(self.at + self.since.elapsed());
    }
}

/// The caller's span, after W3C Trace Context. It says where a span belongs and whether it is recorded, and nothing
/// else.
fn parent(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &OneHeader(headers))
}

/// Nothing but `traceparent`, and that only once: `tracestate` would be sent on as a stranger wrote it, with every
/// span.
struct OneHeader<'h>(&'h HeaderMap);

impl Extractor for OneHeader<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        let mut lines = self.0.get_all(TRACEPARENT).iter();
        let (Some(line), None) = (lines.next(), lines.next()) else { return None };
        line.to_str().ok().filter(|_| key == TRACEPARENT)
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT]
    }
}

/// Methods are a closed set here: a client may call its own whatever it likes.
fn method(method: &Method) -> &'static str {
    const KNOWN: [&str; 9] = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "TRACE"];
    KNOWN.into_iter().find(|known| *known == method.as_str()).unwrap_or("_OTHER")
}

fn name(method: &'static str, route: Option<&str>) -> String {
    let method = if method == "_OTHER" { "HTTP" } else { method };
    route.map_or_else(|| method.to_owned(), |route| format!("{method} {route}"))
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::TraceContextExt as _;

    use super::*;

    const SAMPLED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn one_traceparent_is_believed_and_nothing_beside_it() {
        let mut headers = HeaderMap::new();
        headers.append(TRACEPARENT, SAMPLED.parse().expect("a value"));
        headers.append("tracestate", "vendor=what-a-stranger-wrote".parse().expect("a value"));
        let span = parent(&headers).span().span_context().clone();
        assert_eq!(span.trace_id().to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(span.span_id().to_string(), "00f067aa0ba902b7");
        assert!(span.is_sampled() && span.is_remote());
        assert_eq!(span.trace_state().header(), "");

        headers.append(TRACEPARENT, SAMPLED.parse().expect("a value"));
        assert!(!parent(&headers).span().span_context().is_valid(), "two of them");
        assert!(!parent(&HeaderMap::new()).span().span_context().is_valid(), "none");
    }

    #[test]
    fn a_method_of_the_client_s_own_names_nothing() {
        assert_eq!(name(method(&Method::GET), Some("/events/{room}")), "GET /events/{room}");
        assert_eq!(name(method(&Method::GET), None), "GET");
        let own = Method::from_bytes(b"FORGED").expect("a token");
        assert_eq!(method(&own), "_OTHER");
        assert_eq!(name(method(&own), Some("/events")), "HTTP /events");
    }
}
