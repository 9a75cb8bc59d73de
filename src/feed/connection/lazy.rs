//! A connection that is made when it is first wanted.

use std::sync::Arc;

use tokio::sync::OnceCell;

use super::{ConnectError, Kept, Role, keep};
use crate::config::Nats;
use crate::telemetry::metrics::FeedMetrics;

/// Kept from its first use on.
#[derive(Debug)]
pub struct Lazy {
    config: Nats,
    role: Role,
    metrics: Arc<FeedMetrics>,
    kept: OnceCell<Kept>,
}

impl Lazy {
    /// Nothing is connected yet.
    pub fn new(config: &Nats, role: Role, metrics: &Arc<FeedMetrics>) -> Self {
        Self { config: config.clone(), role, metrics: metrics.clone(), kept: OnceCell::new() }
    }

    /// The connection. Runs on the current local runtime.
    pub async fn kept(&self) -> Result<&Kept, ConnectError> {
        self.kept.get_or_try_init(|| keep(&self.config, self.role.clone(), &self.metrics)).await
    }
}
