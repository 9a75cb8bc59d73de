//! What operators see: logs, metrics and, with the cargo feature `otel`, spans.

pub mod access;
pub mod log;
pub mod metrics;
#[cfg(feature = "otel")]
pub mod otel;
#[cfg(not(feature = "otel"))]
#[path = "telemetry/otel_off.rs"]
pub mod otel;
