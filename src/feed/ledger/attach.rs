//! Attaching clients to a stream: by its log, by a pass over what is older, or by a declared gap.
//!
//! What a client is given and what it is registered for are decided in one step: that is why replay and live have no seam.

use std::sync::Arc;
use std::time::Instant;

use super::replay::{Action, Missing, MissingFrom};
use super::{AHEAD_PATIENCE, Ledger, Output};
use crate::cursor::{Cursor, LastEventId, Position};
use crate::event::Event;
use crate::frame::notice::{self, Gap, GapReason, Resume};
use crate::link::{self, Piece, StreamRequest, Ticket};
use crate::resume::{self, Verdict};
use crate::route::Grant;

/// A client that connects.
#[derive(Debug)]
pub(in crate::feed) struct Waiting {
    shard: usize,
    ticket: Ticket,
    grant: Arc<Grant>,
    last: LastEventId,
    since: Instant,
}

impl Waiting {
    fn new(missing: Missing, now: Instant) -> Self {
        let last = match missing.from {
            MissingFrom::Cursor(cursor) => LastEventId::Cursor(cursor),
            // Its stream is open: the id of `connected` does not matter any more.
            MissingFrom::After(_) => LastEventId::Unknown,
        };
        let Missing { shard, ticket, grant, .. } = missing;
        Self { shard, ticket, grant, last, since: now }
    }
}

