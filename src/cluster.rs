//! What crosses sidecars: who of them lives, and questions that all of them answer.
//!
//! NATS is the engine. [`service`] makes this sidecar an instance of the NATS micro service `sidestream`, whose endpoints every
//! instance answers; [`ask`] asks all of them and says whether all have answered, which it knows by the [`roll`] of living nodes.
//! What is asked and how it is answered is in files of its own ([`audience`], [`connections`], [`kick`], [`send`]). Nothing here keeps
//! state about clients: that is the shards'.

pub mod ask;
pub mod audience;
pub mod connections;
mod here;
pub mod kick;
mod node;
mod roll;
pub mod send;
mod served;
mod service;

use std::collections::BTreeSet;
use std::sync::Arc;

use async_nats::Client;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use self::ask::AskError;
use self::here::Here;
use crate::config::Config;
use crate::feed::connection::Kept;
use crate::link::ShardQueue;
use crate::telemetry::metrics::FeedMetrics;

pub use self::node::NodeId;

/// Living nodes, smallest first, which is the one that has run for the longest.
pub type Nodes = BTreeSet<NodeId>;

/// This sidecar among the others. Cheap to clone, readable from every thread.
#[derive(Debug, Clone)]
pub struct Cluster {
    node: NodeId,
    control: Kept,
    nodes: watch::Receiver<Nodes>,
    leave: mpsc::Sender<oneshot::Sender<()>>,
    here: Arc<Here>,
}

impl Cluster {
    /// Who this is.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The roll, this node included: read it now, or wait until it changes.
    pub fn nodes(&self) -> watch::Receiver<Nodes> {
        self.nodes.clone()
    }

    /// The client that asks and publishes; `None` while NATS is away.
    pub fn client(&self) -> Option<Client> {
        let connection = self.control.current();
        let up = connection.is_alive() && connection.link.borrow().connected;
        up.then_some(connection.client)
    }

    /// How often the server has refused the account of that client a subject.
    pub fn denials(&self) -> u64 {
        self.control.current().link.borrow().denials
    }

    /// A question as it is sent.
    fn question(&self, question: &impl Serialize) -> Result<Bytes, AskError> {
        serde_json::to_vec(question).map(Bytes::from).map_err(|_| AskError::NatsAway)
    }

    /// Takes this node off the roll of all others, for the end of the process. Waits half a second at most.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        if self.leave.send(done).await.is_ok() {
            let _ = left.await;
        }
    }
}

/// Announces this node, listens to the others and answers their questions, as tasks of the current local runtime of which none
/// ends before the process. NATS need not be there.
pub fn start(
    config: &Config,
    control: Kept,
    shards: Vec<ShardQueue>,
    metrics: &Arc<FeedMetrics>,
    tasks: &mut JoinSet<()>,
) -> Cluster {
    let node = NodeId::unused();
    let (roll, nodes) = watch::channel(Nodes::from([node]));
    let (leave, leaving) = mpsc::channel(1);
    let cluster = Cluster { node, control: control.clone(), nodes, leave, here: Arc::new(Here::new(config, shards)) };
    tasks.spawn_local(roll::keep(node, control, roll, leaving, metrics.clone()));
    tasks.spawn_local(service::serve(cluster.clone()));
    cluster
}
