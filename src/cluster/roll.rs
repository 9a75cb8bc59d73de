//! The roll of living nodes: who has been heard of lately, and the task that announces this one and hears the others.
//!
//! Each node says every two seconds that it is here, at once when it begins and when its connection comes back, and says goodbye.
//! Who begins is answered by all others, so that its own roll is whole at once. While NATS is away nobody can be heard, so nobody
//! is taken off then; who has gone meanwhile goes when its time is up after the connection has come back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::{Client, Message};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::MissedTickBehavior;

use super::{NodeId, Nodes};
use crate::feed::connection::{Connection, Kept};
use crate::telemetry::metrics::FeedMetrics;

/// Where nodes announce themselves.
pub const SUBJECT: &str = "_sidestream.node";
/// Between two announcements.
const INTERVAL: Duration = Duration::from_secs(2);
/// Off the roll after so long a silence.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// Most nodes on a roll: whoever may announce cannot make it grow for ever.
const NODES_MAX: usize = 1024;
/// Time to say goodbye.
const GOODBYE: Duration = Duration::from_millis(500);
/// Before a subscription is tried again that the client, which has died, did not take.
const RETRY: Duration = Duration::from_millis(100);

/// What a node says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Announcement {
    node: NodeId,
    state: NodeState,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum NodeState {
    /// It begins, or is back: the others are to say that they are here.
    Begins,
    Here,
    Ends,
}

/// Who has been heard of, and when.
#[derive(Debug)]
struct Roll {
    own: NodeId,
    heard: BTreeMap<NodeId, Instant>,
    /// Whether anybody can be heard.
    up: bool,
    /// When it was last looked at.
    looked: Instant,
}

impl Roll {
    fn of(own: NodeId, now: Instant) -> Self {
        Self { own, heard: BTreeMap::new(), up: false, looked: now }
    }

    /// The connection is up or not; gives whether it has come up.
    fn connected(&mut self, up: bool, now: Instant) -> bool {
        let begins = up && !self.up;
        if begins {
            self.reprieve(now);
        }
        self.up = up;
        begins
    }

    /// Every now and then.
    fn look(&mut self, now: Instant) {
        // This process has stood still: the others may have spoken all the time.
        if now.saturating_duration_since(self.looked) > INTERVAL * 2 {
            self.reprieve(now);
        }
        self.looked = now;
        if self.up {
            self.expire(now);
        }
    }

    /// Takes an announcement in; gives whether it is to be answered.
    fn take(&mut self, said: Announcement, now: Instant) -> bool {
        let Announcement { node, state } = said;
        if node == self.own {
            return false;
        }
        if state == NodeState::Ends {
            self.heard.remove(&node);
        } else if self.heard.len() < NODES_MAX || self.heard.contains_key(&node) {
            self.heard.insert(node, now);
        }
        state == NodeState::Begins
    }

    /// Takes off who has been silent for too long.
    fn expire(&mut self, now: Instant) {
        self.heard.retain(|_, last| now.saturating_duration_since(*last) < SILENCE_MAX);
    }

    /// Nobody could be heard until now: everybody's time begins anew.
    fn reprieve(&mut self, now: Instant) {
        self.heard.values_mut().for_each(|last| *last = now);
    }

    fn nodes(&self) -> Nodes {
        self.heard.keys().copied().chain([self.own]).collect()
    }
}

