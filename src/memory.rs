//! The memory budget: how much may be used, how much is, and what follows from it.
//!
//! One thread looks every 50 ms ([`Watch`]), more often while memory is short, less where there is no budget. Over the budget new streams are refused
//! softly ([`crate::limit`]); over 110 % of it shards are ordered to free bytes ([`Orders`]), which they do by ending the
//! streams with the largest queues (`shard::budget`). Nothing here is asked while events are delivered. Where the limit and
//! the usage come from is [`cgroup`]'s business.
//!
//! What is bounded elsewhere counts too, but cannot be ordered away: the history of each stream (`history.bytes`), the
//! passes over its past (`pass_bytes` of the ledger), its last values (64 MiB at most, where routes begin with them), and 32 MiB of events on their way to each shard. Pieces of the past
//! that clients have in hand are in their queues and go with them; `limits.replays` bounds their number. A budget below
//! the history lets nobody in once that is full: the configuration refuses it.

pub mod cgroup;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use self::cgroup::Cgroup;
use crate::frame::held;
use crate::limit::Limiter;
use crate::telemetry::metrics::Metrics;

/// Between two looks: some 10 MB at the rate that NATS brings large messages.
const LOOK: Duration = Duration::from_millis(50);
/// The same over the budget, where every megabyte counts; shards act on an order in less.
const LOOK_FULL: Duration = Duration::from_millis(20);
/// The same where there is no budget: only the metrics want to know.
const LOOK_UNBOUND: Duration = Duration::from_secs(1);
/// Between two sweeps of the limiter's idle keys.
const SWEEP: Duration = Duration::from_secs(10);
/// What a stream holds beside its queue at least, in bytes: a plain one.
const STREAM_BYTES_MIN: u64 = 1024;
/// And at most: one on HTTP/2 and TLS, alone on its connection.
const STREAM_BYTES_MAX: u64 = 64 * 1024;
/// What a connection holds that is no stream, at most: a hundred answers on HTTP/2 that are not read.
const CONNECTION_BYTES_MAX: u64 = 256 * 1024;
/// What the program needs without clients and history, in bytes.
pub const PROGRAM_BYTES_MAX: u64 = 32 << 20;

/// Where the kernel tells what this process uses.
#[derive(Debug)]
pub struct Source {
    cgroup: Option<Cgroup>,
}

impl Source {
    /// Looks where this process is.
    pub fn find() -> Self {
        Self { cgroup: Cgroup::of_this_process() }
    }

    /// The budget in bytes: what is configured, else 80 % of what the cgroup may use, else none.
    pub fn budget(&self, configured: Option<u64>) -> Option<u64> {
        configured.or_else(|| Some(self.cgroup.as_ref()?.limit / 10 * 8))
    }

    /// Bytes that count against the budget. `resident`: the process's own.
    ///
    /// Where a cgroup has a limit, the kernel kills for what counts *there*: besides resident memory the sockets' buffers
    /// and kernel objects, of which stalled readers and many connections hold more than we do. So that is compared, less
    /// what the kernel takes back by itself. Elsewhere nobody else counts, and resident memory is what there is.
    fn used(&self, resident: u64) -> u64 {
        let counted = self.cgroup.as_ref().and_then(Cgroup::used);
        counted.map_or(resident, |counted| counted.max(resident))
    }
}

/// Resident memory of this process, in bytes; zero where `/proc` does not say.
pub fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm");
    let pages = pages.ok().and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok()).unwrap_or_default();
    pages * rustix::param::page_size() as u64
}

/// What a look found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Look {
    /// Resident bytes.
    resident: u64,
    /// Bytes that count against the budget, resident ones among them.
    used: u64,
    /// Bytes that frames hold.
    frames: u64,
    /// Event streams open.
    streams: u64,
    /// Connections open, streams or not.
    connections: u64,
}

impl Look {
    /// Bytes that are certainly held.
    fn held(&self) -> u64 {
        self.frames + self.streams * STREAM_BYTES_MIN
    }

    /// Bytes that the process cannot need more than: what is resident beyond it is the allocator's.
    fn needed_max(&self) -> u64 {
        let others = self.connections.saturating_sub(self.streams);
        PROGRAM_BYTES_MAX + self.frames / 2 * 3 + self.streams * STREAM_BYTES_MAX + others * CONNECTION_BYTES_MAX
    }
}

