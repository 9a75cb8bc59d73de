//! What a consumer may send, checked message by message.
//!
//! [`Order`] wants consumer sequences without a hole, stream sequences that rise, and heartbeats that agree. Any doubt is an
//! error, and the answer to every error is to open another consumer behind the last event that was taken
//! ([`super::opening`]). Background and experiments: `docs/nats.md`.

use std::time::Duration;

use async_nats::{HeaderMap, Message};
use tokio::time::Instant;

use super::api::ApiError;
use super::reply::Delivery;
use crate::cursor::Position;

/// Without a message or heartbeat for this long the consumer is taken for lost. Heartbeats come every second.
pub const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// The server waits for a sign of flow control, and says so in every heartbeat, for this long: none of ours has reached it.
const STALL_MAX: Duration = Duration::from_millis(2500);

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
    /// The stream grows, but the consumer gives nothing: it does not get over what stands behind our head.
    #[error("the consumer stands still while its stream grows")]
    StandsStill,
    /// The server holds messages back.
    #[error(
        "NATS holds messages back because our signs of flow control do not reach it: \
         the account needs permission to publish to $JS.FC.<stream>.>"
    )]
    Stalled,
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
        /// It is idle: up to here the stream has nothing that has not been delivered.
        idle_at: Option<u64>,
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
        let number = |name| header(name).and_then(|v| v.parse::<u64>().ok());
        let last = number("Nats-Last-Consumer");
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
        // Above what was delivered where the last messages of the stream have been removed.
        let idle_at = last.and(number("Nats-Last-Stream")).filter(|_| answer.is_none());
        self.stream_seq = self.stream_seq.max(idle_at.unwrap_or(0));
        Ok(Kind::Control { answer, idle_at })
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
        let control = |answer: Option<&str>, idle_at| Kind::Control { answer: answer.map(str::to_owned), idle_at };
        assert_eq!(order.check(&message(None, Some(100), &[])).expect("idle"), control(None, None));
        let flow = message(Some("$JS.FC.S.c.1"), Some(100), &[]);
        assert_eq!(order.check(&flow).expect("flow"), control(Some("$JS.FC.S.c.1"), None));
        let last = ("Nats-Last-Stream", "7");
        let stalled =
            message(None, Some(100), &[("Nats-Last-Consumer", "0"), ("Nats-Consumer-Stalled", "$JS.FC.x"), last]);
        assert_eq!(order.check(&stalled).expect("stalled"), control(Some("$JS.FC.x"), None));
        assert!(order.check(&message(None, Some(100), &[("Nats-Last-Consumer", "1"), last])).is_err());
    }

    #[test]
    fn an_idle_heartbeat_tells_of_what_was_removed_at_the_end() {
        let mut order = Order::after(Position::START);
        let idle = message(None, Some(100), &[("Nats-Last-Consumer", "0"), ("Nats-Last-Stream", "7")]);
        assert_eq!(order.check(&idle).expect("idle"), Kind::Control { answer: None, idle_at: Some(7) });
        assert!(order.check(&data(7, 1)).is_err(), "what was said to be gone has come");
        assert!(order.check(&data(8, 1)).is_ok());
    }
}
