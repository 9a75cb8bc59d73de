//! Older than memory: what clients missed is read from the stream once for all of them, never once per client.
//!
//! A [`Pass`] reads a range of the stream forwards into a small log of its own, from the oldest cursor that waits until it
//! meets the stream's log. Clients take their pieces from it at their own pace; when it is full it lets go of the oldest and
//! reads on as the slowest of them moves, and a client that holds everybody up waits for another pass. It stays a little
//! longer than it is needed, because those who lost their connections together do not come back in the same instant. So memory is bounded by the passes, reads by the
//! range, and exactness is the log's own. Reading NATS is [`crate::feed::pass`]'s business, sending pieces the ledger's.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::cursor::{Cursor, Position};
use crate::event::{Cause, Event};
use crate::feed::encode::Encoder;
use crate::feed::removal::Stock;
use crate::link::Ticket;
use crate::log::{Held, Log, PieceSize};
use crate::resume::{self, Verdict};
use crate::route::Grant;

/// Passes at the same time over one stream.
const PASSES_MAX: usize = 2;
/// A client that has not come for its next piece for this long does not hold a full pass up.
const LAGGARD: Duration = Duration::from_secs(1);
/// Sequences before the oldest cursor that a pass reads too.
const NEIGHBOURS: u64 = 4;
/// How long a pass that nobody takes from is kept for those who come next: a storm takes a second or two.
const LINGER: Duration = Duration::from_secs(2);

