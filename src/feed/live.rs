//! The feed of core NATS subjects: at most once, no ids, no replay.
//!
//! One subscription per distinct pattern, counted by client, kept for a while after the last one leaves. A message is
//! handed to the listeners of exactly the pattern it came by, after its subject has been matched against it once more.
//! Whatever NATS may have dropped (a lost connection, an overflow) becomes one gap `upstream` before the next message.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::{LocalBoxStream, SelectAll};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::connection::{Connection, Kept, LIVE_CAPACITY, Link};
use super::encode::{Encoder, NAME_HEADER};

use crate::frame::Message;
use crate::frame::notice::GapReason;
use crate::link::{FeedStatus, LiveNotice, LiveRequest, ShardQueue, Ticket, ToShard};
use crate::route::Grant;
use crate::subject::Pattern;

/// How long a subscription without listeners is kept: a page that is reloaded finds it still there.
const LINGER: Duration = Duration::from_secs(30);
/// How often lingering subscriptions are looked at.
const SWEEP: Duration = Duration::from_secs(5);
/// Least time between two gaps of one lasting overflow, unless the messages behind its hole may come sooner.
const MISSED_INTERVAL: Duration = Duration::from_secs(1);
/// Messages that may be handed on before an overflow is told. The full queue of the subscription that overflowed stands
/// before the hole; half of it allows for what was taken until we knew.
const MISSED_MESSAGES: usize = LIVE_CAPACITY / 2;
/// A subject nobody answers: any reply, "no responders" too, proves that the subscriptions sent before are active.
const BARRIER_SUBJECT: &str = "_sidestream.barrier";

/// The feed of core subjects.
#[derive(Debug)]
pub struct LiveFeed {
    /// Its own connection.
    pub kept: Kept,
    /// Builds frames.
    pub encoder: Encoder,
    /// The ways to the shards.
    pub shards: Vec<ShardQueue>,
    /// What shards ask.
    pub requests: mpsc::UnboundedReceiver<LiveRequest>,
    /// How we are.
    pub status: Arc<FeedStatus>,
}

struct Subscription {
    pattern: Arc<Pattern>,
    listeners: HashMap<usize, u32>,
    /// Since when nobody listens.
    idle_since: Option<Instant>,
    /// Ends the stream of messages; absent when the client died before it could subscribe.
    _stop: Option<oneshot::Sender<()>>,
}

type Messages = SelectAll<LocalBoxStream<'static, (Arc<Pattern>, async_nats::Message)>>;

struct State {
    feed: LiveFeed,
    /// The connection of the moment.
    connection: Connection,
    subscriptions: HashMap<Pattern, Subscription>,
    messages: Messages,
    seen: Link,
    /// A barrier has shown that the subscriptions are active on this connection. Until then no message is handed on.
    proven: bool,
    degraded: bool,
    /// Messages may have been missed since clients were last told.
    missed: bool,
    /// When they were last told.
    told_missed: Option<Instant>,
    /// Messages handed on since something was missed.
    handed_on: usize,
    barrier: Barrier,
}

/// A round trip on the connection: what was sent before it has been seen by the server. Runs beside everything else.
#[derive(Default)]
struct Barrier {
    underway: Option<LocalBoxFuture<'static, bool>>,
    /// Clients whose subscriptions it proves.
    covers: Vec<(usize, Ticket)>,
    /// Clients for the next one.
    next: Vec<(usize, Ticket)>,
}

impl Barrier {
    fn start(&mut self, connection: &Connection) {
        if self.underway.is_none() {
            self.covers.append(&mut self.next);
            self.underway = Some(round_trip(connection.client.clone()).boxed_local());
        }
    }

    /// The outcome, when there is one under way.
    async fn outcome(&mut self) -> bool {
        match &mut self.underway {
            Some(round_trip) => round_trip.await,
            None => std::future::pending().await,
        }
    }
}

async fn round_trip(client: async_nats::Client) -> bool {
    match client.request(BARRIER_SUBJECT, Bytes::new()).await {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), async_nats::RequestErrorKind::NoResponders),
    }
}

impl LiveFeed {
    /// Runs until the process ends.
    pub async fn run(self) {
        let mut state = State {
            connection: self.kept.current(),
            feed: self,
            subscriptions: HashMap::new(),
            messages: SelectAll::new(),
            seen: Link::default(),
            proven: false,
            degraded: false,
            missed: false,
            told_missed: None,
            handed_on: 0,
            barrier: Barrier::default(),
        };
        while state.session().await {
            state.begin_again().await;
        }
    }
}

