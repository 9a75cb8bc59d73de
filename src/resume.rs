//! What becomes of a client's cursor: a pure decision, every outcome named.
//!
//! Input is the cursor, the log's epoch and bounds, and what stands at the cursor's sequence; no clock, no NATS. The
//! caller (the feed) acts on the verdict and may ask again when the log has grown.

// Reads what others send: nothing here may panic.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

use crate::cursor::{Cursor, LastEventId, Position};
use crate::frame::notice::{Gap, GapReason};
use crate::log::{Held, Log};

/// What to do for a client that connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// No cursor: events follow from the head.
    New,
    /// Everything after this position is held: serve it and join.
    Exact(Position),
    /// The cursor is older than what is held: its message must be read from the stream.
    Behind(Cursor),
    /// The cursor is above our head. We may only be behind another sidecar: wait a little, then [`rolled_back`].
    Ahead,
    /// A declared hole; events follow from `from`.
    Gap {
        /// What the client is told.
        gap: Gap,
        /// Where it goes on.
        from: Position,
    },
}

/// Decides where a client goes on.
pub fn decide(last: LastEventId, log: &Log) -> Verdict {
    let cursor = match last {
        LastEventId::Absent => return Verdict::New,
        LastEventId::Unknown => return gap(None, log.head(), GapReason::CursorUnknown),
        LastEventId::Cursor(cursor) => cursor,
    };
    if cursor.epoch != log.epoch() {
        // Everything in the other life of the stream is new to it.
        return gap(None, log.base(), GapReason::Reset);
    }
    match log.at(cursor.at.seq) {
        held if contradicts(log, held, cursor.at) => rolled_back(log, cursor),
        Held::Event(_) | Held::Base(_) | Held::Nothing => Verdict::Exact(cursor.at),
        Held::Beyond => Verdict::Ahead,
        Held::Before => Verdict::Behind(cursor),
    }
}

/// Whether what is held says that the cursor is of a life that is over: another message has its sequence, a message stands
/// where it says that none did, or where its message is gone a younger one stands before it.
pub fn contradicts(log: &Log, held: Held, cursor: Position) -> bool {
    match held {
        Held::Event(there) if cursor.time == 0 => cursor.seq > 0 && there.time != 0,
        Held::Event(there) | Held::Base(there) if there.time != 0 => there.is_another_than(cursor),
        Held::Event(_) | Held::Nothing => cursor.time != 0 && log.time_before(cursor.seq) > cursor.time,
        Held::Base(_) | Held::Before | Held::Beyond => false,
    }
}

/// The verdict for a cursor that is none of this stream's any more, although its epoch is: the store went back in time.
/// Another message stands at its sequence, or it stayed above the head. Whatever was stored after the cursor's message is
/// new to the client, whatever its sequence: it goes on behind the newest message that is not younger; at the head where the
/// cursor does not tell its time. `log` holds the stream near the cursor.
pub fn rolled_back(log: &Log, cursor: Cursor) -> Verdict {
    let from = if cursor.at.time == 0 { log.head() } else { log.last_until(cursor.at.time) };
    gap(None, from, GapReason::Reset)
}

/// The verdict for a client that has replayed as much as it may.
pub fn limited(log: &Log, after: u64) -> Verdict {
    gap(Some(after), log.head(), GapReason::ReplayLimit)
}

