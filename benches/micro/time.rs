//! CPU time of this thread, and what one operation takes of it.

use rustix::time::{ClockId, clock_gettime};

const SERIES: usize = 9;
/// A series that takes so long, in seconds, is long enough for its clock, and short enough to be left alone now and then.
const SERIES_SECONDS: f64 = 0.02;

/// CPU seconds of this thread so far.
pub fn thread_cpu() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Nanoseconds of an operation, the best of several series. It is told its number, which goes on counting.
pub fn nanoseconds(mut operation: impl FnMut(usize)) -> f64 {
    let mut done = 0;
    let mut series = |count: usize| {
        let began = thread_cpu();
        (done..done + count).for_each(&mut operation);
        done += count;
        thread_cpu() - began
    };
    let mut count = 1;
    while series(count) < SERIES_SECONDS {
        count *= 2;
    }
    let best = (0..SERIES).map(|_| series(count)).fold(f64::MAX, f64::min);
    best / count as f64 * 1e9
}