/// Bytes that we have given back and the allocator has kept.
///
/// An allocator returns memory late, and glibc, where the library is used without jemalloc, only from the end of its heaps: when
/// a thousand queues have been freed, resident memory stays where it was, perhaps for hours. That memory is there for whoever comes next, so it must neither keep new clients
/// out nor put more of them out. What we hold is known: what it falls by and resident memory does not is kept. It is an
/// estimate, and corrected by what shows that it was too high: resident memory that rises above its highest, although
/// there was something to be taken from what is kept.
#[derive(Debug, Default)]
struct Kept {
    bytes: u64,
    /// Highest resident memory since something is kept.
    peak: u64,
    last: Look,
}

impl Kept {
    /// How much less is believed for each byte of fresh memory. With half of the budget believed at most, memory ends at
    /// 120 % of it even where the allocator can use nothing of what it keeps: 96 % of a cgroup's limit.
    const DOUBT: u64 = 4;

    fn look(&mut self, now: Look) -> u64 {
        let before = std::mem::replace(&mut self.last, now);
        let (taken, freed) = rise_and_fall(before.held(), now.held());
        let (grown, returned) = rise_and_fall(before.resident, now.resident);
        let fresh = now.resident.saturating_sub(self.peak);
        // Memory that was returned and came back was not taken from what is kept.
        let regrown = grown.saturating_sub(fresh).min(taken);
        let more = self.bytes + freed + regrown;
        self.bytes = more.saturating_sub(taken + returned + Self::DOUBT * fresh);
        self.peak = if self.bytes == 0 { now.resident } else { self.peak.max(now.resident) };
        self.bytes
    }
}

fn rise_and_fall(before: u64, now: u64) -> (u64, u64) {
    (now.saturating_sub(before), before.saturating_sub(now))
}

/// What follows from a look.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Verdict {
    /// New streams wait.
    full: bool,
    /// Bytes to be freed.
    excess: u64,
}

fn judge(budget: u64, look: Look, kept: u64) -> Verdict {
    let kernel = look.used.saturating_sub(look.resident);
    let own = look.resident.saturating_sub(kept.min(budget / 2)).min(look.needed_max());
    let used = kernel + own;
    Verdict { full: used > budget, excess: used.saturating_sub(budget / 10 * 11) }
}

/// Orders to the shards: free so many bytes.
#[derive(Debug)]
pub struct Orders(Box<[Order]>);

#[derive(Debug, Default)]
struct Order {
    bytes: AtomicU64,
    given: Notify,
}

impl Orders {
    /// None yet, for so many shards.
    pub fn new(shards: usize) -> Arc<Self> {
        Arc::new(Self((0..shards).map(|_| Order::default()).collect()))
    }

    /// Waits for the next order to a shard, and gives the bytes. An order that nobody has taken is replaced by the next.
    pub async fn next(&self, shard: usize) -> u64 {
        let order = &self.0[shard];
        loop {
            order.given.notified().await;
            let bytes = order.bytes.swap(0, Ordering::Relaxed);
            if bytes > 0 {
                return bytes;
            }
        }
    }

    /// Orders `bytes` to be freed, from each shard by its share of what is queued.
    fn give(&self, bytes: u64, queued: &[u64]) {
        let all: u64 = queued.iter().sum();
        for (order, queued) in self.0.iter().zip(queued) {
            let share = if all == 0 {
                bytes.div_ceil(self.0.len() as u64)
            } else {
                u64::try_from(u128::from(bytes) * u128::from(*queued) / u128::from(all)).unwrap_or(bytes)
            };
            if share > 0 {
                order.bytes.store(share, Ordering::Relaxed);
                order.given.notify_one();
            }
        }
    }
}

/// The thread that looks.
#[derive(Debug)]
pub struct Watch {
    /// What the kernel says.
    pub source: Source,
    /// In bytes; without one nothing is judged, but everything measured.
    pub budget: Option<u64>,
    /// Who is told that new streams wait.
    pub limiter: Arc<Limiter>,
    /// Where the shards say what they have queued, and what was measured is put.
    pub metrics: Arc<Metrics>,
    /// Where shards are told to free memory.
    pub orders: Arc<Orders>,
}

