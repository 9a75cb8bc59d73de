//! Older than memory: what a client missed is read from the stream once for everybody, exactly, or declared missing.

mod support;

use std::time::Duration;

use futures_util::StreamExt;
use support::proxy::Proxy;
use support::{App, Config, DEADLINE, Nats, Sse, Version, Wire, get, on_both_servers};

/// So small that nearly everything must be read from NATS.
const SMALL_HISTORY: &str = "\n[history]\nbytes = \"64KiB\"\n";
const LONG: Duration = Duration::from_secs(60);

fn numbered(range: std::ops::Range<usize>) -> impl Iterator<Item = (String, Vec<u8>)> {
    range.map(|n| {
        let subject = ["events.user.alice.x", "events.user.bob.x", "events.broadcast.x"][n % 3];
        (subject.to_owned(), format!("{n} {}", "z".repeat(n * 31 % 400)).into_bytes())
    })
}

/// What alice hears of them.
fn for_alice(range: std::ops::Range<usize>) -> impl Iterator<Item = usize> {
    range.filter(|n| n % 3 != 1)
}

fn number(data: &str) -> usize {
    data.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("not numbered: {data:.60}"))
}

async fn resume(app: &App, user: &str, id: &str) -> Sse {
    let mut sse =
        Sse::open(Wire::tcp(app.address()).await, &get("/events").user(user).header("Last-Event-ID", id)).await;
    sse.forget_raw();
    sse
}

