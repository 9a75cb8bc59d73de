//! Reads the last message of each subject under a pattern from a stream's leader.
//!
//! By single requests, as JSON: no message can break them, no consumer is made, and only the leader is asked, since a replica may
//! be late. Which patterns are read, and for whom, is the ledger's business ([`super::ledger`]).

use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use super::api;
use super::connection::Kept;
use super::consumer::FeedError;
use super::encode::Encoder;
use super::ledger::{VALUES_MAX, Values};
use crate::cursor::{Cursor, Epoch};
use crate::event::Event;
use crate::subject::Pattern;

/// Messages asked for at the same time.
const WIDTH: usize = 64;

/// From which stream, and where it must be.
#[derive(Debug)]
pub(super) struct Of {
    pub(super) stream: String,
    /// In this life of it.
    pub(super) epoch: Epoch,
    /// It has given out this sequence at least: a leader that has not does not know everything yet.
    pub(super) head: u64,
}

/// Reads. Waits for the connection, without limit.
pub(super) async fn read(control: Kept, of: Of, pattern: Pattern, encoder: Encoder) -> Result<Values, FeedError> {
    let control = control.connected().await.client;
    let mut values = Values::default();
    let mut subjects = if pattern.is_wild() {
        of.check(api::stream_subjects(&control, &of.stream, pattern.as_str()).await?)?
            .state
            .subjects
            .into_keys()
            .collect()
    } else {
        vec![pattern.to_string()]
    };
    if subjects.len() > VALUES_MAX {
        values.cut = true;
        subjects.truncate(VALUES_MAX);
    }
    let messages = subjects.iter().map(|subject| api::last_message(&control, &of.stream, subject));
    let messages = stream::iter(messages).buffer_unordered(WIDTH).try_collect::<Vec<_>>().await?;
    // Afterwards: what was read before the stream became another one would not be noticed otherwise.
    of.check(api::stream_info(&control, &of.stream).await?)?;
    // Between the two questions a message may have gone, and its subject with it.
    let found = messages.into_iter().flatten().filter(|message| pattern.matches(&message.subject));
    let event = |message: api::StoredMessage| -> Arc<Event> {
        Arc::new(encoder.stored(&message, Cursor { epoch: of.epoch, at: message.at() }))
    };
    values.events = found.map(event).collect();
    Ok(values)
}

impl Of {
    fn check(&self, info: api::StreamInfo) -> Result<api::StreamInfo, FeedError> {
        if Epoch::of(&self.stream, &info.created) != self.epoch {
            return Err(FeedError::Order("the stream is another one now"));
        }
        if info.state.last_seq < self.head {
            return Err(FeedError::Order("the stream's leader does not know everything yet"));
        }
        Ok(info)
    }
}
