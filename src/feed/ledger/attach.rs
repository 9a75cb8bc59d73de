//! Attaching clients to a stream: by its log, by a pass over what is older, or by a declared gap.
//!
//! What a client is given and what it is registered for are decided in one step: that is why replay and live have no seam.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::replay::{Action, Missing, MissingFrom};
use super::{Ledger, Output};
use crate::cursor::{Cursor, LastEventId, Position};
use crate::event::Event;
use crate::feed::look::Looked;
use crate::feed::start::{self, Known, LEADER_PATIENCE, Start};
use crate::frame::notice::{self, Gap, GapReason, Resume};
use crate::link::{self, Piece, StreamRequest, Ticket};
use crate::resume::{self, Verdict};
use crate::route::Grant;

/// How long a client waits for a consumer that is lost to be opened again. After a store has gone back, another sidecar may
/// have told it of that already; what we hold is then of a life that is over.
const READING_PATIENCE: Duration = Duration::from_secs(1);

/// A client that connects.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) shard: usize,
    pub(super) ticket: Ticket,
    pub(super) grant: Arc<Grant>,
    pub(super) last: LastEventId,
    pub(super) since: Instant,
    /// Whether the stream's leader knows better than the cursor, once it has been asked.
    refuted: Option<bool>,
}

impl Waiting {
    fn new(missing: Missing, now: Instant) -> Self {
        let last = match missing.from {
            MissingFrom::Cursor(cursor) => LastEventId::Cursor(cursor),
            // Its stream is open: the id of `connected` does not matter any more.
            MissingFrom::After(_) => LastEventId::Unknown,
        };
        let Missing { shard, ticket, grant, .. } = missing;
        Self { shard, ticket, grant, last, since: now, refuted: None }
    }

    /// Only this still holds the grant of a client that has gone.
    pub(super) fn is_gone(&self) -> bool {
        Arc::strong_count(&self.grant) == 1
    }

    /// The id of `sidestream.connected` where a gap follows: the old cursor stays in force until that has been told.
    pub(super) fn id_before_gap(&self) -> String {
        match self.last {
            LastEventId::Cursor(cursor) => cursor.to_string(),
            LastEventId::Absent | LastEventId::Unknown => "unknown".to_owned(),
        }
    }

    /// The place within what is held that its cursor says is empty.
    fn hole(&self, known: &Known) -> Option<u64> {
        let LastEventId::Cursor(cursor) = self.last else { return None };
        let Position { seq, time } = cursor.at;
        (cursor.epoch == known.epoch && time == 0 && seq > 0 && seq <= known.head.seq).then_some(seq)
    }

    /// Whether a look, at which the stream still was what is held, shows that the cursor does not fit the stream: that was
    /// asked after it came, and the stream has not even got to it.
    fn judged_by(&self, looked: &Looked) -> Option<bool> {
        let LastEventId::Cursor(cursor) = self.last else { return Some(true) };
        let ours = cursor.epoch == looked.seen.epoch;
        if ours && cursor.at.seq > looked.known.head.seq {
            let patience = if looked.seen.replicated { LEADER_PATIENCE } else { Duration::ZERO };
            let judged = looked.asked >= self.since + patience && cursor.at.seq > looked.seen.last_seq;
            return judged.then_some(true);
        }
        let (place, stands) = looked.at;
        let refuted = if ours && cursor.at.time == 0 { (place == cursor.at.seq).then_some(stands) } else { Some(true) };
        refuted.filter(|_| looked.asked >= self.since)
    }
}

impl Ledger {
    /// A shard asks. `settled`: no further request is at hand.
    pub(in crate::feed) fn request(&mut self, request: StreamRequest, now: Instant, settled: bool) {
        if !self.warm {
            return self.early.push_back(request);
        }
        let request = match request {
            StreamRequest::Attach {
                shard,
                ticket,
                grant,
                from: link::From::LastEventId(last @ LastEventId::Cursor(_)),
            } if !self.reading => {
                return self.held.push(Waiting { shard, ticket, grant, last, since: now, refuted: None });
            }
            request => request,
        };
        self.serve(request, now);
        if settled {
            self.step_replay(now, settled);
        }
    }

