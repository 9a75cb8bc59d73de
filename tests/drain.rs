//! SIGTERM while two thousand clients listen: they are sent away one by one, another sidecar takes them over, and nothing is lost
//! (requirement R62).

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http2::SendRequest;
use tokio::net::TcpStream;
use tokio::sync::Barrier;

use support::load::Load;
use support::{App, Config, DEADLINE, Event, Nats, Sse, Version, Wire, bounded, eventually, get, h2, json};

const OVER_H1: usize = 1900;
/// Connections with 25 streams each.
const OVER_H2: usize = 4;
const STREAMS: usize = 25;
const CLIENTS: usize = OVER_H1 + OVER_H2 * STREAMS;
const WINDOW: Duration = Duration::from_secs(4);
/// Debug builds of both ends on two cores.
const PATIENCE: Duration = Duration::from_secs(60);

/// How one client was sent away.
struct Farewell {
    at: Instant,
    reconnect: u64,
}

/// What one client has heard, which must be every event of the load in order.
#[derive(Default)]
struct Heard {
    next: u64,
    ended: bool,
    farewell: Option<Farewell>,
}

impl Heard {
    fn take(&mut self, event: &Event) {
        match event.name.as_str() {
            "sidestream.bye" => {
                let said = json(event);
                assert_eq!(said["code"], "drain");
                let reconnect = said["reconnect"].as_u64().expect("a number");
                assert!(self.farewell.is_none(), "sent away twice");
                self.farewell = Some(Farewell { at: Instant::now(), reconnect });
            }
            "sidestream.heartbeat" => {}
            "message" if event.data == "end" => self.ended = true,
            "message" => {
                assert_eq!(event.data, self.next.to_string(), "lost, doubled or out of order");
                self.next += 1;
            }
            other => panic!("{other}: {event:?}"),
        }
    }
}

/// Reads to the end of the load; sent away by the first sidecar, it asks there once more, and then goes to the second.
async fn over_h1(user: String, first: Arc<str>, second: Arc<str>, opened: Arc<Barrier>) -> Heard {
    let mut heard = Heard::default();
    let mut sse = Sse::open(Wire::tcp(&first).await, &get("/events").user(&user)).await;
    sse.forget_raw();
    opened.wait().await;
    while let Some(event) = sse.try_next(PATIENCE).await {
        heard.take(&event);
        assert!(!heard.ended, "the load ends after the first sidecar");
    }
    assert!(heard.farewell.is_some(), "{user} was cut off without a word");
    let back = get("/events").user(&user).header("Last-Event-ID", sse.last_event_id());
    if let Ok(stream) = TcpStream::connect(&*first).await {
        let mut wire = Wire::over(stream);
        wire.send_anyway(&back.bytes()).await;
        // It may end before it answers, but it does not open a stream.
        if let Some(head) = wire.try_head().await {
            assert_eq!(head.header("sidestream-refused"), Some("drain"), "{head:?}");
        }
    }
    let mut sse = Sse::open(Wire::tcp(&second).await, &back).await;
    sse.forget_raw();
    assert_eq!(sse.resume(), "exact", "{user}");
    while !heard.ended {
        heard.take(&sse.next_within(PATIENCE).await);
    }
    heard
}

async fn stream(sender: &mut SendRequest<Empty<Bytes>>, user: &str, cursor: Option<&str>) -> h2::Events {
    let mut request = h2::request("/events", user);
    if let Some(cursor) = cursor {
        request.headers_mut().insert("last-event-id", cursor.parse().expect("ASCII"));
    }
    let response = sender.send_request(request).await.expect("an answer");
    assert_eq!(response.headers().get("sidestream-refused"), None);
    let mut events = h2::Events::of(response.into_body());
    assert_eq!(events.next().await.name, "sidestream.connected");
    events
}

async fn over_h2(user: String, mut sender: SendRequest<Empty<Bytes>>, second: Arc<str>, opened: Arc<Barrier>) -> Heard {
    let mut heard = Heard::default();
    let mut events = stream(&mut sender, &user, None).await;
    opened.wait().await;
    while let Some(event) = events.try_next().await {
        heard.take(&event);
    }
    assert!(heard.farewell.is_some(), "{user} was cut off without a word");
    let cursor = events.last_event_id().to_owned();
    let mut events = stream(&mut h2::tcp(&second).await, &user, Some(&cursor)).await;
    while !heard.ended {
        heard.take(&events.next().await);
    }
    heard
}

