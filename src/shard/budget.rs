//! Freeing memory when the process has too much of it: the streams with the largest queues end, and come back by their
//! cursors.
//!
//! Ordered by [`crate::memory`], rarely; what is queued is added up by the sweep, so that delivering costs nothing for it.

use std::cell::Cell;
use std::cmp::Reverse;
use std::rc::Rc;

use super::Shard;
use super::client::Client;
use super::sweep::PARTS;
use crate::memory::Orders;
use crate::telemetry::metrics::CloseReason;

impl Shard {
    /// Carries out orders to free memory, until the process ends.
    pub(super) async fn budget_loop(&self, orders: &Orders) {
        loop {
            let bytes = orders.next(self.index).await;
            self.free(bytes);
        }
    }

    /// Ends streams, those with the largest queues first, until what waited for them comes to `bytes`. Queues share
    /// frames, so less may be freed: then the next order follows.
    fn free(&self, bytes: u64) {
        let mut freed = 0;
        for (queued, client) in self.by_queue() {
            if freed >= bytes {
                break;
            }
            freed += queued;
            client.abort(CloseReason::Memory);
        }
        (0..PARTS).for_each(|part| self.count_queued(part));
    }

    /// Clients that have a queue and are not ending, the largest queue first.
    fn by_queue(&self) -> Vec<(u64, Rc<Client>)> {
        let clients = self.clients.borrow();
        let staying = clients.iter().filter(|(_, client)| client.closing().is_none());
        let mut queues: Vec<_> = staying.map(|(_, client)| (queued(client), client.clone())).collect();
        queues.retain(|(queued, _)| *queued > 0);
        queues.sort_unstable_by_key(|(queued, _)| Reverse(*queued));
        queues
    }

    /// Adds up what waits for the clients of one part of the sweep that are not ending.
    pub(super) fn count_queued(&self, part: usize) {
        let clients = self.clients.borrow();
        let theirs = (part..clients.capacity()).step_by(PARTS).filter_map(|slot| clients.get(slot));
        let waiting = theirs.filter(|client| client.is_blocked() && client.closing().is_none());
        let (slow, bytes) = waiting.fold((0, 0), |(slow, bytes), client| (slow + 1, bytes + queued(client)));
        self.slow[part].set(slow);
        self.queued[part].set(bytes);
        self.metrics.slow.set(self.slow.iter().map(Cell::get).sum());
        self.metrics.queued.set(self.queued.iter().map(Cell::get).sum());
    }
}

fn queued(client: &Client) -> u64 {
    client.output.borrow().waiting_bytes() as u64
}
