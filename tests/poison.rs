//! Messages that end the connection which reads them: whom they disturb, and how often.

mod support;

use std::sync::Mutex;
use std::time::{Duration, Instant};

use support::{App, Config, DEADLINE, Event, Nats, Sse, Version, get, json, on_both_servers};

const OTHER: &str = "\n[[route]]\npath = \"/other\"\nstream = \"OTHER\"\nsubjects = [\"other.>\"]\n";
/// Histories so small that the past is read from the stream.
const SMALL: &str = "\n[history]\nbytes = \"64KiB\"\n";
const NEWS: &str = "events.broadcast.news";
/// Messages that hurt nobody; one in forty more does.
const NORMAL: usize = 4000;
const LONG: Duration = Duration::from_secs(30);

/// A message whose header is not UTF-8: async-nats drops its connection over it.
async fn poison(nats: &Nats, payload: &str) {
    nats.publish_raw(NEWS.as_bytes(), b"X-Name: caf\xe9\r\n", payload.as_bytes()).await;
}

async fn until(sse: &mut Sse, data: &str) -> Vec<Event> {
    let mut before = Vec::new();
    loop {
        let event = sse.event_within(LONG).await;
        if event.data == data {
            return before;
        }
        before.push(event);
    }
}

/// How often the feed of a stream broke off.
fn interruptions(app: &App, stream: &str) -> usize {
    let lines = app.log_json();
    let of = |line: &&serde_json::Value| {
        ["Feed interrupted", "Feed not open"].iter().any(|m| line["message"] == *m) && line["stream"] == stream
    };
    lines.iter().filter(of).count()
}

/// Headers that only the server should write, as a publisher can: other places in the stream, other subjects, other accounts,
/// and the signs by which a consumer is told that it is idle, stalled or at its end.
const SPOOFED: &[u8] = b"Nats-Stream: OTHER\r\nNats-Subject: events.user.mallory.x\r\nNats-Sequence: 999999\r\n\
Nats-Last-Sequence: 999999\r\nNats-Time-Stamp: 1970-01-01T00:00:00Z\r\nNats-Num-Pending: 0\r\n\
Nats-Last-Consumer: 999999\r\nNats-Last-Stream: 999999\r\nNats-Consumer-Stalled: $JS.FC.EVENTS.x.y\r\n\
Nats-Pending-Messages: 1\r\nNats-Pending-Bytes: 1\r\nNats-Marker-Reason: Purge\r\nStatus: 100\r\nDescription: Idle Heartbeat\r\n\
Nats-Request-Info: {\"acc\":\"SYS\",\"user\":\"admin\",\"svc\":\"all\"}\r\nX-Forwarded-User: mallory\r\n";

