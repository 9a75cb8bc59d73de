//! The loop of a shard: takes a batch of messages, finds whom they concern, and writes to each client at most once.
//!
//! Matching marks clients in the [`super::batch`]; every marked client is then written once: one frame as it is, several
//! gathered into a buffer that neighbours with the same list share. A client whose socket is full, or that still has a
//! backlog, gets references instead. Under load the queue grows while a pass runs, so the next pass carries more.

use std::cmp::Reverse;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::mpsc;

use super::batch::{Item, List, Notice, Taken};
use super::client::Client;
use super::output::Way;
use super::{Members, Shard};
use crate::config::Format;
use crate::cursor::{Cursor, CursorText};
use crate::event::Event;
use crate::frame::notice::{self, ByeCode, Gap, GapReason};
use crate::frame::{EventNaming, Frame, Message};
use crate::link::{Audience, AudienceOf, LiveNotice, OneEvent, Sent, StreamRequest, ToShard, Whom};
use crate::server::h2::outgoing::{HELD_BYTES_MAX, Outgoing};
use crate::subject::Pattern;
use crate::telemetry::metrics::{CloseReason, Protocol};

/// Messages taken from the queue at a time; one may be the events of a whole burst.
const TAKEN_AT_ONCE: usize = 4;
/// Messages taken in after which other tasks of the shard get a turn: 1 ms.
const MESSAGES_PER_TURN: usize = 2048;
/// Writes of a pass for each of its messages from which on the next one waits a little ([`rest`]).
const WRITES_WORTH_A_REST: usize = 256;
/// The longest rest; what it adds to the latency of an event at most.
const REST_MAX: Duration = Duration::from_millis(5);
/// Writes after which other tasks of the shard get a turn: half a millisecond. Those of HTTP/2 connections, which then write what
/// they were given, still find it in the processor's cache.
const WRITES_PER_TURN: usize = 64;

impl Shard {
    pub(crate) async fn deliver_loop(self: Rc<Self>, mut queue: mpsc::Receiver<ToShard>) {
        let mut messages = Vec::with_capacity(TAKEN_AT_ONCE);
        while queue.recv_many(&mut messages, TAKEN_AT_ONCE).await > 0 {
            let began = Instant::now();
            self.batch.now.set(self.now());
            let mut turn = MESSAGES_PER_TURN;
            loop {
                messages.drain(..).for_each(|message| self.accept(message));
                if queue.is_empty() || self.batch.is_full() {
                    break;
                }
                if self.batch.len() >= turn {
                    turn += MESSAGES_PER_TURN;
                    tokio::task::yield_now().await;
                }
                queue.recv_many(&mut messages, TAKEN_AT_ONCE).await;
            }
            let taken = self.batch.len();
            let writes = self.write_dirty().await;
            self.count_latency(writes);
            let rest = rest(began.elapsed(), writes, taken);
            if !queue.is_empty() && !rest.is_zero() {
                tokio::time::sleep(rest).await;
            }
        }
    }

    /// One measurement for each batch that anybody was written to for: by the clock, that is once and not for each client.
    fn count_latency(&self, writes: usize) {
        let (read, stored) = self.batch.take_oldest();
        if writes == 0 {
            return;
        }
        if let Some(read) = read {
            self.metrics.delivery.observe_time(read.elapsed());
        }
        if stored > 0 {
            // By two clocks: the other one may be ahead.
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.metrics.published.observe_time(now.saturating_sub(Duration::from_nanos(stored)));
        }
    }

    fn accept(&self, message: ToShard) {
        match message {
            ToShard::Events { stream, events, read, room: _ } => {
                self.batch.read_at(read);
                events.iter().for_each(|event| self.mark_event(stream, event));
            }
            ToShard::Live { pattern, event, read, room: _ } => {
                self.batch.read_at(read);
                self.mark_live(&pattern, &event);
            }
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
            ToShard::Kick { whom, abruptly, reply } => {
                let _ = reply.send(self.kick(&whom, abruptly));
            }
            // Who waits no longer has said that it did not come.
            ToShard::Send { reply, .. } if reply.is_closed() => {}
            ToShard::Send { connection, event, reply } => {
                let _ = reply.send(self.send_one(connection, &event));
            }
            ToShard::Audience { of, reply } => {
                let _ = reply.send(self.audience(&of));
            }
            ToShard::Drain { window } => self.begin_drain(window),
        }
    }

