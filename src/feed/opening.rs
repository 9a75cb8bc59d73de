//! Opening the push consumer of a stream: one that starts exactly where it must, proven.
//!
//! The stream's leader is asked what there is, [`super::start`] decides, and after the consumer has been created the leader
//! is asked once more: a stream can become another one between two requests. What the consumer sends is checked by
//! [`super::consumer`]. Background and experiments: `docs/nats.md`.

use std::collections::BTreeSet;

use async_nats::{Client, Subscriber};

use super::api::{self, ConsumerInfo, StreamInfo};
use super::connection::{Connection, Kept};
use super::consumer::FeedError;
use super::look;
use super::removal::Stock;
use super::start::{self, Known, RECENT, Start};
use crate::config;
use crate::cursor::{Epoch, Position};

/// Cost we assume of a message in the history on top of what the server says it stores, when sizing the first read.
const FRAME_OVERHEAD_BYTES: u64 = 256;

/// A consumer that starts exactly where it was asked to.
#[derive(Debug)]
pub struct Opened {
    /// The stream as it was just after.
    pub info: StreamInfo,
    /// How full it was then.
    pub stock: Stock,
    /// Which life of the stream.
    pub epoch: Epoch,
    /// Whether the log must begin anew after [`Opened::base`].
    pub start: Start,
    /// The position before the first message that will come.
    pub base: Position,
    /// Messages already waiting.
    pub pending: u64,
    /// The newest sequence given out, where no message stands behind `base`.
    pub end: Option<u64>,
    /// The consumer's name.
    pub consumer: String,
    /// The server will stall under load: our signs of flow control do not reach it. Only looked at where it did before.
    pub held_back: bool,
    /// Its messages.
    pub messages: Subscriber,
    /// The connection it is read from.
    pub feed: Connection,
    /// How often that had been lost before the consumer was created.
    pub losses: u64,
}

/// Everything needed to open a consumer, owned, so that requests can be served meanwhile.
#[derive(Debug, Clone)]
pub struct Opening {
    /// The stream's name.
    pub stream: String,
    /// What the configuration says of it, if anything.
    pub declared: Option<config::Stream>,
    /// The connection that will read.
    pub feed: Kept,
    /// The connection for requests.
    pub control: Kept,
    /// What is held already.
    pub known: Option<Known>,
    /// The last consumer stalled.
    pub stalled: bool,
    /// How much history a first read may fill, in bytes.
    pub history_bytes: usize,
}

/// Opens a checked consumer. Waits for the connections, without limit; each request is bounded.
pub async fn open(opening: Opening) -> Result<Opened, FeedError> {
    let feed = opening.feed.connected().await;
    let control = opening.control.connected().await.client;
    let info = opening.stream_info(&control).await?;
    if info.config.retention != "limits" {
        return Err(FeedError::Retention(info.config.retention));
    }
    let plan = opening.plan(&control, &info).await?;
    opening.subscribe(feed, &control, info, plan).await
}

/// Where to start, before the server has had its say.
struct Plan {
    start: Start,
    base: Position,
}

/// What is known once the consumer is there.
struct Proof {
    info: StreamInfo,
    stock: Stock,
    base: Position,
    end: Option<u64>,
    held_back: bool,
}

impl Opening {
    async fn stream_info(&self, control: &Client) -> Result<StreamInfo, FeedError> {
        match (api::stream_info(control, &self.stream).await, &self.declared) {
            (Err(error), Some(create)) if create.create && error.is_not_found() => {
                tracing::info!(stream = self.stream, "Stream created");
                Ok(api::stream_create(control, create).await?)
            }
            (Ok(info), Some(declared)) => {
                let sorted = |subjects: &[String]| subjects.iter().cloned().collect::<BTreeSet<_>>();
                if !declared.subjects.is_empty() && sorted(&declared.subjects) != sorted(&info.config.subjects) {
                    let (configured, actual) = (&declared.subjects, &info.config.subjects);
                    tracing::warn!(
                        stream = self.stream,
                        ?configured,
                        ?actual,
                        "Stream has other subjects than configured"
                    );
                }
                Ok(info)
            }
            (answer, None) => Ok(answer?),
            (Err(error), Some(_)) => Err(error.into()),
        }
    }

    async fn plan(&self, control: &Client, info: &StreamInfo) -> Result<Plan, FeedError> {
        let Some(known) = self.known else {
            return Ok(Plan { start: Start::First, base: self.first_base(control, info).await? });
        };
        let seen = look::compare(control, &self.stream, info, &known).await?;
        let start = start::decide(Some(known), seen);
        let base = match start {
            Start::Continued => known.head,
            Start::First | Start::Reset => self.first_base(control, info).await?,
            Start::RolledBack if known.time == 0 => {
                self.position(control, known.head.seq.min(info.state.last_seq)).await?
            }
            Start::RolledBack => self.last_until(control, info, known.time).await?,
        };
        Ok(Plan { start, base })
    }

