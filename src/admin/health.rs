//! Whether the process lives and is ready, and what it is.
//!
//! `/livez` never asks NATS: restarting a sidecar because NATS blinked would only add a storm. `/readyz` does, with a grace.

use std::time::Duration;

use hyper::StatusCode;
use serde_json::json;

use super::answer::{Answer, text};
use crate::app::State;

/// A shard that has not swept its clients for this long is stuck.
const SHARD_SILENCE_MAX: Duration = Duration::from_secs(10);

/// What is running, as `/version` and `sidestream version --json` say it. `revision` is `unknown` in a build for development.
pub fn version() -> serde_json::Value {
    let features: Vec<&str> = env!("SIDESTREAM_BUILD_FEATURES").split(',').filter(|name| !name.is_empty()).collect();
    json!({
        "name": env!("CARGO_PKG_NAME"),
        "version": env!("CARGO_PKG_VERSION"),
        "revision": env!("SIDESTREAM_BUILD_REVISION"),
        "rustc": env!("SIDESTREAM_BUILD_RUSTC"),
        "crypto": "aws-lc-rs",
        "features": features,
    })
}

/// `/livez`.
pub fn livez(state: &State) -> Answer {
    let stuck = state.metrics.longest_since_sweep() > SHARD_SILENCE_MAX;
    if stuck { text(StatusCode::SERVICE_UNAVAILABLE, "a shard is stuck\n") } else { text(StatusCode::OK, "ok\n") }
}

/// `/readyz`; `?verbose` tells each check.
pub fn readyz(state: &State, query: &str) -> Answer {
    let checks = state.metrics.readiness();
    let ready = checks.iter().all(|(_, good)| *good);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    if !query.split('&').any(|pair| pair == "verbose" || pair.starts_with("verbose=")) {
        return text(status, if ready { "ready\n" } else { "not ready; see /readyz?verbose\n" });
    }
    let lines: String =
        checks.iter().map(|(name, good)| format!("{} {name}\n", if *good { "ok    " } else { "not ok" })).collect();
    text(status, &lines)
}
