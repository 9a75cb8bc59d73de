//! One pass over the past of a stream: a log of its own that moves forwards, and the clients that ride on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Bounds, Missing, MissingFrom, PassId};
use crate::cursor::{Cursor, Position};
use crate::event::Event;
use crate::feed::removal::Stock;
use crate::log::{Held, Log, PieceSize};
use crate::resume::{self, Verdict};

/// Sequences before the oldest cursor that a pass reads too: if the message there is gone, those before it prove the cursor.
const NEIGHBOURS: u64 = 4;
/// A full pass does not leave while clients get on: until none has for this long.
const GATHERED: Duration = Duration::from_millis(200);
/// Or until this has passed since it began. Those who lost their connections together are back by then, and the first of
/// them have got what a full pass holds meanwhile.
const GATHER_MAX: Duration = Duration::from_secs(3);
/// A full pass that leaves lets go of one in so many bytes, so that it reads on in larger strides.
const STRIDE: usize = 12;
/// In this time the slowest rider of a pass for which others wait makes up at least one in so many of what it lags.
const PACE: u64 = 8;
const PACE_OVER: Duration = Duration::from_secs(1);

/// Events in stream order; with `end`, the stream had nothing behind them up to this, its last sequence then.
#[derive(Debug, Default)]
pub(in crate::feed) struct Filled {
    pub(in crate::feed) events: Vec<Arc<Event>>,
    pub(in crate::feed) end: Option<u64>,
    /// How full the stream was when its leader was asked, if it was since the last.
    pub(in crate::feed) stock: Option<Stock>,
}

/// What a pass has for a client.
pub(super) enum Serve {
    Piece {
        proven: Option<Cursor>,
        events: Vec<Arc<Event>>,
        upto: u64,
    },
    /// Nothing for it up to here; more is on its way.
    Wait(u64),
    /// Another message stands at its cursor's sequence.
    Reset(Verdict),
    /// It has replayed as much as one client may.
    Limit,
}

#[derive(Debug)]
pub(super) struct Pass {
    pub(super) id: PassId,
    log: Log,
    /// Where its riders are, and how many at each place.
    riders: BTreeMap<u64, usize>,
    /// Nothing more will be read: the stream has nothing behind the head.
    exhausted: bool,
    /// Its reader has ended before that: another pass is needed.
    broken: bool,
    began: Instant,
    /// When somebody last got on.
    boarded: Instant,
    /// When its pace was last looked at, and where the slowest rider was.
    mark: (Instant, u64),
}

impl Pass {
    /// A pass for a cursor at `oldest`. `log` is the stream's.
    pub(super) fn new(id: PassId, oldest: u64, log: &Log, now: Instant) -> Self {
        let base = Position { seq: oldest.saturating_sub(NEIGHBOURS).max(1) - 1, time: 0 };
        tracing::debug!(from = base.seq + 1, until = log.base().seq, "Replay begins");
        let log = Log::new(log.epoch(), base, usize::MAX);
        let riders = BTreeMap::new();
        Self { id, log, riders, exhausted: false, broken: false, began: now, boarded: now, mark: (now, 0) }
    }

    /// The first sequence it is to read.
    pub(super) fn from(&self) -> u64 {
        self.log.base().seq + 1
    }

    pub(super) fn bytes(&self) -> usize {
        self.log.bytes()
    }

    pub(super) fn head(&self) -> u64 {
        self.log.head().seq
    }

    pub(super) fn is_idle(&self) -> bool {
        self.riders.is_empty()
    }

    pub(super) fn boarded(&self) -> Instant {
        self.boarded
    }

    /// Somebody gets on, or rides on from another place.
    pub(super) fn board(&mut self, at: u64) {
        *self.riders.entry(at).or_default() += 1;
    }

    /// It is somebody new.
    pub(super) fn welcome(&mut self, now: Instant) {
        self.boarded = now;
    }

    pub(super) fn alight(&mut self, at: u64, now: Instant) {
        if let Some(riders) = self.riders.get_mut(&at) {
            *riders -= 1;
            if *riders == 0 {
                self.riders.remove(&at);
            }
        }
        if self.riders.is_empty() {
            // From now on nobody needs it.
            self.boarded = now;
        }
    }

    /// Whether everything that is wanted lies in what this pass holds or may still read; for a cursor, its own message too,
    /// which proves it. Sequence 0 is before every message and needs no proof.
    pub(super) fn reaches(&self, from: MissingFrom) -> bool {
        let (base, seq) = (self.log.base(), from.seq());
        match from {
            MissingFrom::Cursor(_) => seq > base.seq || (seq == base.seq && (seq == 0 || base.time != 0)),
            MissingFrom::After(_) => seq >= base.seq,
        }
    }

    /// Whether it holds what follows already.
    pub(super) fn holds(&self, from: MissingFrom) -> bool {
        self.reaches(from) && from.seq() < self.head()
    }

    /// How far it has to be read before it holds what follows; `None` if it will not.
    pub(super) fn distance(&self, from: MissingFrom) -> Option<u64> {
        self.reaches(from).then(|| (from.seq() + 1).saturating_sub(self.head()))
    }

