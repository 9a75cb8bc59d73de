//! Reading a stream by single requests, which no message can break: their answers are JSON with headers in base64.
//!
//! Slower than a consumer, so only for as long as something stands in the stream that a consumer does not get over:
//! some requests are under way at once, and the leader is asked after them whether the stream is still the one that is held.

use std::time::Duration;

use async_nats::Client;
use futures_util::future::try_join_all;

use super::api::{self, ApiError, StoredMessage};
use super::connection::Kept;
use super::consumer::FeedError;
use super::look;
use super::removal::Stock;
use super::start::{self, Known, Start};

/// How often a stream is looked at in which nothing is new.
const POLL: Duration = Duration::from_millis(50);
/// Requests under way at once.
const WIDTH_MAX: usize = 64;
/// The same where nothing is known yet of the size of the messages.
pub(super) const WIDTH_FIRST: usize = 8;
/// Bytes that the answers to them should have at most, going by the largest before.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;

/// How to go on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Next {
    /// The newest sequence given out, as far as is known.
    last_seq: u64,
    /// How many messages to ask for.
    width: usize,
    /// There was nothing new.
    wait: bool,
}

/// What was read, all of it in the life of the stream that is held.
#[derive(Debug)]
pub(super) struct Batch {
    /// The next messages.
    pub(super) messages: Vec<StoredMessage>,
    /// The newest sequence given out, by now.
    pub(super) last_seq: u64,
    /// Nothing stands behind the messages.
    pub(super) idle: bool,
    /// Up to here, surely.
    pub(super) end: Option<u64>,
    /// How full the stream was.
    pub(super) stock: Stock,
}

impl Next {
    /// Begins.
    pub(super) fn first() -> Self {
        Self { last_seq: 0, width: WIDTH_FIRST, wait: false }
    }

    /// Goes on behind a batch.
    pub(super) fn after(batch: &Batch) -> Self {
        Self { last_seq: batch.last_seq, width: width_after(&batch.messages), wait: batch.idle }
    }

    /// Reads on behind what is held. Waits for the connection, without limit.
    pub(super) async fn read(self, control: Kept, stream: String, known: Known) -> Result<Batch, FeedError> {
        if self.wait {
            tokio::time::sleep(POLL).await;
        }
        let control = control.connected().await.client;
        let head = known.head.seq;
        let more = self.last_seq > head;
        let found = if more { window(&control, &stream, head + 1, self.width).await? } else { Window::default() };
        // Afterwards: what was read before the stream became another one would not be noticed otherwise.
        let info = api::stream_info(&control, &stream).await?;
        let seen = look::compare(&control, &stream, &info, &known).await?;
        if start::decide(Some(known), seen) != Start::Continued {
            return Err(FeedError::Order("the stream is another one now"));
        }
        let last_seq = info.state.last_seq;
        let idle = found.ended || found.messages.last().map_or(head, |last| last.seq) >= last_seq;
        // A new leader of several may not know everything at first.
        let end = (found.ended && !seen.replicated).then_some(self.last_seq);
        let stock = look::stock(&control, &info);
        Ok(Batch { messages: found.messages, last_seq, idle, end, stock })
    }
}

/// Messages in a row.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// They, in order.
    pub(super) messages: Vec<StoredMessage>,
    /// Nothing stood behind them.
    pub(super) ended: bool,
}

/// How many messages to ask for after these.
pub(super) fn width_after(messages: &[StoredMessage]) -> usize {
    let largest = messages.iter().map(|m| m.payload.len() + m.headers.len()).max();
    largest.map_or(WIDTH_FIRST, |largest| (WINDOW_BYTES / largest.max(1)).clamp(1, WIDTH_MAX))
}

/// The messages from a sequence on: those at the next `count` sequences, or what stands behind these.
pub(super) async fn window(client: &Client, stream: &str, from: u64, count: usize) -> Result<Window, ApiError> {
    let asked = (from..).take(count).map(|seq| api::message_from(client, stream, seq));
    Ok(in_a_row(from, try_join_all(asked).await?))
}

/// What the first messages at or after `from`, the next sequence and so on prove. An answer says that nothing stood before what
/// it found. That there was nothing at all was true when it was asked: what was found behind that came later, perhaps not alone.
fn in_a_row(from: u64, answers: Vec<Option<StoredMessage>>) -> Window {
    let mut found = Window::default();
    let mut next = from;
    for (asked, answer) in (from..).zip(answers) {
        // Where sequences are missing, several have found the same.
        if asked != next {
            continue;
        }
        let Some(message) = answer else {
            found.ended = true;
            break;
        };
        next = message.seq + 1;
        found.messages.push(message);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(seqs: &[u64]) -> Vec<Option<StoredMessage>> {
        let message = |seq| StoredMessage {
            subject: "s".into(),
            subject_is_utf8: true,
            seq,
            payload: vec![],
            headers: vec![],
            time: seq,
        };
        seqs.iter().map(|seq| (*seq > 0).then(|| message(*seq))).collect()
    }

    fn read(seqs: &[u64]) -> (Vec<u64>, bool) {
        let found = in_a_row(5, answers(seqs));
        (found.messages.iter().map(|message| message.seq).collect(), found.ended)
    }

    #[test]
    fn messages_are_taken_as_far_as_they_are_known_to_be_all() {
        assert_eq!(read(&[5, 6, 7]), (vec![5, 6, 7], false));
        assert_eq!(read(&[5, 8, 8, 8, 9]), (vec![5, 8, 9], false), "removed ones");
        assert_eq!(read(&[900, 900, 900]), (vec![900], false));
        assert_eq!(read(&[5, 0, 0]), (vec![5], true));
        assert_eq!(read(&[0, 0, 0]), (vec![], true));
    }

    #[test]
    fn what_came_while_it_was_asked_for_is_left_for_the_next_time() {
        assert_eq!(read(&[5, 0, 7]), (vec![5], true), "6 came between the second request and the third");
        assert_eq!(read(&[0, 6, 7]), (vec![], true));
    }

    #[test]
    fn large_messages_are_asked_for_a_few_at_a_time() {
        let of = |bytes: usize| {
            let mut messages: Vec<_> = answers(&[1, 2]).into_iter().flatten().collect();
            messages[0].payload = vec![0; bytes];
            width_after(&messages)
        };
        assert_eq!((of(0), of(1000)), (WIDTH_MAX, WIDTH_MAX));
        assert_eq!(of(WINDOW_BYTES / 4), 4);
        assert_eq!(of(WINDOW_BYTES * 2), 1);
        assert_eq!(width_after(&[]), WIDTH_FIRST);
    }
}
