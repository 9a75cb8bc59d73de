//! `sidestream broadcast`: publishes to everybody, through the routes' own templates.

use super::exit::Exit;
use super::options::PublishArgs;
use super::runtime::publish_all;
use crate::publish;

/// Options of `broadcast`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  sidestream broadcast '{\"maintenance\":\"at noon\"}' --event notice")]
pub struct Args {
    /// What is published, and how.
    #[command(flatten)]
    pub publish: PublishArgs,
}

/// Publishes to everybody.
pub fn run(args: &Args) -> Exit {
    publish_all(&args.publish, async |client, config, message| {
        publish::broadcast(&client, &config, &message).await.map(|published| published.to_json().to_string())
    })
}
