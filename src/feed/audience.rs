//! How many listeners a message has, counted over all sidecars on the same NATS account.
//!
//! Every sidecar answers the same question on one subject; whoever asks adds up the answers that come in time. NATS is the
//! engine for what crosses nodes: there is no list of nodes to keep, and the sum is therefore a lower bound.

use std::time::Duration;

use async_nats::{Client, Subscriber};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};

use super::connection::Kept;
use crate::link::{self, AudienceOf, ShardQueue};

/// Where the question is asked.
const SUBJECT: &str = "_sidestream.audience";
/// The last answer is in when no other has come for this long.
const STALL: Duration = Duration::from_millis(100);
/// Nobody waits longer than this in all.
const PATIENCE: Duration = Duration::from_millis(1000);

/// Whose listeners are counted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Question {
    /// Of one user, or of everybody.
    #[serde(default)]
    pub user: Option<String>,
    /// Those that may hear this subject.
    pub subject: String,
}

/// One sidecar's count, or the sum.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Connections that hear the subject now.
    pub live: usize,
    /// Those that still catch up included.
    pub total: usize,
}

/// Answers other nodes' questions until the process ends.
pub(super) async fn answer(control: Kept, shards: Vec<ShardQueue>) {
    loop {
        let client = control.alive().await.client;
        match client.subscribe(SUBJECT).await {
            Ok(questions) => answer_all(&client, questions, &shards).await,
            Err(error) => tracing::warn!(%error, "Listeners are not counted"),
        }
        // The client has died; another is on its way.
        tokio::time::sleep(STALL).await;
    }
}

async fn answer_all(client: &Client, mut questions: Subscriber, shards: &[ShardQueue]) {
    while let Some(message) = questions.next().await {
        let (Some(reply), Ok(question)) = (message.reply, serde_json::from_slice::<Question>(&message.payload)) else {
            continue;
        };
        let of = AudienceOf { user: question.user, subject: Some(question.subject), ..AudienceOf::default() };
        let Some(audience) = link::audience(shards, &of).await else { continue };
        let count = Count { live: audience.live, total: audience.total };
        if let Ok(json) = serde_json::to_vec(&count) {
            let _ = client.publish(reply, json.into()).await;
        }
    }
}

/// Asks every sidecar and adds up. `None` when none answered.
pub async fn count(client: &Client, question: &Question) -> Option<Count> {
    let inbox = client.new_inbox();
    let mut answers = client.subscribe(inbox.clone()).await.ok()?;
    let question = serde_json::to_vec(question).ok()?;
    client.publish_with_reply(SUBJECT, inbox, question.into()).await.ok()?;
    let mut sum = None::<Count>;
    let gather = async {
        loop {
            let wait = if sum.is_some() { STALL } else { PATIENCE };
            let Ok(Some(message)) = tokio::time::timeout(wait, answers.next()).await else { return };
            // Without any listener the server says so at once, by a status.
            if message.status.is_some() {
                return;
            }
            if let Ok(count) = serde_json::from_slice::<Count>(&message.payload) {
                let sum = sum.get_or_insert_default();
                sum.live += count.live;
                sum.total += count.total;
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, gather).await;
    sum
}
