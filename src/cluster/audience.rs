//! How many listeners a message has, counted over all sidecars on the same NATS account.

use async_nats::Client;
use serde::{Deserialize, Serialize};

use super::ask::{self, Gathered};
use super::here::Here;
use crate::link::{self, AudienceOf};

/// Where it is asked. Who publishes events may ask this, and nothing else of a sidecar.
pub(super) const SUBJECT: &str = "_sidestream.audience";

/// Whose listeners are counted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Question {
    /// Of one user, or of everybody.
    #[serde(default)]
    pub user: Option<String>,
    /// Those that may hear this subject.
    pub subject: String,
}

/// One sidecar's count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    /// Connections that hear the subject now.
    live: usize,
    /// Those that still catch up included.
    total: usize,
}

/// How many connections a message is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// Connections that hear the subject now.
    pub sent: usize,
    /// Those included that still catch up and will hear it then.
    pub total: usize,
    /// Whether every living sidecar has been counted.
    pub complete: bool,
}

/// This sidecar's count; `None` when it cannot be had in time.
pub(super) async fn here(here: &Here, question: Question) -> Option<Count> {
    let of = AudienceOf { user: question.user, subject: Some(question.subject), ..AudienceOf::default() };
    let audience = link::audience(&here.shards, &of).await?;
    Some(Count { live: audience.live, total: audience.total })
}

/// Asks every sidecar and adds up.
pub async fn count(client: &Client, question: &Question) -> Reach {
    let Ok(question) = serde_json::to_vec(question) else { return Reach::default() };
    let asked: Result<Gathered<Count>, _> = ask::all(client, SUBJECT, question.into()).await;
    let Ok(Gathered { answers, complete }) = asked else { return Reach::default() };
    answers.values().fold(Reach { complete, ..Reach::default() }, |sum, count| Reach {
        sent: sum.sent.saturating_add(count.live),
        total: sum.total.saturating_add(count.total),
        ..sum
    })
}
