//! Clients that begin with the last message of each subject: served from views of the stream, then from its log.
//!
//! Where the head is when a client is first served, there its values end and the log goes on: what is newer comes from there. A
//! client that leaves in between has a cursor behind which everything else is still to come, or one that says it has nothing.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Instant;

use super::attach::Waiting;
use super::views::{Values, ViewBounds, Views};
use super::{Ledger, Output, ValueRead};
use crate::cursor::Position;
use crate::frame::notice::{self, Gap, GapReason, Resume};
use crate::link::{self, StreamRequest, Ticket};
use crate::route::Grant;
use crate::subject::Pattern;

/// What is known of last values, and who is given them.
#[derive(Debug)]
pub(super) struct LastValues {
    views: Views<Asking>,
    /// Clients that have not been given all of their values.
    serving: HashMap<(usize, Ticket), Serving>,
    /// Clients that waited for a view, and take turns.
    turns: Vec<Asking>,
}

/// A client that has a part of its values.
#[derive(Debug)]
struct Serving {
    /// Gone when the client is.
    grant: Weak<Grant>,
    /// Where its values end.
    ends: Position,
    /// It has been told that some are left out.
    told: bool,
}

impl LastValues {
    /// Nobody wants any yet.
    pub(super) fn new(bounds: ViewBounds) -> Self {
        Self { views: Views::new(bounds), serving: HashMap::new(), turns: Vec::new() }
    }

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
        let begins = matches!(asking.from, Begins::Anew(_));
        match self.values.views.ready(patterns, begins, now) {
            Ok(()) => self.give_values(&asking),
            Err(missing) => self.values.views.wait(&missing, asking),
        }
        self.read_values();
    }

    /// Orders what is to be read.
    fn read_values(&mut self) {
        let Some(log) = &self.log else { return };
        while let Some(pattern) = self.values.views.next_read(|asking| !asking.client.is_gone()) {
            let (epoch, head) = (log.epoch(), log.head().seq);
            self.outputs.push_back(Output::ReadValues(ValueRead { pattern, log: self.logs, epoch, head }));
        }
    }

    /// What was read for [`Output::ReadValues`]; `None` where that failed.
    pub(in crate::feed) fn values_read(&mut self, of: &ValueRead, values: Option<Values>, now: Instant) {
        match self.log.as_ref().filter(|_| of.log == self.logs) {
            Some(log) => self.values.views.read(&of.pattern, values, log.head(), now),
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
        self.values.serving.retain(|_, serving| serving.grant.strong_count() > 0);
        let grants = self.values.serving.values().filter_map(|serving| serving.grant.upgrade());
        let in_hand: HashSet<Pattern> = grants.flat_map(|grant| grant.stream().to_vec()).collect();
        self.values.views.tick(now, |asking| !asking.client.is_gone(), &in_hand);
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
        let (after, serving) = match asking.from {
            Begins::Anew(_) => (0, None),
            Begins::Behind(after) => (after, self.values.serving.remove(&key)),
        };
        let (ends, told) = serving.map_or((log.head(), false), |serving| (serving.ends, serving.told));
        let synced = notice::synced(Some(log.cursor(ends)));
        let part = self.values.views.select(grant.stream(), after, ends.seq, self.settings.bounds.piece);
        let opening = match asking.from {
            Begins::Anew(gap) => Some(self.value_opening(&asking.client, gap, part.cut)),
            // What it was to have next has gone from the views meanwhile.
            Begins::Behind(_) if part.cut && !told => Some(self.value_opening(&asking.client, None, true)),
            Begins::Behind(_) => None,
        };
        self.settings.encoder.metrics.last_values.add(part.events.len() as u64);
        let upto = if part.complete { ends.seq } else { part.events.last().map_or(ends.seq, |last| last.at.seq) };
        let mut piece = self.piece(opening, part.events, upto, false);
        if part.complete {
            piece.synced = Some(synced);
        } else {
            let serving = Serving { grant: Arc::downgrade(grant), ends, told: told || part.cut };
            self.values.serving.insert(key, serving);
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
        // The old cursor stays in force until a gap behind it has been told.
        let before = gap.map(|_| client.id_before_gap());
        let id = before.or(nothing.map(|cursor| cursor.to_string())).unwrap_or_default();
        let left_out = cut.then_some(Gap { after: None, next: None, reason: GapReason::ReplayLimit });
        // Who knows that some are left out knows as well that it has not everything.
        let gap = left_out.or(gap).map(|gap| {
            self.settings.encoder.metrics.gap(gap.reason);
            notice::gap(self.name(), gap, nothing)
        });
        let resume = if gap.is_some() { Resume::Gap } else { Resume::New };
        link::Opening { resume, id, gap }
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
