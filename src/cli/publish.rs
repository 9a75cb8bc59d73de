//! `sidestream publish`: publishes to one subject and prints where JetStream stored it.

use serde_json::json;

use super::exit::Exit;
use super::options::PublishArgs;
use super::runtime::publish_all;
use crate::publish;

/// Options of `publish`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  sidestream publish events.broadcast.news 'hello'\n  echo '{\"n\":1}' | sidestream publish events.user.alice.orders - --event order"
)]
pub struct Args {
    /// The subject
    pub subject: String,
    /// What is published, and how.
    #[command(flatten)]
    pub publish: PublishArgs,
}

/// Publishes.
pub fn run(args: &Args) -> Exit {
    let subject = &args.subject;
    publish_all(&args.publish, async |client, _, message| {
        let stored = publish::publish(&client, subject, &message).await?;
        // Outside any stream nothing acknowledges: both are null.
        let (stream, seq) = stored.map(|stored| (stored.stream, stored.seq)).unzip();
        Ok(json!({"stream": stream, "seq": seq}).to_string())
    })
}
