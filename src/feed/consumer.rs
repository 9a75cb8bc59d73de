//! One push consumer per stream, opened and checked by us.
//!
//! [`open`] looks at the stream, decides where to start and proves that the server starts exactly there. [`Order`] then
//! checks every message and heartbeat: consumer sequences without a hole, stream sequences rising. Any doubt is an error,
//! and the answer to every error is to open again behind the last event that was taken. Background and experiments:
//! `docs/nats.md`.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::{Client, HeaderMap, Message, Subscriber};
use tokio::time::Instant;

use super::api::{self, ApiError, StoredMessage, StreamInfo};
use super::connection::{Connection, Kept};
use super::reply::Delivery;
use crate::config;
use crate::cursor::{Epoch, Position};

/// Without a message or heartbeat for this long the consumer is taken for lost. Heartbeats come every second.
pub const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// The server waits for a sign of flow control, and says so in every heartbeat, for this long: none of ours has reached it.
const STALL_MAX: Duration = Duration::from_millis(2500);

/// Cost we assume of a message in the history on top of what the server says it stores, when sizing the first read.
const FRAME_OVERHEAD_BYTES: u64 = 256;

/// A consumer that starts exactly where it was asked to.
#[derive(Debug)]
pub struct Opened {
    /// The stream as it was just before.
    pub info: StreamInfo,
    /// Which life of the stream.
    pub epoch: Epoch,
    /// Whether the log must begin anew after [`Opened::base`].
    pub start: Start,
    /// The position before the first message that will come.
    pub base: Position,
    /// Messages already waiting; 0 means that the stream has none behind `base`.
    pub pending: u64,
    /// The consumer's name.
    pub consumer: String,
    /// A message that was read in a way that cannot fail, because the client may not survive it; it stands at `base`.
    pub stepped_over: Option<StoredMessage>,
    /// The server will stall under load: our signs of flow control do not reach it. Only looked at where it did before.
    pub held_back: bool,
    /// Its messages.
    pub messages: Subscriber,
    /// The connection it is read from.
    pub feed: Connection,
}

/// How the consumer's start relates to what we had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// Nothing was held before.
    First,
    /// Directly behind the head.
    Continued,
    /// Behind the head, but the stream has dropped messages in between.
    Skipped,
    /// Another life of the stream, or a store that went back in time.
    Reset,
}

/// What is held already.
#[derive(Debug, Clone, Copy)]
pub struct Known {
    /// Which life of the stream.
    pub epoch: Epoch,
    /// The newest event taken.
    pub head: Position,
}

/// Why a consumer could not be opened or is not trusted any more.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// A request failed.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The client failed.
    #[error("the NATS client failed: {0}")]
    Client(String),
    /// The client has died over what it read.
    #[error("the NATS client has died")]
    Died,
    /// Messages vanish once read from such a stream: it cannot be resumed.
    #[error("stream retention is `{0}`, but only `limits` can be replayed")]
    Retention(String),
    /// A message or heartbeat is missing.
    #[error("the consumer's order is broken: {0}")]
    Order(&'static str),
    /// Neither message nor heartbeat.
    #[error("no message or heartbeat for {} ms", SILENCE_MAX.as_millis())]
    Silence,
    /// The connection was lost.
    #[error("the connection to NATS was lost")]
    Disconnected,
    /// The server holds messages back.
    #[error(
        "NATS holds messages back because our signs of flow control do not reach it: \
         the account needs permission to publish to $JS.FC.<stream>.>"
    )]
    Stalled,
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
    /// The next message is suspected of ending whoever reads it.
    pub suspect: bool,
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
    let epoch = Epoch::of(&opening.stream, &info.created);
    let plan = opening.plan(&control, &info, epoch).await?;
    opening.subscribe(feed, &control, info, epoch, plan).await
}

/// Where to start, before the server has had its say.
struct Plan {
    start: Start,
    base: Position,
    stepped_over: Option<StoredMessage>,
}

impl Plan {
    fn new(start: Start, base: Position) -> Self {
        Self { start, base, stepped_over: None }
    }
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

