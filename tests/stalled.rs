//! Readers that stall in every phase and protocol: a bounded cost in the process and in the kernel, put out in time, counted by
//! reason and phase, and whole again when they come back. Beside them, siblings on the same HTTP/2 connection.

mod support;

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use support::h2::{Deaf, Ear};
use support::{App, Config, DEADLINE, Event, Nats, Publisher, Sse, Version, Wire, get, h2, seq_of};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

/// Of each of the six kinds.
const EACH: usize = 167;
const ALL: usize = 6 * EACH;
/// Of each kind, how many come back and are checked event by event.
const CHECKED: usize = 3;
/// What a stalled reader may cost, in the process and in the kernel.
const COST: u64 = 512 * 1024;
/// From the stall to the end, under traffic: `limits.write_timeout` of 10 s, a sweep of one, and what it takes to fill
/// the socket.
const GONE: Duration = Duration::from_secs(15);
const EVENT: usize = 8 * 1024;
/// Events that those in replay have missed: more than a socket and a piece hold.
const PAST: usize = 200;
/// Events of one's own for each who stalls while it hears what comes: more than a socket takes (20 to 70 KiB, and on HTTP/2
/// 16 KiB more in its connection), but no more than its queue holds beside that, so that it does not fall behind.
const OWN: usize = 28;

const OWN_ROUTE: &str = "\n[[route]]\npath = \"/own\"\nstream = \"EVENTS\"\nsubjects = [\"events.user.{user}.>\"]\n";

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stall {
    /// Asks for its stream and reads nothing.
    BeforeTheHead,
    /// Is getting what it missed.
    InReplay,
    /// Hears what comes, on a route of its own.
    Live,
}

impl Stall {
    fn path(self) -> &'static str {
        if self == Self::Live { "/own" } else { "/events" }
    }
}

const STALLS: [Stall; 3] = [Stall::BeforeTheHead, Stall::InReplay, Stall::Live];

