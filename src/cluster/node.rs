//! The name of one run of one sidecar.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Given by chance and time when the process starts, so that a sidecar that was restarted is another node, and the smaller of two
/// has run for longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(Uuid);

impl NodeId {
    /// One that nobody has.
    pub fn unused() -> Self {
        Self(Uuid::now_v7())
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
