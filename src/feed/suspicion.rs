//! Whether the message behind the head ends whoever reads it, and for how long a stream is read carefully after that. Pure.

use std::time::{Duration, Instant};

use super::consumer::FeedError;

/// A session that ends sooner than this, without having read anything, may have been ended by what it read.
const SHORT_SESSION: Duration = Duration::from_secs(2);
/// After poison the first loss of a connection is taken for another one, for so long.
const POISONED: Duration = Duration::from_secs(60);
/// Losses of the connection at the same place, all but the first after a short session, before the message there is taken
/// for poison.
const LOSSES_AT_POISON: u32 = 2;
/// So long no poison may have come before a consumer is tried again.
const QUIET: Duration = Duration::from_secs(30);
/// More waiting messages than this are read by a consumer, if as many before them were clean.
const HURRY: u64 = 1000;

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

    /// It is being read that way.
    pub(super) fn settled(&mut self) {
        self.losses = 0;
    }

    fn is_poisoned(&self, now: Instant) -> bool {
        self.last_poison.is_some_and(|last| now.duration_since(last) < POISONED)
    }
}

/// A time in which a stream is read in a way that cannot fail.
#[derive(Debug)]
pub(super) struct Care {
    /// When it began, or poison was last read.
    since: Instant,
    /// Messages read since then.
    clean: u64,
    /// Poison read so far.
    poison: u64,
}

impl Care {
    /// Begins.
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, clean: 0, poison: 0 }
    }

    /// A message has been read.
    pub(super) fn read(&mut self, is_poison: bool, now: Instant) {
        self.clean += 1;
        if is_poison {
            *self = Self { since: now, clean: 0, poison: self.poison + 1 };
        }
    }

    /// Poison read so far.
    pub(super) fn poison(&self) -> u64 {
        self.poison
    }

    /// Whether a consumer may be tried again, with so many messages waiting.
    pub(super) fn is_over(&self, waiting: u64, now: Instant) -> bool {
        let in_a_hurry = waiting > HURRY && self.clean > HURRY;
        in_a_hurry || now.duration_since(self.since) >= QUIET
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    #[test]
    fn care_ends_when_no_poison_has_come_for_a_while() {
        let start = Instant::now();
        let mut care = Care::new(start);
        assert!(!care.is_over(0, start + QUIET / 2));
        care.read(false, start);
        care.read(true, start + QUIET / 2);
        assert_eq!(care.poison(), 1);
        assert!(!care.is_over(0, start + QUIET));
        assert!(care.is_over(0, start + QUIET / 2 + QUIET));
    }

    #[test]
    fn care_ends_early_where_much_waits_and_all_of_it_is_clean() {
        let start = Instant::now();
        let mut care = Care::new(start);
        (0..HURRY).for_each(|_| care.read(false, start));
        assert!(!care.is_over(HURRY + 1, start));
        care.read(false, start);
        assert!(care.is_over(HURRY + 1, start));
        assert!(!care.is_over(HURRY, start), "a consumer would be no faster");
        care.read(true, start);
        assert!(!care.is_over(HURRY + 1, start));
    }

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
