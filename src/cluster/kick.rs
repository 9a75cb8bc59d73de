//! Ending connections, wherever they are.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Cluster;
use super::ask::{self, AskError, Gathered};
use super::here::Here;
use crate::link::{self, Whom};

/// Where it is asked for. For sidecars only: whoever may publish here ends streams of others.
pub(super) const SUBJECT: &str = "_sidestream.kick";

/// Whose streams are to end.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Question {
    Connection(Uuid),
    User(String),
}

/// How many there were at one sidecar, or at all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Count {
    kicked: usize,
}

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kicked {
    /// Connections that have been ended.
    pub kicked: usize,
    /// Whether there can be no other: the one was found, or every living sidecar has looked.
    pub complete: bool,
}

/// Here.
pub(super) async fn here(here: &Here, question: Question) -> Option<Count> {
    let whom = match question {
        Question::Connection(connection) => Whom::Connection(connection),
        Question::User(user) => Whom::User(user),
    };
    link::kick(&here.shards, &whom, false).await.map(|kicked| Count { kicked })
}

/// Ends one connection, without asking the others where it is here. An error where it is not here, and NATS is away.
pub async fn connection(cluster: &Cluster, connection: Uuid) -> Result<Kicked, AskError> {
    let own = here(&cluster.here, Question::Connection(connection)).await.unwrap_or_default();
    if own.kicked > 0 {
        return Ok(Kicked { kicked: own.kicked, complete: true });
    }
    let client = cluster.client().ok_or(AskError::NatsAway)?;
    let question = cluster.question(&Question::Connection(connection))?;
    let gathered = ask::until(&client, SUBJECT, question, |count: &Count| count.kicked > 0).await?;
    let kicked = all(&gathered);
    Ok(Kicked { kicked, complete: gathered.complete || kicked > 0 })
}

/// Ends all connections of a user, those here also while NATS is away.
pub async fn user(cluster: &Cluster, user: &str) -> Kicked {
    let own = here(&cluster.here, Question::User(user.to_owned())).await.unwrap_or_default();
    let others = async {
        let client = cluster.client().ok_or(AskError::NatsAway)?;
        ask::all::<Count>(&client, SUBJECT, cluster.question(&Question::User(user.to_owned()))?).await
    };
    match others.await {
        // This node answers as well, and finds those that have come since.
        Ok(gathered) => Kicked { kicked: own.kicked.saturating_add(all(&gathered)), complete: gathered.complete },
        Err(_) => Kicked { kicked: own.kicked, complete: false },
    }
}

/// Of all that have answered, whatever they say.
fn all(gathered: &Gathered<Count>) -> usize {
    gathered.answers.values().fold(0, |sum, count| sum.saturating_add(count.kicked))
}
