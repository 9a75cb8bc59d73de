//! A batch of messages, and at most one write per client for it.
//!
//! Matching marks clients with positions in the batch; every marked client is then written once: one frame as it is,
//! several gathered into a buffer that neighbours with the same list share. A client whose socket is full, or that still
//! has a backlog, gets references instead. Under load the queue grows while a pass runs, so the next pass carries more.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::client::Client;
use super::{Members, Shard};
use crate::event::Event;
use crate::frame::Frame;
use crate::frame::notice::{self, ByeCode, Gap, GapReason};
use crate::link::{Audience, AudienceOf, LiveNotice, StreamRequest, Tells, ToShard};
use crate::subject::Pattern;
use crate::telemetry::metrics::{CloseReason, Protocol};

/// Messages taken into one batch.
const BATCH_MESSAGES: usize = 64;
/// Writes after which other tasks of the shard get a turn: 2 to 4 ms.
const WRITES_PER_TURN: usize = 256;

/// The messages at hand and the clients they touch. Positions in `items` stay valid until the pass has ended.
#[derive(Debug, Default)]
pub(super) struct Batch {
    items: RefCell<Vec<Item>>,
    dirty: RefCell<Vec<u32>>,
    gathered: RefCell<Gathered>,
    scratch: RefCell<Vec<u8>>,
    /// The time of the pass: the clock is read once per turn, not once per client.
    now: Cell<u64>,
}

#[derive(Debug)]
enum Item {
    Event(Arc<Event>),
    Notice(Frame, Notice),
    /// What follows is in another log.
    Begin {
        log: u32,
        base: u64,
        gap: Frame,
    },
}

/// What a notice is about, and so whether a client that falls behind may miss it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notice {
    /// Its stream. Whether NATS is away is told by comparison when the client has caught up, a hole is found again by the
    /// client's position.
    Stream(Tells),
    /// Core subjects: whether NATS is away.
    Live(bool),
    /// A hole in core subjects; not to be had again.
    LiveGap,
}

/// The last gather buffer and what it was made of.
#[derive(Debug, Default)]
struct Gathered {
    list: Vec<u32>,
    format: u8,
    bytes: Vec<u8>,
}

impl Item {
    fn frame(&self, format: u8) -> Option<&Frame> {
        match self {
            Self::Event(event) => event.frames.get(format),
            Self::Notice(frame, _) | Self::Begin { gap: frame, .. } => Some(frame),
        }
    }
}

impl Batch {
    /// Lends the buffer that backlogs are gathered in.
    pub(super) fn with_scratch<T>(&self, use_it: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        use_it(&mut self.scratch.borrow_mut())
    }

    /// The position that the next item will have.
    fn next(&self) -> u32 {
        u32::try_from(self.items.borrow().len()).expect("a batch is far below 2^32 items")
    }

    fn push(&self, item: Item) -> u32 {
        let position = self.next();
        self.items.borrow_mut().push(item);
        position
    }

    fn clear(&self) {
        self.items.borrow_mut().clear();
        let mut gathered = self.gathered.borrow_mut();
        gathered.list.clear();
        gathered.bytes.clear();
        // A burst of large events must not be paid for ever after.
        gathered.bytes.shrink_to(256 * 1024);
    }
}

impl Shard {
    pub(crate) async fn deliver_loop(self: Rc<Self>, mut queue: mpsc::Receiver<ToShard>) {
        let mut messages = Vec::with_capacity(BATCH_MESSAGES);
        while queue.recv_many(&mut messages, BATCH_MESSAGES).await > 0 {
            self.batch.now.set(self.now());
            for message in messages.drain(..) {
                self.accept(message);
            }
            self.write_dirty().await;
        }
    }

    fn accept(&self, message: ToShard) {
        match message {
            ToShard::Event { stream, event, room: _ } => self.mark_event(stream, event),
            ToShard::Live { pattern, event, room: _ } => self.mark_live(&pattern, event),
            ToShard::Head { stream, head } => self.streams[usize::from(stream)].head.set(Some(head)),
            ToShard::Begin { stream, log, head, gap } => {
                let view = &self.streams[usize::from(stream)];
                view.head.set(Some(head));
                if let Some(gap) = gap {
                    let item = self.batch.push(Item::Begin { log, base: head.at.seq, gap });
                    self.mark_all(&view.members.borrow(), item);
                }
            }
            ToShard::StreamNotice { stream, frame, tells } => {
                let item = self.batch.push(Item::Notice(frame, Notice::Stream(tells)));
                self.mark_all(&self.streams[usize::from(stream)].members.borrow(), item);
            }
            ToShard::LiveNotice(notice) => self.mark_live_notice(notice),
            ToShard::Attached { ticket, grant, piece } => match self.client(ticket) {
                Some(client) => self.attached(&client, piece),
                // It left while the feed registered it.
                None if piece.joined => self.undo_attach(grant, &piece),
                None => {}
            },
            ToShard::Listening { ticket, degraded } => {
                if let Some(client) = self.client(ticket) {
                    self.listening(&client, degraded);
                }
            }
            ToShard::Kick { connection, abruptly } => self.kick(connection, abruptly),
            ToShard::Audience { of, reply } => {
                let _ = reply.send(self.audience(&of));
            }
            ToShard::Drain { window } => self.begin_drain(window),
        }
    }

