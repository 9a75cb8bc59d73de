//! Every metric, in one table, and their rendering as Prometheus text.
//!
//! Counting is a relaxed add on an atomic that only one thread writes; the sums over shards are made when somebody asks.
//! Labels come from closed sets (route path, reason, protocol), never from a user, subject, address or connection.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metrics::{Label, Unit};
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::frame::notice::GapReason;
use crate::pulse::Pulse;

/// A number that one thread writes and any may read.
#[derive(Debug, Default)]
pub struct Number(AtomicU64);

impl Number {
    /// Adds; only from the thread that owns it, hence no read-modify-write.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts; only from the thread that owns it.
    pub fn sub(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_sub(n), Ordering::Relaxed);
    }

    /// Sets.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Reads.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the feeds count; written by the feed thread alone.
#[derive(Debug, Default)]
pub struct FeedMetrics {
    /// Messages read from streams.
    pub stream_events: Number,
    /// Messages read from core subjects.
    pub live_events: Number,
    /// Events of the past served to clients.
    pub replayed: Number,
    /// Passes over the past of streams.
    pub passes: Number,
    /// Core subscriptions held.
    pub live_subscriptions: Number,
    /// 1 where the NATS server has known security faults.
    pub server_outdated: Number,
    /// Event names replaced by `message`.
    pub names_replaced: Number,
    /// Messages outside the subscription they came by.
    pub violations: Number,
    /// Messages the NATS client could not read.
    pub poison: Number,
    /// The thread's sign of life.
    pub pulse: Pulse,
    gaps: [Number; GapReason::ALL.len()],
}

impl FeedMetrics {
    /// Counts a declared gap.
    pub fn gap(&self, reason: GapReason) {
        if let Some(place) = GapReason::ALL.iter().position(|r| *r == reason) {
            self.gaps[place].add(1);
        }
    }
}

/// Why a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client left.
    Client,
    /// A slow reader: its backlog passed the bound, or it took nothing for too long.
    Slow,
    /// Shutting down.
    Drain,
    /// `server.max_age`.
    Age,
    /// The identity expired.
    Expired,
    /// Somebody asked for it.
    Kicked,
    /// The client sent what it may not send.
    Protocol,
    /// Memory was short, and its queue among the largest.
    Memory,
}

impl CloseReason {
    /// Every reason.
    pub const ALL: [Self; 8] =
        [Self::Client, Self::Slow, Self::Drain, Self::Age, Self::Expired, Self::Kicked, Self::Protocol, Self::Memory];

    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Slow => "slow",
            Self::Drain => "drain",
            Self::Age => "age",
            Self::Expired => "expired",
            Self::Kicked => "kicked",
            Self::Protocol => "protocol",
            Self::Memory => "memory",
        }
    }
}

/// How far a stream was when it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Its feeds had not answered yet, or its head could not be written for what the peer had not read before.
    Opening,
    /// It was getting what it had missed, or had fallen behind and read on from the log.
    Replay,
    /// It heard what came.
    Live,
}

impl Phase {
    const ALL: [Self; 3] = [Self::Opening, Self::Replay, Self::Live];

    fn label(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Replay => "replay",
            Self::Live => "live",
        }
    }
}

/// The protocol of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1, on a socket of our own.
    Http1,
    /// A stream of an HTTP/2 connection.
    Http2,
}

impl Protocol {
    const ALL: [Self; 2] = [Self::Http1, Self::Http2];

    /// The label.
    pub fn label(self) -> &'static str {
        match self {
            Self::Http1 => "h1",
            Self::Http2 => "h2",
        }
    }
}

/// What one shard counts; written by its thread alone.
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
    began: Instant,
    routes: Box<[RouteMetrics]>,
    refused: [Number; Refused::ALL.len()],
    refused_finally: [Number; REFUSAL_CODES.len()],
    vouched: [Number; Proof::ALL.len()],
}

#[derive(Debug, Default)]
struct RouteMetrics {
    opened: [Number; Protocol::ALL.len()],
    closed: [[Number; Phase::ALL.len()]; CloseReason::ALL.len()],
    resumes: [Number; RESUMES.len()],
}

const RESUMES: [&str; 3] = ["new", "exact", "gap"];

/// Why a proxy is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Its uid, on the unix socket.
    Uid,
    /// Its certificate.
    Certificate,
    /// The shared secret.
    Secret,
    /// Its address, as the operator says that is enough.
    Address,
}