    async fn plan(&self, control: &Client, info: &StreamInfo, epoch: Epoch) -> Result<Plan, FeedError> {
        let Some(known) = self.known else {
            return Ok(Plan::new(Start::First, self.first_base(control, info).await?));
        };
        let went_back =
            known.epoch != epoch || info.state.last_seq < known.head.seq || self.rewritten(control, known).await?;
        if went_back {
            return Ok(Plan::new(Start::Reset, self.first_base(control, info).await?));
        }
        let plan = Plan::new(Start::Continued, known.head);
        // Where older messages are gone too, the server's clamping tells the hole.
        if self.suspect && info.state.first_seq <= known.head.seq + 1 {
            return self.step_over(control, plan).await;
        }
        Ok(plan)
    }

    /// Takes the next message by itself and starts behind it.
    async fn step_over(&self, control: &Client, mut plan: Plan) -> Result<Plan, FeedError> {
        if let Some(message) = api::message_from(control, &self.stream, plan.base.seq + 1).await? {
            plan.base = Position { seq: message.seq, time: message.time };
            plan.stepped_over = Some(message);
        }
        Ok(plan)
    }

    /// Whether another message stands at our head's sequence: a store that went back in time and grew again. A head without
    /// a time is one where no message stood any more, and within one life none comes back.
    async fn rewritten(&self, control: &Client, known: Known) -> Result<bool, FeedError> {
        if known.head.seq == 0 {
            return Ok(false);
        }
        let there = api::message_at(control, &self.stream, known.head.seq).await?;
        Ok(there.is_some_and(|message| message.time != 0 && message.time != known.head.time))
    }

    /// The position to start behind when nothing is held: as far back as the history has room for.
    async fn first_base(&self, control: &Client, info: &StreamInfo) -> Result<Position, FeedError> {
        let state = &info.state;
        let each = state.bytes.checked_div(state.messages).unwrap_or(0) + FRAME_OVERHEAD_BYTES;
        let room = u64::try_from(self.history_bytes).unwrap_or(u64::MAX) / each;
        let oldest = state.first_seq.saturating_sub(1).min(state.last_seq);
        let seq = state.last_seq.saturating_sub(room).max(oldest);
        if seq == 0 {
            return Ok(Position::START);
        }
        let message = api::message_at(control, &self.stream, seq).await?;
        Ok(Position { seq, time: message.map_or(0, |m| m.time) })
    }

    async fn subscribe(
        self,
        feed: Connection,
        control: &Client,
        info: StreamInfo,
        epoch: Epoch,
        plan: Plan,
    ) -> Result<Opened, FeedError> {
        let client = &feed.client;
        let inbox = client.new_inbox();
        let messages = client.subscribe(inbox.clone()).await.map_err(|e| FeedError::Client(e.to_string()))?;
        let consumer = api::consumer_create(client, &self.stream, &inbox, plan.base.seq + 1).await?;
        let before_first = consumer.delivered.stream_seq;
        let (start, base) = if before_first == plan.base.seq {
            (plan.start, plan.base)
        } else if before_first > plan.base.seq {
            // The stream's first sequence has moved past our start: clamped.
            let start = if plan.start == Start::Continued { Start::Skipped } else { plan.start };
            (start, Position { seq: before_first, time: 0 })
        } else {
            return Err(FeedError::Order("the consumer starts before the place that was asked for"));
        };
        let held_back = self.stalled && feed.is_denied(api::flow_control_probe(&self.stream)).await;
        let (mut pending, consumer) = (consumer.num_pending, consumer.name);
        // In a cluster the consumer may run where the stream lags behind its leader: that nothing waits is true only if the
        // leader knows of nothing either.
        let more = info.state.last_seq > base.seq;
        if pending == 0 && more && api::message_from(control, &self.stream, base.seq + 1).await?.is_some() {
            pending = 1;
        }
        let stepped_over = plan.stepped_over;
        Ok(Opened { info, epoch, start, base, pending, consumer, stepped_over, held_back, messages, feed })
    }
}

/// The order of one consumer's messages.
#[derive(Debug)]
pub struct Order {
    consumer_seq: u64,
    stream_seq: u64,
    /// Since when heartbeats say that the server waits for a sign of flow control, with nothing else between them.
    stalled_since: Option<Instant>,
}

/// What a message on the consumer's subject is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// Flow control or heartbeat; publish nothing to this subject if it is `Some`, to let the server go on.
    Control {
        /// Where the server waits for a sign.
        answer: Option<String>,
    },
    /// The next event.
    Data(Delivery),
}

impl Order {
    /// A new consumer that starts behind `base`.
    pub fn after(base: Position) -> Self {
        Self { consumer_seq: 0, stream_seq: base.seq, stalled_since: None }
    }

