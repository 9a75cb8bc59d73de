//! What stands in the place of `otel.rs` without the cargo feature `otel`: the same interface, and nothing behind it.

use std::net::IpAddr;

use hyper::{Request, StatusCode};

use crate::frame::notice::Resume;

/// No export.
#[derive(Debug)]
pub struct Export;

/// Does nothing.
pub fn start() -> Export {
    Export
}

impl Export {
    /// Does nothing.
    pub fn finish(self) {}
}

/// Nothing is told of a request.
#[derive(Debug, Clone)]
pub struct Admission;

impl Admission {
    /// Does nothing.
    pub fn begin<B>(_: &Request<B>) -> Self {
        Self
    }

    /// Does nothing.
    pub fn came_from(&mut self, _: Option<IpAddr>) {}

    /// Does nothing.
    pub fn answered<'r>(&self, _: StatusCode, _: Option<&'static str>, _: impl FnOnce() -> Option<&'r str>) {}

    /// Does nothing.
    pub fn opened(&self, _: &str, _: Resume) {}
}
