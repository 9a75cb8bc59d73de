//! Every limit on streams, asked through HTTP: who is refused is told to come back, in the way it understands, and does; who is
//! inside notices nothing, however many are refused. The whole process and one user's streams are also in `eviction.rs`.

mod support;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use support::{App, Config, DEADLINE, Nats, Request, Sse, Version, Wire, bounded, eventually, get, h2};

async fn app(change: impl FnOnce(Config) -> Config) -> (Nats, App) {
    let nats = Nats::start(Version::Current).await;
    nats.events().await;
    let app = App::start(&change(Config::on(&nats).server("h2c = true\n"))).await;
    (nats, app)
}

/// A request of a user behind an address, as the proxy on loopback tells it.
fn from(user: &str, address: &str) -> Request {
    get("/events").user(user).header("X-Forwarded-For", address)
}

async fn open(app: &App, request: &Request) -> Option<Sse> {
    Sse::try_open(Wire::tcp(app.address()).await, request).await
}

/// Refused for this reason: softly where an event stream was asked for, by this status and `Retry-After` where not, and over
/// HTTP/2 as over HTTP/1.1.
async fn is_refused(app: &App, user: &str, address: &str, reason: &str, status: u16) {
    app.ask(from(user, address)).await.is_soft_refusal(reason);
    let answer = app.ask(from(user, address).without("Accept").header("Accept", "*/*")).await;
    answer.is_refusal(status, if status == 429 { "too_many_requests" } else { "unavailable" });
    assert_eq!(answer.head.header("sidestream-refused"), Some(reason), "{:?}", answer.head);
    let after = answer.head.header("retry-after").and_then(|seconds| seconds.parse::<u32>().ok());
    assert!(after.is_some_and(|seconds| (1..=10).contains(&seconds)), "{:?}", answer.head);

    let mut request = h2::request("/events", user);
    request.headers_mut().insert("x-forwarded-for", address.parse().expect("a header value"));
    let answer = h2::tcp(app.address()).await.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["sidestream-refused"], reason);
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    assert!(body.starts_with(b"retry: ") && body.ends_with(b"\n") && !body.ends_with(b"\n\n"), "{body:?}");
}

/// Waits, as a browser would, until the client is let in.
async fn comes_back(app: &App, request: &Request) -> Sse {
    eventually("who was refused is let in", DEADLINE, async || open(app, request).await).await
}

#[tokio::test]
async fn an_address_has_so_many_streams_and_an_ipv6_net_is_one_address() {
    bounded(async {
        let (_nats, app) = app(|config| config.limit("connections_per_address", "2")).await;
        for (first, second, third, other) in [
            ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:1::3", "2001:db8:0:2::1"),
            ("198.51.100.7", "::ffff:198.51.100.7", "198.51.100.7", "::ffff:198.51.100.8"),
        ] {
            let one = open(&app, &from("a", first)).await.expect("let in");
            let two = open(&app, &from("b", second)).await.expect("let in");
            is_refused(&app, "c", third, "address", 429).await;
            open(&app, &from("c", other)).await.expect("another address is let in");
            drop(one);
            comes_back(&app, &from("c", third)).await;
            drop(two);
        }
    })
    .await;
}

#[tokio::test]
async fn a_user_has_so_many_streams_wherever_they_come_from() {
    bounded(async {
        let (_nats, app) = app(|config| config.limit("connections_per_user", "2")).await;
        let held = [open(&app, &from("a", "192.0.2.1")).await, open(&app, &from("a", "192.0.2.2")).await];
        assert!(held.iter().all(Option::is_some));
        is_refused(&app, "a", "192.0.2.3", "user", 429).await;
        open(&app, &from("b", "192.0.2.1")).await.expect("another user is let in");
        drop(held);
        comes_back(&app, &from("a", "192.0.2.3")).await;
    })
    .await;
}

#[tokio::test]
async fn the_process_has_so_many_streams() {
    bounded(async {
        let (_nats, app) = app(|config| config.limit("connections", "2")).await;
        let held = [open(&app, &from("a", "192.0.2.1")).await, open(&app, &from("b", "192.0.2.2")).await];
        assert!(held.iter().all(Option::is_some));
        is_refused(&app, "c", "192.0.2.3", "connections", 503).await;
        drop(held);
        comes_back(&app, &from("c", "192.0.2.3")).await;
    })
    .await;
}

/// Opens streams until one is refused for the rate; gives how many were let in.
async fn until_paced(app: &App, request: impl Fn(usize) -> Request) -> usize {
    for count in 0..50 {
        let answer = app_answer(app, &request(count)).await;
        if let Some(reason) = answer {
            assert_eq!(reason, "rate");
            return count;
        }
    }
    panic!("fifty streams at once, and nobody was refused");
}

/// Opens a stream and lets it go; the reason if it was refused.
async fn app_answer(app: &App, request: &Request) -> Option<String> {
    let mut wire = Wire::tcp(app.address()).await;
    wire.send(&request.bytes()).await;
    wire.head().await.header("sidestream-refused").map(str::to_owned)
}

