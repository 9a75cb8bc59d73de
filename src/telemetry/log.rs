//! Structured logs to standard error: text on a terminal, one JSON object a line elsewhere.
//!
//! Payloads, tokens, keys and query strings are never logged; nor is who a user is. `info` is for things an operator acts
//! on, and for the two lines of each event stream ([`super::access`]); the rest of a client's life is `debug`. How a line
//! looks is [`line`]'s business, how many there may be [`limit`]'s, how they get out [`queue`]'s.

mod limit;
mod line;
mod queue;

use std::io::IsTerminal;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};

use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::Formatter;
use tracing_subscriber::fmt::format::DefaultFields;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload::Handle;
use tracing_subscriber::util::SubscriberInitExt as _;

use self::limit::{Limit, TELLING};
pub use self::limit::{TELL_INTERVAL, left_out};
use self::line::{Lines, Shared};
use self::queue::Queue;
pub use self::queue::lost;
use crate::config::{Config, LogFormat, Redaction};

/// What libraries may say; a filter that names one itself wins. The NATS client tells of every connection at `info`, and what
/// matters of that is told by the feeds. HTTP/2 and TLS warn of what a peer does wrong, as often as it likes: a line for each
/// 17 bytes that it sends.
const LIBRARIES: &str = "async_nats=warn,h2=error,rustls=error";

/// The level is not one that `tracing` knows.
#[derive(Debug, thiserror::Error)]
#[error("log.level: {0}")]
pub struct BadLevel(#[from] tracing_subscriber::filter::ParseError);

/// The filter in force, to be replaced.
type Filter = Handle<EnvFilter, Formatter<DefaultFields, Lines, Queue>>;

/// The running log. Dropping it writes what waits; whoever has a line after that writes it himself.
#[derive(Debug)]
pub struct Log {
    limit: Limit,
    queue: Queue,
    redaction: Shared,
    filter: Filter,
    /// Lines lost that have been told of.
    told: AtomicU64,
}

impl Log {
    /// Writes what had to be left out, and how many lines were lost, since the last time.
    pub fn tell(&self) {
        self.limit.tell();
        let lost = lost();
        let count = lost - self.told.swap(lost, Ordering::Relaxed);
        if count > 0 {
            tracing::warn!(target: TELLING, count, "Log lines lost: standard error did not take them");
        }
    }

    /// Puts another level or filter in force, as `log.level` would. After an error the one from before stays.
    pub fn set_level(&self, level: &str) -> Result<(), BadLevel> {
        let filter = filter(level)?;
        // Only the log of this process can be gone, with everything that could write to it.
        let _ = self.filter.reload(filter);
        Ok(())
    }

    /// Secrets have changed: these are not shown from now on.
    pub fn set_redaction(&self, redaction: Redaction) {
        *self.redaction.write().unwrap_or_else(PoisonError::into_inner) = redaction;
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.queue.close();
    }
}

/// Starts logging for the process, panics included. A second call changes nothing.
pub fn start(config: &Config) -> Result<Log, BadLevel> {
    let json = match config.log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !std::io::stderr().is_terminal(),
    };
    let filter = filter(&config.log.level)?;
    let (limit, queue, redaction) = (Limit::default(), Queue::start(), Shared::default());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(queue.clone())
        .with_ansi(!json && std::io::stderr().is_terminal())
        // A log that cannot be written is no reason to panic, which telling so on standard error would.
        .log_internal_errors(false)
        .event_format(Lines::new(json, redaction.clone()))
        .with_filter_reloading();
    let log = Log { limit: limit.clone(), queue, redaction, filter: builder.reload_handle(), told: AtomicU64::new(0) };
    log.set_redaction(config.redaction());
    // Only a second subscriber can fail here, and then the first one stays.
    let _ = builder.finish().with(limit).with(filter_fn(is_ours_to_tell)).try_init();
    std::panic::set_hook(Box::new(panicked));
    Ok(log)
}

fn filter(level: &str) -> Result<EnvFilter, BadLevel> {
    Ok(EnvFilter::try_new(format!("{LIBRARIES},{level}"))?)
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
