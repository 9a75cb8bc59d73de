//! Sockets of the public listener: accepted, secured, and served until they end.
//!
//! [`listen`] binds, [`accept`](mod@accept) takes connections on every shard, [`proxy_protocol`] reads where they come from,
//! [`tls`] finishes handshakes, [`h1`] has hyper read a request
//! head and then takes the socket over for the stream, [`h2`] serves a connection with many streams,
//! [`sockets`] keeps all of them within the limit on descriptors. What a request means is `http`'s
//! business.

pub mod accept;
mod h1;
pub mod h2;
pub mod listen;
pub mod proxy_protocol;
pub mod socket;
pub mod sockets;
pub mod tls;
