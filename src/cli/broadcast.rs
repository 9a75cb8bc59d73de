//! `sidestream broadcast`: publishes to everybody, through the routes' own templates.

use super::exit::Exit;
use super::options::{ConfigArgs, MessageArgs};
use super::runtime::{publish_all, reach_line};
use crate::publish;

/// Options of `broadcast`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  sidestream broadcast 'maintenance at noon' --event notice")]
pub struct Args {
    /// The payload; `-` reads it from standard input [default: empty]
    pub data: Option<String>,
    /// Name, count and pause.
    #[command(flatten)]
    pub message: MessageArgs,
    /// The configuration, for the routes and for how NATS is reached.
    #[command(flatten)]
    pub config: ConfigArgs,
}

/// Publishes to everybody.
pub fn run(args: &Args) -> Exit {
    publish_all(&args.config, &args.message, args.data.as_deref(), async |client, config, message| {
        publish::broadcast(&client, &config, &message).await.map(reach_line)
    })
}
