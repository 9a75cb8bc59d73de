//! What this sidecar knows by itself: its shards, and of the route table what questions of others are about.

use std::sync::Arc;

use super::served::Served;
use crate::config::Config;
use crate::frame::Payload;
use crate::link::ShardQueue;

/// This sidecar's own part of every answer. Paths and formats are those that the process was built from: a reload does not change them.
#[derive(Debug)]
pub(super) struct Here {
    /// The way to every shard.
    pub shards: Vec<ShardQueue>,
    /// Path by index of the route.
    pub paths: Vec<String>,
    /// How data becomes text, by index of the format.
    pub payloads: Arc<[Payload]>,
    /// Which events for one connection have been put to it.
    pub served: Served,
}

impl Here {
    pub fn new(config: &Config, shards: Vec<ShardQueue>) -> Self {
        Self {
            shards,
            paths: config.routes.routes.iter().map(|route| route.path.as_str().to_owned()).collect(),
            payloads: config.routes.formats.iter().map(|format| format.payload).collect(),
            served: Served::default(),
        }
    }
}
