//! One run of one fault on one server by one seed, from an empty directory to a report.

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use super::checker::{Allowed, Report, check};
use super::client::Log;
use super::kinds::Kind;
use super::leaks;
use super::support::Version;
use super::world::World;

/// Pieces of evidence shown.
const EVIDENCE_MAX: usize = 6;
/// How long one run may take in all.
const RUN_MAX: Duration = Duration::from_secs(240);

/// Runs it. Never panics: whatever goes wrong is in the report.
pub fn run(kind: &'static Kind, version: Version, seed: u64) -> Report {
    let label = label(kind, version, seed);
    println!("--- {label}");
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let bounded = async { tokio::time::timeout(RUN_MAX, run_in_world(kind, version, seed)).await };
    // What is half done is dropped by the panic, which ends the servers.
    let report = match catch_unwind(AssertUnwindSafe(|| runtime.block_on(bounded))) {
        Ok(Ok(report)) => report,
        Ok(Err(_)) => failed(format!("the run took longer than {RUN_MAX:?}")),
        Err(panic) => failed(format!("the run broke off: {}", why(&*panic))),
    };
    let verdict = match &report {
        report if !report.is_clean() => "VIOLATED",
        report if report.void > 0 => "VOID",
        _ => "ok",
    };
    println!(
        "--- {label}: {verdict} in {:.1} s, {} events, {} gaps, healed in {:.1} s",
        started.elapsed().as_secs_f64(),
        report.events,
        report.gaps,
        report.worst_heal.unwrap_or_default().as_secs_f64()
    );
    if verdict != "ok" {
        println!("{}", described(&label, &report));
    }
    report
}

/// How a run is named, so that it can be repeated.
pub fn label(kind: &Kind, version: Version, seed: u64) -> String {
    format!("{} on {version:?} with --seed {seed} --kinds {}", kind.name, kind.name)
}

fn described(label: &str, report: &Report) -> String {
    let Report { lost, duplicated, out_of_order, foreign, false_gaps, other, .. } = report;
    let counts = format!(
        "lost {lost}, duplicated {duplicated}, out of order {out_of_order}, foreign {foreign}, false gaps {false_gaps}, \
         other {other}"
    );
    format!("*** {label}\n*** {counts}\n{}", report.evidence.join("\n"))
}

/// There is no truth to hold anything against.
fn void(fault: &str) -> Report {
    let mut report = Report { void: 1, ..Report::default() };
    report.show(format!("NATS itself: {fault}"));
    report
}

fn failed(why: String) -> Report {
    let mut report = Report::default();
    report.complain(why);
    report
}

fn why(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_else(|| "a panic".to_owned())
}

async fn run_in_world(kind: &'static Kind, version: Version, seed: u64) -> Report {
    let (mut world, baseline) = World::build(kind.layout, version, seed).await;
    (kind.act)(&mut world).await;
    if let Some(fault) = &world.broken {
        return void(fault);
    }
    world.publisher.go_on();
    world.order(|_| true, |orders| *orders = super::client::Orders { bounce: orders.bounce, ..Default::default() });
    if world.publisher.truth().healed.is_none() {
        world.heal();
    }
    let healed = world.has_healed().await;
    world.linger(500, 1500).await;
    let (truth, logs, discord) = world.finish().await;
    let mut report = check(&truth, &logs, Allowed { reasons: kind.reasons, silence: kind.silent });
    if let Some(seqs) = discord {
        report = void(&format!("its servers hold different messages at the same sequence: {seqs}"));
    }
    report.interruptions = world.interruptions();
    if !healed {
        report.complain("a client heard nothing for a minute after the fault".to_owned());
    }
    leaks::check(&world, &baseline, &mut report).await;
    if !report.is_clean() || report.void > 0 {
        report.evidence.truncate(EVIDENCE_MAX);
        keep(&format!("{}-{version:?}-{seed}", kind.name), &logs, &world, &mut report);
    }
    report
}

/// Keeps everything that the clients and the sidecars wrote down, one file per run.
fn keep(name: &str, logs: &[Log], world: &World, report: &mut Report) {
    let mut text = String::new();
    let zero = logs.iter().filter_map(|log| log.items.first()).map(|(at, _)| *at).min();
    for log in logs {
        let _ = writeln!(text, "# {}", log.name);
        for (at, item) in &log.items {
            let since = zero.map_or(0.0, |zero| at.duration_since(zero).as_secs_f64());
            let _ = writeln!(text, "{since:8.3}s {item:?}");
        }
    }
    let healed = world.publisher.truth().healed.zip(zero).map(|(healed, zero)| healed.duration_since(zero));
    let _ = writeln!(text, "# the fault was over after {:.3} s", healed.unwrap_or_default().as_secs_f64());
    for (index, app) in world.apps.iter().flatten().enumerate() {
        let _ = writeln!(text, "# sidecar {index}\n{}", app.log_lines().join("\n"));
    }
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("faults-{name}.log"));
    match std::fs::write(&file, text) {
        Ok(()) => report.show(format!("everything that was heard and logged: {}", file.display())),
        Err(error) => report.show(format!("{}: {error}", file.display())),
    }
}
