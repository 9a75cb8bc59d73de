//! Clients that begin with the last message of each subject: served from views of the stream, then from its log.
//!
//! Where the head is when a client is first served, there its values end and the log goes on: what is newer comes from there. A
//! client that leaves in between has a cursor behind which everything else is still to come, or one that says it has nothing.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::attach::Waiting;
use super::views::{Values, Views};
use super::{Ledger, Output};
use crate::cursor::Position;
use crate::frame::Frame;
use crate::frame::notice::{self, Gap, GapReason, Resume};
use crate::link::{self, StreamRequest, Ticket};
use crate::route::Grant;
use crate::subject::Pattern;

/// What is known of last values, and who is given them.
#[derive(Debug, Default)]
pub(super) struct LastValues {
    views: Views<Asking>,
    /// Where the values of clients end that have not been given all of them.
    serving: HashMap<(usize, Ticket), (Weak<Grant>, Position)>,
    /// Clients that waited for a view, and take turns.
    turns: Vec<Asking>,
}

impl LastValues {
    /// The stream has a new message.
    pub(super) fn put(&mut self, event: &Arc<crate::event::Event>) {
        self.views.put(event);
    }
}

/// A client that wants last values.
#[derive(Debug)]
pub(super) struct Asking {
    client: Waiting,
    from: Begins,
}

/// What it has already.
#[derive(Debug, Clone, Copy)]
enum Begins {
    /// Nothing; it may have to be told of a gap.
    Anew(Option<Gap>),
    /// The values up to a sequence.
    Behind(u64),
}

impl Ledger {
    /// Begins a client's stream with last values, behind a gap if there is one.
    pub(super) fn begin_with_values(&mut self, client: Waiting, gap: Option<Gap>, now: Instant) {
        // What may follow is older than where the gap ends.
        let gap = gap.map(|gap| Gap { next: None, ..gap });
        self.ask_values(Asking { client, from: Begins::Anew(gap) }, now);
    }

    /// Whether a client has been given some of its last values, and not all.
    pub(super) fn is_given_values(&self, shard: usize, ticket: Ticket) -> bool {
        self.values.serving.contains_key(&(shard, ticket))
    }

    /// Goes on with the last values of a client that has those up to `after`.
    pub(super) fn go_on_with_values(&mut self, client: Waiting, after: u64, now: Instant) {
        self.ask_values(Asking { client, from: Begins::Behind(after) }, now);
    }

    fn ask_values(&mut self, asking: Asking, now: Instant) {
        let patterns = asking.client.grant.stream();
        match self.values.views.ready(patterns, asking.client.since, now) {
            Ok(()) => self.give_values(&asking),
            Err(missing) => self.values.views.wait(&missing, asking),
        }
        self.read_values();
    }

    /// Orders what is to be read.
    fn read_values(&mut self) {
        let Some(log) = &self.log else { return };
        while let Some(pattern) = self.values.views.next_read() {
            let (epoch, head) = (log.epoch(), log.head().seq);
            self.outputs.push_back(Output::ReadValues { pattern, log: self.logs, epoch, head });
        }
    }

    /// What was read for [`Output::ReadValues`] of the log `of`; `None` where that failed.
    pub(in crate::feed) fn values_read(&mut self, of: u32, pattern: &Pattern, values: Option<Values>, now: Instant) {
        match self.log.as_ref().filter(|_| of == self.logs) {
            Some(log) => self.values.views.read(pattern, values, log.head(), now),
            None => self.values.views.outdated(),
        }
        self.values_advanced();
        self.read_values();
    }

    /// The views or the head have moved on: who waited for that takes a turn.
    pub(super) fn values_advanced(&mut self) {
        if let Some(log) = &self.log {
            self.values.turns.extend(self.values.views.served(log));
        }
    }

    /// The next of those who waited; false when nobody is left.
    pub(super) fn next_value_turn(&mut self, now: Instant) -> bool {
        let Some(asking) = self.values.turns.pop() else { return false };
        if !asking.client.is_gone() {
            self.ask_values(asking, now);
        }
        true
    }

    /// A second has passed.
    pub(super) fn tick_values(&mut self, now: Instant) {
        self.values.views.tick(now, |asking| !asking.client.is_gone());
        self.values.serving.retain(|_, (grant, _)| grant.strong_count() > 0);
        self.read_values();
    }

    /// Another log has begun: nothing that was read counts any more, and who waits is looked at again.
    pub(super) fn forget_values(&mut self) -> Vec<StreamRequest> {
        let turns = std::mem::take(&mut self.values.turns);
        let waiting = self.values.views.clear().into_iter().chain(turns);
        waiting.map(|asking| asking.again(self.logs.wrapping_sub(1))).collect()
    }

    /// The next piece of a client's values. With the last one it is at the place where they end, and asks for what follows.
    fn give_values(&mut self, asking: &Asking) {
        let Some(log) = &self.log else { return };
        let Waiting { shard, ticket, grant, .. } = &asking.client;
        let key = (*shard, *ticket);
        let after = match asking.from {
            Begins::Anew(_) => 0,
            Begins::Behind(after) => after,
        };
        let ends = match asking.from {
            Begins::Anew(_) => log.head(),
            Begins::Behind(_) => self.values.serving.get(&key).map_or(log.head(), |(_, ends)| *ends),
        };
        let part = self.values.views.select(grant.stream(), after, ends.seq, self.settings.bounds.piece);
        let opening = match asking.from {
            Begins::Anew(gap) => Some(self.value_opening(&asking.client, gap, part.cut)),
            Begins::Behind(_) => None,
        };
        self.settings.encoder.metrics.last_values.add(part.events.len() as u64);
        let upto = if part.complete { ends.seq } else { part.events.last().map_or(ends.seq, |last| last.at.seq) };
        let mut piece = self.piece(opening, part.events, upto, false);
        if part.complete {
            self.values.serving.remove(&key);
            piece.synced = self.log.as_ref().map(|log| notice::synced(Some(log.cursor(ends))));
        } else {
            self.values.serving.insert(key, (Arc::downgrade(grant), ends));
        }
        self.outputs.push_back(Output::Piece {
            shard: *shard,
            ticket: *ticket,
            grant: grant.clone(),
            head: None,
            piece,
        });
    }

    /// How such a stream opens. Until it has a value its place is before everything: then it begins anew.
    fn value_opening(&self, client: &Waiting, gap: Option<Gap>, cut: bool) -> link::Opening {
        let nothing = self.log.as_ref().map(|log| log.cursor(Position::START));
        let left_out = cut.then_some(Gap { after: None, next: None, reason: GapReason::ReplayLimit });
        let gap: Option<Frame> = gap.or(left_out).map(|gap| {
            self.settings.encoder.metrics.gap(gap.reason);
            notice::gap(self.name(), gap, nothing)
        });
        match gap {
            // The old cursor stays in force until the gap has been told.
            Some(gap) => link::Opening { resume: Resume::Gap, id: client.id_before_gap(), gap: Some(gap) },
            None => {
                let id = nothing.map_or_else(String::new, |cursor| cursor.to_string());
                link::Opening { resume: Resume::New, id, gap: None }
            }
        }
    }
}

impl Asking {
    /// The request by which it is looked at again.
    fn again(self, log: u32) -> StreamRequest {
        let Waiting { shard, ticket, grant, last, .. } = self.client;
        let from = match self.from {
            Begins::Anew(_) => link::From::LastEventId(last),
            Begins::Behind(after) => link::From::Sequence { log, after },
        };
        StreamRequest::Attach { shard, ticket, grant, from }
    }
}
