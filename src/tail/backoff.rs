//! How long to wait before the next attempt. Pure: chance is an argument.

use std::time::Duration;

/// The reconnection time of a stream that names none; what browsers use.
const RETRY_DEFAULT: Duration = Duration::from_secs(3);
/// A stream that asks for more is believed up to here.
const RETRY_MAX: Duration = Duration::from_secs(3600);
/// The first failure adds up to this much; each further one doubles it.
const BASE: Duration = Duration::from_millis(500);
/// Failures never add more than this.
const ADDED_MAX: Duration = Duration::from_secs(30);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
    floor: Option<Duration>,
}

impl Backoff {
    /// An attempt came to nothing.
    pub(super) fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// An event arrived.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// The next wait is not shorter than this (`Retry-After`).
    pub(super) fn at_least(&mut self, floor: Option<Duration>) {
        self.floor = floor.map(|floor| floor.min(RETRY_MAX));
    }

    /// The next wait: the stream's reconnection time, and after failures a random part of an exponentially growing time on
    /// top ("full jitter", so that clients that broke together do not come back together). `chance` is in 0..1.
    pub(super) fn delay(&mut self, retry: Option<Duration>, chance: f64) -> Duration {
        let retry = retry.unwrap_or(RETRY_DEFAULT).min(RETRY_MAX);
        let added = match self.failures {
            0 => Duration::ZERO,
            // 2^16 times the base is far beyond the cap already.
            n => BASE.saturating_mul(1 << (n - 1).min(16)).min(ADDED_MAX).mul_f64(chance),
        };
        (retry + added).max(self.floor.take().unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clean_end_waits_exactly_what_the_stream_said() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.delay(None, 0.9), RETRY_DEFAULT);
        assert_eq!(backoff.delay(Some(Duration::from_millis(40)), 0.9), Duration::from_millis(40));
        assert_eq!(backoff.delay(Some(Duration::MAX), 0.9), RETRY_MAX);
    }

    #[test]
    fn failures_add_a_growing_bounded_jitter_and_success_forgets_them() {
        let mut backoff = Backoff::default();
        let zero = Some(Duration::ZERO);
        let mut added = Vec::new();
        for _ in 0..40 {
            backoff.failed();
            assert_eq!(backoff.delay(zero, 0.0), Duration::ZERO);
            added.push(backoff.delay(zero, 1.0));
        }
        assert_eq!(added[..3], [BASE, BASE * 2, BASE * 4]);
        assert_eq!(added.last(), Some(&ADDED_MAX));
        assert!(added.is_sorted());
        backoff.succeeded();
        assert_eq!(backoff.delay(zero, 1.0), Duration::ZERO);
    }

    #[test]
    fn retry_after_holds_once() {
        let mut backoff = Backoff::default();
        backoff.at_least(Some(Duration::from_secs(9)));
        assert_eq!(backoff.delay(None, 0.0), Duration::from_secs(9));
        assert_eq!(backoff.delay(None, 0.0), RETRY_DEFAULT);
    }
}
