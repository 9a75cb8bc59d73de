//! Faults that a review of the feeds, the shards and the listeners found before the first release, kept out for good.
//!
//! - `large_events_are_resumed_whole`, `a_burst_of_large_events_ends_no_reader_that_reads`: one piece of a resume was bounded
//!   by the client's queue, so an event larger than that ended the stream each time it was resumed.
//! - `*_is_never_spliced_into_a_catch_up`: a catch-up went on by sequence, or by epoch and sequence, into the next log.
//! - `a_heartbeat_after_a_reset_is_of_the_new_life`: shards kept the head of the old life where the new one had the same sequence.
//! - `a_heartbeat_is_never_behind_what_was_told`: the id of a notice was ahead of what the shards knew, so that the next heartbeat
//!   took a client's cursor back behind it.
//! - `poison_deep_in_a_replay_*`: a whole pull was lost with the connection, and the messages before the poison were read one
//!   by one, each by a connection of its own.
//! - `a_late_barrier_*`: a barrier that timed out was never tried again, and no gap was told.
//! - `a_client_may_move_to_a_sidecar_that_is_cut_off`: its cursor was ahead of a feed that could not know better.
//! - `a_client_of_the_new_life_*`: a sidecar that did not know yet that its stream was another one took a client's new cursor
//!   for an old one, and served the life that was over once more.
//! - `a_purge_between_two_cuts_is_declared`: two losses at one place were taken for poison, and a purge was jumped over.
//! - `nothing_follows_bye`: a piece that was under way was written behind the last chunk.
//! - `idle_http_2_*`: an HTTP/2 connection without a stream counted as pending for as long as it liked.
//!
//! Their siblings are beside what they belong to: TLS in `tls.rs`, expiry in `identity.rs`, subjects in `refusals.rs`.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use support::proxy::Proxy;
use support::{
    App, Config, DEADLINE, Event, Nats, Sse, Version, Wire, eventually, get, h2, json, on_both_servers, seq_of,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// How long healing may take after NATS is back.
const HEAL: Duration = Duration::from_secs(20);
const LIVE: &str = "\n[[route]]\npath = \"/live\"\nsubjects = [\"live.{user}.>\"]\n";
const MINE: &str = "events.user.alice.note";

fn is_state(event: &Event) -> bool {
    matches!(event.name.as_str(), "sidestream.degraded" | "sidestream.ok")
}

/// Resumes over HTTP/1.1 and over HTTP/2: the first must be told as `resume`, then exactly these data must come.
async fn resumes(app: &App, cursor: &str, resume: &str, gap: Option<&str>, expected: &[String]) {
    let mut h1 = app.stream(get("/events").user("alice").header("Last-Event-ID", cursor)).await;
    assert_eq!(h1.resume(), resume);
    let mut request = h2::request("/events", "alice");
    request.headers_mut().insert("last-event-id", cursor.parse().expect("a header value"));
    let answer = h2::tcp(app.address()).await.send_request(request).await.expect("an answer");
    let mut h2 = h2::Events::of(answer.into_body());
    assert_eq!(json(&h2.next().await)["resume"], resume);
    if let Some(reason) = gap {
        for event in [h1.event().await, h2.next().await] {
            assert_eq!((event.name.as_str(), &json(&event)["reason"]), ("sidestream.gap", &reason.into()));
        }
    }
    for data in expected {
        for (proto, event) in [("h1", h1.event().await), ("h2", h2.next().await)] {
            let (got, wanted) = (event.data.len(), data.len());
            assert!(event.data == *data, "{proto}: {} with {got} bytes instead of {wanted}", event.name);
        }
    }
}

const BULK: usize = 1500;

/// 8 kB each, numbered from here to [`BULK`].
fn bulk(life: &'static str, from: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    let data = move |n| format!("{life} {n} {}", "x".repeat(8000)).into_bytes();
    (from..BULK).map(move |n| ("events.broadcast.x".to_owned(), data(n)))
}

/// A client that resumes and does not read on.
async fn slow_reader(app: &App, cursor: &str) -> Sse {
    let request = get("/events").user("slow").header("Last-Event-ID", cursor);
    let mut slow = Sse::open(Wire::narrow(app.address()).await, &request).await;
    assert_eq!(slow.resume(), "exact");
    slow.forget_raw();
    slow
}

/// Reads until the last of the new events, so that the program has all of them.
async fn until_last(healthy: &mut Sse) {
    let last = format!("new {} ", BULK - 1);
    while !healthy.event_within(HEAL).await.data.starts_with(&last) {}
}

/// What was held of the old life, in order; the reset; the new life from the place that was told. The lives have the events
/// before `common` in common.
async fn reads_over_a_reset(slow: &mut Sse, common: usize) -> Event {
    let first = slow.connected.id.as_deref().map_or(0, seq_of);
    let mut expected = first;
    let gap = loop {
        let event = slow.event().await;
        match event.name.as_str() {
            "sidestream.gap" => break event,
            "message" => {
                assert!(event.data.starts_with(&format!("old {expected} ")), "{expected}: {:.20}", event.data);
                assert_eq!(epoch_of(&event), epoch_of(&slow.connected));
                expected += 1;
            }
            _ => assert!(is_state(&event), "{event:?}"),
        }
    };
    println!("{} of the old life", expected - first);
    assert!(expected < BULK as u64, "the client was not slow");
    assert_eq!(json(&gap)["reason"], "reset", "{gap:?}");
    let next = json(&gap)["next"].as_u64().expect("a sequence");
    for seq in next..=BULK as u64 {
        let event = slow.event().await;
        let life = if seq <= common as u64 { "old" } else { "new" };
        assert!(event.data.starts_with(&format!("{life} {} ", seq - 1)), "{} {:.20}", event.name, event.data);
        assert_eq!((epoch_of(&event), event.id.as_deref().map(seq_of)), (epoch_of(&gap), Some(seq)));
    }
    gap
}

fn epoch_of(event: &Event) -> Option<&str> {
    event.id.as_deref().and_then(|id| id.split('.').next())
}

on_both_servers! {
    async fn large_events_are_resumed_whole(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).server("h2c = true\n").tables("\n[history]\nbytes = \"2560KiB\"\n")).await;
        let first = app.events("alice").await.last_event_id().to_owned();

        // Larger than the queue of 128 KiB, alone and among others; the largest that NATS and we take.
        let mut sent = Vec::new();
        for bytes in [10, 200_000, 10, 1 << 20] {
            sent.push("x".repeat(bytes));
            publisher.publish(MINE, &sent[sent.len() - 1]).await;
            resumes(&app, &first, "exact", None, &sent).await;
        }
        // Behind a gap: the oldest have left the history, and what comes next is large again.
        for letter in ["y", "z"] {
            publisher.publish(MINE, letter.repeat(1 << 20)).await;
        }
        app.metric_is("sidestream_stream_head", &[], 6.0, DEADLINE).await;
        let held = ["y", "z"].map(|letter| letter.repeat(1 << 20));
        let all: Vec<String> = sent.iter().chain(&held).cloned().collect();
        resumes(&app, &first, "exact", None, &all).await;
        publisher.purge_keeping("EVENTS", 2).await;
        // A pass over the past is kept for a while, with what has gone from the stream since.
        app.metric_is("sidestream_replay_passes", &[], 0.0, DEADLINE).await;
        resumes(&app, &first, "gap", Some("purged"), &held).await;
        assert!(app.metric("sidestream_connections_closed_total", &[("reason", "slow")]).await < 0.5, "evicted");
    }

    async fn a_burst_of_large_events_ends_no_reader_that_reads(version: Version) {
        const COUNT: usize = 40;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        alice.forget_raw();
        let numbered = |n: usize| format!("{n:03}{}", "x".repeat(100_000));
        let reading = async {
            for n in 0..COUNT {
                assert!(alice.event().await.data == numbered(n), "event {n}");
            }
        };
        let burst = (0..COUNT).map(|n| (MINE.to_owned(), numbered(n).into_bytes()));
        tokio::join!(reading, publisher.publish_all(burst));
        assert!(app.metric("sidestream_connections_closed_total", &[]).await < 0.5, "a stream ended");
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }

    async fn a_reset_is_never_spliced_into_a_catch_up(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).limit("write_timeout", "\"60s\"")).await;
        let cursor = app.events("slow").await.last_event_id().to_owned();
        publisher.publish_all(bulk("old", 0)).await;
        let mut slow = slow_reader(&app, &cursor).await;
        let mut healthy = app.events("healthy").await;
        healthy.forget_raw();

        // The same sequences are given out again while the slow client is somewhere among the first.
        publisher.delete_stream("EVENTS").await;
        publisher.create_stream("EVENTS", &["events.>"]).await;
        publisher.publish_all(bulk("new", 0)).await;
        until_last(&mut healthy).await;
        let gap = reads_over_a_reset(&mut slow, 0).await;
        assert_ne!(epoch_of(&gap), epoch_of(&slow.connected));
    }

    async fn a_store_that_went_back_is_never_spliced_into_a_catch_up(version: Version) {
        const COMMON: usize = 100;
        let mut nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publisher.publish_all(bulk("old", 0).take(COMMON)).await;
        nats.kill();
        nats.save();
        nats.restart().await;
        let app = App::start(&Config::on(&nats).limit("write_timeout", "\"60s\"")).await;
        // A sidecar that reads its history first may be ready and still refuse softly.
        let first = eventually("the history is read", DEADLINE, async || {
            Sse::try_open(Wire::tcp(app.address()).await, &get("/events").user("slow")).await
        });
        let cursor = first.await.last_event_id().to_owned();
        nats.publisher().await.publish_all(bulk("old", COMMON)).await;
        let mut slow = slow_reader(&app, &cursor).await;
        let mut healthy = app.events("healthy").await;
        healthy.forget_raw();

        nats.kill();
        nats.go_back();
        nats.restart().await;
        nats.publisher().await.publish_all(bulk("new", COMMON)).await;
        until_last(&mut healthy).await;
        let gap = reads_over_a_reset(&mut slow, COMMON).await;
        assert_eq!(epoch_of(&gap), epoch_of(&slow.connected), "the store was to keep its creation time");
    }

    async fn a_heartbeat_after_a_reset_is_of_the_new_life(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).heartbeat("1s")).await;
        let mut alice = app.events("alice").await;
        // The new life gets exactly as far as the old one, with nothing for alice.
        let ten = |user: &str| (0..10).map(move |n| (format!("events.user.{user}.note"), format!("{n}").into_bytes())).collect::<Vec<_>>();
        publisher.publish_all(ten("alice")).await;
        alice.before("9").await;
        publisher.delete_stream("EVENTS").await;
        publisher.create_stream("EVENTS", &["events.>"]).await;
        publisher.publish_all(ten("bob")).await;
        let mut head = 10;
        let gap = alice.until_named("sidestream.gap", HEAL).await.pop().expect("at least the gap");
        assert_eq!(json(&gap)["reason"], "reset", "{gap:?}");

        for round in 0..2 {
            let heartbeat = loop {
                let event = alice.next().await;
                if event.name == "sidestream.heartbeat" {
                    break event;
                }
                assert!(is_state(&event), "{event:?}");
            };
            let id = heartbeat.id.expect("a cursor");
            assert!(seq_of(&id) <= head, "{id} is above the head {head}");
            let mut again = app.stream(get("/events").user("alice").header("Last-Event-ID", &id)).await;
            assert_eq!(again.resume(), "exact", "round {round}: {id}");
            let marker = format!("marker {round}");
            head = publisher.publish(MINE, &marker).await;
            again.nothing_before(&marker).await;
            assert!(alice.before(&marker).await.iter().all(is_state));
        }
    }

    async fn a_heartbeat_is_never_behind_what_was_told(version: Version) {
        let mut nats = Nats::start(version).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats).heartbeat("1s")).await;
        let mut alice = app.events("alice").await;
        for _ in 0..3 {
            // Nobody listens to these, so nothing tells the shards that the head has moved.
            let publisher = nats.publisher().await;
            publisher.publish_all((0..10).map(|n| ("events.user.nobody.note".to_owned(), vec![n]))).await;
            nats.kill();
            let degraded = alice.until_named("sidestream.degraded", DEADLINE).await.pop().expect("at least this one");
            let heartbeat = loop {
                let event = alice.next().await;
                if event.name == "sidestream.heartbeat" {
                    break event;
                }
            };
            let (told, beat) = (degraded.id.expect("a cursor"), heartbeat.id.expect("a cursor"));
            assert!(seq_of(&beat) >= seq_of(&told), "{beat} after {told}");
            nats.restart().await;
            alice.until_named("sidestream.ok", HEAL).await;
        }
    }

    async fn poison_deep_in_a_replay_delays_it_by_seconds_at_most(version: Version) {
        const POISON: usize = 240;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables("\n[history]\nbytes = \"64KiB\"\n")).await;
        let cursor = app.events("alice").await.last_event_id().to_owned();
        let numbered = |range: std::ops::Range<usize>| range.map(|n| (MINE.to_owned(), format!("{n} {}", "x".repeat(2000)).into_bytes()));
        publisher.publish_all(numbered(0..POISON)).await;
        nats.publish_raw(MINE.as_bytes(), b"X-Name: caf\xe9\r\n", format!("{POISON} ").as_bytes()).await;
        publisher.publish_all(numbered(POISON + 1..2 * POISON)).await;
        #[allow(clippy::cast_precision_loss, reason = "hundreds")]
        app.metric_is("sidestream_stream_head", &[], 2.0 * POISON as f64, DEADLINE).await;

        let started = Instant::now();
        let mut again = app.stream(get("/events").user("alice").header("Last-Event-ID", &cursor)).await;
        for n in 0..2 * POISON {
            let event = again.event().await;
            assert!(event.data.starts_with(&format!("{n} ")), "{n}: {} {:.20}", event.name, event.data);
        }
        println!("replayed in {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(10), "the replay took {:?}", started.elapsed());
    }

    async fn a_late_barrier_after_a_reconnect_still_ends_in_gap_and_ok(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = Proxy::to(nats.address()).await;
        let app = App::start(&Config::at(&format!("nats://{}", proxy.address)).tables(LIVE)).await;
        let mut alice = app.stream(get("/live").user("alice")).await;
        publisher.publish_core("live.alice.x", "before").await;
        alice.nothing_before("before").await;

        // Later than the barrier's time-out of 2 s.
        proxy.delay("_sidestream.barrier", Duration::from_secs(3));
        proxy.close();
        alice.until_named("sidestream.degraded", DEADLINE).await;
        publisher.publish_core("live.alice.x", "lost").await;
        proxy.open();
        eventually("the barrier is on its way", DEADLINE, async || proxy.has_delayed().then_some(())).await;
        publisher.publish_core("live.alice.x", "during").await;

        let events = alice.until_named("sidestream.gap", HEAL).await;
        assert_eq!(events.len(), 1, "something passed before the gap: {events:?}");
        assert_eq!(json(&events[0])["reason"], "upstream", "{events:?}");
        assert_eq!(alice.event().await.name, "sidestream.ok");
        publisher.publish_core("live.alice.x", "after").await;
        let between = alice.before("after").await;
        assert!(between.iter().all(|e| e.data == "during"), "{between:?}");
        assert_eq!(app.admin_get("/readyz").await.head.status, 200);
        let mut late = app.stream(get("/live").user("alice")).await;
        publisher.publish_core("live.alice.x", "both").await;
        late.nothing_before("both").await;
        alice.nothing_before("both").await;
        assert!((app.metric("sidestream_gaps_total", &[]).await - 1.0).abs() < 0.5, "one gap");
    }

    async fn a_late_barrier_at_the_start_does_not_keep_the_program_from_being_ready(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = Proxy::to(nats.address()).await;
        proxy.delay("_sidestream.barrier", Duration::from_secs(3));
        let app = App::bound(&Config::at(&format!("nats://{}", proxy.address)).tables(LIVE)).await;
        eventually("the barrier is on its way", DEADLINE, async || proxy.has_delayed().then_some(())).await;
        assert_eq!(app.admin_get("/readyz").await.head.status, 503);
        app.ready().await;
        let mut alice = app.stream(get("/live").user("alice")).await;
        publisher.publish_core("live.alice.x", "first").await;
        alice.nothing_before("first").await;
    }

    async fn a_client_may_move_to_a_sidecar_that_is_cut_off(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = Proxy::to(nats.address()).await;
        let ahead = App::start(&Config::on(&nats)).await;
        let behind = App::start(&Config::at(&format!("nats://{}", proxy.address))).await;
        let mut alice = ahead.events("alice").await;
        let mut witness = behind.events("witness").await;
        for heals_first in [false, true] {
            proxy.close();
            witness.until_named("sidestream.degraded", DEADLINE).await;
            let seen = format!("seen while away, {heals_first}");
            publisher.publish(MINE, &seen).await;
            alice.nothing_before(&seen).await;

            let request = get("/events").user("alice").header("Last-Event-ID", alice.last_event_id());
            let tasks = behind.metric("sidestream_tasks", &[]).await;
            let moving = async {
                let mut refused = 0;
                loop {
                    if let Some(moved) = Sse::try_open(Wire::tcp(behind.address()).await, &request).await {
                        return (moved, refused);
                    }
                    // Told to come back: NATS is there again when it does.
                    refused += 1;
                    proxy.open();
                }
            };
            let healing = async {
                if heals_first {
                    behind.metric_is("sidestream_tasks", &[], tasks + 1.0, DEADLINE).await;
                    proxy.open();
                }
            };
            let ((mut moved, refused), ()) = tokio::join!(moving, healing);
            println!("refused {refused} times");
            assert_eq!(moved.resume(), "exact", "{:?}", moved.connected);
            let after = format!("after, {heals_first}");
            publisher.publish(MINE, &after).await;
            let between = moved.before(&after).await;
            assert!(between.iter().all(is_state), "a gap or a double: {between:?}");
            alice.nothing_before(&after).await;
            witness.until_named("sidestream.ok", HEAL).await;
        }
        assert!(behind.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }

    async fn a_client_of_the_new_life_may_move_to_a_sidecar_in_the_old_one(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = Proxy::to(nats.address()).await;
        let ahead = App::start(&Config::on(&nats)).await;
        let behind = App::start(&Config::at(&format!("nats://{}", proxy.address))).await;
        let mut alice = ahead.events("alice").await;
        let mut witness = behind.events("alice").await;
        publisher.publish(MINE, "old").await;
        alice.nothing_before("old").await;
        witness.nothing_before("old").await;
        proxy.close();
        witness.until_named("sidestream.degraded", DEADLINE).await;
        publisher.delete_stream("EVENTS").await;
        publisher.create_stream("EVENTS", &["events.>"]).await;
        publisher.publish(MINE, "new").await;
        alice.until_named("sidestream.gap", HEAL).await;
        assert!(alice.before("new").await.iter().all(is_state));

        let request = get("/events").user("alice").header("Last-Event-ID", alice.last_event_id());
        let mut moved = loop {
            if let Some(moved) = Sse::try_open(Wire::tcp(behind.address()).await, &request).await {
                break moved;
            }
            // Told to come back: NATS is there again when it does.
            proxy.open();
        };
        assert_eq!(moved.resume(), "exact", "{:?}", moved.connected);
        publisher.publish(MINE, "after").await;
        let between = moved.before("after").await;
        assert!(between.iter().all(is_state), "of a life that is over: {between:?}");
    }

    async fn a_purge_between_two_cuts_is_declared(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = Proxy::to(nats.address()).await;
        let app = App::start(&Config::at(&format!("nats://{}", proxy.address))).await;
        let feeds_opened = || app.log_json().iter().filter(|l| l["message"] == "Feed open").count();
        let mut alice = app.events("alice").await;
        publisher.publish(MINE, "event 1").await;
        alice.nothing_before("event 1").await;

        let before = feeds_opened();
        proxy.cut();
        eventually("the feed is open again", HEAL, async || (feeds_opened() > before).then_some(())).await;
        // Lost again at the same place, after a short session: as if the next message were poison.
        proxy.close();
        for n in 2..=11 {
            publisher.publish(MINE, format!("event {n}")).await;
        }
        publisher.purge_keeping("EVENTS", 1).await;
        proxy.open();
        let mut events = alice.before("event 11").await;
        events.retain(|event| !is_state(event));
        assert_eq!(events.len(), 1, "one gap instead of events 2 to 10: {events:?}");
        let gap = json(&events[0]);
        assert!(matches!(gap["reason"].as_str(), Some("retention" | "purged")), "{gap}");
        assert_eq!((&gap["after"], &gap["next"]), (&1.into(), &11.into()), "{gap}");
        publisher.publish(MINE, "event 12").await;
        let between = alice.before("event 12").await;
        assert!(between.iter().all(is_state), "{between:?}");
    }
}

