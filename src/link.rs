//! The messages between feeds and shards, and nothing else.
//!
//! A feed owns what is known of NATS (one per stream, one for core subjects), a shard owns clients. Each shard has one
//! first-in-first-out queue that all feeds write to; a feed's own messages therefore arrive in the order it decided them,
//! and an [`ToShard::Attached`] separates exactly what a client already got from what it is still to get.

use std::cmp::Reverse;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::cursor::{Cursor, LastEventId};
use crate::event::Event;
use crate::frame::notice::Resume;
use crate::frame::{Frame, Payload};
use crate::route::Grant;
use crate::subject::Pattern;
use crate::telemetry::metrics::Protocol;

/// Messages a shard's queue holds before its feeds wait; past it NATS's own flow control holds the stream back. Events of a
/// burst are one message.
const SHARD_QUEUE_MESSAGES: usize = 1024;
/// What an event takes in a shard's queue beside its frames, roughly.
const EVENT_OVERHEAD_BYTES: usize = 128;
/// Bytes of frames in a shard's queue before its feeds wait. They are shared with the log, but the log may drop them first.
const SHARD_QUEUE_BYTES: usize = 32 * 1024 * 1024;

/// The way to a shard: one queue for everybody, first in, first out, bounded in messages and in bytes of frames.
#[derive(Debug, Clone)]
pub struct ShardQueue {
    sender: mpsc::Sender<ToShard>,
    bytes: Arc<Semaphore>,
}

/// Room in a shard's queue, given back when the message has been taken out.
#[derive(Debug)]
pub struct Room {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ShardQueue {
    /// A queue and its end.
    pub fn new() -> (Self, mpsc::Receiver<ToShard>) {
        let (sender, end) = mpsc::channel(SHARD_QUEUE_MESSAGES);
        (Self { sender, bytes: Arc::new(Semaphore::new(SHARD_QUEUE_BYTES)) }, end)
    }

    /// Sends a message. Waits while the shard is behind: a shard is ours and never waits for a browser. A shard that has
    /// ended takes nothing: the process is then going down.
    pub async fn send(&self, message: ToShard) {
        let _ = self.sender.send(message).await;
    }

    /// Waits until so many bytes of frames of `events` events have room.
    pub async fn room(&self, events: usize, bytes: usize) -> Room {
        let bytes = bytes.saturating_add(events * EVENT_OVERHEAD_BYTES).min(SHARD_QUEUE_BYTES);
        let permits = u32::try_from(bytes).unwrap_or(u32::MAX);
        // Never closed.
        Room { _permit: self.bytes.clone().acquire_many_owned(permits).await.ok() }
    }
}

/// A client of a shard, safe against the slot having been given to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ticket {
    /// The slot in the shard.
    pub slot: u32,
    /// Which use of the slot.
    pub generation: u32,
}

/// What a feed tells a shard.
#[derive(Debug)]
pub enum ToShard {
    /// The next events of a stream.
    Events {
        /// Index of the stream in the route table.
        stream: u8,
        /// The events, in order; those that nobody here may hear are left out.
        events: Vec<Arc<Event>>,
        /// When the first of them was read.
        read: Instant,
        /// Their room in the queue.
        room: Room,
    },
    /// A message on a core subject, for the listeners of exactly this pattern.
    Live {
        /// The subscription it came by; it matches the subject, which the feed has checked.
        pattern: Arc<Pattern>,
        /// The message.
        event: Arc<Event>,
        /// When it was read.
        read: Instant,
        /// Its room in the queue.
        room: Room,
    },
    /// The head of a stream moved, possibly without an event for this shard.
    Head {
        /// Index of the stream.
        stream: u8,
        /// Everything up to here has been sent to this shard.
        head: Cursor,
    },
    /// Another log begins: what comes for its clients is in it, and their position is its base.
    Begin {
        /// Index of the stream.
        stream: u8,
        /// Which log, by [`Piece::log`].
        log: u32,
        /// Its base.
        head: Cursor,
        /// What tells clients of the log before; absent for the first log, before which there are none. Not a message of its
        /// own: a client must not have one without the other.
        gap: Option<Frame>,
    },
    /// Something every client of a stream is told (a gap, degraded, ok).
    StreamNotice {
        /// Index of the stream.
        stream: u8,
        /// The frame, with the id to go on from.
        frame: Frame,
        /// What it says.
        tells: Tells,
    },
    /// Something the clients of core subjects are told.
    LiveNotice(LiveNotice),
    /// The answer to [`StreamRequest::Attach`].
    Attached {
        /// Whose.
        ticket: Ticket,
        /// What it may hear: to undo the registration of a client that has gone meanwhile.
        grant: Arc<Grant>,
        /// What it missed, and where it goes on.
        piece: Piece,
    },
    /// The answer to [`LiveRequest::Listen`]: the subscriptions are active, or NATS is away.
    Listening {
        /// Whose.
        ticket: Ticket,
        /// Whether NATS is away just now.
        degraded: bool,
    },
    /// End streams: with `sidestream.bye`, or abruptly as a broken network would.
    Kick {
        /// Which.
        whom: Whom,
        /// Without a word.
        abruptly: bool,
        /// Where it is said how many there were.
        reply: oneshot::Sender<usize>,
    },
    /// One event for one connection.
    Send {
        /// The connection's public id.
        connection: uuid::Uuid,
        /// The event.
        event: Arc<OneEvent>,
        /// Where it is said what became of it.
        reply: oneshot::Sender<Sent>,
    },
    /// Who is connected?
    Audience {
        /// Of whom.
        of: AudienceOf,
        /// Where the answer goes.
        reply: oneshot::Sender<Audience>,
    },
    /// Close every stream, one by one across the window.
    Drain {
        /// How long that may take.
        window: Duration,
    },
}

