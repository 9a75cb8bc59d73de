//! Rollbacks beside holes, and what slow readers, poison, deep subjects and impatient clients may cost.

mod support;

use std::time::{Duration, Instant};

use async_nats::jetstream::stream;
use support::proxy::Proxy;
use support::{
    App, Config, DEADLINE, Nats, Publisher, Sse, Version, Wire, eventually, get, json, on_both_servers, seq_of,
};

const X: &str = "events.broadcast.x";
const SMALL_HISTORY: &str = "\n[history]\nbytes = \"64KiB\"\n";
const LONG: Duration = Duration::from_secs(60);

fn bulk(count: usize) -> impl Iterator<Item = (String, Vec<u8>)> {
    (0..count).map(|n| (X.to_owned(), format!("{n} {}", "x".repeat(4000)).into_bytes()))
}

async fn publish(publisher: &Publisher, numbers: std::ops::Range<usize>) {
    publisher.publish_all(numbers.map(|n| (X.to_owned(), n.to_string().into_bytes()))).await;
}

/// Five messages, saved.
async fn saved(version: Version) -> Nats {
    let mut nats = Nats::start(version).await;
    publish(&nats.events().await, 0..5).await;
    nats.kill();
    nats.save();
    nats.restart().await;
    nats
}

/// Goes back to them, and past where it was, with other messages.
async fn another_history(nats: &mut Nats) -> Publisher {
    nats.kill();
    nats.go_back();
    nats.restart().await;
    let publisher = nats.publisher().await;
    publish(&publisher, 105..115).await;
    publisher
}

async fn resume(app: &App, cursor: &str) -> Sse {
    app.stream(get("/events").user("alice").header("Last-Event-ID", cursor)).await
}

async fn try_resume(app: &App, cursor: &str) -> Option<Sse> {
    let request = get("/events").user("alice").header("Last-Event-ID", cursor);
    Sse::try_open(Wire::tcp(app.address()).await, &request).await
}

/// The next event that is not about NATS must be a gap for this reason.
async fn told(sse: &mut Sse, reason: &str) {
    let event = loop {
        let event = sse.event_within(LONG).await;
        if !matches!(event.name.as_str(), "sidestream.degraded" | "sidestream.ok") {
            break event;
        }
    };
    assert_eq!(event.name, "sidestream.gap", "{}", event.data);
    assert_eq!(json(&event)["reason"], reason);
}

/// On a stream with these limits, messages go while a client is away and another one's sidecar is cut off. Both must be told
/// this reason.
async fn told_why(version: Version, limits: stream::Config, go: impl AsyncFn(&Publisher), reason: &str) {
    let nats = Nats::start(version).await;
    let config = stream::Config { name: "EVENTS".into(), subjects: vec!["events.>".into()], ..limits };
    nats.jetstream().await.create_stream(config).await.expect("the stream is created");
    let publisher = nats.publisher().await;
    let proxy = Proxy::to(nats.address()).await;
    let app = App::start(&Config::at(&format!("nats://{}", proxy.address))).await;
    let mut alice = app.events("alice").await;
    publish(&publisher, 0..5).await;
    for number in 0..5 {
        assert_eq!(alice.event().await.data, number.to_string());
    }
    let cursor = alice.last_event_id().to_owned();
    proxy.close();
    alice.until_named("sidestream.degraded", DEADLINE).await;
    publish(&publisher, 5..20).await;
    go(&publisher).await;
    publish(&publisher, 20..21).await;
    told(&mut resume(&App::start(&Config::on(&nats)).await, &cursor).await, reason).await;
    proxy.open();
    told(&mut alice, reason).await;
}

/// Limits that nothing here comes near to.
fn roomy() -> stream::Config {
    stream::Config {
        max_age: Duration::from_secs(86_400),
        max_messages: 10_000,
        max_bytes: 1 << 30,
        ..Default::default()
    }
}

