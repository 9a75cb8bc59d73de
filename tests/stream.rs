//! The main promise, seen from a browser's seat: who hears what, in which order, in which bytes, and from where on after a
//! break. The requests that are refused stand in `refusals.rs`.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{App, Config, DEADLINE, Event, Nats, Sse, Version, get, json as data_of, on_both_servers, seq_of};

const ROUTES: &str = r#"
[[route]]
path = "/live"
subjects = ["live.{user}.>"]

[[route]]
path = "/mixed"
stream = "EVENTS"
subjects = ["events.user.{user}.>"]
live_subjects = ["live.{user}.>"]

[[route]]
path = "/anyone"
stream = "EVENTS"
subjects = ["events.broadcast.>"]
audience = "anyone"

[[route]]
path = "/by-subject"
stream = "EVENTS"
subjects = ["events.broadcast.>"]
event = "subject"

[[route]]
path = "/by-token"
stream = "EVENTS"
subjects = ["events.broadcast.>"]
event = "token:3"

[[route]]
path = "/fixed"
stream = "EVENTS"
subjects = ["events.broadcast.>"]
event = "update"

[[route]]
path = "/base64"
stream = "EVENTS"
subjects = ["events.broadcast.>"]
payload = "base64"

[[route]]
path = "/envelope"
stream = "EVENTS"
subjects = ["events.broadcast.>"]
payload = "envelope"
"#;

fn message(data: &str) -> impl Fn(&Event) -> bool + '_ {
    move |event| event.name == "message" && event.data == data && event.id.is_some()
}

#[track_caller]
fn assert_message(event: &Event, data: &str) {
    assert!(message(data)(event), "{event:?} is not the message {data:?} with an id");
}

fn reconnecting(path: &str, user: &str, cursor: &str) -> support::Request {
    get(path).user(user).header("Last-Event-ID", cursor)
}

