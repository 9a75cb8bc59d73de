//! The feed of one stream: reads it once and serves its clients.
//!
//! One task does all of it. What clients are given is decided by the [`ledger`](super::ledger), without I/O; here its orders are
//! carried out, the consumer is read, and a message that ends connections is found out. It keeps serving resumes from memory
//! while NATS is away. How a consumer is opened and checked is [`super::consumer`]'s business.

mod asides;
mod careful;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::asides::{Aside, Asides};
use super::api;
use super::connection::Connection;
use super::consumer::{FeedError, Kind, Order, SILENCE_MAX};
use super::encode::{Encoder, NAME_HEADER};
use super::fanout::Fanout;
use super::ledger::{Ledger, Output};
use super::opening::{self, Opened, Opening};
use super::pass::Reader;
use super::standstill::Standstill;
use super::start::{Begun, LEADER_PATIENCE, Start};
use super::suspicion::{Care, Suspicion};
use crate::cursor::{Cursor, Position};
use crate::frame::Message;
use crate::link::{FeedStatus, StreamRequest};

/// Wait between attempts to open the consumer, before jitter.
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How often shards without a new event learn where the head is.
const HEAD_INTERVAL: Duration = Duration::from_secs(1);
/// Messages taken from the subscription before requests are looked at again.
const BURST: usize = 256;
/// While signs of flow control do not reach the server, it is asked this often whether they do now.
const STALLED_RETRY: Duration = Duration::from_secs(5);

/// The feed of one stream.
#[derive(Debug)]
pub struct StreamFeed {
    /// Index in the route table.
    pub index: u8,
    /// How to open it; `known` is filled in from the ledger.
    pub opening: Opening,
    /// Builds frames.
    pub encoder: Encoder,
    /// What is held and who waits for it.
    pub ledger: Ledger,
    /// Reads what is not held any more.
    pub reader: Reader,
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
    asides: Asides,
    /// Since when the stream seems to have gone back.
    went_back: Option<Instant>,
    /// Signs of flow control do not reach the server: it stalls under load, so clients stay degraded.
    stalled: bool,
    standstill: Standstill,
    suspicion: Suspicion,
    /// What stands behind the head is read by requests.
    care: Option<Care>,
}

impl StreamFeed {
    /// Runs until the process ends.
    pub async fn run(self) {
        let (control, stream) = (self.opening.control.clone(), self.opening.stream.clone());
        let asides = Asides::new(control, stream, &self.encoder);
        State {
            feed: self,
            asides,
            went_back: None,
            stalled: false,
            standstill: Standstill::at(0, std::time::Instant::now()),
            suspicion: Suspicion::default(),
            care: None,
        }
        .run()
        .await;
    }
}

