//! Slow readers and full houses: a reader that stops reading is put out and loses nothing by it, the others notice
//! nothing, and who finds no room is told when to come back.

mod support;

use std::time::Duration;

use support::{App, Config, DEADLINE, Nats, Sse, Version, Wire, get, on_both_servers};

fn bulk(range: std::ops::Range<usize>) -> impl Iterator<Item = (String, Vec<u8>)> {
    range.map(|n| ("events.broadcast.bulk".to_owned(), format!("{n} {}", "x".repeat(32 * 1024)).into_bytes()))
}

fn number(data: &str) -> usize {
    data.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("not a bulk event: {data:.40}"))
}

on_both_servers! {
    async fn a_reader_that_stops_reading_is_evicted_and_resumes_exactly(version: Version) {
        const COUNT: usize = 600;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let config = Config::on(&nats).limit("queue_bytes", "\"64KiB\"").limit("write_timeout", "\"5s\"");
        let app = App::start(&config).await;
        let mut stalled = Sse::open(Wire::narrow(app.address()).await, &get("/events").user("stalled")).await;
        let mut healthy = app.events("healthy").await;
        healthy.forget_raw();

        // One by one, each seen by the healthy reader: it is never slow itself.
        for n in 0..COUNT {
            publisher.publish_all(bulk(n..n + 1)).await;
            assert_eq!(number(&healthy.event().await.data), n, "the healthy reader");
        }
        app.metric_is("sidestream_connections_closed_total", &[("reason", "slow")], 1.0, Duration::from_secs(20)).await;
        app.metric_is("sidestream_connections", &[], 1.0, DEADLINE).await;

        // What had left the program before arrives, in order; then the stream ends, perhaps with `bye`.
        let mut seen = 0;
        for event in stalled.rest().await {
            if event.name == "sidestream.bye" {
                assert_eq!(support::json(&event)["code"], "slow");
                continue;
            }
            assert_eq!(number(&event.data), seen, "the stalled reader");
            seen += 1;
        }
        assert!(seen < COUNT, "the reader got everything: it was never slow");
        let cursor = stalled.last_event_id().to_owned();
        let request = get("/events").user("stalled").header("Last-Event-ID", &cursor);
        let mut again = app.stream(request).await;
        assert_eq!(again.resume(), "exact");
        again.forget_raw();
        for n in seen..COUNT {
            assert_eq!(number(&again.event().await.data), n, "after the eviction");
        }
    }

    async fn a_burst_larger_than_the_queue_ends_nobody(version: Version) {
        const COUNT: usize = 400;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).limit("queue_bytes", "\"64KiB\"")).await;
        let mut reader = Sse::open(Wire::narrow(app.address()).await, &get("/events").user("alice")).await;
        reader.forget_raw();
        // 13 MB while nobody reads: far more than the queue and the kernel hold.
        publisher.publish_all(bulk(0..COUNT)).await;
        app.metric_is("sidestream_readers_fell_behind_total", &[], 1.0, DEADLINE).await;
        for n in 0..COUNT {
            assert_eq!(number(&reader.event().await.data), n);
        }
        // It has joined the living again.
        publisher.publish("events.user.alice.note", "live").await;
        assert_eq!(reader.event().await.data, "live");
        assert!(app.metric("sidestream_connections_closed_total", &[]).await < 0.5, "a stream ended");
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }

    async fn many_stalled_readers_cost_a_fixed_amount_and_slow_nobody(version: Version) {
        const STALLED: usize = 100;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let config = Config::on(&nats).limit("write_timeout", "\"5s\"").tables("\n[history]\nbytes = \"1MiB\"\n");
        let app = App::start(&config).await;
        let mut healthy = app.events("healthy").await;
        healthy.forget_raw();
        let mut stalled = Vec::new();
        for index in 0..STALLED {
            stalled.push(Sse::open(Wire::narrow(app.address()).await, &get("/events").user(&format!("stalled{index}"))).await);
        }
        let resident = app.resident();
        let mut most = 0;
        for start in (0..400).step_by(2) {
            publisher.publish_all(bulk(start..start + 2)).await;
            for n in start..start + 2 {
                assert_eq!(number(&healthy.event().await.data), n, "the healthy reader");
            }
            most = most.max(app.resident());
        }
        #[allow(clippy::cast_precision_loss, reason = "a hundred")]
        let all = STALLED as f64;
        app.metric_is("sidestream_connections_closed_total", &[("reason", "slow")], all, Duration::from_secs(20)).await;
        let each = most.saturating_sub(resident) / STALLED as u64;
        assert!(each <= 512 * 1024, "{each} bytes for each stalled reader");
    }
}

#[tokio::test]
async fn a_full_house_tells_a_browser_when_to_come_back() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).limit("connections", "3")).await;
        let mut held = vec![app.events("a").await, app.events("b").await, app.events("c").await];

        let mut retries = Vec::new();
        for _ in 0..8 {
            let answer = app.ask(get("/events").user("late")).await;
            assert!(answer.head.header("sidestream-refused").is_some(), "{:?}", answer.head);
            let reason = answer.head.header("sidestream-refused").unwrap_or_default().to_owned();
            answer.is_soft_refusal(&reason);
            retries.push(answer.text());
        }
        retries.sort();
        retries.dedup();
        assert!(retries.len() > 1, "retry is not jittered: {retries:?}");

        // A program that asked for no event stream gets a status it understands.
        let answer = app.ask(get("/events").user("late").without("Accept").header("Accept", "*/*")).await;
        assert!(matches!(answer.head.status, 429 | 503), "{:?}", answer.head);
        assert!(answer.head.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok()), "{:?}", answer.head);

        // Those inside notice nothing, and a place that becomes free is given away.
        publisher.publish("events.broadcast.news", "for those inside").await;
        for sse in &mut held {
            assert_eq!(sse.event().await.data, "for those inside");
        }
        held.pop();
        app.metric_is("sidestream_connections", &[], 2.0, DEADLINE).await;
        app.events("late").await;
    })
    .await;
}

#[tokio::test]
async fn one_user_cannot_take_every_place() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let app = App::start(&Config::on(&nats).limit("connections_per_user", "2")).await;
        let held = [app.events("greedy").await, app.events("greedy").await];
        let answer = app.ask(get("/events").user("greedy")).await;
        let reason = answer.head.header("sidestream-refused").unwrap_or_default().to_owned();
        answer.is_soft_refusal(&reason);
        app.events("modest").await;
        drop(held);
        app.metric_is("sidestream_connections", &[], 0.0, DEADLINE).await;
        app.events("greedy").await;
    })
    .await;
}
