//! What a run may leave behind in a sidecar and on NATS: nothing.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::checker::Report;
use super::layout::STREAM;
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
    // Of a client (`cid`); a route is slow where one of three servers hangs.
    let slow = |line: &&str| line.contains("Slow Consumer") && line.contains("cid:");
    for line in world.servers.log().lines().filter(slow) {
        report.complain(format!("NATS: {line}"));
    }
}

/// What is more than it was.
async fn remains(world: &World, baseline: &Baseline) -> Vec<String> {
    let mut left = Vec::new();
    let consumers = consumers(world).await;
    if consumers.len() > world.apps.len() {
        left.push(format!("{} consumers on the stream: {consumers:#?}", consumers.len()));
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

/// The stream's consumers. A cluster of 2.9 goes on listing some that no server runs: nobody answers for them, and nobody
/// could have deleted them.
async fn consumers(world: &World) -> Vec<String> {
    let names = world.consumers().await;
    if names.len() <= world.apps.len() {
        return names;
    }
    let mut found = Vec::new();
    for name in names {
        let info = world.try_ask(&format!("CONSUMER.INFO.{STREAM}.{name}"), &Value::Null).await;
        if info["config"].is_object() {
            found.push(info.to_string());
        }
    }
    found
}

/// What a sidecar's descriptors are, for people.
fn descriptors(app: &App) -> Vec<String> {
    let dir = format!("/proc/{}/fd", app.pid());
    let links = std::fs::read_dir(dir).into_iter().flatten().flatten();
    links.filter_map(|link| Some(std::fs::read_link(link.path()).ok()?.display().to_string())).collect()
}
