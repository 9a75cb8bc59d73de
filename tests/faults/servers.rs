//! What a world's sidecars read from: one server, or a cluster of three.

use async_nats::{ConnectOptions, jetstream};

use super::disk::Disk;
use super::layout::{Layout, create_stream};
use super::support::cluster::Cluster;
use super::support::nats::Setup;
use super::support::netns::Namespace;
use super::support::{Nats, Version};

/// The servers.
#[allow(clippy::large_enum_variant, reason = "there is one at a time")]
pub enum Servers {
    /// One.
    One(Nats),
    /// Three, with a replica of the stream on each.
    Three(Cluster),
}

impl Servers {
    /// Starts them as the layout says, and creates the stream.
    pub async fn start(layout: Layout, version: Version, disk: &Disk, network: Option<&Namespace>) -> Self {
        let servers = if layout.cluster {
            Self::Three(Cluster::start(version).await)
        } else {
            let config = layout.accounts.map(|accounts| accounts.config.to_owned());
            let user = layout.accounts.map(|accounts| (accounts.admin[0], accounts.admin[1]));
            let prefix = network.map(Namespace::prefix).unwrap_or_default();
            let host = network.map(|network| network.address.clone());
            let setup = Setup { config, user, prefix, host, ..Setup::default() };
            Self::One(Nats::start_in(version, disk.directory(), setup).await)
        };
        create_stream(&servers.jetstream().await, layout).await;
        servers.whole().await;
        servers
    }

    /// The one server. Only a kind whose layout has one may ask.
    pub fn one(&mut self) -> &mut Nats {
        match self {
            Self::One(nats) => nats,
            Self::Three(_) => panic!("the layout has three servers"),
        }
    }

    /// The cluster. Only a kind whose layout has one may ask.
    pub fn three(&mut self) -> &mut Cluster {
        match self {
            Self::One(_) => panic!("the layout has one server"),
            Self::Three(cluster) => cluster,
        }
    }

    /// Waits until nothing is under way between them any more: every one can say what the stream holds.
    pub async fn whole(&self) {
        if let Self::Three(cluster) = self {
            cluster.healthy().await;
        }
    }

    /// Where they are reached.
    pub fn urls(&self) -> Vec<String> {
        match self {
            Self::One(nats) => vec![nats.url()],
            Self::Three(cluster) => cluster.urls(),
        }
    }

    /// Where one of them is reached, `host:port`.
    pub fn address(&self) -> String {
        let url = self.urls().swap_remove(0);
        url.trim_start_matches("nats://").to_owned()
    }

    /// How a client that may do everything connects.
    pub fn options(&self) -> ConnectOptions {
        match self {
            Self::One(nats) => nats.options(),
            Self::Three(_) => ConnectOptions::new(),
        }
    }

    /// A JetStream context on a client of its own.
    pub async fn jetstream(&self) -> jetstream::Context {
        match self {
            Self::One(nats) => nats.jetstream().await,
            Self::Three(cluster) => cluster.jetstream().await,
        }
    }

    /// What they have logged.
    pub fn log(&self) -> String {
        match self {
            Self::One(nats) => nats.log(),
            Self::Three(cluster) => cluster.log(),
        }
    }
}
