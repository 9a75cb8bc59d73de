//! From one feed to the shards that want its messages.
//!
//! Keeps who is interested per shard, not per client: a message crosses to a shard once, as one reference, and only where
//! somebody there may hear it.

use std::sync::Arc;

use crate::cursor::Cursor;
use crate::event::Event;
use crate::feed::ledger::Output;
use crate::interest::Interest;
use crate::link::{ShardQueue, ToShard};
use crate::subject::Pattern;

/// Most shards: the interest of one message is a bit mask.
pub const SHARDS_MAX: usize = 64;

/// The shards and what they want.
#[derive(Debug)]
pub struct Fanout {
    shards: Vec<ShardQueue>,
    interest: Interest<Box<[u32]>>,
    /// The head each shard was last told.
    told: Vec<u64>,
}

impl Fanout {
    /// Nobody wants anything yet. At most [`SHARDS_MAX`] shards.
    pub fn new(shards: Vec<ShardQueue>) -> Self {
        assert!(shards.len() <= SHARDS_MAX, "at most {SHARDS_MAX} shards");
        let told = vec![u64::MAX; shards.len()];
        Self { shards, interest: Interest::default(), told }
    }

    /// Does what a stream's ledger orders; reading the stream is not for the shards.
    pub(super) async fn carry_out(&mut self, stream: u8, output: Output) {
        match output {
            Output::Event(event) => self.event(stream, event).await,
            Output::Begin { log, base: head, gap } => {
                self.told.fill(head.at.seq);
                self.to_all(|| ToShard::Begin { stream, log, head, gap: gap.clone() }).await;
            }
            Output::Notice { frame, tells } => {
                self.to_all(|| ToShard::StreamNotice { stream, frame: frame.clone(), tells }).await;
            }
            Output::Head(head) => self.head(stream, head).await,
            Output::Piece { shard, ticket, grant, head, piece } => {
                if piece.joined {
                    self.add(shard, grant.stream());
                }
                if let Some(head) = head {
                    self.to(shard, ToShard::Head { stream, head }).await;
                }
                self.to(shard, ToShard::Attached { ticket, grant, piece }).await;
            }
            Output::Left { shard, grant } => self.remove(shard, grant.stream()),
            Output::Read { .. } | Output::Look { .. } => {}
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

    /// Sends an event to every shard where somebody may hear it.
    async fn event(&mut self, stream: u8, event: Arc<Event>) {
        let mut wanted = 0u64;
        self.interest.for_each_match(&event.subject, |counts| {
            for (shard, count) in counts.iter().enumerate() {
                wanted |= u64::from(*count > 0) << shard;
            }
        });
        while wanted != 0 {
            let shard = wanted.trailing_zeros() as usize;
            wanted &= wanted - 1;
            self.told[shard] = event.at.seq;
            let message = |event, room| ToShard::Event { stream, event, room };
            self.shards[shard].send_event(event.clone(), message).await;
        }
    }

    /// Tells the shards that do not know it yet where the head is.
    async fn head(&mut self, stream: u8, head: Cursor) {
        for shard in 0..self.shards.len() {
            if self.told[shard] != head.at.seq {
                self.told[shard] = head.at.seq;
                self.to(shard, ToShard::Head { stream, head }).await;
            }
        }
    }

    /// Sends to every shard.
    async fn to_all(&self, message: impl Fn() -> ToShard) {
        for shard in 0..self.shards.len() {
            self.to(shard, message()).await;
        }
    }

    /// Sends to one shard.
    async fn to(&self, shard: usize, message: ToShard) {
        self.shards[shard].send(message).await;
    }
}
