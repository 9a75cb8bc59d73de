//! Older than memory: what clients missed is read from the stream once for all of them, never once per client.
//!
//! A [`Pass`] reads a range of the stream forwards into a small log of its own, from the oldest cursor that waits until it
//! meets the stream's log. Clients take their pieces from it at their own pace; when it is full it lets go of the oldest and
//! reads on as the slowest of them moves, and a client that holds everybody up waits for another pass. It stays a little
//! longer than it is needed, because those who lost their connections together do not come back in the same instant. So memory is bounded by the passes, reads by the
//! range, and exactness is the log's own. Reading NATS is [`super::pass`]'s business, sending pieces the stream's.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::pass::{self, Reader};
use crate::cursor::{Cursor, Position};
use crate::event::Event;
use crate::frame::notice::GapReason;
use crate::link::Ticket;
use crate::log::{Held, Log, PieceSize};
use crate::route::Grant;

/// Passes at the same time over one stream.
const PASSES_MAX: usize = 2;
/// What one pass holds before it waits for its clients, in bytes.
const PASS_BYTES: usize = 24 * 1024 * 1024;
/// What it keeps of what all of them have had: all but room to read on.
const KEPT_BYTES: usize = PASS_BYTES - 2 * 1024 * 1024;
/// A client that has not come for its next piece for this long does not hold a full pass up.
const LAGGARD: Duration = Duration::from_secs(1);
/// How long a pass that nobody takes from is kept for those who come next: a storm takes a second or two.
const LINGER: Duration = Duration::from_secs(2);

/// Bounds of replaying.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Events one client may replay.
    pub(super) events: u64,
    /// Clients that are served from passes at the same time; others wait.
    pub(super) clients: usize,
    /// What one client gets at a time.
    pub(super) piece: PieceSize,
}

/// A client that wants what the stream's log does not hold.
#[derive(Debug)]
pub(super) struct Missing {
    pub(super) shard: usize,
    pub(super) ticket: Ticket,
    pub(super) grant: Arc<Grant>,
    pub(super) from: MissingFrom,
}

/// From where.
#[derive(Debug, Clone, Copy)]
pub(super) enum MissingFrom {
    /// It connects with this cursor, which is still to be proven.
    Cursor(Cursor),
    /// It has everything up to here.
    After(u64),
}

impl Missing {
    /// A pass has brought it further than the live feed is: it waits until the log has caught up.
    fn is_ahead(&self, log: &Log) -> bool {
        matches!(self.from, MissingFrom::After(after) if after > log.head().seq)
    }
}

impl MissingFrom {
    pub(super) fn seq(self) -> u64 {
        match self {
            Self::Cursor(cursor) => cursor.at.seq,
            Self::After(seq) => seq,
        }
    }
}

/// What is to be done for a client.
#[derive(Debug)]
pub(super) enum Action {
    /// Send these events; it is then at `upto` and asks for more. `proven`: its cursor, now that the stream is open.
    Piece { missing: Missing, proven: Option<Cursor>, events: Vec<Arc<Event>>, upto: u64 },
    /// The stream's log has what it wants.
    Join(Missing),
    /// Another message stands at its cursor's sequence.
    Reset(Missing),
    /// It has replayed as much as one client may.
    Limit(Missing),
}

/// All passes over one stream.
#[derive(Debug)]
pub(super) struct Replay {
    reader: Reader,
    bounds: Bounds,
    passes: Vec<Pass>,
    waiting: Vec<Missing>,
}

#[derive(Debug)]
struct Pass {
    log: Log,
    filled: mpsc::Receiver<pass::Filled>,
    /// Nothing more will be read: the stream has nothing behind the head.
    exhausted: bool,
    /// Its reader has ended before that: another pass is needed.
    broken: bool,
    members: HashMap<(usize, Ticket), Member>,
    /// When somebody last needed it.
    needed: Instant,
}

/// A client that takes its pieces from a pass.
#[derive(Debug)]
struct Member {
    /// Gone when the client is.
    grant: Weak<Grant>,
    at: u64,
    replayed: u64,
    /// When it last got a piece.
    since: Instant,
}

impl Replay {
    pub(super) fn new(reader: Reader, bounds: Bounds) -> Self {
        Self { reader, bounds, passes: Vec::new(), waiting: Vec::new() }
    }

    /// Why messages of the stream can be gone, as last seen.
    pub(super) fn removed_by(&mut self, reason: GapReason) {
        self.reader.removed = reason;
    }

    /// One more client waits.
    pub(super) fn add(&mut self, missing: Missing) {
        self.waiting.push(missing);
    }

    /// Forgets all passes, when another log has begun. Gives the clients that waited.
    pub(super) fn clear(&mut self) -> Vec<Missing> {
        self.passes.clear();
        std::mem::take(&mut self.waiting)
    }

