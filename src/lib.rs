//! `sidestream` turns NATS subjects into Server-Sent Events. This is the map, in reading order; `ARCHITECTURE.md` tells the
//! story.

// Values: no sockets, no runtime, no clock.
pub mod config;
pub mod cursor;
pub mod edges;
pub mod event;
pub mod frame;
pub mod interest;
pub mod log;
pub mod resume;
pub mod route;
pub mod sse;
pub mod subject;
pub mod text;

// The middle: where feeds and clients meet.
pub mod limit;
pub mod link;
pub mod live;
pub mod memory;
pub mod shard;
pub mod telemetry;

// Edges: NATS on one side, HTTP on the other. They never meet.
pub mod cluster;
pub mod feed;
pub mod http;
pub mod presence;
pub mod server;

// Wiring, and the commands around it.
pub mod admin;
pub mod app;
pub mod cli;
pub mod dev;
pub mod doctor;
pub mod dumps;
pub mod publish;
pub mod pulse;
pub mod reload;
pub mod tail;
