//! What came to the readers of a process: events, when, and how late.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Notify;

use crate::clock;
use crate::framing::{MARK, stamp};
use crate::statistics::Latencies;

const BUFFER_BYTES: usize = 64 * 1024;

/// What came.
pub struct Came {
    pub events: Cell<u64>,
    /// When the last event came.
    pub last: Cell<u64>,
    pub reads: Cell<u64>,
    pub latencies: RefCell<Latencies>,
    awaited: Cell<u64>,
    reached: Notify,
    buffer: RefCell<Box<[u8]>>,
}

impl Default for Came {
    fn default() -> Self {
        Self {
            events: Cell::new(0),
            last: Cell::new(0),
            reads: Cell::new(0),
            latencies: RefCell::default(),
            awaited: Cell::new(u64::MAX),
            reached: Notify::new(),
            buffer: RefCell::new(vec![0; BUFFER_BYTES].into()),
        }
    }
}

impl Came {
    /// Counts the events in what one read gave.
    pub fn count(&self, bytes: &[u8]) {
        let before = self.events.get();
        let now = clock::now();
        for mark in memchr::memchr_iter(MARK, bytes) {
            self.events.update(|events| events + 1);
            // One that is cut by the end of a read is counted and not timed.
            if let Some(made) = stamp(&bytes[mark + 1..]) {
                self.latencies.borrow_mut().add(now.saturating_sub(made));
            }
        }
        self.reads.update(|reads| reads + 1);
        if self.events.get() > before {
            self.last.set(now);
        }
        if self.events.get() >= self.awaited.get() {
            self.reached.notify_one();
        }
    }

    /// Waits until there are so many.
    pub async fn reach(&self, events: u64) {
        self.awaited.set(events);
        while self.events.get() < events {
            self.reached.notified().await;
        }
        self.awaited.set(u64::MAX);
    }

    /// One read, counted; `seen` is shown what came. False at the end.
    pub async fn read(&self, from: &mut (impl AsyncRead + Unpin), mut seen: impl FnMut(&[u8])) -> bool {
        let read = poll_fn(|context| {
            let mut shared = self.buffer.borrow_mut();
            let mut buffer = ReadBuf::new(&mut shared);
            Pin::new(&mut *from).poll_read(context, &mut buffer).map_ok(|()| {
                self.count(buffer.filled());
                seen(buffer.filled());
                buffer.filled().len()
            })
        });
        read.await.is_ok_and(|bytes| bytes > 0)
    }
}
