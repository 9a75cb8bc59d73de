//! A reconnect storm: clients that each missed a hundred events, all back with their cursors within one second.
//!
//! ```sh
//! cargo bench --bench storm                    # 5000 clients, a current NATS server
//! cargo bench --bench storm -- 1000 old        # fewer clients, NATS_SERVER_OLD or the one on the PATH
//! ```
//!
//! Real processes, nothing pinned. Every client must get exactly its hundred events in order, then the end marker as the
//! next event, or the run fails. `shared`: of the hundred, ninety are broadcasts and ten are the user's own; `own`: all
//! hundred are. `memory`: the sidecar has heard them; `stream`: it has been started since, with a history of 1 MiB, so that
//! what was missed is read from JetStream. `wide`: no limit is met; `default`: the limits are the defaults, clients are
//! refused softly and come back when told to. "Last" counts from the moment the first comes back, a client's time from its
//! own; beside the floor and nchan it is measured by `cargo bench --bench whole -- storm`. What NATS sends is compared with
//! what its store says the missed range takes.

mod client;
#[path = "../support/mod.rs"]
mod support;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use client::{Absent, CaughtUp, END, Stream};
use futures_util::StreamExt;
use support::nats::Nats;
use support::process::raise_descriptors;
use support::sidecar::{Limits, Setup, Sidecar};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// What each client misses.
const MISSED: usize = 100;
/// Of these for everybody, where some are.
const SHARED: usize = 90;
const PAYLOAD_BYTES: usize = 200;
/// All come back within this.
const WINDOW: Duration = Duration::from_secs(1);

/// What is published while everybody is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mix {
    Shared,
    Own,
}

/// Where the missed events come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Source {
    Memory,
    Stream,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let clients = arguments.iter().find_map(|argument| argument.parse().ok()).unwrap_or(5000);
    let old = arguments.iter().any(|argument| argument == "old");
    raise_descriptors();
    println!("{clients} clients, nats-server {}\n", Nats::version(old));
    println!(
        "| missed | from | limits | last s | p50 s | p99 s | refusals | consumers created | at once | NATS MiB | of the \
         range | CPU s | RSS before, peak MiB |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for mix in [Mix::Shared, Mix::Own] {
        for source in [Source::Memory, Source::Stream] {
            for limits in [Limits::Wide, Limits::Default] {
                runtime.block_on(storm(clients, old, mix, source, limits));
            }
        }
    }
}

/// Whom the messages go to: a client, or everybody. Everybody's are spread evenly among the others.
fn plan(clients: usize, mix: Mix) -> Vec<Option<usize>> {
    let shared = if mix == Mix::Shared { SHARED } else { 0 };
    let own = (MISSED - shared) * clients;
    let mut plan = Vec::with_capacity(own + shared);
    for number in 0..own {
        if shared > 0 && number.is_multiple_of((own / shared).max(1)) && number / (own / shared).max(1) < shared {
            plan.push(None);
        }
        plan.push(Some(number % clients));
    }
    plan
}

async fn storm(clients: usize, old: bool, mix: Mix, source: Source, limits: Limits) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let nats = Nats::start(directory.path(), old);
    let jetstream = jetstream::new(async_nats::connect(format!("127.0.0.1:{}", nats.port)).await.expect("NATS"));
    let history = if mix == Mix::Own { "1GiB" } else { "64MiB" };
    let start = |history| {
        let setup = Setup {
            name: "events",
            core: None,
            under: &[],
            certificate: None,
            h2c: false,
            limits,
            history,
            heartbeat: "1h",
        };
        Sidecar::start(directory.path(), nats.port, &setup)
    };
    let mut server = start(history);

    // Everybody has been there, knows its place, and leaves.
    let cursors = connect(clients, server.port).await;
    server.is_empty();
    let plan = plan(clients, mix);
    publish(&jetstream, &plan).await;
    server.has_read(plan.len() as u64);
    let range = stored(&jetstream).await;
    if source == Source::Stream {
        drop(server);
        server = start("1MiB");
    }

    let created = watch_created(&jetstream).await;
    let (sent, cpu, resident) = (nats.sent(), server.process.cpu(), server.process.resident("VmRSS"));
    server.process.forget_peak();
    let mut missed = vec![Vec::with_capacity(MISSED); clients];
    for (number, to) in plan.iter().enumerate() {
        match to {
            Some(index) => missed[*index].push(number),
            None => missed.iter_mut().for_each(|missed| missed.push(number)),
        }
    }
    let began = Instant::now() + Duration::from_millis(500);
    let (caught_up, all) = mpsc::unbounded_channel();
    let mut running = JoinSet::new();
    for ((index, cursor), missed) in cursors.into_iter().enumerate().zip(missed) {
        assert_eq!(missed.len(), MISSED);
        let at = began + WINDOW.mul_f64(index as f64 / clients as f64);
        running.spawn(Absent { index, port: server.port, cursor, missed }.resume(at, caught_up.clone()));
    }
    drop(caught_up);
    let (all, at_once) = most_consumers_while(&jetstream, everybody(all, clients, &mut running)).await;
    let last = began.elapsed();
    let (sent, cpu) = (nats.sent() - sent, server.process.cpu() - cpu);
    let peak = server.process.resident("VmHWM");
    // Nothing was doubled, and everybody is live.
    jetstream.publish("events.broadcast.end", END.into()).await.expect("sent").await.expect("stored");
    while let Some(ended) = running.join_next().await {
        ended.expect("every client gets exactly what it missed");
    }

    let mut times: Vec<f64> = all.iter().map(|one| one.took.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    let refused: u32 = all.iter().map(|one| one.refused).sum();
    println!(
        "| {} | {} | {} | {:.2} | {:.2} | {:.2} | {refused} | {} | {at_once} | {:.1} | {:.2} | {cpu:.2} | {resident:.0}, {peak:.0} |",
        format!("{mix:?}").to_lowercase(),
        format!("{source:?}").to_lowercase(),
        format!("{limits:?}").to_lowercase(),
        last.as_secs_f64(),
        times[clients / 2],
        times[clients * 99 / 100],
        created.load(Ordering::Relaxed),
        sent as f64 / 1_048_576.0,
        sent as f64 / range as f64,
    );
}

