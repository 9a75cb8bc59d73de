//! How many connections the process may have open, by its limit on descriptors.
//!
//! Streams are limited below it (`limit`), so that who comes too many can still be told to come back; connections that
//! are no streams are limited by nothing else. Past it accepting waits, and what the process needs itself (NATS, the admin
//! listener) still finds descriptors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files, standard streams, the admin listener and who asks there, signals, and what libraries open for a moment.
const RESERVED: usize = 48;
/// Connections to NATS that read a stream: its feed, and its past.
const PER_STREAM: usize = 2;
/// The runtime of a shard: epoll, its wake-up, signals, and one to spare.
const PER_SHARD: usize = 4;
/// Part of the connections that is kept for those that are no streams: on their way, or just being refused.
const NOT_STREAMS: usize = 8;
/// More than that is not needed for it.
const NOT_STREAMS_MAX: usize = 192;

/// What takes descriptors beside connections.
#[derive(Debug, Clone, Copy)]
pub struct Parts {
    /// Streams that are read.
    pub streams: usize,
    /// Shards.
    pub shards: usize,
    /// Public addresses, each with a listener for every shard.
    pub addresses: usize,
}

/// All connections of the public listeners.
#[derive(Debug)]
pub struct Sockets {
    open: AtomicUsize,
    max: usize,
}

impl Sockets {
    /// As many as `descriptors` have room for, at least one.
    pub fn within(descriptors: usize, parts: Parts) -> Arc<Self> {
        let ours = RESERVED + PER_STREAM * parts.streams + parts.shards * (PER_SHARD + parts.addresses);
        Arc::new(Self { open: AtomicUsize::new(0), max: descriptors.saturating_sub(ours).max(1) })
    }

    /// How many of the connections may be streams, at least one.
    pub fn streams_max(&self) -> usize {
        self.max.saturating_sub((self.max / NOT_STREAMS).min(NOT_STREAMS_MAX)).max(1)
    }

    /// Whether one more may be accepted. Shards that ask at the same time may accept one each.
    pub fn has_room(&self) -> bool {
        self.open.load(Ordering::Relaxed) < self.max
    }

    /// Counts a connection until it is dropped.
    pub fn take(self: &Arc<Self>) -> Place {
        self.open.fetch_add(1, Ordering::Relaxed);
        Place(self.clone())
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Place(Arc<Sockets>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: Parts = Parts { streams: 1, shards: 2, addresses: 1 };

    #[test]
    fn leaves_room_for_ourselves_and_for_refusals() {
        let sockets = Sockets::within(256, PARTS);
        assert_eq!((sockets.max, sockets.streams_max()), (196, 172));
        let sockets = Sockets::within(65536, PARTS);
        assert_eq!((sockets.max, sockets.streams_max()), (65476, 65284));
        let sockets = Sockets::within(10, PARTS);
        assert_eq!((sockets.max, sockets.streams_max()), (1, 1));
    }

    #[test]
    fn a_place_is_given_back() {
        let sockets = Sockets::within(62, PARTS);
        assert_eq!(sockets.max, 2);
        let places = [sockets.take(), sockets.take()];
        assert!(!sockets.has_room());
        drop(places);
        assert!(sockets.has_room());
    }
}