    fn mark_event(&self, stream: u8, event: Arc<Event>) {
        let view = &self.streams[usize::from(stream)];
        if let Some(mut head) = view.head.get() {
            head.at = event.at;
            view.head.set(Some(head));
        }
        let item = self.batch.next();
        view.interest.borrow().for_each_match(&event.subject, |members| self.mark_all(members, item));
        self.batch.push(Item::Event(event));
    }

    fn mark_live(&self, pattern: &Pattern, event: Arc<Event>) {
        let live = self.live.borrow();
        let Some(members) = live.get(pattern) else { return };
        let item = self.batch.next();
        let clients = self.clients.borrow();
        for (_, slot) in members {
            let Some(client) = clients.get(*slot as usize) else { continue };
            // Overlapping patterns bring the same message once each: only the first match counts.
            if client.grant.live().iter().find(|p| p.matches(&event.subject)) == Some(pattern) {
                self.mark(client, item);
            }
        }
        self.batch.push(Item::Event(event));
    }

    fn mark_all(&self, members: &Members, item: u32) {
        let clients = self.clients.borrow();
        for (_, slot) in members {
            if let Some(client) = clients.get(*slot as usize) {
                self.mark(client, item);
            }
        }
    }

    /// A client that matches twice hears once.
    fn mark(&self, client: &Client, item: u32) {
        let mut pend = client.pend.borrow_mut();
        if pend.last() == Some(&item) {
            return;
        }
        if pend.is_empty() {
            self.batch.dirty.borrow_mut().push(client.ticket.slot);
        }
        pend.push(item);
    }

    /// Notices to clients of core subjects; on a stream-backed route they carry the stream's cursor.
    fn mark_live_notice(&self, notice: LiveNotice) {
        let gap = Gap { after: None, next: None, reason: GapReason::Upstream };
        let frame = |id| match notice {
            LiveNotice::Missed => notice::gap(None, gap, id),
            LiveNotice::Degraded => notice::degraded(id),
            LiveNotice::Recovered => notice::recovered(id),
        };
        let about = match notice {
            LiveNotice::Missed => Notice::LiveGap,
            LiveNotice::Degraded => Notice::Live(true),
            LiveNotice::Recovered => Notice::Live(false),
        };
        let plain = self.batch.push(Item::Notice(frame(None), about));
        let per_stream: Vec<u32> =
            self.streams.iter().map(|view| self.batch.push(Item::Notice(frame(view.head.get()), about))).collect();
        let clients = self.clients.borrow();
        for (_, slot) in &*self.live_members.borrow() {
            let Some(client) = clients.get(*slot as usize) else { continue };
            match client.stream {
                None => self.mark(client, plain),
                // Its stream's feed tells it about NATS itself.
                Some(_) if notice != LiveNotice::Missed => {}
                Some(stream) if client.is_live() => self.mark(client, per_stream[usize::from(stream)]),
                // Still behind the head: the notice must not move its cursor there.
                Some(_) => self.mark(client, plain),
            }
        }
    }

    fn undo_attach(&self, grant: Arc<crate::route::Grant>, piece: &crate::link::Piece) {
        let request = StreamRequest::Detach { shard: self.index, grant };
        if let Some(feed) = self.feeds.streams.get(usize::from(piece.stream)) {
            feed.send(request);
        }
    }

    fn kick(&self, connection: uuid::Uuid, abruptly: bool) {
        let found = self.clients.borrow().iter().find(|(_, c)| c.connection == connection).map(|(_, c)| c.clone());
        match found {
            Some(client) if abruptly => client.abort(CloseReason::Kicked),
            Some(client) => self.bye(&client, ByeCode::Kicked, CloseReason::Kicked),
            None => {}
        }
    }

    fn audience(&self, of: &AudienceOf) -> Audience {
        let mut audience = Audience::default();
        for (_, client) in &*self.clients.borrow() {
            let is_theirs = of.user.is_none() || of.user.as_deref() == client.user();
            if !is_theirs || !of.subject.as_ref().is_none_or(|subject| client.may_hear(subject)) {
                continue;
            }
            audience.total += 1;
            audience.live += usize::from(client.is_live());
            if audience.connections.len() < of.limit {
                audience.connections.push(client.info());
            }
        }
        audience
    }