impl Proof {
    const ALL: [Self; 4] = [Self::Uid, Self::Certificate, Self::Secret, Self::Address];

    fn label(self) -> &'static str {
        match self {
            Self::Uid => "uid",
            Self::Certificate => "certificate",
            Self::Secret => "secret",
            Self::Address => "address",
        }
    }
}

/// Codes of final refusals (`http::reject`); what label they have in the metrics.
pub const REFUSAL_CODES: [&str; 22] = [
    "not_found",
    "method_not_allowed",
    "not_acceptable",
    "unknown_host",
    "http_version",
    "bad_host",
    "bad_path",
    "bad_query",
    "target_too_long",
    "headers_too_large",
    "body_not_allowed",
    "bad_cursor",
    "origin_denied",
    "untrusted_peer",
    "identity_missing",
    "identity_ambiguous",
    "header_alias",
    "hop_by_hop_identity",
    "identity_invalid",
    "identity_expired",
    "subject_denied",
    "internal",
];

/// Soft refusals, by reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// `limits.connections`.
    Connections,
    /// `limits.connections_per_user`.
    User,
    /// `limits.connections_per_address`.
    Address,
    /// `limits.connects_per_second*`.
    Rate,
    /// Shutting down.
    Drain,
    /// NATS has not been seen yet.
    Nats,
    /// `limits.memory`.
    Memory,
}

impl Refused {
    /// Every reason.
    pub const ALL: [Self; 7] =
        [Self::Connections, Self::User, Self::Address, Self::Rate, Self::Drain, Self::Nats, Self::Memory];

    /// The label, also the value of `Sidestream-Refused`.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::User => "user",
            Self::Address => "address",
            Self::Rate => "rate",
            Self::Drain => "drain",
            Self::Nats => "nats",
            Self::Memory => "memory",
        }
    }
}

impl ShardMetrics {
    /// All zero, for so many routes.
    pub fn new(routes: usize) -> Self {
        Self {
            connections: Number::default(),
            tasks: Number::default(),
            events_sent: Number::default(),
            bytes_sent: Number::default(),
            writes: Number::default(),
            queued: Number::default(),
            heartbeats: Number::default(),
            fell_behind: Number::default(),
            peers_refused: Number::default(),
            proxy_headers_refused: Number::default(),
            handshakes_failed: Number::default(),
            accept_pauses: Number::default(),
            panics: Number::default(),
            swept: Number::default(),
            began: Instant::now(),
            routes: (0..routes).map(|_| RouteMetrics::default()).collect(),
            refused: Default::default(),
            refused_finally: Default::default(),
            vouched: Default::default(),
        }
    }

    /// A stream was opened.
    pub fn opened(&self, route: usize, protocol: Protocol, resume: crate::frame::notice::Resume) {
        self.connections.add(1);
        let route = &self.routes[route];
        route.opened[protocol as usize].add(1);
        route.resumes[resume as usize].add(1);
    }

    /// A stream has ended.
    pub fn closed(&self, route: usize, reason: CloseReason, phase: Phase) {
        self.connections.sub(1);
        self.routes[route].closed[reason as usize][phase as usize].add(1);
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
}

/// What memory is used; written by the thread that watches it.
#[derive(Debug, Default)]
pub struct MemoryMetrics {
    /// Bytes that may be used; 0 without a budget.
    pub budget: Number,
    /// Bytes that count against it.
    pub used: Number,
    /// Bytes that frames hold, in the history and in queues.
    pub frames: Number,
    /// The thread's sign of life.
    pub pulse: Pulse,
}

/// What became of certificate files that had changed; written by the thread that reads them.
#[derive(Debug, Default)]
pub struct TlsMetrics {
    /// Read, and shown to new connections.
    pub applied: Number,
    /// Not usable: what was shown before is shown on.
    pub refused: Number,
}

/// All numbers of the process.
#[derive(Debug)]
pub struct Metrics {
    /// The feeds'.
    pub feed: Arc<FeedMetrics>,
    /// Each shard's.
    pub shards: Vec<Arc<ShardMetrics>>,
    /// The process's memory.
    pub memory: MemoryMetrics,
    /// Certificate files.
    pub tls: TlsMetrics,
    routes: Vec<String>,
    streams: Vec<(String, Arc<crate::link::FeedStatus>)>,
    started: SystemTime,
}

impl Metrics {
    /// All zero.
    pub fn new(shards: usize, routes: Vec<String>, streams: Vec<(String, Arc<crate::link::FeedStatus>)>) -> Self {
        Self {
            feed: Arc::default(),
            shards: (0..shards).map(|_| Arc::new(ShardMetrics::new(routes.len()))).collect(),
            memory: MemoryMetrics::default(),
            tls: TlsMetrics::default(),
            routes,
            streams,
            started: SystemTime::now(),
        }
    }

