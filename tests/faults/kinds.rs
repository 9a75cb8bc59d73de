//! The faults: what each is called, what it does, what it needs, and which gaps it may explain.
//!
//! What they do is in the modules below, one per thing that fails.

mod clients;
mod cluster;
mod messages;
mod nats;
mod network;
mod process;
mod storage;
mod stream;

use std::future::Future;
use std::pin::Pin;

use super::layout::{Accounts, Layout, PLAIN, Proxied};
use super::world::World;

/// What a fault does, from its beginning to its end; it may say earlier that it is over ([`World::heal`]).
pub type Act = for<'a> fn(&'a mut World) -> Pin<Box<dyn Future<Output = ()> + 'a>>;

/// A kind of fault.
pub struct Kind {
    /// For command lines.
    pub name: &'static str,
    /// For people.
    pub what: &'static str,
    /// Where it happens.
    pub layout: Layout,
    /// The reasons of gaps that it explains; none: it destroys nothing.
    pub reasons: &'static [&'static str],
    /// A sidecar itself falls silent.
    pub silent: bool,
    /// It mounts a file system.
    pub needs_root: bool,
    /// Whether plain `cargo test` runs it.
    pub short: bool,
    /// It.
    pub act: Act,
}

const fn kind(name: &'static str, what: &'static str, act: Act) -> Kind {
    Kind { name, what, layout: PLAIN, reasons: &[], silent: false, needs_root: false, short: false, act }
}

impl Kind {
    const fn short(self) -> Self {
        Self { short: true, ..self }
    }

    const fn may_explain(self, reasons: &'static [&'static str]) -> Self {
        Self { reasons, ..self }
    }

    const fn layout(self, layout: Layout) -> Self {
        Self { layout, ..self }
    }

    const fn silent(self) -> Self {
        Self { silent: true, ..self }
    }

    const fn needs_root(self) -> Self {
        Self { needs_root: true, ..self }
    }
}

const CLUSTER: Layout = Layout { cluster: true, ..PLAIN };
const PROXIED: Layout = Layout { proxied: Proxied::Both, ..PLAIN };

/// With histories so small that what leaves the stream is missed.
const fn stream(more: &'static str) -> Layout {
    Layout { stream: more, histories: &["64KiB"], ..PLAIN }
}

