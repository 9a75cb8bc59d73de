//! Reading a range of a stream forwards, in bounded pulls, for a pass of the [`super::ledger`].
//!
//! A task of its own on the stream's history connection, so that a message which ends that connection disturbs neither the
//! live feed nor requests nor other streams. It stops when nobody takes what it reads.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Message, Subscriber};
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::api::{self, StoredMessage};
use super::careful;
use super::connection::{Connection, Kept, Lazy};
use super::consumer::{FeedError, Kind, Order};
use super::encode::{Encoder, NAME_HEADER};
use super::ledger::Filled;
use super::look;
use super::poison::is_poison;
use super::removal::Stock;
use super::start::{self, Known, Start};
use crate::cursor::{Cursor, Epoch, Position};
use crate::event::Event;
use crate::frame;

/// Messages of one pull.
const PULL_MESSAGES: usize = 256;
/// Bytes of one pull; a larger message is pulled by itself.
const PULL_BYTES: usize = 1024 * 1024;
/// Time for the next message of a pull.
const PULL_PATIENCE: Duration = Duration::from_secs(3);
/// Wait after a failure, doubled with each that follows at the same place.
const RETRY: Duration = Duration::from_millis(100);
const RETRY_DOUBLED_MAX: u32 = 4;
/// Pulls that end with nothing, although there is something, before it is read by requests.
const EMPTY_PULLS_MAX: u32 = 3;

/// How passes over one stream are read.
#[derive(Debug, Clone)]
pub(super) struct Reader {
    pub(super) stream: String,
    /// The connection that reads.
    pub(super) history: Rc<Lazy>,
    /// The connection for requests.
    pub(super) control: Kept,
    pub(super) encoder: Encoder,
    /// What is held of the stream now.
    pub(super) known: Rc<Cell<Option<Known>>>,
}

/// Why a pass stops early.
enum Stop {
    /// Nobody takes what is read.
    Unwanted,
    /// The stream is another one now; the live feed tells everybody.
    OtherStream,
    Failed(FeedError),
}

impl From<FeedError> for Stop {
    fn from(error: FeedError) -> Self {
        Self::Failed(error)
    }
}

impl From<api::ApiError> for Stop {
    fn from(error: api::ApiError) -> Self {
        Self::Failed(error.into())
    }
}

impl Reader {
    /// Begins to read at a sequence.
    pub(super) fn start(&self, epoch: Epoch, from: u64) -> mpsc::Receiver<Filled> {
        // One pull ahead of whoever takes them.
        let (sender, filled) = mpsc::channel(1);
        let pass = Pass { reader: self.clone(), epoch, next: from, stock: None, sender };
        tokio::task::spawn_local(pass.run());
        filled
    }
}

struct Pass {
    reader: Reader,
    epoch: Epoch,
    next: u64,
    /// How full the stream was, until that has been handed over.
    stock: Option<Stock>,
    sender: mpsc::Sender<Filled>,
}

impl Pass {
    async fn run(mut self) {
        let mut failures = 0;
        let closed = self.sender.clone();
        loop {
            let before = self.next;
            let stop = match self.read().await {
                Ok(()) => return,
                Err(Stop::Failed(error)) => {
                    tracing::warn!(stream = self.reader.stream, next = self.next, %error, "Replay interrupted");
                    tokio::select! {
                        stepped = self.step_over() => stepped.err(),
                        () = closed.closed() => return,
                    }
                }
                Err(stop) => Some(stop),
            };
            match stop {
                Some(Stop::Unwanted) => return,
                // The live feed will notice within seconds; another pass before that would find the same.
                Some(Stop::OtherStream) => return tokio::time::sleep(Duration::from_secs(1)).await,
                Some(Stop::Failed(_)) | None => {
                    failures = if self.next == before { (failures + 1).min(RETRY_DOUBLED_MAX) } else { 0 };
                    tokio::time::sleep(RETRY * 2u32.pow(failures)).await;
                }
            }
            if self.sender.is_closed() {
                return;
            }
        }
    }

    /// Reads until the stream's end.
    async fn read(&mut self) -> Result<(), Stop> {
        // NATS may be away for long: whoever is not wanted any more must not wait for it.
        let closed = self.sender.clone();
        let (control, mut history) = tokio::select! {
            connected = self.connected() => connected?,
            () = closed.closed() => return Err(Stop::Unwanted),
        };
        let client = history.client.clone();
        let losses = history.link.borrow_and_update().losses;
        let consumer = api::pull_consumer_create(&client, &self.reader.stream, self.next).await?;
        let mut order = Order::after(Position { seq: self.next - 1, time: 0 });
        let lost = async {
            // An error is the death of the client.
            let _ = history.link.wait_for(|link| link.losses != losses).await;
        };
        // A message that ends the connection is to be noticed at once, not by silence.
        let result = tokio::select! {
            result = self.pull_all(&client, &consumer.name, &mut order) => result,
            () = lost => Err(FeedError::Disconnected.into()),
            () = closed.closed() => Err(Stop::Unwanted),
        };
        // On the connection that is not lost over it, and without waiting for the answer.
        api::consumer_forget(control, self.reader.stream.clone(), consumer.name);
        result
    }

    /// Both connections, with the stream still the one that the pass is for.
    async fn connected(&mut self) -> Result<(Client, Connection), Stop> {
        let control = self.reader.control.connected().await.client;
        self.confirm(&control).await?;
        let history = self.reader.history.kept().await.map_err(|e| FeedError::Client(e.to_string()))?;
        Ok((control, history.connected().await))
    }

