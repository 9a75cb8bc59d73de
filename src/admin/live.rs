//! `/live`: the event stream that the live page reads, a snapshot of the process each second.
//!
//! For the few who operate it, so it is made here and now for each, unlike streams of users; frames are the same.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame as BodyFrame;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::answer::{Answer, Refusal, text};
use crate::app::State;
use crate::cluster::connections::{self, Question};
use crate::frame::Frame;

/// Between two snapshots.
const INTERVAL: Duration = Duration::from_secs(1);
/// After so long a stream ends, and the page asks again.
pub const LASTS: Duration = Duration::from_secs(600);
/// Pages at a time: each asks every shard once a second.
const VIEWERS_MAX: usize = 8;
/// Connections that a snapshot names.
const SLOWEST_MAX: usize = 20;

/// Places for viewers.
pub type Viewers = Arc<Semaphore>;

/// As many places as there may be viewers.
pub fn viewers() -> Viewers {
    Arc::new(Semaphore::new(VIEWERS_MAX))
}

/// Opens the stream.
pub fn open(state: Arc<State>, viewers: &Viewers) -> Result<Answer, Refusal> {
    let Ok(place) = viewers.clone().try_acquire_owned() else {
        let message = format!("{VIEWERS_MAX} pages are open already");
        return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_viewers", message));
    };
    let mut tick = tokio::time::interval(INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let until = Instant::now() + LASTS;
    let snapshots = stream::unfold((state, tick, place), move |(state, mut tick, place)| async move {
        let frame = next(&state, &mut tick, until).await?;
        Some((Ok::<_, Infallible>(BodyFrame::data(frame)), (state, tick, place)))
    });
    let mut response: Answer = Response::new(StreamBody::new(snapshots).boxed_unsync());
    *response.headers_mut() = text(StatusCode::OK, "").headers().clone();
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(response)
}

async fn next(state: &State, tick: &mut Interval, until: Instant) -> Option<Bytes> {
    tick.tick().await;
    if Instant::now() >= until {
        return None;
    }
    Some(Frame::event(Some("snapshot"), None, None, &snapshot(state).await.to_string()).body())
}

/// Everything that the page shows.
async fn snapshot(state: &State) -> Value {
    let question = Question { limit: SLOWEST_MAX, slowest: true, ..Question::default() };
    // `null`: a shard did not answer.
    let slowest = connections::on_this(&state.cluster, question).await.map(|listing| listing.connections);
    let config = state.config.get();
    let checks = state.metrics.readiness();
    let streams = config.routes.streams.iter().zip(&state.feeds.streams);
    let streams: Vec<_> = streams
        .map(|(name, feed)| json!({"name": name, "up": feed.status.is_up(), "head": feed.status.head()}))
        .collect();
    let mut snapshot = state.metrics.overview();
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let uses = json!({
        "time": u64::try_from(time.as_millis()).unwrap_or(u64::MAX),
        "version": env!("CARGO_PKG_VERSION"),
        "ready": checks.iter().all(|(_, good)| *good),
        "checks": checks.iter().map(|(name, good)| json!({"name": name, "good": good})).collect::<Vec<_>>(),
        "draining": state.is_draining(),
        "drain_window": config.server.drain_window.as_secs_f64(),
        "connections_max": config.limits.connections,
        "streams": streams,
        "slowest": slowest,
    });
    if let Value::Object(uses) = uses {
        snapshot.extend(uses);
    }
    snapshot.into()
}
