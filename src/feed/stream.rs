//! The feed of one stream: reads it once, owns its log, and attaches clients to it.
//!
//! One task does all of it, so that "take what was missed and register for the rest" needs no lock and has no seam. It
//! keeps serving resumes from memory while NATS is away. Clients are attached in [`attach`]. How a consumer is opened and
//! checked is [`super::consumer`]'s business; what a cursor is worth is decided in [`crate::resume`].

mod attach;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::attach::Waiting;
use super::api;
use super::connection::Connection;
use super::consumer::{self, FeedError, Kind, Known, Opened, Opening, Order, SILENCE_MAX, Start};
use super::encode::{Encoder, NAME_HEADER};
use super::fanout::Fanout;
use super::replay::{Missing, MissingFrom, Replay, removal_reason};
use crate::cursor::{Cursor, LastEventId, Position};
use crate::event::{Event, Frames};
use crate::frame::notice::{self, Gap, GapReason};
use crate::frame::{Frame, Message};
use crate::link::{self, FeedStatus, StreamRequest, ToShard};
use crate::log::{Log, PieceSize};

/// Wait between attempts to open the consumer, before jitter.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long a cursor above our head may wait for us to catch up with another sidecar.
/// Longer than it takes to notice that our own consumer is lost.
const AHEAD_PATIENCE: Duration = Duration::from_millis(3500);
/// How often shards without a new event learn where the head is.
const HEAD_INTERVAL: Duration = Duration::from_secs(1);
/// Messages taken from the subscription before requests are looked at again.
const BURST: usize = 256;
/// A session that ends sooner than this, without having read anything, may have been ended by what it read.
const SHORT_SESSION: Duration = Duration::from_secs(2);
/// While signs of flow control do not reach the server, it is asked this often whether they do now.
const STALLED_RETRY: Duration = Duration::from_secs(5);
/// Losses of the connection at the same place, all but the first after a short session, before the message there is taken
/// for poison.
const LOSSES_AT_POISON: u32 = 2;

/// The feed of one stream.
#[derive(Debug)]
pub struct StreamFeed {
    /// Index in the route table.
    pub index: u8,
    /// How to open it; `known` is filled in from the log.
    pub opening: Opening,
    /// Builds frames.
    pub encoder: Encoder,
    /// How much one resuming client gets at a time; it asks for more when that is on the wire.
    pub piece: PieceSize,
    /// Serves what the log does not hold.
    pub replay: Replay,
    /// The way to the shards.
    pub fanout: Fanout,
    /// What shards ask.
    pub requests: mpsc::UnboundedReceiver<StreamRequest>,
    /// How we are.
    pub status: Arc<FeedStatus>,
}

/// What changes while it runs.
struct State {
    feed: StreamFeed,
    log: Option<Log>,
    /// Why messages of this stream can be gone.
    removed: GapReason,
    /// The log has reached what was there when it was begun; before that nobody is attached.
    warm: bool,
    /// Clients have been told that NATS is away.
    degraded: bool,
    /// Requests that came before the log was warm.
    early: VecDeque<StreamRequest>,
    /// Clients whose cursor is above our head.
    ahead: Vec<Waiting>,
    /// The head when the connection was last lost, and how often it was lost there.
    losses: (u64, u32),
    /// Signs of flow control do not reach the server: it stalls under load, so clients stay degraded.
    stalled: bool,
    /// Since when a consumer is open and read.
    reading_since: Option<Instant>,
    /// The log is warm when it has got here.
    warm_at: u64,
    /// Logs begun so far.
    logs: u32,
}

/// Waits for something new in a pass over the past.
async fn filled(replay: &mut Replay, log: Option<&Log>) {
    std::future::poll_fn(|cx| replay.poll_filled(log, cx)).await;
}

impl StreamFeed {
    /// Runs until the process ends.
    pub async fn run(self) {
        let state = State {
            feed: self,
            log: None,
            removed: GapReason::Purged,
            warm: false,
            degraded: false,
            early: VecDeque::new(),
            ahead: Vec::new(),
            losses: (0, 0),
            stalled: false,
            reading_since: None,
            warm_at: 0,
            logs: 0,
        };
        state.run().await;
    }
}