    /// Serves one of those who waited for the log to be warm or to reach their cursor; false when nobody is left. One at a
    /// time, so that what is to be done for one is done before the next.
    pub(in crate::feed) fn next_turn(&mut self, now: Instant, settled: bool) -> bool {
        if !self.warm {
            return false;
        }
        if let Some(client) = self.settling.pop() {
            if !client.is_gone() {
                self.attach(client, now);
            }
        } else if let Some(request) = self.early.pop_front() {
            self.serve(request, now);
        } else if !self.next_value_turn(now) {
            return false;
        }
        if self.settling.is_empty() && self.early.is_empty() {
            self.step_replay(now, settled);
        }
        true
    }

    /// There are new events, or another log: who waited for them takes turns.
    pub(in crate::feed) fn advanced(&mut self, now: Instant, settled: bool) {
        self.settle();
        self.values_advanced();
        if self.warm {
            self.step_replay(now, settled);
        }
    }

    /// Who came while no consumer was read has waited long enough: NATS may be away for longer, and is then served from what is
    /// held. Clients that have gone are forgotten.
    pub(super) fn let_go(&mut self, now: Instant) {
        let is_there = |client: &Waiting| !client.is_gone();
        self.doubtful.retain(is_there);
        self.held.retain(is_there);
        if self.warm {
            let patient = |client: &mut Waiting| now >= client.since + READING_PATIENCE;
            self.settling.extend(self.held.extract_if(.., patient));
        }
    }

    /// Doubtful clients whose cursor the log has reached are served.
    pub(super) fn settle(&mut self) {
        let Some(log) = self.log.as_ref().filter(|_| self.warm) else { return };
        if self.doubtful.is_empty() {
            return;
        }
        let (epoch, head) = (log.epoch(), log.head().seq);
        let reached = |client: &Waiting| match client.last {
            LastEventId::Cursor(cursor) => cursor.epoch == epoch && cursor.at.seq <= head,
            LastEventId::Absent | LastEventId::Unknown => true,
        };
        let (reached, doubtful) = std::mem::take(&mut self.doubtful).into_iter().partition(reached);
        self.doubtful = doubtful;
        let reached: Vec<Waiting> = reached;
        self.settling.extend(reached);
    }

    /// Orders a look for those who are in doubt.
    pub(super) fn look(&mut self) {
        let Some(known) = self.known().filter(|_| !self.doubtful.is_empty() && self.looking.is_none()) else { return };
        self.looking = Some(self.logs);
        let at = self.doubtful.iter().find_map(|client| client.hole(&known)).unwrap_or(0);
        self.outputs.push_back(Output::Look { known, at });
    }

    /// The answer to a look; `None` when there was none. False when the stream is another one than what is held.
    pub(in crate::feed) fn looked(&mut self, looked: Option<Looked>) -> bool {
        let of = self.looking.take();
        // Whoever ordered it.
        if let Some(looked) = looked.filter(|looked| Some(looked.seen.epoch) == self.epoch()) {
            self.stock = Some(looked.stock);
        }
        let Some(looked) = looked.filter(|_| of == Some(self.logs)) else { return true };
        if start::decide(Some(looked.known), looked.seen) != Start::Continued {
            return false;
        }
        for mut client in std::mem::take(&mut self.doubtful) {
            client.refuted = client.judged_by(&looked);
            if client.refuted.is_some() { &mut self.settling } else { &mut self.doubtful }.push(client);
        }
        // Who is in doubt over another place is next. The others wait for the head, or for the next tick.
        let unasked = |client: &Waiting| client.hole(&looked.known).is_some_and(|at| at != looked.at.0);
        if self.doubtful.iter().any(|client| client.since > looked.asked || unasked(client)) {
            self.look();
        }
        true
    }

    fn serve(&mut self, request: StreamRequest, now: Instant) {
        match request {
            StreamRequest::Detach { shard, grant } => self.outputs.push_back(Output::Left { shard, grant }),
            // Only the request itself still holds the grant: the client has gone.
            StreamRequest::Attach { grant, .. } if Arc::strong_count(&grant) == 1 => {}
            StreamRequest::Attach { shard, ticket, grant, from: link::From::LastEventId(last) } => {
                self.attach(Waiting { shard, ticket, grant, last, since: now, refuted: None }, now);
            }
            StreamRequest::Attach { shard, ticket, grant, from: link::From::Sequence { log, after } } => {
                self.go_on(shard, ticket, &grant, log, after, now);
            }
        }
    }