on_both_servers! {
    async fn the_first_bytes_are_the_contract(version: Version) {
        let nats = Nats::start(version).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let sse = app.events("alice").await;

        let expected = [
            ("content-type", "text/event-stream"),
            ("cache-control", "no-store, no-transform"),
            ("x-accel-buffering", "no"),
            ("x-content-type-options", "nosniff"),
        ];
        for (name, value) in expected {
            assert_eq!(sse.head.header(name), Some(value), "{:?}", sse.head);
        }
        // Beside them only what carries the message: no cookie, no server name, no CORS without `origins`.
        let transport = ["date", "transfer-encoding", "connection"];
        for (name, _) in &sse.head.headers {
            let known = transport.contains(&name.as_str()) || expected.iter().any(|(n, _)| n == name);
            assert!(known, "an unexpected header {name} in {:?}", sse.head);
        }

        let id = sse.connected.id.clone().expect("a stream-backed route gives a cursor at once");
        let retry = sse.retry().expect("a reconnection time");
        let expected = format!(
            "event: sidestream.connected\nretry: {retry}\nid: {id}\ndata: {}\n\n", sse.connected.data
        );
        assert_eq!(String::from_utf8_lossy(&sse.raw), expected);
        assert!(id.len() <= 128 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"._~-".contains(&b)), "{id}");
        let data = data_of(&sse.connected);
        assert_eq!((&data["resume"], &data["heartbeat"]), (&json!("new"), &json!(15)), "{data}");
        assert!(data["connection"].as_str().is_some_and(|c| !c.is_empty()), "{data}");
        assert_eq!(data.as_object().map(serde_json::Map::len), Some(3), "{data}");
    }

    async fn the_first_bytes_come_within_100_ms_and_retry_is_jittered(version: Version) {
        let nats = Nats::start(version).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let (mut fastest, mut retries) = (Duration::MAX, Vec::new());
        for _ in 0..10 {
            let asked = Instant::now();
            let sse = app.events("alice").await;
            fastest = fastest.min(asked.elapsed());
            retries.push(sse.retry().expect("a reconnection time"));
        }
        // The fastest of ten, because the machine may be busy with other tests.
        assert!(fastest <= Duration::from_millis(100), "{fastest:?}");
        retries.sort_unstable();
        retries.dedup();
        assert!(retries.len() > 1, "every connection got retry {retries:?}");
    }

    async fn one_hears_ones_own_and_the_broadcasts_and_nobody_elses(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let (mut alice, mut bob) = (app.events("alice").await, app.events("bob").await);

        publisher.publish("events.user.bob.note", "for bob").await;
        publisher.publish("events.user.alice2.note", "for alice2").await;
        publisher.publish("events.user.Alice.note", "for Alice").await;
        publisher.publish("events.user.alice", "not under alice").await;
        publisher.publish("events.other.alice.note", "outside every grant").await;
        publisher.publish("events.user.alice.note", "for alice").await;
        publisher.publish("events.broadcast.news", "for all").await;

        assert_message(&alice.event().await, "for alice");
        assert_message(&alice.event().await, "for all");
        assert_message(&bob.event().await, "for bob");
        assert_message(&bob.event().await, "for all");
    }

    async fn a_route_for_anyone_needs_no_identity(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(ROUTES)).await;
        let mut anyone = app.stream(get("/anyone")).await;
        publisher.publish("events.user.alice.note", "for alice").await;
        publisher.publish("events.broadcast.news", "for all").await;
        assert_message(&anyone.event().await, "for all");
    }

    async fn a_burst_reaches_fifty_clients_whole_and_in_order(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        // One thread reads all fifty here: room for a whole burst, so that this test is about order, not about eviction.
        let config = Config::on(&nats).limit("queue_bytes", "\"4MiB\"").limit("queue_events", "4096");
        let app = App::start(&config).await;
        let mut clients = Vec::new();
        for index in 0..50 {
            let mut client = app.events(&format!("user{index}")).await;
            client.forget_raw();
            clients.push(client);
        }
        let expected: Vec<_> = (0..2000).map(|n| format!("burst {n}")).collect();
        let messages = expected.iter().map(|data| ("events.broadcast.burst".to_owned(), data.clone().into_bytes()));
        publisher.publish_all(messages).await;
        let reading = clients.iter_mut().map(|client| client.data_in_order(expected.len()));
        for (index, data) in futures_util::future::join_all(reading).await.into_iter().enumerate() {
            let first_wrong = data.iter().zip(&expected).position(|(have, want)| have != want);
            assert_eq!(first_wrong, None, "client {index}");
        }
    }

    async fn a_live_only_route_delivers_at_once_and_has_no_ids(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(ROUTES)).await;
        for round in 0..20 {
            // `connected` says "listening": what is published after it, from another connection, arrives.
            let mut live = app.stream(get("/live").user(&format!("user{round}"))).await;
            assert_eq!(live.connected.id, None);
            publisher.publish_core(&format!("live.other{round}.x"), "for another").await;
            publisher.publish_core(&format!("live.user{round}.x"), "live").await;
            let event = live.event().await;
            assert_eq!((event.name.as_str(), event.data.as_str(), event.id), ("message", "live", None));
        }
    }

    async fn live_subjects_ride_on_a_stream_route_without_ids(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(ROUTES)).await;
        let mut mixed = app.stream(get("/mixed").user("alice")).await;
        publisher.publish_core("live.bob.x", "bob's").await;
        publisher.publish_core("live.alice.x", "typing").await;
        let event = mixed.event().await;
        assert_eq!((event.data.as_str(), event.id), ("typing", None));
        publisher.publish("events.user.alice.note", "stored").await;
        assert_message(&mixed.event().await, "stored");
        publisher.publish_core("live.alice.x", "typing again").await;
        assert_eq!(mixed.event().await.data, "typing again");

        // The live event did not move the cursor: a reconnect resumes from the stored one.
        let cursor = mixed.last_event_id().to_owned();
        drop(mixed);
        publisher.publish("events.user.alice.note", "missed").await;
        let mut mixed = app.stream(reconnecting("/mixed", "alice", &cursor)).await;
        assert_message(&mixed.event().await, "missed");
    }

    async fn event_names_come_from_where_the_route_says(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(ROUTES)).await;
        for (path, named, unnamed) in [
            ("/anyone", "chosen", "message"),
            ("/by-subject", "events.broadcast.news", "events.broadcast.news"),
            ("/by-token", "news", "news"),
            ("/fixed", "update", "update"),
        ] {
            let mut sse = app.stream(get(path).user("alice")).await;
            publisher.publish_named("events.broadcast.news", "chosen", "named").await;
            publisher.publish("events.broadcast.news", "unnamed").await;
            assert_eq!(sse.event().await.name, named, "{path}");
            assert_eq!(sse.event().await.name, unnamed, "{path}");
        }
    }

    async fn names_that_a_publisher_may_not_use_become_message_and_are_counted(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut sse = app.events("alice").await;
        let longest = "n".repeat(256);
        let allowed = ["note", "a b", "a:b", "data: x", "größe", "🦀", "Sidestream.gap", &longest];
        for name in allowed {
            publisher.publish_named("events.broadcast.news", name, "x").await;
            assert_eq!(sse.event().await.name, name);
        }
        assert!(app.metric("sidestream_event_names_replaced_total", &[]).await < 0.5);
        let too_long = "n".repeat(257);
        let refused = ["sidestream.gap", "sidestream.", "a\tb", "a\u{1}b", "a\u{85}b", "a\u{7f}", &too_long];
        for name in refused {
            publisher.publish_named("events.broadcast.news", name, "x").await;
            assert_eq!(sse.event().await.name, "message", "{name:?}");
        }
        #[allow(clippy::cast_precision_loss, reason = "a handful")]
        let wanted = refused.len() as f64;
        app.metric_is("sidestream_event_names_replaced_total", &[], wanted, DEADLINE).await;
    }

    async fn payload_modes_carry_what_was_published(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(ROUTES)).await;
        let mut base64 = app.stream(get("/base64").user("alice")).await;
        let mut envelope = app.stream(get("/envelope").user("alice")).await;

        publisher.publish("events.broadcast.raw", [0xff, 0xfe, 0x00, 0x0a]).await;
        assert_message(&base64.event().await, "//4ACg==");
        let gap = envelope.event().await;
        assert_eq!((gap.name.as_str(), &data_of(&gap)["reason"]), ("sidestream.gap", &json!("undecodable")));

        publisher.publish("events.broadcast.json", "{\"b\": 1,\n \"a\": 12345678901234567890.10}").await;
        base64.event().await;
        let event = envelope.event().await;
        let value = data_of(&event);
        assert_eq!(value["subject"], "events.broadcast.json");
        assert!(value["time"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{value}");
        assert!(event.data.contains(r#""data":{"b":1,"a":12345678901234567890.10}"#), "{}", event.data);

        publisher.publish("events.broadcast.text", "two\nlines").await;
        assert_eq!(data_of(&envelope.event().await)["data"], "two\nlines");
    }

    async fn a_heartbeat_keeps_a_quiet_clients_cursor_at_the_head(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).heartbeat("1s")).await;
        let mut alice = app.events("alice").await;
        assert_eq!(data_of(&alice.connected)["heartbeat"], 1);
        let head = publisher.publish("events.user.bob.note", "not for alice").await;
        let started = Instant::now();
        loop {
            let event = alice.next().await;
            assert_eq!(event.name, "sidestream.heartbeat");
            assert!(data_of(&event)["time"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{event:?}");
            // One heartbeat may have been on its way when bob's event was stored.
            if event.id.as_deref().map(seq_of) == Some(head) {
                break;
            }
            assert!(started.elapsed() < Duration::from_secs(5), "the cursor stays behind the head {head}: {event:?}");
        }
        let cursor = alice.last_event_id().to_owned();
        let mut again = app.stream(reconnecting("/events", "alice", &cursor)).await;
        assert_eq!(again.resume(), "exact");
        publisher.publish("events.user.alice.note", "after").await;
        again.nothing_before("after").await;
    }

    async fn a_reconnect_gets_exactly_what_it_missed(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut first = app.events("alice").await;
        publisher.publish("events.user.alice.note", "seen").await;
        assert_message(&first.event().await, "seen");
        let cursor = first.last_event_id().to_owned();
        drop(first);

        publisher.publish("events.user.alice.note", "missed 1").await;
        publisher.publish("events.user.bob.note", "bob's").await;
        publisher.publish("events.broadcast.news", "missed 2").await;

        for request in [
            get("/events").header("Last-Event-ID", &cursor),
            get("/events").header("last-event-id", &cursor),
            get(&format!("/events?last_event_id={cursor}")),
            get(&format!("/events?lastEventId={cursor}")),
        ] {
            let mut again = app.stream(request.user("alice")).await;
            assert_eq!(again.resume(), "exact");
            assert_eq!(again.connected.id.as_deref(), Some(cursor.as_str()), "connected repeats the client's own cursor");
            assert_message(&again.event().await, "missed 1");
            assert_message(&again.event().await, "missed 2");
        }
        // What was replayed and what is live are one stream.
        let mut again = app.stream(reconnecting("/events", "alice", &cursor)).await;
        publisher.publish("events.user.alice.note", "live").await;
        assert_eq!(again.data_in_order(3).await, ["missed 1", "missed 2", "live"]);
    }

    async fn a_client_that_drops_before_its_first_event_loses_nothing(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publisher.publish("events.user.alice.note", "long ago").await;
        let app = App::start(&Config::on(&nats)).await;
        let first = app.events("alice").await;
        let cursor = first.connected.id.clone().expect("a cursor at once");
        drop(first);
        publisher.publish("events.user.alice.note", "meanwhile").await;
        let mut again = app.stream(reconnecting("/events", "alice", &cursor)).await;
        assert_eq!(again.resume(), "exact");
        assert_message(&again.event().await, "meanwhile");
    }

    async fn an_empty_stream_has_a_cursor_too(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let cursor = app.events("alice").await.connected.id.clone().expect("a cursor at once");
        publisher.publish("events.user.alice.note", "the very first").await;
        let mut again = app.stream(reconnecting("/events", "alice", &cursor)).await;
        assert_eq!(again.resume(), "exact");
        assert_message(&again.event().await, "the very first");
    }

    async fn the_header_wins_over_the_query_and_an_empty_one_is_none(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut first = app.events("alice").await;
        publisher.publish("events.user.alice.note", "one").await;
        let early = first.event().await.id.expect("an id");
        publisher.publish("events.user.alice.note", "two").await;
        let late = first.event().await.id.expect("an id");

        let request = get(&format!("/events?last_event_id={early}")).user("alice").header("Last-Event-ID", &late);
        let mut sse = app.stream(request).await;
        publisher.publish("events.user.alice.note", "three").await;
        sse.nothing_before("three").await;

        let mut sse = app.stream(reconnecting("/events", "alice", "")).await;
        assert_eq!(sse.resume(), "new");
        publisher.publish("events.user.alice.note", "four").await;
        sse.nothing_before("four").await;
    }

    async fn a_cursor_that_cannot_be_placed_is_a_declared_gap(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut first = app.events("alice").await;
        publisher.publish("events.user.alice.note", "one").await;
        let good = first.event().await.id.expect("an id");
        let mut parts = good.split('.');
        let (epoch, seq, time) = (parts.next(), parts.next(), parts.next());
        let [epoch, seq, time] = [epoch, seq, time].map(|p| p.expect("three parts"));

        let cases = [
            ("0".to_owned(), "cursor_unknown"),
            ("-1".to_owned(), "cursor_unknown"),
            ("01".to_owned(), "cursor_unknown"),
            ("9223372036854775808".to_owned(), "cursor_unknown"),
            ("from-another-system:17".to_owned(), "cursor_unknown"),
            ("x".repeat(256), "cursor_unknown"),
            (format!("{epoch}.{seq}.{time}.1"), "cursor_unknown"),
            // A time past 64 bits.
            (format!("{epoch}.{seq}.{time}z"), "cursor_unknown"),
            // Another life of the stream; and another message at our sequence: a store that was rolled back.
            (format!("{}{}.{seq}.{time}", if epoch.starts_with('1') { "2" } else { "1" }, &epoch[1..]), "reset"),
            (format!("{epoch}.{seq}.1"), "reset"),
            (format!("{epoch}.zzzz.{time}"), "reset"),
        ];
        for (cursor, reason) in cases {
            let mut sse = app.stream(reconnecting("/events", "alice", &cursor)).await;
            assert_eq!(sse.resume(), "gap", "{cursor}");
            let gap = sse.event().await;
            assert_eq!(gap.name, "sidestream.gap", "{cursor}");
            let data = data_of(&gap);
            assert_eq!(data["reason"], reason, "{cursor}: {data}");
            for key in ["stream", "after", "next"] {
                assert!(data.get(key).is_some(), "{cursor}: no {key} in {data}");
            }
            assert_eq!(data["stream"], "EVENTS");
            let marker = format!("after {cursor}");
            publisher.publish("events.user.alice.note", &marker).await;
            // What still exists may be replayed behind the gap; nothing else may be declared.
            assert!(sse.before(&marker).await.iter().all(|e| !e.name.starts_with("sidestream.")), "{cursor}");
            let resumed = sse.last_event_id().to_owned();
            assert_eq!(app.stream(reconnecting("/events", "alice", &resumed)).await.resume(), "exact", "{cursor}");
        }
        assert!(app.metric("sidestream_gaps_total", &[("reason", "cursor_unknown")]).await >= 8.0);
    }

    async fn a_payload_that_is_too_large_is_declared_to_those_who_would_have_heard_it(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).limit("event_bytes", "\"4KiB\"")).await;
        let (mut alice, mut bob) = (app.events("alice").await, app.events("bob").await);
        publisher.publish("events.user.alice.note", "x".repeat(4096)).await;
        let before = publisher.publish("events.user.alice.note", "just before").await;
        let large = publisher.publish("events.user.alice.note", "x".repeat(4097)).await;
        publisher.publish("events.broadcast.news", "after").await;

        assert_eq!(alice.event().await.data.len(), 4096, "the bound itself is allowed");
        assert_message(&alice.event().await, "just before");
        declares(&alice.event().await, "oversize", before, large);
        assert_message(&alice.event().await, "after");
        bob.nothing_before("after").await;
        assert!(app.metric("sidestream_gaps_total", &[("reason", "oversize")]).await >= 1.0);
    }

    async fn text_that_is_not_utf8_is_declared_to_those_who_would_have_heard_it(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let (mut alice, mut bob) = (app.events("alice").await, app.events("bob").await);
        let start = alice.last_event_id().to_owned();
        for bytes in [&[0xff, 0xfe][..], &[0xed, 0xa0, 0x80], &[0xe2, 0x82], b"ok until \xc3\x28"] {
            let seq = publisher.publish("events.user.alice.note", bytes).await;
            declares(&alice.event().await, "undecodable", seq - 1, seq);
        }
        publisher.publish("events.broadcast.news", "after").await;
        assert_message(&alice.event().await, "after");
        bob.nothing_before("after").await;
        // A replay declares the same holes.
        let mut again = app.stream(reconnecting("/events", "alice", &start)).await;
        let replayed = again.before("after").await;
        assert!(!replayed.is_empty() && replayed.iter().all(|e| data_of(e)["reason"] == "undecodable"), "{replayed:?}");
    }

    async fn a_poisonous_message_disturbs_nobody_and_is_passed(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let (mut alice, mut bob) = (app.events("alice").await, app.events("bob").await);
        // The server stores all of these; async-nats drops its connection over each.
        let poisons: [(&str, &[u8], &[u8]); 4] = [
            ("header value", b"events.user.alice.note", b"Sse-Event: caf\xc3\x28\r\n"),
            ("header name", b"events.user.alice.note", b"Sse Event: x\r\n"),
            ("no colon", b"events.user.alice.note", b"nothing here\r\n"),
            ("subject", b"events.user.alice.\xff\xfe", b"Sse-Event: x\r\n"),
        ];
        for (what, subject, headers) in poisons {
            nats.publish_raw(subject, headers, b"poisoned").await;
            let marker = format!("after {what}");
            publisher.publish("events.broadcast.news", &marker).await;
            let within = Duration::from_secs(20);
            for (who, sse) in [("alice", &mut alice), ("bob", &mut bob)] {
                let started = Instant::now();
                loop {
                    let event = sse.event_within(within.saturating_sub(started.elapsed())).await;
                    if event.data == marker {
                        break;
                    }
                    let told = match event.name.as_str() {
                        "sidestream.gap" => data_of(&event)["reason"] == "undecodable" && who == "alice",
                        "sidestream.degraded" | "sidestream.ok" => true,
                        _ => event.data == "poisoned" && who == "alice",
                    };
                    assert!(told, "{who} after a poisonous {what}: {event:?}");
                }
            }
        }
    }

    async fn an_event_name_with_line_ends_cannot_break_the_framing(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        let hostile: [&[u8]; 5] = [
            b"Sse-Event: a\rdata: injected\r\n",
            b"Sse-Event: a\ndata: injected\r\n",
            b"Sse-Event: a\n\nevent: sidestream.bye\r\n",
            b"Sse-Event: a\0b\r\n",
            b"Sse-Event: x\r\nSse-Event: sidestream.gap\r\n",
        ];
        for (index, headers) in hostile.into_iter().enumerate() {
            nats.publish_raw(b"events.user.alice.note", headers, b"hostile").await;
            let marker = format!("after {index}");
            publisher.publish("events.user.alice.note", &marker).await;
            for event in alice.before(&marker).await {
                let ours = ["sidestream.degraded", "sidestream.ok"].contains(&event.name.as_str());
                let declared = event.name == "sidestream.gap" && data_of(&event)["reason"] == "undecodable";
                let delivered = event.data == "hostile" && !event.name.starts_with("sidestream.");
                assert!(ours || declared || delivered, "case {index}: {event:?}");
            }
        }
        assert!(!String::from_utf8_lossy(&alice.raw).contains("\ndata: injected"), "a line was injected");
    }

    async fn a_deleted_and_created_stream_is_a_reset(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        publisher.publish("events.user.alice.note", "before").await;
        assert_message(&alice.event().await, "before");
        publisher.delete_stream("EVENTS").await;
        publisher.create_stream("EVENTS", &["events.>"]).await;
        publisher.publish("events.user.alice.note", "after").await;
        let events = alice.until_named("sidestream.gap", Duration::from_secs(20)).await;
        let gap = events.last().expect("at least the gap");
        assert_eq!(data_of(gap)["reason"], "reset", "{gap:?}");
        assert!(events.iter().all(|e| e.data != "after"), "the gap comes before the next event: {events:?}");
    }
}

