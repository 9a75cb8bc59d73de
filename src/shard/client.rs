//! One event stream: what it may hear, how far it is, and how it ends.
//!
//! A [`Client`] is shared between the shard's loop, which puts frames to it, and the task that owns its connection. It is
//! taken out of every index when its [`Guard`](super::guard::Guard) is dropped, whatever the way. Bytes and bounds are [`super::output`]'s.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use uuid::Uuid;

use super::Membership;
use super::batch::Standing;
use super::output::{Bounds, Output, Overflow, Way};
use crate::cursor::LastEventId;
use crate::frame::Frame;
use crate::frame::notice::{ByeCode, Resume};
use crate::link::{ConnectionInfo, Ticket};
use crate::route::Grant;
use crate::server::socket::Transport;
use crate::telemetry::access::Arrival;
use crate::telemetry::metrics::{self, CloseReason, Protocol};

/// Visits of the sweep, one a second, after which a client that was blocked is left to the kernel's judgement again.
const CALM: u8 = 20;

/// What is known of a stream before it opens.
#[derive(Debug)]
pub struct Spec {
    /// Its public id.
    pub connection: Uuid,
    /// Index of the route.
    pub route: u8,
    /// Index of the route's format.
    pub format: u8,
    /// Index of the route's stream.
    pub stream: Option<u8>,
    /// What it may hear.
    pub grant: Grant,
    /// What it sent as its last event ID.
    pub last_event_id: LastEventId,
    /// How it is connected.
    pub protocol: Protocol,
    /// When the identity expires, from now.
    pub expires_in: Option<Duration>,
    /// What its first line in the log says; without it none is written.
    pub arrival: Option<Box<Arrival>>,
    /// Counts it against limits until it ends.
    pub permit: crate::limit::Permit,
}

/// One event stream. There are as many as there are connections: every byte here counts.
pub struct Client {
    /// Its place in the shard.
    pub ticket: Ticket,
    /// Its public id.
    pub connection: Uuid,
    /// Index of the route.
    route: u8,
    /// Index of the format.
    pub format: u8,
    /// Index of the stream.
    pub stream: Option<u8>,
    /// What it may hear.
    pub grant: Arc<Grant>,
    /// How it is connected.
    pub protocol: Protocol,
    /// How far its core subjects are.
    pub(super) live: Cell<Live>,
    /// Its bytes.
    pub output: RefCell<Output>,
    pub(super) membership: RefCell<Membership>,
    /// The log its position is in, by [`crate::link::Piece::log`].
    pub(super) log: Cell<u32>,
    /// Everything of its stream up to here has been put to it.
    pub(super) position: Cell<u64>,
    /// What it was last told of NATS.
    pub(super) told_degraded: Cell<bool>,
    /// It has been told that it has all last values.
    pub(super) synced: Cell<bool>,
    pub(super) phase: Cell<Phase>,
    pub(super) resume: Cell<Resume>,
    /// The task that owns the connection, or waits for the opening.
    waker: Cell<Option<Waker>>,
    /// When its request came, in microseconds since the shard began.
    pub(super) asked: u64,
    /// Events and notices written or queued.
    events: Cell<u64>,
    /// Bytes handed to its socket or connection.
    bytes: Cell<u64>,
    last_write: Cell<u64>,
    blocked_since: Cell<Option<Moment>>,
    /// Visits of the sweep since it was blocked at one, up to [`CALM`].
    calm: Cell<u8>,
    end: Cell<Option<(u64, ByeCode)>>,
    pub(super) closing: Cell<Option<Closing>>,
    permit: crate::limit::Permit,
}

/// A millisecond of the shard's clock, counted from one so that absence takes no room.
type Moment = NonZeroU64;

fn moment(now: u64) -> Moment {
    NonZeroU64::MIN.saturating_add(now)
}

/// How far the core subjects of a client are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Live {
    /// It has none, or nobody has been asked for them yet.
    Unasked,
    /// Their feed has been asked.
    Asked,
    /// The subscriptions are active, or NATS is away.
    Listening,
}

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Its feeds have not answered yet.
    Opening,
    /// It has been served up to this sequence and gets the next piece when that is on the wire.
    CatchingUp(u64),
    /// The next piece has been asked for.
    Asked,
    /// It hears what comes.
    Live,
}