    /// The newest position whose message is not younger than `time`: what was stored after a store went back in time is new
    /// to everybody. Asks for some twenty messages.
    async fn last_until(&self, control: &Client, info: &StreamInfo, time: u64) -> Result<Position, FeedError> {
        let (mut low, mut high) = (info.state.first_seq.max(1), info.state.last_seq + 1);
        let mut last = Position { seq: low - 1, time: 0 };
        while low < high {
            let middle = u64::midpoint(low, high);
            match api::message_from(control, &self.stream, middle).await? {
                Some(message) if message.time <= time => {
                    last = message.at();
                    low = message.seq + 1;
                }
                _ => high = middle,
            }
        }
        Ok(last)
    }

    /// The position to start behind when nothing is held: as far back as the history has room for.
    async fn first_base(&self, control: &Client, info: &StreamInfo) -> Result<Position, FeedError> {
        let state = &info.state;
        let each = state.bytes.checked_div(state.messages).unwrap_or(0) + FRAME_OVERHEAD_BYTES;
        let room = u64::try_from(self.history_bytes).unwrap_or(u64::MAX) / each;
        let oldest = state.first_seq.saturating_sub(1).min(state.last_seq);
        let seq = state.last_seq.saturating_sub(room).max(oldest);
        self.position(control, seq).await
    }

    /// A sequence with the time of the message there, if there is one.
    async fn position(&self, control: &Client, seq: u64) -> Result<Position, FeedError> {
        if seq == 0 {
            return Ok(Position::START);
        }
        let message = api::message_at(control, &self.stream, seq).await?;
        Ok(message.map_or(Position { seq, time: 0 }, |message| message.at()))
    }

    async fn subscribe(
        self,
        feed: Connection,
        control: &Client,
        info: StreamInfo,
        plan: Plan,
    ) -> Result<Opened, FeedError> {
        let losses = feed.link.borrow().losses;
        let client = &feed.client;
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await.map_err(|e| FeedError::Client(e.to_string()))?;
        // Its first message may end the connection, or the client, before the answer comes.
        let mut link = feed.link.clone();
        let consumer = tokio::select! {
            created = api::consumer_create(client, &self.stream, &inbox, plan.base.seq + 1) => created?,
            lost = link.wait_for(|link| link.losses != losses) => {
                return Err(if lost.is_ok() { FeedError::Disconnected } else { FeedError::Died });
            }
        };
        let proof = match self.prove(&feed, control, &info, &plan, &consumer).await {
            Ok(proof) => proof,
            Err(error) => {
                api::consumer_forget(control.clone(), self.stream, consumer.name);
                return Err(error);
            }
        };
        let Proof { info, stock, base, end, held_back } = proof;
        let (epoch, start) = (Epoch::of(&self.stream, &info.created), plan.start);
        let (pending, consumer) = (consumer.num_pending, consumer.name);
        Ok(Opened { info, stock, epoch, start, base, pending, end, consumer, held_back, messages, feed, losses })
    }

    /// Makes sure that a consumer starts where it was asked to, in the stream that was looked at.
    async fn prove(
        &self,
        feed: &Connection,
        control: &Client,
        before: &StreamInfo,
        plan: &Plan,
        consumer: &ConsumerInfo,
    ) -> Result<Proof, FeedError> {
        let base = start::clamped(plan.base, consumer.delivered.stream_seq)
            .ok_or(FeedError::Order("the consumer starts before the place that was asked for"))?;
        // A current server lets a consumer wait beyond the end of a stream that has become another one meanwhile.
        let info = api::stream_info(control, &self.stream).await?;
        let stock = look::stock(control, &info);
        let epoch = Epoch::of(&self.stream, &before.created);
        let planned = Known { epoch, head: plan.base, time: plan.base.time, recent: [Position::START; RECENT] };
        let seen = look::compare(control, &self.stream, &info, &planned).await?;
        if start::decide(Some(planned), seen) != Start::Continued {
            return Err(FeedError::Order("the stream became another one while the consumer was created"));
        }
        let held_back = self.stalled && feed.is_denied(api::flow_control_probe(&self.stream)).await;
        let end = match consumer.num_pending {
            0 => self.end_behind(control, &info, base).await?,
            _ => None,
        };
        Ok(Proof { info, stock, base, end, held_back })
    }

    /// The newest sequence given out, if the leader knows no message behind `base`: a replica that the consumer reads may
    /// only be late.
    async fn end_behind(&self, control: &Client, info: &StreamInfo, base: Position) -> Result<Option<u64>, FeedError> {
        let last = info.state.last_seq;
        if last <= base.seq {
            return Ok(Some(last));
        }
        let next = api::message_from(control, &self.stream, base.seq + 1).await?;
        Ok(next.is_none().then_some(last))
    }
}