    async fn write_dirty(&self) {
        let mut dirty = std::mem::take(&mut *self.batch.dirty.borrow_mut());
        for (count, slot) in dirty.iter().enumerate() {
            let client = self.clients.borrow().get(*slot as usize).cloned();
            if let Some(client) = client {
                self.flush_pend(&client);
            }
            if count % WRITES_PER_TURN == WRITES_PER_TURN - 1 {
                tokio::task::yield_now().await;
                self.batch.now.set(self.now());
            }
        }
        self.batch.clear();
        dirty.clear();
        *self.batch.dirty.borrow_mut() = dirty;
    }

    /// Writes or queues what the batch holds for a client.
    pub(super) fn flush_pend(&self, client: &Client) {
        let mut pend = client.pend.borrow_mut();
        if pend.is_empty() {
            return;
        }
        self.metrics.events_sent.add(pend.len() as u64);
        if client.closing().is_none() {
            self.write_list(client, &pend);
        }
        pend.clear();
    }

    fn write_list(&self, client: &Client, list: &[u32]) {
        let mut written = 0;
        if client.output.borrow().is_clear() {
            match self.try_write(client, list) {
                Ok(n) => written = n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return client.abort(CloseReason::Client),
            }
        }
        if written > 0 {
            self.metrics.bytes_sent.add(written as u64);
            let waits = !client.output.borrow().is_empty();
            client.progressed(self.batch.now.get(), waits);
        }
        let kept = self.queue_rest(client, list, written);
        self.note(client, &list[..kept]);
        if kept < list.len() {
            self.fall_behind(client, &list[kept..]);
        }
        // TLS took everything, but records wait for the socket.
        if client.protocol == Protocol::Http1 && !client.output.borrow().is_empty() {
            client.wake();
        }
    }

    /// Remembers how far a client is, after these items have been put to it.
    fn note(&self, client: &Client, list: &[u32]) {
        let items = self.batch.items.borrow();
        for item in list {
            match &items[*item as usize] {
                // Core subjects have no sequence.
                Item::Event(event) if event.at.seq > 0 => client.position.set(event.at.seq),
                Item::Notice(_, Notice::Live(degraded) | Notice::Stream(Tells::Degraded(degraded))) => {
                    client.told_degraded.set(*degraded);
                }
                Item::Notice(_, Notice::Stream(Tells::Hole(upto))) => client.position.set(*upto),
                Item::Begin { log, base, .. } => {
                    client.log.set(*log);
                    client.position.set(*base);
                }
                Item::Event(_) | Item::Notice(_, Notice::LiveGap) => {}
            }
        }
    }

    /// A full backlog is no reason to end a stream that can be read again from its log: the client leaves the index and
    /// catches up at its own pace. What is not in the log cannot be skipped: then the reader is too slow.
    fn fall_behind(&self, client: &Client, skipped: &[u32]) {
        let items = self.batch.items.borrow();
        let is_logged = |item: &u32| match &items[*item as usize] {
            Item::Event(event) => event.at.seq > 0,
            Item::Notice(_, notice) => *notice != Notice::LiveGap,
            // Its position stays in the log before, which is a gap when it asks.
            Item::Begin { .. } => true,
        };
        if client.stream.is_none() || !skipped.iter().all(is_logged) {
            return client.abort(CloseReason::Slow);
        }
        self.metrics.fell_behind.add(1);
        client.fall_behind();
        self.leave_stream(client);
    }

    fn try_write(&self, client: &Client, list: &[u32]) -> io::Result<usize> {
        let mut output = client.output.borrow_mut();
        let Some(transport) = &mut output.transport else { return Err(io::ErrorKind::WouldBlock.into()) };
        let items = self.batch.items.borrow();
        self.metrics.writes.add(1);
        if let [only] = list {
            return match items[*only as usize].frame(client.format) {
                Some(frame) => transport.try_write(frame.wire()),
                None => Ok(0),
            };
        }
        let mut gathered = self.batch.gathered.borrow_mut();
        if gathered.list != list || gathered.format != client.format {
            gathered.list.clear();
            gathered.list.extend_from_slice(list);
            gathered.format = client.format;
            gathered.bytes.clear();
            for item in list {
                if let Some(frame) = items[*item as usize].frame(client.format) {
                    gathered.bytes.extend_from_slice(frame.wire());
                }
            }
        }
        transport.try_write(&gathered.bytes)
    }

    /// Queues references to what the socket did not take. Gives how many items of the list are written or queued.
    fn queue_rest(&self, client: &Client, list: &[u32], mut written: usize) -> usize {
        let items = self.batch.items.borrow();
        for (place, item) in list.iter().enumerate() {
            let Some(frame) = items[*item as usize].frame(client.format) else { continue };
            let bytes: Bytes = client.bytes_of(frame);
            if written >= bytes.len() {
                written -= bytes.len();
                continue;
            }
            if client.try_push(bytes.slice(written..), self.bounds(), self.batch.now.get()).is_err() {
                return place;
            }
            written = 0;
        }
        list.len()
    }
}
