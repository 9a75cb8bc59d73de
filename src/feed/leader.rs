//! Asks a stream's leader now and then how far it is: how long it takes to answer, and how much has not been read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::api;
use super::connection::Kept;
use crate::link::FeedStatus;
use crate::telemetry::metrics::FeedMetrics;

/// How often.
const INTERVAL: Duration = Duration::from_secs(10);

/// Keeps what the leader of a stream said last in the metrics. Runs until the process ends.
pub(super) async fn watch(
    control: Kept,
    stream: String,
    index: usize,
    status: Arc<FeedStatus>,
    metrics: Arc<FeedMetrics>,
) {
    let mut interval = tokio::time::interval(INTERVAL);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let control = control.connected().await.client;
        let asked = Instant::now();
        // Whether the stream can be read at all is for its feed to tell.
        let (Ok(info), Some(leader)) = (api::stream_info(&control, &stream).await, metrics.leaders.get(index)) else {
            continue;
        };
        leader.rtt.set(asked.elapsed().as_secs_f64());
        leader.lag.set(info.state.last_seq.saturating_sub(status.head()));
    }
}