/// One that has stalled, and can be made to read again.
enum Stalled {
    Silent(#[allow(dead_code, reason = "held open")] TcpStream),
    Http1(Box<Sse>),
    Http2(Box<h2::Events>, Ear),
    /// The request is on its way; nobody reads the answer.
    Http2Silent,
}

fn event(n: usize) -> Vec<u8> {
    format!("{n} {}", "x".repeat(EVENT)).into_bytes()
}

fn number(event: &Event) -> usize {
    let number = event.data.split(' ').next().and_then(|n| n.parse().ok());
    number.unwrap_or_else(|| panic!("not one of ours: {}", event.name))
}

async fn publish(publisher: &Publisher, range: std::ops::Range<usize>) {
    publisher.publish_all(range.map(|n| ("events.broadcast.news".to_owned(), event(n)))).await;
}

/// To each who stalls while it hears what comes.
async fn publish_own(publisher: &Publisher) {
    for n in 0..OWN {
        let all = (0..EACH).map(|index| (format!("events.user.{:?}{index}.own", Stall::Live), event(n)));
        publisher.publish_all(all).await;
    }
}

/// Asks on HTTP/1.1 and stalls.
async fn http_1(app: &App, stall: Stall, user: &str, past: &str) -> Stalled {
    let request = get(stall.path()).user(user);
    match stall {
        Stall::BeforeTheHead => {
            let mut socket = support::client::narrow(app.address()).await;
            socket.write_all(&request.bytes()).await.expect("the request is taken");
            Stalled::Silent(socket)
        }
        Stall::InReplay | Stall::Live => {
            let request = if stall == Stall::InReplay { request.header("Last-Event-ID", past) } else { request };
            let mut sse = Sse::open(Wire::narrow(app.address()).await, &request).await;
            sse.forget_raw();
            Stalled::Http1(Box::new(sse))
        }
    }
}

/// The same on HTTP/2.
async fn http_2(app: &App, stall: Stall, user: &str, past: &str) -> Stalled {
    let (io, ear) = Deaf::over(support::client::narrow(app.address()).await);
    let mut sender = h2::over(io).await;
    let mut request = h2::request(stall.path(), user);
    match stall {
        Stall::BeforeTheHead => {
            ear.stop();
            tokio::spawn(async move {
                let _ = sender.send_request(request).await;
            });
            Stalled::Http2Silent
        }
        Stall::InReplay | Stall::Live => {
            if stall == Stall::InReplay {
                request.headers_mut().insert("last-event-id", past.parse().expect("a cursor"));
            }
            let answer = sender.send_request(request).await.expect("an answer");
            let mut events = h2::Events::of(answer.into_body());
            assert_eq!(events.next().await.name, "sidestream.connected");
            ear.stop();
            Stalled::Http2(Box::new(events), ear)
        }
    }
}

/// Bytes that the kernel holds for the server's side of its connections: `ss` tells each socket's.
fn kernel(app: &App) -> u64 {
    let port = app.address().rsplit_once(':').expect("host:port").1;
    let listing = Command::new("ss").args(["-tmnHO", "state", "connected", &format!("( sport = :{port} )")]).output();
    let listing = String::from_utf8(listing.expect("ss is there").stdout).expect("text");
    // skmem:(r0,rb131072,t0,tb87040,f4096,w12288,o0,bl0,d0): allocated for receiving, for sending, forward, written.
    let socket = |line: &str| -> u64 {
        let fields = line.split_once("skmem:(").and_then(|(_, rest)| rest.split_once(')')).map_or("", |(f, _)| f);
        let named = |name: char| {
            let value = fields.split(',').find_map(|field| field.strip_prefix(name)?.parse::<u64>().ok());
            value.unwrap_or_default()
        };
        named('r') + named('f') + named('w')
    };
    listing.lines().map(socket).sum()
}

#[allow(clippy::cast_precision_loss, reason = "a thousand")]
#[tokio::test]
async fn a_thousand_stalled_readers_cost_little_and_are_gone_in_time() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let config = Config::on(&nats)
            .server("h2c = true\n")
            .limit("queue_bytes", "\"256KiB\"")
            .tables(OWN_ROUTE)
            .tables("\n[history]\nbytes = \"2MiB\"\n");
        let app = App::start(&config).await;
        let past = app.events("first").await.last_event_id().to_owned();
        publish(&publisher, 0..PAST).await;
        app.metric_is("sidestream_stream_head", &[], PAST as f64, DEADLINE).await;
        let mut healthy = app.events("healthy").await;
        healthy.forget_raw();
        let (resident, in_kernel) = (app.resident(), kernel(&app));

        let mut stalled: BTreeMap<(Stall, bool), Vec<Stalled>> = BTreeMap::new();
        let began = Instant::now();
        for stall in STALLS {
            for block in (0..EACH).step_by(25) {
                let users: Vec<String> = (block..EACH.min(block + 25)).map(|n| format!("{stall:?}{n}")).collect();
                let one = join_all(users.iter().map(|user| http_1(&app, stall, user, &past)));
                // The same users: what is sent to them, both hear.
                let two = join_all(users.iter().map(|user| http_2(&app, stall, user, &past)));
                let (one, two) = tokio::join!(one, two);
                stalled.entry((stall, false)).or_default().extend(one);
                stalled.entry((stall, true)).or_default().extend(two);
            }
        }
        let there = app.metric("sidestream_connections", &[]).await;
        println!("{there} streams after {:?}, {ALL} stalled", began.elapsed());

        let stalled_at = Instant::now();
        publish_own(&publisher).await;
        // Traffic, each event seen by the healthy reader before the next ones.
        let (mut n, mut most) = (PAST, 0);
        let gone = loop {
            publish(&publisher, n..n + 8).await;
            for n in n..n + 8 {
                assert_eq!(number(&healthy.event().await), n, "the healthy reader");
            }
            n += 8;
            let metrics = app.metrics().await;
            let cost = (app.resident() + kernel(&app)).saturating_sub(resident + in_kernel);
            most = most.max(cost);
            let closed = metrics.sum("sidestream_connections_closed_total", &[("reason", "slow")]);
            if closed >= ALL as f64 {
                break stalled_at.elapsed();
            }
            assert!(stalled_at.elapsed() < GONE, "{closed} of {ALL} gone after {GONE:?}");
        };
        println!("all gone after {gone:?}; at most {} KiB for each, kernel included", most / ALL as u64 / 1024);
        assert!(most / ALL as u64 <= COST, "{} bytes for each stalled reader", most / ALL as u64);
        app.metric_is("sidestream_connections", &[], 1.0, DEADLINE).await;
        counted_by_phase(&app).await;
        // Of HTTP/2 connections too nothing stays but the healthy reader's, although their peers read nothing.
        app.metric_is("sidestream_tasks", &[], 1.0, DEADLINE).await;