    fn mark_event(&self, stream: u8, event: &Arc<Event>) {
        let view = &self.streams[usize::from(stream)];
        if let Some(mut head) = view.head.get() {
            head.at = event.at;
            view.head.set(Some(head));
        }
        let item = self.batch.push(Item::Event(event.clone()));
        view.interest.borrow().for_each_match(&event.subject, |members| self.mark_all(members, item));
    }

    fn mark_live(&self, pattern: &Pattern, event: &Arc<Event>) {
        let live = self.live.borrow();
        let Some(members) = live.get(pattern) else { return };
        let item = self.batch.push(Item::Event(event.clone()));
        let clients = self.clients.borrow();
        // Overlapping patterns bring the same message once each: only the first match counts.
        let first_match = |slot: &u32| {
            let client = clients.get(*slot as usize);
            client.is_some_and(|c| c.grant.live().iter().find(|p| p.matches(&event.subject)) == Some(pattern))
        };
        self.batch.mark_all(members.iter().map(|(_, slot)| *slot).filter(first_match), item);
    }

    fn mark_all(&self, members: &Members, item: u32) {
        self.batch.mark_all(members.iter().map(|(_, slot)| *slot), item);
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
            let item = match client.stream {
                None => plain,
                // Its stream's feed tells it about NATS itself.
                Some(_) if notice != LiveNotice::Missed => continue,
                Some(stream) if client.is_live() => per_stream[usize::from(stream)],
                // Still behind the head: the notice must not move its cursor there.
                Some(_) => plain,
            };
            self.batch.mark_all(std::iter::once(*slot), item);
        }
    }

    fn undo_attach(&self, grant: Arc<crate::route::Grant>, piece: &crate::link::Piece) {
        let request = StreamRequest::Detach { shard: self.index, grant };
        if let Some(feed) = self.feeds.streams.get(usize::from(piece.stream)) {
            feed.send(request);
        }
    }

    /// Gives how many there were that had not been ending already.
    fn kick(&self, whom: &Whom, abruptly: bool) -> usize {
        let is_meant = |client: &Rc<Client>| match whom {
            Whom::Connection(connection) => client.connection == *connection,
            Whom::User(user) => client.user() == Some(user.as_str()),
        };
        let clients = self.clients.borrow();
        let meant = clients.iter().map(|(_, client)| client).filter(|client| is_meant(client));
        let meant: Vec<_> = meant.filter(|client| client.closing().is_none()).cloned().collect();
        drop(clients);
        for client in &meant {
            // Who takes nothing would not take a goodbye either, and has to be gone all the same.
            if abruptly || self.takes_nothing(client) {
                client.abort(CloseReason::Kicked);
            } else {
                self.bye(client, ByeCode::Kicked, CloseReason::Kicked);
            }
        }
        meant.len()
    }

    /// Puts an event to one client, behind everything that came before it. It carries the client's place where that is known;
    /// one that catches up gets it without an id, behind the piece that it is at. One that has no room keeps its stream: the
    /// event cannot be had again, so whoever sends it is told.
    fn send_one(&self, connection: uuid::Uuid, event: &OneEvent) -> Sent {
        let clients = self.clients.borrow();
        let found =
            clients.iter().find(|(_, client)| client.connection == connection).map(|(_, client)| client.clone());
        drop(clients);
        let Some(client) = found else { return Sent::Unknown };
        // All repetitions come to this shard, one after the other.
        if event.put.load(Ordering::Relaxed) {
            return Sent::Before;
        }
        self.flush_list(&client);
        if !client.is_open() || client.closing().is_some() {
            return Sent::NotOpen;
        }
        let Some(frame) = frame_of_one(event, client.format, self.head_for(&client)) else { return Sent::NotOpen };
        if client.try_push(client.bytes_of(&frame), self.bounds().for_one(), self.batch.now.get()).is_err() {
            return Sent::Full;
        }
        event.put.store(true, Ordering::Relaxed);
        self.metrics.events_sent.add(1);
        client.count_events(1);
        Sent::Put
    }

    fn audience(&self, of: &AudienceOf) -> Audience {
        let (mut audience, now) = (Audience::default(), self.now());
        let clients = self.clients.borrow();
        let mut named: Vec<&Rc<Client>> = Vec::new();
        for (_, client) in &*clients {
            let is_it = of.connection.is_none_or(|connection| connection == client.connection);
            let is_theirs = of.user.is_none() || of.user.as_deref() == client.user();
            if !is_it || !is_theirs || !of.subject.as_ref().is_none_or(|subject| client.may_hear(subject)) {
                continue;
            }
            audience.total += 1;
            audience.live += usize::from(client.is_live());
            if if of.slowest { client.is_blocked() } else { named.len() < of.limit } {
                named.push(client);
            }
        }
        if of.slowest {
            named.sort_by_key(|client| Reverse(client.blocked_for(now)));
        }
        audience.connections = named.into_iter().take(of.limit).map(|client| client.info(now)).collect();
        audience
    }

    /// Writes to every client that something was put to, and says how many there were.
    async fn write_dirty(&self) -> usize {
        let dirty = self.batch.take_dirty();
        let writes = dirty.len();
        for turn in dirty.chunks(WRITES_PER_TURN) {
            self.write_turn(turn);
            if turn.len() == WRITES_PER_TURN {
                tokio::task::yield_now().await;
                self.batch.now.set(self.now());
            }
        }
        self.batch.clear(dirty);
        writes
    }

    fn write_turn(&self, slots: &[u32]) {
        let clients = self.clients.borrow();
        for slot in slots {
            if let Some(client) = clients.get(*slot as usize) {
                self.flush_list(client);
            }
        }
    }

    /// Writes or queues what the batch holds for a client.
    pub(super) fn flush_list(&self, client: &Client) {
        let taken = self.batch.take(client.ticket.slot);
        if taken.len == 0 {
            return;
        }
        self.metrics.events_sent.add(u64::from(taken.len));
        client.count_events(taken.len);
        if client.closing().is_none() {
            self.write_list(client, taken);
        }
    }

    fn write_list(&self, client: &Client, taken: Taken) {
        let mut output = client.output.borrow_mut();
        let result: io::Result<(usize, usize)> = match output.clear_way() {
            Some(Way::Socket(transport)) => {
                self.metrics.writes.add(1);
                self.batch.with_bytes(taken, client.format, |bytes| Ok((transport.try_write(bytes)?, bytes.len())))
            }
            Some(Way::Http2(outgoing)) => self.hand_over(outgoing, taken, client.format),
            Some(Way::Unopened) | None => Err(io::ErrorKind::WouldBlock.into()),
        };
        let waits = !output.is_empty();
        drop(output);
        let (written, all) = match result {
            Ok(both) => both,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, usize::MAX),
            Err(_) => return client.abort(CloseReason::Client),
        };
        if written > 0 {
            self.metrics.bytes_sent.add(written as u64);
            client.count_bytes(written);
            client.progressed(self.batch.now.get(), waits);
        }
        if written == all && !waits {
            self.batch.with_standing(taken.list, |standing| client.stand(standing));
        } else {
            self.keep_rest(client, taken.list, written);
        }
    }

    /// Gives a list to an HTTP/2 connection as far as it takes it. Gives the bytes handed over and how many there are.
    fn hand_over(&self, outgoing: &mut Outgoing, taken: Taken, format: u8) -> io::Result<(usize, usize)> {
        let (mut sent, mut all, mut result) = (0, 0, Ok(()));
        self.batch.with_bodies(taken, format, HELD_BYTES_MAX, |body| {
            all += body.len();
            if sent + body.len() == all && result.is_ok() {
                result = outgoing.try_send(body).map(|n| sent += n);
            }
        });
        match result {
            Err(error) if sent == 0 || error.kind() != io::ErrorKind::WouldBlock => Err(error),
            _ => Ok((sent, all)),
        }
    }

    /// The socket has not taken everything: the rest waits for it.
    fn keep_rest(&self, client: &Client, list: List, written: usize) {
        self.batch.with_path(list, |path| {
            let kept = self.queue_rest(client, path, written);
            if let Some((list, _)) = kept.checked_sub(1).map(|last| path[last]) {
                self.batch.with_standing(list, |standing| client.stand(standing));
            }
            if kept < path.len() {
                self.fall_behind(client, &path[kept..]);
            }
        });
        // Over TLS everything may have been taken, and wait as records.
        if client.protocol == Protocol::Http1 && !client.output.borrow().is_empty() {
            client.wake();
        }
    }

    /// Queues references to what the socket did not take. Gives how many items are written or queued.
    fn queue_rest(&self, client: &Client, path: &[(List, u32)], mut written: usize) -> usize {
        for (place, (_, item)) in path.iter().enumerate() {
            let bytes = self.batch.with_item(*item, |item| item.frame(client.format).map(|f| client.bytes_of(f)));
            let Some(bytes) = bytes else { continue };
            if written >= bytes.len() {
                written -= bytes.len();
                continue;
            }
            if client.try_push(bytes.slice(written..), self.bounds(), self.batch.now.get()).is_err() {
                return place;
            }
            written = 0;
        }
        path.len()
    }

    /// A full backlog is no reason to end a stream that can be read again from its log: the client leaves the index and
    /// catches up at its own pace. What is not in the log cannot be skipped: then the reader is too slow.
    fn fall_behind(&self, client: &Client, skipped: &[(List, u32)]) {
        let is_logged = |(_, item): &(List, u32)| self.batch.with_item(*item, Item::is_logged);
        if client.stream.is_none() || !skipped.iter().all(is_logged) {
            return client.abort(CloseReason::Slow);
        }
        self.metrics.fell_behind.add(1);
        client.fall_behind();
        self.leave_stream(client);
    }
}

