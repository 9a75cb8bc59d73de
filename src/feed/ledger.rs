//! One stream as its clients see it: what is held of it, who waits for what, and what each is told.
//!
//! A state machine without I/O: what happens is handed in together with the time, what is to be done comes out as
//! [`Output`]s, in order. NATS, tasks and the clock are [`super::stream`]'s, and a simulation drives every path
//! ([`super::simulation`]). What a cursor is worth is decided in [`crate::resume`], how a consumer relates to what is held in
//! [`super::start`].

mod attach;
mod replay;
mod values;
mod views;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use self::attach::Waiting;
pub(super) use self::replay::{Bounds, Filled, PassId};
use self::replay::{Missing, MissingFrom, Replay};
use self::values::LastValues;
pub(super) use self::views::{Values, ViewBounds};
use super::encode::Encoder;
use super::removal::Stock;
use super::start::{Begun, Known, RECENT, Start};
use crate::cursor::{Cursor, Epoch, LastEventId, Position};
use crate::event::{Cause, Event};
use crate::frame::Frame;
use crate::frame::notice::{self, Gap, GapReason};
use crate::link::{self, FeedStatus, Piece, StreamRequest, Tells, Ticket};
use crate::log::Log;
use crate::route::Grant;
use crate::subject::Pattern;

/// What is to be done, in this order.
#[derive(Debug)]
pub(super) enum Output {
    /// The next event, for every shard where somebody may hear it.
    Event(Arc<Event>),
    /// Another log begins, for every shard.
    Begin {
        /// Its number.
        log: u32,
        /// Its base.
        base: Cursor,
        /// What clients of the log before are told.
        gap: Option<Frame>,
    },
    /// Something that every client of the stream is told.
    Notice {
        /// The frame.
        frame: Frame,
        /// What it says.
        tells: Tells,
    },
    /// Where the head is, for the shards that do not know.
    Head(Cursor),
    /// A part of what one client missed. If it says `joined`, the client hears from now on what comes.
    Piece {
        /// Where the client is.
        shard: usize,
        /// Which client.
        ticket: Ticket,
        /// What it may hear.
        grant: Arc<Grant>,
        /// The head, where the piece reaches it.
        head: Option<Cursor>,
        /// The part.
        piece: Piece,
    },
    /// A client hears no more what comes.
    Left {
        /// Where it was.
        shard: usize,
        /// What it heard.
        grant: Arc<Grant>,
    },
    /// The stream is to be read forwards from `from`, for as long as [`Ledger::has_pass`].
    Read {
        /// For whom, in [`Ledger::filled`].
        pass: PassId,
        /// In this life of the stream.
        epoch: Epoch,
        /// The first sequence.
        from: u64,
    },
    /// The stream's leader is to be asked whether this is still what the stream is, and whether a message stands at `at`; the
    /// answer goes to [`Ledger::looked`].
    Look {
        /// What is held.
        known: Known,
        /// A place that somebody's cursor says is empty; 0 is none.
        at: u64,
    },
    /// Last values are to be read; the answer goes to [`Ledger::values_read`].
    ReadValues(ValueRead),
}

/// The last message of each subject under a pattern is wanted.
#[derive(Debug, Clone)]
pub(super) struct ValueRead {
    /// Which.
    pub(super) pattern: Pattern,
    /// For which log.
    pub(super) log: u32,
    /// In this life of the stream.
    pub(super) epoch: Epoch,
    /// The stream is at least here: what is held reaches to it.
    pub(super) head: u64,
}

/// What is fixed.
#[derive(Debug)]
pub(super) struct Settings {
    /// Index of the stream in the route table.
    pub(super) index: u8,
    /// Builds the frames of holes.
    pub(super) encoder: Encoder,
    /// Bound of the log.
    pub(super) history_bytes: usize,
    /// Bounds of replaying.
    pub(super) bounds: Bounds,
    /// Bounds of last values.
    pub(super) values: ViewBounds,
}

/// The state of one stream.
#[derive(Debug)]
pub(super) struct Ledger {
    settings: Settings,
    status: Arc<FeedStatus>,
    log: Option<Log>,
    /// How full the stream was at the last look at it.
    stock: Option<Stock>,
    /// Its newest sequence, as far as the consumer has told.
    newest: u64,
    /// The log has reached what was there when it was begun; before that nobody is attached.
    warm: bool,
    /// The log is warm when it has got here.
    warm_at: u64,
    /// Clients have been told that NATS is away.
    degraded: bool,
    /// Logs begun so far.
    logs: u32,
    /// A consumer is open and read.
    reading: bool,
    /// Clients that came with a cursor while it was not.
    held: Vec<Waiting>,
    /// Requests that came before the log was warm.
    early: VecDeque<StreamRequest>,
    /// Clients whose cursor does not fit the log: it may be the log that is behind, or of a stream that is gone.
    doubtful: Vec<Waiting>,
    /// Those of them that are served just now.
    settling: Vec<Waiting>,
    /// The log during which a look was ordered that has not been answered.
    looking: Option<u32>,
    /// Clients that are served with what the log does not hold.
    replay: Replay,
    /// Clients that begin with the last message of each subject.
    values: LastValues,
    /// Passes counted in the metrics.
    passes: usize,
    outputs: VecDeque<Output>,
}