on_both_servers! {
    async fn a_client_far_behind_gets_everything_exactly(version: Version) {
        const COUNT: usize = 12_000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY)).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..COUNT)).await;
        let mut alice = resume(&app, "alice", &start).await;
        assert_eq!(alice.resume(), "exact");
        for n in for_alice(0..COUNT) {
            assert_eq!(number(&alice.event_within(LONG).await.data), n);
        }
        publisher.publish("events.user.alice.x", "live").await;
        assert_eq!(alice.event().await.data, "live");
        assert!(app.metric("sidestream_replayed_events_total", &[]).await > 1000.0, "it was all in memory");
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }

    async fn replay_and_live_meet_without_a_seam(version: Version) {
        const OLD: usize = 6000;
        const ALL: usize = 12_000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY)).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..OLD)).await;
        let mut alice = resume(&app, "alice", &start).await;
        let publish = publisher.publish_all(numbered(OLD..ALL));
        let read = async {
            for n in for_alice(0..ALL) {
                assert_eq!(number(&alice.event_within(LONG).await.data), n);
            }
        };
        tokio::join!(publish, read);
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }

    async fn who_waits_for_the_past_hears_heartbeats_meanwhile(version: Version) {
        const COUNT: usize = 60_000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY).heartbeat("1s")).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        // More than is read ahead of her.
        publisher.publish_all((0..COUNT).map(|n| ("events.broadcast.x".to_owned(), format!("{n} {:x>1000}", "").into()))).await;
        let mut alice = resume(&app, "alice", &start).await;
        assert_eq!(number(&alice.event().await.data), 0);
        nats.pause();
        let mut heard = 1;
        let heartbeat = loop {
            let event = alice.next_within(Duration::from_secs(4)).await;
            match event.name.as_str() {
                "sidestream.heartbeat" => break event,
                "x" | "message" => {
                    assert_eq!(number(&event.data), heard);
                    heard += 1;
                }
                _ => panic!("{event:?}"),
            }
        };
        assert!(heard < COUNT, "nothing was left to wait for");
        assert_eq!(heartbeat.id, None, "she is not at the head");
        nats.resume();
        for n in heard..COUNT {
            assert_eq!(number(&alice.event_within(LONG).await.data), n);
        }
    }

    async fn readers_of_passes_that_have_ended_do_not_wait_for_nats(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = Proxy::to(nats.address()).await;
        let app = App::start(&Config::at(&format!("nats://{}", proxy.address)).tables(SMALL_HISTORY)).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..3000)).await;
        let mut witness = app.events("bob").await;
        let mut created =
            nats.client().await.subscribe("$JS.EVENT.ADVISORY.CONSUMER.CREATED.>").await.expect("subscribed");
        proxy.close();
        witness.until_named("sidestream.degraded", LONG).await;
        for _ in 0..3 {
            // She waits for a second until there might be a consumer, gives up, and the pass is kept for two more.
            let mut wire = Wire::tcp(app.address()).await;
            wire.send(&get("/events").user("alice").header("Last-Event-ID", &start).bytes()).await;
            app.metric_is("sidestream_replay_passes", &[], 1.0, DEADLINE).await;
            drop(wire);
            app.metric_is("sidestream_replay_passes", &[], 0.0, LONG).await;
        }
        proxy.open();
        witness.until_named("sidestream.ok", LONG).await;
        publisher.publish("events.user.bob.x", "live").await;
        while witness.event().await.data != "live" {}
        // One for the feed; a pass would have made its own within a second.
        let mut count = 0;
        while let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(2), created.next()).await {
            count += 1;
        }
        assert!(count <= 2, "{count} consumers for one feed, and nobody who wants the past");
    }

    async fn a_message_larger_than_a_pass_stops_nobodys_replay(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        // A megabyte of line ends is a frame of seven, in each of seven formats.
        let mut tables = SMALL_HISTORY.to_owned();
        for n in 1..=6 {
            tables += &format!(
                "\n[[route]]\npath = \"/r{n}\"\nstream = \"EVENTS\"\nsubjects = [\"events.user.{{user}}.>\"]\nevent = \"n{n}\"\n"
            );
        }
        let app = App::start(&Config::on(&nats).tables(&tables)).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        let mut carol = app.events("carol").await;
        publisher.publish("events.user.bob.x", vec![b'\n'; 1_048_500]).await;
        publisher.publish_all((0..1000).map(|n| ("events.user.alice.x".to_owned(), format!("{n} {:x>200}", "").into()))).await;
        publisher.publish("events.broadcast.x", "end").await;
        while carol.event_within(LONG).await.data != "end" {}
        let mut alice = resume(&app, "alice", &start).await;
        for n in 0..1000 {
            assert_eq!(number(&alice.event_within(LONG).await.data), n);
        }
    }

    async fn a_restarted_sidecar_serves_cursors_from_before(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let config = Config::on(&nats).tables(SMALL_HISTORY);
        let start = {
            let app = App::start(&config).await;
            app.events("alice").await.last_event_id().to_owned()
        };
        publisher.publish_all(numbered(0..3000)).await;
        let app = App::start(&config).await;
        let mut alice = resume(&app, "alice", &start).await;
        assert_eq!(alice.resume(), "exact");
        for n in for_alice(0..3000) {
            assert_eq!(number(&alice.event_within(LONG).await.data), n);
        }
    }

    async fn a_storm_costs_about_one_read_of_the_range(version: Version) {
        const CLIENTS: usize = 300;
        const COUNT: usize = 4000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY).limit("replays", "1000")).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..COUNT)).await;
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let request = get("/events").user("alice").header("Last-Event-ID", &start);
            let address = app.address().to_owned();
            clients.spawn(async move {
                let mut sse = Sse::open(Wire::tcp(&address).await, &request).await;
                sse.forget_raw();
                for n in for_alice(0..COUNT) {
                    assert_eq!(number(&sse.event_within(LONG).await.data), n);
                }
            });
        }
        while !clients.is_empty() {
            // Never a consumer per client: the feed's, and one for each pass.
            assert!(publisher.consumers("EVENTS").await.len() <= 4);
            if let Ok(Some(ended)) = tokio::time::timeout(Duration::from_millis(50), clients.join_next()).await {
                ended.expect("every client gets everything");
            }
        }
    }

    async fn more_clients_than_may_replay_at_once_take_turns(version: Version) {
        const CLIENTS: usize = 40;
        const COUNT: usize = 3000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY).limit("replays", "4")).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..COUNT)).await;
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..CLIENTS {
            let request = get("/events").user("alice").header("Last-Event-ID", &start);
            let address = app.address().to_owned();
            clients.spawn(async move {
                // Who waits too long for a turn is refused softly and comes back.
                let mut sse = loop {
                    if let Some(sse) = Sse::try_open(Wire::tcp(&address).await, &request).await {
                        break sse;
                    }
                };
                sse.forget_raw();
                for n in for_alice(0..COUNT) {
                    assert_eq!(number(&sse.event_within(LONG).await.data), n);
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.expect("every client gets everything");
        }
    }

    async fn a_finished_replay_gives_its_place_back(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY).limit("replays", "2")).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..2000)).await;
        // Twice as many as may replay at once, one after the other, and all of them stay.
        let mut stay = Vec::new();
        for _ in 0..5 {
            let mut alice = resume(&app, "alice", &start).await;
            for n in for_alice(0..2000) {
                assert_eq!(number(&alice.event_within(LONG).await.data), n);
            }
            stay.push(alice);
        }
    }

    async fn what_went_at_the_tail_during_an_outage_is_declared(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = support::proxy::Proxy::to(nats.address()).await;
        let app = App::start(&Config::at(&format!("nats://{}", proxy.address))).await;
        let mut alice = app.events("alice").await;
        publisher.publish("events.user.alice.x", "before").await;
        assert_eq!(alice.event().await.data, "before");
        proxy.close();
        alice.until_named("sidestream.degraded", DEADLINE).await;
        let lost = publisher.publish("events.user.alice.x", "lost").await;
        publisher.delete_message("EVENTS", lost).await;
        proxy.open();
        let told = alice.until_named("sidestream.gap", LONG).await;
        let gap = support::json(told.last().expect("the gap itself"));
        assert_eq!((&gap["reason"], &gap["after"], &gap["next"]), (&"purged".into(), &1.into(), &3.into()), "{gap}");
        publisher.publish("events.user.alice.x", "after").await;
        alice.before("after").await;
    }

    async fn stalled_readers_hold_nobodys_replay_up(version: Version) {
        const COUNT: usize = 9000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let config = Config::on(&nats).tables(SMALL_HISTORY).limit("queue_bytes", "\"16KiB\"");
        let app = App::start(&config).await;
        let mut alice = app.events("alice").await;
        let start = alice.last_event_id().to_owned();
        let mut cursors = Vec::new();
        for part in 0..3 {
            publisher.publish_all(numbered(part * 3000..(part + 1) * 3000)).await;
            for n in for_alice(part * 3000..(part + 1) * 3000) {
                assert_eq!(number(&alice.event_within(LONG).await.data), n);
            }
            cursors.push(alice.last_event_id().to_owned());
        }
        // Each in a pass of its own, the youngest first, and none reads on.
        let mut stalled = Vec::new();
        for cursor in cursors[..2].iter().rev() {
            let request = get("/events").user("alice").header("Last-Event-ID", cursor);
            stalled.push(Sse::open(Wire::narrow(app.address()).await, &request).await);
        }
        let request = get("/events").user("alice").header("Last-Event-ID", &start);
        let mut late = loop {
            if let Some(sse) = Sse::try_open(Wire::tcp(app.address()).await, &request).await {
                break sse;
            }
        };
        late.forget_raw();
        for n in for_alice(0..COUNT) {
            assert_eq!(number(&late.event_within(LONG).await.data), n);
        }
    }

    async fn what_the_stream_has_dropped_is_declared(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY)).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..3000)).await;
        publisher.purge_keeping("EVENTS", 1500).await;
        let mut alice = resume(&app, "alice", &start).await;
        assert_eq!(alice.resume(), "gap");
        let gap = alice.event_within(LONG).await;
        assert_eq!(gap.name, "sidestream.gap");
        let told = support::json(&gap);
        assert_eq!((&told["reason"], &told["next"]), (&"purged".into(), &1501.into()), "{told}");
        for n in for_alice(1500..3000) {
            assert_eq!(number(&alice.event_within(LONG).await.data), n);
        }
    }

    async fn a_replay_beyond_its_limit_is_declared_and_goes_on_live(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY).limit("replay_events", "500")).await;
        let start = app.events("alice").await.last_event_id().to_owned();
        publisher.publish_all(numbered(0..6000)).await;
        let mut alice = resume(&app, "alice", &start).await;
        let mut expected = for_alice(0..6000);
        let gap = loop {
            let event = alice.event_within(LONG).await;
            if event.name == "sidestream.gap" {
                break event;
            }
            assert_eq!(Some(number(&event.data)), expected.next());
        };
        let told = support::json(&gap);
        assert_eq!((&told["reason"], &told["next"]), (&"replay_limit".into(), &6001.into()), "{told}");
        publisher.publish("events.user.alice.x", "live").await;
        assert_eq!(alice.event().await.data, "live");
    }

    async fn a_rolled_back_store_is_a_reset(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY)).await;
        let mut alice = app.events("alice").await;
        publisher.publish_all(numbered(0..1)).await;
        let id = alice.event().await.id.expect("a cursor");
        publisher.publish_all(numbered(1..3000)).await;
        // The same sequence with another message's time: what a restored store looks like.
        let (front, time) = id.rsplit_once('.').expect("three parts");
        let last = if time.ends_with('z') { 'y' } else { 'z' };
        let other = format!("{front}.{}{last}", &time[..time.len() - 1]);
        let mut moved = resume(&app, "alice", &other).await;
        assert_eq!(moved.resume(), "gap");
        assert_eq!(support::json(&moved.event_within(DEADLINE).await)["reason"], "reset");
    }

    async fn what_went_from_under_a_client_that_catches_up_is_declared_behind_what_is_held(version: Version) {
        const BULK: usize = 1500;
        let bulk = |range: std::ops::Range<usize>| {
            range.map(|n| ("events.broadcast.x".to_owned(), format!("{n} {}", "x".repeat(8000)).into_bytes()))
        };
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let proxy = support::proxy::Proxy::to(nats.address()).await;
        let config = Config::at(&format!("nats://{}", proxy.address)).limit("write_timeout", "\"60s\"");
        let app = App::start(&config).await;
        let mut witness = app.events("witness").await;
        witness.forget_raw();
        let start = witness.last_event_id().to_owned();
        publisher.publish_all(bulk(0..BULK)).await;
        while number(&witness.event_within(LONG).await.data) < BULK - 1 {}
        let request = get("/events").user("slow").header("Last-Event-ID", &start);
        let mut slow = Sse::open(Wire::narrow(app.address()).await, &request).await;
        slow.forget_raw();

        // While the sidecar is cut off, the stream loses what it has read, and more.
        proxy.close();
        witness.until_named("sidestream.degraded", DEADLINE).await;
        publisher.publish_all(bulk(BULK..BULK + 20)).await;
        publisher.purge_keeping("EVENTS", 10).await;
        proxy.open();
        let told = support::json(witness.until_named("sidestream.gap", LONG).await.last().expect("the gap itself"));
        assert_eq!((&told["after"], &told["next"]), (&BULK.into(), &(BULK + 11).into()), "{told}");

        let mut has = 0;
        let told = loop {
            let event = slow.event_within(LONG).await;
            match event.name.as_str() {
                "sidestream.gap" => break support::json(&event),
                "message" => assert_eq!(number(&event.data), has),
                _ => continue,
            }
            has += 1;
        };
        // What the stream has lost, memory still held.
        assert_eq!(has, BULK);
        assert_eq!((&told["reason"], &told["after"]), (&"purged".into(), &BULK.into()), "{told}");
        assert_eq!(told["next"], BULK + 11, "{told}");
        for n in BULK + 10..BULK + 20 {
            let mut event = slow.event_within(LONG).await;
            while event.name != "message" {
                assert_ne!(event.name, "sidestream.gap", "{event:?}");
                event = slow.event_within(LONG).await;
            }
            assert_eq!(number(&event.data), n);
        }
    }
}