/// Limits that nothing here comes near to: what somebody removes must not be taken for theirs.
const ROOMY: Layout = stream(r#"{"max_age": 3600000000000, "max_msgs": 1000000}"#);

/// Two users; the one for the sidecars may do what `docs/nats.md` lists, and exactly that.
const ACCOUNTS: Accounts =
    Accounts { config: process::PERMITTED, admin: ["admin", "all"], sidecar: ["sidecar", "little"] };

/// Every kind.
pub static KINDS: &[Kind] = &[
    kind("nats_kill", "NATS is killed and comes back", |w| Box::pin(nats::kill(w))).short(),
    kind("nats_kill_often", "NATS is killed five times at random", |w| Box::pin(nats::kill_often(w))),
    kind("nats_down_15s", "NATS is away for 15 s", |w| Box::pin(nats::down(w))),
    kind("nats_hang_5s", "NATS hangs for 5 s", |w| Box::pin(nats::hang_5s(w))).short(),
    kind("nats_hang_20s", "NATS hangs for 20 s", |w| Box::pin(nats::hang_20s(w))),
    kind("nats_lame_duck", "NATS says that it goes, goes, and comes back", |w| Box::pin(nats::lame_duck(w))),
    kind("nats_empty_store", "NATS comes back with an empty store", |w| Box::pin(nats::empty_store(w)))
        .may_explain(&["reset"])
        .short(),
    kind("store_rollback", "NATS comes back with an older store", |w| Box::pin(storage::rollback(w)))
        .may_explain(&["reset"])
        .short(),
    kind("block_bit_flip", "a bit flips in a block while NATS is down", |w| Box::pin(storage::bit_flip(w)))
        .may_explain(&["reset", "purged"]),
    kind("disk_full", "the disk is full, then has room again", |w| Box::pin(storage::disk_full(w)))
        .may_explain(&["purged"])
        .layout(Layout { disk_mib: Some(24), ..PLAIN })
        .needs_root(),
    kind("connection_cut", "every connection to NATS is cut, several times", |w| Box::pin(network::cut(w)))
        .layout(PROXIED)
        .short(),
    kind("one_sidecar_cut_off", "one of two sidecars cannot reach NATS for seconds", |w| Box::pin(network::cut_off(w)))
        .layout(Layout { proxied: Proxied::One, ..PLAIN })
        .short(),
    kind("network_stall", "no byte passes for seconds, then all do", |w| Box::pin(network::stall(w))).layout(PROXIED),
    kind("network_stall_cut", "no byte passes for seconds, then connections are cut", |w| {
        Box::pin(network::stall_cut(w))
    })
    .layout(PROXIED),
    kind("network_slow", "every read from and to NATS is late by 100 to 300 ms", |w| Box::pin(network::slow(w)))
        .layout(PROXIED),
    kind("network_partition", "the network swallows every packet for seconds", |w| Box::pin(network::partition(w)))
        .layout(Layout { namespace: true, ..PLAIN }),
    kind("cluster_step_down", "of three servers, the stream's leader steps down", |w| Box::pin(cluster::step_down(w)))
        .layout(CLUSTER),
    kind("cluster_leader_kill", "of three servers, the stream's leader is killed and comes back", |w| {
        Box::pin(cluster::leader_kill(w))
    })
    .layout(CLUSTER),
    kind("cluster_ours_kill", "of three servers, the one we read from is killed and comes back", |w| {
        Box::pin(cluster::ours_kill(w))
    })
    .layout(CLUSTER),
    kind("cluster_follower_away", "of three servers, a follower is away for 5 to 20 s", |w| {
        Box::pin(cluster::follower_away(w))
    })
    .layout(CLUSTER),
    kind("cluster_leader_hang", "of three servers, the stream's leader hangs for 5 to 20 s", |w| {
        Box::pin(cluster::leader_hang(w))
    })
    .layout(CLUSTER),
    kind("cluster_ours_hang", "of three servers, the one we read from hangs for 5 to 20 s", |w| {
        Box::pin(cluster::ours_hang(w))
    })
    .layout(CLUSTER),
    kind("cluster_lame_duck", "of three servers, the one we read from sends us away, ends, and comes back", |w| {
        Box::pin(cluster::lame_duck(w))
    })
    .layout(CLUSTER),
    kind("cluster_rolling_kill", "each of three servers is killed and comes back, one after the other", |w| {
        Box::pin(cluster::rolling_kill(w))
    })
    .layout(CLUSTER),
    kind("cluster_all_kill", "all three servers are killed and come back", |w| Box::pin(cluster::all_kill(w)))
        .layout(CLUSTER),
    kind("consumer_deleted", "the sidecars' consumers are deleted", |w| Box::pin(stream::consumers_deleted(w))).short(),
    kind("max_consumers_reached", "others take the places of the sidecars' consumers", |w| {
        Box::pin(stream::crowded(w))
    })
    .layout(stream(r#"{"max_consumers": 6}"#)),
    kind("stream_recreated", "the stream is deleted and created anew", |w| Box::pin(stream::recreated(w)))
        .may_explain(&["reset"])
        .short(),
    kind("stream_away", "the stream is deleted, and created anew seconds later", |w| Box::pin(stream::away(w)))
        .may_explain(&["reset"]),
    kind("stream_edited", "the stream's subjects and limits are changed", |w| Box::pin(stream::edited(w))),
    kind("purged", "the stream is purged while some clients are away", |w| Box::pin(stream::purged(w)))
        .layout(ROOMY)
        .may_explain(&["purged"])
        .short(),
    kind("purged_by_subject", "one user's messages are purged", |w| Box::pin(stream::purged_by_subject(w)))
        .layout(ROOMY)
        .may_explain(&["purged"]),
    kind("message_deleted", "messages in the middle and at the tail are deleted", |w| Box::pin(stream::deleted(w)))
        .layout(ROOMY)
        .may_explain(&["purged"])
        .short(),
    kind("per_subject_limit", "the stream keeps five messages per subject", |w| Box::pin(stream::limit_reached(w)))
        .layout(stream(r#"{"max_msgs_per_subject": 5}"#))
        .silent()
        .may_explain(&["retention"]),
    kind("max_bytes_retention", "messages leave by size while clients are away", |w| {
        Box::pin(stream::limit_reached(w))
    })
    .layout(stream(r#"{"max_bytes": 100000}"#))
    .may_explain(&["retention"])
    .short(),
    kind("max_age_retention", "messages leave by age while clients are away", |w| Box::pin(stream::limit_reached(w)))
        .layout(stream(r#"{"max_age": 1000000000, "duplicate_window": 1000000000}"#))
        .silent()
        .may_explain(&["retention"]),
    kind("poison_header", "headers that are not UTF-8", |w| Box::pin(messages::poison_header(w)))
        .may_explain(&["undecodable"])
        .short(),
    kind("poison_subject", "subjects that are not UTF-8", |w| Box::pin(messages::poison_subject(w)))
        .may_explain(&["undecodable"]),
    kind("carriage_return_header", "headers with a carriage return", |w| Box::pin(messages::carriage_return(w)))
        .may_explain(&["undecodable"]),
    kind("fake_status", "messages that look like the server's own", |w| Box::pin(messages::fake_status(w)))
        .may_explain(&["undecodable"]),
    kind("oversize", "payloads larger than an event may be", |w| Box::pin(messages::oversize(w)))
        .layout(Layout { limits: &[("event_bytes", "\"16KiB\"")], ..PLAIN })
        .may_explain(&["oversize"])
        .short(),
    kind("burst", "20 000 messages at once", |w| Box::pin(messages::burst(w))).short(),
    kind("sidecar_kill", "one sidecar is killed and replaced", |w| Box::pin(process::kill(w))).short(),
    kind("sidecar_deploy", "both sidecars are replaced in order, one after the other", |w| {
        Box::pin(process::deploy(w))
    }),
    kind("sidecar_hang", "one sidecar hangs for 5 s", |w| Box::pin(process::hang(w))).silent(),
    kind("permission_revoked", "the sidecars' rights are taken away and given back", |w| Box::pin(process::revoked(w)))
        .layout(Layout { accounts: Some(ACCOUNTS), ..PLAIN }),
    kind("client_stalls", "clients stop reading in the middle of a burst", |w| Box::pin(clients::stall(w))).short(),
    kind("client_storm", "all clients leave and come back at once, again and again", |w| Box::pin(clients::storm(w))),
    kind("clients_away", "clients come back after thousands of messages", |w| Box::pin(clients::away(w))).short(),
];

/// Finds kinds by name; an unknown name is an error with the list.
pub fn named(names: &str) -> Result<Vec<&'static Kind>, String> {
    let find = |name: &str| KINDS.iter().find(|kind| kind.name == name).ok_or_else(|| format!("no kind {name:?}"));
    names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(find).collect()
}