impl State {
    /// Serves until the client has died (true) or the process ends (false).
    async fn session(&mut self) -> bool {
        let mut link = self.connection.link.clone();
        let mut sweep = tokio::time::interval(SWEEP);
        let now = *link.borrow_and_update();
        self.link_changed(now).await;
        loop {
            tokio::select! {
                // A loss is told before the messages that follow it, a request before new messages.
                biased;
                changed = link.changed() => {
                    if changed.is_err() {
                        return true;
                    }
                    let now = *link.borrow_and_update();
                    self.link_changed(now).await;
                }
                passed = self.barrier.outcome() => self.barrier_over(passed).await,
                request = self.feed.requests.recv() => {
                    let Some(request) = request else { return false };
                    self.serve(request).await;
                }
                Some((pattern, message)) = self.messages.next(), if self.proven && !self.messages.is_empty() => {
                    self.deliver(&pattern, &message).await;
                }
                _ = sweep.tick() => {
                    self.drop_idle();
                    self.tell_missed().await;
                    if self.seen.connected && (!self.proven || !self.barrier.next.is_empty()) {
                        self.barrier.start(&self.connection);
                    }
                }
            }
        }
    }

    /// A message killed the client: another one listens to the same patterns. What was missed is told when it is up.
    async fn begin_again(&mut self) {
        self.feed.encoder.metrics.poison.add(1);
        self.link_changed(Link { connected: false, ..self.seen }).await;
        self.missed = true;
        self.connection = self.feed.kept.alive().await;
        self.seen = Link::default();
        self.messages = SelectAll::new();
        let patterns: Vec<Pattern> = self.subscriptions.keys().cloned().collect();
        for pattern in patterns {
            let stop = self.subscribe(&pattern).await;
            if let Some(subscription) = self.subscriptions.get_mut(&pattern) {
                subscription._stop = stop;
            }
        }
    }

    async fn link_changed(&mut self, now: Link) {
        let before = std::mem::replace(&mut self.seen, now);
        // An overflow leaves connection and subscriptions as they are: only messages are missing.
        let missing = now.losses > before.losses || now.overflows > before.overflows || now.refused;
        if missing && !std::mem::replace(&mut self.missed, true) {
            self.handed_on = 0;
        }
        self.proven &= now.losses == before.losses;
        if !now.connected {
            self.proven = false;
            self.forget_barrier();
            self.feed.status.set_up(false);
            if before.connected {
                self.tell_degraded().await;
            }
            return;
        }
        if now.refused {
            // Some subject is not heard, and nobody can say for how long; the connection is made anew until all are.
            self.feed.status.set_up(false);
            self.tell_degraded().await;
        }
        if !self.proven {
            // One that was under way on the connection before proves nothing about this one.
            self.forget_barrier();
            self.barrier.start(&self.connection);
        }
    }

    fn forget_barrier(&mut self) {
        self.barrier.underway = None;
        let mut covered = std::mem::take(&mut self.barrier.covers);
        self.barrier.next.append(&mut covered);
    }

    /// The subscriptions are active: clients are told what they missed, and only then do messages flow again. A barrier that
    /// fails is tried again by the sweep.
    async fn barrier_over(&mut self, passed: bool) {
        self.barrier.underway = None;
        let mut covered = std::mem::take(&mut self.barrier.covers);
        if !passed {
            self.barrier.next.append(&mut covered);
            return;
        }
        if !std::mem::replace(&mut self.proven, true) {
            self.back().await;
        }
        for (shard, ticket) in covered {
            self.admit(shard, ticket).await;
        }
        if !self.barrier.next.is_empty() {
            self.barrier.start(&self.connection);
        }
    }

    async fn admit(&self, shard: usize, ticket: Ticket) {
        self.to(shard, ToShard::Listening { ticket, degraded: self.degraded }).await;
    }

    async fn tell_degraded(&mut self) {
        if !std::mem::replace(&mut self.degraded, true) {
            self.tell(LiveNotice::Degraded).await;
        }
    }

    async fn back(&mut self) {
        self.feed.status.set_serving(true);
        self.told_missed = None;
        self.tell_missed().await;
        if self.seen.refused {
            return;
        }
        self.feed.status.set_up(true);
        if std::mem::take(&mut self.degraded) {
            self.tell(LiveNotice::Recovered).await;
        }
    }

    /// One gap for whatever was missed, at most one a second: async-nats tells of every single message that it drops.
    async fn tell_missed(&mut self) {
        let lately =
            self.told_missed.is_some_and(|told| told.elapsed() < MISSED_INTERVAL) && self.handed_on < MISSED_MESSAGES;
        if !self.missed || !self.proven || lately {
            return;
        }
        self.missed = false;
        self.told_missed = Some(Instant::now());
        if self.subscriptions.values().any(|s| !s.listeners.is_empty()) {
            self.feed.encoder.metrics.gap(GapReason::Upstream);
            self.tell(LiveNotice::Missed).await;
        }
    }