/// What the last bytes of a stream show.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Ending {
    /// `bye`, the last chunk, nothing.
    Whole,
    /// No last chunk: the drain ended while the client still read.
    Cut,
}

#[tokio::test]
async fn nothing_follows_bye() {
    support::bounded(async {
        const CLIENTS: usize = 120;
        const EVENTS: usize = 6000;
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let mut app = App::start(&Config::on(&nats)).await;
        let cursor = app.events("alice").await.last_event_id().to_owned();
        let bulk =
            (0..EVENTS).map(|n| ("events.broadcast.x".to_owned(), format!("{n} {}", "x".repeat(4000)).into_bytes()));
        publisher.publish_all(bulk).await;

        let catching_up = Arc::new(AtomicUsize::new(0));
        let clients = (0..CLIENTS).map(|index| {
            let (address, catching_up) = (app.address().to_owned(), catching_up.clone());
            let request = get("/events").user(&format!("user{index}")).header("Last-Event-ID", &cursor).bytes();
            tokio::spawn(async move { tail_of(&address, &request, &catching_up).await })
        });
        let clients: Vec<_> = clients.collect();
        eventually("every client catches up", DEADLINE, async || {
            (catching_up.load(Ordering::SeqCst) == CLIENTS).then_some(())
        })
        .await;
        app.terminate();

        let (mut whole, mut behind) = (0, 0);
        for client in clients {
            let tail = client.await.expect("no panic");
            behind += usize::from(!tail.contains(&format!("data: {} ", EVENTS - 1)));
            if ending_of(&tail) == Ending::Whole {
                whole += 1;
            }
        }
        println!("{whole} ended in order, {behind} had not caught up");
        assert!(behind > 0, "every client had caught up before the end: nothing was shown");
        assert!(whole > 0, "no stream ended in order");
        assert!(app.exit(Duration::from_secs(4)).await.success());
    })
    .await;
}

