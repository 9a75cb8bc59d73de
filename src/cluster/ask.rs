//! One question to all sidecars: published once, with an inbox into which each answers.
//!
//! Every answer names its node and the nodes on its roll. All have answered when every node on any of those rolls has; whoever asks
//! need not be a node. What is asked is not known here.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::{NodeId, Nodes};

/// Nobody is waited for once no answer has come for this long.
const STALL: Duration = Duration::from_millis(250);
/// Nor longer than this in all.
const PATIENCE: Duration = Duration::from_secs(1);

/// What every answer holds beside what was asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Answer<T> {
    /// Who answers.
    pub node: NodeId,
    /// Whom it knows to live, itself included.
    pub roll: Nodes,
    /// What it says.
    #[serde(flatten)]
    pub said: T,
}

/// The answers that came in time.
#[derive(Debug)]
pub struct Gathered<T> {
    /// By node.
    pub answers: BTreeMap<NodeId, T>,
    /// Whether every node has answered that anybody knows of.
    pub complete: bool,
}

/// Why nobody could be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// It would help to ask again.
    #[error("NATS is away")]
    NatsAway,
    /// It would not.
    #[error("the question has {bytes} bytes; NATS takes {bytes_max} (max_payload)")]
    TooLarge {
        /// As it would be sent.
        bytes: usize,
        /// What the server says that it takes.
        bytes_max: usize,
    },
}

/// Asks all. Who does not answer is no error.
pub async fn all<T: DeserializeOwned>(
    client: &Client,
    subject: &'static str,
    question: Bytes,
) -> Result<Gathered<T>, AskError> {
    until(client, subject, question, |_| false).await
}

/// Asks all, and waits no longer once an answer settles the question.
pub async fn until<T: DeserializeOwned>(
    client: &Client,
    subject: &'static str,
    question: Bytes,
    settles: impl Fn(&T) -> bool,
) -> Result<Gathered<T>, AskError> {
    let (bytes, bytes_max) = (question.len(), client.max_payload());
    if bytes > bytes_max {
        return Err(AskError::TooLarge { bytes, bytes_max });
    }
    let inbox = client.new_inbox();
    let mut inbound = client.subscribe(inbox.clone()).await.map_err(|_| AskError::NatsAway)?;
    client.publish_with_reply(subject, inbox, question).await.map_err(|_| AskError::NatsAway)?;
    let mut gathered: Gathered<T> = Gathered { answers: BTreeMap::new(), complete: false };
    let mut known = Nodes::new();
    let gather = async {
        while !gathered.complete {
            let wait = if gathered.answers.is_empty() { PATIENCE } else { STALL };
            let Ok(Some(message)) = tokio::time::timeout(wait, inbound.next()).await else { return };
            // Nobody listens: the server says so at once, by a status.
            if message.status.is_some() {
                return;
            }
            let Ok(answer) = serde_json::from_slice::<Answer<T>>(&message.payload) else { continue };
            known.extend(answer.roll);
            known.insert(answer.node);
            let settled = settles(&answer.said);
            gathered.answers.insert(answer.node, answer.said);
            if settled {
                return;
            }
            gathered.complete = known.iter().all(|node| gathered.answers.contains_key(node));
        }
    };
    let _ = tokio::time::timeout(PATIENCE, gather).await;
    Ok(gathered)
}