/// Whose streams are ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    /// One connection, by its public id.
    Connection(uuid::Uuid),
    /// All of a user, by the id that the proxy sends.
    User(String),
}

/// An event for one connection. Its frame is made where the connection is, because the frame carries the client's place.
#[derive(Debug)]
pub struct OneEvent {
    /// Its name, checked; `None` is `message`.
    pub name: Option<String>,
    /// Its data.
    pub data: String,
    /// How data becomes text, by index of the format.
    pub payloads: Arc<[Payload]>,
    /// Whether it has been put to the connection. Shared with its repetitions, so that one of them is.
    pub put: Arc<AtomicBool>,
}

/// What became of an event for one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sent {
    /// It has been put to the connection, behind everything before it.
    Put,
    /// It had been put to the connection before.
    Before,
    /// There is no room for it: too much waits for the connection.
    Full,
    /// The connection is here, but opens or ends just now.
    NotOpen,
    /// There is no such connection here.
    Unknown,
}

/// What every client of a stream is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    /// Whether NATS is away from now on.
    Degraded(bool),
    /// What the stream had up to this sequence, and has not been sent, is gone.
    Hole(u64),
}

/// Which connections are asked for; absent fields do not narrow.
#[derive(Debug, Clone, Default)]
pub struct AudienceOf {
    /// The one with this public id.
    pub connection: Option<uuid::Uuid>,
    /// Those of a user.
    pub user: Option<String>,
    /// Those that may hear a subject.
    pub subject: Option<String>,
    /// How many to name.
    pub limit: usize,
    /// Only those for whom something waits are named, the longest first.
    pub slowest: bool,
}

/// Who is connected.
#[derive(Debug, Default)]
pub struct Audience {
    /// How many.
    pub total: usize,
    /// How many of them hear what comes now, rather than catching up.
    pub live: usize,
    /// Some of them.
    pub connections: Vec<ConnectionInfo>,
}

/// Time for a shard to answer.
const SHARD_PATIENCE: Duration = Duration::from_secs(2);

/// Asks every shard who is connected. `None` when one does not answer in time.
pub async fn audience(shards: &[ShardQueue], of: &AudienceOf) -> Option<Audience> {
    let mut all = Audience::default();
    for shard in shards {
        let (reply, answer) = oneshot::channel();
        let theirs = asked(shard, ToShard::Audience { of: of.clone(), reply }, answer).await?;
        all.total += theirs.total;
        all.live += theirs.live;
        all.connections.extend(theirs.connections);
    }
    if of.slowest {
        all.connections.sort_by_key(|connection| Reverse(connection.waiting));
    }
    all.connections.truncate(of.limit);
    Some(all)
}

/// Ends connections on every shard, and says how many there were. `None` when a shard does not answer in time.
pub async fn kick(shards: &[ShardQueue], whom: &Whom, abruptly: bool) -> Option<usize> {
    let mut kicked = 0;
    for shard in shards {
        let (reply, answer) = oneshot::channel();
        kicked += asked(shard, ToShard::Kick { whom: whom.clone(), abruptly, reply }, answer).await?;
    }
    Some(kicked)
}

/// Puts an event to a connection, on whichever shard it is. `None` when a shard does not answer in time: then it may have
/// been put just now.
pub async fn send(shards: &[ShardQueue], connection: uuid::Uuid, event: &Arc<OneEvent>) -> Option<Sent> {
    for shard in shards {
        let (reply, answer) = oneshot::channel();
        let sent = asked(shard, ToShard::Send { connection, event: event.clone(), reply }, answer).await?;
        if sent != Sent::Unknown {
            return Some(sent);
        }
    }
    Some(Sent::Unknown)
}

async fn asked<T>(shard: &ShardQueue, question: ToShard, answer: oneshot::Receiver<T>) -> Option<T> {
    let ask = async {
        shard.send(question).await;
        answer.await.ok()
    };
    tokio::time::timeout(SHARD_PATIENCE, ask).await.ok().flatten()
}

/// One connection, as an operator sees it.
#[derive(Debug)]
pub struct ConnectionInfo {
    /// Its public id.
    pub connection: uuid::Uuid,
    /// Whose it is.
    pub user: Option<String>,
    /// Index of its route.
    pub route: usize,
    /// Whether it hears what comes now.
    pub live: bool,
    /// How it is connected.
    pub protocol: Protocol,
    /// Since when.
    pub age: Duration,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
    /// How long its socket has taken nothing while something waits.
    pub waiting: Duration,
}