    /// Makes sure that what is read is of the life that the pass is for.
    async fn confirm(&mut self, control: &Client) -> Result<(), Stop> {
        // With what is held now, not when the pass began: up to there what it reads must be of the same life.
        let known = self.reader.known.get().filter(|known| known.epoch == self.epoch).ok_or(Stop::OtherStream)?;
        let info = api::stream_info(control, &self.reader.stream).await?;
        let seen = look::compare(control, &self.reader.stream, &info, &known).await?;
        self.stock = Some(look::stock(control, &info));
        if start::decide(Some(known), seen) == Start::Continued { Ok(()) } else { Err(Stop::OtherStream) }
    }

    async fn pull_all(&mut self, client: &Client, consumer: &str, order: &mut Order) -> Result<(), Stop> {
        let inbox = client.new_inbox();
        let subscribed = client.subscribe(format!("{inbox}.*")).await;
        let mut messages = subscribed.map_err(|e| FeedError::Client(e.to_string()))?;
        let (mut one, mut empty) = (false, 0);
        for number in 0u64.. {
            let (batch, bytes) = if one { (1, 0) } else { (PULL_MESSAGES, PULL_BYTES) };
            // A status that comes late must not be taken for the answer to the next pull.
            let reply = format!("{inbox}.{number}");
            api::pull(client, &self.reader.stream, consumer, &reply, batch, bytes).await?;
            let mut events = Vec::new();
            let pulled = self.take(&mut messages, &reply, order, batch, &mut events).await;
            let nothing = events.is_empty();
            empty = if nothing { empty + 1 } else { 0 };
            // Also before an error.
            self.send(events, None).await?;
            one = match pulled? {
                Pulled::Whole => false,
                Pulled::TooLarge => true,
                // Newer servers also end a pull early that they could have filled.
                Pulled::Ended if nothing => match self.end().await? {
                    Some(last) => return self.send(Vec::new(), Some(last)).await,
                    None if empty >= EMPTY_PULLS_MAX => return Err(FeedError::StandsStill.into()),
                    None => false,
                },
                Pulled::Ended => false,
            };
        }
        Ok(())
    }

    /// The stream's last sequence, if its leader knows no message behind what was read.
    async fn end(&self) -> Result<Option<u64>, Stop> {
        let control = self.reader.control.connected().await.client;
        let last = api::stream_info(&control, &self.reader.stream).await?.state.last_seq;
        let more = api::message_from(&control, &self.reader.stream, self.next).await?;
        Ok(more.is_none().then_some(last))
    }

    async fn send(&mut self, events: Vec<Arc<Event>>, end: Option<u64>) -> Result<(), Stop> {
        if events.is_empty() && end.is_none() {
            return Ok(());
        }
        let behind = events.last().map(|event| event.at.seq + 1);
        let stock = self.stock.take();
        self.sender.send(Filled { events, end, stock }).await.map_err(|_| Stop::Unwanted)?;
        // Only what has been handed over is behind us: a pull that is given up half-way is read again.
        self.next = behind.unwrap_or(self.next);
        Ok(())
    }

    async fn take(
        &mut self,
        messages: &mut Subscriber,
        reply: &str,
        order: &mut Order,
        batch: usize,
        events: &mut Vec<Arc<Event>>,
    ) -> Result<Pulled, FeedError> {
        while events.len() < batch {
            let next = tokio::time::timeout(PULL_PATIENCE, messages.next()).await;
            let message = next.map_err(|_| FeedError::Silence)?.ok_or(FeedError::Died)?;
            // A publisher can send a status, but not without the reply of a delivery.
            if message.reply.is_none() {
                match message.status.map(|s| s.as_u16()) {
                    _ if message.subject.as_str() != reply => continue,
                    Some(404 | 408) => return Ok(Pulled::Ended),
                    Some(409) => return Ok(Pulled::TooLarge),
                    _ => return Err(FeedError::Order("a pull was answered with neither message nor end")),
                }
            }
            if let Kind::Data(delivery) = order.check(&message)? {
                let at = Position { seq: delivery.stream_seq, time: delivery.time };
                events.push(self.event(&message, at));
            }
        }
        Ok(Pulled::Whole)
    }

    fn event(&self, message: &Message, at: Position) -> Arc<Event> {
        let name = message.headers.as_ref().and_then(|h| h.get(NAME_HEADER)).map(|v| v.as_str());
        let message = frame::Message { subject: &message.subject, name, payload: &message.payload, time: at.time };
        Arc::new(self.reader.encoder.event(message, Some(Cursor { epoch: self.epoch, at })))
    }

    /// Reads on in a way that cannot fail, as much as a pull that was lost may have had, and again as much behind poison: where
    /// one message is, others often are.
    async fn step_over(&mut self) -> Result<(), Stop> {
        let control = self.reader.control.connected().await.client;
        let (mut width, mut clean) = (careful::WIDTH_FIRST, 0);
        while clean < PULL_MESSAGES {
            let messages = careful::window(&control, &self.reader.stream, self.next, width).await?.messages;
            if messages.is_empty() {
                return Ok(());
            }
            // Afterwards: what was read before the stream became another one would not be noticed otherwise.
            self.confirm(&control).await?;
            width = careful::width_after(&messages);
            clean = if messages.iter().any(is_poison) { 0 } else { clean + messages.len() };
            let events = messages.iter().map(|message| self.stored(message)).collect();
            self.send(events, None).await?;
        }
        Ok(())
    }

    fn stored(&self, message: &StoredMessage) -> Arc<Event> {
        Arc::new(self.reader.encoder.stored(message, Cursor { epoch: self.epoch, at: message.at() }))
    }
}

/// How a pull ended.
enum Pulled {
    /// With as many messages as were asked for.
    Whole,
    /// The next message is larger than a pull may be.
    TooLarge,
    /// The server had nothing more just then.
    Ended,
}
