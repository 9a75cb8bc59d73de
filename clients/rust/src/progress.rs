//! How far a task is, told to one user: the latest state is published by a task of its own, at most once per interval,
//! and the end once and last.

use std::error::Error as _;
use std::fmt::Display;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_nats::jetstream::Context;
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::Error;
use crate::publisher::publish;

/// The longest wait for one acknowledgement.
const ACK_WAIT: Duration = Duration::from_secs(2);
/// Between two attempts to publish the end.
const RETRY_PAUSE: Duration = Duration::from_millis(250);
/// Longest message, in characters; what follows is cut off.
const MESSAGE_CHARS_MAX: usize = 1000;

/// One run of a task. Updates never wait and never fail; only the end is waited for.
///
/// The first end counts: everything after it changes nothing. Dropped without an end, it fails as "abandoned", as long
/// as the tokio runtime lives on to publish that.
#[derive(Debug)]
pub struct Progress {
    state: watch::Sender<State>,
    outcome: watch::Receiver<Option<Result<PublishAck, Error>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Phase {
    Running,
    Completed,
    Failed,
}

#[derive(Debug, Clone)]
struct State {
    phase: Phase,
    /// 0 to 100.
    percent: u8,
    message: String,
}

/// The payload; the order of fields is that of the other libraries.
#[derive(Serialize)]
struct Payload<'a> {
    task: &'a str,
    run: &'a str,
    state: Phase,
    percent: u8,
    message: &'a str,
    /// Milliseconds since 1970.
    updated: u64,
}

/// Where and how a run is published.
pub struct Wire {
    pub jetstream: Context,
    pub subject: String,
    pub task: String,
    pub run: String,
    pub interval: Duration,
    pub patience: Duration,
}

impl Progress {
    pub(crate) fn start(wire: Wire) -> Self {
        let (state, seen) = watch::channel(State { phase: Phase::Running, percent: 0, message: String::new() });
        let (tell, outcome) = watch::channel(None);
        tokio::spawn(async move { tell.send_replace(Some(wire.work(seen).await)) });
        Self { state, outcome }
    }

    /// Says how far the task is. The percentage never goes down: a lower one, or NaN, leaves it as it is; fractions are
    /// cut off. An empty message keeps the last one. `false` after the end, which it does not change.
    pub fn update(&self, percent: f64, message: &str) -> bool {
        self.change(|state| {
            if percent > f64::from(state.percent) {
                // At most 100 and not negative: nothing but the fraction is lost.
                state.percent = percent.min(100.0) as u8;
            }
            if !message.is_empty() {
                state.message = cut(message);
            }
        })
    }

    /// Ends the run at 100 percent and waits until the stream has it. After another end, waits for that one.
    pub async fn complete(&self) -> Result<PublishAck, Error> {
        self.change(|state| (state.phase, state.percent) = (Phase::Completed, 100));
        self.ended().await
    }

    /// Ends the run where it is, says why, and waits until the stream has it. After another end, waits for that one.
    pub async fn fail(&self, why: impl Display) -> Result<PublishAck, Error> {
        self.change(|state| (state.phase, state.message) = (Phase::Failed, cut(&why.to_string())));
        self.ended().await
    }

    /// Runs the work of the task: completed when it returns `Ok`, failed with the error's text when it returns `Err`,
    /// and abandoned when it panics or is dropped. The work's own error comes first, one of publishing only after `Ok`.
    pub async fn within<T, E, W>(self, work: W) -> Result<T, E>
    where
        E: Display + From<Error>,
        W: AsyncFnOnce(&Self) -> Result<T, E>,
    {
        let done = work(&self).await;
        match &done {
            Ok(_) => self.complete().await.map(drop)?,
            Err(error) => drop(self.fail(error).await),
        }
        done
    }

