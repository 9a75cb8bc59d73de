//! What a service manager is told of this process, after sd_notify(3): that it is ready, reads its configuration again, stops, and how
//! many streams are open; and the watchdog, which is fed only while every thread that matters gives signs of life.
//!
//! Without a service manager (no `NOTIFY_SOCKET`) all of it does nothing. What the signs of life are is the threads' business.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;

use crate::app::State;
use crate::telemetry::metrics::Metrics;

/// The status is looked at so often, also without a watchdog.
const LOOK: Duration = Duration::from_secs(5);
/// Nobody counts as silent before: threads look around every second, and a machine may be busy.
const PATIENCE_MIN: Duration = Duration::from_secs(3);
/// What the end may take longer than the drain window: the last streams, threads, sockets.
const STOP_MARGIN: Duration = Duration::from_secs(15);

/// The service manager, if there is one.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// Within this time a sign of life is expected of this process; `None` where none is.
    watchdog: Option<Duration>,
}

/// A part of the process that gives no sign of life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Silent {
    part: &'static str,
    since: Duration,
}

impl Service {
    /// Reads from the environment whether a watchdog waits for this very process (`WATCHDOG_USEC`, `WATCHDOG_PID`).
    pub fn new() -> Self {
        Self { watchdog: sd_notify::watchdog_enabled().filter(|within| !within.is_zero()) }
    }

    /// Listeners answer. Also the end of [`Service::reloading`].
    pub fn ready(self) {
        tell(&[NotifyState::Ready]);
    }

    /// The configuration is being read again; [`Service::ready`] must follow, however that ends.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "No monotonic clock: the service manager is not told of the reload"),
        }
    }

    /// The process drains for at most `window`, and ends. `TimeoutStopSec=` is extended to it.
    pub fn stopping(self, window: Duration) {
        let within = u32::try_from((window + STOP_MARGIN).as_micros()).unwrap_or(u32::MAX);
        tell(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(within)]);
    }

    /// Tells what the process does (`systemctl status`) whenever that has changed, and feeds the watchdog. Runs until the
    /// process ends, on the runtime of signals and admin listener: when that stands still, nothing is fed either.
    pub async fn watch(self, state: Arc<State>) {
        let mut look = tokio::time::interval(self.interval());
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut told, mut was_silent) = (String::new(), false);
        loop {
            look.tick().await;
            let silent = silent(&state.metrics, Instant::now(), self.patience());
            if let Some(Silent { part, since }) = silent.filter(|_| !was_silent) {
                tracing::error!(part, ?since, "No sign of life; the watchdog is not fed");
            }
            was_silent = silent.is_some();
            let status = status(state.connections(), state.is_draining(), silent);
            if status != told {
                tell(&[NotifyState::Status(&status)]);
                told = status;
            }
            if self.watchdog.is_some() && silent.is_none() {
                tell(&[NotifyState::Watchdog]);
            }
        }
    }

    /// Three looks within the time of the watchdog: one may come late, one may find a thread busy.
    fn interval(self) -> Duration {
        self.watchdog.map_or(LOOK, |within| (within / 3).min(LOOK))
    }

    /// How long a part may be silent: with the next look, and the watchdog's own time, it is restarted within 5/3 of that time.
    fn patience(self) -> Duration {
        self.watchdog.map_or(PATIENCE_MIN, |within| (within / 3).max(PATIENCE_MIN))
    }
}

impl Default for Service {
    fn default() -> Self {
        Self::new()
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "The service manager cannot be told");
    }
}

/// The part that has been silent for the longest time, if that is longer than `patience`.
fn silent(metrics: &Metrics, now: Instant, patience: Duration) -> Option<Silent> {
    let parts = [
        ("shard", metrics.longest_since_sweep_at(now)),
        ("feed", metrics.feed.pulse.silent_at(now)),
        ("memory", metrics.memory.pulse.silent_at(now)),
    ];
    let longest = parts.into_iter().max_by_key(|(_, since)| *since);
    longest.filter(|(_, since)| *since > patience).map(|(part, since)| Silent { part, since })
}

fn status(streams: u64, draining: bool, silent: Option<Silent>) -> String {
    let streams = format!("{streams} {}", if streams == 1 { "stream" } else { "streams" });
    match silent {
        Some(Silent { part, since }) => format!("stuck: no sign of life from {part} for {} s", since.as_secs()),
        None if draining => format!("draining, {streams} left"),
        None => format!("{streams} open"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Every part gives a sign of life 11 s after the process began, but for one.
    fn found_when_silent(part: Option<&str>) -> Option<&'static str> {
        let metrics = Metrics::new(2, Vec::new(), Vec::new(), Arc::default());
        let later = Instant::now() + Duration::from_secs(11);
        assert_eq!(silent(&metrics, Instant::now(), PATIENCE), None, "all have just begun");
        // A shard tells the moment of its sweep in milliseconds since it began.
        for (shard, name) in metrics.shards.iter().zip(["another shard", "shard"]) {
            if part != Some(name) {
                shard.swept.set(11_000);
            }
        }
        for (name, pulse) in [("feed", &metrics.feed.pulse), ("memory", &metrics.memory.pulse)] {
            if part != Some(name) {
                pulse.beat_at(later);
            }
        }
        silent(&metrics, later, PATIENCE).map(|silent| silent.part)
    }

    #[test]
    fn every_part_must_give_signs_of_life() {
        assert_eq!(found_when_silent(None), None);
        for part in ["shard", "feed", "memory"] {
            assert_eq!(found_when_silent(Some(part)), Some(part));
        }
    }

    #[test]
    fn a_stuck_process_is_restarted_in_less_than_twice_the_watchdogs_time() {
        for seconds in [15, 30, 120] {
            let within = Duration::from_secs(seconds);
            let service = Service { watchdog: Some(within) };
            assert!(service.interval() * 3 <= within);
            assert!(service.patience() + service.interval() + within < 2 * within, "{within:?}");
        }
    }

    #[test]
    fn the_status_says_what_the_process_does() {
        assert_eq!(status(1, false, None), "1 stream open");
        assert_eq!(status(20, true, None), "draining, 20 streams left");
        let silent = Some(Silent { part: "shard", since: Duration::from_millis(12_900) });
        assert_eq!(status(20, true, silent), "stuck: no sign of life from shard for 12 s");
    }
}