/// Bounds of replaying.
#[derive(Debug, Clone, Copy)]
pub(in crate::feed) struct Bounds {
    /// Events one client may replay.
    pub(in crate::feed) events: u64,
    /// Clients that are served from passes at the same time; others wait.
    pub(in crate::feed) clients: usize,
    /// What one client gets at a time.
    pub(in crate::feed) piece: PieceSize,
    /// What one pass holds before it waits for its clients, in bytes.
    pub(in crate::feed) pass_bytes: usize,
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
    fn key(&self) -> (usize, Ticket) {
        (self.shard, self.ticket)
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
    /// It is told of a gap and goes on elsewhere.
    Verdict(Missing, Verdict),
    /// A pass begins: the stream is to be read from here.
    Read { pass: PassId, from: u64 },
}

/// A pass, among all of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::feed) struct PassId(u64);

/// Events in stream order; with `end`, the stream had nothing behind them up to this, its last sequence then.
#[derive(Debug, Default)]
pub(in crate::feed) struct Filled {
    pub(in crate::feed) events: Vec<Arc<Event>>,
    pub(in crate::feed) end: Option<u64>,
    /// How full the stream was when its leader was asked, if it was since the last.
    pub(in crate::feed) stock: Option<Stock>,
}

/// All passes over one stream.
#[derive(Debug)]
pub(super) struct Replay {
    bounds: Bounds,
    passes: Vec<Pass>,
    waiting: Vec<Missing>,
    /// Clients that have been given pieces, until they have joined or gone.
    members: HashMap<(usize, Ticket), Member>,
    /// How many of them have a pass.
    served: usize,
    /// Somebody waits for a place: whoever comes now stands behind.
    queue: bool,
    /// What has happened since everybody who waits was last looked at: events read, clients served.
    news: usize,
    /// Passes begun so far.
    begun: u64,
}

#[derive(Debug)]
struct Pass {
    id: PassId,
    log: Log,
    /// What it holds at most, but for the last batch.
    bytes_max: usize,
    /// Nothing more will be read: the stream has nothing behind the head.
    exhausted: bool,
    /// Its reader has ended before that: another pass is needed.
    broken: bool,
    /// When somebody last needed it.
    needed: Instant,
}

/// A client that is given pieces.
#[derive(Debug)]
struct Member {
    /// Gone when the client is.
    grant: Weak<Grant>,
    /// The pass that holds what it is to get next. Without one it has no place among [`Bounds::clients`].
    pass: Option<PassId>,
    at: u64,
    replayed: u64,
    /// When it last got a piece.
    since: Instant,
}

impl Replay {
    pub(super) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            passes: Vec::new(),
            waiting: Vec::new(),
            members: HashMap::new(),
            served: 0,
            queue: false,
            news: 0,
            begun: 0,
        }
    }

    /// How many there are.
    pub(super) fn passes(&self) -> usize {
        self.passes.len()
    }

    /// How much more the stream's log is to hold meanwhile, in bytes: clients that come to the end of a pass shall find what
    /// follows there.
    pub(super) fn pins(&self) -> usize {
        if self.passes.is_empty() { 0 } else { self.bounds.pass_bytes / 4 }
    }

    /// Ends all passes, when another consumer is read: what they have read beside the one before is proven by nothing.
    pub(super) fn end_passes(&mut self) {
        self.passes.clear();
        self.members.values_mut().for_each(|member| member.pass = None);
        self.served = 0;
    }

    /// Forgets all passes and clients, when another log has begun. Gives the clients that waited.
    pub(super) fn clear(&mut self) -> Vec<Missing> {
        self.end_passes();
        self.members.clear();
        std::mem::take(&mut self.waiting)
    }

    fn pass(&self, id: PassId) -> Option<&Pass> {
        self.passes.iter().find(|pass| pass.id == id)
    }

    /// Whether a pass is still wanted.
    pub(super) fn has(&self, id: PassId) -> bool {
        self.pass(id).is_some()
    }

    /// Whether a pass takes more now. `log` is the stream's.
    pub(super) fn takes(&self, id: PassId, log: &Log) -> bool {
        self.pass(id).is_some_and(|pass| pass.wants_more(log))
    }

    /// A pass has been read further; with `None`, its reader has given up. Sequences that the stream has no message for are
    /// holes, and `removed` says what they can come from.
    pub(super) fn filled(
        &mut self,
        id: PassId,
        filled: Option<Filled>,
        log: &Log,
        encoder: &Encoder,
        removed: impl Fn(u64) -> Cause,
    ) {
        let Some(pass) = self.passes.iter_mut().find(|pass| pass.id == id) else { return };
        match filled {
            Some(filled) => {
                // At the end there is nothing more to wait for.
                self.news += if filled.end.is_some() { self.waiting.len() } else { filled.events.len() };
                pass.append(filled, log, |before, id| encoder.removed(before, id, removed(id.at.seq)));
            }
            None => {
                self.news += self.waiting.len();
                pass.broken = true;
            }
        }
    }

    /// Whether so much has happened that looking at everybody who waits is worth it: a storm of clients that each want little
    /// of a large range must not be gone through for every pull and for every one of them.
    pub(super) fn is_worth_a_step(&self) -> bool {
        self.news >= self.waiting.len()
    }

    /// Serves whoever can be served now. With `settled`, no further request is at hand: then passes begin for those whom no
    /// pass covers, at the oldest of them.
    pub(super) fn step(&mut self, log: &Log, now: Instant, settled: bool) -> Vec<Action> {
        let mut actions = Vec::new();
        self.members.retain(|_, member| member.grant.strong_count() > 0);
        self.served = self.members.values().filter(|member| member.pass.is_some()).count();
        self.serve_waiting(log, now, &mut actions);
        self.tidy(log, now);
        if self.queue && self.served < self.bounds.clients {
            // Places have been given up.
            self.serve_waiting(log, now, &mut actions);
        }
        self.news = 0;
        if settled {
            actions.extend(self.begin_pass(log, now));
        }
        actions
    }

    /// In the order in which they have come.
    fn serve_waiting(&mut self, log: &Log, now: Instant, actions: &mut Vec<Action>) {
        self.queue = false;
        for missing in std::mem::take(&mut self.waiting) {
            // Only this list still holds the grant of a client that has gone.
            if Arc::strong_count(&missing.grant) > 1 {
                self.serve(missing, log, now, actions);
            }
        }
        let full = self.served >= self.bounds.clients;
        self.queue = full && self.waiting.iter().any(|missing| self.own_pass(missing).is_none());
    }

    /// Passes let go of what their clients have had, and end when they have none. Where others wait for a pass, or a pass is
    /// full, a client that does not come for its next piece holds nobody up: it waits for another pass.
    fn tidy(&mut self, log: &Log, now: Instant) {
        let asking: HashSet<(usize, Ticket)> = self.waiting.iter().map(Missing::key).collect();
        let crowded = self.passes.len() >= PASSES_MAX && self.oldest_uncovered(log).is_some();
        for pass in &mut self.passes {
            // It has ended at the stream's end of then, and the stream's log has moved past that since.
            pass.broken |= pass.exhausted && pass.log.head().seq < log.base().seq;
            // Whom a client that does not come for its next piece would hold up: who needs another pass, a place, or what a full
            // pass can only read when it has let go of something.
            let asks = |key: &(usize, Ticket), member: &Member| member.pass == Some(pass.id) && asking.contains(key);
            let hurried =
                crowded || self.queue || (pass.is_full() && self.members.iter().any(|(key, member)| asks(key, member)));
            let mut slowest = None;
            for (key, member) in self.members.iter_mut().filter(|(_, member)| member.pass == Some(pass.id)) {
                if pass.broken || (hurried && now >= member.since + LAGGARD && !asking.contains(key)) {
                    self.served -= usize::from(member.pass.take().is_some());
                } else {
                    slowest = Some(slowest.map_or(member.at, |at: u64| at.min(member.at)));
                }
            }
            pass.release(slowest.unwrap_or(0));
            if slowest.is_some() || self.waiting.iter().any(|missing| pass.covers(missing.from)) {
                pass.needed = now;
            }
            pass.broken |= pass.needed != now && (crowded || now >= pass.needed + LINGER);
        }
        self.passes.retain(|pass| !pass.broken);
    }

    fn oldest_uncovered(&self, log: &Log) -> Option<u64> {
        let old = self.waiting.iter().filter(|missing| missing.from.seq() < log.base().seq);
        old.filter(|missing| self.pass_for(missing).is_none()).map(|missing| missing.from.seq()).min()
    }

    /// Serves one, or lets it wait.
    pub(super) fn serve(&mut self, mut missing: Missing, log: &Log, now: Instant, actions: &mut Vec<Action>) {
        self.news += 1;
        let seq = missing.from.seq();
        if seq >= log.base().seq {
            self.leave(missing.shard, missing.ticket);
            return actions.push(Action::Join(missing));
        }
        let Some(place) = self.place_for(&missing) else { return self.waiting.push(missing) };
        let pass = &mut self.passes[place];
        let new = Member { grant: Arc::downgrade(&missing.grant), pass: None, at: seq, replayed: 0, since: now };
        let member = self.members.entry(missing.key()).or_insert(new);
        self.served += usize::from(member.pass.replace(pass.id).is_none());
        match pass.serve(&missing, member, self.bounds, log.base().seq, now) {
            Serve::Wait(at) => {
                if let MissingFrom::After(after) = &mut missing.from {
                    *after = at;
                }
                if at >= log.base().seq && matches!(missing.from, MissingFrom::After(_)) {
                    self.leave(missing.shard, missing.ticket);
                    return actions.push(Action::Join(missing));
                }
                self.waiting.push(missing);
            }
            Serve::Piece { proven, events, upto } => actions.push(Action::Piece { missing, proven, events, upto }),
            Serve::Reset(verdict) => {
                self.leave(missing.shard, missing.ticket);
                actions.push(Action::Verdict(missing, verdict));
            }
            Serve::Limit => {
                self.leave(missing.shard, missing.ticket);
                actions.push(Action::Verdict(missing, resume::limited(log, seq)));
            }
        }
    }

    fn own_pass(&self, missing: &Missing) -> Option<PassId> {
        self.members.get(&missing.key()).and_then(|member| member.pass)
    }

    /// The pass that has what a client wants, or will: the one it takes its pieces from already, if that is so.
    fn pass_for(&self, missing: &Missing) -> Option<usize> {
        let own = self.own_pass(missing);
        let goes_on = |pass: &Pass| Some(pass.id) == own && pass.reaches(missing.from);
        let place = self.passes.iter().position(goes_on);
        place.or_else(|| self.passes.iter().position(|pass| pass.covers(missing.from)))
    }

    /// The same; none also when as many as may are being served.
    fn place_for(&self, missing: &Missing) -> Option<usize> {
        let full = (self.queue || self.served >= self.bounds.clients) && self.own_pass(missing).is_none();
        if full { None } else { self.pass_for(missing) }
    }

    /// A client takes no more pieces from a pass.
    pub(super) fn leave(&mut self, shard: usize, ticket: Ticket) {
        let member = self.members.remove(&(shard, ticket));
        self.served -= usize::from(member.is_some_and(|member| member.pass.is_some()));
    }

    fn begin_pass(&mut self, log: &Log, now: Instant) -> Option<Action> {
        if self.passes.len() >= PASSES_MAX {
            return None;
        }
        let oldest = self.oldest_uncovered(log)?;
        // The message at the cursor is read too: it proves the cursor, and if it is gone those before it do.
        let from = oldest.saturating_sub(NEIGHBOURS).max(1);
        let base = Position { seq: from - 1, time: 0 };
        tracing::debug!(from, until = log.base().seq, "Replay begins");
        let id = PassId(self.begun);
        self.begun += 1;
        let bytes_max = self.bounds.pass_bytes;
        let log = Log::new(log.epoch(), base, usize::MAX);
        self.passes.push(Pass { id, log, bytes_max, exhausted: false, broken: false, needed: now });
        Some(Action::Read { pass: id, from })
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
    /// Another message stands at its cursor's sequence.
    Reset(Verdict),
    /// It has replayed as much as one client may.
    Limit,
}

