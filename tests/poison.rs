//! Messages that end the connection which reads them: whom they disturb, and how often.

mod support;

use std::time::{Duration, Instant};

use support::{App, Config, DEADLINE, Event, Nats, Sse, Version, get, on_both_servers};

const OTHER: &str = "\n[[route]]\npath = \"/other\"\nstream = \"OTHER\"\nsubjects = [\"other.>\"]\n";
/// Histories so small that the past is read from the stream.
const SMALL: &str = "\n[history]\nbytes = \"64KiB\"\n";
const NEWS: &str = "events.broadcast.news";
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

on_both_servers! {
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
}
