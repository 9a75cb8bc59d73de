//! Attaching clients to a stream: by its log, by a pass over what is older, or by a declared gap.
//!
//! Runs in the stream's own task, so that what a client is given and what it is registered for are decided in one step.

use std::sync::Arc;

use tokio::time::Instant;

use super::{AHEAD_PATIENCE, State};
use crate::cursor::{Cursor, LastEventId, Position};
use crate::event::Event;
use crate::feed::replay::{Action, Missing, MissingFrom};
use crate::frame::notice::{self, Gap, GapReason, Resume};
use crate::link::{self, Piece, StreamRequest, Ticket, ToShard};
use crate::resume::{self, Verdict};
use crate::route::Grant;

pub(super) struct Waiting {
    shard: usize,
    ticket: Ticket,
    grant: Arc<Grant>,
    last: LastEventId,
    since: Instant,
}

impl From<Missing> for Waiting {
    fn from(missing: Missing) -> Self {
        let last = match missing.from {
            MissingFrom::Cursor(cursor) => LastEventId::Cursor(cursor),
            // Its stream is open: the id of `connected` does not matter any more.
            MissingFrom::After(_) => LastEventId::Unknown,
        };
        let Missing { shard, ticket, grant, .. } = missing;
        Self { shard, ticket, grant, last, since: Instant::now() }
    }
}

impl State {
    pub(super) async fn serve(&mut self, request: StreamRequest) {
        if !self.warm {
            return self.early.push_back(request);
        }
        self.serve_warm(request).await;
        if self.feed.requests.is_empty() {
            self.step_replay().await;
        }
    }

    pub(super) async fn serve_warm(&mut self, request: StreamRequest) {
        match request {
            StreamRequest::Detach { shard, grant } => self.feed.fanout.remove(shard, grant.stream()),
            // Only the request itself still holds the grant: the client has gone.
            StreamRequest::Attach { grant, .. } if Arc::strong_count(&grant) == 1 => {}
            StreamRequest::Attach { shard, ticket, grant, from: link::From::LastEventId(last) } => {
                self.attach(Waiting { shard, ticket, grant, last, since: Instant::now() }).await;
            }
            StreamRequest::Attach { shard, ticket, grant, from: link::From::Sequence { log, after } } => {
                self.go_on(shard, ticket, &grant, log, after).await;
            }
        }
    }

    async fn attach(&mut self, client: Waiting) {
        let Some(log) = &self.log else { return };
        let verdict = match resume::decide(client.last, log) {
            Verdict::Ahead if self.may_catch_up(&client) => return self.ahead.push(client),
            Verdict::Ahead => resume::beyond_head(log),
            Verdict::Behind(cursor) => {
                let Waiting { shard, ticket, grant, .. } = client;
                return self.feed.replay.add(Missing { shard, ticket, grant, from: MissingFrom::Cursor(cursor) });
            }
            verdict => verdict,
        };
        self.open_client(&client, verdict).await;
    }

    /// Opens a client's stream by a verdict that needs nothing beyond the log.
    async fn open_client(&mut self, client: &Waiting, verdict: Verdict) {
        let Some(log) = &self.log else { return };
        let own = |at: Position| log.cursor(at).to_string();
        let (from, opening) = match verdict {
            Verdict::New | Verdict::Ahead | Verdict::Behind(_) => {
                (log.head(), link::Opening { resume: Resume::New, id: own(log.head()), gap: None })
            }
            Verdict::Exact(at) => (at, link::Opening { resume: Resume::Exact, id: own(at), gap: None }),
            Verdict::Gap { gap, from } => {
                self.feed.encoder.metrics.gap(gap.reason);
                // The old cursor stays in force until the gap has been told.
                let id = match client.last {
                    LastEventId::Cursor(cursor) => cursor.to_string(),
                    LastEventId::Absent | LastEventId::Unknown => "unknown".to_owned(),
                };
                let frame = notice::gap(Some(self.name()), gap, Some(log.cursor(from)));
                (from, link::Opening { resume: Resume::Gap, id, gap: Some(frame) })
            }
        };
        self.answer(client.shard, client.ticket, &client.grant, from.seq, Some(opening)).await;
    }

    /// Serves whom the log cannot: everybody who can be served now.
    pub(super) async fn step_replay(&mut self) {
        let Some(log) = &self.log else { return };
        let settled = self.feed.requests.is_empty();
        for action in self.feed.replay.step(log, settled) {
            match action {
                Action::Piece { missing, proven, events, upto } => self.send_piece(missing, proven, events, upto).await,
                Action::Join(missing) => self.join(missing).await,
                Action::Reset(missing) => {
                    let Some(log) = &self.log else { return };
                    let verdict = resume::rolled_back(log);
                    self.open_client(&Waiting::from(missing), verdict).await;
                }
                Action::Limit(missing) => {
                    let Some(log) = &self.log else { return };
                    let verdict = resume::limited(log, missing.from.seq());
                    self.open_client(&Waiting::from(missing), verdict).await;
                }
            }
        }
    }

