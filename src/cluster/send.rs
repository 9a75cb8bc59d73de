//! One event to one connection, wherever it is. Not stored: a connection that ends takes it along.
//!
//! Asking where a connection is does nothing, so a sidecar that hangs may read that question whenever it likes. The event itself
//! goes only to the sidecar that has just answered it, and is known there by its key when it is sent again.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ask::{self, AskError};
use super::connections::{self, Listing};
use super::here::Here;
use super::{Cluster, NodeId};
use crate::frame::checked_name;
use crate::link::{self, OneEvent, Sent};

/// Where it is asked for. For sidecars only: whoever may publish here says anything to anybody.
pub(super) const SUBJECT: &str = "_sidestream.send";

/// To whom, and what.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ToOne {
    /// The connection's public id.
    pub connection: Uuid,
    /// Makes a repetition known as one.
    #[serde(default)]
    pub key: Option<String>,
    /// Name of the event; a name that a publisher may not use becomes `message`.
    #[serde(default)]
    pub event: Option<String>,
    /// Its data.
    pub data: String,
}

/// Asks one sidecar to put an event to a connection that it has.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Question {
    node: NodeId,
    event: ToOne,
}

/// What that sidecar says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Put {
    sent: Sent,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The connection has been found, and this has become of the event.
    Found(Sent),
    /// Every living sidecar has looked, and none has it.
    Unknown,
    /// None has it of those that have answered. The event has gone nowhere.
    Incomplete,
    /// The sidecar or the shard that has it was given the event and has not answered: it may have been put, or be put later.
    Unanswered,
}

impl Outcome {
    fn of(sent: Option<Sent>) -> Self {
        match sent {
            Some(Sent::Unknown) => Self::Unknown,
            Some(sent) => Self::Found(sent),
            None => Self::Unanswered,
        }
    }
}

/// Here, where this is the sidecar that is asked; the others have nothing to say.
pub(super) async fn here(here: &Here, own: NodeId, question: Question) -> Option<Put> {
    if question.node != own {
        return None;
    }
    put(here, question.event).await.map(|sent| Put { sent })
}

async fn put(here: &Here, event: ToOne) -> Option<Sent> {
    let ToOne { connection, key, event, data } = event;
    let put = key.map(|key| here.served.put((connection, key), Instant::now())).unwrap_or_default();
    let name = event.filter(|name| checked_name(name).is_some());
    let event = Arc::new(OneEvent { name, data, payloads: here.payloads.clone(), put });
    link::send(&here.shards, connection, &event).await
}

/// Sends it, without asking the others where the connection is here. An error where it is not here, and NATS is away.
pub async fn one(cluster: &Cluster, event: ToOne) -> Result<Outcome, AskError> {
    let which = connections::Question { connection: Some(event.connection), ..connections::Question::default() };
    let is_there = |listing: &Listing| listing.total > 0;
    if connections::on_this(cluster, which.clone()).await.as_ref().is_some_and(is_there) {
        return Ok(Outcome::of(put(&cluster.here, event).await));
    }
    let client = cluster.client().ok_or(AskError::NatsAway)?;
    let found = ask::until(&client, connections::SUBJECT, cluster.question(&which)?, is_there).await?;
    let Some((&node, _)) = found.answers.iter().find(|(_, listing)| is_there(listing)) else {
        return Ok(if found.complete { Outcome::Unknown } else { Outcome::Incomplete });
    };
    let question = cluster.question(&Question { node, event })?;
    let gathered = ask::until::<Put>(&client, SUBJECT, question, |_| true).await?;
    Ok(Outcome::of(gathered.answers.get(&node).map(|put| put.sent)))
}
