//! The clock that all processes of a bench share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds since some moment that is the same for every process.
pub fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs()
}
