//! A connection that is made when it is first wanted.

use tokio::sync::OnceCell;

use super::{ConnectError, Kept, Role, keep};
use crate::config::Nats;

/// Kept from its first use on.
#[derive(Debug)]
pub struct Lazy {
    config: Nats,
    role: Role,
    kept: OnceCell<Kept>,
}

impl Lazy {
    /// Nothing is connected yet.
    pub fn new(config: &Nats, role: Role) -> Self {
        Self { config: config.clone(), role, kept: OnceCell::new() }
    }

    /// The connection. Runs on the current local runtime.
    pub async fn kept(&self) -> Result<&Kept, ConnectError> {
        self.kept.get_or_try_init(|| keep(&self.config, self.role.clone())).await
    }
}
