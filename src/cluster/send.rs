//! One event to one connection, wherever it is. Not stored: a connection that ends takes it along.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Cluster;
use super::ask::{self, NatsAway};
use super::here::Here;
use crate::frame::checked_name;
use crate::link::{self, OneEvent, Sent};

/// Where it is asked for. For sidecars only: whoever may publish here says anything to anybody.
pub(super) const SUBJECT: &str = "_sidestream.send";

/// To whom, and what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Question {
    /// The connection's public id.
    pub connection: Uuid,
    /// Name of the event; a name that a publisher may not use becomes `message`.
    #[serde(default)]
    pub event: Option<String>,
    /// Its data.
    pub data: String,
}

/// What one sidecar says of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    /// It is here.
    known: bool,
    /// The event has been put to it.
    sent: bool,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The event has been put to it; or it opens or ends just now.
    Known {
        /// Whether it has been put to it.
        sent: bool,
    },
    /// Every living sidecar has looked, and none has it.
    Unknown,
    /// None has it of those that have answered.
    Incomplete,
}

/// Here.
pub(super) async fn here(here: &Here, question: Question) -> Option<Found> {
    let Question { connection, event, data } = question;
    let name = event.filter(|name| checked_name(name).is_some());
    let event = Arc::new(OneEvent { name, data, payloads: here.payloads.clone() });
    let sent = link::send(&here.shards, connection, &event).await?;
    Some(Found { known: sent != Sent::Unknown, sent: sent == Sent::Put })
}

/// Sends it, without asking the others where the connection is here. An error where it is not here, and NATS is away.
pub async fn one(cluster: &Cluster, question: Question) -> Result<Outcome, NatsAway> {
    if let Some(Found { known: true, sent }) = here(&cluster.here, question.clone()).await {
        return Ok(Outcome::Known { sent });
    }
    let client = cluster.client().ok_or(NatsAway)?;
    let gathered = ask::until(&client, SUBJECT, cluster.question(&question)?, |found: &Found| found.known).await?;
    Ok(match gathered.answers.values().find(|found| found.known) {
        Some(found) => Outcome::Known { sent: found.sent },
        None if gathered.complete => Outcome::Unknown,
        None => Outcome::Incomplete,
    })
}
