//! The ring is the log: the recent events of one stream, in memory, bounded in bytes.
//!
//! The live feed appends, clients are served from nothing else, so there is no second source to splice. Everything at or
//! below `base` is not held; everything after it up to `head` is held whole. The log knows no clients and no NATS.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::cursor::{Cursor, Epoch, Position};
use crate::event::Event;
use crate::subject::Pattern;

/// Memory one entry costs besides its frame and subject, measured roughly: the shared event, the frame's own
/// allocation and the slot in the ring.
const ENTRY_OVERHEAD_BYTES: usize = 160;

/// Recent events of one life of a stream.
#[derive(Debug)]
pub struct Log {
    epoch: Epoch,
    base: Position,
    head: Position,
    entries: VecDeque<Arc<Event>>,
    bytes: usize,
    bytes_max: usize,
}

/// What the log knows of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// At or below the base: not held. The base itself has its position.
    Before,
    /// Exactly the base.
    Base(Position),
    /// An event stands here.
    Event(Position),
    /// Inside the log, but the stream has no message there (it was deleted before we read it).
    Nothing,
    /// Above the head.
    Beyond,
}

/// How much of what a client missed is handed over at a time.
#[derive(Debug, Clone, Copy)]
pub struct PieceSize {
    /// Bytes of frames; a single event may be larger.
    pub bytes: usize,
    /// Events.
    pub events: usize,
}

/// Events that one client missed, oldest first.
#[derive(Debug, Default)]
pub struct Selection {
    /// The matching events.
    pub events: Vec<Arc<Event>>,
    /// Everything up to here has been looked at.
    pub upto: u64,
    /// Whether that is the head.
    pub complete: bool,
}

impl Log {
    /// An empty log that begins after `base`.
    pub fn new(epoch: Epoch, base: Position, bytes_max: usize) -> Self {
        Self { epoch, base, head: base, entries: VecDeque::new(), bytes: 0, bytes_max }
    }

    /// Which life of the stream this is.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The last position not held.
    pub fn base(&self) -> Position {
        self.base
    }

    /// The newest position.
    pub fn head(&self) -> Position {
        self.head
    }

    /// A position as a cursor.
    pub fn cursor(&self, at: Position) -> Cursor {
        Cursor { epoch: self.epoch, at }
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Events held.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Appends the next event; its sequence is above the head. Old events leave when the bound is passed.
    pub fn append(&mut self, event: Arc<Event>) {
        debug_assert!(event.at.seq > self.head.seq, "the feed appends in stream order");
        self.head = event.at;
        self.bytes += cost(&event);
        self.entries.push_back(event);
        while self.bytes > self.bytes_max {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.bytes -= cost(&oldest);
            self.base = oldest.at;
        }
    }

    /// The head moves without an event: the server said that nothing stands in between.
    pub fn skip_to(&mut self, at: Position) {
        if at.seq > self.head.seq {
            self.head = at;
        }
    }

    /// What stands at a sequence.
    pub fn at(&self, seq: u64) -> Held {
        if seq > self.head.seq {
            return Held::Beyond;
        }
        if seq == self.base.seq {
            return Held::Base(self.base);
        }
        if seq < self.base.seq {
            return Held::Before;
        }
        match self.entries.binary_search_by_key(&seq, |event| event.at.seq) {
            Ok(index) => Held::Event(self.entries[index].at),
            Err(_) => Held::Nothing,
        }
    }

    /// The events after `after` that match one of `patterns`, until the piece is full. At least one event is always
    /// selected if any is left. Everything after `after` must be held (see [`Log::at`]).
    pub fn select(&self, after: u64, patterns: &[Pattern], piece: PieceSize) -> Selection {
        let start = self.entries.partition_point(|event| event.at.seq <= after);
        let mut selection = Selection { events: Vec::new(), upto: after, complete: false };
        let mut bytes = 0;
        for event in self.entries.range(start..) {
            if patterns.iter().any(|pattern| pattern.matches(&event.subject)) {
                bytes += event.frames.bytes();
                if !selection.events.is_empty() && (bytes > piece.bytes || selection.events.len() >= piece.events) {
                    return selection;
                }
                selection.events.push(event.clone());
            }
            selection.upto = event.at.seq;
        }
        selection.upto = self.head.seq.max(after);
        selection.complete = true;
        selection
    }
}

fn cost(event: &Event) -> usize {
    event.frames.bytes() + event.subject.len() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Frames;
    use crate::frame::Frame;

    fn event(seq: u64, subject: &str) -> Arc<Event> {
        Arc::new(Event {
            at: Position { seq, time: seq * 10 },
            subject: subject.into(),
            frames: Frames::Shared(Frame::comment()),
        })
    }

    fn log_of(seqs: &[u64], bytes_max: usize) -> Log {
        let mut log = Log::new(Epoch::of("S", "t"), Position { seq: 10, time: 100 }, bytes_max);
        for seq in seqs {
            log.append(event(*seq, if seq % 2 == 0 { "e.even" } else { "e.odd" }));
        }
        log
    }

    fn all() -> Vec<Pattern> {
        vec![Pattern::parse("e.>").expect("a pattern")]
    }

    #[test]
    fn knows_what_stands_where() {
        let log = log_of(&[11, 12, 15], 1 << 20);
        assert_eq!(log.at(9), Held::Before);
        assert_eq!(log.at(10), Held::Base(Position { seq: 10, time: 100 }));
        assert_eq!(log.at(12), Held::Event(Position { seq: 12, time: 120 }));
        assert_eq!(log.at(13), Held::Nothing);
        assert_eq!(log.at(16), Held::Beyond);
    }

    #[test]
    fn selects_matches_after_a_position_in_pieces() {
        let log = log_of(&[11, 12, 13, 14, 15, 16], 1 << 20);
        let odd = vec![Pattern::parse("e.odd").expect("a pattern")];
        let whole = log.select(11, &odd, PieceSize { bytes: 1 << 20, events: 1000 });
        assert_eq!(whole.events.iter().map(|e| e.at.seq).collect::<Vec<_>>(), [13, 15]);
        assert!(whole.complete && whole.upto == 16);

        let mut seen = Vec::new();
        let mut after = 10;
        loop {
            let piece = log.select(after, &all(), PieceSize { bytes: 0, events: 1000 });
            assert!(piece.complete || piece.upto > after, "every piece makes progress");
            seen.extend(piece.events.iter().map(|e| e.at.seq));
            after = piece.upto;
            if piece.complete {
                break;
            }
        }
        assert_eq!(seen, [11, 12, 13, 14, 15, 16]);
    }

    #[test]
    fn is_bounded_and_moves_its_base() {
        let seqs: Vec<u64> = (11..1011).collect();
        let log = log_of(&seqs, 10 * (ENTRY_OVERHEAD_BYTES + 16));
        assert!(log.bytes() <= 10 * (ENTRY_OVERHEAD_BYTES + 16) && !log.is_empty());
        assert_eq!(log.base().seq + log.len() as u64, 1010);
        assert_eq!(log.at(log.base().seq), Held::Base(Position { seq: log.base().seq, time: log.base().seq * 10 }));
    }
}
