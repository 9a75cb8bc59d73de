//! The part that listens to NATS. Runs on a thread of its own and never waits for a browser.
//!
//! [`stream`] reads one stream, [`ledger`] decides what its clients get, [`live`] listens to core subjects, [`encode`] makes frames, [`fanout`]
//! hands them to the shards that want them. What the shards ask and are
//! told is in [`crate::link`]. Control and core subjects have a NATS connection each, and so has every stream; a stream whose
//! past is read has another.

pub mod api;
mod careful;
pub mod connection;
mod consumer;
pub mod encode;
mod fanout;
mod leader;
mod ledger;
mod live;
mod look;
mod opening;
mod pass;
mod poison;
pub mod privilege;
mod removal;
pub mod reply;
#[cfg(test)]
mod simulation;
mod standstill;
mod start;
mod stream;
mod suspicion;
mod values;
pub mod version;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use self::connection::{Kept, Lazy, Role};
pub use self::fanout::SHARDS_MAX;
use crate::config::Config;
use crate::link::{FeedHandle, FeedStatus, LiveRequest, ShardQueue, StreamRequest};
use crate::log::PieceSize;
use crate::route::Route;
use crate::telemetry::metrics::FeedMetrics;

/// What all passes over the past hold together, in bytes: the streams share it evenly, as they share `limits.replays`.
const PASS_BYTES: usize = 48 * 1024 * 1024;
/// What the passes over one stream hold at least: a few pulls.
const STREAM_PASS_BYTES_MIN: usize = 4 * 1024 * 1024;
/// How often the thread shows that it goes on: as often as a shard sweeps.
const BEAT: Duration = Duration::from_millis(250);

/// The ways to all feeds, for shards and admin.
#[derive(Debug, Clone)]
pub struct Feeds {
    /// One per stream of the route table, in its order.
    pub streams: Vec<FeedHandle<StreamRequest>>,
    /// Core subjects; always there, idle where no route names any.
    pub live: FeedHandle<LiveRequest>,
}

impl Feeds {
    /// Whether everything that routes need is being read now.
    pub fn are_up(&self) -> bool {
        self.streams.iter().all(|feed| feed.status.is_up()) && self.live.status.is_up()
    }
}

/// The receiving ends, until the feeds run.
#[derive(Debug)]
pub struct Unstarted {
    streams: Vec<(mpsc::UnboundedReceiver<StreamRequest>, Arc<FeedStatus>)>,
    live: (mpsc::UnboundedReceiver<LiveRequest>, Arc<FeedStatus>),
}

/// Makes the channels, so that shards can be built before NATS is spoken to.
pub fn channels(config: &Config) -> (Feeds, Unstarted) {
    let (handles, ends) = config.routes.streams.iter().map(|_| channel()).unzip();
    let (live, live_end) = channel();
    (Feeds { streams: handles, live }, Unstarted { streams: ends, live: live_end })
}

fn channel<R>() -> (FeedHandle<R>, (mpsc::UnboundedReceiver<R>, Arc<FeedStatus>)) {
    let (requests, end) = mpsc::unbounded_channel();
    let status = Arc::new(FeedStatus::default());
    (FeedHandle { requests, status: status.clone() }, (end, status))
}

/// Connects and runs every feed on the current local runtime, as tasks of which none ends before the process. Returns the control connection once all are being kept;
/// NATS need not be there.
pub async fn start(
    config: &Config,
    unstarted: Unstarted,
    shards: &[ShardQueue],
    metrics: &Arc<FeedMetrics>,
    tasks: &mut JoinSet<()>,
) -> Result<Kept, connection::ConnectError> {
    tasks.spawn_local(beat(metrics.clone()));
    let control = connection::keep(&config.nats, Role::Control, metrics).await?;
    let live = connection::keep(&config.nats, Role::Live, metrics).await?;
    // Half of a client's queue: room is left for what arrives while the last piece is on its way.
    let piece = PieceSize { bytes: config.limits.queue_bytes / 2, events: config.limits.queue_events / 2 };
    let streams = config.routes.streams.len().max(1);
    for (index, (name, (requests, status))) in config.routes.streams.iter().zip(unstarted.streams).enumerate() {
        let opening = opening::Opening {
            stream: name.clone(),
            declared: config.streams.iter().find(|s| s.name == *name).cloned(),
            feed: connection::keep(&config.nats, Role::Feed(name.clone()), metrics).await?,
            control: control.clone(),
            known: None,
            stalled: false,
            history_bytes: config.history_bytes,
        };
        let encoder = encoder(config, metrics, Some(name.clone()), |route| route.stream == Some(index));
        let reader = pass::Reader {
            stream: name.clone(),
            history: Rc::new(Lazy::new(&config.nats, Role::History(name.clone()), metrics)),
            control: control.clone(),
            encoder: encoder.clone(),
            known: Rc::default(),
        };
        tasks.spawn_local(leader::watch(control.clone(), name.clone(), index, status.clone(), metrics.clone()));
        let index = u8::try_from(index).expect("the configuration allows at most 255 streams");
        let bounds = ledger::Bounds {
            events: config.limits.replay_events,
            clients: (config.limits.replays / streams).max(1),
            piece,
            pass_bytes: (PASS_BYTES / streams).max(STREAM_PASS_BYTES_MIN),
        };
        let settings = ledger::Settings {
            index,
            encoder: encoder.clone(),
            history_bytes: config.history_bytes,
            bounds,
            values: ledger::ViewBounds::USUAL,
        };
        let ledger = ledger::Ledger::new(settings, status.clone());
        let fanout = fanout::Fanout::new(shards.to_vec());
        tasks.spawn_local(
            stream::StreamFeed { index, opening, encoder, ledger, reader, fanout, requests, status }.run(),
        );
    }
    let (requests, status) = unstarted.live;
    let encoder = encoder(config, metrics, None, Route::hears_live);
    tasks.spawn_local(live::LiveFeed { kept: live, encoder, shards: shards.to_vec(), requests, status }.run());
    tasks.spawn_local(version::watch(control.clone(), metrics.clone()));
    // Over when it has said what it has to say.
    tokio::task::spawn_local(privilege::warn(config.clone(), control.clone()));
    Ok(control)
}

/// Shows that the thread goes on, as long as its runtime comes round.
async fn beat(metrics: Arc<FeedMetrics>) {
    let mut tick = tokio::time::interval(BEAT);
    loop {
        tick.tick().await;
        metrics.pulse.beat();
    }
}

/// An encoder for the formats of the routes that listen to a source.
fn encoder(
    config: &Config,
    metrics: &Arc<FeedMetrics>,
    stream: Option<String>,
    listens: impl Fn(&Route) -> bool,
) -> encode::Encoder {
    let mut used: Vec<u8> = config
        .routes
        .routes
        .iter()
        .filter(|route| listens(route))
        .map(|route| u8::try_from(route.format).expect("the configuration allows at most 255 routes"))
        .collect();
    used.sort_unstable();
    used.dedup();
    encode::Encoder {
        formats: config.routes.formats.clone(),
        used,
        event_bytes_max: config.limits.event_bytes,
        stream,
        metrics: metrics.clone(),
    }
}
