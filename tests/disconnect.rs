//! 20 000 connections come and go, in every way a connection can end, and nothing of them stays.
//!
//! In waves, because one process here may hold 20 000 descriptors on each side and the machine is shared. Waiting is
//! polling the program's own gauges and `/proc`, under a deadline.

mod support;

use std::time::{Duration, Instant};

use support::{App, Config, Nats, Sse, Version, Wire, get, on_both_servers};
use tokio::net::TcpStream;

const WAVES: usize = 20;
const WAVE: usize = 1000;
/// Memory may end this far above the baseline: a tenth of it, or 8 MiB if that is more.
const SLACK_BYTES: u64 = 8 << 20;

const LIVE: &str = "\n[[route]]\npath = \"/live\"\nsubjects = [\"live.{user}.>\"]\n";

#[derive(Debug, Clone, Copy)]
enum Ending {
    /// The client closes in order.
    Fin,
    /// The client resets: `SO_LINGER` 0.
    Reset,
    /// The client has sent more bytes than its request, then closes.
    AfterPipelinedBytes,
    /// The client closes before it read a byte.
    BeforeTheAnswer,
}

impl Ending {
    const ALL: [Self; 4] = [Self::Fin, Self::Reset, Self::AfterPipelinedBytes, Self::BeforeTheAnswer];
}

async fn open(app: &App, path: &str, user: &str, ending: Ending) -> Option<Sse> {
    let stream = TcpStream::connect(app.address()).await.expect("accepts");
    if matches!(ending, Ending::Reset) {
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a fresh socket");
    }
    let mut bytes = get(path).user(user).bytes();
    if matches!(ending, Ending::AfterPipelinedBytes) {
        bytes.extend_from_slice(b"GET /events HTTP/1.1\r\nHost: x\r\n\r\nand more");
    }
    let mut wire = Wire::over(stream);
    wire.send(&bytes).await;
    if matches!(ending, Ending::BeforeTheAnswer) {
        return None;
    }
    let mut sse = Sse::opened(wire).await;
    sse.forget_raw();
    Some(sse)
}

/// Opens a wave, shows that it is open, drops it, shows that it is gone.
async fn wave(app: &App, ending: Ending) {
    let mut held = Vec::with_capacity(WAVE);
    for block in 0..WAVE / 100 {
        let opening = (0..100).map(|index| {
            // A few on core subjects: their NATS subscriptions must go too.
            let path = if index % 20 == 0 { "/live" } else { "/events" };
            let user = format!("user{}", block * 100 + index);
            async move { open(app, path, &user, ending).await }
        });
        held.extend(futures_util::future::join_all(opening).await.into_iter().flatten());
    }
    #[allow(clippy::cast_precision_loss, reason = "a thousand")]
    let count = held.len() as f64;
    if count > 0.0 {
        app.metric_is("sidestream_connections", &[], count, Duration::from_secs(20)).await;
    }
    drop(held);
    app.metric_is("sidestream_connections", &[], 0.0, Duration::from_secs(20)).await;
}

on_both_servers! {
    async fn twenty_thousand_connections_leave_nothing_behind(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(LIVE)).await;
        let tasks = app.metric("sidestream_tasks", &[]).await;
        let subscriptions = app.metric("sidestream_nats_subscriptions", &[]).await;
        // A warm-up, so that pools and allocator arenas belong to the baseline.
        for ending in Ending::ALL {
            wave(&app, ending).await;
        }
        let (resident, descriptors) = (app.resident(), app.descriptors());
        let consumers = publisher.consumers("EVENTS").await.len();
        println!("baseline: {tasks} tasks, {descriptors} fds, {subscriptions} NATS subscriptions, {resident} bytes");

        for index in 0..WAVES {
            let ending = Ending::ALL[index % Ending::ALL.len()];
            wave(&app, ending).await;
            assert!(publisher.consumers("EVENTS").await.len() <= consumers.max(1), "a JetStream consumer per client");
        }

        // Core subscriptions linger 30 s for whoever comes back.
        app.metric_is("sidestream_nats_subscriptions", &[], subscriptions, Duration::from_secs(60)).await;
        app.metric_is("sidestream_tasks", &[], tasks, Duration::from_secs(20)).await;
        let started = Instant::now();
        loop {
            let (now, open) = (app.resident(), app.descriptors());
            // The scrape's own connection may still be open on either side of the comparison.
            let back = now <= resident + SLACK_BYTES.max(resident / 10) && open <= descriptors + 1;
            if back {
                println!("after {} connections: {open} fds, {now} bytes", WAVES * WAVE);
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(30), "{now} bytes and {open} fds, not {resident} and {descriptors}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let metrics = app.metrics().await;
        let opened = metrics.sum("sidestream_connections_total", &[]);
        let closed = metrics.sum("sidestream_connections_closed_total", &[]);
        assert!((opened - closed).abs() < 0.5, "{opened} opened, {closed} closed");

        let mut alice = app.events("alice").await;
        publisher.publish("events.user.alice.note", "still here").await;
        assert_eq!(alice.event().await.data, "still here");
    }
}