impl State {
    async fn run(mut self) {
        let mut attempt = 0u32;
        loop {
            if self.is_careful() {
                let Some(result) = self.read_carefully().await else { return };
                self.feed.ledger.lost();
                attempt = if result.is_ok() { 0 } else { attempt + 1 };
                if let Err(error) = result {
                    tracing::warn!(stream = self.name(), %error, "Feed interrupted");
                    if self.is_careful() && !self.wait_for_nats(&error, attempt).await {
                        return;
                    }
                }
                continue;
            }
            match self.open().await {
                Some(Ok(opened)) if self.is_too_early(&opened) => {
                    api::consumer_delete(&opened.feed.client, self.name(), &opened.consumer).await;
                    self.degraded().await;
                    attempt += 1;
                    if !self.pause(attempt).await {
                        return;
                    }
                }
                Some(Ok(opened)) => {
                    attempt = 0;
                    let began = Instant::now();
                    let Some(error) = self.session(opened).await else { return };
                    self.feed.ledger.lost();
                    tracing::warn!(stream = self.name(), %error, "Feed interrupted");
                    self.suspect(&error, began.elapsed());
                    if matches!(error, FeedError::Stalled) {
                        self.stalled = true;
                        self.degraded().await;
                    }
                }
                Some(Err(error)) => {
                    tracing::warn!(stream = self.name(), %error, "Feed not open");
                    self.suspect(&error, Duration::ZERO);
                    if self.is_careful() {
                        continue;
                    }
                    attempt += 1;
                    if !self.wait_for_nats(&error, attempt).await {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    /// Whether the stream seems to have gone back, but its leader may only be new.
    fn is_too_early(&mut self, opened: &Opened) -> bool {
        if opened.start != Start::RolledBack || opened.info.config.num_replicas <= 1 {
            self.went_back = None;
            return false;
        }
        self.went_back.get_or_insert_with(Instant::now).elapsed() < LEADER_PATIENCE
    }

    fn name(&self) -> &str {
        &self.feed.opening.stream
    }

    fn head(&self) -> Option<Position> {
        self.feed.ledger.known().map(|known| known.head)
    }

    /// Opens a consumer while requests are served. `None` when the process ends.
    async fn open(&mut self) -> Option<Result<Opened, FeedError>> {
        self.feed.opening.known = self.feed.ledger.known();
        self.feed.opening.stalled = self.stalled;
        let opening = self.feed.opening.clone();
        let mut open = pin!(opening::open(opening));
        let mut tick = tokio::time::interval(HEAD_INTERVAL);
        loop {
            tokio::select! {
                opened = &mut open => return Some(opened),
                request = self.feed.requests.recv() => self.serve(request?).await,
                aside = self.asides.next(&self.feed.ledger) => drop(self.aside(aside).await),
                _ = tick.tick() => {
                    if !self.feed.opening.feed.current().link.borrow().connected {
                        self.degraded().await;
                    }
                    self.tick().await;
                }
            }
        }
    }

    /// Tells clients, and waits before the next attempt; false when the process ends.
    async fn wait_for_nats(&mut self, error: &FeedError, attempt: u32) -> bool {
        self.degraded().await;
        self.unhang(error).await;
        self.pause(attempt).await
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
                aside = self.asides.next(&self.feed.ledger) => drop(self.aside(aside).await),
            }
        }
    }

    /// Reads until something is wrong. `None` when the process ends.
    async fn session(&mut self, opened: Opened) -> Option<FeedError> {
        let began = Instant::now();
        self.begin(&opened).await;
        self.standstill = Standstill::at(self.head().map_or(0, |head| head.seq), std::time::Instant::now());
        let Opened { consumer, feed, losses, mut messages, .. } = opened;
        let mut order = Order::after(opened.base);
        let mut link = feed.link.clone();
        // A loss since the consumer was created counts: its first message may have caused it.
        link.mark_changed();
        let mut tick = tokio::time::interval(HEAD_INTERVAL);
        let mut deadline = pin!(tokio::time::sleep(SILENCE_MAX));
        let error = loop {
            tokio::select! {
                biased;
                request = self.feed.requests.recv() => self.serve(request?).await,
                message = messages.next() => {
                    let Some(message) = message else { break FeedError::Died };
                    deadline.as_mut().reset(Instant::now() + SILENCE_MAX);
                    // Once for what has come by now.
                    let now = std::time::Instant::now();
                    if let Err(error) = self.take(&feed, &mut order, &message, now).await {
                        break error;
                    }
                    let mut taken = 1;
                    let mut broken = None;
                    while taken < BURST && let Some(Some(message)) = messages.next().now_or_never() {
                        taken += 1;
                        if let Err(error) = self.take(&feed, &mut order, &message, now).await {
                            broken = Some(error);
                            break;
                        }
                    }
                    self.flush().await;
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
                aside = self.asides.next(&self.feed.ledger) => {
                    if let Err(error) = self.aside(aside).await {
                        break error;
                    }
                }
                _ = tick.tick() => {
                    self.tick().await;
                    self.look_when_still();
                    if self.stalled && began.elapsed() >= STALLED_RETRY {
                        break FeedError::Stalled;
                    }
                }
                () = &mut deadline => break FeedError::Silence,
            }
        };
        api::consumer_forget(self.feed.opening.control.current().client, self.name().to_owned(), consumer);
        Some(error)
    }

    async fn begin(&mut self, opened: &Opened) {
        let (start, base, pending) = (opened.start, opened.base, opened.pending);
        let (end, last_seq) = (opened.end, opened.info.state.last_seq);
        let begun = Begun { start, epoch: opened.epoch, base, last_seq, end, stock: opened.stock };
        self.feed.ledger.begin(&begun, std::time::Instant::now());
        self.stalled = opened.held_back;
        if !self.stalled {
            self.feed.ledger.set_degraded(false);
            self.feed.status.set_up(true);
        }
        self.carry_out().await;
        tracing::info!(stream = self.name(), ?start, behind = base.seq, waiting = pending, "Feed open");
        self.advanced().await;
    }

    async fn take(
        &mut self,
        feed: &Connection,
        order: &mut Order,
        message: &async_nats::Message,
        now: std::time::Instant,
    ) -> Result<(), FeedError> {
        match order.check(message)? {
            Kind::Control { answer: Some(subject), .. } => {
                let _ = feed.client.publish(subject, Bytes::new()).await;
            }
            Kind::Control { answer: None, idle_at } => {
                self.feed.ledger.idle(idle_at, now);
                self.carry_out().await;
            }
            Kind::Data(delivery) => {
                let at = Position { seq: delivery.stream_seq, time: delivery.time };
                let name = message.headers.as_ref().and_then(|h| h.get(NAME_HEADER)).map(|v| v.as_str());
                let message =
                    Message { subject: &message.subject, name, payload: &message.payload, time: delivery.time };
                let Some(epoch) = self.feed.ledger.epoch() else { return Ok(()) };
                let event = self.feed.encoder.event(message, Some(Cursor { epoch, at }));
                self.feed.ledger.take(Arc::new(event), delivery.pending, now);
                self.carry_out_in_burst().await;
            }
        }
        Ok(())
    }

    /// Does what the ledger orders, until it has no more.
    async fn carry_out(&mut self) {
        self.carry_out_in_burst().await;
        self.flush().await;
    }

    /// Sends what is held for the shards.
    async fn flush(&mut self) {
        self.feed.fanout.flush(self.feed.index).await;
    }

    /// The same, but events may be held: more are at hand.
    async fn carry_out_in_burst(&mut self) {
        loop {
            while let Some(output) = self.feed.ledger.output() {
                match output {
                    Output::Read { pass, epoch, from } => self.asides.fill(pass, self.feed.reader.start(epoch, from)),
                    Output::Look { known, at } => self.asides.look(known, at),
                    Output::ReadValues(of) => {
                        self.feed.encoder.metrics.last_value_reads.add(1);
                        self.asides.read_values(of);
                    }
                    output => self.feed.fanout.carry_out(self.feed.index, output).await,
                }
            }
            if !self.feed.ledger.next_turn(std::time::Instant::now(), self.feed.requests.is_empty()) {
                break;
            }
        }
        // A reader ends when its pass does.
        self.asides.retain(&self.feed.ledger);
    }

    async fn serve(&mut self, request: StreamRequest) {
        let settled = self.feed.requests.is_empty();
        self.feed.ledger.request(request, std::time::Instant::now(), settled);
        self.carry_out().await;
    }

    /// Takes what was read beside the consumer; an error is one of the consumer's.
    async fn aside(&mut self, aside: Aside) -> Result<(), FeedError> {
        let (now, settled) = (std::time::Instant::now(), self.feed.requests.is_empty());
        let mut result = Ok(());
        match aside {
            Aside::Filled(pass, filled) => self.feed.ledger.filled(pass, filled, now, settled),
            Aside::Values((of, values)) => self.feed.ledger.values_read(&of, values, now),
            Aside::Looked(looked) => {
                let looked = looked.ok();
                if let (Some(known), Some(looked)) = (self.feed.ledger.known(), &looked)
                    && self.standstill.looked(known, looked, now)
                {
                    result = Err(FeedError::StandsStill);
                }
                if !self.feed.ledger.looked(looked) {
                    result = Err(FeedError::Order("the stream is another one now"));
                }
            }
        }
        self.carry_out().await;
        result
    }

    fn look_when_still(&mut self) {
        let Some(known) = self.feed.ledger.known() else { return };
        if self.standstill.wants_look(known.head.seq, std::time::Instant::now()) && !self.asides.is_looking() {
            self.asides.look(known, 0);
        }
    }

    /// After new events or a new start: lets in who was waiting for them.
    async fn advanced(&mut self) {
        self.feed.reader.known.set(self.feed.ledger.known());
        self.feed.ledger.advanced(std::time::Instant::now(), self.feed.requests.is_empty());
        self.carry_out().await;
    }

    async fn tick(&mut self) {
        self.feed.ledger.tick(std::time::Instant::now(), self.feed.requests.is_empty());
        self.carry_out().await;
    }

    /// NATS is away.
    async fn degraded(&mut self) {
        self.feed.status.set_up(false);
        self.feed.ledger.set_degraded(true);
        self.carry_out().await;
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

    fn suspect(&mut self, error: &FeedError, lasted: Duration) {
        let Some(head) = self.head() else { return };
        self.suspicion.ended(error, head.seq, lasted, std::time::Instant::now());
    }
}
