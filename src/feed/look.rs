//! What a stream's leader says of it, compared with what is held.
//!
//! Only the leader proves anything: a replica may be late, and a Direct Get is answered by any. What follows is decided in
//! [`super::start`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_nats::Client;

use super::api::{self, StreamInfo};
use super::connection::Kept;
use super::consumer::FeedError;
use super::removal::Stock;
use super::start::{Known, Seen};
use crate::cursor::Epoch;

/// Between two looks that clients ask for with what they send.
const INTERVAL: Duration = Duration::from_millis(100);

/// The answer to a look.
#[derive(Debug, Clone, Copy)]
pub(super) struct Looked {
    /// What was known when it was ordered.
    pub(super) known: Known,
    /// What is there.
    pub(super) seen: Seen,
    /// How full it is.
    pub(super) stock: Stock,
    /// The place that was asked for beside, and whether a message stands there.
    pub(super) at: (u64, bool),
    /// When it was asked.
    pub(super) asked: Instant,
}

/// Looks, but not too often: `last` is when the last look was asked.
pub(super) async fn look(
    control: Kept,
    stream: String,
    known: Known,
    at: u64,
    last: Option<Instant>,
) -> Result<Looked, FeedError> {
    if let Some(last) = last {
        tokio::time::sleep_until((last + INTERVAL).into()).await;
    }
    let control = control.connected().await.client;
    let asked = Instant::now();
    let info = api::stream_info(&control, &stream).await?;
    let seen = compare(&control, &stream, &info, &known).await?;
    let stock = stock(&control, &info);
    let stands = at > 0 && at <= info.state.last_seq && api::message_at(&control, &stream, at).await?.is_some();
    Ok(Looked { known, seen, stock, at: (at, stands), asked })
}

/// What the stream keeps, and how full it is, by what its leader has just said.
pub(super) fn stock(control: &Client, info: &StreamInfo) -> Stock {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let clock = u64::try_from(clock.as_nanos()).unwrap_or(u64::MAX);
    Stock::of(info, control.server_info().max_payload, Instant::now(), clock)
}

/// What the leader has where we know what should be.
pub(super) async fn compare(
    control: &Client,
    stream: &str,
    info: &StreamInfo,
    known: &Known,
) -> Result<Seen, FeedError> {
    let mut found = None;
    for held in known.places().filter(|held| held.seq <= info.state.last_seq) {
        if let Some(message) = api::message_at(control, stream, held.seq).await? {
            found = Some((held, message.at()));
            break;
        }
    }
    let epoch = Epoch::of(stream, &info.created);
    Ok(Seen { epoch, last_seq: info.state.last_seq, found, replicated: info.config.num_replicas > 1 })
}