impl Pass {
    /// Whether it has what is wanted or will read it soon. A full pass has only what it holds: when it reads on is up to its
    /// own clients.
    fn covers(&self, from: MissingFrom) -> bool {
        self.reaches(from) && (from.seq() < self.log.head().seq || !self.is_full())
    }

    /// Whether everything that is wanted lies in what this pass holds or may still read; for a cursor, its own message too,
    /// which proves it. Sequence 0 is before every message and needs no proof.
    fn reaches(&self, from: MissingFrom) -> bool {
        let (base, seq) = (self.log.base(), from.seq());
        match from {
            MissingFrom::Cursor(_) => seq > base.seq || (seq == base.seq && (seq == 0 || base.time != 0)),
            MissingFrom::After(_) => seq >= base.seq,
        }
    }

    /// Lets go of what everybody has had, where a full pass needs room to read on: a twelfth. Before that it is there for those
    /// who come later with as old a cursor. The message at a client's own position is kept: it proves the cursors there.
    fn release(&mut self, slowest: u64) {
        self.log.release(slowest.saturating_sub(1), self.bytes_max - self.bytes_max / 12);
    }

    fn is_full(&self) -> bool {
        self.log.bytes() >= self.bytes_max
    }

    /// Until it meets the stream's log, and while its clients keep up.
    fn wants_more(&self, log: &Log) -> bool {
        !self.exhausted && !self.broken && self.log.head().seq < log.base().seq && !self.is_full()
    }