    fn attach(&mut self, mut client: Waiting, now: Instant) {
        let Some(log) = &self.log else { return };
        if client.grant.last_values() && client.last.is_before_everything() {
            client.last = LastEventId::Absent;
        }
        let verdict = match (resume::decide(client.last, log), client.last) {
            (Verdict::Ahead | Verdict::Gap { gap: Gap { reason: GapReason::Reset, .. }, .. }, _)
                if client.refuted.is_none() =>
            {
                self.doubtful.push(client);
                return self.look();
            }
            // Nothing stands where nothing should.
            (Verdict::Gap { gap: Gap { reason: GapReason::Reset, .. }, .. }, LastEventId::Cursor(cursor))
                if client.refuted == Some(false) =>
            {
                Verdict::Exact(cursor.at)
            }
            (Verdict::Ahead, LastEventId::Cursor(cursor)) => resume::rolled_back(log, cursor),
            (Verdict::Behind(cursor), _) => {
                let Waiting { shard, ticket, grant, .. } = client;
                return self.replay(Missing { shard, ticket, grant, from: MissingFrom::Cursor(cursor) }, now);
            }
            (verdict, _) => verdict,
        };
        self.open_client(client, verdict, now);
    }

    /// Opens a client's stream by a verdict.
    fn open_client(&mut self, client: Waiting, verdict: Verdict, now: Instant) {
        let Some(log) = &self.log else { return };
        match verdict {
            Verdict::New if client.grant.last_values() => return self.begin_with_values(client, None, now),
            Verdict::Gap { gap, .. } if client.grant.last_values() => {
                return self.begin_with_values(client, Some(gap), now);
            }
            _ => {}
        }
        let own = |at: Position| log.cursor(at).to_string();
        let (from, opening) = match verdict {
            Verdict::New | Verdict::Ahead | Verdict::Behind(_) => {
                (log.head(), link::Opening { resume: Resume::New, id: own(log.head()), gap: None })
            }
            Verdict::Exact(at) => (at, link::Opening { resume: Resume::Exact, id: own(at), gap: None }),
            Verdict::Gap { gap, from } => {
                self.settings.encoder.metrics.gap(gap.reason);
                let frame = notice::gap(self.name(), gap, Some(log.cursor(from)));
                (from, link::Opening { resume: Resume::Gap, id: client.id_before_gap(), gap: Some(frame) })
            }
        };
        self.answer(client.shard, client.ticket, &client.grant, from, Some(opening));
    }

    /// Serves whom the log cannot: everybody who can be served now.
    pub(super) fn step_replay(&mut self, now: Instant, settled: bool) {
        let Some(log) = &self.log else { return };
        let actions = self.replay.step(log, now, settled);
        self.act(actions, now);
    }

    /// A second has passed.
    pub(super) fn tick_replay(&mut self, now: Instant) {
        let Some(log) = &self.log else { return };
        let actions = self.replay.tick(log, now);
        self.act(actions, now);
    }

    /// The same for one client; who cannot be served waits.
    fn replay(&mut self, missing: Missing, now: Instant) {
        let Some(log) = &self.log else { return };
        let mut actions = Vec::new();
        self.replay.serve(missing, log, now, &mut actions);
        self.act(actions, now);
    }

    fn act(&mut self, actions: Vec<Action>, now: Instant) {
        for action in actions {
            match action {
                Action::Piece { missing, proven, events, upto } => self.give_piece(missing, proven, events, upto),
                Action::Join(missing) => self.join(missing, now),
                Action::Verdict(missing, verdict) => self.open_client(Waiting::new(missing, now), verdict, now),
                Action::Read { pass, from } => {
                    let Some(log) = &self.log else { return };
                    self.outputs.push_back(Output::Read { pass, epoch: log.epoch(), from });
                }
            }
        }
    }

    fn join(&mut self, missing: Missing, now: Instant) {
        match missing.from {
            MissingFrom::Cursor(_) => self.attach(Waiting::new(missing, now), now),
            MissingFrom::After(after) => {
                self.go_on(missing.shard, missing.ticket, &missing.grant, self.logs, after, now);
            }
        }
    }

