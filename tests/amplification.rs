//! Two hundred clients that resume at once from the beginning of a large stream, and read slowly, cost about one read of it
//! and a bounded amount of memory; nobody else loses anything by it; and when they leave in the middle, nothing of them
//! stays at NATS.
//!
//! The stream has 50 000 messages of 1 KiB: more than the passes hold at any time.

mod support;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::client::{Io, narrow};
use support::{App, Config, Nats, Publisher, Sse, Version, Wire, eventually, get, on_both_servers, seq_of};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

/// Everything, to whoever asks; and a history so small that nearly all of it must be read from NATS.
const ROUTE: &str = r#"
[history]
bytes = "64KiB"
[[route]]
path = "/everything"
stream = "EVENTS"
subjects = ["events.>"]
audience = "anyone"
"#;
const CLIENTS: usize = 200;
const MESSAGES: usize = 50_000;
const MESSAGE_BYTES: usize = 1024;
const RANGE: u64 = (MESSAGES * MESSAGE_BYTES) as u64;
/// How often the range may be read in all: by the first pass, by one for those who came too late for it, and again from
/// where those are who fell behind. Measured: 1.0.
const READS_MAX: u64 = 2;
/// What the program may grow by.
const GROWTH_MAX: u64 = 64 << 20;
/// The feed's, one for each pass, and one of a pass that has just ended.
const CONSUMERS_MAX: usize = 4;
const LONG: Duration = Duration::from_secs(60);
/// How soon nothing of those who left is found at NATS.
const FORGET: Duration = Duration::from_secs(5);
/// How often a slow reader reads a little.
const PACE: Duration = Duration::from_millis(100);

/// What it costs.
struct Cost<'a> {
    nats: &'a Nats,
    publisher: &'a Publisher,
    app: &'a App,
    resident: u64,
    sent: u64,
}

impl<'a> Cost<'a> {
    async fn from_now(nats: &'a Nats, publisher: &'a Publisher, app: &'a App) -> Self {
        Self { nats, publisher, app, resident: app.resident(), sent: nats.sent_to("sidestream-history-EVENTS").await }
    }

    /// What has been read of the past.
    async fn read(&self) -> u64 {
        self.nats.sent_to("sidestream-history-EVENTS").await - self.sent
    }

    /// While something happens, a live client hears everything that is for it at once and in order, and the program stays
    /// within its bounds.
    async fn is_bounded_while(&self, live: &mut Sse, what: &str, work: impl Future<Output = ()>) {
        let (mut slowest, mut grown, mut rounds) = (Duration::ZERO, 0, 0);
        let mut work = std::pin::pin!(work);
        let mut pace = tokio::time::interval(Duration::from_millis(50));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = &mut work => break,
                _ = pace.tick() => {}
            }
            let mut round = std::pin::pin!(async {
                let marker = format!("{what} {rounds}");
                let published = Instant::now();
                self.publisher.publish("events.user.live.x", &marker).await;
                live.nothing_before(&marker).await;
                slowest = slowest.max(published.elapsed());
                let consumers = self.publisher.consumers("EVENTS").await.len();
                assert!(consumers <= CONSUMERS_MAX, "{what}: {consumers} consumers");
                grown = grown.max(self.app.resident().saturating_sub(self.resident));
                assert!(grown <= GROWTH_MAX, "{what}: {} MiB more than before", grown >> 20);
                rounds += 1;
            });
            // Both go on: the readers must not wait for the witness.
            tokio::select! {
                () = &mut round => {}
                () = &mut work => {
                    round.await;
                    break;
                }
            }
        }
        let read = self.read().await;
        println!(
            "{what}: {:.2} of the range read, {} MiB more memory at most, {rounds} live events, the slowest in {slowest:?}",
            read as f64 / RANGE as f64,
            grown >> 20,
        );
    }
}

/// A connection of which so many bytes are read at a time.
fn slowly(stream: TcpStream, bytes: usize) -> impl Io {
    let (mut read, write) = stream.into_split();
    let (near, mut far) = tokio::io::duplex(bytes);
    tokio::spawn(async move {
        let mut pace = tokio::time::interval(PACE);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            pace.tick().await;
            let copied = tokio::io::copy(&mut (&mut read).take(bytes as u64), &mut far).await;
            if !matches!(copied, Ok(1..)) {
                return;
            }
        }
    });
    tokio::io::join(near, write)
}

/// A client of its own events, from 40 to 440 KiB a second, that must get exactly those.
async fn reads_its_own(address: String, cursor: String, index: usize) {
    let request = get("/events").user(&format!("u{index}")).header("Last-Event-ID", &cursor);
    // Who waits too long for a turn is refused softly and comes back.
    let mut sse = loop {
        let wire = Wire::over(slowly(narrow(&address).await, 4096 + 200 * index));
        if let Some(sse) = Sse::try_open(wire, &request).await {
            break sse;
        }
    };
    sse.forget_raw();
    for number in (0..MESSAGES).filter(|number| number % CLIENTS == index) {
        let event = sse.event_within(LONG).await;
        assert_eq!(event.data.parse(), Ok(number), "u{index}: lost, doubled, out of order, or {}", event.name);
    }
}