#[track_caller]
fn declares(event: &Event, reason: &str, after: u64, lost: u64) {
    assert_eq!(event.name, "sidestream.gap", "{event:?}");
    let data = data_of(event);
    assert_eq!((&data["reason"], &data["stream"]), (&json!(reason), &json!("EVENTS")), "{data}");
    // The open interval between `after` and `next` holds the lost one; `next` need not exist yet.
    assert_eq!(data["after"], after, "{data}");
    assert!(data["next"].is_null() || data["next"].as_u64().is_some_and(|next| next > lost), "{data} hides {lost}");
    assert_eq!(event.id.as_deref().map(seq_of), Some(lost), "the id is the place to go on from: {event:?}");
}

#[tokio::test]
async fn a_stream_opens_behind_other_requests_on_the_same_connection() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;

        // One after the other.
        let mut wire = support::Wire::tcp(app.address()).await;
        for path in ["/nothing", "/nowhere"] {
            wire.send(&get(path).user("alice").bytes()).await;
            wire.answer().await.is_refusal(404, "not_found");
        }
        let mut kept = Sse::open(wire, &get("/events").user("alice")).await;

        // All at once: the stream's request arrives in the same segment as two others.
        let mut wire = support::Wire::tcp(app.address()).await;
        let mut bytes = get("/nothing").user("alice").bytes();
        bytes.extend(get("/nowhere").user("alice").bytes());
        bytes.extend(get("/events").user("alice").bytes());
        wire.send(&bytes).await;
        for _ in 0..2 {
            wire.answer().await.is_refusal(404, "not_found");
        }
        let mut piped = Sse::opened(wire).await;

        publisher.publish("events.user.alice.note", "both").await;
        assert_message(&kept.event().await, "both");
        assert_message(&piped.event().await, "both");
    })
    .await;
}