on_both_servers! {
    async fn a_purge_is_not_retention(version: Version) {
        told_why(version, roomy(), async |publisher| publisher.purge_keeping("EVENTS", 0).await, "purged").await;
    }

    async fn nor_is_a_message_that_was_deleted(version: Version) {
        told_why(version, roomy(), async |publisher| publisher.delete_message("EVENTS", 6).await, "purged").await;
    }

    async fn age_is_retention(version: Version) {
        let limits = stream::Config { max_age: Duration::from_secs(1), ..roomy() };
        let go = async |publisher: &Publisher| {
            let left = async || (publisher.stored_bytes("EVENTS").await == 0).then_some(());
            eventually("all messages are too old", DEADLINE, left).await;
        };
        told_why(version, limits, go, "retention").await;
    }

    async fn number_is_retention(version: Version) {
        let limits = stream::Config { max_messages: 10, ..roomy() };
        told_why(version, limits, async |_| (), "retention").await;
    }

    async fn size_is_retention(version: Version) {
        let limits = stream::Config { max_bytes: 500, ..roomy() };
        told_why(version, limits, async |_| (), "retention").await;
    }

    /// The cursor says that nothing stood at 10, but something does: 105 to 109 are lost in silence.
    async fn a_cursor_in_a_hole_notices_a_rollback(version: Version) {
        let mut nats = saved(version).await;
        let publisher = nats.publisher().await;
        publish(&publisher, 5..10).await;
        publisher.purge_keeping("EVENTS", 0).await;
        let cursor = App::start(&Config::on(&nats)).await.events("alice").await.last_event_id().to_owned();
        another_history(&mut nats).await;
        told(&mut resume(&App::start(&Config::on(&nats)).await, &cursor).await, "reset").await;
    }

    /// Nothing stands at the cursor now, but younger messages stand before it: 105 to 108 are lost in silence.
    async fn a_cursor_notices_a_rollback_by_its_neighbours(version: Version) {
        let mut nats = saved(version).await;
        let publisher = nats.publisher().await;
        publish(&publisher, 5..10).await;
        let cursor = App::start(&Config::on(&nats)).await.events("alice").await.last_event_id().to_owned();
        let publisher = another_history(&mut nats).await;
        publisher.delete_message("EVENTS", seq_of(&cursor)).await;
        told(&mut resume(&App::start(&Config::on(&nats)).await, &cursor).await, "reset").await;
    }

    /// The same for a sidecar that stood there: connected clients lose 105 to 108 in silence.
    async fn a_feed_notices_a_rollback_by_its_neighbours(version: Version) {
        let mut nats = saved(version).await;
        publish(&nats.publisher().await, 5..10).await;
        let proxy = Proxy::to(nats.address()).await;
        let app = App::start(&Config::at(&format!("nats://{}", proxy.address))).await;
        let mut alice = app.events("alice").await;
        proxy.close();
        let publisher = another_history(&mut nats).await;
        publisher.delete_message("EVENTS", 10).await;
        proxy.open();
        told(&mut alice, "reset").await;
    }

    /// Thirty messages in a row leave 121 consumers behind in a replay, 62 live.
    async fn poison_leaves_a_handful_of_consumers(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY)).await;
        let mut alice = app.events("alice").await;
        let cursor = alice.last_event_id().to_owned();
        for _ in 0..30 {
            nats.publish_raw(X.as_bytes(), b"X-Name: caf\xe9\r\n", b"p").await;
        }
        publisher.publish(X, "end").await;
        while alice.event_within(LONG).await.data != "end" {}
        let live = publisher.consumers("EVENTS").await.len();
        publisher.publish_all(bulk(100)).await;
        while !alice.event_within(LONG).await.data.starts_with("99 ") {}
        let mut again = resume(&app, &cursor).await;
        while again.event_within(LONG).await.data != "end" {}
        let replayed = publisher.consumers("EVENTS").await.len();
        assert!(live <= 8 && replayed <= 8, "{live} consumers after it, {replayed} after its replay");
    }
}

/// A reader of some 40 kB/s holds the only place for as long as its replay lasts (with 256 such readers, all of them).
#[tokio::test]
async fn a_slow_reader_holds_nobodys_replay_up() {
    let nats = Nats::start(Version::Current).await;
    let publisher = nats.events().await;
    let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY).limit("replays", "1")).await;
    let cursor = app.events("alice").await.last_event_id().to_owned();
    // Less than a pass holds: it is never full.
    publisher.publish_all(bulk(4000)).await;
    let request = get("/events").user("slow").header("Last-Event-ID", &cursor);
    let mut slow = Sse::open(Wire::narrow(app.address()).await, &request).await;
    slow.forget_raw();
    let reads = async {
        loop {
            slow.next().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let served = async { while try_resume(&app, &cursor).await.is_none() {} };
    tokio::select! {
        () = reads => {}
        served = tokio::time::timeout(Duration::from_secs(30), served) => assert!(served.is_ok(), "not served in 30 s"),
    }
}

/// For each 64 KiB that one slow reader takes, a pass reads 24 MiB.
#[tokio::test]
async fn a_slow_reader_costs_about_one_read() {
    let nats = Nats::start(Version::Current).await;
    let publisher = nats.events().await;
    let app = App::start(&Config::on(&nats).tables(SMALL_HISTORY)).await;
    let cursor = app.events("alice").await.last_event_id().to_owned();
    publisher.publish_all(bulk(15_000)).await;
    let request = get("/events").user("slow").header("Last-Event-ID", &cursor);
    let mut slow = Sse::open(Wire::narrow(app.address()).await, &request).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(45) {
        for _ in 0..16 {
            slow.next_within(LONG).await;
        }
        tokio::time::sleep(Duration::from_millis(4500)).await;
    }
    let read = nats.sent_to("sidestream-history-EVENTS").await >> 20;
    assert!(read <= 60, "{read} MiB read for one client that took less than 1 MiB of 60");
}

/// A node of the subject index for each token is not counted: 558 MiB.
#[tokio::test]
async fn deep_subjects_keep_to_the_bound_of_the_history() {
    let nats = Nats::start(Version::Current).await;
    let publisher = nats.events().await;
    let app = App::start(&Config::on(&nats)).await;
    let before = app.resident();
    let subject = |n| format!("events.user.u{n}.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p");
    publisher.publish_all((0..150_000).map(|n| (subject(n), b"x".to_vec()))).await;
    app.metric_is("sidestream_stream_head", &[], 150_000.0, LONG).await;
    let grown = (app.resident() - before) >> 20;
    assert!(grown <= 128, "a history of 64 MiB takes {grown} MiB");
}

/// Clients in doubt that have left are kept until NATS is back: some 450 bytes for each attempt.
#[tokio::test]
async fn who_leaves_during_an_outage_is_forgotten() {
    let mut nats = Nats::start(Version::Current).await;
    nats.events().await;
    let app = App::start(&Config::on(&nats)).await;
    let mut alice = app.events("alice").await;
    nats.kill();
    alice.until_named("sidestream.degraded", DEADLINE).await;
    let round = async || {
        for _ in 0..20_000 {
            let request = get("/events").user("bob").header("Last-Event-ID", "abc.1.1");
            Wire::tcp(app.address()).await.send(&request.bytes()).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        app.resident() >> 10
    };
    let before = round().await;
    let grown = round().await.saturating_sub(before);
    assert!(grown <= 2048, "{grown} KiB more after 20 000 requests that have gone");
}