    pub(super) fn is_full(&self, bytes_max: usize) -> bool {
        self.log.bytes() >= bytes_max
    }

    /// Full, or it has let go of something just now to read on.
    pub(super) fn is_nearly_full(&self, bytes_max: usize) -> bool {
        self.log.bytes() >= bytes_max - bytes_max / STRIDE
    }

    /// Whether its slowest rider lags and has come on by less than it should in the last second. Gives the middle between that
    /// one and the head.
    pub(super) fn crawls(&mut self, now: Instant) -> Option<u64> {
        let (since, from) = self.mark;
        if now < since + PACE_OVER {
            return None;
        }
        let slowest = *self.riders.first_key_value()?.0;
        self.mark = (now, slowest);
        // Somebody older may have got on.
        let came_on = slowest.checked_sub(from)?;
        let crawls = !self.is_gathering(now) && came_on < self.head().saturating_sub(slowest) / PACE;
        crawls.then(|| u64::midpoint(slowest, self.head()))
    }

    fn is_gathering(&self, now: Instant) -> bool {
        now < self.boarded + GATHERED && now < self.began + GATHER_MAX
    }

    /// Lets go of what all its riders have had, where a full pass needs room to read on. Before that it is there for those who
    /// come later with as old a cursor. The message at a client's own position is kept: it proves the cursors there.
    pub(super) fn make_room(&mut self, bytes_max: usize, now: Instant) {
        if let Some((slowest, _)) = self.riders.first_key_value()
            && self.is_full(bytes_max)
            && !self.is_gathering(now)
        {
            let (slowest, bytes) = (*slowest, bytes_max - bytes_max / STRIDE);
            self.log.release(slowest.saturating_sub(1), bytes);
            // One event may be more than a pass holds. As the base it still proves cursors.
            if slowest == self.head() && self.is_full(bytes_max) {
                self.log.release(slowest, bytes);
            }
        }
    }

    /// Until it meets the stream's log, for those who ride on it.
    pub(super) fn wants_more(&self, log: &Log, bytes_max: usize) -> bool {
        let goes_on = !self.exhausted && !self.broken && !self.is_idle();
        goes_on && self.head() < log.base().seq && !self.is_full(bytes_max)
    }

    /// Its reader has given up.
    pub(super) fn break_off(&mut self) {
        self.broken = true;
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Whether it has ended at the stream's end of then, and the stream's log has moved past that since.
    pub(super) fn is_behind(&self, log: &Log) -> bool {
        self.exhausted && self.head() < log.base().seq
    }

    /// Takes what was read. Nothing above the head of the stream's log: only up to there the consumer proves that the stream has
    /// not become another one meanwhile.
    pub(super) fn append(&mut self, filled: Filled, log: &Log, hole: impl Fn(Position, Cursor) -> Arc<Event>) {
        let head = log.head().seq;
        for event in filled.events {
            self.declare_removed((event.at.seq - 1).min(head), &hole);
            if event.at.seq > head {
                self.exhausted = true;
                return;
            }
            self.log.append(event);
        }
        if let Some(last) = filled.end {
            self.exhausted = true;
            self.declare_removed(last.min(log.base().seq), &hole);
        }
    }

    /// Sequences that the stream has no message for any more are a hole that everybody is told of.
    fn declare_removed(&mut self, upto: u64, hole: impl Fn(Position, Cursor) -> Arc<Event>) {
        let before = Position { seq: self.log.head().seq, time: self.log.time() };
        if upto > before.seq {
            let at = Position { seq: upto, time: 0 };
            self.log.append(hole(before, self.log.cursor(at)));
        }
    }

    /// What it has for a client that has `replayed` so many already. `held` is the base of the stream's log: what is behind it is
    /// replayed by nobody.
    pub(super) fn serve(&self, missing: &Missing, replayed: u64, bounds: Bounds, held: u64) -> Serve {
        let seq = missing.from.seq();
        let mut proven = None;
        if let MissingFrom::Cursor(cursor) = missing.from {
            // What follows directly decides whether the stream opens with a gap.
            if self.head() <= seq && !self.exhausted {
                return Serve::Wait(seq);
            }
            match self.log.at(seq) {
                Held::Beyond => return Serve::Wait(seq),
                held if resume::contradicts(&self.log, held, cursor.at) => {
                    return Serve::Reset(resume::rolled_back(&self.log, cursor));
                }
                _ => proven = Some(cursor),
            }
        }
        let left = bounds.events - replayed;
        let events = bounds.piece.events.min(usize::try_from(left).unwrap_or(usize::MAX));
        let selection = self.log.select(seq, missing.grant.stream(), PieceSize { events, ..bounds.piece });
        if left == 0 {
            // At least one is selected if there is one. Exactly as many as it may replay are no gap.
            let next = selection.events.first().map_or(u64::MAX, |event| event.at.seq);
            return if next <= held { Serve::Limit } else { Serve::Wait(selection.upto.min(held)) };
        }
        if selection.events.is_empty() && proven.is_none() {
            return Serve::Wait(selection.upto);
        }
        Serve::Piece { proven, events: selection.events, upto: selection.upto }
    }
}
