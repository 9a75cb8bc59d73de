//! From one feed to the shards that want its messages.
//!
//! Keeps who is interested per shard, not per client: a message crosses to a shard once, as one reference, and only where
//! somebody there may hear it. The events of a burst cross together.

use std::sync::Arc;
use std::time::Instant;

use crate::cursor::Cursor;
use crate::event::Event;
use crate::feed::ledger::Output;
use crate::interest::Interest;
use crate::link::{ShardQueue, ToShard};
use crate::subject::Pattern;

/// Most shards: the interest of one message is a bit mask.
pub const SHARDS_MAX: usize = 64;

/// Events of a burst that cross together at most: a shard begins to write while the rest is read.
const HELD_MAX: usize = 32;

/// The shards and what they want.
#[derive(Debug)]
pub struct Fanout {
    shards: Vec<Way>,
    interest: Interest<Box<[u32]>>,
}

/// The way to one shard.
#[derive(Debug)]
struct Way {
    queue: ShardQueue,
    /// The head it was last told.
    told: u64,
    /// What is held for it, before everything else that it will be sent.
    held: Vec<Arc<Event>>,
    /// When the first of them was read.
    since: Instant,
}

impl Way {
    async fn send(&mut self, stream: u8, message: ToShard) {
        self.flush(stream).await;
        self.queue.send(message).await;
    }

    async fn flush(&mut self, stream: u8) {
        if self.held.is_empty() {
            return;
        }
        let events = std::mem::take(&mut self.held);
        let bytes = events.iter().map(|event| event.frames.bytes()).sum();
        let room = self.queue.room(events.len(), bytes).await;
        self.queue.send(ToShard::Events { stream, events, read: self.since, room }).await;
    }
}

impl Fanout {
    /// Nobody wants anything yet. At most [`SHARDS_MAX`] shards.
    pub fn new(shards: Vec<ShardQueue>) -> Self {
        assert!(shards.len() <= SHARDS_MAX, "at most {SHARDS_MAX} shards");
        let way = |queue| Way { queue, told: u64::MAX, held: Vec::new(), since: Instant::now() };
        Self { shards: shards.into_iter().map(way).collect(), interest: Interest::default() }
    }

    /// Does what a stream's ledger orders; reading the stream is not for the shards. Events may be held until
    /// [`Fanout::flush`], or until something else is to follow them.
    pub(super) async fn carry_out(&mut self, stream: u8, output: Output) {
        match output {
            Output::Event(event) => self.event(stream, event).await,
            Output::Begin { log, base: head, gap } => {
                for way in &mut self.shards {
                    way.told = head.at.seq;
                    way.send(stream, ToShard::Begin { stream, log, head, gap: gap.clone() }).await;
                }
            }
            Output::Notice { frame, tells } => {
                for way in &mut self.shards {
                    way.send(stream, ToShard::StreamNotice { stream, frame: frame.clone(), tells }).await;
                }
            }
            Output::Head(head) => self.head(stream, head).await,
            Output::Piece { shard, ticket, grant, head, piece } => {
                if piece.joined {
                    self.add(shard, grant.stream());
                }
                let way = &mut self.shards[shard];
                if let Some(head) = head {
                    way.send(stream, ToShard::Head { stream, head }).await;
                }
                way.send(stream, ToShard::Attached { ticket, grant, piece }).await;
            }
            Output::Left { shard, grant } => self.remove(shard, grant.stream()),
            Output::Read { .. } | Output::Look { .. } | Output::ReadValues(_) => {}
        }
    }

    /// One more client of a shard wants these patterns.
    fn add(&mut self, shard: usize, patterns: &[Pattern]) {
        let shards = self.shards.len();
        for pattern in patterns {
            let leaf = self.interest.leaf_or_insert_with(pattern, || vec![0; shards].into());
            self.interest.value_mut(leaf)[shard] += 1;
        }
    }

    /// One client of a shard less wants these patterns.
    fn remove(&mut self, shard: usize, patterns: &[Pattern]) {
        for pattern in patterns {
            let Some(leaf) = self.interest.leaf(pattern) else { continue };
            let counts = self.interest.value_mut(leaf);
            counts[shard] = counts[shard].saturating_sub(1);
            if counts.iter().all(|count| *count == 0) {
                self.interest.remove(leaf);
            }
        }
    }

    /// An event for every shard where somebody may hear it.
    async fn event(&mut self, stream: u8, event: Arc<Event>) {
        let mut wanted = 0u64;
        self.interest.for_each_match(&event.subject, |counts| {
            for (shard, count) in counts.iter().enumerate() {
                wanted |= u64::from(*count > 0) << shard;
            }
        });
        while wanted != 0 {
            let way = &mut self.shards[wanted.trailing_zeros() as usize];
            wanted &= wanted - 1;
            way.told = event.at.seq;
            if way.held.is_empty() {
                way.since = Instant::now();
            }
            way.held.push(event.clone());
            if way.held.len() >= HELD_MAX {
                way.flush(stream).await;
            }
        }
    }

    /// Sends what is held.
    pub(super) async fn flush(&mut self, stream: u8) {
        for way in &mut self.shards {
            way.flush(stream).await;
        }
    }

    /// Tells the shards that do not know it yet where the head is.
    async fn head(&mut self, stream: u8, head: Cursor) {
        for way in self.shards.iter_mut().filter(|way| way.told != head.at.seq) {
            way.told = head.at.seq;
            way.send(stream, ToShard::Head { stream, head }).await;
        }
    }
}
