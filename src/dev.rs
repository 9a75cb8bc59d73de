//! Parts of `sidestream dev`, the one command to a working page: a nats-server to talk to, and the page itself.
//!
//! Wiring them to the routes, taking the identity from `?user=` and printing the addresses is left to the application.

pub mod demo;
pub mod nats_server;

/// The live page, served at `/`. It loads nothing else and needs `GET /events?user=…`, `POST /publish` and
/// `POST /cut?connection=…` beside it. Its style and script are inline, so a Content-Security-Policy for it says
/// `default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'` or names their hashes.
pub const PAGE: &str = include_str!("dev/page.html");
