//! Resumes of a hundred thousand events while five thousand more arrive each second, and up to the limit of what one resume
//! may replay.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use support::{App, Config, Nats, Publisher, Sse, Version, Wire, eventually, get, json, on_both_servers, seq_of};
use tokio::time::MissedTickBehavior;

/// So small that nearly everything must be read from NATS.
const SMALL_HISTORY: &str = "\n[history]\nbytes = \"64KiB\"\n";
const LONG: Duration = Duration::from_secs(60);
const SUBJECT: &str = "events.user.alice.x";
const END: &str = "the end";
/// The default of `limits.replay_events`.
const LIMIT: usize = 100_000;

fn numbered(range: std::ops::Range<usize>) -> impl Iterator<Item = (String, Vec<u8>)> {
    range.map(|n| (SUBJECT.to_owned(), n.to_string().into_bytes()))
}

async fn resume(app: &App, id: &str) -> Sse {
    let request = get("/events").user("alice").header("Last-Event-ID", id);
    // Who waits too long, on a busy machine, is refused softly and comes back.
    let opening =
        eventually("the stream opens", LONG, async || Sse::try_open(Wire::tcp(app.address()).await, &request).await);
    let mut sse = opening.await;
    sse.forget_raw();
    sse
}

/// A client reads number after number; says when it has `old` of them; ends with the end marker. Gives how many there were.
async fn reads_all(mut sse: Sse, old: usize, caught_up: Arc<AtomicUsize>) -> usize {
    assert_eq!(sse.resume(), "exact");
    let mut expected = 0;
    loop {
        let event = sse.event_within(LONG).await;
        if event.data == END {
            return expected;
        }
        assert_eq!(event.data.parse(), Ok(expected), "lost, doubled, out of order, or {}", event.name);
        // Nothing but these is in the stream.
        assert_eq!(event.id.as_deref().map(seq_of), Some(expected as u64 + 1));
        expected += 1;
        if expected == old {
            caught_up.fetch_add(1, Ordering::SeqCst);
        }
    }
}

/// Publishes 5000 numbers a second until so many clients have caught up; then the end marker. Gives how many there are.
async fn publishes(publisher: &Publisher, from: usize, caught_up: &AtomicUsize, clients: usize) -> usize {
    const EACH: usize = 100;
    let mut next = from;
    let mut pace = tokio::time::interval(Duration::from_millis(20));
    pace.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while caught_up.load(Ordering::SeqCst) < clients {
        pace.tick().await;
        publisher.publish_all(numbered(next..next + EACH)).await;
        next += EACH;
    }
    publisher.publish("events.broadcast.end", END).await;
    next
}

on_both_servers! {
    async fn a_hundred_thousand_events_while_five_thousand_a_second_arrive(version: Version) {
        const OLD: usize = 100_000;
        const CLIENTS: usize = 4;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let config = Config::on(&nats).tables(SMALL_HISTORY).limit("replay_events", "10000000");
        let app = App::start(&config).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..OLD)).await;
        app.metric_is("sidestream_stream_head", &[], OLD as f64, LONG).await;

        // One alone; the others when it has what was old at the beginning.
        let caught_up = Arc::new(AtomicUsize::new(0));
        let resuming = async {
            let mut reading = tokio::task::JoinSet::new();
            reading.spawn(reads_all(resume(&app, &start).await, OLD, caught_up.clone()));
            eventually("the first has what was old", LONG, async || {
                (caught_up.load(Ordering::SeqCst) > 0).then_some(())
            })
            .await;
            for _ in 1..CLIENTS {
                reading.spawn(reads_all(resume(&app, &start).await, OLD, caught_up.clone()));
            }
            let mut counts = Vec::new();
            while let Some(count) = reading.join_next().await {
                counts.push(count.expect("a client reads everything"));
            }
            counts
        };
        let (published, counts) = tokio::join!(publishes(&publisher, OLD, &caught_up, CLIENTS), resuming);
        assert_eq!(counts, [published; CLIENTS]);
        println!("{published} events, {} of them while clients replayed", published - OLD);
        let replayed = app.metric("sidestream_replayed_events_total", &[]).await;
        assert!(replayed >= (CLIENTS * OLD) as f64 * 0.99, "{replayed}: it was in memory");
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }

    async fn beyond_the_default_limit_the_rest_is_declared(version: Version) {
        const EVENTS: usize = LIMIT + 1500;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY)).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..EVENTS)).await;
        app.metric_is("sidestream_stream_head", &[], EVENTS as f64, LONG).await;
        let mut alice = resume(&app, &start).await;
        for n in 0..LIMIT {
            assert_eq!(alice.event_within(LONG).await.data.parse(), Ok(n));
        }
        let gap = alice.event().await;
        assert_eq!(gap.name, "sidestream.gap");
        let told = json(&gap);
        assert_eq!((&told["reason"], &told["stream"]), (&"replay_limit".into(), &"EVENTS".into()), "{told}");
        assert_eq!((&told["after"], &told["next"]), (&LIMIT.into(), &(EVENTS + 1).into()), "{told}");
        publisher.publish(SUBJECT, "live").await;
        alice.nothing_before("live").await;
        // From the gap's own id nothing is missing any more.
        let mut again = resume(&app, &gap.id.expect("a cursor")).await;
        assert_eq!(again.resume(), "exact");
        again.nothing_before("live").await;
    }

    async fn exactly_the_limit_is_no_gap(version: Version) {
        const FEW: usize = 500;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY).limit("replay_events", &FEW.to_string())).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..FEW)).await;
        // Far more than a pull, a piece, or memory, and none of it hers.
        let others = (0..5000).map(|n| ("events.user.bob.x".to_owned(), format!("{n} {}", "z".repeat(400)).into_bytes()));
        publisher.publish_all(others).await;
        let mut alice = resume(&app, &start).await;
        publisher.publish(SUBJECT, "live").await;
        let read = alice.before("live").await;
        assert!(read.iter().enumerate().all(|(n, event)| event.data.parse() == Ok(n)), "{:?}", read.last());
        assert_eq!(read.len(), FEW);
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }
}