    /// How long the shard that swept its clients longest ago has not done it.
    pub fn longest_since_sweep(&self) -> Duration {
        self.longest_since_sweep_at(Instant::now())
    }

    /// The same at another moment.
    pub fn longest_since_sweep_at(&self, now: Instant) -> Duration {
        let since = |shard: &Arc<ShardMetrics>| {
            now.saturating_duration_since(shard.began).saturating_sub(Duration::from_millis(shard.swept.get()))
        };
        self.shards.iter().map(since).max().unwrap_or_default()
    }

    fn sum(&self, number: impl Fn(&ShardMetrics) -> u64) -> u64 {
        self.shards.iter().fold(0, |sum, shard| sum.wrapping_add(number(shard)))
    }

    /// Prometheus text. The recorder lives for one scrape: the numbers are ours, the format is the library's.
    pub fn render(&self) -> String {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            self.process();
            self.feeds();
            self.shards();
            self.routes();
        });
        handle.render()
    }

    fn process(&self) {
        let started = self.started.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let version = env!("CARGO_PKG_VERSION");
        gauge(
            "build_info",
            "Always 1; the labels say what is running",
            &[("version", version), ("crypto", "aws-lc-rs")],
            1.0,
        );
        gauge("start_time_seconds", "Start of the process since the epoch", &[], started);
        let memory = &self.memory;
        let help = "Bytes the process may use before new streams wait; 0 without a budget";
        gauge("memory_budget_bytes", help, &[], memory.budget.get() as f64);
        let help = "Bytes that count against the memory budget";
        gauge("memory_used_bytes", help, &[], memory.used.get() as f64);
        let help = "Bytes that events hold in memory, in the history and in queues";
        gauge("frames_bytes", help, &[], memory.frames.get() as f64);
        let help = "Certificate files that had changed, by whether they could be used";
        for (outcome, number) in [("applied", &self.tls.applied), ("refused", &self.tls.refused)] {
            counter("certificate_reloads_total", help, &[("outcome", outcome)], number.get());
        }
    }

    fn feeds(&self) {
        let feed = &self.feed;
        let help = "Messages read from NATS";
        counter("events_received_total", help, &[("source", "stream")], feed.stream_events.get());
        counter("events_received_total", help, &[("source", "core")], feed.live_events.get());
        let help = "Events served to resuming clients from beyond the history in memory";
        counter("replayed_events_total", help, &[], feed.replayed.get());
        let help = "Whether the NATS server has known security faults";
        gauge("nats_server_outdated", help, &[], feed.server_outdated.get() as f64);
        let help =
            "Passes over the past of streams: reads that clients share who resume from beyond the history in memory";
        gauge("replay_passes", help, &[], feed.passes.get() as f64);
        gauge("nats_subscriptions", "Core NATS subscriptions held", &[], feed.live_subscriptions.get() as f64);
        let help = "Event names that publishers chose and may not use";
        counter("event_names_replaced_total", help, &[], feed.names_replaced.get());
        let help = "Messages outside the subscription they came by, dropped";
        counter("subject_violations_total", help, &[], feed.violations.get());
        counter("poison_messages_total", "Messages the NATS client cannot read, stepped over", &[], feed.poison.get());
        for (reason, count) in GapReason::ALL.iter().zip(&feed.gaps) {
            counter("gaps_total", "Declared gaps", &[("reason", reason.label())], count.get());
        }
        for (stream, status) in &self.streams {
            let labels = [("stream", stream.as_str())];
            gauge("nats_connected", "Whether the stream is being read", &labels, f64::from(u8::from(status.is_up())));
            gauge("stream_head", "Newest stream sequence read", &labels, status.head() as f64);
        }
    }

    fn shards(&self) {
        gauge("shards", "Threads that serve connections", &[], self.shards.len() as f64);
        gauge("connections", "Event streams open now", &[], self.sum(|s| s.connections.get()) as f64);
        gauge("tasks", "Tasks that serve a connection", &[], self.sum(|s| s.tasks.get()) as f64);
        counter(
            "events_sent_total",
            "Events and notices written or queued for a client",
            &[],
            self.sum(|s| s.events_sent.get()),
        );
        counter("bytes_sent_total", "Bytes of event streams handed to sockets", &[], self.sum(|s| s.bytes_sent.get()));
        let help = "Bytes that wait for clients; queues share them";
        gauge("queue_bytes", help, &[], self.sum(|s| s.queued.get()) as f64);
        counter("writes_total", "Write calls made for event streams", &[], self.sum(|s| s.writes.get()));
        counter("heartbeats_sent_total", "Heartbeats written or queued", &[], self.sum(|s| s.heartbeats.get()));
        let help = "Times a reader's backlog was full and it went on from the stream's log";
        counter("readers_fell_behind_total", help, &[], self.sum(|s| s.fell_behind.get()));
        let help = "Peers on a unix socket whose uid is not allowed";
        counter("peers_refused_total", help, &[], self.sum(|s| s.peers_refused.get()));
        let help = "Connections closed for want of a PROXY protocol header, or from where none is taken";
        counter("proxy_protocol_refused_total", help, &[], self.sum(|s| s.proxy_headers_refused.get()));
        let help = "TLS handshakes that failed or took too long";
        counter("tls_handshakes_failed_total", help, &[], self.sum(|s| s.handshakes_failed.get()));
        let help = "Moments of 50 ms in which a listener accepted nobody for want of descriptors or room";
        counter("accept_pauses_total", help, &[], self.sum(|s| s.accept_pauses.get()));
        counter("panics_total", "Panics of connection tasks, contained", &[], self.sum(|s| s.panics.get()));
        for (place, code) in REFUSAL_CODES.iter().enumerate() {
            let count = self.sum(|s| s.refused_finally[place].get());
            counter("requests_refused_total", "Requests refused for good", &[("code", code)], count);
        }
        for proof in Proof::ALL {
            let count = self.sum(|s| s.vouched[proof as usize].get());
            counter(
                "identities_total",
                "Identities believed, by the proxy's proof",
                &[("proof", proof.label())],
                count,
            );
        }
        for reason in Refused::ALL {
            let count = self.sum(|s| s.refused[reason as usize].get());
            counter("connections_rejected_total", "Streams refused softly", &[("reason", reason.label())], count);
        }
    }

    fn routes(&self) {
        for (index, route) in self.routes.iter().enumerate() {
            for protocol in Protocol::ALL {
                let count = self.sum(|s| s.routes[index].opened[protocol as usize].get());
                let labels = [("route", route.as_str()), ("proto", protocol.label())];
                counter("connections_total", "Event streams opened", &labels, count);
            }
            for reason in CloseReason::ALL {
                for phase in Phase::ALL {
                    let count = self.sum(|s| s.routes[index].closed[reason as usize][phase as usize].get());
                    let labels = [("route", route.as_str()), ("reason", reason.label()), ("phase", phase.label())];
                    let help = "Event streams ended; in the phase `opening` also such as never opened";
                    counter("connections_closed_total", help, &labels, count);
                }
            }
            for (place, outcome) in RESUMES.iter().enumerate() {
                let count = self.sum(|s| s.routes[index].resumes[place].get());
                let labels = [("route", route.as_str()), ("outcome", outcome)];
                counter("resumes_total", "How streams were opened", &labels, count);
            }
        }
    }
}

fn counter(name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: u64) {
    let name = format!("sidestream_{name}");
    metrics::describe_counter!(name.clone(), Unit::Count, help);
    metrics::counter!(name, owned(labels)).absolute(value);
}

fn gauge(name: &'static str, help: &'static str, labels: &[(&'static str, &str)], value: f64) {
    let name = format!("sidestream_{name}");
    metrics::describe_gauge!(name.clone(), Unit::Count, help);
    metrics::gauge!(name, owned(labels)).set(value);
}

fn owned(labels: &[(&'static str, &str)]) -> Vec<Label> {
    labels.iter().map(|(name, value)| Label::new(*name, (*value).to_owned())).collect()
}
