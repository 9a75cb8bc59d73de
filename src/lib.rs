//! `sidestream` turns NATS subjects into Server-Sent Events. This is the map, in reading order.

pub mod config;
pub mod cursor;
pub mod dev;
pub mod frame;
pub mod route;
pub mod sse;
pub mod subject;
pub mod tail;