    /// Ready when a pass has something new. `log` is the stream's.
    pub(super) fn poll_filled(&mut self, log: Option<&Log>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(log) = log else { return Poll::Pending };
        let mut filled = false;
        for pass in &mut self.passes {
            while pass.wants_more(log) {
                match pass.filled.poll_recv(cx) {
                    Poll::Ready(Some(batch)) => pass.append(batch, log, &self.reader),
                    Poll::Ready(None) => pass.broken = true,
                    Poll::Pending => break,
                }
                filled = true;
            }
        }
        if filled { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Serves whoever can be served now. With `settled`, no further request is at hand: then passes begin for those whom no
    /// pass covers, at the oldest of them.
    pub(super) fn step(&mut self, log: &Log, settled: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        for missing in std::mem::take(&mut self.waiting) {
            // Only this list still holds the grant of a client that has gone.
            if Arc::strong_count(&missing.grant) > 1 {
                self.serve(missing, log, &mut actions);
            }
        }
        self.tidy(log);
        if settled {
            self.begin_pass(log);
        }
        actions
    }

    /// Passes let go of what their clients have had, and end when they have none. Where others wait for a pass, or a pass is
    /// full, a client that does not come for its next piece holds nobody up: it waits for another pass.
    fn tidy(&mut self, log: &Log) {
        let asking: HashSet<(usize, Ticket)> = self.waiting.iter().map(|m| (m.shard, m.ticket)).collect();
        let crowded = self.passes.len() >= PASSES_MAX && self.oldest_uncovered(log).is_some();
        for pass in &mut self.passes {
            pass.members.retain(|_, member| member.grant.strong_count() > 0);
            pass.release();
            if crowded || pass.log.bytes() >= PASS_BYTES {
                pass.members.retain(|key, member| member.since.elapsed() < LAGGARD || asking.contains(key));
                pass.release();
            }
            // It has ended at the stream's end of then, and the stream's log has moved past that since.
            pass.broken |= pass.exhausted && pass.log.head().seq < log.base().seq;
        }
        let (waiting, now) = (&self.waiting, Instant::now());
        self.passes.retain_mut(|pass| {
            if !pass.members.is_empty() || waiting.iter().any(|m| pass.covers(m.from)) {
                pass.needed = now;
            }
            !pass.broken && (pass.needed == now || !crowded && now < pass.needed + LINGER)
        });
    }

    fn oldest_uncovered(&self, log: &Log) -> Option<u64> {
        let covered = |from: MissingFrom| self.passes.iter().any(|pass| pass.covers(from));
        let old = self.waiting.iter().map(|m| m.from).filter(|from| from.seq() < log.base().seq);
        old.filter(|from| !covered(*from)).map(MissingFrom::seq).min()
    }

    fn serve(&mut self, mut missing: Missing, log: &Log, actions: &mut Vec<Action>) {
        let seq = missing.from.seq();
        if missing.is_ahead(log) {
            return self.waiting.push(missing);
        }
        if seq >= log.base().seq {
            self.leave(missing.shard, missing.ticket);
            return actions.push(Action::Join(missing));
        }
        let key = (missing.shard, missing.ticket);
        let Some(place) = self.passes.iter().position(|pass| pass.covers(missing.from)) else {
            return self.waiting.push(missing);
        };
        let members: usize = self.passes.iter().map(|pass| pass.members.len()).sum();
        if members >= self.bounds.clients && !self.passes.iter().any(|pass| pass.members.contains_key(&key)) {
            return self.waiting.push(missing);
        }
        // In one pass at a time: in another it would hold everybody up for ever, because it keeps asking.
        for other in self.passes.iter_mut().enumerate().filter_map(|(at, pass)| (at != place).then_some(pass)) {
            other.members.remove(&key);
        }
        let pass = &mut self.passes[place];
        match pass.serve(&missing, self.bounds, log.base().seq) {
            Serve::Wait(at) => {
                if let MissingFrom::After(after) = &mut missing.from {
                    *after = at;
                }
                let joins = at >= log.base().seq && matches!(missing.from, MissingFrom::After(_));
                if joins && !missing.is_ahead(log) {
                    self.leave(missing.shard, missing.ticket);
                    return actions.push(Action::Join(missing));
                }
                self.waiting.push(missing);
            }
            Serve::Piece { proven, events, upto } => actions.push(Action::Piece { missing, proven, events, upto }),
            Serve::Reset => {
                self.leave(missing.shard, missing.ticket);
                actions.push(Action::Reset(missing));
            }
            Serve::Limit => {
                self.leave(missing.shard, missing.ticket);
                actions.push(Action::Limit(missing));
            }
        }
    }

    /// A client takes no more pieces from a pass.
    pub(super) fn leave(&mut self, shard: usize, ticket: Ticket) {
        for pass in &mut self.passes {
            pass.members.remove(&(shard, ticket));
        }
    }

    fn begin_pass(&mut self, log: &Log) {
        if self.passes.len() >= PASSES_MAX {
            return;
        }
        let Some(oldest) = self.oldest_uncovered(log) else { return };
        // The message at the cursor is read too: it proves the cursor.
        let from = oldest.max(1);
        let base = Position { seq: from - 1, time: 0 };
        tracing::debug!(from, until = log.base().seq, "Replay begins");
        self.passes.push(Pass {
            log: Log::new(log.epoch(), base, usize::MAX),
            filled: self.reader.start(log.epoch(), from),
            exhausted: false,
            broken: false,
            members: HashMap::new(),
            needed: Instant::now(),
        });
    }
}

enum Serve {
    Piece {
        proven: Option<Cursor>,
        events: Vec<Arc<Event>>,
        upto: u64,
    },
    /// Nothing for it up to here; more is on its way.
    Wait(u64),
    Reset,
    Limit,
}

impl Pass {
    /// Whether everything that is wanted lies in what this pass holds or will read; for a cursor, its own message too,
    /// which proves it. Sequence 0 is before every message and needs no proof. A full pass covers only what it holds: it
    /// cannot be said when it will read on.
    fn covers(&self, from: MissingFrom) -> bool {
        let (base, seq) = (self.log.base(), from.seq());
        if seq >= self.log.head().seq && self.log.bytes() >= PASS_BYTES {
            return false;
        }
        match from {
            MissingFrom::Cursor(_) => seq > base.seq || (seq == base.seq && (seq == 0 || base.time != 0)),
            MissingFrom::After(_) => seq >= base.seq,
        }
    }

    /// Until it meets the stream's log, and while its clients keep up.
    fn wants_more(&self, log: &Log) -> bool {
        !self.exhausted && !self.broken && self.log.head().seq < log.base().seq && self.log.bytes() < PASS_BYTES
    }

    fn append(&mut self, filled: pass::Filled, log: &Log, reader: &Reader) {
        for event in filled.events {
            self.declare_removed(event.at.seq - 1, reader);
            self.log.append(event);
        }
        if let Some(last) = filled.end {
            self.exhausted = true;
            self.declare_removed(last.min(log.base().seq), reader);
        }
    }

    /// Sequences that the stream has no message for any more are a hole that everybody is told of.
    fn declare_removed(&mut self, upto: u64, reader: &Reader) {
        let head = self.log.head();
        if upto > head.seq {
            let at = Position { seq: upto, time: 0 };
            self.log.append(reader.encoder.removed(head.seq, self.log.cursor(at), reader.removed));
        }
    }

    /// `held` is the base of the stream's log: what is behind it is replayed by nobody.
    fn serve(&mut self, missing: &Missing, bounds: Bounds, held: u64) -> Serve {
        let seq = missing.from.seq();
        let mut proven = None;
        if let MissingFrom::Cursor(cursor) = missing.from {
            // What follows directly decides whether the stream opens with a gap.
            if self.log.head().seq <= seq && !self.exhausted {
                return Serve::Wait(seq);
            }
            match self.log.at(seq) {
                Held::Beyond => return Serve::Wait(seq),
                Held::Event(held) | Held::Base(held)
                    if held.time != 0 && cursor.at.time != 0 && held.time != cursor.at.time =>
                {
                    return Serve::Reset;
                }
                _ => proven = Some(cursor),
            }
        }
        let left = bounds.events - self.member(missing).replayed;
        let events = bounds.piece.events.min(usize::try_from(left).unwrap_or(usize::MAX));
        let selection = self.log.select(seq, missing.grant.stream(), PieceSize { events, ..bounds.piece });
        if left == 0 {
            // At least one is selected if there is one. Exactly as many as it may replay are no gap.
            let next = selection.events.first().map_or(u64::MAX, |event| event.at.seq);
            if next <= held {
                return Serve::Limit;
            }
            let at = selection.upto.min(held);
            self.member(missing).at = at;
            return Serve::Wait(at);
        }
        let member = self.member(missing);
        member.at = selection.upto;
        if selection.events.is_empty() && proven.is_none() {
            return Serve::Wait(selection.upto);
        }
        member.since = Instant::now();
        member.replayed += selection.events.len() as u64;
        Serve::Piece { proven, events: selection.events, upto: selection.upto }
    }

    fn member(&mut self, missing: &Missing) -> &mut Member {
        let new = || Member {
            grant: Arc::downgrade(&missing.grant),
            at: missing.from.seq(),
            replayed: 0,
            since: Instant::now(),
        };
        self.members.entry((missing.shard, missing.ticket)).or_insert_with(new)
    }

    /// Lets go of what everybody has had, where a full pass needs room to read on; before that it is there for those who come
    /// later with as old a cursor. The message at a client's own position is kept: it proves the cursors there.
    fn release(&mut self) {
        let slowest = self.members.values().map(|member| member.at).min();
        self.log.release(slowest.unwrap_or(0).saturating_sub(1), KEPT_BYTES);
    }
}

/// Why an older message is gone from a stream: what limits it, or somebody removed it.
pub(super) fn removal_reason(config: &super::api::StreamConfig) -> GapReason {
    let limited = config.max_age > 0 || config.max_bytes > 0 || config.max_msgs > 0 || config.max_msgs_per_subject > 0;
    if limited { GapReason::Retention } else { GapReason::Purged }
}
