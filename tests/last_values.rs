//! Routes with `last_value`: a stream begins with the last message of each subject of the grant, then `sidestream.synced`, then
//! goes on without a seam; reads of NATS are shared; what cannot be sent is declared.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use support::{
    App, Config, DEADLINE, Event, Nats, Publisher, Sse, Version, Wire, eventually, get, json, on_both_servers, seq_of,
};

fn config(nats: &Nats) -> Config {
    // The route is the last table of these.
    Config::on(nats).tables("last_value = true\nselect = true\n")
}

/// What came before `sidestream.synced`, and that.
async fn values(sse: &mut Sse) -> (Vec<Event>, Event) {
    let mut before = sse.until_named("sidestream.synced", DEADLINE).await;
    let synced = before.pop().expect("the event itself");
    (before, synced)
}

fn data(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.data.as_str()).collect()
}

async fn resume(app: &App, user: &str, id: &str) -> Sse {
    app.stream(get("/events").user(user).header("Last-Event-ID", id)).await
}

/// A few updates of each of alice's and bob's values, and of everybody's.
async fn publish_some(publisher: &Publisher) {
    for round in 0..3 {
        for user in ["alice", "bob"] {
            for what in ["cart", "mail"] {
                publisher.publish(&format!("events.user.{user}.{what}"), format!("{user} {what} {round}")).await;
            }
        }
        publisher.publish("events.broadcast.news", format!("news {round}")).await;
    }
}