/// What clients of core subjects are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveNotice {
    /// Messages were missed: a gap `upstream`, to everyone who has core subjects.
    Missed,
    /// NATS is lost; to those without a stream, whose feed tells them otherwise.
    Degraded,
    /// NATS is back; likewise.
    Recovered,
}

/// A part of what a client missed, in order.
#[derive(Debug)]
pub struct Piece {
    /// Index of the stream it comes from.
    pub stream: u8,
    /// Which log of it, counted from the start of the process: sequences mean something else in the next.
    pub log: u32,
    /// Whether NATS is away just now.
    pub degraded: bool,
    /// Present in the first piece: how the stream opens.
    pub opening: Option<Opening>,
    /// Missed events.
    pub events: Vec<Arc<Event>>,
    /// Follows the events where they are the last of the last values: tells that.
    pub synced: Option<Frame>,
    /// Where the client stands after them.
    pub upto: u64,
    /// Whether the client is now registered for everything after `upto`. Otherwise it asks for the next piece.
    pub joined: bool,
}

/// How a stream opens.
#[derive(Debug)]
pub struct Opening {
    /// The word in `sidestream.connected`.
    pub resume: Resume,
    /// The id of `sidestream.connected`.
    pub id: String,
    /// The declared hole that follows it.
    pub gap: Option<Frame>,
}

/// What a shard asks of the feed of a stream.
#[derive(Debug)]
pub enum StreamRequest {
    /// Serve what a client missed and register it.
    Attach {
        /// Which shard asks.
        shard: usize,
        /// For whom.
        ticket: Ticket,
        /// What it may hear.
        grant: Arc<Grant>,
        /// From where.
        from: From,
    },
    /// A registered client has gone, or has fallen behind and reads from the log again.
    Detach {
        /// Which shard it was on.
        shard: usize,
        /// What it heard.
        grant: Arc<Grant>,
    },
}

/// Where a client goes on.
#[derive(Debug, Clone, Copy)]
pub enum From {
    /// It connects, with what it sent as its last event ID.
    LastEventId(LastEventId),
    /// It has everything up to a sequence and wants the next piece.
    Sequence {
        /// In this log, by [`Piece::log`].
        log: u32,
        /// Up to here.
        after: u64,
    },
}

/// What a shard asks of the feed of core subjects.
#[derive(Debug)]
pub enum LiveRequest {
    /// Listen to `grant.live()`.
    Listen {
        /// Which shard asks.
        shard: usize,
        /// For whom.
        ticket: Ticket,
        /// What it may hear.
        grant: Arc<Grant>,
    },
    /// A listener has gone.
    Unlisten {
        /// Which shard it was on.
        shard: usize,
        /// What it heard.
        grant: Arc<Grant>,
    },
}

/// State of a feed that others may read at any time.
#[derive(Debug, Default)]
pub struct FeedStatus {
    serving: AtomicBool,
    up: AtomicBool,
    head: AtomicU64,
    /// Since when it has been down, after having been up.
    down_since: Mutex<Option<Instant>>,
}

impl FeedStatus {
    /// Whether the feed lets clients in: it has been up, and is not just filling its log.
    pub fn is_serving(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }

    /// The feed says whether it lets clients in.
    pub fn set_serving(&self, serving: bool) {
        self.serving.store(serving, Ordering::Relaxed);
    }

    /// Whether the feed is reading now.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// Whether the feed lets clients in, and is reading now or has stopped no longer ago than `grace`.
    pub fn is_ready(&self, grace: Duration) -> bool {
        let down_since = *self.down_since.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_serving() && (self.is_up() || down_since.is_some_and(|since| since.elapsed() < grace))
    }

    /// The newest stream sequence read.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    /// The feed says how it is.
    pub fn set_up(&self, up: bool) {
        let mut down_since = self.down_since.lock().unwrap_or_else(PoisonError::into_inner);
        *down_since = if up { None } else { down_since.or_else(|| Some(Instant::now())) };
        self.up.store(up, Ordering::Relaxed);
    }

    /// The feed says where it is.
    pub fn set_head(&self, seq: u64) {
        self.head.store(seq, Ordering::Relaxed);
    }
}

/// A shard's way to one feed. The channel is unbounded by type and bounded by use: a client has at most one request and
/// one departure in it, and the number of clients is limited.
#[derive(Debug)]
pub struct FeedHandle<R> {
    /// Where requests go.
    pub requests: mpsc::UnboundedSender<R>,
    /// How the feed is.
    pub status: Arc<FeedStatus>,
}

impl<R> Clone for FeedHandle<R> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), status: self.status.clone() }
    }
}

impl<R> FeedHandle<R> {
    /// Sends a request. A feed that has ended takes none: the process is then going down.
    pub fn send(&self, request: R) {
        let _ = self.requests.send(request);
    }
}
