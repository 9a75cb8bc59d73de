//! What keeps a client in its shard, whoever serves its connection: when it is dropped, the client is in no index any more.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;

use super::Shard;
use super::client::{Client, Closing};
use super::output::Way;
use crate::server::h2::outgoing::Outgoing;
use crate::server::socket::Transport;
use crate::telemetry::access::{self, Arrival};
use crate::telemetry::metrics::{CloseReason, Closed, Opened};

/// Keeps a client in its shard. Dropping it takes the client out of every index and counts its end.
#[derive(Debug)]
pub struct Guard {
    shard: Rc<Shard>,
    client: Rc<Client>,
    /// Set when the response has been committed: only then is it a connection in the metrics.
    opened: Cell<bool>,
    /// What is to be logged when it is.
    arrival: RefCell<Option<Box<Arrival>>>,
}

impl Guard {
    pub(super) fn new(shard: Rc<Shard>, client: Rc<Client>, arrival: Option<Box<Arrival>>) -> Self {
        Self { shard, client, opened: Cell::new(false), arrival: RefCell::new(arrival) }
    }

    /// The client.
    pub fn client(&self) -> &Rc<Client> {
        &self.client
    }

    /// Its shard.
    pub fn shard(&self) -> &Rc<Shard> {
        &self.shard
    }

    /// Counts the stream as open: the response is committed.
    pub(crate) fn opened(&self) {
        if self.opened.replace(true) {
            return;
        }
        let (client, metrics) = (&self.client, &self.shard.metrics);
        let (route, protocol, resume) = (client.route(), client.protocol, client.resume.get());
        let arrival = self.arrival.take();
        let age = arrival.as_ref().and_then(|arrival| arrival.age);
        metrics.opened(Opened { route, protocol, resume, after: self.shard.since_asked(client), age });
        metrics.subscriptions.add(client.patterns());
        if let (Some(here), Some(user)) = (self.shard.here.get(), client.user()) {
            here.opened(user, client.connection);
        }
        if let Some(arrival) = arrival {
            access::opened(self.stream(), &arrival, resume);
            arrival.admission.opened(metrics.path(route), resume);
        }
    }

    /// Counts the stream as ended, after it was counted as open.
    fn closed(&self, reason: CloseReason) {
        let (client, metrics) = (&self.client, &self.shard.metrics);
        let (phase, lasted) = (client.phase_reached(), self.shard.since_asked(client));
        let queued = client.output.borrow().waiting_bytes();
        metrics.closed(Closed { route: client.route(), reason, phase, lasted, queued });
        metrics.subscriptions.sub(client.patterns());
        if let (Some(here), Some(user)) = (self.shard.here.get(), client.user()) {
            here.closed(user, client.connection, reason);
        }
        let (events, bytes) = client.counted();
        access::closed(self.stream(), access::Ending { reason, phase, lasted, events, bytes });
    }

    fn stream(&self) -> access::Stream<'_> {
        access::Stream {
            connection: self.client.connection,
            route: self.shard.metrics.path(self.client.route()),
            user: self.client.user(),
            protocol: self.client.protocol,
        }
    }

    /// Gives the client its socket (HTTP/1.1) and counts it. `head` is written before everything that waits.
    pub fn start(&self, transport: Transport, head: Bytes) {
        let mut output = self.client.output.borrow_mut();
        output.push_front(head);
        output.way = Way::Socket(transport);
        drop(output);
        self.opened();
    }

    /// Gives the client its stream of a connection (HTTP/2), the head of which is on its way, and counts it.
    pub fn start_http2(&self, outgoing: Outgoing) {
        self.client.output.borrow_mut().way = Way::Http2(outgoing);
        self.opened();
    }

    /// Writes what waits; then, for a client that catches up, asks for more.
    pub fn drain(&self) -> std::io::Result<()> {
        self.shard.drain(&self.client)
    }
}

#[cfg(test)]
impl Guard {
    /// Takes what waits, for the simulation, which has no sockets.
    pub(crate) fn take(&self) -> Option<Bytes> {
        let taken = self.client.output.borrow_mut().take();
        if taken.is_some() {
            let blocked = !self.client.output.borrow().is_empty();
            self.client.progressed(self.shard.now(), blocked);
        }
        self.shard.go_on(&self.client);
        taken
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.shard.remove(&self.client);
        let reason = match self.client.closing() {
            Some(Closing::Orderly(reason) | Closing::Abrupt(reason)) => reason,
            None => CloseReason::Client,
        };
        if self.opened.get() {
            self.closed(reason);
        } else if reason != CloseReason::Client {
            // Who leaves before there is a stream has closed none.
            self.shard.metrics.never_opened(self.client.route(), reason);
        }
    }
}