#[tokio::test]
async fn two_thousand_clients_move_to_another_sidecar_and_lose_nothing() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let mut config = Config::on(&nats).server("h2c = true\n");
        config.drain_window = "4s";
        let mut first = App::start(&config).await;
        let second = App::start(&config).await;
        let (here, there): (Arc<str>, Arc<str>) = (first.address().into(), second.address().into());
        let opened = Arc::new(Barrier::new(CLIENTS + 1));
        let mut clients = tokio::task::JoinSet::new();
        for number in 0..OVER_H1 {
            clients.spawn(over_h1(format!("u{number}"), here.clone(), there.clone(), opened.clone()));
        }
        for connection in 0..OVER_H2 {
            let sender = h2::tcp(&here).await;
            for number in 0..STREAMS {
                let user = format!("h{connection}-{number}");
                clients.spawn(over_h2(user, sender.clone(), there.clone(), opened.clone()));
            }
        }
        let all_open = tokio::time::timeout(PATIENCE, opened.wait()).await;
        assert!(all_open.is_ok(), "not all clients were let in");
        let load = Load::start(publisher.jetstream().clone(), 5);
        load.goes_on(5).await;
        let began = Instant::now();
        first.terminate();
        assert!(first.exit(WINDOW + Duration::from_secs(3)).await.success());
        let took = began.elapsed();
        load.goes_on(5).await;
        let stored = load.stop().await.expect("one server");

        let heard = clients.join_all().await;
        assert!(heard.iter().all(|heard| heard.next as usize + 1 == stored.len()), "some missed the rest");
        let mut farewells: Vec<_> = heard.into_iter().filter_map(|heard| heard.farewell).collect();
        assert_eq!(farewells.len(), CLIENTS);
        farewells.sort_by_key(|farewell| farewell.at);
        let spread = farewells[CLIENTS * 9 / 10].at - farewells[CLIENTS / 10].at;
        println!("{CLIENTS} clients: drained in {took:?}, the middle four fifths within {spread:?}");
        assert!(spread > WINDOW / 3, "sent away together, within {spread:?}");
        let retries: HashSet<u64> = farewells.iter().map(|farewell| farewell.reconnect).collect();
        assert!(retries.len() > CLIENTS / 4, "{} reconnection times for {CLIENTS} clients", retries.len());
        for app in [&second] {
            assert!(app.metric("sidestream_gaps_total", &[]).await < 0.5, "a false gap");
        }
    })
    .await;
}

/// The first of its streams that ends tells an HTTP/2 connection that it is to ask elsewhere; the others go on until it is their turn.
#[tokio::test]
async fn an_http_2_connection_is_told_to_go_away_and_its_streams_end_one_by_one() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let mut config = Config::on(&nats).server("h2c = true\n");
        config.drain_window = "6s";
        let mut app = App::start(&config).await;
        let (mut sender, connection) =
            ::h2::client::handshake(TcpStream::connect(app.address()).await.expect("accepts"))
                .await
                .expect("an HTTP/2 handshake");
        let connection = tokio::spawn(connection);
        let mut bodies = Vec::new();
        for number in 0..8 {
            sender = sender.ready().await.expect("the connection is up");
            let request = h2::request("/events", &format!("u{number}")).map(|_| ());
            let (response, _) = sender.send_request(request, true).expect("a request");
            bodies.push(response.await.expect("an answer").into_body());
        }
        app.metric_is("sidestream_connections", &[], 8.0, DEADLINE).await;
        app.terminate();
        eventually("the first stream has ended", DEADLINE, async || {
            (app.metric("sidestream_connections_closed_total", &[("reason", "drain")]).await > 0.0).then_some(())
        })
        .await;
        let refused = eventually("new requests are refused by the connection", DEADLINE, async || {
            sender.clone().ready().await.err()
        })
        .await;
        assert!(refused.is_go_away() && refused.reason() == Some(::h2::Reason::NO_ERROR), "{refused:?}");
        publisher.publish("events.broadcast.x", "meanwhile").await;
        let mut meanwhile = 0;
        for mut body in bodies {
            let mut text = Vec::new();
            while let Some(piece) = tokio::time::timeout(DEADLINE, body.data()).await.expect("the rest in time") {
                let piece = piece.expect("no stream is reset");
                let _ = body.flow_control().release_capacity(piece.len());
                text.extend_from_slice(&piece);
            }
            let text = String::from_utf8(text).expect("UTF-8");
            assert!(text.contains("event: sidestream.bye\n"), "{text}");
            meanwhile += usize::from(text.contains("data: meanwhile\n"));
        }
        assert!(meanwhile > 0, "all streams ended with the first");
        let ended = tokio::time::timeout(DEADLINE, connection).await.expect("the connection ends");
        assert!(ended.expect("no panic").is_ok(), "it ends in order");
        assert!(app.exit(DEADLINE).await.success());
    })
    .await;
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let mut config = Config::on(&nats);
        config.drain_window = "5m";
        let mut app = App::start(&config).await;
        let mut held = Vec::new();
        for number in 0..20 {
            held.push(app.events(&format!("u{number}")).await);
        }
        app.terminate();
        app.logs("Draining", DEADLINE).await;
        assert_eq!(app.admin_get("/readyz").await.head.status, 503);
        app.terminate();
        assert!(app.exit(Duration::from_secs(3)).await.success());
    })
    .await;
}