    /// Nothing above the head of the stream's log is taken: only up to there the consumer proves that the stream has not
    /// become another one meanwhile.
    fn append(&mut self, filled: Filled, log: &Log, hole: impl Fn(Position, Cursor) -> Arc<Event>) {
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

    /// `held` is the base of the stream's log: what is behind it is replayed by nobody.
    fn serve(&self, missing: &Missing, member: &mut Member, bounds: Bounds, held: u64, now: Instant) -> Serve {
        let seq = missing.from.seq();
        let mut proven = None;
        if let MissingFrom::Cursor(cursor) = missing.from {
            // What follows directly decides whether the stream opens with a gap.
            if self.log.head().seq <= seq && !self.exhausted {
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
        let left = bounds.events - member.replayed;
        let events = bounds.piece.events.min(usize::try_from(left).unwrap_or(usize::MAX));
        let selection = self.log.select(seq, missing.grant.stream(), PieceSize { events, ..bounds.piece });
        if left == 0 {
            // At least one is selected if there is one. Exactly as many as it may replay are no gap.
            let next = selection.events.first().map_or(u64::MAX, |event| event.at.seq);
            if next <= held {
                return Serve::Limit;
            }
            member.at = selection.upto.min(held);
            return Serve::Wait(member.at);
        }
        member.at = selection.upto;
        if selection.events.is_empty() && proven.is_none() {
            return Serve::Wait(selection.upto);
        }
        member.since = now;
        member.replayed += selection.events.len() as u64;
        Serve::Piece { proven, events: selection.events, upto: selection.upto }
    }
}
