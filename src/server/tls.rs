//! TLS on the public listener: what is offered, and the sessions of connections that took it.
//!
//! [`config`] reads certificate and key, [`live`] again when they change; [`host`] and [`proxies`] are what is shown to whom, and
//! what is asked of clients. [`session`] is one session without a socket, over rustls' unbuffered API: a
//! buffered session keeps 4 KiB of deframer for as long as it lives, and a stream that only listens needs none of it.
//! [`stream`] joins a session to its socket: the handshake, and what hyper reads and writes. [`transport`] is the same once
//! an event stream owns it.

mod config;
mod expiry;
mod host;
mod live;
mod proxies;
mod session;
mod stream;
#[cfg(test)]
mod tests;
mod transport;
mod waiting;

pub use config::TlsError;
pub use live::{LiveConfig, Reloaded};
pub use stream::{Scratch, TlsStream};