/// A stream that is ending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closing {
    /// What waits is written first.
    Orderly(CloseReason),
    /// At once.
    Abrupt(CloseReason),
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Client {
    pub(super) fn new(spec: Spec, grant: Arc<Grant>, ticket: Ticket, now: u64, asked: u64) -> Self {
        let client = Self {
            ticket,
            connection: spec.connection,
            route: spec.route,
            format: spec.format,
            stream: spec.stream,
            grant,
            protocol: spec.protocol,
            live: Cell::new(Live::Unasked),
            output: RefCell::default(),
            membership: RefCell::default(),
            log: Cell::new(0),
            position: Cell::new(0),
            told_degraded: Cell::new(false),
            synced: Cell::new(false),
            phase: Cell::new(if spec.stream.is_some() { Phase::Opening } else { Phase::Live }),
            resume: Cell::new(Resume::New),
            waker: Cell::default(),
            asked,
            events: Cell::new(0),
            bytes: Cell::new(0),
            last_write: Cell::new(now),
            blocked_since: Cell::new(None),
            calm: Cell::new(CALM),
            end: Cell::new(None),
            closing: Cell::new(None),
            permit: spec.permit,
        };
        if let Some(expires_in) = spec.expires_in {
            client.end_by(now.saturating_add(super::millis(expires_in)), ByeCode::Expired);
        }
        client
    }

    /// Index of the route.
    pub fn route(&self) -> usize {
        self.route.into()
    }

    /// Whether it has core subjects.
    pub fn hears_live(&self) -> bool {
        !self.grant.live().is_empty()
    }

    /// Whether it hears what comes from its stream.
    pub fn is_live(&self) -> bool {
        self.phase.get() == Phase::Live
    }

    /// How far it is, for the metrics.
    pub(super) fn phase_reached(&self) -> metrics::Phase {
        match self.phase.get() {
            _ if !self.is_open() => metrics::Phase::Opening,
            Phase::Opening => metrics::Phase::Opening,
            Phase::CatchingUp(_) | Phase::Asked => metrics::Phase::Replay,
            Phase::Live => metrics::Phase::Live,
        }
    }

    /// Subject patterns that it hears.
    pub(super) fn patterns(&self) -> u64 {
        (self.grant.stream().len() + self.grant.live().len()) as u64
    }

    /// Whose it is.
    pub fn user(&self) -> Option<&str> {
        self.permit.user()
    }

    /// Whether its grant covers a subject.
    pub fn may_hear(&self, subject: &str) -> bool {
        self.grant.stream().iter().chain(self.grant.live()).any(|pattern| pattern.matches(subject))
    }

    pub(super) fn info(&self, now: u64) -> ConnectionInfo {
        ConnectionInfo {
            connection: self.connection,
            user: self.user().map(str::to_owned),
            route: self.route(),
            live: self.is_live(),
            protocol: self.protocol,
            age: self.age(),
            queued_bytes: self.output.borrow().waiting_bytes(),
            waiting: Duration::from_millis(self.blocked_for(now).unwrap_or_default()),
        }
    }

    /// Its id says when it was made.
    fn age(&self) -> Duration {
        let (seconds, nanoseconds) = self.connection.get_timestamp().map_or((0, 0), |made| made.to_unix());
        let made = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        SystemTime::now().duration_since(made).unwrap_or_default()
    }

    /// Whether `sidestream.connected` has been put to it.
    pub(super) fn is_open(&self) -> bool {
        self.phase.get() != Phase::Opening && self.is_listening()
    }

    fn is_listening(&self) -> bool {
        !self.hears_live() || self.live.get() == Live::Listening
    }

    /// Ready when every feed has answered, or the stream is already ending.
    pub(super) fn poll_opened(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_open() || self.closing.get().is_some() {
            return Poll::Ready(());
        }
        self.set_waker(cx);
        Poll::Pending
    }

    /// The task to wake when there is something to do. Only one task waits on a client at a time.
    pub fn set_waker(&self, cx: &Context<'_>) {
        let known = self.waker.take().filter(|waker| waker.will_wake(cx.waker()));
        self.waker.set(Some(known.unwrap_or_else(|| cx.waker().clone())));
    }

    /// Wakes the task that owns the connection.
    pub fn wake(&self) {
        let waker = self.waker.take();
        waker.iter().for_each(Waker::wake_by_ref);
        self.waker.set(waker);
    }

    /// The earliest end wins.
    pub(super) fn end_by(&self, at: u64, code: ByeCode) {
        if self.end.get().is_none_or(|(earlier, _)| at < earlier) {
            self.end.set(Some((at, code)));
        }
    }

    pub(super) fn ends_now(&self, now: u64) -> Option<ByeCode> {
        self.end.get().filter(|(at, _)| now >= *at && self.closing.get().is_none()).map(|(_, code)| code)
    }

    /// So many more events were written or queued.
    pub(super) fn count_events(&self, events: u32) {
        self.events.set(self.events.get() + u64::from(events));
    }

    /// So many more bytes were handed over.
    pub(super) fn count_bytes(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
    }

    /// Events and bytes so far.
    pub(super) fn counted(&self) -> (u64, u64) {
        (self.events.get(), self.bytes.get())
    }

    /// Whether and how it is ending.
    pub fn closing(&self) -> Option<Closing> {
        self.closing.get()
    }

    /// Ends the stream at once; the first reason stays.
    pub fn abort(&self, reason: CloseReason) {
        if !matches!(self.closing.get(), Some(Closing::Abrupt(_))) {
            self.closing.set(Some(Closing::Abrupt(reason)));
            self.wake();
        }
    }

    /// Queues a frame, within the bounds.
    pub(super) fn try_push(&self, frame: Bytes, bounds: Bounds, now: u64) -> Result<(), Overflow> {
        self.output.borrow_mut().push(frame, bounds)?;
        self.queued(now);
        Ok(())
    }

    /// Queues a frame of a piece, which is bounded as a whole and asked for only when nothing waits.
    pub(super) fn push_piece(&self, frame: Bytes, now: u64) {
        self.output.borrow_mut().push_beyond(frame);
        self.queued(now);
    }

    /// Something waits for it.
    pub(super) fn queued(&self, now: u64) {
        if self.blocked_since.get().is_none() {
            self.blocked_since.set(Some(moment(now)));
        }
        self.wake();
    }

    /// Its backlog is full: the rest waits in its stream's log, and is asked for when the backlog is on the wire.
    pub(super) fn fall_behind(&self) {
        self.phase.set(Phase::CatchingUp(self.position.get()));
    }

    /// The bytes of a frame as this client's protocol wants them.
    pub(super) fn bytes_of(&self, frame: &Frame) -> Bytes {
        match self.protocol {
            Protocol::Http1 => frame.wire().clone(),
            Protocol::Http2 => frame.body(),
        }
    }

    /// It has been put everything up to here.
    pub(super) fn stand(&self, standing: &Standing) {
        if let Some(log) = standing.log {
            self.log.set(log);
        }
        if let Some(position) = standing.position {
            self.position.set(position);
        }
        if let Some(degraded) = standing.degraded {
            self.told_degraded.set(degraded);
        }
    }

    pub(super) fn since_write(&self, now: u64) -> u64 {
        now.saturating_sub(self.last_write.get())
    }

    /// Whether something waits for it.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since.get().is_some()
    }

    pub(super) fn blocked_for(&self, now: u64) -> Option<u64> {
        self.blocked_since.get().map(|since| (now + 1).saturating_sub(since.get()))
    }

    /// At each visit of the sweep.
    pub(super) fn watch(&self, now: u64) {
        let output = self.output.borrow();
        match &output.way {
            Way::Unopened => {}
            Way::Socket(transport) => self.judge_by_kernel(transport),
            Way::Http2(outgoing) => {
                let waits = outgoing.held() > 0 || !output.is_empty();
                if outgoing.take_moved() || !waits {
                    self.blocked_since.set(waits.then_some(moment(now)));
                } else if !self.is_blocked() {
                    self.blocked_since.set(Some(moment(now)));
                }
            }
        }
    }

    /// Decides who notices that the peer has gone: of a blocked client we see progress or none, and the kernel would take slow
    /// reading for absence; of the others only the kernel knows.
    fn judge_by_kernel(&self, transport: &Transport) {
        let before = self.calm.get();
        let now = if self.is_blocked() { 0 } else { CALM.min(before + 1) };
        self.calm.set(now);
        if (now == CALM) != (before == CALM) {
            transport.set_user_timeout(now == CALM);
        }
    }

    /// Something was written. What an HTTP/2 connection was given it may still hold: whether that moves is seen by
    /// [`Client::watch`].
    pub(super) fn progressed(&self, now: u64, blocked: bool) {
        self.last_write.set(now);
        if !self.is_watched() {
            self.blocked_since.set(blocked.then_some(moment(now)));
        }
    }

    /// It was to be written to, and there is nothing left to write.
    pub(super) fn nothing_waits(&self) {
        if !self.is_watched() {
            self.blocked_since.set(None);
        }
    }

    fn is_watched(&self) -> bool {
        matches!(self.output.borrow().way, Way::Http2(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_and_its_counts_fit_an_allocation_of_320_bytes() {
        // Of the allocator's sizes the next is 384; there are as many as connections.
        assert!(size_of::<Client>() + 2 * size_of::<usize>() <= 320, "{} bytes", size_of::<Client>());
    }
}
