//! How many lines may be written: nobody fills the disk by doing the same thing over and over.
//!
//! Each call site may write [`BURST`] lines at once and another one every [`REFILL`]; what is left out is counted, and the
//! count is told every [`TELL_INTERVAL`]. Call sites are known when the program is built, so neither lines nor memory grow
//! with what peers, publishers and servers do, whichever crate tells of it. `debug` is not limited: somebody is looking. Neither are
//! the two lines of each event stream ([`access`]): how many streams may be opened is limited itself.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use crate::telemetry::access;

/// Lines that one call site may write at once.
const BURST: u32 = 10;
/// How long until it may write another.
const REFILL: Duration = Duration::from_secs(10);
/// How often what was left out is told.
pub const TELL_INTERVAL: Duration = Duration::from_secs(10);
/// The target of the lines that tell it; they are not limited themselves.
pub(super) const TELLING: &str = "sidestream::telemetry::left_out";

/// Lines left out in this process.
static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// How many lines were left out so far.
pub fn left_out() -> u64 {
    LEFT_OUT.load(Ordering::Relaxed)
}

/// What every call site has written, and left out. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Limit(Arc<Mutex<Sites>>);

type Sites = HashMap<Identifier, (&'static Metadata<'static>, Site)>;

impl Limit {
    /// Writes a line for each call site that had to leave lines out.
    pub fn tell(&self) {
        let left_out: Vec<_> =
            self.sites().values_mut().filter_map(|(metadata, site)| Some((*metadata, site.take_left_out()?))).collect();
        for (metadata, count) in left_out {
            let (module, line) = (metadata.target(), metadata.line().unwrap_or_default());
            tracing::warn!(target: TELLING, count, site = %format_args!("{module}:{line}"), "Log lines left out");
        }
    }

    fn admits(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        if *metadata.level() > Level::INFO || [TELLING, access::TARGET].contains(&metadata.target()) {
            return true;
        }
        let mut sites = self.sites();
        let (_, site) = sites.entry(metadata.callsite()).or_insert_with(|| (metadata, Site::new(now)));
        site.admits(now)
    }

    fn sites(&self) -> MutexGuard<'_, Sites> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Subscriber> Layer<S> for Limit {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        self.admits(event.metadata(), Instant::now())
    }
}

/// What one call site may still write.
#[derive(Debug)]
struct Site {
    room: u32,
    refilled: Instant,
    left_out: u64,
}

impl Site {
    fn new(now: Instant) -> Self {
        Self { room: BURST, refilled: now, left_out: 0 }
    }

    fn admits(&mut self, now: Instant) -> bool {
        while self.room < BURST && now.saturating_duration_since(self.refilled) >= REFILL {
            self.room += 1;
            self.refilled += REFILL;
        }
        if self.room == BURST {
            self.refilled = now;
        }
        match self.room.checked_sub(1) {
            Some(room) => self.room = room,
            None => {
                self.left_out = self.left_out.saturating_add(1);
                LEFT_OUT.fetch_add(1, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    fn take_left_out(&mut self) -> Option<u64> {
        Some(std::mem::take(&mut self.left_out)).filter(|count| *count > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_may_write_a_burst_then_a_line_now_and_then() {
        let start = Instant::now();
        let mut site = Site::new(start);
        let admitted = |site: &mut Site, at: Duration, tries: u32| {
            u32::try_from((0..tries).filter(|_| site.admits(start + at)).count()).expect("small")
        };
        assert_eq!(admitted(&mut site, Duration::ZERO, 1000), BURST);
        assert_eq!(site.take_left_out(), Some(u64::from(1000 - BURST)));
        assert_eq!(site.take_left_out(), None);

        assert_eq!(admitted(&mut site, REFILL / 2, 5), 0);
        assert_eq!(admitted(&mut site, REFILL, 5), 1);
        // The time since the last refill counts, not since the last line.
        assert_eq!(admitted(&mut site, REFILL * 3 / 2, 5), 0);
        assert_eq!(admitted(&mut site, REFILL * 2, 5), 1);
        assert_eq!(admitted(&mut site, REFILL * 1000, 1000), BURST);
        assert_eq!(site.take_left_out(), Some(5 + 4 + 5 + 4 + u64::from(1000 - BURST)));
    }

    #[test]
    fn a_quiet_site_does_not_save_up_more_than_a_burst() {
        let start = Instant::now();
        let mut site = Site::new(start);
        assert!(site.admits(start));
        let late = start + REFILL * 10_000;
        assert_eq!((0..100).filter(|_| site.admits(late)).count(), BURST as usize);
        // A clock that stands still, or goes back, refills nothing.
        assert!(!site.admits(start));
        assert!(!site.admits(late));
    }
}