/// Opens a stream for each, some at a time, and gives their cursors.
async fn connect(clients: usize, port: u16) -> Vec<String> {
    let mut opening = futures_util::stream::iter(0..clients)
        .map(|index| async move { Stream::open(index, port, None).await.0 })
        .buffered(200);
    let mut open = Vec::with_capacity(clients);
    while let Some(stream) = opening.next().await {
        open.push(stream);
    }
    open.iter().map(Stream::cursor).collect()
}

/// Publishes what everybody misses.
async fn publish(jetstream: &jetstream::Context, plan: &[Option<usize>]) {
    for (part, range) in plan.chunks(500).enumerate() {
        let mut acknowledged = Vec::with_capacity(range.len());
        for (offset, to) in range.iter().enumerate() {
            let subject = to.map_or("events.broadcast.x".to_owned(), |index| format!("events.user.u{index}.x"));
            let payload = format!("{} {:x>width$}", part * 500 + offset, "", width = PAYLOAD_BYTES - 8);
            acknowledged.push(jetstream.publish(subject, payload.into()).await.expect("sent"));
        }
        for acknowledgement in acknowledged {
            acknowledgement.await.expect("stored");
        }
    }
}

/// Bytes that the stream takes.
async fn stored(jetstream: &jetstream::Context) -> u64 {
    let info: serde_json::Value = jetstream.request("STREAM.INFO.EVENTS", &()).await.expect("an answer");
    info["state"]["bytes"].as_u64().expect("a number")
}

/// Counts consumers as they are created.
async fn watch_created(jetstream: &jetstream::Context) -> Arc<AtomicUsize> {
    let client = jetstream.client();
    let mut advisories = client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.CREATED.>").await.expect("subscribed");
    // A round trip on the same connection: the subscription is active.
    stored(jetstream).await;
    let created = Arc::new(AtomicUsize::new(0));
    let count = created.clone();
    tokio::spawn(async move {
        while advisories.next().await.is_some() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    created
}

/// Waits until everybody has caught up. A client that fails ends the run.
async fn everybody(
    mut all: mpsc::UnboundedReceiver<CaughtUp>,
    clients: usize,
    running: &mut JoinSet<()>,
) -> Vec<CaughtUp> {
    let mut caught_up = Vec::with_capacity(clients);
    while caught_up.len() < clients {
        tokio::select! {
            one = all.recv() => caught_up.push(one.expect("every client catches up")),
            Some(ended) = running.join_next() => ended.expect("every client gets exactly what it missed"),
        }
    }
    caught_up
}

/// The most consumers that are seen at once while something runs.
async fn most_consumers_while<T>(jetstream: &jetstream::Context, work: impl Future<Output = T>) -> (T, usize) {
    let mut most = 0;
    let mut look = tokio::time::interval(Duration::from_millis(50));
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return (done, most),
            _ = look.tick() => {
                let names: serde_json::Value =
                    jetstream.request("CONSUMER.NAMES.EVENTS", &()).await.expect("an answer");
                most = most.max(names["consumers"].as_array().map_or(0, Vec::len));
            }
        }
    }
}