impl State {
    async fn run(mut self) {
        let mut attempt = 0u32;
        loop {
            match self.open().await {
                Some(Ok(opened)) => {
                    attempt = 0;
                    let began = Instant::now();
                    let Some(error) = self.session(opened).await else { return };
                    self.reading_since = None;
                    tracing::warn!(stream = self.name(), %error, "Feed interrupted");
                    self.suspect(&error, began.elapsed());
                    if matches!(error, FeedError::Stalled) {
                        self.stalled = true;
                        self.set_degraded(true).await;
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(stream = self.name(), %error, "Feed not open");
                    self.suspect(&error, Duration::ZERO);
                    self.set_degraded(true).await;
                    self.unhang(&error).await;
                    attempt += 1;
                    if !self.pause(attempt).await {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    fn name(&self) -> &str {
        &self.feed.opening.stream
    }

    /// Opens a consumer while requests are served. `None` when the process ends.
    async fn open(&mut self) -> Option<Result<Opened, FeedError>> {
        self.feed.opening.known = self.log.as_ref().map(|log| Known { epoch: log.epoch(), head: log.head() });
        self.feed.opening.suspect =
            self.log.as_ref().is_some_and(|log| self.losses == (log.head().seq, LOSSES_AT_POISON));
        self.feed.opening.stalled = self.stalled;
        let opening = self.feed.opening.clone();
        let mut open = pin!(consumer::open(opening));
        let mut tick = tokio::time::interval(HEAD_INTERVAL);
        loop {
            tokio::select! {
                opened = &mut open => return Some(opened),
                request = self.feed.requests.recv() => self.serve(request?).await,
                () = filled(&mut self.feed.replay, self.log.as_ref()) => self.step_replay().await,
                _ = tick.tick() => {
                    if !self.feed.opening.feed.current().link.borrow().connected {
                        self.set_degraded(true).await;
                    }
                    self.settle_ahead().await;
                }
            }
        }
    }

    /// Waits before the next attempt while requests are served; false when the process ends.
    async fn pause(&mut self, attempt: u32) -> bool {
        let ceiling = (RETRY_MIN * 2u32.pow(attempt.min(8))).min(RETRY_MAX);
        let mut wait = pin!(tokio::time::sleep(ceiling.mul_f64(0.5 + fastrand::f64() / 2.0)));
        loop {
            tokio::select! {
                () = &mut wait => return true,
                request = self.feed.requests.recv() => match request {
                    Some(request) => self.serve(request).await,
                    None => return false,
                },
                () = filled(&mut self.feed.replay, self.log.as_ref()) => self.step_replay().await,
            }
        }
    }

    /// Reads until something is wrong. `None` when the process ends.
    async fn session(&mut self, opened: Opened) -> Option<FeedError> {
        self.begin(&opened).await;
        let Opened { consumer, feed, mut messages, .. } = opened;
        let mut order = Order::after(opened.base);
        let mut link = feed.link.clone();
        let losses = link.borrow_and_update().losses;
        let mut tick = tokio::time::interval(HEAD_INTERVAL);
        let mut deadline = pin!(tokio::time::sleep(SILENCE_MAX));
        let error = loop {
            tokio::select! {
                biased;
                request = self.feed.requests.recv() => self.serve(request?).await,
                message = messages.next() => {
                    let Some(message) = message else { break FeedError::Died };
                    deadline.as_mut().reset(Instant::now() + SILENCE_MAX);
                    if let Err(error) = self.take(&feed, &mut order, &message).await {
                        break error;
                    }
                    let mut taken = 1;
                    let mut broken = None;
                    while taken < BURST && let Some(Some(message)) = messages.next().now_or_never() {
                        taken += 1;
                        if let Err(error) = self.take(&feed, &mut order, &message).await {
                            broken = Some(error);
                            break;
                        }
                    }
                    if let Some(error) = broken {
                        break error;
                    }
                    self.advanced().await;
                }
                // Everything that had arrived before the loss has been taken above: the select is biased.
                changed = link.changed() => match changed {
                    Err(_) => break FeedError::Died,
                    Ok(()) if link.borrow().losses != losses => break FeedError::Disconnected,
                    Ok(()) => {}
                },
                () = filled(&mut self.feed.replay, self.log.as_ref()) => self.step_replay().await,
                _ = tick.tick() => {
                    self.tick().await;
                    if self.stalled && self.reading_since.is_some_and(|since| since.elapsed() >= STALLED_RETRY) {
                        break FeedError::Stalled;
                    }
                }
                () = &mut deadline => break FeedError::Silence,
            }
        };
        if !matches!(error, FeedError::Disconnected | FeedError::Died) {
            api::consumer_delete(&feed.client, self.name(), &consumer).await;
        }
        Some(error)
    }

    /// Brings the log in line with where the consumer starts, and tells clients what that means for them.
    async fn begin(&mut self, opened: &Opened) {
        self.removed = removal_reason(&opened.info.config);
        self.feed.replay.removed_by(self.removed);
        match opened.start {
            Start::Continued => {}
            Start::First => self.begin_log(opened, None).await,
            Start::Skipped => {
                let after = self.log.as_ref().map(|log| log.head().seq);
                self.begin_log(opened, Some((after, self.removed))).await;
            }
            Start::Reset => self.begin_log(opened, Some((None, GapReason::Reset))).await,
        }
        if let (Start::Continued, Some(message)) = (opened.start, &opened.stepped_over) {
            self.step_over(message).await;
        }
        if opened.pending == 0 {
            let last = opened.info.state.last_seq;
            match opened.start {
                // What was stored behind our head meanwhile is gone again.
                Start::Continued => self.declare_removed(last).await,
                _ => self.skip_to(Position { seq: last, time: 0 }),
            }
            self.warmed();
        }
        self.reading_since = Some(Instant::now());
        self.stalled = opened.held_back;
        if !self.stalled {
            self.feed.status.set_up(true);
            self.set_degraded(false).await;
        }
        tracing::info!(stream = self.name(), start = ?opened.start, behind = opened.base.seq, waiting = opened.pending, "Feed open");
        self.advanced().await;
    }

    /// Begins a log behind the consumer's start. With `lost`, clients are told of the hole before it: the last sequence
    /// they can have, where it means anything, and why.
    async fn begin_log(&mut self, opened: &Opened, lost: Option<(Option<u64>, GapReason)>) {
        let log = Log::new(opened.epoch, opened.base, self.feed.opening.history_bytes);
        self.logs += 1;
        self.warm = false;
        self.feed.status.set_serving(false);
        self.warm_at = opened.info.state.last_seq;
        self.feed.fanout.begin(self.feed.index, self.logs, log.cursor(opened.base)).await;
        if let Some((after, reason)) = lost {
            let gap = Gap { after, next: Some(opened.base.seq + 1), reason };
            tracing::warn!(stream = self.name(), after = ?gap.after, next = ?gap.next, reason = reason.label(), "Gap");
            self.feed.encoder.metrics.gap(reason);
            let frame = notice::gap(Some(self.name()), gap, Some(log.cursor(opened.base)));
            let notice = || ToShard::StreamNotice { stream: self.feed.index, frame: frame.clone(), degraded: None };
            self.feed.fanout.to_all(notice).await;
        }
        self.log = Some(log);
        for Missing { shard, ticket, grant, from } in self.feed.replay.clear() {
            let from = match from {
                MissingFrom::Cursor(cursor) => link::From::LastEventId(LastEventId::Cursor(cursor)),
                MissingFrom::After(after) => link::From::Sequence { log: self.logs - 1, after },
            };
            self.early.push_back(StreamRequest::Attach { shard, ticket, grant, from });
        }
    }

    async fn take(
        &mut self,
        feed: &Connection,
        order: &mut Order,
        message: &async_nats::Message,
    ) -> Result<(), FeedError> {
        match order.check(message)? {
            Kind::Control { answer: Some(subject) } => {
                let _ = feed.client.publish(subject, Bytes::new()).await;
            }
            // An idle heartbeat: nothing waits.
            Kind::Control { answer: None } => self.warmed(),
            Kind::Data(delivery) => {
                let at = Position { seq: delivery.stream_seq, time: delivery.time };
                let name = message.headers.as_ref().and_then(|h| h.get(NAME_HEADER)).map(|v| v.as_str());
                let message =
                    Message { subject: &message.subject, name, payload: &message.payload, time: delivery.time };
                self.append(message, at).await;
                if delivery.pending == 0 || at.seq >= self.warm_at {
                    self.warmed();
                }
            }
        }
        Ok(())
    }

    async fn append(&mut self, message: Message<'_>, at: Position) {
        let Some(log) = &self.log else { return };
        let event = self.feed.encoder.event(message, Some(log.cursor(at)));
        self.append_event(Arc::new(event)).await;
    }

    async fn append_event(&mut self, event: Arc<Event>) {
        self.declare_removed(event.at.seq - 1).await;
        let Some(log) = &mut self.log else { return };
        log.append(event.clone());
        self.feed.encoder.metrics.stream_events.add(1);
        self.feed.status.set_head(event.at.seq);
        self.feed.fanout.event(self.feed.index, event).await;
    }

    /// Sequences up to here that the stream has no message for any more: a hole, and nobody can say whose.
    async fn declare_removed(&mut self, upto: u64) {
        let Some(log) = &mut self.log else { return };
        let head = log.head().seq;
        if upto <= head {
            return;
        }
        let at = Position { seq: upto, time: 0 };
        let hole = self.feed.encoder.removed(head, log.cursor(at), self.removed);
        log.append(hole.clone());
        let Frames::Shared(frame) = &hole.frames else { return };
        let notice = || ToShard::StreamNotice { stream: self.feed.index, frame: frame.clone(), degraded: None };
        self.feed.fanout.to_all(notice).await;
    }

    /// The log begins at the stream's end: nothing was there to be read.
    fn skip_to(&mut self, at: Position) {
        if let Some(log) = &mut self.log {
            log.skip_to(at);
        }
    }

    /// Everything that was in the stream when the log began is held now.
    fn warmed(&mut self) {
        self.warm = true;
        self.feed.status.set_serving(true);
    }

    /// After new events or a new start: lets in who was waiting for them.
    async fn advanced(&mut self) {
        if self.warm {
            while let Some(request) = self.early.pop_front() {
                self.serve_warm(request).await;
            }
            self.step_replay().await;
        }
        if !self.ahead.is_empty() {
            self.settle_ahead().await;
        }
    }

    async fn tick(&mut self) {
        self.settle_ahead().await;
        self.step_replay().await;
        if let Some(log) = &self.log {
            self.feed.fanout.head(self.feed.index, log.cursor(log.head())).await;
        }
    }

    async fn set_degraded(&mut self, degraded: bool) {
        if degraded {
            self.feed.status.set_up(false);
        }
        let Some(log) = &self.log else { return };
        if self.degraded == degraded {
            return;
        }
        self.degraded = degraded;
        let id: Option<Cursor> = Some(log.cursor(log.head()));
        let frame: Frame = if degraded { notice::degraded(id) } else { notice::recovered(id) };
        self.feed
            .fanout
            .to_all(|| ToShard::StreamNotice {
                stream: self.feed.index,
                frame: frame.clone(),
                degraded: Some(degraded),
            })
            .await;
    }

    /// A hung server: neither heartbeats nor answers, but the connection looks alive. Makes the client try again.
    async fn unhang(&mut self, error: &FeedError) {
        let unanswered = matches!(error, FeedError::Api(api::ApiError::Unanswered(_)));
        for connection in [self.feed.opening.feed.current(), self.feed.opening.control.current()] {
            if unanswered && connection.link.borrow().connected {
                let _ = connection.client.force_reconnect().await;
            }
        }
    }

    /// A connection that is lost again and again at the same place is lost to the message there, and a client that died is
    /// too. The next opening reads that message in a way that cannot fail.
    fn suspect(&mut self, error: &FeedError, lasted: Duration) {
        let Some(log) = &self.log else { return };
        let head = log.head().seq;
        let before = if self.losses.0 == head && lasted < SHORT_SESSION { self.losses.1 } else { 0 };
        let link_lost = || !self.feed.opening.feed.current().link.borrow().connected;
        self.losses = match error {
            FeedError::Died => (head, LOSSES_AT_POISON),
            FeedError::Disconnected => (head, (before + 1).min(LOSSES_AT_POISON)),
            // The message may come before the consumer's creation has been answered.
            FeedError::Api(api::ApiError::Unanswered(_)) if !self.feed.opening.feed.current().is_alive() => {
                (head, LOSSES_AT_POISON)
            }
            FeedError::Api(api::ApiError::Unanswered(_)) if link_lost() => (head, (before + 1).min(LOSSES_AT_POISON)),
            _ => return,
        };
    }

    async fn step_over(&mut self, message: &api::StoredMessage) {
        self.feed.encoder.metrics.poison.add(1);
        tracing::warn!(
            stream = self.name(),
            seq = message.seq,
            "Message that the NATS client may not survive, read by itself and stepped over"
        );
        let Some(log) = &self.log else { return };
        let cursor = log.cursor(Position { seq: message.seq, time: message.time });
        let event = self.feed.encoder.stored(message, cursor);
        self.append_event(Arc::new(event)).await;
    }
}
