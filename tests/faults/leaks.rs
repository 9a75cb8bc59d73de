//! What a run may leave behind in a sidecar and on NATS: nothing.

use std::time::{Duration, Instant};

use super::checker::Report;
use super::support::App;
use super::world::World;

/// Invariant I6 gives 30 s; a pull consumer that was cut off lives on for as long by itself.
const SETTLED: Duration = Duration::from_secs(40);
/// Beside twice the history: queues, allocator, what a debug build costs.
const RESIDENT_MAX: u64 = 256 << 20;

/// Descriptors of each sidecar before the first client.
pub type Baseline = Vec<usize>;

/// Counts them once they have stopped to change: NATS connections are made one after the other.
pub async fn baseline(apps: &[App]) -> Baseline {
    let (mut last, mut since) = (Baseline::new(), Instant::now());
    while since.elapsed() < Duration::from_millis(500) {
        let now: Baseline = apps.iter().map(App::descriptors).collect();
        if now != last {
            (last, since) = (now, Instant::now());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    last
}

/// Waits until everything is back to what it was, and complains of what is not.
pub async fn check(world: &World, baseline: &Baseline, report: &mut Report) {
    let started = Instant::now();
    let mut left = Vec::new();
    while started.elapsed() < SETTLED {
        left = remains(world, baseline).await;
        if left.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    for what in left {
        report.complain(format!("after {SETTLED:?}: {what}"));
    }
    for (index, app) in world.apps.iter().flatten().enumerate() {
        let resident = app.resident();
        if resident > RESIDENT_MAX {
            report.complain(format!("sidecar {index} holds {} MiB", resident >> 20));
        }
        if app.admin_get("/readyz").await.head.status != 200 {
            report.complain(format!("sidecar {index} is not ready"));
        }
        if app.metric("sidestream_subject_violations_total", &[]).await > 0.5 {
            report.foreign += 1;
            report.show(format!("sidecar {index} counts subject violations"));
        }
    }
    for line in world.nats.log().lines().filter(|line| line.contains("Slow Consumer")) {
        report.complain(format!("NATS: {line}"));
    }
}

/// What is more than it was.
async fn remains(world: &World, baseline: &Baseline) -> Vec<String> {
    let mut left = Vec::new();
    let consumers = world.consumers().await;
    if consumers.len() > world.apps.len() {
        left.push(format!("{} consumers on the stream: {consumers:?}", consumers.len()));
    }
    for (index, (app, before)) in world.apps.iter().zip(baseline).enumerate() {
        let Some(app) = app else {
            left.push(format!("sidecar {index} is gone"));
            continue;
        };
        let now = app.descriptors();
        // The connection by which the past is read is opened with the first replay, and kept.
        if now > *before + 1 {
            left.push(format!("sidecar {index} has {now} descriptors, {before} at first: {:?}", descriptors(app)));
        }
        let open = app.metric("sidestream_connections", &[]).await;
        if open > 0.5 {
            left.push(format!("sidecar {index} counts {open} connections"));
        }
    }
    left
}

/// What a sidecar's descriptors are, for people.
fn descriptors(app: &App) -> Vec<String> {
    let dir = format!("/proc/{}/fd", app.pid());
    let links = std::fs::read_dir(dir).into_iter().flatten().flatten();
    links.filter_map(|link| Some(std::fs::read_link(link.path()).ok()?.display().to_string())).collect()
}