/// Reads a stream at full speed to the end of the connection and gives the last bytes. Counts itself when events flow.
async fn tail_of(address: &str, request: &[u8], flowing: &AtomicUsize) -> String {
    let mut stream = TcpStream::connect(address).await.expect("accepts");
    stream.write_all(request).await.expect("the server reads");
    let (mut part, mut tail, mut read) = (vec![0; 64 * 1024], Vec::new(), 0);
    while let Ok(n) = tokio::time::timeout(DEADLINE, stream.read(&mut part)).await.expect("the end in time") {
        if n == 0 {
            break;
        }
        if read < 100_000 && read + n >= 100_000 {
            flowing.fetch_add(1, Ordering::SeqCst);
        }
        read += n;
        tail.extend_from_slice(&part[..n]);
        if tail.len() > 1 << 20 {
            tail.drain(..1 << 19);
        }
    }
    String::from_utf8_lossy(&tail).into_owned()
}

fn ending_of(tail: &str) -> Ending {
    let Some((stream, rest)) = tail.split_once("\r\n0\r\n\r\n") else {
        return Ending::Cut;
    };
    assert_eq!(rest, "", "bytes behind the last chunk");
    let last = stream.trim_end().rsplit("\n\n").next().unwrap_or_default();
    assert!(last.contains("event: sidestream.bye\n"), "the last event is not bye: {last:.200}");
    Ending::Whole
}

