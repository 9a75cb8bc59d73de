//! Who is there, over all sidecars: published on a NATS subject once for each change of a user.
//!
//! [`here`] counts the users of this process, where shards open and end streams; [`task`] hears and speaks on a thread of its own;
//! [`machine`] decides, without I/O, from [`users`] and [`peers`]; [`message`] is what is said. Nothing here is on the way of an
//! event, and without `presence.subject` nothing of it runs. What is promised stands in `docs/presence.md`.

mod here;
mod machine;
mod message;
mod peers;
#[cfg(test)]
mod simulation;
mod task;
#[cfg(test)]
mod tests;
mod users;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use self::machine::Machine;
use self::task::{Clock, GOODBYE, Leaving, Task};
use crate::cluster::Cluster;
use crate::config;
use crate::feed::connection::Kept;
use crate::telemetry::metrics::PresenceMetrics;

pub use self::here::Here;
pub use self::message::INTERNAL;

/// The way to it, for the end of the process.
#[derive(Debug)]
pub struct Presence {
    leave: mpsc::Sender<oneshot::Sender<()>>,
}

impl Presence {
    /// Tells the others that the users of this process have left. Waits a second at most.
    pub async fn leave(&self) {
        let said = async {
            let (done, left) = oneshot::channel();
            if self.leave.send(done).await.is_ok() {
                let _ = left.await;
            }
        };
        // The task may be in the middle of something that takes longer than its last words.
        let _ = tokio::time::timeout(GOODBYE, said).await;
    }
}

/// What is not running yet.
pub struct Unstarted {
    task: Task,
    leaving: Leaving,
}

/// Presence of the users that are counted in `here`. Of what is given back, the second part is to be run.
pub fn prepare(
    config: &config::Presence,
    cluster: &Cluster,
    control: Kept,
    here: Arc<Here>,
    metrics: Arc<PresenceMetrics>,
) -> (Presence, Unstarted) {
    let (leave, leaving) = mpsc::channel(1);
    let subject: Arc<str> = config.subject.as_str().into();
    let grace = u64::try_from(config.grace.as_millis()).unwrap_or(u64::MAX);
    let machine = Machine::new(cluster.node(), subject.clone(), grace);
    let task = Task { machine, subject, here, control, roll: cluster.nodes(), metrics, clock: Clock::new() };
    (Presence { leave }, Unstarted { task, leaving })
}

impl Unstarted {
    /// Runs until the process ends.
    pub async fn run(self) {
        self.task.run(self.leaving).await;
    }
}
