//! The ring is the log: the recent events of one stream, in memory, bounded in bytes.
//!
//! The live feed appends, clients are served from nothing else, so there is no second source to splice. Everything at or
//! below `base` is not held; everything after it up to `head` is held whole. The log knows no clients and no NATS.

mod subjects;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::fmt;
use std::sync::Arc;

use crate::cursor::{Cursor, Epoch, Position};
use crate::event::Event;
use crate::log::subjects::{SubjectId, Subjects};
use crate::subject::Pattern;

/// Memory one entry costs besides its frame and subject, measured roughly: the shared event, the frame's own
/// allocation and the slot in the ring.
const ENTRY_OVERHEAD_BYTES: usize = 176;
/// Memory a token of a subject costs in the index, where subjects do not share it.
const TOKEN_OVERHEAD_BYTES: usize = 256;
/// Up to so many matching subjects their entry lists are merged; beyond, one pass over all entries is cheaper.
const MERGED_SUBJECTS_MAX: usize = 64;

/// Recent events of one life of a stream.
pub struct Log {
    epoch: Epoch,
    base: Position,
    head: Position,
    entries: VecDeque<Arc<Event>>,
    /// The subject of each entry, in a column of its own: a pass over it does not touch the events.
    subjects_of: VecDeque<SubjectId>,
    /// Number of the oldest entry, counted from the log's beginning.
    oldest: u64,
    subjects: Subjects,
    time: u64,
    bytes: usize,
    bytes_max: usize,
    /// So much more may be held for now.
    pinned: usize,
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
        Self {
            epoch,
            base,
            head: base,
            entries: VecDeque::new(),
            subjects_of: VecDeque::new(),
            oldest: 0,
            subjects: Subjects::default(),
            time: base.time,
            bytes: 0,
            bytes_max,
            pinned: 0,
        }
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
        self.bytes + self.subjects.tokens() * TOKEN_OVERHEAD_BYTES
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
        if event.at.time != 0 {
            self.time = event.at.time;
        }
        let number = self.oldest + self.entries.len() as u64;
        let id = self.subjects.push(&event.subject, number);
        self.bytes += cost(&event);
        self.entries.push_back(event);
        self.subjects_of.push_back(id);
        while self.bytes() > self.bytes_max.saturating_add(self.pinned) && self.drop_oldest() {}
    }

    /// Lets so many bytes more be held from the next event on: while somebody catches up with the oldest one, it must not
    /// run away from them.
    pub fn pin(&mut self, bytes: usize) {
        self.pinned = bytes;
    }

    /// Lets go of the oldest, none of them above a sequence, until no more bytes than these are held.
    pub fn release(&mut self, upto: u64, bytes: usize) {
        let may_go = |oldest: &Arc<Event>| oldest.at.seq <= upto;
        while self.bytes() > bytes && self.entries.front().is_some_and(may_go) && self.drop_oldest() {}
    }

    fn drop_oldest(&mut self) -> bool {
        let (Some(event), Some(id)) = (self.entries.pop_front(), self.subjects_of.pop_front()) else { return false };
        self.oldest += 1;
        self.bytes -= cost(&event);
        self.subjects.pop(id);
        self.base = event.at;
        true
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

    /// When the newest message of which the time is known was stored, nanoseconds since 1970; 0 where none is. The head itself
    /// may be a hole.
    pub fn time(&self) -> u64 {
        self.time
    }

    /// When the last message before a sequence was stored, of those held whose time is known; 0 where there is none.
    pub fn time_before(&self, seq: u64) -> u64 {
        let end = self.entries.partition_point(|event| event.at.seq < seq);
        let times = self.entries.range(..end).rev().map(|event| event.at.time).chain([self.base.time]);
        times.into_iter().find(|time| *time != 0).unwrap_or(0)
    }

    /// Where messages of which the time is known stand before the head, newest first.
    pub fn before_head(&self) -> impl Iterator<Item = Position> {
        let entries = self.entries.iter().rev().map(|event| event.at).chain([self.base]);
        let head = self.head.seq;
        entries.filter(move |at| at.time != 0 && at.seq < head)
    }

    /// The newest position held whose message is not younger than `time` (nanoseconds since 1970); the base where all are.
    pub fn last_until(&self, time: u64) -> Position {
        let known_time = |end: usize| self.entries.range(..end).rev().map(|event| event.at.time).find(|t| *t != 0);
        // Holes have no time: they count with what stands before them.
        let (mut low, mut high) = (0, self.entries.len());
        while low < high {
            let middle = usize::midpoint(low, high);
            if known_time(middle + 1).is_none_or(|t| t <= time) { low = middle + 1 } else { high = middle }
        }
        match low.checked_sub(1) {
            Some(_) if low == self.entries.len() => self.head,
            Some(last) => self.entries[last].at,
            None => self.base,
        }
    }

    /// The events after `after` that match one of `patterns`, until the piece is full. At least one event is always
    /// selected if any is left. Everything after `after` must be held (see [`Log::at`]).
    pub fn select(&self, after: u64, patterns: &[Pattern], piece: PieceSize) -> Selection {
        let start = self.entries.partition_point(|event| event.at.seq <= after);
        let matching = self.subjects.matching(patterns);
        if matching.len() <= MERGED_SUBJECTS_MAX {
            let first = self.oldest + start as u64;
            let lists = matching.iter().map(|id| self.subjects.entries_from(*id, first)).collect();
            let places = merged(lists).filter_map(|number| usize::try_from(number - self.oldest).ok());
            return self.piece(after, places, piece);
        }
        let mut wanted = vec![false; self.subjects.ids_end()];
        for id in matching {
            wanted[id as usize] = true;
        }
        let columns = self.subjects_of.range(start..).enumerate();
        let places = columns.filter(|(_, id)| wanted[**id as usize]).map(|(offset, _)| start + offset);
        self.piece(after, places, piece)
    }

    /// Takes entries until the piece is full.
    fn piece(&self, after: u64, places: impl Iterator<Item = usize>, piece: PieceSize) -> Selection {
        let mut selection = Selection { events: Vec::new(), upto: after, complete: false };
        let mut bytes = 0;
        for event in places.filter_map(|place| self.entries.get(place)) {
            bytes += event.frames.bytes();
            if !selection.events.is_empty() && (bytes > piece.bytes || selection.events.len() >= piece.events) {
                return selection;
            }
            selection.events.push(event.clone());
            selection.upto = event.at.seq;
        }
        selection.upto = self.head.seq.max(after);
        selection.complete = true;
        selection
    }
}

