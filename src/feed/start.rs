//! Where a consumer starts, and what that means for what is held: pure decisions.
//!
//! The answers of the server are looked up by [`super::consumer`] and handed in; what follows for clients is
//! [`super::ledger`]'s business.

use std::time::Duration;

use super::removal::Stock;
use crate::cursor::{Epoch, Position};

/// How long it takes at most, in a stream kept by several servers, until a new leader knows what the one before knew. For so
/// long an end that is too early proves nothing.
pub const LEADER_PATIENCE: Duration = Duration::from_millis(3500);

/// How a consumer's start relates to what is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing was held before.
    First,
    /// Behind the head; what the stream has removed in between is missing.
    Continued,
    /// Another life of the stream.
    Reset,
    /// The same life, but its store went back in time: it gives sequences out again.
    RolledBack,
}

/// What is held already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Which life of the stream.
    pub epoch: Epoch,
    /// The newest position.
    pub head: Position,
    /// When the newest message was stored, where the head is a hole the one before it; 0 is not known.
    pub time: u64,
    /// The newest messages before the head, newest first; sequence 0 where there are none. They prove what the message at the
    /// head proves, should that be removed.
    pub recent: [Position; RECENT],
}

/// Messages before the head that are kept in mind.
pub const RECENT: usize = 4;

impl Known {
    /// Where to look for a message that is known, the best first.
    pub fn places(&self) -> impl Iterator<Item = Position> {
        std::iter::once(self.head).chain(self.recent).filter(|place| place.seq > 0)
    }
}

/// The stream as its leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Which life of the stream.
    pub epoch: Epoch,
    /// The newest sequence given out.
    pub last_seq: u64,
    /// The first of [`Known::places`] where there is a message: what is held there, and what stands there.
    pub found: Option<(Position, Position)>,
    /// Whether several servers keep the stream: then a new leader may not know everything in its first moments.
    pub replicated: bool,
}

/// Whether what is held can be continued.
pub fn decide(known: Option<Known>, seen: Seen) -> Start {
    let Some(known) = known else { return Start::First };
    if known.epoch != seen.epoch {
        return Start::Reset;
    }
    // A head without a time is a hole, and a hole stays one: what was removed does not come back by itself.
    let rewritten = seen.found.is_some_and(|(held, there)| there.time != 0 && there.time != held.time);
    if seen.last_seq < known.head.seq || rewritten { Start::RolledBack } else { Start::Continued }
}

/// Where a consumer begins that was asked to start behind `asked`, when the server answers that it starts behind
/// `before_first`: further on where the stream's first sequence is past that. `None` where the answer is before the place that
/// was asked for: an old server says so if that is beyond the stream's end.
pub fn clamped(asked: Position, before_first: u64) -> Option<Position> {
    if before_first == asked.seq {
        return Some(asked);
    }
    (before_first > asked.seq).then_some(Position { seq: before_first, time: 0 })
}

/// An opened consumer, as far as it matters to clients.
#[derive(Debug)]
pub struct Begun {
    /// How it relates to what was held.
    pub start: Start,
    /// Which life of the stream.
    pub epoch: Epoch,
    /// The position before the first message that will come.
    pub base: Position,
    /// The newest sequence given out when it was opened.
    pub last_seq: u64,
    /// The same where no message stands behind `base`: then it has nothing to send.
    pub end: Option<u64>,
    /// How full the stream was then.
    pub stock: Stock,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64, time: u64) -> Position {
        Position { seq, time }
    }

    #[test]
    fn every_case_has_its_start() {
        let ours = Epoch::of("S", "t");
        let known =
            Known { epoch: ours, head: at(10, 100), time: 100, recent: [at(9, 90), at(7, 70), at(0, 0), at(0, 0)] };
        assert_eq!(known.places().map(|place| place.seq).collect::<Vec<_>>(), [10, 9, 7]);
        let seen = |last_seq, found| Seen { epoch: ours, last_seq, found, replicated: false };
        let same = Some((at(10, 100), at(10, 100)));
        let start = |seen| decide(Some(known), seen);
        assert_eq!(decide(None, seen(10, None)), Start::First);
        assert_eq!(start(seen(10, same)), Start::Continued);
        assert_eq!(start(seen(12, None)), Start::Continued, "all of them may be gone");
        assert_eq!(start(seen(9, None)), Start::RolledBack, "sequences are given out once");
        assert_eq!(start(seen(12, Some((at(10, 100), at(10, 101))))), Start::RolledBack, "another message at the head");
        assert_eq!(start(seen(12, Some((at(9, 90), at(9, 95))))), Start::RolledBack, "another message before it");
        assert_eq!(
            start(seen(12, Some((at(10, 0), at(10, 101))))),
            Start::RolledBack,
            "a message where there was none"
        );
        assert_eq!(start(Seen { epoch: Epoch::of("S", "u"), ..seen(12, same) }), Start::Reset);
    }

    #[test]
    fn a_start_is_only_ever_moved_forwards() {
        let asked = at(10, 100);
        assert_eq!(clamped(asked, 10), Some(asked));
        assert_eq!(clamped(asked, 15), Some(at(15, 0)));
        assert_eq!(clamped(asked, 9), None);
    }
}
