//! How much memory frames hold, in the whole process.
//!
//! Frames are shared: by the history, by queues, by passes over the past, by whoever is just being written to. No sum over
//! queues can tell what they cost, so each counts itself when it is made and when its last holder lets go: two relaxed adds
//! per message, none per client.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

static HELD: AtomicU64 = AtomicU64::new(0);
/// What a frame costs beside its bytes: the event, its place in a log, the allocator's own.
const OVERHEAD_BYTES: u64 = 200;

/// Bytes that frames hold now.
pub fn bytes() -> u64 {
    HELD.load(Ordering::Relaxed)
}

/// Shared bytes that are counted until their last holder has let go.
pub(super) fn share(bytes: Vec<u8>) -> Bytes {
    Bytes::from_owner(Counted::new(bytes))
}

struct Counted {
    bytes: Vec<u8>,
    cost: u64,
}

impl Counted {
    fn new(bytes: Vec<u8>) -> Self {
        let cost = OVERHEAD_BYTES + bytes.capacity() as u64;
        HELD.fetch_add(cost, Ordering::Relaxed);
        Self { bytes, cost }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        HELD.fetch_sub(self.cost, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_count_until_the_last_slice_is_gone() {
        // Other tests make frames meanwhile: this one is larger than all of theirs together.
        const LARGE: u64 = 1 << 30;
        let whole = share(Vec::with_capacity(1 << 30));
        assert!(bytes() >= LARGE);
        let part = whole.slice(0..0);
        drop(whole);
        drop(part);
        assert!(bytes() < LARGE);
        let whole = share(vec![0; 1 << 20]);
        let part = whole.slice(10..20);
        drop(whole);
        assert!(bytes() >= 1 << 20, "a slice holds all of it");
        drop(part);
    }
}