        let (app, past) = (&app, past.as_str());
        let back = stalled.into_iter().flat_map(|((stall, _), all)| {
            all.into_iter().take(CHECKED).enumerate().map(move |(index, one)| {
                let user = format!("{stall:?}{index}");
                let all = match stall {
                    Stall::BeforeTheHead | Stall::InReplay => 0..n,
                    Stall::Live => 0..OWN,
                };
                async move { loses_nothing(app, stall, &user, one, all, past).await }
            })
        });
        join_all(back).await;
        assert_eq!(app.metric("sidestream_gaps_total", &[]).await, 0.0, "a false gap");
    })
    .await;
}

/// Slow readers only, in each phase at least those who stalled there.
async fn counted_by_phase(app: &App) {
    let metrics = app.metrics().await;
    let closed = |labels: &[(&str, &str)]| metrics.sum("sidestream_connections_closed_total", labels);
    let by: Vec<f64> =
        ["opening", "replay", "live"].iter().map(|phase| closed(&[("reason", "slow"), ("phase", phase)])).collect();
    println!("opening, replay, live: {by:?}");
    #[allow(clippy::cast_precision_loss, reason = "a thousand")]
    let (all, each) = (ALL as f64, EACH as f64);
    assert_eq!(by.iter().sum::<f64>(), all);
    assert!(by[1] >= 2.0 * each, "those in replay, on both protocols");
    assert!(by[2] >= 2.0 * each, "those who heard what came, on both protocols");
}

/// Reads what had arrived, comes back with the last id of it, and gets the rest exactly. Who has read nothing comes back with
/// the id it had before.
async fn loses_nothing(app: &App, stall: Stall, user: &str, one: Stalled, all: std::ops::Range<usize>, past: &str) {
    let mut seen = Vec::new();
    let mut id = past.to_owned();
    match one {
        Stalled::Silent(_) | Stalled::Http2Silent => {}
        Stalled::Http1(mut sse) => {
            seen.extend(sse.rest().await);
            id = sse.last_event_id().to_owned();
        }
        Stalled::Http2(mut events, ear) => {
            ear.hear();
            while let Some(event) = events.try_next().await {
                seen.push(event);
            }
            id = events.last_event_id().to_owned();
        }
    }
    let mut seen: Vec<usize> = seen.iter().filter(|event| !event.name.starts_with("sidestream.")).map(number).collect();
    let mut again = app.stream(get(stall.path()).user(user).header("Last-Event-ID", &id)).await;
    assert_eq!(again.resume(), "exact", "{user}");
    again.forget_raw();
    let mut last = seq_of(&id);
    while seen.last().is_none_or(|n| n + 1 < all.end) {
        let event = again.event().await;
        let seq = event.id.as_deref().map_or(0, seq_of);
        assert!(seq > last, "{user}: {seq} after {last}");
        last = seq;
        seen.push(number(&event));
    }
    assert!(seen.iter().copied().eq(all.clone()), "{user}, {all:?}: lost, doubled or out of order: {seen:?}");
}

