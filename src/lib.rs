//! `sidestream` turns NATS subjects into Server-Sent Events. This is the map, in reading order.

pub mod cli;
pub mod config;
pub mod cursor;
pub mod frame;
pub mod route;
pub mod sse;
pub mod subject;
