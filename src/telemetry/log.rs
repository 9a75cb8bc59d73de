//! Structured logs to standard error: text on a terminal, one JSON object a line elsewhere.
//!
//! Payloads, tokens, keys and query strings are never logged; nor is who a user is. `info` is for things an operator acts
//! on; one client's life is `debug`. How a line looks is [`line`]'s business, how many there may be [`limit`]'s.

mod limit;
mod line;

use std::io::IsTerminal;

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

pub use self::limit::{Limit, TELL_INTERVAL};
use self::line::Lines;
use crate::config::{Config, LogFormat};

/// What libraries may say; a filter that names one itself wins. The NATS client tells of every connection at `info`, and what
/// matters of that is told by the feeds. HTTP/2 and TLS warn of what a peer does wrong, as often as it likes: a line for each
/// 17 bytes that it sends.
const LIBRARIES: &str = "async_nats=warn,h2=error,rustls=error";

/// The level is not one that `tracing` knows.
#[derive(Debug, thiserror::Error)]
#[error("log.level: {0}")]
pub struct BadLevel(#[from] tracing_subscriber::filter::ParseError);

/// Starts logging for the process, panics included. A second call changes nothing. The lines that were left out are told by
/// what is returned.
pub fn start(config: &Config) -> Result<Limit, BadLevel> {
    let filter = EnvFilter::try_new(format!("{LIBRARIES},{}", config.log.level))?;
    let json = match config.log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let limit = Limit::default();
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(!json && std::io::stderr().is_terminal())
        // A log that cannot be written is no reason to panic, which telling so on standard error would.
        .log_internal_errors(false)
        .event_format(Lines::new(json, config.redaction()))
        .finish();
    // Only a second subscriber can fail here, and then the first one stays.
    let _ = subscriber.with(limit.clone()).with(filter_fn(is_ours_to_tell)).try_init();
    std::panic::set_hook(Box::new(panicked));
    Ok(limit)
}

/// The panic as a line like any other: its message may hold what a peer sent.
fn panicked(panic: &std::panic::PanicHookInfo<'_>) {
    let thread = std::thread::current();
    let location = panic.location().map(ToString::to_string).unwrap_or_default();
    let message = panic.payload_as_str().unwrap_or_default();
    tracing::error!(thread = thread.name().unwrap_or("unknown"), "panicked at {location}: {message}");
}

/// Whatever the filter: h2 tells at `debug` of a target that it cannot parse, with its query.
fn is_ours_to_tell(metadata: &Metadata<'_>) -> bool {
    metadata.target() != "h2::server" || *metadata.level() <= Level::INFO
}
