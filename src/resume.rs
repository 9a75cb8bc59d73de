//! What becomes of a client's cursor: a pure decision, every outcome named.
//!
//! Input is the cursor, the log's epoch and bounds, and what stands at the cursor's sequence; no clock, no NATS. The
//! caller (the feed) acts on the verdict and may ask again when the log has grown.

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
    /// The cursor is above our head. We may only be behind another sidecar: wait a little, then [`beyond_head`].
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
        LastEventId::Unknown => return from_head(log, None, GapReason::CursorUnknown),
        LastEventId::Cursor(cursor) => cursor,
    };
    let seq = cursor.at.seq;
    if cursor.epoch != log.epoch() {
        return from_oldest(log, None, GapReason::Reset);
    }
    match log.at(seq) {
        Held::Event(held) | Held::Base(held) if proves_another(cursor.at, held) => {
            from_oldest(log, None, GapReason::Reset)
        }
        Held::Event(_) | Held::Base(_) | Held::Nothing => Verdict::Exact(cursor.at),
        Held::Beyond => Verdict::Ahead,
        Held::Before => Verdict::Behind(cursor),
    }
}

/// The verdict for a cursor at whose sequence another message was found: the store went back in time.
pub fn rolled_back(log: &Log) -> Verdict {
    from_oldest(log, None, GapReason::Reset)
}

/// The verdict for a client that has replayed as much as it may.
pub fn limited(log: &Log, after: u64) -> Verdict {
    from_head(log, Some(after), GapReason::ReplayLimit)
}

/// The verdict for a cursor that stayed above the head after waiting: the store went back in time.
pub fn beyond_head(log: &Log) -> Verdict {
    from_head(log, None, GapReason::Reset)
}

/// Both timestamps are known and differ: the sequence was given to another message.
fn proves_another(cursor: Position, held: Position) -> bool {
    cursor.time != 0 && held.time != 0 && cursor.time != held.time
}

fn from_oldest(log: &Log, after: Option<u64>, reason: GapReason) -> Verdict {
    gap(after, log.base(), reason)
}

fn from_head(log: &Log, after: Option<u64>, reason: GapReason) -> Verdict {
    gap(after, log.head(), reason)
}

fn gap(after: Option<u64>, from: Position, reason: GapReason) -> Verdict {
    Verdict::Gap { gap: Gap { after, next: Some(from.seq + 1), reason }, from }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cursor::Epoch;
    use crate::event::{Event, Frames};
    use crate::frame::Frame;

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
        assert_eq!(reason(rolled_back(&log)), Some((GapReason::Reset, None, Some(11))));
        assert_eq!(reason(decide(cursor(ours, 12, 121), &log)), Some((GapReason::Reset, None, Some(11))));
        assert_eq!(reason(decide(cursor(ours, 10, 101), &log)), Some((GapReason::Reset, None, Some(11))));
        let other = Epoch::of("S", "u");
        assert_eq!(reason(decide(cursor(other, 12, 120), &log)), Some((GapReason::Reset, None, Some(11))));
        assert_eq!(reason(beyond_head(&log)), Some((GapReason::Reset, None, Some(15))));
    }
}
