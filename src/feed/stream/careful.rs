//! Reading on by single requests, while poison keeps coming or a consumer stands still.

use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::time::Interval;

use super::{HEAD_INTERVAL, State};
use crate::cursor::Cursor;
use crate::feed::api::ApiError;
use crate::feed::careful::{Batch, Next};
use crate::feed::consumer::FeedError;
use crate::feed::poison::is_poison;
use crate::feed::start::{Begun, Known, Start};
use crate::feed::suspicion::Care;

impl State {
    /// Whether what stands behind the head must be read by requests.
    pub(super) fn is_careful(&mut self) -> bool {
        if self.head().is_some_and(|head| self.suspicion.is_behind(head.seq)) {
            self.suspicion.settled();
            self.care.get_or_insert_with(|| Care::new(Instant::now()));
        }
        self.care.is_some()
    }

    /// Reads by requests until a consumer may be tried again, or something is wrong. `None` when the process ends.
    pub(super) async fn read_carefully(&mut self) -> Option<Result<(), FeedError>> {
        tracing::warn!(
            stream = self.name(),
            behind = self.head().map(|head| head.seq),
            "Reading message by message: the NATS client may not survive what comes"
        );
        let result = self.read_batches().await?;
        // With NATS away nothing is known; everything else is found out by opening a consumer.
        if !matches!(result, Err(FeedError::Api(ApiError::Unanswered(_)))) {
            let poison = self.care.take().map(|care| care.poison());
            tracing::info!(stream = self.name(), poison, "Reading by a consumer again");
        }
        Some(result)
    }

    async fn read_batches(&mut self) -> Option<Result<(), FeedError>> {
        let mut next = Next::first();
        let mut begun = false;
        let mut told = Instant::now();
        let mut tick = tokio::time::interval(HEAD_INTERVAL);
        while let Some(known) = self.feed.ledger.known() {
            let batch = match self.batch(next, known, &mut tick).await? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(error)),
            };
            if !std::mem::replace(&mut begun, true) {
                self.begin_carefully(&batch, known).await;
            }
            next = Next::after(&batch);
            let last_seq = batch.last_seq;
            // A hole that grows is declared as often as a heartbeat of a consumer would tell of it.
            let declare = told.elapsed() >= HEAD_INTERVAL;
            if declare {
                told = Instant::now();
            }
            self.take_batch(batch, known, declare).await;
            let waiting = last_seq.saturating_sub(self.head().map_or(0, |head| head.seq));
            if self.care.as_ref().is_none_or(|care| care.is_over(waiting, Instant::now())) {
                break;
            }
        }
        Some(Ok(()))
    }

    /// The next batch, while requests are served. `None` when the process ends.
    async fn batch(&mut self, next: Next, known: Known, tick: &mut Interval) -> Option<Result<Batch, FeedError>> {
        let control = self.feed.opening.control.clone();
        let mut read = pin!(next.read(control.clone(), self.name().to_owned(), known));
        loop {
            tokio::select! {
                biased;
                request = self.feed.requests.recv() => self.serve(request?).await,
                batch = &mut read => return Some(batch),
                aside = self.asides.next(&self.feed.ledger) => {
                    if let Err(error) = self.aside(aside).await {
                        return Some(Err(error));
                    }
                }
                _ = tick.tick() => {
                    if !control.current().link.borrow().connected {
                        self.degraded().await;
                    }
                    self.tick().await;
                }
            }
        }
    }

    async fn begin_carefully(&mut self, batch: &Batch, known: Known) {
        let (start, epoch, base, last_seq) = (Start::Continued, known.epoch, known.head, batch.last_seq);
        let begun = Begun { start, epoch, base, last_seq, end: None, stock: batch.stock };
        self.feed.ledger.begin(&begun, Instant::now());
        self.feed.ledger.set_degraded(false);
        self.feed.status.set_up(true);
        self.carry_out().await;
    }

    async fn take_batch(&mut self, batch: Batch, known: Known, declare: bool) {
        let now = Instant::now();
        self.feed.ledger.restock(batch.stock);
        for message in &batch.messages {
            self.note(is_poison(message), message.seq);
            let id = Cursor { epoch: known.epoch, at: message.at() };
            let event = Arc::new(self.feed.encoder.stored(message, id));
            self.feed.ledger.take(event, batch.last_seq.saturating_sub(message.seq), now);
            self.carry_out().await;
        }
        if batch.idle {
            self.feed.ledger.idle(batch.end.filter(|_| declare), now);
        }
        self.advanced().await;
    }

    fn note(&mut self, is_poison: bool, seq: u64) {
        let now = Instant::now();
        if let Some(care) = &mut self.care {
            care.read(is_poison, now);
        }
        if is_poison {
            self.suspicion.confirmed(now);
            self.feed.encoder.metrics.poison.add(1);
            tracing::debug!(stream = self.name(), seq, "Message that the NATS client would not survive");
        }
    }
}