    async fn join(&mut self, missing: Missing) {
        match missing.from {
            MissingFrom::Cursor(_) => self.attach(Waiting::from(missing)).await,
            MissingFrom::After(after) => {
                self.go_on(missing.shard, missing.ticket, &missing.grant, self.logs, after).await;
            }
        }
    }

    /// A piece of the past, read by a pass.
    async fn send_piece(&mut self, missing: Missing, proven: Option<Cursor>, mut events: Vec<Arc<Event>>, upto: u64) {
        self.feed.encoder.metrics.replayed.add(events.len() as u64);
        let mut opening =
            proven.map(|cursor| link::Opening { resume: Resume::Exact, id: cursor.to_string(), gap: None });
        self.begin_at_hole(opening.as_mut(), missing.from.seq(), &mut events);
        let (stream, log, degraded) = (self.feed.index, self.logs, self.degraded);
        let piece = Piece { stream, log, degraded, opening, events, upto, joined: false };
        let Missing { shard, ticket, grant, .. } = missing;
        self.feed.fanout.to(shard, ToShard::Attached { ticket, grant, piece }).await;
    }

    /// Where messages are gone directly behind what a client has, it is told so from its own place on, which may lie inside
    /// the hole.
    fn begin_at_hole(&self, opening: Option<&mut link::Opening>, after: u64, events: &mut [Arc<Event>]) {
        let (Some(log), Some(first)) = (&self.log, events.first_mut()) else { return };
        if !first.subject.is_empty() {
            return;
        }
        *first = self.feed.encoder.removed(after, log.cursor(first.at), self.removed);
        if let Some(opening) = opening.filter(|opening| opening.resume == Resume::Exact) {
            opening.resume = Resume::Gap;
        }
    }

    /// Whether a cursor above our head may still turn out to be ours: as long as we have not read undisturbed for a while.
    fn may_catch_up(&self, client: &Waiting) -> bool {
        let patient = |since: Instant| Instant::now() < client.since.max(since) + AHEAD_PATIENCE;
        self.reading_since.is_none_or(patient)
    }

    /// The next piece for a client that has everything up to `after`. If another life of the stream has begun meanwhile,
    /// that is a declared gap like any other.
    async fn go_on(&mut self, shard: usize, ticket: Ticket, grant: &Arc<Grant>, of: u32, after: u64) {
        let Some(log) = &self.log else { return };
        let base = log.base();
        if of >= self.first_of_life {
            if after >= base.seq && after <= log.head().seq {
                self.feed.replay.leave(shard, ticket);
                return self.answer(shard, ticket, grant, after, None).await;
            }
            let from = MissingFrom::After(after);
            return self.feed.replay.add(Missing { shard, ticket, grant: grant.clone(), from });
        }
        self.feed.replay.leave(shard, ticket);
        let reason = GapReason::Reset;
        self.feed.encoder.metrics.gap(reason);
        let gap = Gap { after: None, next: Some(base.seq + 1), reason };
        let frame = notice::gap(Some(self.name()), gap, Some(log.cursor(base)));
        let opening = link::Opening { resume: Resume::Gap, id: String::new(), gap: Some(frame) };
        self.answer(shard, ticket, grant, base.seq, Some(opening)).await;
    }

    /// Serves what is held after `after`; when that is all of it, registers the client in the same step.
    async fn answer(
        &mut self,
        shard: usize,
        ticket: Ticket,
        grant: &Arc<Grant>,
        after: u64,
        mut opening: Option<link::Opening>,
    ) {
        let Some(log) = &self.log else { return };
        let mut selection = log.select(after, grant.stream(), self.feed.piece);
        self.begin_at_hole(opening.as_mut(), after, &mut selection.events);
        if selection.complete {
            self.feed.fanout.add(shard, grant.stream());
        }
        let piece = Piece {
            stream: self.feed.index,
            log: self.logs,
            degraded: self.degraded,
            opening,
            events: selection.events,
            upto: selection.upto,
            joined: selection.complete,
        };
        let head = log.cursor(log.head());
        self.feed.fanout.to(shard, ToShard::Head { stream: self.feed.index, head }).await;
        self.feed.fanout.to(shard, ToShard::Attached { ticket, grant: grant.clone(), piece }).await;
    }

    pub(super) async fn settle_ahead(&mut self) {
        if !self.warm {
            return;
        }
        for client in std::mem::take(&mut self.ahead) {
            // Only this list still holds the grant of a client that has gone.
            if Arc::strong_count(&client.grant) > 1 {
                self.attach(client).await;
            }
        }
    }
}