on_both_servers! {
    async fn headers_of_the_server_are_data_when_a_publisher_writes_them(version: Version) {
        const LIVE: &str = "\n[[route]]\npath = \"/live\"\nsubjects = [\"live.{user}.>\"]\n";
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(LIVE).tables(SMALL)).await;
        let (mut alice, mut mallory) = (app.events("alice").await, app.events("mallory").await);
        let mut live = app.stream(get("/live").user("alice")).await;
        let cursor = alice.last_event_id().to_owned();
        for n in 1..=3 {
            let (data, mine) = (format!("spoofed {n}"), format!("events.user.alice.{n}"));
            nats.publish_raw(mine.as_bytes(), SPOOFED, data.as_bytes()).await;
            let event = alice.event().await;
            assert_eq!((&event.data, event.id.as_deref().map(support::seq_of)), (&data, Some(n)));
            nats.publish_raw(format!("live.alice.{n}").as_bytes(), SPOOFED, data.as_bytes()).await;
            assert_eq!(live.event().await.data, data);
        }
        // And where it is read again: what memory holds is too little.
        let bulk = (0..200).map(|n| ("events.user.bob.x".to_owned(), format!("{n} {}", "x".repeat(1000)).into_bytes()));
        publisher.publish_all(bulk).await;
        let request = get("/events").user("alice").header("Last-Event-ID", &cursor);
        let mut late = app.stream(request).await;
        assert_eq!(late.data_in_order(3).await, ["spoofed 1", "spoofed 2", "spoofed 3"]);
        publisher.publish(NEWS, "end").await;
        for sse in [&mut alice, &mut mallory, &mut late] {
            sse.nothing_before("end").await;
        }
        assert_eq!(interruptions(&app, "EVENTS"), 0, "it was taken for a word of the server");
    }

    async fn poison_in_one_stream_does_not_reach_another(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        publisher.create_stream("OTHER", &["other.>"]).await;
        let app = App::start(&Config::on(&nats).tables(OTHER).tables(SMALL)).await;
        let mut alice = app.events("alice").await;
        let cursor = alice.last_event_id().to_owned();
        let mut other = app.stream(get("/other").user("bob")).await;
        let mut sent = 0;
        for round in 0..3 {
            poison(&nats, &format!("poison {round}")).await;
            let began = Instant::now();
            while began.elapsed() < Duration::from_millis(1500) {
                publisher.publish("other.x", format!("{sent}")).await;
                sent += 1;
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        publisher.publish(NEWS, "end").await;
        until(&mut alice, "end").await;
        // And in a replay: what memory holds is too little.
        let bulk = (0..200).map(|n| (NEWS.to_owned(), format!("{n} {}", "x".repeat(1000)).into_bytes()));
        publisher.publish_all(bulk).await;
        let request = get("/events").user("alice").header("Last-Event-ID", &cursor);
        until(&mut app.stream(request).await, "end").await;
        publisher.publish("other.x", format!("{sent}")).await;
        for number in 0..=sent {
            assert_eq!(other.event_within(LONG).await.data, number.to_string(), "of {sent}");
        }
        assert!(interruptions(&app, "EVENTS") > 0, "the messages were no poison");
        assert_eq!(interruptions(&app, "OTHER"), 0);
    }

    async fn sustained_poison_is_read_over_without_a_reconnect_loop(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        let sent = Mutex::new(Vec::new());
        let normal = async {
            let mut tick = tokio::time::interval(Duration::from_millis(5));
            for number in 0..NORMAL {
                tick.tick().await;
                sent.lock().expect("no holder panics").push(Instant::now());
                publisher.publish(NEWS, number.to_string()).await;
            }
        };
        let poisonous = async {
            let mut tick = tokio::time::interval(Duration::from_millis(200));
            for number in 0..NORMAL / 40 {
                tick.tick().await;
                match number % 2 {
                    0 => poison(&nats, "poison").await,
                    _ => nats.publish_raw(b"events.broadcast.\xff", b"X-Name: x\r\n", b"declared").await,
                }
            }
        };
        let publish = async {
            tokio::join!(normal, poisonous);
            publisher.publish(NEWS, "end").await;
        };
        let listen = async {
            let (mut next, mut late, mut told) = (0, Vec::new(), Vec::new());
            loop {
                let event = alice.event_within(LONG).await;
                match (event.name.as_str(), event.data.as_str()) {
                    ("message", "end") => return (next, late, told),
                    ("message", "poison") => told.push("poison".to_owned()),
                    ("message", data) => {
                        assert_eq!(data, next.to_string(), "lost, doubled or out of order");
                        late.push(sent.lock().expect("no holder panics")[next].elapsed());
                        next += 1;
                    }
                    ("sidestream.gap", _) => told.push(json(&event)["reason"].as_str().expect("text").to_owned()),
                    (name, _) => told.push(name.to_owned()),
                }
            }
        };
        let ((), (heard, mut late, told)) = tokio::join!(publish, listen);
        assert_eq!(heard, NORMAL);
        let count = |what: &str| told.iter().filter(|t| *t == what).count();
        assert_eq!((count("poison"), count("undecodable")), (NORMAL / 80, NORMAL / 80), "{told:?}");
        late.sort();
        println!("late: {:?} half, {:?} of 1 %, {:?} most", late[NORMAL / 2], late[NORMAL * 99 / 100], late[NORMAL - 1]);
        println!("told {} degraded, {} interruptions", count("sidestream.degraded"), interruptions(&app, "EVENTS"));
        assert!(late[NORMAL * 9 / 10] < Duration::from_millis(300), "{:?}", late[NORMAL * 9 / 10]);
        assert!(count("sidestream.degraded") <= 1, "{told:?}");
        assert!(interruptions(&app, "EVENTS") <= 3, "{:?}", app.log_lines());
    }

    async fn a_burst_with_poison_in_it_is_read_fast(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        poison(&nats, "poison").await;
        until(&mut alice, "poison").await;
        let began = Instant::now();
        for number in 0..50 {
            publisher.publish_all((0..200).map(|n| (NEWS.to_owned(), format!("{}", number * 200 + n).into_bytes()))).await;
            poison(&nats, "poison").await;
        }
        let published = began.elapsed();
        for number in 0..10_000 {
            loop {
                let event = alice.event_within(LONG).await;
                if event.data == number.to_string() {
                    break;
                }
                assert!(event.data == "poison" || event.name == "sidestream.ok", "{number}: {event:?}");
            }
        }
        println!("10 000 published in {published:?}, heard in {:?}", began.elapsed());
        assert!(began.elapsed() < published + Duration::from_secs(10));
        assert!(interruptions(&app, "EVENTS") <= 3, "{:?}", app.log_lines());
    }

    async fn the_past_has_a_connection_once_it_is_read(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL)).await;
        let ours = async || {
            let mut names = nats.connection_names().await;
            names.retain(|name| name.starts_with("sidestream-"));
            names.sort();
            names
        };
        assert_eq!(ours().await, ["sidestream-control", "sidestream-feed-EVENTS", "sidestream-live"]);
        let mut alice = app.events("alice").await;
        let cursor = alice.last_event_id().to_owned();
        publisher.publish_all((0..200).map(|n| (NEWS.to_owned(), format!("{n:1000}").into_bytes()))).await;
        until(&mut alice, &format!("{:1000}", 199)).await;
        let mut again = app.stream(get("/events").user("alice").header("Last-Event-ID", &cursor)).await;
        assert_eq!(again.event_within(DEADLINE).await.data, format!("{:1000}", 0));
        assert!(ours().await.contains(&"sidestream-history-EVENTS".to_owned()), "{:?}", ours().await);
    }

    async fn a_replacement_character_in_a_subject_is_a_letter(version: Version) {
        let nats = Nats::start(version).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats)).await;
        let mut alice = app.events("alice").await;
        let letter = "events.broadcast.\u{fffd}";
        nats.publish_raw(letter.as_bytes(), b"", b"by the consumer").await;
        assert_eq!(alice.event().await.data, "by the consumer");
        poison(&nats, "poison").await;
        nats.publish_raw(NEWS.as_bytes(), b"", b"behind").await;
        until(&mut alice, "behind").await;
        nats.publish_raw(letter.as_bytes(), b"", b"by requests").await;
        let event = alice.next_within(DEADLINE).await;
        assert_eq!(event.data, "by requests", "{event:?}");
    }
}