    async fn serve(&mut self, request: LiveRequest) {
        match request {
            LiveRequest::Listen { shard, ticket, grant } => {
                self.listen(shard, &grant).await;
                if self.seen.connected {
                    self.barrier.next.push((shard, ticket));
                    self.barrier.start(&self.connection);
                } else {
                    // Nothing to wait for while NATS is away: what is missed until it is back is told then.
                    self.missed = true;
                    self.admit(shard, ticket).await;
                }
            }
            LiveRequest::Unlisten { shard, grant } => self.unlisten(shard, &grant),
        }
    }

    async fn listen(&mut self, shard: usize, grant: &Grant) {
        for pattern in grant.live() {
            if !self.subscriptions.contains_key(pattern) {
                let stop = self.subscribe(pattern).await;
                let pattern_shared = Arc::new(pattern.clone());
                let new =
                    Subscription { pattern: pattern_shared, listeners: HashMap::new(), idle_since: None, _stop: stop };
                self.subscriptions.insert(pattern.clone(), new);
                self.count();
            }
            if let Some(subscription) = self.subscriptions.get_mut(pattern) {
                *subscription.listeners.entry(shard).or_default() += 1;
                subscription.idle_since = None;
            }
        }
    }

    /// Subscribes on the connection of the moment. If its client has just died there is nothing to read, and
    /// [`State::begin_again`] subscribes anew.
    async fn subscribe(&mut self, pattern: &Pattern) -> Option<oneshot::Sender<()>> {
        let subscriber = match self.connection.client.subscribe(pattern.as_str().to_owned()).await {
            Ok(subscriber) => subscriber,
            Err(error) => {
                tracing::warn!(%error, "Core subscription failed");
                return None;
            }
        };
        let tag = Arc::new(pattern.clone());
        let (stop, stopped) = oneshot::channel::<()>();
        let tagged = subscriber.map(move |message| (tag.clone(), message)).take_until(stopped);
        self.messages.push(tagged.boxed_local());
        Some(stop)
    }

    fn unlisten(&mut self, shard: usize, grant: &Grant) {
        for pattern in grant.live() {
            let Some(subscription) = self.subscriptions.get_mut(pattern) else { continue };
            if let Some(count) = subscription.listeners.get_mut(&shard) {
                *count -= 1;
                if *count == 0 {
                    subscription.listeners.remove(&shard);
                }
            }
            if subscription.listeners.is_empty() {
                subscription.idle_since = Some(Instant::now());
            }
        }
    }

    fn drop_idle(&mut self) {
        let before = self.subscriptions.len();
        self.subscriptions.retain(|_, s| s.idle_since.is_none_or(|since| since.elapsed() < LINGER));
        if self.subscriptions.len() != before {
            self.count();
        }
    }

    fn count(&self) {
        self.feed.encoder.metrics.live_subscriptions.set(self.subscriptions.len() as u64);
    }

    async fn deliver(&mut self, pattern: &Arc<Pattern>, message: &async_nats::Message) {
        self.tell_missed().await;
        self.handed_on += 1;
        if !pattern.matches(&message.subject) {
            self.feed.encoder.metrics.violations.add(1);
            tracing::error!("NATS delivered a message outside the subscription; dropped");
            return;
        }
        let Some(subscription) = self.subscriptions.get(&**pattern) else { return };
        if subscription.listeners.is_empty() {
            return;
        }
        let read = std::time::Instant::now();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = message.headers.as_ref().and_then(|h| h.get(NAME_HEADER)).map(|v| v.as_str());
        let time = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let message = Message { subject: &message.subject, name, payload: &message.payload, time };
        let event = Arc::new(self.feed.encoder.event(message, None));
        self.feed.encoder.metrics.live_events.add(1);
        let shards: Vec<usize> = subscription.listeners.keys().copied().collect();
        let pattern = subscription.pattern.clone();
        for shard in shards {
            let room = self.feed.shards[shard].room(1, event.frames.bytes()).await;
            let (pattern, event) = (pattern.clone(), event.clone());
            self.to(shard, ToShard::Live { pattern, event, read, room }).await;
        }
    }

    async fn tell(&self, notice: LiveNotice) {
        for shard in 0..self.feed.shards.len() {
            self.to(shard, ToShard::LiveNotice(notice)).await;
        }
    }

    async fn to(&self, shard: usize, message: ToShard) {
        self.feed.shards[shard].send(message).await;
    }
}