/// An HTTP/2 connection with prior knowledge that has made one request for `/nothing` and got its 404.
async fn one_http_2_request(address: &str) -> TcpStream {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS, empty; then HEADERS of stream 1, its only frame: GET, http, `/nothing`, app.example.
    bytes.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let mut block = vec![0x82, 0x86, 0x04, 8];
    block.extend_from_slice(b"/nothing\x41\x0bapp.example");
    bytes.extend_from_slice(&[0, 0, u8::try_from(block.len()).expect("short"), 1, 5, 0, 0, 0, 1]);
    bytes.extend_from_slice(&block);
    let mut stream = TcpStream::connect(address).await.expect("accepts");
    stream.write_all(&bytes).await.expect("the server reads");
    let answered = async {
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await.expect("a frame");
            let mut payload = vec![0; usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])];
            stream.read_exact(&mut payload).await.expect("a whole frame");
            if (head[3], head[8]) == (1, 1) {
                // 8d is `:status: 404` in HPACK's static table.
                assert_eq!(payload.first(), Some(&0x8d), "{payload:?}");
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, answered).await.expect("an answer in time");
    stream
}

#[tokio::test]
async fn idle_http_2_connections_take_nobodys_place() {
    support::bounded(async {
        // More than two shards let wait; half of what one process may open here.
        const IDLE: usize = 8500;
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats).server("h2c = true\nheader_timeout = \"120s\"\n")).await;
        let mut idle = Vec::with_capacity(IDLE);
        while idle.len() < IDLE {
            idle.extend(join_all((0..100).map(|_| one_http_2_request(app.address()))).await);
        }
        for _ in 0..16 {
            let started = Instant::now();
            assert_eq!(app.ask(get("/nothing").user("alice")).await.head.status, 404);
            assert!(started.elapsed() < Duration::from_secs(2), "answered after {:?}", started.elapsed());
        }
        app.events("alice").await;
        // All of them were there all the time.
        let tasks = app.metric("sidestream_tasks", &[]).await;
        #[allow(clippy::cast_precision_loss, reason = "thousands")]
        let wanted = IDLE as f64;
        assert!(tasks >= wanted, "only {tasks} connections are left");
    })
    .await;
}

#[tokio::test]
async fn idle_http_2_connections_are_closed_and_streams_are_not() {
    support::bounded(async {
        let header_timeout = Duration::from_secs(2);
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).server("h2c = true\nheader_timeout = \"2s\"\n")).await;
        let mut sender = h2::tcp(app.address()).await;
        let answer = sender.send_request(h2::request("/events", "alice")).await.expect("an answer");
        let mut alice = h2::Events::of(answer.into_body());
        assert_eq!(alice.next().await.name, "sidestream.connected");
        let started = Instant::now();
        let idle = join_all((0..50).map(|_| one_http_2_request(app.address()))).await;
        join_all(idle.into_iter().map(async |mut stream| {
            let mut rest = Vec::new();
            let end = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
            assert!(end.is_ok(), "still open {:?} after the request", started.elapsed());
        }))
        .await;
        assert!(started.elapsed() < 4 * header_timeout, "closed after {:?}", started.elapsed());
        publisher.publish(MINE, "still here").await;
        assert_eq!(alice.next().await.data, "still here");
    })
    .await;
}
