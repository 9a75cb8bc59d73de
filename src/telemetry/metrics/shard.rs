//! What one shard counts; written by its thread alone.

use std::time::{Duration, Instant};

use super::histogram::{self, Histogram};
use super::labels::{CloseReason, Phase, Proof, Protocol, REFUSAL_CODES, RESUMES, Refused};
use super::number::Number;
use crate::frame::notice::Resume;

/// All numbers of one shard.
#[derive(Debug)]
pub struct ShardMetrics {
    /// Streams open now.
    pub connections: Number,
    /// Tasks that serve a connection, from accept to its end.
    pub tasks: Number,
    /// Events written or queued.
    pub events_sent: Number,
    /// Bytes of event streams handed to sockets.
    pub bytes_sent: Number,
    /// Write calls made for them.
    pub writes: Number,
    /// Bytes that wait for clients, as of the last sweep. Queues share them: together they may hold less.
    pub queued: Number,
    /// Clients for which something waits, as of the last sweep.
    pub slow: Number,
    /// Subject patterns of the streams that are open.
    pub subscriptions: Number,
    /// Heartbeats written or queued.
    pub heartbeats: Number,
    /// Readers whose backlog was full and that read on from the log.
    pub fell_behind: Number,
    /// Peers on a unix socket whose uid is not allowed.
    pub peers_refused: Number,
    /// Connections closed for want of a PROXY protocol header, or from where none is taken.
    pub proxy_headers_refused: Number,
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: Number,
    /// Moments of 50 ms in which no connection was accepted for want of descriptors or room.
    pub accept_pauses: Number,
    /// Panics of connection tasks that were contained.
    pub panics: Number,
    /// When the clients were last swept, in milliseconds since the shard began; with `began` it tells a stuck shard.
    pub swept: Number,
    /// From reading the oldest event of a batch to the end of the batch.
    pub delivery: Histogram,
    /// From storing the oldest event of a batch to the end of the batch.
    pub published: Histogram,
    /// What waited for clients when their streams ended.
    pub queue_at_close: Histogram,
    pub(super) routes: Box<[RouteMetrics]>,
    pub(super) refused: [Number; Refused::ALL.len()],
    pub(super) refused_finally: [Number; REFUSAL_CODES.len()],
    pub(super) vouched: [Number; Proof::ALL.len()],
    began: Instant,
}

/// What one shard counts for one route.
#[derive(Debug)]
pub(super) struct RouteMetrics {
    path: Box<str>,
    pub(super) opened: [Number; Protocol::ALL.len()],
    pub(super) closed: [[Number; Phase::ALL.len()]; CloseReason::ALL.len()],
    pub(super) resumes: [Number; RESUMES.len()],
    pub(super) duration: Histogram,
    pub(super) first_byte: Histogram,
    pub(super) resume_age: Histogram,
}

impl RouteMetrics {
    fn new(path: &str) -> Self {
        Self {
            path: path.into(),
            opened: Default::default(),
            closed: Default::default(),
            resumes: Default::default(),
            duration: Histogram::new(histogram::DURATION),
            first_byte: Histogram::new(histogram::ANSWER),
            resume_age: Histogram::new(histogram::AGE),
        }
    }
}

/// A stream that opens.
#[derive(Debug, Clone, Copy)]
pub struct Opened {
    /// Index of its route.
    pub route: usize,
    /// How it is connected.
    pub protocol: Protocol,
    /// How it goes on from where it was.
    pub resume: Resume,
    /// Since its request.
    pub after: Duration,
    /// How old the last event is that it has; absent where it told of none.
    pub age: Option<Duration>,
}

/// A stream that has ended.
#[derive(Debug, Clone, Copy)]
pub struct Closed {
    /// Index of its route.
    pub route: usize,
    /// Why.
    pub reason: CloseReason,
    /// How far it was.
    pub phase: Phase,
    /// Since its request.
    pub lasted: Duration,
    /// Bytes that still waited.
    pub queued: usize,
}

impl ShardMetrics {
    /// All zero, for routes with these paths.
    pub fn new(routes: &[String]) -> Self {
        Self {
            connections: Number::default(),
            tasks: Number::default(),
            events_sent: Number::default(),
            bytes_sent: Number::default(),
            writes: Number::default(),
            queued: Number::default(),
            slow: Number::default(),
            subscriptions: Number::default(),
            heartbeats: Number::default(),
            fell_behind: Number::default(),
            peers_refused: Number::default(),
            proxy_headers_refused: Number::default(),
            handshakes_failed: Number::default(),
            accept_pauses: Number::default(),
            panics: Number::default(),
            swept: Number::default(),
            delivery: Histogram::new(histogram::DELIVERY),
            published: Histogram::new(histogram::PUBLISHED),
            queue_at_close: Histogram::new(histogram::QUEUE),
            routes: routes.iter().map(|path| RouteMetrics::new(path)).collect(),
            refused: Default::default(),
            refused_finally: Default::default(),
            vouched: Default::default(),
            began: Instant::now(),
        }
    }

    /// The path of a route, as it was configured.
    pub fn path(&self, route: usize) -> &str {
        &self.routes[route].path
    }

    /// A stream was opened.
    pub fn opened(&self, opened: Opened) {
        self.connections.add(1);
        let route = &self.routes[opened.route];
        route.opened[opened.protocol as usize].add(1);
        route.resumes[opened.resume as usize].add(1);
        route.first_byte.observe_time(opened.after);
        if let Some(age) = opened.age {
            route.resume_age.observe_time(age);
        }
    }

    /// A stream has ended.
    pub fn closed(&self, closed: Closed) {
        self.connections.sub(1);
        let route = &self.routes[closed.route];
        route.closed[closed.reason as usize][closed.phase as usize].add(1);
        route.duration.observe_time(closed.lasted);
        self.queue_at_close.observe(closed.queued as f64);
    }

    /// A stream was ended that had never been counted as open.
    pub fn never_opened(&self, route: usize, reason: CloseReason) {
        self.routes[route].closed[reason as usize][Phase::Opening as usize].add(1);
    }

    /// A request was refused for good, with this code.
    pub fn refused_finally(&self, code: &str) {
        if let Some(place) = REFUSAL_CODES.iter().position(|known| *known == code) {
            self.refused_finally[place].add(1);
        }
    }

    /// A proxy spoke for somebody, and was believed.
    pub fn vouched(&self, proof: Proof) {
        self.vouched[proof as usize].add(1);
    }

    /// A request was refused softly.
    pub fn refused(&self, reason: Refused) {
        self.refused[reason as usize].add(1);
    }

    /// How long the clients have not been swept, at this moment.
    pub(super) fn since_sweep_at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began).saturating_sub(Duration::from_millis(self.swept.get()))
    }
}
