//! Sends spans to a collector: OTLP over HTTP, as protobuf, set up by the environment variables that OpenTelemetry
//! defines.
//!
//! Shards put spans into a bounded queue of the SDK, which a thread of its own sends in batches: a collector that hangs
//! or is away costs spans, and nobody's time. Requests are made by [`Collector`], retries and batches by the SDK.

use std::error::Error;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::{Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry::{Key, KeyValue};
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{
    ExporterBuildError, OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_PROTOCOL, OTEL_EXPORTER_OTLP_TIMEOUT,
    OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_PROTOCOL,
    OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, Protocol, WithExportConfig as _, WithHttpConfig as _,
};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData, SpanExporter};
use tokio::runtime::Runtime;

const NAME: &str = env!("CARGO_PKG_NAME");
const PROTOCOL: &str = "http/protobuf";

/// Why there is no export.
#[derive(Debug, thiserror::Error)]
pub(super) enum ExportError {
    /// The environment asks for what we cannot do.
    #[error("the protocol is {PROTOCOL} only, not {0:?}")]
    Protocol(String),
    /// The environment is wrong.
    #[error(transparent)]
    Exporter(#[from] ExporterBuildError),
    /// Requests cannot be made.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    /// Requests cannot be waited for.
    #[error("cannot make a runtime: {0}")]
    Runtime(#[from] io::Error),
}

/// What makes spans.
#[derive(Debug)]
pub(super) struct Tracing {
    pub(super) tracer: SdkTracer,
    pub(super) counts: Counts,
}

/// How many spans there were, and how many of them a collector has taken.
#[derive(Debug, Clone, Default)]
pub(super) struct Counts {
    ended: Arc<AtomicU64>,
    taken: Arc<AtomicU64>,
}

impl Counts {
    /// A span that is to be exported.
    pub(super) fn ended(&self) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    /// Spans that wait, did not fit the queue, or could not be sent.
    pub(super) fn unsent(&self) -> u64 {
        let taken = self.taken.load(Ordering::Relaxed);
        self.ended.load(Ordering::Relaxed).saturating_sub(taken)
    }
}

/// Whether the environment names a collector, and does not say that there is to be none.
pub(super) fn is_wanted() -> bool {
    let named = first(&[OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, OTEL_EXPORTER_OTLP_ENDPOINT]).is_some();
    let is = |variable, value: &str| first(&[variable]).is_some_and(|is| is.eq_ignore_ascii_case(value));
    named && !is("OTEL_SDK_DISABLED", "true") && !is("OTEL_TRACES_EXPORTER", "none")
}

/// The value of the first of these variables that has one; an empty one has none.
fn first(variables: &[&str]) -> Option<String> {
    variables.iter().find_map(|variable| std::env::var(variable).ok().filter(|value| !value.is_empty()))
}

/// Starts the thread that sends.
pub(super) fn build() -> Result<(Tracing, SdkTracerProvider), ExportError> {
    let protocol = first(&[OTEL_EXPORTER_OTLP_TRACES_PROTOCOL, OTEL_EXPORTER_OTLP_PROTOCOL]);
    if let Some(other) = protocol.filter(|protocol| protocol != PROTOCOL) {
        return Err(ExportError::Protocol(other));
    }
    let timeout = first(&[OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT])
        .and_then(|milliseconds| milliseconds.parse().ok())
        .map_or(OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT, Duration::from_millis);
    let inner = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_http_client(Collector::new(timeout)?)
        .with_protocol(Protocol::HttpBinary)
        .with_timeout(timeout)
        .build()?;
    let counts = Counts::default();
    let provider = SdkTracerProvider::builder()
        .with_batch_exporter(Counted { inner, counts: counts.clone() })
        .with_resource(resource())
        .build();
    Ok((Tracing { tracer: provider.tracer(NAME), counts }, provider))
}

/// What the environment says of this process, and its name and version where it says nothing of them.
fn resource() -> Resource {
    let given = Resource::builder().build();
    let is_unknown =
        given.get(&Key::new("service.name")).is_none_or(|name| name.as_str().starts_with("unknown_service"));
    let name = is_unknown.then(|| KeyValue::new("service.name", NAME));
    let version = given.get(&Key::new("service.version")).is_none();
    let version = version.then(|| KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
    Resource::builder().with_attributes(name.into_iter().chain(version)).build()
}

/// The exporter, with its successes counted and its failures told.
#[derive(Debug)]
struct Counted {
    inner: opentelemetry_otlp::SpanExporter,
    counts: Counts,
}

impl SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let result = self.inner.export(batch).await;
        match &result {
            Ok(()) => {
                self.counts.taken.fetch_add(count as u64, Ordering::Relaxed);
            }
            Err(error) => tracing::warn!(count, %error, "The collector did not take spans"),
        }
        result
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// The HTTP client of the thread that sends, with a runtime that runs while a request does.
#[derive(Debug)]
struct Collector {
    client: HyperClient<HttpsConnector<HttpConnector>>,
    runtime: Runtime,
}

impl Collector {
    fn new(timeout: Duration) -> Result<Self, ExportError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let connector = HttpsConnectorBuilder::new().with_tls_config(tls()?).https_or_http().enable_http1().build();
        Ok(Self { client: HyperClient::new(connector, timeout, None), runtime })
    }
}

#[async_trait::async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // Its thread has nothing else to do.
        let answer = self.runtime.block_on(self.client.send_bytes(request));
        if let Err(error) = &answer {
            // The SDK keeps the cause for itself, and hyper's outer texts do not tell it.
            let cause = std::iter::successors(Some(error.as_ref() as &dyn Error), |&error| error.source()).last();
            tracing::warn!(error = cause.map(tracing::field::display), "The collector did not answer");
        }
        answer
    }
}

/// Of the system's authorities whatever is usable. Where there are none, only `https` fails.
fn tls() -> Result<rustls::ClientConfig, rustls::Error> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
