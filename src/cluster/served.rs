//! Which events for one connection have been put to it lately, by the key that their sender gave them.
//!
//! Kept by the sidecar that has the connection, so that whoever got no answer may send the same again by any other.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// A key is remembered for so long: as JetStream does, unless a stream says otherwise.
const REMEMBERED: Duration = Duration::from_secs(120);
/// Most keys; the oldest go first.
const KEYS_MAX: usize = 16_384;

/// A connection, and a key among what is sent to it.
pub(super) type Key = (Uuid, String);

/// What is remembered. Readable from every thread.
#[derive(Debug, Default)]
pub(super) struct Served(Mutex<Keys>);

#[derive(Debug, Default)]
struct Keys {
    put: HashMap<Key, Arc<AtomicBool>>,
    /// Oldest first.
    since: VecDeque<(Instant, Key)>,
}

impl Served {
    /// Whether the event of this key has been put: shared by all its repetitions, set by the shard.
    pub fn put(&self, key: Key, now: Instant) -> Arc<AtomicBool> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).put(key, now)
    }
}

impl Keys {
    fn put(&mut self, key: Key, now: Instant) -> Arc<AtomicBool> {
        self.forget(|since, _| now.saturating_duration_since(since) >= REMEMBERED);
        if let Some(put) = self.put.get(&key) {
            return put.clone();
        }
        self.forget(|_, kept| kept >= KEYS_MAX);
        let put = Arc::<AtomicBool>::default();
        self.since.push_back((now, key.clone()));
        self.put.insert(key, put.clone());
        put
    }

    /// Forgets the oldest, for as long as that is over by its time or by how many there are.
    fn forget(&mut self, is_over: impl Fn(Instant, usize) -> bool) {
        while let Some((_, key)) = self.since.front().filter(|(since, _)| is_over(*since, self.put.len())) {
            self.put.remove(key);
            self.since.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_key_is_known_for_a_while_and_only_for_its_connection() {
        let (served, began) = (Served::default(), Instant::now());
        let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
        let is_put =
            |connection, after| served.put((connection, "k".to_owned()), began + after).load(Ordering::Relaxed);
        served.put((one, "k".to_owned()), began).store(true, Ordering::Relaxed);
        assert!(is_put(one, REMEMBERED / 2));
        assert!(!is_put(other, REMEMBERED / 2));
        assert!(!is_put(one, REMEMBERED));
    }

    #[test]
    fn it_does_not_grow_for_ever() {
        let (served, now, connection) = (Served::default(), Instant::now(), Uuid::now_v7());
        for n in 0..=KEYS_MAX {
            served.put((connection, n.to_string()), now).store(true, Ordering::Relaxed);
        }
        let kept = |n: usize| served.put((connection, n.to_string()), now).load(Ordering::Relaxed);
        assert!(kept(KEYS_MAX) && kept(1), "the newest are there");
        assert!(!kept(0), "the oldest has gone");
    }
}
