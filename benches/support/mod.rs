//! What the benches of the whole process share: the programs under measurement, and what the kernel says about them.

// Every bench compiles its own copy and uses a part of it.
#![allow(dead_code)]

pub mod http;
pub mod nats;
pub mod process;
pub mod sidecar;
