//! Whether a consumer stands still while its stream grows: heartbeats only tell of what the consumer knows, and on an old
//! server one that starts before a damaged record knows of nothing behind it. Pure.

use std::time::{Duration, Instant};

use super::look::Looked;
use super::start::Known;

/// When nothing has come for this long, the leader is asked whether there is something.
const STANDSTILL: Duration = Duration::from_secs(4);
/// So many times, with nothing coming between, before the consumer is taken to be stuck.
const LOOKS_AT_STANDSTILL: u32 = 2;

/// How long nothing has come.
#[derive(Debug)]
pub(super) struct Standstill {
    head: u64,
    since: Instant,
    /// How often the leader has said meanwhile that there is more.
    looks: u32,
}

impl Standstill {
    /// A consumer begins, or goes on, behind this head.
    pub(super) fn at(head: u64, now: Instant) -> Self {
        Self { head, since: now, looks: 0 }
    }

    /// Whether the leader should be asked, with this head.
    pub(super) fn wants_look(&mut self, head: u64, now: Instant) -> bool {
        if self.head != head {
            *self = Self::at(head, now);
        }
        now.duration_since(self.since) >= STANDSTILL * (self.looks + 1)
    }

    /// The leader has been asked while `known` is held; true where the consumer is stuck.
    pub(super) fn looked(&mut self, known: Known, looked: &Looked, now: Instant) -> bool {
        let head = known.head.seq;
        if known != looked.known || self.head != head || looked.seen.last_seq <= head {
            *self = Self::at(head, now);
            return false;
        }
        self.looks += 1;
        self.looks >= LOOKS_AT_STANDSTILL
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::{Epoch, Position};
    use crate::feed::removal::Stock;
    use crate::feed::start::{RECENT, Seen};

    fn known(head: u64) -> Known {
        let epoch = Epoch::of("S", "t");
        Known { epoch, head: Position { seq: head, time: 1 }, time: 1, recent: [Position::START; RECENT] }
    }

    fn looked(known: Known, last_seq: u64, asked: Instant) -> Looked {
        let seen = Seen { epoch: known.epoch, last_seq, found: None, replicated: false };
        let stock = Stock::unlimited(asked);
        Looked { known, seen, stock, at: (0, false), asked }
    }

    #[test]
    fn a_stream_that_grows_without_us_is_noticed() {
        let start = Instant::now();
        let mut still = Standstill::at(7, start);
        assert!(!still.wants_look(7, start + STANDSTILL / 2));
        assert!(still.wants_look(7, start + STANDSTILL));
        assert!(!still.looked(known(7), &looked(known(7), 9, start), start + STANDSTILL), "it may be under way");
        assert!(!still.wants_look(7, start + STANDSTILL), "time is given for it");
        assert!(still.wants_look(7, start + STANDSTILL * 2));
        assert!(still.looked(known(7), &looked(known(7), 9, start), start + STANDSTILL * 2));
    }

    #[test]
    fn an_idle_stream_is_no_standstill() {
        let start = Instant::now();
        let mut still = Standstill::at(7, start);
        for n in 1..5 {
            assert!(still.wants_look(7, start + STANDSTILL * n));
            assert!(!still.looked(known(7), &looked(known(7), 7, start), start + STANDSTILL * n));
        }
    }

    #[test]
    fn whatever_comes_ends_the_suspicion() {
        let start = Instant::now();
        let mut still = Standstill::at(7, start);
        assert!(!still.looked(known(7), &looked(known(7), 9, start), start + STANDSTILL));
        assert!(!still.wants_look(8, start + STANDSTILL * 2), "something has come");
        assert!(!still.looked(known(8), &looked(known(7), 9, start), start + STANDSTILL * 2), "an old answer");
        assert!(!still.looked(known(8), &looked(known(8), 9, start), start + STANDSTILL * 3));
    }
}