impl Watch {
    /// Looks until the process ends.
    pub fn run(self) {
        let mut kept = Kept::default();
        let mut full = false;
        let mut swept = Instant::now();
        self.metrics.memory.budget.set(self.budget.unwrap_or_default());
        loop {
            self.metrics.memory.pulse.beat();
            let look = self.look();
            let verdict = self.budget.map_or_else(Verdict::default, |budget| judge(budget, look, kept.look(look)));
            if verdict.full != full {
                full = verdict.full;
                self.tell(full, look);
            }
            if verdict.excess > 0 {
                let queued: Vec<u64> = self.metrics.shards.iter().map(|shard| shard.queued.get()).collect();
                self.orders.give(verdict.excess, &queued);
            }
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                self.limiter.sweep();
            }
            std::thread::sleep(match (self.budget, full) {
                (None, _) => LOOK_UNBOUND,
                (Some(_), false) => LOOK,
                (Some(_), true) => LOOK_FULL,
            });
        }
    }

    fn look(&self) -> Look {
        let (resident, frames) = (resident(), held::bytes());
        let shards = || self.metrics.shards.iter();
        let streams = shards().map(|shard| shard.connections.get()).sum();
        let connections = shards().map(|shard| shard.tasks.get()).sum();
        let look = Look { resident, used: self.source.used(resident), frames, streams, connections };
        self.metrics.memory.used.set(look.used);
        self.metrics.memory.frames.set(frames);
        self.metrics.memory.users.set(self.limiter.users() as u64);
        look
    }

    fn tell(&self, full: bool, look: Look) {
        self.limiter.hold_back(full);
        self.metrics.memory.held_back.set(full.into());
        let (used, frames, budget) = (look.used, look.frames, self.budget.unwrap_or_default());
        if full {
            tracing::warn!(used, frames, budget, "Memory budget reached: new streams wait");
        } else {
            tracing::info!(used, frames, budget, "Below the memory budget: new streams are let in again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const BUDGET: u64 = 1000 * MIB;

    /// In MiB.
    fn look(resident: u64, frames: u64) -> Look {
        Look { resident: resident * MIB, used: resident * MIB, frames: frames * MIB, ..Look::default() }
    }

    fn verdict(look: Look, kept: u64) -> (bool, u64) {
        let Verdict { full, excess } = judge(BUDGET, look, kept * MIB);
        (full, excess / MIB)
    }

    #[test]
    fn over_the_budget_new_streams_wait_and_over_110_percent_bytes_are_to_be_freed() {
        assert_eq!(verdict(look(1000, 900), 0), (false, 0));
        assert_eq!(verdict(look(1001, 900), 0), (true, 0));
        assert_eq!(verdict(look(1100, 900), 0), (true, 0));
        assert_eq!(verdict(look(1150, 900), 0), (true, 50));
        let kernel = Look { used: 1150 * MIB, ..look(800, 700) };
        assert_eq!(verdict(kernel, 0), (true, 50), "what the kernel holds for our sockets counts");
    }

    #[test]
    fn what_the_allocator_keeps_is_not_used() {
        assert_eq!(verdict(look(1150, 900), 100), (true, 0));
        assert_eq!(verdict(look(1150, 900), 151), (false, 0));
        assert_eq!(verdict(look(1700, 1500), 1000), (true, 100), "half of the budget at most");
        assert_eq!(verdict(look(1700, 100), 0), (false, 0), "nobody can need that much for so little");
    }

    /// Looks in MiB, and what is believed to be kept after each.
    fn kept(looks: &[(u64, u64, u64)]) {
        let mut kept = Kept::default();
        for (resident, frames, believed) in looks {
            assert_eq!(kept.look(look(*resident, *frames)) / MIB, *believed, "{resident}, {frames} of {looks:?}");
        }
    }

    #[test]
    fn freed_memory_that_stays_resident_is_kept_until_it_is_taken_again() {
        kept(&[(500, 300, 0), (500, 100, 200), (500, 150, 150), (500, 300, 0), (600, 400, 0)]);
        // Returned to the kernel, and back again.
        kept(&[(500, 300, 0), (500, 100, 200), (450, 100, 150), (500, 150, 150), (500, 100, 200)]);
        // Measured at different moments.
        kept(&[(500, 300, 0), (500, 400, 0), (600, 400, 0)]);
    }

    #[test]
    fn fresh_memory_is_evidence_that_what_is_kept_is_of_no_use() {
        kept(&[(500, 300, 0), (500, 100, 200), (510, 100, 160), (510, 110, 150), (550, 110, 0)]);
    }

    #[tokio::test]
    async fn orders_are_split_by_what_is_queued() {
        let orders = Orders::new(2);
        orders.give(100, &[300, 100]);
        assert_eq!((orders.next(0).await, orders.next(1).await), (75, 25));
        orders.give(100, &[0, 0]);
        assert_eq!((orders.next(0).await, orders.next(1).await), (50, 50));
        orders.give(10, &[0, 5]);
        orders.give(20, &[0, 5]);
        assert_eq!(orders.next(1).await, 20, "the next order replaces one that nobody took");
    }
}
