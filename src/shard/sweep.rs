//! One sweep per shard instead of timers per client: slow readers, ends of life, heartbeats, drain.
//!
//! Every client is visited once a second, a quarter of them at a time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::client::{Client, Closing};
use super::output::Way;
use super::{Shard, millis};
use crate::frame::Frame;
use crate::frame::notice::{self, ByeCode};
use crate::telemetry::metrics::CloseReason;

/// Parts the clients are visited in, one per tick.
pub(super) const PARTS: usize = 4;
/// A stream that ends, and takes neither what waits nor the goodbye, is waited for so long. Its cursor brings it back.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);
const TICK: Duration = Duration::from_millis(1000 / PARTS as u64);

/// Heartbeat frames of one tick: one per stream, one for routes without.
#[derive(Default)]
struct Heartbeats {
    per_stream: Vec<Option<Frame>>,
    plain: Option<Frame>,
}

impl Shard {
    pub(super) async fn sweep_loop(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for part in (0..PARTS).cycle() {
            tick.tick().await;
            self.sweep(part);
        }
    }

    fn sweep(&self, part: usize) {
        let now = self.now();
        self.metrics.swept.set(now);
        self.settings.set(*self.in_force.get());
        let mut heartbeats = Heartbeats { per_stream: vec![None; self.streams.len()], plain: None };
        // Nobody leaves meanwhile: that is for the tasks of connections, which are only woken here.
        let clients = self.clients.borrow();
        for client in (part..clients.capacity()).step_by(PARTS).filter_map(|slot| clients.get(slot)) {
            self.visit(client, now, &mut heartbeats);
        }
        self.count_queued(part);
    }

    fn visit(&self, client: &Client, now: u64, heartbeats: &mut Heartbeats) {
        client.watch(now);
        if let Some(Closing::Orderly(reason)) = client.closing()
            && self.takes_nothing(client)
        {
            return client.abort(reason);
        }
        if client.blocked_for(now).is_some_and(|blocked| blocked >= millis(self.settings.get().write_timeout)) {
            return client.abort(CloseReason::Slow);
        }
        if let Some(code) = client.ends_now(now) {
            let reason = match code {
                ByeCode::Drain => CloseReason::Drain,
                ByeCode::Expired => CloseReason::Expired,
                _ => CloseReason::Age,
            };
            return self.bye(client, code, reason);
        }
        self.heartbeat(client, now, heartbeats);
    }

    /// Whether a client has not taken anything for so long that a goodbye would not be heard.
    pub(super) fn takes_nothing(&self, client: &Client) -> bool {
        client.blocked_for(self.now()).is_some_and(|blocked| blocked >= millis(GOODBYE_PATIENCE))
    }

    fn heartbeat(&self, client: &Client, now: u64, heartbeats: &mut Heartbeats) {
        let interval = millis(self.settings.get().heartbeat);
        // Spread: clients that were written to together are not due together.
        let early = u64::from(client.ticket.slot).wrapping_mul(2_654_435_761) % (interval / 4 + 1);
        let due = client.since_write(now) + early >= interval;
        // What still waits for a client comes first, and is a sign of life itself.
        if !due
            || !client.is_open()
            || self.batch.waits_for(client.ticket.slot)
            || !client.output.borrow().is_empty()
            || client.closing().is_some()
        {
            return;
        }
        let frame = self.heartbeat_frame(client, heartbeats);
        self.metrics.heartbeats.add(1);
        // Nothing waits, so it is written at once; its task is woken only if that fails.
        client.output.borrow_mut().push_beyond(client.bytes_of(&frame));
        if matches!(client.output.borrow().way, Way::Unopened) {
            return client.queued(now);
        }
        match self.drain(client) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => client.queued(now),
            Err(_) => client.abort(CloseReason::Client),
        }
    }

    fn heartbeat_frame(&self, client: &Client, heartbeats: &mut Heartbeats) -> Frame {
        if !self.settings.get().heartbeat_event {
            return heartbeats.plain.get_or_insert_with(Frame::comment).clone();
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let head = self.head_for(client);
        let make = || notice::heartbeat(millis(now), head);
        match client.stream.filter(|_| head.is_some()) {
            Some(stream) => heartbeats.per_stream[usize::from(stream)].get_or_insert_with(make).clone(),
            None => heartbeats.plain.get_or_insert_with(make).clone(),
        }
    }

    /// Gives every client its moment within the window. New streams are refused from now on.
    pub(super) fn begin_drain(&self, window: Duration) {
        self.draining.set(true);
        let now = self.now();
        for (_, client) in &*self.clients.borrow() {
            client.end_by(now + fastrand::u64(0..=millis(window)), ByeCode::Drain);
        }
    }
}
