//! Who is connected, on this sidecar and on all.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::ask::{self, AskError};
use super::here::Here;
use super::{Cluster, NodeId};
use crate::link::{self, AudienceOf, ConnectionInfo};

/// Where it is asked. For sidecars only: the answers name users.
pub(super) const SUBJECT: &str = "_sidestream.connections";
/// Most connections that one sidecar names: what fits a message by far.
const NAMED_MAX: usize = 100;

/// Which; absent fields do not narrow.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Question {
    /// The one with this public id.
    pub connection: Option<Uuid>,
    /// Those of a user.
    pub user: Option<String>,
    /// Those that may hear a subject.
    pub subject: Option<String>,
    /// How many to name.
    pub limit: usize,
    /// Only those for whom something waits are named, the longest first.
    pub slowest: bool,
}

/// Who is connected to one sidecar.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Listing {
    /// How many.
    pub total: usize,
    /// How many of them hear what comes now.
    pub live: usize,
    /// Some of them.
    pub connections: Vec<Shown>,
}

/// One connection, as it is shown.
#[derive(Debug, Serialize, Deserialize)]
pub struct Shown {
    /// Its public id.
    pub connection: Uuid,
    /// Whose it is.
    pub user: Option<String>,
    /// Path of its route.
    pub route: String,
    /// How it is connected.
    pub protocol: String,
    /// Whether it hears what comes now.
    pub live: bool,
    /// Since when.
    pub age_seconds: u64,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
    /// How long its socket has taken nothing while something waits.
    pub waiting_seconds: u64,
    /// The sidecar it is connected to, in a list of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
}

impl Shown {
    /// With the path of its route.
    pub fn of(connection: ConnectionInfo, path: &str) -> Self {
        Self {
            connection: connection.connection,
            user: connection.user,
            route: path.to_owned(),
            protocol: connection.protocol.label().to_owned(),
            live: connection.live,
            age_seconds: connection.age.as_secs(),
            queued_bytes: connection.queued_bytes,
            waiting_seconds: connection.waiting.as_secs(),
            node: None,
        }
    }
}

/// Here; `None` when a shard does not answer in time.
pub(super) async fn here(here: &Here, question: Question) -> Option<Listing> {
    let Question { connection, user, subject, limit, slowest } = question;
    let of = AudienceOf { connection, user, subject, limit: limit.min(NAMED_MAX), slowest };
    let audience = link::audience(&here.shards, &of).await?;
    let path = |route: usize| here.paths.get(route).map_or("", String::as_str);
    let connections = audience.connections.into_iter().map(|c| {
        let path = path(c.route);
        Shown::of(c, path)
    });
    Some(Listing { total: audience.total, live: audience.live, connections: connections.collect() })
}

/// On this sidecar; `None` when a shard does not answer in time.
pub async fn on_this(cluster: &Cluster, question: Question) -> Option<Listing> {
    here(&cluster.here, question).await
}

/// On all, and whether all have answered.
pub async fn on_all(cluster: &Cluster, question: &Question) -> Result<(Listing, bool), AskError> {
    let client = cluster.client().ok_or(AskError::NatsAway)?;
    let gathered = ask::all::<Listing>(&client, SUBJECT, cluster.question(question)?).await?;
    let mut all = Listing::default();
    for (node, listing) in gathered.answers {
        all.total = all.total.saturating_add(listing.total);
        all.live = all.live.saturating_add(listing.live);
        all.connections.extend(listing.connections.into_iter().map(|shown| Shown { node: Some(node), ..shown }));
    }
    if question.slowest {
        all.connections.sort_by_key(|shown| Reverse(shown.waiting_seconds));
    }
    all.connections.truncate(question.limit);
    Ok((all, gathered.complete))
}