fn gap(after: Option<u64>, from: Position, reason: GapReason) -> Verdict {
    Verdict::Gap { gap: Gap { after, next: Some(from.seq.saturating_add(1)), reason }, from }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::cursor::Epoch;
    use crate::event::{Event, Frames};
    use crate::frame::Frame;
    use crate::log::PieceSize;
    use crate::subject::Pattern;

    fn log() -> Log {
        let mut log = Log::new(Epoch::of("S", "t"), Position { seq: 10, time: 100 }, 1 << 20);
        for seq in [11, 12, 14] {
            let at = Position { seq, time: seq * 10 };
            log.append(Arc::new(Event { at, subject: "e".into(), frames: Frames::Shared(Frame::comment()) }));
        }
        log
    }

    fn cursor(epoch: Epoch, seq: u64, time: u64) -> LastEventId {
        LastEventId::Cursor(Cursor { epoch, at: Position { seq, time } })
    }

    fn reason(verdict: Verdict) -> Option<(GapReason, Option<u64>, Option<u64>)> {
        match verdict {
            Verdict::Gap { gap, .. } => Some((gap.reason, gap.after, gap.next)),
            _ => None,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        /// Whatever the log and the cursor: an exact resume is one whose every later event is held, a gap leads to a
        /// place that is held, and nothing is called exact that provably is not.
        #[test]
        fn a_verdict_never_leads_where_nothing_is_held(
            base in 0u64..30,
            steps in proptest::collection::vec((1u64..4, 0u64..5), 0..40),
            bound in prop_oneof![Just(1usize << 20), 300usize..6000],
            ours in proptest::bool::weighted(0.8),
            seq in 0u64..160,
            time in 0u64..1600,
        ) {
            let epoch = Epoch::of("S", "t");
            let mut log = Log::new(epoch, Position { seq: base, time: base * 10 }, bound);
            for (step, late) in &steps {
                let seq = log.head().seq + step;
                // Every fifth is a hole.
                let time = if *late == 0 { 0 } else { seq * 10 };
                let at = Position { seq, time };
                log.append(Arc::new(Event { at, subject: "e".into(), frames: Frames::Shared(Frame::comment()) }));
            }
            let at = Position { seq, time };
            let epoch = if ours { epoch } else { Epoch::of("S", "u") };
            let held = log.at(seq);
            match decide(LastEventId::Cursor(Cursor { epoch, at }), &log) {
                Verdict::New => prop_assert!(false, "a cursor is not new"),
                Verdict::Exact(from) => {
                    prop_assert!(ours && from == at && (log.base().seq..=log.head().seq).contains(&seq));
                    if let Held::Event(there) | Held::Base(there) = held {
                        prop_assert!(!there.is_another_than(at));
                    }
                }
                Verdict::Behind(cursor) => prop_assert!(ours && cursor.at == at && seq < log.base().seq),
                Verdict::Ahead => prop_assert!(ours && seq > log.head().seq),
                Verdict::Gap { gap, from } => {
                    prop_assert_eq!((gap.after, gap.next, gap.reason), (None, Some(from.seq + 1), GapReason::Reset));
                    prop_assert!((log.base().seq..=log.head().seq).contains(&from.seq));
                    if ours && time == 0 {
                        // It says of a hole what a message refutes: nobody knows when it was there.
                        prop_assert_eq!(from, log.head());
                    } else if ours {
                        // Nothing younger than the cursor's message is left out.
                        let piece = PieceSize { bytes: usize::MAX, events: usize::MAX };
                        let all = log.select(log.base().seq, &[Pattern::parse(">").expect("a pattern")], piece);
                        let left_out = all.events.iter().filter(|event| event.at.seq <= from.seq);
                        prop_assert!(left_out.clone().all(|event| event.at.time <= time), "{:?}", left_out.collect::<Vec<_>>());
                    } else {
                        prop_assert_eq!(from, log.base());
                    }
                }
            }
        }
    }

    #[test]
    fn every_cursor_has_its_verdict() {
        let log = log();
        let ours = log.epoch();
        assert_eq!(decide(LastEventId::Absent, &log), Verdict::New);
        assert_eq!(decide(cursor(ours, 12, 120), &log), Verdict::Exact(Position { seq: 12, time: 120 }));
        assert_eq!(decide(cursor(ours, 10, 100), &log), Verdict::Exact(Position { seq: 10, time: 100 }));
        assert_eq!(decide(cursor(ours, 14, 140), &log), Verdict::Exact(Position { seq: 14, time: 140 }));
        assert_eq!(decide(cursor(ours, 13, 130), &log), Verdict::Exact(Position { seq: 13, time: 130 }));
        assert_eq!(decide(cursor(ours, 15, 150), &log), Verdict::Ahead);

        assert_eq!(reason(decide(LastEventId::Unknown, &log)), Some((GapReason::CursorUnknown, None, Some(15))));
        assert!(matches!(decide(cursor(ours, 5, 50), &log), Verdict::Behind(_)));
        assert_eq!(reason(limited(&log, 5)), Some((GapReason::ReplayLimit, Some(5), Some(15))));
        // The store went back in time: what is younger than the cursor's message follows.
        assert_eq!(reason(decide(cursor(ours, 12, 121), &log)), Some((GapReason::Reset, None, Some(13))));
        assert_eq!(reason(decide(cursor(ours, 12, 115), &log)), Some((GapReason::Reset, None, Some(12))));
        assert_eq!(reason(decide(cursor(ours, 14, 20), &log)), Some((GapReason::Reset, None, Some(11))));
        assert_eq!(reason(decide(cursor(ours, 10, 101), &log)), Some((GapReason::Reset, None, Some(11))));
        let other = Epoch::of("S", "u");
        assert_eq!(reason(decide(cursor(other, 12, 120), &log)), Some((GapReason::Reset, None, Some(11))));
        let beyond = |time| Cursor { epoch: ours, at: Position { seq: 20, time } };
        assert_eq!(reason(rolled_back(&log, beyond(150))), Some((GapReason::Reset, None, Some(15))));
        assert_eq!(reason(rolled_back(&log, beyond(110))), Some((GapReason::Reset, None, Some(12))));
    }
}
