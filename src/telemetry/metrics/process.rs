//! What the whole process counts, and what the kernel says of it when somebody asks.

use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::number::Number;
use crate::pulse::Pulse;

/// What memory is used, and by how many; written by the thread that watches it.
#[derive(Debug, Default)]
pub struct MemoryMetrics {
    /// Bytes that may be used; 0 without a budget.
    pub budget: Number,
    /// Bytes that count against it.
    pub used: Number,
    /// Bytes that frames hold, in the history and in queues.
    pub frames: Number,
    /// The thread's sign of life.
    pub pulse: Pulse,
    /// 1 while new streams wait.
    pub held_back: Number,
    /// Users with an event stream.
    pub users: Number,
}

/// What was told of who is there; written by the thread that tells it.
#[derive(Debug, Default)]
pub struct PresenceMetrics {
    /// Changes published: connects, disconnects.
    pub published: [Number; 2],
    /// 1 while this sidecar is the one that publishes.
    pub publishing: Number,
    /// Users of other sidecars that were not kept for want of room.
    pub left_out: Number,
}

/// What became of certificate files that had changed; written by the thread that reads them.
#[derive(Debug, Default)]
pub struct TlsMetrics {
    /// Read, and shown to new connections.
    pub applied: Number,
    /// Not usable: what was shown before is shown on.
    pub refused: Number,
    /// Seconds since 1970 at which the certificate that is shown expires; 0 without one.
    pub not_after: Number,
}

/// What became of the configuration; written by the thread that reads it again.
#[derive(Debug)]
pub struct ReloadMetrics {
    pub(super) successful: Number,
    /// Seconds since 1970.
    pub(super) at: Number,
}

impl ReloadMetrics {
    /// It has been read and is in force, at so many seconds since 1970.
    pub(super) fn started(at: u64) -> Self {
        let reload = Self { successful: Number::default(), at: Number::default() };
        reload.applied(at);
        reload
    }

    /// It has been read again and is in force, at so many seconds since 1970.
    pub fn applied(&self, at: u64) {
        self.successful.set(1);
        self.at.set(at);
    }

    /// It has been read again and is not in force; the one from before stays.
    pub fn refused(&self) {
        self.successful.set(0);
    }
}

/// CPU time of the process so far.
pub(super) fn cpu() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ProcessCPUTime)).unwrap_or_default()
}

/// Open file descriptors, without the one that they are counted by. `None` where there is no `/proc`.
pub(super) fn open_descriptors() -> Option<usize> {
    std::fs::read_dir("/proc/self/fd").ok().map(|fds| fds.count().saturating_sub(1))
}

/// Most file descriptors that may be open; `None` is no limit.
pub(super) fn descriptors_max() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}