/// Keeps the roll until the process ends. After a goodbye nothing is announced any more.
pub(super) async fn keep(
    own: NodeId,
    control: Kept,
    nodes: watch::Sender<Nodes>,
    mut leaving: mpsc::Receiver<oneshot::Sender<()>>,
    metrics: Arc<FeedMetrics>,
) {
    let mut keeper = Keeper { own, roll: Roll::of(own, Instant::now()), nodes, metrics };
    keeper.publish();
    loop {
        let connection = control.alive().await;
        tokio::select! {
            () = keeper.listen(&connection) => {}
            // Never closed: the cluster's handle lives as long as the process.
            Some(done) = leaving.recv() => {
                // Nobody would hear it otherwise, and the process would wait for nothing.
                if connection.link.borrow().connected {
                    goodbye(&connection.client, own).await;
                }
                let _ = done.send(());
                return std::future::pending().await;
            }
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Keeper {
    own: NodeId,
    roll: Roll,
    nodes: watch::Sender<Nodes>,
    metrics: Arc<FeedMetrics>,
}

impl Keeper {
    /// Announces and listens by one client, until it dies.
    async fn listen(&mut self, connection: &Connection) {
        let Connection { client, link } = connection;
        let mut link = link.clone();
        let Ok(mut announcements) = client.subscribe(SUBJECT).await else { return };
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Another client: it has to come up first.
        self.roll.connected(false, Instant::now());
        loop {
            let up = link.borrow_and_update().connected;
            if self.roll.connected(up, Instant::now()) {
                announce(client, self.own, NodeState::Begins).await;
            }
            tokio::select! {
                message = announcements.next() => match message {
                    Some(message) => self.hear(client, &message).await,
                    None => return,
                },
                changed = link.changed() => if changed.is_err() { return },
                _ = tick.tick() => {
                    self.roll.look(Instant::now());
                    if up {
                        announce(client, self.own, NodeState::Here).await;
                    }
                }
            }
            self.publish();
        }
    }

    async fn hear(&mut self, client: &Client, message: &Message) {
        let Ok(said) = serde_json::from_slice(&message.payload) else { return };
        if self.roll.take(said, Instant::now()) {
            announce(client, self.own, NodeState::Here).await;
        }
    }

    fn publish(&self) {
        let now = self.roll.nodes();
        self.metrics.nodes.set(now.len() as u64);
        self.nodes.send_if_modified(|nodes| {
            let changed = *nodes != now;
            if changed {
                tracing::info!(nodes = now.len(), "Sidecars on the roll");
                *nodes = now;
            }
            changed
        });
    }
}

async fn announce(client: &Client, node: NodeId, state: NodeState) {
    if let Ok(json) = serde_json::to_vec(&Announcement { node, state }) {
        let _ = client.publish(SUBJECT, json.into()).await;
    }
}

async fn goodbye(client: &Client, node: NodeId) {
    let said = async {
        announce(client, node, NodeState::Ends).await;
        let _ = client.flush().await;
    };
    let _ = tokio::time::timeout(GOODBYE, said).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(node: NodeId, state: NodeState) -> Announcement {
        Announcement { node, state }
    }

    #[test]
    fn who_is_silent_for_ten_seconds_is_off_the_roll() {
        let (own, other, begin) = (NodeId::unused(), NodeId::unused(), Instant::now());
        let mut roll = Roll::of(own, begin);
        roll.take(says(other, NodeState::Here), begin);
        roll.expire(begin + Duration::from_millis(9_999));
        assert_eq!(roll.nodes(), Nodes::from([own, other]));
        roll.expire(begin + SILENCE_MAX);
        assert_eq!(roll.nodes(), Nodes::from([own]));
    }

    #[test]
    fn an_outage_takes_nobody_off_the_roll() {
        let (own, other, begin) = (NodeId::unused(), NodeId::unused(), Instant::now());
        let mut roll = Roll::of(own, begin);
        roll.take(says(other, NodeState::Here), begin);
        assert!(roll.connected(true, begin));
        let seconds = |n| begin + Duration::from_secs(n);
        roll.connected(false, seconds(1));
        (1..3600).for_each(|n| roll.look(seconds(n)));
        assert!(roll.nodes().contains(&other), "nobody can be heard");
        assert!(roll.connected(true, seconds(3600)));
        (3600..3610).for_each(|n| roll.look(seconds(n)));
        assert!(roll.nodes().contains(&other), "its time begins anew");
        roll.look(seconds(3610));
        assert!(!roll.nodes().contains(&other));
    }

    #[test]
    fn who_has_stood_still_hears_the_others_first() {
        let (own, other, begin) = (NodeId::unused(), NodeId::unused(), Instant::now());
        let mut roll = Roll::of(own, begin);
        roll.connected(true, begin);
        roll.take(says(other, NodeState::Here), begin);
        roll.look(begin + Duration::from_secs(60));
        assert!(roll.nodes().contains(&other));
    }

    #[test]
    fn a_beginning_is_answered_and_an_end_is_heeded() {
        let (own, other, now) = (NodeId::unused(), NodeId::unused(), Instant::now());
        let mut roll = Roll::of(own, now);
        assert!(roll.take(says(other, NodeState::Begins), now));
        assert!(!roll.take(says(other, NodeState::Here), now));
        assert_eq!(roll.nodes().len(), 2);
        assert!(!roll.take(says(other, NodeState::Ends), now));
        // Its own words come back to each.
        assert!(!roll.take(says(own, NodeState::Begins), now));
        assert_eq!(roll.nodes(), Nodes::from([own]));
    }

    #[test]
    fn the_roll_is_bounded() {
        let (known, begin) = (NodeId::unused(), Instant::now());
        let mut roll = Roll::of(NodeId::unused(), begin);
        roll.take(says(known, NodeState::Here), begin);
        for _ in 0..2 * NODES_MAX {
            roll.take(says(NodeId::unused(), NodeState::Here), begin);
        }
        assert_eq!(roll.nodes().len(), NODES_MAX + 1);
        // Who is on it stays heard.
        let later = begin + Duration::from_secs(9);
        roll.take(says(known, NodeState::Here), later);
        roll.expire(later + Duration::from_secs(9));
        assert!(roll.nodes().contains(&known));
    }
}