    /// Changes the state unless the run has ended.
    fn change(&self, change: impl FnOnce(&mut State)) -> bool {
        self.state.send_if_modified(|state| {
            let runs = state.phase == Phase::Running;
            if runs {
                change(state);
            }
            runs
        })
    }

    async fn ended(&self) -> Result<PublishAck, Error> {
        let gone = |_| Error::Nats("the runtime ended before the progress did".to_owned());
        let outcome = self.outcome.clone().wait_for(Option::is_some).await.map_err(gone)?.clone();
        outcome.unwrap_or_else(|| Err(Error::Nats("no outcome".to_owned())))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.change(|state| (state.phase, state.message) = (Phase::Failed, "abandoned".to_owned()));
    }
}

impl Wire {
    async fn work(self, mut seen: watch::Receiver<State>) -> Result<PublishAck, Error> {
        let mut end = seen.clone();
        // As of a task that was never run: the stream has no message.
        let mut last = 0;
        loop {
            let state = seen.borrow_and_update().clone();
            let payload = self.payload(&state)?;
            if state.phase != Phase::Running {
                return self.end(payload).await;
            }
            let sent = self.running(payload, &mut last).await;
            // The end does not wait for the interval. `wait_for` marks as seen, so it has a receiver of its own.
            let ended = timeout(self.interval, end.wait_for(|state| state.phase != Phase::Running)).await.is_ok();
            // What was not acknowledged is sent again.
            if !ended && sent && seen.changed().await.is_err() {
                return Err(Error::Nats("abandoned".to_owned()));
            }
        }
    }

    /// One that waited on the way, on a connection that broke, must not be stored behind the end: it is refused where
    /// the subject's last message is no longer the one before it, which is `last`. A refusal says which one that is now:
    /// that of an earlier run, or one of ours that was never acknowledged. Gives whether the stream has it.
    async fn running(&self, payload: Bytes, last: &mut u64) -> bool {
        for _ in 0..2 {
            let message = PublishMessage::build().header("Sse-Event", "progress").payload(payload.clone());
            let refused = match self.send(message.expected_last_subject_sequence(*last)).await {
                Ok(ack) => {
                    *last = ack.sequence;
                    return true;
                }
                Err(refused) => refused,
            };
            let Some(now) = last_of(&refused) else { return false };
            *last = now;
        }
        false
    }

    /// Tried again with the same id until it is acknowledged, so that it is stored once.
    async fn end(&self, payload: Bytes) -> Result<PublishAck, Error> {
        let started = Instant::now();
        let id = format!("{}.end", self.run);
        loop {
            let message = PublishMessage::build().header("Sse-Event", "progress").payload(payload.clone());
            match self.send(message.message_id(&id)).await {
                Err(_) if started.elapsed() < self.patience => sleep(RETRY_PAUSE).await,
                sent => return Ok(sent?),
            }
        }
    }

    async fn send(&self, message: PublishMessage) -> Result<PublishAck, PublishError> {
        let sent = timeout(ACK_WAIT, publish(&self.jetstream, &self.subject, message)).await;
        sent.unwrap_or_else(|_| Err(PublishError::new(PublishErrorKind::TimedOut)))
    }

    fn payload(&self, state: &State) -> Result<Bytes, Error> {
        let updated = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        let payload = Payload {
            task: &self.task,
            run: &self.run,
            state: state.phase,
            percent: state.percent,
            message: &state.message,
            updated: u64::try_from(updated).unwrap_or(u64::MAX),
        };
        serde_json::to_vec(&payload).map(Bytes::from).map_err(|e| Error::Data(e.to_string()))
    }
}

/// The sequence of the subject's last message, where a refusal tells it; the server has it in its text alone.
fn last_of(refused: &PublishError) -> Option<u64> {
    let text = refused.source()?.to_string();
    text.strip_prefix("wrong last sequence: ")?.split(' ').next()?.parse().ok()
}

fn cut(message: &str) -> String {
    message.chars().take(MESSAGE_CHARS_MAX).collect()
}
