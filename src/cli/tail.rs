//! `sidestream tail`: a well-behaved reader of a stream, for people and scripts.

use std::time::Duration;

use super::exit::Exit;
use super::options::parse_header;
use crate::config::units::parse_duration;
use crate::tail::{self, Options, Outcome, TailError};

/// Options of `tail`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream tail http://127.0.0.1:8080/events --header X-Forwarded-User:alice\n  sidestream tail http://127.0.0.1:8080/events --json --exit-after 10 --timeout 30s"
)]
pub struct Args {
    /// URL of the stream
    pub url: String,
    /// Prints one JSON object for each event
    #[arg(long)]
    pub json: bool,
    /// Request header; may be repeated
    #[arg(long = "header", short = 'H', value_name = "NAME:VALUE", value_parser = parse_header)]
    pub headers: Vec<(String, String)>,
    /// Resumes after this event
    #[arg(long, value_name = "ID")]
    pub last_event_id: Option<String>,
    /// Ends after this many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub exit_after: Option<u64>,
    /// Ends after this long, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub timeout: Option<Duration>,
}

/// Reads until told to stop.
pub fn run(args: &Args) -> Exit {
    let options = Options {
        url: args.url.clone(),
        headers: args.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect(),
        last_event_id: args.last_event_id.clone(),
        json: args.json,
        exit_after: args.exit_after,
        timeout: args.timeout,
    };
    super::runtime::block_on(async {
        match tail::run(options, &mut std::io::stdout()).await {
            Ok(Outcome::Counted | Outcome::OutputClosed | Outcome::NoContent) => Exit::Ok,
            Ok(Outcome::TimedOut) => {
                eprintln!("timed out");
                // Without a count to reach, the time is simply over.
                if args.exit_after.is_some() { Exit::Unavailable } else { Exit::Ok }
            }
            Err(error) => {
                eprintln!("error: {error}");
                failed(&error)
            }
        }
    })
}

fn failed(error: &TailError) -> Exit {
    match error {
        TailError::Url { .. } | TailError::Header(_) | TailError::LastEventId => Exit::Usage,
        TailError::Refused { status: 401 | 403, .. } => Exit::NoPermission,
        TailError::Output(_) => Exit::Os,
        _ => Exit::Unavailable,
    }
}
