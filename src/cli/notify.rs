//! `sidestream notify`: publishes to one user, through the routes' own templates.

use super::exit::Exit;
use super::options::PublishArgs;
use super::runtime::publish_all;
use crate::publish;

/// Options of `notify`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Example:\n  sidestream notify alice '{\"order\":17}' --event order")]
pub struct Args {
    /// The user id, as the proxy sends it
    pub user: String,
    /// What is published, and how.
    #[command(flatten)]
    pub publish: PublishArgs,
}

/// Publishes to one user.
pub fn run(args: &Args) -> Exit {
    publish_all(&args.publish, async |client, config, message| {
        publish::notify(&client, &config, &args.user, &message).await.map(|published| published.to_json().to_string())
    })
}