#[tokio::test]
async fn streams_are_opened_at_a_pace_by_user_by_address_and_in_all() {
    bounded(async {
        // Slow enough that a busy machine does not refill what is counted: two at once, then one a second.
        let nats = Nats::start(Version::Current).await;
        nats.events().await;
        let paced = |key| Config::on(&nats).server("h2c = true\n").limit(key, "1");
        let (by_user, by_address, in_all) = (
            paced("connects_per_second_per_user"),
            paced("connects_per_second_per_address"),
            paced("connects_per_second"),
        );
        let (by_user, by_address, in_all) =
            tokio::join!(App::start(&by_user), App::start(&by_address), App::start(&in_all));

        let count = until_paced(&by_user, |n| from("a", &format!("192.0.2.{n}"))).await;
        assert!((2..10).contains(&count), "{count} of one user at once");
        is_refused(&by_user, "a", "192.0.2.99", "rate", 429).await;
        open(&by_user, &from("b", "192.0.2.1")).await.expect("another user is let in");
        comes_back(&by_user, &from("a", "192.0.2.99")).await;

        let count = until_paced(&by_address, |n| from(&format!("user{n}"), &format!("2001:db8::{n:x}"))).await;
        assert!((2..10).contains(&count), "{count} of one net at once");
        is_refused(&by_address, "late", "2001:db8::ffff", "rate", 429).await;
        open(&by_address, &from("late", "2001:db8:1::1")).await.expect("another net is let in");
        comes_back(&by_address, &from("late", "2001:db8::ffff")).await;

        let count = until_paced(&in_all, |n| from(&format!("user{n}"), &format!("192.0.2.{n}"))).await;
        assert!((2..10).contains(&count), "{count} at once");
        is_refused(&in_all, "late", "192.0.2.99", "rate", 429).await;
        comes_back(&in_all, &from("late", "192.0.2.99")).await;
    })
    .await;
}

#[tokio::test]
async fn a_storm_of_refusals_is_not_noticed_by_those_inside() {
    const INSIDE: usize = 20;
    const STORM: usize = 2000;
    const AT_ONCE: usize = 50;
    /// Two cores for everybody, and a program that is not optimised.
    const LATE: Duration = Duration::from_secs(1);
    bounded(async {
        let nats = Nats::start(Version::Current).await;
        let publisher = nats.events().await;
        let config = Config::on(&nats).limit("connections", &INSIDE.to_string());
        let app = App::start(&config).await;
        let mut inside = Vec::new();
        for n in 0..INSIDE {
            inside.push(app.events(&format!("inside{n}")).await);
        }
        let storm = async {
            for _ in (0..STORM).step_by(AT_ONCE) {
                let asking = (0..AT_ONCE).map(|n| {
                    let request = get("/events").user(&format!("late{n}"));
                    async { app.ask(request).await.is_soft_refusal("connections").text() }
                });
                join_all(asking).await;
            }
        };
        let (mut storm, mut sent, mut slowest) = (std::pin::pin!(storm), 0, Duration::ZERO);
        let mut over = false;
        while !over || sent < 20 {
            let (began, news) = (Instant::now(), sent.to_string());
            let hear = async {
                publisher.publish("events.broadcast.news", &news).await;
                for sse in &mut inside {
                    assert_eq!(sse.event().await.data, news, "somebody inside");
                }
            };
            let mut hear = std::pin::pin!(hear);
            loop {
                tokio::select! {
                    () = &mut hear => break,
                    () = &mut storm, if !over => over = true,
                }
            }
            slowest = slowest.max(began.elapsed());
            sent += 1;
        }
        println!("{sent} events to {INSIDE} during {STORM} refusals, the slowest in {slowest:?}");
        assert!(slowest < LATE, "an event took {slowest:?}");
        let refused = app.metric("sidestream_connections_rejected_total", &[("reason", "connections")]).await;
        #[allow(clippy::cast_precision_loss, reason = "two thousand")]
        let wanted = STORM as f64;
        assert!((refused - wanted).abs() < 0.5, "{refused} refused");
        assert!(app.metric("sidestream_connections_closed_total", &[]).await < 0.5, "a stream ended");
        // And whoever comes when there is room is let in.
        inside.pop();
        comes_back(&app, &get("/events").user("late0")).await;
    })
    .await;
}

#[tokio::test]
async fn silent_connections_keep_nobody_out() {
    bounded(async {
        // More than all shards of two cores take that are no streams; what is over waits to be accepted.
        const SILENT: usize = 9_000;
        let (_nats, app) = app(|config| config).await;
        let mut silent = Vec::with_capacity(SILENT);
        for _ in 0..SILENT {
            silent.push(tokio::net::TcpStream::connect(app.address()).await.expect("the kernel accepts"));
        }
        // Without pressure they might be silent for ten seconds, and everybody behind them would wait.
        let began = std::time::Instant::now();
        app.events("alice").await;
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    })
    .await;
}