impl Ledger {
    pub(super) fn new(settings: Settings, status: Arc<FeedStatus>) -> Self {
        Self {
            replay: Replay::new(settings.bounds),
            values: LastValues::new(settings.values),
            settings,
            status,
            log: None,
            stock: None,
            newest: 0,
            warm: false,
            warm_at: 0,
            degraded: false,
            logs: 0,
            reading: false,
            held: Vec::new(),
            early: VecDeque::new(),
            doubtful: Vec::new(),
            settling: Vec::new(),
            looking: None,
            passes: 0,
            outputs: VecDeque::new(),
        }
    }

    /// The next thing to do. To be taken until there is none after everything that is handed in.
    pub(super) fn output(&mut self) -> Option<Output> {
        self.count_passes();
        self.outputs.pop_front()
    }

    /// Which life of the stream is held.
    pub(super) fn epoch(&self) -> Option<Epoch> {
        self.log.as_ref().map(Log::epoch)
    }

    /// What is held already, for whoever opens a consumer.
    pub(super) fn known(&self) -> Option<Known> {
        let log = self.log.as_ref()?;
        let mut recent = [Position::START; RECENT];
        recent.iter_mut().zip(log.before_head()).for_each(|(place, at)| *place = at);
        Some(Known { epoch: log.epoch(), head: log.head(), time: log.time(), recent })
    }

    /// A consumer is open. Brings the log in line with where it starts, and tells clients what that means for them.
    pub(super) fn begin(&mut self, begun: &Begun, now: Instant) {
        self.stock = Some(begun.stock);
        self.newest = begun.last_seq;
        self.reading = true;
        self.settling.append(&mut self.held);
        self.replay.end_passes();
        match begun.start {
            Start::Continued => {}
            Start::First => self.begin_log(begun, false),
            Start::Reset | Start::RolledBack => self.begin_log(begun, true),
        }
        if begun.start == Start::Continued {
            // What was stored behind our head meanwhile is gone again, if the consumer starts further on.
            self.declare_removed(begun.base.seq, now);
        }
        if begun.end.is_some() {
            self.idle(begun.end, now);
        }
    }

    /// How full the stream is now, in the life that is held.
    pub(super) fn restock(&mut self, stock: Stock) {
        self.stock = Some(stock);
    }

    /// Begins a log behind the consumer's start. `reset`: clients are told that sequences mean something else from now on.
    fn begin_log(&mut self, begun: &Begun, reset: bool) {
        // Where everything behind the start is gone again, the log begins behind that, not inside the hole.
        let base = match begun.end {
            Some(end) if end > begun.base.seq => Position { seq: end, time: 0 },
            _ => begun.base,
        };
        let log = Log::new(begun.epoch, base, self.settings.history_bytes);
        self.logs += 1;
        self.warm = false;
        self.status.set_serving(false);
        self.warm_at = begun.last_seq;
        self.status.set_head(base.seq);
        let base = log.cursor(base);
        let gap = reset.then(|| {
            let reason = GapReason::Reset;
            let gap = Gap { after: None, next: Some(base.at.seq + 1), reason };
            tracing::warn!(stream = self.name(), next = ?gap.next, reason = reason.label(), "Gap");
            self.settings.encoder.metrics.gap(reason);
            notice::gap(self.name(), gap, Some(base))
        });
        self.outputs.push_back(Output::Begin { log: self.logs, base, gap });
        self.log = Some(log);
        self.settling.append(&mut self.doubtful);
        for Missing { shard, ticket, grant, from } in self.replay.clear() {
            let from = match from {
                MissingFrom::Cursor(cursor) => link::From::LastEventId(LastEventId::Cursor(cursor)),
                MissingFrom::After(after) => link::From::Sequence { log: self.logs - 1, after },
            };
            self.early.push_back(StreamRequest::Attach { shard, ticket, grant, from });
        }
        let waited = self.forget_values();
        self.early.extend(waited);
    }

