//! Reads the last message of each subject under a pattern from a stream's leader.
//!
//! By single requests, as JSON: no message can break them, no consumer is made, and only the leader is asked, since a replica may
//! be late. Which patterns are read, and for whom, is the ledger's business ([`super::ledger`]).

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::Semaphore;

use super::api::{self, StoredMessage, StreamInfo};
use super::connection::Kept;
use super::consumer::FeedError;
use super::encode::Encoder;
use super::ledger::{ValueRead, Values, ViewBounds};
use crate::cursor::{Cursor, Epoch};

/// Messages of one pattern asked for at the same time.
const WIDTH: usize = 64;
/// Requests of all patterns under way at the same time: the server drops what it has queued when there are 10 000.
const REQUESTS_MAX: usize = 256;

/// Reads last values of one stream.
#[derive(Debug)]
pub(super) struct ValueReader {
    control: Kept,
    stream: String,
    encoder: Encoder,
    turns: Semaphore,
}

impl ValueReader {
    /// What cannot be sent is counted where the feed reads it, not each time somebody begins with it.
    pub(super) fn new(control: Kept, stream: String, encoder: &Encoder) -> Self {
        Self { control, stream, encoder: encoder.uncounted(), turns: Semaphore::new(REQUESTS_MAX) }
    }

    /// Reads. Waits for the connection, without limit.
    pub(super) async fn read(&self, of: &ValueRead) -> Result<Values, FeedError> {
        let control = self.control.connected().await.client;
        let mut values = Values::default();
        let mut subjects = if of.pattern.is_wild() {
            let info = api::stream_subjects(&control, &self.stream, of.pattern.as_str()).await?;
            self.check(&info, of)?;
            info.state.subjects.into_keys().collect()
        } else {
            vec![of.pattern.to_string()]
        };
        if subjects.len() > ViewBounds::USUAL.values {
            values.cut = true;
            subjects.truncate(ViewBounds::USUAL.values);
        }
        let messages = subjects.iter().map(|subject| self.last(&control, subject));
        let messages: Vec<_> = stream::iter(messages).buffer_unordered(WIDTH).try_collect().await?;
        // Afterwards: what was read before the stream became another one would not be noticed otherwise.
        self.check(&api::stream_info(&control, &self.stream).await?, of)?;
        // Between the two questions a message may have gone, and its subject with it.
        let found = messages.into_iter().flatten().filter(|message| of.pattern.matches(&message.subject));
        let id = |message: &StoredMessage| Cursor { epoch: of.epoch, at: message.at() };
        values.events = found.map(|message| Arc::new(self.encoder.stored(&message, id(&message)))).collect();
        Ok(values)
    }

    async fn last(&self, control: &async_nats::Client, subject: &str) -> Result<Option<StoredMessage>, api::ApiError> {
        // Never closed.
        let _turn = self.turns.acquire().await.ok();
        api::last_message(control, &self.stream, subject).await
    }

    fn check(&self, info: &StreamInfo, of: &ValueRead) -> Result<(), FeedError> {
        is_of(Epoch::of(&self.stream, &info.created), info.state.last_seq, of)
    }
}

/// Whether a stream is the one that is meant, and its leader knows of it what the log knows: a new leader may not, at first.
fn is_of(epoch: Epoch, last_seq: u64, of: &ValueRead) -> Result<(), FeedError> {
    if epoch != of.epoch {
        return Err(FeedError::Order("the stream is another one now"));
    }
    if last_seq < of.head {
        return Err(FeedError::Order("the stream's leader does not know everything yet"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::subject::Pattern;

    #[test]
    fn another_stream_and_a_leader_that_is_late_are_not_believed() {
        let epoch = Epoch::of("S", "t");
        let of = ValueRead { pattern: Pattern::parse("a.>").expect("a pattern"), log: 1, epoch, head: 7 };
        assert!(is_of(epoch, 7, &of).is_ok() && is_of(epoch, 8, &of).is_ok());
        assert!(is_of(epoch, 6, &of).is_err());
        assert!(is_of(Epoch::of("S", "u"), 8, &of).is_err());
    }
}
