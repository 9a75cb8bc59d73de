//! `sidestream publish`: publishes to one subject and prints where JetStream stored it.

use super::exit::Exit;
use super::options::{ConfigArgs, MessageArgs};

/// Options of `publish`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream publish events.broadcast.news 'hello'\n  echo '{\"n\":1}' | sidestream publish events.user.alice.orders - --event order"
)]
pub struct Args {
    /// The subject
    pub subject: String,
    /// The payload; `-` reads it from standard input [default: empty]
    pub data: Option<String>,
    /// Name, count and pause.
    #[command(flatten)]
    pub message: MessageArgs,
    /// The configuration, for how NATS is reached.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Publishes.
pub fn run(_args: &Args) -> Exit {
    // wired in app.rs
    super::not_wired("publish")
}
