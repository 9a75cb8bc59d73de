//! What the feeds count; written by the feed thread alone.

use super::number::{Fraction, Number};
use crate::frame::notice::GapReason;
use crate::pulse::Pulse;

/// All numbers of the feeds together.
#[derive(Debug, Default)]
pub struct FeedMetrics {
    /// Messages read from streams.
    pub stream_events: Number,
    /// Messages read from core subjects.
    pub live_events: Number,
    /// Events of the past served to clients.
    pub replayed: Number,
    /// Last values served to clients.
    pub last_values: Number,
    /// Reads of last values from NATS.
    pub last_value_reads: Number,
    /// Passes over the past of streams.
    pub passes: Number,
    /// Core subscriptions held.
    pub live_subscriptions: Number,
    /// 1 where the NATS server has known security faults.
    pub server_outdated: Number,
    /// Event names replaced by `message`.
    pub names_replaced: Number,
    /// Messages outside the subscription they came by.
    pub violations: Number,
    /// Messages the NATS client could not read.
    pub poison: Number,
    /// Connections made again after a loss.
    pub reconnects: Number,
    /// What the leader of each stream has said last, by the stream's index.
    pub leaders: Vec<LeaderMetrics>,
    /// Sidecars on the roll, this one included.
    pub nodes: Number,
    /// The thread's sign of life.
    pub pulse: Pulse,
    pub(super) gaps: [Number; GapReason::ALL.len()],
}

impl FeedMetrics {
    /// All zero, for so many streams.
    pub fn new(streams: usize) -> Self {
        Self { leaders: (0..streams).map(|_| LeaderMetrics::default()).collect(), ..Self::default() }
    }

    /// Counts a declared gap.
    pub fn gap(&self, reason: GapReason) {
        if let Some(place) = GapReason::ALL.iter().position(|r| *r == reason) {
            self.gaps[place].add(1);
        }
    }
}

/// What a stream's leader has said last; written by the feed thread alone.
#[derive(Debug, Default)]
pub struct LeaderMetrics {
    /// Seconds that the answer took.
    pub rtt: Fraction,
    /// Sequences that had not been read.
    pub lag: Number,
}