/// As the route's events look, but for the name, which is chosen for this one.
fn frame_of_one(event: &OneEvent, format: u8, place: Option<Cursor>) -> Option<Frame> {
    let format = Format { naming: EventNaming::Header, payload: *event.payloads.get(usize::from(format))? };
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let time = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let message = Message { subject: "", name: event.name.as_deref(), payload: event.data.as_bytes(), time };
    let id = place.map(|cursor| cursor.text());
    Some(Frame::encode(&format, message, id.as_ref().map(CursorText::as_str)).ok()?.frame)
}

/// How long to wait after a pass before the next, which has messages already.
///
/// Where one message concerns many clients and the next comes before all of them are written, the shard would be busy all the
/// time with passes of a message or two. A quarter of the time left out makes the passes carry more instead, and each
/// write is worth more. Where messages concern few clients, or a pass carries many of them anyway, there is nothing to gain.
fn rest(pass: Duration, writes: usize, messages: usize) -> Duration {
    if writes < WRITES_WORTH_A_REST * messages { Duration::ZERO } else { (pass / 3).min(REST_MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_few_messages_to_many_are_worth_a_rest() {
        let pass = Duration::from_millis(6);
        assert_eq!(rest(pass, 1000, 3), Duration::from_millis(2));
        assert_eq!(rest(pass, 1000, 4), Duration::ZERO, "each write carries enough");
        assert_eq!(rest(pass, 200, 1), Duration::ZERO, "few hear it");
        assert_eq!(rest(Duration::from_millis(60), 15_000, 3), REST_MAX);
    }
}
