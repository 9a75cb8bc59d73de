//! `sidestream dev`: one command to a working page. Loopback only, without TLS.

use super::exit::Exit;

/// Options of `dev`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  sidestream dev --port 8080\n  then open http://127.0.0.1:8080/?user=alice")]
pub struct Args {
    /// Port on 127.0.0.1 for the page and the events; 0 takes a free one
    #[arg(long, default_value_t = 8080)]
    pub port: u16,
    /// A running NATS server with JetStream [default: one is found, or started in a temporary directory]
    #[arg(long, value_name = "URL")]
    pub nats: Option<String>,
    /// Answers yes to every question
    #[arg(long, short = 'y')]
    pub yes: bool,
}

/// Runs until interrupted.
pub fn run(_args: &Args) -> Exit {
    // wired in app.rs
    super::not_wired("dev")
}