/// One stream of a connection whose reader does not read, with a window that is soon used up, and its siblings.
#[tokio::test]
async fn a_stalled_stream_is_reset_and_its_siblings_lose_nothing() {
    const STREAMS: usize = 100;
    const WARM: usize = 400;
    const COUNT: usize = 100;
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let config = Config::on(&nats)
            .server("h2c = true\n")
            .limit("write_timeout", "\"4s\"")
            .tables("\n[history]\nbytes = \"1MiB\"\n");
        let app = App::start(&config).await;
        let io = TcpStream::connect(app.address()).await.expect("accepts");
        // The connection's window is never what stops a stream.
        let sender = h2::windowed(io, 16 * 1024, 64 << 20).await;
        let mut streams = join_all((0..STREAMS).map(|n| {
            let mut sender = sender.clone();
            async move {
                let answer = sender.send_request(h2::request("/events", &format!("user{n}"))).await.expect("an answer");
                h2::Events::of(answer.into_body())
            }
        }))
        .await;
        for events in &mut streams {
            assert_eq!(events.next().await.name, "sidestream.connected");
        }
        // Everything is as large as it gets before anybody stalls.
        let mut before = Vec::new();
        for n in (0..WARM).step_by(10) {
            publish(&publisher, n..n + 10).await;
            join_all(streams.iter_mut().map(|events| hears(events, n..n + 10))).await;
            before.push(app.resident());
        }
        let mut stalled = streams.pop().expect("a hundred");
        let (mut n, mut after, began) = (WARM, Vec::new(), Instant::now());
        // On under traffic until it is gone, and then for a while.
        let mut rest = COUNT;
        while rest > 0 {
            publish(&publisher, n..n + 10).await;
            join_all(streams.iter_mut().map(|events| hears(events, n..n + 10))).await;
            n += 10;
            after.push(app.resident());
            if app.metric("sidestream_connections_closed_total", &[("reason", "slow")]).await > 0.5 {
                rest -= 10;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "the stalled stream is still there");
        }
        let grown = at_rest(after).saturating_sub(at_rest(before.split_off(WARM / 20)));
        println!("{} events, {} KiB more", n - WARM, grown / 1024);
        assert!(grown <= COST, "{grown} bytes more");
        #[allow(clippy::cast_precision_loss, reason = "a hundred")]
        app.metric_is("sidestream_connections", &[], (STREAMS - 1) as f64, DEADLINE).await;
        // It was reset, behind what fitted its window.
        let mut seen = WARM;
        while let Some(event) = stalled.try_next().await {
            if !event.name.starts_with("sidestream.") {
                assert_eq!(number(&event), seen, "the stalled stream");
                seen += 1;
            }
        }
        assert!(seen < n, "the stalled stream got everything");
    })
    .await;
}

/// A window that is shut before anything large waits: nothing moves, so it goes as well.
#[tokio::test]
async fn a_stream_with_a_shut_window_goes_although_little_waits() {
    support::bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let app = App::start(&Config::on(&nats).server("h2c = true\n").limit("write_timeout", "\"4s\"")).await;
        let io = TcpStream::connect(app.address()).await.expect("accepts");
        let mut sender = h2::windowed(io, 1024, 64 << 20).await;
        let mut streams = Vec::new();
        for user in ["reads", "stalls"] {
            let answer = sender.send_request(h2::request("/events", user)).await.expect("an answer");
            let mut events = h2::Events::of(answer.into_body());
            assert_eq!(events.next().await.name, "sidestream.connected");
            streams.push(events);
        }
        publish(&publisher, 0..1).await;
        let began = Instant::now();
        hears(&mut streams[0], 0..1).await;
        app.metric_is("sidestream_connections_closed_total", &[("reason", "slow")], 1.0, GONE).await;
        assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
        publish(&publisher, 1..2).await;
        hears(&mut streams[0], 1..2).await;
        app.metric_is("sidestream_connections", &[], 1.0, DEADLINE).await;
    })
    .await;
}

/// Without what is in flight at the moment, which makes a megabyte more or less.
fn at_rest(mut samples: Vec<u64>) -> u64 {
    samples.sort_unstable();
    samples[samples.len() / 8]
}

async fn hears(events: &mut h2::Events, range: std::ops::Range<usize>) {
    for n in range {
        let event = loop {
            let event = events.next().await;
            if event.name != "sidestream.heartbeat" {
                break event;
            }
        };
        assert_eq!(number(&event), n, "a sibling");
    }
}
