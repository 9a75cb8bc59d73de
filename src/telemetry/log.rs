//! Structured logs to standard error: text on a terminal, one JSON object a line elsewhere.
//!
//! Payloads, tokens, keys and query strings are never logged; users only as a hash. `info` is for things an operator acts
//! on; one client's life is `debug`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

/// The level is not one that `tracing` knows.
#[derive(Debug, thiserror::Error)]
#[error("log.level: {0}")]
pub struct BadLevel(#[from] tracing_subscriber::filter::ParseError);

/// Starts logging for the process. A second call changes nothing.
pub fn start(config: &Log) -> Result<(), BadLevel> {
    // The NATS client tells of every connection at `info`; what matters of that is told by the feeds. A filter that names
    // async_nats itself wins.
    let filter = EnvFilter::try_new(format!("async_nats=warn,{}", config.level))?;
    let json = match config.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Only a second subscriber can fail here, and then the first one stays.
    let _ = if json {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    } else {
        builder.with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    Ok(())
}