on_both_servers! {
    async fn a_stream_begins_with_the_last_value_of_each_subject(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publish_some(&publisher).await;
        let app = App::start(&config(&nats)).await;
        let mut alice = app.events("alice").await;
        assert_eq!((alice.resume().as_str(), seq_of(alice.last_event_id())), ("new", 0), "nothing has been sent yet");
        let (before, synced) = values(&mut alice).await;
        assert_eq!(data(&before), ["alice cart 2", "alice mail 2", "news 2"]);
        assert!(before.iter().all(|event| event.id.is_some()) && before.is_sorted_by_key(|event| seq_of(event.id.as_deref().expect("an id"))));
        assert_eq!((synced.data.as_str(), seq_of(synced.id.as_deref().expect("an id"))), ("{}", 15));
        publisher.publish("events.user.bob.cart", "not hers").await;
        publisher.publish("events.user.alice.cart", "live").await;
        assert_eq!(alice.event().await.data, "live");
        // A page that is opened later sees that value too, and no older one.
        let (before, _) = values(&mut app.events("alice").await).await;
        assert_eq!(data(&before), ["alice mail 2", "news 2", "live"]);
        let (before, _) = values(&mut app.events("carol").await).await;
        assert_eq!(data(&before), ["news 2"]);
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }

    async fn who_comes_back_gets_what_it_missed_and_no_values(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publish_some(&publisher).await;
        let app = App::start(&config(&nats)).await;
        let mut alice = app.events("alice").await;
        let (_, synced) = values(&mut alice).await;
        let id = synced.id.expect("an id");
        publisher.publish("events.user.alice.cart", "missed 1").await;
        publisher.publish("events.user.alice.cart", "missed 2").await;
        // The sidecar has them when she has.
        assert_eq!([alice.event().await.data, alice.event().await.data], ["missed 1", "missed 2"]);
        let mut again = resume(&app, "alice", &id).await;
        assert_eq!(again.resume(), "exact");
        let (before, synced) = values(&mut again).await;
        assert_eq!(data(&before), ["missed 1", "missed 2"], "all of it, not the last values");
        assert_eq!(seq_of(synced.id.as_deref().expect("an id")), 17);
        // In the middle of the values: everything behind that is still to come.
        let mut middle = resume(&app, "alice", before[0].id.as_deref().expect("an id")).await;
        assert_eq!(data(&values(&mut middle).await.0), ["missed 2"]);
        // Before the first of them: it has nothing yet.
        let connected = app.events("alice").await.last_event_id().to_owned();
        let mut nothing = resume(&app, "alice", &connected).await;
        assert_eq!(nothing.resume(), "new");
        assert_eq!(data(&values(&mut nothing).await.0), ["alice mail 2", "news 2", "missed 2"]);
    }

    async fn behind_a_gap_come_the_values(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publish_some(&publisher).await;
        let app = App::start(&config(&nats)).await;
        let mut alice = resume(&app, "alice", "not-ours").await;
        assert_eq!(alice.resume(), "gap");
        let gap = alice.next().await;
        assert_eq!((gap.name.as_str(), json(&gap)["reason"].as_str()), ("sidestream.gap", Some("cursor_unknown")));
        let (before, _) = values(&mut alice).await;
        assert_eq!(data(&before), ["alice cart 2", "alice mail 2", "news 2"]);
        // Who leaves directly behind the gap begins again.
        let mut again = resume(&app, "alice", gap.id.as_deref().expect("an id")).await;
        assert_eq!((again.resume().as_str(), values(&mut again).await.0.len()), ("new", 3));
    }

    async fn a_stream_without_messages_is_synced_at_once(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&config(&nats)).await;
        let mut alice = app.events("alice").await;
        let (before, _) = values(&mut alice).await;
        assert!(before.is_empty(), "{before:?}");
        publisher.publish("events.user.alice.x", "first").await;
        assert_eq!(alice.event().await.data, "first");
    }

    async fn a_selection_narrows_the_values(version: Version) {
        let nats = Nats::start(version).await;
        publish_some(&nats.events().await).await;
        let app = App::start(&config(&nats)).await;
        let mut cart = app.stream(get("/events?subject=events.user.alice.cart").user("alice")).await;
        assert_eq!(data(&values(&mut cart).await.0), ["alice cart 2"]);
        app.ask(get("/events?subject=events.user.bob.cart").user("alice")).await.is_refusal(403, "subject_denied");
    }

    async fn many_values_come_in_pieces_to_a_slow_reader_while_others_are_published(version: Version) {
        const SUBJECTS: usize = 1500;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let message = |n: usize, round: usize| (format!("events.user.alice.{n}"), format!("{n} {round} {}", "v".repeat(300)).into_bytes());
        publisher.publish_all((0..2).flat_map(|round| (0..SUBJECTS).map(move |n| message(n, round)))).await;
        let app = App::start(&config(&nats).tables("\n[history]\nbytes = \"64KiB\"\n").limit("queue_bytes", "\"16KiB\"")).await;
        let mut alice = Sse::open(Wire::narrow(app.address()).await, &get("/events").user("alice")).await;
        let update = publisher.publish_all((0..SUBJECTS / 2).map(|n| message(n, 2)));
        let read = async {
            let mut last: BTreeMap<usize, usize> = BTreeMap::new();
            let (mut seq, mut synced) = (0, false);
            while last.len() < SUBJECTS || last.iter().any(|(n, round)| *round != if *n < SUBJECTS / 2 { 2 } else { 1 }) || !synced {
                let event = alice.next_within(DEADLINE).await;
                synced |= event.name == "sidestream.synced";
                let at = seq_of(event.id.as_deref().expect("an id"));
                assert!(at >= seq, "out of order: {event:?}");
                seq = at;
                if event.name == "message" {
                    let mut words = event.data.split(' ').map_while(|word| word.parse::<usize>().ok());
                    let (Some(n), Some(round)) = (words.next(), words.next()) else { panic!("{event:?}") };
                    assert!(last.insert(n, round).is_none_or(|before| before < round), "an older value again: {n}");
                } else {
                    assert!(matches!(event.name.as_str(), "sidestream.synced" | "sidestream.heartbeat"), "{event:?}");
                }
            }
        };
        tokio::join!(update, read);
    }

    async fn all_who_come_together_share_one_read_of_each_pattern(version: Version) {
        const CLIENTS: usize = 300;
        let nats = Nats::start(version).await;
        publish_some(&nats.events().await).await;
        let app = App::start(&config(&nats).limit("connections_per_user", "1000").limit("connects_per_second_per_user", "10000").limit("connects_per_second_per_address", "10000").limit("connections_per_address", "1000")).await;
        let before = app.metric("sidestream_last_value_reads_total", &[]).await;
        let mut streams = join_all((0..CLIENTS).map(|_| app.events("alice"))).await;
        for stream in &mut streams {
            assert_eq!(data(&values(stream).await.0), ["alice cart 2", "alice mail 2", "news 2"]);
        }
        let reads = app.metric("sidestream_last_value_reads_total", &[]).await - before;
        assert!(reads <= 8.0, "{reads} reads for {CLIENTS} clients of two patterns");
        assert!((app.metric("sidestream_last_values_total", &[]).await - 900.0).abs() < 0.5);
        assert!(nats.publisher().await.consumers("EVENTS").await.len() <= 1, "a consumer for clients");
    }

    async fn a_value_that_cannot_be_sent_is_declared(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publisher.publish("events.user.alice.large", "x".repeat(5000)).await;
        publisher.publish("events.user.alice.bytes", [0xff, 0xfe]).await;
        publisher.publish("events.user.alice.good", "good").await;
        nats.publish_raw(b"events.user.alice.poison", b"NATS/1.0\r\nSse-Event: caf\xe9\r\n\r\n", b"survives").await;
        let app = App::start(&config(&nats).limit("event_bytes", "\"4KiB\"")).await;
        let mut alice = app.events("alice").await;
        let (before, _) = values(&mut alice).await;
        let told: Vec<_> = before.iter().map(|event| match event.name.as_str() {
            "sidestream.gap" => json(event)["reason"].as_str().expect("a word").to_owned(),
            _ => event.data.clone(),
        }).collect();
        assert_eq!(told, ["oversize", "undecodable", "good", "survives"]);
    }

    async fn a_deleted_value_is_gone_a_moment_later(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let cart = publisher.publish("events.user.alice.cart", "cart").await;
        publisher.publish("events.user.alice.mail", "mail").await;
        let app = App::start(&config(&nats)).await;
        assert_eq!(data(&values(&mut app.events("alice").await).await.0), ["cart", "mail"]);
        publisher.delete_message("EVENTS", cart).await;
        eventually("the value is gone", DEADLINE, async || {
            let (before, _) = values(&mut app.events("alice").await).await;
            (data(&before) == ["mail"]).then_some(())
        })
        .await;
    }

    async fn while_nats_is_away_a_new_stream_waits_and_then_has_its_values(version: Version) {
        let mut nats = Nats::start(version).await;
        publish_some(&nats.events().await).await;
        let app = App::start(&config(&nats)).await;
        let mut before = app.events("alice").await;
        let (_, synced) = values(&mut before).await;
        nats.kill();
        before.until_named("sidestream.degraded", DEADLINE).await;
        let answer = app.ask(get("/events").user("dave")).await;
        answer.is_soft_refusal("nats");
        // Who comes back needs no values, and is served.
        let mut back = resume(&app, "alice", synced.id.as_deref().expect("an id")).await;
        assert_eq!(back.resume(), "exact");
        nats.restart().await;
        back.until_named("sidestream.ok", Duration::from_secs(30)).await;
        eventually("values are read again", Duration::from_secs(30), async || {
            let mut stream = Sse::try_open(Wire::tcp(app.address()).await, &get("/events").user("dave")).await?;
            let mut before = stream.until_named("sidestream.synced", DEADLINE).await;
            before.pop();
            (data(&before) == ["news 2"]).then_some(())
        })
        .await;
    }

    async fn of_too_many_values_some_are_left_out_and_that_is_declared(version: Version) {
        const MAX: usize = 10_000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publisher.publish_all((0..MAX + 50).map(|n| (format!("events.user.alice.{n}"), n.to_string().into_bytes()))).await;
        let app = App::start(&config(&nats)).await;
        let mut alice = app.events("alice").await;
        assert_eq!((alice.resume().as_str(), seq_of(alice.last_event_id())), ("gap", 0));
        let gap = alice.next().await;
        assert_eq!(json(&gap)["reason"], "replay_limit", "{gap:?}");
        assert_eq!(values(&mut alice).await.0.len(), MAX);
    }

    async fn values_that_go_before_a_slow_reader_has_them_are_declared(version: Version) {
        const OLD: usize = 3000;
        const NEW: usize = 2000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let kilobyte = |n: usize| (format!("events.user.alice.{n}"), format!("{n} {}", "v".repeat(1000)).into_bytes());
        publisher.publish_all((0..OLD).map(kilobyte)).await;
        let app = App::start(&config(&nats)).await;
        let mut alice = Sse::open(Wire::narrow(app.address()).await, &get("/events").user("alice")).await;
        assert_eq!(alice.resume(), "new", "all of them fit");
        // All together do not: the oldest go, and she stands before most of those.
        publisher.publish_all((OLD..OLD + NEW).map(kilobyte)).await;
        eventually("the sidecar has read them", DEADLINE, async || {
            let read = app.metric("sidestream_events_received_total", &[("source", "stream")]).await;
            (read >= (OLD + NEW) as f64).then_some(())
        })
        .await;
        let (mut seen, mut gaps, mut synced) = (BTreeMap::new(), 0, false);
        while !seen.contains_key(&(OLD + NEW - 1)) {
            let event = alice.next_within(DEADLINE).await;
            match event.name.as_str() {
                "message" => {
                    let n: usize = event.data.split(' ').next().and_then(|n| n.parse().ok()).expect("a number");
                    assert!(seen.insert(n, ()).is_none(), "doubled: {n}");
                }
                "sidestream.gap" => {
                    assert!(!synced && json(&event)["reason"] == "replay_limit", "{event:?}");
                    gaps += 1;
                }
                "sidestream.synced" => synced = true,
                _ => {}
            }
        }
        let missing = (0..OLD).filter(|n| !seen.contains_key(n)).count();
        assert!(synced && (OLD..OLD + NEW).all(|n| seen.contains_key(&n)));
        assert!(missing > 0 && gaps == 1, "{missing} missing, {gaps} gaps");
    }

    async fn one_user_does_not_keep_others_out(version: Version) {
        const SUBJECTS: usize = 3000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publisher.publish_all((0..SUBJECTS).map(|n| (format!("events.broadcast.{n}.x.y"), b"x".to_vec()))).await;
        publisher.publish("events.user.bob.x", "bob's").await;
        let app = App::start(&config(&nats)).await;
        // Every selection is a pattern of its own, and reads everything; she is gone before they are served.
        let wide = |n: usize| format!("subject=events.broadcast.{}", ["*.*.*", "*.x.*", "*.*.y", "*.x.y", "*.>", "*.*.>"][n % 6]);
        let mut mallory = Vec::new();
        for _ in 0..8 {
            let mut wire = Wire::tcp(app.address()).await;
            let target = format!("/events?{}", (0..6).map(wide).collect::<Vec<_>>().join("&"));
            wire.send(&get(&target).user("mallory").bytes()).await;
            mallory.push(wire);
        }
        drop(mallory);
        let mut bob = app.stream(get("/events?subject=events.user.bob.x").user("bob")).await;
        assert_eq!(data(&values(&mut bob).await.0), ["bob's"]);
    }
}
