//! A sign of life that one thread gives and another looks at. What follows from its absence is for who looks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// When a thread last showed that it goes on.
#[derive(Debug)]
pub struct Pulse {
    began: Instant,
    /// Milliseconds since then.
    beat: AtomicU64,
}

impl Default for Pulse {
    /// Counts as a beat, so that a thread that never gives one is silent from here on.
    fn default() -> Self {
        Self { began: Instant::now(), beat: AtomicU64::default() }
    }
}

impl Pulse {
    /// The thread goes on.
    pub fn beat(&self) {
        self.beat_at(Instant::now());
    }

    /// The thread went on at this moment.
    pub fn beat_at(&self, now: Instant) {
        let millis = u64::try_from(now.saturating_duration_since(self.began).as_millis()).unwrap_or(u64::MAX);
        self.beat.store(millis, Ordering::Relaxed);
    }

    /// How long ago that was, at this moment.
    pub fn silent_at(&self, now: Instant) -> Duration {
        let beat = Duration::from_millis(self.beat.load(Ordering::Relaxed));
        now.saturating_duration_since(self.began).saturating_sub(beat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_counted_from_the_last_beat() {
        let pulse = Pulse::default();
        let at = |seconds| pulse.began + Duration::from_secs(seconds);
        assert_eq!(pulse.silent_at(at(10)), Duration::from_secs(10), "none yet");
        pulse.beat_at(at(60));
        assert_eq!(pulse.silent_at(at(60)), Duration::ZERO);
        assert_eq!(pulse.silent_at(at(75)), Duration::from_secs(15));
        pulse.beat();
        assert!(pulse.silent_at(at(75)) > Duration::from_secs(15), "that was before");
    }
}
