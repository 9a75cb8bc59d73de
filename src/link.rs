//! The messages between feeds and shards, and nothing else.
//!
//! A feed owns what is known of NATS (one per stream, one for core subjects), a shard owns clients. Each shard has one
//! first-in-first-out queue that all feeds write to; a feed's own messages therefore arrive in the order it decided them,
//! and an [`ToShard::Attached`] separates exactly what a client already got from what it is still to get.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::mpsc;

use crate::cursor::{Cursor, LastEventId};
use crate::event::Event;
use crate::frame::Frame;
use crate::frame::notice::Resume;
use crate::route::Grant;
use crate::subject::Pattern;

/// Messages a shard's queue holds before its feeds wait. Together with `limits.event_bytes` it bounds what is in flight
/// between a feed and a shard; past it NATS's own flow control holds the stream back.
pub const SHARD_QUEUE_MESSAGES: usize = 4096;

/// A client of a shard, safe against the slot having been given to somebody else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The slot in the shard.
    pub slot: u32,
    /// Which use of the slot.
    pub generation: u32,
}

/// What a feed tells a shard.
#[derive(Debug)]
pub enum ToShard {
    /// The next event of a stream.
    Event {
        /// Index of the stream in the route table.
        stream: u8,
        /// The event.
        event: Arc<Event>,
    },
    /// A message on a core subject, for the listeners of exactly this pattern.
    Live {
        /// The subscription it came by; it matches the subject, which the feed has checked.
        pattern: Arc<Pattern>,
        /// The message.
        event: Arc<Event>,
    },
    /// The head of a stream moved, possibly without an event for this shard.
    Head {
        /// Index of the stream.
        stream: u8,
        /// Everything up to here has been sent to this shard.
        head: Cursor,
    },
    /// Something every client of a stream is told (a gap, degraded, ok).
    StreamNotice {
        /// Index of the stream.
        stream: u8,
        /// The frame, with the id to go on from.
        frame: Frame,
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
    /// The answer to [`LiveRequest::Listen`]: the subscriptions are active.
    Listening {
        /// Whose.
        ticket: Ticket,
    },
    /// End the stream of one connection: with `sidestream.bye`, or abruptly as a broken network would.
    Kick {
        /// The connection's public id.
        connection: uuid::Uuid,
        /// Without a word.
        abruptly: bool,
    },
    /// Close every stream, one by one across the window.
    Drain {
        /// How long that may take.
        window: std::time::Duration,
    },
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
    /// Present in the first piece: how the stream opens.
    pub opening: Option<Opening>,
    /// Missed events.
    pub events: Vec<Arc<Event>>,
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
    /// A registered client has gone.
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
    /// It has everything up to this sequence and wants the next piece.
    Sequence(u64),
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
    ever_up: AtomicBool,
    up: AtomicBool,
    head: AtomicU64,
}

impl FeedStatus {
    /// Whether NATS has ever answered here; before that, streams are refused softly.
    pub fn ever_up(&self) -> bool {
        self.ever_up.load(Ordering::Relaxed)
    }

    /// Whether the feed is reading now.
    pub fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    /// The newest stream sequence read.
    pub fn head(&self) -> u64 {
        self.head.load(Ordering::Relaxed)
    }

    /// The feed says how it is.
    pub fn set_up(&self, up: bool) {
        self.up.store(up, Ordering::Relaxed);
        if up {
            self.ever_up.store(true, Ordering::Relaxed);
        }
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