impl fmt::Debug for Log {
    /// Its bounds, not its events.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { epoch, base, head, bytes, bytes_max, .. } = self;
        let mut log = f.debug_struct("Log");
        log.field("epoch", epoch).field("base", base).field("head", head);
        log.field("events", &self.len()).field("bytes", bytes).field("bytes_max", bytes_max).finish()
    }
}

/// Rising lists as one rising sequence. No number is in two lists.
fn merged<I: Iterator<Item = u64>>(mut lists: Vec<I>) -> impl Iterator<Item = u64> {
    let mut heads: BinaryHeap<Reverse<(u64, usize)>> = BinaryHeap::with_capacity(lists.len());
    for (index, list) in lists.iter_mut().enumerate() {
        heads.extend(list.next().map(|number| Reverse((number, index))));
    }
    std::iter::from_fn(move || {
        let Reverse((number, index)) = heads.pop()?;
        heads.extend(lists[index].next().map(|next| Reverse((next, index))));
        Some(number)
    })
}

fn cost(event: &Event) -> usize {
    event.frames.bytes() + event.subject.len() + ENTRY_OVERHEAD_BYTES
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        /// The index against matching one by one, with few and many subjects, evictions and pieces.
        #[test]
        fn selecting_agrees_with_matching_one_by_one(
            users in proptest::collection::vec(0u32..200, 1..400),
            bound in 2_000usize..100_000,
            text in "e\\.(>|u7\\.>|\\*\\.x|u1\\.x|\\*\\.>)",
            piece in 1usize..40,
        ) {
            let mut log = Log::new(Epoch::of("S", "t"), Position { seq: 10, time: 100 }, bound);
            for (user, seq) in users.iter().zip(11..) {
                log.append(event(seq, &format!("e.u{user}.x")));
            }
            let pattern = Pattern::parse(&text).expect("a pattern");
            let expected: Vec<u64> = users
                .iter()
                .zip(11..)
                .filter(|(user, seq)| *seq > log.base().seq && pattern.matches(&format!("e.u{user}.x")))
                .map(|(_, seq)| seq)
                .collect();
            let (mut seen, mut after) = (Vec::new(), log.base().seq);
            loop {
                let selection = log.select(after, std::slice::from_ref(&pattern), PieceSize { bytes: 1 << 20, events: piece });
                seen.extend(selection.events.iter().map(|e| e.at.seq));
                after = selection.upto;
                if selection.complete {
                    break;
                }
            }
            prop_assert_eq!(seen, expected);
            prop_assert_eq!(after, log.head().seq);
        }
    }

    #[test]
    fn may_grow_while_it_is_pinned() {
        let mut log = log_of(&(11..1011).collect::<Vec<_>>(), 10_000);
        let base = log.base();
        log.pin(10_000);
        (1011..1040).for_each(|seq| log.append(event(seq, "e.even")));
        assert_eq!(log.base(), base);
        (1040..2000).for_each(|seq| log.append(event(seq, "e.even")));
        assert!(log.bytes() > 10_000 && log.bytes() <= 20_000, "{}", log.bytes());
        log.pin(0);
        log.append(event(2000, "e.even"));
        assert!(log.bytes() <= 10_000, "{}", log.bytes());
    }

    #[test]
    fn is_bounded_and_moves_its_base() {
        let seqs: Vec<u64> = (11..1011).collect();
        let bound = 10 * (ENTRY_OVERHEAD_BYTES + 16) + 3 * TOKEN_OVERHEAD_BYTES;
        let log = log_of(&seqs, bound);
        assert!(log.bytes() <= bound && !log.is_empty());
        assert_eq!(log.base().seq + log.len() as u64, 1010);
        assert_eq!(log.at(log.base().seq), Held::Base(Position { seq: log.base().seq, time: log.base().seq * 10 }));
    }
}
