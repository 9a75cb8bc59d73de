//! Clients of event streams that others wrote receive, resume, and survive every frame of ours: from npm, PyPI and the crates
//! registry, and curl.
//!
//! All clients live through one scenario at the same time, against one sidecar on a real NATS server, each as a process of its own
//! (`node/`, `python/`, `rust/`). Between them stands a front that says who the user is, cuts, and answers otherwise on request. Every
//! client must get every event once, in order, with an id, and be told of every gap, outage and goodbye. What a client does otherwise
//! stands in [`roster`], and only there; what stands there and does not happen fails as well, so that the table cannot outlive its
//! reason. `docs/clients.md` says what follows for applications.

mod client;
mod crowd;
mod front;
mod habits;
mod outages;
mod roster;
mod stories;
#[path = "../support/mod.rs"]
mod support;