impl Ledger {
    /// A shard asks. `settled`: no further request is at hand.
    pub(in crate::feed) fn request(&mut self, request: StreamRequest, now: Instant, settled: bool) {
        if !self.warm {
            return self.early.push_back(request);
        }
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
            // Only this list still holds the grant of a client that has gone.
            if Arc::strong_count(&client.grant) > 1 {
                self.attach(client);
            }
        } else if let Some(request) = self.early.pop_front() {
            self.serve(request, now);
        } else {
            return false;
        }
        if self.settling.is_empty() && self.early.is_empty() {
            self.step_replay(now, settled);
        }
        true
    }

    /// There are new events, or another log: who waited for them takes turns.
    pub(in crate::feed) fn advanced(&mut self, now: Instant, settled: bool) {
        if self.at_end {
            self.was_at_end = Some(now);
        }
        self.settle_ahead();
        if self.warm {
            self.step_replay(now, settled);
        }
    }

    pub(super) fn settle_ahead(&mut self) {
        if self.warm && !self.ahead.is_empty() {
            self.settling.append(&mut self.ahead);
        }
    }

    fn serve(&mut self, request: StreamRequest, now: Instant) {
        match request {
            StreamRequest::Detach { shard, grant } => self.outputs.push_back(Output::Left { shard, grant }),
            // Only the request itself still holds the grant: the client has gone.
            StreamRequest::Attach { grant, .. } if Arc::strong_count(&grant) == 1 => {}
            StreamRequest::Attach { shard, ticket, grant, from: link::From::LastEventId(last) } => {
                self.attach(Waiting { shard, ticket, grant, last, since: now });
            }
            StreamRequest::Attach { shard, ticket, grant, from: link::From::Sequence { log, after } } => {
                self.go_on(shard, ticket, &grant, log, after);
            }
        }
    }

    fn attach(&mut self, client: Waiting) {
        let Some(log) = &self.log else { return };
        let other_life = matches!(client.last, LastEventId::Cursor(cursor) if cursor.epoch != log.epoch());
        let verdict = match (resume::decide(client.last, log), client.last) {
            // While we do not read the stream, the life that is over may be ours.
            _ if other_life && !self.at_end && self.may_catch_up(&client) => return self.ahead.push(client),
            (Verdict::Ahead, _) if self.may_catch_up(&client) => return self.ahead.push(client),
            (Verdict::Ahead, LastEventId::Cursor(cursor)) => resume::rolled_back(log, cursor),
            (Verdict::Behind(cursor), _) => {
                let Waiting { shard, ticket, grant, .. } = client;
                return self.replay.add(Missing { shard, ticket, grant, from: MissingFrom::Cursor(cursor) });
            }
            (verdict, _) => verdict,
        };
        self.open_client(&client, verdict);
    }

    /// Whether a cursor above our head may still turn out to be ours: until we were at the stream's end well after it came.
    fn may_catch_up(&self, client: &Waiting) -> bool {
        self.was_at_end.is_none_or(|at| at < client.since + AHEAD_PATIENCE)
    }

    /// Opens a client's stream by a verdict.
    fn open_client(&mut self, client: &Waiting, verdict: Verdict) {
        let Some(log) = &self.log else { return };
        let own = |at: Position| log.cursor(at).to_string();
        let (from, opening) = match verdict {
            Verdict::New | Verdict::Ahead | Verdict::Behind(_) => {
                (log.head(), link::Opening { resume: Resume::New, id: own(log.head()), gap: None })
            }
            Verdict::Exact(at) => (at, link::Opening { resume: Resume::Exact, id: own(at), gap: None }),
            Verdict::Gap { gap, from } => {
                self.settings.encoder.metrics.gap(gap.reason);
                // The old cursor stays in force until the gap has been told.
                let id = match client.last {
                    LastEventId::Cursor(cursor) => cursor.to_string(),
                    LastEventId::Absent | LastEventId::Unknown => "unknown".to_owned(),
                };
                let frame = notice::gap(self.name(), gap, Some(log.cursor(from)));
                (from, link::Opening { resume: Resume::Gap, id, gap: Some(frame) })
            }
        };
        self.answer(client.shard, client.ticket, &client.grant, from.seq, Some(opening));
    }

    /// Serves whom the log cannot: everybody who can be served now.
    pub(in crate::feed) fn step_replay(&mut self, now: Instant, settled: bool) {
        let Some(log) = &self.log else { return };
        for action in self.replay.step(log, now, settled) {
            match action {
                Action::Piece { missing, proven, events, upto } => self.give_piece(missing, proven, events, upto),
                Action::Join(missing) => self.join(missing, now),
                Action::Verdict(missing, verdict) => self.open_client(&Waiting::new(missing, now), verdict),
                Action::Read { pass, from } => {
                    let Some(log) = &self.log else { return };
                    self.outputs.push_back(Output::Read { pass, epoch: log.epoch(), from });
                }
            }
        }
    }

    fn join(&mut self, missing: Missing, now: Instant) {
        match missing.from {
            MissingFrom::Cursor(_) => self.attach(Waiting::new(missing, now)),
            MissingFrom::After(after) => {
                self.go_on(missing.shard, missing.ticket, &missing.grant, self.logs, after);
            }
        }
    }

    /// A piece of the past, read by a pass.
    fn give_piece(&mut self, missing: Missing, proven: Option<Cursor>, events: Vec<Arc<Event>>, upto: u64) {
        self.settings.encoder.metrics.replayed.add(events.len() as u64);
        let begins_with_hole = events.first().is_some_and(|event| event.subject.is_empty());
        let resume = if begins_with_hole { Resume::Gap } else { Resume::Exact };
        let opening = proven.map(|cursor| link::Opening { resume, id: cursor.to_string(), gap: None });
        let piece = self.piece(opening, events, upto, false);
        let Missing { shard, ticket, grant, .. } = missing;
        self.outputs.push_back(Output::Piece { shard, ticket, grant, head: None, piece });
    }

    /// The next piece for a client that has everything up to `after`. If another log has begun meanwhile, that is a declared
    /// gap like any other.
    fn go_on(&mut self, shard: usize, ticket: Ticket, grant: &Arc<Grant>, of: u32, after: u64) {
        let Some(log) = &self.log else { return };
        let base = log.base();
        if of == self.logs {
            if after >= base.seq && after <= log.head().seq {
                self.replay.leave(shard, ticket);
                return self.answer(shard, ticket, grant, after, None);
            }
            let from = MissingFrom::After(after);
            return self.replay.add(Missing { shard, ticket, grant: grant.clone(), from });
        }
        self.replay.leave(shard, ticket);
        let reason = GapReason::Reset;
        self.settings.encoder.metrics.gap(reason);
        let gap = Gap { after: None, next: Some(base.seq + 1), reason };
        let frame = notice::gap(self.name(), gap, Some(log.cursor(base)));
        let opening = link::Opening { resume: Resume::Gap, id: String::new(), gap: Some(frame) };
        self.answer(shard, ticket, grant, base.seq, Some(opening));
    }

    /// Serves what follows `after`; when that is all of it, registers the client in the same step. What the log does not
    /// hold is left to the next piece, which a pass then has.
    fn answer(&mut self, shard: usize, ticket: Ticket, grant: &Arc<Grant>, after: u64, opening: Option<link::Opening>) {
        let Some(log) = &self.log else { return };
        let head = Some(log.cursor(log.head()));
        let piece = if after < log.base().seq {
            self.piece(opening, Vec::new(), after, false)
        } else {
            let selection = log.select(after, grant.stream(), self.settings.bounds.piece);
            self.piece(opening, selection.events, selection.upto, selection.complete)
        };
        self.outputs.push_back(Output::Piece { shard, ticket, grant: grant.clone(), head, piece });
    }

    fn piece(&self, opening: Option<link::Opening>, events: Vec<Arc<Event>>, upto: u64, joined: bool) -> Piece {
        let (stream, log, degraded) = (self.settings.index, self.logs, self.degraded);
        Piece { stream, log, degraded, opening, events, upto, joined }
    }
}
