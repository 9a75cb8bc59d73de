//! Every number of the process: who counts what, and who reads it.
//!
//! Counting is a relaxed store to an atomic that only one thread writes ([`number`]); the sums over shards are made when
//! somebody asks ([`render`], and [`overview`] for the live page). What there is, is one table ([`names`]); its reference is `docs/metrics.md` ([`reference`]).
//! Labels come from closed sets (route path, reason, protocol), never from a user, subject, address or connection.

mod feed;
pub mod histogram;
mod labels;
pub mod names;
pub mod number;
mod overview;
mod page;
mod process;
pub mod reference;
mod render;
mod shard;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

pub use self::feed::{FeedMetrics, LeaderMetrics};
pub use self::labels::{CloseReason, Phase, Proof, Protocol, REFUSAL_CODES, Refused};
pub use self::number::Number;
pub use self::process::{MemoryMetrics, PresenceMetrics, ReloadMetrics, TlsMetrics};
pub use self::shard::{Closed, Opened, ShardMetrics};
use crate::link::FeedStatus;

/// NATS may be away this long before the sidecar stops being ready.
pub const NATS_GRACE: Duration = Duration::from_secs(30);

/// All numbers of the process.
#[derive(Debug)]
pub struct Metrics {
    /// The feeds'.
    pub feed: Arc<FeedMetrics>,
    /// Each shard's.
    pub shards: Vec<Arc<ShardMetrics>>,
    /// The process's memory.
    pub memory: MemoryMetrics,
    /// Who is there.
    pub presence: Arc<PresenceMetrics>,
    /// Certificate files.
    pub tls: TlsMetrics,
    /// The configuration.
    pub reload: ReloadMetrics,
    /// 1 from the moment a drain begins; written by the thread of signals and admin listener.
    pub draining: Number,
    routes: Vec<String>,
    streams: Vec<(String, Arc<FeedStatus>)>,
    core: Arc<FeedStatus>,
    started: SystemTime,
}

impl Metrics {
    /// All zero. `streams` are the statuses of their feeds, `core` is that of core subjects.
    pub fn new(
        shards: usize,
        routes: Vec<String>,
        streams: Vec<(String, Arc<FeedStatus>)>,
        core: Arc<FeedStatus>,
    ) -> Self {
        let started = SystemTime::now();
        Self {
            feed: Arc::new(FeedMetrics::new(streams.len())),
            shards: (0..shards).map(|_| Arc::new(ShardMetrics::new(&routes))).collect(),
            memory: MemoryMetrics::default(),
            presence: Arc::default(),
            tls: TlsMetrics::default(),
            reload: ReloadMetrics::started(started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()),
            draining: Number::default(),
            routes,
            streams,
            core,
            started,
        }
    }

    /// How long the shard that swept its clients longest ago has not done it.
    pub fn longest_since_sweep(&self) -> Duration {
        self.longest_since_sweep_at(Instant::now())
    }

    /// The same at another moment.
    pub fn longest_since_sweep_at(&self, now: Instant) -> Duration {
        self.shards.iter().map(|shard| shard.since_sweep_at(now)).max().unwrap_or_default()
    }

    /// What must hold for new streams to be served, each by its name: no drain has begun, and NATS is there or has not been away for
    /// long.
    pub fn readiness(&self) -> Vec<(String, bool)> {
        let streams = self.streams.iter().map(|(name, status)| (format!("stream {name}"), status.is_ready(NATS_GRACE)));
        let core = ("core subjects".to_owned(), self.core.is_ready(NATS_GRACE));
        std::iter::once(("accepting".to_owned(), self.draining.get() == 0)).chain(streams).chain([core]).collect()
    }

    /// Whether all of it holds.
    pub fn is_ready(&self) -> bool {
        self.readiness().iter().all(|(_, good)| *good)
    }
}