#[tokio::test]
async fn bytes_behind_the_request_do_not_hide_a_disconnect() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        for junk in [&b"GET /events HTTP/1.1\r\n"[..], &[b'x'; 4096], &get("/events").user("bob").bytes()] {
            let mut wire = support::Wire::tcp(app.address()).await;
            let mut bytes = get("/events").user("alice").bytes();
            bytes.extend_from_slice(junk);
            wire.send(&bytes).await;
            let mut sse = Sse::opened(wire).await;
            sse.send(b"and more later").await;
            app.metric_is("sidestream_connections", &[], 1.0, DEADLINE).await;
            drop(sse);
            app.metric_is("sidestream_connections", &[], 0.0, Duration::from_secs(5)).await;
        }
        // The second request on a connection that streams is never answered: there were exactly three streams.
        assert!((app.metric("sidestream_connections_total", &[]).await - 3.0).abs() < 0.5);
    })
    .await;
}

#[tokio::test]
async fn streams_end_with_bye_on_sigterm_and_tell_when_to_come_back() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let mut app = App::start(&Config::on(&nats)).await;
        let mut clients = vec![app.events("alice").await, app.events("bob").await];
        app.terminate();
        for client in &mut clients {
            let bye = client.rest().await.pop().expect("a last event");
            assert_eq!((bye.name.as_str(), &data_of(&bye)["code"]), ("sidestream.bye", &json!("drain")));
            assert_eq!(data_of(&bye)["reconnect"].as_u64(), client.retry());
        }
        assert!(app.exit(Duration::from_secs(4)).await.success());
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_with_its_age_and_resumes() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats).server("max_age = \"2s\"\n")).await;
        let mut sse = app.events("alice").await;
        let began = std::time::Instant::now();
        let bye = sse.until_named("sidestream.bye", Duration::from_secs(6)).await.pop().expect("the event itself");
        assert_eq!(data_of(&bye)["code"], "age");
        // Ten percent either way, and the sweep's second.
        let age = began.elapsed();
        assert!(age > Duration::from_millis(1500) && age < Duration::from_millis(4500), "{age:?}");
        let cursor = bye.id.expect("a cursor");
        nats.publisher().await.publish("events.user.alice.note", "meanwhile").await;
        let mut again = app.stream(get("/events").user("alice").header("Last-Event-ID", &cursor)).await;
        assert_eq!(again.event().await.data, "meanwhile");
    })
    .await;
}