    /// The next event of the consumer, behind which the server has `pending` more.
    pub(super) fn take(&mut self, event: Arc<Event>, pending: u64, now: Instant) {
        let seq = event.at.seq;
        self.newest = seq + pending;
        self.append(event, now);
        if pending == 0 || seq >= self.warm_at {
            self.warmed();
        }
    }

    /// The consumer is idle: nothing waits. What is known of the stream's end says that nothing stands before it any more.
    pub(super) fn idle(&mut self, end: Option<u64>, now: Instant) {
        self.declare_removed(end.unwrap_or(0), now);
        self.warmed();
    }

    /// The consumer is lost.
    pub(super) fn lost(&mut self) {
        self.reading = false;
    }

    fn append(&mut self, event: Arc<Event>, now: Instant) {
        self.declare_removed(event.at.seq - 1, now);
        let Some(log) = &mut self.log else { return };
        log.pin(self.replay.pins());
        log.append(event.clone());
        self.values.put(&event);
        self.settings.encoder.metrics.stream_events.add(1);
        self.status.set_head(event.at.seq);
        self.outputs.push_back(Output::Event(event));
    }

    /// Sequences up to here that the stream has no message for any more: a hole, and nobody can say whose.
    fn declare_removed(&mut self, upto: u64, now: Instant) {
        let Some(log) = &mut self.log else { return };
        let before = Position { seq: log.head().seq, time: log.time() };
        if upto <= before.seq {
            return;
        }
        let cause = self.stock.map_or(Cause::SOMEBODY, |stock| stock.cause(upto, self.newest, now));
        let at = Position { seq: upto, time: 0 };
        let hole = self.settings.encoder.removed(before, log.cursor(at), cause);
        log.append(hole.clone());
        self.status.set_head(upto);
        if let Some(hole) = hole.hole() {
            self.outputs.push_back(Output::Notice { frame: hole.frame.clone(), tells: Tells::Hole(upto) });
        }
        // After the notice: a heartbeat must neither be ahead of it nor, later, behind it.
        self.outputs.push_back(Output::Head(log.cursor(log.head())));
    }

    /// Everything that was in the stream when the log began is held now.
    fn warmed(&mut self) {
        self.warm = true;
        self.status.set_serving(true);
    }

    /// A second has passed. `settled`: no further request is at hand.
    pub(super) fn tick(&mut self, now: Instant, settled: bool) {
        self.let_go(now);
        self.settle();
        self.look();
        self.tick_replay(now);
        self.tick_values(now);
        self.step_replay(now, settled);
        if let Some(log) = &self.log {
            self.outputs.push_back(Output::Head(log.cursor(log.head())));
        }
    }

    /// NATS is away, or back.
    pub(super) fn set_degraded(&mut self, degraded: bool) {
        let Some(log) = &self.log else { return };
        if self.degraded == degraded {
            return;
        }
        self.degraded = degraded;
        let head = log.cursor(log.head());
        // The next heartbeat must not be behind the notice.
        self.outputs.push_back(Output::Head(head));
        let frame = if degraded { notice::degraded(Some(head)) } else { notice::recovered(Some(head)) };
        self.outputs.push_back(Output::Notice { frame, tells: Tells::Degraded(degraded) });
    }

    /// Whether a pass is still wanted.
    pub(super) fn has_pass(&self, pass: PassId) -> bool {
        self.replay.has(pass)
    }

    /// Whether a pass takes more now.
    pub(super) fn takes(&self, pass: PassId) -> bool {
        self.log.as_ref().is_some_and(|log| self.replay.takes(pass, log))
    }

    /// A pass has been read further; with `None`, its reader has given up. `settled`: no request is at hand.
    pub(super) fn filled(&mut self, pass: PassId, filled: Option<Filled>, now: Instant, settled: bool) {
        let Some(log) = &self.log else { return };
        self.stock = filled.as_ref().and_then(|filled| filled.stock).or(self.stock);
        let (stock, newest) = (self.stock, self.newest.max(log.head().seq));
        let removed = |upto| stock.map_or(Cause::SOMEBODY, |stock| stock.cause(upto, newest, now));
        self.replay.filled(pass, filled, log, &self.settings.encoder, removed);
        self.step_replay(now, settled);
    }

    /// Other streams count in the same metric.
    fn count_passes(&mut self) {
        let now = self.replay.passes();
        if now != self.passes {
            let metric = &self.settings.encoder.metrics.passes;
            metric.add(now.saturating_sub(self.passes) as u64);
            metric.sub(self.passes.saturating_sub(now) as u64);
            self.passes = now;
        }
    }

    fn name(&self) -> Option<&str> {
        self.settings.encoder.stream.as_deref()
    }
}