    /// A piece of the past, read by a pass.
    fn give_piece(&mut self, missing: Missing, proven: Option<Cursor>, mut events: Vec<Arc<Event>>, upto: u64) {
        self.settings.encoder.metrics.replayed.add(events.len() as u64);
        let exact = |cursor: Cursor| link::Opening { resume: Resume::Exact, id: cursor.to_string(), gap: None };
        let mut opening = proven.map(exact);
        let own = proven.map_or(Position { seq: missing.from.seq(), time: 0 }, |cursor| cursor.at);
        self.begin_at_hole(opening.as_mut(), own, &mut events);
        let piece = self.piece(opening, events, upto, false);
        let Missing { shard, ticket, grant, .. } = missing;
        self.outputs.push_back(Output::Piece { shard, ticket, grant, head: None, piece });
    }

    /// Where a client's next event is a hole, its stream opens with a gap. A client whose own place lies inside the hole is told
    /// of it from there on; its cursor may know better how old the missing messages can be.
    fn begin_at_hole(&self, opening: Option<&mut link::Opening>, own: Position, events: &mut [Arc<Event>]) {
        let (Some(log), Some(first)) = (&self.log, events.first_mut()) else { return };
        let Some(hole) = first.hole() else { return };
        if (hole.after.seq, hole.after.time) < (own.seq, own.time) {
            let after = Position { seq: own.seq, time: own.time.max(hole.after.time) };
            *first = self.settings.encoder.removed(after, log.cursor(first.at), hole.cause);
        }
        if let Some(opening) = opening.filter(|opening| opening.resume == Resume::Exact) {
            opening.resume = Resume::Gap;
        }
    }

    /// The next piece for a client that has everything up to `after`. If another log has begun meanwhile, that is a declared
    /// gap like any other.
    fn go_on(&mut self, shard: usize, ticket: Ticket, grant: &Arc<Grant>, of: u32, after: u64, now: Instant) {
        let Some(log) = &self.log else { return };
        let base = log.base();
        if self.is_given_values(shard, ticket) {
            let last = LastEventId::Unknown;
            let client = Waiting { shard, ticket, grant: grant.clone(), last, since: now, refuted: None };
            if of == self.logs {
                return self.go_on_with_values(client, after, now);
            }
            let gap = Gap { after: None, next: None, reason: GapReason::Reset };
            return self.begin_with_values(client, Some(gap), now);
        }
        if of == self.logs {
            if after >= base.seq && after <= log.head().seq {
                self.replay.leave(shard, ticket, now);
                return self.answer(shard, ticket, grant, Position { seq: after, time: 0 }, None);
            }
            let from = MissingFrom::After(after);
            return self.replay(Missing { shard, ticket, grant: grant.clone(), from }, now);
        }
        self.replay.leave(shard, ticket, now);
        let reason = GapReason::Reset;
        self.settings.encoder.metrics.gap(reason);
        let gap = Gap { after: None, next: Some(base.seq + 1), reason };
        let frame = notice::gap(self.name(), gap, Some(log.cursor(base)));
        let opening = link::Opening { resume: Resume::Gap, id: String::new(), gap: Some(frame) };
        self.answer(shard, ticket, grant, base, Some(opening));
    }

    /// Serves what follows `after`; when that is all of it, registers the client in the same step. What the log does not
    /// hold is left to the next piece, which a pass then has.
    fn answer(
        &mut self,
        shard: usize,
        ticket: Ticket,
        grant: &Arc<Grant>,
        after: Position,
        mut opening: Option<link::Opening>,
    ) {
        let Some(log) = &self.log else { return };
        let head = Some(log.cursor(log.head()));
        let piece = if after.seq < log.base().seq {
            self.piece(opening, Vec::new(), after.seq, false)
        } else {
            let mut selection = log.select(after.seq, grant.stream(), self.settings.bounds.piece);
            self.begin_at_hole(opening.as_mut(), after, &mut selection.events);
            self.piece(opening, selection.events, selection.upto, selection.complete)
        };
        self.outputs.push_back(Output::Piece { shard, ticket, grant: grant.clone(), head, piece });
    }

    pub(super) fn piece(
        &self,
        opening: Option<link::Opening>,
        events: Vec<Arc<Event>>,
        upto: u64,
        joined: bool,
    ) -> Piece {
        let (stream, log, degraded) = (self.settings.index, self.logs, self.degraded);
        Piece { stream, log, degraded, opening, events, upto, joined, synced: None }
    }
}