    /// Classifies and checks a message. A status alone means nothing: publishers can send one. Control messages have
    /// status 100 and no reply, or the reply of flow control.
    pub fn check(&mut self, message: &Message) -> Result<Kind, FeedError> {
        let status = message.status.map(|s| s.as_u16());
        let reply = message.reply.as_deref();
        let control = status == Some(100) && reply.is_none_or(|r| r.starts_with("$JS.FC."));
        if control {
            return self.control(reply, message.headers.as_ref());
        }
        let delivery = reply.and_then(Delivery::parse).ok_or(FeedError::Order("a message without a delivery reply"))?;
        if delivery.consumer_seq != self.consumer_seq + 1 {
            return Err(FeedError::Order("a hole in the consumer's sequence"));
        }
        if delivery.stream_seq <= self.stream_seq {
            return Err(FeedError::Order("a stream sequence that does not rise"));
        }
        self.consumer_seq = delivery.consumer_seq;
        self.stream_seq = delivery.stream_seq;
        self.stalled_since = None;
        Ok(Kind::Data(delivery))
    }

    fn control(&mut self, reply: Option<&str>, headers: Option<&HeaderMap>) -> Result<Kind, FeedError> {
        let header = |name| headers.and_then(|h| h.get_last(name)).map(|v| v.as_str());
        let last: Option<u64> = header("Nats-Last-Consumer").and_then(|v| v.parse().ok());
        if last.is_some_and(|last| last != self.consumer_seq) {
            return Err(FeedError::Order("a heartbeat tells of messages that did not come"));
        }
        let stalled = header("Nats-Consumer-Stalled");
        // By our clock: many that come at once, after we were held up ourselves, are no proof.
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        if stalled.is_none() {
            self.stalled_since = None;
        } else if since.elapsed() >= STALL_MAX {
            return Err(FeedError::Stalled);
        }
        let answer = reply.or(stalled).map(str::to_owned);
        Ok(Kind::Control { answer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(reply: Option<&str>, status: Option<u16>, headers: &[(&str, &str)]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: "s".into(),
            reply: reply.map(Into::into),
            payload: bytes::Bytes::new(),
            headers: Some(map),
            status: status.map(|s| async_nats::StatusCode::from_u16(s).expect("a status")),
            description: None,
            length: 0,
        }
    }

    fn data(stream_seq: u64, consumer_seq: u64) -> Message {
        message(Some(&format!("$JS.ACK.S.c.1.{stream_seq}.{consumer_seq}.5.0")), None, &[])
    }

    #[test]
    fn only_an_unbroken_order_is_accepted() {
        let mut order = Order::after(Position { seq: 10, time: 0 });
        assert!(matches!(order.check(&data(11, 1)), Ok(Kind::Data(_))));
        assert!(matches!(order.check(&data(15, 2)), Ok(Kind::Data(_))), "deleted messages leave holes in the stream");
        assert!(order.check(&data(16, 4)).is_err(), "a lost message");
        assert!(order.check(&data(15, 3)).is_err(), "a repeated message");
        assert!(order.check(&message(None, None, &[])).is_err(), "no reply");
    }

    #[test]
    fn a_publisher_cannot_pass_for_the_server() {
        let mut order = Order::after(Position::START);
        let spoofed = message(Some("$JS.ACK.S.c.1.1.1.5.0"), Some(100), &[("Nats-Last-Consumer", "9")]);
        assert!(matches!(order.check(&spoofed), Ok(Kind::Data(_))));
    }

    #[test]
    fn heartbeats_are_compared_and_flow_control_is_answered() {
        let mut order = Order::after(Position::START);
        assert_eq!(order.check(&message(None, Some(100), &[])).expect("idle"), Kind::Control { answer: None });
        let flow = message(Some("$JS.FC.S.c.1"), Some(100), &[]);
        assert_eq!(order.check(&flow).expect("flow"), Kind::Control { answer: Some("$JS.FC.S.c.1".into()) });
        let stalled = message(None, Some(100), &[("Nats-Last-Consumer", "0"), ("Nats-Consumer-Stalled", "$JS.FC.x")]);
        assert_eq!(order.check(&stalled).expect("stalled"), Kind::Control { answer: Some("$JS.FC.x".into()) });
        assert!(order.check(&message(None, Some(100), &[("Nats-Last-Consumer", "1")])).is_err());
    }
}
