//! The course of one event stream beside delivery: opened, served with what it missed, told of NATS, ended.

use bytes::Bytes;

use super::Shard;
use super::client::{Client, Closing, Live, Phase};
use crate::frame::EMPTY_CHUNK;
use crate::frame::notice::{self, ByeCode, Resume};
use crate::link::Opening;
use crate::telemetry::metrics::{CloseReason, Protocol};

/// Reconnection time we ask for, in milliseconds; jittered per connection so that clients do not come back together.
const RETRY_MS: std::ops::Range<u64> = 1000..3000;

impl Shard {
    /// A client's feed has answered: the first piece opens the stream, later ones go on with it.
    pub(super) fn attached(&self, client: &Client, piece: crate::link::Piece) {
        let now = self.now();
        if client.closing.get().is_some() {
            // Nothing may follow `bye`. A registration is undone with the rest, when the guard is dropped.
            if piece.joined {
                self.join_stream(client);
            }
            return client.wake();
        }
        if let Some(opening) = piece.opening {
            if client.phase.get() == Phase::Opening {
                client.resume.set(opening.resume);
                self.put_connected(client, &opening);
            }
            if let Some(gap) = opening.gap {
                client.push_piece(client.bytes_of(&gap), now);
            }
        }
        client.count_events(u32::try_from(piece.events.len()).unwrap_or(u32::MAX));
        for event in piece.events {
            if let Some(frame) = event.frames.get(client.format) {
                self.metrics.events_sent.add(1);
                client.push_piece(client.bytes_of(frame), now);
            }
        }
        if let Some(frame) = piece.synced {
            client.synced.set(true);
            client.push_piece(client.bytes_of(&frame), now);
        }
        client.log.set(piece.log);
        client.position.set(piece.upto);
        if piece.joined {
            client.phase.set(Phase::Live);
            self.join_stream(client);
            self.tell_synced(client);
            self.tell_state(client, piece.degraded);
        } else {
            client.phase.set(Phase::CatchingUp(piece.upto));
        }
        self.opened_if_all_answered(client);
        client.wake();
    }

    /// A client that came back exactly has the values it had, and what has come since: it is told the same, once.
    fn tell_synced(&self, client: &Client) {
        if client.grant.last_values() && !client.synced.replace(true) {
            let frame = notice::synced(self.head_for(client));
            client.push_piece(client.bytes_of(&frame), self.now());
        }
    }

    /// What a client that was not listening has missed of NATS being lost and coming back.
    fn tell_state(&self, client: &Client, degraded: bool) {
        if client.told_degraded.replace(degraded) == degraded {
            return;
        }
        let head = self.head_for(client);
        let frame = if degraded { notice::degraded(head) } else { notice::recovered(head) };
        // Behind the client's last piece, and an event sent to it may wait there too.
        client.push_piece(client.bytes_of(&frame), self.now());
    }

    /// The core subscriptions of a client are active.
    pub(super) fn listening(&self, client: &Client, degraded: bool) {
        if client.closing.get().is_some() {
            return client.wake();
        }
        client.live.set(Live::Listening);
        if client.stream.is_none() {
            let opening = Opening { resume: Resume::New, id: String::new(), gap: None };
            self.put_connected(client, &opening);
            self.tell_state(client, degraded);
        }
        self.opened_if_all_answered(client);
        client.wake();
    }

    fn opened_if_all_answered(&self, client: &Client) {
        let joined = client.membership.borrow().live.is_some();
        if client.phase.get() != Phase::Opening
            && client.hears_live()
            && client.live.get() == Live::Listening
            && !joined
        {
            self.join_live(client);
        }
    }

    fn put_connected(&self, client: &Client, opening: &Opening) {
        let id = (!opening.id.is_empty()).then_some(opening.id.as_str());
        let connection = client.connection.to_string();
        let frame = notice::connected(&connection, opening.resume, self.settings.get().heartbeat, jittered_retry(), id);
        client.push_piece(client.bytes_of(&frame), self.now());
    }

    /// Writes what waits for a client.
    pub(super) fn drain(&self, client: &Client) -> std::io::Result<()> {
        let (written, result) = self.batch.with_scratch(|scratch| client.output.borrow_mut().drain(scratch));
        self.metrics.bytes_sent.add(written.bytes as u64);
        client.count_bytes(written.bytes);
        self.metrics.writes.add(written.calls);
        if written.progress {
            client.progressed(self.now(), !client.output.borrow().is_empty());
        } else if client.output.borrow().is_empty() {
            client.nothing_waits();
        }
        result?;
        self.go_on(client);
        Ok(())
    }

    /// A client that has been given its piece asks for the next.
    pub(super) fn go_on(&self, client: &Client) {
        if let Phase::CatchingUp(upto) = client.phase.get()
            && client.closing.get().is_none()
            && client.output.borrow().is_empty()
        {
            client.phase.set(Phase::Asked);
            self.ask_next_piece(client, upto);
        }
    }

    /// Ends a stream in order: what waits, `sidestream.bye`, the end of the response.
    pub(super) fn bye(&self, client: &Client, code: ByeCode, reason: CloseReason) {
        self.flush_list(client);
        let frame = notice::bye(code, jittered_retry(), self.head_for(client));
        let now = self.now();
        client.push_piece(client.bytes_of(&frame), now);
        if client.protocol == Protocol::Http1 {
            client.push_piece(Bytes::from_static(EMPTY_CHUNK), now);
        }
        if client.closing.get().is_none() {
            client.closing.set(Some(Closing::Orderly(reason)));
            client.wake();
        }
    }
}

/// A reconnection time, in milliseconds.
pub fn jittered_retry() -> u64 {
    fastrand::u64(RETRY_MS)
}