/// A client of everything, as slow, that counts what it reads.
async fn reads_everything(address: String, cursor: String, index: usize, total: Arc<AtomicU64>) {
    let mut stream = narrow(&address).await;
    let request = get("/everything").header("Last-Event-ID", &cursor);
    stream.write_all(&request.bytes()).await.expect("written");
    let mut buffer = vec![0; 4096 + 200 * index];
    let mut pace = tokio::time::interval(PACE);
    // Refused softly or cut: the storm goes on without it.
    while stream.read_exact(&mut buffer).await.is_ok() {
        total.fetch_add(buffer.len() as u64, Ordering::Relaxed);
        pace.tick().await;
    }
}

on_both_servers! {
    async fn slow_readers_of_a_whole_stream_are_bounded(version: Version) {
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).tables(ROUTE).limit("replay_events", "1000000")).await;
        let start = app.events("live").await.last_event_id().to_owned();
        let payload = |number: usize| format!("{number:0>MESSAGE_BYTES$}").into_bytes();
        publisher.publish_all((0..MESSAGES).map(|n| (format!("events.user.u{}.x", n % CLIENTS), payload(n)))).await;
        app.metric_is("sidestream_stream_head", &[], MESSAGES as f64, LONG).await;
        let baseline = publisher.consumers("EVENTS").await.len();
        let mut live = app.events("live").await;

        let cost = Cost::from_now(&nats, &publisher, &app).await;
        let mut readers = JoinSet::new();
        for index in 0..CLIENTS {
            readers.spawn(reads_its_own(app.address().to_owned(), start.clone(), index));
        }
        let all = async {
            while let Some(reader) = readers.join_next().await {
                reader.expect("every client gets its own");
            }
        };
        cost.is_bounded_while(&mut live, "own", all).await;
        let read = cost.read().await;
        assert!(read < READS_MAX * RANGE, "{:.2} times the range was read", read as f64 / RANGE as f64);

        let cost = Cost::from_now(&nats, &publisher, &app).await;
        let total = Arc::new(AtomicU64::new(0));
        for index in 0..CLIENTS {
            readers.spawn(reads_everything(app.address().to_owned(), start.clone(), index, total.clone()));
        }
        // Three times the range, in all; none of them gets far.
        let some = eventually("they read", LONG, async || (total.load(Ordering::Relaxed) >= 3 * RANGE).then_some(()));
        cost.is_bounded_while(&mut live, "everything", some).await;
        let read = cost.read().await;
        assert!(read < RANGE, "{:.2} times the range was read", read as f64 / RANGE as f64);

        assert!(publisher.consumers("EVENTS").await.len() > baseline, "nobody replays any more");
        readers.shutdown().await;
        eventually("the consumers of those who left are gone", FORGET, async || {
            (publisher.consumers("EVENTS").await.len() <= baseline).then_some(())
        })
        .await;
        publisher.publish("events.user.live.x", "the end").await;
        live.before("the end").await;
        assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
    }
    async fn a_restarted_sidecar_fills_its_history_once_and_for_all(version: Version) {
        const COUNT: usize = 20_000;
        let nats = Nats::start(version).await;
        let publisher = nats.events().await;
        let config = Config::on(&nats);
        let start = {
            let app = App::start(&config).await;
            app.events("live").await.last_event_id().to_owned()
        };
        // A tenth of them for everybody.
        let subject = |n: usize| match n % 10 {
            0 => "events.broadcast.x".to_owned(),
            _ => format!("events.user.u{}.x", n % CLIENTS),
        };
        publisher.publish_all((0..COUNT).map(|n| (subject(n), format!("{n} {:x>200}", "").into_bytes()))).await;
        let stored = publisher.stored_bytes("EVENTS").await;
        // That of the sidecar before may still be there.
        let before = publisher.consumers("EVENTS").await;
        let app = App::start(&config).await;
        // Each with a cursor of its own, somewhere in what has been filled again.
        let mut cursors = vec![start.clone()];
        let mut all = app.stream(get("/events").user("u1").header("Last-Event-ID", &start)).await;
        while cursors.len() < CLIENTS {
            all.event().await;
            cursors.push(all.last_event_id().to_owned());
        }
        let mut clients = JoinSet::new();
        for (index, cursor) in cursors.into_iter().enumerate() {
            let (address, after) = (app.address().to_owned(), seq_of(&cursor));
            clients.spawn(async move {
                let user = format!("u{index}");
                let request = get("/events").user(&user).header("Last-Event-ID", &cursor);
                let mut sse = Sse::open(Wire::tcp(&address).await, &request).await;
                assert_eq!(sse.resume(), "exact");
                let mine = |n: &usize| *n as u64 + 1 > after && (n.is_multiple_of(10) || n % CLIENTS == index);
                for number in (0..COUNT).filter(mine) {
                    let event = sse.event_within(LONG).await;
                    assert_eq!(event.data.split(' ').next().and_then(|n| n.parse().ok()), Some(number), "{user}");
                }
            });
        }
        while let Some(client) = clients.join_next().await {
            client.expect("every client gets what it missed");
            let mut consumers = publisher.consumers("EVENTS").await;
            consumers.retain(|name| !before.contains(name));
            assert_eq!(consumers.len(), 1, "{consumers:?}");
        }
        let sent = nats.sent_to("sidestream-feed-EVENTS").await;
        println!("{:.2} of the range was sent", sent as f64 / stored as f64);
        assert!((stored / 2..stored * 3 / 2).contains(&sent), "{sent} bytes sent, the range is {stored}");
        assert!(app.metric("sidestream_replayed_events_total", &[]).await < 0.5, "somebody read the stream again");
    }
}
