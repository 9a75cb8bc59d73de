//! The name of one run of one sidecar.

use std::fmt;

use serde::{Deserialize, Serialize};
use uuid::{Uuid, Version};

/// Given by chance and time when the process starts, so that a sidecar that was restarted is another node, and the smaller of two
/// has run for longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Uuid")]
pub struct NodeId(Uuid);

/// An id of another kind than nodes give themselves: what bears it is not from a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the id of a node")]
pub struct NotANode;

impl TryFrom<Uuid> for NodeId {
    type Error = NotANode;

    fn try_from(id: Uuid) -> Result<Self, NotANode> {
        if id.get_version() == Some(Version::SortRand) { Ok(Self(id)) } else { Err(NotANode) }
    }
}

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
