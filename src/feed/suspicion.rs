//! Whether the message behind the head ends whoever reads it: a guess from how sessions ended. Pure.

use std::time::{Duration, Instant};

use super::consumer::FeedError;

/// A session that ends sooner than this, without having read anything, may have been ended by what it read.
const SHORT_SESSION: Duration = Duration::from_secs(2);
/// After poison the first loss of a connection is taken for another one, for so long.
const POISONED: Duration = Duration::from_secs(60);
/// Losses of the connection at the same place, all but the first after a short session, before the message there is taken
/// for poison.
const LOSSES_AT_POISON: u32 = 2;

/// What sessions that ended tell of the message behind their last one.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// The head when the connection was last lost.
    head: u64,
    /// How often it was lost there.
    losses: u32,
    /// When poison was last found.
    last_poison: Option<Instant>,
}

impl Suspicion {
    /// A session, or an attempt to begin one, has ended with this head. A connection that is lost again and again at the same
    /// place is lost to the message there, and a client that died is too.
    pub(super) fn ended(&mut self, error: &FeedError, head: u64, lasted: Duration, now: Instant) {
        let before = if self.head == head && lasted < SHORT_SESSION { self.losses } else { 0 };
        self.losses = match error {
            FeedError::Died | FeedError::StandsStill => LOSSES_AT_POISON,
            FeedError::Disconnected if self.is_poisoned(now) => LOSSES_AT_POISON,
            FeedError::Disconnected => (before + 1).min(LOSSES_AT_POISON),
            _ => return,
        };
        self.head = head;
    }

    /// Poison was found.
    pub(super) fn confirmed(&mut self, now: Instant) {
        self.last_poison = Some(now);
    }

    /// Whether the message behind this head is to be read in a way that cannot fail.
    pub(super) fn is_behind(&self, head: u64) -> bool {
        self.head == head && self.losses == LOSSES_AT_POISON
    }

    fn is_poisoned(&self, now: Instant) -> bool {
        self.last_poison.is_some_and(|last| now.duration_since(last) < POISONED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn two_losses_at_one_place_are_suspicious() {
        let now = Instant::now();
        let mut suspicion = Suspicion::default();
        suspicion.ended(&FeedError::Disconnected, 7, SHORT_SESSION * 10, now);
        assert!(!suspicion.is_behind(7), "connections are lost without poison, too");
        suspicion.ended(&FeedError::Disconnected, 7, SHORT, now);
        assert!(suspicion.is_behind(7));
        assert!(!suspicion.is_behind(8), "of another message nothing is known");
    }

    #[test]
    fn losses_far_apart_or_at_different_places_are_not() {
        let now = Instant::now();
        let mut suspicion = Suspicion::default();
        for (head, lasted) in [(7, SHORT), (8, SHORT), (8, SHORT_SESSION), (9, SHORT)] {
            suspicion.ended(&FeedError::Disconnected, head, lasted, now);
            assert!(!suspicion.is_behind(head), "{head}");
        }
    }

    #[test]
    fn other_ends_tell_nothing() {
        let now = Instant::now();
        let mut suspicion = Suspicion::default();
        suspicion.ended(&FeedError::Disconnected, 7, SHORT, now);
        suspicion.ended(&FeedError::Silence, 7, SHORT, now);
        assert!(!suspicion.is_behind(7));
        suspicion.ended(&FeedError::Disconnected, 7, SHORT, now);
        assert!(suspicion.is_behind(7), "nor do they excuse");
    }

    #[test]
    fn a_dead_client_and_a_standstill_are_suspicious_at_once() {
        for error in [FeedError::Died, FeedError::StandsStill] {
            let mut suspicion = Suspicion::default();
            suspicion.ended(&error, 7, SHORT_SESSION * 10, Instant::now());
            assert!(suspicion.is_behind(7), "{error}");
        }
    }

    #[test]
    fn where_there_was_poison_the_first_loss_is_suspicious_for_a_while() {
        let now = Instant::now();
        let mut suspicion = Suspicion::default();
        suspicion.confirmed(now);
        suspicion.ended(&FeedError::Disconnected, 7, SHORT_SESSION * 10, now + POISONED / 2);
        assert!(suspicion.is_behind(7));
        suspicion.ended(&FeedError::Disconnected, 9, SHORT_SESSION * 10, now + POISONED);
        assert!(!suspicion.is_behind(9));
    }
}
